"""Samplers: generators of states over any score and any decreasing grid of σ."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from ..values import check_names
from .integrate import churn, dpm_solver, integrate, predictor_corrector
from .langevin import annealed_langevin, consistent, langevin
from .state import State, States, every, final
from .steps import Step, ancestral, euler, heun, reverse_diffusion


class Sampler(NamedTuple):
    """A sampler and its cost: `SAMPLERS["heun"].run(score, x, sigmas)`."""

    run: Callable[..., States]
    per_step: int = 1
    """Evaluations of the score in a step, without corrections."""

    @property
    def defaults(self) -> dict[str, Any]:
        """Its options and their default values."""
        options = inspect.signature(self.run).parameters.values()
        return {o.name: o.default for o in options if o.kind is o.KEYWORD_ONLY}

    def evaluations(self, levels: int, **options: Any) -> int:
        """Return how many times a run down a ladder of that many levels evaluates the score.

        A predictor of your own counts as one evaluation.
        """
        check_names(options, self.defaults, "option ")
        options = self.defaults | options
        last = bool(options.get("denoise"))
        if "steps" in options:  # at each level
            return int(levels * options["steps"] + last)
        corrections = options.get("corrections", 0) + (options.get("predictor") is heun)
        return int((levels - 1) * (self.per_step + corrections) + last)


SAMPLERS = {
    "annealed_langevin": Sampler(annealed_langevin),
    "consistent": Sampler(consistent),
    "euler": Sampler(partial(integrate, euler)),
    "heun": Sampler(partial(integrate, heun), per_step=2),
    "ancestral": Sampler(partial(integrate, ancestral)),
    "reverse_diffusion": Sampler(partial(integrate, reverse_diffusion)),
    "churn": Sampler(churn, per_step=2),
    "dpm_solver": Sampler(dpm_solver),
    "predictor_corrector": Sampler(predictor_corrector),
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
    "reverse_diffusion",
]
