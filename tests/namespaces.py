"""Namespaces of the kernel that a test has for itself: another network, another disk."""

import contextlib
import os
import subprocess

_IS_ROOT = os.geteuid() == 0


@contextlib.contextmanager
def namespace(kind, inside=None, prepare="true"):
    """A namespace in which a process waits; it vanishes with that process, and that process with this one.

    Args:
        kind: str, "net" or "mount".
        inside: int, the process of another namespace from which this one is made.
        prepare: str, shell commands to run in it first.

    Yields:
        int, the process that waits.

    Raises:
        OSError: if this process may not make one, or the commands fail.
    """
    user = () if _IS_ROOT or inside else ("--user", "--map-root-user")
    command = ["unshare", *user, f"--{kind}", "sh", "-c", f"{prepare} && echo ready && exec cat"]
    holder = subprocess.Popen(
        [*(enter(inside, "net") if inside else ()), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        if holder.stdout.readline() != b"ready\n":
            raise OSError(holder.communicate()[1].decode())
        yield holder.pid
    finally:
        holder.communicate()  # closes its input, at which it ends


def enter(pid, kind):
    """What to put before a command that is to run in the namespace of a process."""
    user = () if _IS_ROOT else ("--user", "--preserve-credentials")
    return ["nsenter", f"--target={pid}", *user, f"--{kind}", "--"]


def run_in(pid, kind, command):
    """Runs a command in the namespace of a process.

    Args:
        pid: int.
        kind: str, "net" or "mount".
        command: str, split at spaces.

    Raises:
        OSError: if it fails.
    """
    done = subprocess.run([*enter(pid, kind), *command.split()], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{command}: {done.stderr}")
