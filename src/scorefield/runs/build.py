"""Build once: a resolved configuration → model, moving average, optimiser, loss, batches.

Nothing is decided here; everything follows from the configuration, so building twice gives the same
weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from .. import distributed
from ..checkpoint import load
from ..data import Batches, Dataset, all_samples
from ..fast.optimize import Choice
from ..model import ScoreModel
from ..nn import NETWORKS
from ..noise import Discrete, LogNormal, LogUniform, geometric
from ..objectives import (
    SigmaDistribution,
    annealed,
    denoising,
    edm_weight,
    exact,
    likelihood_weight,
    ncsn_weight,
    sliced,
)
from ..precondition import EDM, NCSN, VE, FlowMatching, NCSNv2, Precondition
from ..prior import Prior
from ..sample import Plan, make_plan
from ..train import derive_seed, moving_average
from ..values import convert_arguments
from .config import Experiment, Sampling

OBJECTIVES = {"denoising": denoising, "sliced": sliced, "exact": exact}
LOOKED_AT = 10_000
"""Samples from which moments and ladders are estimated."""


@dataclass(frozen=True, eq=False)
class Parts:
    """The objects that a run trains with.

    Attributes:
        device: Where the model is.
        data: The data, on the device.
        model: The model in training.
        ema: Its moving average.
        optimizer: Over the model's parameters.
        loss: `loss(score, x, noise=...)`, one number per sample.
        batches: This process's rows of each batch.
    """

    device: torch.device
    data: Dataset
    model: ScoreModel
    ema: AveragedModel
    optimizer: torch.optim.Optimizer
    loss: Callable[..., Tensor]
    batches: Batches


def build(experiment: Experiment, data: Dataset, model: ScoreModel | None = None) -> Parts:
    """Build the parts of a run.

    Args:
        experiment: a resolved experiment.
        data: its data.
        model: the model of a checkpoint; a new one if None.
    """
    machine, training = experiment.machine, experiment.training
    device = distributed.local_device(torch.device(machine.device))
    data = data.to(device)
    model = (model or build_model(experiment, data)).to(device)
    # The training loop applies autocast. Compilation comes last: a compiled network is not copied.
    Choice(
        winograd=machine.winograd == "on",
        onednn=machine.onednn == "on",
        channels_last=machine.channels_last == "on",
    ).apply(model)
    ema = moving_average(model, training.ema)
    if machine.compile == "on":
        Choice.compile_network(model)
    optimizer = torch.optim.Adam(
        model.parameters(),
        lr=training.rate,
        betas=training.betas,
        eps=training.eps,
        fused=device.type in ("cpu", "cuda"),
    )
    batches = Batches(
        data.train,
        training.batch,
        seed=experiment.seed,
        flip=experiment.data.flip,
        device=device,
        workers=experiment.data.workers,
        rank=distributed.rank(),
        world=distributed.world(),
    )
    return Parts(device, data, model, ema, optimizer, build_loss(experiment, model), batches)


def build_model(experiment: Experiment, data: Dataset) -> ScoreModel:
    """Return the untrained model, or the one that training starts from, with the data's prior."""
    prior = Prior.fit(all_samples(data.train, LOOKED_AT))
    if experiment.start is not None:
        model = read_start(experiment, data)
        return ScoreModel(model.net, model.precondition, prior=prior)
    with torch.random.fork_rng([]):
        torch.manual_seed(derive_seed(experiment.seed, 1))
        net = build_network(experiment)
    return ScoreModel(net, precondition(experiment), prior=prior)


def build_network(experiment: Experiment) -> nn.Module:
    """Return the network, with weights from the global random generator."""
    arguments = dict(experiment.network)
    network = NETWORKS[arguments.pop("kind")]
    return network(**convert_arguments(network, arguments, "network."))


def read_start(experiment: Experiment, data: Dataset) -> ScoreModel:
    """Load the model that training starts from and check that it fits the data."""
    path = Path(str(experiment.start))
    if path.is_file() and path.suffix != ".safetensors":
        raise ValueError(
            f"{path} is not a .safetensors file: scorefield convert {path} OUT makes one"
        )
    model = load(path)
    if model.shape is not None and model.shape != data.train.shape:
        raise ValueError(
            f"{path} is for samples of shape {tuple(model.shape)}, but {data.name} has "
            f"{tuple(data.train.shape)}: resize them with data.options"
        )
    return model


def precondition(experiment: Experiment) -> Precondition:
    """Return the preconditioner of a resolved experiment."""
    levels = experiment.levels
    ends: Any = dict(sigma_max=levels.sigma_max, sigma_min=levels.sigma_min, centre=levels.centre)
    kinds: dict[str, Callable[[], Precondition]] = {
        "EDM": lambda: EDM(levels.sigma_data or 0.5, **ends),
        "NCSN": lambda: NCSN(_ladder(experiment)),
        "NCSNv2": lambda: NCSNv2(**ends),
        "VE": lambda: VE(**ends),
        "FlowMatching": lambda: FlowMatching(**ends),
    }
    return kinds[levels.precondition]()


def _ladder(experiment: Experiment) -> Tensor:
    levels = experiment.levels
    if levels.count == 1:
        return torch.tensor([levels.sigma_max or 1.0])
    return geometric(levels.sigma_max or 1.0, levels.sigma_min or 0.01, levels.count or 10)


def build_loss(experiment: Experiment, model: ScoreModel) -> Callable[..., Tensor]:
    """Return the weighted loss over noise levels."""
    levels, training = experiment.levels, experiment.training
    own = model.precondition.levels
    ladder = _ladder(experiment) if own is None else own
    distributions: dict[str, Callable[[], Any]] = {
        "lognormal": lambda: LogNormal(levels.mean or 0.0, levels.std),
        "loguniform": lambda: LogUniform(model.sigma_max, model.sigma_min),
        "discrete": lambda: Discrete(ladder),
    }
    distribution = distributions["discrete" if own is not None else levels.distribution]()
    weight = {
        "edm": edm_weight(levels.sigma_data or 0.5),
        "ncsn": ncsn_weight,
        "likelihood": likelihood_weight(distribution),
    }[training.weight]
    clamped = Clamped(distribution, model.sigma_max, model.sigma_min)
    return annealed(OBJECTIVES[training.objective], clamped, weight)


def build_plan(
    model: ScoreModel, sampling: Sampling, sampler: str | None = None, steps: int | None = None
) -> Plan:
    """Return a run's own plan, or the plan of another sampler or number of steps."""
    if sampler not in (None, sampling.sampler):
        return make_plan(model, sampler, steps)
    steps = sampling.steps if steps is None else steps
    return make_plan(model, sampling.sampler, steps, **sampling.options)


@dataclass(frozen=True, eq=False)
class Clamped:
    """A distribution of σ whose tails are moved to the ends of the model's range."""

    distribution: SigmaDistribution
    sigma_max: float
    sigma_min: float

    def __call__(self, z: Tensor) -> Tensor:
        """Return the σ that belong to standard normal samples."""
        return self.distribution(z).clamp(self.sigma_min, self.sigma_max)

    def density(self, sigma: Tensor) -> Tensor:
        """Return the density of the distribution before clamping."""
        return self.distribution.density(sigma)
