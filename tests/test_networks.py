"""What holds for every network."""

import inspect
import json

import pytest
import torch

from scorefield.nn import DEPTHS, MLP, NETWORKS, Autoencoder, RefineNet, ToyMLP, UNet, unet

BUILT = {
    "table": lambda: MLP(7),
    "vectors": lambda: MLP((2, 3), width=8, blocks=1, dropout=0.2, labels=4, label_dropout=0.2),
    "counted": lambda: MLP([5], embedding="sinusoidal", fourier_scale=2.0),
    "plane": lambda: ToyMLP(3, width=5),
    "autoencoder": lambda: Autoencoder(3, widths=(4, 8)),
    "ncsn": lambda: RefineNet(1, 4, 10),
    "ncsnv2": lambda: RefineNet(),
    **{depth: lambda depth=depth: RefineNet(3, 8, depth=depth) for depth in DEPTHS},
    "classes": lambda: UNet(width=8, multipliers=[1, 2], labels=3, label_dropout=0.3, groups=2),
    **{
        name: getattr(unet, name)
        for name in (
            "ncsnpp_cifar10",
            "ddpmpp_cifar10",
            "ddpm_cifar10",
            "ddpm_celebahq256",
            "ncsnpp_ffhq256",
            "ncsnpp_ffhq1024",
        )
    },
}


def _shapes(net):
    return {name: value.shape for name, value in net.state_dict().items()}


@pytest.mark.parametrize("build", BUILT.values(), ids=BUILT)
def test_a_network_is_built_again_from_its_arguments(build):
    with torch.device("meta"):
        net = build()
        again = NETWORKS[type(net).__name__](**json.loads(json.dumps(net.arguments)))
    assert list(net.arguments) == list(inspect.signature(type(net)).parameters)
    # of tuples, JSON makes lists
    assert json.dumps(again.arguments) == json.dumps(net.arguments)
    assert _shapes(again) == _shapes(net)
    # what no tensor shows stands in the description of a module or in its plain attributes
    assert repr(again) == repr(net)
    for ours, theirs in zip(net.modules(), again.modules(), strict=True):
        assert _plain(ours) == _plain(theirs)


def _plain(module):
    """The numbers and texts of a module."""
    return {k: v for k, v in vars(module).items() if isinstance(v, int | float | str)}


def test_arguments_are_those_that_were_given():
    net = UNet(width=8, multipliers=(1,), attention=(), labels=2)
    assert net.arguments["labels"] == 2
    assert net.arguments["width"] == 8
    assert net.arguments["fir"] == (1.0, 3.0, 3.0, 1.0)
    assert RefineNet(1, 4, depth="deeper").arguments == dict(
        channels=1, width=4, levels=None, depth="deeper"
    )
