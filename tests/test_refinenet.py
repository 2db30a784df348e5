import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from scorefield.nn import DEPTHS, RefineNet
from scorefield.nn.layers import InstanceNormPlus, max_pool, mean_pool, resize_bilinear
from scorefield.nn.refinenet import Refinement
from scorefield.nn.small import Autoencoder


def _error(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


def _net(levels, depth="original", channels=1):
    return RefineNet(channels, 4, levels, depth=depth)


def _cond(levels, n):
    return None if levels is None else torch.arange(n) % levels


# ── Layers against formulas of their own ─────────────────────────────────────────────────────────


@pytest.mark.parametrize("levels", [None, 3])
def test_instance_norm_plus_is_the_formula(levels):
    norm = InstanceNormPlus(5, levels).double()
    norm.affine.data.normal_()
    x = 2 + torch.randn(3, 5, 4, 6, dtype=torch.float64)
    level = None if levels is None else torch.tensor([2, 0, 1])
    found = norm(x, level).detach().numpy()
    for b, image in enumerate(x.numpy()):
        gamma, alpha, beta = norm.affine[0 if levels is None else level[b]].detach().numpy()
        means = [channel.mean() for channel in image]
        m, v = np.mean(means), math.sqrt(np.var(means, ddof=1) + 1e-5)
        for k, channel in enumerate(image):
            normal = (channel - means[k]) / math.sqrt(channel.var() + 1e-5)
            expected = gamma[k] * (normal + alpha[k] * (means[k] - m) / v) + beta[k]
            np.testing.assert_allclose(found[b, k], expected, rtol=1e-12, atol=1e-12)


def test_a_norm_with_levels_wants_one():
    with pytest.raises(ValueError, match="give each sample's index"):
        InstanceNormPlus(4, 10)(torch.zeros(1, 4, 2, 2))


@pytest.mark.parametrize("size", [(14, 28), (7, 9), (1, 2), (5, 1), (16, 16)])
def test_upsampling_is_bilinear_with_aligned_corners(size):
    before, after = size
    x = torch.randn(2, 3, before, before + 1, dtype=torch.float64)
    found = resize_bilinear(x, torch.Size([after, after + 2]))
    expected = F.interpolate(x, (after, after + 2), mode="bilinear", align_corners=True)
    assert (found - expected).abs().max() < 1e-12


def test_upsampling_to_the_same_size_does_nothing():
    x = torch.randn(1, 2, 4, 4)
    assert resize_bilinear(x, x.shape[2:]) is x


@pytest.mark.parametrize("size", [(9, 6), (2, 3), (1, 1)])
def test_pooling_is_that_of_a_5_by_5_window(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    assert (mean_pool(x) - F.avg_pool2d(x, 5, 1, 2)).abs().max() < 1e-12
    assert torch.equal(max_pool(x), F.max_pool2d(x, 5, 1, 2))


# ── The network ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("size", [(8, 8), (28, 28), (31, 17), (1, 1)])
@pytest.mark.parametrize("levels", [None, 10])
def test_any_size_goes_in_and_comes_out(depth, size, levels):
    net = _net(levels, depth, channels=2)
    x = torch.rand(3, 2, *size, requires_grad=True)
    y = net(x, _cond(levels, 3))
    assert y.shape == x.shape
    assert torch.isfinite(y).all()
    y.square().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_what_is_padded_is_the_middle():
    net = _net(None)
    x = torch.rand(1, 1, 15, 13)
    grey = F.pad(x, (0, 1, 0, 1), value=0.5)  # 2x − 1 = 0
    assert _error(net(x), net(grey)[:, :, :15, :13]) < 1e-6


def test_samples_do_not_influence_each_other():
    net, x = _net(4), torch.rand(3, 1, 8, 8)
    alone = torch.cat([net(x[i : i + 1], torch.tensor([i])) for i in range(3)])
    assert _error(net(x, torch.arange(3)), alone) < 1e-5


def test_a_fresh_network_is_of_the_published_scale():
    net = RefineNet(3, 64, 10)
    for x in (torch.rand(4, 3, 16, 16), 50 * torch.randn(4, 3, 16, 16)):
        # below the deviation of z, which the σ·s of NCSN and the F of NCSNv2 have to become
        assert 0.05 < net(x, _cond(10, 4)).std() < 1.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": "deep"}, "one of original, deeper, deepest"),
        ({"width": 1}, "width=1"),
        ({"levels": 0}, "levels=0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        RefineNet(**{"width": 4, **arguments})


# ── What is done to networks ─────────────────────────────────────────────────────────────────────

BOTH = pytest.mark.parametrize("levels", [None, 5])


@BOTH
def test_the_gradient_of_a_directional_derivative_is_right(levels):
    """Double backward, as sliced matching takes it, against differences."""
    net, cond = _net(levels).double(), _cond(levels, 2)
    x, v, w = torch.randn(3, 2, 1, 8, 8, dtype=torch.float64).unbind()

    def slope(x):
        x = x.requires_grad_()
        (pulled,) = torch.autograd.grad(net(x, cond), x, v, create_graph=True)
        return (pulled * v).sum()

    (gradient,) = torch.autograd.grad(slope(y := x.clone()), y)
    step = 1e-5 * w
    difference = (slope(x + step) - slope(x - step)).item() / 2e-5
    assert (gradient * w).sum().item() == pytest.approx(difference, rel=1e-4, abs=1e-4)


@BOTH
def test_forward_and_backward_derivatives_agree(levels):
    net, cond = _net(levels).double(), _cond(levels, 2)
    x, v, w = torch.randn(3, 2, 1, 8, 8, dtype=torch.float64).unbind()
    value, pushed = torch.func.jvp(lambda x: net(x, cond), (x,), (w,))
    (pulled,) = torch.autograd.grad(net(x.requires_grad_(), cond), x, v)
    assert torch.equal(value, net(x, cond))
    assert (pushed * v).sum().item() == pytest.approx((pulled * w).sum().item(), rel=1e-9)
    ahead, behind = net(x + 1e-6 * w, cond), net(x - 1e-6 * w, cond)
    assert _error(pushed, (ahead - behind) / 2e-6) < 1e-5


@BOTH
def test_rows_of_the_jacobian_can_be_taken_together(levels):
    net, cond, x = _net(levels), _cond(levels, 1), torch.rand(1, 1, 2, 2, requires_grad=True)
    y, basis = net(x, cond), torch.eye(4).view(4, 1, 1, 2, 2)
    (together,) = torch.autograd.grad(y, x, basis, is_grads_batched=True, retain_graph=True)
    alone = [torch.autograd.grad(y, x, v, retain_graph=True)[0] for v in basis]
    assert _error(together, torch.stack(alone)) < 1e-5


@BOTH
def test_channels_last_is_the_same(levels):
    net, cond, x = _net(levels, channels=3), _cond(levels, 2), torch.rand(2, 3, 14, 14)
    expected = net(x, cond)
    net = net.to(memory_format=torch.channels_last)
    assert _error(net(x.to(memory_format=torch.channels_last), cond), expected) < 1e-5


@BOTH
def test_autocast_to_bfloat16_is_near(levels):
    net, cond, x = _net(levels), _cond(levels, 2), torch.rand(2, 1, 14, 14)
    with torch.autocast("cpu", torch.bfloat16):
        found = net(x, cond)
    expected = net(x, cond)
    # bfloat16 has 8 bits; some thirty layers each round once
    assert (found.float() - expected).norm() / expected.norm() < 0.05


def _compare(compiled, net, *inputs):
    """Outputs and the gradients of all parameters, compiled against eager."""
    found = {}
    for name, run in {"eager": net, "compiled": compiled}.items():
        net.zero_grad()
        y = run(*inputs)
        y.square().mean().backward()
        found[name] = [y.detach(), *(p.grad.clone() for p in net.parameters())]
    for ours, expected in zip(found["compiled"], found["eager"], strict=True):
        assert (ours - expected).abs().max() <= 1e-4 * expected.abs().max() + 1e-7
    with torch.no_grad():
        assert _error(compiled(*inputs), found["eager"][0]) < 1e-5


@pytest.mark.slow
@BOTH
@pytest.mark.usefixtures("unchecked")
@torch.no_grad()
def test_a_network_is_one_graph_to_a_compiler(levels):
    net, cond, x = _net(levels), _cond(levels, 2), torch.rand(2, 1, 28, 28)
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x, cond), net(x, cond))


@pytest.mark.usefixtures("unchecked")
def test_a_compiled_block_gives_the_same_values_and_gradients():
    """14 × 14 into 28 × 28, where other ways to write it gave wrong gradients in silence."""
    block = Refinement(4, 4, levels=5)
    x, coarse = torch.randn(2, 4, 28, 28), torch.randn(2, 4, 14, 14)
    _compare(torch.compile(block, fullgraph=True), block, x, coarse, _cond(5, 2))


@pytest.mark.slow
@BOTH
@pytest.mark.usefixtures("unchecked")
def test_a_compiled_network_gives_the_same_values_and_gradients(levels):
    """A minute or more for the C++ compiler; the block above is what is suspect in it."""
    net = _net(levels)
    compiled = torch.compile(net, fullgraph=True)
    _compare(compiled, net, torch.rand(2, 1, 28, 28), _cond(levels, 2))


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 8, 8), (2, 8)])
@pytest.mark.parametrize("build", [lambda: _net(2), lambda: Autoencoder(1, widths=(4, 4))])
@pytest.mark.usefixtures("unchecked")
def test_images_of_other_channels_are_named(build, shape):
    with pytest.raises(ValueError, match="this network takes images of 1 channels"):
        build()(torch.zeros(shape))
