"""Which models and versions are to be served, as a ModelServerConfig says it and after its checks."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from keras_attention.serving.errors import failed_precondition, invalid_argument
from keras_attention.serving.protocol import ModelConfig, ModelServerConfig

_PLATFORM = "tensorflow"
_MODEL_TYPE_TENSORFLOW = 1  # of the deprecated field model_type


@dataclass(frozen=True)
class VersionPolicy:
    """Which of the versions in a base path are served.

    Attributes:
        latest: how many of the newest; None for all. Of no meaning if `specific` is given.
        specific: these and no others; None for the newest.

    Example:
        >>> sorted(VersionPolicy(latest=2).choose([1, 2, 5]))
        [2, 5]
    """

    latest: int | None = 1
    specific: frozenset[int] | None = None

    def choose(self, found: Iterable[int]) -> set[int]:
        """Picks the versions to serve.

        Args:
            found: the versions in the base path.

        Returns:
            Those of them that the policy asks for.
        """
        if self.specific is not None:
            return self.specific & set(found)
        return set(sorted(found, reverse=True)[: self.latest])


@dataclass(frozen=True)
class ModelSettings:
    """One model of a configuration.

    Attributes:
        name: its name in requests.
        base_path: the folder with its version folders.
        policy: which versions are served.
        labels: version label -> version.
    """

    name: str
    base_path: Path
    policy: VersionPolicy = VersionPolicy()
    labels: Mapping[str, int] = field(default_factory=dict)


def single_model(name: str, base_path: os.PathLike) -> ModelServerConfig:
    """The configuration of one model whose newest version is served.

    Args:
        name: its name in requests.
        base_path: the folder with its version folders.

    Returns:
        The configuration.
    """
    config = ModelServerConfig()
    base_path = str(Path(base_path).absolute())
    config.model_config_list.config.add(name=name, base_path=base_path, model_platform=_PLATFORM)
    return config


def read_model_settings(config: ModelServerConfig) -> dict[str, ModelSettings]:
    """Checks a configuration and takes what it says.

    Args:
        config: a `model_config_list`.

    Returns:
        The settings by the model's name.

    Raises:
        ServingError: with TensorFlow Serving's status and message where it has one, if a model is listed twice, has no
            name, no platform or another than tensorflow, a base path that is relative or no folder, or no versions in
            a policy that names them.

    Example:
        >>> settings = read_model_settings(single_model("chatbot", "saved_models/chatbot"))
        >>> settings["chatbot"].policy
        VersionPolicy(latest=1, specific=None)
    """
    if config.WhichOneof("config") != "model_config_list":
        raise invalid_argument(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. "
            "Only ModelConfigList is currently supported"
        )
    settings: dict[str, ModelSettings] = {}
    for model in config.model_config_list.config:
        if model.name in settings:
            raise invalid_argument(f"Illegal to list model {model.name} multiple times in config list")
        settings[model.name] = _model_settings(model)
    return settings


def _model_settings(model: ModelConfig) -> ModelSettings:
    if not model.name:
        raise invalid_argument(f"a model of the config list has no name; its base_path is {model.base_path!r}")
    _check_platform(model)
    if not os.path.isabs(model.base_path):
        raise invalid_argument(
            f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}"
        )
    base_path = Path(model.base_path)
    if not os.path.isdir(base_path):  # `Path.is_dir` raises for a name that is too long
        raise invalid_argument(f"Could not find base path {base_path} for servable {model.name}")
    return ModelSettings(model.name, base_path, _policy(model), dict(model.version_labels))


def _check_platform(model: ModelConfig) -> None:
    if model.model_type and model.model_platform:
        raise invalid_argument(
            "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform."
        )
    platform = model.model_platform or (_PLATFORM if model.model_type == _MODEL_TYPE_TENSORFLOW else "")
    if model.model_type > _MODEL_TYPE_TENSORFLOW:
        raise invalid_argument(f"ModelServerConfig::model_type choice {model.model_type} not supported.")
    if not platform:
        raise invalid_argument(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform."
        )
    if platform != _PLATFORM:
        raise invalid_argument(f"Model {model.name} requests unsupported platform {platform}")


def _policy(model: ModelConfig) -> VersionPolicy:
    policy = model.model_version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return VersionPolicy(latest=None)
    if choice == "specific":
        if not policy.specific.versions:
            raise invalid_argument(f"the specific version policy of model {model.name} names no versions")
        return VersionPolicy(specific=frozenset(policy.specific.versions))
    return VersionPolicy(latest=max(policy.latest.num_versions, 1))


def check_labels(
    settings: Mapping[str, ModelSettings],
    available: Mapping[str, Iterable[int]],
    current: Mapping[str, Mapping[str, int]],
    allow_unavailable: bool,
) -> None:
    """Checks that every version label points to a version that can be asked.

    Args:
        settings: the settings that are to come into force.
        available: the versions in service by model.
        current: the labels in force by model.
        allow_unavailable: whether a new label may point to a version that is not in service, as the flag
            ``--allow_version_labels_for_unavailable_models`` says. A label that moves may not.

    Raises:
        ServingError: FAILED_PRECONDITION, with TensorFlow Serving's message.
    """
    for model in settings.values():
        for label, version in model.labels.items():
            moves = current.get(model.name, {}).get(label, version) != version
            if version not in available.get(model.name, ()) and (moves or not allow_unavailable):
                raise failed_precondition(
                    f"Request to assign label to version {version} of model {model.name}, which is not currently "
                    "available for inference"
                )
