"""Networks: the F of a model, functions of (x, cond) that know nothing of σ or of sampling."""

from collections.abc import Callable

from torch.nn import Module

from .mlp import MLP
from .refinenet import DEPTHS, Depth, RefineNet
from .small import Autoencoder, ToyMLP
from .unet import UNet

NETWORKS: dict[str, Callable[..., Module]] = {
    "Autoencoder": Autoencoder,
    "MLP": MLP,
    "RefineNet": RefineNet,
    "ToyMLP": ToyMLP,
    "UNet": UNet,
}
"""The networks that a file or a configuration may name; `NETWORKS[kind](**net.arguments)`."""

__all__ = ["DEPTHS", "MLP", "NETWORKS", "Autoencoder", "Depth", "RefineNet", "ToyMLP", "UNet"]
