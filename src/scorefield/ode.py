"""Dormand & Prince's method of order 5 (1980), with step sizes of its own for each sample.

A step of length h has slopes kᵢ = f(t + cᵢh, y + h·Σⱼ aᵢⱼkⱼ), of which the last is the first of the
next step. Its error is estimated by a second method of order 4, as h·Σᵢ eᵢkᵢ.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

Flow: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""dy/dt as a function of t and y of some rows of a batch, and of their indices."""
Flat: TypeAlias = Float[Tensor, "batch size"]
NODES = (0.2, 0.3, 0.8, 8 / 9, 1.0, 1.0)
WEIGHTS = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERRORS = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def solve(
    f: Flow,
    y: Flat,
    times: Sequence[float],
    scale: Callable[[Tensor, Tensor], Tensor],
    max_evaluations: int,
    first_step: float = 0.01,
) -> Iterator[tuple[Flat, Flat, Int[Tensor, "batch"]]]:
    """Yield y, dy/dt and the evaluations of each row, at each of the times after the first.

    The error of a step is at most scale(t, y). A row whose slope is not finite becomes NaN.
    """
    y, t, h = y.clone(), y.new_full((len(y),), times[0]), y.new_full((len(y),), first_step)
    count, everything = torch.ones_like(t, dtype=torch.long), torch.arange(len(y), device=y.device)
    slope, least = f(t, y, everything), max(1e-12, 16 * torch.finfo(y.dtype).eps)
    for end in times[1:]:
        while len(rows := everything[end - t > least]):
            step = torch.minimum(h[rows], end - t[rows])
            slopes = [slope[rows]]
            for node, weights in zip(NODES, WEIGHTS, strict=True):
                move = sum(w * k for w, k in zip(weights, slopes, strict=True))
                proposal = y[rows] + step[:, None] * move
                slopes.append(f(t[rows] + node * step, proposal, rows))
            count[rows] += len(NODES)
            error = step[:, None] * sum(e * k for e, k in zip(ERRORS, slopes, strict=True))
            ratio = (error / scale(t[rows], y[rows])).abs().amax(1).nan_to_num(math.inf, math.inf)
            good = ratio <= 1
            y[rows[good]], slope[rows[good]] = proposal[good], slopes[-1][good]
            t[rows[good]] += step[good]
            # a step that was only cut at the end says nothing against longer ones
            fits = torch.where(good & (step < h[rows]), h[rows], 0)
            h[rows] = (step * (0.9 * ratio.clamp(min=1e-8) ** -0.2).clamp(0.2, 5.0)).maximum(fits)
            short, late = h[rows] < 1e-10, count[rows] > max_evaluations
            broken = rows[short & ratio.isinf()]
            y[broken], slope[broken], t[broken] = math.nan, math.nan, times[-1]
            short &= ratio.isfinite()
            if (short | late).any():
                fault = "need steps below 1e-10: the score is not smooth there. Raise"
                if not short.any():
                    fault = f"do not reach the last noise level within {max_evaluations} "
                    fault += "evaluations: raise max_evaluations,"
                stuck = rows[short if short.any() else late][:5].tolist()
                raise ValueError(f"samples {stuck} {fault} tolerance or the smallest noise level")
        yield y.clone(), slope.clone(), count.clone()
