"""What a network was built with, and what it takes.

`type(net)(**net.arguments)` is the same architecture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor


def arguments(names: Mapping[str, Any]) -> dict[str, Any]:
    """Those among the `locals()` at the top of an `__init__`."""
    return {name: value for name, value in names.items() if name not in ("self", "__class__")}


def check_choices(given: Mapping[str, Any], choices: Mapping[str, Sequence[str]]) -> None:
    """Refuse a word that is none of an argument's."""
    for name, known in choices.items():
        if given[name] not in known:
            raise ValueError(f"{name}={given[name]!r}: one of {', '.join(known)}")


def check_least(given: Mapping[str, Any], least: Mapping[str, int]) -> None:
    """Refuse numbers below the least that makes a network."""
    for name, bound in least.items():
        if given[name] < bound:
            raise ValueError(f"{name}={given[name]}: {bound} at least")


def check_shares(given: Mapping[str, Any], *names: str) -> None:
    """Refuse what is no share."""
    for name in names:
        if not 0 <= given[name] <= 1:
            raise ValueError(f"{name}={given[name]}: a share, from 0 to 1")


def check_image(x: Tensor, channels: int, dims: int = 2) -> None:
    """Refuse what is no batch of images, or of signals, of so many channels."""
    if x.ndim != 2 + dims or x.shape[1] != channels:
        kind, axes = {1: ("signals", "length"), 2: ("images", "height, width")}[dims]
        raise ValueError(
            f"x has shape {tuple(x.shape)}: this network takes {kind} of {channels} channels, "
            f"(batch, channels, {axes})"
        )
