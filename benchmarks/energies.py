"""Chains and score matching of this package and of torchebm, on a mixture whose truth is known.

Both packages get the same density, the same networks and batches. torchebm samples and learns from
an energy E with the score −∇E. Its samplers take a gradient in closed form, or by autograd.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from time import process_time
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from scorefield import GaussianMixture, denoising, exact, sliced
from scorefield.samplers.langevin import Kernel, langevin, underdamped
from scorefield.samplers.metropolis import hmc, mala
from scorefield.score import Score, from_energy

from . import Setting, packages
from .packages import OURS
from .peers import time_all
from .posteriors import Counted
from .table import Cell, Table

MIXTURE = GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 0.0]]), 1.0, torch.tensor([0.3, 0.7]))
TORCHEBM = "torchebm"


def torchebm_energy(
    energy: Callable[[Tensor], Tensor], score: Any = None, *parts: nn.Module
) -> Any:
    """Return an energy, with its score if that is known, as a model of torchebm."""

    class Energy(import_module("torchebm.core").BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(parts)

        def forward(self, x: Tensor) -> Tensor:
            return energy(x)

    if score is not None:
        Energy.gradient = lambda self, x, model_kwargs=None: -score(x)
    return Energy()


# ── Chains ───────────────────────────────────────────────────────────────────────────────────────

ALPHA = 0.5
"""Step size; Langevin dynamics is unstable from 2, for components of variance 1."""
LEAPFROGS = 10
TIMED = 500
"""Chains that are timed, and the gradient steps of each."""
JUDGED = 50_000
"""Chains whose variances are measured, after `SETTLING` steps."""
SETTLING = 200

Sample = Callable[[Tensor, int], tuple[Tensor, float | None]]
"""From starts and a number of steps to the ends, and the accepted share."""


class ChainSampler(NamedTuple):
    """A sampler: the one of ours to compare with, and the gradient steps that make one of its."""

    ours: str
    parts: int
    build: Callable[[Any], Sample]  # given the distribution


def own_chain(kernel: Kernel, target: Any, **options: Any) -> Sample:
    def sample(x: Tensor, steps: int) -> tuple[Tensor, float | None]:
        moved, count = 0, 0
        for state in kernel(target, x, 0.0, alpha=ALPHA, steps=steps, **options):
            if state.accepted is not None:
                moved, count = moved + state.accepted.sum(), count + len(x)
        return state.x, float(moved / count) if count else None

    return sample


def torchebm_chain(name: str, target: Any, closed: bool = True, **options: Any) -> Sample:
    score = (lambda x: target(x, 0.0)) if closed else None
    model = torchebm_energy(lambda x: -target.log_prob(x, 0.0), score)
    sampler = getattr(import_module("torchebm.samplers"), name)(model, **options)

    def sample(x: Tensor, steps: int) -> tuple[Tensor, float | None]:
        x, facts = sampler.sample(x=x, n_steps=steps, return_diagnostics=True, thin=steps)
        return x, float(facts["acceptance_rate"]) if "acceptance_rate" in facts else None

    return sample


LANGEVIN = partial(torchebm_chain, "LangevinDynamics", step_size=ALPHA)
HMC = partial(torchebm_chain, "HamiltonianMonteCarlo", step_size=(2 * ALPHA) ** 0.5)
CHAINS = {
    f"{OURS} langevin": ChainSampler("langevin", 1, partial(own_chain, langevin)),
    f"{OURS} underdamped": ChainSampler("underdamped", 1, partial(own_chain, underdamped)),
    f"{OURS} mala": ChainSampler("mala", 1, partial(own_chain, mala)),
    f"{OURS} hmc": ChainSampler("hmc", LEAPFROGS, partial(own_chain, hmc, leapfrogs=LEAPFROGS)),
    f"{TORCHEBM} LangevinDynamics": ChainSampler("langevin", 1, LANGEVIN),
    f"{TORCHEBM} LangevinDynamics, autograd": ChainSampler(
        "langevin", 1, partial(LANGEVIN, closed=False)
    ),
    f"{TORCHEBM} LangevinDynamics, heun": ChainSampler(
        "langevin", 2, partial(LANGEVIN, integrator="heun")
    ),
    f"{TORCHEBM} HamiltonianMonteCarlo": ChainSampler(
        "hmc", LEAPFROGS, partial(HMC, n_leapfrog_steps=LEAPFROGS)
    ),
}


def stationary_chains(setting: Setting, title: str) -> Table:
    """Run chains from exact samples: their variances, and the time of as many evaluations."""
    n, settling, timed = (100, 20, 20) if setting.quick else (JUDGED, SETTLING, TIMED)
    available = packages.available(CHAINS)
    start = MIXTURE.sample(timed)

    def build(name: str) -> Callable[[], object]:
        chain = CHAINS[name]
        return partial(chain.build(MIXTURE), start, timed // chain.parts)

    base = {name: f"{OURS} {chain.ours}" for name, chain in available.items()}
    builders = {name: partial(build, name) for name in available}
    results, failures = time_all(setting, builders, base, process_time)
    truth = MIXTURE.prior.dense.diagonal()
    rows: list[list[Cell]] = []
    for name, (seconds, gain) in results.items():
        torch.manual_seed(setting.seed)
        chain = CHAINS[name]
        counted = Counted(MIXTURE)
        x, accepted = chain.build(counted)(MIXTURE.sample(n), settling // chain.parts)
        calls = counted.rows / n or None  # None: by autograd
        across, along = (x.var(0) / truth).tolist()
        rows.append([*name.split(" ", 1), across, along, accepted, calls, seconds, gain])
    heads = {"package": "", "sampler": "", "variance, modes": ".3f", "variance, other": ".3f"}
    heads |= {"accepted": ".2f", "evaluations": ".0f", "CPU s": ".2f", "ratio": ".2f"}
    about = (
        f"α = {ALPHA}, a quarter of the limit of stability. Variances, in units of the exact ones, "
        f"of {n:,} chains after {settling} steps (a leapfrog or half of heun is one) and as many "
        f"evaluations of the score as stated; standard errors are {(2 / n) ** 0.5:.4f}. Time of "
        f"{timed:,} chains and steps."
    )
    return Table(title, heads, rows, [about, *packages.notes(TORCHEBM), *failures])


# ── Score matching ───────────────────────────────────────────────────────────────────────────────

WIDTH = 64
BATCH = 256
STEPS = 1000
DEVIATION = 0.5
"""Noise of denoising score matching; the other losses learn the score of the data."""
SEEDS = 3
TEST_SAMPLES = 10_000

ScoreAndLoss = tuple[Score, Callable[[Tensor], Tensor]]


class Learner(NamedTuple):
    """A loss: the one of ours to compare with, its σ, and how to build it on a network."""

    ours: str
    sigma: float
    build: Callable[[nn.Module], ScoreAndLoss]
    outputs: int = 1


def own_loss_of(loss: Callable[..., Tensor], sigma: float, energy: bool = True) -> Learner:
    def build(net: nn.Module) -> ScoreAndLoss:
        score = from_energy(lambda x, _: net(x)[:, 0]) if energy else lambda x, _: net(x)
        return score, lambda x: loss(score, x, sigma).mean()

    name = f"{OURS} {getattr(loss, '__name__', 'sliced')}"
    return Learner(name, sigma, build, 1 if energy else 2)


def torchebm_loss(name: str, ours: str, sigma: float = 0.0, **options: Any) -> Learner:
    def build(net: nn.Module) -> ScoreAndLoss:
        model = torchebm_energy(lambda x: net(x)[:, 0], None, net)
        loss = getattr(import_module("torchebm.losses"), name)(model, **options)
        return from_energy(lambda x, _: net(x)[:, 0]), loss

    return Learner(f"{OURS} {ours}", sigma, build)


NOISE = {"sigma": DEVIATION, "noise_scale": DEVIATION}
LEARNERS = {
    f"{OURS} exact": own_loss_of(exact, 0.0),
    f"{OURS} sliced": own_loss_of(sliced, 0.0),
    f"{OURS} denoising": own_loss_of(denoising, DEVIATION),
    f"{OURS} denoising, without an energy": own_loss_of(denoising, DEVIATION, energy=False),
    f"{TORCHEBM} ScoreMatching": torchebm_loss("ScoreMatching", "exact"),
    f"{TORCHEBM} ScoreMatching, approx": torchebm_loss(
        "ScoreMatching", "exact", hessian_method="approx"
    ),
    f"{TORCHEBM} SlicedScoreMatching": torchebm_loss(
        "SlicedScoreMatching", "sliced", n_projections=1
    ),
    f"{TORCHEBM} DenoisingScoreMatching": torchebm_loss(
        "DenoisingScoreMatching", "denoising", **NOISE
    ),
}


def learned_scores(setting: Setting, title: str) -> Table:
    """Train equal networks by each loss, in turns: the error of the score, and the time."""
    steps, seeds = (3, 1) if setting.quick else (STEPS, SEEDS)
    learners = packages.available(LEARNERS)
    errors: dict[str, list[float]] = {name: [] for name in learners}
    spent = dict.fromkeys(learners, 0.0)
    for seed in range(setting.seed, setting.seed + seeds):
        for name, error in train_in_turns(learners, seed, steps, spent).items():
            errors[name].append(error)
    rows: list[list[Cell]] = []
    for name, values in errors.items():
        gain = spent[learners[name].ours] / spent[name]
        numbers = (sum(values) / seeds, min(values), max(values))
        rows.append([*name.split(" ", 1), *numbers, 1e3 * spent[name] / steps / seeds, gain])
    heads = {"package": "", "loss": "", "error": ".3f", "from": ".3f", "to": ".3f"}
    heads |= {"CPU ms a step": ".2f", "ratio": ".2f"}
    about = (
        f"An energy of two layers of {WIDTH}, {steps} steps of Adam with {BATCH} samples each. The "
        f"error is relative to the score, over {seeds} seeds; denoising has σ = {DEVIATION}, the "
        "other losses have none. Sliced losses have one direction."
    )
    return Table(title, heads, rows, [about, *packages.notes(TORCHEBM)])


def train_in_turns(
    learners: dict[str, Learner], seed: int, steps: int, spent: dict[str, float]
) -> dict[str, float]:
    """Train by each loss on the same batches; add to the seconds, and return the errors."""
    trained = {}
    for name, learner in learners.items():
        torch.manual_seed(seed)
        layers = nn.Linear(2, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU()
        net = nn.Sequential(*layers, nn.Linear(WIDTH, learner.outputs))
        adam = torch.optim.Adam(net.parameters(), lr=3e-3)
        rate = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
        trained[name] = (*learner.build(net), adam, rate)
    for _ in range(steps):
        x = MIXTURE.sample(BATCH)
        for name, (_, loss, adam, rate) in trained.items():
            start = process_time()
            adam.zero_grad()
            loss(x).backward()
            adam.step()
            rate.step()
            spent[name] += process_time() - start
    errors = {}
    for name, (score, *_) in trained.items():
        sigma = learners[name].sigma
        x = MIXTURE.sample(TEST_SAMPLES, sigma)
        truth = MIXTURE(x, sigma)
        errors[name] = ((score(x, sigma) - truth).norm() / truth.norm()).item()
    return errors
