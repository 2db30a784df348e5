"""Restoration in one call, and from file to file: the completions of what was measured.

    y = Ax + σ_y·n   ↦   n draws of x given y, their mean, their standard deviation

Which methods draw from the posterior, and which only near it, is in docs/restoration.md. Whatever
the method, a noiseless measurement ends with `A.project(x, y)`: known pixels come back as given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from . import inverse
from .inverse import LinearOperator
from .inverse.operators import measured
from .model import ScoreModel
from .noise import geometric, seeded
from .sample import make_plan
from .samplers import States, final
from .score import Score

Method = Literal["particle_filter", "pigdm", "dps", "replace", "algorithm2"]


def restore(
    model: ScoreModel,
    operator: LinearOperator,
    y: Float[Tensor, "rows *measured"],
    n: int = 8,
    *,
    method: Method = "particle_filter",
    sigma_y: float = 0.0,
    steps: int | None = None,
    particles: int = 32,
    filters: int = 4,
    seed: int = 0,
    batch: int = 256,
    **options: Any,
) -> Float[Tensor, "rows n *shape"]:
    """Draw n completions of each measurement.

    Args:
        model: with a prior, where chains start.
        operator: A, as `inverse.mask(known)`.
        y: the measurements, a batch; y[None] of one.
        n: how many of each.
        method: a way of conditioning.
        sigma_y: the noise of y; with 0 each completion has Ax = y.
        steps: levels of the grid, 64 for the particle filter if not given, else as `plan` says.
        particles: of each particle filter.
        filters: of each measurement, n at most. Completions of one filter are akin, as many may
            descend from one particle; those of different filters are not.
        seed: same seed, same completions.
        batch: how many chains at once, but at least those of one measurement.
        options: of the method, as zeta=0.5 for "dps".
    """
    if method not in get_args(Method):
        raise ValueError(f"method={method!r}: there are {', '.join(get_args(Method))}")
    if min(n, particles, filters, batch) < 1 or seed < 0:
        raise ValueError(
            f"n={n}, particles={particles}, filters={filters}, batch={batch}, seed={seed}: whole "
            "numbers of 1 or more, the seed of 0 or more"
        )
    if steps is not None and steps < 1:
        raise ValueError(f"steps={steps}: take at least one")
    measured(operator, y, sigma_y)
    if model.prior is None:
        raise ValueError("the model has no prior to start from: ScoreModel(..., prior=...)")
    model.eval()
    y = y.to(model.prior.mean)
    each, take, apart = n, 1, n
    if method == "particle_filter":
        apart = min(filters, n)
        take = -(-n // apart)
        options = {"each": max(particles, take), **options}
        each = apart * options["each"]
    rows, parts = max(1, batch // each), list[Tensor]()
    for first in range(0, len(y), rows):
        block = y[first : first + rows].repeat_interleave(each, 0)
        noise = seeded(seed, first=first * each)
        chain = _chain(model, operator, block, method, sigma_y, steps, noise, options)
        x = operator.project(final(chain), block) if sigma_y == 0 else final(chain)
        # of a filter, what descends from one particle stands side by side
        x = x.view(-1, apart, each // apart, *x.shape[1:])[:, :, :: each // apart // take]
        parts.append(x[:, :, :take].transpose(1, 2).flatten(1, 2)[:, :n])
    return torch.cat(parts)


def _chain(
    model: Any,
    operator: LinearOperator,
    y: Tensor,
    method: Method,
    sigma_y: float,
    steps: int | None,
    noise: Callable[[Tensor], Tensor],
    options: dict[str, Any],
) -> States:
    """The chains of one method, a row of y for each."""
    if method == "particle_filter":
        sigmas = model.round(geometric(model.sigma_max, model.sigma_min, max(steps or 64, 2)))
        x = model.prior.sample(len(y), sigmas[0], noise=noise)
        return inverse.particle_filter(
            model, x, sigmas, operator=operator, y=y, sigma_y=sigma_y, noise=noise, **options
        )
    if method == "algorithm2":
        if operator.known is None or sigma_y > 0:
            raise ValueError("method='algorithm2' is for noiseless masks: take 'particle_filter'")
        ladder = make_plan(model, "annealed_langevin", steps)
        x = model.prior.sample(len(y), ladder.sigmas[0], noise=noise)
        own = {name: value for name, value in ladder.options.items() if name != "denoise"}
        return inverse.algorithm2(
            model, x, ladder.sigmas.to(x), known=operator.known, y=y, noise=noise, **own | options
        )
    maps: dict[str, Callable[..., Score]] = {
        "pigdm": inverse.pigdm, "dps": inverse.dps, "replace": inverse.replace
    }  # fmt: skip
    if method == "pigdm":
        spread = model.prior.dense.diagonal().mean().sqrt().item()
        options = {"sigma_data": spread, **options}
    score = maps[method](model, operator, y, sigma_y=sigma_y, **options)
    planned = make_plan(model, None, steps)
    return planned.run(score, model.prior.sample(len(y), planned.sigmas[0], noise=noise), noise)
