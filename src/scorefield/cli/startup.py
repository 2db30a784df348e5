"""What is settled for a whole process before it computes; the command line does so."""

from __future__ import annotations

import ctypes
import os

SPINS = "3000"
"""How often an idle thread of OpenMP looks for work before it sleeps, some ten microseconds."""


def prepare() -> None:
    """Both of the below. To be called before torch is loaded."""
    spin_briefly()
    keep_memory()


def spin_briefly() -> None:
    """Let threads that wait for each other sleep soon, unless the environment says otherwise.

    GNU's OpenMP lets them spin for milliseconds, and beside another busy program a thread then
    spins where the one that it waits for could run: small steps take many times as long.
    """
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        os.environ["GOMP_SPINCOUNT"] = SPINS


def keep_memory() -> bool:
    """Let glibc keep the memory of large tensors; whether it is glibc, and does.

    It gives the memory of a tensor above some size back at each free, and the kernel clears the
    pages at each allocation, which takes longer than many an operation on them. So none is mapped
    on its own, and of what is free at the heap's end a gigabyte stays.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    mmap_max, trim_threshold = -4, -1
    # a threshold for mapping would be 32 MiB at most, which a batch of features passes
    return bool(mallopt(mmap_max, 0) & mallopt(trim_threshold, 1 << 30))
