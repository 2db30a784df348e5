"""Toys: points of a plane, of a plane in a larger space, and signals; most with a known law.

Where the law is an oracle, `Dataset.oracle` is it: the score that a model should learn.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..oracles import Box, Gaussian, GaussianMixture, Mixture, Oracle
from .dataset import Dataset
from .source import Arrays


def mixture(*, n: int = 10_000, seed: int = 0) -> Dataset:
    """Eight Gaussians of standard deviation 0.3 on a circle of radius 4, of equal weight."""
    angle = torch.arange(8) * (math.pi / 4)
    means = 4 * torch.stack([angle.cos(), angle.sin()], 1)
    return _of("mixture", GaussianMixture(means, 0.3**2, torch.ones(8)), n, seed)


def checkerboard(*, n: int = 10_000, seed: int = 0) -> Dataset:
    """Uniform on the black squares of a 4 × 4 board, from −4 to 4."""
    corners = [(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0]
    lows = [2.0 * torch.tensor(corner) - 4 for corner in corners]
    return _of("checkerboard", Mixture([Box(a, a + 2) for a in lows], torch.ones(8)), n, seed)


def subspace(*, size: int = 16, rank: int = 2, n: int = 10_000, seed: int = 0) -> Dataset:
    """A Gaussian N(0, FFᵀ) that fills a subspace: without noise it has no score at all.

    Args:
        size: of the space.
        rank: of the subspace; F has orthonormal columns.
        n: how many samples to train on; a tenth as many are held out.
        seed: of the samples, not of F.
    """
    if not 1 <= rank < size:
        raise ValueError(f"rank={rank}, size={size}: a subspace is of a rank from 1 to size − 1")
    drawn = torch.randn(size, rank, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    factor = torch.linalg.qr(drawn).Q.float()
    return _of("subspace", Gaussian(torch.zeros(size), 0.0, factor), n, seed)


def signals(*, length: int = 64, n: int = 10_000, seed: int = 0) -> Dataset:
    """An autoregressive process x_t = a·x_{t−1} + b·x_{t−2} + e of variance 1, in one channel.

    Waves of about 16 samples that lose their phase: the roots are 0.95·exp(±2πi/16). A Gaussian,
    whose covariance ρ_k = a·ρ_{k−1} + b·ρ_{k−2} depends on the lag k alone.
    """
    if length < 1:
        raise ValueError(f"length={length}: a signal has at least 1 sample")
    a, b = 2 * 0.95 * math.cos(2 * math.pi / 16), -(0.95**2)
    rho = [1.0, a / (1 - b)]
    while len(rho) < length:
        rho.append(a * rho[-1] + b * rho[-2])
    place = torch.arange(length)
    lags = (place[:, None] - place).abs()
    cov = torch.tensor(rho, dtype=torch.float64)[lags].float()
    return _of("signals", Gaussian(torch.zeros(1, length), cov), n, seed)


def rings(*, n: int = 10_000, seed: int = 0) -> Dataset:
    """Three circles of radius 1, 2 and 3, each as likely, blurred by a standard deviation 0.08."""

    def draw(count: int, noise: Callable[..., Tensor]) -> Tensor:
        radius = 1 + (3 * _uniform(noise(count))).floor()
        angle = 2 * math.pi * _uniform(noise(count))
        return radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1) + 0.08 * noise(count, 2)

    return _drawn("rings", draw, n, seed)


def spirals(*, n: int = 10_000, seed: int = 0) -> Dataset:
    """Two arms r = θ/π for θ from π/2 to 3π, even in length, blurred by 0.08."""

    def draw(count: int, noise: Callable[..., Tensor]) -> Tensor:
        # ∫ r dθ is close to the length, and even in θ²
        share = _uniform(noise(count))
        angle = ((math.pi / 2) ** 2 + share * ((3 * math.pi) ** 2 - (math.pi / 2) ** 2)).sqrt()
        arm = torch.where(noise(count) > 0, 1.0, -1.0) * angle / math.pi
        return arm[:, None] * torch.stack([angle.cos(), angle.sin()], 1) + 0.08 * noise(count, 2)

    return _drawn("spirals", draw, n, seed)


def _uniform(z: Tensor) -> Tensor:
    # Φ of a large z rounds to 1, where ⌊3u⌋ would be a fourth ring
    u: Tensor = torch.special.ndtr(z)
    return u.clamp(max=1 - 2.0**-24)


def _of(name: str, oracle: Oracle, n: int, seed: int) -> Dataset:
    def draw(count: int, noise: Callable[..., Tensor]) -> Tensor:
        return oracle.sample(count, noise=lambda x: noise(*x.shape))

    return _drawn(name, draw, n, seed, oracle)


def _drawn(
    name: str,
    draw: Callable[[int, Callable[..., Tensor]], Tensor],
    n: int,
    seed: int,
    oracle: Oracle | None = None,
) -> Dataset:
    """n samples to train on, and a tenth as many (at least one) held out."""
    if n < 1:
        raise ValueError(f"n={n}: draw at least 1 sample")
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    train, test = draw(n, noise), draw(max(1, n // 10), noise)
    return Dataset(name, Arrays(train), Arrays(test), oracle=oracle)
