"""Blocks against formulas written out: moments for the norm, einsum for attention."""

import math

import pytest
import torch
from score_sde_reference import attention, group_norm
from torch.profiler import profile

from scorefield.nn.blocks import Attention, GroupNorm, ResidualBlock, normalization


def random(module):
    """The module in float64, with parameters that are nowhere 0 or 1."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.double()


@pytest.mark.parametrize(
    ("channels", "asked", "groups"),
    [(8, None, 2), (128, None, 32), (512, None, 32), (64, 32, 32), (2, None, 1)],
)
def test_normalisation_is_by_moments_of_groups(channels, asked, groups):
    norm, x = random(normalization(channels, asked)), 3 + torch.randn(2, channels, 4, 3).double()
    expected = group_norm(x, norm.weight, norm.bias, groups)
    assert norm.num_groups == groups
    assert torch.allclose(norm(x), expected)


LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])


@LAYOUTS
def test_plain_normalisation_is_that_of_the_kernel(layout):
    norm = random(normalization(8))
    x = (3 + torch.randn(2, 8, 4, 3).double()).to(memory_format=layout)
    torch.testing.assert_close(norm(x, fused=False), norm(x), rtol=1e-12, atol=1e-12)
    half, norm = x.bfloat16(), norm.float()  # as autocast hands over
    found = norm(half, fused=False)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), norm(half.float()), rtol=0.01, atol=0.01)
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
    """Their output has no gradient, of which torch's kernel makes a crash in channels_last."""
    norm, x = random(normalization(8)), torch.randn(2, 8, 4, 6).double().to(memory_format=layout)
    (found,) = torch.autograd.grad(norm(x).square().sum(), norm.bias)
    torch.testing.assert_close(found, 2 * norm(x).sum((0, 2, 3)))


def test_channels_that_no_groups_hold_are_refused():
    assert isinstance(normalization(12), GroupNorm)
    with pytest.raises(
        ValueError, match="14 channels are not a multiple of 3 groups: change width"
    ):
        normalization(14)


@LAYOUTS
def test_the_fused_kernel_of_attention_is_in_use(layout):
    """In first derivatives too, which are those of the formula."""
    block, x = random(Attention(8)), torch.randn(2, 8, 4, 6).double().to(memory_format=layout)
    gradients = []
    for fused in (True, False):
        with profile() as profiler:
            out = block(x, fused)
        ran = {event.key for event in profiler.key_averages()}
        assert fused == ("aten::_scaled_dot_product_flash_attention_for_cpu" in ran)
        assert "aten::_scaled_dot_product_attention_math" not in ran
        gradients.append(torch.autograd.grad(out.square().sum(), list(block.parameters())))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_attention_is_the_formula(fused, rescale):
    block, x = random(Attention(8, rescale=rescale)), torch.randn(2, 8, 4, 6).double()
    h = group_norm(x, block.norm.weight, block.norm.bias, 2)

    def linear(layer, h):
        return (
            torch.einsum("oi,bihw->bohw", layer.weight[:, :, 0, 0], h) + layer.bias[:, None, None]
        )

    mixed = attention(h, *(linear(layer, h) for layer in (block.query, block.key, block.value)))
    expected = (x + linear(block.out, mixed)) / (math.sqrt(2) if rescale else 1)
    assert torch.allclose(block(x, fused), expected)


def test_attention_does_not_see_the_order_of_pixels():
    block, x = random(Attention(8)), torch.randn(1, 8, 4, 4).double()
    order = torch.randperm(16)
    shuffled = x.flatten(2)[:, :, order].view_as(x)
    assert torch.allclose(block(shuffled), block(x).flatten(2)[:, :, order].view_as(x))


@pytest.mark.parametrize("form", ["ddpm", "biggan"])
def test_a_fresh_block_is_its_shortcut(form):
    x, embedding = torch.randn(2, 8, 4, 4), torch.randn(2, 16)
    assert torch.allclose(
        ResidualBlock(8, 8, 16, form=form)(x, embedding), x / math.sqrt(2), atol=1e-3
    )
    block = ResidualBlock(8, 12, 16, form=form, rescale=False)
    assert torch.allclose(block(x, embedding), block.shortcut(x), atol=1e-3)


def test_the_shortcut_of_ddpm_is_drawn_smaller():
    scales = {
        form: ResidualBlock(64, 128, 16, form=form).shortcut.weight.var().item() * 96
        for form in ("ddpm", "biggan")
    }
    assert scales["ddpm"] == pytest.approx(0.1, rel=0.1)
    assert scales["biggan"] == pytest.approx(1.0, rel=0.1)


def test_dropout_obeys_its_own_mode():
    """Monte Carlo dropout turns it on in a network that is evaluated."""
    block = ResidualBlock(8, 8, 4, dropout=0.5).eval()
    torch.nn.init.normal_(block.conv_out.weight)
    x, e = torch.randn(2, 8, 8, 8), torch.randn(2, 4)
    assert torch.equal(block(x, e), block(x, e))
    block.dropout.train()
    assert not torch.equal(block(x, e), block(x, e))
