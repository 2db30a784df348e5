"""Samplers: generators of states over any score and any decreasing grid of σ."""

from .integrate import integrate
from .langevin import annealed_langevin, langevin
from .state import State, every, final, progress
from .steps import Step, euler, heun

__all__ = [
    "State",
    "Step",
    "annealed_langevin",
    "euler",
    "every",
    "final",
    "heun",
    "integrate",
    "langevin",
    "progress",
]
