"""From a network F to the score: a prediction and a clock.

    s(x, σ) = skip·u + out·F(scale·u, cond),   u = x − centre

The prediction gives three functions of σ, and the clock the network's input for σ, independently:

    predicts       F is            skip          out               scale
    score          ∇ₓ log q_σ      0             1                 1
    scaled score   σ·∇ₓ log q_σ    0             1/σ               1
    noise          z               0             −1/σ              (1+σ²)^−½
    sub-VP noise   z               0             −1/σ              (√(σ²+4)−σ)/2
    v              αz − s·x₀       −1/(1+σ²)     −1/(σ√(1+σ²))     (1+σ²)^−½
    clean          x₀              −1/σ²         1/σ²              (1+σ²)^−½
    velocity       z − x₀          −1/(σ(1+σ))   −1/(σ(1+σ))       1/(1+σ)
    mixture        EDM's           −1/(σ²+σ_d²)  σ_d/(σ√(σ²+σ_d²)) (σ²+σ_d²)^−½

A kernel N(αx₀, s²I) is x₀ + σz after division by α, σ = s/α; for a network that was trained on x_t,
`scale` is this α. The functions at the end are the published pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .noise import Discrete


class Coefficients(NamedTuple):
    """The functions of σ, for each sample or for all together."""

    skip: Float[Tensor, "*batch"]
    out: Float[Tensor, "*batch"]
    scale: Float[Tensor, "*batch"]
    cond: Float[Tensor, "*batch"] | Int[Tensor, "*batch"] | None


@dataclass(frozen=True, eq=False)
class Precondition:
    """A prediction, a clock, and the noise levels of the network's training.

    Attributes:
        predicts: A name in `PREDICTIONS`.
        clock: A name in `CLOCKS`.
        sigma_max: Largest noise level of the training.
        sigma_min: Smallest noise level of the training.
        centre: Value that is subtracted from x; 0 if the network computes 2x − 1 itself.
        scale: Factor from x to the range in which the network was trained, see `rescale`.
        gain: Another factor of the network's input, which leaves σ alone: 2 for a network that sees
            2x − 1 and is conditioned on the σ of x.
        timescale: Factor of the clock, if that is not an index.
        levels: Decreasing noise levels of the training; None if it has all between the two ends.
        sigma_data: σ_d of the mixture, the standard deviation of the data about the centre.
        beta_min: β at time 0, for the clocks of a linear β.
        beta_max: β at time 1.
    """

    predicts: str
    clock: str
    sigma_max: float
    sigma_min: float
    centre: float = 0.0
    scale: float = 1.0
    gain: float = 1.0
    timescale: float = 1.0
    levels: Float[Tensor, "levels"] | None = None
    sigma_data: float | None = None
    beta_min: float = 0.1
    beta_max: float = 20.0
    _grid: Discrete | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # once, because its check reads the levels, which a compiler cannot and a device delays
        grid = None if self.levels is None else Discrete(abs(self.scale) * self.levels)
        object.__setattr__(self, "_grid", grid)
        for name, choices in (("predicts", PREDICTIONS), ("clock", CLOCKS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r:.40}: one of {', '.join(choices)}")
        if not math.inf > self.sigma_max >= self.sigma_min > 0:
            raise ValueError(
                f"the noise levels {self.sigma_max:.6g} to {self.sigma_min:.6g} must be finite, "
                "positive and in decreasing order"
            )
        if not self.scale * self.gain * self.timescale or not 0 < self.beta_min <= self.beta_max:
            raise ValueError(
                f"scale={self.scale}, gain={self.gain}, timescale={self.timescale} must not be 0, "
                f"and beta_min={self.beta_min} to beta_max={self.beta_max} must increase from > 0"
            )
        if self.levels is None and self.clock in ("index", "timestep"):
            raise ValueError(f"clock={self.clock!r} counts levels: give them")
        if self.predicts == "mixture" and not (self.sigma_data or 0) > 0:
            raise ValueError(f"sigma_data={self.sigma_data}: give the data's standard deviation")

    def __call__(self, sigma: Float[Tensor, "*batch"]) -> Coefficients:
        """Return the coefficients at each σ, in float64.

        σ has the shape (batch,) on the samples' device, or () on the CPU, one for all samples.
        """
        unit = abs(self.scale)
        sigma = unit * sigma
        skip, out, scale = PREDICTIONS[self.predicts](sigma, unit * (self.sigma_data or 0.0))
        cond = CLOCKS[self.clock](sigma, self)
        if self.predicts == "score" and self._grid is not None:  # around a level σ·s is constant
            out = self._grid.sigmas.to(sigma).take(self._grid.index(sigma)) / sigma
        if cond is not None and cond.is_floating_point():
            cond = self.timescale * cond
        gain = self.gain * self.scale
        return Coefficients(self.scale**2 * skip, self.scale * out, gain * scale, cond)

    def index(
        self, sigma: Float[Tensor, "*batch"], *, upwards: bool = False
    ) -> Int[Tensor, "*batch"]:
        """Return the index of the level nearest to σ in the network's units, 0 for the largest.

        If upwards, 0 is for the smallest, as DDPM counts.
        """
        assert self._grid is not None
        index = self._grid.index(sigma)
        return len(self._grid.sigmas) - 1 - index if upwards else index

    def time(self, integral: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Return the t with ∫₀ᵗβ = −2 log α, by a root without cancellation."""
        rise = self.beta_max - self.beta_min
        return 2 * integral / (self.beta_min + (self.beta_min**2 + 2 * rise * integral).sqrt())

    def rescale(self, scale: float = 2.0, shift: float = -1.0) -> Precondition:
        """Return the preconditioner for x of a network trained on y = scale·x + shift.

        s(x, σ) = scale·s(y, |scale|·σ): `VP().rescale()` takes images in [0, 1] to a network of
        images in [−1, 1].
        """
        unit = abs(scale)
        return replace(
            self,
            sigma_max=self.sigma_max / unit,
            sigma_min=self.sigma_min / unit,
            centre=(self.centre - shift) / scale,
            scale=self.scale * scale,
            levels=None if self.levels is None else self.levels / unit,
            sigma_data=None if self.sigma_data is None else self.sigma_data / unit,
        )


# ── Predictions and clocks ───────────────────────────────────────────────────────────────────────

Prediction: TypeAlias = Callable[[Tensor, float], tuple[Tensor, Tensor, Tensor]]


def _preserve_variance(sigma: Tensor) -> Tensor:
    """Return α of α² + s² = 1."""
    return (1 + sigma**2).rsqrt()


def _velocity(sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor]:
    out = -1 / (sigma * (1 + sigma))
    return out, out, 1 / (1 + sigma)


def _mixture(sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor]:
    """Karras et al. 2022, table 1, as a score: (D − x)/σ²."""
    total = sigma**2 + sigma_data**2
    return -1 / total, sigma_data * total.rsqrt() / sigma, total.rsqrt()


PREDICTIONS: dict[str, Prediction] = {
    "score": lambda s, _: (0 * s, torch.ones_like(s), torch.ones_like(s)),
    "scaled score": lambda s, _: (0 * s, 1 / s, torch.ones_like(s)),
    "noise": lambda s, _: (0 * s, -1 / s, _preserve_variance(s)),
    "sub-VP noise": lambda s, _: (0 * s, -1 / s, (-(s / 2).asinh()).exp()),
    "v": lambda s, _: (-1 / (1 + s**2), -_preserve_variance(s) / s, _preserve_variance(s)),
    "clean": lambda s, _: (-(s**-2), s**-2, _preserve_variance(s)),
    "velocity": _velocity,
    "mixture": _mixture,
}
"""skip, out and scale as functions of σ and σ_d."""

CLOCKS: dict[str, Callable[[Tensor, Precondition], Tensor | None]] = {
    "none": lambda s, row: None,
    "index": lambda s, row: row.index(s),
    "timestep": lambda s, row: row.index(s, upwards=True),
    "log": lambda s, row: s.log(),
    "sigma": lambda s, row: s,
    "time": lambda s, row: row.time(torch.log1p(s**2)),
    "sub-VP time": lambda s, row: row.time(2 * (s / 2).asinh()),  # s = 1 − α²
    "flow time": lambda s, row: s / (1 + s),
}
"""The network's input as a function of σ."""


# ── Published pairs ──────────────────────────────────────────────────────────────────────────────


def _on_levels(predicts: str, clock: str, levels: Tensor, **options: float) -> Precondition:
    ends = levels[0].item(), levels[-1].item()
    return Precondition(predicts, clock, *ends, levels=levels, **options)


def NCSN(levels: Float[Tensor, "levels"], centre: float = 0.0) -> Precondition:
    """F is the score at the nearest level (Song & Ermon 2019)."""
    return _on_levels("score", "index", levels, centre=centre)


def NCSNv2(sigma_max: float = 50.0, sigma_min: float = 0.01, centre: float = 0.0) -> Precondition:
    """F is σ times the score, and the network has no σ as input (Song & Ermon 2020).

    The default ends are those for CIFAR-10, here and below.
    """
    return Precondition("scaled score", "none", sigma_max, sigma_min, centre)


def VE(
    sigma_max: float = 50.0, sigma_min: float = 0.01, centre: float = 0.0, gain: float = 1.0
) -> Precondition:
    """NCSN++ as trained at all σ (Song et al. 2021)."""
    return Precondition("scaled score", "log", sigma_max, sigma_min, centre, gain=gain)


def VEDiscrete(
    levels: Float[Tensor, "levels"], centre: float = 0.0, gain: float = 1.0
) -> Precondition:
    """NCSN++ as trained at the levels of a ladder."""
    return _on_levels("scaled score", "index", levels, centre=centre, gain=gain)


def EDM(
    sigma_data: float = 0.5,
    sigma_max: float = 80.0,
    sigma_min: float = 0.002,
    centre: float = 0.0,
) -> Precondition:
    """Inputs and targets have unit variance for data of deviation σ_d (Karras et al. 2022)."""
    return Precondition(
        "mixture", "log", sigma_max, sigma_min, centre, timescale=0.25, sigma_data=sigma_data
    )


def FlowMatching(
    sigma_max: float = 80.0, sigma_min: float = 0.002, centre: float = 0.0
) -> Precondition:
    """F is the velocity on the path x_t = (1 − t)x₀ + tz (Lipman et al. 2023)."""
    return Precondition("velocity", "flow time", sigma_max, sigma_min, centre)


def VPDiscrete(
    levels: Float[Tensor, "levels"], centre: float = 0.0, predicts: str = "noise"
) -> Precondition:
    """DDPM: F is the noise, "v" or "clean" at a timestep (Ho et al. 2020; Salimans & Ho 2022)."""
    return _on_levels(predicts, "timestep", levels, centre=centre)


def VP(
    beta_min: float = 0.1,
    beta_max: float = 20.0,
    timescale: float = 999.0,
    time_min: float = 1e-5,
    centre: float = 0.0,
    predicts: str = "noise",
) -> Precondition:
    """DDPM++ in continuous time: β(t) = β_min + t(β_max − β_min) (Song et al. 2021, eq. 32).

    The network's input is timescale·t, and its training has t from time_min to 1.
    """
    last, first = (_integral(beta_min, beta_max, time) for time in (1.0, time_min))
    return Precondition(
        predicts,
        "time",
        math.sqrt(math.expm1(last)),
        math.sqrt(math.expm1(first)),
        centre,
        timescale=timescale,
        beta_min=beta_min,
        beta_max=beta_max,
    )


def SubVP(
    beta_min: float = 0.1,
    beta_max: float = 20.0,
    timescale: float = 999.0,
    time_min: float = 1e-5,
    centre: float = 0.0,
) -> Precondition:
    """VP with s = 1 − α², so that the integral of β is 2 asinh(σ/2) (Song et al. 2021, eq. 29)."""
    last, first = (_integral(beta_min, beta_max, time) for time in (1.0, time_min))
    return replace(
        VP(beta_min, beta_max, timescale, time_min, centre, "sub-VP noise"),
        clock="sub-VP time",
        sigma_max=2 * math.sinh(last / 2),
        sigma_min=2 * math.sinh(first / 2),
    )


def _integral(beta_min: float, beta_max: float, time: float) -> float:
    """Return ∫₀ᵗβ = −2 log α."""
    return time * beta_min + time**2 * (beta_max - beta_min) / 2


def ddpm_sigmas(
    beta_min: float = 0.1, beta_max: float = 20.0, steps: int = 1000
) -> Float[Tensor, "steps"]:
    """Return the ladder of a DDPM, σ² = (1 − ᾱ)/ᾱ, ᾱ the product of 1 − β (Ho et al. 2020, eq. 4).

    β rises linearly from beta_min/steps to beta_max/steps: in the paper from 10⁻⁴ to 0.02.
    """
    betas = torch.linspace(beta_min / steps, beta_max / steps, steps, dtype=torch.float64)
    exponent = -torch.log1p(-betas).cumsum(0)  # −log ᾱ
    return exponent.expm1().sqrt().flip(0)
