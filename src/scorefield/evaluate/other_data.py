"""Other data, prepared as those of a run."""

from collections.abc import Mapping
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import (
    TABLE_SUFFIXES,
    Arrays,
    Dataset,
    Pairs,
    Source,
    Table,
    find_loader,
    load_data,
    tensor_data,
)
from ..data.csv_table import read_cells
from ..data.table import TABLE_CONDITION
from ..runs.config import Experiment
from ..runs.resume import OwnData

OPTIONS_OF_RUN = ("crop", "fit", "signals", "condition", "parameters")
"""Options of a run's data that other data are loaded with as well."""


def open_like(
    data: OwnData, own: Dataset, experiment: Experiment, options: dict[str, Any]
) -> Dataset:
    """Load data as those of a run: images scaled to its size, rows in the columns of its table."""
    if isinstance(data, Tensor | tuple):
        return tensor_data(*((data,) if isinstance(data, Tensor) else data))
    table = own.table
    if isinstance(data, Dataset):
        others = data
    elif table is not None and Path(data).suffix.lower() in TABLE_SUFFIXES:
        return Dataset(Path(data).stem, _read_whole_rows(Path(data), table), table=table)
    else:
        others = load_data(data, **_options_like(data, own, experiment) | options)
    if others.table == table or (others.table is None and others is data):
        return others
    if table is not None and others.table is not None and _same_columns(table, others.table):
        train = _change_units(others.train, others.table, table)
        test = others.test and _change_units(others.test, others.table, table)
        return replace(others, train=train, test=test, table=table)
    reason = "is not a table, but the run learned the rows of one"
    if others.table is not None:
        reason = "is a table, but the run did not learn one"
        reason = reason if table is None else "is another table than that of the run"
    name = others.name if others is data else data
    raise ValueError(f"{name} {reason}: give data of the kind that it was trained on")


def _options_like(data: str | Path, own: Dataset, experiment: Experiment) -> dict[str, Any]:
    """Return the options that prepare data as those of a run, as far as their loader takes them."""
    usual = {k: v for k, v in experiment.data.arguments.items() if k in OPTIONS_OF_RUN}
    if own.kind == "images":
        channels, *size = own.train.shape
        usual |= {"channels": channels, "size": tuple(size)}
        if experiment.data.condition:  # they are images too, perhaps of another size
            usual["size"] = experiment.data.options.get("size")
    accepted = signature(find_loader(data).func).parameters
    return {name: value for name, value in usual.items() if name in accepted}


def _read_whole_rows(path: Path, table: Table) -> Source:
    """Return the vectors of a file's rows, which must have all cells of a table, as in training."""
    whole = Table((*table.columns, *table.condition), table.delimiter)
    names, numbers = [column.name for column in whole.columns], list[list[float]]()
    for i, row in enumerate(read_cells(path, whole), 1):
        if missing := [name for name in names if name not in row]:
            raise ValueError(f"{path}: row {i} has no value for {missing[0]!r}: give a whole row")
        cells = whole.parse(row)
        numbers.append([cells[name] for name in names])
    learned, fixed = np.split(np.array(numbers), [len(table.columns)], 1)
    rows = Arrays(table.standardise(learned))
    if not table.condition:
        return rows
    conditions = Arrays(table.condition_table.standardise(fixed, exact=True))
    return Pairs(rows, {TABLE_CONDITION: conditions})


def _same_columns(one: Table, other: Table) -> bool:
    """Return True for tables of simulations with the same columns, perhaps in other units."""
    real = all(column.kind == "real" for column in (*one.columns, *other.columns))
    names = ([column.name for column in table.columns] for table in (one, other))
    return real and not (one.condition or other.condition) and next(names) == next(names)


def _change_units(source: Source, before: Table, after: Table) -> Source:
    """Return vectors of one table, and their conditions, in the units of another."""
    x, values = source.take(torch.arange(len(source)))
    (mean, scale), (own_mean, own_scale) = (
        torch.tensor([(column.mean[0], column.scale) for column in table.columns]).double().T
        for table in (before, after)
    )
    rows = Arrays(((x * scale + mean - own_mean) / own_scale).float())
    if not isinstance(values, Mapping):
        return rows
    return Pairs(rows, {name: Arrays(value) for name, value in values.items()})
