"""What a run's loop costs over the step itself, data and logging included.

    bare      zero_grad, loss of a batch that is there already, backward, clip, Adam
    averaged  and the running average of the weights
    run       the same in a run: batches drawn and dequantised, noise by position, the running
              average as often as a run updates it, a line in the log

They take turns step by step; printed is the median, over turns of ten steps, of the ratio of their
CPU times of one thread, so that other programs disturb it little.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import replace

import torch

from scorefield import runs
from scorefield.data import Batches
from scorefield.runs.presets import PRESETS
from scorefield.train import EMA_UPDATE_EVERY, EMA_WARMUP, moving_average

TURNS = 40


def main() -> None:
    torch.set_num_threads(1)
    made = PRESETS["digits"]()
    made = replace(
        made,
        training=replace(made.training, steps=10**9),
        keeping=replace(made.keeping, evaluate=0, samples=0, checkpoint=0),
        machine=replace(made.machine, threads=1),
    )
    with tempfile.TemporaryDirectory() as place:
        begun = runs.start(made, f"{place}/run")
        updates = iter(begun)
        for _ in range(EMA_WARMUP):  # it is updated less often after these
            next(updates)
        x = Batches(begun.parts.data.train, made.training.batch)(0).x
        model, clip = begun.parts.model, made.training.clip or float("inf")
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

        def bare() -> None:
            optimizer.zero_grad()
            begun.parts.loss(model, x).mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()

        ema = moving_average(model, made.training.ema)

        def with_average() -> None:
            bare()
            ema.update_parameters(model)

        ways = {"bare": bare, "averaged": with_average, "run": lambda: next(updates)}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(TURNS + 1):
            spent = dict.fromkeys(ways, 0.0)
            for _ in range(EMA_UPDATE_EVERY):  # a turn has one update of the run's average
                for name, step in ways.items():
                    begin = time.process_time()
                    step()
                    spent[name] += (time.process_time() - begin) / EMA_UPDATE_EVERY
            if turn:  # the first is to warm up
                for name, value in spent.items():
                    seconds[name].append(value)
        updates.close()
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"digits, batch {made.training.batch}, {TURNS * EMA_UPDATE_EVERY} steps each, one thread")
    for name, value in middle.items():
        print(f"{name:9s} {1000 * value:7.2f} ms")
    for name in ("bare", "averaged"):
        ratios = [a / b for a, b in zip(seconds["run"], seconds[name], strict=True)]
        low, ratio, high = map(_percent, statistics.quantiles(ratios, n=4))
        print(f"run over {name}: {ratio} (quartiles {low}, {high})")
    print("bound, over bare: +3 %")


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %"


if __name__ == "__main__":
    main()
