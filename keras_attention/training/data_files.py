"""The files that a path, a list of paths or a glob stands for."""

import glob
import os


def find_files(path):
    """Finds the files of a data set.

    Args:
        path: str or `os.PathLike`, or an iterable of them. What is not the name of a file is a glob.

    Returns:
        list of str, each file once, by name: all workers have one order, whatever lists the files for them.

    Raises:
        ValueError: if nothing is given, or if a path is a folder or matches no file.
    """
    paths = [path] if isinstance(path, str | os.PathLike) else list(path)
    if not paths:
        raise ValueError("`path` must name a file at least. Received: path=[]")
    files = {}
    for pattern in map(os.fspath, paths):
        if os.path.isdir(pattern):
            raise ValueError(
                f"`path` must name files, not a folder: give a glob such as {os.path.join(pattern, '*')!r}. "
                f"Received: path={pattern!r}"
            )
        found = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
        found = [name for name in found if not os.path.isdir(name)]
        if not found:
            raise ValueError(f"`path` must name files that are there. Received: path={pattern!r}, which matches none")
        files.update(dict.fromkeys(found))
    return sorted(files)
