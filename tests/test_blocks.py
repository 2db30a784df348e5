"""Blocks against formulas written out: moments for the norm, einsum for attention."""

import math

import pytest
import torch
from score_sde_reference import attention, group_norm
from torch.profiler import profile

from scorefield.nn.blocks import Attention, ResidualBlock, normalization

LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
CLOSE = dict(rtol=1e-10, atol=1e-10)
"""For float64 after some hundred operations."""


def random(module):
    """The module in float64, with parameters that are nowhere 0 or 1."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.double()


# ── Normalisation ────────────────────────────────────────────────────────────────────────────────


@LAYOUTS
@pytest.mark.parametrize(
    ("channels", "requested", "groups"),
    [(8, None, 2), (128, None, 32), (512, None, 32), (64, 32, 32), (2, None, 1)],
)
def test_normalisation_uses_the_moments_of_groups(layout, channels, requested, groups):
    norm, x = (
        random(normalization(channels, requested)),
        3 + torch.randn(2, channels, 4, 3).double(),
    )
    expected = group_norm(x, norm.weight, norm.bias, groups)
    assert norm.num_groups == groups
    for fused in (True, False):
        result = norm(x.contiguous(memory_format=layout), fused=fused)
        torch.testing.assert_close(result, expected, **CLOSE)


def test_normalisation_of_bfloat16_takes_the_moments_in_float32():
    norm, half = random(normalization(8)).float(), (3 + torch.randn(2, 8, 4, 3)).bfloat16()
    result = norm(half, fused=False)
    assert result.dtype == torch.bfloat16
    # one rounding to 8 bits at the end
    torch.testing.assert_close(result.float(), norm(half.float()), rtol=0.01, atol=0.01)
    assert norm.state_dict().keys() == torch.nn.GroupNorm(2, 8).state_dict().keys()


@LAYOUTS
def test_plain_normalisation_has_every_derivative(layout):
    norm = random(normalization(4, 2))
    x = torch.randn(2, 4, 2, 3).double().to(memory_format=layout).requires_grad_()

    def plain(x):
        return norm(x, fused=False)

    assert torch.autograd.gradcheck(plain, x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(plain, x, check_batched_grad=True)


@LAYOUTS
def test_layers_before_the_norm_may_be_frozen(layout):
    """Their output has no gradient, at which torch's kernel crashes in channels_last."""
    norm, x = random(normalization(8)), torch.randn(2, 8, 4, 6).double().to(memory_format=layout)
    (gradient,) = torch.autograd.grad(norm(x).square().sum(), norm.bias)
    torch.testing.assert_close(gradient, 2 * norm(x).sum((0, 2, 3)), **CLOSE)


# ── Attention ────────────────────────────────────────────────────────────────────────────────────


@LAYOUTS
def test_attention_uses_the_fused_kernel_with_the_same_gradients(layout):
    block, x = random(Attention(8)), torch.randn(2, 8, 4, 6).double().to(memory_format=layout)
    gradients = []
    for fused in (True, False):
        with profile() as profiler:
            out = block(x, fused)
        kernels = {event.key for event in profiler.key_averages()}
        assert fused == ("aten::_scaled_dot_product_flash_attention_for_cpu" in kernels)
        assert "aten::_scaled_dot_product_attention_math" not in kernels
        gradients.append(torch.autograd.grad(out.square().sum(), list(block.parameters())))
    torch.testing.assert_close(*gradients, **CLOSE)


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_attention_is_the_formula(fused, rescale):
    block, x = random(Attention(8, rescale=rescale)), torch.randn(2, 8, 4, 6).double()
    h = group_norm(x, block.norm.weight, block.norm.bias, 2)

    def linear(layer, h):
        product = torch.einsum("oi,bihw->bohw", layer.weight[:, :, 0, 0], h)
        return product + layer.bias[:, None, None]

    mixed = attention(h, *(linear(layer, h) for layer in (block.query, block.key, block.value)))
    expected = (x + linear(block.out, mixed)) / (math.sqrt(2) if rescale else 1)
    torch.testing.assert_close(block(x, fused), expected, **CLOSE)


# ── Residual blocks ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("form", ["ddpm", "biggan"])
def test_a_fresh_block_is_nearly_its_shortcut(form):
    x, embedding = torch.randn(2, 8, 4, 4), torch.randn(2, 16)
    same = ResidualBlock(8, 8, 16, form=form)(x, embedding)
    # weights of √1e-10 = 1e-5 in the last convolution, 72 of them
    torch.testing.assert_close(same, x / math.sqrt(2), rtol=0, atol=1e-3)
    block = ResidualBlock(8, 12, 16, form=form, rescale=False)
    torch.testing.assert_close(block(x, embedding), block.shortcut(x), rtol=0, atol=1e-3)


def test_dropout_follows_its_own_mode():
    """Monte Carlo dropout turns it on in a network that is being evaluated."""
    block = ResidualBlock(8, 8, 4, dropout=0.5).eval()
    torch.nn.init.normal_(block.conv_out.weight)
    x, e = torch.randn(2, 8, 8, 8), torch.randn(2, 4)
    assert torch.equal(block(x, e), block(x, e))
    block.dropout.train()
    assert not torch.equal(block(x, e), block(x, e))
