"""Losses whose minimiser is the score.

    J(s) = E_{q_σ}[½‖s‖² + tr ∇ₓs]  =  ½E_{q_σ}‖s − ∇ₓ log q_σ‖² + const    (Hyvärinen 2005)

Three unbiased estimates of J, up to constants, and the mixture over σ that trains a network:

    exact        ½‖s‖² + tr ∇ₓs                                     (Song & Ermon 2019, eq. 1)
    sliced       vᵀ(∇ₓs)v + ½‖s‖²,  E[vvᵀ] = I                       (eq. 3)
    denoising    ½‖s(x + σz, σ) + z/σ‖²                             (eq. 2 and 5)
    annealed     E_σ[λ(σ)·loss(σ)]                                  (eq. 6)

Each has the signature `(score, x, sigma, *, noise) -> loss of each sample`, with x clean: it adds
the noise itself. `exact` and `sliced` accept σ = 0, the data's own score.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ._ops import Noise, Sigma, linearize, match, positive, sq_norm, trace
from .noise import perturb
from .score import Score


@runtime_checkable
class Objective(Protocol):
    """An estimate of the score-matching loss of q_σ, one number per clean sample."""

    def __call__(
        self,
        score: Score,
        x: Float[Tensor, "batch *shape"],
        sigma: Sigma,
        /,
        *,
        noise: Noise = torch.randn_like,
    ) -> Float[Tensor, "batch"]:
        """The loss of each sample."""


@runtime_checkable
class Law(Protocol):
    """A distribution of σ, as a function of standard normal draws."""

    def __call__(self, z: Float[Tensor, "batch"], /) -> Float[Tensor, "batch"]:
        """The σ that belong to the draws."""

    def density(self, sigma: Float[Tensor, "batch"], /) -> Float[Tensor, "batch"]:
        """p(σ)."""


def exact(
    score: Score,
    x: Float[Tensor, "batch *shape"],
    sigma: Sigma,
    *,
    noise: Noise = torch.randn_like,
    chunk: int = 64,
) -> Float[Tensor, "batch"]:
    """½‖s‖² + tr ∇ₓs, the trace exact: `chunk` rows of the Jacobian at a time."""
    x = perturb(x, sigma, noise(x))
    s, pullback = linearize(lambda x: score(x, sigma), x)
    return 0.5 * sq_norm(s) + trace(pullback, s, chunk=chunk)


def rademacher(z: Tensor) -> Tensor:
    """±1 in each dimension: the least variance of vᵀAv."""
    return torch.ones_like(z).copysign(z)


def gaussian(z: Tensor) -> Tensor:
    """Standard normal."""
    return z


def sphere(z: Tensor) -> Tensor:
    """Uniform on the sphere of radius √D, so that E[vvᵀ] = I."""
    return z * match((z[0].numel() / sq_norm(z)).sqrt(), z)


def sliced(
    score: Score,
    x: Float[Tensor, "batch *shape"],
    sigma: Sigma,
    *,
    noise: Noise = torch.randn_like,
    projection: Callable[[Tensor], Tensor] = rademacher,
    projections: int = 1,
    reduced: bool = True,
) -> Float[Tensor, "batch"]:
    """vᵀ(∇ₓs)v + ½(vᵀs)² or, reduced, + ½‖s‖², over random directions v (Song et al. 2019, SSM).

    Args:
        score: the score to be learned.
        x: clean samples.
        sigma: noise level, 0 included.
        noise: source of the perturbation and, after it, of the directions.
        projection: `rademacher`, `gaussian` or `sphere`; makes directions of normal draws.
        projections: how many directions are averaged.
        reduced: take ½‖s‖², the mean of the second term, in its place: less variance.
    """
    if projections < 1:
        raise ValueError(f"projections={projections}: give at least one direction")
    x = perturb(x, sigma, noise(x))
    s, pullback = linearize(lambda x: score(x, sigma), x)
    loss = s.new_zeros(len(s))
    for _ in range(projections):
        v = projection(noise(x))
        square = sq_norm(s) if reduced else (v * s).flatten(1).sum(1).square()
        loss = loss + (pullback(v) * v).flatten(1).sum(1) + 0.5 * square
    return loss / projections


def denoising(
    score: Score,
    x: Float[Tensor, "batch *shape"],
    sigma: Sigma,
    *,
    noise: Noise = torch.randn_like,
) -> Float[Tensor, "batch"]:
    """½‖σs(x + σz, σ) + z‖²/σ² (Vincent 2011)."""
    level = positive(sigma, x)
    z = noise(x)
    return 0.5 * sq_norm((level * score(perturb(x, sigma, z), sigma) + z) / level)


# ── Over all noise levels ────────────────────────────────────────────────────────────────────────


def ncsn_weight(sigma: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """λ(σ) = σ² (Song & Ermon 2019, §4.2): every level contributes alike."""
    return sigma**2


def edm_weight(sigma_data: float) -> Callable[[Tensor], Tensor]:
    """λ(σ) = 2σ²(σ² + σ_d²)/σ_d² (Karras et al. 2022, table 1): unit loss at the start."""
    return lambda sigma: 2 * sigma**2 * (sigma**2 + sigma_data**2) / sigma_data**2


def likelihood_weight(law: Law) -> Callable[[Tensor], Tensor]:
    """λ(σ) = 2σ/p(σ): the mean bounds the divergence from the data (Song et al. 2021b, thm 1)."""
    return lambda sigma: 2 * sigma / law.density(sigma)


def annealed(
    objective: Objective, law: Law, weight: Callable[[Tensor], Tensor] = ncsn_weight
) -> Callable[..., Float[Tensor, "batch"]]:
    """λ(σ)·objective at a σ drawn for each sample: `loss(score, x, *, noise) -> per sample`."""

    def loss(
        score: Score, x: Float[Tensor, "batch *shape"], *, noise: Noise = torch.randn_like
    ) -> Float[Tensor, "batch"]:
        sigma = law(noise(x.new_empty(len(x))))
        return weight(sigma) * objective(score, x, sigma, noise=noise)

    return loss
