"""The UNet: second derivatives in any layout, sizes, published networks and classes."""

import pytest
import torch
from test_kernels import error
from test_networks import small_unet
from torch.nn.attention import SDPBackend, sdpa_kernel

from scorefield import EDM, VE, ScoreModel, exact
from scorefield.nn import UNet, unet

LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def batch(dtype=torch.float32):
    return torch.randn(2, 3, 8, 12, dtype=dtype), torch.tensor([0.3, 2.1], dtype=dtype)


# ── Derivatives ──────────────────────────────────────────────────────────────────────────────────


@layouts
def test_the_exact_objective_and_its_gradient_are_right(layout):
    """½‖s‖² + tr ∂s/∂x against the trace of a Jacobian, its gradient against differences."""
    net = small_unet(channels=1).double().to(memory_format=layout)
    model, x = ScoreModel(net, EDM()), torch.rand(2, 1, 3, 2, dtype=torch.float64)
    losses = exact(model, x, 0.5, noise=torch.zeros_like)
    s = model(x, 0.5)
    for i, loss in enumerate(losses):
        jacobian = torch.autograd.functional.jacobian(
            lambda y, i=i: model(x.index_copy(0, torch.tensor([i]), y[None]), 0.5)[i], x[i]
        )
        trace = jacobian.reshape(6, 6).trace().item()
        assert loss.item() == pytest.approx(0.5 * s[i].square().sum().item() + trace, rel=1e-9)
    weight = net.middle[1].norm.weight
    (gradient,) = torch.autograd.grad(losses.sum(), weight)
    direction, ends = torch.randn_like(weight), []
    for h in (1e-5, -2e-5):
        weight.data.add_(h * direction)
        ends.append(exact(model, x, 0.5, noise=torch.zeros_like).sum().item())
    expected = (ends[0] - ends[1]) / 2e-5
    assert (gradient * direction).sum().item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own, at import
@layouts
def test_forward_mode_in_any_layout_and_under_autocast(layout):
    net, (x, cond) = small_unet().double(), batch(torch.float64)
    x, u = x.to(memory_format=layout), torch.randn_like(x)
    _, expected = torch.func.jvp(lambda x: net(x, cond), (x.contiguous(),), (u,))
    net = net.to(memory_format=layout)
    _, pushed = torch.func.jvp(lambda x: net(x, cond), (x,), (u,))
    assert error(pushed, expected) < 1e-12
    net, cond = net.float(), cond.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, pushed = torch.func.jvp(lambda x: net(x, cond), (x.float(),), (u.float(),))
    # 2⁻⁹ a rounding, some thirty layers in a row
    assert error(pushed, expected) < 0.08


@layouts
def test_second_derivatives_by_the_noise_level_and_by_parameters_alone(layout):
    net = small_unet(fourier_scale=1.0).double().to(memory_format=layout)
    x, cond = batch(torch.float64)
    x, weight = x.to(memory_format=layout), net.middle[1].query.weight
    with sdpa_kernel(SDPBackend.MATH):
        out = net(x, cond).square().sum()
    (g,) = torch.autograd.grad(out, weight, create_graph=True)
    assert torch.autograd.grad(g.square().sum(), weight)[0].norm() > 0

    def slope(cond):
        (g,) = torch.autograd.grad(net(x, cond).square().sum(), cond, create_graph=True)
        return g.sum()

    cond, h = cond.requires_grad_(), 1e-5
    (gradient,) = torch.autograd.grad(slope(cond), cond)
    expected = (slope(cond + h) - slope(cond - h)) / (2 * h)
    assert gradient.sum().item() == pytest.approx(expected.item(), rel=1e-5)


# ── Sizes, classes, precision ────────────────────────────────────────────────────────────────────


def test_published_networks_have_the_published_sizes():
    """62.8 and 61.8 million for CIFAR-10's; DDPM's has two attentions less than the 35.7 of Ho."""
    with torch.device("meta"):
        nets = {name: UNet(**arguments) for name, arguments in unet.PUBLISHED_UNETS.items()}
    millions = {name: sum(p.numel() for p in net.parameters()) / 1e6 for name, net in nets.items()}
    attentions = 2 * (4 * (256 * 256 + 256) + 2 * 256)
    assert millions["ncsnpp_cifar10"] == pytest.approx(62.8, abs=0.05)
    assert millions["ddpmpp_cifar10"] == pytest.approx(61.8, abs=0.05)
    assert millions["ddpm_cifar10"] * 1e6 + attentions == pytest.approx(35_746_307)
    for name, size in dict(ddpm_celebahq256=256, ncsnpp_ffhq256=256, ncsnpp_ffhq1024=1024).items():
        net = nets[name]
        sizes = [size >> i for i in reversed(range(len(net.up)))]
        attended = [level.attention is not None for level in net.up]
        assert attended == [size == 16 for size in sizes]


def test_classes_change_the_result_and_can_be_left_out():
    net, (x, cond) = small_unet(labels=3).double().eval(), batch(torch.float64)
    outs = [net(x, cond, torch.tensor([i, i])) for i in range(3)]
    assert error(outs[0], outs[1]) > 1e-3
    mixed = net(x, cond, torch.tensor([2, 0]))
    torch.testing.assert_close(mixed, torch.stack([outs[2][0], outs[0][1]]), rtol=1e-9, atol=1e-9)
    for wrong in (3, -1, 7):  # 3 is the row for no class, which no number selects
        with pytest.raises(ValueError, match=r"labels from .* has 3 classes, 0 to 2"):
            net(x, cond, torch.tensor([1, wrong]))
    with pytest.raises(ValueError, match="no classes"):
        small_unet()(*batch(), torch.tensor([0, 0]))


def test_classes_are_withheld_in_training_alone():
    net, (x, cond) = small_unet(labels=3, label_dropout=1.0), batch()
    label = torch.tensor([0, 2])
    assert torch.equal(net(x, cond, label), net(x, cond))
    assert not torch.equal(net.eval()(x, cond, label), net(x, cond))
    net.label.dropout = 0.25
    withheld = net.label.train()(torch.zeros(20_000, dtype=torch.long))
    share = (withheld == net.label.table.weight[3]).all(1).float().mean()
    # 6 standard errors, √(0.25·0.75/20,000) each
    assert share.item() == pytest.approx(0.25, abs=0.019)


@pytest.mark.parametrize("sigma", [0.35, 0.1, 0.03])
@torch.no_grad()
def test_weights_in_bfloat16_leave_the_noise_level_exact(sigma):
    """NCSN++ takes log σ at frequencies of scale 16."""
    net, x = small_unet(width=16).eval(), torch.randn(4, 3, 8, 8)
    torch.nn.init.normal_(net.embedding.out.weight, std=0.3)
    model = ScoreModel(net, VE())
    expected = model(x, sigma)
    # a rounded log σ would move the phase by whole turns
    assert error(model.bfloat16()(x, sigma), expected) < 0.08
    assert net.embedding.features.frequencies.dtype == torch.float32
    assert net.double().embedding.features.frequencies.dtype == torch.float64
