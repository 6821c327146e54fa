"""Where a version stands in several workers together."""

import pytest

from keras_attention.serving.errors import not_found
from keras_attention.serving.protocol import ModelVersionStatus
from keras_attention.serving.version_status import VersionStatus, merge_statuses

State = ModelVersionStatus.State


@pytest.mark.parametrize(
    ("states", "together"),
    [
        ("AVAILABLE AVAILABLE", "AVAILABLE"),
        ("AVAILABLE LOADING", "LOADING"),
        ("START AVAILABLE", "START"),
        ("AVAILABLE unseen", "START"),
        ("LOADING END", "LOADING"),
        ("AVAILABLE UNLOADING", "UNLOADING"),
        ("AVAILABLE END", "UNLOADING"),
        ("UNLOADING END", "UNLOADING"),
        ("END END", "END"),
        ("END unseen", "END"),
        ("UNLOADING unseen", "UNLOADING"),
        ("AVAILABLE AVAILABLE UNLOADING", "UNLOADING"),
    ],
)
def test_a_version_stands_where_the_last_worker_is(states, together):
    of_workers = [{} if state == "unseen" else {7: VersionStatus(State.Value(state))} for state in states.split()]
    for order in (of_workers, of_workers[::-1]):
        assert merge_statuses(order) == {7: VersionStatus(State.Value(together))}


def test_the_reason_of_any_worker_is_told():
    failed = VersionStatus(State.Value("END"), not_found("no saved_model.pb"))
    loaded = VersionStatus(State.Value("AVAILABLE"))
    assert merge_statuses([{1: loaded, 2: loaded}, {2: failed, 1: loaded}, {1: loaded}]) == {1: loaded, 2: failed}
