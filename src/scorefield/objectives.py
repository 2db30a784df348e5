"""Losses whose minimiser is the score.

    J(s) = E_{q_σ}[½‖s‖² + tr ∇ₓs]  =  ½E_{q_σ}‖s − ∇ₓ log q_σ‖² + const    (Hyvärinen 2005)

Three unbiased estimates of J, up to constants, and the mixture over σ that trains a network:

    exact        ½‖s‖² + tr ∇ₓs                                     (Song & Ermon 2019, eq. 1)
    sliced       vᵀ(∇ₓs)v + ½‖s‖²,  E[vvᵀ] = I                       (eq. 3)
    denoising    ½‖s(x + σz, σ) + z/σ‖²                             (eq. 2 and 5)
    annealed     E_σ[λ(σ)·loss(σ)]                                  (eq. 6)

and the loss that turns a score model into one for samples in 1 or 2 evaluations, whose minimiser
is not a score: D(y, σ) = y + σ²s becomes the end of the ODE's trajectory through y.

    consistency  ‖D(x + σz, σ) − D(x + rz, r)‖/(σ − r),  r < σ       (ECT; Geng et al. 2024)

Each has the signature `(score, x, sigma, *, noise) -> loss of each sample`. x is clean, and the
objective adds the noise. `exact` and `sliced` accept σ = 0, the score of the data itself.
"""

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ._ops import Noise, Samples, Sigma, check_floats, linearize, match, positive, sq_norm, trace
from .noise import perturb
from .score import Score, to_denoiser


@runtime_checkable
class Objective(Protocol):
    """An estimate of the score-matching loss of q_σ, one number per clean sample."""

    def __call__(
        self, score: Score, x: Samples, sigma: Sigma, /, *, noise: Noise = torch.randn_like
    ) -> Float[Tensor, "batch"]:
        """Return the loss of each sample."""


@runtime_checkable
class SigmaDistribution(Protocol):
    """A distribution of σ, as a function of standard normal numbers."""

    def __call__(self, z: Float[Tensor, "batch"], /) -> Float[Tensor, "batch"]:
        """Map standard normal numbers to σ."""

    def density(self, sigma: Float[Tensor, "batch"], /) -> Float[Tensor, "batch"]:
        """Return p(σ)."""


def exact(
    score: Score, x: Samples, sigma: Sigma, *, noise: Noise = torch.randn_like, chunk: int = 64
) -> Float[Tensor, "batch"]:
    """Return ½‖s‖² + tr ∇ₓs, with the exact trace: `chunk` rows of the Jacobian at a time."""
    check_floats(x)
    x = perturb(x, sigma, noise(x))
    s, pullback = linearize(lambda x: score(x, sigma), x)
    return 0.5 * sq_norm(s) + trace(pullback, s, chunk=chunk)


def rademacher(z: Samples) -> Samples:
    """Map z to ±1 in each dimension: vᵀAv then has the least variance."""
    return torch.ones_like(z).copysign(z)


def gaussian(z: Samples) -> Samples:
    """Return z itself, standard normal."""
    return z


def sphere(z: Samples) -> Samples:
    """Map z to the uniform distribution on the sphere of radius √D, so that E[vvᵀ] = I."""
    return z * match((z[0].numel() / sq_norm(z)).sqrt(), z)


def sliced(
    score: Score,
    x: Samples,
    sigma: Sigma,
    *,
    noise: Noise = torch.randn_like,
    projection: Callable[[Tensor], Tensor] = rademacher,
    projections: int = 1,
    reduced: bool = True,
) -> Float[Tensor, "batch"]:
    """Return vᵀ(∇ₓs)v + ½(vᵀs)² over random directions v (Song et al. 2019, SSM).

    If `reduced`, the second term is its mean ½‖s‖², which has less variance. σ may be 0. `noise` is
    the source of the perturbation and, after it, of as many directions as `projections`, into which
    `projection` (`rademacher`, `gaussian` or `sphere`) turns normal numbers.
    """
    if projections < 1:
        raise ValueError(f"projections={projections}: give at least one direction")
    check_floats(x)
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
    x: Samples,
    sigma: Sigma,
    *,
    noise: Noise = torch.randn_like,
    others: Float[Tensor, "others *shape"] | None = None,
) -> Float[Tensor, "batch"]:
    """Return ½‖σs(x + σz, σ) + z‖²/σ² (Vincent 2011).

    `others` are more samples of the same distribution. With them z is replaced by its mean given
    x + σz and all samples: any of the others could be the clean one. The minimiser stays the same,
    and the gradient has less variance where σ is large (Xu et al. 2023).
    """
    level, z = positive(sigma, x), noise(x)
    y = perturb(x, sigma, z)
    if others is not None:
        z = z + (x - _clean_mean(y, x, level, others)) / level
    return 0.5 * sq_norm((level * score(y, sigma) + z) / level)


def _clean_mean(y: Tensor, x: Tensor, level: Tensor, others: Tensor) -> Tensor:
    """Return E[x₀ | y], if x₀ is x or one of the others: p(x₀ | y) ∝ exp((x₀·y − ½‖x₀‖²)/σ²)."""
    flat, own, rest = y.flatten(1), x.flatten(1), others.flatten(1)
    with torch.autocast(x.device.type, enabled=False):  # half precision is too coarse for exp
        fit_own = ((flat - own / 2) * own).sum(1, keepdim=True)
        fit_rest = flat @ rest.T - sq_norm(rest) / 2
        variance = level.expand_as(x).flatten(1)[:, :1] ** 2
        shares = (torch.cat([fit_own, fit_rest], 1) / variance).softmax(1)
        return (shares[:, :1] * own + shares[:, 1:] @ rest).view_as(x)


def consistency(
    score: Score,
    x: Samples,
    sigma: Sigma,
    *,
    noise: Noise = torch.randn_like,
    doublings: int = 5,
    sigma_data: float = 0.5,
    sigma_min: float = 0.002,
) -> Float[Tensor, "batch"]:
    """Return ‖D(x + σz, σ) − D(x + rz, r)‖/(σ − r), r = σ(1 − n/2ᵏ), n = 1 + 8/(1 + exp(σ/2σ_d)).

    k is `doublings`, which grows during training. At first r is mostly 0, as it is for any r below
    `sigma_min`; there D = x, and the loss is score matching. Both evaluations have the same noise
    and the same dropout, and the gradient goes through the first only. The norm is √(‖·‖² + c²) − c
    (Song & Dhariwal 2024).
    """
    sigma = positive(sigma, x.new_empty(len(x))).expand(len(x))
    n = 1 + 8 * torch.sigmoid(-sigma / (2 * sigma_data))
    r = sigma * (1 - n / 2**doublings)
    r = torch.where(r < sigma_min, 0.0, r)
    z, denoiser = noise(x), to_denoiser(score)
    devices = [] if x.device.type == "cpu" else [x.device]
    with torch.no_grad(), torch.random.fork_rng(devices, device_type=x.device.type):
        near = r.clamp(min=sigma_min)
        end = torch.where(match(r, x) > 0, denoiser(perturb(x, near, z), near), x)
    gap = denoiser(perturb(x, sigma, z), sigma) - end
    c = 0.00108 * sigma_data * x[0].numel() ** 0.5  # the paper's, whose σ_d is 0.5
    loss: Tensor = ((sq_norm(gap) + c**2).sqrt() - c) / (sigma - r)
    return loss


def ncsn_weight(sigma: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """Return λ(σ) = σ² (Song & Ermon 2019, §4.2): all levels contribute about equally."""
    return sigma**2


def edm_weight(sigma_data: float) -> Callable[[Tensor], Tensor]:
    """Return λ(σ) = 2σ²(σ² + σ_d²)/σ_d² (Karras et al. 2022, table 1): unit loss at the start."""
    if not 0 < sigma_data < math.inf:
        raise ValueError(f"sigma_data={sigma_data}: give the data's standard deviation")
    return lambda sigma: 2 * sigma**2 * (sigma**2 + sigma_data**2) / sigma_data**2


def likelihood_weight(levels: SigmaDistribution) -> Callable[[Tensor], Tensor]:
    """Return λ(σ) = 2σ/p(σ), whose mean loss bounds a divergence (Song et al. 2021b, theorem 1)."""
    return lambda sigma: 2 * sigma / levels.density(sigma)


def annealed(
    objective: Objective,
    levels: Callable[[Tensor], Tensor],
    weight: Callable[[Tensor], Tensor] = ncsn_weight,
) -> Callable[..., Float[Tensor, "batch"]]:
    """Return λ(σ)·objective at a random σ for each sample: `loss(score, x, *, noise)`.

    `levels` maps standard normal numbers to σ, and `weight` maps σ to λ, one for each sample.
    """

    def loss(
        score: Score, x: Samples, *, noise: Noise = torch.randn_like
    ) -> Float[Tensor, "batch"]:
        check_floats(x)
        sigma = levels(noise(x.new_empty(len(x))))
        return weight(sigma) * objective(score, x, sigma, noise=noise)

    return loss
