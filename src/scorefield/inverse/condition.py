"""Conditioning as a map Score → Score, for any sampler and any linear measurement y = Ax + σ_y·n.

    s(x, σ) + ∇ₓ log p(y | x)

    replace   s where nothing is measured, else the score of N(y, σ_y²I + σ²AAᵀ)
    dps       p(y | x) ≈ N(y | A·D, vI), v by the size of the residual     (Chung et al. 2023)
    pigdm     p(y | x) ≈ N(y | A·D, σ_y²I + r²AAᵀ), r² = σ²σ_d²/(σ²+σ_d²)  (Song et al. 2023)
    mmps      p(y | x) ≈ N(y | A·D, σ_y²I + AVAᵀ), V = σ²·∂D/∂x          (Rozet et al. 2024)

None is the posterior's score, except `mmps` for a Gaussian and `pigdm` for N(μ, σ_d²I). y is one
measurement (a batch of one) or one for each sample.

`dps` and `mmps` take any differentiable A too, which `mmps` replaces by its tangent at D. They also
take shot noise, y ~ Poisson(peak·Ax)/peak, with the variance A·D/peak in place of σ_y², or added to
it. The gradient of the Poisson log-likelihood by Ax is (y − Ax)/(Ax/peak), that of a normal one.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .._ops import Sigma, check_count, linearize, match, positive, sq_norm
from ..score import Score, keep_shape_and_device, to_denoiser
from .operators import LinearOperator, Map, Operator, check_measurement, copy_once

Weigh = Callable[[Tensor, Tensor, Tensor, Map], Tensor]
"""u = weigh(gap, D, σ, spread) with gap = y − A·D and spread = A·∂D/∂x·Aᵀ."""
Measurement = Float[Tensor, "rows *measured"]


def replace(
    score: Score, operator: LinearOperator, y: Measurement, *, sigma_y: float = 0.0
) -> Score:
    """Replace the score in the measured directions (Song et al. 2021, appendix I.2).

        (I − A⁺A)·s(x, σ) + Aᵀ(σ_y²I + σ²AAᵀ)⁺(y − Ax)

    The other directions see y only through x at the same σ: known pixels are noisy when the large
    shapes are decided.
    """
    check_measurement(operator, y, sigma_y)
    y_like = copy_once(y)

    def conditional(x: Tensor, sigma: Sigma) -> Tensor:
        s, gap = score(x, sigma), operator.gap(y_like(x), x)
        pull = operator.adjoint(operator.solve(gap, sigma_y, positive(sigma, gap)))
        return s - operator.pinv(operator(s)) + pull

    return keep_shape_and_device(score, conditional)


def dps(
    score: Score,
    operator: Operator,
    y: Measurement,
    *,
    sigma_y: float = 0.0,
    peak: float | None = None,
    zeta: float = 1.0,
) -> Score:
    """Diffusion posterior sampling: y measures D with noise of variance v (Chung et al. 2023).

        s(x, σ) + (∂D/∂x)ᵀAᵀ(y − A·D)/v,   v = σ_y² + σ·‖y − A·D‖/ζ√m   for m measured numbers

    The paper (eq. 15) has v = σ_y², but its algorithm 1 takes the step ζ'·∇‖y − A·D‖ at each of N
    transitions of any length. v is that step as a score: from σ to σ(1 − δ) it moves x by
    2δζ√m·σ·∇‖y − A·D‖, so `zeta` means the same on any grid. With ζ = 1, a residual of σ a number
    counts as noise of variance σ². Shot noise of `peak` photons adds A·D/peak to σ_y².
    """
    noise = _noise_variance(operator, y, sigma_y, peak)
    if not 0 < zeta < math.inf:
        raise ValueError(f"zeta={zeta}: give a strength above 0")

    def weigh(gap: Tensor, denoised: Tensor, sigma: Tensor, spread: Map) -> Tensor:
        size = match((sq_norm(gap) / operator.count(gap)).sqrt(), gap)
        return gap / (noise(denoised) + sigma * size / zeta).clamp(min=1e-30)

    return _pull_denoiser(score, operator, y, weigh)


def pigdm(
    score: Score,
    operator: LinearOperator,
    y: Measurement,
    *,
    sigma_y: float = 0.0,
    sigma_data: float = 0.5,
) -> Score:
    """Pseudoinverse guidance: y measures x₀ ~ N(D, r²I) (Song et al. 2023, eq. 7).

        s(x, σ) + (∂D/∂x)ᵀAᵀ(σ_y²I + r²AAᵀ)⁺(y − A·D),   r² = σ²σ_d²/(σ² + σ_d²)

    `sigma_data` is the data's standard deviation σ_d.
    """
    check_measurement(operator, y, sigma_y)
    return _pull_denoiser(score, operator, y, by_ball(operator, sigma_y, sigma_data))


def by_ball(operator: LinearOperator, sigma_y: float, sigma_data: float) -> Weigh:
    """Return (gap, D, σ, spread) ↦ (σ_y²I + r²AAᵀ)⁻¹·gap."""
    if not 0 < sigma_data < math.inf:
        raise ValueError(f"sigma_data={sigma_data}: give the data's standard deviation")

    def weigh(gap: Tensor, denoised: Tensor, sigma: Tensor, spread: Map) -> Tensor:
        deviation = sigma * sigma_data / (sigma**2 + sigma_data**2).sqrt()
        return operator.solve(gap, sigma_y, deviation)

    return weigh


def mmps(
    score: Score,
    operator: Operator,
    y: Measurement,
    *,
    sigma_y: float = 0.0,
    peak: float | None = None,
    iterations: int = 5,
) -> Score:
    """Moment matching: y measures x₀ ~ N(D, V) with its exact covariance (Rozet et al. 2024).

        s(x, σ) + (∂D/∂x)ᵀAᵀ(σ_y²I + AVAᵀ)⁻¹(y − A·D),   V = σ²·∂D/∂x

    It solves by σ_y²I + AVAᵀ in `iterations` of conjugate gradients, each one pullback of D. Where
    a trained score has negative variances, it stops early and uses less of y. `peak` is that of
    `dps`.
    """
    noise = _noise_variance(operator, y, sigma_y, peak)
    check_count(iterations=iterations)

    def weigh(gap: Tensor, denoised: Tensor, sigma: Tensor, spread: Map) -> Tensor:
        variance = noise(denoised)
        return _conjugate_gradients(lambda v: sigma**2 * spread(v), variance, gap, iterations)

    return _pull_denoiser(score, operator, y, weigh)


def _noise_variance(
    operator: Operator, y: Tensor, sigma_y: float, peak: float | None
) -> Callable[[Tensor], Tensor | float]:
    """Return the variance of y's noise as a function of D; the least A·D is one photon."""
    check_measurement(operator, y, sigma_y, linear=False)
    if peak is None:
        return lambda denoised: sigma_y**2
    if not 0 < peak < math.inf:
        raise ValueError(f"peak={peak}: give the photons of a measured value of 1, above 0")
    if sigma_y == 0 and (operator.keep_observed(y) < 0).any():
        raise ValueError("y has negative values: give counts over peak, or sigma_y > 0")
    return lambda denoised: sigma_y**2 + operator(denoised).clamp(min=1 / peak) / peak


def _conjugate_gradients(
    variance: Map, noise: Tensor | float, b: Tensor, iterations: int
) -> Tensor:
    """Return u with noise·u + variance(u) ≈ b for each sample: the iterate of smallest residual.

    The variance of a network may be negative: a sample stops at the first direction where it is
    ≤ 0, as in Steihaug (1983), and an iterate with a residual above ‖b‖ is never returned.
    """

    def dot(v: Tensor, w: Tensor) -> Tensor:
        return (v * w).flatten(1).sum(1)

    def divide(a: Tensor, b: Tensor) -> Tensor:
        return match(torch.where(going & (b > 0), a / b, 0), residual)

    u = best = torch.zeros_like(b)
    residual = direction = b
    square = least = sq_norm(b)
    going = square > 0
    for _ in range(iterations):
        spread = variance(direction)
        going = going & (dot(direction, spread) > 0)
        image = noise * direction + spread
        step = divide(square, dot(direction, image))
        u, residual, last = u + step * direction, residual - step * image, square
        square = sq_norm(residual)
        direction = residual + divide(square, last) * direction
        best = torch.where(match(least - square, b) > 0, u, best)
        least = torch.minimum(square, least)
    return best


def _pull_denoiser(score: Score, operator: Operator, y: Tensor, weigh: Weigh) -> Score:
    """Return s + the gradient of `predict_measurement`."""
    predict = predict_measurement(score, operator, y, weigh)

    def conditional(x: Tensor, sigma: Sigma) -> Tensor:
        prediction = predict(x, sigma)
        return (prediction.denoised - x) / match(sigma, x) ** 2 + prediction.pull

    return keep_shape_and_device(score, conditional)


class Prediction(NamedTuple):
    """Prediction of y from noisy samples."""

    denoised: Tensor
    log_p: Float[Tensor, "batch"]
    """−½ gapᵀu with u = weigh(gap): log p(y | x) up to a constant, if u is linear in the gap."""
    pull: Tensor
    """(∂D/∂x)ᵀAᵀu, its gradient."""


def predict_measurement(
    score: Score, operator: Operator, y: Tensor, weigh: Weigh
) -> Callable[[Tensor, Sigma], Prediction]:
    """Return the function of (x, σ) that predicts y by D, with gap = y − A·D."""
    y_like = copy_once(y)

    def predict(x: Tensor, sigma: Sigma) -> Prediction:
        denoised, pullback = linearize(lambda x: to_denoiser(score)(x, sigma), x)
        gap = operator.keep_observed(operator.gap(y_like(x), denoised))
        push, pull = operator.derivative(denoised)

        def spread(v: Tensor) -> Tensor:
            return push(pullback(pull(v)))

        u = weigh(gap, denoised, positive(sigma, gap), spread)
        log_p = -0.5 * (gap * u).flatten(1).sum(1)
        return Prediction(denoised, log_p, pullback(pull(u)))

    return predict
