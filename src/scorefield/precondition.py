"""From a network F to the score: one formula for every published parameterisation.

    s(x, σ) = skip·u + out·F(scale·u, cond),   u = x − centre

                     skip             out               scale            cond
    NCSN             0                σᵢ/σ              1                i     (Song & Ermon 2019)
    NCSNv2           0                1/σ               1                –     (Song & Ermon 2020)
    VE               0                1/σ               c                log σ (Song et al. 2021)
    VEDiscrete       0                1/σ               c                i
    VP, VPDiscrete   0                −1/σ              (1+σ²)^−½        t     (Ho et al. 2020)
    SubVP            0                −1/σ              (√(σ²+4)−σ)/2    t     (Song et al. 2021)
    EDM              −1/(σ²+σ_d²)     σ_d/(σ√(σ²+σ_d²)) (σ²+σ_d²)^−½     ¼log σ (Karras et al. 2022)
    VPrediction      −1/(1+σ²)        −1/(σ√(1+σ²))     (1+σ²)^−½        t     (Salimans & Ho 2022)
    FlowMatching     −1/(σ(1+σ))      −1/(σ(1+σ))       1/(1+σ)          t     (Lipman et al. 2023)
    CleanDiscrete    −1/σ²            1/σ²              (1+σ²)^−½        t     (F is E[x₀])
    Plain            0                1                 1                σ     (F is the score)

VPredictionDiscrete is VPrediction at the timesteps of a DDPM.

A kernel N(αx₀, s²I) is x₀ + σz after division by α, σ = s/α; `scale` is that α, and t the time with
this σ. The centre is 0 if the network computes 2x − 1 itself. For a VE's network, which does not,
the centre is ½ and c = 2, else c = 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .noise import Discrete


class Coefficients(NamedTuple):
    """The four functions of σ, for each sample or for all together."""

    skip: Float[Tensor, "*batch"]
    out: Float[Tensor, "*batch"]
    scale: Float[Tensor, "*batch"]
    cond: Float[Tensor, "*batch"] | Int[Tensor, "*batch"] | None


@runtime_checkable
class Precondition(Protocol):
    """A row of the table, and the noise levels of its network's training."""

    @property
    def centre(self) -> float:
        """Value that is subtracted from x."""

    @property
    def sigma_max(self) -> float:
        """Largest noise level of the training."""

    @property
    def sigma_min(self) -> float:
        """Smallest noise level of the training."""

    @property
    def levels(self) -> Float[Tensor, "levels"] | None:
        """Decreasing noise levels of the training; None if it has all between the two ends."""

    def __call__(self, sigma: Float[Tensor, "*batch"], /) -> Coefficients:
        """Return the coefficients at each σ, in float64.

        σ has the shape (batch,) on the samples' device, or () on the CPU, one for all samples.
        """


class _PredictsNoise:
    """s = −F(αu, cond)/σ."""

    _cond: Callable[[Tensor], Tensor]

    def __call__(self, sigma: Float[Tensor, "*batch"]) -> Coefficients:
        alpha = (1 + sigma**2).rsqrt()
        return Coefficients(torch.zeros_like(sigma), -1 / sigma, alpha, self._cond(sigma))


class _PredictsVelocity:
    """s = −u/(1 + σ²) − F(αu, cond)/(σ√(1 + σ²))."""

    _cond: Callable[[Tensor], Tensor]

    def __call__(self, sigma: Float[Tensor, "*batch"]) -> Coefficients:
        alpha = (1 + sigma**2).rsqrt()
        return Coefficients(-(alpha**2), -alpha / sigma, alpha, self._cond(sigma))


# ── A ladder of levels ───────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, eq=False)
class _Ladder:
    sigmas: Float[Tensor, "levels"]
    centre: float = 0.0
    _grid: Discrete = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # once, because its check reads the levels, which a compiler cannot and a device delays
        object.__setattr__(self, "_grid", Discrete(self.sigmas))

    @property
    def sigma_max(self) -> float:
        return self.sigmas[0].item()

    @property
    def sigma_min(self) -> float:
        return self.sigmas[-1].item()

    @property
    def levels(self) -> Tensor:
        return self.sigmas

    def _cond(self, sigma: Tensor) -> Tensor:
        """Return the index from the least noise, as DDPM counts."""
        return len(self.sigmas) - 1 - self._grid.index(sigma)


class NCSN(_Ladder):
    """F is the score at the nearest level σᵢ, around which σ·s is constant."""

    def __call__(self, sigma: Float[Tensor, "*batch"]) -> Coefficients:
        """σᵢ/σ·F(u, i)."""
        index = self._grid.index(sigma)
        out = self.sigmas.to(sigma).take(index) / sigma
        return Coefficients(torch.zeros_like(out), out, torch.ones_like(out), index)


@dataclass(frozen=True, eq=False)
class VEDiscrete(_Ladder):
    """NCSN++ as trained at the levels of a ladder: index 0 has the most noise."""

    scale: float = 1.0

    def __call__(self, sigma: Float[Tensor, "*batch"]) -> Coefficients:
        """F(scale·u, i)/σ."""
        return _divided(sigma, self._grid.index(sigma), self.scale)


class VPDiscrete(_PredictsNoise, _Ladder):
    """DDPM: F is the noise at a timestep, which grows with σ from 0."""


class VPredictionDiscrete(_PredictsVelocity, _Ladder):
    """F is v = αz − s·x₀ at a timestep of DDPM's."""


class CleanDiscrete(_Ladder):
    """F is x₀, the clean sample, at a timestep of DDPM's."""

    def __call__(self, sigma: Float[Tensor, "*batch"]) -> Coefficients:
        """(F(αu, timestep) − u)/σ²."""
        alpha, out = (1 + sigma**2).rsqrt(), sigma**-2
        return Coefficients(-out, out, alpha, self._cond(sigma))


def ddpm_sigmas(
    beta_min: float = 0.1, beta_max: float = 20.0, steps: int = 1000
) -> Float[Tensor, "steps"]:
    """Return the ladder of a DDPM, σ² = (1 − ᾱ)/ᾱ, ᾱ the product of 1 − β (Ho et al. 2020, eq. 4).

    β rises linearly from beta_min/steps to beta_max/steps: in the paper from 10⁻⁴ to 0.02.
    """
    betas = torch.linspace(beta_min / steps, beta_max / steps, steps, dtype=torch.float64)
    exponent = -torch.log1p(-betas).cumsum(0)  # −log ᾱ
    return exponent.expm1().sqrt().flip(0)


# ── All levels between two ends ──────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Range:
    """The default ends are NCSNv2's for CIFAR-10."""

    sigma_max: float = 50.0
    sigma_min: float = 0.01
    centre: float = 0.0
    levels: ClassVar[None] = None


class NCSNv2(_Range):
    """The network has no σ as input."""

    def __call__(self, sigma: Float[Tensor, "*batch"]) -> Coefficients:
        """F(u)/σ."""
        return _divided(sigma, None)


@dataclass(frozen=True)
class VE(_Range):
    """NCSN++ as trained at all σ."""

    scale: float = 1.0

    def __call__(self, sigma: Float[Tensor, "*batch"]) -> Coefficients:
        """F(scale·u, log σ)/σ."""
        return _divided(sigma, sigma.log(), self.scale)


class Plain(_Range):
    """F is the score, of a network with σ as input."""

    def __call__(self, sigma: Float[Tensor, "*batch"]) -> Coefficients:
        """F(u, σ)."""
        one = torch.ones_like(sigma)
        return Coefficients(torch.zeros_like(sigma), one, one, sigma)


@dataclass(frozen=True)
class EDM:
    """Inputs and targets have unit variance for data of deviation σ_d about the centre."""

    sigma_data: float = 0.5
    sigma_max: float = 80.0
    sigma_min: float = 0.002
    centre: float = 0.0
    levels: ClassVar[None] = None

    def __call__(self, sigma: Float[Tensor, "*batch"]) -> Coefficients:
        """Karras et al. 2022, table 1, as a score: (D − x)/σ²."""
        total = sigma**2 + self.sigma_data**2
        scale = total.rsqrt()
        return Coefficients(-1 / total, self.sigma_data * scale / sigma, scale, sigma.log() / 4)


@dataclass(frozen=True)
class FlowMatching(_Range):
    """F is the velocity E[z − x₀] on the straight path x_t = (1 − t)x₀ + tz."""

    sigma_max: float = 80.0
    sigma_min: float = 0.002

    def __call__(self, sigma: Float[Tensor, "*batch"]) -> Coefficients:
        """−(u + F)/(σ(1 + σ)), t = σ/(1 + σ)."""
        out = -1 / (sigma * (1 + sigma))
        return Coefficients(out, out, 1 / (1 + sigma), sigma / (1 + sigma))


def _divided(sigma: Tensor, cond: Tensor | None, scale: float = 1.0) -> Coefficients:
    return Coefficients(torch.zeros_like(sigma), 1 / sigma, torch.full_like(sigma, scale), cond)


# ── The times of a linear β ──────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _LinearBeta:
    """β(t) = β_min + t(β_max − β_min), and B(t) = ∫₀ᵗβ = −2 log α (Song et al. 2021, eq. 32).

    The network's input is timescale·t, and its training has t from time_min to 1. The methods are
    those of α² + s² = 1.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    timescale: float = 999.0
    time_min: float = 1e-5
    centre: float = 0.0
    levels: ClassVar[None] = None

    @property
    def sigma_max(self) -> float:
        return self._sigma(self._integral(1.0)).item()

    @property
    def sigma_min(self) -> float:
        return self._sigma(self._integral(self.time_min)).item()

    def _integral(self, time: float) -> Tensor:
        """Return B at a time."""
        rise = self.beta_max - self.beta_min
        return torch.tensor(time * self.beta_min + time**2 * rise / 2, dtype=torch.float64)

    def _sigma(self, integral: Tensor) -> Tensor:
        return integral.expm1().sqrt()

    def _inverse(self, sigma: Tensor) -> Tensor:
        """Return B, of which `_sigma` is a function."""
        return torch.log1p(sigma**2)

    def _cond(self, sigma: Tensor) -> Tensor:
        """Return the time at which B has its value at σ, by a root without cancellation."""
        rise, integral = self.beta_max - self.beta_min, self._inverse(sigma)
        root = (self.beta_min**2 + 2 * rise * integral).sqrt()
        return self.timescale * 2 * integral / (self.beta_min + root)


class VP(_PredictsNoise, _LinearBeta):
    """DDPM and DDPM++ in continuous time: −F/s is the score of x_t, F the noise."""


class VPrediction(_PredictsVelocity, _LinearBeta):
    """F is v = αz − s·x₀."""


class SubVP(_PredictsNoise, _LinearBeta):
    """s = 1 − α², so that B = 2 asinh(σ/2)."""

    def _sigma(self, integral: Tensor) -> Tensor:
        return 2 * (integral / 2).sinh()

    def _inverse(self, sigma: Tensor) -> Tensor:
        return 2 * (sigma / 2).asinh()

    def __call__(self, sigma: Float[Tensor, "*batch"]) -> Coefficients:
        """−F(αu, t)/σ."""
        return super().__call__(sigma)._replace(scale=(-(sigma / 2).asinh()).exp())


# ── Another range of the data ────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, eq=False)
class Rescaled:
    """A network trained on y = scale·x + shift, for x: s(x, σ) = scale·s(y, |scale|·σ).

    `Rescaled(VP())` takes images in [0, 1] to a network of images in [−1, 1].
    """

    precondition: Precondition
    scale: float = 2.0
    shift: float = -1.0

    @property
    def centre(self) -> float:
        """The x whose y is the centre of the inner row."""
        return (self.precondition.centre - self.shift) / self.scale

    @property
    def sigma_max(self) -> float:
        """Largest noise level, in x."""
        return self.precondition.sigma_max / abs(self.scale)

    @property
    def sigma_min(self) -> float:
        """Smallest noise level, in x."""
        return self.precondition.sigma_min / abs(self.scale)

    @property
    def levels(self) -> Float[Tensor, "levels"] | None:
        """Ladder, in x."""
        levels = self.precondition.levels
        return None if levels is None else levels / abs(self.scale)

    def __call__(self, sigma: Float[Tensor, "*batch"]) -> Coefficients:
        """Return the coefficients in y by the chain rule."""
        skip, out, scale, cond = self.precondition(abs(self.scale) * sigma)
        return Coefficients(self.scale**2 * skip, self.scale * out, self.scale * scale, cond)
