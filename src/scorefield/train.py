"""Training as a generator of updates.

    g = ∇_θ mean loss(s_θ, x),   g ← g·min(1, c/‖g‖),   θ ← Adam(θ, g, ηλ(k)),   θ̄ ← dθ̄ + (1 − d)θ

The largest norm c is a number, a quantile of the norms of recent steps, or the smaller of both.

Logging, evaluation and checkpoints belong to the loop around it. Everything random in step k is a
function of the seed, of k and of the position in the batch, so `start=k` continues a run exactly
and the number of processes does not matter. Dropout is the exception: it depends on the rows that
are computed together.
"""

import math
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, reduce
from inspect import signature
from itertools import count
from operator import itemgetter
from types import NoneType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from . import distributed
from ._ops import RowCondition, check_count, check_floats
from .noise import check_seed, seeded
from .values import map_condition

EMA_WARMUP = 100
"""Steps after each of which the moving average is updated."""
EMA_UPDATE_EVERY = 10
"""Steps between updates after that: a pass over all weights costs a small network several per cent
of its step."""
MAX_SKIPPED = 5
"""Steps in a row that may be skipped before training ends, or a run rolls back."""
NO_FOUND_INF = {"mps"}
"""Types of devices on which torch's fused Adam ignores `found_inf`."""
NORM_WINDOW = 1000
"""Number of recent steps whose norms give the quantile that clips a gradient."""
LOOK_EVERY = 10
"""Steps between looks at loss and norm where a look waits for the device: not on a CPU."""

Batch = Tensor | tuple[Tensor, RowCondition]
"""Samples, or samples and their classes or conditions."""


class Update(NamedTuple):
    """The result of one optimiser step. Reading one of its tensors waits for the device."""

    step: int  # number of steps done, from 1
    loss: Tensor  # mean loss of the batch, before the step
    norm: Tensor  # norm of the gradient, before clipping
    rate: float  # learning rate
    skipped: Tensor  # loss or gradient was not finite, so that nothing was changed


def read_updates(updates: Sequence[Update]) -> list[Update]:
    """Return the updates with tensors on the CPU, which waits for the device once."""
    if not updates or updates[0].loss.device.type == "cpu":
        return [*updates]
    rows = torch.stack([torch.stack((u.loss, u.norm, u.skipped)) for u in updates]).cpu()
    return [
        update._replace(loss=loss, norm=norm, skipped=skipped > 0)
        for update, (loss, norm, skipped) in zip(updates, rows, strict=True)
    ]


def is_look(step: int, device: torch.device) -> bool:
    """Return True after the steps whose results are read, and those since the last such step."""
    return device.type == "cpu" or step % LOOK_EVERY == 0


class MovingAverage(AveragedModel):
    """θ̄ ← d·θ̄ + (1 − d)·θ with d = min(decay, (1 + k)/(10 + k)) after k steps.

    So early weights are forgotten. `train` updates it after each of the first `EMA_WARMUP` steps,
    then after every `EMA_UPDATE_EVERY`-th, with d¹⁰ for ten steps. The averaged model is its
    `module`.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        super().__init__(model)
        self.decay = decay

    @property
    def steps(self) -> int:
        """Number of steps up to the last update."""
        updates = int(self.n_averaged)  # on the CPU, even if the weights are not
        return min(updates, EMA_WARMUP) + EMA_UPDATE_EVERY * max(updates - EMA_WARMUP, 0)

    def kept_share(self, before: int, new: int) -> float:
        """Return the weight of the average over the steps `before` when `new` steps are added."""
        return min(self.decay, (1 + before) / (10 + before)) ** new

    @torch.no_grad()
    def update_parameters(self, model: nn.Module, changed: Tensor | float = 1.0) -> None:
        """Follow the model, or leave the weights as they are if `changed` is 0, unread."""
        k = self.steps
        share = self.kept_share(k, EMA_UPDATE_EVERY if k >= EMA_WARMUP else 1) if k else 0.0
        averages, weights = list[Tensor](self.parameters()), list[Tensor](model.parameters())
        gaps = [*torch._foreach_sub(weights, averages)]
        torch._foreach_mul_(gaps, changed * (1 - share))
        torch._foreach_add_(averages, gaps)
        for buffer, value in zip(self.module.buffers(), model.buffers(), strict=True):
            buffer.copy_(value)
        self.n_averaged += 1


class NormQuantile:
    """Quantile of the gradient's norms in the last `NORM_WINDOW` steps, before clipping.

    Its state is `norms`, ∞ where there is none yet.
    """

    def __init__(self, quantile: float, device: torch.device | str = "cpu") -> None:
        if not 0 < quantile <= 1:
            raise ValueError(f"quantile={quantile}: give a number above 0, 1 at most, such as 0.9")
        self.quantile = quantile
        self.norms = torch.full((NORM_WINDOW,), math.inf, device=device)

    def follow(self, norm: Tensor, step: int) -> Tensor:
        """Return the quantile of earlier norms, ∞ if there is none, and note this one if finite."""
        norms = self.norms.masked_fill(self.norms.isinf(), math.nan)
        limit = norms.nanquantile(self.quantile).nan_to_num(nan=math.inf)
        oldest = self.norms[step % NORM_WINDOW]
        oldest.copy_(torch.where(norm.isfinite(), norm, oldest))
        return limit.clamp(min=torch.finfo(limit.dtype).tiny)  # a zero gradient stays zero


def train(
    model: Any,
    batches: Callable[[int], Batch],
    loss: Callable[..., Tensor],
    *,
    optimizer: torch.optim.Optimizer,
    steps: int | None = None,
    start: int = 0,
    schedule: Callable[[int], float] = lambda step: 1.0,
    clip: float | None = None,
    clip_quantile: NormQuantile | None = None,
    ema: MovingAverage | Sequence[MovingAverage] | None = None,
    autocast: torch.dtype | None = None,
    size: int | None = None,
    accumulate: int = 1,
    seed: int = 0,
) -> Generator[Update, None, None]:
    """Train a model and yield an `Update` after each step.

    The model is a score with parameters, and with `given(condition)` if the batches have classes or
    conditions.
    `batches` returns the batch of a step, the same one at each call; `size` is that of the global
    batch, if these are only this process's rows. `loss(score, x, noise=...)`, such as
    `annealed(...)`, is one number per sample. `steps` is the step to end at, counted from 0, and
    `start` the one to start from, with the state that model, optimiser and average had there. A
    loss with an argument `step` receives the number of steps before.
    `schedule` multiplies the optimiser's learning rate, `clip` is the largest norm of the gradient,
    `clip_quantile` takes it from recent steps, with the state that it had at `start`, `ema` the
    averages to update, and `autocast` the dtype that the network runs in. `accumulate` is the
    number of parts in which each process takes its rows, which saves memory and changes nothing but
    dropout. `seed` is that of σ, of the noise and of dropout. A step whose loss or gradient is not
    finite is skipped, with a warning at the first, and `MAX_SKIPPED` in a row are an error.

    On an accelerator, a step with a fused Adam does not wait for the device; every `LOOK_EVERY`-th
    does, to look for skipped ones. With other optimisers, and on an Apple GPU, every step waits.
    """
    if start < 0 or (steps is not None and start > steps):
        raise ValueError(f"start={start}, steps={steps}: start at a step between 0 and steps")
    check_seed(seed)
    if clip is not None and not clip > 0:
        raise ValueError(f"clip={clip}: give the largest norm of the gradient, above 0")
    check_count(accumulate=accumulate)
    if not callable(batches):
        raise TypeError(
            f"batches is a {type(batches).__name__}: give a function that returns the batch of a "
            "step, such as lambda step: next(rows) after rows = iter(loader)"
        )
    averages = [ema] if isinstance(ema, MovingAverage) else [*(ema or ())]
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    trainer = _Trainer(
        model, batches, loss, optimizer, schedule, clip, clip_quantile, averages, autocast, size,
        accumulate, seed,
    )  # fmt: skip
    device = trainer.parameters[0].device
    numbers = count(start) if steps is None else range(start, steps)
    # not by map, through which a StopIteration of `batches` would end the training without an error
    updates = (trainer.update(step) for step in numbers)
    return _watch_skipped(updates, lambda step: step == steps or is_look(step, device))


@dataclass(frozen=True, eq=False)
class _Trainer:
    """One step of `train`, whose arguments these are."""

    model: Any
    batches: Callable[[int], Batch]
    loss: Callable[..., Tensor]
    optimizer: torch.optim.Optimizer
    schedule: Callable[[int], float]
    clip: float | None
    clip_quantile: NormQuantile | None
    averages: Sequence[MovingAverage]
    autocast: torch.dtype | None
    size: int | None
    accumulate: int
    seed: int

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        """Parameters that the optimiser changes."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    @cached_property
    def objective(self) -> distributed.SharedLoss:
        """The loss of this process's rows, with gradients summed over all processes."""
        return distributed.SharedLoss(self.share_of_mean, self.parameters)

    @cached_property
    def takes_step(self) -> bool:
        """True if the loss is a function of the step as well."""
        return "step" in signature(self.loss).parameters

    def update(self, step: int) -> Update:
        """Take a step."""
        if not self.model.training:
            self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.schedule(step)
        self.optimizer.zero_grad()
        mean = self.descend(self.batches(step), step)
        norm = self.clip_gradient(step)
        skipped = ~(mean + norm).isfinite()
        _step_unless(skipped, self.optimizer)
        if step < EMA_WARMUP or (step + 1) % EMA_UPDATE_EVERY == 0:
            for average in self.averages:
                average.update_parameters(self.model, (~skipped).to(norm.dtype))
        return Update(step + 1, mean, norm, self.optimizer.param_groups[0]["lr"], skipped)

    def descend(self, batch: Batch, step: int) -> Tensor:
        """Leave the gradient of the mean loss over the global batch, and return that mean."""
        (x, condition), parts = split_batch(batch), self.accumulate
        total = len(x) if self.size is None else self.size
        own = distributed.own_rows(total)
        if self.size is None:
            x, condition = x[own], map_condition(itemgetter(own), condition)
        if len(x) < parts:
            raise ValueError(
                f"a batch of {total} for {distributed.world()} processes and accumulate={parts}: "
                "give each process at least one sample for each part"
            )
        shares = list[Tensor]()
        for part in range(parts):
            rows = distributed.split_rows(len(x), part, parts)
            some = slice(rows.start, rows.stop)
            of_part, first = map_condition(itemgetter(some), condition), own.start + rows.start
            inputs = x[some], of_part, step, first, total
            shares.append(self.objective.backward(*inputs, last=part == parts - 1))
        return distributed.all_sum(reduce(torch.add, shares))

    def share_of_mean(
        self, x: Tensor, condition: RowCondition, step: int, first: int, total: int
    ) -> Tensor:
        """Return the share of rows from `first` on in the mean loss over `total` rows."""
        score = self.model if condition is None else self.model.given(condition)
        running = torch.autocast(x.device.type, self.autocast, enabled=self.autocast is not None)
        with _fork_generators(x.device, derive_seed(self.seed, step, first)), running:
            noise = seeded(self.seed, first=first, step=step)
            extra = {"step": step} if self.takes_step else {}
            losses = self.loss(score, x, noise=noise, **extra)
        if losses.shape != x.shape[:1]:
            raise ValueError(
                f"loss returned shape {tuple(losses.shape)} for a batch of {len(x)}: return one "
                "number per sample, as annealed(denoising, LogNormal()) does"
            )
        return losses.sum() / total

    def clip_gradient(self, step: int) -> Tensor:
        """Scale the gradient down to the largest norm, and return its norm before that."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm: Tensor = nn.utils.get_total_norm(gradients)
        largest = math.inf if self.clip is None else self.clip
        if self.clip_quantile is not None:
            # the limit is on the device, so the norm is divided by it
            limit = self.clip_quantile.follow(norm, step).clamp(max=largest)
            nn.utils.clip_grads_with_norm_(self.parameters, 1.0, norm / limit)
        elif self.clip is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, largest, norm)
        return norm


def _step_unless(skipped: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Take the optimiser's step unless `skipped` is true.

    A fused Adam decides that on the device. Any other optimiser waits for the device: what it would
    have to restore after a step that is not finite, as its counts, is partly on the host.
    """
    adam: Any = optimizer
    kinds = torch.optim.Adam, torch.optim.AdamW
    fused = isinstance(adam, kinds) and all(g["fused"] for g in adam.param_groups)
    if fused and skipped.device.type not in {"cpu"} | NO_FOUND_INF:
        adam.found_inf = skipped.float()  # as torch.amp.GradScaler does
        try:
            adam.step()
        finally:
            del adam.found_inf
    elif not skipped:
        optimizer.step()


def _watch_skipped(
    updates: Iterator[Update], looks: Callable[[int], bool]
) -> Generator[Update, None, None]:
    """Warn about the first skipped step, and raise after `MAX_SKIPPED` in a row."""
    row, warned, unread = 0, not distributed.is_main(), list[Update]()
    for update in updates:
        unread.append(update)
        results, error = list[Update](), None
        if looks(update.step):
            results, unread = read_updates(unread), []
        for step, loss, norm, _, skipped in results:
            if not skipped:
                row = 0
                continue
            row += 1
            problem = (
                f"the loss is {loss:.4g} and the norm of the gradient {norm:.4g}: look for NaN in "
                "the data, or lower the learning rate"
            )
            if not warned:
                warned = True
                warnings.warn(f"step {step} is skipped, because {problem}", stacklevel=2)
            if row == MAX_SKIPPED:
                error = f"{row} steps in a row are skipped; in step {step} {problem}"
        yield update
        if error is not None:
            raise ValueError(error)


def split_batch(batch: Batch) -> tuple[Tensor, RowCondition]:
    """Return the samples of a batch, and their classes or conditions if it has any."""
    parts: Any = (batch, None) if isinstance(batch, Tensor) else batch
    classed = isinstance(parts, (tuple, list)) and len(parts) == 2
    if not classed or not isinstance(parts[1], (Tensor, Mapping, NoneType)):
        count = f" of {len(parts)}" if isinstance(parts, (tuple, list)) else ""
        raise TypeError(
            f"batches(step) returned a {type(batch).__name__}{count}: return a tensor x of "
            "samples, or (x, classes), both tensors, or (x, conditions), tensors by name"
        )
    check_floats(parts[0], "x")
    return parts[0], parts[1]


@contextmanager
def _fork_generators(device: torch.device, seed: int) -> Generator[None, None, None]:
    """Seed the global generators, which dropout uses, and restore them at the end."""
    if device.type != "cpu":
        with torch.random.fork_rng([device], device_type=device.type):
            torch.manual_seed(seed)
            yield
        return
    # fork_rng takes 100 µs on the CPU, this 3 µs
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


def derive_seed(*numbers: int) -> int:
    """Hash several numbers to one seed; the seeds of neighbouring steps are unrelated."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint32)[0])


def constant(warmup: int = 0) -> Callable[[int], float]:
    """Return a schedule that is 1 after a linear warm-up."""
    return lambda step: min(1.0, (step + 1) / (warmup + 1))


def cosine(steps: int, warmup: int = 0) -> Callable[[int], float]:
    """Return ½(1 + cos(πk/K)) after a linear warm-up (Loshchilov & Hutter 2017, eq. 5)."""
    return lambda step: constant(warmup)(step) * 0.5 * (1 + math.cos(math.pi * step / steps))


def inverse_sqrt(plateau: int, warmup: int = 0) -> Callable[[int], float]:
    """Return 1/√max(1, k/k₀), k₀ = `plateau`, after a linear warm-up (Karras et al. 2024)."""
    return lambda step: constant(warmup)(step) / math.sqrt(max(1.0, step / plateau))


def cool_down(pieces: Sequence[tuple[int, int]]) -> Callable[[int], float]:
    """Return a schedule that is 1, and falls linearly to 0 between the steps (first, end).

    Each of several pieces replaces the rest of the one before, and starts from its value there, so
    that a piece changes nothing before its first step.
    """

    def factor(step: int) -> float:
        value = 1.0
        for (first, end), (replaced, _) in zip(pieces, [*pieces[1:], (step, step)], strict=False):
            if step > first:
                value *= (end - min(step, replaced, end)) / (end - first)
        return value

    return factor
