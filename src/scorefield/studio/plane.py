"""Jobs of the plane: the ladder of a distribution, and particles under two samplers.

Both samplers start at the same points, with the same noise, and end at the ladder's last level.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from .. import (
    SAMPLERS,
    GaussianMixture,
    Score,
    State,
    geometric,
    karras,
    langevin,
    seeded,
    suggest,
    uniform_like,
    wilson,
)
from ..diagnose import diagnosis_steps
from .context import Studio
from .plane_training import (
    FIELD_ARROWS,
    IMPORTS,
    PlaneTraining,
    cell_middles,
    open_training,
    write_network,
)
from .settings import MAX_SEED, Among, Between, Length, parse_settings
from .targets import TargetSettings, make_target, write_target
from .wire import Frame
from .work import stoppable

MAX_MODES = 12
"""Modes whose weights are shown."""
SHOWN_STATES = 120
"""States of a short sampling that are shown; the page plays them at its own speed."""
SHOWN_EVERY = 20
"""Most states from one that is shown to the next: a long sampling moves as it is computed."""
FIGURE_3_STEPS = 300
"""Steps at each level. The paper's 100 end before the modes have their weights: the smaller one has
0.217 of 40,000 particles instead of 0.2, and 0.204 after 300."""
FAR = 1e6
"""Distance beyond which a particle has left the plane; a NaN has too."""
SUGGESTION_SAMPLES = 1000
PLAIN_LANGEVIN = "langevin"
"""Langevin dynamics at the last level only, with as many steps as annealed dynamics has."""
PLANE_SAMPLERS = (
    PLAIN_LANGEVIN,
    *(name for name, sampler in SAMPLERS.items() if not sampler.jumps),
)
START_SHARE = 0.8
"""Side of the square in which particles start, of the one that is shown: the paper's 8 of 10."""


@dataclass(frozen=True, kw_only=True)
class ChainSettings(TargetSettings):
    """A ladder and the steps of Langevin dynamics on it."""

    ladder: Annotated[tuple[float, ...], Between(1e-4, 1e4), Length(2, 64)]
    epsilon: Annotated[float, Between(1e-9, 1e4)] = 0.1
    convention: Literal["paper", "official"] = "paper"
    n: Annotated[int, Between(20, 4000)] = 1280
    seed: Annotated[int, Between(0, MAX_SEED)] = 0


@dataclass(frozen=True, kw_only=True)
class PlaneSampling(ChainSettings):
    """Particles under two samplers, with the steps of each."""

    start: Literal["square", "prior"] = "square"
    first: Annotated[str, Among(*PLANE_SAMPLERS)] = PLAIN_LANGEVIN
    first_steps: Annotated[int, Between(1, 2000)] = FIGURE_3_STEPS
    second: Annotated[str, Among(*PLANE_SAMPLERS)] = "annealed_langevin"
    second_steps: Annotated[int, Between(1, 2000)] = FIGURE_3_STEPS
    second_score: Literal["exact", "network"] = "exact"
    iterations: Annotated[int, Between(1, 20_000)] = 1000
    """Steps of the network's training."""

    @property
    def training(self) -> PlaneTraining:
        """The training of the network that the second sampler runs on."""
        return PlaneTraining(
            self.target, self.points, self.spread, sigma_max=self.ladder[0],
            sigma_min=self.ladder[-1], iterations=self.iterations,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PlaneDiagnosis(ChainSettings):
    """Steps at each level of the chain to examine."""

    steps: Annotated[int, Between(1, 2000)] = FIGURE_3_STEPS


def show_target(studio: Studio, values: Mapping[str, Any]) -> Iterator[Frame]:
    """Show a distribution, and the ladder for it: Figure 3's own, or the one `suggest` chooses."""
    settings = parse_settings(TargetSettings, values)
    target = make_target(settings)
    width = target.variance**0.5
    samples = target.sample(SUGGESTION_SAMPLES, noise=seeded(0))
    # less noise would not be seen next to the width of the Gaussians
    advice = suggest(samples, sigma_min=width / 3 if width else None)
    suggested = {
        "ladder": round_levels(advice.sigmas),
        "steps": advice.steps,
        "epsilon": float(f"{advice.epsilon:.4g}"),
        "convention": "official",
        "reasons": advice.reasons,
    }
    ladder = round_levels(geometric(20.0, 1.0, 10))
    paper = {"ladder": ladder, "steps": FIGURE_3_STEPS, "epsilon": 0.1, "convention": "paper"}
    header = {
        "keep": True,
        "variance": target.variance,
        "limit": settings.limit,
        "suggested": suggested,
        "paper": paper if settings.target == "modes" else None,
        "start": settings.limit * START_SHARE,
    }
    yield Frame(header, {"means": target.means.numpy(), "weights": target.weights.numpy()})


def round_levels(sigmas: Tensor) -> list[float]:
    """Return noise levels with four digits, as the page's address has them."""
    return [float(f"{sigma:.4g}") for sigma in sigmas.tolist()]


# ── Particles ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, eq=False)
class Chains:
    """Chains by one sampler: the same values run them and are written as Python."""

    score: Literal["target", "model"]
    sampler: str
    levels: str
    """Python of the noise levels, in which `ladder` is the settings' own."""
    sigmas: Tensor
    options: dict[str, Any]

    def run(self, score: Score, x: Tensor, noise: Callable[[Tensor], Tensor]) -> Iterator[State]:
        """Return the states of the chains that start at x."""
        score = stoppable(score)
        if self.sampler == PLAIN_LANGEVIN:
            return langevin(score, x, self.sigmas[-1].item(), noise=noise, **self.options)
        return SAMPLERS[self.sampler].run(score, x, self.sigmas, noise=noise, **self.options)

    @property
    def states(self) -> int:
        """Number of states."""
        if self.sampler == PLAIN_LANGEVIN:
            return int(self.options["steps"])
        return SAMPLERS[self.sampler].states(len(self.sigmas), **self.options)

    def __str__(self) -> str:
        """Return the call as Python."""
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        if self.sampler == PLAIN_LANGEVIN:
            return f"sf.langevin({self.score}, x, {self.levels}[-1].item(){options}, noise=noise)"
        run = f"sf.SAMPLERS[{self.sampler!r}].run"
        return f"{run}({self.score}, x, {self.levels}{options}, noise=noise)"


def plan_chains(
    settings: PlaneSampling, side: Literal["first", "second"], target: GaussianMixture
) -> Chains:
    """Return the chains of a side, all of which end at the ladder's last level.

    Its steps are their number at each level in annealed dynamics, and for other samplers that of
    the levels between the ladder's ends. Plain Langevin dynamics takes as many steps as annealed.
    """
    sampler, steps = getattr(settings, side), getattr(settings, f"{side}_steps")
    is_learned = side == "second" and settings.second_score == "network"
    score: Literal["target", "model"] = "model" if is_learned else "target"
    ladder = torch.tensor(settings.ladder)
    options: dict[str, Any] = {"convention": settings.convention}
    if sampler == PLAIN_LANGEVIN:
        options |= {"alpha": settings.epsilon, "steps": steps * len(ladder)}
        return Chains(score, sampler, "ladder", ladder, options)
    if SAMPLERS[sampler].annealed:
        options |= {"epsilon": settings.epsilon, "steps": steps}
        return Chains(score, sampler, "ladder", ladder, options)
    options = {"denoise": False}
    if "sigma_data" in SAMPLERS[sampler].defaults:
        options["sigma_data"] = target.prior.deviation
    ends = settings.ladder[0], settings.ladder[-1]
    levels = max(steps, 2)
    grid = karras(*ends, levels)
    return Chains(score, sampler, f"sf.karras({ends[0]!r}, {ends[1]!r}, {levels})", grid, options)


def plan_both(settings: PlaneSampling, target: GaussianMixture) -> dict[str, Chains]:
    """Return the chains of both samplers."""
    return {
        "first": plan_chains(settings, "first", target),
        "second": plan_chains(settings, "second", target),
    }


def start_particles(
    settings: PlaneSampling, target: GaussianMixture, noise: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return the points at which both samplers start."""
    if settings.start == "prior":
        sigma = torch.tensor(settings.ladder)[0].item()
        return target.prior.sample(settings.n, sigma, noise=noise)
    side = settings.limit * START_SHARE
    return side * (2 * uniform_like(torch.empty(settings.n, 2), noise=noise) - 1)


def sample_plane(studio: Studio, values: Mapping[str, Any]) -> Iterator[Frame | None]:
    """Move particles under two samplers, and show states of both; train the network they need."""
    settings = parse_settings(PlaneSampling, values)
    target = make_target(settings)
    sides = plan_both(settings, target)
    scores: dict[str, Score] = {"target": target}
    if settings.second_score == "network":
        training = open_training(studio, settings.training)
        yield from training.take_steps()
        scores["model"] = training.model
    runs = dict[str, Iterator[State]]()
    states = dict[str, State]()
    for side, chains in sides.items():
        noise = seeded(settings.seed)  # the same for both
        x = start_particles(settings, target, noise)
        runs[side] = chains.run(scores[chains.score], x, noise)
        sigma = chains.sigmas[-1 if chains.sampler == PLAIN_LANGEVIN else 0].item()
        states[side] = State(x, sigma, x)
    most = max(chains.states for chains in sides.values())
    frames = min(most, max(SHOWN_STATES, most // SHOWN_EVERY))
    for frame in range(frames + 1):
        for side, chains in sides.items():
            goal = chains.states * frame // frames
            for state in islice(runs[side], goal - states[side].step):
                states[side] = state
                yield None
        yield _show_states(settings, target, scores.get("model"), states, frames)


@torch.no_grad()
def _show_states(
    settings: PlaneSampling,
    target: GaussianMixture,
    model: Score | None,
    states: Mapping[str, State],
    frames: int,
) -> Frame:
    header: dict[str, Any] = {"keep": True, "frames": frames}
    for side, state in states.items():
        near = state.x[(state.x.abs() < FAR).all(1)]
        header[side] = {
            "sigma": state.sigma,
            "step": state.step,
            "evaluations": int(torch.as_tensor(state.evaluations).max()),
            "lost": len(state.x) - len(near),
            "modes": mode_shares(target, near, settings.ladder[-1]),
        }
    arrays = {side: state.x.numpy() for side, state in states.items()}
    if model is not None:
        arrows = model(cell_middles(settings.limit, FIELD_ARROWS), states["second"].sigma)
        arrays["second_arrows"] = arrows.numpy()
    return Frame(header, arrays)


def mode_shares(target: GaussianMixture, x: Tensor, sigma: float) -> list[dict[str, float]]:
    """Return each mode's share of the particles and its 95 % interval, none if modes are many.

    The share is the mean of p(mode | x) under q at the ladder's last level, whose expectation there
    is the weight, even where modes overlap.
    """
    if not len(x) or len(target.means) > MAX_MODES:
        return []
    shares = target.responsibilities(x, sigma).double().mean(0).clamp(0, 1).tolist()
    intervals = [wilson(round(share * len(x)), len(x)) for share in shares]
    return [
        {"share": share, "low": low, "high": high}
        for share, (low, high) in zip(shares, intervals, strict=True)
    ]


def diagnose_plane(studio: Studio, values: Mapping[str, Any]) -> Iterator[Frame | None]:
    """Examine annealed Langevin dynamics on the ladder."""
    settings = parse_settings(PlaneDiagnosis, values)
    parts = diagnosis_steps(
        target := make_target(settings),
        target,
        torch.tensor(settings.ladder),
        steps=settings.steps,
        epsilon=settings.epsilon,
        convention=settings.convention,
        n=settings.n,
        noise=seeded(settings.seed),
    )
    for diagnosis in parts:
        if diagnosis is None:
            yield None
        else:
            yield Frame({"keep": True, "text": str(diagnosis), "verdicts": diagnosis.verdicts})


# ── The same as Python ───────────────────────────────────────────────────────────────────────────


def write_sampling(values: Mapping[str, Any], studio: Studio) -> dict[str, str | None]:
    """Return Python that gives the particles of `sample_plane` bit for bit."""
    settings = parse_settings(PlaneSampling, values)
    target = make_target(settings)
    imports, network = "import torch\n\nimport scorefield as sf\n", ""
    if settings.second_score == "network":
        imports, network = IMPORTS, f"\n{write_network(settings.training)}\n"
    start = f"target.prior.sample({settings.n}, ladder[0].item(), noise=noise)"
    if settings.start == "square":
        side = settings.limit * START_SHARE
        uniform = f"sf.uniform_like(torch.empty({settings.n}, 2), noise=noise)"
        start = f"{side!r} * (2 * {uniform} - 1)"
    noise = f"noise = sf.seeded({settings.seed})"
    calls = [
        f"{noise}\nx = {start}\n{side} = sf.final({chains})\n"
        for side, chains in plan_both(settings, target).items()
    ]
    python = "\n".join(
        [
            f"{imports}{write_target(settings)}{network}"
            f"ladder = torch.tensor({[*settings.ladder]!r})\n",
            *calls,
        ]
    )
    return {"command": None, "python": python}
