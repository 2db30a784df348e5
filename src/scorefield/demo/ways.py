"""The ways in which the demo samples one model, and a run of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

from ..model import ScoreModel
from ..noise import geometric, seeded, uniform_like
from ..sample import Plan, make_plan
from ..samplers import State

FRAMES = 40
"""Of a chain that is kept to be shown, about."""


@dataclass(frozen=True, eq=False)
class Way:
    """A sampler, its grid and options.

    Attributes:
        name: As people call it.
        file: As its samples are called.
        plan: What it does.
        n: How many samples are drawn.
        uniform: Start from uniform noise, as the paper does, and not from the model's prior.
        note: What is particular.
    """

    name: str
    file: str
    plan: Plan
    n: int
    note: str
    uniform: bool = False

    @property
    def length(self) -> int:
        """How many states its chain yields."""
        one = self.plan.sampler == "annealed_langevin"  # for each evaluation
        return self.plan.evaluations if one else len(self.plan.sigmas)


@dataclass(frozen=True, eq=False)
class Drawn:
    """Samples, what they took, and some states on the way."""

    x: Tensor
    seconds: float
    frames: list[State]


def ways(model: ScoreModel, n: int, few: int) -> list[Way]:
    """Four samplers with n samples each, and the ladder of the paper with few, as it takes long."""
    published = Plan("annealed_langevin", geometric(1.0, 0.01, 10), {"steps": 100, "epsilon": 2e-5})
    return [
        Way(
            "annealed Langevin",
            "annealed_langevin",
            make_plan(model, "annealed_langevin"),
            n,
            "the paper's algorithm; σ, L, T and ε from suggest, which looked at these data",
        ),
        Way(
            "predictor–corrector",
            "predictor_corrector",
            make_plan(model, "predictor_corrector", 36),
            n,
            "36 levels; reverse diffusion, a Langevin step at each",
        ),
        Way("Heun", "heun", make_plan(model, "heun", 18), n, "18 levels of the ODE, no noise"),
        Way(
            "DPM-Solver++",
            "dpm_solver",
            make_plan(model, "dpm_solver", 20),
            n,
            "20 levels, no noise",
        ),
        Way(
            "published ladder",
            "published_ladder",
            published,
            few,
            "annealed Langevin as in the paper: σ from 1 to 0.01, L = 10, T = 100, ε = 2e-5, from "
            "uniform noise; made for other data",
            uniform=True,
        ),
    ]


def draw(
    model: ScoreModel,
    way: Way,
    seed: int,
    watch: Callable[[Iterable[State]], Iterator[State]] = iter,
) -> Drawn:
    """Samples, the same of a seed; sample i of all ways begins with the same noise."""
    assert model.prior is not None
    model.eval()
    noise = seeded(seed)
    mean = model.prior.mean
    x = (
        uniform_like(mean.new_empty(way.n, *mean.shape), noise=noise)
        if way.uniform
        else model.prior.sample(way.n, way.plan.sigmas[0].item(), noise=noise)
    )
    frames, every = list[State](), max(way.length // FRAMES, 1)
    begun = time.perf_counter()
    for state in watch(way.plan.run(model, x, noise)):
        if state.step % every == 0:
            frames.append(state)
    if frames[-1] is not state:
        frames.append(state)
    return Drawn(state.x, time.perf_counter() - begun, frames)
