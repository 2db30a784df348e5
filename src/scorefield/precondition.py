"""From a network F to the score: a prediction and a clock.

    s(x, σ) = skip·u + out·F(scale·u, cond),   u = x − centre

What F predicts gives three functions of σ: skip, out and scale. The clock gives the network's input
for σ, cond. The two are independent; the functions at the end are the published pairs.

A kernel N(αx₀, s²I) is x₀ + σz after division by α, σ = s/α; for a network that was trained on x_t,
`scale` is this α.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ._ops import check_number
from .noise import Discrete, check_levels


class Coefficients(NamedTuple):
    """The functions of σ, for each sample or for all together."""

    skip: Float[Tensor, "*batch"]
    out: Float[Tensor, "*batch"]
    scale: Float[Tensor, "*batch"]
    cond: Float[Tensor, "*batch"] | Int[Tensor, "*batch"] | None


@dataclass(frozen=True, eq=False)
class Precondition:
    """A prediction, a clock, and the noise levels of the network's training."""

    predicts: str  # a name in `PREDICTIONS`
    clock: str  # a name in `CLOCKS`
    sigma_max: float  # largest noise level of the training
    sigma_min: float  # smallest noise level of the training
    centre: float = 0.0  # subtracted from x; 0 if the network computes 2x − 1 itself
    scale: float = 1.0  # factor from x to the range of the network's training, see `rescale`
    levels: Float[Tensor, "levels"] | None = None  # decreasing, for a clock that counts them
    sigma_data: float = 0.0  # σ_d of the mixture, the data's deviation about the centre
    beta_min: float = 0.1  # β at time 0, for the clocks of a linear β
    beta_max: float = 20.0  # β at time 1
    _grid: Discrete = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.levels is not None:
            # once, because its check reads the levels: not in a compiler, and on a device it waits
            object.__setattr__(self, "_grid", Discrete(abs(self.scale) * self.levels))
        for name, choices in (("predicts", PREDICTIONS), ("clock", CLOCKS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r:.40}: one of {', '.join(choices)}")
        for name in ("sigma_max", "sigma_min", "centre", "scale", "sigma_data"):
            check_number(getattr(self, name), name)
        if not self.sigma_max >= self.sigma_min > 0:
            raise ValueError(
                f"the noise levels {self.sigma_max:.6g} to {self.sigma_min:.6g} must be finite, "
                "positive and in decreasing order"
            )
        if self.scale == 0:
            raise ValueError("scale must not be 0: give the factor to the range of the training")
        _integrals(self.beta_min, self.beta_max)
        if self.levels is None and self.clock in ("index", "timestep"):
            raise ValueError(f"clock={self.clock!r} counts levels: give them")
        if self.predicts == "mixture" and not self.sigma_data > 0:
            raise ValueError(f"sigma_data={self.sigma_data}: give the data's standard deviation")

    def __call__(self, sigma: Float[Tensor, "*batch"]) -> Coefficients:
        """Return the coefficients at each σ, in the type of σ.

        σ has the shape (batch,) on the samples' device, or () on the CPU, one for all samples.
        """
        unit = abs(self.scale)
        sigma = unit * sigma
        skip, out, scale = PREDICTIONS[self.predicts](sigma, unit * self.sigma_data)
        if self.predicts == "score" and self.levels is not None:  # around a level σ·s is constant
            out = self._grid.like(sigma).take(self._grid.index(sigma)) / sigma
        cond = CLOCKS[self.clock](sigma, self)
        return Coefficients(self.scale**2 * skip, self.scale * out, self.scale * scale, cond)

    def time(self, integral: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Return the t with ∫₀ᵗβ = −2 log α, by a root without cancellation."""
        rise = self.beta_max - self.beta_min
        return 2 * integral / (self.beta_min + (self.beta_min**2 + 2 * rise * integral).sqrt())

    def rescale(self, scale: float = 2.0, shift: float = -1.0) -> "Precondition":
        """Return the preconditioner for x of a network trained on y = scale·x + shift.

        s(x, σ) = scale·s(y, |scale|·σ): `VP().rescale()` takes images in [0, 1] to a network of
        images in [−1, 1].
        """
        if not 0 < (unit := abs(scale)) < math.inf:
            raise ValueError(f"scale={scale}: give the factor to the range of the training")
        return replace(
            self,
            sigma_max=self.sigma_max / unit,
            sigma_min=self.sigma_min / unit,
            centre=(self.centre - shift) / scale,
            scale=self.scale * scale,
            levels=None if self.levels is None else self.levels / unit,
            sigma_data=self.sigma_data / unit,
        )


def _vp(sigma: Tensor) -> Tensor:
    """Return α of α² + s² = 1."""
    return (1 + sigma**2).rsqrt()


def _edm(sigma: Tensor, sigma_data: float) -> Tensor:
    """Return the factor that gives x unit variance."""
    return (sigma**2 + sigma_data**2).rsqrt()


PREDICTIONS: dict[str, Callable[[Tensor, float], tuple[Tensor, Tensor, Tensor]]] = {
    "score": lambda s, _: (0 * s, torch.ones_like(s), torch.ones_like(s)),
    "scaled score": lambda s, _: (0 * s, 1 / s, torch.ones_like(s)),
    "scaled score at 2u": lambda s, _: (0 * s, 1 / s, torch.full_like(s, 2)),
    "noise": lambda s, _: (0 * s, -1 / s, _vp(s)),
    "sub-VP noise": lambda s, _: (0 * s, -1 / s, (-(s / 2).asinh()).exp()),
    "v": lambda s, _: (-1 / (1 + s**2), -_vp(s) / s, _vp(s)),
    "clean": lambda s, _: (-(s**-2), s**-2, _vp(s)),
    "velocity": lambda s, _: (-1 / (s * (1 + s)), -1 / (s * (1 + s)), 1 / (1 + s)),
    "mixture": lambda s, d: (-(_edm(s, d) ** 2), d / s * _edm(s, d), _edm(s, d)),
}
"""skip, out and scale as functions of σ and σ_d.

F is ∇ₓ log q_σ, σ times this (of 2u, as an NCSN++ sees 2x − 1), the noise z, v = αz − s·x₀, the
clean x₀, the velocity z − x₀, or the mixture of x₀ and x of Karras et al. 2022, table 1.
"""

CLOCKS: dict[str, Callable[[Tensor, Precondition], Tensor | None]] = {
    "none": lambda s, row: None,
    "index": lambda s, row: row._grid.index(s),
    "timestep": lambda s, row: len(row._grid.sigmas) - 1 - row._grid.index(s),
    "log": lambda s, row: s.log(),
    "quarter log": lambda s, row: s.log() / 4,
    "sigma": lambda s, row: s,
    "time": lambda s, row: 999 * row.time(torch.log1p(s**2)),
    "sub-VP time": lambda s, row: 999 * row.time(2 * (s / 2).asinh()),  # s = 1 − α²
    "flow time": lambda s, row: s / (1 + s),
}
"""The network's input as a function of σ."""


# ── Published pairs, whose default ends are those for CIFAR-10 ───────────────────────────────────


def NCSN(levels: Float[Tensor, "levels"], centre: float = 0.0) -> Precondition:
    """F is the score at the nearest level: s = σᵢ/σ·F(u, i) (Song & Ermon 2019)."""
    return _on_levels("score", "index", levels, centre)


def NCSNv2(sigma_max: float = 50.0, sigma_min: float = 0.01, centre: float = 0.0) -> Precondition:
    """F is σ times the score, and has no σ as input: s = F(u)/σ (Song & Ermon 2020)."""
    return Precondition("scaled score", "none", sigma_max, sigma_min, centre)


def VE(sigma_max: float = 50.0, sigma_min: float = 0.01, centre: float = 0.0) -> Precondition:
    """NCSN++ as trained at all σ: s = F(2u, log σ)/σ (Song et al. 2021)."""
    return Precondition("scaled score at 2u", "log", sigma_max, sigma_min, centre)


def VEDiscrete(levels: Float[Tensor, "levels"], centre: float = 0.0) -> Precondition:
    """NCSN++ as trained at the levels of a ladder: s = F(2u, i)/σ, at the nearest level i."""
    return _on_levels("scaled score at 2u", "index", levels, centre)


def EDM(
    sigma_data: float = 0.5, sigma_max: float = 80.0, sigma_min: float = 0.002, centre: float = 0.0
) -> Precondition:
    """Inputs and targets have unit variance for data of deviation σ_d (Karras et al. 2022).

    s = −u/v + σ_d/(σ√v)·F(u/√v, ¼ log σ),   v = σ² + σ_d²
    """
    ends = sigma_max, sigma_min
    return Precondition("mixture", "quarter log", *ends, centre, sigma_data=sigma_data)


def FlowMatching(
    sigma_max: float = 80.0, sigma_min: float = 0.002, centre: float = 0.0
) -> Precondition:
    """F is the velocity on the path x_t = (1 − t)x₀ + tz (Lipman et al. 2023).

    s = −(u + F(u/(1 + σ), t))/(σ(1 + σ)),   t = σ/(1 + σ)
    """
    return Precondition("velocity", "flow time", sigma_max, sigma_min, centre)


def VPDiscrete(
    levels: Float[Tensor, "levels"], centre: float = 0.0, predicts: str = "noise"
) -> Precondition:
    """DDPM: F is the noise, "v" or "clean" at a timestep (Ho et al. 2020; Salimans & Ho 2022).

    With the noise, s = −F(αu, k)/σ at the timestep k, where α = 1/√(1 + σ²).
    """
    return _on_levels(predicts, "timestep", levels, centre)


def _on_levels(predicts: str, clock: str, levels: Tensor, centre: float) -> Precondition:
    check_levels(levels)
    ends = levels[0].item(), levels[-1].item()
    return Precondition(predicts, clock, *ends, centre, levels=levels)


def VP(
    beta_min: float = 0.1, beta_max: float = 20.0, centre: float = 0.0, predicts: str = "noise"
) -> Precondition:
    """DDPM++ in continuous time: β(t) = β_min + t(β_max − β_min) (Song et al. 2021, eq. 32).

        s = −F(αu, 999t)/σ,   α = 1/√(1 + σ²)

    t is the root of log(1 + σ²) = ∫₀ᵗβ. The network's training has t from 10⁻⁵ to 1.
    """
    last, first = (math.sqrt(math.expm1(i)) for i in _integrals(beta_min, beta_max))
    row = Precondition(predicts, "time", last, first, centre)
    return replace(row, beta_min=beta_min, beta_max=beta_max)


def SubVP(beta_min: float = 0.1, beta_max: float = 20.0, centre: float = 0.0) -> Precondition:
    """VP with s = 1 − α², so that the integral of β is 2 asinh(σ/2) (Song et al. 2021, eq. 29)."""
    last, first = (2 * math.sinh(i / 2) for i in _integrals(beta_min, beta_max))
    row = Precondition("sub-VP noise", "sub-VP time", last, first, centre)
    return replace(row, beta_min=beta_min, beta_max=beta_max)


def _integrals(beta_min: float, beta_max: float) -> list[float]:
    """Return ∫₀ᵗβ = −2 log α at both ends of the training, after checking that β increases."""
    check_number(beta_min, "beta_min")
    check_number(beta_max, "beta_max")
    if not 0 < beta_min <= beta_max:
        raise ValueError(f"beta_min={beta_min}, beta_max={beta_max}: they must increase from > 0")
    return [t * beta_min + t**2 * (beta_max - beta_min) / 2 for t in (1.0, 1e-5)]


def ddpm_sigmas(
    beta_min: float = 0.1, beta_max: float = 20.0, steps: int = 1000
) -> Float[Tensor, "steps"]:
    """Return the ladder of a DDPM, σ² = (1 − ᾱ)/ᾱ, ᾱ the product of 1 − β (Ho et al. 2020, eq. 4).

    β rises linearly from beta_min/steps to beta_max/steps: in the paper from 10⁻⁴ to 0.02.
    """
    betas = torch.linspace(beta_min / steps, beta_max / steps, steps, dtype=torch.float64)
    exponent = -torch.log1p(-betas).cumsum(0)  # −log ᾱ
    return exponent.expm1().sqrt().flip(0)
