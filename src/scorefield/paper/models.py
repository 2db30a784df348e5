"""The networks and samples that experiments share, each computed once and stored.

    ncsn       the paper's network, at σ from 1 to 0.01 in 10 levels      annealed Langevin dynamics
    baseline   the same network, at σ = 0.01 only                         plain Langevin dynamics

Chains start from uniform noise, T = 100 steps at each level or T = 1,000 at the only one, ε = 2e-5,
without a last step to σ = 0.                                                 (§5, B.2, Algorithm 1)

Figures 4 to 17 and Table 1 use these; their modules name what they add.

Setting   the paper's: the presets `ncsn-mnist`, `ncsn-cifar10` and `ncsn-celeba`.
Code      its ε, which counts twice what the paper's text does (drift α·s, not α/2·s), because the
          paper's images were made with it; 8-bit pixels with uniform noise in their cells, β and ε
          of Adam, and γ also on the shifted mean of CondInstanceNorm++.
Ours      the samples are the states after the last step, which the code's stored chains leave out;
          the weights are those of the lowest held-out loss, not of the lowest FID of 1,000 samples.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

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
from ..sample import Plan, chains
from ..samplers import every, final
from ..show.progress import progress
from .finding import Finding, Setting, side_by_side

ModelKind = Literal["ncsn", "baseline"]

SMALL_WIDTH = 16
SMALL_STEPS: dict[ModelKind, int] = {"ncsn": 8000, "baseline": 4000}
"""Steps of training; the baseline's level gets five times as many samples as one of NCSN's ten."""
COMPARED_SAMPLES = {"paper": 10_000, "small": 240}
"""Samples of Figures 5, 7, 9 and 10; a Fréchet distance takes many more than there are pixels."""
REFERENCE_IMAGES = 10_000
"""Most images that a distance or a variance is estimated from."""
CHAINS_AT_ONCE = 512
RECORDED_CHAINS = 64
SMALL_SETTING = (
    f"digits of 8 × 8 pixels for all data sets; the paper's network with {SMALL_WIDTH} filters, "
    f"not 64 or 128, for {SMALL_STEPS['ncsn']:,} steps of 64 images, the baseline for "
    f"{SMALL_STEPS['baseline']:,}, not 200,000 of 128, the rate falling as a cosine, the weights "
    "averaged, the last ones taken; the ladder, T and ε of sampling are the paper's"
)
PAPER_SETTING = "the weights are those of the lowest held-out loss, not of the lowest FID"


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

    @property
    def sample_count(self) -> int:
        """Number of samples that figures compare with images."""
        return self.setting.samples(COMPARED_SAMPLES[self.setting.scale])

    @cached_property
    def experiment(self) -> Experiment:
        """The run's configuration."""
        setting = self.setting
        experiment = PRESETS["digits-ncsn" if self.data == "digits" else f"ncsn-{self.data}"]
        if setting.scale == "small":
            steps = SMALL_STEPS[self.kind]
            small = {
                "network": {"width": SMALL_WIDTH},
                "training": {"steps": steps, "batch": 64, "schedule": "cosine", "ema": 0.999},
                "keeping": {"log": 10, "evaluate": 500, "checkpoint": 250, "best": "last"},
                "machine": {"threads": 1},
            }
            experiment = replace_fields(experiment, small)
        if self.kind == "baseline":
            levels = {"sigma_max": experiment.levels.sigma_min, "count": 1}
            experiment = replace_fields(experiment, {"levels": levels, "sampling": {"steps": 1000}})
        training, sampling = experiment.training, experiment.sampling
        steps, batch = setting.steps(training.steps), setting.samples(training.batch)
        limits = {
            "training": {"steps": steps, "batch": batch},
            "sampling": {"steps": setting.steps(sampling.steps)},
            "keeping": {"samples": 0},
            # float32 as published, on a GPU too, where the default would be bfloat16
            "machine": {"autocast": "off", "device": setting.device},
        }
        data = setting.source(experiment.data)
        return replace_fields(replace(experiment, data=data, seed=setting.seed), limits)

    @cached_property
    def dataset(self) -> Dataset:
        """The training images and the held-out ones."""
        data = self.experiment.data
        return load_data(data.source, **data.arguments)

    def images(
        self, part: Literal["train", "test"], limit: int | None = None
    ) -> Float[Tensor, "n *shape"]:
        """Return the images that the model learned from or held-out ones, or some of them."""
        return all_samples(getattr(self.dataset, part), limit)

    @cached_property
    def features(self) -> Features:
        """Inception's features, or at the small scale those of a classifier of the digits."""
        setting, name = self.setting, "inception" if self.setting.scale == "paper" else "classifier"
        return make_features(name, self.dataset, weights=setting.inception, device=setting.device)

    @cached_property
    def model(self) -> ScoreModel:
        """The trained model; its run is started, resumed or loaded."""
        steps, title = self.experiment.training.steps, f"  {self.directory}: training"
        return finish(
            self.experiment,
            self.directory,
            watch=lambda run: progress(run, steps, title, done=run.step),
        )

    @property
    def plan(self) -> Plan:
        """The paper's sampling, from uniform noise down the model's own levels."""
        sampling, levels = self.experiment.sampling, self.model.precondition.levels
        assert levels is not None  # a model of a ladder
        options = {"steps": sampling.steps, "epsilon": sampling.epsilon}
        return Plan(sampling.sampler, levels, options, uniform=True)

    def samples(self, n: int) -> Float[Tensor, "n *shape"]:
        """Return n samples; the first are the same for any n."""
        plan, options = self.plan, {"seed": self.setting.seed, "batch": CHAINS_AT_ONCE}

        def compute() -> Tensor:
            parts = chains(self.model, n, plan, **options)
            return torch.cat([final(progress(part, plan.states, "sampling")) for _, part in parts])

        return self.compute_once("samples", n, plan, compute)

    def paths(self) -> Float[Tensor, "chains states *shape"]:
        """Return start and state after each tenth of the chain, of the first samples."""
        n, plan, seed = self.setting.samples(RECORDED_CHAINS), self.plan, self.setting.seed

        def compute() -> Tensor:
            ((_, chain),) = chains(self.model, n, plan, seed=seed, batch=n)
            states = every(progress(chain, plan.states, "sampling"), max(plan.states // 10, 1))
            start = plan.start(self.model, n, seeded(seed))
            return torch.stack([start, *(state.x for state in states)], 1)

        return self.compute_once("paths", n, plan, compute)

    def compute_once(
        self, name: str, n: int, plan: Plan, compute: Callable[[], Tensor], *options: object
    ) -> Tensor:
        """Return the result of n chains, from a file if it is of the same options and weights."""
        model = self.model
        key = hashlib.sha256((self.directory / checkpoint.MODEL_FILE).read_bytes())
        inputs = (n, plan.sigmas.tolist(), plan.options, self.setting.seed, options)
        key.update(repr(inputs).encode())
        file = self.directory / f"{name}-{key.hexdigest()[:16]}.safetensors"
        if not file.exists():
            print(f"  {self.directory}: {name} of {n} chains", flush=True)
            calls = -(-n // CHAINS_AT_ONCE) * plan.states
            choice = optimize(model, batch=min(n, CHAINS_AT_ONCE), evaluations=calls)
            print(f"  computing: {choice}", flush=True)
            checkpoint.write_tensors(file, {"format": checkpoint.FORMAT}, {"x": compute().cpu()})
        return checkpoint.read_tensors(file).tensors["x"]


@dataclass(frozen=True)
class OnModels:
    """An experiment that runs on the model of each data set; at the small scale on the digits'."""

    run: Callable[[PaperModel], Finding]
    data: tuple[str, ...]

    def __call__(self, setting: Setting) -> Finding:
        """Run on each model, and merge the findings."""
        small = setting.scale == "small"
        names = ("digits",) if small else self.data
        findings = {name: self.run(PaperModel(setting, name)) for name in names}
        first = findings[names[0]]
        return Finding(
            first.statement,
            {f"{name}: {k}": v for name, f in findings.items() for k, v in f.numbers.items()},
            all(finding.passed for finding in findings.values()),
            side_by_side([finding.picture for finding in findings.values()]),
            "; ".join(filter(None, (SMALL_SETTING, first.scaled))) if small else PAPER_SETTING,
        )
