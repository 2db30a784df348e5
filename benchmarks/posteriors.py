"""Methods of conditioning compared with the exact posterior.

Four distributions whose posterior is known, each measured in two ways:

    gauss2, mix2     in 2 dimensions: a correlated Gaussian, and three Gaussians
    gauss64, mix64   8 × 8 fields with correlation exp(−distance/1.5): a Gaussian, and three
                     patterns with a field of half the standard deviation around each
    mask             x₁ in 2 dimensions, in 64 a quarter: the 2 left columns; without noise
    matrix           one row of normal numbers in 2 dimensions, 4 in 64; with noise of 0.2

y comes from one sample of the distribution. Over the coordinates that are not known:

    mean      largest |mean − exact mean|, in exact standard deviations
    std       smallest and largest ratio of the standard deviation to the exact one
    cov       largest |covariance − exact|, in units of its two exact standard deviations
    modes     of a mixture, the largest |mean of p(k | x) − p(k | y)|
    bias      largest error of mean, std and modes

`exact` is what as many exact samples score. replace, dps and pigdm go down 32 levels by Heun's
method (18 for mix64); algorithm2 takes 20 steps at each of 16 levels with α = 0.1σ²;
particle_filter goes down 64 levels with twice as many particles as samples, in sets of 2,000, and
keeps every second. Everything is in float32; seconds are of one processor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scorefield import Gaussian, Mixture, final, geometric, heun, integrate, karras, seeded
from scorefield.inverse import (
    LinearOperator,
    algorithm2,
    dps,
    mask,
    matrix,
    particle_filter,
    pigdm,
    replace,
)

from . import Setting
from .table import Cell, Table

THREADS = 1
SAMPLES, QUICK_SAMPLES = 50_000, 2_000
CHAINS, PARTICLES = 5_000, 2_000
"""Chains at once, and particles of a filter."""

Distribution = Gaussian | Mixture


class Problem(NamedTuple):
    """A distribution, a measurement of it, and the exact posterior of the free coordinates."""

    name: str
    prior: Distribution
    operator: LinearOperator
    y: Tensor
    sigma_y: float
    free: Tensor
    posterior: Distribution

    @property
    def sigma_max(self) -> float:
        """σ at which only the mean and the covariance are left of the distribution."""
        return 6 * self.prior.prior.dense.diagonal().max().sqrt().item()

    def start(self, n: int, sigmas: Tensor) -> Tensor:
        """Return n starting points."""
        return self.prior.prior.sample(n, sigmas[0])


def run(setting: Setting) -> Iterator[Table]:
    n = QUICK_SAMPLES if setting.quick else SAMPLES
    pairs = {
        f"{problem.name}, {method}": (problem, method)
        for problem in problems()
        for method in METHODS
        if method != "algorithm2" or problem.operator.known is not None
    }
    rows: list[list[Cell]] = []
    for problem, method in setting.select(pairs).values():
        torch.manual_seed(setting.seed)
        start = time.process_time()
        x = METHODS[method](problem, n)
        spent = time.process_time() - start
        x = x if method == "exact" else x[:, problem.free]
        rows.append([problem.name, method, *errors(problem, x), spent])
    heads = {"mean": ".3f", "std, least": ".3f", "std, most": ".3f", "cov": ".3f", "modes": ".3f"}
    columns = {"problem": "", "method": "", **heads, "bias": ".0%", "CPU s": ".1f"}
    yield Table("Posteriors", columns, rows, [f"{n} samples each."])


def distributions() -> dict[str, Distribution]:
    def double(*values: Any) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)

    steps = torch.arange(8, dtype=torch.float64)
    places = torch.cartesian_prod(steps, steps)
    field = (-(places[:, None] - places).norm(dim=2) / 1.5).exp()
    patterns = torch.stack([places[:, 0].sin(), places[:, 1].sin(), (0.8 * places.sum(1)).cos()])
    modes = [
        Gaussian(double(-1.5, -1.0), double([0.3, 0.2], [0.2, 0.3])),
        Gaussian(double(-0.3, 2.0), double([0.3, -0.2], [-0.2, 0.3])),
        Gaussian(double(1.0, 0.0), 0.3),
    ]
    weights = double(0.5, 0.3, 0.2)
    return {
        "gauss2": Gaussian(double(-1.0, 1.0), double([1.0, 0.8], [0.8, 1.0])),
        "mix2": Mixture(modes, weights),
        "gauss64": Gaussian(0.1 * places[:, 1], field),
        "mix64": Mixture([Gaussian(0.3 * p, field / 4) for p in patterns], weights),
    }


def problems() -> Iterator[Problem]:
    for name, prior in distributions().items():
        size = prior.shape.numel()
        x, prior32 = prior.sample(1, noise=seeded(3)), in_float32(prior)
        known = torch.arange(size) % 8 < (1 if size == 2 else 2)
        y, free = mask(known)(x), torch.arange(size)[~known]
        exact = marginal(prior.posterior(torch.eye(size).double()[known], y[0, known], 0.0), free)
        yield Problem(f"{name} mask", prior32, mask(known), y.float(), 0.0, free, exact)
        rows = seeded(5)(torch.empty(1 if size == 2 else 4, size).double()) / size**0.5
        y = x @ rows.T + 0.2 * seeded(6)(torch.empty(1, len(rows)).double())
        exact, free = prior.posterior(rows, y[0], 0.2), torch.arange(size)
        yield Problem(f"{name} matrix", prior32, matrix(rows), y.float(), 0.2, free, exact)


def in_float32(prior: Distribution) -> Distribution:
    if isinstance(prior, Mixture):
        return Mixture([in_float32(part) for part in prior.components], prior.weights.float())
    return Gaussian(prior.prior.mean.float(), prior.prior.cov.float())


def marginal(prior: Distribution, rows: Tensor) -> Distribution:
    """Return the distribution of some coordinates."""
    if isinstance(prior, Mixture):
        return Mixture([marginal(part, rows) for part in prior.components], prior.weights)
    return Gaussian(prior.prior.mean[rows], prior.prior.dense[rows][:, rows])


def in_parts(n: int, most: int, sample: Callable[[int], Tensor]) -> Tensor:
    return torch.cat([sample(min(most, n - done)) for done in range(0, n, most)])


def guided(make: Callable[..., Any]) -> Callable[[Problem, int], Tensor]:
    """Return the sampler by a method that makes a conditional score."""

    def sample(problem: Problem, n: int) -> Tensor:
        score = make(problem.prior, problem.operator, problem.y, sigma_y=problem.sigma_y)
        levels = 18 if problem.name.startswith("mix64") else 32
        sigmas = karras(5 * problem.sigma_max, 0.01, levels)

        def run(n: int) -> Tensor:
            return final(integrate(heun, score, problem.start(n, sigmas), sigmas))

        return in_parts(n, CHAINS, run)

    return sample


def pigdm_score(prior: Distribution, *args: Any, **options: Any) -> Any:
    deviation = prior.prior.dense.diagonal().mean().sqrt().item()
    return pigdm(prior, *args, sigma_data=deviation, **options)


def overwritten(problem: Problem, n: int) -> Tensor:
    sigmas = geometric(problem.sigma_max, 0.02, 16)
    options = {"known": problem.operator.known, "y": problem.y, "steps": 20, "epsilon": 4e-5}

    def run(n: int) -> Tensor:
        return final(algorithm2(problem.prior, problem.start(n, sigmas), sigmas, **options))

    return in_parts(n, CHAINS, run)


def filtered(problem: Problem, n: int) -> Tensor:
    sigmas = geometric(problem.sigma_max, 0.02, 64)
    options = {"operator": problem.operator, "y": problem.y, "sigma_y": problem.sigma_y}

    def run(n: int) -> Tensor:
        x = problem.start(n, sigmas)
        return final(particle_filter(problem.prior, x, sigmas, **options))[::2]

    return in_parts(2 * n, PARTICLES, run)


METHODS: dict[str, Callable[[Problem, int], Tensor]] = {
    "exact": lambda problem, n: problem.posterior.sample(n),
    "replace": guided(replace),
    "dps": guided(dps),
    "pigdm": guided(pigdm_score),
    "algorithm2": overwritten,
    "particle_filter": filtered,
}


def errors(problem: Problem, x: Tensor) -> list[float]:
    """Return the errors of mean, standard deviation, covariance and modes, and the bias."""
    exact = problem.posterior
    mean, cov, x = exact.prior.mean, exact.prior.dense, x.double()
    deviation = cov.diag().sqrt()
    ratio = x.std(0) / deviation
    least, most = ratio.min().item(), ratio.max().item()
    shift = ((x.mean(0) - mean) / deviation).abs().max().item()
    difference = (x.T.cov().view_as(cov) - cov) / (deviation[:, None] * deviation)
    modes = 0.0
    if isinstance(exact, Mixture):
        modes = (exact.responsibilities(x, 0.0).mean(0) - exact.weights).abs().max().item()
    bias = max(shift, 1 - least, most - 1, modes)
    return [shift, least, most, difference.abs().max().item(), modes, bias]
