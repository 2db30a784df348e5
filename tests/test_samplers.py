"""Samplers against their published algorithms, and the promises about states.

Those whose formulas are in docstrings are in test_formulas.py, orders of convergence and weights of
modes in test_mixtures.py.
"""

import math
import re
import weakref
from itertools import count, product
from unittest.mock import Mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from scorefield import Gaussian, from_denoiser, geometric, linear, progress, replay, to_denoiser
from scorefield._ops import match
from scorefield.samplers import DENSITY_KERNELS, SAMPLERS, every, final, find_sampler
from scorefield.samplers.integrate import dpm_solver, integrate
from scorefield.samplers.langevin import annealed_langevin, consistent, langevin
from scorefield.samplers.metropolis import mala
from scorefield.samplers.steps import ancestral, euler, heun

GAUSSIAN = Gaussian(torch.tensor([1.0, -2.0]).double(), torch.tensor([0.25, 4.0]).double())
LADDER = geometric(2.0, 0.1, 4)


def run(name, **options):
    return lambda score, x, **k: SAMPLERS[name].run(score, x, LADDER, **options, **k)


def corrected(score, x, **options):
    """Run `mala` with a density that rises at each call, so that all proposals are accepted."""
    if not isinstance(score, Gaussian):
        calls = count()
        score.log_prob = lambda x, sigma: x.new_full((len(x),), 1e3 * next(calls))
    return mala(score, x, 0.5, alpha=1e-6, steps=6, **options)


QUICK = {"steps": 2, "epsilon": 1e-3}
RUNS = {
    "langevin": lambda score, x, **k: langevin(score, x, 0.5, alpha=0.01, steps=6, **k),
    **{name: run(name, **(QUICK if one.annealed else {})) for name, one in SAMPLERS.items()},
    "mala": corrected,
    "annealed_langevin, denoised": run("annealed_langevin", denoise=True, **QUICK),
}

WITHOUT_THE_LAST_STEP = {"langevin", "mala", "annealed_langevin", "underdamped"}


def test_dpm_solver_of_order_3_is_its_algorithm():
    """DPM-Solver++(3M) in λ = −log σ, with α = 1, r = h₋₁/h; (2M) is in test_formulas.py.

    It is Newton's polynomial: with the integrals φₖ of uᵏe⁻ʰ⁽¹⁻ᵘ⁾, the paper's D₁ and D₂.
    """
    x, denoiser, sigmas = torch.randn(5, 2).double(), to_denoiser(GAUSSIAN), LADDER.double()
    run = SAMPLERS["dpm_solver_3"].run(GAUSSIAN, x, sigmas, denoise=False)
    lam, values = -sigmas.log(), []
    for i in range(1, len(sigmas)):
        h = lam[i] - lam[i - 1]
        values.append(denoiser(x, sigmas[i - 1]))
        phi1 = -torch.expm1(-h)
        phi2 = 1 - phi1 / h
        x = sigmas[i] / sigmas[i - 1] * x + phi1 * values[-1]
        r = (lam[i - 1] - lam[i - 2]) / h
        if i == 2:
            x = x + phi2 * (values[-1] - values[-2]) / r
        if i == 3:
            r_last, phi3 = (lam[1] - lam[0]) / h, 1 - 2 * phi2 / h
            d1, d1_last = (values[2] - values[1]) / r, (values[1] - values[0]) / r_last
            d2 = (d1 - d1_last) / (r + r_last)
            x = x + phi2 * (d1 + r * d2) + phi3 * d2
    torch.testing.assert_close(final(run), x)


def test_unipc_and_adams_bashforth_are_their_algorithms():
    """UniPC-2 by the paper's system R·a = φ; Adams & Bashforth's numbers for equal steps."""
    start, denoiser, sigmas = torch.randn(5, 2).double(), to_denoiser(GAUSSIAN), LADDER.double()
    lam, x, values = -sigmas.log(), start, []
    h = lam[1] - lam[0]  # the ladder is geometric
    phi1 = -torch.expm1(-h)
    phi2 = 1 - phi1 / h
    phi3 = 1 - 2 * phi2 / h
    predicted = start
    for i in range(4):
        values.append(denoiser(predicted, sigmas[i]))
        back = [(values[k] - values[i - 1]) for k in range(i - 2, i + 1)] if i > 1 else []
        if i == 1:
            x = sigmas[1] / sigmas[0] * x + phi1 * values[0] + phi2 * (values[1] - values[0])
        if i > 1:
            system = torch.tensor([[-1.0, 1], [1, 1]]).double()
            a = torch.linalg.solve(system, torch.stack([phi2, phi3]))
            x = sigmas[i] / sigmas[i - 1] * x + phi1 * values[i - 1]
            x = x + a[0] * back[0] + a[1] * back[2]
        if i < 3:
            change = phi2 * (values[i] - values[i - 1]) if i else 0
            predicted = sigmas[i + 1] / sigmas[i] * x + phi1 * values[i] + change
    run = SAMPLERS["unipc"].run(GAUSSIAN, start, sigmas, order=2, denoise=False)
    torch.testing.assert_close(final(run), predicted)
    sigmas = linear(2.0, 0.5, 7, dtype=torch.float64)
    *_, before, end = SAMPLERS["adams_bashforth"].run(GAUSSIAN, start, sigmas, denoise=False)
    states = [start, *(s.x for s in SAMPLERS["adams_bashforth"].run(GAUSSIAN, start, sigmas))]
    slopes = [-s * GAUSSIAN(y, s) for y, s in zip(states[2:6], sigmas[2:6], strict=True)]
    mean = sum(w * k for w, k in zip((-9 / 24, 37 / 24, -59 / 24, 55 / 24), slopes, strict=True))
    torch.testing.assert_close(end.x, before.x - 0.25 * mean)


def test_consistent_sampling_between_euler_and_ancestral():
    """η = 1 − γ is Euler, 1 − γ² ancestral; on one point, the noise left is σ exactly."""
    x = torch.randn(5, 2).double()
    sigmas = geometric(2.0, 0.1, 4, dtype=torch.float64)
    gamma = (sigmas[1] / sigmas[0]).item()
    draws = torch.randn(3, 5, 2).double()
    # 1e-15 more than least leaves noise of √(2e-15)/γ = 1e-7
    for step, eta in ((euler, 1 - gamma + 1e-15), (ancestral, 1 - gamma**2)):
        by_step = final(integrate(step, GAUSSIAN, x, sigmas, noise=replay(draws)))
        run = consistent(GAUSSIAN, x, sigmas, eta=eta, noise=replay(draws))
        torch.testing.assert_close(final(run), by_step, rtol=1e-6, atol=1e-6)
    start = torch.zeros(4, 1).double()
    start[0] = sigmas[0]
    for eta in (None, 0.7, 0.9):
        # row k is the answer to draw k alone, and row 0 to the start: Σₖ xₖ² is the variance
        pulses = replay(torch.eye(4).double()[1:, :, None])
        options = {"eta": eta, "denoise": False, "noise": pulses}
        for state in consistent(lambda x, s: -x / s**2, start, sigmas, **options):
            assert state.x.norm().item() == pytest.approx(state.sigma, rel=1e-12)


def test_consistency_sampling_is_exact_with_the_ends_of_the_ode():
    """D = m + √(v/(v + σ²))·(x − m) of N(m, v): each level, and the end, has its exact width."""
    v, m = 0.3, 1.5

    def end(x, sigma):
        return m + (x - m) * (v / (v + sigma**2)) ** 0.5

    start, sigmas = torch.full((3, 1), m).double(), torch.tensor([8.0, 0.7]).double()
    start[0] += (v + 8.0**2) ** 0.5
    for levels in (1, 2):
        # row k is the answer to draw k alone, and row 0 to the start: Σₖ (xₖ − m)² is the variance
        pulses = replay(torch.eye(3).double()[1:, :, None])
        options = {"noise": pulses} if levels == 2 else {}
        *_, last = SAMPLERS["consistency"].run(
            from_denoiser(end), start, sigmas[:levels], **options
        )
        assert (last.step, last.sigma) == (levels, 0)
        assert (last.x - m).square().sum().item() == pytest.approx(v, rel=1e-12)


@pytest.mark.parametrize("name", RUNS)
def test_evaluations_are_the_calls_of_the_score(name):
    score = Mock(side_effect=GAUSSIAN)
    for state in RUNS[name](score, torch.randn(1, 2).double()):
        assert score.call_count == state.evaluations


@pytest.mark.parametrize("name", [*SAMPLERS, *DENSITY_KERNELS])
def test_states_and_evaluations_are_planned(name):
    sampler = find_sampler(name)[1]
    steps = [{"steps": 3}] if sampler.annealed else []
    for options in [{}, {"denoise": False}, {"denoise": True}, *steps]:
        *_, last = sampler.run(GAUSSIAN, torch.randn(2, 2).double(), LADDER, **options)
        assert last.step == sampler.states(len(LADDER), **options)
        if name != "adaptive":
            assert last.evaluations == sampler.evaluations(len(LADDER), **options)
    with pytest.raises(ValueError, match="option denoize does not exist: did you mean denoise"):
        sampler.evaluations(10, denoize=True)
    assert "noise" in sampler.defaults
    assert sampler.defaults["denoise"] == (not sampler.annealed)


@pytest.mark.parametrize("name", RUNS)
def test_states_count_steps_and_are_never_written_to_again(name):
    tensors, copies, score = [], [], Mock(side_effect=GAUSSIAN)
    start = torch.randn(5, 2).double()
    for step, state in enumerate(RUNS[name](score, start), 1):
        x, sigma = score.call_args.args
        torch.testing.assert_close(state.denoised, x + match(sigma, x) ** 2 * GAUSSIAN(x, sigma))
        assert state.step == step
        if state.sigma == 0:  # the last step takes the denoiser's x
            assert torch.equal(state.x, state.denoised)
        tensors += [start, state.x, state.denoised]
        copies += [start.clone(), state.x.clone(), state.denoised.clone()]
    assert all(torch.equal(a, b) for a, b in zip(tensors, copies, strict=True))
    assert (state.sigma == 0) == (name not in WITHOUT_THE_LAST_STEP)


@pytest.mark.parametrize("name", RUNS)
def test_a_sampler_holds_on_to_no_state(name):
    """Memory cannot grow with the number of steps: all but the newest states are free."""
    alive, options = [], SAMPLERS[name].defaults if name in SAMPLERS else {}
    for state in RUNS[name](GAUSSIAN, torch.randn(5, 2).double()):
        alive.append(weakref.ref(state.denoised))
        assert sum(ref() is not None for ref in alive) <= (3 if "order" in options else 2)
    del state
    assert not any(ref() is not None for ref in alive)


@pytest.mark.parametrize("checks", ["checked", "unchecked"])
@pytest.mark.parametrize("name", RUNS)
def test_grad_mode_and_autocast_stay_the_callers(name, checks, request):
    if checks == "unchecked":
        request.getfixturevalue(checks)
    net, modes = torch.nn.Linear(2, 2), []

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
    assert set(modes) == {(False, True)}
    run = RUNS[name](score, x)
    for _ in range(2):  # the mode at each resumption is the caller's, whatever it was before
        next(run)
        assert torch.is_grad_enabled()
        assert not torch.is_autocast_enabled("cpu")
        with torch.no_grad():
            next(run)
            assert not torch.is_grad_enabled()
    run.close()
    assert torch.is_grad_enabled()
    with pytest.raises(ZeroDivisionError):
        next(RUNS[name](lambda x, sigma: 1 / 0, x))
    assert torch.is_grad_enabled()


class Operations(TorchDispatchMode):
    """Record the name of every operation on tensors."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", [name for name in RUNS if name != "adaptive"])
def test_a_step_copies_nothing_and_never_waits_for_the_device(name):
    answer, x = torch.zeros(5, 2), torch.randn(5, 2)
    answers = {x.shape: answer, x.shape[:1]: torch.zeros(5)}
    run = RUNS[name](lambda x, sigma: answer, x, noise=lambda x: answers[x.shape])
    with Operations() as operations:
        steps = sum(1 for _ in run)
    # at most six terms α·s or β·z a step, each a product and a sum; a corrected step has besides
    # two kinetic energies of three operations, Φ of four, an exponential, and three choices
    assert 0 < len(operations.names) <= (30 if name == "mala" else 12) * steps
    slow = {"clone", "copy_", "_to_copy", "_local_scalar_dense", "nonzero"}
    missing = {"special_log_ndtr"}  # on Apple GPUs
    assert not (slow | missing) & set(operations.names)


@pytest.mark.parametrize("name", RUNS)
def test_shapes_are_compared_with_the_score(name):
    score = Mock(side_effect=lambda x, sigma: x[:, :1])
    score.shape, score.device = 7, "cuda"  # neither of torch's type, so ignored
    with pytest.raises(ValueError, match=r"score returned shape \(2, 1\) for x"):
        next(RUNS[name](score, torch.zeros(2, 2)))
    with pytest.raises(ValueError, match="reshape x"):
        RUNS[name](from_denoiser(to_denoiser(GAUSSIAN)), torch.zeros(2, 3))


def test_every_keeps_each_nth_and_the_last():
    states = list(integrate(euler, GAUSSIAN, torch.randn(5, 2).double(), linear(2.0, 0.1, 8)))
    for n, kept in ((3, [3, 6, 8]), (4, [4, 8]), (100, [8])):
        assert [state.step for state in every(iter(states), n)] == kept
    assert [state.step for state in progress(iter(states), total=8)] == [*range(1, 9)]
    with pytest.raises(ValueError, match="n=0"):
        every(states, 0)
    with pytest.raises(ValueError, match="states is empty"):
        final([])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.uint8), TypeError, r"x is torch.uint8.*x.float\(\) / 255"),
        ([[0.0, 1.0]], TypeError, "x is list: give a tensor"),
        (torch.zeros(3), ValueError, r"x\[None\] for one sample"),
        (torch.zeros(0, 3), ValueError, "give a batch"),
        (torch.tensor([[0.0, math.nan]]), ValueError, "x has NaN or infinite"),
        (torch.zeros(2, 3), ValueError, r"x is a batch of \(3,\).*reshape x"),
        (torch.zeros(2, 2, device="meta"), ValueError, "on meta, but score is for .* on cpu"),
    ],
)
def test_a_bad_start_is_refused_when_the_sampler_is_called(name, x, error, message):
    with pytest.raises(error, match=message):
        RUNS[name](GAUSSIAN, x)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("sampler", [annealed_langevin, lambda *a: integrate(heun, *a)])
@pytest.mark.parametrize(
    "sigmas",
    [
        *([1.0, 0.5, 0.0], [1.0, -0.5], [math.inf, 0.5], [1.0, math.nan], [1.0, 1.0], [0.1, 1.0]),
        *(1.0, [], [[1.0, 0.5]], None),
    ],
)
def test_a_bad_ladder_is_refused_when_the_sampler_is_called(sampler, sigmas):
    sigmas = [1.0, 0.5] if sigmas is None else torch.tensor(sigmas)
    with pytest.raises(ValueError, match=r"sigmas must be .* decrease, such as geometric"):
        sampler(GAUSSIAN, torch.zeros(2, 2), sigmas)


LIMITED = {
    "langevin": {"sigma": [-1.0, torch.ones(2)], "alpha": [0.0], "steps": [0, 2.5]},
    "annealed_langevin": {"epsilon": [-1.0], "convention": ["code"], "kernel": ["mala"]},
    "churn": {"amount": [-1.0], "s_noise": [math.nan]},
    "predictor_corrector": {"ratio": [math.inf, 0.0], "corrections": [1.5, -1], "rule": ["mean"]},
    "consistent": {"eta": [2.0, 0.1]},
    "unipc": {"order": [0, 1.5], "form": ["data"]},
    "adaptive": {"tolerance": [0.0], "max_evaluations": [0]},
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", LIMITED)
def test_bad_options_are_refused_by_name(name):
    own = {"sigma": 1.0, "alpha": 0.1} if name == "langevin" else {"sigmas": LADDER}
    run = langevin if name == "langevin" else SAMPLERS[name].run
    for option, values in LIMITED[name].items():
        for value in values:
            with pytest.raises(ValueError, match=re.escape(f"{option}={value!r}")):
                run(GAUSSIAN, torch.zeros(2, 2), **own | {option: value})
        with pytest.raises(ValueError, match=f"option {option}s does not exist: did you mean"):
            run(GAUSSIAN, torch.zeros(2, 2), **own | {f"{option}s": 1})
    for one_step in (SAMPLERS["heun"].run, dpm_solver):
        with pytest.raises(ValueError, match="one level"):
            one_step(GAUSSIAN, torch.zeros(2, 2), torch.ones(1), denoise=False)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 2, 1, 4)])
def test_a_chain_keeps_its_type_whatever_the_score_answers_in(name, shape):
    oracle, types = Gaussian(torch.zeros(shape[1:]), 1.0), (torch.float64, torch.bfloat16)
    for dtype, answer in product(types[:1] if name == "mala" else types, types):
        x = 1e3 * torch.randn(shape, dtype=dtype)
        for state in RUNS[name](lambda x, sigma, to=answer: oracle(x, sigma).to(to), x):
            assert state.x.shape == state.denoised.shape == shape
            assert state.x.dtype == state.denoised.dtype == dtype
            assert state.x.isfinite().all()
