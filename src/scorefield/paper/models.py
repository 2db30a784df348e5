"""The networks and samples that experiments share, each computed once and kept.

    ncsn       the paper's network, at σ from 1 to 0.01 in 10 levels      annealed Langevin dynamics
    baseline   the same network, at σ = 0.01 only                         plain Langevin dynamics

Chains start from uniform noise, T = 100 steps at each level or T = 1,000 at the only one, ε = 2e-5,
without a last step to σ = 0.                                                 (§5, B.2, Algorithm 1)

Setting   the paper's: 64 filters for MNIST and 128 for the others, 200,000 steps of 128 images,
          Adam at 1e-3, random flips of CIFAR-10 and CelebA.
Code      its ε, which counts twice what the paper's text does (drift α·s, not α/2·s), because the
          paper's images were made with it; 8-bit pixels with uniform noise in their cells, β and ε
          of Adam, and γ also on the shifted mean of CondInstanceNorm++.
Ours      the samples are the states after the last step, which the code's stored chains leave out;
          the weights are those of the lowest held-out loss, not of the lowest FID of 1,000 samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .. import checkpoint
from ..data import Dataset, all_samples, load_data
from ..evaluate import Features, make_features
from ..fast.optimize import optimize
from ..model import ScoreModel
from ..noise import seeded
from ..runs.config import Experiment, replace_fields
from ..runs.finish import finish
from ..runs.presets import PRESETS
from ..runs.run import Run
from ..sample import Plan, chains
from ..show.track import track
from ..train import Update
from .finding import Setting

ModelKind = Literal["ncsn", "baseline"]

SMALL_WIDTH = 16
SMALL_STEPS: dict[ModelKind, int] = {"ncsn": 8000, "baseline": 4000}
"""Steps of training; the baseline's level gets five times as many samples as one of NCSN's ten."""
COMPARED_SAMPLES = {"paper": 10_000, "small": 240}
"""Samples of Figures 5 and 7 to 10; a Fréchet distance takes many more than there are pixels."""
REFERENCE_IMAGES = 10_000  # at most, to estimate a distance or a variance from
CHAINS_AT_ONCE = 512
RECORDED_CHAINS = 64
SMALL_SETTING = (
    f"digits of 8 × 8 pixels for all data sets; the paper's network with {SMALL_WIDTH} filters, "
    f"not 64 or 128, for {SMALL_STEPS['ncsn']:,} steps of 64 images, the baseline for "
    f"{SMALL_STEPS['baseline']:,}, not 200,000 of 128, the rate falling as a cosine, the weights "
    "averaged, the last ones taken; the ladder, T and ε of sampling are the paper's"
)
PAPER_SETTING = (
    "the weights are those of the lowest held-out loss, not of the lowest FID of 1,000 samples"
)


class Samples(NamedTuple):
    """Samples of a model, and the paths of the first few."""

    x: Float[Tensor, "n *shape"]
    paths: Float[Tensor, "few states *shape"]
    """Start and state after each tenth of the chain, of the first `RECORDED_CHAINS`."""


@dataclass(frozen=True)
class PaperModel:
    """A model of the paper on one data set: its run, its plan of sampling and its samples."""

    setting: Setting
    data: str
    kind: ModelKind = "ncsn"

    @property
    def directory(self) -> Path:
        """The run's directory."""
        return self.setting.out / "models" / f"{self.data}-{self.kind}"

    @cached_property
    def experiment(self) -> Experiment:
        """The run's configuration."""
        name = "digits-ncsn" if self.data == "digits" else f"ncsn-{self.data}"
        setting, experiment = self.setting, PRESETS[name]()
        # float32 as published, on a GPU too, where the default would be bfloat16
        scale: dict[str, Any] = {"machine": {"autocast": "off"}}
        if setting.scale == "small":
            steps = SMALL_STEPS[self.kind]
            scale = {
                "network": {"width": SMALL_WIDTH},
                "training": {"steps": steps, "batch": 64, "schedule": "cosine", "ema": 0.999},
                "keeping": {"log": 10, "evaluate": 500, "checkpoint": 250, "best": "last"},
                "machine": {"threads": 1},
            }
        if self.kind == "baseline":
            scale["levels"] = {"sigma_max": experiment.levels.sigma_min, "count": 1}
            scale["sampling"] = {"steps": 1000}
        experiment = replace_fields(experiment, scale)
        training, sampling = experiment.training, experiment.sampling
        steps, batch = setting.steps(training.steps), setting.samples(training.batch)
        limits = {
            "training": {"steps": steps, "batch": batch},
            "sampling": {"steps": setting.steps(sampling.steps)},
            "keeping": {"samples": 0},
            "machine": {"device": setting.device},
        }
        data = setting.source(experiment.data)
        return replace_fields(replace(experiment, data=data, seed=setting.seed), limits)

    @cached_property
    def dataset(self) -> Dataset:
        """The training images and the held-out ones."""
        data = self.experiment.data
        return load_data(data.source, **data.options)

    def training_images(self, limit: int | None = None) -> Float[Tensor, "n *shape"]:
        """Return the images that the model learned from, or some of them."""
        return all_samples(self.dataset.train, limit)

    def heldout_images(self, limit: int | None = None) -> Float[Tensor, "n *shape"]:
        """Return the held-out images, or some of them."""
        assert self.dataset.test is not None  # all of the paper's data have some
        return all_samples(self.dataset.test, limit)

    @cached_property
    def features(self) -> Features:
        """Inception's features, or at the small scale those of a classifier of the digits."""
        setting, name = self.setting, "inception" if self.setting.scale == "paper" else "classifier"
        return make_features(name, self.dataset, weights=setting.inception, device=setting.device)

    @cached_property
    def model(self) -> ScoreModel:
        """The trained model; its run is started, resumed or loaded."""
        return finish(self.experiment, self.directory, watch=self._watch)

    def _watch(self, run: Run) -> Iterator[Update]:
        steps = run.experiment.training.steps
        print(f"  {self.directory}: training, step {run.step} to {steps}", flush=True)
        return track(run, steps, "training", done=run.step)

    @property
    def plan(self) -> Plan:
        """The paper's sampling, from uniform noise down the model's own levels."""
        sampling, levels = self.experiment.sampling, self.model.precondition.levels
        assert levels is not None  # a model of a ladder
        options = {"steps": sampling.steps, "epsilon": sampling.epsilon}
        return Plan(sampling.sampler, levels, options, uniform=True)

    def samples(self, n: int) -> Samples:
        """Return the first n samples; they are kept, and a later call adds to them."""
        name, about = "samples", {"steps": self.experiment.sampling.steps}
        kept = self.kept(name, about)
        parts, paths = ([kept["x"]], [kept["paths"]]) if kept else ([], [])
        first, plan = sum(map(len, parts)), self.plan
        if first < n:
            print(f"  {self.directory}: sampling, {n - first} chains", flush=True)
            self.optimize(n - first, plan)
            for start, states in chains(
                self.model, n, plan, first=first, seed=self.setting.seed, batch=CHAINS_AT_ONCE
            ):
                few = min(RECORDED_CHAINS, n - start)
                path = [plan.start(self.model, few, seeded(self.setting.seed, first=start))]
                for state in track(states, plan.states, "sampling"):
                    if state.step % max(plan.states // 10, 1) == 0:
                        path.append(state.x[:few])
                parts.append(state.x.cpu())
                paths.append(torch.stack(path, 1).cpu())
            self.keep(name, about, {"x": torch.cat(parts), "paths": paths[0]})
        return Samples(torch.cat(parts)[:n], paths[0])

    def optimize(self, n: int, plan: Plan) -> None:
        """Let the model compute in the way that is fastest for n chains of a plan."""
        calls = -(-n // CHAINS_AT_ONCE) * plan.states
        chosen = optimize(self.model, batch=min(n, CHAINS_AT_ONCE), evaluations=calls)
        print(f"  computing: {chosen}", flush=True)

    def kept(self, name: str, about: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """Return the tensors that `keep` wrote, if they are about the same and of this model."""
        path = self.directory / f"{name}.safetensors"
        if not path.exists():
            return None
        stored = checkpoint.read_tensors(path)
        return stored.tensors if stored.about == self._origin(about) else None

    def keep(self, name: str, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Write tensors that were computed from the model into its run's directory."""
        description = {"format": checkpoint.FORMAT, "about": self._origin(about)}
        checkpoint.write_tensors(self.directory / f"{name}.safetensors", description, dict(tensors))

    def _origin(self, about: Mapping[str, Any]) -> dict[str, Any]:
        _ = self.model  # whose file exists from then on
        weights = (self.directory / checkpoint.MODEL_FILE).read_bytes()
        return {**about, "seed": self.setting.seed, "model": hashlib.sha256(weights).hexdigest()}


def paper_models(
    setting: Setting, data: tuple[str, ...], kind: ModelKind = "ncsn"
) -> list[PaperModel]:
    """Return the models of a figure's data sets; at the small scale there is one, of digits."""
    names = data if setting.scale == "paper" else ("digits",)
    return [PaperModel(setting, name, kind) for name in names]


def scaled_setting(setting: Setting, *small: str) -> str:
    """Describe the differences from the paper, at the small scale with those of the figure."""
    return "; ".join((SMALL_SETTING, *small)) if setting.scale == "small" else PAPER_SETTING
