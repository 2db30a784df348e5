"""How time and memory grow: with the batch, the image, the levels, the data set and the processes.

Of each series the table has the time, and the exponent by which it grew since the row above: 1 is
in proportion, 0 not at all. Networks compute as `optimize` chooses. Memory is all that the work
adds to a process of its own, what it works on included; of several processes it is what the largest
has.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scorefield.data import Batches, load_data
from scorefield.fast.optimize import optimize
from scorefield.noise import geometric
from scorefield.oracles import Empirical
from scorefield.samplers import annealed_langevin, final

from .measure import Way, late, peak_memory, ratio, turns
from .networks import STEPS, Network, inputs, ncsn
from .setting import Setting
from .table import Cell, Table

COLUMNS = {"": "d", "ms": ".3g", "grows as the power": ".2f", "MiB": ".0f"}

BATCHES, SIZES, LEVELS = (1, 8, 32, 128), (8, 16, 28, 32, 64), (2, 10, 100)
ROWS, PROCESSES = (1000, 10_000, 60_000), (1, 2)
WIDTH, SIZE, SMALL, BATCH = 64, 28, 8, 8
RUNS = 3
"""Of each number of processes."""


def run(setting: Setting) -> Iterator[Table]:
    """A table for each of what grows."""
    series: dict[str, Callable[[Setting], Iterator[Table]]] = {
        "batch": batch,
        "image": image,
        "levels": levels,
        "data": data,
        "processes": processes,
    }
    for each in setting.chosen(series).values():
        yield from each(setting)


def few(setting: Setting, values: Sequence[int]) -> tuple[int, ...]:
    """The first two, where it is only to be seen whether it runs."""
    return tuple(values[:2] if setting.quick else values)


def width(setting: Setting) -> int:
    """Features of the network."""
    return 8 if setting.quick else WIDTH


# ── Of a step ────────────────────────────────────────────────────────────────────────────────────


def step(kind: str, batch: int, size: int, levels: int, width: int, device: str) -> Way:
    """A step of an NCSN."""
    network = Network(lambda: ncsn(1, width, size, levels), (1, size, size), batch)
    model = network.build().to(device)
    optimize(model, batch=batch, train=kind == "training")
    return STEPS[kind](model, *(t.to(device) for t in inputs(network, batch)))


def steps(
    threads: int, kind: str, batch: int, size: int, levels: int, width: int, device: str
) -> tuple[Way, Way]:
    """A small step and the one that is measured, in a process of its own."""
    torch.set_num_threads(threads)
    made = partial(step, kind, device=device)
    return (
        late(lambda: made(batch=1, size=8, levels=2, width=8)),
        late(lambda: made(batch=batch, size=size, levels=levels, width=width)),
    )


def grown(
    setting: Setting, what: str, values: Sequence[int], given: Callable[[int], dict[str, int]]
) -> Iterator[Table]:
    """Steps of training and of sampling, over one of their sizes."""
    for kind in STEPS:
        common: dict[str, Any] = {"width": width(setting), "device": setting.device}
        sizes: dict[int, Any] = {value: given(value) | common for value in values}
        ways = {str(value): step(kind, **each) for value, each in sizes.items()}
        spent = turns(ways, repeats=setting.repeats)
        memory = [
            peak_memory(partial(steps, setting.threads, kind, **each)) for each in sizes.values()
        ]
        times = [spent[str(value)] for value in values]
        yield table(f"A step of {kind} by {what}", what, values, times, memory)


def table(
    title: str,
    what: str,
    values: Sequence[int],
    times: Sequence[list[float]],
    memory: Sequence[float | None],
    *notes: str,
) -> Table:
    """Times over sizes, those of each turn, with the power by which they grew."""
    rows, last = list[list[Cell]](), None
    for value, seconds, mib in zip(values, times, memory, strict=True):
        power = None
        if last is not None:
            power = math.log(ratio(seconds, last[1])) / math.log(value / last[0])
        rows.append([value, 1e3 * statistics.median(seconds), power, mib])
        last = value, seconds
    columns = {what if head == "" else head: form for head, form in COLUMNS.items()}
    return Table(title, columns, rows, notes)


def batch(setting: Setting) -> Iterator[Table]:
    """Images at once."""
    return grown(
        setting,
        "images at once",
        few(setting, BATCHES),
        lambda n: {"batch": n, "size": SIZE, "levels": 10},
    )


def image(setting: Setting) -> Iterator[Table]:
    """Pixels a side."""
    return grown(
        setting,
        "pixels a side",
        few(setting, SIZES),
        lambda n: {"batch": BATCH, "size": n, "levels": 10},
    )


# ── Of more than a step ──────────────────────────────────────────────────────────────────────────


def timed(
    setting: Setting,
    title: str,
    what: str,
    build: Callable[[int], Way],
    values: Sequence[int],
) -> Table:
    """What is built for each size, in turns; `build` is sent to processes of their own, too."""
    spent = turns({str(value): build(value) for value in values}, repeats=setting.repeats)
    memory = [peak_memory(_built, setting.threads, build, values[0], value) for value in values]
    times = [spent[str(value)] for value in values]
    return table(title, what, values, times, memory)


def _built(threads: int, build: Callable[[int], Way], least: int, value: int) -> tuple[Way, Way]:
    """The first of a series, which warms up, and one of them."""
    torch.set_num_threads(threads)
    return late(lambda: build(least)), late(lambda: build(value))


def levels(setting: Setting) -> Iterator[Table]:
    """Noise levels, which each have a row in the network's norms and a step in the chain."""
    title = f"{BATCH} chains of one step a level, 1 × {SMALL} × {SMALL}"
    build = partial(chain, width(setting), setting.device)
    yield timed(setting, title, "levels", build, few(setting, LEVELS))


def chain(width: int, device: str, count: int) -> Way:
    """A step at each of so many levels."""
    model = ncsn(1, width, SMALL, count).to(device)
    optimize(model, batch=BATCH)
    x = torch.rand(BATCH, 1, SMALL, SMALL, device=device)
    sigmas = geometric(1.0, 0.01, count)
    return lambda: final(annealed_langevin(model, x, sigmas, steps=1, denoise=False))


def data(setting: Setting) -> Iterator[Table]:
    """Rows of a data set: a batch of training, and the exact score of all."""
    values = few(setting, ROWS)
    rows = np.random.default_rng(0).random((values[-1], 1, SIZE, SIZE), dtype=np.float32)
    with tempfile.TemporaryDirectory() as place:
        for n in values:
            np.save(Path(place) / f"{n}.npy", rows[:n])
        shape = f"1 × {SIZE} × {SIZE}"
        for title, build in (
            ("A batch of 128", partial(draws, setting.seed)),
            ("The exact score", scores),
        ):
            about = f"{title} of a data set of {shape}"
            yield timed(setting, about, "rows", partial(build, place), values)


def draws(seed: int, place: str, n: int) -> Way:
    """Batches of a file of n rows."""
    draw, steps = Batches(load_data(f"{place}/{n}.npy").train, 128, seed=seed), count()
    return lambda: draw(next(steps))


def scores(place: str, n: int) -> Way:
    """The score of q_σ of n rows, at 32 points."""
    law = Empirical(torch.from_numpy(np.load(f"{place}/{n}.npy")))
    x = torch.rand(32, 1, SIZE, SIZE)
    return lambda: law(x, torch.tensor(1.0))


def processes(setting: Setting) -> Iterator[Table]:
    """Processes of one thread each, that share the batches of a run; runs take turns."""
    values = [n for n in PROCESSES if n <= (os.cpu_count() or 1)]
    if setting.device != "cpu":
        return
    repeats = 1 if setting.quick else RUNS
    found = [[_of_a_run(n, quick=setting.quick) for n in values] for _ in range(repeats)]
    times, sizes = ([[turn[at][i] for turn in found] for at in range(len(values))] for i in (0, 1))
    memory = [statistics.median(each) for each in sizes]
    title = "A step of the run digits-ncsn, batch 128, by processes of one thread"
    note = f"Medians of {repeats} runs; MiB of the largest process, with Python and torch in it."
    yield table(title, "processes", values, times, memory, note)


def _of_a_run(processes: int, *, quick: bool) -> tuple[float, float]:
    """The median of the seconds between lines of the log, for each step; MiB of a process."""
    steps, every = (6, 2) if quick else (60, 5)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    with tempfile.TemporaryDirectory() as place:
        told = ["--out", f"{place}/run", "--steps", str(steps), f"--keeping.log={every}"]
        told += ["--keeping.evaluate=0", "--keeping.samples=0", "--machine.device=cpu"]
        told += ["--machine.threads=1", *["--network.width=8"] * quick]
        train = [*launcher, "-m", "benchmarks.weighed", place, "train", "digits-ncsn", *told]
        subprocess.run([sys.executable, *train], check=True, capture_output=True)
        lines = (Path(place) / "run/log.jsonl").read_text().splitlines()
        weights = [int(path.read_text()) for path in Path(place).glob("*.bytes")]
    moments = [found["time"] for found in map(json.loads, lines) if "loss" in found]
    spent = statistics.median(b - a for a, b in pairwise(moments[1:])) / every
    return float(spent), max(weights) / 2**20
