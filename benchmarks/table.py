"""What a measurement prints and keeps: tables of raw numbers, and how they are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

Cell = str | float | int | None


@dataclass(frozen=True)
class Table:
    """Rows of raw numbers, shown by the formats of their columns.

    Attributes:
        title: What was measured.
        columns: Heads, each with the format of its numbers, empty for text.
        rows: A cell for each column, None where there is nothing to say.
        notes: Sentences below.
        date: When it was measured.
    """

    title: str
    columns: Mapping[str, str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = field(default=())
    date: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def text(self) -> str:
        """For a terminal."""
        cells = self._cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(self._aligned(row, widths)).rstrip() for row in cells]
        return "\n".join(["", self.title, *lines, *self.notes])

    def markdown(self) -> str:
        """For a document."""
        head, *rows = self._cells()
        rule = ["---" if form == "" else "---:" for form in self.columns.values()]
        lines = [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]
        return "\n\n".join([f"**{self.title}**", "\n".join(lines), *self.notes])

    def _cells(self) -> list[list[str]]:
        forms = self.columns.values()
        shown = [
            [_shown(cell, form) for cell, form in zip(row, forms, strict=True)] for row in self.rows
        ]
        return [list(self.columns), *shown]

    def _aligned(self, row: Sequence[str], widths: Sequence[int]) -> list[str]:
        forms = self.columns.values()
        return [
            f"{text:<{width}}" if form == "" else f"{text:>{width}}"
            for text, width, form in zip(row, widths, forms, strict=True)
        ]


def _shown(cell: Cell, form: str) -> str:
    if cell is None:
        return "–"
    return cell if isinstance(cell, str) else format(cell, form)
