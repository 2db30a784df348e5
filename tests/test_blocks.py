"""The parts of networks against formulas written out: moments, einsum, matrices, numpy's sines."""

import numpy as np
import pytest
import torch
from score_sde_reference import group_norm
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import profile

from scorefield.nn import DiT
from scorefield.nn.blocks import Attention, kernels_with_derivatives, normalization
from scorefield.nn.embedding import GaussianFourier, sinusoidal
from scorefield.nn.resample import BOX, double_size, half_size

FIR = (1.0, 3.0, 3.0, 1.0)
LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
CLOSE = dict(rtol=1e-10, atol=1e-10)
"""For float64 after some hundred operations."""


def random(module):
    """The module in float64, with parameters that are nowhere 0 or 1."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.double()


@LAYOUTS
@pytest.mark.parametrize(
    ("channels", "requested", "groups"),
    [(8, None, 2), (128, None, 32), (512, None, 32), (64, 32, 32), (2, None, 1)],
)
def test_normalisation_uses_the_moments_of_groups(layout, channels, requested, groups):
    norm = random(normalization(channels, requested))
    x = 3 + torch.randn(2, channels, 4, 3).double()
    expected = group_norm(x, norm.weight, norm.bias, groups)
    assert norm.num_groups == groups
    for differentiated in (False, True):
        x = x.contiguous(memory_format=layout).requires_grad_(differentiated)
        with kernels_with_derivatives(x):
            torch.testing.assert_close(norm(x), expected, **CLOSE)


def test_normalisation_of_bfloat16_takes_the_moments_in_float32():
    norm, half = random(normalization(8)).float(), (3 + torch.randn(2, 8, 4, 3)).bfloat16()
    with sdpa_kernel(SDPBackend.MATH):
        result = norm(half)
    assert result.dtype == torch.bfloat16
    # one rounding to 8 bits at the end
    torch.testing.assert_close(result.float(), norm(half.float()), rtol=2**-8, atol=0)
    assert norm.state_dict().keys() == torch.nn.GroupNorm(2, 8).state_dict().keys()


@LAYOUTS
def test_layers_before_the_norm_may_be_frozen(layout):
    """Their output has no gradient, at which torch's kernel crashes in channels_last."""
    norm, x = random(normalization(8)), torch.randn(2, 8, 4, 6).double().to(memory_format=layout)
    (gradient,) = torch.autograd.grad(norm(x).square().sum(), norm.bias)
    torch.testing.assert_close(gradient, 2 * norm(x).sum((0, 2, 3)), **CLOSE)


@LAYOUTS
def test_attention_uses_the_fused_kernel_except_where_its_input_is_differentiated(layout):
    block, x = random(Attention(8)), torch.randn(2, 8, 4, 6).double().to(memory_format=layout)
    gradients = []
    for needs in (False, True):
        with profile() as profiler, kernels_with_derivatives(x.requires_grad_(needs)):
            out = block(x)
        kernels = {event.key for event in profiler.key_averages()}
        assert needs != ("aten::_scaled_dot_product_flash_attention_for_cpu" in kernels)
        gradients.append(torch.autograd.grad(out.square().sum(), list(block.parameters())))
    torch.testing.assert_close(*gradients, **CLOSE)


@torch.no_grad()
def test_a_transformer_is_the_formula():
    """Written out for one image of 2 × 3 patches, with attention by einsum in 3 heads of 4."""
    net = random(DiT(channels=2, patch=2, width=12, blocks=2, heads=3, labels=4)).eval()
    x, cond, label = torch.randn(1, 2, 4, 6).double(), torch.tensor([0.7]), torch.tensor([1])
    e = net.embedding(cond.double(), net.label(label))[0]

    def norm(h, gain, bias):
        variance, mean = torch.var_mean(h, 1, correction=0, keepdim=True)
        return (1 + gain) * (h - mean) / (variance + 1e-5).sqrt() + bias

    corners = torch.cartesian_prod(torch.arange(2), torch.arange(3))
    cut = [x[0, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten() for i, j in corners]
    h = net.stem(torch.stack(cut)) + sinusoidal(corners.flatten(), 6).view(6, 12)
    for attention, layers in zip(net.blocks[::2], net.blocks[1::2], strict=True):
        *affine, gate = attention.film(e).view(3, 12)
        q, k, v = attention.layer.projections(norm(h, *affine)).view(6, 3, 3, 4).unbind(1)
        weights = (torch.einsum("phf,qhf->hpq", q, k) / 4**0.5).softmax(2)
        h = h + gate * attention.layer.out(torch.einsum("hpq,qhf->phf", weights, v).flatten(1))
        *affine, gate = layers.film(e).view(3, 12)
        z = layers.layer[0](norm(h, *affine))
        gelu = z * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (z + 0.044715 * z**3))) / 2
        h = h + gate * layers.layer[3](gelu)
    parts = net.head(norm(h, *net.film(e).view(2, 12))).view(6, 2, 2, 2)
    out = net(x, cond.double(), label)
    for (i, j), expected in zip(corners, parts, strict=True):
        torch.testing.assert_close(
            out[0, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2], expected, **CLOSE
        )
    assert net(x[:0], cond[:0].double(), label[:0]).shape == (0, 2, 4, 6)
    torch.testing.assert_close(net(x, cond=None), net(x, torch.zeros(1).double()), rtol=0, atol=0)


@pytest.mark.parametrize("taps", [BOX, FIR, (1.0, 2.0, 4.0, 8.0), (1.0, 0, 2.0, 5.0, 3.0, 1)])
def test_resampling_is_the_formula(taps):
    """y[i] = Σ_j k[2i − j + K/2]·x[j] down, and 2·Σ_j k[i − 2j + K/2 − 1]·x[j] up."""
    x = torch.randn(8, 8).double()
    k = {n: tap / sum(taps) for n, tap in enumerate(taps, -(len(taps) // 2))}  # shifted by K/2
    down = [[k.get(2 * i - j, 0) for j in range(8)] for i in range(4)]
    up = [[2 * k.get(i - 2 * j - 1, 0) for j in range(8)] for i in range(16)]
    down, up = (torch.tensor(matrix, dtype=torch.float64) for matrix in (down, up))
    torch.testing.assert_close(half_size(x[None, None], taps)[0, 0], down @ x @ down.T, **CLOSE)
    torch.testing.assert_close(double_size(x[None, None], taps)[0, 0], up @ x @ up.T, **CLOSE)
    with pytest.raises(ValueError, match="3 taps"):
        half_size(x[None, None], (1.0, 2.0, 1.0))


@pytest.mark.parametrize("size", [4, 16, 17])
def test_sinusoids_are_the_formula(size):
    t, half = np.array([0.0, 1.0, 37.5, 999.0]), size // 2
    phase = np.outer(t, 10_000.0 ** (-np.arange(half) / (half - 1)))
    expected = np.concatenate([np.sin(phase), np.cos(phase), np.zeros((4, size % 2))], 1)
    result = sinusoidal(torch.tensor(t, dtype=torch.float32), size).numpy()
    # two roundings of a frequency and one of the phase, 3·2⁻²⁴·t, and those of the sine
    assert (np.abs(result - expected).max(1) < 3 * 2.0**-24 * t + 1e-6).all()
    index = torch.tensor([3, 999])
    assert torch.equal(sinusoidal(index, size), sinusoidal(index.float(), size))
    assert sinusoidal(index.bfloat16(), size).dtype == torch.float32


def test_fourier_features_are_the_formula():
    features = GaussianFourier(6, scale=2.0)
    cond = torch.tensor([-4.6, 0.0, 5.8])
    phase = 2 * np.pi * np.outer(cond.double().numpy(), features.frequencies.double().numpy())
    expected = np.concatenate([np.sin(phase), np.cos(phase)], 1)
    # three roundings of a phase
    assert np.abs(features(cond).numpy() - expected).max() < 3 * 2.0**-24 * np.abs(phase).max()
    assert not list(features.parameters())
    assert torch.equal(features(cond.bfloat16()), features(cond.bfloat16().float()))
    frequencies = GaussianFourier(20_000, scale=16.0).frequencies
    # 5 standard errors: 16/√n and 16/√(2n)
    assert frequencies.mean().item() == pytest.approx(0, abs=0.57)
    assert frequencies.std().item() == pytest.approx(16, abs=0.4)
