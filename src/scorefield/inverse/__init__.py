"""Inverse problems: measurements, conditional scores, their products, samplers and evidence."""

from .compose import compose
from .condition import dps, mmps, pigdm, replace
from .evidence import log_normalizer, smc
from .guidance import Guidance, guide_by_classifier
from .operators import LinearOperator, blur, downsample, grayscale, mask, matrix
from .posterior import algorithm2, particle_filter

__all__ = [
    "Guidance",
    "LinearOperator",
    "algorithm2",
    "blur",
    "compose",
    "downsample",
    "dps",
    "grayscale",
    "guide_by_classifier",
    "log_normalizer",
    "mask",
    "matrix",
    "mmps",
    "particle_filter",
    "pigdm",
    "replace",
    "smc",
]
