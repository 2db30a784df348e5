"""Toy data: points in the plane or in a subspace, and signals.

`Dataset.oracle` is their distribution, if its score has a closed form.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Generator, Tensor

from .._ops import check_count
from ..oracles import Box, Gaussian, GaussianMixture, Mixture, Oracle
from .in_memory import simulations
from .sources import Arrays, Dataset

PointSampler: TypeAlias = Callable[[int, Generator], Tensor]

MAX_TOY_NUMBERS = 2**28
"""Numbers that samples, or a covariance, may have: 1 GiB."""


def mixture(*, n: int = 10_000, seed: int = 0) -> Dataset:
    """Sample eight equal Gaussians of standard deviation 0.3 on a circle of radius 4."""
    angle = torch.arange(8) * (math.pi / 4)
    means = 4 * torch.stack([angle.cos(), angle.sin()], 1)
    return _sample_oracle("mixture", GaussianMixture(means, 0.3**2, torch.ones(8) / 8), n, seed)


def checkerboard(*, n: int = 10_000, seed: int = 0) -> Dataset:
    """Sample uniformly on the black squares of a 4 × 4 board, from −4 to 4."""
    corners = [(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0]
    lows = [2.0 * torch.tensor(corner) - 4 for corner in corners]
    squares = Mixture([Box(low, low + 2) for low in lows], torch.ones(8) / 8)
    return _sample_oracle("checkerboard", squares, n, seed)


def subspace(*, size: int = 16, rank: int = 2, n: int = 10_000, seed: int = 0) -> Dataset:
    """Sample N(0, FFᵀ) in a subspace of `rank` of `size` dimensions; it has no score without noise.

    F has orthonormal columns, which do not depend on the seed.
    """
    if not 1 <= rank < size:
        raise ValueError(f"rank={rank}, size={size}: give a rank from 1 to size − 1")
    _check_numbers("size × rank", size * rank)
    z = torch.randn(size, rank, generator=Generator().manual_seed(0), dtype=torch.float64)
    factor = torch.linalg.qr(z).Q.float()
    return _sample_oracle("subspace", Gaussian(torch.zeros(size), 0.0, factor), n, seed)


def signals(*, length: int = 64, n: int = 10_000, seed: int = 0) -> Dataset:
    """Sample an autoregressive process x_t = a·x_{t−1} + b·x_{t−2} + e of variance 1.

    It oscillates with a period of about 16 steps and a drifting phase: the roots of its polynomial
    are 0.95·exp(±2πi/16). Its covariance at lag k is ρ_k = a·ρ_{k−1} + b·ρ_{k−2}.
    """
    check_count(length=length)
    _check_numbers("length × length, the covariance,", length**2)
    a, b = 2 * 0.95 * math.cos(2 * math.pi / 16), -(0.95**2)
    rho = [1.0, a / (1 - b)]
    while len(rho) < length:
        rho.append(a * rho[-1] + b * rho[-2])
    t = torch.arange(length)
    cov = torch.tensor(rho, dtype=torch.float64)[(t[:, None] - t).abs()].float()
    return _sample_oracle("signals", Gaussian(torch.zeros(1, length), cov), n, seed)


def rings(*, n: int = 10_000, seed: int = 0) -> Dataset:
    """Sample three circles of radius 1, 2 and 3, equally likely, with noise of σ = 0.08."""

    def points(count: int, generator: Generator) -> Tensor:
        radius = torch.randint(1, 4, (count, 1), generator=generator)
        angle = 2 * math.pi * torch.rand(count, generator=generator)
        noise = 0.08 * torch.randn(count, 2, generator=generator)
        return radius * torch.stack([angle.cos(), angle.sin()], 1) + noise

    return _sample_toy("rings", points, n, seed)


def spirals(*, n: int = 10_000, seed: int = 0) -> Dataset:
    """Sample two arms r = θ/π, θ from π/2 to 3π, evenly in length, with noise of σ = 0.08."""

    def points(count: int, generator: Generator) -> Tensor:
        # the length of an arm is about ∫ r dθ, so θ² is uniform
        low, high = (math.pi / 2) ** 2, (3 * math.pi) ** 2
        angle = (low + (high - low) * torch.rand(count, generator=generator)).sqrt()
        sign = 2 * torch.randint(2, (count, 1), generator=generator) - 1
        noise = 0.08 * torch.randn(count, 2, generator=generator)
        arm = (angle / math.pi)[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
        return sign * arm + noise

    return _sample_toy("spirals", points, n, seed)


def two_moons(*, n: int = 20_000, seed: int = 0) -> Dataset:
    """Simulate two moons, whose posterior is two crescents (Greenberg et al. 2019, appendix A.1).

    θ ~ U(−1, 1)², and x = (r·cos a + ¼ − |θ₁ + θ₂|/√2, r·sin a + (θ₂ − θ₁)/√2) with a uniform on
    [−π/2, π/2] and r ~ N(0.1, 0.01²). A tenth is held out.
    """
    _check_numbers("n × the size of a simulation", 4 * n)
    generator = Generator().manual_seed(seed)
    theta = 2 * torch.rand(n, 2, generator=generator) - 1
    x = simulate_two_moons(theta, generator)
    return simulations({"theta": theta}, {"x": x}, name="two-moons")


def simulate_two_moons(theta: Tensor, generator: Generator) -> Tensor:
    """Return an observation for each row of parameters."""
    angle = math.pi * (torch.rand(len(theta), generator=generator) - 0.5)
    radius = 0.1 + 0.01 * torch.randn(len(theta), generator=generator)
    first = radius * angle.cos() + 0.25 - theta.sum(1).abs() / math.sqrt(2)
    second = radius * angle.sin() + theta.diff(dim=1)[:, 0] / math.sqrt(2)
    return torch.stack([first, second], 1)


def _sample_oracle(name: str, oracle: Oracle, n: int, seed: int) -> Dataset:
    def points(count: int, generator: Generator) -> Tensor:
        return oracle.sample(count, noise=lambda x: torch.randn(x.shape, generator=generator))

    return _sample_toy(name, points, n, seed, oracle)


def _sample_toy(
    name: str, points: PointSampler, n: int, seed: int, oracle: Oracle | None = None
) -> Dataset:
    """Sample n points to train on, and a tenth as many, at least one, to hold out."""
    check_count(n=n)
    _check_numbers("n × the size of a sample", n * (oracle.shape.numel() if oracle else 2))
    generator = Generator().manual_seed(seed)
    train, test = points(n, generator), points(max(1, n // 10), generator)
    return Dataset(name, Arrays(train), Arrays(test), oracle=oracle)


def _check_numbers(what: str, count: int) -> None:
    """Refuse more numbers than `MAX_TOY_NUMBERS` before they are allocated."""
    if count > MAX_TOY_NUMBERS:
        raise ValueError(
            f"{what} is {count:.3g} numbers, {4 * count / 2**30:.3g} GiB: give less, to stay "
            f"within {4 * MAX_TOY_NUMBERS / 2**30:.3g} GiB"
        )
