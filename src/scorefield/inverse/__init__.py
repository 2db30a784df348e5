"""Inverse problems: measurements, conditional scores, their products, samplers and evidence."""

from .compose import compose
from .condition import dps, mmps, pigdm, replace
from .evidence import log_normalizer, smc
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
    "log_normalizer",
    "mask",
    "matrix",
    "mmps",
    "particle_filter",
    "pigdm",
    "replace",
    "smc",
]
