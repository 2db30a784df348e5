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
    """A sampler reached by its name: `SAMPLERS["heun"].run(score, x, sigmas)`."""

    run: Callable[..., States]
    count: Callable[..., int]

    @property
    def defaults(self) -> dict[str, Any]:
        """Its options, and what they are if not given."""
        options = inspect.signature(self.run).parameters.values()
        return {o.name: o.default for o in options if o.kind is o.KEYWORD_ONLY}

    def evaluations(self, levels: int, **options: Any) -> int:
        """How often a run down so many levels evaluates the score."""
        unknown = options.keys() - self.defaults.keys()
        if unknown:
            raise TypeError(f"no such option: {', '.join(unknown)}; there are {[*self.defaults]}")
        return self.count(levels, **{**self.defaults, **options})


def _once(levels: int, *, denoise: bool, **_: Any) -> int:
    return levels - 1 + denoise


def _twice(levels: int, *, denoise: bool, **_: Any) -> int:
    return 2 * (levels - 1) + denoise


def _annealed(levels: int, *, steps: int, denoise: bool, **_: Any) -> int:
    return levels * steps + denoise


def _corrected(levels: int, *, predictor: Step, corrections: int, denoise: bool, **_: Any) -> int:
    known = {euler: 1, heun: 2, ancestral: 1, reverse_diffusion: 1}
    if predictor not in known:
        raise ValueError(
            "predictor is not one of ours: add its own evaluations to those of 'euler'"
        )
    return (levels - 1) * (corrections + known[predictor]) + denoise


SAMPLERS = {
    "annealed_langevin": Sampler(annealed_langevin, _annealed),
    "consistent": Sampler(consistent, _once),
    "euler": Sampler(partial(integrate, euler), _once),
    "heun": Sampler(partial(integrate, heun), _twice),
    "ancestral": Sampler(partial(integrate, ancestral), _once),
    "reverse_diffusion": Sampler(partial(integrate, reverse_diffusion), _once),
    "churn": Sampler(churn, _twice),
    "dpm_solver": Sampler(dpm_solver, _once),
    "predictor_corrector": Sampler(predictor_corrector, _corrected),
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
