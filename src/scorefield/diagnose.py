"""Diagnosis of annealed Langevin dynamics, and of the score it runs on.

    stability    α·λ < 2 at each level, λ the largest eigenvalue of −∇ₓs. A true score has λ ≤ 1/σ²,
                 because ∇ₓs = (Cov[x₀ | x]/σ² − I)/σ²; a guided or learned one may be stiffer
    bias         on N(m, v) a chain settles at the variance b·v, b = 2/(2 − α/v)
    lag          T steps leave (1 − α/v)^2T of the initial excess of variance, most where v is large
                 compared with α; narrow modes keep theirs when σ falls below them
    score error  E‖s − ∇ log q_σ‖² / E‖∇ log q_σ‖², by σ and by how dense q_σ is

Stability is checked before anything runs, and nothing runs if it does not hold.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice, pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from ._ops import Noise, check_count, linearize, match, sq_norm, wide
from .noise import check_levels
from .oracles import Empirical, Mixture, Oracle
from .samplers import annealed_langevin
from .samplers.langevin import Convention
from .score import Score

POWER_ITERATIONS = 30
REGIONS = (0.5, 0.95)
"""Ends of the densest half of q_σ's samples and of the next 45 %; the sparsest 5 % remain."""


@dataclass(frozen=True)
class LevelHealth:
    """Step, chain and score at one noise level."""

    sigma: float
    alpha: float  # step size, the factor of the score
    stiffness: float  # λσ², which is at most 1 for a true score
    bound: float  # largest stable ε, in the convention of the call
    errors: tuple[float, ...]  # relative score error, over all of q_σ and by `REGIONS`
    # distance of the chain's mean from q_σ's, in standard errors: about 1 by chance
    mean: float = math.nan
    variance: float = math.nan  # variance of the chain over that of q_σ, in all directions together
    widest: float = math.nan  # the same in the direction where the data are widest
    widest_settled: float = math.nan  # its limit for T → ∞, b
    # E‖∇ log q_σ‖² under the chain over that under q_σ: excess variance where q_σ is narrow
    local: float = math.nan
    local_error: float = math.nan  # standard error of `local`
    local_settled: float = math.nan  # largest b of all directions, that of the stiffest


@dataclass(frozen=True)
class ModeShare:
    """True weight of a mode, its share of the chains, and Wilson's 95 % interval of that."""

    weight: float
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Diagnosis:
    """Result of `diagnose`, level by level; prints as a table with verdicts."""

    levels: tuple[LevelHealth, ...]
    modes: tuple[ModeShare, ...]
    verdicts: tuple[str, ...]  # each problem and its remedy; empty if there is none
    n: int
    steps: int
    epsilon: float
    convention: Convention

    @property
    def unstable(self) -> list[int]:
        """Levels, from 0, with too large a step."""
        return [i for i, level in enumerate(self.levels) if self.epsilon >= level.bound]

    @property
    def lagging(self) -> list[int]:
        """Levels, from 0, with an excess variance of 5 % and three standard errors."""
        most = 1.05 + 3 * math.sqrt(2 / self.n)
        return [
            i
            for i, v in enumerate(self.levels)
            if v.widest > most * v.widest_settled
            or v.local - 3 * v.local_error > 1.05 * v.local_settled
        ]

    def __str__(self) -> str:
        heads = ("level", "σ", "λσ²", "ε below", "mean", "variance", "widest", "of", "local", "of")
        rows = ["".join(f"{head:>9}" for head in heads) + "   score error: all, dense, mid, sparse"]
        for i, v in enumerate(self.levels, 1):
            chain = (v.mean, v.variance, v.widest, v.widest_settled, v.local, v.local_settled)
            shown = "".join(f"{'–' if math.isnan(c) else f'{c:.3f}':>9}" for c in chain)
            errors = " ".join(f"{e:8.2g}" for e in v.errors)
            rows.append(f"{i:9d}{v.sigma:9.4g}{v.stiffness:9.2f}{v.bound:9.3g}{shown}   {errors}")
        rows += [
            f"mode {i}: {m.share:.3f} of {m.weight:.3f}, 95 % in {m.low:.3f} to {m.high:.3f}"
            for i, m in enumerate(self.modes)
        ]
        healthy = ("no instability, bias, lag, wrong weight or wrong score was found",)
        return "\n".join([*rows, *(self.verdicts or healthy)])


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
    """Examine a score and the annealed Langevin dynamics that will run on it.

    `score` is the one that the chain would use, also a guided one. `reference` is an oracle, or
    data for their own q_σ; the modes of a mixture are compared by their shares. For the other
    options see `annealed_langevin`. `n` chains start from the reference's prior, and the score is
    compared at `n` points; a small n cannot tell a small lag from chance.
    """
    parts = diagnosis_steps(
        score, reference, sigmas, steps=steps, epsilon=epsilon, convention=convention, n=n,
        noise=noise,
    )  # fmt: skip
    return next(filter(None, parts))


def diagnosis_steps(
    score: Score,
    reference: Oracle | Float[Tensor, "n *shape"],
    sigmas: Float[Tensor, "levels"],
    *,
    steps: int,
    epsilon: float,
    convention: Convention,
    n: int,
    noise: Noise,
) -> Iterator[Diagnosis | None]:
    """Yield None after each level and each step of the chains, then what `diagnose` returns."""
    check_count(20, n=n)
    check_levels(sigmas)
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
        if not math.isfinite(stiffness):
            raise ValueError(f"score or its derivative is not finite at σ = {sigma:.4g}")
        bound = epsilon * 2 / (alpha * max(stiffness, 1e-12))
        errors = _errors(score, truth, x, sigma)
        levels.append(LevelHealth(sigma, alpha, stiffness * sigma**2, bound, errors))
        yield None
    diagnosis = Diagnosis(tuple(levels), (), (), n, steps, epsilon, convention)
    if not diagnosis.unstable:
        for i in range(len(levels)):
            for state in islice(chain, steps):
                x = state.x
                yield None
            levels[i] = _measure_chain(levels[i], x, truth, noise)
        modes = _mode_shares(truth, x, sigma)
        diagnosis = replace(diagnosis, levels=tuple(levels), modes=modes)
    yield replace(diagnosis, verdicts=tuple(_verdicts(diagnosis)))


def wilson(hits: int, n: int, *, z: float = 1.959964) -> tuple[float, float]:
    """Return the interval of a share (Wilson 1927), valid also for few samples and no hits."""
    p = hits / n
    centre, scale = p + z**2 / (2 * n), 1 + z**2 / n
    reach = z * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    # rounding may take the ends out of [0, 1]
    return max((centre - reach) / scale, 0.0), min((centre + reach) / scale, 1.0)


@torch.no_grad()
def _stiffness(score: Score, x: Tensor, sigma: float, noise: Noise) -> float:
    """Return the largest eigenvalue of −∇ₓs at any of the points, by power iteration.

    First comes the largest absolute value, ρ; then ρI − ∇ₓs, whose largest eigenvalue is ρ + λ.
    """
    _, pullback = linearize(lambda x: score(x, sigma), x)
    size = x.new_zeros(len(x))
    for shift in (0.0, 1.0):
        v, rho = noise(x), shift * size
        for _ in range(POWER_ITERATIONS):
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


@torch.no_grad()
def _measure_chain(level: LevelHealth, x: Tensor, truth: Oracle, noise: Noise) -> LevelHealth:
    """Return the level with the mean and variance of a chain, compared with q_σ's."""
    prior, sigma = truth.prior, level.sigma
    cov = prior.covariance
    values = wide(cov.values)
    i = int(values.argmax())
    gap = wide((x - prior.mean).flatten(1))
    along = gap[:, i] if cov.axes is None else gap @ wide(cov.axes[:, i])
    total = (values + sigma**2).sum().item()
    widest = values[i].item() + sigma**2
    slopes = wide(sq_norm(truth.score(x, sigma)))
    usual = wide(sq_norm(truth.score(truth.sample(len(x), sigma, noise=noise), sigma)))
    local = (slopes.mean() / usual.mean()).item()
    spread = [(s.std() / s.mean()).item() for s in (slopes, usual)]
    return replace(
        level,
        mean=(gap.mean(0).square().sum().item() * len(x) / total) ** 0.5,
        variance=gap.var(0).sum().item() / total,
        widest=along.var().item() / widest,
        widest_settled=2 / (2 - level.alpha / widest),
        local=local,
        local_error=local * math.hypot(*spread) / math.sqrt(len(x)),
        local_settled=2 / (2 - level.alpha * level.stiffness / sigma**2),
    )


def _mode_shares(truth: Oracle, x: Tensor, sigma: float) -> tuple[ModeShare, ...]:
    """Return the shares of a mixture's modes; the points of a data set are not modes."""
    if not isinstance(truth, Mixture) or getattr(truth, "variance", 1) == 0:
        return ()
    components = truth.responsibilities(x, sigma).argmax(1)
    counts = torch.bincount(components, minlength=len(truth.weights)).tolist()
    pairs = zip(truth.weights.tolist(), counts, strict=True)
    return tuple(ModeShare(weight, k / len(x), *wilson(k, len(x))) for weight, k in pairs)


def _verdicts(diagnosis: Diagnosis) -> Iterator[str]:
    if diagnosis.unstable:
        v, where = _worst(diagnosis, lambda v: -v.bound, diagnosis.unstable)
        stiff = " The score is stiffer than a true one (λσ² > 1)." if v.stiffness > 1.05 else ""
        yield (
            f"unstable: {where} ε = {diagnosis.epsilon:.4g} is not below the bound {v.bound:.4g} "
            f"({diagnosis.convention} convention), and the chain would diverge; nothing was run."
            f"{stiff} Lower epsilon, or end the ladder at a larger σ."
        )
        return
    v, where = _worst(diagnosis, lambda v: v.local_settled)
    if v.local_settled > 1.25:
        yield f"bias: {where} the step makes a variance {v.local_settled:.3f} × q's. Lower epsilon."
    if lagging := diagnosis.lagging:
        excess = lambda v: max(v.widest / v.widest_settled, v.local / v.local_settled)  # noqa: E731
        v, where = _worst(diagnosis, excess, lagging)
        yield (
            f"lag: at {len(lagging)} levels the chain has not settled, most {where}: its variance "
            f"is {v.widest:.3f} × q's where q is widest and {v.local:.3f} × where it is narrow; it "
            f"would settle at {v.widest_settled:.3f} and {v.local_settled:.3f}. If the score is "
            f"right, raise steps (T = {diagnosis.steps}) or add levels."
        )
    v, where = _worst(diagnosis, lambda v: v.mean)
    if v.mean > 5:
        yield f"mean: {where} the chain's mean is {v.mean:.1f} standard errors from q's."
    v, where = _worst(diagnosis, lambda v: v.errors[0])
    if v.errors[0] > 0.05:
        yield f"score: {where} its mean square error is {v.errors[0]:.2g} × the true mean square."
    # four standard errors: one mode in 15,000 by chance
    wrong = []
    for i, mode in enumerate(diagnosis.modes):
        low, high = wilson(round(mode.share * diagnosis.n), diagnosis.n, z=4.0)
        wrong += [str(i)] if not low <= mode.weight <= high else []
    if wrong:
        yield (
            f"weights: the shares of modes {', '.join(wrong)} are wrong beyond chance. Raise steps "
            "and keep epsilon, or use a sampler of the ODE."
        )


def _worst(
    diagnosis: Diagnosis, size: Callable[[LevelHealth], float], among: Iterable[int] | None = None
) -> tuple[LevelHealth, str]:
    """Return the level of largest size, and its place in words."""
    levels = diagnosis.levels
    i = max(range(len(levels)) if among is None else among, key=lambda i: size(levels[i]))
    return levels[i], f"at level {i + 1} (σ = {levels[i].sigma:.4g})"
