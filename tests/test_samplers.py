"""Samplers against closed forms, their orders of convergence, and the promises about states."""

import gc
import math
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scorefield import (
    Gaussian,
    GaussianMixture,
    annealed_langevin,
    euler,
    every,
    final,
    from_energy,
    geometric,
    heun,
    integrate,
    karras,
    langevin,
    linear,
    progress,
    replay,
    seeded,
)

GAUSSIAN = Gaussian(torch.tensor([1.0, -2.0]).double(), torch.tensor([0.25, 4.0]).double())
LADDER = geometric(2.0, 0.1, 4)

RUNS = {
    "langevin": lambda score, x, **k: langevin(score, x, 0.5, alpha=0.01, steps=6, **k),
    "annealed_langevin": lambda score, x, **k: annealed_langevin(
        score, x, LADDER, steps=2, epsilon=1e-3, **k
    ),
    "annealed_langevin, denoised": lambda score, x, **k: annealed_langevin(
        score, x, LADDER, steps=2, epsilon=1e-3, denoise=True, **k
    ),
    "euler": lambda score, x, **k: integrate(euler, score, x, LADDER, **k),
    "heun": lambda score, x, **k: integrate(heun, score, x, LADDER, **k),
}


def order(step, grid):
    """The slope of log error against log steps, 64 to 512, on a Gaussian from σ = 50 to 0.01.

    The ODE carries x − m at σ₁ to (x − m)·√((v + σ²)/(v + σ₁²)).
    """
    mean, v = GAUSSIAN.prior.mean, GAUSSIAN.prior.cov
    x = GAUSSIAN.prior.sample(100, 50.0)
    truth = mean + (x - mean) * ((v + 0.01**2) / (v + 50.0**2)).sqrt()
    steps, errors = [64, 128, 256, 512], []
    for n in steps:
        sigmas = grid(50.0, 0.01, n + 1, dtype=torch.float64)
        states = list(integrate(step, GAUSSIAN, x, sigmas, denoise=False))
        assert len(states) == n
        errors.append((states[-1].x - truth).norm().item())
    logs = torch.tensor([[math.log(n), math.log(e)] for n, e in zip(steps, errors, strict=True)])
    logs = logs - logs.mean(0)
    return -(logs[:, 0] @ logs[:, 1] / (logs[:, 0] @ logs[:, 0])).item()


@pytest.mark.parametrize("grid", [karras, geometric])
@pytest.mark.parametrize(("step", "low", "high"), [(euler, 0.9, 1.1), (heun, 1.9, 2.1)])
def test_order_of_convergence(step, low, high, grid):
    assert low <= order(step, grid) <= high


@pytest.mark.parametrize(("convention", "drift"), [("official", 0.05), ("paper", 0.025)])
def test_langevin_has_the_variance_of_its_chain(convention, drift):
    """On N(m, v) the chain is linear: its variance after T steps and in the end are known."""
    alpha, n = 0.05, 50_000
    run = langevin(
        GAUSSIAN,
        torch.zeros(n, 2).double(),
        0.3,
        alpha=alpha,
        steps=400,
        convention=convention,
    )
    mean, v = GAUSSIAN.prior.mean, GAUSSIAN.prior.cov + 0.3**2
    keep = 1 - drift / v
    for state in run:
        if state.step in (1, 7, 400):
            fade = keep**state.step
            variance = 2 * drift * (1 - fade**2) / (1 - keep**2)
            error = (state.x.mean(0) - mean * (1 - fade)) / (variance / n).sqrt()
            assert error.abs().max() < 4
            assert ((state.x.var(0) / variance - 1) / math.sqrt(2 / n)).abs().max() < 4


def test_annealed_langevin_is_algorithm_1():
    """Line by line, with recorded noise."""
    x = start = torch.randn(5, 2).double()
    draws = torch.randn(8, 5, 2).double()
    sigmas, epsilon, t = LADDER.double(), 1e-3, 0
    for sigma in sigmas:
        alpha = epsilon * sigma**2 / sigmas[-1] ** 2
        for _ in range(2):
            x = x + alpha / 2 * GAUSSIAN(x, sigma) + alpha.sqrt() * draws[t]
            t += 1
    for convention, size in (("paper", epsilon), ("official", epsilon / 2)):
        for denoise in (False, True):
            run = annealed_langevin(
                GAUSSIAN,
                start,
                sigmas,
                steps=2,
                epsilon=size,
                convention=convention,
                denoise=denoise,
                noise=replay(draws),
            )
            truth = x + sigmas[-1] ** 2 * GAUSSIAN(x, sigmas[-1]) if denoise else x
            torch.testing.assert_close(final(run), truth)


def test_the_last_step_of_the_ode_is_the_denoiser():
    x = torch.randn(5, 2).double()
    sigmas = LADDER.double()
    for step in (euler, heun):
        *_, last, end = integrate(step, GAUSSIAN, x, sigmas)
        truth = last.x + sigmas[-1] ** 2 * GAUSSIAN(last.x, sigmas[-1])
        torch.testing.assert_close(end.x, truth)
        torch.testing.assert_close(end.denoised, truth)
        assert (last.sigma, end.sigma) == (sigmas[-1].item(), 0.0)


@pytest.mark.parametrize("name", RUNS)
def test_denoised_belongs_to_the_last_evaluation(name):
    seen = []

    def score(x, sigma):
        seen.append((x, sigma))
        return GAUSSIAN(x, sigma)

    for state in RUNS[name](score, torch.randn(5, 2).double()):
        x, sigma = seen[-1]
        torch.testing.assert_close(state.denoised, x + sigma**2 * GAUSSIAN(x, sigma))


@pytest.mark.parametrize("name", RUNS)
def test_steps_are_counted(name):
    steps = [state.step for state in RUNS[name](GAUSSIAN, torch.randn(5, 2).double())]
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.parametrize("name", RUNS)
def test_states_are_never_written_to_again(name):
    start = torch.randn(5, 2).double()
    kept, copies = [], []
    for state in RUNS[name](GAUSSIAN, start):
        kept += [start, state.x, state.denoised]
        copies += [start.clone(), state.x.clone(), state.denoised.clone()]
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))


@pytest.mark.parametrize("name", RUNS)
def test_a_sampler_holds_on_to_no_state(name):
    """Memory cannot grow with the number of steps: all but the newest states are free."""
    alive = []
    for state in RUNS[name](GAUSSIAN, torch.randn(5, 2).double()):
        alive.append(weakref.ref(state.denoised))
        assert sum(ref() is not None for ref in alive) <= 2
    del state
    gc.collect()
    assert not any(ref() is not None for ref in alive)


@pytest.mark.parametrize("name", RUNS)
def test_grad_mode_and_autocast_stay_the_callers(name):
    net = torch.nn.Linear(2, 2)
    modes = []

    def score(x, sigma):
        modes.append((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        return net(x)

    x = torch.randn(5, 2, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for state in RUNS[name](score, x):
            assert torch.is_grad_enabled()
            assert torch.is_autocast_enabled("cpu")
            assert state.x.dtype == state.denoised.dtype == torch.float32
            assert not state.x.requires_grad
            break
    assert modes[0] == (False, True)
    run = RUNS[name](score, x)
    next(run)
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")
    run.close()
    with torch.no_grad():
        next(RUNS[name](score, x))
        assert not torch.is_grad_enabled()


def test_a_score_may_use_gradients():
    score = from_energy(lambda x, sigma: -GAUSSIAN.log_prob(x, sigma))
    x = torch.randn(5, 2).double()
    by_energy, by_score = (final(integrate(heun, s, x, LADDER)) for s in (score, GAUSSIAN))
    torch.testing.assert_close(by_energy, by_score)


def test_every_keeps_each_nth_and_the_last():
    def run():
        return integrate(euler, GAUSSIAN, torch.randn(5, 2).double(), linear(2.0, 0.1, 8))

    assert [s.step for s in every(run(), 3)] == [3, 6, 8]
    assert [s.step for s in every(run(), 4)] == [4, 8]
    assert [s.step for s in every(run(), 100)] == [8]
    with pytest.raises(ValueError, match="n=0"):
        every(run(), 0)


def test_progress_passes_states_on():
    run = RUNS["euler"](GAUSSIAN, torch.randn(5, 2).double())
    assert [s.step for s in progress(run, total=4)] == [1, 2, 3, 4]


def test_final_of_nothing():
    with pytest.raises(ValueError, match="states is empty"):
        final([])


@pytest.mark.parametrize("name", RUNS)
def test_seeded_samples_do_not_depend_on_the_batch(name):
    if "langevin" in name:
        start = torch.randn(6, 2).double()
        whole = final(RUNS[name](GAUSSIAN, start, noise=seeded(3)))
        part = final(RUNS[name](GAUSSIAN, start[4:], noise=seeded(3, first=4)))
        torch.testing.assert_close(part, whole[4:], rtol=1e-12, atol=1e-12)
    else:
        start = GAUSSIAN.prior.sample(6, 2.0, noise=seeded(3))
        part = GAUSSIAN.prior.sample(2, 2.0, noise=seeded(3, first=4))
        torch.testing.assert_close(part, start[4:])


def test_plain_langevin_does_not_find_the_weights():
    """Figure 3: from U[−8, 8]², modes at ±(5, 5), weights ⅕ and ⅘."""
    mixture = GaussianMixture(
        torch.tensor([[-5.0, -5.0], [5.0, 5.0]]), 1.0, torch.tensor([0.2, 0.8])
    )
    x = 16 * torch.rand(4000, 2) - 8
    x = final(langevin(mixture, x, 0.0, alpha=0.1, steps=1000, convention="paper"))
    small = (x.sum(1) < 0).float().mean().item()
    assert abs(small - 0.2) > 0.1


BAD_X = [
    (torch.zeros(2, 3, dtype=torch.uint8), TypeError, r"x is torch.uint8.*x.float\(\) / 255"),
    (torch.zeros(2, 3, dtype=torch.int64), TypeError, "x is torch.int64"),
    ([[0.0, 1.0]], TypeError, "x is list"),
    (torch.zeros(3), ValueError, r"x\[None\] for one sample"),
    (torch.zeros(0, 3), ValueError, "give a batch"),
    (torch.tensor([[0.0, math.nan]]), ValueError, "x has NaN or infinite"),
    (torch.tensor([[0.0, math.inf]]), ValueError, "x has NaN or infinite"),
    (torch.zeros(2, 3), ValueError, r"x is a batch of \(3,\).*reshape x"),
    (torch.zeros(2, 2, device="meta"), (ValueError, NotImplementedError), "meta"),
]


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize(("x", "error", "message"), BAD_X)
def test_a_bad_start_is_refused_when_the_sampler_is_called(name, x, error, message):
    with pytest.raises(error, match=message):
        RUNS[name](GAUSSIAN, x)


@pytest.mark.parametrize("sampler", [annealed_langevin, lambda *a: integrate(heun, *a)])
@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        (torch.tensor([1.0, 0.5, 0.0]), "sigmas must be positive.*leave 0 out"),
        (torch.tensor([1.0, -0.5]), "sigmas must be positive"),
        (torch.tensor([math.inf, 0.5]), "sigmas must be positive and finite"),
        (torch.tensor([math.nan, 0.5]), "sigmas must be positive and finite"),
        (torch.tensor([1.0, 1.0]), "sigmas must strictly decrease"),
        (torch.tensor([0.1, 1.0]), r"strictly decrease.*descending"),
        (torch.tensor(1.0), "1-D tensor"),
        (torch.ones(0), "1-D tensor"),
        (torch.ones(2, 2), "1-D tensor"),
        ([1.0, 0.5], "1-D tensor"),
    ],
)
def test_a_bad_ladder_is_refused_when_the_sampler_is_called(sampler, sigmas, message):
    with pytest.raises(ValueError, match=message):
        sampler(GAUSSIAN, torch.zeros(2, 2), sigmas)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: langevin(GAUSSIAN, x, -1.0, alpha=0.1), "sigma=-1.0"),
        (lambda x: langevin(GAUSSIAN, x, 1.0, alpha=0.0), "alpha=0.0"),
        (lambda x: langevin(GAUSSIAN, x, 1.0, alpha=0.1, steps=0), "steps=0"),
        (lambda x: langevin(GAUSSIAN, x, 1.0, alpha=0.1, convention="code"), "convention='code'"),
        (lambda x: annealed_langevin(GAUSSIAN, x, LADDER, epsilon=-1.0), "epsilon=-1.0"),
        (lambda x: integrate(heun, GAUSSIAN, x, torch.ones(1), denoise=False), "one level"),
    ],
)
def test_other_bad_arguments(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(torch.zeros(2, 2))


@pytest.mark.parametrize("name", RUNS)
def test_a_score_of_another_shape_is_refused(name):
    run = RUNS[name](lambda x, sigma: x[:, :1], torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"score returned shape \(2, 1\) for x"):
        next(run)


@given(
    name=st.sampled_from(list(RUNS)),
    batch=st.integers(1, 4),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    scale=st.floats(1e-3, 1e3),
)
def test_any_shape_and_type(name, batch, shape, dtype, scale):
    x = (scale * torch.randn(batch, *shape)).to(dtype)
    oracle = Gaussian(torch.zeros(shape), 1.0)
    for state in RUNS[name](oracle, x):
        assert state.x.shape == state.denoised.shape == x.shape
        assert state.x.dtype == state.denoised.dtype == dtype
        assert state.x.isfinite().all()
