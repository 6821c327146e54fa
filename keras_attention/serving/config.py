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
        port: The gRPC port; 0 takes a free one.
        host: The address to listen on. 0.0.0.0 makes the server reachable from other machines.
        file_system_poll_wait_seconds: Seconds between two looks for a new version; 0 looks once, at the start;
            negative never looks.
        max_batch_size: The most rows that are merged into one run from requests that wait; 1 turns merging off.
        tensorflow_intra_op_parallelism: Threads inside one operation; 0 lets TensorFlow decide. 1 is often fastest
            for a small model under many requests.
        tensorflow_inter_op_parallelism: Operations at the same time; 0 lets TensorFlow decide.
    """

    model_base_path: Path
    model_name: str = "default"
    port: int = 8500
    host: str = "127.0.0.1"
    file_system_poll_wait_seconds: float = 1.0
    max_batch_size: int = 32
    tensorflow_intra_op_parallelism: int = 0
    tensorflow_inter_op_parallelism: int = 0

    def __post_init__(self):
        if not self.model_name:
            raise ValueError("model_name must not be empty")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be from 0 to 65535. Received: {self.port}")
        if self.max_batch_size < 1:
            raise ValueError(f"max_batch_size must be at least 1. Received: {self.max_batch_size}")
        if min(self.tensorflow_intra_op_parallelism, self.tensorflow_inter_op_parallelism) < 0:
            raise ValueError("the numbers of threads must not be negative")
