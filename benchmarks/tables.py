"""Print the tables of docs/speed.md and docs/numbers.md in Markdown, from the stored results.

--out is the directory of the results. --only prints whole tables instead, by parts of their titles.
Other options have no effect.
"""

from collections.abc import Iterator, Sequence

from . import BENCHMARKS, Setting
from .table import Cell, Table, read_tables

OPTIMIZED = ("ms a step", "ratio", "of the peak", "MiB", "error of the score")
COST = ("sampler", "NFE", "seconds", "times faster", "Fréchet", "from", "to")
PLANS = ("annealed L", "annealed_langevin|43|", "euler|10|", "heun|9|", "heun|19|",
         "dpm_solver|4|", "dpm_solver|10|", "unipc|10|", "unipc, fitted",
         "adams_bashforth|10|", "adams_bashforth, fitted")  # fmt: skip
CHAIN_COLUMNS = ("package", "sampler", "variance, other", "accepted", "CPU s", "ratio")
LOSS_COLUMNS = ("package", "loss", "error", "from", "to", "CPU ms a step", "ratio")
POSTERIOR_COLUMNS = ("package", "method", "mean", "std, least", "std, most", "bias", "ratio")
DIGESTS = {
    "A step as `optimize` computes it": ("step", "", OPTIMIZED, ("optimize|",)),
    "Samples of the preset digits": ("frontier", "frontier, digits", COST, PLANS),
    "A training step of a U-Net": ("peers", "training", ("package", "ms a step", "ratio"), ("",)),
    "Chains": ("accuracy", "Chains", CHAIN_COLUMNS, ("",)),
    "Score matching": ("accuracy", "matching", LOSS_COLUMNS, ("",)),
    "Posteriors": ("accuracy", "Posteriors of mix64", POSTERIOR_COLUMNS, ("",)),
}
"""By title: the benchmark, a part of its tables' titles, the columns, and how the rows begin.

The beginning of a row has "|" after each cell.
"""


def published_tables(setting: Setting) -> Iterator[Table]:
    """Yield the tables of the pages, or the whole ones that are chosen."""
    stored = {name: read_tables(setting.out / f"{name}.json", {}) for name in BENCHMARKS}
    if setting.only:
        titles = {table.title: table for tables in stored.values() for table in tables}
        yield from setting.select(titles).values()
        return
    for title, (name, part, columns, rows) in DIGESTS.items():
        tables = [table for table in stored[name] if part in table.title]
        if not tables:
            raise ValueError(f"--out {setting.out}: no table of {name} has {part!r}")
        source = f"{title}, {name}.json of {max(table.date for table in tables)}"
        yield excerpt(source, tables, columns, rows)


def excerpt(
    title: str, tables: Sequence[Table], columns: Sequence[str], rows: tuple[str, ...]
) -> Table:
    """Return some rows and columns as one table; of several, their titles are the first column."""
    of = {"of": ""} if len(tables) > 1 else {}
    cells: list[list[Cell]] = []
    for table in tables:
        for row in table.rows:
            if "".join(f"{cell}|" for cell in row).startswith(rows):
                named = dict(zip(table.columns, row, strict=True))
                cells.append([table.title] * len(of) + [named[name] for name in columns])
    return Table(title, of | {name: tables[0].columns[name] for name in columns}, cells)
