"""The training generator compared with its equation."""

import copy
import math
import os
from itertools import pairwise

import numpy as np
import pytest
import torch
from test_kernels import error_in_16_bits
from torch import nn
from torch.utils.data import DataLoader

from scorefield import (
    EDM,
    MLP,
    NCSN,
    Discrete,
    LogNormal,
    ScoreModel,
    VEDiscrete,
    annealed,
    denoising,
    exact,
    geometric,
    likelihood_weight,
    sliced,
)
from scorefield.nn import Muon, UNet
from scorefield.train import (
    MovingAverage,
    NormQuantile,
    constant,
    cosine,
    derive_seed,
    inverse_sqrt,
    train,
)


class Linear(nn.Module):
    """s(x, σ) = a − b·x, exact for a Gaussian at one σ: b = 1/(v + σ²), a = b·mean."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))

    def forward(self, x, sigma):
        return self.a - self.b * x


MEAN = torch.tensor([1.0, -2.0])
STD = torch.tensor([0.5, 2.0])


def _gaussian(step):
    generator = torch.Generator().manual_seed(derive_seed(5, step))
    return MEAN + STD * torch.randn(512, 2, generator=generator)


def _level(score, x, *, noise):
    return denoising(score, x, 0.7, noise=noise)


def _unet(seed=0, **changes):
    torch.manual_seed(seed)
    arguments = dict(channels=1, width=8, multipliers=(1, 2), blocks=1, attention=(), dropout=0.3)
    return ScoreModel(UNet(**arguments | changes), EDM(0.3))


def _images(step):
    return torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(derive_seed(9, step)))


def _labelled(step):
    return _images(step), torch.arange(4) % 3


LADDER = geometric(1.0, 0.01, 5)
LOSS = annealed(denoising, Discrete(LADDER))


def _run(model, batches, stop, start=0, optimizer=None, **options):
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.5, 0.9))
    run = train(model, batches, LOSS, optimizer=optimizer, steps=stop, start=start, **options)
    return list(run), optimizer


def test_training_finds_the_score_of_a_gaussian():
    model = Linear()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    run = train(model, _gaussian, _level, optimizer=optimizer, steps=800, schedule=cosine(800))
    updates = list(run)
    b = 1 / (STD**2 + 0.7**2)
    # bounds: 5 standard errors of about 0.002, those of 800 batches of 512; of the loss 0.0034
    torch.testing.assert_close(model.b.detach(), b, atol=0.01, rtol=0)
    torch.testing.assert_close(model.a.detach(), b * MEAN, atol=0.02, rtol=0)
    assert [u.step for u in updates] == list(range(1, 801))
    # smallest denoising loss: ½E‖s_q − s_z‖² = ½Σ(1/σ² − 1/(v + σ²))
    least = 0.5 * (1 / 0.7**2 - b).sum().item()
    assert sum(u.loss for u in updates[-200:]) / 200 == pytest.approx(least, rel=0.017)


def test_training_continues_from_state_dicts_bit_identically():
    through, model, other = _unet(labels=3), _unet(labels=3), _unet(seed=1, labels=3)
    means = [MovingAverage(net) for net in (through, model, other)]
    options, global_state = {"schedule": cosine(8, 3), "clip": 1.0}, torch.get_rng_state()
    first, _ = _run(through, _labelled, 8, ema=means[0], **options)
    start, optimizer = _run(model, _labelled, 5, ema=means[1], **options)
    assert torch.equal(torch.get_rng_state(), global_state)
    torch.rand(7)  # the global generator does not matter
    adam = torch.optim.Adam(other.parameters(), lr=1e-3, betas=(0.5, 0.9))
    for after, before in ((other, model), (means[2], means[1]), (adam, optimizer)):
        after.load_state_dict(copy.deepcopy(before.state_dict()))
    rest, _ = _run(other, _labelled, 8, 5, adam, ema=means[2], **options)
    assert start + rest == first
    assert all(map(torch.equal, through.state_dict().values(), other.state_dict().values()))
    assert all(map(torch.equal, means[0].state_dict().values(), means[2].state_dict().values()))


@pytest.mark.parametrize("accumulate", [2, 3, 4])
def test_a_batch_in_parts_gives_the_weights_of_the_whole(accumulate):
    ends = []
    for parts in (1, accumulate):
        model = _unet(labels=3, label_dropout=0.0, dropout=0.0).double()
        batches = lambda step: (_images(step).double(), torch.arange(4) % 3)  # noqa: E731
        updates, _ = _run(model, batches, 3, clip=1.0, accumulate=parts)
        ends.append(([u.loss for u in updates], [u.norm for u in updates], model.state_dict()))
    # sums of 4 rows in another order, through 3 steps of an Adam that divides by √v
    torch.testing.assert_close(*ends, rtol=1e-10, atol=1e-12)


def test_noise_differs_between_steps_and_seeds():
    losses, model = set(), _unet(dropout=0.0)
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    for seed in (0, 1):
        updates, _ = _run(model, lambda step: _images(0), 3, optimizer=still, seed=seed)
        losses |= {u.loss.item() for u in updates}
    assert len(losses) == 6


@pytest.mark.parametrize(
    ("kind", "fused"),  # by the host, or on the device
    [(torch.optim.Adam, False), (torch.optim.Adam, True), (torch.optim.AdamW, True), (Muon, True)],
)
@pytest.mark.one_face
def test_a_step_that_is_not_finite_changes_nothing(kind, fused, device):
    model = _unet(width=16).to(device)  # wide enough for Muon
    ema, quantile = MovingAverage(model), NormQuantile(0.9, device)
    optimizer = kind(model.parameters(), lr=1e-3, fused=fused)
    there = _on(device, _images)
    _run(model, there, 2, optimizer=optimizer, ema=ema)

    def states():
        parts = model.state_dict(), ema.module.state_dict(), optimizer.state_dict()["state"]
        parts += (quantile.norms,)
        return torch.utils._pytree.tree_map(lambda x: x.cpu(), parts)

    def infinite(score, x, *, noise):  # a finite loss whose gradient is not
        return LOSS(score, x, noise=noise) + torch.sqrt((0 * score(x, 0.5)).flatten(1).sum(1))

    before = states()
    options = {"optimizer": optimizer, "steps": 3, "start": 2, "ema": ema}
    options["clip_quantile"] = quantile
    for factor, loss in ((math.nan, LOSS), (1.0, infinite)):  # the data, or the gradient alone
        optimizer.zero_grad()
        run = train(model, lambda step, factor=factor: factor * there(step), loss, **options)
        with pytest.warns(UserWarning, match=r"step 3 is skipped, .* look for NaN in the data"):
            (update,) = run
        assert update.skipped
        assert math.isfinite(update.loss) == (loss is infinite)
        torch.testing.assert_close(states(), before, atol=0, rtol=0)


def test_muon_makes_the_gradient_of_a_matrix_orthogonal():
    """Against its formula on singular values, in float64, with decay and the second momentum."""
    torch.manual_seed(0)
    shapes = {"wide": (16, 40), "tall": (40, 16), "conv": (20, 2, 3, 3)}
    shapes |= {"thin": (8, 40), "bias": (16,)}
    weights = {k: nn.Parameter(torch.randn(s, dtype=torch.float64)) for k, s in shapes.items()}
    again = {k: nn.Parameter(p.detach().clone()) for k, p in weights.items()}
    muon = Muon(weights.values(), lr=0.1, weight_decay=0.5)
    adam = torch.optim.AdamW([again["thin"], again["bias"]], lr=0.1, weight_decay=0.5)
    momenta = {k: torch.zeros(s, dtype=torch.float64) for k, s in shapes.items()}
    for _ in range(2):
        for name, weight in weights.items():
            gradient = torch.randn_like(weight)
            weight.grad = again[name].grad = gradient
            momenta[name] = 0.95 * momenta[name] + 0.05 * gradient
            if name not in ("thin", "bias"):
                ahead = (0.95 * momenta[name] + 0.05 * gradient).flatten(1)
                u, s, v = torch.linalg.svd(ahead / ahead.norm(), full_matrices=False)
                for _ in range(5):
                    s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
                step = 0.2 * max(ahead.shape) ** 0.5 * ((u * s) @ v).view(weight.shape)
                again[name].data = (1 - 0.1 * 0.5) * again[name].data - 0.1 * step
        muon.step()
        adam.step()
    for name, weight in weights.items():
        # float64's 2e-16, times 3.4445⁵, the growth of an error of s
        torch.testing.assert_close(weight, again[name], rtol=0, atol=1e-12, msg=name)


def _vectors(step):
    return torch.randn(6, 2, generator=torch.Generator().manual_seed(step))


def _vector_model(precondition, **arguments):
    torch.manual_seed(0)
    return ScoreModel(MLP(2, width=8, blocks=1, **arguments), precondition)


RANDOM = annealed(denoising, LogNormal())
STEPS = {
    "classes": (lambda: _unet(labels=3), LOSS, _labelled),
    "matrices by Muon": (lambda: _unet(width=16), LOSS, _images),
    "conditions": (
        lambda: _vector_model(EDM(0.3), labels=3, conditions={"v": [2]}),
        RANDOM,
        lambda step: (_vectors(step), {"label": torch.arange(6) % 3, "v": _vectors(step + 9)}),
    ),
    # 1/(1 − dropout), which a CPU rounds to 16 bits, is exact
    "bfloat16 images": (lambda: _unet(multipliers=(1,), dropout=0.5), LOSS, _images),
    "bfloat16 vectors": (lambda: _vector_model(EDM(0.3)), RANDOM, _vectors),
    "a ladder": (lambda: _vector_model(VEDiscrete(LADDER)), LOSS, _vectors),
    **{
        objective.__name__: (
            lambda: _vector_model(EDM(0.3)),
            annealed(objective, LogNormal(), likelihood_weight(LogNormal())),
            _vectors,
        )
        for objective in (denoising, exact, sliced)
    },
}
"""Model, loss and batches."""


def _on(device, batches):
    """Return batches that are on the device beforehand."""
    ready = [torch.utils._pytree.tree_map(lambda x: x.to(device), batches(k)) for k in range(6)]
    return ready.__getitem__


@pytest.mark.one_face
@pytest.mark.parametrize("name", STEPS)
def test_a_step_on_a_device_makes_no_copy_and_no_read(name, device, same, growth, monkeypatch):
    if name == "bfloat16 images" and "ATEN_CPU_CAPABILITY" in os.environ:
        pytest.skip("torch's attention in bfloat16 asks the processor alone")
    monkeypatch.setattr("scorefield.nn.muon.has_bfloat16", lambda device: False)
    kind = Muon if name == "matrices by Muon" else torch.optim.AdamW
    build, loss, batches = STEPS[name]
    there = {place: _on(place, batches) for place in ("cpu", device)}

    def weights(place, steps=2):
        model = build().to(place)
        ema = MovingAverage(model)
        optimizer = kind(model.parameters(), lr=1e-3, fused=True)
        options = {"steps": steps, "ema": ema, "clip": 1.0, "accumulate": 2}
        options["clip_quantile"] = NormQuantile(0.9, place)
        options |= {"autocast": torch.bfloat16} if "bfloat16" in name else {}
        list(train(model, there[place], loss, optimizer=optimizer, **options))
        return model.state_dict(), ema.module.state_dict()

    same(weights)
    assert not growth(lambda steps: weights(device, steps))


@pytest.mark.parametrize("every", [1, 7, 15])  # 20 is the last step
def test_skipped_steps_in_a_row_warn_once_and_end_the_training(monkeypatch, every):
    """Step 2 is bad and alone; from step 5 to 10 all are, wherever a look at them falls."""
    monkeypatch.setattr("scorefield.train.is_look", lambda step, device: step % every == 0)
    model = Linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def batches(step):
        return _gaussian(step) * (math.nan if step in (1, *range(4, 10)) else 1)

    with (
        pytest.warns(UserWarning, match="step 2 is skipped, because the loss is nan") as caught,
        pytest.raises(ValueError, match=r"5 steps in a row are skipped; in step 9 .*look for NaN"),
    ):
        list(train(model, batches, _level, optimizer=optimizer, steps=20))
    assert len(caught) == 1
    assert all(p.isfinite().all() for p in model.parameters())


def test_the_moving_average_follows_its_recursion():
    model = torch.nn.Linear(2, 2).double()

    def loss(score, x, *, noise):
        return (score(x) - noise(x)).square().sum(1)

    ema = MovingAverage(model, 0.95)
    mean = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    batches, updates = (lambda step: torch.ones(4, 2).double()), 0
    for update in train(model, batches, loss, optimizer=optimizer, steps=135, ema=ema):
        late = update.step > 100
        if not late or update.step % 10 == 0:
            k = 100 + 10 * (updates - 100) if late else updates
            d = min(0.95, (1 + k) / (10 + k)) ** (10 if late else 1)
            d = d if updates else 0.0  # the first update copies
            now = zip(mean, model.parameters(), strict=True)
            mean = [d * m + (1 - d) * p.detach() for m, p in now]
            updates += 1
    # 103 updates, each rounded to 1.1e-16 of weights below 2
    torch.testing.assert_close(list(ema.module.parameters()), mean, atol=1e-12, rtol=0)
    assert updates == 103


def test_clipping_bounds_the_step_and_reports_the_unclipped_norm():
    norms = {}
    for clip in (None, 1e-3):
        model = _unet(dropout=0.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        before = [p.detach().clone() for p in model.parameters()]
        (update,) = train(model, _images, LOSS, optimizer=optimizer, steps=1, clip=clip)
        moves = [(p.detach() - b).norm() for p, b in zip(model.parameters(), before, strict=True)]
        # a move of 1e-5 rounds by 2⁻²⁴ of 0.1, 6e-4; in a norm of 10⁴ that is 6e-6, a hundredth
        norms[clip] = (update.norm.item(), torch.stack(moves).norm().item())
    assert norms[None][0] == norms[1e-3][0] == pytest.approx(norms[None][1], rel=1e-5)
    assert norms[1e-3][1] == pytest.approx(1e-3, rel=1e-5)


@pytest.mark.parametrize("clip", [None, 3.0])
def test_a_quantile_of_recent_norms_bounds_the_step(clip, monkeypatch):
    monkeypatch.setattr("scorefield.train.NORM_WINDOW", 4)
    weight, sizes = nn.Parameter(torch.zeros(1)), [2.0, 8.0, 1.0, 4.0, 16.0, math.nan, 3.0, 5.0]

    def loss(score, x, *, noise):  # the gradient is x
        return (x * weight).sum(1)

    updates = train(
        nn.Identity(),
        lambda step: torch.tensor([[sizes[step]]]),
        loss,
        optimizer=torch.optim.SGD([weight], lr=1.0),
        steps=len(sizes),
        clip=clip,
        clip_quantile=NormQuantile(0.75),
    )
    with pytest.warns(UserWarning, match="step 6 is skipped"):
        weights = [0.0, *(weight.item() for _ in updates)]
    # a norm that is not finite leaves the one of its place, 4 steps before, in the window
    windows = [sizes[max(0, k - 4) : k] for k in range(6)] + [[8, 1, 4, 16], [8, 3, 4, 16]]
    limits = [np.quantile(window, 0.75) if window else math.inf for window in windows]
    steps = [min(size, limit, clip or limit) for size, limit in zip(sizes, limits, strict=True)]
    steps[5] = 0.0
    # the norm is raised by 1e-6 before it divides
    assert [a - b for a, b in pairwise(weights)] == pytest.approx(steps, rel=2e-6, abs=1e-5)


def test_the_learning_rate_follows_its_schedule():
    model = Linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
    run = train(model, _gaussian, _level, optimizer=optimizer, steps=6, schedule=cosine(6, 2))
    rise = [1 / 3, 2 / 3, 1, 1, 1, 1]
    fall = [1, (2 + 3**0.5) / 4, 0.75, 0.5, 0.25, (2 - 3**0.5) / 4]
    expected = [2 * a * b for a, b in zip(rise, fall, strict=True)]
    assert [u.rate for u in run] == pytest.approx(expected)
    assert [constant(3)(step) for step in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    root = inverse_sqrt(4, warmup=1)
    assert [root(step) for step in (0, 1, 4, 16, 400)] == [0.5, 1, 1, 0.5, 0.1]


def test_autocast_reaches_only_the_network():
    seen, net = [], nn.Linear(64, 64)

    def forward(x, cond):
        h = nn.functional.linear(x.flatten(1), net.weight, net.bias).view_as(x)
        seen.append((x.dtype, h.dtype))
        return h

    net.forward = forward
    model = ScoreModel(net, NCSN(geometric(1.0, 0.01, 5)))
    updates, _ = _run(model, _images, 1, autocast=torch.bfloat16)
    plain, _ = _run(model, _images, 1)
    assert seen == [(torch.float32, torch.bfloat16), (torch.float32, torch.float32)]
    assert net.weight.dtype == torch.float32
    # a square has twice the error
    assert updates[0].loss.item() == pytest.approx(
        plain[0].loss.item(), rel=2 * error_in_16_bits(model)
    )


@pytest.mark.usefixtures("unchecked")
def test_training_without_steps_never_ends_and_no_start_is_beyond_the_end():
    optimizer = torch.optim.SGD((model := Linear()).parameters(), lr=0.1)
    run = train(model, _gaussian, _level, optimizer=optimizer, start=5)
    assert [next(run).step for _ in range(4)] == [6, 7, 8, 9]
    with pytest.raises(ValueError, match="start=3, steps=2"):
        train(model, _gaussian, _level, optimizer=optimizer, steps=2, start=3)
    with pytest.raises(ValueError, match=r"seed=1\.5: give a whole number"):
        train(model, _gaussian, _level, optimizer=optimizer, seed=1.5)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (DataLoader(torch.zeros(4, 2)), "batches is a DataLoader: give a function"),
        (lambda step: (torch.zeros(4, 2),), "returned a tuple of 1: return a tensor x"),
        (lambda step: np.zeros((4, 2)), "returned a ndarray: return a tensor x"),
        (lambda step: torch.zeros(4, 2).long(), "x is torch.int64: give a tensor"),
        (lambda step: (torch.zeros(4, 2), 1), "or .x, classes., both tensors"),
        (lambda step: ([1.0], None), "x is list: give a tensor"),
    ],
)
def test_batches_of_another_form_are_refused_by_name(batches, message):
    optimizer = torch.optim.SGD((model := Linear()).parameters(), lr=0.1)
    with pytest.raises(TypeError, match=message):
        next(train(model, batches, _level, optimizer=optimizer))


def test_batches_that_end_before_the_last_step_are_an_error():
    rows = iter([torch.zeros(4, 2)] * 3)
    optimizer = torch.optim.SGD((model := Linear()).parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(train(model, lambda step: next(rows), _level, optimizer=optimizer, steps=10))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({"clip": clip}, f"clip={clip}: give the largest norm") for clip in (0, math.nan)),
        ({"loss": lambda *args, **kw: _level(*args, **kw).mean()}, r"loss returned shape \(\)"),
        *(({"accumulate": n}, f"accumulate={n}: give a whole number") for n in (0, 1.5)),
        ({"accumulate": 513}, "a batch of 512 for 1 processes and accumulate=513: give each"),
    ],
)
def test_arguments_that_spoil_the_gradient_are_refused(options, message):
    """A gradient scaled by c/‖g‖ with c = NaN would be written into the weights."""
    with pytest.raises(ValueError, match=r"quantile=1\.1: give a number above 0"):
        NormQuantile(1.1)
    optimizer = torch.optim.SGD((model := Linear()).parameters(), lr=0.1)
    arguments = {"model": model, "batches": _gaussian, "loss": _level} | options
    with pytest.raises(ValueError, match=message):
        next(train(**arguments, optimizer=optimizer))
