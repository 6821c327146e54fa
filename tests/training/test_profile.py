"""Chosen steps leave a trace of their operations."""

import pytest
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from keras_attention.training import Profile, TrainingConfig, fit
from tests.training import worker


def _fit(callback, **options):
    config = TrainingConfig(**{"epochs": 2, "progress": False, **options})
    fit(lambda: worker.build({}, layers=1), worker.dataset(), None, config, [callback])


def _traces(folder):
    return [path.read_bytes() for path in folder.glob("profile/plugins/profile/*/*.xplane.pb")]


def test_the_trace_holds_the_operations_of_the_chosen_steps_alone(tmp_path):
    _fit(Profile(tmp_path, 4, 8))  # over the end of the first epoch
    (trace,) = _traces(tmp_path)
    assert b"MatMul" in trace
    assert list(_steps(xplane_pb2.XSpace.FromString(trace))) == [4, 5, 6, 7, 8]


def _steps(space):
    """The numbers of the steps that are marked in a trace, in its order."""
    for plane in space.planes:
        for event in (event for line in plane.lines for event in line.events):
            if plane.event_metadata[event.metadata_id].name == "train":
                stats = {plane.stat_metadata[stat.metadata_id].name: stat for stat in event.stats}
                yield stats["step_num"].int64_value


def test_a_trace_ends_with_the_run_and_is_not_begun_after_its_step(tmp_path):
    _fit(Profile(tmp_path / "long", 11, 99))
    assert len(_traces(tmp_path / "long")) == 1
    checkpoints = {"checkpoint_folder": tmp_path / "checkpoints"}
    _fit(Profile(tmp_path / "before", 99, 99), epochs=1, **checkpoints)
    _fit(Profile(tmp_path / "before", 3, 8), **checkpoints)
    assert not _traces(tmp_path / "before")


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((0, 1), "`first_step` must be an integer of at least 1.*first_step=0"),
        ((3, 2), "`last_step` must be an integer of at least 3.*last_step=2"),
        ((1.5, 2), "`first_step` must be an integer"),
    ],
)
def test_steps_that_are_no_range_are_refused(tmp_path, steps, message):
    with pytest.raises(ValueError, match=message):
        Profile(tmp_path, *steps)
