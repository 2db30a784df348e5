"""Inverse problems: measurements, conditional scores, their products, samplers and evidence."""

from .compose import compose
from .condition import dps, mmps, pigdm, replace
from .evidence import log_normalizer, smc
from .guidance import Guidance, guide_by_classifier
from .operators import LinearOperator, blur, downsample, grayscale, mask, matrix
from .overwrite import ddrm, repaint
from .posterior import algorithm2, particle_filter
from .split import daps, diffpir, split_gibbs
from .twisted import tds

__all__ = [
    "Guidance",
    "LinearOperator",
    "algorithm2",
    "blur",
    "compose",
    "daps",
    "ddrm",
    "diffpir",
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
    "repaint",
    "replace",
    "smc",
    "split_gibbs",
    "tds",
]
