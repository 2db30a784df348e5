"""Inverse problems: measurements, conditional scores, their products, samplers and evidence."""

from .compose import compose
from .condition import dps, mmps, pigdm, replace
from .evidence import log_normalizer, smc
from .guidance import Guidance, guide_by_classifier
from .operators import (
    LinearOperator,
    Operator,
    blur,
    downsample,
    grayscale,
    mask,
    matrix,
    nonlinear,
)
from .overwrite import ddrm, repaint
from .posterior import algorithm2, particle_filter
from .scanners import fourier, radon
from .split import daps, diffpir, split_gibbs
from .twisted import pigdm_langevin, tds

__all__ = [
    "Guidance",
    "LinearOperator",
    "Operator",
    "algorithm2",
    "blur",
    "compose",
    "daps",
    "ddrm",
    "diffpir",
    "downsample",
    "dps",
    "fourier",
    "grayscale",
    "guide_by_classifier",
    "log_normalizer",
    "mask",
    "matrix",
    "mmps",
    "nonlinear",
    "particle_filter",
    "pigdm",
    "pigdm_langevin",
    "radon",
    "repaint",
    "replace",
    "smc",
    "split_gibbs",
    "tds",
]
