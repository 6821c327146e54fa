"""Where a version stands, and where it stands in several processes together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keras_attention.serving.errors import ServingError
from keras_attention.serving.protocol import ModelVersionStatus


@dataclass
class VersionStatus:
    """Where a version stands, as `GetModelStatus` reports it.

    Attributes:
        state: one of ModelVersionStatus' states.
        error: why it could not be loaded, if that is so.
    """

    state: int
    error: ServingError | None = None


def merge_statuses(workers: Sequence[Mapping[int, VersionStatus]]) -> dict[int, VersionStatus]:
    """Tells where the versions of a model stand in all workers together.

    A version is available when it is so in every worker. One that has failed in any of them has failed, with that
    worker's reason.

    Args:
        workers: the statuses by version, of each worker.

    Returns:
        The statuses by version.

    Example:
        >>> loaded, loading = (VersionStatus(ModelVersionStatus.AVAILABLE), VersionStatus(ModelVersionStatus.LOADING))
        >>> merge_statuses([{1: loaded}, {1: loading}])[1].state == ModelVersionStatus.LOADING
        True
    """
    versions = sorted({version for statuses in workers for version in statuses})
    return {version: _merge([statuses.get(version) for statuses in workers]) for version in versions}


def _merge(statuses: Sequence[VersionStatus | None]) -> VersionStatus:
    known = [status for status in statuses if status]
    for status in known:
        if status.error:
            return status
    states = {status.state for status in known}
    if len(known) < len(statuses) and min(states) <= ModelVersionStatus.AVAILABLE:
        states.add(ModelVersionStatus.START)  # some have not seen it yet
    # The states are numbered in the order in which a version goes through them.
    behind = min(states - {ModelVersionStatus.AVAILABLE}, default=ModelVersionStatus.AVAILABLE)
    if behind == ModelVersionStatus.END and len(states) > 1:
        behind = ModelVersionStatus.UNLOADING  # ended in some, in service in others
    return VersionStatus(behind)
