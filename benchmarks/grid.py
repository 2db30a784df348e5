"""Exact posteriors in two dimensions by quadrature, for measurements without a closed form."""

from collections.abc import Callable

import torch
from torch import Tensor

from scorefield import Mixture, Prior
from scorefield.score import from_energy

SIDE = 601
"""Points of the grid along each axis."""
REACH = 7.0
"""Half its width, in standard deviations of the prior."""


class GridPosterior:
    """p(x | y) ∝ p(x)·p(y | x) of a mixture's x in two dimensions, from sums over a grid.

    `log_likelihood` returns log p(y | x) up to a constant, a number for each row of x. Sums of a
    smooth density over an even grid converge faster than any power of its step. Samples are points
    of the grid, spread over their cells.
    """

    def __init__(self, mixture: Mixture, log_likelihood: Callable[[Tensor], Tensor]) -> None:
        mean, cov = mixture.prior.mean.double(), mixture.prior.dense.double()
        half = REACH * cov.diagonal().sqrt()
        unit = torch.linspace(-1, 1, SIDE, dtype=torch.float64)
        self.points = mean + half * torch.cartesian_prod(unit, unit)
        self.step = 2 * half / (SIDE - 1)
        self._log_prob = lambda x: mixture.log_prob(x, 0.0) + log_likelihood(x)
        self.mass = self._log_prob(self.points).softmax(0)
        mean = self.mass @ self.points
        gap = self.points - mean
        self.prior = Prior(mean, (self.mass[:, None] * gap).T @ gap)
        self.responsibilities = mixture.responsibilities
        self.weights = self.mass @ mixture.responsibilities(self.points, 0.0)

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Return the score at σ = 0."""
        return from_energy(lambda x, sigma: -self._log_prob(x))(x, sigma)

    def sample(self, n: int) -> Tensor:
        """Return n samples."""
        picks = torch.multinomial(self.mass, n, replacement=True)
        return self.points[picks] + (torch.rand(n, 2, dtype=torch.float64) - 0.5) * self.step
