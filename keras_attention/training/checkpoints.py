"""Checkpoints on disk: one file each, whole or absent."""

import contextlib
import errno
import fcntl
import io
import json
import os
import re
import socket
import zipfile
from pathlib import Path

import numpy as np

_NAME = re.compile(r"checkpoint-(\d{10})\.npz")
# What a file system without locks says.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class CheckpointFolder:
    """The newest checkpoints of a run.

    A checkpoint is one file of numpy arrays and a JSON object. It is written under another name and renamed, so a
    process that dies or a disk that is full while it writes leaves the one before as it was. TensorFlow's own format
    takes several files and an index, and restores by the structure of Python objects: a file of named arrays can say
    which weights differ.

    Args:
        path: folder, made with the first checkpoint.
        keep: int, how many to keep.

    Example:

    >>> import tempfile
    >>> from keras_attention.training import CheckpointFolder
    >>> folder = CheckpointFolder(tempfile.mkdtemp())
    >>> folder.save(7, {"weights": np.ones(3)}, {"epoch": 1}).name
    'checkpoint-0000000007.npz'
    >>> arrays, state = folder.load(folder.newest())
    >>> state
    {'epoch': 1}
    """

    def __init__(self, path, keep=2):
        self.path = Path(path)
        self._keep = keep
        self._lock = None

    def claim(self):
        """Makes the folder and takes it for this process, until `release` or until the process has ended, however.

        Raises:
            ValueError: if another process has it.
            OSError: if nothing can be written to it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / "lock").open("a+")
            self._lock.seek(0)
            try:
                # Of the process, not of the open file: what it forks does not keep it.
                fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
            self._lock.truncate(0)
            self._lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            self._lock.flush()
            for leftover in self.path.glob("checkpoint-*.writing"):  # of a process that was killed
                leftover.unlink(missing_ok=True)
        except BlockingIOError as error:
            raise ValueError(
                f"another run writes to the folder of checkpoints: {self._lock.read().strip()}. Stop it, or give "
                f"`checkpoint_folder` another one. Received: {self.path}"
            ) from error
        except OSError as error:
            raise OSError(
                error.errno, f"no checkpoint can be written to the folder ({error.strerror})", str(self.path)
            ) from error

    def release(self):
        """Gives back what `claim` has taken, if it has."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def newest(self):
        """The path of the newest checkpoint, or None."""
        names = self._names()
        return self.path / names[-1] if names else None

    def save(self, step, arrays, state):
        """Writes a checkpoint and removes those that are too many.

        Args:
            step: int, by which checkpoints are ordered.
            arrays: dict of numpy arrays.
            state: what JSON can hold.

        Returns:
            Path of the file.

        Raises:
            OSError: if it cannot be written; the checkpoints before are as they were.
        """
        target = self.path / f"checkpoint-{step:010d}.npz"
        temporary = target.with_suffix(".writing")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                np.savez(file, **arrays, state=np.frombuffer(json.dumps(state).encode(), np.uint8))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
            self._sync_folder()
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            before = self.newest()
            remains = f"{before} is as it was" if before else "there is none before it"
            raise OSError(
                error.errno, f"the checkpoint could not be written ({error.strerror}), {remains}", str(target)
            ) from error
        for name in self._names()[: -self._keep]:
            (self.path / name).unlink(missing_ok=True)
        return target

    def load(self, path):
        """Reads a checkpoint.

        Args:
            path: of the file.

        Returns:
            (arrays, state), as they were saved.

        Raises:
            ValueError: if the file is damaged.
            OSError: if it cannot be read.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                arrays = {
                    # Whole members: only at the end of one is its checksum compared.
                    name.removesuffix(".npy"): np.lib.format.read_array(io.BytesIO(archive.read(name)))
                    for name in archive.namelist()
                }
            return arrays, json.loads(arrays.pop("state").tobytes())
        except Exception as error:  # a damaged archive raises whatever its bytes lead to, such as a seek to before it
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise
            raise ValueError(
                f"the checkpoint is damaged: {error}. Remove it to go on from the one before. Received: {path}"
            ) from error

    def _names(self):
        if not self.path.is_dir():
            return []
        return sorted(entry.name for entry in self.path.iterdir() if _NAME.fullmatch(entry.name))

    def _sync_folder(self):
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
