"""What is judged: a model with the data it was trained on, and samples of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from .. import distributed
from ..checkpoint import load, read_stored
from ..data import Dataset, load_data
from ..model import ScoreModel
from ..runs import config
from ..runs.config import Experiment
from ..runs.resolve import choose_device
from ..runs.resume import check_data
from ..runs.state import checkpoints, raw_weights
from ..sample import Plan, chains, make_plan
from ..samplers import final

BATCH = 250
"""Training samples that are read at a time, for their classes."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A model with its data.

    Attributes:
        name: The run.
        model: Of it.
        data: What it was trained on and what was held out.
        experiment: How.
        weights: Which of the network, in words.
    """

    name: str
    model: ScoreModel
    data: Dataset
    experiment: Experiment
    weights: str

    @classmethod
    def of(cls, run: Path, *, raw: bool = False, device: str = "auto") -> Subject:
        """The model of a run.

        Args:
            run: its directory.
            raw: the weights as they were trained last, not their average.
            device: where the model works.
        """
        if not (run / "config.json").exists():
            raise ValueError(
                f"{run} holds no run: there is no config.json in it, which says what the model was "
                "trained on"
            )
        experiment = config.read(run / "config.json")
        data = load_data(experiment.data.source, **experiment.data.options)
        model, weights = _raw(run) if raw else _averaged(run, experiment)
        if model.prior is None or model.shape != data.train.shape:
            raise ValueError(
                f"{run}: its model is for samples of {model.shape}, and {data.name} has "
                f"{tuple(data.train.shape)}: the data have changed since"
            )
        check_data(run, experiment, data)
        model = model.to(distributed.local_device(choose_device(device)))
        return cls(str(run), model, data, experiment, weights)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device or torch.device("cpu")

    @property
    def sigma_data(self) -> float:
        """The data's deviation."""
        return self.experiment.levels.sigma_data or 0.5

    def classes(self, n: int, seed: int) -> Int[Tensor, "n"] | None:
        """Those that n samples are to have, as frequent as in training; None without classes.

        Args:
            n: how many.
            seed: of the choice.
        """
        if not self.experiment.data.labels:
            return None
        chance = torch.Generator().manual_seed(seed)
        rows = torch.randint(len(self.data.train), (n,), generator=chance)
        found = [self.data.train.take(part)[1] for part in torch.split(rows, BATCH)]
        return torch.cat([labels.cpu() for labels in found if labels is not None])

    def plan(self, sampler: str | None, steps: int | None) -> Plan:
        """The run's own way of sampling, unless another is asked for."""
        own = self.experiment.sampling
        if sampler in (None, own.sampler):
            steps = own.steps if steps is None else steps
            return make_plan(self.model, own.sampler, steps, **own.options)
        return make_plan(self.model, sampler, steps)


def _averaged(run: Path, experiment: Experiment) -> tuple[ScoreModel, str]:
    step, decay = read_stored(run).about.get("step"), experiment.training.ema
    kind = f"averaged with decay {decay}" if decay else "raw, for the run keeps no average"
    return load(run), f"{kind}, step {step}"


def _raw(run: Path) -> tuple[ScoreModel, str]:
    kept = checkpoints(run)
    if not kept:
        raise ValueError(f"{run} has no checkpoints, where raw weights are kept")
    model, stored = load(kept[-1]), read_stored(kept[-1])
    model.net.load_state_dict(raw_weights(stored))
    return model, f"raw, step {stored.about['step']}"


def drawn(
    model: ScoreModel,
    n: int,
    planned: Plan,
    *,
    seed: int,
    batch: int,
    classes: Int[Tensor, "n"] | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Samples in batches, each with the number of its first; of many processes each has its own.

    Args:
        model: with a prior.
        n: how many in all.
        planned: how.
        seed: sample i of a seed is the same, whatever the batch.
        batch: how many at once.
        classes: of each sample, for a model that knows any.
    """
    parts = chains(model, n, planned, seed=seed, label=classes, batch=batch)
    for first, states in parts:
        x = final(states).cpu()
        broken = int((~x.flatten(1).isfinite().all(1)).sum())
        if broken:
            raise ValueError(
                f"{broken} of {len(x)} samples by {planned.sampler} are not finite: more steps or "
                "another sampler may help, and `diagnose` says what is wrong with the score"
            )
        yield first, x
