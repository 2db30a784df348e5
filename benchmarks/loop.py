"""Cost of a run's loop over the bare training step, on the preset digits and one thread.

    bare      zero_grad, loss of a batch that is there already, backward, clipping, Adam
    averaged  the same, and the moving average of the weights after each step
    run       a run: batches are drawn and dequantised, noise is a function of position, the average
              is updated as often as a run does, and a line is logged per step

They take turns of ten steps, in which a run updates its average once. Times are of the processor,
so other programs disturb them little. A run is expected to cost at most 3 % more than `bare`.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from scorefield import runs
from scorefield.data import Batches
from scorefield.runs.presets import PRESETS
from scorefield.train import EMA_UPDATE_EVERY, EMA_WARMUP, moving_average

from . import Setting
from .measure import Task, ratio, turns
from .table import Cell, Table

THREADS = 1
TURNS = 40
QUICK_TURNS = 2


def run(setting: Setting) -> Iterator[Table]:
    preset, repeats = PRESETS["digits"], QUICK_TURNS if setting.quick else TURNS
    experiment = replace(
        preset,
        training=replace(preset.training, steps=10**9),
        keeping=replace(preset.keeping, evaluate=0, samples=0, checkpoint=0),
        machine=replace(preset.machine, threads=THREADS, device="cpu"),
        seed=setting.seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        training = runs.start(experiment, f"{folder}/run")
        updates, model, batch = iter(training), training.parts.model, preset.training.batch
        for _ in range(EMA_WARMUP):  # the average is updated less often afterwards
            next(updates)
        x = Batches(training.parts.data.train, batch)(0).x
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
        ema = moving_average(model, preset.training.ema)

        def bare() -> None:
            optimizer.zero_grad()
            training.parts.loss(model, x).mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), preset.training.clip or math.inf)
            optimizer.step()

        def averaged() -> None:
            bare()
            ema.update_parameters(model)

        tasks: dict[str, Task] = {"bare": bare, "averaged": averaged, "run": lambda: next(updates)}
        times = turns(tasks, repeats=repeats, calls=EMA_UPDATE_EVERY, clock=time.process_time)
        updates.close()
    rows: list[list[Cell]] = []
    for name, t in times.items():
        over = [1 / ratio(times[base], t) - 1 for base in ("bare", "averaged")]
        rows.append([name, 1e3 * statistics.median(t), *over])
    columns = {"": "", "ms a step": ".2f", "over bare": "+.1%", "over averaged": "+.1%"}
    note = f"{repeats * EMA_UPDATE_EVERY} steps each."
    yield Table(f"The loop of a run, digits, batch {batch}", columns, rows, [note])
