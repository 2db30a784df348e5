"""What samplers take beside the score's evaluations, of the small network of the first paper."""

from __future__ import annotations

import statistics
import warnings
from typing import Any

import torch
from torch import Tensor

from scorefield._ops import Sigma
from scorefield.fast.optimize import optimize
from scorefield.model import ScoreModel
from scorefield.noise import geometric, seeded
from scorefield.sample import Plan
from scorefield.samplers import SAMPLERS, final

from .measure import seconds
from .networks import ENDS, LEVELS, ncsn
from .setting import Setting
from .table import Cell, Table

BATCH = 32
OPTIONS: dict[str, dict[str, Any]] = {"annealed_langevin": {"steps": 2}}


def table(setting: Setting) -> Table:
    """By sampler; both times are of the same runs."""
    torch.manual_seed(0)
    size = (1, 16, 8) if setting.quick else (1, 64, 28)
    model = ncsn(*size).to(setting.device).eval()
    choice = optimize(model, batch=BATCH)
    sigmas = geometric(ENDS["sigma_max"], ENDS["sigma_min"], LEVELS)
    made: list[list[Cell]] = []
    for sampler in SAMPLERS:
        planned = Plan(sampler, sigmas, OPTIONS.get(sampler, {}))
        with warnings.catch_warnings():  # churn goes beyond the largest σ
            warnings.simplefilter("ignore", UserWarning)
            found = [beside(model, planned) for _ in range(setting.repeats + 1)][1:]
        total, score = (statistics.median(times) for times in zip(*found, strict=True))
        share = statistics.median(whole / inner - 1 for whole, inner in found)
        made.append([sampler, planned.evaluations, 1e3 * total, 1e3 * score, share])
    heads = {"sampler": "", "NFE": "d", "ms": ".1f", "of the score": ".1f", "beyond it": ".2%"}
    title = f"overhead, NCSN {size[1]}, {size[0]}×{size[2]}×{size[2]}, batch {BATCH}"
    return Table(title, heads, made, [f"The network: {choice}. Noise as of `sample`, by position."])


def beside(model: ScoreModel, planned: Plan) -> tuple[float, float]:
    """Seconds of a run, and of the evaluations of the score in it."""
    assert model.shape is not None
    spent = list[float]()

    def score(x: Tensor, sigma: Sigma) -> Tensor:
        found = list[Tensor]()
        spent.append(seconds(lambda: found.append(model(x, sigma))))
        return found[0]

    noise = seeded(0)
    x = noise(torch.empty(BATCH, *model.shape, device=model.device))
    return seconds(lambda: final(planned.run(score, x, noise))), sum(spent)
