"""The UNet as a whole: its derivatives, the ways of running it, its first weights and classes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from scorefield import EDM, VE, Gaussian, ScoreModel, exact, log_likelihood
from scorefield.nn import unet
from scorefield.nn.unet import UNet

FIR = (1.0, 3.0, 3.0, 1.0)
KINDS = {
    "ncsn++": dict(progressive_input="residual", attention=(1,)),
    "pyramids": dict(progressive_input="skip", progressive_output="skip"),
    "residual out": dict(progressive_output="residual", progressive_input="none"),
    "ddpm": dict(
        form="ddpm",
        embedding="sinusoidal",
        fir=None,
        progressive_input="none",
        skip_rescale=False,
    ),
}


def small(kind="ncsn++", **changes):
    """A small network with weights that are not nearly zero."""
    arguments = dict(width=8, multipliers=(1, 2), blocks=1, attention=(0, 1), dropout=0.0)
    return UNet(**{**arguments, **KINDS[kind], "init_scale": 1.0, **changes})


def batch(size=2, dtype=torch.float32):
    return torch.randn(size, 3, 8, 12, dtype=dtype), torch.tensor([0.3, 2.1], dtype=dtype)[:size]


def relative(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
def test_second_derivatives_are_those_of_finite_differences(kind):
    net, (x, cond) = small(kind).double(), batch(1, torch.float64)
    x, v = x.requires_grad_(), torch.randn_like(x)

    def slope(x):  # vᵀ∂F/∂x·v, whose gradient is what sliced score matching needs
        (g,) = torch.autograd.grad((net(x, cond) * v).sum(), x, create_graph=True)
        return (g * v).sum()

    (found,) = torch.autograd.grad(slope(x), x)
    direction, h = torch.randn_like(x), 1e-5
    expected = (slope(x + h * direction) - slope(x - h * direction)) / (2 * h)
    assert (found * direction).sum().item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own, at import
@kinds
def test_forward_mode_is_the_backward_mode_transposed(kind):
    net, (x, cond) = small(kind), batch()
    u, v = torch.randn_like(x), torch.randn_like(x)
    value, pushed = torch.func.jvp(lambda x: net(x, cond), (x,), (u,))
    assert relative(value, net(x, cond)) < 1e-5
    (pulled,) = torch.autograd.grad((net(x.requires_grad_(), cond) * v).sum(), x)
    assert (pushed * v).sum().item() == pytest.approx((pulled * u).sum().item(), rel=1e-4)


LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


@layouts
def test_the_exact_objective_goes_through(layout):
    """½‖s‖² + tr ∂s/∂x and its gradients, against the trace of a Jacobian one row at a time."""
    net = small(channels=1).double().to(memory_format=layout)
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
    (found,) = torch.autograd.grad(losses.sum(), weight)
    direction, ends = torch.randn_like(weight), []
    for h in (1e-5, -2e-5):
        weight.data.add_(h * direction)
        ends.append(exact(model, x, 0.5, noise=torch.zeros_like).sum().item())
    expected = (ends[0] - ends[1]) / 2e-5
    assert (found * direction).sum().item() == pytest.approx(expected, rel=1e-5)


@layouts
def test_an_exact_likelihood_goes_through(layout):
    """Along the flow of a fresh network, whose score is that of a Gaussian."""
    net = small(channels=1, init_scale=0.0).eval().double().to(memory_format=layout)
    data, x = (
        Gaussian(torch.zeros(1, 2, 2).double(), torch.tensor(0.25).double()),
        torch.rand(2, 1, 2, 2),
    )
    found = log_likelihood(
        ScoreModel(net, EDM()), x.double(), data.prior, sigma_min=0.5, sigma_max=2.0
    )
    expected = data.log_prob(x.double(), 0.5)
    torch.testing.assert_close(found.log_prob, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
@layouts
@pytest.mark.parametrize("autocast", [False, True])
def test_forward_mode_in_any_layout_and_under_autocast(layout, autocast):
    net, (x, cond) = small(), batch()
    u = torch.randn_like(x)
    _, expected = torch.func.jvp(lambda x: net(x, cond), (x,), (u,))
    net, x, u = (each.to(memory_format=layout) for each in (net, x, u))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        _, found = torch.func.jvp(lambda x: net(x, cond), (x,), (u,))
    error = (found.float() - expected).norm() / expected.norm()
    assert error < (0.05 if autocast else 1e-5)


@layouts
def test_second_derivatives_by_the_noise_level(layout):
    net, (x, cond) = small(fourier_scale=1.0).double().to(memory_format=layout), batch()
    x = x.double().to(memory_format=layout)

    def slope(cond):
        (g,) = torch.autograd.grad(net(x, cond).square().sum(), cond, create_graph=True)
        return g.sum()

    cond, h = cond.double().requires_grad_(), 1e-5
    (found,) = torch.autograd.grad(slope(cond), cond)
    expected = (slope(cond + h) - slope(cond - h)) / (2 * h)
    assert found.sum().item() == pytest.approx(expected.item(), rel=1e-5)


@layouts
def test_second_derivatives_by_the_parameters_alone_need_the_kernel_of_formulas(layout):
    """What `differentiated` says of them."""
    net, (x, cond) = small().double().to(memory_format=layout), batch(dtype=torch.float64)
    weight = net.middle[1].query.weight
    with sdpa_kernel(SDPBackend.MATH):
        out = net(x, cond).square().sum()
    (g,) = torch.autograd.grad(out, weight, create_graph=True)
    (found,) = torch.autograd.grad(g.square().sum(), weight)
    assert found.norm() > 0


@kinds
def test_channels_last_changes_nothing(kind):
    net, (x, cond) = small(kind), batch()
    with torch.no_grad():
        expected = net(x, cond)
        net = net.to(memory_format=torch.channels_last)
        assert relative(net(x.to(memory_format=torch.channels_last), cond), expected) < 1e-5


@kinds
def test_autocast_to_bfloat16_is_close(kind):
    net, (x, cond) = small(kind), batch()
    with torch.no_grad():
        expected = net(x, cond)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = net(x, cond)
    error = (found.float() - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert error < 0.03


COMPILED = """
import sys, torch
sys.path.insert(0, "tests")
from test_unet import KINDS, batch, relative, small

def step(net, run, x, cond, target):
    net.zero_grad()
    out = run(x, cond)
    (out - target).square().mean().backward()
    return out.detach(), {name: p.grad.clone() for name, p in net.named_parameters()}

for kind in sys.argv[1:]:
    torch.manual_seed(0)
    net, (x, cond) = small(kind, attention=()), batch()
    target = torch.randn_like(x)
    out, eager = step(net, net, x, cond, target)
    compiled, found = step(net, torch.compile(net, fullgraph=True), x, cond, target)
    assert relative(compiled, out) < 1e-5, kind
    least = 1e-4 * max(g.abs().max() for g in eager.values())
    errors = {n: ((found[n] - g).abs().max() / (g.abs().max() + least)).item()
              for n, g in eager.items()}
    wrong = {name: error for name, error in errors.items() if not error < 1e-3}
    assert not wrong, (kind, wrong)
    print(kind, len(errors), "gradients, worst", max(errors.values()))
"""


def _check_compiled(*names):
    """In a process of its own: the checks of shapes that tests install do not compile."""
    run = [sys.executable, "-c", COMPILED.replace('"tests"', repr(str(Path(__file__).parent)))]
    done = subprocess.run([*run, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    print(done.stdout)


@pytest.mark.slow
def test_compiled_forward_and_all_gradients_are_the_eager_ones():
    """Minutes for the C++ compiler."""
    _check_compiled(*KINDS)


def test_the_published_sizes():
    """62.8 and 61.8 million for CIFAR-10's; DDPM's has two attentions less than the 35.7 of Ho."""
    with torch.device("meta"):
        millions = {
            name: sum(p.numel() for p in getattr(unet, name)().parameters()) / 1e6
            for name in ("ncsnpp_cifar10", "ddpmpp_cifar10", "ddpm_cifar10")
        }
        large = [unet.ddpm_celebahq256(), unet.ncsnpp_ffhq256(), unet.ncsnpp_ffhq1024()]
    attentions = 2 * (4 * (256 * 256 + 256) + 2 * 256)
    assert millions["ncsnpp_cifar10"] == pytest.approx(62.8, abs=0.05)
    assert millions["ddpmpp_cifar10"] == pytest.approx(61.8, abs=0.05)
    assert millions["ddpm_cifar10"] * 1e6 + attentions == pytest.approx(35_746_307)
    # attention at 16×16
    assert [level.attention is not None for level in large[0].up] == [0, 1, 0, 0, 0, 0]
    assert [level.attention is not None for level in large[1].up] == [0, 0, 1, 0, 0, 0, 0]
    assert [level.attention is not None for level in large[2].up] == [0, 1, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("kind", ["ncsn++", "pyramids", "ddpm"])
def test_a_fresh_network_is_nearly_zero(kind):
    """s ≈ 0, as the published first weights of every last convolution make it."""
    x, cond = batch()
    assert small(kind, init_scale=0.0)(x, cond).abs().max() < 1e-3


def test_classes_matter_and_can_be_left_out():
    net, (x, cond) = small(labels=3).eval(), batch()
    outs = [net(x, cond, torch.tensor([i, i])) for i in range(3)]
    assert relative(outs[0], outs[1]) > 1e-3
    mixed = net(x, cond, torch.tensor([2, 0]))
    assert torch.allclose(mixed[0], outs[2][0], atol=1e-5)
    assert torch.allclose(mixed[1], outs[0][1], atol=1e-5)
    for wrong in (3, -1, 7):  # 3 is the row of no class, which nobody asks for by a number
        with pytest.raises(ValueError, match=r"labels from .* has 3 classes, 0 to 2"):
            net(x, cond, torch.tensor([1, wrong]))
    with pytest.raises(ValueError, match="no classes"):
        small()(x, cond, torch.tensor([0, 0]))


def test_classes_are_withheld_in_training_alone():
    net, (x, cond) = small(labels=3, label_dropout=1.0), batch()
    label = torch.tensor([0, 2])
    assert torch.equal(net(x, cond, label), net(x, cond))
    assert not torch.equal(net.eval()(x, cond, label), net(x, cond))
    net.label.dropout = 0.25
    withheld = net.label.train()(torch.zeros(20_000, dtype=torch.long))
    share = (withheld == net.label.table.weight[3]).all(1).float().mean()
    assert share.item() == pytest.approx(0.25, abs=0.02)


def test_dropout_is_for_training():
    net, (x, cond) = small(dropout=0.5), batch()
    assert not torch.equal(net(x, cond), net(x, cond))
    assert torch.equal(net.eval()(x, cond), net(x, cond))


def test_samples_do_not_influence_each_other():
    net, (x, cond) = small(), batch()
    assert relative(net(x, cond)[:1], net(x[:1], cond[:1])) < 1e-5


@kinds
@pytest.mark.parametrize("size", [(9, 13), (28, 28), (8, 8), (1, 3)])
def test_any_size_is_padded_to_what_the_halvings_allow(kind, size):
    net, (_, cond) = small(kind, multipliers=(1, 2, 2, 2), attention=(3,)), batch()
    x = torch.randn(2, 3, *size)
    (top, bottom), (left, right) = (((-n % 8) // 2, (-n % 8 + 1) // 2) for n in size)
    framed = torch.nn.functional.pad(x, (left, right, top, bottom))
    middle = (..., slice(top, top + size[0]), slice(left, left + size[1]))
    found = net(x, cond)
    assert found.shape == x.shape
    assert torch.equal(found, net(framed, cond)[middle])


@pytest.mark.parametrize("sigma", [0.35, 0.1, 0.03])
def test_in_bfloat16_the_noise_level_stays_what_it_is(sigma):
    """NCSN++ is told log σ at frequencies of scale 16."""
    net, x = small(width=16).eval(), torch.randn(4, 3, 8, 8)
    torch.nn.init.normal_(net.embedding.out.weight, std=0.3)
    model = ScoreModel(net, VE())
    with torch.no_grad():
        expected = model(x, sigma)
        found = model.bfloat16()(x, sigma)
    assert ((found - expected).norm() / expected.norm()).item() < 0.05
    assert net.embedding.features.frequencies.dtype == torch.float32
    assert net.double().embedding.features.frequencies.dtype == torch.float64


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"embedding": "fourrier"}, "embedding='fourrier': one of fourier, sinusoidal"),
        ({"form": "BigGAN"}, "form='BigGAN': one of ddpm, biggan"),
        ({"progressive_input": "residua"}, "progressive_input='residua': one of none, skip, res"),
        ({"progressive_output": "sum"}, "progressive_output='sum': one of none, skip, residual"),
        ({"combine": "concat"}, "combine='concat': one of sum, cat"),
        ({"attention": (7,)}, r"attention=\(7,\): the levels are 0 to 3, as many as multipliers"),
        ({"attention": (-1,)}, r"attention=\(-1,\): the levels are 0 to 3"),
        ({"label_dropout": 1.5}, r"label_dropout=1\.5: a fraction, from 0 to 1"),
        ({"dropout": -0.1}, r"dropout=-0\.1: a fraction, from 0 to 1"),
        ({"groups": 0}, "groups=0: 1 at least, or None"),
        ({"multipliers": ()}, r"multipliers=\(\): one for each level, 1 at least"),
        ({"multipliers": (1, 0)}, "multipliers=.*: one for each level"),
        ({"blocks": 0}, "blocks=0: 1 at least"),
        ({"channels": 0}, "channels=0: 1 at least"),
        ({"width": 2, "embedding": "sinusoidal"}, "width=2: 4 at least"),
        ({"labels": -1}, "labels=-1: 0 at least"),
        ({"width": 14}, "14 channels are not a multiple of 3 groups"),
    ],
)
def test_arguments_that_make_no_network_are_refused(argument, message):
    with pytest.raises(ValueError, match=message):
        UNet(**argument)


def test_images_of_other_channels_are_refused():
    with pytest.raises(ValueError, match="images of 3 channels"):
        small()(torch.randn(2, 1, 8, 8), torch.ones(2))
