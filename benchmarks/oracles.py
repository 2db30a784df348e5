"""Samplers at equal numbers of evaluations of an exact score, on three distributions.

    circle        eight modes of standard deviation 0.3 on a circle of radius 4, of equal weight
    apart         three modes of 0.2 in 64 dimensions, of weights 0.7, 0.2 and 0.1
    checkerboard  eight unit squares, each filled uniformly: edges instead of tails

Both figures are means over two seeds:

    SW ratio      sliced Wasserstein distance W₁ of n samples to n exact ones, over the mean
                  distance of two exact sets: 1 is indistinguishable, below 1 chance
    weight error  |share − weight| of the mode where it is largest

Each sampler has as many levels as the budget allows, and the step to σ = 0. σ_max is 1.5 × the
largest distance that `suggest` finds, where the Gaussian of the data's moments can start. σ_min is
the larger of `suggest`'s and a tenth of a mode's deviation. The grid is `karras` for what solves
the ODE (euler, heun, dpm_solver, and churn with S_churn = 10 at all σ), `geometric` for the others.
annealed_langevin takes levels, T and ε from `suggest`. A chart is written next to the tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from scorefield import SAMPLERS, Box, GaussianMixture, Mixture, final, geometric, karras, suggest
from scorefield._ops import Sigma
from scorefield.disk import write_file
from scorefield.sample import Plan
from scorefield.show.plots import as_png, frontier
from scorefield.show.track import track

from . import Setting
from .table import Cell, Table

BUDGETS, QUICK_BUDGETS = (10, 20, 50, 100, 200, 500), (10, 50)
SAMPLES, QUICK_SAMPLES = 10_000, 200
SEEDS = 2
EXACT_SETS = 10
"""Exact sets that each set of samples is compared with."""
FURTHER_SETS, QUICK_FURTHER_SETS = 32, 4
"""Further exact sets, compared with these as samples are: their mean has SW ratio 1."""
ODE = ("euler", "heun", "churn", "dpm_solver")
OPTIONS: dict[str, dict[str, Any]] = {
    "churn": {"amount": 10.0, "s_min": 0.0, "s_max": math.inf, "s_noise": 1.0},
}


class Truth(NamedTuple):
    """A distribution, the deviation of a mode, and the σ at which a sample's mode is decided."""

    oracle: GaussianMixture | Mixture
    deviation: float
    sigma: float


def circle() -> Truth:
    angle = torch.arange(8) * (2 * math.pi / 8)
    means = 4 * torch.stack([angle.cos(), angle.sin()], 1)
    return Truth(GaussianMixture(means, 0.3**2, torch.ones(8)), 0.3, 0.0)


def apart() -> Truth:
    means = 0.7 * torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    return Truth(GaussianMixture(means, 0.2**2, torch.tensor([0.7, 0.2, 0.1])), 0.2, 0.0)


def checkerboard() -> Truth:
    cells = [(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0]
    corners = torch.tensor(cells, dtype=torch.float32) - 2
    # at σ = 0 a sample just outside of all squares would belong to none
    return Truth(Mixture([Box(c, c + 1) for c in corners], torch.ones(8)), 1 / 12**0.5, 0.02)


TRUTHS: dict[str, Callable[[], Truth]] = {
    "circle": circle,
    "apart": apart,
    "checkerboard": checkerboard,
}


def run(setting: Setting) -> Iterator[Table]:
    for name, build in setting.select(TRUTHS).items():
        yield compare(setting, name, build())


def compare(setting: Setting, name: str, truth: Truth) -> Table:
    """Compare all samplers at all budgets on one distribution."""
    n, further = (QUICK_SAMPLES, QUICK_FURTHER_SETS) if setting.quick else (SAMPLES, FURTHER_SETS)
    torch.manual_seed(1000 + setting.seed)  # not the seed of any run
    data = truth.oracle.sample(2_000)
    exact = [projections(truth.oracle.sample(n)) for _ in range(EXACT_SETS)]
    floor = mean(distance(truth.oracle.sample(n), exact) for _ in range(further))
    rows, curves = list[list[Cell]](), dict[str, list[tuple[float, ...]]]()
    for sampler in track(SAMPLERS, len(SAMPLERS), name):
        for budget in QUICK_BUDGETS if setting.quick else BUDGETS:
            if (plan := plan_of(truth, data, sampler, budget)) is None:
                continue
            seeds = range(SEEDS * setting.seed, SEEDS * (setting.seed + 1))
            samples = [sample(truth, plan, n, seed) for seed in seeds]
            ratios = [distance(x, exact) / floor for x in samples]
            error = mean(weight_error(truth, x) for x in samples)
            rows.append([sampler, plan.evaluations, mean(ratios), error])
            if math.isfinite(sum(ratios)):
                curve = plan.evaluations, mean(ratios), min(ratios), max(ratios)
                curves.setdefault(sampler, []).append(curve)
    chart = frontier(curves, "SW ratio", "evaluations", floor=1.0)
    write_file(setting.out / f"oracles-{name}.png", as_png(chart))
    columns = {"sampler": "", "NFE": "d", "SW ratio": ".2f", "weight error": ".3f"}
    return Table(f"oracles, {name}", columns, rows, [f"{n} samples, mean of {SEEDS} seeds."])


def plan_of(truth: Truth, data: Tensor, sampler: str, budget: int) -> Plan | None:
    """Return the plan that spends a budget; None if it is less than a ladder needs."""
    options = {"denoise": True, **OPTIONS.get(sampler, {})}
    sigmas = suggest(data).sigmas
    if sampler == "annealed_langevin":
        if budget - 1 < len(sigmas):
            return None
        ladder = suggest(data, budget=budget - 1)  # one is for the last step
        options |= {"steps": ladder.steps, "epsilon": ladder.epsilon}
        return Plan(sampler, ladder.sigmas, options)
    levels = 2
    while SAMPLERS[sampler].evaluations(levels + 1, **options) <= budget:
        levels += 1
    grid = karras if sampler in ODE else geometric
    sigma_min = max(sigmas[-1].item(), truth.deviation / 10)
    return Plan(sampler, grid(1.5 * sigmas[0].item(), sigma_min, levels), options)


def sample(truth: Truth, plan: Plan, n: int, seed: int) -> Tensor:
    """Sample by the exact score, and check that the plan announces its evaluations."""
    evaluations = 0

    def counted(x: Tensor, sigma: Sigma) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        return truth.oracle(x, sigma)

    torch.manual_seed(seed)
    start = truth.oracle.prior.sample(n, plan.sigmas[0])
    x = final(plan.run(counted, start, torch.randn_like))
    if evaluations != plan.evaluations:
        raise RuntimeError(f"{plan.name}: {evaluations} evaluations, not {plan.evaluations}")
    return x


def projections(x: Tensor) -> np.ndarray:
    """Return the sample along each of 200 directions, sorted."""
    directions = torch.randn(200, x.shape[1], generator=torch.Generator().manual_seed(0))
    directions = directions / directions.norm(dim=1, keepdim=True)
    return np.sort((directions @ x.T).numpy(), axis=1)  # several times faster than torch's


def distance(x: Tensor, exact: list[np.ndarray]) -> float:
    """Return W₁ averaged over directions and exact sets; infinite for a chain that diverged."""
    if not x.isfinite().all():
        return math.inf
    lines = projections(x)
    return float(np.mean([np.abs(lines - y).mean() for y in exact]))


def weight_error(truth: Truth, x: Tensor) -> float:
    weights = truth.oracle.weights
    if not x.isfinite().all():
        return math.inf
    modes = truth.oracle.responsibilities(x, truth.sigma).argmax(1)
    shares = torch.bincount(modes, minlength=len(weights)) / len(x)
    return (shares - weights).abs().max().item()
