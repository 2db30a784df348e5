"""Files that are written whole or not at all, by one process at a time.

    write beside it  →  fsync  →  rename over it  →  fsync of the directory

A full disk, a directory that cannot be written to or a kill leave what was there before. A run's
directory belongs to the process that holds its lock, which the system takes back when that ends,
however it ends.
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
except ImportError:  # on Windows, where a run is not locked
    fcntl = None  # type: ignore[assignment]

FULL_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a system calls it that there is no room."""

LOCK_FILE = "lock"


def write_file(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, force it to the disk, and move it into place."""
    with write_parts(path) as write:
        write(content)


@contextmanager
def write_parts(path: Path) -> Iterator[Callable[[bytes], None]]:
    """The same for a file that comes part by part; what fails on the way leaves none of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb", buffering=0) as file:
            yield partial(write_all, file.fileno())
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_directory(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise write_error(path, error) from error
        raise


def write_all(handle: int, content: bytes) -> None:
    """Write all of it; the system may take a part at a time."""
    left = memoryview(content)
    while left:
        left = left[os.write(handle, left) :]


def write_error(path: Path, error: OSError) -> OSError:
    """The error that says which file could not be written, and how much room there is."""
    reason = error.strerror or str(error)
    if error.errno in FULL_DISK_ERRORS:
        reason += (
            f" ({shutil.disk_usage(_nearest_directory(path)).free / 2**20:.1f} MiB are free there)"
        )
    found = OSError(f"{path} could not be written: {reason}")
    found.errno = error.errno
    return found


def check_writable(path: Path) -> None:
    """Refuse before the work what could not be written after it."""
    place = _nearest_directory(path)
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise ValueError(f"{path}: nothing can be written into {place}; choose another place")


def _nearest_directory(path: Path) -> Path:
    """The nearest directory above a file that is there already."""
    return next(parent for parent in path.absolute().parents if parent.exists())


def _sync_directory(directory: Path) -> None:
    """Force the renaming itself to the disk, where the system knows how."""
    if os.name == "posix":
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def hold_lock(directory: Path) -> Iterator[None]:
    """Keep other processes out of a run's directory; those that only read it need not ask.

    Where the system or its file system knows no locks there is none.
    """
    path = directory / LOCK_FILE
    handle = None if fcntl is None else _lock(path)
    try:
        yield
    finally:
        if handle is not None:
            with suppress(OSError):
                path.unlink()
            os.close(handle)


def _lock(path: Path) -> int | None:
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
                f"{path.parent} is in use by the process {owner or 'of another'}: wait for its "
                "end, or stop it; no other may write there meanwhile"
            ) from error
        except OSError:  # a file system without locks
            os.close(handle)
            return None
        if _is_still(path, handle):
            break
        os.close(handle)  # its owner has just removed it
    with suppress(OSError):  # the number is for people; on a full disk the lock holds without
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
    return handle


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False
