"""Samplers: generators of states over any score and any decreasing grid of σ."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from .correct import predictor_corrector
from .integrate import churn, dpm_solver, integrate
from .langevin import annealed_langevin, consistent, langevin
from .state import State, States, every, final, progress
from .steps import Step, ancestral, euler, heun, reverse_diffusion


class Sampler(NamedTuple):
    """A sampler and the number of its evaluations: `SAMPLERS["heun"].run(score, x, sigmas)`."""

    run: Callable[..., States]
    count: Callable[..., int]

    @property
    def defaults(self) -> dict[str, Any]:
        """Its options and their default values."""
        options = inspect.signature(self.run).parameters.values()
        return {o.name: o.default for o in options if o.kind is o.KEYWORD_ONLY}

    def evaluations(self, levels: int, **options: Any) -> int:
        """Return how many times a run down a ladder of that many levels evaluates the score."""
        unknown = options.keys() - self.defaults.keys()
        if unknown:
            raise TypeError(f"no such option: {', '.join(unknown)}; choose from {[*self.defaults]}")
        return self.count(levels, **{**self.defaults, **options})


def _count_steps(per_step: int, levels: int, *, denoise: bool, **_: Any) -> int:
    return per_step * (levels - 1) + denoise


def _count_annealed(levels: int, *, steps: int, denoise: bool, **_: Any) -> int:
    return levels * steps + denoise


def _count_corrected(
    levels: int, *, predictor: Step, corrections: int, denoise: bool, **_: Any
) -> int:
    evaluations = {euler: 1, heun: 2, ancestral: 1, reverse_diffusion: 1}
    if predictor not in evaluations:
        raise ValueError(
            f"predictor={predictor!r}: count with 'euler', and add the evaluations of your own"
        )
    return _count_steps(corrections + evaluations[predictor], levels, denoise=denoise)


SAMPLERS = {
    "annealed_langevin": Sampler(annealed_langevin, _count_annealed),
    "consistent": Sampler(consistent, partial(_count_steps, 1)),
    "euler": Sampler(partial(integrate, euler), partial(_count_steps, 1)),
    "heun": Sampler(partial(integrate, heun), partial(_count_steps, 2)),
    "ancestral": Sampler(partial(integrate, ancestral), partial(_count_steps, 1)),
    "reverse_diffusion": Sampler(partial(integrate, reverse_diffusion), partial(_count_steps, 1)),
    "churn": Sampler(churn, partial(_count_steps, 2)),
    "dpm_solver": Sampler(dpm_solver, partial(_count_steps, 1)),
    "predictor_corrector": Sampler(predictor_corrector, _count_corrected),
}

__all__ = [
    "SAMPLERS",
    "Sampler",
    "State",
    "States",
    "Step",
    "ancestral",
    "annealed_langevin",
    "churn",
    "consistent",
    "dpm_solver",
    "euler",
    "every",
    "final",
    "heun",
    "integrate",
    "langevin",
    "predictor_corrector",
    "progress",
    "reverse_diffusion",
]
