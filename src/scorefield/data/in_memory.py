"""Data in memory: tensors of samples, and simulations with their parameters."""

from collections.abc import Mapping

import torch
from torch import Tensor

from .._ops import RowCondition
from .arrays import check_samples, condition_rows, number_labels
from .column_scan import ColumnScan
from .sources import Arrays, Dataset, Pairs, Source, hold_out
from .table import PLAIN_DECIMALS, Table


def tensor_data(x: Tensor, condition: RowCondition = None) -> Dataset:
    """Return samples, n × shape, as data; they are split as a file of the same samples would be.

    `condition` is a tensor with a row for each sample, or several by name; whole numbers, one a
    sample, are classes.
    """
    images = x.dtype == torch.uint8 and x.ndim in (4, 5)
    if x.ndim < 2 or not (images or x.is_floating_point()):
        raise TypeError(
            f"data is a tensor of {x.dtype} and shape {tuple(x.shape)}: give floats (n, ...), or "
            "images (n, channels, height, width) or volumes (n, channels, depth, height, width) as "
            "uint8"
        )
    tensors = {"condition": condition} if isinstance(condition, Tensor) else {**(condition or {})}
    names = [k for k, v in tensors.items() if v.ndim == 1 and not v.is_floating_point()]
    labels = tensors.pop(names[0]).cpu().numpy() if len(names) == 1 else None
    numbers, classes = number_labels("data", labels, len(x))
    source: Source = Arrays(x.detach().cpu(), numbers)
    check_samples("data", source)
    if tensors:
        source = Pairs(source, {k: condition_rows("data", k, False, v) for k, v in tensors.items()})
    return Dataset.split("tensor", source, hold_out(len(source), 0.1), classes=classes)


def simulations(
    parameters: Mapping[str, Tensor],
    observations: Mapping[str, Source] | Mapping[str, Tensor],
    *,
    name: str = "simulations",
    held_out: float = 0.1,
) -> Dataset:
    """Return simulations as data for p(parameters | observations).

    Parameters are numbers or vectors, a row for each simulation. They are standardised, as the
    columns of a table whose `numbers` turns samples back. The model standardises observations.

    >>> data = simulations({"theta": theta}, {"x": x})
    >>> table, model = data.table, finish(PRESETS["posterior"], "runs/posterior", data=data)
    >>> theta = table.numbers(sample(model, 1000, condition=x[0]))
    """
    columns = dict[str, Tensor]()
    for key, rows in parameters.items():
        numbers = rows.reshape(len(rows), -1).T
        names = [key] if len(numbers) == 1 else [f"{key}_{i}" for i in range(1, len(numbers) + 1)]
        columns |= zip(names, numbers, strict=True)
    values = torch.stack([*columns.values()], 1).double().cpu().numpy()
    split = hold_out(len(values), held_out)
    scans = [ColumnScan(name, kind="real", decimals=PLAIN_DECIMALS + 1) for name in columns]
    train = values[split[0].numpy()].T
    fits = (scan.fit(x, len(values)) for scan, x in zip(scans, train, strict=True))
    table = Table(tuple(fits))
    others = {
        k: condition_rows(name, k, False, x) if isinstance(x, Tensor) else x
        for k, x in observations.items()
    }
    source = Pairs(Arrays(table.standardise(values)), others)
    check_samples(name, source)
    return Dataset.split(name, source, split, table=table, notices=(str(table),))
