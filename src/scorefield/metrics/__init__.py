"""Metrics of samples against data: functions of plain tensors, n × d features or whole images.

They import neither models nor scores, compute in double precision, and need memory for one block
of rows in addition to their arguments.
"""

from .coverage import (
    Neighbours,
    crowding,
    density_coverage,
    nearest,
    neighbour_ratio,
    precision_recall,
)
from .distances import Moments, frechet, inception_score, kernel_distance, sliced_wasserstein
from .stein import stein_discrepancy

__all__ = [
    "Moments",
    "Neighbours",
    "crowding",
    "density_coverage",
    "frechet",
    "inception_score",
    "kernel_distance",
    "nearest",
    "neighbour_ratio",
    "precision_recall",
    "sliced_wasserstein",
    "stein_discrepancy",
]
