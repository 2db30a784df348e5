"""States that samplers yield, functions of them, and `sampler`, which makes a sampler.

A sampler is a generator of states; the last state is the sample. Stopping early is `break`.
"""

import inspect
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .._ops import Samples, Sigma, check_batch, check_fits, check_returned
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
    evaluations: int | Int[Tensor, "batch"] = 0  # of the score, each sample's where they differ


States: TypeAlias = Generator[State, None, Tensor]
"""The states of a chain, one after each step; as a generator, it also returns the last x."""
Arguments = ParamSpec("Arguments")


def sampler(
    check: Callable[..., None] = lambda **arguments: None,
) -> Callable[[Callable[Arguments, Iterator[State]]], Callable[Arguments, States]]:
    """Turn the body of an algorithm, a generator of states, into a sampler.

    The sampler checks its arguments when it is called, by `LIMITS` and by `check`, to which all are
    passed by name. It runs the body without gradients, leaves the caller's grad mode as it is, and
    counts the steps and the evaluations of the score, unless the body counts those of each sample.
    If an argument `denoise` is true, it ends with the step to σ = 0, x + σ²s.
    """

    def decorate(body: Callable[Arguments, Iterator[State]]) -> Callable[Arguments, States]:
        signature = inspect.signature(body)

        @wraps(body)
        def start(*args: Arguments.args, **kwargs: Arguments.kwargs) -> States:
            check_names(kwargs, signature.parameters, f"{body.__name__}: option ")
            call = signature.bind(*args, **kwargs)
            call.apply_defaults()
            own = call.arguments
            if not isinstance(own["score"], Guarded):  # or x is the state of a sampler that calls
                _check_start(own["score"], own["x"])
                own["score"] = Guarded(own["score"])
            _check_limits(own, signature)
            check(**own)
            last = own["sigmas"][-1].item() if own.get("denoise") else None
            return _run(body(*call.args, **call.kwargs), own["score"], own["x"], last)

        return start

    return decorate


def _run(states: Iterator[State], score: "Guarded", x: Tensor, last: float | None) -> States:
    """Run a body and, from the last noise level if that is given, take the step to σ = 0.

    `torch.no_grad()` around the generator would also hold while it is suspended.
    """
    step: int = 0
    evaluations: int | Tensor = 0
    while True:
        with torch.no_grad():
            state = next(states, None)
        if state is None:
            break
        if not isinstance(state, State):
            raise TypeError(
                f"a sampler yielded {type(state).__name__}: yield State(x, sigma, denoised)"
            )
        x, step, own = state.x, step + 1, state.evaluations
        evaluations = own if isinstance(own, Tensor) else score.calls
        yield state._replace(step=step, evaluations=evaluations)
    if last is not None:
        with torch.no_grad():
            x = x + last**2 * score(x, last)
        yield State(x, 0.0, x, step + 1, evaluations=evaluations + 1)
    return x


def final(states: Iterable[State]) -> Samples:
    """Return the x of the last state: the sample."""
    last = deque(states, maxlen=1)
    if not last:
        raise ValueError("states is empty: a generator yields its states only once")
    return last[0].x


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
WHOLE = (lambda number: number >= 1 and number % 1 == 0), "a whole number ≥ 1"


def _is_step(step: Any) -> bool:
    try:
        inspect.signature(step).bind("score", "x", "sigma", "sigma_next", "noise")
    except TypeError:
        return False
    return True


SHARE = (lambda share: 0 <= share <= 1), "a share from 0 to 1"
STEP = _is_step, "a function of (score, x, sigma, sigma_next, noise)"
LIMITS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "sigma": (lambda x: not isinstance(x, Tensor) and 0 <= x < math.inf, "one float ≥ 0"),
    **dict.fromkeys(("steps", "leapfrogs", "order", "max_evaluations"), WHOLE),
    **dict.fromkeys(("inner", "jump", "resamplings"), WHOLE),
    "corrections": (lambda n: n >= 0 and n % 1 == 0, "a whole number ≥ 0"),
    **dict.fromkeys(("alpha", "epsilon", "ratio", "strength"), POSITIVE),
    **dict.fromkeys(("sigma_data", "tolerance"), POSITIVE),
    **dict.fromkeys(("amount", "s_noise"), NOT_NEGATIVE),
    "momentum": (lambda share: 0 <= share < 1, "the share of the velocity to keep, 0 ≤ share < 1"),
    **dict.fromkeys(("zeta", "eta"), SHARE),
    "kernel": (callable, "a sampler at one σ, such as langevin or underdamped"),
    "convention": (lambda name: name in ("official", "paper"), "'official' (αs) or 'paper' (αs/2)"),
    **dict.fromkeys(("step", "predictor"), STEP),
    "rule": (lambda name: name in ("sample", "batch"), "'sample' (α = 2r²σ²) or 'batch'"),
    "form": (lambda name: name in ("denoised", "noise"), "'denoised' (D in λ) or 'noise' (ε in σ)"),
}
"""Values that an option of a sampler can have, by the option's name."""


def _check_limits(own: dict[str, Any], signature: inspect.Signature) -> None:
    if "sigmas" in own:
        check_levels(own["sigmas"])
        # with steps at each level, one level is enough
        if len(own["sigmas"]) == 1 and "steps" not in own and own.get("denoise") is False:
            raise ValueError("sigmas has one level and denoise=False: there is no step to take")
    for name, (fits, choice) in LIMITS.items():
        if name not in own:
            continue
        value, default = own[name], signature.parameters[name].default
        if not (default is None if value is None else fits(value)):
            raise ValueError(f"{name}={value!r}: give {choice}")


def _check_start(score: Score, x: Tensor) -> None:
    check_batch(x)
    shape, device = getattr(score, "shape", None), getattr(score, "device", None)
    shape = shape if isinstance(shape, torch.Size) else x.shape[1:]
    device = device if isinstance(device, torch.device) else x.device
    check_fits(x, shape, device, "score")
    if not torch.isfinite(x).all():
        raise ValueError("x has NaN or infinite values: sample the start from a Prior")


class Guarded:
    """A score that must return the shape of x, converted to the type of x, and counts its calls."""

    def __init__(self, score: Score) -> None:
        self.score, self.log_prob, self.calls = score, getattr(score, "log_prob", None), 0

    def __call__(self, x: Tensor, sigma: Sigma) -> Tensor:
        """Return the score of each sample."""
        self.calls += 1
        s = self.score(x, sigma)
        check_returned(s, x, "score")
        return s if s.dtype == x.dtype else s.to(x.dtype)
