"""The MLP against the scores of a Gaussian, of a mixture and of classes, and its derivatives."""

import math

import pytest
import torch
import torch.nn.functional as F

from scorefield import (
    EDM,
    MLP,
    Gaussian,
    GaussianMixture,
    LogUniform,
    ScoreModel,
    annealed,
    denoising,
    edm_weight,
)
from scorefield.nn import onednn
from scorefield.nn.embedding import Embedding


def small(shape=3, **changes):
    """A small network with weights that are nowhere 0."""
    net = MLP(shape, **{"width": 16, "blocks": 2, **changes})
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net


def batch(size=2, dtype=torch.float32):
    return torch.randn(size, 3, dtype=dtype), torch.tensor([0.3, -1.1], dtype=dtype)[:size]


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def train(model, loss, steps):
    """Adam on the losses of fresh samples, until the model is at rest."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    decay = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().mean().backward()
        optimizer.step()
        decay.step()
    model.eval()


@torch.no_grad()
def test_it_is_the_formula():
    """Everything written out for one sample, in float64."""
    net = small(4, labels=2).double().eval()
    x, cond, label = torch.randn(1, 4).double(), torch.tensor([0.7]).double(), torch.tensor([1])
    e = net.embedding
    phase = 2 * math.pi * cond * e.features.frequencies.double()
    features = torch.cat([phase.sin(), phase.cos()])
    told = e.out.weight @ F.silu(e.hidden.weight @ features + e.hidden.bias) + e.out.bias
    told = F.silu(told + net.label.table.weight[1])
    h = net.stem.weight @ x[0] + net.stem.bias
    for block in net.blocks:
        gain, bias = (block.film.weight @ told + block.film.bias).view(2, 16)
        normal = (h - h.mean()) / (h.var(correction=0) + 1e-5).sqrt()
        inner = block.first.weight @ (normal + gain * normal + bias) + block.first.bias
        h = h + block.second.weight @ F.silu(inner) + block.second.bias
    expected = net.head.weight @ h + net.head.bias
    assert relative(net(x, cond, label)[0], expected) < 1e-12


def test_a_fresh_model_is_the_score_of_a_gaussian():
    """That of N(centre, σ_d²I), at every σ."""
    row = EDM(sigma_data=0.7, centre=0.3)
    model = ScoreModel(MLP((2, 5), width=32), row)
    truth, x = Gaussian(torch.full((2, 5), 0.3), 0.7**2), 3 * torch.randn(4, 2, 5)
    for sigma in (0.002, 0.5, 80.0):
        assert relative(model(x, sigma), truth(x, sigma)) < 1e-6


def test_it_learns_the_score_of_a_mixture():
    """In seconds; the best Gaussian is 0.88, 0.31 and 0.02 off."""
    means = torch.tensor([[1.0, 0.8], [-1.2, 0.4], [0.1, -1.3]])
    oracle = GaussianMixture(means, 0.3**2, torch.tensor([0.5, 0.3, 0.2]))
    deviation = oracle.prior.dense.diagonal().mean().sqrt().item()
    model = ScoreModel(MLP(2, width=64, blocks=2), EDM(sigma_data=deviation))
    loss = annealed(denoising, LogUniform(3.0, 0.2), edm_weight(deviation))
    train(model, lambda: loss(model, oracle.sample(256)), steps=700)
    with torch.no_grad():
        for sigma, error in ((0.3, 0.16), (1.0, 0.08), (3.0, 0.02)):
            x = oracle.sample(4000, sigma)
            assert relative(model(x, sigma), oracle(x, sigma)) < error


def test_it_learns_classes_and_their_mixture():
    """Given a class, the score of its Gaussian; given none, as the dropout taught it, of both."""
    means, sigma = torch.tensor([[1.0], [-1.0]]), 0.5
    oracle = GaussianMixture(means, 0.25, torch.tensor([0.5, 0.5]))
    model = ScoreModel(MLP(1, width=32, blocks=1, labels=2, label_dropout=0.3), EDM(1.0))

    def loss():
        label = torch.randint(2, (256,))
        return denoising(model.given(label), means[label] + 0.5 * torch.randn(256, 1), sigma)

    train(model, loss, steps=500)
    with torch.no_grad():
        for label in (0, 1):
            truth = Gaussian(means[label], 0.25)
            x = truth.sample(2000, sigma)
            assert relative(model(x, sigma, label), truth(x, sigma)) < 0.1
        x = oracle.sample(2000, sigma)
        assert relative(model(x, sigma), oracle(x, sigma)) < 0.15


def test_neighbouring_levels_are_told_alike_and_distant_ones_apart():
    """Over EDM's ¼ log σ: a step of 1 % in σ hardly shows, a factor of e does."""
    embedding = Embedding("fourier", 64, fourier_scale=1.0)
    log_sigma = torch.linspace(math.log(0.002), math.log(80.0), 50)
    features = embedding.features(log_sigma / 4)
    near = embedding.features((log_sigma + 0.01) / 4)
    far = embedding.features((log_sigma + 1) / 4)
    assert ((near - features).norm(dim=1) / features.norm(dim=1)).max() < 0.05
    assert ((far - features).norm(dim=1) / features.norm(dim=1)).min() > 0.5
    assert MLP(1).arguments["fourier_scale"] == 1.0


def test_no_conditioning_is_that_of_zero():
    net, (x, cond) = small(), batch()
    assert torch.equal(net(x), net(x, torch.zeros(2)))
    assert relative(net(x), net(x, cond)) > 1e-2


def test_an_index_may_tell_the_level():
    net, (x, _) = small(embedding="sinusoidal"), batch()
    apart = net(x, torch.tensor([3, 7]))
    assert relative(net(x[:1], torch.tensor([3])), apart[:1]) < 1e-6
    assert relative(net(x[1:], torch.tensor([3])), apart[1:]) > 1e-2


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


def test_dropout_is_for_training():
    net, (x, cond) = small(dropout=0.5), batch()
    assert not torch.equal(net(x, cond), net(x, cond))
    assert torch.equal(net.eval()(x, cond), net(x, cond))


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"built for \(3,\)"):
        small()(torch.randn(2, 4), torch.zeros(2))
    with pytest.raises(ValueError, match="no classes"):
        small()(*batch(), torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="shape=0, width=16"):
        small(0)


# ── What is done to networks ─────────────────────────────────────────────────────────────────────


def test_second_derivatives_are_those_of_finite_differences():
    net, (x, cond) = small().double(), batch(dtype=torch.float64)
    x, v = x.requires_grad_(), torch.randn_like(x)

    def slope(x):  # vᵀ∂F/∂x·v, whose gradient is what sliced score matching needs
        (g,) = torch.autograd.grad((net(x, cond) * v).sum(), x, create_graph=True)
        return (g * v).sum()

    (found,) = torch.autograd.grad(slope(x), x)
    direction, h = torch.randn_like(x), 1e-5
    expected = (slope(x + h * direction) - slope(x - h * direction)) / (2 * h)
    assert (found * direction).sum().item() == pytest.approx(expected.item(), rel=1e-6)


def test_forward_mode_is_the_backward_mode_transposed():
    net, (x, cond) = small().double(), batch(dtype=torch.float64)
    u, v = torch.randn_like(x), torch.randn_like(x)
    value, pushed = torch.func.jvp(lambda x: net(x, cond), (x,), (u,))
    assert relative(value, net(x, cond)) < 1e-12
    (pulled,) = torch.autograd.grad((net(x.requires_grad_(), cond) * v).sum(), x)
    assert (pushed * v).sum().item() == pytest.approx((pulled * u).sum().item(), rel=1e-10)
    ahead, behind = net(x + 1e-6 * u, cond), net(x - 1e-6 * u, cond)
    assert relative(pushed, (ahead - behind) / 2e-6) < 1e-7


def test_autocast_to_bfloat16_is_close():
    net, x = small(20, width=64), torch.randn(50, 20)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = net(x, torch.linspace(-1.5, 1.1, 50))
    expected = net(x, torch.linspace(-1.5, 1.1, 50))
    # 8 bits, a dozen layers
    assert relative(found.float(), expected) < 0.03


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_compiled_values_and_gradients_are_the_eager_ones():
    net, (x, cond) = small(), batch()
    found = []
    for run in (net, torch.compile(net, fullgraph=True)):
        net.zero_grad()
        out = run(x, cond)
        out.square().mean().backward()
        found.append([out.detach(), *(p.grad.clone() for p in net.parameters())])
    for eager, compiled in zip(*found, strict=True):
        assert relative(compiled, eager) < 1e-5


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"embedding": "fourrier"}, "embedding='fourrier': one of fourier, sinusoidal"),
        ({"label_dropout": 1.5}, r"label_dropout=1\.5: a fraction, from 0 to 1"),
        ({"dropout": 2.0}, r"dropout=2\.0: a fraction, from 0 to 1"),
        ({"blocks": 0}, "blocks=0: 1 at least"),
        ({"labels": -1}, "labels=-1: 0 at least"),
    ],
)
def test_arguments_that_make_no_network_are_refused(argument, message):
    with pytest.raises(ValueError, match=message):
        MLP(3, **argument)


# ── The fast way ─────────────────────────────────────────────────────────────────────────────────


def wide(**changes):
    """One whose products are large enough to go to oneDNN, and the same in float64."""
    net = MLP(8, width=384, blocks=2, **changes)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    exact = MLP(8, width=384, blocks=2, **changes).double()
    exact.load_state_dict(net.state_dict())
    net.onednn = True
    return net.eval(), exact.eval()


@pytest.mark.skipif(not onednn.onednn_available(), reason="torch without oneDNN")
@pytest.mark.parametrize(
    "cond", [torch.full((64,), 0.3), torch.linspace(-1.5, 1.1, 64)], ids=["one level", "many"]
)
def test_the_fast_way_is_as_near_to_float64_as_the_plain_one(monkeypatch, cond):
    net, exact = wide()
    x = torch.randn(64, 8)
    used = []
    fast = torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(
        torch.ops.mkldnn, "_linear_pointwise", lambda *args: (used.append(args[0]), fast(*args))[1]
    )
    with torch.no_grad():
        found, truth = net(x, cond), exact(x.double(), cond.double())
        assert relative(found, truth) < 2e-6
    assert len(used) == (4 if len(cond.unique()) == 1 else 6)  # those of σ are of one row, or many


def test_the_fast_way_tells_classes_apart_at_one_level():
    net, exact = wide(labels=3)
    x, label = torch.randn(64, 8), torch.arange(64) % 3
    cond = torch.full((64,), 0.3)
    with torch.no_grad():
        assert relative(net(x, cond, label), exact(x.double(), cond.double(), label)) < 2e-6
        assert relative(net(x, cond), exact(x.double(), cond.double())) < 2e-6
        assert relative(net(x, cond, label), net(x, cond)) > 1e-2
        assert net(x[:0], cond[:0]).shape == (0, 8)


@pytest.mark.skipif(not onednn.onednn_available(), reason="torch without oneDNN")
def test_gradients_by_onednn_are_those_of_float64(monkeypatch):
    net, exact = wide()
    used = []
    product = onednn._product
    monkeypatch.setattr(onednn, "_product", lambda *of: (used.append(of[0].shape), product(*of))[1])
    x, cond, v = torch.randn(64, 8), torch.linspace(-1.5, 1.1, 64), torch.randn(64, 8)
    found = []
    for each, dtype in ((net, torch.float32), (exact, torch.float64)):
        start = x.to(dtype, copy=True).requires_grad_()
        (each(start, cond.to(dtype)) * v.to(dtype)).sum().backward()
        found.append([start.grad, *(p.grad for p in each.parameters())])
    for ours, truth in zip(*found, strict=True):
        assert relative(ours, truth) < 5e-6
    assert (
        len(used) == 3 * 6
    )  # the layers of two blocks, their inputs' and their weights' gradients


@pytest.mark.skipif(not onednn.onednn_available(), reason="torch without oneDNN")
def test_other_derivatives_never_go_the_fast_way():
    net, exact = wide()
    x, cond, v = torch.randn(64, 8), torch.full((64,), 0.3), torch.randn(64, 8)
    found = []
    for each, dtype in ((net, torch.float32), (exact, torch.float64)):
        start, level, w = x.to(dtype, copy=True).requires_grad_(), cond.to(dtype), v.to(dtype)
        y = torch.tanh(each(start, level))
        rows = torch.stack([w, 2 * w, w.flip(0)])
        (several,) = torch.autograd.grad(y, start, rows, is_grads_batched=True, retain_graph=True)
        (pulled,) = torch.autograd.grad(y, start, w, create_graph=True)
        second = torch.autograd.grad((pulled**2).sum(), [start, *each.blocks.parameters()])
        with torch.no_grad():  # forward mode needs no graph
            call = lambda x, each=each, level=level: each(x, level)  # noqa: E731
            pushed = torch.func.jvp(call, (start.detach(),), (w,))[1]
        found.append([several, *second, pushed])
    for ours, truth in zip(*found, strict=True):
        assert relative(ours, truth) < 1e-4


def test_training_is_known_to_be_faster_on_amds_processors(tmp_path):
    known = onednn.trains_faster.__wrapped__
    info = tmp_path / "cpuinfo"
    for vendor, faster in (("AuthenticAMD", True), ("GenuineIntel", False)):
        info.write_text(f"processor : 0\nvendor_id : {vendor}\n")
        assert known(info) == faster


@pytest.mark.skipif(not onednn.onednn_available(), reason="torch without oneDNN")
def test_layers_with_hooks_or_of_other_kinds_are_called():
    class Twice(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    x, called = torch.randn(128, 384), []
    hooked, other = torch.nn.Linear(384, 384), Twice(384, 384)
    hooked.register_forward_pre_hook(lambda *_: called.append("hook"))
    onednn.onednn_linear(hooked, x)
    assert called == ["hook"]
    assert torch.equal(onednn.onednn_linear(other, x), other(x))
