"""Posteriors that the preset `posterior` learns, compared with the exact ones.

A study of minutes trains it on two simulators; a fast test checks the exact posteriors.
"""

import math
import time
from typing import NamedTuple

import pytest
import torch
from torch.quasirandom import SobolEngine
from torch.special import ndtri

from scorefield import load, make_plan
from scorefield.data import simulations
from scorefield.data.toys import simulate_two_moons
from scorefield.inverse import compose
from scorefield.runs import start
from scorefield.runs.config import override
from scorefield.runs.presets import PRESETS
from scorefield.samplers import final

OBSERVATIONS = 500
SIMULATIONS = 200_000
"""A tenth is held out."""
SAMPLES = 259
"""Of each posterior: the 13th and the 247th enclose 0.9 of a distribution in mean."""
NODES = 2**13
"""Points of an exact posterior, over which its moments and masses are sums."""


class TwoMoons:
    """θ ~ U(−1, 1)², x = p + (¼ − |θ₁ + θ₂|/√2, (θ₂ − θ₁)/√2), p on half a ring.

    θ ↦ (θ₁ + θ₂, θ₂ − θ₁)/√2 is a rotation, whose first coordinate is folded at 0. So p(θ | x) is
    the density of p = x − (…), for either side of the fold and within the square.
    """

    names, uniforms = ("θ₁", "θ₂"), 3

    def simulate(self, n, generator):
        theta = 2 * torch.rand(n, 2, generator=generator) - 1
        return theta, simulate_two_moons(theta, generator)

    def posterior(self, x, z):
        """Map numbers that are uniform on [0, 1] to θ, with a weight for each."""
        angle, radius = math.pi * (z[:, 0] - 0.5), 0.1 + 0.01 * ndtri(z[:, 1])
        u = 0.25 + radius * angle.cos() - x[:, :1]
        v = x[:, 1:] - radius * angle.sin()
        folded = torch.where(z[:, 2] < 0.5, u, -u)
        theta = torch.stack([folded - v, folded + v], 2) / math.sqrt(2)
        allowed = ((u >= 0) & (theta.abs() <= 1).all(2)).double()
        return theta, allowed / allowed.sum(1, keepdim=True)

    def log_density(self, theta, x):
        """Return log p(θ | x), for θ (rows, n, 2), without its constant."""
        first = x[:, :1] - 0.25 + theta.sum(2).abs() / math.sqrt(2)
        second = x[:, 1:] - theta.diff(dim=2)[..., 0] / math.sqrt(2)
        radius = torch.hypot(first, second)
        log_density = -0.5 * ((radius - 0.1) / 0.01) ** 2 - radius.log()
        return log_density.masked_fill((first < 0) | (theta.abs() > 1).any(2), -math.inf)


class LinearGaussian:
    """θ ~ N(m, diag(d²)), u = (θ − m)/d, x = Au + 0.3z.

    p(u | x₁ … x_n) has precision I + nAᵀA/0.09, and its mean is the inverse times Aᵀ·Σxᵢ/0.09.
    """

    names, uniforms = ("θ₁", "θ₂", "θ₃", "θ₄", "θ₅"), 5
    mean = torch.tensor([10.0, 0.0, -3.0, 1.0, 0.0]).double()
    scale = torch.tensor([5.0, 1.0, 0.01, 2.0, 100.0]).double()
    matrix = torch.randn(5, 5, generator=torch.Generator().manual_seed(0)).double() / 5**0.5

    def __init__(self, n=1):
        cov = torch.linalg.inv(torch.eye(5) + n * self.matrix.T @ self.matrix / 0.09)
        self.root, self.gain = torch.linalg.cholesky(cov), cov @ self.matrix.T / 0.09

    def simulate(self, n, generator):
        u, z = torch.randn(2, n, 5, generator=generator).double()
        return (self.mean + self.scale * u).float(), (u @ self.matrix.T + 0.3 * z).float()

    def posterior(self, x, z):
        """Map numbers that are uniform on [0, 1] to θ, with a weight for each."""
        u = (x @ self.gain.T)[:, None] + ndtri(z) @ self.root.T
        return self.mean + self.scale * u, torch.full(u.shape[:2], 1 / len(z)).double()

    def log_density(self, theta, x):
        """Return log p(θ | x), for θ (rows, n, 5), without its constant."""
        u = (theta - self.mean) / self.scale - (x @ self.gain.T)[:, None]
        return -0.5 * (u @ torch.linalg.inv(self.root).T).square().sum(2)


SIMULATORS = pytest.mark.parametrize(
    "simulator", [TwoMoons(), LinearGaussian()], ids=["two moons", "linear-Gaussian"]
)


def _exact(simulator, x, n):
    """Return n points of each exact posterior and their weights."""
    z = SobolEngine(simulator.uniforms, scramble=True, seed=0).draw(n, dtype=torch.float64)
    return simulator.posterior(x, z.clamp(1e-9, 1 - 1e-9))


class Errors(NamedTuple):
    """Figures of each observation, in mean over the parameters except for `densest`.

    The masses are of the exact posterior, so that their mean is the coverage, without the noise
    of counting how many of the true θ are inside.
    """

    mean: torch.Tensor  # |mean − exact mean|, in exact standard deviations
    std: torch.Tensor  # |standard deviation/exact one − 1|
    central: torch.Tensor  # exact mass between the samples' 5 % and 95 % quantiles
    densest: torch.Tensor  # exact mass where the exact density is above the samples' 10 % quantile

    def __str__(self):
        errors = [f"{x.mean():.3f}" for x in self[:2]]
        masses = [f"{x.mean():.3f} ± {1.96 * x.std() / len(x) ** 0.5:.3f}" for x in self[2:]]
        return " | ".join(errors + masses)


def _compare(simulator, x, theta):
    """Compare samples (n, parameters) of the posterior of x with the exact one."""
    x, theta = x.double()[None], theta.double()[None]
    nodes, weights = _exact(simulator, x, NODES)
    rank = (SAMPLES + 1) // 20

    def integral(values):
        return (weights[..., None] * values).sum(1)

    mean = integral(nodes)
    std = integral((nodes - mean) ** 2).sqrt()
    ordered = theta.sort(1).values
    inside = (nodes >= ordered[:, rank - 1]) & (nodes <= ordered[:, -rank])
    threshold = simulator.log_density(theta, x).sort(1).values[:, 2 * rank - 1, None]
    dense = simulator.log_density(nodes, x) >= threshold
    figures = (theta.mean(1) - mean).abs() / std, (theta.std(1) / std - 1).abs(), integral(inside)
    return torch.stack([*(f.mean() for f in figures), integral(dense[..., None]).mean()])


def compare(simulator, x, theta):
    """Return the errors of samples (observations, n, parameters)."""
    rows = [_compare(simulator, *pair) for pair in zip(x, theta, strict=True)]
    return Errors(*torch.stack(rows, 1))


@SIMULATORS
def test_simulated_parameters_are_samples_of_the_exact_posterior(simulator):
    """The exact mass below each parameter, and that of all denser θ, are uniform on [0, 1].

    With 500 observations sup |empirical − uniform| is above 1.95/√500 once in 1,000 times.
    """
    theta, x = simulator.simulate(OBSERVATIONS, torch.Generator().manual_seed(3))
    theta, x = theta.double()[:, None], x.double()
    nodes, weights = _exact(simulator, x, 2**10)
    density = simulator.log_density(nodes, x)
    assert (density[weights > 0] > -40).all()  # the log-density of a Gaussian at nine deviations
    denser = density > simulator.log_density(theta, x)
    masses = torch.cat([nodes < theta, denser[..., None]], 2) * weights[..., None]
    uniform = (torch.arange(OBSERVATIONS)[:, None] + 0.5) / OBSERVATIONS
    assert (masses.sum(1).sort(0).values - uniform).abs().max() < 1.95 / OBSERVATIONS**0.5


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@SIMULATORS
def test_learned_posteriors_are_close_to_the_exact_ones(simulator, seed, tmp_path):
    """These seeds judge; the numbers of the preset are to be chosen on others."""
    theta, x = simulator.simulate(SIMULATIONS, torch.Generator().manual_seed(seed))
    data, began = simulations({"theta": theta}, {"x": x}), time.process_time()
    # with this number of pairs nothing is memorised, and the last weights are the best
    experiment = override(PRESETS["posterior"], [f"seed={seed}", "keeping.best=last"])
    list(start(experiment, tmp_path / "run", data=data))
    seconds, model = time.process_time() - began, load(tmp_path / "run")
    _, x = simulator.simulate(OBSERVATIONS, torch.Generator().manual_seed(100 + seed))
    parts = x.repeat_interleave(SAMPLES, 0).split(50 * SAMPLES)
    samples = torch.cat([_sample(model, model.given(part), len(part)) for part in parts])
    errors = compare(simulator, x, data.table.numbers(samples).view(len(x), SAMPLES, -1))
    print(f"\n{seed=}: {experiment.training.steps} steps, {seconds:.0f} processor seconds")
    print(f"posterior | {errors}")
    if isinstance(simulator, LinearGaussian):
        print(f"of five observations | {_compose(model, data.table, seed)}")
    assert errors.mean.mean() <= 0.05
    assert errors.std.mean() <= 0.05
    assert 0.88 <= errors.central.mean() <= 0.92
    assert 0.88 <= errors.densest.mean() <= 0.92


@torch.no_grad()
def _sample(model, score, n):
    """Start the n/SAMPLES sets of chains from the same quasi-random points, which spread evenly.

    The moments of independent samples would be off by 0.05 by chance.
    """
    z = SobolEngine(math.prod(model.shape), scramble=True, seed=1).draw(SAMPLES)
    z = ndtri(z.clamp(1e-6, 1 - 1e-6)).repeat(n // SAMPLES, 1)
    plan = make_plan(model, steps=PRESETS["posterior"].sampling.steps)
    return final(plan.run(score, plan.start(model.eval(), n, lambda x: z), torch.randn_like))


def _compose(model, table, seed, count=5, observations=5):
    """Return the errors of posteriors of several observations of the same θ."""
    u, *z = torch.randn(1 + count, observations, 5, generator=torch.Generator().manual_seed(seed))
    x = u @ LinearGaussian.matrix.T.float() + 0.3 * torch.stack(z)
    rows = x.repeat_interleave(SAMPLES, 1)
    samples = _sample(model, compose([model.given(one) for one in rows], model), rows.shape[1])
    theta = table.numbers(samples).view(observations, SAMPLES, -1)
    return compare(LinearGaussian(count), x.sum(0), theta)
