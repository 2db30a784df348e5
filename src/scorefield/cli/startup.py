"""Settings of the process that the command line makes, some of them before torch is loaded."""

import ctypes
import os
import sys

from ..values import escape_controls

SPIN_COUNT = "3000"
"""Checks for work that an idle OpenMP thread makes before it sleeps; about ten microseconds."""
KEPT_BYTES = 1 << 30
"""Free memory at the end of the heap that glibc keeps instead of returning it to the system."""


def prepare() -> None:
    """Let waiting threads sleep soon, before torch is loaded, and keep freed memory.

    In GNU's OpenMP a waiting thread spins for milliseconds. While another program is busy, it keeps
    a core from the thread that it waits for, and small steps take many times as long.
    """
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
    keep_memory()


def keep_memory() -> bool:
    """Let glibc keep the memory of large tensors. Returns False if there is no glibc.

    By default glibc returns the memory of a large tensor at each free, and the kernel clears the
    pages at each allocation, which takes longer than many operations on the tensor.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    mmap_max, trim_threshold = -4, -1
    # M_MMAP_THRESHOLD is at most 32 MiB, less than a batch of features: no mapping at all instead.
    return bool(mallopt(mmap_max, 0) & mallopt(trim_threshold, KEPT_BYTES))


def join_group() -> None:
    """Join the process group of a launcher, and warn about settings of it that have no effect."""
    from .. import distributed

    distributed.join()
    for warning in distributed.launcher_warnings(os.environ) if distributed.is_main() else ():
        print(f"scorefield: {warning}", file=sys.stderr)


def say(text: str) -> None:
    """Print a line or several, in rank 0 only."""
    from .. import distributed

    if distributed.is_main():
        print(escape_controls(text, lines=True), flush=True)
