"""Restoration in one call: completions of measurements.

    y = Ax + σ_y·n   ↦   n samples of x given y

docs/restoration.md compares the methods. With a noiseless measurement each method ends with
`A.project(x, y)`, so that known pixels come back unchanged.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from inspect import signature
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from . import inverse
from ._ops import Noise, check_count
from .inverse import Guidance, LinearOperator
from .inverse.operators import Operator, check_measurement
from .inverse.twisted import dense_grid
from .model import Condition, ScoreModel
from .noise import geometric, seeded
from .sample import (
    Plan,
    check_keywords,
    class_number,
    guided_score,
    make_plan,
    require_prior,
    warn_of_broken,
)
from .samplers import States, final
from .train import derive_seed
from .values import spelling_hint

Watch = Callable[[Iterable[States], int], Iterable[Tensor]]


class Bias(NamedTuple):
    """Errors of a method: the largest of a mean, in exact deviations, and ratios of deviations."""

    mean: float
    least: float
    most: float

    @property
    def largest(self) -> float:
        """The largest of the errors."""
        return max(self.mean, 1 - self.least, self.most - 1)


class Method(NamedTuple):
    """A function that makes a conditional score, or samples posteriors, with its cost and errors.

    The errors are those on the mixture in 64 dimensions, by a mask without noise and by a matrix
    with noise, as `benchmarks posteriors` measures them; docs/restoration.md has others.
    """

    run: Callable[..., Any]
    mask: Bias | None = None
    matrix: Bias | None = None
    levels: int = 0  # of its own `grid`, by default; 0 for the levels of `make_plan`
    calls: Callable[[int], int] = lambda n: n  # evaluations that n levels of this grid take
    particles: bool = False  # its chains are the particles of filters
    noiseless: bool = False  # it takes no noisy y
    any_operator: bool = False  # it takes any differentiable function, by its derivative
    stepwise: bool = False  # each evaluation yields a state
    dense: bool = False  # it goes down `dense_grid`; the others go down a geometric grid

    @property
    def counts(self) -> bool:
        """True if it takes counts, by an option `peak`."""
        return "peak" in signature(self.run).parameters

    def grid(self, sigma_max: float, sigma_min: float, levels: int, deviation: float) -> Tensor:
        """Return the noise levels for data of a standard deviation."""
        if self.dense:
            return dense_grid(sigma_max, sigma_min, levels, deviation)
        return geometric(sigma_max, sigma_min, levels)


METHODS = {
    "particle_filter": Method(
        inverse.particle_filter, Bias(0.01, 0.99, 1.01), Bias(0.01, 0.99, 1.01),
        levels=64, calls=lambda n: 2 * n + 1, particles=True,
    ),
    "tds": Method(
        inverse.tds, Bias(0.05, 0.94, 0.98), Bias(0.02, 0.96, 0.97), levels=64, particles=True
    ),
    "pigdm_langevin": Method(
        inverse.pigdm_langevin, Bias(0.02, 1.03, 1.05), Bias(0.03, 1.03, 1.05),
        levels=32, calls=lambda n: 3 * n + 1, stepwise=True, dense=True,
    ),
    "split_gibbs": Method(
        inverse.split_gibbs, Bias(0.05, 0.99, 1.02), Bias(0.03, 1.00, 1.01),
        levels=128, calls=lambda n: 5 * n - 4,
    ),
    "mmps": Method(
        inverse.mmps, Bias(0.05, 1.00, 1.04), Bias(0.03, 1.01, 1.03), any_operator=True
    ),
    "pigdm": Method(inverse.pigdm, Bias(0.66, 0.98, 1.03), Bias(0.11, 1.02, 1.05)),
    "dps": Method(
        inverse.dps, Bias(0.56, 0.98, 1.20), Bias(0.29, 1.02, 1.11), any_operator=True
    ),
    "daps": Method(
        inverse.daps, Bias(0.09, 1.21, 1.29), Bias(0.14, 1.22, 1.29),
        levels=128, calls=lambda n: 5 * n - 4,
    ),
    "diffpir": Method(
        inverse.diffpir, Bias(0.49, 0.91, 1.04), Bias(0.23, 0.94, 1.00), levels=64
    ),
    "ddrm": Method(inverse.ddrm, Bias(0.39, 0.82, 0.91), Bias(0.20, 0.84, 0.89), levels=32),
    "repaint": Method(
        inverse.repaint, Bias(0.07, 0.95, 0.98),
        levels=64, calls=lambda n: 10 * n - 9, noiseless=True, stepwise=True,
    ),
    "replace": Method(inverse.replace, Bias(0.94, 0.97, 1.23), Bias(0.32, 1.02, 1.12)),
    "algorithm2": Method(inverse.algorithm2, Bias(0.26, 1.07, 1.16), noiseless=True),
}  # fmt: skip
"""Samplers of posteriors by name, for `restore`, the command line, the studio and benchmarks."""

BYTE_ROUNDING_STD = 1 / (256 * 12**0.5)
"""Standard deviation of the rounding error of 8-bit values."""


class Workload(NamedTuple):
    """Chains of a restoration: `groups` of `size` per measurement, `at_once` of them at a time.

    A group is a particle filter or one chain. All batches yield `states`, by `calls` of the score.
    """

    plan: Plan
    groups: int
    size: int
    at_once: int
    states: int
    calls: int

    def choose(self, x: Float[Tensor, "chains *shape"], n: int) -> Float[Tensor, "groups m *shape"]:
        """Return those of each group's chains that are among n completions.

        Descendants of one particle are neighbours in a filter: take particles far apart.
        """
        take = -(-n // self.groups)
        return x.view(-1, self.size, *x.shape[1:])[:, :: self.size // take][:, :take]


class Restoration(NamedTuple):
    """Chains that `restore` runs, batch by batch, and the function that joins their ends."""

    work: Workload
    parts: Iterator[States]
    join: Callable[[Iterable[Tensor]], Tensor]


def restore(
    model: ScoreModel,
    operator: Operator,
    y: Float[Tensor, "rows *measured"],
    n: int = 8,
    *,
    method: str = "particle_filter",
    sigma_y: float = 0.0,
    steps: int | None = None,
    particles: int = 32,
    filters: int = 4,
    label: int | str | None = None,
    condition: Condition | None = None,
    guidance: float | Guidance = 1.0,
    seed: int = 0,
    batch: int = 256,
    watch: Watch = lambda parts, states: map(final, parts),
    **options: Any,
) -> Float[Tensor, "rows n *shape"]:
    """Sample n completions of each measurement, a row of y each (y[None] for one).

    The methods "particle_filter", "tds" and, for many levels and inner steps, "pigdm_langevin" and
    "split_gibbs" are asymptotically exact, the others are biased. `sigma_y` is the standard
    deviation of y's noise; if it is 0, each completion has Ax = y. `steps` is the number of noise
    levels; for its default see `METHODS`, and `make_plan` for those without. For the first two, a
    measurement has `filters` of `particles` each, at most n; completions from one filter are
    correlated, because they may descend from one particle.
    `batch` chains run at a time, but at least one filter.
    `label` is the class of all completions, by name or number, `condition` another one of all, and
    `guidance` the strength of the guidance towards them, or a `Guidance`.

    `watch` turns the chains, batch by batch, into their final samples, and may show progress; its
    second argument is the number of all states. `options` are the method's, such as zeta=0.5 for
    "dps", or peak=100 for "dps" and "mmps" if y are counts over 100. Same seed, same completions.
    """
    chains = restoration(
        model, operator, y, n, seeded, method=method, sigma_y=sigma_y, steps=steps,
        particles=particles, filters=filters, label=label, condition=condition, guidance=guidance,
        seed=seed, batch=batch, **options,
    )  # fmt: skip
    return chains.join(watch(chains.parts, chains.work.states))


def restoration(
    model: ScoreModel,
    operator: Operator,
    y: Float[Tensor, "rows *measured"],
    n: int,
    noise: Callable[..., Noise],
    /,
    *,
    method: str,
    sigma_y: float,
    steps: int | None,
    particles: int,
    filters: int,
    label: int | str | None,
    condition: Condition | None,
    guidance: float | Guidance,
    seed: int,
    batch: int,
    **options: Any,
) -> Restoration:
    """Return the chains of `restore`, to look at their states before they end.

    `noise` is `seeded`, or has its arguments and calls it: a batch of chains has its own noise.
    """
    prior, chosen = require_prior(model), find_method(method)
    check_measurement(operator, y, sigma_y, linear=not chosen.any_operator)
    operator.gap(y[:1], prior.mean[None])
    work = workload(model, n, method, steps, particles, filters, batch, rows=len(y))
    settings = {"filter_size": work.size, "sigma_data": prior.deviation} | work.plan.options
    options = _fill_options(method, operator, sigma_y, settings, options)
    named = {} if condition is None else model.name_condition(condition)
    named |= {} if label is None else {"label": int(class_number(model, label, guidance))}
    score = guided_score(model, named or None, guidance)

    def start(y: Tensor, noise: Noise) -> States:
        x = work.plan.start(model, len(y), noise)
        if "sigmas" in signature(chosen.run).parameters:
            states: States = chosen.run(score, x, work.plan.sigmas, y=y, noise=noise, **options)
            return states
        return work.plan.run(chosen.run(score, y=y, **options), x, noise)

    model.eval()
    model.check_weights()
    y = y.to(prior.mean)
    rows = torch.arange(len(y), device=y.device).repeat_interleave(work.groups * work.size)
    batches = torch.split(rows, work.at_once)
    parts = (start(y[i], noise(seed, first=k * work.at_once)) for k, i in enumerate(batches))
    noiseless = sigma_y == 0 and options.get("peak") is None

    def join(ends: Iterable[Tensor]) -> Tensor:
        completions = list[Tensor]()
        for index, x in zip(batches, ends, strict=True):
            warn_of_broken(x)
            if noiseless and isinstance(operator, LinearOperator):
                x = operator.project(x, y[index])
            completions.append(work.choose(x, n))
        x = torch.cat(completions)
        x = x.view(len(y), work.groups, *x.shape[1:])
        return x.transpose(1, 2).flatten(1, 2)[:, :n]

    return Restoration(work, parts, join)


def _fill_options(
    name: str, operator: Operator, sigma_y: float, settings: dict[str, Any], options: dict[str, Any]
) -> dict[str, Any]:
    """Return the options of a method, with what it takes of the measurement and of `settings`."""
    method = find_method(name)
    if "peak" in options and not method.counts:
        raise ValueError(f"method={name!r} has no noise of counts (peak): take dps or mmps")
    check_keywords(options, name, method.run, restore)
    own, observed = signature(method.run).parameters, getattr(operator, "observed", None)
    masked = "observed" in own
    if (sigma_y > 0 and method.noiseless) or (masked and observed is None):
        kind = "mask" if masked else "measurement"
        raise ValueError(f"method={name!r} needs a noiseless {kind}: take 'split_gibbs'")
    settings = settings | {"operator": operator, "sigma_y": sigma_y, "observed": observed}
    return {key: value for key, value in settings.items() if key in own} | options


def restore_rows(
    model: ScoreModel,
    table: Any,  # a `data.table.Table`, whose package would load libraries of images
    rows: Sequence[Mapping[str, object]],
    n: int = 8,
    *,
    filters: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Float[Tensor, "rows n size"]:
    """Sample n completions of each row, conditioned on its cells; see `Table.encode` for a row.

    `table.decode(x[:, i], rows)` is completion i as text, with the cells of the rows unchanged. The
    options are those of `restore`; the default of `filters` is one for 8 completions, at least 4.
    Rows without missing cells cost nothing.

    >>> table = Table.read("runs/people")
    >>> rows = [{"city": "Rome", "age": 30}]
    >>> x = restore_rows(load("runs/people"), table, rows, n=1000)
    """
    y, present = table.encode(rows)
    start = require_prior(model).mean
    if start.shape != y.shape[1:]:
        raise ValueError(f"the model samples {tuple(start.shape)}, but table.size is {table.size}")
    y = y.to(start)
    x: Tensor = y[:, None].repeat(1, n, 1)
    patterns, of_row = torch.unique(present, dim=0, return_inverse=True)
    for i, pattern in enumerate(patterns):
        own = of_row == i
        if not pattern.all():
            x[own] = restore(
                model, inverse.mask(pattern), y[own], n, seed=derive_seed(seed, i),
                filters=filters or max(4, n // 8), **options,
            )  # fmt: skip
    return x


def find_method(name: str) -> Method:
    """Return a method by its name."""
    if name not in METHODS:
        raise ValueError(f"method={name!r}: {spelling_hint(name, METHODS)}")
    return METHODS[name]


def require_score(model: ScoreModel) -> None:
    """Raise if a model is not a score because it is tuned to consistency."""
    if model.tuned:
        raise ValueError(
            "the model is tuned to consistency and not a score, as restoration needs: give the "
            "model or the run that it was tuned from"
        )


def workload(
    model: ScoreModel,
    n: int,
    method: str,
    steps: int | None,
    particles: int,
    filters: int,
    batch: int,
    *,
    rows: int = 1,
) -> Workload:
    """Return how much `restore` computes for a number of measurements, `rows`.

    Options of the method, such as inner=3, and the longer end of "split_gibbs" for a noisy y are
    not counted.
    """
    require_score(model)
    own = find_method(method)
    check_count(n=n, steps=steps, particles=particles, filters=filters, batch=batch)
    groups, size = n, 1
    if own.particles:
        groups = min(filters, n)
        size = max(particles, -(-n // groups))
    if own.levels:
        if steps == 1:
            raise ValueError(f"steps=1: {method} goes from level to level, give 2 or more")
        levels = steps or own.levels
        calls = own.calls(levels)
        states = calls if own.stepwise else levels
        deviation = require_prior(model).deviation
        grid = own.grid(model.sigma_max, model.sigma_min, levels, deviation)
        plan = Plan(method, model.round(grid))
    else:
        annealed = "sigmas" in signature(own.run).parameters  # takes steps at each level
        plan = make_plan(model, "annealed_langevin" if annealed else None, steps)
        undone = annealed and plan.options["denoise"]  # a step that it leaves out
        states, calls = plan.states - undone, plan.evaluations - undone
    total = rows * groups * size
    at_once = min(total, max(1, batch // size) * size)
    batches = -(-total // at_once)
    return Workload(plan, groups, size, at_once, batches * states, batches * calls)
