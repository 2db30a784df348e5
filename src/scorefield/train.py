"""Training, a generator of updates.

    g = ∇_θ mean loss(s_θ, x),   g ← g·min(1, c/‖g‖),   θ ← Adam(θ, g, ηλ(k)),   θ̄ ← dθ̄ + (1 − d)θ

Logging, evaluation and checkpoints are what the loop around it does. Everything random in step k is
a function of the seed, of k and of the position in the batch, so that `start=k` goes on as if
nothing had been before, and many processes end where one does; but dropout is each process's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from . import processes

OFTEN, SELDOM = 100, 10
"""The average is updated after each of the first so many steps, then after each so many.

A pass over all weights costs a small network several per cent of its step.
"""

Batch = Tensor | tuple[Tensor, Tensor | None]
"""Samples, or samples and their classes."""


class Update(NamedTuple):
    """What one step of the optimiser did."""

    step: int
    """Steps done, from 1."""
    loss: float
    """The mean over the batch, before the step."""
    norm: float
    """Of the gradient, before it was clipped."""
    rate: float
    """The learning rate."""
    skipped: bool
    """Whether loss or gradient was not finite, and nothing was changed."""


def train(
    model: nn.Module,
    batches: Callable[[int], Batch],
    loss: Callable[..., Tensor],
    *,
    optimizer: torch.optim.Optimizer,
    steps: int | None = None,
    start: int = 0,
    schedule: Callable[[int], float] = lambda step: 1.0,
    clip: float | None = None,
    ema: AveragedModel | None = None,
    autocast: torch.dtype | None = None,
    size: int | None = None,
    seed: int = 0,
) -> Generator[Update, None, None]:
    """Train a model from one step to another, and yield after each.

    Args:
        model: a score with parameters; with `given(label)`, if the batches have classes.
        batches: the batch of a step, the same whenever it is asked for.
        loss: `loss(score, x, noise=...)`, one number a sample: `annealed(...)`.
        optimizer: over the model's parameters; its rate is the schedule's unit.
        steps: where to end, counted from 0; never if not given.
        start: where to begin: with the state that model, optimiser and average had there.
        schedule: the factor of the learning rate at each step.
        clip: the largest norm of the gradient.
        ema: the model's running average, `averaged(model)`; it is updated after each of the first
            `OFTEN` steps, then after each tenth.
        autocast: run the network in this type; the weights stay as they are.
        size: of the batch of all processes, if `batches` gives this one's rows of it only;
            if not given, it gives all of them to each.
        seed: of σ, of the noise and of what the network draws (dropout).
    """
    if start < 0 or (steps is not None and start > steps):
        raise ValueError(f"start={start}, steps={steps}: begin at a step from 0 to the last")
    numbers = count(start) if steps is None else range(start, steps)
    return _train(
        model, batches, loss, optimizer, numbers, schedule, clip, ema, autocast, size, seed
    )


def _train(
    model: nn.Module,
    batches: Callable[[int], Batch],
    loss: Callable[..., Tensor],
    optimizer: torch.optim.Optimizer,
    steps: Iterable[int],
    schedule: Callable[[int], float],
    clip: float | None,
    ema: AveragedModel | None,
    autocast: torch.dtype | None,
    size: int | None,
    seed: int,
) -> Generator[Update, None, None]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    for step in steps:
        if not model.training:
            model.train()
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * schedule(step)
        optimizer.zero_grad()
        mean = _mean(model, batches(step), loss, autocast, size, mixed(seed, step))
        mean.backward()  # type: ignore[no-untyped-call]
        mean = _total(mean.detach(), parameters)
        norm = nn.utils.clip_grad_norm_(parameters, math.inf if clip is None else clip).item()
        value = mean.item()
        skipped = not math.isfinite(value) or not math.isfinite(norm)
        if not skipped:
            optimizer.step()
            if ema is not None and (step < OFTEN or (step + 1) % SELDOM == 0):
                ema.update_parameters(model)
        yield Update(step + 1, value, norm, optimizer.param_groups[0]["lr"], skipped)


def _mean(
    model: Any,
    batch: Batch,
    loss: Callable[..., Tensor],
    autocast: torch.dtype | None,
    size: int | None,
    seed: int,
) -> Tensor:
    """This process's part of the mean over the whole batch."""
    x, label = (batch, None) if isinstance(batch, Tensor) else batch
    if size is None:
        rows = processes.mine(size := len(x))
        x, label = x[rows], None if label is None else label[rows]
    if not len(x):
        raise ValueError(f"a batch of {size}: give one sample to each process at least")
    score = model if label is None else model.given(label)
    noise = placed(torch.Generator(x.device).manual_seed(seed), size)

    running = torch.autocast(x.device.type, autocast, enabled=autocast is not None)
    with _drawing(x.device, seed + 1 + processes.rank()), running:
        return loss(score, x, noise=noise).sum() / size


def placed(generator: torch.Generator, size: int) -> Callable[[Tensor], Tensor]:
    """Noise for this process's rows of a batch of a size: drawn for all rows, on any number."""
    rows = processes.mine(size)

    def noise(like: Tensor) -> Tensor:
        shape = (size, *like.shape[1:])
        return torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)[rows]

    return noise


def _total(mean: Tensor, parameters: list[Tensor]) -> Tensor:
    """The mean over all processes, and the gradients likewise, in one message."""
    if processes.world() == 1:
        return mean
    held = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([mean.reshape(1), *(gradient.flatten() for gradient in held)])
    sizes = [1, *(gradient.numel() for gradient in held)]
    mean, *parts = torch.split(processes.total(flat), sizes)
    for gradient, part in zip(held, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
    return mean


@contextmanager
def _drawing(device: torch.device, seed: int) -> Generator[None, None, None]:
    """A seed for dropout, which knows the global generators only; these are the caller's."""
    if device.type != "cpu":
        with torch.random.fork_rng([device], device_type=device.type):
            torch.manual_seed(seed)
            yield
        return
    # the same in three microseconds instead of a hundred
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


def mixed(*numbers: int) -> int:
    """A seed made of several: those of neighbouring steps have nothing in common."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint32)[0])


def averaged(model: nn.Module, decay: float = 0.999) -> AveragedModel:
    """θ̄ beside θ, with d = min(decay, (1 + k)/(10 + k)): it forgets how the training began.

    An update that stands for ten steps takes the tenth power of d. The averaged model is its
    `module`.
    """

    def update(mean: Any, now: Any, updates: Tensor | int) -> None:
        n = int(updates)
        k, power = (n, 1) if n < OFTEN else (OFTEN + SELDOM * (n - OFTEN), SELDOM)
        d = min(decay, (1 + k) / (10 + k)) ** power
        torch._foreach_lerp_(mean, now, 1 - d)

    return AveragedModel(model, multi_avg_fn=torch.no_grad()(update))


# ── Schedules ────────────────────────────────────────────────────────────────────────────────────


def constant(warmup: int = 0) -> Callable[[int], float]:
    """1, after a linear rise over the first steps."""
    return lambda step: min(1.0, (step + 1) / (warmup + 1))


def cosine(steps: int, warmup: int = 0) -> Callable[[int], float]:
    """½(1 + cos(πk/K)), after a linear rise (Loshchilov & Hutter 2017, eq. 5)."""
    return lambda step: constant(warmup)(step) * 0.5 * (1 + math.cos(math.pi * step / steps))
