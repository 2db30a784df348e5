"""Read regular files only, and write files whole or not at all, one process at a time.

    write to a temporary file  →  fsync  →  rename  →  fsync of the directory

After a full disk, a refused permission or a kill, the previous file is still there. A run's
directory belongs to the process that holds its lock, which the system releases when it ends.
"""

import errno
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any

LOCK_FILE = "lock"
LOCK_SECONDS = 0.2
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP)
"""Errors of file systems without locks."""


def open_regular(path: str | Path) -> BufferedReader:
    """Open a file to read; refuse a FIFO, a socket or a device, which may wait or never end."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path} is a directory: name a file in it")
    if not stat.S_ISREG(mode):
        raise OSError(
            f"{path} is not a regular file, but a FIFO, a socket or a device: copy it into a file"
        )
    return open(path, "rb")


@contextmanager
def name_damage(message: str) -> Iterator[None]:
    """Turn all errors of a library's parser into an OSError of a message and the reason.

    On a damaged file, a parser may raise anything.
    """
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(f"{message}: {reason:.500}") from error


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """Return the text of a regular file."""
    with open_regular(path) as file:
        return file.read().decode(encoding)


def read_json(path: Path, fix: str = "") -> dict[str, Any]:
    """Return the names and values of a file in JSON; the error of a damaged one ends with a fix."""
    try:
        content = json.loads(read_text(path))
        if not isinstance(content, dict):
            raise ValueError(f"it holds {content!r:.40}, not names and values")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}{fix}") from error
    return content


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with write_parts(path) as write:
        write(content)


@contextmanager
def write_parts(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Yield a function that appends to a file, which appears when the block ends without error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb", buffering=0) as file:
            yield partial(write_all, file.fileno())
            os.fsync(file.fileno())
        temporary.replace(path)
        if os.name == "posix":  # where a directory can be opened, to force its renaming to the disk
            handle = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise write_error(path, error) from error
        raise


def write_all(handle: int, content: bytes) -> None:
    """Write all bytes; the system may take a part of them at a time."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(handle, rest) :]


def write_error(path: Path, error: OSError) -> OSError:
    """Return an error that names the file, and the free space if the disk is full."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        free = shutil.disk_usage(_nearest_directory(path)).free / 2**20
        reason += f" ({free:.1f} MiB are free there)"
    named = OSError(f"{path} could not be written: {reason}")
    named.errno = error.errno
    return named


def check_writable(path: Path) -> None:
    """Refuse, before the work, a path that could not be written after it."""
    directory = _nearest_directory(path)
    if not directory.is_dir() or not os.access(directory, os.W_OK):
        raise ValueError(f"{path}: {directory} is not a writable directory; choose another place")


def _nearest_directory(path: Path) -> Path:
    """Return the nearest parent that exists."""
    return next(parent for parent in path.absolute().parents if parent.exists())


@contextmanager
def hold_lock(directory: Path) -> Iterator[None]:
    """Keep other processes from writing to a run's directory, where the file system has locks."""
    from filelock import FileLock, Timeout  # 30 ms, which `--help` is spared

    lock = FileLock(directory / LOCK_FILE, thread_local=False)
    try:
        lock.acquire(timeout=LOCK_SECONDS)  # `is_locked` may hold it for a moment
    except Timeout as error:
        raise ValueError(
            f"{directory} is in use by another process: wait until it ends, or stop it; only one "
            "process may write there"
        ) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise write_error(directory / LOCK_FILE, error) from error
    try:
        yield
    finally:
        lock.release()


def is_locked(directory: Path) -> bool:
    """Return True if a process holds the lock of a run's directory."""
    from filelock import FileLock, Timeout

    if not (directory / LOCK_FILE).exists():
        return False
    try:
        with FileLock(directory / LOCK_FILE).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a file system without locks, or a directory of another user
        return False
