"""The kind of a table's column, its categories and moments, from the texts of its cells."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..values import data_option
from .table import Column, ColumnKind

MAX_TABLE_NUMBER = 1e100
MAX_CATEGORIES = 100
FEW_NUMBERS = 10
"""Whole numbers are categories if so few differ, and each occurs as often on average."""

NUMBER_TEXT = re.compile(r"[+-]?(?:\d+(\.\d*)?|(\.\d+))(?:[eE]([+-]?\d{1,3}))?", re.ASCII)
NUMBER_MARKS = re.compile(r"[$€£¥₹%\s]|(?<=\d)[,'](?=\d)")
"""Removed to find numbers; 1,000 may be 1000 or 1, so a person has to decide."""

REWRITE = "write numbers as 1234.5 and read the file again"


@dataclass
class ColumnScan:
    """Summary of the cells of a column.

    `texts` are the distinct cells, up to one more than there may be categories; `word` and
    `fraction` are place and text of the first cell that is not a number or not a whole one.
    `remark` is what the user should know about the guessed kind; see `join_remarks`.
    """

    name: str
    texts: dict[str, None] = field(default_factory=dict)
    decimals: int = 0
    numeric: bool = False
    word: tuple[str, str] | None = None
    fraction: tuple[str, str] | None = None
    missing: int = 0
    kind: ColumnKind = "category"
    remark: str = ""

    def add(self, place: str, text: str) -> None:
        """Add a cell."""
        if len(self.texts) <= MAX_CATEGORIES:
            self.texts[text] = None
        match = match_number(text)
        if match is None:
            self.word = self.word or (place, text)
            return
        if abs(float(text)) >= MAX_TABLE_NUMBER:
            raise ValueError(f"{place}: {text} for {self.name[:40]!r} is beyond {MAX_TABLE_NUMBER}")
        self.numeric = True
        fraction, exponent = match[1] or match[2], match[3]
        if fraction is not None or exponent is not None:
            self.fraction = self.fraction or (place, text)
            self.decimals = max(self.decimals, len(fraction or ".") - 1 - int(exponent or 0))

    def choose_kind(
        self, n: int, source: str, types: Mapping[str, ColumnKind], drop: Sequence[str]
    ) -> None:
        """Set the kind of a column of n cells: the user's choice, or a guess with a remark."""
        leave_out = f"leave the column out by {data_option('drop', [*drop, self.name])}"
        category = data_option("types", {**types, self.name: "category"})
        few = len(self.texts) <= FEW_NUMBERS and n >= FEW_NUMBERS * len(self.texts)
        if len(self.texts) > 1 and self.numeric and (self.fraction or not few):
            # in a column with numbers, words are mistakes
            self.kind = "real" if self.word or self.fraction else "integer"
        self.kind = types.get(self.name, self.kind)
        wrong = {"real": self.word, "integer": self.word or self.fraction}.get(self.kind)
        if wrong is not None:
            whole = "" if self.word else "whole "
            raise ValueError(
                f"{wrong[0]}: {wrong[1][:40]!r} in {self.name[:40]!r} is not a {whole}number; "
                f"correct it, or change its column's kind by {category}, or {leave_out}"
            )
        number = self._disguised_number() if self.name not in types else None
        if self.kind == "category" and number is not None:
            self.remark = (
                f"{self.name[:40]!r} is taken as a category, but {number!r} looks like a number"
            )
        if self.kind == "category" and len(self.texts) > MAX_CATEGORIES:
            raise ValueError(
                f"{source}: {self.name[:40]!r} has more than {MAX_CATEGORIES} different "
                f"texts: {leave_out}" + f"; {self.remark}: {REWRITE}" * bool(self.remark)
            )

    def _disguised_number(self) -> str | None:
        """Return a text with `NUMBER_MARKS`, if most of the column's texts look like numbers."""
        numbers = [text for text in self.texts if match_number(NUMBER_MARKS.sub("", text))]
        disguised = (text for text in numbers if not match_number(text))
        return next(disguised, None) if 2 * len(numbers) > len(self.texts) else None

    @property
    def categories(self) -> dict[str, float]:
        """Positions of the categories in order: numbers by size, then words."""
        size = {text: float(text) if match_number(text) else math.inf for text in self.texts}
        order = sorted(size, key=lambda text: (size[text], text))
        return {text: float(i) for i, text in enumerate(order) if self.kind == "category"}

    def fit(self, values: NDArray[np.float64], rows: int) -> Column:
        """Return the column of these numbers in its cells to train on; the file has `rows`."""
        missing = self.missing / rows
        if self.kind == "category":
            texts = tuple(self.categories)
            p = np.bincount(values.astype(np.int64), minlength=len(texts)) / len(values)
            scale = float(np.sqrt((p * (1 - p)).mean())) or 1.0
            mean = tuple(p.tolist())
            return Column(self.name, self.kind, mean, scale, categories=texts, missing=missing)
        m = float(values.mean())
        # relative to the largest deviation, so that squares neither vanish nor overflow
        largest = float(np.abs(values - m).max()) or 1.0
        scale = largest * float(((values - m) / largest).std())
        if self.kind == "integer":
            scale = math.hypot(scale, 1 / math.sqrt(12))
        ends = float(values.min()), float(values.max())
        scale, decimals = scale or 1.0, self.decimals
        return Column(self.name, self.kind, (m,), scale, ends, decimals, missing=missing)


def join_remarks(scans: Sequence[ColumnScan], types: Mapping[str, ColumnKind]) -> list[str]:
    """Return the remarks of columns, if any, with one setting that confirms all categories."""
    scans = [scan for scan in scans if scan.remark]
    kinds = {**types, **{scan.name: scan.kind for scan in scans}}
    remarks = "; ".join(scan.remark for scan in scans)
    confirm = f"or confirm {'categories' if len(scans) > 1 else 'the category'} by"
    return [f"{remarks}: {REWRITE}, {confirm} {data_option('types', kinds)}"] * bool(scans)


def match_number(text: str) -> re.Match[str] | None:
    """Return the match of a text that is a number."""
    return NUMBER_TEXT.fullmatch(text) if len(text) < 50 else None
