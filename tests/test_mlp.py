"""The MLP against its formula, and its products by oneDNN against float64."""

import math
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from test_kernels import EPSILON, error, unusual_derivatives

from scorefield.fast import onednn
from scorefield.fast.twins import FastLinear, swap
from scorefield.nn import MLP

needs_onednn = pytest.mark.skipif(not onednn.onednn_available(), reason="torch has no oneDNN")


def small(shape=3, **changes):
    """A small network with weights that are nowhere 0."""
    net = MLP(shape, **{"width": 16, "blocks": 2, **changes})
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net


@torch.no_grad()
def test_it_is_the_formula():
    """Written out for one sample, in float64."""
    net = small(4, labels=2).double().eval()
    assert net.arguments["fourier_scale"] == 1  # so that near noise levels have near features
    x, cond, label = torch.randn(1, 4).double(), torch.tensor([0.7]).double(), torch.tensor([1])
    e = net.embedding
    phase = 2 * math.pi * cond * e.features.frequencies.double()
    features = torch.cat([phase.sin(), phase.cos()])
    vector = e.out.weight @ F.silu(e.hidden.weight @ features + e.hidden.bias) + e.out.bias
    vector = F.silu(vector + net.label.table.weight[1])
    h = net.stem.weight @ x[0] + net.stem.bias
    for block in net.blocks:
        gain, bias = (block.film.weight @ vector + block.film.bias).view(2, 16)
        normal = (h - h.mean()) / (h.var(correction=0) + 1e-5).sqrt()
        inner = block.first.weight @ (normal + gain * normal + bias) + block.first.bias
        h = h + block.second.weight @ F.silu(inner) + block.second.bias
    expected = net.head.weight @ h + net.head.bias
    assert error(net(x, cond, label)[0], expected) < 1e-12


def test_no_conditioning_is_zero_and_an_index_works_too():
    net, x, cond = small(), torch.randn(2, 3), torch.tensor([0.3, -1.1])
    assert torch.equal(net(x), net(x, torch.zeros(2)))
    assert error(net(x), net(x, cond)) > 1e-2
    net = small(embedding="sinusoidal")
    assert error(net(x, torch.tensor([3, 7]))[1:], net(x, torch.tensor([3, 3]))[1:]) > 1e-2


def test_samples_of_any_shape_are_flattened():
    net, x = small((2, 3, 4)), torch.randn(5, 2, 3, 4)
    flat = small(24)
    flat.load_state_dict(net.state_dict())
    assert torch.equal(net(x), flat(x.flatten(1)).view_as(x))
    last = x.to(memory_format=torch.channels_last)
    assert torch.equal(net.to(memory_format=torch.channels_last)(last), net(x))
    number, one = small(()), small(1)
    one.load_state_dict(number.state_dict())
    assert torch.equal(number(x[:, 0, 0, 0]), one(x[:, 0, 0, :1])[:, 0])
    assert net(x[:0]).shape == (0, 2, 3, 4)


ONE_LEVEL = torch.full((64,), 0.3)
LEVELS = torch.linspace(-1.5, 1.1, 64)


def check(call, *inputs, **changes):
    """Compare call(network, *inputs) by oneDNN, by torch, and in float64; return the first."""
    nets = [MLP(8, width=384, blocks=2, **changes).eval() for _ in range(3)]
    for parameter in nets[0].parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    for net in nets[1:]:
        net.load_state_dict(nets[0].state_dict())
    swap(nets[0], winograd=False, coarse=False, onednn=True)
    fast, plain = (call(net, *inputs) for net in nets[:2])
    truth = call(nets[2].double(), *(t.double() for t in inputs))
    for ours, theirs, exact in zip(fast, plain, truth, strict=True):
        # the same products in another order: a few times the plain network's own rounding
        assert error(ours, exact) <= 4 * error(theirs, exact) + 8 * EPSILON
    return fast


@pytest.fixture
def products(monkeypatch):
    monkeypatch.setattr(onednn, "_product", Mock(wraps=onednn._product))
    return onednn._product


@needs_onednn
@pytest.mark.parametrize(("level", "count"), [(ONE_LEVEL, 4), (LEVELS, 6)])
@torch.no_grad()
def test_onednn_is_as_exact_and_embeds_a_shared_level_once(products, level, count):
    check(lambda net, x, level: [net(x, level)], torch.randn(64, 8), level)
    # two layers a block, and the modulation by the level, unless it is one row for all
    assert products.call_count == count


@torch.no_grad()
def test_a_shared_level_does_not_share_classes():
    def call(net, x, level):
        assert net(x[:0], level[:0]).shape == (0, 8)
        return net(x, level, torch.arange(64) % 3), net(x, level)

    assert error(*check(call, torch.randn(64, 8), ONE_LEVEL, labels=3)) > 1e-2


@needs_onednn
def test_gradients_by_onednn_are_as_exact(products):
    def gradients(net, x, v, level):
        x = x.clone().requires_grad_()
        return torch.autograd.grad(net(x, level), [x, *net.parameters()], v)

    check(gradients, *torch.randn(2, 64, 8), LEVELS)
    assert products.call_count == 3 * 6  # six layers: values, gradients of inputs and of weights


@needs_onednn
def test_other_derivatives_use_torchs_products():
    def derivatives(net, x, v, level):
        return unusual_derivatives(lambda x: net(x, level), x, v, net.blocks.parameters())

    check(derivatives, *torch.randn(2, 64, 8), ONE_LEVEL)


def test_training_is_known_to_be_faster_on_amd_processors(tmp_path):
    info = tmp_path / "cpuinfo"
    for vendor, faster in (("AuthenticAMD", True), ("GenuineIntel", False)):
        info.write_text(f"processor : 0\nvendor_id : {vendor}\n")
        assert onednn.trains_faster.__wrapped__(info) == faster


def test_subclasses_of_a_linear_layer_stay():
    class Twice(torch.nn.Linear):
        pass

    net = small()
    net.stem = Twice(3, 16)
    swap(net, winograd=False, coarse=False, onednn=True)
    assert (type(net.head), type(net.stem)) == (FastLinear, Twice)
