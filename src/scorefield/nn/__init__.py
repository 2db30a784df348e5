"""Networks: the F of a model, functions of (x, cond) that know nothing of σ or of sampling."""

from collections.abc import Callable

from torch.nn import Module

from ..values import IMPORTED, spelling_hint
from .arguments import build_module
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


def find_network(kind: str) -> Callable[..., Module]:
    """Return the class of a network that is named here, or that the user has imported."""
    if kind in NETWORKS:
        return NETWORKS[kind]
    if ":" not in kind:
        hint = spelling_hint(kind, NETWORKS)
        raise ValueError(f"network.kind={kind!r:.80}: {hint}; one of your own is MODULE:CLASS")
    if kind not in IMPORTED:
        raise ValueError(
            f"network.kind={kind!r:.80}: this code is not imported because a file names it; if you "
            f"trust it, add --import {kind:.80}, or call scorefield.values.import_object in Python"
        )
    network = IMPORTED[kind]
    if not (isinstance(network, type) and issubclass(network, Module)):
        raise ValueError(f"network.kind={kind!r}: it is not a class of networks (torch.nn.Module)")
    return network


def network_kind(net: Module) -> str:
    """Return the name of a network's class for `find_network`."""
    own = type(net)
    is_ours = NETWORKS.get(own.__name__) is own
    return own.__name__ if is_ours else f"{own.__module__}:{own.__qualname__}"


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
    "build_module",
    "find_network",
    "network_kind",
]
