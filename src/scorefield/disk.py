"""Files that are written whole or not at all, by one process at a time.

    write to a temporary file  →  fsync  →  rename  →  fsync of the directory

After a full disk, a refused permission or a kill, the previous file is still there. A run's
directory belongs to the process that holds its lock, which the system releases when it ends.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where runs are not locked
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = "lock"


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
    handle = None if fcntl is None else _acquire_lock(directory / LOCK_FILE)
    try:
        yield
    finally:
        if handle is not None:
            with suppress(OSError):
                (directory / LOCK_FILE).unlink()
            os.close(handle)


def _acquire_lock(path: Path) -> int | None:
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise write_error(path, error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(handle, 20).decode(errors="replace").strip()
            os.close(handle)
            raise ValueError(
                f"{path.parent} is in use by the process {owner or 'of another'}: wait until it "
                "ends, or stop it; only one process may write there"
            ) from error
        except OSError:  # a file system without locks
            os.close(handle)
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(handle)):
                break
        os.close(handle)  # its owner has just removed it
    with suppress(OSError):  # the number is for people; on a full disk the lock works without it
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
    return handle
