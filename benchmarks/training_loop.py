"""What a run's loop costs over the step itself, data and logging included.

    bare      zero_grad, loss of a batch that is there already, backward, clip, Adam
    averaged  and the running average of the weights
    run       the same in a run: batches drawn and dequantised, noise by position, the running
              average, a line in the log

They take turns in one process; printed is the ratio of their medians. CPU time of one thread, so
that other programs disturb it little.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import replace

import torch

from scorefield import run
from scorefield.data import Batches
from scorefield.presets import PRESETS
from scorefield.train import averaged

TURNS, STEPS = 12, 12


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
        begun = run.start(made, f"{place}/run")
        updates = iter(begun)
        x = Batches(begun.data.train, made.training.batch)(0).x
        model, clip = begun.model, made.training.clip or float("inf")
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

        def bare() -> None:
            optimizer.zero_grad()
            begun.loss(model, x).mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()

        ema = averaged(model, made.training.ema)

        def with_average() -> None:
            bare()
            ema.update_parameters(model)

        ways = {"bare": bare, "averaged": with_average, "run": lambda: next(updates)}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(TURNS + 1):
            for name, step in ways.items():
                for _ in range(STEPS):
                    begin = time.process_time()
                    step()
                    if turn:  # the first turn is to warm up
                        seconds[name].append(time.process_time() - begin)
        updates.close()
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"digits, batch {made.training.batch}, {TURNS * STEPS} steps each, one thread")
    for name, value in middle.items():
        print(f"{name:9s} {1000 * value:7.2f} ms")
    for name in ("bare", "averaged"):
        print(f"run over {name}: {100 * (middle['run'] / middle[name] - 1):+.1f} %")
    print("bound, over bare: +3 %")


if __name__ == "__main__":
    main()
