"""Plans to compare: the five of the demo, and a sampler at several costs."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from ..model import Condition, ScoreModel
from ..noise import geometric
from ..sample import Plan, expand_conditions, guided_score, make_plan
from ..samplers import SAMPLERS
from .grid import FIT_SAMPLES, FITTED, fit_grid

BUDGETS = (5, 10, 20, 40, 80)
"""Numbers of evaluations of the score, approximately, for the frontier."""
JUMP_BUDGETS = (1, 2, 4)
"""Numbers of evaluations for a model that is tuned to consistency."""
FITTED_LEVELS = (5, 8)
"""Numbers of levels that are fitted to the model."""
TOLERANCES = (0.1, 0.01, 0.001)


def five_plans(model: ScoreModel) -> list[Plan]:
    """Return four plans for any model, and the paper's ladder, which was made for other data."""
    langevin = "the paper's algorithm; σ, L, T and ε from suggest, which looked at these data"
    published = (
        "annealed Langevin as in the paper: σ from 1 to 0.01, L = 10, T = 100, ε = 2e-5, from "
        "uniform noise; made for other data"
    )
    corrector, title = "36 levels; reverse diffusion, each with a Langevin step", "published ladder"
    ladder, options = geometric(1.0, 0.01, 10), {"steps": 100, "epsilon": 2e-5}
    return [
        make_plan(model, "annealed_langevin", title="annealed Langevin", note=langevin),
        make_plan(model, "predictor_corrector", 36, title="predictor–corrector", note=corrector),
        make_plan(model, "heun", 18, title="Heun", note="18 levels of the ODE, without noise"),
        make_plan(model, "dpm_solver", 20, title="DPM-Solver++", note="20 levels, without noise"),
        Plan("annealed_langevin", ladder, options, uniform=True, title=title, note=published),
    ]


def fit_plan(
    model: ScoreModel,
    plan: Plan,
    labels: Int[Tensor, "n"] | None = None,
    condition: Condition | None = None,
) -> Plan:
    """Return a plan with as many levels as another one, but fitted to the model by `fit_grid`.

    They are fitted to samples of these classes, under the same condition, with the plan's guidance.
    """
    if labels is not None:
        labels = labels[torch.arange(FIT_SAMPLES) * len(labels) // FIT_SAMPLES]
    values = expand_conditions(model, FIT_SAMPLES, labels, condition, plan.guidance)
    score = guided_score(model, values, plan.guidance)
    sigmas = fit_grid(model, plan.sampler, len(plan.sigmas), score=score, **plan.options)
    return replace(plan, sigmas=sigmas, title=f"{plan.name}, fitted levels")


def frontier_plans(
    model: ScoreModel, sampler: str, budgets: Sequence[int] = BUDGETS
) -> Iterator[Plan]:
    """Yield the plans of a sampler whose costs are nearest to the budgets, each plan once.

    A sampler with a tolerance has a plan for each of `TOLERANCES`, and one in `FITTED` also has
    plans with fitted levels.
    """
    if "tolerance" in SAMPLERS[sampler].defaults:
        yield from (make_plan(model, sampler, tolerance=tolerance) for tolerance in TOLERANCES)
        return
    if sampler in FITTED and model.precondition.levels is None:
        yield from (fit_plan(model, make_plan(model, sampler, n)) for n in FITTED_LEVELS)
    if SAMPLERS[sampler].jumps:
        budgets = JUMP_BUDGETS

    def cost(steps: int) -> int:
        return make_plan(model, sampler, steps).evaluations

    used = set()
    for budget in budgets:
        # the cost grows with the number of steps
        over = bisect_left(range(1, 2 * budget), budget, key=cost) + 1
        steps = min(max(over - 1, 1), over, key=lambda steps: abs(cost(steps) - budget))
        if cost(steps) not in used and budget / 1.5 <= cost(steps) <= 1.5 * budget:
            used.add(cost(steps))
            yield make_plan(model, sampler, steps)
