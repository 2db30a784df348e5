"""Noise: grids of σ for samplers, distributions of σ for training, and sources of randomness.

    q_σ is the distribution of x + σz,  x ~ p,  z ~ N(0, I)

A grid is a positive, strictly decreasing tensor. A distribution of σ is a function of standard
normal numbers, with a density. A source of randomness has the signature of `torch.randn_like`.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.special import ndtr

from ._ops import Noise, Samples, Sigma, box_muller, match, random_words, widest


def perturb(x: Samples, sigma: Sigma, z: Samples) -> Samples:
    """Return x + σz."""
    return x + match(sigma, x) * z


# ── Grids ────────────────────────────────────────────────────────────────────────────────────────


def geometric(
    sigma_max: float, sigma_min: float, levels: int, *, dtype: torch.dtype | None = None
) -> Float[Tensor, "levels"]:
    """Return L levels σᵢ = σ_max·(σ_min/σ_max)^((i − 1)/(L − 1)), of constant ratio.

    Song & Ermon 2019, §4.1, with `geometric(1.0, 0.01, 10)`.
    """
    return _grid(sigma_max, sigma_min, levels, dtype, torch.log, torch.exp)


def karras(
    sigma_max: float,
    sigma_min: float,
    levels: int,
    *,
    rho: float = 7.0,
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "levels"]:
    """Return L levels evenly spaced in σ^(1/ρ) (Karras et al. 2022, eq. 5).

    σᵢ = (σ_max^(1/ρ) + u·(σ_min^(1/ρ) − σ_max^(1/ρ)))^ρ with u = (i − 1)/(L − 1).
    """
    if not 0 < rho < math.inf:
        raise ValueError(f"rho={rho}: give a finite number above 0, 7 as in the paper")
    return _grid(sigma_max, sigma_min, levels, dtype, lambda s: s ** (1 / rho), lambda t: t**rho)


def linear(
    sigma_max: float, sigma_min: float, levels: int, *, dtype: torch.dtype | None = None
) -> Float[Tensor, "levels"]:
    """Return L evenly spaced levels σᵢ = σ_max + (σ_min − σ_max)·(i − 1)/(L − 1)."""
    return _grid(sigma_max, sigma_min, levels, dtype, torch.clone, torch.clone)


def _grid(
    sigma_max: float,
    sigma_min: float,
    levels: int,
    dtype: torch.dtype | None,
    warp: Callable[[Tensor], Tensor],
    unwarp: Callable[[Tensor], Tensor],
) -> Tensor:
    """Return σᵢ evenly spaced in warp(σ), with exact ends."""
    check_ends(sigma_max, sigma_min)
    if levels < 2 or levels % 1:
        raise ValueError(f"levels={levels}: give a whole number, 2 or more for the two ends")
    ends = torch.tensor([sigma_max, sigma_min], dtype=torch.float64)
    first, last = warp(ends)
    grid = unwarp(torch.linspace(first, last, levels, dtype=torch.float64))
    grid[[0, -1]] = ends
    grid = grid.to(dtype or torch.get_default_dtype())
    if not is_grid(grid):
        raise ValueError(
            f"levels={levels} do not differ in {grid.dtype}: use fewer, or a wider dtype"
        )
    return grid


def check_ends(sigma_max: float, sigma_min: float) -> None:
    """Raise unless the noise levels are finite, above 0 and in decreasing order."""
    if not 0 < sigma_min < sigma_max < math.inf:
        ends = f"sigma_max={sigma_max}, sigma_min={sigma_min}"
        raise ValueError(f"{ends}: give finite noise levels, sigma_max > sigma_min > 0")


def is_grid(sigmas: Tensor) -> bool:
    """Return True if the levels are finite, above 0 and strictly decreasing."""
    return all(high > low for high, low in pairwise([math.inf, *sigmas.tolist(), 0.0]))


def check_levels(sigmas: object) -> None:
    """Raise unless sigmas is a grid."""
    if not isinstance(sigmas, Tensor) or sigmas.ndim != 1 or not len(sigmas) or not is_grid(sigmas):
        raise ValueError(
            "sigmas must be a 1-D tensor of finite levels above 0 that strictly decrease, such as "
            "geometric(1.0, 0.01, 10); samplers step to 0 with denoise=True"
        )


# ── Distributions of σ in training ───────────────────────────────────────────────────────────────


@dataclass(frozen=True, eq=False)
class Discrete:
    """The levels of a grid with equal probability (Song & Ermon 2019, eq. 6)."""

    sigmas: Float[Tensor, "levels"]
    _copies: dict[Any, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_levels(self.sigmas)

    def like(self, x: Tensor) -> Float[Tensor, "levels"]:
        """Return the levels in the type of x, on its device, which they are copied to only once."""
        if x.device == self.sigmas.device:
            return self.sigmas.to(x)
        key = x.device, x.dtype
        if key not in self._copies:
            with torch.inference_mode(False):  # the copy is for later calls too
                self._copies[key] = self.sigmas.to(x)
        return self._copies[key]

    def __call__(self, z: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """Map standard normal numbers to σ."""
        index = (ndtr(z) * len(self.sigmas)).long()
        return self.like(z)[index.clamp(max=len(self.sigmas) - 1)]

    def index(self, sigma: Float[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
        """Return the index of the level nearest to each σ, in log σ."""
        return (sigma[..., None].log() - self.like(sigma).log()).abs().argmin(-1)

    def density(self, sigma: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """Return p(σ) where each level stands for the interval around it."""
        if len(self.sigmas) == 1:
            raise ValueError("sigmas is a single level, which has no density: give at least two")
        width = -torch.gradient(self.like(sigma))[0]
        return 1 / (len(self.sigmas) * width[self.index(sigma)])


@dataclass(frozen=True)
class LogUniform:
    """log σ uniform between two ends (Song et al. 2021, VE)."""

    sigma_max: float
    sigma_min: float

    def __post_init__(self) -> None:
        check_ends(self.sigma_max, self.sigma_min)

    def __call__(self, z: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """Map standard normal numbers to σ."""
        sigma: Tensor = self.sigma_min * (self.sigma_max / self.sigma_min) ** ndtr(z)
        return sigma

    def density(self, sigma: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """Return p(σ) = 1/(σ log(σ_max/σ_min))."""
        return 1 / (sigma * math.log(self.sigma_max / self.sigma_min))


@dataclass(frozen=True)
class LogNormal:
    """log σ ~ N(mean, std²) (Karras et al. 2022, table 1, for data in [−1, 1])."""

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        if not math.isfinite(self.mean) or not 0 < self.std < math.inf:
            raise ValueError(
                f"mean={self.mean}, std={self.std}: give the mean of log σ, and std > 0"
            )

    def __call__(self, z: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """Map standard normal numbers to σ."""
        return (self.mean + self.std * z).exp()

    def density(self, sigma: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """Return p(σ) = N(log σ | mean, std²)/σ."""
        z = (sigma.log() - self.mean) / self.std
        return (-0.5 * z.square()).exp() / (sigma * self.std * math.sqrt(2 * math.pi))


# ── Sources of randomness ────────────────────────────────────────────────────────────────────────


def uniform_like(
    x: Float[Tensor, "*shape"], *, noise: Noise = torch.randn_like
) -> Float[Tensor, "*shape"]:
    """Return Φ(z), uniform on [0, 1]: the start of the official annealed Langevin code."""
    u: Tensor = ndtr(noise(x))
    return u


def check_seed(seed: int) -> None:
    """Raise unless the seed is a whole number of 64 bits."""
    whole = isinstance(seed, (int, np.integer)) and not isinstance(seed, bool)
    if not whole or not 0 <= seed < 2**64:
        raise ValueError(f"seed={seed!r}: give a whole number from 0 to 2^64 - 1")


def seeded(seed: int, *, first: int = 0, step: int = 0) -> Noise:
    """Return noise that is a function of the seed, the sample, the step and the call's number.

    Row i is sample `first + i`, in training the row of the global batch of a `step`. Its random
    words are the same in any batch, on any device and in any process. Create a new one for each run
    of a sampler.
    """
    check_seed(seed)
    if not (0 <= first < 2**32 and 0 <= step < 2**32):
        raise ValueError(f"first={first}, step={step}: give whole numbers from 0 to 2^32 - 1")
    calls = count()

    return lambda x: _normal_like(x, seed, first, next(calls), step)


def _normal_like(x: Tensor, seed: int, first: int, use: int, step: int) -> Tensor:
    size, rows = x[0].numel() if len(x) else 0, range(first, first + len(x))
    words = random_words(seed, rows, -(-size // 4), use, step, x.device)
    dtype = x.dtype if x.dtype == torch.float64 else torch.float32
    return box_muller(words, dtype).flatten(1)[:, :size].reshape(x.shape).to(x.dtype)


BROWNIAN_OCTAVES = 32  # a Brownian path is for σ from 2⁻³² to 2³²
BROWNIAN_HALVINGS = 24  # and straight between points 2⁻¹⁸ octaves apart


def brownian(seed: int, sigmas: Float[Tensor, "levels"], *, first: int = 0) -> Noise:
    """Return the noise of one path at any grid, for samplers that add noise once a step.

    Reverse diffusion drives x/σ² by a Brownian motion B(1/σ²). Call i returns its increment from
    level i to i + 1 over its standard deviation; row and seed are as in `seeded`. The path is a
    virtual tree over log σ (Li et al. 2020).
    """
    check_seed(seed)
    check_levels(sigmas)
    levels = iter(sigmas.tolist())
    sigma, b = next(levels), None

    def noise(x: Tensor) -> Tensor:
        nonlocal sigma, b
        x_wide, low = x.to(widest(x.device)), next(levels, None)
        if low is None:
            raise ValueError(
                f"sigmas has {len(sigmas)} levels, one noise for each step between them: give the "
                "grid that the sampler has, and take a sampler that adds noise once a step"
            )
        start = _brownian_at(sigma, x_wide, seed, first) if b is None else b
        b = _brownian_at(low, x_wide, seed, first)
        z, sigma = (b - start) / math.sqrt(low**-2 - sigma**-2), low
        return z.to(x.dtype)

    return noise


def _brownian_at(sigma: float, x: Tensor, seed: int, first: int) -> Tensor:
    """Return B(1/σ²), where 1/σ² = 4ᵗ: halve the range of t, and sample B in its middle."""
    t, low, high, node = -math.log2(sigma), -float(BROWNIAN_OCTAVES), float(BROWNIAN_OCTAVES), 0
    start, end = torch.zeros_like(x), 2.0**BROWNIAN_OCTAVES * _normal_like(x, seed, first, 0, 1)
    for depth in range(BROWNIAN_HALVINGS):
        middle = (low + high) / 2
        before, after = 4**middle - 4**low, 4**high - 4**middle
        share = before / (before + after)
        z = _normal_like(x, seed, first, node, depth + 2)
        b = start + share * (end - start) + math.sqrt(share * after) * z
        node = 2 * node + (t >= middle)
        low, start, high, end = (middle, b, high, end) if t >= middle else (low, start, middle, b)
    return start + (4**t - 4**low) / (4**high - 4**low) * (end - start)


def interpolated(start: Noise, end: Noise, weights: Float[Tensor, "batch"]) -> Noise:
    """Return cos(πw/2)·z₀ + sin(πw/2)·z₁ for one weight w a row: N(0, I) for every w.

    With `seeded` ends, a sampler turns it into a path from one sample to another.
    """

    def noise(x: Tensor) -> Tensor:
        nonlocal weights
        if len(x) != len(weights):
            raise ValueError(f"weights has {len(weights)} rows for a batch of {len(x)}")
        weights = weights.to(x.device)  # copied at the first call only
        angle = match(weights * (math.pi / 2), x)
        return angle.cos() * start(x[:1]) + angle.sin() * end(x[:1])

    return noise


def replay(samples: Iterable[Tensor]) -> Noise:
    """Return recorded noise, one tensor a call in the shape of x, to repeat a published run."""
    recorded = iter(samples)

    def noise(x: Tensor) -> Tensor:
        z = next(recorded, None)
        if z is None or z.shape != x.shape:
            content = "no more tensors" if z is None else f"a tensor of shape {tuple(z.shape)}"
            raise ValueError(f"samples has {content} where shape {tuple(x.shape)} is needed")
        return z.to(x)

    return noise
