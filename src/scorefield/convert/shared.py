"""What the families do alike: find the weights, the ends of the noise, and the prior."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..prior import Prior

State = Mapping[str, Tensor]
Report = Callable[[str], None]


LARGEST = 65_536
"""Pixels a side."""


def names(checkpoint: object) -> set[str]:
    """The names in a checkpoint's model, none if it has no such thing."""
    state = _inner(_first(checkpoint))
    return {_bare(name) for name in state} if isinstance(state, Mapping) else set()


def raw_state(checkpoint: object) -> dict[str, Tensor]:
    """The weights as trained, without `module.`: of a list, a dict around them, or themselves."""
    return plain(_first(checkpoint))


def plain(state: object) -> dict[str, Tensor]:
    """Named tensors without `module.`, which may stand under a name of their own."""
    state = _inner(state)
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError("no named tensors where a model's weights should be")
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if _bare(name) in found:
            raise ValueError(f"{_bare(name)} is there twice, with and without module. before it")
        found[_bare(name)] = checked(_bare(name), value)
    return found


def checked(name: str, value: Tensor, ndim: int | None = None) -> Tensor:
    """A tensor that is floating, dense, not empty, and of so many dimensions."""
    if value.layout != torch.strided or not value.is_floating_point():
        raise ValueError(
            f"{name} is of {value.dtype} and {value.layout}: the checkpoint is damaged, for its "
            "tensors are dense floats"
        )
    if value.numel() == 0 or ndim not in (None, value.ndim):
        raise ValueError(
            f"{name} has the shape {tuple(value.shape)}: the checkpoint is damaged, for it is "
            f"{'not empty' if ndim is None else f'of {ndim} dimensions, and not empty'}"
        )
    return value


def image_size(given: int) -> int:
    """Pixels a side, if they can be."""
    if not isinstance(given, int) or not 1 <= given <= LARGEST:
        raise ValueError(f"image_size={given}: give the pixels a side, from 1 to {LARGEST}")
    return given


def _first(checkpoint: object) -> object:
    return checkpoint[0] if isinstance(checkpoint, (list, tuple)) and checkpoint else checkpoint


def _inner(state: Any) -> Any:
    for name in ("model_state", "model", "state_dict"):
        state = state.get(name, state) if isinstance(state, Mapping) else state
    return state


def _bare(name: object) -> str:
    return str(name).removeprefix("module.")


def ends(
    ladder: Tensor | None,
    sigma_max: float | None,
    sigma_min: float | None,
    published: tuple[float, float],
    report: Report,
) -> tuple[float, float]:
    """The largest σ and the smallest: the stored ladder's, those given, or the paper's."""
    if ladder is not None:
        checked("sigmas", ladder, ndim=1)
    known = published if ladder is None else (ladder[0].item(), ladder[-1].item())
    first = known[0] if sigma_max is None else sigma_max
    last = known[1] if sigma_min is None else sigma_min
    if ladder is None:
        source = "assumed" if None in (sigma_max, sigma_min) else "given"
    # ladders are stored in float32, or as exponentials of logarithms
    elif all(map(partial(math.isclose, rel_tol=1e-5), known, (first, last))):
        (first, last), source = known, "inferred"
    else:
        raise ValueError(
            f"the checkpoint has its own ladder, {known[0]:.4g} to {known[1]:.4g}: leave out "
            "sigma_max and sigma_min"
        )
    if not first > last > 0:
        raise ValueError(f"σ from {first:.4g} to {last:.4g}: give sigma_max > sigma_min > 0")
    report(f"{source}: σ from {first:.4g} to {last:.4g} (sigma_max, sigma_min)")
    return first, last


def uniform_prior(channels: int, size: int, report: Report) -> Prior:
    """The moments of images whose pixels are uniform in [0, 1]."""
    report("assumed: the prior has the moments of uniform pixels, mean ½ and variance 1/12")
    return Prior(torch.full((channels, size, size), 0.5), torch.tensor(1 / 12))
