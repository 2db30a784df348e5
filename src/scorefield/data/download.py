"""Published data: their place on this machine, and downloads, only when asked for.

A download is kept only if it is, to the bit, the file that was published.
"""

import gzip
import hashlib
import http.client
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from urllib import request

from ..disk import open_regular
from ..show.progress import progress
from ..values import data_option

CHUNK_BYTES = 2**20
"""Bytes to read at a time, whatever length a file claims."""
PLAIN_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
"""Compressions of a zip that need little memory."""


@dataclass(frozen=True)
class Remote:
    """A published file, with its size and SHA-256."""

    url: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """Name of the file on this machine."""
        return self.url.rpartition("/")[2]


def data_folder(name: str, root: str | Path | None) -> Path:
    """Return the folder of a data set: `root`, or its own in $SCOREFIELD_DATA or in data/."""
    if root is None:
        return Path(os.environ.get("SCOREFIELD_DATA") or "data") / name
    return Path(str(root)).expanduser()


def ensure_files(name: str, folder: Path, missing: Sequence[Remote], download: bool) -> None:
    """Download the missing files if that was asked for, or raise an error that names them."""
    if missing and not download:
        names = ", ".join(remote.name for remote in missing)
        size = sum(remote.size for remote in missing) / 1e6
        raise FileNotFoundError(
            f"{name} is looked for in {folder}, which has no {names}: name its folder by "
            f"{data_option('root', 'FOLDER')}, or download {size:.0f} MB from "
            f"{missing[0].url.rpartition('/')[0]} by {data_option('download', True)}"
        )
    for remote in missing:
        fetch(remote, folder)


def fetch(remote: Remote, folder: Path) -> None:
    """Download a file into a folder, all of it or nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    path, partial = folder / remote.name, folder / f".{remote.name}.{os.getpid()}"
    digest, size = hashlib.sha256(), 0
    try:
        with partial.open("wb") as file, request.urlopen(remote.url, timeout=30) as answer:
            chunks = iter(lambda: answer.read(CHUNK_BYTES), b"")
            bar = progress(chunks, remote.size, remote.name, position=lambda _: size, unit="B")
            for chunk in bar:
                digest.update(chunk)
                file.write(chunk)
                size += len(chunk)
                if size > remote.size:
                    break
        if (size, digest.hexdigest()) != (remote.size, remote.sha256):
            raise OSError(f"{size} bytes with SHA-256 {digest.hexdigest()} are not the published")
        partial.replace(path)
    except (OSError, http.client.HTTPException) as error:
        raise OSError(
            f"{remote.url} cannot be downloaded: {str(error) or type(error).__name__}; try again "
            f"later, or put the published file into {folder}"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def open_file(path: Path) -> Iterator[BufferedIOBase]:
    """Open a file, gzipped or not; damage found while reading becomes an OSError."""
    try:
        with open_regular(path) as file:
            zipped = file.peek(2)[:2] == b"\x1f\x8b"
            yield gzip.GzipFile(fileobj=file) if zipped else file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise OSError(f"{path} is damaged: {error}; download it again") from error


def read_exactly(stream: BufferedIOBase, count: int) -> bytearray:
    """Return `count` bytes, allocating memory as they arrive."""
    content = bytearray()
    while len(content) < count:
        chunk = stream.read(min(CHUNK_BYTES, count - len(content)))
        if not chunk:
            raise EOFError(f"{count - len(content)} bytes are missing at its end")
        content += chunk
    return content
