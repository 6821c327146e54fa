"""Disks without room: a small one that is really full, where a test may mount one, and a limit to the size of files."""

import contextlib
import errno
import resource
from pathlib import Path

from tests.namespaces import namespace, run_in


class SmallDisk:
    """A file system of 256 kB in memory, which nobody else sees.

    Args:
        folder: where it is mounted.

    Attributes:
        path: a folder on it.
        errno: int, with which it refuses when it is full.
    """

    errno = errno.ENOSPC

    def __init__(self, folder):
        self._folder = folder

    def __enter__(self):
        self._stack = contextlib.ExitStack()
        mount = f"mount -t tmpfs -o size=256k none '{self._folder}'"
        self._pid = self._stack.enter_context(namespace("mount", prepare=mount))
        self.path = Path(f"/proc/{self._pid}/root{self._folder}") / "checkpoints"
        self._filler = self.path.parent / "filler"
        return self

    def __exit__(self, *error):
        self._stack.close()

    def fill(self):
        """Takes all that is left."""
        with contextlib.suppress(OSError), self._filler.open("wb", buffering=0) as file:
            while file.write(bytes(512)):
                pass

    def free(self):
        """Gives it back."""
        self._filler.unlink()

    def make_read_only(self):
        """Allows no more writing."""
        run_in(self._pid, "mount", f"mount -o remount,ro,bind {self._folder}")


class SizeLimit:
    """The kernel refuses to let a file grow; as `SmallDisk`."""

    errno = errno.EFBIG

    def __init__(self, folder):
        self.path = folder / "checkpoints"

    def __enter__(self):
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)
        return self

    def __exit__(self, *error):
        self.free()

    def fill(self):
        """Sets the limit."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, self._before[1]))

    def free(self):
        """Takes it away."""
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)


def may_mount():
    """Whether this process may mount a disk for itself."""
    try:
        with namespace("mount", prepare="mount -t tmpfs -o size=64k none /mnt"):
            return True
    except OSError:
        return False


DISKS = [SmallDisk, SizeLimit] if may_mount() else [SizeLimit]
