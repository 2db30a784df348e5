"""The samplers of each package, run on one and the same function.

The function is a score, or a network F(u, cond) that each package puts under its own
preconditioning of EDM with σ_d = 1 (Karras et al. 2022, table 1), cond = ¼log σ. All go down
geometric grids with as many evaluations: those of ours and of `diffusers` that take one a step end
at σ = 0, the others at the least σ. A run is what a user would write, by the library's own
pipelines, with the making of its grid.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from scorefield.model import ScoreModel
from scorefield.noise import geometric
from scorefield.precondition import EDM
from scorefield.samplers import SAMPLERS, euler, final
from scorefield.score import Score

OURS = "scorefield"
HOW = {
    "diffusers": ("diffusers", "pip install 'scorefield[peers]'"),
    # it names torchvision among its dependencies, which nothing here imports
    "azula": ("azula.sample", "pip install 'scorefield[peers]', pip install --no-deps azula"),
}
"""The other packages: what is imported of them, and how to get it."""

SIGMA_MAX, SIGMA_MIN = 20.0, 0.01
ENDS: dict[str, float] = {"sigma_max": SIGMA_MAX, "sigma_min": SIGMA_MIN}

Chain = Callable[[Tensor], Tensor]
"""From samples at the greatest σ to samples."""


def why_not(package: str) -> str | None:
    """Why a package cannot be run, and what would help; None if it can."""
    if package == OURS:
        return None
    module, how = HOW[package]
    try:
        importlib.import_module(module)
    except ImportError as error:
        return f"{package} could not be run, {error}: {how}"
    return None


def notes() -> list[str]:
    """Which packages are compared, and which could not be run."""
    lacking = {package: why_not(package) for package in HOW}
    there = [f"{package} {version(package)}" for package in HOW if lacking[package] is None]
    return [*[f"Beside {' and '.join(there)}."] * bool(there), *filter(None, lacking.values())]


# ── What is sampled ──────────────────────────────────────────────────────────────────────────────


class Subject(NamedTuple):
    """One function in the forms in which packages ask for it.

    Attributes:
        score: Ours.
        denoiser: Azula's, of one of its schedules.
        net: F(u, cond), which diffusers' schedulers for EDM precondition themselves; None where
            there is only a score.
    """

    score: Score
    denoiser: Callable[[Any], Any]
    net: nn.Module | None


def network(net: nn.Module) -> Subject:
    """A network under the preconditioning of whoever runs it."""

    def denoiser(schedule: Any) -> Any:
        return importlib.import_module("azula.denoise").KarrasDenoiser(Told(net), schedule)

    return Subject(ScoreModel(net, EDM(1.0, **ENDS)), denoiser, net)


def free(answer: Tensor) -> Subject:
    """A score that costs nothing: the answer is there before it is asked for."""

    def denoiser(schedule: Any) -> Any:
        posterior = SimpleNamespace(mean=answer)

        def known(x: Tensor, t: Tensor) -> SimpleNamespace:
            return posterior

        known.schedule = schedule  # type: ignore[attr-defined]
        return known

    return Subject(lambda x, sigma: answer, denoiser, None)


class Free(nn.Module):
    """A network that costs nothing."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        # packages ask a network for its type by its parameters
        self.answer = nn.Parameter(answer, requires_grad=False)

    def forward(self, u: Tensor, cond: Tensor) -> Tensor:
        """The answer."""
        return self.answer


class Told(nn.Module):
    """A network that azula tells log σ, one for all samples."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, u: Tensor, log_sigma: Tensor) -> Tensor:
        """F at ¼log σ."""
        f: Tensor = self.net(u, (log_sigma / 4).expand(len(u)))
        return f


# ── How it is sampled ────────────────────────────────────────────────────────────────────────────


class Loop(NamedTuple):
    """A sampler of a package.

    Attributes:
        package: Whose it is.
        name: What the package calls it.
        beside: The sampler of ours that does the same, or what is nearest.
        each: Evaluations in a step.
        build: From a subject and the number of evaluations to the run.
        bare: Whether it takes a score; else it needs a network.
    """

    package: str
    name: str
    beside: str
    each: int
    build: Callable[[Subject, int], Chain]
    bare: bool = True


def _ours(name: str, label: str | None = None, each: int = 1, **options: Any) -> Loop:
    def build(subject: Subject, evaluations: int) -> Chain:
        levels = evaluations if each == 1 else evaluations // each + 1
        zero = {"denoise": each == 1} | options

        def chain(x: Tensor) -> Tensor:
            grid = geometric(SIGMA_MAX, SIGMA_MIN, levels)
            return final(SAMPLERS[name].run(subject.score, x, grid, **zero))

        return chain

    return Loop(OURS, label or name, label or name, each, build)


def _annealed() -> Loop:
    """Two steps at each level of a ladder."""

    def build(subject: Subject, evaluations: int) -> Chain:
        def chain(x: Tensor) -> Tensor:
            grid = geometric(SIGMA_MAX, SIGMA_MIN, evaluations // 2)
            return final(SAMPLERS["annealed_langevin"].run(subject.score, x, grid, steps=2))

        return chain

    return Loop(OURS, "annealed_langevin", "annealed_langevin", 1, build)


def _edm(name: str, beside: str) -> Loop:
    def build(subject: Subject, evaluations: int) -> Chain:
        net, library = subject.net, importlib.import_module("diffusers")
        assert net is not None  # the scheduler preconditions
        scheduler = getattr(library, name)(sigma_data=1.0, sigma_schedule="exponential", **ENDS)

        @torch.no_grad()
        def chain(x: Tensor) -> Tensor:
            scheduler.set_timesteps(evaluations, device=x.device)
            for t in scheduler.timesteps:
                f = net(scheduler.scale_model_input(x, t), t.expand(len(x)))
                x = scheduler.step(f, t, x, return_dict=False)[0]
            return x

        return chain

    return Loop("diffusers", name, beside, 1, build, bare=False)


def _score_sde(label: str, beside: str, corrections: int) -> Loop:
    def build(subject: Subject, evaluations: int) -> Chain:
        library, steps = importlib.import_module("diffusers"), evaluations // (1 + corrections)
        scheduler = library.ScoreSdeVeScheduler(snr=RATIO, correct_steps=corrections, **ENDS)

        @torch.no_grad()
        def chain(x: Tensor) -> Tensor:
            mean = x
            scheduler.set_timesteps(steps)
            scheduler.set_sigmas(steps)
            for t, level in zip(scheduler.timesteps, scheduler.sigmas, strict=True):
                sigma = level * torch.ones(len(x), device=x.device)
                for _ in range(corrections):
                    s = subject.score(x, sigma)
                    x = scheduler.step_correct(s, x, return_dict=False)[0]
                s = subject.score(x, sigma)
                x, mean = scheduler.step_pred(s, t, x, return_dict=False)
            return mean

        return chain

    return Loop("diffusers", f"ScoreSdeVeScheduler, {label}", beside, 1 + corrections, build)


def _azula(name: str, beside: str, each: int = 1, **options: Any) -> Loop:
    def build(subject: Subject, evaluations: int) -> Chain:
        schedule = importlib.import_module("azula.noise").VESchedule(SIGMA_MIN, SIGMA_MAX)
        sampler = getattr(importlib.import_module("azula.sample"), name)
        steps = evaluations // each
        chain: Chain = sampler(subject.denoiser(schedule), steps=steps, silent=True, **options)
        return chain

    return Loop("azula", name, beside, each, build)


RATIO = 0.16
"""The signal-to-noise ratio of corrections."""
BATCH = "predictor_corrector, rule=batch"

LOOPS = (
    _ours("euler"),
    _edm("EDMEulerScheduler", "euler"),
    _azula("EulerSampler", "euler"),
    _azula("DDIMSampler", "euler"),
    _ours("heun", each=2),
    _azula("HeunSampler", "heun", each=2),
    _ours("dpm_solver"),
    _edm("EDMDPMSolverMultistepScheduler", "dpm_solver"),
    _azula("xEABSampler", "dpm_solver"),
    _ours("ancestral"),
    _azula("DDPMSampler", "ancestral"),
    _ours("reverse_diffusion"),
    _score_sde("step_pred", "reverse_diffusion", 0),
    _azula("ItoSampler", "reverse_diffusion"),
    _ours("predictor_corrector", each=2, predictor=euler, ratio=RATIO),
    _azula("PCSampler", "predictor_corrector", each=2),
    _ours("predictor_corrector", BATCH, each=2, rule="batch", ratio=RATIO),
    _score_sde("step_correct and step_pred", BATCH, 1),
    _annealed(),
)
"""Each of ours, and below it what others have of the same kind."""
