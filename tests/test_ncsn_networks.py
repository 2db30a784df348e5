"""The networks of Song & Ermon 2019 and 2020: RefineNet's layers, and Figures 1 and 2."""

import pytest
import torch
import torch.nn.functional as F
from test_kernels import error
from torch import nn

from scorefield.nn import Autoencoder, ToyMLP
from scorefield.nn.layers import max_pool, mean_pool, resize_bilinear


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(14, 28), (7, 9), (1, 2), (5, 1), (16, 16)])
def test_resizing_is_bilinear_with_aligned_corners_and_pools_see_5_by_5_pixels(size, layout):
    before, after = size
    x = torch.randn(2, 3, before, before + 1, dtype=torch.float64)
    result = resize_bilinear(x.to(memory_format=layout), torch.Size([after, after + 2]))
    expected = F.interpolate(x, (after, after + 2), mode="bilinear", align_corners=True)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    assert resize_bilinear(x, x.shape[2:]) is x
    torch.testing.assert_close(mean_pool(x), F.avg_pool2d(x, 5, 1, 2), rtol=1e-12, atol=1e-12)
    assert torch.equal(max_pool(x), F.max_pool2d(x, 5, 1, 2))


def test_the_network_of_figure_2_is_2_128_128_2_with_softplus():
    net, x = ToyMLP(), torch.randn(5, 2)
    layers = [nn.Linear(2, 128), nn.Softplus(), nn.Linear(128, 128), nn.Softplus()]
    plain = nn.Sequential(*layers, nn.Linear(128, 2))
    plain.load_state_dict(dict(zip(plain.state_dict(), net.state_dict().values(), strict=True)))
    assert torch.equal(net(x), plain(x))
    assert torch.equal(net(x, torch.ones(5)), plain(x))


@torch.no_grad()
def test_a_block_is_the_formula():
    """A stride of two takes every other pixel of a convolution; its transpose inserts zeros."""
    net, x = Autoencoder(1, widths=(2, 3)).double(), torch.randn(2, 1, 4, 8).double()
    first, down, up, last = net.blocks

    def plain(layer, x):
        return F.conv2d(x, layer.weight, layer.bias, padding=layer.weight.shape[-1] // 2)

    def spread(layer, x):
        apart = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
        apart[..., ::2, ::2] = x
        return F.conv2d(apart, layer.weight.transpose(0, 1).flip(2, 3), layer.bias, padding=1)

    def run(block, x, conv, shortcut):
        return shortcut(x) + plain(block.second, F.elu(conv(block.first, F.elu(x))))

    def halve(layer, x):
        return plain(layer, x)[..., ::2, ::2]

    h = run(first, net.begin(x), plain, lambda x: x)
    h = run(down, h, halve, lambda x: halve(down.shortcut, x))
    assert h.shape == (2, 3, 2, 4)
    h = run(up, h, spread, lambda x: spread(up.shortcut, x))
    assert error(net(x), net.end(F.elu(run(last, h, plain, lambda x: x)))) < 1e-12


def test_the_network_of_figure_1_has_five_blocks_each_way():
    net, shapes = Autoencoder(3), []
    for block in net.blocks:
        block.register_forward_hook(lambda block, args, out: shapes.append(tuple(out.shape[1:])))
    net(torch.randn(2, 3, 9, 13))
    full, half, quarter = (12, 16), (6, 8), (3, 4)
    encoded = [(32, *full), (64, *half), (64, *half), (128, *quarter), (128, *quarter)]
    decoded = [(128, *quarter), (64, *half), (64, *half), (32, *full), (32, *full)]
    assert shapes == encoded + decoded
