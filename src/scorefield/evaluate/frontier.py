"""Plans of every sampler at several costs, for the frontier of quality against cost."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from ..model import ScoreModel
from ..sample import Plan, make_plan

BUDGETS = (5, 10, 20, 40, 80)
"""Numbers of evaluations of the score, approximately."""


def frontier_plans(
    model: ScoreModel, sampler: str, budgets: Sequence[int] = BUDGETS
) -> Iterator[Plan]:
    """Yield the plans of a sampler whose costs are nearest to the budgets, each plan once."""

    def cost_of(steps: int) -> int:
        return make_plan(model, sampler, steps).evaluations

    used = set()
    for budget in budgets:
        # the cost grows with the number of steps
        over = bisect_left(range(1, 2 * budget), budget, key=cost_of) + 1
        near = [make_plan(model, sampler, steps) for steps in (max(over - 1, 1), over)]
        best = min(near, key=lambda plan: abs(plan.evaluations - budget))
        cost = best.evaluations
        if cost not in used and budget / 1.5 <= cost <= 1.5 * budget:
            used.add(cost)
            yield best
