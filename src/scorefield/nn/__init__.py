"""Networks: the F of a model, functions of (x, cond) that know nothing of σ or of sampling."""

from collections.abc import Callable

from torch.nn import Module

from .refinenet import DEPTHS, Depth, RefineNet
from .unet import UNet

NETWORKS: dict[str, Callable[..., Module]] = {"RefineNet": RefineNet, "UNet": UNet}
"""The networks that a file or a configuration may name; `NETWORKS[kind](**net.arguments)`."""

__all__ = ["DEPTHS", "NETWORKS", "Depth", "RefineNet", "UNet"]
