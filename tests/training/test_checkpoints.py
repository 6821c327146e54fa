"""Checkpoints are whole or absent."""

import contextlib
import errno
import resource

import numpy as np
import pytest

from keras_attention.training import CheckpointFolder


@contextlib.contextmanager
def _files_of_at_most(size):
    """The kernel refuses to let a file grow beyond it, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_saved_comes_back_and_the_oldest_are_removed(tmp_path):
    folder = CheckpointFolder(tmp_path / "made", keep=2)
    assert folder.newest() is None
    for step in (2, 10, 9):
        folder.save(step, {"a/b": np.full(3, step, np.float16)}, {"epoch": step, "loss": 0.1})
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "checkpoint-0000000009.npz",
        "checkpoint-0000000010.npz",
    ]
    arrays, state = folder.load(folder.newest())
    assert state == {"epoch": 10, "loss": 0.1}
    np.testing.assert_array_equal(arrays["a/b"], np.full(3, 10, np.float16))
    assert arrays["a/b"].dtype == np.float16


def test_a_full_disk_leaves_the_checkpoint_before_and_says_so(tmp_path):
    folder = CheckpointFolder(tmp_path)
    before = folder.save(1, {"weights": np.zeros(10)}, {})
    content = before.read_bytes()
    with _files_of_at_most(20_000), pytest.raises(OSError, match=r"0000000001\.npz is as it was") as raised:
        folder.save(2, {"weights": np.random.default_rng(0).normal(size=10_000)}, {})
    assert raised.value.errno == errno.EFBIG
    assert [path.name for path in tmp_path.iterdir()] == [before.name]
    assert before.read_bytes() == content


def test_a_damaged_checkpoint_is_named(tmp_path):
    folder = CheckpointFolder(tmp_path)
    path = folder.save(1, {"weights": np.zeros(1000)}, {})
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"the checkpoint is damaged: .*Received: .*0000000001\.npz"):
        folder.load(path)
