"""Measurements of medical scanners, as linear operators of images.

    fourier   y = some frequencies of x                     magnetic resonance imaging
    radon     y(θ, t) = ∫∫ x(r) δ(r·(cos θ, sin θ) − t) dr  tomography with parallel rays

`fourier` computes by the FFT, `radon` by a matrix.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from .._ops import check_count
from .operators import LinearOperator, Map, check_binary, copy_once, on_last_axis

RADON_CUTOFF = 1e-4
"""Directions that the projections show this much weaker than the strongest count as hidden."""

RADON_BYTES = 2**31
"""Largest matrix of `radon`; its decomposition takes some times as much memory."""


def fourier(observed: Tensor) -> LinearOperator:
    """Frequencies of an image, y = F·x by the orthonormal FFT of each channel.

    `observed`, height × width, is 1 or True for the frequencies that are measured, in the order of
    `torch.fft.fft2`: the first is the mean. y has two numbers for each, the real and the imaginary
    part. Those of ω and −ω are conjugate. Where both are measured, AAᵀ has the eigenvalue 1 for
    values that agree and 0 for others; where only one is, ½.
    """
    check_binary(observed)
    if observed.ndim != 2 or not observed.any():
        raise ValueError(
            f"observed has shape {tuple(observed.shape)}: give a matrix of 0 and 1, height × "
            "width, with a 1 for each frequency that is measured"
        )
    height, width = observed.shape
    index = observed.flatten().nonzero()[:, 0].cpu()
    opposite = -(index // width) % height * width + -index % width
    place = torch.full((height * width,), -1)
    place[index] = torch.arange(len(index))
    partner = place[opposite]
    index_like, both_like = copy_once(index), copy_once((partner >= 0)[:, None])
    partner_like, conjugate = copy_once(partner.clamp(min=0)), copy_once(torch.tensor([1.0, -1.0]))

    def forward(x: Tensor) -> Tensor:
        check_size(x, height, width)
        waves = torch.fft.fft2(x, norm="ortho").flatten(2)
        return torch.view_as_real(waves.index_select(2, index_like(x)))

    def adjoint(y: Tensor) -> Tensor:
        waves = torch.zeros(*y.shape[:2], height * width, 2, dtype=y.dtype, device=y.device)
        waves = waves.index_copy(2, index_like(y), y).view(*y.shape[:2], height, width, 2)
        out: Tensor = torch.fft.ifft2(torch.view_as_complex(waves), norm="ortho").real
        return out

    def gram(f: Map, y: Tensor) -> Tensor:
        agreed = (y + conjugate(y) * y.index_select(2, partner_like(y))) / 2
        one = y.new_ones(())
        return torch.where(both_like(y), f(one) * agreed, f(one / 2) * y)

    return LinearOperator(forward, adjoint, gram)


def radon(angles: int | Float[Tensor, "angles"], size: int) -> LinearOperator:
    """Projections of size × size images at `angles` in radians, or at this number from 0 to π.

        y(θ, t) = ∫∫ x(r) δ(r·(cos θ, sin θ) − t) dr

    y has a row for each angle θ, with the integrals along lines at the distance
    t = column·cos θ + row·sin θ from the centre, averaged over detectors as wide as a pixel. A
    length of 1 is a side of the image, and the detectors cover its diagonal. Pixels are squares, so
    A is exact; `RADON_CUTOFF` ends its inverse.

    A is a dense matrix in float64 of about 11·angles·size³ bytes, at most `RADON_BYTES`, as for 90
    angles and a size of 128. All but A and Aᵀ needs its singular values, which take some 7 times
    the memory and 64 times the time for twice the size and angles (docs/restoration.md).
    """
    check_count(size=size)
    if isinstance(angles, int):
        check_count(angles=angles)
        angles = torch.arange(angles).double() * math.pi / angles
    if not isinstance(angles, Tensor):
        kind = type(angles).__name__
        raise TypeError(f"angles is {kind}: give a number or a tensor, torch.as_tensor(angles)")
    if angles.ndim != 1 or len(angles) == 0:
        shape = tuple(angles.shape)
        raise ValueError(f"angles has shape {shape}: give a number or a vector of radians")
    bins = size + 2 * math.ceil((2**0.5 - 1) / 2 * size)
    needed = 8 * len(angles) * bins * size**2
    if needed > RADON_BYTES:
        raise ValueError(
            f"{size=} and {len(angles)} angles need a matrix of {needed:,} bytes, above the limit "
            f"of {RADON_BYTES:,}: take fewer angles or smaller images"
        )
    rows = torch.cat([footprints(theta, size, bins) for theta in angles.tolist()])
    last = on_last_axis(rows, RADON_CUTOFF)

    def forward(x: Tensor) -> Tensor:
        check_size(x, size, size)
        return last(x.flatten(2)).view(*x.shape[:2], -1, bins)

    def adjoint(y: Tensor) -> Tensor:
        return last.adjoint(y.flatten(2)).view(*y.shape[:2], size, size)

    def gram(f: Map, y: Tensor) -> Tensor:
        return last.gram(f, y.flatten(2).unsqueeze(2)).view_as(y)

    return LinearOperator(forward, adjoint, gram)


def footprints(theta: float, size: int, bins: int) -> Float[Tensor, "bins pixels"]:
    """Return the areas of pixels within strips one pixel wide, over the side of the image.

    The distance t within a pixel has the distribution of a sum of two uniform variables, of widths
    |cos θ| and |sin θ|.
    """
    cos, sin = math.cos(theta), math.sin(theta)
    wide, narrow = max(abs(cos), abs(sin)), max(min(abs(cos), abs(sin)), 1e-7)
    at = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    centre = (at * cos + at[:, None] * sin).flatten()
    edge = torch.arange(bins + 1, dtype=torch.float64) - bins / 2
    half, inner = (wide + narrow) / 2, (wide - narrow) / 2
    u = (edge[:, None] - centre).clamp(-half, half)

    def ramp(u: Tensor) -> Tensor:
        return u.clamp(min=0).square()

    corners = ramp(u + half) - ramp(u + inner) - ramp(u - inner)
    return (corners / (2 * wide * narrow)).diff(dim=0) / size


def check_size(x: Tensor, height: int, width: int) -> None:
    """Raise unless x is a batch of images of this size."""
    if x.ndim != 4 or x.shape[2:] != (height, width):
        raise ValueError(f"x has shape {tuple(x.shape)}: give images of {height} × {width} pixels")
