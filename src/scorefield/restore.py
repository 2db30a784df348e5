"""Restoration in one call: completions of what was measured.

    y = Ax + σ_y·n   ↦   n samples of x given y

docs/restoration.md compares the methods. With a noiseless measurement each method ends with
`A.project(x, y)`, so that known pixels come back unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from . import inverse
from .inverse import LinearOperator
from .inverse.operators import check_measurement
from .model import ScoreModel
from .noise import geometric, seeded
from .sample import make_plan
from .samplers import States, final
from .score import Score

Method = Literal["particle_filter", "pigdm", "dps", "replace", "algorithm2"]
FILTER_LEVELS = 64
"""Noise levels of a particle filter."""


class Workload(NamedTuple):
    """Chains of a restoration: `groups` of `size` per measurement, `at_once` of them at a time.

    A group is a particle filter or a single chain. Together, the batches of chains yield `states`
    states, for which the score is evaluated `calls` times.
    """

    groups: int
    size: int
    at_once: int
    states: int
    calls: int


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
    watch: Callable[[Iterable[States]], Iterable[Tensor]] = lambda parts: map(final, parts),
    **options: Any,
) -> Float[Tensor, "rows n *shape"]:
    """Sample n completions of each measurement.

    Args:
        model: with a prior, where chains start.
        operator: A, such as `inverse.mask(known)`.
        y: a batch of measurements; y[None] for one.
        n: number of completions of each.
        method: "particle_filter" is asymptotically exact, the other methods are biased.
        sigma_y: standard deviation of the noise of y; with 0 each completion has Ax = y.
        steps: number of noise levels, 64 by default for the particle filter; see `make_plan` for
            the other methods.
        particles: number of particles in a filter.
        filters: number of filters per measurement, at most n. Completions from one filter are
            correlated, because they may descend from one particle.
        seed: same seed, same completions.
        batch: number of chains at a time, but at least those of one filter.
        watch: turns the chains, batch by batch, into their final samples, for example behind a
            progress bar.
        options: options of the method, such as zeta=0.5 for "dps".
    """
    if seed < 0:
        raise ValueError(f"seed={seed}: give a whole number of 0 or more")
    if model.prior is None:
        raise ValueError("the model has no prior to start from: ScoreModel(..., prior=...)")
    check_measurement(operator, y, sigma_y)
    work = workload(model, n, method, steps, particles, filters, batch, rows=len(y))
    if method == "particle_filter":
        options = {"filter_size": work.size} | options
    model.eval()
    y = y.to(model.prior.mean)
    rows = torch.arange(len(y)).repeat_interleave(work.groups * work.size)
    batches = torch.split(rows, work.at_once)
    parts = (
        _chains(model, operator, y[index], method, sigma_y, steps, noise, options)
        for i, index in enumerate(batches)
        for noise in [seeded(seed, first=i * work.at_once)]
    )
    take, kept = -(-n // work.groups), list[Tensor]()
    for index, x in zip(batches, watch(parts), strict=True):
        x = operator.project(x, y[index]) if sigma_y == 0 else x
        # Descendants of one particle are neighbours in a filter: take particles far apart.
        x = x.view(-1, work.size, *x.shape[1:])[:, :: work.size // take]
        kept.append(x[:, :take])
    x = torch.cat(kept).view(len(y), work.groups, take, *model.prior.mean.shape)
    return x.transpose(1, 2).flatten(1, 2)[:, :n]


def workload(
    model: ScoreModel,
    n: int,
    method: Method,
    steps: int | None,
    particles: int,
    filters: int,
    batch: int,
    *,
    rows: int = 1,
) -> Workload:
    """Return how much `restore` computes for a number of measurements, `rows`."""
    if method not in get_args(Method):
        raise ValueError(f"method={method!r}: there are {', '.join(get_args(Method))}")
    counts = {"n": n, "steps": steps, "particles": particles, "filters": filters, "batch": batch}
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: give 1 or more")
    groups, size = n, 1
    if method == "particle_filter":
        groups = min(filters, n)
        size = max(particles, -(-n // groups))
        states = max(steps or FILTER_LEVELS, 2)
        calls = 2 * states + 1
    else:
        plan = make_plan(model, "annealed_langevin" if method == "algorithm2" else None, steps)
        states, calls = plan.states, plan.evaluations
        if method == "algorithm2" and plan.options["denoise"]:  # which it does not do
            states, calls = states - 1, calls - 1
    total = rows * groups * size
    at_once = min(total, max(1, batch // size) * size)
    batches = -(-total // at_once)
    return Workload(groups, size, at_once, batches * states, batches * calls)


def _chains(
    model: ScoreModel,
    operator: LinearOperator,
    y: Tensor,
    method: Method,
    sigma_y: float,
    steps: int | None,
    noise: Callable[[Tensor], Tensor],
    options: dict[str, Any],
) -> States:
    """Return the chains of one method, one for each row of y."""
    assert model.prior is not None
    if method == "particle_filter":
        levels = max(steps or FILTER_LEVELS, 2)
        sigmas = model.round(geometric(model.sigma_max, model.sigma_min, levels))
        x = model.prior.sample(len(y), sigmas[0].item(), noise=noise)
        return inverse.particle_filter(
            model, x, sigmas, operator=operator, y=y, sigma_y=sigma_y, noise=noise, **options
        )
    if method == "algorithm2":
        if operator.known is None or sigma_y > 0:
            raise ValueError("method='algorithm2' needs a noiseless mask: take 'particle_filter'")
        plan = make_plan(model, "annealed_langevin", steps)
        x = plan.start(model, len(y), noise)
        own = {name: value for name, value in plan.options.items() if name != "denoise"}
        return inverse.algorithm2(
            model, x, plan.sigmas.to(x), known=operator.known, y=y, noise=noise, **own | options
        )
    if method == "pigdm":
        sigma_data = model.prior.dense.diagonal().mean().sqrt().item()
        options = {"sigma_data": sigma_data} | options
    conditions: dict[str, Callable[..., Score]] = {
        "pigdm": inverse.pigdm, "dps": inverse.dps, "replace": inverse.replace
    }  # fmt: skip
    score = conditions[method](model, operator, y, sigma_y=sigma_y, **options)
    plan = make_plan(model, None, steps)
    return plan.run(score, plan.start(model, len(y), noise), noise)
