"""Networks: the F of a model, functions of (x, cond) that know nothing of σ or of sampling."""

from .mlp import MLP
from .refinenet import DEPTHS, Depth, RefineNet
from .small import Autoencoder, ToyMLP
from .unet import UNet

__all__ = ["DEPTHS", "MLP", "Autoencoder", "Depth", "RefineNet", "ToyMLP", "UNet"]
