"""What a server is started with: its flags, and what the files say that they name. It imports no TensorFlow."""

from dataclasses import dataclass

from keras_attention.serving.batching_options import BatchingOptions, read_batching_options
from keras_attention.serving.config import ServerConfig
from keras_attention.serving.errors import ServingError, StartupError
from keras_attention.serving.grpc_listener import join_address, read_ssl_config
from keras_attention.serving.model_config import check_labels, read_model_settings, single_model
from keras_attention.serving.protocol import ModelServerConfig
from keras_attention.serving.rest_listener import read_metrics_path
from keras_attention.serving.text_files import read_text_message

# How long requests in flight may take to finish when the server stops.
DRAIN_SECONDS = 30.0


@dataclass(frozen=True)
class Setup:
    """A server's flags and files, read once and checked. It can be pickled, so that all workers have the same.

    Attributes:
        config: the flags.
        models: the models to begin with: a serialized ModelServerConfig.
        batching: how requests are merged.
        ssl_config: keys and certificates: a serialized SSLConfig; None for no encryption.
        metrics_path: where the page with the metrics is; None for no such page.
    """

    config: ServerConfig
    models: bytes
    batching: BatchingOptions
    ssl_config: bytes | None
    metrics_path: str | None

    def places(self, port: int) -> str:
        """Where the server is, for people: `port` is the gRPC port."""
        places = f"{join_address(self.config.host, port)} (gRPC)"
        if self.config.rest_api_port:
            places += f", {join_address(self.config.host, self.config.rest_api_port)} (REST)"
        return places


def read_setup(config: ServerConfig) -> Setup:
    """Reads the files that the flags name.

    Args:
        config: the flags.

    Returns:
        What they and the files say.

    Raises:
        StartupError: if the base path does not exist or a file makes no sense; in one line.
    """
    if config.model_config_file is None and not config.model_base_path.is_dir():
        raise StartupError(f"the base path {config.model_base_path} does not exist or is no folder")
    try:
        return Setup(
            config,
            _read_models(config).SerializeToString(),
            read_batching_options(config.batching_parameters_file)
            if config.enable_batching
            else BatchingOptions(config.max_batch_size),
            None if config.ssl_config_file is None else read_ssl_config(config.ssl_config_file).SerializeToString(),
            read_metrics_path(config.monitoring_config_file),
        )
    except ServingError as error:
        raise StartupError(error.message) from None


def _read_models(config: ServerConfig) -> ModelServerConfig:
    if config.model_config_file is None:
        return single_model(config.model_name, config.model_base_path)
    models = read_text_message(config.model_config_file, ModelServerConfig())
    try:
        settings = read_model_settings(models)
        check_labels(settings, {}, {}, config.allow_version_labels_for_unavailable_models)
    except ServingError as error:
        raise ServingError(error.code, f"{config.model_config_file}: {error.message}") from None
    return models
