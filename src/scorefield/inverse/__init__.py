"""Inverse problems: linear measurements, conditional scores, their products and samplers."""

from .compose import compose
from .condition import dps, mmps, pigdm, replace
from .operators import LinearOperator, blur, downsample, grayscale, mask, matrix
from .posterior import algorithm2, particle_filter

__all__ = [
    "LinearOperator",
    "algorithm2",
    "blur",
    "compose",
    "downsample",
    "dps",
    "grayscale",
    "mask",
    "matrix",
    "mmps",
    "particle_filter",
    "pigdm",
    "replace",
]
