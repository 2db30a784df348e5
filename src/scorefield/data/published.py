"""Where published data lie on this machine, and how they get there if somebody asks for it.

Nothing is fetched unless `download` is true, and nothing is kept that is not, to the bit, what was
published.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

from tqdm.auto import tqdm

CHUNK = 2**20
"""Bytes that are read at once, whatever a file says of its length."""


@dataclass(frozen=True)
class Remote:
    """A file that is offered to everyone, and how to know it."""

    url: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """What it is called on this machine."""
        return self.url.rpartition("/")[2]


def home(name: str, root: str | Path | None) -> Path:
    """The folder of a data set: the one given, or its own in $SCOREFIELD_DATA or in data/."""
    if root is None:
        return Path(os.environ.get("SCOREFIELD_DATA") or "data") / name
    return Path(str(root)).expanduser()


def provided(what: str, folder: Path, missing: Sequence[Remote], download: bool) -> None:
    """Fetch what is missing if that was asked for; else say where it was looked for."""
    if not missing:
        return
    names = ", ".join(remote.name for remote in missing)
    if not download:
        size = sum(remote.size for remote in missing) / 1e6
        raise FileNotFoundError(
            f"{what} is looked for in {folder}, where there is no {names}: name its folder by "
            f"--data.options.root=FOLDER (in Python root=...), or fetch {size:.0f} MB from "
            f"{missing[0].url.rpartition('/')[0]} by --data.options.download=true (download=True)"
        )
    for remote in missing:
        fetch(remote, folder)


def fetch(remote: Remote, folder: Path) -> None:
    """Download a file into a folder, all of it or nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    path, partial = folder / remote.name, folder / f".{remote.name}.{os.getpid()}"
    try:
        with partial.open("wb") as file:
            found = _copied(remote, file)
        if found != remote.sha256:
            raise OSError(
                f"{remote.url} is not the file that was published, its SHA-256 is {found}: nothing "
                f"was kept; try again later, or put the right one into {folder}"
            )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _copied(remote: Remote, file: BufferedIOBase) -> str:
    """The SHA-256 of what was downloaded into a file, which is of the published size."""
    digest, size = hashlib.sha256(), 0
    try:
        with (
            urllib.request.urlopen(remote.url, timeout=30) as answer,
            tqdm(total=remote.size, desc=remote.name, disable=None, unit="B", unit_scale=True) as t,
        ):
            while size <= remote.size and (some := answer.read(CHUNK)):
                digest.update(some)
                file.write(some)
                size += len(some)
                t.update(len(some))
    except (OSError, http.client.HTTPException) as error:
        raise OSError(
            f"{remote.url} cannot be downloaded: {error or type(error).__name__}; try again later, "
            f"or put the file where it is looked for"
        ) from error
    if size != remote.size:
        kind = "more" if size > remote.size else f"{size} bytes, less"
        raise OSError(
            f"{remote.url} gave {kind} than the {remote.size} bytes that were published: nothing "
            "was kept; try again later"
        )
    return digest.hexdigest()


# ── Files that may not be what they say ──────────────────────────────────────────────────────────


@contextmanager
def opened(path: Path) -> Iterator[BufferedIOBase]:
    """The content of a file, gzipped or not; what is damaged in it becomes an OSError."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file")
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if zipped:
                with gzip.GzipFile(fileobj=file) as stream:
                    yield stream
            else:
                yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise OSError(f"{path} is damaged: {error}; get it anew") from error


def exactly(stream: BufferedIOBase, count: int) -> bytearray:
    """So many bytes, for which memory is taken as they come."""
    found = bytearray()
    while len(found) < count:
        some = stream.read(min(CHUNK, count - len(found)))
        if not some:
            raise EOFError(f"it ends where {count - len(found)} bytes more should follow")
        found += some
    return found
