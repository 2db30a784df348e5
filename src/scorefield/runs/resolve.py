"""Decide once: configuration + data + machine → a configuration with nothing left open.

Every automatic choice of a run (range of σ, network sizes, device, backend) is made here, and the
run's config.json records it. A resumed run reads the choices back.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor

from ..data import (
    AUGMENTATION,
    AUGMENTATION_SIZE,
    Arrays,
    Dataset,
    all_samples,
    condition_shapes,
)
from ..distributed import choose_device
from ..fast.optimize import Choice, choose
from ..ladder import suggest
from ..nn import find_network, network_kind
from ..values import describe_classes
from .build import ESTIMATION_SAMPLES, outline_model, read_start
from .config import Data, Experiment, Levels, Training

CONSISTENCY_STAGES = 8
"""Stages of consistency tuning. After five, samples were wider than the data."""
BACKENDS = ("autocast", "channels_last", "tf32", "compile", "winograd", "onednn")
"""Fields of `Machine` that choose how the network is computed."""
CENTRES = {"NCSN": 0.0, "NCSNv2": 0.0, "VE": 0.5}
"""Centres of preconditioners for images in [0, 1]; the others subtract the mean of the data."""


def resolve(experiment: Experiment, data: Dataset) -> tuple[Experiment, str]:
    """Return the experiment with nothing left open, and the reasons for its backend."""
    if experiment.start is not None:
        experiment = _from_start(experiment, data)
    levels = _fill_levels(experiment.levels, all_samples(data.train, ESTIMATION_SAMPLES))
    machine = replace(
        experiment.machine,
        device=str(choose_device(experiment.machine.device)),
        threads=experiment.machine.threads or torch.get_num_threads(),
    )
    settings = replace(experiment.data, classes=_fill_classes(experiment.data, data))
    training = fill_durations(experiment.training)
    if training.references and not has_references(experiment, data):
        raise ValueError(
            f"training.references={training.references}: leave it out. It is for denoising of "
            "samples in memory, without classes, conditions and augmentation"
        )
    experiment = replace(
        experiment, data=settings, levels=levels, training=training, machine=machine
    )
    sampling = experiment.sampling
    if sampling.guidance != 1 and sampling.guide is None and training.budget is None:
        sampling = replace(sampling, guide=max(1, training.steps // 2))
        experiment = replace(experiment, sampling=sampling)
    experiment = replace(experiment, network=_fill_network(experiment, data))
    return _choose_backend(experiment, data)


def has_references(experiment: Experiment, data: Dataset) -> bool:
    """True if the target of a sample may be averaged over other samples of the data."""
    conditional = experiment.data.labels or experiment.data.augment or condition_shapes(data.train)
    in_memory = type(data.train) is Arrays  # not a stream, whose batches are in one order only
    return experiment.training.objective == "denoising" and in_memory and not conditional


def _from_start(experiment: Experiment, data: Dataset) -> Experiment:
    """Take the network and the levels of the model that training starts from."""
    model = read_start(experiment, data)
    own = model.precondition.levels
    if own is not None and experiment.training.objective == "consistency":
        raise ValueError(
            f"--from {experiment.start}: it was trained on {len(own)} noise levels, but "
            "training.objective=consistency needs a model for a range of them, as of EDM"
        )
    levels = replace(
        experiment.levels,
        sigma_max=model.sigma_max,
        sigma_min=model.sigma_min,
        centre=model.precondition.centre,
        sigma_data=model.precondition.sigma_data or experiment.levels.sigma_data,
    )
    network = {"kind": network_kind(model.net), **cast(Any, model.net).arguments}
    return replace(experiment, network=network, levels=levels)


def _fill_levels(levels: Levels, x: Tensor) -> Levels:
    if levels.centre is None:
        levels = replace(levels, centre=CENTRES.get(levels.precondition, x.mean().item()))
    sigma_data = levels.sigma_data or (x - (levels.centre or 0.0)).square().mean().sqrt().item()
    mean = math.log(0.6 * sigma_data) if levels.mean is None else levels.mean
    if None in (levels.sigma_max, levels.sigma_min, levels.count):
        ladder = suggest(x[:2000], sigma_min=levels.sigma_min).sigmas
        levels = replace(
            levels,
            sigma_max=levels.sigma_max or ladder[0].item(),
            sigma_min=levels.sigma_min or ladder[-1].item(),
            count=levels.count or len(ladder),
        )
    return replace(levels, sigma_data=sigma_data, mean=mean)


def fill_durations(training: Training) -> Training:
    """Return the training with k₀ of inverse_sqrt and the stages of consistency, from its steps."""
    if training.schedule == "inverse_sqrt" and training.plateau is None:
        training = replace(training, plateau=max(1, training.steps // 10))
    if training.objective == "consistency" and training.stage is None:
        training = replace(training, stage=-(-training.steps // CONSISTENCY_STAGES))
    return training


def extend(experiment: Experiment, about: Mapping[str, Any]) -> Experiment:
    """Return the experiment of a resumed run, which may have more steps or time than it had.

    `about` is the header of its last state. A budget that had ended opens again. The guide moves to
    half of the new steps, or to the next step if that is nearer to it; one that was set stays.
    """
    config, training, sampling = about.get("config", {}), experiment.training, experiment.sampling
    before, step, used = config.get("training", {}), about.get("step", 0), about.get("seconds", 0.0)
    longer = training.steps > before.get("steps", training.steps)
    if training.budget is not None:
        longer = min(step, used) > 0 and training.budget > (before.get("budget") or math.inf)
    cools = bool(training.cooldown) and step < training.steps
    if longer and training.budget is not None and not cools:
        steps = max(step + 1, round(step * training.budget / used))
        training = replace(training, steps=steps, cooldown=[])
    planned = before.get("budget") or sampling.guide == max(1, before.get("steps", 0) // 2)
    moves = longer and planned and sampling.guide == config.get("sampling", {}).get("guide")
    if sampling.guidance != 1 and (moves or sampling.guide is None):
        half = max(1, training.steps // 2)
        guide = max(half, step + 1)
        if guide - half < half - (sampling.guide or 0):
            sampling = replace(sampling, guide=guide)
    return replace(experiment, training=training, sampling=sampling)


def _fill_network(experiment: Experiment, data: Dataset) -> dict[str, Any]:
    """Return the network's arguments, including those that the data determine."""
    arguments = {"kind": "UNet", **experiment.network}
    kind, shape = str(arguments["kind"]), data.train.shape
    takes = signature(find_network(kind)).parameters
    if kind in ("UNet", "DiT", "RefineNet", "Autoencoder"):
        if data.kind in ("signals", "volumes") and kind == "UNet":
            arguments.setdefault("dims", len(shape) - 1)
        elif data.kind not in ("images", "latents"):
            fix = "UNet" if data.kind == "volumes" else "MLP, or the preset vectors"
            raise ValueError(
                f"a {kind} is for images, but the data are {data.kind} of {shape.numel()} numbers: "
                f"use network.kind={fix}"
            )
    if "channels" in takes:
        arguments.setdefault("channels", shape[0])
    if "shape" in takes:
        arguments.setdefault("shape", list(shape))
    if "levels" in takes and experiment.levels.precondition == "NCSN":
        arguments.setdefault("levels", experiment.levels.count)
    arguments |= _fill_conditions(experiment, data, arguments)
    classes = len(experiment.data.classes or ())
    if experiment.data.labels and arguments.setdefault("labels", classes) != classes:
        raise ValueError(
            f"data.labels=true, and {data.name} has {classes} classes, but the network "
            f"has {arguments['labels']}"
        )
    return arguments


def _fill_conditions(
    experiment: Experiment, data: Dataset, network: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the network's arguments for the conditions of the data and of augmentation."""
    shapes, kind, augment = condition_shapes(data.train), network["kind"], experiment.data.augment
    if augment and AUGMENTATION in shapes:
        raise ValueError(
            f"data.augment={augment} adds a condition called {AUGMENTATION!r}, but {data.name} has "
            "one of that name: rename it, or leave data.augment out"
        )
    shapes |= {AUGMENTATION: [AUGMENTATION_SIZE]} if augment else {}
    if experiment.start is not None:
        _check_conditions(experiment, shapes, 1 if kind == "MLP" else len(data.train.shape))
    if not shapes:
        if network.get("condition_input") and not network.get("conditions"):
            raise ValueError(
                f"network.condition_input=true, as in the preset posterior, but {data.name} has no "
                "condition: name the parameters by --data.options.parameters=NAME, so that the "
                "other columns or arrays are the observation"
            )
        return {}
    if kind not in ("UNet", "DiT", "MLP"):
        raise ValueError(
            f"network.kind={kind!r}: it takes no conditions, but {data.name} has "
            f"{', '.join(shapes)}: use UNet, DiT or MLP"
        )
    filled = {"conditions": network.get("conditions", {}) | shapes}
    if augment:
        filled["withhold"] = network.get("withhold", {}) | {AUGMENTATION: 0.0}
    return filled


def _check_conditions(experiment: Experiment, shapes: Mapping[str, list[int]], axes: int) -> None:
    """Refuse conditions that the model that training starts from does not have."""
    own = {name: [*shape] for name, shape in experiment.network.get("conditions", {}).items()}
    for name, shape in shapes.items():
        fixed = 1 if len(shape) == axes else len(shape)  # images are scaled
        has = own.get(name, [])
        if len(has) != len(shape) or has[:fixed] != shape[:fixed]:
            option = "data.augment" if name == AUGMENTATION else "data.condition"
            raise ValueError(
                f"--from {experiment.start}: its model has the conditions {own or 'none'}, but "
                f"the data have {name!r:.80} of shape {shape}: leave out --from, or {option}"
            )


def _fill_classes(settings: Data, data: Dataset) -> Sequence[str] | None:
    """Return the names of the classes that a conditional model learns, by default the data's."""
    names = settings.classes
    if not settings.labels:
        if names is not None:
            raise ValueError("data.classes are those of a conditional model: add data.labels=true")
        return None
    if not data.classes:
        raise ValueError(
            f"data.labels=true, but {data.name} has no classes (the classes of a folder are its "
            "subfolders, two or more, and each image must be in one of them)"
        )
    if names is not None and len(names) != len(data.classes):
        raise ValueError(
            f"data.classes has {len(names)} names, but {data.name} has "
            f"{describe_classes(data.classes)}"
        )
    return data.classes if names is None else names


def _choose_backend(experiment: Experiment, data: Dataset) -> tuple[Experiment, str]:
    """Fill in the backend that is fastest on this machine, and return the reasons."""
    model = outline_model(experiment, data.train.shape)
    machine, training = experiment.machine, experiment.training
    device, steps = torch.device(machine.device), training.steps
    choice = choose(model, device=device, batch=training.batch, evaluations=steps, train=True)
    # These kernels compute in float32 and cannot be traced by a compiler.
    if (choice.winograd or choice.onednn) and "on" in (machine.autocast, machine.compile):
        choice = Choice()
    chosen = {name: "on" if getattr(choice, name) else "off" for name in BACKENDS}
    fixed = {k: v for k, v in asdict(machine).items() if k in BACKENDS and v != "auto"}
    reasons = str(choice)
    if against := [f"machine.{k}={v}" for k, v in fixed.items() if v != chosen[k]]:
        default = f" (the default here: {reasons})" if reasons else ""
        reasons = f"{', '.join(against)}, as configured{default}"
    values: dict[str, Any] = chosen | fixed
    return replace(experiment, machine=replace(machine, **values)), reasons
