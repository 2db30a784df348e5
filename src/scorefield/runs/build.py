"""Build once: a resolved configuration → model, moving average, optimiser, loss, batches.

Nothing is decided here; everything follows from the configuration, so building twice gives the same
weights.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from .. import distributed
from .._ops import Noise
from ..checkpoint import limit_parameters, load
from ..data import Batches, Dataset, Pairs, Part, Source, all_samples, choose_rows
from ..fast.optimize import Choice
from ..model import ScoreModel
from ..nn import Muon, build_module, find_network
from ..noise import Discrete, LogNormal, LogUniform, geometric
from ..objectives import (
    Objective,
    SigmaDistribution,
    annealed,
    consistency,
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
from ..show.machine import memory_bytes
from ..train import (
    NO_FOUND_INF,
    MovingAverage,
    NormQuantile,
    constant,
    cool_down,
    cosine,
    derive_seed,
    inverse_sqrt,
)
from ..values import convert_arguments
from .average import LENGTHS, PowerAverage
from .config import Experiment, Levels, Sampling, Training

MAX_DOUBLINGS = 12
"""Largest k of `consistency`; beyond, σ − r is lost in float32."""
ESTIMATION_SAMPLES = 10_000
"""Largest number of samples from which moments and ladders are estimated."""
MAX_PARAMETERS = 10_000
"""Largest number of parameter tensors of a network; the largest published one has 1,500."""
TRAINING_COPIES = 5
"""Weights, gradients, Adam's two moments, and the moving average."""
MEMORY_SHARE = 0.8
"""Share of the memory for training; the system, the data and temporary tensors need the rest."""


class MemoryLimitError(ValueError):
    """A network, or a batch of samples, needs more memory than the machine has."""


@dataclass(frozen=True, eq=False)
class Parts:
    """The objects that a run trains with."""

    device: torch.device  # where the model is
    data: Dataset  # on the device
    model: ScoreModel  # in training
    ema: MovingAverage  # the model's moving average
    powers: Sequence[PowerAverage]  # averages for snapshots, if the run keeps any
    optimizer: torch.optim.Optimizer  # over the model's parameters
    loss: Callable[..., Tensor]  # loss(score, x, noise=...), one number per sample
    batches: Batches  # this process's rows of each batch
    clip_quantile: NormQuantile | None  # the quantile that gradients are clipped at

    @property
    def average(self) -> ScoreModel:
        """The averaged model."""
        return cast(ScoreModel, self.ema.module)


def build(experiment: Experiment, data: Dataset, model: ScoreModel | None = None) -> Parts:
    """Build the parts of a run from a resolved experiment and, if given, a checkpoint's model."""
    machine, training = experiment.machine, experiment.training
    device = distributed.local_device(distributed.choose_device(machine.device))
    data = data.to(device)
    model = (model or build_model(experiment, data)).to(device)
    # The training loop applies autocast. Compilation comes last: a compiled network is not copied.
    kernels = ("winograd", "onednn", "channels_last", "tf32")
    Choice(**{name: getattr(machine, name) == "on" for name in kernels}).apply(model)
    ema = MovingAverage(model, training.ema)
    powers = [PowerAverage(model, length) for length in LENGTHS if training.snapshots]
    if machine.compile == "on":
        Choice.compile_network(model, graphs=distributed.world() * training.accumulate == 1)
    batches = Batches(
        data.train,
        training.batch,
        seed=experiment.seed,
        flip=experiment.data.flip,
        dequantise=experiment.data.dequantise,
        augment=experiment.data.augment,
        device=device,
        workers=experiment.data.workers,
        rank=distributed.rank(),
        world=distributed.world(),
    )
    others = build_references(experiment, data, device)
    optimizer, loss = build_optimizer(training, model), build_loss(experiment, model, others)
    share = training.clip_quantile
    quantile = None if share is None else NormQuantile(share, device)
    return Parts(device, data, model, ema, powers, optimizer, loss, batches, quantile)


def build_optimizer(training: Training, model: ScoreModel) -> torch.optim.Optimizer:
    """Return the optimiser, whose decay leaves out biases and the factors of norms."""
    device = model.device or torch.device("cpu")
    options: Any = dict(lr=training.rate, betas=training.betas, eps=training.eps)
    options["fused"] = device.type not in NO_FOUND_INF
    kind = Muon if training.optimizer == "muon" else torch.optim.AdamW
    groups: Any = model.parameters()
    if training.decay:
        matrices = [p for p in model.parameters() if p.ndim > 1]
        vectors = [p for p in model.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": training.decay}, {"params": vectors}]
    return kind(groups, weight_decay=0.0, **options)


def build_schedule(training: Training) -> Callable[[int], float]:
    """Return the factor of the learning rate as a function of the step."""
    factor, cooldown = constant(training.warmup), cool_down(training.cooldown)
    if training.schedule == "cosine":
        factor = cosine(training.steps, training.warmup)
    if training.schedule == "inverse_sqrt":
        factor = inverse_sqrt(training.plateau or 1, training.warmup)
    return lambda step: factor(step) * cooldown(step)


def build_model(experiment: Experiment, data: Dataset) -> ScoreModel:
    """Return the untrained model, or the one that training starts from, with the data's prior."""
    prior = Prior.fit(all_samples(data.train, ESTIMATION_SAMPLES))
    if experiment.start is not None:
        model = read_start(experiment, data)
    else:
        with torch.random.fork_rng([]):
            torch.manual_seed(derive_seed(experiment.seed, 1))
            model = ScoreModel(build_network(experiment), precondition(experiment), prior=prior)
        fit_conditions(model.net, data.train)
    names = experiment.data.classes or model.classes
    tuned = experiment.training.objective == "consistency"
    return ScoreModel(model.net, model.precondition, prior=prior, classes=names, tuned=tuned)


def fit_conditions(net: nn.Module, source: Source) -> None:
    """Standardise the network's conditions by the moments of the training data."""
    if isinstance(source, Pairs):
        rows = choose_rows(source, ESTIMATION_SAMPLES)
        for name, other in source.conditions.items():
            cast(Any, net).conditions[name].fit(all_samples(Part(other, rows)))


def outline_model(experiment: Experiment, shape: torch.Size) -> ScoreModel:
    """Return the model without its weights' memory; refuse one that this machine cannot train."""
    model, row_bytes = trace_model(experiment, shape)
    _check_memory(experiment, model, row_bytes)
    return model


def trace_model(experiment: Experiment, shape: torch.Size) -> tuple[ScoreModel, int]:
    """Return the model without memory, and the bytes at least that a row of a batch takes."""
    outputs = list[int]()

    def note(layer: nn.Module, inputs: Any, output: Tensor) -> None:
        outputs.append(output.nbytes)

    try:
        with torch.device("meta"), limit_parameters(MAX_PARAMETERS, "give fewer network.blocks"):
            net, x = build_network(experiment), torch.empty(1, *shape)
        model = ScoreModel(net, precondition(experiment), shape=shape)
        for layer in net.modules():
            if next(layer.parameters(recurse=False), None) is not None:
                layer.register_forward_hook(note)
        model(x, model.sigma_max)
    except (ArithmeticError, AttributeError, MemoryError, RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        if ":" in experiment.network["kind"]:
            reason += "; a network is called as net(x, cond), or as net(x, cond, labels)"
        raise ValueError(f"network={experiment.network!s:.300}: it fails: {reason}") from error
    # Whichever kernels and precision train, half of the outputs is a lower bound.
    return model, 3 * x.nbytes + sum(outputs) // 2


def _check_memory(experiment: Experiment, model: ScoreModel, row_bytes: int) -> None:
    """Refuse a network, or a batch of rows of `row_bytes` each, that needs too much memory."""
    device, memory = experiment.machine.device, memory_bytes(experiment.machine.device)
    training, world = experiment.training, distributed.world()
    batch, parts = training.batch, training.accumulate
    if 0 < batch // world < parts:
        raise ValueError(
            f"training.accumulate={parts}: give {batch // world} or less, the number of samples "
            f"that a process has of training.batch={batch}"
        )
    copies = TRAINING_COPIES + len(LENGTHS) * (training.snapshots > 0)
    state = copies * sum(p.nbytes for p in model.parameters())
    if (needed := state + -(-batch // (world * parts)) * row_bytes) > MEMORY_SHARE * memory:
        most = max(0, int((MEMORY_SHARE * memory - state) // row_bytes)) * world
        advice = "a smaller network"
        if most:
            advice = f"training.accumulate={-(-batch // most)} or a batch of {most * parts} or less"
        raise MemoryLimitError(
            f"training.batch={batch}, network={experiment.network!s:.300}: training takes "
            f"{needed / 2**30:.3g} GiB or more ({state / 2**30:.3g} for the weights, gradients, "
            f"moments and averages), but {device} has {memory / 2**30:.3g} GiB, "
            f"{MEMORY_SHARE:.0%} of it for training: give {advice}"
        )


def build_network(experiment: Experiment) -> nn.Module:
    """Return the network, with weights from the global random generator."""
    arguments = dict(experiment.network)
    network = find_network(arguments.pop("kind"))
    return build_module(network, convert_arguments(network, arguments, "network."))


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
    if levels.precondition == "EDM":
        return EDM(levels.sigma_data or 0.5, **ends)
    if levels.precondition == "NCSN":
        return NCSN(_ladder(levels))
    return {"NCSNv2": NCSNv2, "VE": VE, "FlowMatching": FlowMatching}[levels.precondition](**ends)


def _ladder(levels: Levels) -> Tensor:
    if levels.count == 1:
        return torch.tensor([levels.sigma_max or 1.0])
    return geometric(levels.sigma_max or 1.0, levels.sigma_min or 0.01, levels.count or 10)


def build_references(experiment: Experiment, data: Dataset, device: torch.device) -> Batches | None:
    """Return the batches of samples that targets are averaged over, if they are."""
    n, seed = experiment.training.references, derive_seed(experiment.seed, 4)
    if not n:
        return None
    own = {"flip": experiment.data.flip, "dequantise": experiment.data.dequantise}
    return Batches(data.train, n, seed=seed, device=device, **own)


def build_loss(
    experiment: Experiment, model: ScoreModel, others: Batches | None = None
) -> Callable[..., Tensor]:
    """Return the weighted loss over noise levels.

    If it is a function of the step too, its targets are averaged over the others of that step. The
    loss without a step, of held-out samples, is not.
    """
    levels, training = experiment.levels, experiment.training
    sigma_data = levels.sigma_data or 0.5
    ladder, largest, smallest = model.precondition.levels, model.sigma_max, model.sigma_min
    distribution: SigmaDistribution = LogNormal(levels.mean or 0.0, levels.std)
    if ladder is not None or levels.distribution == "discrete":
        distribution = Discrete(_ladder(levels) if ladder is None else ladder)
    elif levels.distribution == "loguniform":
        distribution = LogUniform(largest, smallest)
    within = lambda z: distribution(z).clamp(smallest, largest)  # noqa: E731
    if training.objective == "consistency":
        options: Any = {"sigma_data": sigma_data, "sigma_min": smallest}
        return _consistency_loss(within, training.stage or 1, training.steps, **options)
    weight = {
        "edm": edm_weight(sigma_data),
        "ncsn": ncsn_weight,
        "likelihood": likelihood_weight(distribution),
    }[training.weight]
    objectives: Mapping[str, Objective]
    objectives = {"denoising": denoising, "sliced": sliced, "exact": exact}
    objective = objectives[training.objective]
    if others is None:
        return annealed(objective, within, weight)

    def loss(*args: Any, step: int | None = None, noise: Noise = torch.randn_like) -> Tensor:
        averaged = objective if step is None else partial(denoising, others=others(step).x)
        return annealed(averaged, within, weight)(*args, noise=noise)

    return loss


def _consistency_loss(
    levels: Callable[[Tensor], Tensor], stage: int, steps: int, **options: Any
) -> Callable[..., Tensor]:
    """Return the loss at random σ, in which k grows from 1 by 1 every `stage` steps.

    Without a `step`, it is that of the last of `steps`.
    """

    def loss(*args: Any, step: int = steps - 1, noise: Noise = torch.randn_like) -> Tensor:
        k = min(1 + step // stage, MAX_DOUBLINGS)
        objective = partial(consistency, doublings=k, **options)
        return annealed(objective, levels, torch.ones_like)(*args, noise=noise)

    return loss


def build_plan(
    model: ScoreModel, sampling: Sampling, sampler: str | None = None, steps: int | None = None
) -> Plan:
    """Return a run's own plan, or the plan of another sampler or number of steps."""
    if sampler not in (None, sampling.sampler):
        plan = make_plan(model, sampler, steps)
        if plan.method.jumps and not model.tuned:
            raise ValueError(
                f"sampler={sampler!r}: only models that are tuned to it, by --objective "
                "consistency, can use it: name another run"
            )
        return plan
    epsilon: Any = {} if sampling.epsilon is None else {"epsilon": sampling.epsilon}
    own: Any = dict(levels=sampling.levels, grid=sampling.grid, denoise=sampling.denoise, **epsilon)
    return make_plan(model, sampling.sampler, sampling.steps if steps is None else steps, **own)
