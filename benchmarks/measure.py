"""How time and memory are measured.

Times are compared within one process, where the ways take turns: a ratio is the median over the
turns of the two times of one turn, so that a machine that slows down slows both.
"""

from __future__ import annotations

import math
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

Way = Callable[[], object]


def turns(
    ways: Mapping[str, Way], *, repeats: int, least: float = 0.2, most: int = 1000
) -> dict[str, list[float]]:
    """Seconds of a call of each way in each of its turns, after one to warm up.

    Args:
        ways: what is compared.
        repeats: turns of each.
        least: seconds of a turn, for which a quick way is called many times.
        most: calls in a turn.
    """
    calls = dict[str, int]()
    for name, run in ways.items():
        run()
        calls[name] = max(min(math.ceil(least / max(seconds(run), 1e-9)), most), 1)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, run in ways.items():
            found[name].append(seconds(run, calls[name]))
    return found


def say(what: str) -> None:
    """What is being done, beside the tables: it may take minutes."""
    print(f"  {what}", file=sys.stderr, flush=True)


def seconds(run: Way, calls: int = 1) -> float:
    """Of a call; a GPU is waited for."""
    start = time.perf_counter()
    for _ in range(calls):
        run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls


def ratio(base: list[float], other: list[float]) -> float:
    """How many times faster the other is, by the median of the turns."""
    return statistics.median(a / b for a, b in zip(base, other, strict=True))


def late(build: Callable[[], Way]) -> Way:
    """What `build` makes when it is first called, for what it takes to be measured too."""
    made: list[Way] = []

    def run() -> object:
        if not made:
            made.append(build())
        return made[0]()

    return run


def peak_memory(task: Callable[..., tuple[Way, Way]], *given: Any) -> float:
    """MiB that something adds, at most, in a process of its own.

    Args:
        task: a function of a module. It makes two things to be called: a small one, with which
            libraries take what they always take, and the one that is measured.
        given: its arguments, which are sent to the process.
    """
    return float(apart(_added, task, given))


def apart(task: Callable[..., Any], *given: Any) -> Any:
    """What a function of a module returns in a process of its own, to which both are sent."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_told, args=(there, task, given))
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        raise RuntimeError("a process that was to measure something ended without a word") from None
    finally:
        process.join()


def _told(pipe: Any, task: Callable[..., Any], given: tuple[Any, ...]) -> None:
    pipe.send(task(*given))


def _added(task: Callable[..., tuple[Way, Way]], given: tuple[Any, ...]) -> float:
    small, run = task(*given)
    small()
    # only by a task that has to do with a GPU
    cuda: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if cuda else _resident()
    run()
    run()
    return ((torch.cuda.max_memory_allocated() if cuda else most()) - before) / 2**20


def most() -> int:
    """The largest that this process has been, in bytes."""
    # not getrusage's, which on Linux begins with what the parent was when it started this one
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _resident() -> int:
    """What this process is now."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return most()
