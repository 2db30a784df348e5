"""Print the tables of docs/speed.md in Markdown: rows and columns chosen from the stored results.

--out is the directory of the results. --only prints whole tables instead, by parts of their titles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from . import BENCHMARKS, Setting
from .table import Cell, Table, stored_tables


class Digest(NamedTuple):
    """Rows and columns of the tables of one benchmark.

    Attributes:
        name: The benchmark.
        part: Part of the titles of its tables. If there are several, the title is the first column.
        columns: Columns that are taken.
        rows: Beginnings of the rows that are taken, with "|" after each cell; all by default.
    """

    name: str
    part: str
    columns: tuple[str, ...]
    rows: tuple[str, ...] = ("",)


OPTIMIZED = ("ms a step", "ratio", "of the peak", "MiB", "error of the score")
COST = ("sampler", "NFE", "seconds", "times faster", "Fréchet", "from", "to")
PLANS = ("annealed L", "euler|10|", "heun|9|", "heun|19|", "dpm_solver|4|", "dpm_solver|10|")
DIGESTS = {
    "A step as `optimize` computes it": Digest("step", "", OPTIMIZED, ("optimize|",)),
    "Samples of the preset digits": Digest("frontier", "frontier, digits", COST, PLANS),
    "A training step of a U-Net": Digest("peers", "training", ("package", "ms a step", "ratio")),
}


def run(setting: Setting) -> Iterator[Table]:
    stored = {name: stored_tables(setting.out / f"{name}.json", {}) for name in BENCHMARKS}
    if setting.only:
        titles = {table.title: table for tables in stored.values() for table in tables}
        yield from setting.select(titles).values()
        return
    for title, digest in DIGESTS.items():
        tables = [table for table in stored[digest.name] if digest.part in table.title]
        if not tables:
            raise ValueError(f"--out {setting.out}: no table of {digest.name} has {digest.part!r}")
        yield excerpt(title, digest, tables)


def excerpt(title: str, digest: Digest, tables: Sequence[Table]) -> Table:
    """Return the rows and columns of a digest as one table."""
    several, rows = len(tables) > 1, list[list[Cell]]()
    for table in tables:
        for row in table.rows:
            if "".join(f"{cell}|" for cell in row).startswith(digest.rows):
                cells = dict(zip(table.columns, row, strict=True))
                rows.append([table.title] * several + [cells[name] for name in digest.columns])
    columns = {name: tables[0].columns[name] for name in digest.columns}
    source = f"{digest.name}.json of {max(table.date for table in tables)}"
    return Table(f"{title}, {source}", {"of": ""} | columns if several else columns, rows)
