"""The health of annealed Langevin dynamics, and of the score it runs on.

    stability    α·λ < 2 at each level, λ the largest eigenvalue of −∇ₓs. Of a true score λ ≤ 1/σ²,
                 for ∇ₓs = (Cov[x₀ | x]/σ² − I)/σ²; a guided or learned one may be stiffer
    lag          on N(m, v) a chain settles at the variance b·v, b = 2/(2 − α/v), and T steps leave
                 (1 − α/v)^2T of the excess that it came with
    score error  E‖s − ∇ log q_σ‖² / E‖∇ log q_σ‖², by σ and by how dense q_σ is

The first is known before anything runs, and nothing runs if it does not hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from ._ops import Noise, linearize, match, sq_norm
from .oracles import Empirical, GaussianMixture, Mixture, Oracle
from .prior import Prior
from .samplers import annealed_langevin, every
from .samplers.langevin import Convention
from .score import Score

REGIONS = (0.5, 0.95)
"""The densest half of q_σ's samples, the next 45 %, and the sparsest 5 %."""


@dataclass(frozen=True)
class Level:
    """One noise level: its step, the chain after it, the score on it."""

    sigma: float
    alpha: float
    """The factor before the score."""
    stiffness: float
    """λσ², which is at most 1 for a true score."""
    bound: float
    """The ε below which the step is stable, in the convention asked for."""
    errors: tuple[float, ...]
    """Relative score error, over all of q_σ and by `REGIONS`."""
    mean: float = math.nan
    """How far the chain's mean is from q_σ's, in standard errors: about 1 by chance."""
    variance: float = math.nan
    """The chain's variance over q_σ's, in all directions together."""
    widest: float = math.nan
    """The same in the direction where the data are widest, the last to settle."""
    settled: float = math.nan
    """What `widest` would be after steps without end: b, the bias of the step."""


@dataclass(frozen=True)
class Mode:
    """The share of a mode: true, found, and the ends of Wilson's 95 % interval of the latter."""

    weight: float
    found: float
    low: float
    high: float


@dataclass(frozen=True)
class Diagnosis:
    """What was found, level by level; prints as a table with its verdicts."""

    levels: tuple[Level, ...]
    modes: tuple[Mode, ...]
    verdicts: tuple[str, ...]
    """What is wrong and what to do about it; empty if nothing is."""
    n: int
    steps: int
    epsilon: float
    convention: Convention

    @property
    def unstable(self) -> list[int]:
        """The levels, from 0, whose step is too long."""
        return [i for i, level in enumerate(self.levels) if self.epsilon >= level.bound]

    @property
    def lagging(self) -> list[int]:
        """The levels, from 0, with variance left over: 5 % and three standard errors too much."""
        most = 1.05 + 3 * math.sqrt(2 / self.n)
        return [i for i, v in enumerate(self.levels) if v.widest > most * v.settled]

    def __str__(self) -> str:
        heads = ("level", "σ", "λσ²", "ε below", "mean", "variance", "widest", "settled")
        rows = ["".join(f"{head:>9}" for head in heads) + "   score error: all, dense, mid, sparse"]
        for i, v in enumerate(self.levels, 1):
            chain = (v.mean, v.variance, v.widest, v.settled)
            shown = "".join(f"{'–' if math.isnan(c) else f'{c:.3f}':>9}" for c in chain)
            errors = " ".join(f"{e:8.2g}" for e in v.errors)
            rows.append(f"{i:9d}{v.sigma:9.4g}{v.stiffness:9.2f}{v.bound:9.3g}{shown}   {errors}")
        rows += [
            f"mode {i}: {m.found:.3f} of {m.weight:.3f}, 95 % in {m.low:.3f} to {m.high:.3f}"
            for i, m in enumerate(self.modes)
        ]
        return "\n".join([*rows, *(self.verdicts or ("nothing wrong",))])


def diagnose(
    score: Score,
    reference: Oracle | Float[Tensor, "n *shape"],
    sigmas: Float[Tensor, "levels"],
    *,
    steps: int = 100,
    epsilon: float = 2e-5,
    convention: Convention = "official",
    n: int = 4000,
    noise: Noise = torch.randn_like,
) -> Diagnosis:
    """Examine a score and the annealed Langevin dynamics that is to run on it.

    Args:
        score: the score that the chain would use; guided ones too.
        reference: an oracle, or data, which stand for their own q_σ. Modes are weighed if the
            oracle is a mixture.
        sigmas: decreasing ladder.
        steps: T, at each level.
        epsilon: ε of `annealed_langevin`.
        convention: how ε is counted.
        n: how many chains run, from the reference's prior, and how many points test the score;
            with few, a small lag is not told from chance.
        noise: source of noise.
    """
    truth = reference if isinstance(reference, Oracle) else Empirical(reference)
    start = truth.prior.sample(n, sigmas[0], noise=noise)
    chain = annealed_langevin(
        score, start, sigmas, steps=steps, epsilon=epsilon, convention=convention, noise=noise
    )
    drift = epsilon if convention == "official" else epsilon / 2
    levels = []
    for sigma in sigmas.tolist():
        alpha = drift * (sigma / sigmas[-1].item()) ** 2
        x = truth.sample(n, sigma, noise=noise)
        stiffness = _stiffness(score, x[:64], sigma, noise)
        bound = epsilon * 2 / (alpha * max(stiffness, 1e-12))
        errors = _errors(score, truth, x, sigma)
        levels.append(Level(sigma, alpha, stiffness * sigma**2, bound, errors))
    found = Diagnosis(tuple(levels), (), (), n, steps, epsilon, convention)
    if found.unstable:
        return replace(found, verdicts=(_instability(found),))
    for i, state in enumerate(every(chain, steps)):
        levels[i] = _weighed(levels[i], state.x, truth.prior)
    found = replace(found, levels=tuple(levels), modes=_modes(truth, state.x))
    return replace(found, verdicts=tuple(_verdicts(found)))


def wilson(hits: int, n: int, *, z: float = 1.959964) -> tuple[float, float]:
    """The interval of a share (Wilson 1927), sound for few samples and for none of a kind."""
    p = hits / n
    centre, scale = p + z**2 / (2 * n), 1 + z**2 / n
    reach = z * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    return (centre - reach) / scale, (centre + reach) / scale


# ── Measurements ─────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def _stiffness(score: Score, x: Tensor, sigma: float, noise: Noise, iterations: int = 30) -> float:
    """The largest eigenvalue of −∇ₓs at any of the points, by power iteration.

    First of the largest in size, ρ, of either sign; then of ρI − ∇ₓs, whose largest is ρ + λ.
    """
    _, pullback = linearize(lambda x: score(x, sigma), x)
    size = x.new_zeros(len(x))
    for shift in (0.0, 1.0):
        v, rho = noise(x), shift * size
        for _ in range(iterations):
            v = v / match(sq_norm(v).sqrt().clamp(min=1e-30), v)
            image = match(rho, v) * v - pullback(v)
            size, v = sq_norm(image).sqrt(), image
    return (size - rho).max().item()


@torch.no_grad()
def _errors(score: Score, truth: Oracle, x: Tensor, sigma: float) -> tuple[float, ...]:
    target = truth.score(x, sigma)
    order = truth.log_prob(x, sigma).argsort(descending=True)
    error, size = sq_norm(score(x, sigma) - target)[order], sq_norm(target)[order]
    ends = [0, *(round(share * len(x)) for share in REGIONS), len(x)]
    parts = [slice(None), *(slice(a, b) for a, b in pairwise(ends))]
    return tuple((error[p].sum() / size[p].sum()).item() for p in parts)


def _weighed(level: Level, x: Tensor, prior: Prior) -> Level:
    """The level with the mean and variance of a chain, against q_σ's."""
    basis, values, rest = prior.spectrum
    values = values.double().expand(prior.mean.numel() if basis is None else -1)
    i, size = int(values.argmax()), prior.mean.numel()
    gap = (x - prior.mean).flatten(1).double()
    along = gap[:, i] if basis is None else gap @ basis[:, i].double()
    total = values.sum().item() + rest * (size - len(values)) + size * level.sigma**2
    widest = values[i].item() + level.sigma**2
    return replace(
        level,
        mean=(gap.mean(0).square().sum().item() * len(x) / total) ** 0.5,
        variance=gap.var(0).sum().item() / total,
        widest=along.var().item() / widest,
        settled=2 / (2 - level.alpha / widest),
    )


def _modes(truth: Oracle, x: Tensor) -> tuple[Mode, ...]:
    """Weighed where the oracle is a mixture; a data set's points are no modes."""
    if isinstance(truth, Empirical) or not isinstance(truth, GaussianMixture | Mixture):
        return ()
    nearest = truth.responsibilities(x, 0.0).argmax(1)
    counts = torch.bincount(nearest, minlength=len(truth.weights)).tolist()
    pairs = zip(truth.weights.tolist(), counts, strict=True)
    return tuple(Mode(weight, k / len(x), *wilson(k, len(x))) for weight, k in pairs)


# ── Verdicts ─────────────────────────────────────────────────────────────────────────────────────


def _instability(found: Diagnosis) -> str:
    worst = min(found.unstable, key=lambda i: found.levels[i].bound)
    level = found.levels[worst]
    stiff = " The score is stiffer than a true one (λσ² > 1)." if level.stiffness > 1.05 else ""
    return (
        f"unstable: at level {worst + 1} (σ = {level.sigma:.4g}) ε = {found.epsilon:.4g} is not "
        f"below the bound {level.bound:.4g} ({found.convention} convention), and the chain would "
        f"diverge; nothing was run.{stiff} Lower epsilon, or end the ladder at a larger σ."
    )


def _verdicts(found: Diagnosis) -> Iterator[str]:
    if found.lagging:
        worst = max(found.lagging, key=lambda i: found.levels[i].widest / found.levels[i].settled)
        level = found.levels[worst]
        yield (
            f"lag: at {len(found.lagging)} levels the chain has not settled, most at level "
            f"{worst + 1} (σ = {level.sigma:.4g}), where its variance in the widest direction is "
            f"{level.widest:.3f} × q's, and would settle at {level.settled:.3f}. Raise steps "
            f"(T = {found.steps}), or add levels."
        )
    # by chance no mode in 10,000 is off by four standard errors
    counts = [round(m.found * found.n) for m in found.modes]
    sure = [wilson(k, found.n, z=4.0) for k in counts]
    pairs = zip(found.modes, sure, strict=True)
    off = [str(i) for i, (m, (low, high)) in enumerate(pairs) if not low <= m.weight <= high]
    if off:
        yield (
            f"weights: of modes {', '.join(off)} the share is wrong beyond chance. Raise steps and "
            "keep epsilon, or use a sampler of the ODE."
        )
