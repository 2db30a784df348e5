"""The networks and samples that figures share: each made once, in a folder of its own.

    NCSN       the paper's network, at σ from 1 to 0.01 in 10 levels      annealed Langevin dynamics
    baseline   the same network, at σ = 0.01 only                         plain Langevin dynamics

Chains start from uniform noise, T = 100 steps at each level or T = 1,000 at the only one, ε = 2e-5,
without a last step to σ = 0.                                                 (§5, B.2, Algorithm 1)

Setting   the paper's: 64 filters for MNIST and 128 for the others, 200,000 steps of 128 images,
          Adam at 1e-3, random flips of CIFAR-10 and CelebA.
Code      its ε, which counts twice what the paper's text does (drift α·s, not α/2·s), for with it
          the paper's images were made; its 8-bit pixels with uniform noise in their cells, its β
          and ε of Adam, and γ also on the shifted mean of CondInstanceNorm++.
Ours      the samples are the states after the last step, which the code's stored chains leave out;
          and the weights those of the least held-out loss, not of the least FID of 1,000 samples.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .. import checkpoint, runs
from ..data import Dataset, load_data
from ..fast.optimize import optimize
from ..model import ScoreModel
from ..noise import seeded, uniform_like
from ..runs.config import Experiment, Keeping, Machine
from ..runs.presets import PRESETS
from ..samplers import annealed_langevin, progress
from .finding import Setting, threads

Kind = Literal["ncsn", "baseline"]

PRESET = {
    "mnist": "ncsn-mnist",
    "celeba": "ncsn-celeba",
    "cifar10": "ncsn-cifar10",
    "digits": "digits-ncsn",
}
"""By data set."""
WIDTH = 16
STEPS: dict[Kind, int] = {"ncsn": 8000, "baseline": 4000}
"""The filters, and the steps of training, at the small scale: the baseline's level gets five times
the samples that one of NCSN's ten gets."""
SCALED = (
    f"digits of 8 × 8 pixels for all data sets; the paper's network with {WIDTH} filters, not 64 "
    f"or 128, for {STEPS['ncsn']:,} steps of 64 images, the baseline for {STEPS['baseline']:,}, "
    "not 200,000 of 128, the rate falling as a cosine, the weights averaged, the last ones taken; "
    "the ladder, T and ε of sampling are the paper's"
)
CHOSEN = "the weights are those of the least held-out loss, not of the least FID of 1,000 samples"
"""What differs from the paper at its own scale."""
EPSILON = 2e-5
BATCH = 512
"""Chains at once."""
FEW = 64
"""Chains that are kept on the way."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of a model, and the first few on the way.

    Attributes:
        x: All.
        way: Of the first few, the states from the start to the end, a tenth of the chain apart.
    """

    x: Float[Tensor, "n *shape"]
    way: Float[Tensor, "few states *shape"]


def scaled(setting: Setting, *small: str) -> str:
    """What differs from the paper, at the small scale these things too."""
    return "; ".join((SCALED, *small)) if setting.scale == "small" else CHOSEN


def experiment(setting: Setting, kind: Kind, data: str) -> Experiment:
    """The run that makes a model: the paper's, or the baseline of one noise level."""
    made = PRESETS[PRESET[data]]()
    if setting.scale == "small":
        made = replace(
            made,
            network={**made.network, "width": WIDTH},
            training=replace(
                made.training, steps=STEPS[kind], batch=64, schedule="cosine", ema=0.999
            ),
            keeping=Keeping(log=10, evaluate=500, checkpoint=250, best="last"),
            machine=Machine(threads=1),
        )
    else:
        # as published, on a GPU too, where training would be in bfloat16 by itself
        made = replace(made, machine=replace(made.machine, autocast="off"))
    if kind == "baseline":
        levels = replace(made.levels, sigma_max=made.levels.sigma_min, count=1)
        made = replace(made, levels=levels, sampling=replace(made.sampling, steps=1000))
    return replace(
        made,
        data=setting.source(made.data),
        training=replace(
            made.training,
            steps=setting.steps(made.training.steps),
            batch=setting.samples(made.training.batch),
        ),
        sampling=replace(made.sampling, steps=setting.steps(made.sampling.steps)),
        keeping=replace(made.keeping, samples=0),
        machine=replace(made.machine, device=setting.device),
        seed=setting.seed,
    )


def trained(setting: Setting, kind: Kind, data: str) -> ScoreModel:
    """The model of a run, which is begun, gone on with, or found complete."""
    made, place = experiment(setting, kind, data), place_of(setting, kind, data)
    begun = runs.resume(place) if (place / "config.json").exists() else runs.start(made, place)
    if _told(begun.experiment) != _told(made):
        raise ValueError(
            f"{place} is a run of another scale, seed, length or --data: remove it, or name "
            "another --out"
        )
    steps = made.training.steps
    if begun.step < steps:
        print(f"  {place}: training, step {begun.step} to {steps}", flush=True)
    with threads():  # a run has its own
        for _ in progress(begun, steps - begun.step):
            pass
    return checkpoint.load(place).to(begun.parts.device)


def place_of(setting: Setting, kind: Kind, data: str) -> Path:
    """The run's directory."""
    return setting.out / "models" / f"{data}-{kind}"


def _told(made: Experiment) -> dict[str, Any]:
    """What an experiment says before its data and machine decide the rest."""
    return {
        "data": asdict(made.data),
        "width": made.network["width"],
        "levels": made.levels.count,
        "training": asdict(made.training),
        "seed": made.seed,
    }


def sampled(setting: Setting, kind: Kind, data: str, n: int) -> Samples:
    """n samples of a model by the paper's algorithm; those that were drawn before are kept."""
    model, made = trained(setting, kind, data), experiment(setting, kind, data)
    path = place_of(setting, kind, data) / "samples.safetensors"
    about = {
        "steps": made.sampling.steps,
        "seed": setting.seed,
        "model": digest(setting, kind, data),
    }
    kept = checkpoint.read_stored(path) if path.exists() else None
    if kept is not None and kept.about != about:
        kept = None
    parts = [] if kept is None else [Samples(kept.tensors["x"], kept.tensors["way"])]
    first = sum(len(part.x) for part in parts)
    if first >= n:
        return Samples(parts[0].x[:n], parts[0].way)
    print(f"  {path.parent}: sampling, {n - first} chains", flush=True)
    prepared(model, n - first, made.sampling.steps * (made.levels.count or 1))
    for start in range(first, n, BATCH):
        parts.append(_drawn(model, made, min(BATCH, n - start), start))
    found = Samples(torch.cat([part.x for part in parts]), parts[0].way)
    description = {"format": checkpoint.FORMAT, "about": about}
    checkpoint.write_stored(path, description, {"x": found.x, "way": found.way})
    return found


def digest(setting: Setting, kind: Kind, data: str) -> str:
    """Of a model's weights, by which samples are kept."""
    file = place_of(setting, kind, data) / "model.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest()


def prepared(model: ScoreModel, n: int, steps: int) -> None:
    """Let a model compute in the way that pays for n chains of so many steps."""
    calls = -(-n // BATCH) * steps
    print(f"  computing: {optimize(model, batch=min(n, BATCH), evaluations=calls)}", flush=True)


def _drawn(model: ScoreModel, made: Experiment, n: int, first: int) -> Samples:
    """Chains first to first + n."""
    sigmas, steps = model.precondition.levels, made.sampling.steps
    assert model.shape is not None
    assert sigmas is not None
    noise = seeded(made.seed, first=first)
    x = uniform_like(torch.empty(n, *model.shape, device=model.device), noise=noise)
    way, length = [x[:FEW].cpu()], steps * len(sigmas)
    chain = annealed_langevin(
        model, x, sigmas, steps=steps, epsilon=made.sampling.epsilon or EPSILON, noise=noise
    )
    for state in progress(chain, length):
        if state.step % max(length // 10, 1) == 0:
            way.append(state.x[:FEW].cpu())
    return Samples(state.x.cpu(), torch.stack(way, 1))


def data_of(setting: Setting, data: tuple[str, ...]) -> tuple[str, ...]:
    """The data sets of a figure, at this scale."""
    return data if setting.scale == "paper" else ("digits",)


def reference(setting: Setting, data: str) -> Dataset:
    """The data that a model learned from, and what was held out."""
    found = experiment(setting, "ncsn", data).data
    return load_data(found.source, **found.options)
