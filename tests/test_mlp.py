"""The MLP against its formula and known scores, and its products by oneDNN against float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from test_kernels import EPSILON, error

from scorefield import EDM, MLP, Gaussian, GaussianMixture, ScoreModel, denoising
from scorefield.nn import onednn
from scorefield.nn.embedding import Embedding

needs_onednn = pytest.mark.skipif(
    not onednn.onednn_available(), reason="this build of torch has no oneDNN"
)


def small(shape=3, **changes):
    """A small network with weights that are nowhere 0."""
    net = MLP(shape, **{"width": 16, "blocks": 2, **changes})
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net


def batch():
    return torch.randn(2, 3), torch.tensor([0.3, -1.1])


@torch.no_grad()
def test_it_is_the_formula():
    """Written out for one sample, in float64."""
    net = small(4, labels=2).double().eval()
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


def test_it_learns_two_classes_and_their_mixture():
    """With a class the score of its Gaussian; without, taught by the dropout, of the mixture."""
    means = torch.tensor([[1.0], [-1.0]])
    oracle = GaussianMixture(means, 0.25, torch.tensor([0.5, 0.5]))
    model = ScoreModel(MLP(1, width=32, blocks=1, labels=2, label_dropout=0.3), EDM(1.0))
    optimizer, steps = torch.optim.Adam(model.parameters(), lr=3e-3), 300
    decay = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        label, sigma = torch.randint(2, (256,)), torch.tensor([0.4, 1.2]).repeat(128)
        x = means[label] + 0.5 * torch.randn(256, 1)
        (sigma**2 * denoising(model.given(label), x, sigma)).mean().backward()
        optimizer.step()
        decay.step()
    model.eval()
    with torch.no_grad():
        for sigma in (0.4, 1.2):
            for label in (0, 1):
                truth = Gaussian(means[label], 0.25)
                x = truth.sample(2000, sigma)
                assert error(model(x, sigma, label), truth(x, sigma)) < 0.2
        x = oracle.sample(2000, 0.4)
        wrong = Gaussian(torch.zeros(1), 1.25)  # the mixture's mean and variance
        assert error(wrong(x, 0.4), oracle(x, 0.4)) > 0.4
        assert error(model(x, 0.4), oracle(x, 0.4)) < 0.2


def test_neighbouring_levels_have_near_features_and_distant_ones_do_not():
    """Over EDM's ¼ log σ: a step of 1 % in σ hardly shows, a factor of e does."""
    assert MLP(1).arguments["fourier_scale"] == 1.0
    embed = Embedding("fourier", 64, fourier_scale=1.0).features
    log_sigma = torch.linspace(math.log(0.002), math.log(80.0), 50)
    for step, low, high in ((0.01, 0, 0.05), (1, 0.5, 2)):
        change = (embed((log_sigma + step) / 4) - embed(log_sigma / 4)).norm(dim=1)
        assert (low < change / embed(log_sigma / 4).norm(dim=1)).all()
        assert (change / embed(log_sigma / 4).norm(dim=1) < high).all()


def test_no_conditioning_is_zero_and_an_index_works_too():
    net, (x, cond) = small(), batch()
    assert torch.equal(net(x), net(x, torch.zeros(2)))
    assert error(net(x), net(x, cond)) > 1e-2
    net = small(embedding="sinusoidal")
    assert error(net(x, torch.tensor([3, 7]))[1:], net(x, torch.tensor([3, 3]))[1:]) > 1e-2
    with pytest.raises(ValueError, match="no classes"):
        net(x, torch.tensor([3, 7]), torch.tensor([0, 0]))


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


# ── oneDNN ───────────────────────────────────────────────────────────────────────────────────────

DTYPES = torch.float32, torch.float32, torch.float64
CONDS = {"one level": torch.full((64,), 0.3), "many": torch.linspace(-1.5, 1.1, 64)}


def wide(**changes):
    """A network large enough for oneDNN, the same without it, and the same in float64."""
    nets = [MLP(8, width=384, blocks=2, **changes).eval() for _ in range(3)]
    for parameter in nets[0].parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    for net in nets[1:]:
        net.load_state_dict(nets[0].state_dict())
    nets[0].onednn = True
    return nets[0], nets[1], nets[2].double()


def check(fast, plain, truth):
    """The same products in another order: a few times the plain network's own rounding."""
    for ours, theirs, exact in zip(fast, plain, truth, strict=True):
        assert error(ours, exact) <= 4 * error(theirs, exact) + 8 * EPSILON


@pytest.fixture
def products(monkeypatch):
    """The shapes of the first factors of all products by oneDNN."""
    shapes, product = [], onednn._product
    monkeypatch.setattr(
        onednn, "_product", lambda *factors: (shapes.append(factors[0].shape), product(*factors))[1]
    )
    return shapes


@needs_onednn
@pytest.mark.parametrize("name", CONDS)
@torch.no_grad()
def test_onednn_is_as_exact_and_embeds_a_shared_level_once(products, name):
    nets, x, cond = wide(), torch.randn(64, 8), CONDS[name]
    check(*([net(x.to(dtype), cond.to(dtype))] for net, dtype in zip(nets, DTYPES, strict=True)))
    # two layers a block, and the modulation by the level, unless it is one row for all
    assert len(products) == (4 if name == "one level" else 6)


@torch.no_grad()
def test_a_shared_level_does_not_share_classes():
    nets, x, label, cond = (
        wide(labels=3),
        torch.randn(64, 8),
        torch.arange(64) % 3,
        CONDS["one level"],
    )
    results = [
        [net(x.to(dtype), cond.to(dtype), label), net(x.to(dtype), cond.to(dtype))]
        for net, dtype in zip(nets, DTYPES, strict=True)
    ]
    check(*results)
    assert error(*results[0]) > 1e-2
    assert nets[0](x[:0], cond[:0]).shape == (0, 8)


@needs_onednn
def test_gradients_by_onednn_are_as_exact(products):
    x, v = torch.randn(2, 64, 8)
    results = []
    for net, dtype in zip(wide(), DTYPES, strict=True):
        start = x.to(dtype, copy=True).requires_grad_()
        (net(start, CONDS["many"].to(dtype)) * v.to(dtype)).sum().backward()
        results.append([start.grad, *(p.grad for p in net.parameters())])
    check(*results)
    assert len(products) == 3 * 6  # six layers: values, gradients of inputs and of weights


@needs_onednn
def test_other_derivatives_use_torchs_products():
    x, v = torch.randn(2, 64, 8)
    results = []
    for net, dtype in zip(wide(), DTYPES, strict=True):
        start, w = x.to(dtype, copy=True).requires_grad_(), v.to(dtype)
        level = CONDS["one level"].to(dtype)
        y = torch.tanh(net(start, level))
        rows = torch.stack([w, 2 * w, w.flip(0)])
        (several,) = torch.autograd.grad(y, start, rows, is_grads_batched=True, retain_graph=True)
        (pulled,) = torch.autograd.grad(y, start, w, create_graph=True)
        second = torch.autograd.grad((pulled**2).sum(), [start, *net.blocks.parameters()])
        with torch.no_grad():  # forward mode needs no graph
            call = lambda x, net=net, level=level: net(x, level)  # noqa: E731
            pushed = torch.func.jvp(call, (start.detach(),), (w,))[1]
        results.append([several, *second, pushed])
    check(*results)


def test_training_is_known_to_be_faster_on_amd_processors(tmp_path):
    info = tmp_path / "cpuinfo"
    for vendor, faster in (("AuthenticAMD", True), ("GenuineIntel", False)):
        info.write_text(f"processor : 0\nvendor_id : {vendor}\n")
        assert onednn.trains_faster.__wrapped__(info) == faster


@needs_onednn
def test_layers_with_hooks_and_subclasses_are_called():
    class Twice(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    x, calls = torch.randn(128, 384), []
    hooked, other = torch.nn.Linear(384, 384), Twice(384, 384)
    hooked.register_forward_pre_hook(lambda *_: calls.append("hook"))
    onednn.onednn_linear(hooked, x)
    assert calls == ["hook"]
    assert torch.equal(onednn.onednn_linear(other, x), other(x))
