"""The section of a report that compares the columns of a table with the real ones."""

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from torch import Tensor

from ..data import Table
from ..show import plots
from ..show.report import Picture, Section
from .evaluation import Evaluation
from .figure import in_text, number
from .quality import CORRELATION, column_figure, correlations

DRAWN_COLUMNS = 24


def compare_columns(evaluation: Evaluation) -> Section | None:
    """Return the distance of each column, and drawings of both distributions."""
    table, plans = evaluation.data.table, evaluation.plans
    if table is None:
        return None

    def distances(name: str) -> list[str]:
        """Return the distance of each plan, and that of real rows."""
        figures = [f for f in (evaluation.figure(name, plan.name) for plan in plans) if f]
        return [*("\n".join(in_text(figure)) for figure in figures), number(figures[0].real)]

    heads = ["", "kind and values", *(f"distance, {plan.name}" for plan in plans), "real"]
    rows = [[c.label, str(c), *distances(column_figure(c))] for c in table.columns]
    if table.size > 1:
        rows.append([CORRELATION, "", *distances(CORRELATION)])
    sets = {"real": evaluation.real.x} | {k: x.x for k, x in evaluation.samples.items()}
    text = (
        "The distance of a category is the total variation, that of numbers Kolmogorov–Smirnov's: "
        "the largest difference of the share of a set of categories, or of numbers on one side of "
        "a point. Real: the distance of as many real rows of the other split. Reference: "
        f"{evaluation.reference}. Rows that lack a value were left out, and samples lack none."
    )
    return Section("Columns of the table", text, [(heads, rows)], pictures=_draw(table, sets))


def _draw(table: Table, sets: Mapping[str, Tensor]) -> list[Picture]:
    """Draw the distribution of each column and the correlations, in each set of rows."""
    texts = {name: list(zip(*table.decode(x), strict=True)) for name, x in sets.items()}
    cells = dict[str, dict[str, Any]]()
    for i, column in enumerate(table.columns[:DRAWN_COLUMNS]):
        convert = str if column.kind == "category" else float
        cells[column.label] = {k: list(map(convert, text[i])) for k, text in texts.items()}
    caption = f"The first {DRAWN_COLUMNS}." * (len(table.columns) > DRAWN_COLUMNS)
    categories = {column.label: column.categories for column in table.columns}
    pictures = [Picture(plots.as_png(plots.columns(cells, categories)), caption, "Columns.")]
    if table.size > 1:
        ends = accumulate(column.width for column in table.columns)
        pairs = zip(table.columns, ends, strict=True)
        places = {c.label: end - (c.width + 1) / 2 for c, end in pairs if c.width}
        plot = plots.matrices({name: correlations(x) for name, x in sets.items()}, places)
        caption = "A category has a row for each value."
        pictures.append(Picture(plots.as_png(plot), caption, "Correlations."))
    return pictures
