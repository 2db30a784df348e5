"""Grids of few levels, fitted to a model and a sampler without training."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .._ops import check_count
from ..model import ScoreModel
from ..noise import karras, seeded
from ..oracles import Oracle
from ..sample import as_model, require_prior
from ..samplers import SAMPLERS, final
from ..score import Score

REFERENCE_LEVELS = 64
"""Levels of Heun's method for the ends of the trajectories."""
FIT_SAMPLES = 64
"""Trajectories whose ends are compared."""
ITERATIONS = 8
SHORTER_STEPS = 4
"""Largest number of steps that are tried in an iteration, each shorter than the one before."""
FITTED = ("unipc", "adams_bashforth")
"""Samplers that gain by fitted levels at 5 and at 8 evaluations (docs/evaluation.md)."""


def fit_grid(
    model: ScoreModel | Oracle,
    sampler: str,
    n: int,
    *,
    score: Score | None = None,
    samples: int = FIT_SAMPLES,
    seed: int = 0,
    **options: Any,
) -> Float[Tensor, "n"]:
    """Return n ≥ 2 levels for which a sampler in `FITTED` ends nearest to where the ODE does.

    It starts from Karras' grid and takes steps of Levenberg and Marquardt in the shares of the
    levels in log(σ_max/σ_min), with the ends of a few trajectories; their errors e count as
    e/√(1 + ‖e‖²/c²), c the median ‖e‖ of Karras' grid, so that a sample that ends in another mode
    does not decide. It costs about 10n² evaluations of the `samples`. Use it as
    `Plan(sampler, fit_grid(model, sampler, n))`. `score` takes the model's place on the
    trajectories, such as its score of a class with guidance.
    """
    model = as_model(model).eval()
    if sampler not in FITTED:
        raise ValueError(
            f"sampler={sampler!r}: levels are fitted for {' and '.join(FITTED)}; others were not "
            "measured to gain by them, or gain nothing at 8 evaluations (dpm_solver)"
        )
    check_count(2, n=n)
    if model.precondition.levels is not None:
        count = len(model.precondition.levels)
        raise ValueError(
            f"the model was trained on {count} noise levels, between which no level can be fitted: "
            "give a model trained on a range of noise levels"
        )
    high, low, score = model.sigma_max, model.sigma_min, score or model
    x = require_prior(model).sample(samples, high, noise=seeded(seed))
    truth = final(SAMPLERS["heun"].run(score, x, karras(high, low, REFERENCE_LEVELS)))

    def grid(shares: Tensor) -> Tensor:
        depth = torch.cat([shares.new_zeros(1), shares.softmax(0)[:-1].cumsum(0)])
        return high * (low / high) ** depth

    def errors(sigmas: Tensor) -> Tensor:
        end = final(SAMPLERS[sampler].run(score, x, sigmas.to(x.dtype), **options))
        return (end - truth).flatten(1).cpu().double()

    start = karras(high, low, n + 1, dtype=torch.float64)
    usual = errors(start[:-1]).norm(dim=1).median()

    def residual(shares: Tensor) -> Tensor:
        e = errors(grid(shares))
        weighted: Tensor = e / (1 + (e.norm(dim=1, keepdim=True) / usual) ** 2).sqrt()
        return weighted.flatten()

    return grid(_descend(residual, (-start.log().diff()).log())).to(x.dtype)


def _descend(residual: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    """Return a minimum of ‖residual‖², by Levenberg and Marquardt with differences."""
    r, damping, width = residual(theta), 0.01, 1e-3
    for _ in range(ITERATIONS):
        moves = torch.eye(len(theta), dtype=theta.dtype) * width
        jacobian = torch.stack([(residual(theta + move) - r) / width for move in moves], 1)
        normal = jacobian.T @ jacobian
        size = normal.diag().clamp(min=1e-9 * normal.diag().max())
        for _ in range(SHORTER_STEPS):
            step = torch.linalg.solve(normal + (damping * size).diag(), jacobian.T @ r)
            new = (theta - step.clamp(-1, 1)).clamp(theta.max() - 8)
            proposal = residual(new)
            damping *= 4
            if proposal.square().sum() < r.square().sum():
                theta, r, damping = new, proposal, damping / 16
                break
    return theta
