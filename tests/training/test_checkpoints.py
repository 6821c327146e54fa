"""Checkpoints are whole or absent."""

import multiprocessing
import os
import signal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_attention.training import CheckpointFolder
from tests.training.disks import DISKS, SmallDisk, may_mount


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


@pytest.mark.parametrize("kind", DISKS)
def test_a_full_disk_leaves_the_checkpoint_before_and_says_so(tmp_path, kind):
    with kind(tmp_path) as disk:
        folder = CheckpointFolder(disk.path)
        before = folder.save(1, {"weights": np.zeros(1000)}, {})
        content = before.read_bytes()
        disk.fill()
        with pytest.raises(OSError, match=r"0000000001\.npz is as it was") as raised:
            folder.save(2, {"weights": np.zeros(10_000)}, {})
        assert raised.value.errno == disk.errno
        assert [path.name for path in disk.path.iterdir()] == [before.name]
        assert before.read_bytes() == content
        disk.free()
        assert folder.save(2, {"weights": np.zeros(10_000)}, {}) == folder.newest()


def test_a_folder_that_cannot_be_made_is_refused_before_training_begins(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"no checkpoint can be written to the folder \(Not a directory\)"):
        CheckpointFolder(tmp_path / "file" / "checkpoints").claim()


@pytest.mark.skipif(not may_mount(), reason="needs the right to mount a disk")
def test_a_disk_that_is_read_only_is_refused_before_training_begins(tmp_path):
    with SmallDisk(tmp_path) as disk:
        folder = CheckpointFolder(disk.path)
        before = folder.save(1, {"weights": np.zeros(3)}, {})
        disk.make_read_only()
        with pytest.raises(OSError, match=r"no checkpoint can be written to the folder \(Read-only file system\)"):
            folder.claim()
        np.testing.assert_array_equal(folder.load(before)[0]["weights"], np.zeros(3))


def test_a_damaged_checkpoint_is_named(tmp_path):
    folder = CheckpointFolder(tmp_path)
    path = folder.save(1, {"weights": np.zeros(1000)}, {})
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"the checkpoint is damaged: .*Received: .*0000000001\.npz"):
        folder.load(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A checkpoint."""
    folder = CheckpointFolder(tmp_path_factory.mktemp("whole"))
    return folder.save(1, {"model/000000/kernel": np.arange(20.0), "seeds": np.zeros((0, 2))}, {"epoch": 3})


@given(data=st.data())
def test_a_damaged_checkpoint_is_an_error_or_harmless(whole, data):
    content = whole.read_bytes()
    if data.draw(st.booleans(), "cut"):
        content = content[: data.draw(st.integers(0, len(content) - 1), "length")]
    else:
        position = data.draw(st.integers(0, len(content) - 1), "position")
        content = content[:position] + data.draw(st.binary(min_size=1, max_size=8), "bytes") + content[position + 8 :]
    damaged = whole.with_suffix(".damaged")
    damaged.write_bytes(content)
    folder = CheckpointFolder(whole.parent)
    try:
        arrays, state = folder.load(damaged)
    except ValueError as error:
        assert str(damaged) in str(error)  # noqa: PT017
        return
    expected, expected_state = folder.load(whole)
    assert state == expected_state
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array)


def _claim(path, pipe):
    folder = CheckpointFolder(path)
    folder.claim()
    pipe.send(os.getpid())
    pipe.recv()


def test_a_folder_is_one_runs_until_it_ends_however_it_ends(tmp_path):
    ours, theirs = multiprocessing.Pipe()
    # A fork, which knows the module already.
    other = multiprocessing.get_context("fork").Process(target=_claim, args=(tmp_path, theirs))
    other.start()
    pid = ours.recv()
    folder = CheckpointFolder(tmp_path)
    with pytest.raises(ValueError, match=rf"another run writes to the folder .*process {pid} on .*Received: "):
        folder.claim()
    (tmp_path / "checkpoint-0000000007.writing").write_text("what was left of one")
    os.kill(pid, signal.SIGKILL)
    other.join()
    folder.claim()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    folder.release()
