"""Networks: the F of a model, functions of (x, cond) that know nothing of σ or of sampling."""

from .refinenet import DEPTHS, Depth, RefineNet
from .unet import UNet

__all__ = ["DEPTHS", "Depth", "RefineNet", "UNet"]
