"""Embedding of the noise level: one number a sample becomes a vector.

    sinusoidal   [sin(ω₀t) ... sin(ω_{h−1}t), cos(ω₀t) ... cos(ω_{h−1}t)],  ω_k = 10000^{−k/(h−1)}
    adm          the same with  ω_k = 10000^{−k/h}
    Fourier      [sin(2πw₁c) ... sin(2πw_m c), cos(2πw₁c) ... cos(2πw_m c)],  w_k ~ N(0, scale²)

The first two are for a timestep or an index (Vaswani et al. 2017, §3.5; Ho et al. 2020 gave the
frequencies an end point, Dhariwal & Nichol 2021 did not), the last for c = log σ (Tancik et al.
2020; Song et al. 2021, appendix C). A condition is added after them (Dhariwal & Nichol 2021), or to
the features.
"""

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, Real
from torch import Tensor, nn

from .blocks import linear_layer

EmbeddingKind: TypeAlias = Literal["fourier", "sinusoidal", "adm"]


def sinusoidal(
    position: Real[Tensor, "batch"], size: int, *, end_point: bool = True
) -> Float[Tensor, "batch size"]:
    """Return the sinusoidal embedding of a timestep or index; size ≥ 4, odd sizes end in 0."""
    half = size // 2
    # float32 in this order: at t = 999 a last bit of ω is already 6e-5 of a phase
    steps = torch.arange(half, dtype=torch.float32, device=position.device)
    frequencies = torch.exp(steps * -(math.log(10_000) / (half - end_point)))
    phase = position.to(_at_least_float32(position))[:, None] * frequencies
    return F.pad(torch.cat([phase.sin(), phase.cos()], dim=1), (0, size % 2))


class GaussianFourier(nn.Module):
    """Random Fourier features of log σ, two for each frequency; the frequencies are not trained."""

    frequencies: Tensor

    def __init__(self, features: int, *, scale: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(features) * scale)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "GaussianFourier":
        """Move or cast, as `.to` and `.bfloat16` do, but keep the frequencies at least float32."""
        exact = self.frequencies
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.frequencies.dtype != _at_least_float32(self.frequencies):
            self.frequencies = exact.to(self.frequencies.device)
        return self

    def forward(self, cond: Real[Tensor, "batch"]) -> Float[Tensor, "batch size"]:
        """Return the sines, then the cosines."""
        cond = cond.to(_at_least_float32(cond))
        phase = cond[:, None] * self.frequencies * 2 * math.pi
        return torch.cat([phase.sin(), phase.cos()], dim=1)


class Embedding(nn.Module):
    """φ of the embedded noise level: features → linear → φ → linear (+ condition) → φ.

    With `early`, the condition is added to the features.
    """

    def __init__(
        self,
        kind: EmbeddingKind,
        width: int,
        *,
        fourier_scale: float = 16.0,
        early: bool = False,
    ) -> None:
        super().__init__()
        fourier, self.width, self.early = kind == "fourier", width, early
        self.end_point = kind != "adm"
        self.features = GaussianFourier(width, scale=fourier_scale) if fourier else None
        self.hidden = linear_layer(2 * width if fourier else width, 4 * width)
        self.out = linear_layer(4 * width, 4 * width)

    def forward(
        self, cond: Real[Tensor, "batch"], extra: Float[Tensor, "batch extra"] | float = 0.0
    ) -> Float[Tensor, "batch size"]:
        """Return the embedding, with `extra` added before the last φ, or to the features."""
        if self.features:
            features: Tensor = self.features(cond)
        else:
            features = sinusoidal(cond, self.width, end_point=self.end_point)
        if self.early:
            features, extra = features + extra, 0.0
        hidden = self.hidden(features.to(self.hidden.weight.dtype))
        return F.silu(self.out(F.silu(hidden)) + extra)


def _at_least_float32(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
