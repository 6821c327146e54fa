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
        rest_api_port: The port of the REST API; 0 for no REST API.
        rest_api_timeout_in_ms: Milliseconds that an answer of the REST API may take; 0 for as long as it takes.
        rest_api_enable_cors_support: Let browsers ask the REST API from pages of other servers.
        monitoring_config_file: Count and measure, and show it to Prometheus on the REST port, as this file says: a
            MonitoringConfig in protobuf's text format, such as prometheus_config { enable: true }.
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
        num_workers: Processes that serve together as one, on the same ports; our own flag. Each loads every model. A
            gRPC channel has one connection and so one worker at a time: a client that is to keep several busy opens
            several channels, each with the argument grpc.use_local_subchannel_pool=1. Every five seconds, or as
            grpc.max_connection_age_ms says, a channel is moved to any of them. The UNIX socket is the first one's.
        tensorflow_intra_op_parallelism: Threads inside one operation; 0 for half of the cores, shared by the workers,
            and at least 1, which is fastest for a small model under many requests.
        tensorflow_inter_op_parallelism: Operations at the same time; 0 or -1 to run those of a batch one by one in its
            own thread.
    """

    model_base_path: Path | None = None
    model_name: str = "default"
    model_config_file: Path | None = None
    model_config_file_poll_wait_seconds: float = 0.0
    port: int = 8500
    rest_api_port: int = 0
    rest_api_timeout_in_ms: int = 30000
    rest_api_enable_cors_support: bool = False
    monitoring_config_file: Path | None = None
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
    num_workers: int = 1
    tensorflow_intra_op_parallelism: int = 0
    tensorflow_inter_op_parallelism: int = 0

    def __post_init__(self):
        if self.model_base_path is None and self.model_config_file is None:
            raise ValueError("give model_base_path or model_config_file: both are empty")
        if not self.model_name:
            raise ValueError("model_name must not be empty")
        for name in ("port", "rest_api_port"):
            if not 0 <= getattr(self, name) <= 65535:
                raise ValueError(f"{name} must be from 0 to 65535. Received: {getattr(self, name)}")
        if self.port and self.port == self.rest_api_port:
            raise ValueError(f"port and rest_api_port must not be the same. Received: {self.port}")
        if self.max_batch_size < 1:
            raise ValueError(f"max_batch_size must be at least 1. Received: {self.max_batch_size}")
        if self.num_workers < 1:
            raise ValueError(f"num_workers must be at least 1. Received: {self.num_workers}")
        if self.batching_parameters_file is not None and not self.enable_batching:
            raise ValueError("batching_parameters_file is set without setting enable_batching to true")
        for name in (
            "model_config_file_poll_wait_seconds",
            "max_num_load_retries",
            "load_retry_interval_micros",
            "rest_api_timeout_in_ms",
            "tensorflow_intra_op_parallelism",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative. Received: {getattr(self, name)}")
        if self.tensorflow_inter_op_parallelism < -1:
            raise ValueError(
                f"tensorflow_inter_op_parallelism must be at least -1. Received: {self.tensorflow_inter_op_parallelism}"
            )
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
