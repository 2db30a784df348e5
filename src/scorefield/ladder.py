"""Choose the noise levels, T and ε of annealed Langevin dynamics from the data.

The rules of *Improved Techniques for Training Score-Based Generative Models* (Song & Ermon 2020),
with γ = σᵢ/σᵢ₊₁, D the dimension and e = ε/σ_L² (their code's ε, our `convention="official"`):

    technique 1   σ₁ = max ‖xᵢ − xⱼ‖: a chain at σ₁ can reach every sample from every other
    technique 2   C = Φ(√(2D)(γ−1) + 3γ) − Φ(√(2D)(γ−1) − 3γ) ≈ 0.5: neighbouring levels overlap
    technique 4   s_T²/σ² = (1−e)^2T (γ²−b) + b,  b = 2e/(1−(1−e)²), closest to 1

where s_T² is the variance that T steps at σᵢ leave of the level before.
"""

import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ._ops import check_count, check_finite
from .noise import geometric


@dataclass(frozen=True, eq=False)
class Suggestion:
    """A ladder with its number of steps and step size; prints as the reasons for each."""

    sigmas: Float[Tensor, "levels"]
    steps: int
    """T, at each level."""
    epsilon: float
    """ε, in the official convention."""
    overlap: float
    """C of neighbouring levels."""
    variance_ratio: float
    """s_T²/σ², 1 at best."""
    max_distance: float | None = None
    """The exact largest distance between two samples, outliers included; None without data."""
    typical: float = math.inf
    """The median distance between two samples."""
    outliers: int = 0
    """Number of samples that are further from all others than twice the median distance."""
    origin: str = "as given"
    """Source of σ_L, in words."""

    @property
    def reasons(self) -> dict[str, str]:
        """The reason for each number, in words."""
        first, last, levels = self.sigmas[0].item(), self.sigmas[-1].item(), len(self.sigmas)
        gamma = (first / last) ** (1 / (levels - 1))
        largest = "the largest distance between two samples" if self.max_distance else "as given"
        if self.outliers:
            largest += (
                f", without {self.outliers} outliers, further from all others than twice the "
                f"median distance {self.typical:.4g} (with them {self.max_distance:.4g})"
            )
        return {
            "σ₁": f"{first:.4g}, {largest}",
            "σ_L": f"{last:.4g}, {self.origin}",
            "L": f"{levels} levels, γ = {gamma:.4g}: neighbours overlap by C = {self.overlap:.2f}",
            "T": f"{self.steps} steps a level, {self.steps * levels} evaluations in all",
            "ε": f"{self.epsilon:.4g}: a level's variance ends at {self.variance_ratio:.4g} × what "
            "it should be",
        }

    def __str__(self) -> str:
        return "\n".join(f"{name:3s} {reason}" for name, reason in self.reasons.items())


def overlap(gamma: float, size: int) -> float:
    """Return C, the mass that neighbouring levels share (Song & Ermon 2020, prop. 2)."""
    centre, cdf = math.sqrt(2 * size) * (gamma - 1), NormalDist().cdf
    return cdf(centre + 3 * gamma) - cdf(centre - 3 * gamma)


def variance_ratio(e: float, gamma: float, steps: int) -> float:
    """Return s_T²/σ² after T steps of e = ε/σ_L² from the level above (ibid., prop. 3)."""
    b = 2 / (2 - e)
    return (1 - e) ** (2 * steps) * (gamma**2 - b) + b


def suggest(
    data: Tensor, *, budget: int | None = None, sigma_min: float | None = None
) -> Suggestion:
    """Choose σ₁, σ_L, the number of levels, T and ε for annealed Langevin dynamics on this data.

    As T grows, technique 4 makes ε shrink almost as fast. If the weights of distant modes matter
    more than the last per cent of their variance, raise `steps` and keep the ε of a small budget.
    `data` are two or more samples, n × shape; uint8 data are images in units of 1/255. `budget`
    limits the score evaluations of a run (T = 5 without one), and `sigma_min` is σ_L if the data
    are not to choose it.
    """
    eight_bit = isinstance(data, Tensor) and data.dtype == torch.uint8
    if not eight_bit:
        check_finite(data, "data")
    if data.ndim < 2 or len(data) < 2:
        raise ValueError(
            f"data has shape {tuple(data.shape)}: give a batch of at least two samples"
        )
    x = data.flatten(1).float() / 255 if eight_bit else data.flatten(1)
    images = eight_bit or (data.ndim == 4 and 0 <= data.min() <= data.max() <= 1)
    # at least float32, and about the mean, so that distances do not cancel
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    x = x - x.mean(0)
    pairs = torch.nn.functional.pdist(x[_space_rows(len(x), 512)])
    apart = pairs[pairs > 0]
    typical = apart.median().item() if len(apart) else math.inf
    farthest, outliers, reach = _largest_distances(x, 2 * typical)
    if farthest == 0:
        raise ValueError("data is one point, repeated: there is no distribution to learn")
    if sigma_min is not None and not 0 < sigma_min < reach:
        raise ValueError(f"sigma_min={sigma_min}: give a noise level from 0 to {reach:.4g} (σ₁)")
    origin = Suggestion.origin
    if sigma_min is None and images:
        origin, sigma_min = "invisible in 8-bit images", 0.01
    elif sigma_min is None:
        gaps = _gaps(x, _space_rows(len(x), 1024))  # copies do not count
        nearest = torch.stack([g.where(g > 0, math.inf).amin(1) for g in gaps]).amin(0)
        origin = "a tenth of the nearest distance per dimension"
        sigma_min = 0.1 * nearest.median().item() / math.sqrt(x.shape[1])
    ladder = suggest_between(reach, sigma_min, x.shape[1], budget=budget)
    return replace(ladder, max_distance=farthest, typical=typical, outliers=outliers, origin=origin)


def suggest_between(
    sigma_max: float,
    sigma_min: float,
    size: int,
    *,
    budget: int | None = None,
    levels: int | None = None,
) -> Suggestion:
    """Choose L, T and ε between two noise levels in `size` dimensions; T and ε if L is given."""
    check_count(2, levels=levels)
    # C = ½ where √(2D)(γ−1) = 3γ; in few dimensions this γ is too coarse or does not exist
    spread = math.sqrt(2 * size)
    coarsest = min(1.5, spread / (spread - 3)) if spread > 3 else 1.5
    if levels is None:
        levels = 1 + max(1, math.ceil(math.log(sigma_max / sigma_min) / math.log(coarsest)))
    gamma = (sigma_max / sigma_min) ** (1 / (levels - 1))
    steps = 5 if budget is None else budget // levels
    if steps < 1:
        raise ValueError(f"budget={budget} is less than one step at each of {levels} levels")
    # the ratio has a single minimum in e; points of this grid are 0.2 % apart
    grid = torch.logspace(-7, 0, 8001, dtype=torch.float64).tolist()

    def rises(i: int) -> bool:
        return variance_ratio(grid[i + 1], gamma, steps) >= variance_ratio(grid[i], gamma, steps)

    e = grid[bisect_left(range(len(grid) - 1), True, key=rises)]
    sigmas, ratio = geometric(sigma_max, sigma_min, levels), variance_ratio(e, gamma, steps)
    return Suggestion(sigmas, steps, e * sigma_min**2, overlap(gamma, size), ratio)


def _space_rows(n: int, limit: int) -> Int[Tensor, "rows"]:
    return torch.linspace(0, n - 1, min(n, limit), dtype=torch.float64).round().long()


def _gaps(x: Tensor, rows: Int[Tensor, "rows"]) -> Iterator[Float[Tensor, "rows m"]]:
    """Yield the distances of some rows to all, by differences, because products cancel."""
    for part in torch.split(x, 4096):
        yield torch.cdist(x[rows], part, compute_mode="donot_use_mm_for_euclid_dist")


def _largest_distances(x: Tensor, reach: float) -> tuple[float, int, float]:
    """Return the largest distance, the number of outliers, and the largest distance without them.

    An outlier has no neighbour within `reach`. Only samples far from the centre, 0, are tested.
    """
    radius, largest = x.norm(dim=1), _diameter(x)
    low, high = np.quantile(radius.cpu().numpy(), (0.25, 0.75))
    suspects = (radius > high + 3 * (high - low)).nonzero().flatten()
    near = torch.stack([(gaps <= reach).sum(1) for gaps in _gaps(x, suspects)]).sum(0)
    outliers = suspects[near == 1]  # only itself
    if not len(outliers):
        return largest, 0, largest
    others = torch.ones_like(radius).index_fill(0, outliers, 0).bool()
    return largest, len(outliers), _diameter(x[others])


def _diameter(x: Tensor) -> float:
    """Return the largest distance, exactly, without a matrix of all.

    The distance of two samples is at most the sum of their distances r from the centre. In order
    of decreasing r, blocks of pairs that cannot exceed the largest so far are skipped. In a block,
    fast products find the widest pair, and its difference gives the distance.
    """
    radius, order = x.norm(dim=1).sort(descending=True)
    x, best = x[order], 0.0
    for i in range(0, len(x), 1024):
        for j in range(i, len(x), 1024):
            if radius[i] + radius[j] <= best:
                break
            gaps = torch.cdist(x[i : i + 1024], x[j : j + 1024])
            row, column = divmod(int(gaps.argmax()), gaps.shape[1])
            best = max(best, (x[i + row] - x[j + column]).norm().item())
    return best
