"""Samples of a model in one call.

    x₁ ~ prior at σ₁,   then down the grid that suits the sampler and the model

A model trained at the levels of a ladder is asked at these only. Sample i of a seed is the same
whatever the batch: the noise is a function of seed, sample and draw. Many processes share the
batches out, each of which is the same wherever it is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import processes
from .ladder import descend
from .model import ScoreModel
from .noise import geometric, karras, seeded
from .samplers import SAMPLERS, States, final
from .score import Score, guide

GRIDS: dict[str, Callable[..., Tensor]] = {"karras": karras, "geometric": geometric}
"""From σ₁ to σ_L in so many levels."""


@dataclass(frozen=True, eq=False)
class Plan:
    """How samples are to be drawn.

    Attributes:
        sampler: A name in `SAMPLERS`.
        sigmas: The grid.
        options: Of the sampler.
    """

    sampler: str
    sigmas: Float[Tensor, "levels"]
    options: dict[str, Any]

    @property
    def evaluations(self) -> int:
        """Of the score, for each sample."""
        return SAMPLERS[self.sampler].evaluations(len(self.sigmas), **self.options)

    def run(self, score: Score, x: Tensor, noise: Callable[[Tensor], Tensor]) -> States:
        """The chain from x, with noise where the sampler takes any."""
        sampler = SAMPLERS[self.sampler]
        drawn = {"noise": noise} if "noise" in sampler.defaults else {}
        return sampler.run(score, x, self.sigmas.to(x), **self.options, **drawn)


def plan(
    model: ScoreModel,
    sampler: str | None = None,
    steps: int | None = None,
    *,
    levels: int | None = None,
    grid: str = "karras",
    **options: Any,
) -> Plan:
    """The grid and the options for a sampler.

    Args:
        model: its σ range, its levels and the shape of its samples decide.
        sampler: a name; if not given, Heun's, or annealed Langevin for a model of few levels.
        steps: levels of the grid, 18 if not given; for annealed Langevin the steps T at each level
            of a ladder, which `suggest`'s reasoning makes unless the model has its own.
        levels: of that ladder, if they are to be so many.
        grid: how the levels are spaced otherwise, "karras" or "geometric".
        options: of the sampler.
    """
    own = model.precondition.levels
    sampler = sampler or ("heun" if own is None else "annealed_langevin")
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler={sampler!r}: there are {', '.join(SAMPLERS)}")
    if steps is not None and steps < 1:
        raise ValueError(f"steps={steps}: take at least one")
    if sampler == "annealed_langevin":
        if model.shape is None:
            raise ValueError("the model has no shape, of which the ladder is made: give it a prior")
        chosen = options if steps is None else {"steps": steps} | options
        if own is not None:
            return Plan(sampler, own, {"denoise": True} | chosen)
        ladder = descend(model.sigma_max, model.sigma_min, model.shape.numel(), levels=levels)
        known = {"denoise": True, "steps": ladder.steps, "epsilon": ladder.epsilon}
        return Plan(sampler, ladder.sigmas, known | chosen)
    if grid not in GRIDS:
        raise ValueError(f"grid={grid!r}: there are {', '.join(GRIDS)}")
    sigmas = GRIDS[grid](model.sigma_max, model.sigma_min, max(steps or 18, 2))
    return Plan(sampler, model.round(sigmas), options)


def sample(
    model: ScoreModel,
    n: int,
    *,
    sampler: str | None = None,
    steps: int | None = None,
    seed: int = 0,
    label: int | Int[Tensor, "n"] | None = None,
    guidance: float = 1.0,
    batch: int = 256,
    **options: Any,
) -> Float[Tensor, "n *shape"]:
    """Draw n samples from a model, in the data's own units.

    Of many processes, all of which must call it, each draws its part and gets the whole.

    Args:
        model: with a prior, where chains start.
        n: how many.
        sampler: a name in `SAMPLERS`; Heun's if not given.
        steps: see `plan`.
        seed: same seed, same samples.
        label: their class, or that of each.
        guidance: how much more of the class than the model has, 1 for as much.
        batch: how many at once.
        options: of the sampler and of `plan`.
    """
    planned = plan(model, sampler, steps, **options)
    parts = chains(model, n, planned, seed=seed, label=label, guidance=guidance, batch=batch)
    return torch.cat(list(gathered(model, map(final, parts), n, batch)))


def chains(
    model: ScoreModel,
    n: int,
    planned: Plan,
    *,
    seed: int = 0,
    label: int | Int[Tensor, "n"] | None = None,
    guidance: float = 1.0,
    batch: int = 256,
) -> Iterator[States]:
    """The chains of n samples, one for each batch; the arguments are those of `sample`.

    Of many processes each gets every so many of them; `gathered` brings their ends together.
    """
    if n < 1 or batch < 1:
        raise ValueError(f"n={n}, batch={batch}: draw at least one")
    if model.prior is None:
        raise ValueError("the model has no prior to start from: ScoreModel(..., prior=...)")
    if label is None and guidance != 1:
        raise ValueError(f"guidance={guidance} needs a label to go towards")
    classes = None if label is None else torch.as_tensor(label).expand(n)
    known = getattr(model.net, "arguments", {}).get("labels")
    if classes is not None and known is not None:
        if not known:
            raise ValueError(f"label={label}: the model was trained without classes")
        if not 0 <= classes.min() <= classes.max() < known:
            raise ValueError(f"label={label}: the model's classes are 0 to {known - 1}")
    return _chains(model, n, planned, seed, classes, guidance, batch)


def _chains(
    model: Any,
    n: int,
    planned: Plan,
    seed: int,
    classes: Tensor | None,
    guidance: float,
    batch: int,
) -> Iterator[States]:
    model.eval()  # a network in training drops features
    for first in processes.dealt(range(0, n, batch)):
        noise = seeded(seed, first=first)
        count = min(batch, n - first)
        x = model.prior.sample(count, planned.sigmas[0].item(), noise=noise)
        score = model
        if classes is not None:
            score = model.given(classes[first : first + count].to(x.device))
            score = score if guidance == 1 else guide(score, model, guidance)
        yield planned.run(score, x, noise)


def gathered(
    model: ScoreModel, ends: Iterable[Tensor], n: int, batch: int
) -> Iterator[Float[Tensor, "part *shape"]]:
    """The n samples in order, batch by batch, in each process; each has drawn its own, the ends.

    No more of them are taken, and kept, at a time than a batch of each process.
    """
    assert model.prior is not None  # where the chains began
    sizes, own = [min(batch, n - first) for first in range(0, n, batch)], iter(ends)
    for start in range(0, len(sizes), processes.world()):
        now = sizes[start : start + processes.world()]
        made = [next(own)] if processes.rank() < len(now) else []
        yield from processes.gathered(made, now, model.prior.mean)
