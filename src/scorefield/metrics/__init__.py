"""Metrics of samples against data: functions of plain tensors, n × d features or whole images.

None knows of models or of scores. All take memory for a block of rows at a time, beside what they
are given, and compute in double precision.
"""

from .coverage import (
    DensityCoverage,
    Memorisation,
    Neighbours,
    PrecisionRecall,
    crowding,
    density_coverage,
    nearest,
    neighbour_ratio,
    precision_recall,
)
from .distances import (
    Estimate,
    Moments,
    frechet,
    frechet_gaussian,
    inception_score,
    sliced_wasserstein,
)
from .kernel import kernel_distance

__all__ = [
    "DensityCoverage",
    "Estimate",
    "Memorisation",
    "Moments",
    "Neighbours",
    "PrecisionRecall",
    "crowding",
    "density_coverage",
    "frechet",
    "frechet_gaussian",
    "inception_score",
    "kernel_distance",
    "nearest",
    "neighbour_ratio",
    "precision_recall",
    "sliced_wasserstein",
]
