"""What the tests see of a server's processes from outside: Linux tells it under /proc."""

import os
from pathlib import Path

_ESTABLISHED = "01"


def workers_of(pid: int) -> set[int]:
    """The child processes of a process."""
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def is_running(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def connections(pid: int, port: int) -> int:
    """How many clients a process has on one of its ports."""
    rows = [row.split() for table in ("tcp", "tcp6") for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    inodes = {row[9] for row in rows if int(row[1].split(":")[1], 16) == port and row[3] == _ESTABLISHED}
    count = 0
    for descriptor in os.scandir(f"/proc/{pid}/fd"):
        try:
            count += os.readlink(descriptor.path).removeprefix("socket:[").removesuffix("]") in inodes
        except FileNotFoundError:
            continue  # closed meanwhile
    return count


def resident_bytes(pid: int) -> int:
    """The memory that a process has in use."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
