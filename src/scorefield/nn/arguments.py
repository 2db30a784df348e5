"""Keep and check the arguments of a network: `type(net)(**net.arguments)` builds it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def constructor_arguments(names: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments among the `locals()` at the top of an `__init__`."""
    return {name: value for name, value in names.items() if name not in ("self", "__class__")}


def check_choices(arguments: Mapping[str, Any], choices: Mapping[str, Sequence[str]]) -> None:
    """Refuse a word that an argument does not accept."""
    for name, words in choices.items():
        if arguments[name] not in words:
            raise ValueError(f"{name}={arguments[name]!r}: one of {', '.join(words)}")


def check_minimum(arguments: Mapping[str, Any], minimum: Mapping[str, int]) -> None:
    """Refuse numbers that are too small."""
    for name, bound in minimum.items():
        if arguments[name] < bound:
            raise ValueError(f"{name}={arguments[name]}: {bound} at least")


def check_fractions(arguments: Mapping[str, Any], *names: str) -> None:
    """Refuse numbers outside [0, 1]."""
    for name in names:
        if not 0 <= arguments[name] <= 1:
            raise ValueError(f"{name}={arguments[name]}: a fraction, from 0 to 1")
