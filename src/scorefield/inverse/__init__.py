"""Inverse problems: what is measured, scores that know of it, samplers of what it may have been."""

from __future__ import annotations

from .condition import dps, pigdm, replace
from .operators import LinearOperator, blur, downsample, grayscale, mask, matrix
from .posterior import algorithm2, particle_filter

__all__ = [
    "LinearOperator",
    "algorithm2",
    "blur",
    "downsample",
    "dps",
    "grayscale",
    "mask",
    "matrix",
    "particle_filter",
    "pigdm",
    "replace",
]
