"""Choose the network for a budget of time, from a few measured steps of candidates.

The largest network is chosen that makes at least its number of steps in the time, so a longer
budget never gets a smaller network or fewer steps of the same one. The number of steps is first
estimated; `pace` decides it by the clock.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from .. import distributed
from ..data import Dataset
from ..model import ScoreModel
from ..show.text import in_hours
from ..values import quantity
from .build import MemoryLimitError, build, build_network, precondition
from .config import Experiment, override
from .pace import Pace
from .resolve import fill_durations, has_references, resolve
from .run import Run


@dataclass(frozen=True)
class Candidate:
    """A network and how it is trained, for images of 28 × 28 or 32 × 32."""

    name: str
    steps: int  # from this number on it is better, for equal time, than the one before
    network: Mapping[str, Any]  # without what depends on the size of images: see `fit_images`
    batch: int = 64
    rate: float = 1e-3
    ema: float = 0.05  # length of the moving average of the weights, as a share of the steps
    settings: Sequence[str] = ()  # more fields, as on the command line
    guided: Sequence[str] = ()  # more fields for guided samples, unless settings leave that out


def _plain_unet(width: int, blocks: int) -> dict[str, Any]:
    form = {"fourier_scale": 1.0, "fir": None, "progressive_input": "none", "dropout": 0.0}
    return {"kind": "UNet", "width": width, "blocks": blocks, **form}


def _patched_unet(width: int) -> dict[str, Any]:
    """On a CPU, patches pay: a step at half the height and width is fast at twice the width."""
    return _plain_unet(width, 1) | {"patch": 2}


MUON = ("training.optimizer=muon",)
SAMPLED = ("sampling.sampler=dpm_solver_sde", "sampling.steps=32")
"""Plan of networks that learned for minutes, whose errors noise corrects."""
GUIDED = ("sampling.steps=21", "sampling.guidance=1.5", "sampling.guidance_interval=[0.1, 5]")
"""The same with guidance away from the run's own average at half of its steps.

Guided levels have two calls of a network, so both plans have about 32. The σ are for images in
[0, 1].
"""
REFERENCES = ("training.references=2048", "levels.mean=-0.7", "levels.std=1.5")
"""Settings where targets can be averaged, for images in [0, 1].

A short training otherwise sees too few samples of high σ to learn even the mean of the data there.
"""
ON_CPU: Mapping[str, Any] = {"rate": 3e-3, "settings": (*MUON, *SAMPLED), "guided": GUIDED}
CANDIDATES = {
    "cpu": (
        #         name         steps   network
        Candidate("unet-32", 1_000, _patched_unet(32), **ON_CPU),
        Candidate("unet-64", 3_000, _patched_unet(64), **ON_CPU),
    ),
    "gpu": (
        Candidate("unet-32", 2_000, _plain_unet(32, 1), batch=128),
        Candidate("dit-256", 5_000, {"kind": "DiT", "width": 256, "blocks": 6}, batch=128),
        Candidate("unet-64", 10_000, _plain_unet(64, 2), batch=128, rate=5e-4),
        Candidate("unet-128", 20_000, _plain_unet(128, 2), batch=128, rate=2e-4),
    ),
}
"""Candidates by device, in the order of the time that a step takes.

The steps are guesses. On a CPU, in one run each of 300 seconds on images of 28 × 28, 32 channels
were better than 64, and Muon than Adam; when 64 become better was not measured, nor anything on a
GPU.
"""

KEPT = ("training", "keeping", "levels", "sampling")
"""Groups of fields that stay as settings have them."""
LEAST_SIDE = 7
"""Least height or width, in pixels, at the deepest level of a UNet, whose attention is there."""
TOKENS = 14
"""Patches of a DiT along the longer side of an image, about."""
MEASURING = 1.0
"""Seconds for which a candidate's steps are measured after the first; one step at least."""
STEPS_SHARE = 0.9
"""Share of the time left for steps; held-out losses, samples and checkpoints take the rest."""
EVENTS = 10
"""Times in a run when held-out losses, samples and a checkpoint are due."""
EVENT_COST = 0.03
"""Largest share of the time for held-out losses and samples, which become rarer to keep to it."""
COMPILE_SECONDS = 600.0
"""Budget that is worth torch.compile, which takes a minute or more."""


@dataclass(frozen=True)
class Trial:
    """A candidate on this machine."""

    candidate: Candidate
    experiment: Experiment  # resolved, except for durations of the training
    reasons: str  # for its backend
    seconds: float  # a step
    closing_steps: float  # see `Run.closing_steps`

    @property
    def least(self) -> float:
        """Seconds that its least number of steps takes."""
        return self.candidate.steps * self.seconds


def fit_budget(
    experiment: Experiment, data: Dataset, settings: Sequence[str], pace: Pace
) -> tuple[Experiment, str, str]:
    """Return the resolved experiment for its budget, the reasons for its backend, and the plan.

    A network of kind auto is chosen, with its batch, rate, average and sampler; any other is kept.
    Fields in `KEPT` that `settings` set stay as they are. `pace` has the time used so far.
    """
    experiment, settings = _prepare(experiment, settings)
    trials, left = list[Trial](), 0.0
    for candidate, wanted in _candidates(experiment, data, settings):
        try:
            trials.append(_try(candidate, wanted, data))
        except (MemoryLimitError, torch.OutOfMemoryError) as error:
            # The next candidates need more. An allocation may have failed in this process only.
            in_all = isinstance(error, MemoryLimitError) or distributed.world() == 1
            if trials and in_all:
                break
            raise
        pace.tick()
        left = (experiment.training.budget or 0.0) - distributed.broadcast(pace.seconds)
        if trials[-1].least > STEPS_SHARE * left:
            break
    chosen = trials[-1 if trials[-1].least <= STEPS_SHARE * left or len(trials) == 1 else -2]
    steps = max(1, round(STEPS_SHARE * left / chosen.seconds))
    # the levels are resolved: `levels.mean=null` would open them again
    settings = [s for s in settings if not s.startswith("levels")]
    planned = override(_plan_steps(chosen, steps), settings)
    planned = replace(planned, training=fill_durations(planned.training))
    if planned.sampling.guidance != 1:
        planned = replace(planned, sampling=replace(planned.sampling, guide=max(1, steps // 2)))
    plan = _describe_plan(trials, chosen, steps, pace.seconds)
    plan += _describe_warmup(chosen, planned) + _describe_guidance(planned)
    return planned, chosen.reasons, plan


def _prepare(experiment: Experiment, settings: Sequence[str]) -> tuple[Experiment, list[str]]:
    """Return the experiment without a plan of its own, and the settings that a choice must keep."""
    settings = [s for s in settings if s.startswith(KEPT)]
    training = replace(experiment.training, cooldown=[])
    if training.schedule == "cosine":  # the cool-down replaces it
        training = replace(training, schedule="constant")
    own = override(replace(experiment, training=training), settings).training
    steps = [s for s in settings if s.startswith(("training.steps=", "sampling.guide="))]
    if steps or own.schedule == "cosine":
        setting = steps[0] if steps else f"training.schedule={own.schedule}"
        raise ValueError(f"{setting} with a budget, whose time decides that: leave out one of them")
    machine = experiment.machine
    if machine.compile == "auto" and (training.budget or 0.0) < COMPILE_SECONDS:
        machine = replace(machine, compile="off")
    sampling = replace(experiment.sampling, guide=None)
    own_plan = replace(experiment, training=training, machine=machine, sampling=sampling)
    return own_plan, settings


def _candidates(
    experiment: Experiment, data: Dataset, settings: Sequence[str]
) -> Iterator[tuple[Candidate, Experiment]]:
    """Yield the candidates and their experiments, by the time of a step."""
    training, network = experiment.training, experiment.network
    if network.get("kind") != "auto":
        yield Candidate(str(network.get("kind")), 1, network, ema=0.0), experiment
        return
    if data.kind != "images" or len(data.train.shape) != 3:
        raise ValueError(
            f"network.kind=auto is for images, but the data are {data.kind} of "
            f"{tuple(data.train.shape)}: name a network, such as "
            f"{'MLP' if data.kind == 'vectors' else 'UNet'} for {data.kind}"
        )
    device = distributed.choose_device(experiment.machine.device).type
    for candidate in CANDIDATES["cpu" if device == "cpu" else "gpu"]:
        changed = replace(training, batch=candidate.batch, rate=candidate.rate)
        changed = replace(changed, steps=candidate.steps)
        network = fit_images(candidate.network, *data.train.shape[1:])
        wanted = replace(experiment, network=network, training=changed)
        averaged = REFERENCES if has_references(wanted, data) else ()
        fields = [*candidate.settings, *averaged]
        guided = override(wanted, [*fields, *candidate.guided, *settings])
        unguided = override(wanted, [*fields, *settings])
        yield candidate, unguided if guided.sampling.guidance == 1 else guided


def fit_images(network: Mapping[str, Any], height: int, width: int) -> dict[str, Any]:
    """Return a network's arguments with the levels or patches for images of a size."""
    side = max(height, width)
    if network["kind"] == "DiT":
        divisors = [n for n in range(1, side + 1) if height % n == width % n == 0]
        return {"patch": min(divisors, key=lambda n: abs(side / n - TOKENS)), **network}
    halvings = max(0, int(math.log2(side / network.get("patch", 1) / LEAST_SIDE)))
    return {"multipliers": [1, *[2] * halvings], "attention": [halvings], **network}


def _try(candidate: Candidate, experiment: Experiment, data: Dataset) -> Trial:
    """Take a few steps of a candidate as the run would."""
    resolved, reasons = resolve(experiment, data)
    measured = replace(resolved, machine=replace(resolved.machine, compile="off"))
    torch.set_num_threads(measured.machine.threads)
    with torch.random.fork_rng([]):
        net = build_network(measured)
    model = ScoreModel(net, precondition(measured), shape=data.train.shape)
    run, begin, seconds = Run(Path(), measured, build(measured, data, model)), 0.0, 0.0
    with closing(run.take_steps()) as updates:
        for update in updates:
            float(update.loss)  # waits for the device
            if update.step == 1:  # it also allocates memory and compiles kernels
                begin = monotonic()
                continue
            seconds = monotonic() - begin
            if distributed.all_max(seconds >= MEASURING):
                break
    seconds = distributed.broadcast(seconds) / (update.step - 1)
    resolved = replace(resolved, training=experiment.training)  # its durations are for other steps
    return Trial(candidate, resolved, reasons, seconds, run.closing_steps)


def _plan_steps(trial: Trial, steps: int) -> Experiment:
    """Return the experiment for a number of steps, with regular times for what is kept."""
    training, experiment = trial.experiment.training, trial.experiment
    keeping = experiment.keeping
    if trial.candidate.ema:  # the network is of kind auto
        training = replace(training, ema=1 - 1 / max(2.0, trial.candidate.ema * steps))
        keeping = replace(keeping, best="heldout")
    training = replace(training, steps=steps, warmup=min(training.warmup, steps // 10))
    checkpoint = max(1, steps // EVENTS)
    every = checkpoint * math.ceil(max(1.0, trial.closing_steps / EVENT_COST / checkpoint))
    keeping = replace(keeping, checkpoint=checkpoint, evaluate=every)
    if keeping.samples:  # at the end too, unless that takes too much of the time
        keeping = replace(keeping, samples=every * (steps >= EVENTS * trial.closing_steps))
    return replace(experiment, training=training, keeping=keeping)


def _describe_plan(trials: Sequence[Trial], chosen: Trial, steps: int, used: float) -> str:
    """Describe the measured candidates, the choice, and the gain of more time."""
    training, last = chosen.experiment.training, trials[-1]
    times = ", ".join(f"{trial.seconds:.2g} s with {trial.candidate.name}" for trial in trials)
    time = in_hours(training.budget or 0.0)
    from_time = in_hours(1.05 * (used + last.least / STEPS_SHARE))
    plan = f"{chosen.candidate.name}, about {quantity(steps, 'step')} of {training.batch} samples"
    more = "more time makes more steps"
    if last is not chosen:
        more += f", from {from_time} on with {last.candidate.name}"
    elif steps < last.candidate.steps:
        more = f"few steps for data of this size: give {from_time} or more"
    return f"a step takes {times}\nfor {time}: {plan}; {more}"


def _describe_warmup(chosen: Trial, planned: Experiment) -> str:
    """Describe a warm-up longer than a tenth of the steps, which is kept if `settings` set it."""
    before, warmup = chosen.experiment.training.warmup, planned.training.warmup
    tenth = planned.training.steps // 10
    if warmup > tenth:
        return f"\ntraining.warmup={warmup} is kept, but is more than a tenth of the steps, {tenth}"
    if warmup < before:
        return f"\ntraining.warmup={before} is shortened to a tenth of the steps, {warmup}"
    return ""


def _describe_guidance(planned: Experiment) -> str:
    """Describe the guidance of samples: its effect, and how to leave it out."""
    if planned.sampling.guidance == 1:
        return ""
    return (
        "\nsamples are guided away from the average at half of the steps: they have fewer errors, "
        "but not the distribution of the data; --sampling.guidance=1 leaves that out"
    )
