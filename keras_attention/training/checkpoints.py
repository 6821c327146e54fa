"""Checkpoints on disk: one file each, whole or absent."""

import contextlib
import json
import os
import re
import zipfile
from pathlib import Path

import numpy as np

_NAME = re.compile(r"checkpoint-(\d{10})\.npz")


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
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            return arrays, json.loads(arrays.pop("state").tobytes())
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
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
