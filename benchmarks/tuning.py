"""Settings of pigdm_langevin, compared on random posteriors that judge no method.

The distributions are of the four kinds of the benchmark `posteriors`, with random means, widths,
correlations and weights, measured by random masks and matrices; y comes from a sample. Those of
`posteriors`, the judges, are not among them.

    mean      median over the posteriors of the largest |mean − exact mean|, in exact deviations
    std       median of the ratio of the standard deviation to the exact one, the largest of each
    within    posteriors with means within 0.15 and standard deviations within 10 %
    loss      mean of the largest error, as a multiple of these bounds, at most 3 each

The setting of the smallest loss is then judged by the eight linear problems of `posteriors`.
Levels are those of `dense_grid`, dense down to 0.2 deviations of the data. The first setting is the
default of `restore`. Another `--seed` has other random posteriors.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import mean, median
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from scorefield import Gaussian, Mixture, Step, euler, final
from scorefield.inverse import LinearOperator, mask, matrix, pigdm_langevin
from scorefield.inverse.twisted import DENSE_ABOVE, DENSITY, dense_grid

from . import Setting
from .posteriors import AT_ONCE, data_deviation, errors
from .problems import Distribution, Problem, change_parts, field_covariance, in_float32
from .problems import problems as judges
from .table import Cell, Table

THREADS = 1
KINDS = ("gauss2", "mix2", "gauss64", "mix64")
COUNTS = {2: 8, 64: 2}
"""Posteriors of each kind and measurement, by the dimension."""
FIRST_SEED = 10_000
SAMPLES = 1_000
JUDGED_SAMPLES = 20_000
QUICK_SAMPLES = 50
MEAN_BOUND = 0.15
DEVIATION_BOUND = 0.1
LARGEST_LOSS = 3.0


class Chain(NamedTuple):
    """A setting of `pigdm_langevin`."""

    levels: int
    inner: int
    above: float
    density: int
    predictor: Step | None = None


SETTINGS = {
    "32 levels": Chain(32, 3, DENSE_ABOVE, DENSITY),
    "32 levels, down to 0.4": Chain(32, 3, 0.4, DENSITY),
    "32 levels of constant ratio": Chain(32, 3, DENSE_ABOVE, 1),
    "48 levels of 2 steps": Chain(48, 2, DENSE_ABOVE, DENSITY),
    "24 levels of 4 steps": Chain(24, 4, DENSE_ABOVE, DENSITY),
    "32 levels, predictor": Chain(32, 3, DENSE_ABOVE, DENSITY, predictor=euler),
}
BEST = "32 levels, predictor"
"""The setting of the smallest loss."""


def run(setting: Setting) -> Iterator[Table]:
    """Yield the table of all settings, and what the judges say about the best."""
    problems = [*tuning_problems(setting.seed, 1 if setting.quick else None)]
    columns = {"setting": "", "evaluations": "d", "mean": ".3f", "std": ".3f", "within": "d"}
    columns |= {"loss": ".2f", "CPU s": ".0f"}
    n = QUICK_SAMPLES if setting.quick else SAMPLES
    linear = {p.name: p for p in judges() if isinstance(p.operator, LinearOperator)}
    chosen = setting.select(SETTINGS | {f"judge, {name}": linear[name] for name in linear})
    eight = [chosen.pop(name) for name in [*chosen] if name.startswith("judge, ")]
    rows = [[name, *measure(chain, problems, n, setting.seed)] for name, chain in chosen.items()]
    notes = [f"{len(problems)} posteriors, {n} samples each, seed {setting.seed}."]
    if rows:
        yield Table(f"Settings of pigdm_langevin, seed {setting.seed}", columns, rows, notes)
    n = QUICK_SAMPLES if setting.quick else JUDGED_SAMPLES
    rows = [judge(SETTINGS[BEST], problem, n, setting.seed) for problem in eight]
    columns = {"problem": "", "mean": ".3f", "std, least": ".3f", "std, most": ".3f", "bar": ""}
    if rows:
        yield Table(f"pigdm_langevin, {BEST}", columns, rows, [f"{n} samples each."])


def judge(chain: Chain, problem: Problem, n: int, seed: int) -> list[Cell]:
    """Return the errors of a setting, and whether they are within the bounds."""
    torch.manual_seed(seed)
    parts = [min(AT_ONCE, n - first) for first in range(0, n, AT_ONCE)]
    x = torch.cat([sample(chain, problem, part) for part in parts])[:, problem.free]
    shift, least, most, *_ = errors(problem, x)
    passed = shift <= MEAN_BOUND and max(1 - least, most - 1) <= DEVIATION_BOUND
    return [problem.name, shift, least, most, "PASS" if passed else "FAIL"]


def measure(chain: Chain, problems: list[Problem], n: int, seed: int) -> list[Cell]:
    """Return the row of a setting."""
    start, shifts, ratios, losses = time.process_time(), [], [], []
    for problem in problems:
        torch.manual_seed(seed)
        shift, least, most, *_ = errors(problem, sample(chain, problem, n)[:, problem.free])
        shifts.append(shift)
        ratios.append(most)
        losses.append(max(shift / MEAN_BOUND, max(1 - least, most - 1) / DEVIATION_BOUND))
    within = sum(loss <= 1 for loss in losses)
    loss = mean(min(loss, LARGEST_LOSS) for loss in losses)
    calls = chain.levels * chain.inner + (chain.levels if chain.predictor else 1)
    spent = time.process_time() - start
    return [calls, median(shifts), median(ratios), within, loss, spent]


def sample(chain: Chain, problem: Problem, n: int) -> Tensor:
    """Sample a posterior by `pigdm_langevin` with a setting."""
    deviation = data_deviation(problem.prior)
    grid = {"above": chain.above, "density": chain.density}
    sigmas = dense_grid(problem.sigma_max, 0.02, chain.levels, deviation, **grid)
    x = problem.prior.prior.sample(n, sigmas[0])
    states = pigdm_langevin(
        problem.prior, x, sigmas, operator=problem.operator, y=problem.y, sigma_y=problem.sigma_y,
        sigma_data=deviation, inner=chain.inner, predictor=chain.predictor,
    )  # fmt: skip
    return final(states)


def tuning_problems(seed: int, count: int | None = None) -> Iterator[Problem]:
    """Yield the posteriors; each kind and measurement has `count`, by default `COUNTS`."""
    number = FIRST_SEED * (seed + 1)
    for kind in KINDS:
        for measure_by in (random_mask, random_matrix):
            for _ in range(count or COUNTS[2 if kind.endswith("2") else 64]):
                number += 1
                random = Generator().manual_seed(number)
                yield measure_by(random_distribution(kind, random), random)


def random_distribution(kind: str, random: Generator) -> Distribution:
    if kind == "gauss2":
        return Gaussian(normal(random, 2), random_covariance(random, 0.5, 1.5))
    if kind == "gauss64":
        return Gaussian(0.3 * normal(random, 64), field_covariance(uniform(random, 0.8, 3)))
    weights = torch.rand(2 + whole(random, 3), generator=random, dtype=torch.float64) + 0.2
    if kind == "mix2":
        parts = [
            Gaussian(1.5 * normal(random, 2), random_covariance(random, 0.3, 0.8)) for _ in weights
        ]
        return Mixture(parts, weights / weights.sum())
    smooth = torch.linalg.cholesky(field_covariance(3.0))
    covariance = field_covariance(uniform(random, 0.8, 3))
    covariance = uniform(random, 0.4, 0.7) ** 2 * covariance
    parts = [Gaussian(smooth @ normal(random, 64), covariance) for _ in weights]
    return Mixture(parts, weights / weights.sum())


def random_mask(prior: Distribution, random: Generator) -> Problem:
    size = prior.shape.numel()
    count = 1 if size == 2 else 8 + whole(random, 25)
    visible = torch.zeros(size, dtype=torch.bool)
    visible[torch.randperm(size, generator=random)[:count]] = True
    y, free = mask(visible)(clean(prior, random)), torch.arange(size)[~visible]
    exact = change_parts(
        prior.posterior(torch.eye(size).double()[visible], y[0, visible], 0.0),
        lambda p: Gaussian(p.prior.mean[free], p.prior.dense[free][:, free]),
    )
    return Problem("mask", in_float32(prior), mask(visible), y.float(), 0.0, free, exact)


def random_matrix(prior: Distribution, random: Generator) -> Problem:
    size = prior.shape.numel()
    count = 1 if size == 2 else 2 + whole(random, 7)
    rows, sigma_y = normal(random, count, size) / size**0.5, uniform(random, 0.05, 0.5)
    y = clean(prior, random) @ rows.T + sigma_y * normal(random, 1, count)
    exact, free = prior.posterior(rows, y[0], sigma_y), torch.arange(size)
    return Problem("matrix", in_float32(prior), matrix(rows), y.float(), sigma_y, free, exact)


def clean(prior: Distribution, random: Generator) -> Tensor:
    return prior.sample(1, noise=lambda like: normal(random, *like.shape))


def random_covariance(random: Generator, least: float, most: float) -> Tensor:
    deviation = torch.tensor([uniform(random, least, most) for _ in range(2)]).double()
    correlation = torch.eye(2).double()
    correlation[0, 1] = correlation[1, 0] = uniform(random, -0.9, 0.9)
    return deviation[:, None] * deviation * correlation


def normal(random: Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=random, dtype=torch.float64)


def uniform(random: Generator, least: float, most: float) -> float:
    return least + (most - least) * torch.rand((), generator=random).item()


def whole(random: Generator, below: int) -> int:
    return int(torch.randint(below, (), generator=random))
