"""Conditions from the command line, for `sample --given`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data import AUGMENTATION, Table
from ..data.decode import read_header
from ..data.images import ImageReader
from ..data.sources import cell_centres
from ..data.table import TABLE_CONDITION, cell_text
from ..disk import open_regular
from ..model import ScoreModel
from ..runs.own_plan import read_settings
from ..values import check_names, describe_classes


def read_given(
    run: Path, model: ScoreModel, table: Table | None, texts: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the conditions of texts such as x=0.1,0.2, and the cells of learned columns."""
    table = table or Table(())
    shapes, columns = model.condition_shapes, [column.name for column in table.columns]
    own = [column.name for column in table.condition]
    names = [*columns, *own, *(name for name in shapes if name != TABLE_CONDITION or not own)]
    values = dict[str, str]()
    for text in texts:
        name, _, value = (part.strip() for part in text.partition("="))
        check_names([name], names, f"--given {text}: the column or condition ")
        if name in values or not cell_text(value):
            raise ValueError(f"--given {text}: give one value, as in {name}=VALUE")
        values[name] = value
    cells, fixed = ({k: values.pop(k) for k in side if k in values} for side in (columns, own))
    table.parse(cells)
    condition = {k: _read_value(f"{k}={v}", v, shapes[k], run) for k, v in values.items()}
    if fixed:
        condition[TABLE_CONDITION] = table.given([fixed])[0]
    return condition, cells


def describe_condition(model: ScoreModel, table: Table | None) -> str:
    """Return an example of `--given`, empty if there is nothing to choose."""
    own = [column.name for column in table.condition] if table else []
    names = own or [name for name in model.condition_shapes if name != AUGMENTATION]
    return " ".join(f"--given {name}=VALUE" for name in names)


def refuse_conditions(run: Path, model: ScoreModel) -> None:
    """Refuse a model with conditions, which `scorefield restore` does not take."""
    if names := [name for name in model.condition_shapes if name != AUGMENTATION]:
        raise ValueError(
            f"{run}: its model has the conditions {', '.join(names)}, which restore does not take: "
            "use sample --given for the rows of a table, or restore(..., condition=...) in Python"
        )


def _read_value(text: str, value: str, shape: Sequence[int], run: Path) -> Tensor:
    """Return numbers with commas between them, an array of an .npy file, or an image.

    An image is cut and scaled as those that the run was trained on, if they were.
    """
    path = Path(value)
    try:
        if path.suffix.lower() == ".npy":
            with open_regular(path) as file:
                x = torch.from_numpy(np.load(file, allow_pickle=False).astype(np.float32))
        elif path.exists() and len(shape) == 3:
            _, height, width = shape
            experiment = read_settings(run)
            options = experiment.data.options if experiment else {}
            if options.keys().isdisjoint(("size", "crop", "fit")):
                width, height, _ = read_header(path)
            crop, fit = options.get("crop"), options.get("fit", "crop")
            reader = ImageReader(1 if shape[0] == 1 else 3, height, width, crop, fit)
            x = cell_centres(reader(path), 256)
        else:
            x = torch.tensor([float(number) for number in value.split(",")])
    except (OSError, ValueError) as error:
        wanted = "an image" if len(shape) == 3 else f"{shape[0]} numbers with commas between them"
        raise ValueError(f"--given {text}: give {wanted}, or an .npy file ({error})") from error
    fixed = 1 if len(shape) == 3 else len(shape)
    if x.ndim != len(shape) or x.shape[:fixed] != torch.Size(shape[:fixed]):
        raise ValueError(
            f"--given {text}: it has shape {tuple(x.shape)}, but the model takes {tuple(shape)}"
        )
    return x


def check_label(run: Path, model: ScoreModel, label: str | None, others: str = "") -> None:
    """Refuse samples without a class from a model that always had one in training."""
    if label is None and model.classes and model.always_labelled:
        raise ValueError(
            f"{run}: it was trained with network.label_dropout=0, never without a class: give "
            f"--label, one of {describe_classes(model.classes)}{others}"
        )
