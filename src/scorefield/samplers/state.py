"""States that samplers yield, functions of them, and `sampler`, which makes a sampler.

A sampler is a generator of states; the last state is the sample. Stopping early is `break`.
"""

import inspect
import math
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .._ops import Samples, Sigma, check_batch
from ..noise import check_levels
from ..score import Score
from ..values import check_names


class State(NamedTuple):
    """A chain after one step. Its tensors are never written to again."""

    x: Samples
    sigma: float  # noise level of x
    denoised: Samples  # D = x + σ²s at the last evaluation of the score
    step: int = 0  # number of steps so far, from 1; `sampler` counts them
    accepted: Bool[Tensor, "batch"] | None = None  # chains that moved, where a step can be rejected
    log_w: Float[Tensor, "batch"] | None = None  # log-weights of the chains, where they have some


States: TypeAlias = Generator[State, None, Tensor]
Arguments = ParamSpec("Arguments")


def sampler(
    check: Callable[..., None] = lambda **arguments: None,
) -> Callable[[Callable[Arguments, Iterator[State]]], Callable[Arguments, States]]:
    """Turn the body of an algorithm, a generator of states, into a sampler.

    The sampler checks its arguments when it is called, by `LIMITS` and by `check`, to which all are
    passed by name. It runs the body without gradients, leaves the caller's grad mode as it is, and
    counts the steps. If an argument `denoise` is true, it ends with the step to σ = 0, x + σ²s.
    """

    def decorate(body: Callable[Arguments, Iterator[State]]) -> Callable[Arguments, States]:
        signature = inspect.signature(body)

        @wraps(body)
        def start(*args: Arguments.args, **kwargs: Arguments.kwargs) -> States:
            check_names(kwargs, signature.parameters, f"{body.__name__}: option ")
            call = signature.bind(*args, **kwargs)
            call.apply_defaults()
            own = call.arguments
            nested = isinstance(own["score"], Guarded)  # x is the state of a sampler that calls
            if not nested:
                _check_start(own["score"], own["x"])
            _check_limits(own)
            check(**own)
            own["score"] = own["score"] if nested else Guarded(own["score"])
            last = own["sigmas"][-1].item() if own.get("denoise") else None
            return _run(body(*call.args, **call.kwargs), own["score"], own["x"], last)

        return start

    return decorate


def _run(states: Iterator[State], score: Score, x: Tensor, last: float | None) -> States:
    """Run a body and, from the last noise level if that is given, take the step to σ = 0.

    `torch.no_grad()` around the generator would also hold while it is suspended.
    """
    step = 0
    while True:
        with torch.no_grad():
            state = next(states, None)
        if state is None:
            break
        if not isinstance(state, State):
            raise TypeError(
                f"a sampler yielded {type(state).__name__}: yield State(x, sigma, denoised)"
            )
        x, step = state.x, step + 1
        yield state._replace(step=step)
    if last is not None:
        with torch.no_grad():
            x = x + last**2 * score(x, last)
        yield State(x, 0.0, x, step + 1)
    return x


def final(states: Iterable[State]) -> Samples:
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


POSITIVE = (lambda number: 0 < number < math.inf), "a finite number above 0"
NOT_NEGATIVE = (lambda number: 0 <= number < math.inf), "a finite number ≥ 0"


def _is_step(step: Any) -> bool:
    try:
        inspect.signature(step).bind("score", "x", "sigma", "sigma_next", "noise")
    except TypeError:
        return False
    return True


LIMITS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "sigma": (lambda x: not isinstance(x, Tensor) and 0 <= x < math.inf, "one float ≥ 0"),
    **dict.fromkeys(
        ("steps", "leapfrogs", "order", "inner", "jump", "resamplings"),
        (lambda n: n >= 1 and n % 1 == 0, "a whole number ≥ 1"),
    ),
    "corrections": (lambda n: n >= 0 and n % 1 == 0, "a whole number ≥ 0"),
    **dict.fromkeys(("alpha", "epsilon", "ratio", "strength", "sigma_data"), POSITIVE),
    **dict.fromkeys(("amount", "s_noise"), NOT_NEGATIVE),
    "momentum": (lambda share: 0 <= share < 1, "the share of the velocity to keep, 0 ≤ share < 1"),
    **dict.fromkeys(("zeta", "eta"), (lambda share: 0 <= share <= 1, "a share from 0 to 1")),
    "kernel": (callable, "a sampler at one σ, such as langevin or underdamped"),
    "convention": (
        lambda name: name in ("official", "paper"),
        "'official' (α·s) or 'paper' (α/2·s)",
    ),
    **dict.fromkeys(
        ("step", "predictor"), (_is_step, "a function of (score, x, sigma, sigma_next, noise)")
    ),
    "rule": (lambda name: name in ("sample", "batch"), "'sample' (α = 2r²σ²) or 'batch'"),
    "form": (lambda name: name in ("denoised", "noise"), "'denoised' (D in λ) or 'noise' (ε in σ)"),
}
"""Values that an option of a sampler can have, by the option's name."""


def _check_limits(own: dict[str, Any]) -> None:
    if "sigmas" in own:
        check_levels(own["sigmas"])
        # with steps at each level, one level is enough
        if len(own["sigmas"]) == 1 and "steps" not in own and own.get("denoise") is False:
            raise ValueError("sigmas has one level and denoise=False: there is no step to take")
    for name, (fits, choice) in LIMITS.items():
        if name in own and not fits(own[name]):
            raise ValueError(f"{name}={own[name]!r}: give {choice}")


def _check_start(score: Score, x: Tensor) -> None:
    check_batch(x)
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


class Guarded:
    """A score that must return the shape of x, converted to the type of x."""

    def __init__(self, score: Score) -> None:
        self.score, self.log_prob = score, getattr(score, "log_prob", None)

    def __call__(self, x: Tensor, sigma: Sigma) -> Tensor:
        """Return the score of each sample."""
        s = self.score(x, sigma)
        if s.shape != x.shape:
            raise ValueError(
                f"score returned shape {tuple(s.shape)} for x of shape {tuple(x.shape)}: "
                "it must return one number for each number of x"
            )
        return s if s.dtype == x.dtype else s.to(x.dtype)
