"""Samplers: generators of states over any score and any decreasing grid of σ."""

from collections.abc import Callable
from functools import partial
from inspect import isgeneratorfunction, signature
from typing import Any, NamedTuple

from ..values import check_names, spelling_hint
from .adaptive import adaptive
from .integrate import churn, dpm_solver, integrate, predictor_corrector
from .langevin import Kernel, annealed_langevin, consistent, langevin, underdamped
from .metropolis import hmc, mala
from .multistep import multistep
from .state import State, States, every, final, sampler
from .steps import Step, ancestral, euler, heun, reverse_diffusion


class Sampler(NamedTuple):
    """A sampler and its cost: `SAMPLERS["heun"].run(score, x, sigmas)`."""

    run: Callable[..., States]
    per_step: int = 1
    """Evaluations of the score from level to level, by the default options."""
    jumps: bool = False
    """True if each step goes to σ = 0 and back, as only a consistency model can."""
    brownian: bool = False
    """True if it adds noise once a step, so that it follows a path of `brownian`."""

    @property
    def defaults(self) -> dict[str, Any]:
        """Its options and their default values."""
        options = signature(self.run).parameters.values()
        return {o.name: o.default for o in options if o.kind is o.KEYWORD_ONLY}

    @property
    def annealed(self) -> bool:
        """True if it takes `steps` at each level of a ladder, like annealed Langevin dynamics."""
        return {"steps", "epsilon", "denoise"} <= self.defaults.keys()

    def states(self, levels: int, **options: Any) -> int:
        """Return the number of states of a run down a ladder of that many levels."""
        check_names(options, self.defaults, "option ")
        options = self.defaults | options
        steps = levels * options["steps"] if "steps" in options else levels - 1
        return int(steps + bool(options.get("denoise")))

    def evaluations(self, levels: int, **options: Any) -> int:
        """Estimate how often a run evaluates the score; `State.evaluations` has the count."""
        count = self.states(levels, **options) + (levels - 1) * (self.per_step - 1)
        options = self.defaults | options
        kernel = signature(options["kernel"]).parameters if "kernel" in options else {}
        if "leapfrogs" in kernel:  # and one at the start of each level
            count += levels * (1 + options["steps"] * (kernel["leapfrogs"].default - 1))
        return int(count)


SAMPLERS = {
    "annealed_langevin": Sampler(annealed_langevin),
    "underdamped": Sampler(partial(annealed_langevin, kernel=underdamped)),
    "consistent": Sampler(consistent, brownian=True),
    "consistency": Sampler(partial(consistent, eta=1.0), jumps=True),
    "euler": Sampler(partial(integrate, euler)),
    "heun": Sampler(partial(integrate, heun), per_step=2),
    "ancestral": Sampler(partial(integrate, ancestral), brownian=True),
    "reverse_diffusion": Sampler(partial(integrate, reverse_diffusion), brownian=True),
    "churn": Sampler(churn, per_step=2),
    "dpm_solver": Sampler(dpm_solver),
    "dpm_solver_sde": Sampler(partial(dpm_solver, sde=True), brownian=True),
    "dpm_solver_3": Sampler(multistep),
    "unipc": Sampler(partial(multistep, corrector=True)),
    "adams_bashforth": Sampler(partial(multistep, order=4, form="noise")),
    "predictor_corrector": Sampler(predictor_corrector, per_step=2),
    "adaptive": Sampler(adaptive, per_step=60),
}
"""Samplers by name, for `sample`, the command line and the studio."""

DENSITY_KERNELS: dict[str, Kernel] = {"mala": mala, "hmc": hmc}
"""Kernels by name that need a log-density, which the score of a network lacks."""


def find_sampler(choice: str | Sampler | Callable[..., Any]) -> tuple[str, Sampler]:
    """Return the name and the sampler of a step, a kernel, a sampler or the name of one."""
    if isinstance(choice, str) and choice in DENSITY_KERNELS:
        return choice, Sampler(partial(annealed_langevin, kernel=DENSITY_KERNELS[choice]))
    if isinstance(choice, str) and choice not in SAMPLERS:
        hint = spelling_hint(choice, SAMPLERS, DENSITY_KERNELS)
        raise ValueError(f"sampler={choice!r} is not in SAMPLERS: {hint}")
    for name, one in SAMPLERS.items():
        if choice in (name, one, one.run, *getattr(one.run, "args", ())):
            return name, one
    if not isinstance(choice, Sampler):
        if not callable(choice):
            raise TypeError(f"sampler={choice!r}: give a name in SAMPLERS, a step or a sampler")
        run: Any = sampler()(choice) if isgeneratorfunction(choice) else choice
        if signature(run).parameters.keys() & {"alpha", "sigmas", "sigma_next"} == {"alpha"}:
            run = partial(annealed_langevin, kernel=run)
        choice = Sampler(run if "sigmas" in signature(run).parameters else partial(integrate, run))
    function = (*getattr(choice.run, "args", ()), getattr(choice.run, "func", choice.run))[0]
    return getattr(function, "__name__", "own sampler"), choice


__all__ = [
    "SAMPLERS",
    "Kernel",
    "Sampler",
    "State",
    "States",
    "Step",
    "adaptive",
    "ancestral",
    "annealed_langevin",
    "churn",
    "consistent",
    "dpm_solver",
    "euler",
    "every",
    "final",
    "find_sampler",
    "heun",
    "hmc",
    "integrate",
    "langevin",
    "mala",
    "multistep",
    "predictor_corrector",
    "reverse_diffusion",
    "underdamped",
]
