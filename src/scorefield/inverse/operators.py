"""What is measured: linear operators A of images and vectors, each with what inverts it.

    y = Ax + σ_y·n,   A⁺ = Aᵀ(AAᵀ)⁺,   project(x, y) = x − A⁺(Ax − y)

The projection is the point nearest to x of which A is what A⁺ can reach of y. An operator knows
the eigenvalues of AAᵀ, so that any f(AAᵀ) costs as much as A. All act on batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

Map = Callable[[Tensor], Tensor]

LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601, as Pillow's grey images and JPEG."""

LOST = 1e-4
"""A factor below which a blur leaves nothing of a wave: beyond what 8 bits, or 12, can hold."""


@dataclass(frozen=True, eq=False)
class LinearOperator:
    """A with its adjoint and f(AAᵀ); `mask`, `grayscale`, `downsample`, `blur`, `matrix` make them.

    Attributes:
        forward: x ↦ Ax.
        adjoint: y ↦ Aᵀy.
        gram: (f, y) ↦ f(AAᵀ)y for a function f of eigenvalues.
        known: of a mask, the entries of x that are entries of y.
    """

    forward: Map
    adjoint: Map
    gram: Callable[[Map, Tensor], Tensor]
    known: Tensor | None = None

    def __call__(self, x: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch *measured"]:
        """Ax."""
        return self.forward(x)

    def count(self, x: Float[Tensor, "batch *shape"]) -> int:
        """m, how many numbers are measured of a sample."""
        if self.known is not None:
            return int(self.known.expand(x.shape[1:]).sum())
        return self(x[:1]).numel()

    def pinv(self, y: Float[Tensor, "batch *measured"]) -> Float[Tensor, "batch *shape"]:
        """A⁺y, the smallest x that explains y best."""
        return self.gain(y, 0.0, 1.0)

    def solve(
        self, y: Float[Tensor, "batch *measured"], sigma_y: float, spread: Tensor | float
    ) -> Float[Tensor, "batch *measured"]:
        """(σ_y²I + spread²·AAᵀ)⁺y, the precision of Ax + σ_y·n for x of that spread."""

        def inverse(values: Tensor) -> Tensor:
            variance = sigma_y**2 + spread**2 * values
            return torch.where(variance > 0, 1 / variance, 0)

        return self.gram(inverse, y)

    def gain(
        self, y: Float[Tensor, "batch *measured"], sigma_y: float, spread: Tensor | float
    ) -> Float[Tensor, "batch *shape"]:
        """Ky with Kalman's K = spread²·Aᵀ(σ_y²I + spread²·AAᵀ)⁺."""
        return spread**2 * self.adjoint(self.solve(y, sigma_y, spread))

    def project(
        self, x: Float[Tensor, "batch *shape"], y: Float[Tensor, "*any"]
    ) -> Float[Tensor, "batch *shape"]:
        """x moved as little as makes Ax = y; what a mask knows becomes y to the bit."""
        if self.known is not None:
            return torch.where(self.known.to(x.device), y.to(x), x)
        return x - self.pinv(self(x) - y)


def measured(operator: LinearOperator, y: object, sigma_y: float) -> None:
    """Refuse what is no measurement, or no noise."""
    if not isinstance(y, Tensor) or not y.is_floating_point():
        kind = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(f"y is {kind}: give a batch of floats, such as operator(x)")
    if y.ndim < 2 or len(y) == 0:
        raise ValueError(f"y has shape {tuple(y.shape)}: give a batch, y[None] for one measurement")
    finite = operator(y) if operator.known is not None else y
    if not finite.isfinite().all():
        raise ValueError("y has NaN or infinite values: leave those out by a mask")
    if not 0 <= sigma_y < math.inf:
        raise ValueError(f"sigma_y={sigma_y}: give the noise's standard deviation, 0 or more")


def mask(known: Tensor) -> LinearOperator:
    """y = m ⊙ x: inpainting. m broadcasts to a sample; 1 or True is known; y has x's shape."""
    if not ((known == 0) | (known == 1)).all():
        raise ValueError("known has values besides 0 and 1: threshold it, as in known > 0.5")
    known = known.bool()

    def keep(x: Tensor) -> Tensor:
        return torch.where(known.to(x.device), x, 0)

    return LinearOperator(keep, keep, lambda f, y: f(y.new_ones(())) * keep(y), known)


def grayscale(weights: Sequence[float] = LUMA) -> LinearOperator:
    """y = Σ w_c·x_c over the channels: colourisation. y has one channel."""
    square = sum(w**2 for w in weights)
    if square == 0:
        raise ValueError("weights are all 0: give one number for each channel")

    def column(like: Tensor) -> Tensor:
        return torch.tensor(weights, dtype=like.dtype, device=like.device).view(-1, 1, 1)

    def forward(x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != len(weights):
            raise ValueError(
                f"x has shape {tuple(x.shape)}: give a batch of images of {len(weights)} channels"
            )
        return (x * column(x)).sum(1, keepdim=True)

    return LinearOperator(
        forward, lambda y: y * column(y), lambda f, y: f(y.new_tensor(square)) * y
    )


def downsample(factor: int) -> LinearOperator:
    """y = means over factor × factor pixels: super-resolution."""
    if factor < 1:
        raise ValueError(f"factor={factor}: give a whole number of pixels, 1 or more")

    def forward(x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[2] % factor or x.shape[3] % factor:
            raise ValueError(
                f"x has shape {tuple(x.shape)}: give a batch of images with sides that "
                f"factor={factor} divides"
            )
        return avg_pool2d(x, factor)

    def adjoint(y: Tensor) -> Tensor:
        return y.repeat_interleave(factor, 2).repeat_interleave(factor, 3) / factor**2

    return LinearOperator(forward, adjoint, lambda f, y: f(y.new_tensor(factor**-2)) * y)


def blur(sigma: float) -> LinearOperator:
    """y = x ∗ N(0, sigma²) in pixels, past an edge in again at the other: deblurring, by FFT.

    A wave of frequency ω keeps the factor exp(−sigma²ω²/2), or 0 if that is below `LOST`.
    """
    if not sigma >= 0:
        raise ValueError(f"sigma={sigma}: give the blur's standard deviation in pixels")

    def response(like: Tensor) -> Tensor:
        height, width = like.shape[-2:]
        rows = torch.fft.fftfreq(height, dtype=like.dtype, device=like.device)
        columns = torch.fft.rfftfreq(width, dtype=like.dtype, device=like.device)
        square = (2 * torch.pi) ** 2 * (rows[:, None] ** 2 + columns**2)
        kept = (-0.5 * sigma**2 * square).exp()
        left: Tensor = torch.where(kept < LOST, 0, kept)
        return left

    def through(factor: Map, x: Tensor) -> Tensor:
        waves = torch.fft.rfft2(x) * factor(response(x))
        out: Tensor = torch.fft.irfft2(waves, s=x.shape[-2:])
        return out

    def forward(x: Tensor) -> Tensor:
        return through(lambda kept: kept, x)

    return LinearOperator(
        forward, forward, lambda f, y: through(lambda kept: f(kept**2) * (kept > 0), y)
    )


def matrix(rows: Float[Tensor, "m size"], shape: Sequence[int] | None = None) -> LinearOperator:
    """y = rows·x for flattened x; `shape` of a sample if it is no vector. Any rank."""
    if rows.ndim != 2 or not rows.is_floating_point():
        raise ValueError(f"rows has shape {tuple(rows.shape)}: give a matrix of floats, m × size")
    shape = torch.Size(shape or rows.shape[1:])
    if shape.numel() != rows.shape[1]:
        raise ValueError(f"rows has {rows.shape[1]} columns, but a sample {shape.numel()} numbers")
    left, scales, right = torch.linalg.svd(rows.double(), full_matrices=False)
    rank = int((scales > scales.max() * max(rows.shape) * torch.finfo(rows.dtype).eps).sum())
    left, scales, right = left[:, :rank], scales[:rank], right[:rank]

    def gram(f: Map, y: Tensor) -> Tensor:
        basis = left.to(y)
        out: Tensor = (y @ basis * f(scales.to(y) ** 2)) @ basis.T
        return out

    return LinearOperator(
        lambda x: x.flatten(1) @ rows.to(x).T,
        lambda y: (y @ rows.to(y)).view(len(y), *shape),
        gram,
    )
