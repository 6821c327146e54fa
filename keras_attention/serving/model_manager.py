"""All models of a server: a configuration comes into force as a whole, and requests find their version here."""

import asyncio
import logging
from collections.abc import Coroutine, Mapping

import grpc

from keras_attention.serving.errors import ServingError, invalid_argument, not_found
from keras_attention.serving.loaded_version import LoadedVersion
from keras_attention.serving.metrics import Metrics, Snapshot
from keras_attention.serving.model_config import ModelSettings, check_labels, read_model_settings
from keras_attention.serving.protocol import ModelServerConfig, ModelSpec
from keras_attention.serving.served_model import LoadingOptions, ServedModel
from keras_attention.serving.version_status import VersionStatus

_log = logging.getLogger(__name__)


class ModelManager:
    """The models in service. It belongs to one event loop and knows nothing of how requests arrive.

    Args:
        options: how versions are found, loaded and run.
        allow_unavailable_labels: whether a new version label may point to a version that is not in service.

    Example:
        A server's life, in a coroutine::

            models = ModelManager(LoadingOptions(Servable, ThreadPoolExecutor(), BatchingOptions()))
            await models.apply(single_model("chatbot", "saved_models/chatbot"))
            response = await handlers.predict(models, request)
            await models.close()
    """

    def __init__(self, options: LoadingOptions, allow_unavailable_labels: bool = False):
        self._options = options
        self._allow_unavailable_labels = allow_unavailable_labels
        self._models: dict[str, ServedModel] = {}
        self._past_statuses: dict[str, Mapping[int, VersionStatus]] = {}
        self._applying = asyncio.Lock()
        self._tasks: set[asyncio.Task] = set()

    @property
    def models(self) -> Mapping[str, ServedModel]:
        """The models of the configuration in force by name."""
        return self._models

    @property
    def metrics(self) -> Metrics | None:
        """What is counted and measured; None for nothing."""
        return self._options.metrics

    def known_name(self, name: str) -> str:
        """The name if a model of the configuration has it, and else an empty one.

        Metrics have a line for each name: those that clients make up must not fill the memory.
        """
        return name if name in self._models else ""

    def check(self, config: ModelServerConfig) -> dict[str, ModelSettings]:
        """Checks whether a configuration could come into force now, and changes nothing.

        Args:
            config: the configuration.

        Returns:
            What it says by the model's name.

        Raises:
            ServingError: INVALID_ARGUMENT if it makes no sense, FAILED_PRECONDITION if a version label points to a
                version that is not in service and may not.
        """
        settings = read_model_settings(config)
        check_labels(
            settings,
            available={name: model.versions for name, model in self._models.items()},
            current={name: model.settings.labels for name, model in self._models.items()},
            allow_unavailable=self._allow_unavailable_labels,
        )
        return settings

    async def apply(self, config: ModelServerConfig, labels_checked: bool = False) -> None:
        """Puts a configuration in force as a whole, and waits until what it asks for is loaded or has failed.

        Models that it does not name are unloaded. With a configuration that is refused, everything stays as it was.

        Args:
            config: the configuration.
            labels_checked: whether its version labels are known to be good, wherever they point at the moment.

        Raises:
            ServingError: as for `check`; or UNKNOWN if a new model has no version in service at the end. The
                configuration is in force then, and loading is tried again.
        """
        async with self._applying:
            settings = read_model_settings(config) if labels_checked else self.check(config)
            new = settings.keys() - self._models.keys()
            self._switch(settings)
            for name in new:
                self._in_background(self._models[name].watch())
            if self._options.poll_wait_seconds >= 0:
                await asyncio.gather(*(model.poll() for model in list(self._models.values())))
            lacking = [_describe(self._models[name]) for name in sorted(new) if not self._models[name].versions]
        if lacking:
            entries = "".join(f"{entry}, " for entry in lacking)
            raise ServingError(grpc.StatusCode.UNKNOWN, f"Some models did not become available: {{{entries}}}")

    async def reload(self, config: ModelServerConfig) -> None:
        """Puts a configuration in force for the server as a whole, as `apply` does.

        It goes on when its caller is cancelled: a client that goes must not leave half of a configuration behind.
        """
        await asyncio.shield(asyncio.ensure_future(self.apply(config)))

    def find(self, spec: ModelSpec) -> LoadedVersion:
        """Finds the version that a request asks for; enter its `in_use` before anything is awaited.

        Args:
            spec: a model, and one of its versions by number or label, or none for the newest.

        Returns:
            The version.

        Raises:
            ServingError: INVALID_ARGUMENT without a model's name or for an unknown label, NOT_FOUND if there is no such
                version in service.
        """
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        version = self._version(spec)
        model = self._models.get(spec.name)
        loaded = model.find(version) if model else None
        if loaded is None:
            asked = f"Latest({spec.name})" if version is None else f"Specific({spec.name}, {version})"
            raise not_found(f"Servable not found for request: {asked}")
        return loaded

    def statuses(self, spec: ModelSpec) -> dict[int, VersionStatus]:
        """Tells where the versions of a model stand, those of a model that is no longer served too.

        Args:
            spec: a model, and one of its versions by number or label, or none for all.

        Returns:
            The statuses by version.

        Raises:
            ServingError: NOT_FOUND if nothing is known of them, INVALID_ARGUMENT for an unknown label.
        """
        model = self._models.get(spec.name)
        statuses = model.statuses if model else self._past_statuses.get(spec.name, {})
        version = self._version(spec)
        if version is not None:
            if version not in statuses:
                raise not_found(f"Could not find version {version} of model {spec.name}")
            return {version: statuses[version]}
        if not statuses:
            raise not_found(f"Could not find any versions of model {spec.name}")
        return dict(statuses)

    async def overall_statuses(self, spec: ModelSpec) -> dict[int, VersionStatus]:
        """Tells where the versions of a model stand in the server as a whole; otherwise as `statuses`."""
        return self.statuses(spec)

    async def overall_metrics(self) -> Snapshot:
        """What was counted and measured in the server as a whole."""
        return self.metrics.snapshot()

    async def close(self) -> None:
        """Unloads every model, each version when its requests are answered."""
        async with self._applying:
            self._switch({})
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _version(self, spec: ModelSpec) -> int | None:
        choice = spec.WhichOneof("version_choice")
        if choice == "version_label" and spec.version_label:
            model = self._models.get(spec.name)
            version = model.settings.labels.get(spec.version_label) if model else None
            if version is None:
                raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
            return version
        return spec.version.value if choice == "version" else None

    def _switch(self, settings: Mapping[str, ModelSettings]) -> None:
        """Takes over the settings at once, without awaiting anything: no request meets half of them."""
        for name in self._models.keys() - settings.keys():
            model = self._models.pop(name)
            self._past_statuses[name] = model.statuses
            self._in_background(model.close())
        for name, model_settings in settings.items():
            if name in self._models:
                self._models[name].settings = model_settings
            else:
                past = self._past_statuses.pop(name, None)
                self._models[name] = ServedModel(model_settings, self._options, past)

    def _in_background(self, work: Coroutine) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _describe(model: ServedModel) -> str:
    newest = f" version: {max(model.statuses)}" if model.statuses else ""
    return f"{{name: {model.settings.name}{newest}}}"
