"""Time that samplers take beyond the evaluations of the network, for a small NCSN.

Both times are of the same runs. Noise is that of `sample`, a function of position. `peers` measures
the same with a score that costs nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from statistics import median
from typing import Any

import torch
from torch import Tensor

from scorefield._ops import Sigma
from scorefield.fast.optimize import optimize
from scorefield.model import ScoreModel
from scorefield.noise import seeded
from scorefield.sample import Plan
from scorefield.samplers import SAMPLERS, final

from . import Setting
from .measure import seconds
from .networks import LADDER, ncsn
from .table import Cell, Table

BATCH = 32
OPTIONS: dict[str, dict[str, Any]] = {"annealed_langevin": {"steps": 2}}


def run(setting: Setting) -> Iterator[Table]:
    torch.manual_seed(setting.seed)
    channels, width, size = (1, 16, 8) if setting.quick else (1, 64, 28)
    model = ncsn(channels, width, size).to(setting.device).eval()
    choice = optimize(model, batch=BATCH)
    rows: list[list[Cell]] = []
    for sampler in setting.select(SAMPLERS):
        plan = Plan(sampler, LADDER, OPTIONS.get(sampler, {}))
        with warnings.catch_warnings():  # churn goes beyond the largest σ
            warnings.simplefilter("ignore", UserWarning)
            times = [run_and_score(model, plan) for _ in range(setting.repeats + 1)][1:]
        whole, score = (median(column) for column in zip(*times, strict=True))
        share = median(total / inner - 1 for total, inner in times)
        rows.append([sampler, plan.evaluations, 1e3 * whole, 1e3 * score, share])
    columns = {"sampler": "", "NFE": "d", "ms": ".1f", "of the score": ".1f", "beyond it": ".2%"}
    title = f"overhead, NCSN {width}, {channels}×{size}×{size}, batch {BATCH}"
    yield Table(title, columns, rows, [f"The network: {choice}."])


def run_and_score(model: ScoreModel, plan: Plan) -> tuple[float, float]:
    """Return the seconds of a run, and of the evaluations of the score in it."""
    assert model.shape is not None
    spent = list[float]()

    def score(x: Tensor, sigma: Sigma) -> Tensor:
        values = list[Tensor]()
        spent.append(seconds(lambda: values.append(model(x, sigma))))
        return values[0]

    noise = seeded(0)
    x = noise(torch.empty(BATCH, *model.shape, device=model.device))
    return seconds(lambda: final(plan.run(score, x, noise))), sum(spent)
