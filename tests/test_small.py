"""The small networks against their formulas, and sliced matching against exact on them."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scorefield import exact, sliced
from scorefield.nn import Autoencoder, ToyMLP

NETWORKS = {
    "plane": (lambda: ToyMLP(width=16), (2,)),
    "image": (lambda: Autoencoder(2, widths=(4, 6, 6, 8, 8)), (2, 2, 3)),
}
both = pytest.mark.parametrize(("build", "shape"), NETWORKS.values(), ids=NETWORKS)


def relative(result, expected):
    return ((result - expected).norm() / expected.norm()).item()


def score_of(net):
    return lambda x, sigma: net(x)


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

    def halved(layer, x):
        return plain(layer, x)[..., ::2, ::2]

    h = run(first, net.begin(x), plain, lambda x: x)
    h = run(down, h, halved, lambda x: halved(down.shortcut, x))
    assert h.shape == (2, 3, 2, 4)
    h = run(up, h, spread, lambda x: spread(up.shortcut, x))
    assert relative(net(x), net.end(F.elu(run(last, h, plain, lambda x: x)))) < 1e-12


@pytest.mark.parametrize("size", [(28, 28), (9, 13), (1, 2)])
@torch.no_grad()
def test_the_network_of_figure_1_takes_images_of_any_size(size):
    net, shapes = Autoencoder(3), []
    for block in net.blocks:
        block.register_forward_hook(lambda block, args, out: shapes.append(tuple(out.shape[1:])))
    x = torch.randn(2, 3, *size)
    result = net(x)
    assert result.shape == x.shape
    height, width = (-(-n // 4) * 4 for n in size)
    full, half, quarter = ((height // n, width // n) for n in (1, 2, 4))
    encoded = [(32, *full), (64, *half), (64, *half), (128, *quarter), (128, *quarter)]
    decoded = [(128, *quarter), (64, *half), (64, *half), (32, *full), (32, *full)]
    assert shapes == encoded + decoded
    (top, bottom), (left, right) = ((-n % 4 // 2, (-n % 4 + 1) // 2) for n in size)
    framed = net(F.pad(x, (left, right, top, bottom)))
    assert torch.equal(result, framed[..., top : height - bottom, left : width - right])


@both
def test_sliced_matching_is_exact_matching_in_the_mean(build, shape):
    """Over an orthogonal basis of ±1 the mean of vᵀJv is the trace, to rounding.

    For the loss, and for its gradient by every parameter, which is of second order.
    """
    net = build().double()
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    x = torch.randn(3, *shape).double()
    directions = _orthogonal_signs(x[0].numel(), x).view(-1, *shape)
    noises = itertools.chain([torch.zeros_like(x)], (v.expand_as(x) for v in directions))
    loss = sliced(score_of(net), x, 0.0, noise=lambda _: next(noises), projections=len(directions))
    expected = exact(score_of(net), x, 0.0)
    assert relative(loss, expected) < 1e-11
    parameters = list(net.parameters())
    ours = torch.autograd.grad(loss.sum(), parameters)
    truth = torch.autograd.grad(expected.sum(), parameters)
    for g, t in zip(ours, truth, strict=True):
        assert (g - t).norm() <= 1e-10 * max(t.norm(), 1)


def _orthogonal_signs(size, like):
    """Vectors of ±1 with Σvvᵀ = n·I: the rows of Hadamard's matrix, cut to a number of columns."""
    signs = like.new_ones(1, 1)
    while len(signs) < size:
        signs = torch.cat([torch.cat([signs, signs], 1), torch.cat([signs, -signs], 1)])
    return signs[:, :size]
