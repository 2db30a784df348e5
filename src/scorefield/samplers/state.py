"""States that samplers yield, functions of them, and the checks of a sampler's arguments.

A sampler is a generator of states; the last state is the sample. Stopping early is `break`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import wraps
from itertools import pairwise
from typing import NamedTuple, ParamSpec, TypeAlias, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from .._ops import Sigma
from ..score import Score


class State(NamedTuple):
    """A chain after one step. Its tensors are never written to again."""

    x: Float[Tensor, "batch *shape"]
    sigma: float
    """The noise level of x."""
    denoised: Float[Tensor, "batch *shape"]
    """D = x + σ²s at the last evaluation of the score."""
    step: int
    """The number of steps so far, from 1."""


States: TypeAlias = Generator[State, None, Tensor]
Tracked = TypeVar("Tracked")
Arguments = ParamSpec("Arguments")


def without_gradients(run: Callable[Arguments, States]) -> Callable[Arguments, States]:
    """Run a generator of states without gradients, and leave the caller's grad mode as it is.

    `torch.no_grad()` does the same, but only for a function that it recognises as a generator,
    which it does not under another decorator.
    """

    @wraps(run)
    def run_without_gradients(*args: Arguments.args, **kwargs: Arguments.kwargs) -> States:
        states = run(*args, **kwargs)
        while True:
            with torch.no_grad():
                try:
                    state = next(states)
                except StopIteration as end:
                    sample: Tensor = end.value
                    return sample
            yield state

    return run_without_gradients


def final(states: Iterable[State]) -> Float[Tensor, "batch *shape"]:
    """Return the x of the last state: the sample."""
    last = None
    for state in states:
        last = state
    if last is None:
        raise ValueError("states is empty: a generator yields its states only once")
    return last.x


def every(states: Iterable[State], n: int) -> Iterator[State]:
    """Yield every n-th state, and the last."""
    if n < 1:
        raise ValueError(f"n={n}: keep every n-th state, n at least 1")
    return _every_nth(states, n)


def _every_nth(states: Iterable[State], n: int) -> Iterator[State]:
    skipped = None
    for state in states:
        skipped = state if state.step % n else None
        if skipped is None:
            yield state
    if skipped is not None:
        yield skipped


def progress(items: Iterable[Tracked], total: int | None = None) -> Iterator[Tracked]:
    """Yield the items and show a progress bar, in a terminal only."""
    from tqdm.auto import tqdm

    yield from tqdm(items, total=total, disable=None)


def check_start(
    score: Score, x: object, sigmas: object, denoise: bool = True
) -> tuple[Score, list[float]]:
    """Refuse arguments that a sampler cannot use, such as one level without the step to σ = 0.

    Returns:
        The score, which is now checked to return the shape of x and converted to its type, and the
        levels as floats.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(
            f"x is {kind}, but a chain needs floats: x.float() / 255 for 8-bit images, "
            "x.float() for other data"
        )
    if x.ndim < 2 or len(x) == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}: give a batch, x[None] for one sample")
    shape, device = getattr(score, "shape", None), getattr(score, "device", None)
    shape = shape if isinstance(shape, torch.Size) else x.shape[1:]
    device = device if isinstance(device, torch.device) else x.device
    if x.shape[1:] != shape or x.device != device:
        raise ValueError(
            f"x is a batch of {tuple(x.shape[1:])} on {x.device}, but score is for "
            f"{tuple(shape)} on {device}: reshape x or move one of them"
        )
    if not torch.isfinite(x).all():
        raise ValueError("x has NaN or infinite values: sample the start from a Prior")
    levels = _read_ladder(sigmas)
    if len(levels) == 1 and not denoise:
        raise ValueError("sigmas has one level and denoise=False: there is no step to take")
    return _guard(score), levels


def to_zero(score: Score, x: Tensor, sigma: float, step: int) -> States:
    """Take the last step of a sampler, to the denoiser's x + σ²s."""
    x = x + sigma**2 * score(x, sigma)
    yield State(x, 0.0, x, step)
    return x


def _read_ladder(sigmas: object) -> list[float]:
    levels = sigmas.tolist() if isinstance(sigmas, Tensor) and sigmas.ndim == 1 else None
    if not levels:
        raise ValueError("sigmas must be a 1-D tensor of levels, such as geometric(1.0, 0.01, 10)")
    bad = [sigma for sigma in levels if not 0 < sigma < math.inf]
    if bad:
        raise ValueError(
            f"sigmas must be positive and finite, found {bad[0]}: leave 0 out; "
            "denoise=True takes the step to it"
        )
    if any(low >= high for high, low in pairwise(levels)):
        raise ValueError("sigmas must strictly decrease: sort them with .sort(descending=True)")
    return levels


def _guard(score: Score) -> Score:
    def guarded(x: Tensor, sigma: Sigma) -> Tensor:
        s = score(x, sigma)
        if s.shape != x.shape:
            raise ValueError(
                f"score returned shape {tuple(s.shape)} for x of shape {tuple(x.shape)}: "
                "it must return one number for each number of x"
            )
        return s if s.dtype == x.dtype else s.to(x.dtype)

    return guarded
