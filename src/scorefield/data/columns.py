"""What the columns of a text file are: their names, their kinds, and the order of categories."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from .table import KINDS, Kind

MOST_COLUMNS, MOST_CATEGORIES = 2048, 100
FEW = 10
"""Whole numbers are categories where there are so few of them, each this often on average."""

NUMBER = re.compile(r"[+-]?(?:\d+(\.\d*)?|(\.\d+))(?:[eE]([+-]?\d{1,3}))?", re.ASCII)
MISSING = {"", "na", "n/a", "nan", "null", "?"}
"""In any case."""


def names_of(row: Sequence[str], source: str) -> list[str]:
    """The names in a header, if it is one."""
    names = [name.strip() for name in row]
    if not any(names):
        raise ValueError(f"{source} holds no header: give the names of its columns first")
    if len(names) > MOST_COLUMNS:
        raise ValueError(f"{source} has {len(names)} columns, and a table at most {MOST_COLUMNS}")
    if all(_number(name) for name in names):
        raise ValueError(f"{source} begins with numbers: put a header above them")
    if "" in names:
        raise ValueError(
            f"{source}: column {names.index('') + 1} has no name (pandas leaves out that of its "
            "index: save with index=False)"
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{source}: two columns are called {twice[:40]!r}")
    return names


def chosen(
    names: Sequence[str], drop: Sequence[str], types: Mapping[str, Any], source: str
) -> list[int]:
    """The positions of the columns that are not dropped."""
    for name in (*types, *drop):
        if name not in names:
            close = get_close_matches(str(name), names, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names[:20])}"
            raise ValueError(f"{source} has no column {name!r}: {hint}")
    for name, told in types.items():
        if told not in KINDS:
            raise ValueError(f"types: {name} is {told!r}, and may be {', '.join(KINDS)}")
    kept = [i for i, name in enumerate(names) if name not in drop]
    if not kept:
        raise ValueError(f"drop leaves no column of {source}")
    return kept


@dataclass
class Seen:
    """What has been seen of a column."""

    texts: dict[str, None] = field(default_factory=dict)
    """Each once, up to one more than categories may be."""
    decimals: int = 0
    numbers: int = 0
    word: tuple[int, str] | None = None
    """The first that is no number, and its line."""
    fraction: tuple[int, str] | None = None
    """The first number that is not written as a whole one."""

    def add(self, line: int, text: str) -> None:
        """Look at a cell."""
        if len(self.texts) <= MOST_CATEGORIES:
            self.texts[text] = None
        found = _number(text)
        if found is None:
            self.word = self.word or (line, text)
            return
        self.numbers += 1
        part, power = found[1] or found[2], found[3]
        if part is not None or power is not None:
            self.fraction = self.fraction or (line, text)
            self.decimals = max(self.decimals, len(part or ".") - 1 - int(power or 0))


def kind_of(name: str, seen: Seen, n: int, *, told: str | None, source: str) -> Kind:
    """What a column of n cells is: what the user says, or a guess."""
    kind = next((kind for kind in KINDS if kind == told), None) or _guess(seen, n)
    wrong = {"real": seen.word, "integer": seen.word or seen.fraction}.get(kind)
    if wrong is not None:
        line, text = wrong
        least = "whole number" if kind == "integer" and seen.word is None else "number"
        raise ValueError(
            f"{source}, line {line}: {text[:40]!r} in the column {name[:40]!r} is no {least}; mend "
            "it, or say what the column is by types, or leave it out by drop"
        )
    if kind == "category" and len(seen.texts) > MOST_CATEGORIES:
        raise ValueError(
            f"{source}: the column {name[:40]!r} holds more than {MOST_CATEGORIES} different "
            f"texts: leave it out by drop (--data.options.drop='[{name[:40]}]')"
        )
    return kind


def _guess(seen: Seen, n: int) -> Kind:
    few = len(seen.texts) <= FEW and n >= FEW * len(seen.texts)
    if len(seen.texts) == 1 or not seen.numbers or (few and not seen.fraction):
        return "category"
    # of numbers and words the words are mistakes
    return "integer" if seen.word is None and seen.fraction is None else "real"


def is_missing(text: str) -> bool:
    """Whether a cell holds no value."""
    return len(text) < 5 and text.lower() in MISSING


def order_of(text: str) -> tuple[float, str]:
    """By which categories are sorted: numbers by size, then words."""
    return (float(text) if _number(text) else float("inf"), text)


def _number(text: str) -> re.Match[str] | None:
    return NUMBER.fullmatch(text) if len(text) < 50 else None
