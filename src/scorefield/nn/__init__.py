"""Networks: the F of a model, functions of (x, cond) that know nothing of σ or of sampling."""

from collections.abc import Callable

from torch.nn import Module

from .dit import DiT
from .mlp import MLP
from .muon import Muon
from .refinenet import DEPTHS, Depth, RefineNet
from .small import Autoencoder, ToyMLP
from .unet import UNet

NETWORKS: dict[str, Callable[..., Module]] = {
    net.__name__: net for net in (Autoencoder, DiT, MLP, RefineNet, ToyMLP, UNet)
}
"""The networks that a file or a configuration may name; `NETWORKS[kind](**net.arguments)`."""

__all__ = [
    "DEPTHS",
    "MLP",
    "NETWORKS",
    "Autoencoder",
    "Depth",
    "DiT",
    "Muon",
    "RefineNet",
    "ToyMLP",
    "UNet",
]
