"""Measurements: linear operators A of images and vectors, with adjoint and pseudoinverse.

    y = Ax + σ_y·n,   A⁺ = Aᵀ(AAᵀ)⁺,   project(x, y) = x − A⁺(Ax − y)

The projection is the nearest point to x whose measurement is y, as far as y is in the range of A.
The eigenvalues of AAᵀ are known, so any f(AAᵀ) costs as much as A. All act on batches.

Other functions have a derivative only, which is enough for `dps` and `mmps`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import avg_pool2d

from .._ops import check_batch, check_count, linearize, wide

Map = Callable[[Tensor], Tensor]

LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601, as Pillow's grey images and JPEG."""

BLUR_CUTOFF = 1e-4
"""Smallest factor that a blur leaves of a wave; smaller ones, below 12 bits, count as 0."""


@dataclass(frozen=True, eq=False)
class Operator:
    """A measurement y = A(x) of each sample of a batch, as made by `nonlinear`."""

    forward: Map

    def __call__(self, x: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch *measured"]:
        """Return Ax."""
        return self.forward(x)

    def derivative(self, x: Float[Tensor, "batch *shape"]) -> tuple[Map, Map]:
        """Return v ↦ Jv and v ↦ Jᵀv, where J is the Jacobian of A at x.

        Jv is the pullback of the pullback, because more functions have a second derivative than a
        forward one. Of torch's kernels for attention only `SDPBackend.MATH` has it.
        """
        y, transpose = linearize(self.forward, x)

        @cache
        def tangent() -> Map:
            with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
                _, pullback = linearize(self.forward, x)
            return linearize(pullback, torch.zeros_like(y))[1]

        return lambda v: tangent()(v), transpose

    def gap(
        self, y: Float[Tensor, "rows *measured"], x: Float[Tensor, "batch *shape"]
    ) -> Float[Tensor, "batch *measured"]:
        """Return y − Ax, for one y or one for each sample."""
        measured = self(x)
        if y.shape[1:] != measured.shape[1:]:
            raise ValueError(
                f"y is a batch of {tuple(y.shape[1:])}, but samples of {tuple(x.shape[1:])} are "
                f"measured as {tuple(measured.shape[1:])}: give y in the shape of operator(x)"
            )
        if len(y) not in (1, len(x)):
            raise ValueError(f"y has {len(y)} rows for {len(x)} samples: give 1 or {len(x)}")
        return y.to(x) - measured

    def keep_observed(
        self, y: Float[Tensor, "batch *measured"]
    ) -> Float[Tensor, "batch *measured"]:
        """Return y."""
        return y

    def count(self, y: Float[Tensor, "batch *measured"]) -> Float[Tensor, ""]:
        """Return m, the number of measured values of a sample."""
        return self.keep_observed(torch.ones_like(y[:1])).sum(dtype=torch.float32)


@dataclass(frozen=True, eq=False)
class LinearOperator(Operator):
    """A of y = Ax with its adjoint, as made by `mask`, `grayscale`, `downsample`, ...

    `gram` is (f, y) ↦ f(AAᵀ)y for a function f of eigenvalues and y in the range of A; where f(0)
    is not 0, the rest of y may be dropped. Only a mask has `observed`, the entries of x that are
    entries of y.
    """

    adjoint: Map
    gram: Callable[[Map, Tensor], Tensor]
    observed: Tensor | None = None

    def derivative(self, x: Float[Tensor, "batch *shape"]) -> tuple[Map, Map]:
        """Return A and Aᵀ."""
        return self.forward, self.adjoint

    def keep_observed(
        self, y: Float[Tensor, "batch *measured"]
    ) -> Float[Tensor, "batch *measured"]:
        """Return y with 0 for the pixels that a mask hides, which may be NaN."""
        return y if self.observed is None else self.forward(y)

    def pinv(self, y: Float[Tensor, "batch *measured"]) -> Float[Tensor, "batch *shape"]:
        """Return A⁺y, the smallest x with the least residual."""
        return self.adjoint(self.solve(y, 0.0, 1.0))

    def solve(
        self, y: Float[Tensor, "batch *measured"], sigma_y: float, spread: Tensor | float
    ) -> Float[Tensor, "batch *measured"]:
        """Return (σ_y²I + spread²·AAᵀ)⁺y, the precision of Ax + σ_y·n times y in A's range."""

        def inverse(values: Tensor) -> Tensor:
            variance = sigma_y**2 + spread**2 * values
            return torch.where(variance > 0, 1 / variance, 0)

        return self.gram(inverse, y)

    def project(
        self, x: Float[Tensor, "batch *shape"], y: Float[Tensor, "rows *measured"]
    ) -> Float[Tensor, "batch *shape"]:
        """Return the nearest point with Ax = y; known pixels of a mask become y exactly."""
        gap = self.gap(y, x)
        if self.observed is not None:
            return torch.where(self.observed.to(x.device), y.to(x), x)
        return x + self.pinv(gap)


def copy_once(value: Tensor) -> Map:
    """Return a function that gives the value on the device of x, copied there at the first call.

    Floats come in the type of x.
    """

    @cache
    @torch.inference_mode(False)  # the copy is for later calls too
    def copy(device: torch.device, dtype: torch.dtype) -> Tensor:
        return value.to(dtype).to(device)  # in this order, for a device without the value's type

    return lambda x: copy(x.device, x.dtype if value.is_floating_point() else value.dtype)


def check_measurement(
    operator: Operator, y: Tensor, sigma_y: float, *, linear: bool = True
) -> None:
    """Raise if y is not a finite measurement, or sigma_y not a standard deviation."""
    if linear and type(operator) is Operator:
        raise TypeError(
            "operator is nonlinear, but this method needs a linear one: take dps or mmps"
        )
    if not isinstance(operator, Operator):
        kind = type(operator).__name__
        raise TypeError(
            f"operator is {kind}: give a LinearOperator, such as inverse.mask(observed)"
        )
    check_batch(y, "y")
    if not operator.keep_observed(y).isfinite().all():
        raise ValueError("y has NaN or infinite values: exclude them by a mask")
    if not 0 <= sigma_y < math.inf:
        raise ValueError(f"sigma_y={sigma_y}: give the noise's standard deviation, 0 or more")


def check_binary(observed: Tensor) -> None:
    """Raise unless this is a tensor of 0 and 1."""
    if not isinstance(observed, Tensor):
        kind = type(observed).__name__
        raise TypeError(f"observed is {kind}: give a tensor of 0 and 1, torch.as_tensor(observed)")
    if not ((observed == 0) | (observed == 1)).all():
        raise ValueError("observed has values other than 0 and 1: threshold it, as observed > 0.5")


def mask(observed: Tensor) -> LinearOperator:
    """Inpainting, y = m ⊙ x. m broadcasts to a sample, 1 or True is observed; y has x's shape."""
    check_binary(observed)
    observed = observed.bool()
    observed_like = copy_once(observed)

    def keep(x: Tensor) -> Tensor:
        sizes = zip(reversed(observed.shape), reversed(x.shape[1:]), strict=False)
        if observed.ndim >= x.ndim or any(m not in (1, size) for m, size in sizes):
            raise ValueError(
                f"the mask has shape {tuple(observed.shape)}, but is applied to a batch of "
                f"{tuple(x.shape[1:])}: give x and y in one shape, and a mask that broadcasts to it"
            )
        return torch.where(observed_like(x), x, 0)

    return LinearOperator(keep, keep, lambda f, y: f(y.new_ones(())) * keep(y), observed)


def grayscale(weights: Sequence[float] = LUMA) -> LinearOperator:
    """Colourisation, y = Σ w_c·x_c over the channels."""
    square = sum(w**2 for w in weights)
    if square == 0:
        raise ValueError("weights are all 0: give one number for each channel")

    column = copy_once(torch.tensor(weights, dtype=torch.float64).view(-1, 1, 1))

    def forward(x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != len(weights):
            shape = tuple(x.shape)
            raise ValueError(f"x has shape {shape}: give images of {len(weights)} channels")
        return (x * column(x)).sum(1, keepdim=True)

    def gram(f: Map, y: Tensor) -> Tensor:
        return f(y.new_full((), square)) * y

    return LinearOperator(forward, lambda y: y * column(y), gram)


def downsample(factor: int) -> LinearOperator:
    """Super-resolution, y = means over factor × factor pixels."""
    check_count(factor=factor)

    def forward(x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[2] % factor or x.shape[3] % factor:
            raise ValueError(f"x has shape {tuple(x.shape)}: give images that {factor=} divides")
        return avg_pool2d(x, factor)

    def adjoint(y: Tensor) -> Tensor:
        return y.repeat_interleave(factor, 2).repeat_interleave(factor, 3) / factor**2

    return LinearOperator(forward, adjoint, lambda f, y: f(y.new_full((), factor**-2)) * y)


def blur(sigma: float) -> LinearOperator:
    """Deblurring, y = x ∗ N(0, sigma²) in pixels with periodic edges, by FFT.

    A wave of frequency ω keeps the factor exp(−sigma²ω²/2), or 0 if that is below `BLUR_CUTOFF`.
    """
    if not sigma >= 0:
        raise ValueError(f"sigma={sigma}: give the blur's standard deviation in pixels")

    def multiply(factor: Map, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        rows = torch.fft.fftfreq(height, dtype=x.dtype, device=x.device)
        columns = torch.fft.rfftfreq(width, dtype=x.dtype, device=x.device)
        square = (2 * torch.pi) ** 2 * (rows[:, None] ** 2 + columns**2)
        response = (-0.5 * sigma**2 * square).exp()
        waves = torch.fft.rfft2(x) * factor(response.where(response >= BLUR_CUTOFF, 0))
        out: Tensor = torch.fft.irfft2(waves, s=(height, width))
        return out

    forward = partial(multiply, lambda response: response)
    return LinearOperator(
        forward, forward, lambda f, y: multiply(lambda response: f(response**2) * (response > 0), y)
    )


def matrix(rows: Float[Tensor, "m size"], shape: Sequence[int] | None = None) -> LinearOperator:
    """Any matrix, y = rows·x for flattened x; `shape` is that of a sample if not a vector."""
    if rows.ndim != 2 or not rows.is_floating_point():
        raise ValueError(f"rows has shape {tuple(rows.shape)}: give a matrix of floats, m × size")
    shape = torch.Size(shape or rows.shape[1:])
    if shape.numel() != rows.shape[1]:
        raise ValueError(f"rows has {rows.shape[1]} columns, but a sample {shape.numel()} numbers")
    if not rows.any():
        raise ValueError("rows are all 0: give a matrix that measures something")
    last = on_last_axis(rows, max(rows.shape) * torch.finfo(rows.dtype).eps)
    return LinearOperator(
        lambda x: last(x.flatten(1)), lambda y: last.adjoint(y).view(len(y), *shape), last.gram
    )


def on_last_axis(rows: Float[Tensor, "m size"], cutoff: float) -> LinearOperator:
    """Return the operator that multiplies the last axis of a batch by a matrix.

    In functions of AAᵀ, singular values below `cutoff` times the largest count as 0.
    """
    a = copy_once(rows)

    @cache
    @torch.inference_mode(False)
    def factors() -> tuple[Map, Map]:
        left, scales, _ = torch.linalg.svd(wide(rows), full_matrices=False)
        rank = int((scales > scales.max() * cutoff).sum())
        return copy_once(left[:, :rank]), copy_once(scales[:rank])

    def gram(f: Map, y: Tensor) -> Tensor:
        basis, scale = (factor(y) for factor in factors())
        out: Tensor = (y @ basis * f(scale**2)) @ basis.T
        return out

    return LinearOperator(lambda x: x @ a(x).T, lambda y: y @ a(y), gram)


def nonlinear(function: Map) -> Operator:
    """Any differentiable y = A(x) of a batch, such as a network; a row depends on its sample only.

    `dps` and `mmps` take it; `mmps` differentiates it twice.
    """
    if not callable(function):
        raise TypeError(f"function is {type(function).__name__}: give a function of a batch x")
    return Operator(function)
