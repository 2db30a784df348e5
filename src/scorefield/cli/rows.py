"""Rows of a table given some of their cells, for `sample --given` and `restore ROWS.csv`."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..data import Table
from ..data.csv_table import read_cells
from ..disk import write_file
from ..fast import optimize
from ..restore import METHODS, require_score, restore_rows
from ..values import quantity
from . import files, options
from .given import refuse_conditions
from .startup import say


def sample_given(
    run: Path,
    table: Table,
    cells: Mapping[str, str],
    n: int,
    out: Path | None,
    overwrite: bool,
    **settings: Any,
) -> None:
    """Write n rows with the given cells, and the others sampled conditioned on them."""
    shape = torch.Size([table.size])
    out = files.choose_output(out, run, table, shape, overwrite)
    (x,), about = _complete(run, table, [cells], n, **settings)
    about |= {"given": cells, "n": n}
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
    refuse_conditions(run, files.load_model(run, "cpu")[0])
    if path is None:
        truth = files.read_held_out(run, data, count)
        names = [column.name for column in table.columns]
        visible = names[: len(names) // 2]
        rows = [dict(zip(visible, row, strict=False)) for row in table.decode(truth)]
        write_file(out / "truth.csv", table.text(truth).encode())
    else:
        rows = read_cells(path, table)
    x, about = _complete(run, table, rows, n, **settings)
    about |= {"rows": path and str(path), "n": n}
    for old in out.glob("completion-*.csv"):
        old.unlink()
    for i in range(n):
        write_file(out / f"completion-{i + 1}.csv", table.text(x[:, i], rows).encode())
    write_file(out / "restored.json", json.dumps(about, indent=2).encode())
    whole = sum(len(row) == len(table.columns) for row in rows)
    remark = f" ({whole} without a missing cell)" * (whole > 0)
    say(f"wrote {files.describe_completions(n, len(rows), 'row')}{remark} into {out}")


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
) -> tuple[Float[Tensor, "rows n size"], dict[str, Any]]:
    """Sample completions of the rows, with progress; return them and the notes for files."""
    model, _, about = files.load_model(run, device)
    require_score(model)
    most = METHODS["split_gibbs"]
    calls = most.calls(most.levels) * len(rows)
    say(f"computing: {optimize(model, batch=batch, evaluations=calls, precision=precision)}")
    watch = partial(files.track_chains, what="restoring")
    x = restore_rows(model, table, rows, n, batch=batch, watch=watch, **settings)
    settings = {name: value for name, value in settings.items() if name != "condition"}
    return x, about | settings | {"batch": batch, "device": device, "precision": precision}
