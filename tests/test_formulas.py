"""Formulas of docstrings, read as Python, give what the code below them returns."""

import re
from functools import partial
from inspect import getdoc, getmodule
from itertools import pairwise

import pytest
import torch

from scorefield import (
    EDM,
    NCSN,
    VE,
    VP,
    FlowMatching,
    GaussianMixture,
    LogNormal,
    NCSNv2,
    ScoreModel,
    SubVP,
    VEDiscrete,
    VPDiscrete,
    ancestral,
    annealed_langevin,
    churn,
    consistent,
    denoising,
    dpm_solver,
    edm_weight,
    euler,
    final,
    heun,
    integrate,
    langevin,
    likelihood_weight,
    ncsn_weight,
    predictor_corrector,
    replay,
    reverse_diffusion,
)

CALLS = {name: name for name in ("s", "F", "p", "log", "exp", "min", "asinh", "sq")} | {"√": "sqrt"}
SIGNS = CALLS | {"·": "*", "−": "-", "²": "**2", "½": "0.5", "¼": "0.25"}
TOKEN = re.compile(r"\d+|[²½¼]|log|exp|min|asinh|sq|[^\W\d_](?:_[a-z]+|_[A-Z]|₋₁|[ᵢ'\u0302])*|.")
"""A number, a sign, a function, or a letter with its index."""


def read(formula):
    """Return a formula as Python, which writes the sign of each product."""
    formula = re.sub(r"‖(.*?)‖²", r"sq(\1)", formula)
    formula = re.sub(r"e⁻(²?)ʰ", lambda e: "exp(−2h)" if e[1] else "exp(−h)", formula)
    formula = re.sub(r"(√|log) ?(\w)", r"\1(\2)", formula)
    code, last = "", "("
    for token in TOKEN.findall(formula.replace(" ", "")):
        is_factor = last not in CALLS and re.search(r"[\w)'\u0302₁]$", last)
        code += "*" if is_factor and re.match(r"[^\W²]|[(√]", token) else ""
        code += SIGNS.get(token, token).replace("'", "_next").replace("₋₁", "_last")
        last = token
    return code


def documented(own, formula, **names):
    """Return the value of a formula that the docstring of a name, or of its module, contains."""
    assert formula in " ".join(f"{getdoc(own)} {getdoc(getmodule(own))}".split())
    return eval(read(formula), FUNCTIONS | names)


def network(u, cond=0):
    """Return a number for each coordinate, which depends on both arguments."""
    return u.sin() + 0.1 * torch.as_tensor(cond).reshape(-1, 1)


class Network(torch.nn.Module):
    def forward(self, u, cond=None):
        return network(u, 0 if cond is None else cond)


double = partial(torch.tensor, dtype=torch.float64)
score = GaussianMixture(double([[-1.0, 0.5], [1.0, 1.0]]), 0.3, double([0.4, 0.6]))
x, z = double([[0.3, -0.7], [2.0, 0.1]]), double([[0.6, -1.1], [-0.2, 0.9]])
σ, σ_next = double(0.8), double(0.3)
near = {"x": x, "z": z, "σ": σ, "σ_next": σ_next}
FUNCTIONS = {
    **{"log": torch.log, "exp": torch.exp, "asinh": torch.asinh, "sqrt": lambda a: a**0.5},
    **{"sq": lambda a: (a**2).sum(1), "F": network, "s": score},
}
equal = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)


def run(sampler, *levels, **options):
    """Return the end of a sampler whose noise is z."""
    return final(sampler(score, x, double(levels), noise=lambda x: z, denoise=False, **options))


def test_a_formula_is_read_as_a_person_does():
    assert read("½‖σs(x + σz, σ)‖²/σ²") == "0.5*sq(σ*s(x+σ*z,σ))/σ**2"
    assert read("σ_d/(σ√v)·F(2u, ¼ log σ)") == "σ_d/(σ*sqrt(v))*F(2*u,0.25*log(σ))"


@pytest.mark.parametrize(
    ("step", "formula"),
    [
        (euler, "x + σ(σ − σ')·s(x, σ)"),
        (heun, "x + ½(σ − σ')·(σ·s(x, σ) + σ'·s(x̂, σ'))"),
        (reverse_diffusion, "x + (σ² − σ'²)·s(x, σ) + √(σ² − σ'²)·z"),
        (ancestral, "x + (σ² − σ'²)·s(x, σ) + σ'/σ·√(σ² − σ'²)·z"),
    ],
)
def test_formulas_of_steps(step, formula):
    end = documented(euler, "x + σ(σ − σ')·s(x, σ)", **near)
    equal(run(partial(integrate, step), σ, σ_next), documented(step, formula, **near, x̂=end))


@pytest.mark.parametrize(
    ("convention", "formula"),
    [("official", "x + α·s(x, σ) + √(2α)·z"), ("paper", "x + α/2·s(x, σ) + √α·z")],
)
def test_formulas_of_langevin_dynamics(convention, formula):
    """At one level and down a ladder, two steps at each, with noise of their own."""
    draws, end, down = torch.randn(4, *x.shape).double(), x, x
    for z, level in zip(draws, (σ, σ, σ_next, σ_next), strict=True):
        end = documented(langevin, formula, x=end, z=z, σ=σ, α=double(0.1))
        α = documented(annealed_langevin, "ε·σ²/σ_L²", ε=0.01, σ=level, σ_L=σ_next)
        down = documented(annealed_langevin, formula, x=down, z=z, σ=level, α=α)
    options = {"convention": convention, "steps": 4}
    equal(final(langevin(score, x, 0.8, alpha=0.1, noise=replay(draws), **options)), end)
    options |= {"noise": replay(draws), "steps": 2, "epsilon": 0.01, "denoise": True}
    run = annealed_langevin(score, x, torch.stack([σ, σ_next]), **options)
    equal(final(run), down + σ_next**2 * score(down, σ_next))


@pytest.mark.parametrize("rule", ["sample", "batch"])
def test_formulas_of_predictor_corrector(rule):
    """Song et al. 2021, Algorithms 2 and 4, with two corrections and noise of their own."""
    draws, end, levels = torch.randn(6, *x.shape).double(), x, (σ, σ_next, double(0.2))
    left = iter(draws)
    for high, low in pairwise(levels):
        own = {"x": end, "σ": high, "σ_next": low, "z": next(left)}
        end = documented(reverse_diffusion, "x + (σ² − σ'²)·s(x, σ) + √(σ² − σ'²)·z", **own)
        for n in (next(left), next(left)):
            α = documented(predictor_corrector, "2r²σ'²", r=0.16, σ_next=low)
            if rule == "batch":
                α = 2 * (0.16 * n.norm(dim=1).mean() / score(end, low).norm(dim=1).mean()) ** 2
            own = {"x": end, "σ_next": low, "z": n, "α": α}
            end = documented(predictor_corrector, "x + α·s(x, σ') + √(2α)·z", **own)
    options = {"corrections": 2, "rule": rule, "denoise": False, "noise": replay(draws)}
    equal(final(predictor_corrector(score, x, torch.stack(levels), **options)), end)


def test_formulas_of_churn():
    """Karras et al. 2022, Algorithm 2; the first and the last level are beyond those that churn."""
    levels, draws, end = double([60.0, 10.0, 1.0, 0.01]), torch.randn(2, *x.shape).double(), x
    left, own = iter(draws), {"S_churn": 1.2, "S_noise": 1.003, "N": 4}
    for level, low in pairwise(levels):
        high = level
        if 0.05 <= level <= 50:
            high = documented(churn, "σ·(1 + min(S_churn/N, √2 − 1))", σ=level, **own)
            names = own | {"x": end, "z": next(left), "σ": level, "σ̂": high}
            end = documented(churn, "x + S_noise·√(σ̂² − σ²)·z", **names)
        end = heun(score, end, high.item(), low.item(), torch.randn_like)[0]
    end = end + levels[-1] ** 2 * score(end, levels[-1])
    equal(final(churn(score, x, levels, amount=1.2, noise=replay(draws))), end)


def test_formulas_of_consistent_sampling():
    own = {"η": 0.7, "γ": σ_next / σ}
    own["β"] = documented(consistent, "1 − ((1−η)/γ)²", **own) ** 0.5
    end = documented(consistent, "x + ησ²s + βσ'z", **near, **own, s=score(x, σ))
    equal(run(consistent, σ, σ_next, eta=0.7), end)


@pytest.mark.parametrize(
    ("sde", "formula"),
    [
        (False, "σ'/σ·x − (e⁻ʰ − 1)·D'"),
        (True, "(σ'/σ)²·x − (e⁻²ʰ − 1)·D' + σ'√(1 − e⁻²ʰ)·z"),
    ],
)
def test_formulas_of_dpm_solver(sde, formula):
    levels = σ, σ_next, double(0.2)
    end, h_last, D_last = x, double(torch.inf), x
    for high, low in pairwise(levels):
        h = (high / low).log()
        D = documented(dpm_solver, "x + σ²s", x=end, σ=high, s=score(end, high))
        own = {"D": D, "D_last": D_last, "r": h_last / h}
        own["D_next"] = documented(dpm_solver, "D + (D − D₋₁)/(2r)", **own)
        end = documented(dpm_solver, formula, x=end, z=z, σ=high, σ_next=low, h=h, **own)
        h_last, D_last = h, D
    equal(run(dpm_solver, *levels, sde=sde), end)


LEVELS = double([2.0, 1.0, 0.75, 0.1])
NOISE = {"α": "1/√(1 + σ²)"}


@pytest.mark.parametrize(
    ("row", "options", "formula", "definitions"),
    [
        (NCSN, {"levels": LEVELS}, "σᵢ/σ·F(u, i)", {}),
        (NCSNv2, {}, "F(u)/σ", {}),
        (VE, {}, "F(2u, log σ)/σ", {}),
        (VEDiscrete, {"levels": LEVELS}, "F(2u, i)/σ", {}),
        (EDM, {"sigma_data": 0.7}, "−u/v + σ_d/(σ√v)·F(u/√v, ¼ log σ)", {"v": "σ² + σ_d²"}),
        (FlowMatching, {}, "−(u + F(u/(1 + σ), t))/(σ(1 + σ))", {"t": "σ/(1 + σ)"}),
        (VPDiscrete, {"levels": LEVELS}, "−F(αu, k)/σ", NOISE),
    ],
)
def test_formulas_of_preconditioners(row, options, formula, definitions):
    # level 2 of 0 … 3 is the nearest, and timestep 1 counts from the other end
    names = {"u": x - 0.2, "σ": σ, "σ_d": 0.7, "i": 2, "k": 1, "σi": LEVELS[2]}
    names |= {name: documented(row, text, **names) for name, text in definitions.items()}
    model = ScoreModel(Network(), row(centre=0.2, **options), shape=(2,))
    equal(model(x, σ), documented(row, formula, **names))


@pytest.mark.parametrize("row", [VP, SubVP])
def test_formulas_of_diffusions_in_time(row):
    t, ends = double(0.3), {"β_min": 0.1, "β_max": 20.0}
    beta = [documented(VP, "β_min + t(β_max − β_min)", t=u, **ends) for u in (0 * t, t)]
    integral = t * sum(beta) / 2  # of a straight line
    α = (-integral / 2).exp()
    own = (1 - α**2) ** 0.5 if row is VP else documented(SubVP, "1 − α²", α=α)
    level = own / α
    if row is VP:
        equal(α, documented(VP, "1/√(1 + σ²)", σ=level))
    else:
        equal(integral, documented(SubVP, "2 asinh(σ/2)", σ=level))
    model = ScoreModel(Network(), row(), shape=(2,))
    # its time is the root of an equation
    torch.testing.assert_close(
        model(x, level), documented(VP, "−F(αu, 999t)/σ", u=x, σ=level, α=α, t=t), rtol=1e-9, atol=0
    )


def test_formulas_of_objectives():
    loss = denoising(score, x, 0.8, noise=lambda x: z)
    equal(loss, documented(denoising, "½‖s(x + σz, σ) + z/σ‖²", **near))
    equal(loss, documented(denoising, "½‖σs(x + σz, σ) + z‖²/σ²", **near))
    levels, sigmas = LogNormal(), double([0.2, 3.0])
    equal(ncsn_weight(sigmas), documented(ncsn_weight, "σ²", σ=sigmas))
    equal(edm_weight(0.7)(sigmas), documented(edm_weight, "2σ²(σ² + σ_d²)/σ_d²", σ=sigmas, σ_d=0.7))
    weight = documented(likelihood_weight, "2σ/p(σ)", σ=sigmas, p=levels.density)
    equal(likelihood_weight(levels)(sigmas), weight)
