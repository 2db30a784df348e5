"""Rows of a table given some of their cells, for `sample --given` and `restore ROWS.csv`."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..data import Table
from ..data.csv_table import read_cells
from ..data.table import cell_text
from ..disk import write_file
from ..fast import optimize
from ..restore import FILTER_LEVELS, restore_rows
from ..values import quantity, spelling_hint
from . import files, options
from .startup import join_group, say


def sample_given(
    run: Path, texts: Sequence[str], n: int, out: Path | None, overwrite: bool, **settings: Any
) -> None:
    """Write n rows with the given cells, and the others sampled conditioned on them."""
    join_group()
    table = Table.read(run)
    cells, shape = parse_given(texts, table), torch.Size([table.size])
    out, _ = files.choose_output(out, run, shape, overwrite)
    (x,) = _complete(run, table, [cells], n, **settings)
    about = files.describe_model(run) | settings | {"given": cells, "n": n}
    with files.open_output(out, n, shape, table, about, overwrite, cells) as write:
        write(x)
    say(
        f"wrote {out}: {quantity(n, 'row')} given {', '.join(f'{k}={v}' for k, v in cells.items())}"
    )


def restore_table(
    run: Path, path: Path | None, n: int, out: Path, data: str | None, count: int, **settings: Any
) -> None:
    """Write n copies of a table, with the missing cells sampled conditioned on the others.

    Without a path they are of `count` held-out rows, of which the left half of the columns stays.
    """
    table = Table.read(run)
    if path is None:
        truth = files.read_held_out(run, data, count)
        names = [column.name for column in table.columns]
        visible = names[: len(names) // 2]
        rows = [dict(zip(visible, row, strict=False)) for row in table.decode(truth)]
        write_file(out / "truth.csv", table.text(truth).encode())
    else:
        rows = read_cells(path, table)
    x = _complete(run, table, rows, n, **settings)
    about = files.describe_model(run) | settings | {"rows": path and str(path), "n": n}
    for i in range(n):
        write_file(out / f"completion-{i + 1}.csv", table.text(x[:, i], rows).encode())
    write_file(out / "restored.json", json.dumps(about, indent=2).encode())
    whole = sum(len(row) == len(table.columns) for row in rows)
    remark = f" ({whole} without a missing cell)" * (whole > 0)
    say(f"wrote {files.describe_completions(n, len(rows), 'row')}{remark} into {out}")


def parse_given(texts: Sequence[str], table: Table) -> dict[str, str]:
    """Return the cells of city=Rome, or of a list city=Rome,age=30."""
    columns = {column.name: column for column in table.columns}
    names = sorted(columns, key=len, reverse=True)  # if one name begins another, the longer one
    assignment = re.compile(rf"(?:^|,)\s*({'|'.join(map(re.escape, names))})\s*=")
    cells = dict[str, str]()
    for text in texts:
        before, *parts = assignment.split(text)
        if before or not parts:
            name = text.partition("=")[0].strip()
            fix = f"give a value, as in {name}=VALUE"
            fix = fix if name in columns else f"no such column, {spelling_hint(name, columns)}"
            raise ValueError(f"--given {text}: {fix}")
        for name, value in zip(parts[::2], map(cell_text, parts[1::2]), strict=True):
            if name in cells or not value:
                raise ValueError(f"--given {text}: give one value, as in {name}=VALUE")
            cells[name] = value
    table.parse(cells)
    return cells


def _complete(
    run: Path,
    table: Table,
    rows: Sequence[Mapping[str, str]],
    n: int,
    *,
    device: str,
    precision: options.PrecisionName,
    batch: int,
    **settings: Any,
) -> Float[Tensor, "rows n size"]:
    """Sample completions of the rows, and show progress."""
    model, _ = files.load_model(run, device)
    calls = 2 * FILTER_LEVELS * len(rows)
    say(f"computing: {optimize(model, batch=batch, evaluations=calls, precision=precision)}")
    watch = partial(files.track_chains, what="restoring")
    return restore_rows(model, table, rows, n, batch=batch, watch=watch, **settings)
