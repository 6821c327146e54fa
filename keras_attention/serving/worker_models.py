"""The models of a worker process: as all its siblings have them, and spoken of as one server's."""

from typing import Any

import grpc

from keras_attention.serving.control_channel import ChannelClosedError, ControlChannel
from keras_attention.serving.errors import ServingError
from keras_attention.serving.metrics import Snapshot
from keras_attention.serving.model_manager import ModelManager
from keras_attention.serving.protocol import ModelServerConfig, ModelSpec
from keras_attention.serving.served_model import LoadingOptions
from keras_attention.serving.version_status import VersionStatus, merge_statuses


class WorkerModels(ModelManager):
    """The models in service in one of several workers.

    What concerns the server as a whole goes over the supervisor to all workers, this one among them.

    Args:
        options: how versions are found, loaded and run.
        allow_unavailable_labels: as for `ModelManager`.
        supervisor: the channel to the supervisor, which gets the methods that it calls.
    """

    def __init__(self, options: LoadingOptions, allow_unavailable_labels: bool, supervisor: ControlChannel):
        super().__init__(options, allow_unavailable_labels)
        self._supervisor = supervisor
        supervisor.methods |= {
            "check": self._check_here,
            "apply": self._apply_here,
            "statuses": self._statuses_here,
            "snapshot": self._snapshot_here,
            "available": self._available_here,
        }

    async def reload(self, config: ModelServerConfig) -> None:
        """Puts a configuration in force in every worker, or in none if one of them refuses it."""
        await self._ask("reload", config.SerializeToString())

    async def overall_statuses(self, spec: ModelSpec) -> dict[int, VersionStatus]:
        """Tells where the versions of a model stand in all workers together."""
        answers = await self._ask("statuses", spec.SerializeToString())
        known = [answer for answer in answers if not isinstance(answer, ServingError)]
        if not known:
            return self.statuses(spec)  # which raises what they all have raised
        return merge_statuses([{} if isinstance(answer, ServingError) else answer for answer in answers])

    async def overall_metrics(self) -> Snapshot:
        """The sums over all workers, those that have gone too."""
        return await self._ask("metrics")

    async def _ask(self, method: str, *arguments: Any) -> Any:
        try:
            return await self._supervisor.call(method, *arguments)
        except ChannelClosedError:
            raise ServingError(grpc.StatusCode.UNAVAILABLE, "the server is going down") from None

    async def _check_here(self, config: bytes) -> None:
        self.check(ModelServerConfig.FromString(config))

    async def _apply_here(self, config: bytes) -> None:
        await self.apply(ModelServerConfig.FromString(config), labels_checked=True)

    async def _statuses_here(self, spec: bytes) -> dict[int, VersionStatus]:
        return self.statuses(ModelSpec.FromString(spec))

    async def _snapshot_here(self) -> Snapshot:
        return self.metrics.snapshot()

    async def _available_here(self) -> set[str]:
        return {name for name, model in self.models.items() if model.versions}
