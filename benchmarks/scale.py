"""Growth of time and memory with the batch, the size of the image and the number of processes.

The power is the exponent by which the time grew since the row above: 1 is proportional, 0 constant.
Networks compute as `optimize` chooses. Memory is what the work adds to a process of its own, with
its inputs; it is not measured for several processes.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

from scorefield.fast.optimize import optimize

from . import Setting
from .measure import Task, peak_memory, ratio, turns
from .networks import STEPS, make_inputs, ncsn
from .table import Cell, Table

BATCHES = (1, 8, 32, 128)
SIZES = (8, 16, 28, 32, 64)
"""Pixels per side."""
BATCH = 8
SIZE = 28
SMALL_SIZE = 8
WIDTH = 64
QUICK_WIDTH = 8
PROCESSES = (1, 2)
PROCESS_RUNS = 3
"""Training runs of each number of processes."""


def run(setting: Setting) -> Iterator[Table]:
    series: dict[str, Callable[[Setting], Iterator[Table]]] = {
        "batch": partial(steps, head="images at once", varied="batch", values=BATCHES),
        "image": partial(steps, head="pixels a side", varied="size", values=SIZES),
        "processes": processes,
    }
    for tables in setting.select(series).values():
        yield from tables(setting)


def growth(
    title: str,
    head: str,
    times: Mapping[int, list[float]],
    memory: Mapping[int, float],
    *notes: str,
) -> Table:
    """Return the table of the times of each turn by size, with the power of the growth."""
    powers: list[float | None] = [None]
    for (n, before), (larger, after) in pairwise(times.items()):
        powers.append(math.log(ratio(after, before)) / math.log(larger / n))
    rows: list[list[Cell]] = [
        [n, 1e3 * statistics.median(seconds), power, memory.get(n)]
        for (n, seconds), power in zip(times.items(), powers, strict=True)
    ]
    columns = {head: "d", "ms": ".3g", "grows as the power": ".2f", "MiB": ".0f"}
    return Table(title, columns, rows, notes)


def steps(setting: Setting, head: str, varied: str, values: Sequence[int]) -> Iterator[Table]:
    """Time both kinds of steps at each size, in turns, and measure their memory."""
    width, values = (QUICK_WIDTH, values[:2]) if setting.quick else (WIDTH, values)
    for kind in STEPS:
        build = partial(step, setting.device, kind, width, varied)
        small = partial(step, setting.device, kind, QUICK_WIDTH, "size", SMALL_SIZE)
        times = turns({n: build(n) for n in values}, repeats=setting.repeats)
        memory = {n: peak_memory(small, partial(build, n)) for n in values}
        yield growth(f"A step of {kind} by {head}", head, times, memory)


def step(device: str, kind: str, width: int, varied: str, value: int) -> Task:
    """Return a step of an NCSN at one value of the batch or the size, whichever is varied."""
    sizes = {"batch": BATCH, "size": SIZE, varied: value}
    model = ncsn(1, width, sizes["size"]).to(device)
    optimize(model, batch=sizes["batch"], train=kind == "training")
    return STEPS[kind](model, *make_inputs(model, sizes["batch"]))


def processes(setting: Setting) -> Iterator[Table]:
    if setting.device != "cpu":
        return
    repeats, times = 1 if setting.quick else PROCESS_RUNS, dict[int, list[float]]()
    for _ in range(repeats):
        for n in (n for n in PROCESSES if n <= (os.cpu_count() or 1)):
            times.setdefault(n, []).append(training_run(n, setting.quick))
    title = "A step of the run digits-ncsn, batch 128, by processes of one thread"
    yield growth(title, "processes", times, {}, f"Medians of {repeats} runs.")


def training_run(processes: int, quick: bool) -> float:
    """Train under torchrun; return the median seconds per step, from the log."""
    steps, every = (6, 2) if quick else (60, 5)
    with tempfile.TemporaryDirectory() as folder:
        options = ["--out", f"{folder}/run", "--steps", str(steps), f"--keeping.log={every}"]
        options += ["--keeping.evaluate=0", "--keeping.samples=0", "--machine.device=cpu"]
        options += ["--machine.threads=1", *["--network.width=8"] * quick]
        launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        train = [*launcher, "-m", "scorefield", "train", "digits-ncsn", *options]
        subprocess.run([sys.executable, "-m", *train], check=True, capture_output=True)
        lines = (Path(folder) / "run/log.jsonl").read_text().splitlines()
    moments = [line["time"] for line in map(json.loads, lines) if "loss" in line]
    return statistics.median(b - a for a, b in pairwise(moments[1:])) / every
