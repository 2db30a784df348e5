"""Time and memory.

Methods are compared within one process, where they take turns. A ratio is the median over the turns
of the two times of one turn, so a machine that slows down slows both.
"""

import math
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch

Name = TypeVar("Name", str, int)
Task = Callable[[], object]
"""Something to be timed."""
TURN_SECONDS = 0.2
"""Seconds that a turn lasts at least, by calling a short task several times."""
MAX_CALLS = 1000


def turns(
    tasks: Mapping[Name, Task],
    *,
    repeats: int,
    calls: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Name, list[float]]:
    """Return the seconds per call of each task in each of its turns, after a warm-up.

    A turn has `calls`; by default as many as take `TURN_SECONDS`, `MAX_CALLS` at most.
    """
    number, times = dict[Name, int](), {name: list[float]() for name in tasks}
    for name, task in tasks.items():
        task()
        fill = math.ceil(TURN_SECONDS / max(seconds(task, clock=clock), 1e-9))
        number[name] = calls or max(min(fill, MAX_CALLS), 1)
    for _ in range(repeats):
        for name, task in tasks.items():
            times[name].append(seconds(task, number[name], clock))
    return times


def seconds(task: Task, calls: int = 1, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds per call; waits for a GPU."""
    start = clock()
    for _ in range(calls):
        task()
    wait()
    return (clock() - start) / calls


def wait() -> None:
    """Wait until the GPU has done what it was asked to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    elif torch.backends.mps.is_available():
        torch.mps.synchronize()


def ratio(base: list[float], other: list[float]) -> float:
    """Return how many times faster `other` is: the median over the turns."""
    return statistics.median(a / b for a, b in zip(base, other, strict=True))


def peak_memory(small: Callable[[], Task], large: Callable[[], Task]) -> float:
    """Return the MiB that building and running `large` adds at most to a new process.

    `small` comes first, for what libraries allocate once. Both builders are pickled.
    """
    return float(in_new_process(_added_memory, small, large))


def in_new_process(function: Callable[..., Any], *args: Any) -> Any:
    """Return what a function of a module returns in a new process with as many threads."""
    spawn, threads = multiprocessing.get_context("spawn"), (torch.get_num_threads(),)
    with ProcessPoolExecutor(1, spawn, torch.set_num_threads, threads) as pool:
        return pool.submit(function, *args).result()


def _added_memory(small: Callable[[], Task], large: Callable[[], Task]) -> float:
    small()()
    cuda = torch.cuda.is_initialized()  # only by a task that uses the GPU
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if cuda else process_bytes()
    task = large()
    task()
    task()
    peak = torch.cuda.max_memory_allocated() if cuda else process_bytes(peak=True)
    return (peak - before) / 2**20


def process_bytes(peak: bool = False) -> int:
    """Return the size of this process now, or the largest that it has had."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's peak starts with the size of the parent on Linux
        field = "VmHWM" if peak else "VmRSS"
        (line,) = (line for line in status.read_text().splitlines() if line.startswith(field))
        return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
