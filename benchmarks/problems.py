"""Problems of the benchmark `posteriors`: distributions, measurements and exact posteriors."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scorefield import Gaussian, Mixture, seeded
from scorefield.inverse import LinearOperator, Operator, mask, matrix, nonlinear
from scorefield.restore import METHODS

from .grid import GridPosterior

EXACT = "exact"
"""Name of samples of the exact posterior, next to the methods."""

Distribution = Gaussian | Mixture


class Problem(NamedTuple):
    """A distribution, a measurement of it, and the exact posterior of the free coordinates."""

    name: str
    prior: Distribution
    operator: Operator
    y: Tensor
    sigma_y: float
    free: Tensor
    posterior: Distribution | GridPosterior
    peak: float | None = None

    @property
    def noiseless(self) -> bool:
        """True if y is Ax."""
        return self.sigma_y == 0 and self.peak is None

    def allows(self, method: str) -> bool:
        """Return True if a method takes this operator and this noise."""
        if method == EXACT:
            return True
        own = METHODS[method]
        if self.peak is not None and not own.counts:
            return False
        linear = isinstance(self.operator, LinearOperator)
        return (linear or own.any_operator) and (self.noiseless or not own.noiseless)

    def measure(self, x: Tensor) -> Tensor:
        """Return y with its noise."""
        y = self.operator(x)
        if self.peak is not None:
            return torch.poisson(self.peak * y) / self.peak
        return y + self.sigma_y * torch.randn_like(y)

    def log_likelihood(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log p(y | x) up to a constant, 0 for a noiseless y."""
        clean = self.operator(x)
        if self.peak is not None:
            return self.peak * (y * clean.log() - clean).sum(1)
        if self.noiseless:
            return torch.zeros_like(clean[:, 0])
        return -0.5 * ((y - clean) / self.sigma_y).square().sum(1)

    @property
    def sigma_max(self) -> float:
        """σ at which only the mean and the covariance are left of the distribution."""
        return 6 * self.prior.prior.dense.diagonal().max().sqrt().item()


def pixels() -> Tensor:
    """Return the places of 8 × 8 pixels."""
    steps = torch.arange(8, dtype=torch.float64)
    return torch.cartesian_prod(steps, steps)


def field_covariance(length: float) -> Tensor:
    """Return the covariance exp(−distance/length) of 8 × 8 fields."""
    return (-(pixels()[:, None] - pixels()).norm(dim=2) / length).exp()


def distributions() -> dict[str, Distribution]:
    def double(*values: Any) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)

    places = pixels()
    field = field_covariance(1.5)
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


def problems(draw: int = 3) -> Iterator[Problem]:
    """Yield the problems; x, from which y comes, and the noise of y are of this draw."""
    for name, prior in distributions().items():
        size = prior.shape.numel()
        x = prior.sample(1, noise=seeded(draw))
        prior32 = in_float32(prior)
        visible = torch.arange(size) % 8 < (1 if size == 2 else 2)
        y, free = mask(visible)(x), torch.arange(size)[~visible]
        exact = change_parts(
            prior.posterior(torch.eye(size).double()[visible], y[0, visible], 0.0),
            lambda p, free=free: Gaussian(p.prior.mean[free], p.prior.dense[free][:, free]),
        )
        yield Problem(f"{name} mask", prior32, mask(visible), y.float(), 0.0, free, exact)
        rows = seeded(5)(torch.empty(1 if size == 2 else 4, size).double()) / size**0.5
        y = x @ rows.T + 0.2 * seeded(draw + 3)(torch.empty(1, len(rows)).double())
        exact, free = prior.posterior(rows, y[0], 0.2), torch.arange(size)
        yield Problem(f"{name} matrix", prior32, matrix(rows), y.float(), 0.2, free, exact)
        if name == "mix2":
            yield from grid_problems(prior, prior32, x)


def grid_problems(prior: Mixture, prior32: Mixture, x: Tensor) -> Iterator[Problem]:
    """Yield measurements of x by its distance from 0, with normal noise and by counts."""
    radius = nonlinear(lambda x: x.norm(dim=1, keepdim=True))
    for name, sigma_y, peak in (("radius", 0.2, None), ("counts", 0.0, 20.0)):
        with torch.random.fork_rng():
            torch.manual_seed(7)
            problem = Problem(
                f"mix2 {name}", prior, radius, x, sigma_y, torch.arange(2), prior, peak
            )
            y = problem.measure(x)
        exact = GridPosterior(prior, lambda x, y=y, problem=problem: problem.log_likelihood(x, y))
        yield problem._replace(prior=prior32, y=y.float(), posterior=exact)


def in_float32(prior: Distribution) -> Distribution:
    return change_parts(prior, lambda p: Gaussian(p.prior.mean.float(), p.prior.cov.float()))


def change_parts(prior: Distribution, change: Callable[[Gaussian], Gaussian]) -> Distribution:
    """Return a function of a Gaussian, or a mixture of functions of its Gaussians."""
    if isinstance(prior, Gaussian):
        return change(prior)
    parts = [change(part) for part in prior.components]
    return Mixture(parts, prior.weights.to(parts[0].prior.mean))
