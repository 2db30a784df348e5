"""An experiment as objects: what its data decide, its model, its loss.

A resolved experiment has nothing left open: the ladder, the moments and the sizes that come from
the data are numbers in it, and the choices that were the machine's are made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from . import config
from .checkpoint import load
from .config import Experiment, Levels
from .data import Dataset, everything
from .ladder import suggest
from .model import ScoreModel
from .nn import NETWORKS
from .noise import Discrete, LogNormal, LogUniform, geometric
from .objectives import (
    Law,
    annealed,
    denoising,
    edm_weight,
    exact,
    likelihood_weight,
    ncsn_weight,
    sliced,
)
from .optimize import Choice, choose
from .precondition import EDM, NCSN, VE, FlowMatching, NCSNv2, Precondition
from .prior import Prior
from .train import mixed

OBJECTIVES = {"denoising": denoising, "sliced": sliced, "exact": exact}
FEW = 10_000
"""Samples from which moments and ladders are estimated."""


# ── What data and machine decide ─────────────────────────────────────────────────────────────────


def resolved(experiment: Experiment, data: Dataset) -> Experiment:
    """The experiment with nothing left open."""
    return replace(
        experiment,
        levels=(levels := _levels(experiment.levels, everything(data.train, FEW))),
        machine=replace(
            experiment.machine,
            device=str(device_of(experiment.machine.device)),
            threads=experiment.machine.threads or torch.get_num_threads(),
        ),
        network=_network(replace(experiment, levels=levels), data),
    )


def _levels(levels: Levels, x: Tensor) -> Levels:
    centre = levels.centre
    if centre is None:
        # NCSN, NCSNv2 and VE have images of [0, 1] in mind
        fixed = {"NCSN": 0.0, "NCSNv2": 0.0, "VE": 0.5}
        centre = fixed.get(levels.precondition, x.mean().item())
    sigma_data = levels.sigma_data or (x - centre).square().mean().sqrt().item()
    sigma_max, sigma_min, count = levels.sigma_max, levels.sigma_min, levels.count
    if sigma_max is None or sigma_min is None or count is None:
        found = suggest(x[:2000], sigma_min=sigma_min)
        sigma_max = sigma_max or found.sigmas[0].item()
        sigma_min = sigma_min or found.sigmas[-1].item()
        count = count or len(found.sigmas)
    return replace(
        levels,
        centre=centre,
        sigma_data=sigma_data,
        sigma_max=sigma_max,
        sigma_min=sigma_min,
        count=count,
        mean=math.log(0.6 * sigma_data) if levels.mean is None else levels.mean,
    )


def settled(experiment: Experiment, model: ScoreModel) -> tuple[Experiment, str]:
    """The experiment with the way of computing that suits its model and machine, and why that."""
    machine, training = experiment.machine, experiment.training
    found = choose(model, batch=training.batch, evaluations=training.steps, train=True)
    exact = found.winograd or found.onednn  # in float32, and not to be traced
    if exact and "on" in (machine.autocast, machine.compile):
        found = Choice()
    ways = ("autocast", "channels_last", "compile", "winograd", "onednn")
    chosen = {way: "on" if getattr(found, way) else "off" for way in ways}
    told = {way: getattr(machine, way) for way in ways if getattr(machine, way) != "auto"}
    against = [f"machine.{way}={value}" for way, value in told.items() if value != chosen[way]]
    reason = str(found)
    if against:
        alone = f"; by itself it would be {reason}" if reason else ""
        reason = f"{', '.join(against)}, as told{alone}"
    return replace(experiment, machine=replace(machine, **chosen | told)), reason


def device_of(name: str) -> torch.device:
    """The device of a name, or the machine's best."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"the device {name!r} is not to be had here: {reason}") from error


def _network(experiment: Experiment, data: Dataset) -> dict[str, Any]:
    """The network's arguments, those that the data know included."""
    arguments = dict(experiment.network)
    kind = arguments.pop("kind", "UNet")
    if kind not in NETWORKS:
        raise ValueError(f"network.kind={kind!r}: {config.nearest(str(kind), NETWORKS)}")
    shape = data.train.shape
    if kind in ("UNet", "RefineNet", "Autoencoder"):
        if data.kind == "signals" and kind == "UNet":
            arguments.setdefault("dims", 1)
        elif data.kind != "images":
            raise ValueError(
                f"a {kind} is for images, and the data are {data.kind} of {shape.numel()} numbers: "
                "take network.kind=MLP, or the preset vectors"
            )
        arguments.setdefault("channels", shape[0])
    if kind == "MLP":
        arguments.setdefault("shape", list(shape))
    if kind == "RefineNet" and experiment.levels.precondition == "NCSN":
        arguments.setdefault("levels", experiment.levels.count)
    if experiment.data.labels:
        if not data.classes:
            raise ValueError(
                f"data.labels=true, but {data.name} has no classes (those of a folder are its "
                "folders, with data.options.labels=true)"
            )
        if arguments.setdefault("labels", data.classes) != data.classes:
            raise ValueError(
                f"data.labels=true, and {data.name} has {data.classes} classes, but the network "
                f"{arguments['labels']}"
            )
    return {"kind": kind, **arguments}


def build(experiment: Experiment, data: Dataset) -> ScoreModel:
    """The untrained model of a resolved experiment, the same each time."""
    arguments = dict(experiment.network)
    network = NETWORKS[arguments.pop("kind")]
    known = config.signature(network)
    for name in arguments.keys() - known:
        raise ValueError(f"network.{name} is no argument: {config.nearest(name, known)}")
    with torch.random.fork_rng([]):
        torch.manual_seed(mixed(experiment.seed, 1))
        try:
            net = network(**arguments)
        except TypeError as error:
            raise ValueError(
                f"network={experiment.network} cannot be built, one of its arguments is of another "
                f"type than it should be: {str(error).splitlines()[0]}"
            ) from error
    return ScoreModel(net, _row(experiment), prior=Prior.fit(everything(data.train, FEW)))


def _row(experiment: Experiment) -> Precondition:
    levels = experiment.levels
    ends: Any = dict(sigma_max=levels.sigma_max, sigma_min=levels.sigma_min, centre=levels.centre)
    rows: dict[str, Callable[[], Precondition]] = {
        "EDM": lambda: EDM(levels.sigma_data or 0.5, **ends),
        "NCSN": lambda: NCSN(_ladder(experiment)),
        "NCSNv2": lambda: NCSNv2(**ends),
        # the network sees 2x − 1, as its authors' does
        "VE": lambda: VE(**ends, scale=2.0),
        "FlowMatching": lambda: FlowMatching(**ends),
    }
    return rows[levels.precondition]()


def _ladder(experiment: Experiment) -> Tensor:
    levels = experiment.levels
    if levels.count == 1:
        return torch.tensor([levels.sigma_max or 1.0])
    return geometric(levels.sigma_max or 1.0, levels.sigma_min or 0.01, levels.count or 10)


def loss_of(experiment: Experiment, model: ScoreModel) -> Callable[..., Tensor]:
    """What is minimised."""
    levels, training = experiment.levels, experiment.training
    known = model.precondition.levels
    ladder = _ladder(experiment) if known is None else known
    laws: dict[str, Callable[[], Any]] = {
        "lognormal": lambda: LogNormal(levels.mean or 0.0, levels.std),
        "loguniform": lambda: LogUniform(model.sigma_max, model.sigma_min),
        "discrete": lambda: Discrete(ladder),
    }
    law = laws["discrete" if known is not None else levels.law]()
    weight = {
        "edm": edm_weight(levels.sigma_data or 0.5),
        "ncsn": ncsn_weight,
        "likelihood": likelihood_weight(law),
    }[training.weight]

    return annealed(
        OBJECTIVES[training.objective], Within(law, model.sigma_max, model.sigma_min), weight
    )


@dataclass(frozen=True, eq=False)
class Within:
    """A law without the tails that are beyond what the model is to know, which move to its ends."""

    law: Law
    sigma_max: float
    sigma_min: float

    def __call__(self, z: Tensor) -> Tensor:
        """The σ that belong to standard normal draws."""
        return self.law(z).clamp(self.sigma_min, self.sigma_max)

    def density(self, sigma: Tensor) -> Tensor:
        """That of the law."""
        return self.law.density(sigma)


def begun(experiment: Experiment, data: Dataset) -> tuple[ScoreModel, Experiment]:
    """The model to begin with, with the prior of its new data, and the experiment as it decides."""
    path = Path(str(experiment.start))
    if path.is_file() and path.suffix != ".safetensors":
        raise ValueError(f"{path} is no .safetensors file: scorefield convert {path} OUT makes one")
    model = load(path)
    if model.shape is not None and model.shape != data.train.shape:
        raise ValueError(
            f"{path} is for samples of shape {tuple(model.shape)}, and {data.name} has "
            f"{tuple(data.train.shape)}: resize them by data.options"
        )
    model = ScoreModel(model.net, model.precondition, prior=Prior.fit(everything(data.train, FEW)))
    network = {"kind": type(model.net).__name__, **cast(Any, model.net).arguments}
    levels = replace(
        experiment.levels,
        sigma_max=model.sigma_max,
        sigma_min=model.sigma_min,
        centre=model.precondition.centre,
        sigma_data=getattr(model.precondition, "sigma_data", experiment.levels.sigma_data),
    )
    return model, resolved(replace(experiment, network=network, levels=levels), data)
