"""Growth of time and memory with the batch, the image, the levels, the data and the processes.

The power is the exponent by which the time grew since the row above: 1 is proportional, 0 constant.
Networks compute as `optimize` chooses. Memory is what the work adds to a process of its own, with
its inputs; for several processes it is the size of the largest.
"""

from __future__ import annotations

import json
import math
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import torch

from scorefield.data import Batches, load_data
from scorefield.fast.optimize import optimize
from scorefield.noise import geometric
from scorefield.oracles import Empirical
from scorefield.samplers import annealed_langevin, final

from . import Setting
from .measure import Task, peak_memory, process_bytes, ratio, turns
from .networks import STEPS, make_step, ncsn
from .table import Cell, Table

BATCHES, SIZES, LEVELS = (1, 8, 32, 128), (8, 16, 28, 32, 64), (2, 10, 100)
ROWS, PROCESSES = (1000, 10_000, 60_000), (1, 2)
WIDTH, QUICK_WIDTH = 64, 8
SIZE, SMALL_SIZE = 28, 8
"""Pixels per side."""
BATCH = 8
PROCESS_RUNS = 3
"""Training runs of each number of processes."""


def run(setting: Setting) -> Iterator[Table]:
    series: dict[str, Callable[[Setting], Iterator[Table]]] = {
        "batch": partial(steps, head="images at once", varied="batch", values=BATCHES),
        "image": partial(steps, head="pixels a side", varied="size", values=SIZES),
        "levels": levels,
        "data": data,
        "processes": processes,
    }
    for tables in setting.select(series).values():
        yield from tables(setting)


def grow(
    setting: Setting,
    title: str,
    head: str,
    build: Callable[[int], Task],
    values: Sequence[int],
    small: Callable[[], Task] | None = None,
) -> Table:
    """Time a task at each size, in turns, and measure its memory.

    Args:
        setting: how to measure.
        title: of the table.
        head: of the column of sizes.
        build: builds the task of a size.
        values: sizes.
        small: builds the task that warms up; that of the first size by default.
    """
    small = small or partial(build, values[0])
    times = turns({str(n): build(n) for n in values}, repeats=setting.repeats)
    memory = [peak_memory(small, partial(build, n)) for n in values]
    return growth(title, head, values, list(times.values()), memory)


def growth(
    title: str,
    head: str,
    values: Sequence[int],
    times: Sequence[list[float]],
    memory: Sequence[float | None],
    *notes: str,
) -> Table:
    """Return the table of the times of each turn at each size, with the power of the growth."""
    powers: list[float | None] = [None]
    for (n, before), (larger, after) in pairwise(zip(values, times, strict=True)):
        powers.append(math.log(ratio(after, before)) / math.log(larger / n))
    rows: list[list[Cell]] = [
        [n, 1e3 * statistics.median(seconds), power, mib]
        for n, seconds, power, mib in zip(values, times, powers, memory, strict=True)
    ]
    columns = {head: "d", "ms": ".3g", "grows as the power": ".2f", "MiB": ".0f"}
    return Table(title, columns, rows, notes)


def steps(setting: Setting, head: str, varied: str, values: Sequence[int]) -> Iterator[Table]:
    width = QUICK_WIDTH if setting.quick else WIDTH
    for kind in STEPS:
        build = partial(step, setting.device, kind, width, varied)
        small = partial(step, setting.device, kind, QUICK_WIDTH, "size", SMALL_SIZE)
        title, sizes = f"A step of {kind} by {head}", values[:2] if setting.quick else values
        yield grow(setting, title, head, build, sizes, small)


def step(device: str, kind: str, width: int, varied: str, value: int) -> Task:
    """Return a step of an NCSN, of which the batch or the size is given."""
    sizes = {"batch": BATCH, "size": SIZE, varied: value}
    model = ncsn(1, width, sizes["size"]).to(device)
    optimize(model, batch=sizes["batch"], train=kind == "training")
    return make_step(model, kind, sizes["batch"])


def levels(setting: Setting) -> Iterator[Table]:
    build = partial(chain, setting.device, QUICK_WIDTH if setting.quick else WIDTH)
    title = f"{BATCH} chains of one step a level, 1 × {SMALL_SIZE} × {SMALL_SIZE}"
    yield grow(setting, title, "levels", build, LEVELS[:2] if setting.quick else LEVELS)


def chain(device: str, width: int, levels: int) -> Task:
    """Return a run of one step at each level; the network's norms have a row per level too."""
    model = ncsn(1, width, SMALL_SIZE, levels).to(device)
    optimize(model, batch=BATCH)
    x = torch.rand(BATCH, 1, SMALL_SIZE, SMALL_SIZE, device=device)
    sigmas = geometric(1.0, 0.01, levels)
    return lambda: final(annealed_langevin(model, x, sigmas, steps=1, denoise=False))


def data(setting: Setting) -> Iterator[Table]:
    values = ROWS[:2] if setting.quick else ROWS
    rows = np.random.default_rng(0).random((values[-1], 1, SIZE, SIZE), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        for n in values:
            np.save(Path(folder) / f"{n}.npy", rows[:n])
        for what, build in {"A batch of 128": batches, "The exact score": scores}.items():
            title = f"{what} of a data set of 1 × {SIZE} × {SIZE}"
            yield grow(setting, title, "rows", partial(build, folder), values)


def batches(folder: str, n: int) -> Task:
    """Return the drawing of batches of a file of n rows."""
    draw, step = Batches(load_data(f"{folder}/{n}.npy").train, 128), count()
    return lambda: draw(next(step))


def scores(folder: str, n: int) -> Task:
    """Return the exact score of q_σ of n rows at 32 points."""
    oracle = Empirical(torch.from_numpy(np.load(f"{folder}/{n}.npy")))
    x = torch.rand(32, 1, SIZE, SIZE)
    return lambda: oracle(x, torch.tensor(1.0))


def processes(setting: Setting) -> Iterator[Table]:
    if setting.device != "cpu":
        return
    values = [n for n in PROCESSES if n <= (os.cpu_count() or 1)]
    repeats = 1 if setting.quick else PROCESS_RUNS
    runs = [[training_run(n, setting.quick) for n in values] for _ in range(repeats)]
    columns = list(zip(*runs, strict=True))  # for each number of processes its runs
    times = [[seconds for seconds, _ in column] for column in columns]
    memory = [statistics.median(mib for _, mib in column) for column in columns]
    title = "A step of the run digits-ncsn, batch 128, by processes of one thread"
    note = f"Medians of {repeats} runs; MiB of the largest process, with Python and torch in it."
    yield growth(title, "processes", values, times, memory, note)


def training_run(processes: int, quick: bool) -> tuple[float, float]:
    """Train under torchrun; return the median seconds per step, from the log, and the MiB."""
    steps, every = (6, 2) if quick else (60, 5)
    with tempfile.TemporaryDirectory() as folder:
        options = ["--out", f"{folder}/run", "--steps", str(steps), f"--keeping.log={every}"]
        options += ["--keeping.evaluate=0", "--keeping.samples=0", "--machine.device=cpu"]
        options += ["--machine.threads=1", *["--network.width=8"] * quick]
        launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        train = [*launcher, "-m", __name__, folder, "train", "digits-ncsn", *options]
        subprocess.run([sys.executable, "-m", *train], check=True, capture_output=True)
        lines = (Path(folder) / "run/log.jsonl").read_text().splitlines()
        sizes = [int(path.read_text()) for path in Path(folder).glob("*.bytes")]
    moments = [line["time"] for line in map(json.loads, lines) if "loss" in line]
    return statistics.median(b - a for a, b in pairwise(moments[1:])) / every, max(sizes) / 2**20


if __name__ == "__main__":  # python -m benchmarks.scale FOLDER train ...: a command and its memory
    directory = Path(sys.argv.pop(1))
    try:
        runpy.run_module("scorefield", run_name="__main__", alter_sys=True)
    finally:
        (directory / f"{os.environ.get('RANK', '0')}.bytes").write_text(
            str(process_bytes(peak=True))
        )
