"""Samplers down a grid of σ: any one-step method, churn, DPM-Solver++(2M), predictor–corrector."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .._ops import Noise, Samples, check_returned, sq_norm
from ..score import Score
from .state import State, sampler
from .steps import Step, StepResult, heun, reverse_diffusion


def _take(step: Step, score: Score, x: Tensor, *rest: Any) -> StepResult:
    result = step(score, x, *rest)
    if not isinstance(result, tuple) or len(result) != 2:  # two samples would unpack as well
        raise TypeError(
            f"a step returned {type(result).__name__}: return x at sigma_next and the denoised x"
        )
    check_returned(result[0], x, "a step")
    return result


@sampler()
def integrate(
    step: Step,
    score: Score,
    x: Samples,
    sigmas: Float[Tensor, "levels"],
    *,
    denoise: bool = True,
    noise: Noise = torch.randn_like,
) -> Iterator[State]:
    """Take a step from each level to the next: `integrate(heun, score, x, sigmas)`.

    x are samples of q at sigmas[0], usually `prior.sample(n, sigmas[0])`. With `denoise` the chain
    ends with the step to σ = 0, which is x + σ²s for every method.
    """
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        x, denoised = _take(step, score, x, sigma, sigma_next, noise)
        yield State(x, sigma_next, denoised)


@sampler()
def churn(
    score: Score,
    x: Samples,
    sigmas: Float[Tensor, "levels"],
    *,
    amount: float = 40.0,
    s_min: float = 0.05,
    s_max: float = 50.0,
    s_noise: float = 1.003,
    denoise: bool = True,
    noise: Noise = torch.randn_like,
) -> Iterator[State]:
    """Add noise up to a higher σ before each of Heun's steps (Karras et al. 2022, Algorithm 2).

    The step starts at x + S_noise·√(σ̂² − σ²)·z with σ̂ = σ·(1 + min(S_churn/N, √2 − 1)).
    `amount` is S_churn, the total over all steps with σ from `s_min` to `s_max`; 0 is Heun's
    method. `s_noise` multiplies the added noise; above 1 it makes up for what the model
    over-smooths. The defaults are the paper's for ImageNet at 64². For the rest see `integrate`.
    """
    # the paper counts the step to 0 among its N
    gamma = min(amount / len(sigmas), math.sqrt(2) - 1)
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        sigma_hat = sigma * (1 + gamma) if s_min <= sigma <= s_max else sigma
        if sigma_hat > sigma:
            x = x + s_noise * math.sqrt(sigma_hat**2 - sigma**2) * noise(x)
        x, denoised = heun(score, x, sigma_hat, sigma_next, noise)
        yield State(x, sigma_next, denoised)


@sampler()
def dpm_solver(
    score: Score,
    x: Samples,
    sigmas: Float[Tensor, "levels"],
    *,
    sde: bool = False,
    denoise: bool = True,
    noise: Noise = torch.randn_like,
) -> Iterator[State]:
    """DPM-Solver++(2M): order 2 with one evaluation a step (Lu et al. 2022b, Algorithm 2).

    In λ = −log σ and D = x + σ²s: x ← σ'/σ·x − (e⁻ʰ − 1)·D', where h = λ' − λ and, with r = h₋₁/h,
    D' = D + (D − D₋₁)/(2r). With `sde` it is SDE-DPM-Solver++(2M), which removes twice as much
    noise and adds new noise: x ← (σ'/σ)²·x − (e⁻²ʰ − 1)·D' + σ'√(1 − e⁻²ʰ)·z. For the arguments
    see `integrate`; the ODE does not use `noise`.
    """
    h_last, d_last = math.inf, x  # the first step, with 1/r = 0, is of order 1
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        h = math.log(sigma / sigma_next)
        r = h_last / h
        d = x + sigma**2 * score(x, sigma)
        d_prime = (1 + 1 / (2 * r)) * d - 1 / (2 * r) * d_last
        if sde:
            spread = sigma_next * math.sqrt(-math.expm1(-2 * h))
            x = (sigma_next / sigma) ** 2 * x - math.expm1(-2 * h) * d_prime + spread * noise(x)
        else:
            x = sigma_next / sigma * x - math.expm1(-h) * d_prime
        h_last, d_last = h, d
        yield State(x, sigma_next, d)


@sampler()
def predictor_corrector(
    score: Score,
    x: Samples,
    sigmas: Float[Tensor, "levels"],
    *,
    predictor: Step = reverse_diffusion,
    corrections: int = 1,
    ratio: float = 0.16,
    rule: Literal["sample", "batch"] = "sample",
    denoise: bool = True,
    noise: Noise = torch.randn_like,
) -> Iterator[State]:
    """Take a step of the predictor, then Langevin steps (Song et al. 2021, Algorithms 2 and 4).

    A correction is x ← x + α·s(x, σ') + √(2α)·z. With `ratio` r, the signal-to-noise ratio (0.16
    for CIFAR-10), it has α = 2r²σ'² by the rule "sample". By "batch" it has score_sde's
    α = 2(r·mean‖z‖/mean‖s‖)², so that a sample depends on its batch. For the rest see `integrate`.
    """
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        x, denoised = _take(predictor, score, x, sigma, sigma_next, noise)
        for _ in range(corrections):
            s, z = score(x, sigma_next), noise(x)
            scale = sigma_next if rule == "sample" else _mean_norm(z) / _mean_norm(s)
            alpha = 2 * (ratio * scale) ** 2
            denoised = x + sigma_next**2 * s
            x = x + alpha * s + (2 * alpha) ** 0.5 * z
        yield State(x, sigma_next, denoised)


def _mean_norm(x: Tensor) -> Float[Tensor, ""]:
    """Return the mean of ‖x‖ over a batch, a divisor."""
    return sq_norm(x).sqrt().mean().clamp(min=torch.finfo(x.dtype).tiny)
