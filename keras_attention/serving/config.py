"""The embedded server's settings, named as the flags of `tensorflow_model_server`."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ServerConfig:
    """What to serve and where.

    Attributes:
        model_base_path: The model's folder, with a folder for each version: saved_models/chatbot/1, .../2. The newest
            is served.
        model_name: The model's name in requests.
        model_config_file: Serve the models of this file instead, a ModelServerConfig in protobuf's text format: several
            models, version policies, labels. model_name and model_base_path are ignored then.
        model_config_file_poll_wait_seconds: Seconds between two looks at the model config file, whose changes then come
            into force; 0 never looks again.
        port: The gRPC port; 0 takes a free one.
        host: The address to listen on. 0.0.0.0 makes the server reachable from other machines.
        grpc_socket_path: Listen for gRPC on this UNIX socket too.
        grpc_channel_arguments: Settings of gRPC: key=value, separated by commas, such as
            grpc.max_receive_message_length=4194304. Without it messages may have any size.
        ssl_config_file: Encrypt, and if it says so ask clients for certificates: a file with an SSLConfig in
            protobuf's text format.
        file_system_poll_wait_seconds: Seconds between two looks for a new version; 0 looks once, at the start;
            negative never looks.
        max_num_load_retries: How often a version that could not be loaded is tried again.
        load_retry_interval_micros: Microseconds between two such tries.
        allow_version_labels_for_unavailable_models: Let a new version label point to a version that is not loaded yet,
            as every label does when the server starts.
        enable_model_warmup: Run the requests that were recorded with a version before it takes any.
        enable_batching: Merge waiting requests as batching_parameters_file says. Without it they are merged too, by
            draining the queue whenever the model is idle.
        batching_parameters_file: A BatchingParameters in protobuf's text format.
        max_batch_size: The most rows that are merged into one run from requests that wait, without enable_batching;
            1 turns merging off.
        tensorflow_intra_op_parallelism: Threads inside one operation; 0 lets TensorFlow decide. 1 is often fastest
            for a small model under many requests.
        tensorflow_inter_op_parallelism: Operations at the same time; 0 lets TensorFlow decide.
    """

    model_base_path: Path | None = None
    model_name: str = "default"
    model_config_file: Path | None = None
    model_config_file_poll_wait_seconds: float = 0.0
    port: int = 8500
    host: str = "127.0.0.1"
    grpc_socket_path: Path | None = None
    grpc_channel_arguments: str = ""
    ssl_config_file: Path | None = None
    file_system_poll_wait_seconds: float = 1.0
    max_num_load_retries: int = 5
    load_retry_interval_micros: int = 60_000_000
    allow_version_labels_for_unavailable_models: bool = False
    enable_model_warmup: bool = True
    enable_batching: bool = False
    batching_parameters_file: Path | None = None
    max_batch_size: int = 32
    tensorflow_intra_op_parallelism: int = 0
    tensorflow_inter_op_parallelism: int = 0

    def __post_init__(self):
        if self.model_base_path is None and self.model_config_file is None:
            raise ValueError("give model_base_path or model_config_file: both are empty")
        if not self.model_name:
            raise ValueError("model_name must not be empty")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be from 0 to 65535. Received: {self.port}")
        if self.max_batch_size < 1:
            raise ValueError(f"max_batch_size must be at least 1. Received: {self.max_batch_size}")
        if self.batching_parameters_file is not None and not self.enable_batching:
            raise ValueError("batching_parameters_file is set without setting enable_batching to true")
        for name in (
            "model_config_file_poll_wait_seconds",
            "max_num_load_retries",
            "load_retry_interval_micros",
            "tensorflow_intra_op_parallelism",
            "tensorflow_inter_op_parallelism",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative. Received: {getattr(self, name)}")
        _ = self.channel_arguments

    @property
    def channel_arguments(self) -> list[tuple[str, int | str]]:
        """`grpc_channel_arguments` as pairs, with numbers as numbers.

        Raises:
            ValueError: if an entry is not of the form key=value.
        """
        pairs = []
        for entry in filter(None, self.grpc_channel_arguments.split(",")):
            key, separator, value = entry.partition("=")
            if not (key and separator):
                raise ValueError(f"grpc_channel_arguments must be key=value, separated by commas. Received: {entry!r}")
            try:
                pairs.append((key, int(value)))
            except ValueError:
                pairs.append((key, value))
        return pairs
