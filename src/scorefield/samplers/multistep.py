"""Linear multistep methods: polynomials through the last evaluations, integrated exactly.

The probability-flow ODE is linear in x, up to the network's part, in two ways:

    dx = ε dσ,              ε = −σs           (noise)
    d(x/σ) = D d(1/σ),      D = x + σ²s       (denoised)

A method of order k replaces ε by its polynomial in σ through the last k levels, or D by its
polynomial in λ = −log σ.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .._ops import Noise, Samples
from ..score import Score
from .state import State, sampler

MultistepForm = Literal["denoised", "noise"]
History: TypeAlias = list[tuple[float, Tensor]]
"""The last levels, each with D or ε."""
QUADRATURE = np.polynomial.legendre.leggauss(16)
"""Gauss and Legendre's points and weights on [−1, 1], exact for polynomials of degree 31."""


@sampler()
def multistep(
    score: Score,
    x: Samples,
    sigmas: Float[Tensor, "levels"],
    *,
    order: int = 3,
    form: MultistepForm = "denoised",
    corrector: bool = False,
    denoise: bool = True,
    noise: Noise = torch.randn_like,
) -> Iterator[State]:
    """Take steps of Adams and Bashforth, by the polynomial through the last `order` levels.

        x' = x + ∫ε dσ over σ … σ'   or   x'/σ' = x/σ + ∫D d(1/σ) over σ … σ'

    The first steps have fewer levels, and so a lower order. With `form="noise"` the polynomial is
    ε's in σ: the linear multistep method, also PNDM (Liu et al. 2022) and DEIS (Zhang & Chen 2023).
    With "denoised" it is D's in λ: DPM-Solver++ (Lu et al. 2022b) and UniP (Zhao et al. 2023),
    which are the same where the integral is exact. The `corrector` UniC (same paper) repeats a step
    through the value at its end too, when that is known: one order more, at no evaluation more. For
    the rest see `integrate`; `noise` is not used.
    """
    history, x_last = History(), x
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        s = score(x, sigma)
        d = x + sigma**2 * s
        history.append((sigma, d if form == "denoised" else -sigma * s))
        if corrector and len(history) > 1:
            x = _advance(form, x_last, history[-2][0], sigma, history)
        history, x_last = history[-order:], x
        x = _advance(form, x, sigma, sigma_next, history)
        yield State(x, sigma_next, d)


def _advance(
    form: MultistepForm, x: Tensor, sigma: float, sigma_next: float, history: History
) -> Tensor:
    """Return x at sigma_next by the polynomial through the history's values at its levels."""
    levels = np.array([sigma, sigma_next, *(level for level, _ in history)])
    start, end, *nodes = levels if form == "noise" else -np.log(levels)
    half, (points, weights) = (end - start) / 2, QUADRATURE
    t = start + half * (1 + points)
    if form == "denoised":
        x = sigma_next / sigma * x
    for i, (_, value) in enumerate(history):
        others = np.delete(nodes, i)
        basis = ((t[:, None] - others) / (nodes[i] - others)).prod(1)
        density = 1.0 if form == "noise" else sigma_next * np.exp(t)
        x = x + float(half * (weights * density * basis).sum()) * value
    return x
