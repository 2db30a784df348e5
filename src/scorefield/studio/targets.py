"""Distributions of the plane, as jobs compute with them and as Python writes them.

All are mixtures of Gaussians of one width, so that the page draws the exact density and score at
any σ. Toys without a closed form are `TOY_POINTS` samples, each with a Gaussian of `TOY_SPREAD`. In
Figure 3 of Song & Ermon (2019) the modes are points, and σ is the deviation of the components, as
in their code: at σ = 1 they are ⅕ N((−5, −5), I) + ⅘ N((5, 5), I).
"""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from .. import GaussianMixture
from ..data import load_data
from .settings import Among, Between, Length

TOY_POINTS = 400
TOY_SPREAD = 0.1
HALF_SIDES = {"modes": 10.0, "circle": 6.0, "checkerboard": 5.0, "rings": 4.5, "spirals": 4.5}
"""Half the side of the square that is shown, by target."""
DRAWN_LIMIT = 10.0


@dataclass(frozen=True)
class TargetSettings:
    """A distribution of the plane: one by name, or Gaussians of deviation `spread` at points."""

    target: Annotated[str, Among(*HALF_SIDES, "points")] = "modes"
    points: Annotated[tuple[float, ...], Between(-100, 100), Length(0, 800)] = ()
    """Coordinates x₁, y₁, x₂, y₂, …"""
    spread: Annotated[float, Between(0.01, 10)] = 0.5

    @property
    def limit(self) -> float:
        """Half the side of the square that is shown."""
        return HALF_SIDES.get(self.target, DRAWN_LIMIT)


def make_target(settings: TargetSettings) -> GaussianMixture:
    """Return the distribution that the settings describe."""
    if settings.target == "modes":
        means = torch.tensor([[-5.0, -5.0], [5.0, 5.0]])
        return GaussianMixture(means, 0.0, torch.tensor([0.2, 0.8]))
    if settings.target == "circle":
        oracle = load_data("mixture", n=1).oracle
        assert isinstance(oracle, GaussianMixture)
        return oracle
    if settings.target == "points":
        points, spread = _drawn_points(settings.points), settings.spread
    else:
        train: Any = load_data(settings.target, n=TOY_POINTS).train
        points, spread = train.data, TOY_SPREAD
    return GaussianMixture(points, spread**2, torch.ones(len(points)) / len(points))


def _drawn_points(points: tuple[float, ...]) -> Tensor:
    if not points:
        raise ValueError("There are no points yet: draw one in a picture")
    if len(points) % 2:
        raise ValueError(f"points has {len(points)} numbers: draw a point, x and y of each")
    return torch.tensor(points).view(-1, 2)


def write_target(settings: TargetSettings) -> str:
    """Return Python that makes the target, after `import scorefield as sf`."""
    if settings.target == "modes":
        return (
            "\nmeans = torch.tensor([[-5.0, -5.0], [5.0, 5.0]])\n"
            "target = sf.GaussianMixture(means, 0.0, torch.tensor([0.2, 0.8]))\n"
        )
    source = "from scorefield.data import load_data\n"
    if settings.target == "circle":
        return f'{source}\ntarget = load_data("mixture", n=1).oracle\n'
    points, spread = f'load_data("{settings.target}", n={TOY_POINTS}).train.data', TOY_SPREAD
    if settings.target == "points":
        _drawn_points(settings.points)
        source, spread = "", settings.spread
        points = f"torch.tensor({[*settings.points]!r}).view(-1, 2)"
    return (
        f"{source}\npoints = {points}\nweights = torch.ones(len(points)) / len(points)\n"
        f"target = sf.GaussianMixture(points, {spread!r} ** 2, weights)\n"
    )
