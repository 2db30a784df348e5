"""RefineNet: its layers against formulas and torch's operations, its sizes, and compilation."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_networks import compare_compiled

from scorefield.nn import DEPTHS, RefineNet
from scorefield.nn.layers import InstanceNormPlus, max_pool, mean_pool, resize_bilinear
from scorefield.nn.refinenet import Refinement

# ── Layers ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("levels", [None, 3])
def test_instance_norm_plus_is_the_formula(levels):
    norm = InstanceNormPlus(5, levels).double()
    norm.affine.data.normal_()
    x = 2 + torch.randn(3, 5, 4, 6, dtype=torch.float64)
    level = None if levels is None else torch.tensor([2, 0, 1])
    result = norm(x, level).detach().numpy()
    for b, image in enumerate(x.numpy()):
        gamma, alpha, beta = norm.affine[0 if levels is None else level[b]].detach().numpy()
        means = [channel.mean() for channel in image]
        m, v = np.mean(means), math.sqrt(np.var(means, ddof=1) + 1e-5)
        for k, channel in enumerate(image):
            normal = (channel - means[k]) / math.sqrt(channel.var() + 1e-5)
            expected = gamma[k] * (normal + alpha[k] * (means[k] - m) / v) + beta[k]
            np.testing.assert_allclose(result[b, k], expected, rtol=1e-11, atol=1e-11)


def test_a_norm_with_levels_requires_one():
    with pytest.raises(ValueError, match="give each sample's index"):
        InstanceNormPlus(4, 10)(torch.zeros(1, 4, 2, 2))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(14, 28), (7, 9), (1, 2), (5, 1), (16, 16)])
def test_resizing_is_bilinear_with_aligned_corners(size, layout):
    before, after = size
    x = torch.randn(2, 3, before, before + 1, dtype=torch.float64)
    result = resize_bilinear(x.to(memory_format=layout), torch.Size([after, after + 2]))
    expected = F.interpolate(x, (after, after + 2), mode="bilinear", align_corners=True)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    assert resize_bilinear(x, x.shape[2:]) is x


@pytest.mark.parametrize("size", [(9, 6), (2, 3), (1, 1)])
def test_pools_have_a_5_by_5_window(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(mean_pool(x), F.avg_pool2d(x, 5, 1, 2), rtol=1e-12, atol=1e-12)
    assert torch.equal(max_pool(x), F.max_pool2d(x, 5, 1, 2))


# ── The network ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("size", [(8, 8), (19, 9), (1, 1)])
@pytest.mark.parametrize("levels", [None, 10])
def test_any_size_gives_finite_values_and_gradients(depth, size, levels):
    net = RefineNet(2, 4, levels, depth=depth)
    x = torch.rand(2, 2, *size, requires_grad=True)
    y = net(x, None if levels is None else torch.arange(2))
    assert y.shape == x.shape
    assert torch.isfinite(y).all()
    y.square().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_an_image_is_padded_with_grey_and_cropped():
    net = RefineNet(1, 4).double()
    x = torch.rand(1, 1, 15, 13).double()
    grey = F.pad(x, (0, 1, 0, 1), value=0.5)  # 2x − 1 = 0
    torch.testing.assert_close(net(x), net(grey)[:, :, :15, :13], rtol=1e-10, atol=1e-10)


def test_a_fresh_network_has_the_published_scale():
    net = RefineNet(3, 64, 10)
    for x in (torch.rand(4, 3, 16, 16), 50 * torch.randn(4, 3, 16, 16)):
        # less than the deviation of z, which σ·s of NCSN and F of NCSNv2 have to learn
        assert 0.05 < net(x, torch.arange(4)).std() < 1.5


# ── Compilation ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("unchecked")
@torch.no_grad()
def test_a_block_is_one_graph_to_a_compiler():
    block, level = Refinement(4, 4, 5), torch.tensor([1, 4])
    x, coarse = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 4, 4)
    compiled = torch.compile(block, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x, coarse, level), block(x, coarse, level))


@pytest.mark.slow
@pytest.mark.parametrize("levels", [None, 5])
@pytest.mark.usefixtures("unchecked")
def test_a_compiled_block_gives_the_same_values_and_gradients(levels):
    """14 × 14 into 28 × 28, where other forms of resizing had wrong gradients without a warning."""
    block, level = Refinement(4, 4, levels), None if levels is None else torch.tensor([1, 4])
    inputs = torch.randn(2, 4, 28, 28), torch.randn(2, 4, 14, 14), level
    compare_compiled(block, torch.compile(block, fullgraph=True), *inputs)
