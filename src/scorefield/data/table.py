"""Tables as vectors, and back to the text of a file.

    real       z = (v − m)/s                         v rounded to the decimals of the file
    integer    z = (v + u − ½ − m)/s, u ~ U(0, 1)    v = ⌊m + sz + ½⌋, uniform dequantisation
    category   z = (one-hot(v) − p)/s                v = argmax(p + sz)

m and s are mean and standard deviation of the rows to train on, p the frequencies of the
categories, and s² the mean of p(1 − p). A column with one value takes no number at all. Numbers
that are converted back are clipped to the range of the rows to train on.
"""

import csv
import io
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from ..disk import read_text
from ..values import check_names, convert_arguments, escape_controls, spelling_hint
from ._random import uniform_bits

ColumnKind: TypeAlias = Literal["real", "integer", "category"]
Row: TypeAlias = Mapping[str, object]
Record: TypeAlias = tuple[str, list[str]]
"""Where in its file a row is, as "line 3", and its fields."""
DELIMITERS = (",", ";", "\t")
TABLE_CONDITION = "columns"
"""Name of the condition that a table's columns make up."""
TABLE_FILE = "table.json"
"""File of a run that holds its table."""
MISSING_TEXTS = {"", "na", "n/a", "nan", "null", "?"}
"""Texts of missing cells, in lower case."""
PLAIN_DECIMALS = 12
"""Numbers with more decimals are written with an exponent."""
MARGIN = 0.01
"""Distance of u from 0 and 1, so that rounding in float32 never changes a whole number."""


@dataclass(frozen=True)
class Column:
    """A column and its transform: `mean` is m, or p of categories, and `scale` is s.

    `range` are the ends of the values to train on, `decimals` those of real numbers in the file,
    and `categories` the texts by position. `missing` is the share of the file's rows without a
    value, which were left out.
    """

    name: str
    kind: ColumnKind
    mean: tuple[float, ...]
    scale: float
    range: tuple[float, float] = (0.0, 0.0)
    decimals: int = 0
    categories: tuple[str, ...] = ()
    missing: float = field(default=0.0, compare=False)

    def __str__(self) -> str:
        """Return the kind, the values and the share of missing ones in a line."""
        low, high = (f"{end:.6g}" for end in self.range)
        values = low if low == high else f"{low} to {high}"
        if self.kind == "category":
            shown = [repr(text[:20]) for text in self.categories[:5]]
            shown += ["..."] * (len(self.categories) > 5)
            values = f"{len(self.categories)} values: {', '.join(shown)}"
        missing = f", missing in {100 * self.missing:.3g} % of the rows" * (self.missing > 0)
        return f"{self.kind:8}  {values}{missing}"

    def __post_init__(self) -> None:
        numbers = (*self.mean, *self.range, self.scale)
        components = len(self.categories) if self.kind == "category" else 1
        valid = self.scale > 0 and len(self.mean) == components >= 1 and self.decimals >= 0
        valid &= self.kind == "category" or not self.categories
        if not valid or not all(map(math.isfinite, numbers)):
            raise ValueError(f"the column {self.name!r} is not valid")

    @property
    def label(self) -> str:
        """The name without control characters, which must not reach a terminal."""
        return escape_controls(self.name)

    @property
    def width(self) -> int:
        """Number of components of the vector."""
        return 0 if len(self.categories) == 1 else len(self.mean)

    def parse(self, text: str) -> float:
        """Return the number of a cell's text; of a category its position."""
        if self.kind == "category":
            if text not in self.categories:
                hint = spelling_hint(text, self.categories)
                raise ValueError(f"{text[:40]!r} is not a value of {self.name[:40]!r}: {hint}")
            return float(self.categories.index(text))
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        whole = self.kind == "integer"
        if not math.isfinite(value) or (whole and value != round(value)):
            number = f"a {'whole ' * whole}number"
            raise ValueError(f"{text[:40]!r} for {self.name[:40]!r}: give {number}, such as 3")
        return value

    def encode(
        self, values: NDArray[np.float64], u: NDArray[np.float64] | float
    ) -> NDArray[np.float32]:
        """Return the components z of numbers, for integers with uniform u."""
        if self.kind == "category":
            hot = np.eye(len(self.categories))[values.astype(np.int64)]
            return ((hot - self.mean) / self.scale)[:, : self.width].astype(np.float32)
        shifted = values + u - 0.5 if self.kind == "integer" else values
        with np.errstate(over="ignore"):
            z: NDArray[np.float32] = ((shifted - self.mean[0]) / self.scale).astype(np.float32)
        if not np.isfinite(z).all():
            raise ValueError(
                f"{values[np.isfinite(z).argmin()]:.4g} for {self.name[:40]!r} is too far from the "
                f"other rows, {self.mean[0]:.4g} ± {self.scale:.4g}: leave its row out"
            )
        return z[:, None]

    def numbers(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the numbers of components z, not rounded; of a category its position."""
        if self.kind == "category":
            best = (z * self.scale + self.mean).argmax(1) if self.width else np.zeros(len(z))
            return best.astype(np.float64)
        values: NDArray[np.float64] = (z[:, 0] * self.scale + self.mean[0]).clip(*self.range)
        return values

    def decode(self, z: NDArray[np.float64]) -> list[str]:
        """Return the texts of components z."""
        numbers = self.numbers(z)
        if self.kind == "category":
            return [self.categories[int(i)] for i in numbers]
        values = numbers.tolist()
        if self.kind == "integer":
            return [str(math.floor(v + 0.5)) for v in values]
        if self.decimals > PLAIN_DECIMALS:
            return [f"{v:.9g}" for v in values]
        # + 0 turns −0 into 0
        return [f"{round(v, self.decimals) + 0.0:.{self.decimals}f}" for v in values]


@dataclass(frozen=True)
class Table:
    """The columns of a table, in order, and the delimiter of its file.

    >>> table = Table.read("runs/wine")
    >>> table.to_csv(sample(load("runs/wine"), 1000), "samples.csv")
    """

    columns: tuple[Column, ...]
    delimiter: str = ","
    condition: tuple[Column, ...] = ()  # those that the rows are conditioned on

    def __str__(self) -> str:
        """Return a line for each column."""
        columns = (*self.columns, *self.condition)
        width = max(len(column.label[:40]) for column in columns)
        mark = {column.name: "  condition" for column in self.condition}
        lines = (
            f"  {column.label[:40]:{width}}  {column}{mark.get(column.name, '')}"
            for column in columns
        )
        return "\n".join(["columns as read (the option types corrects a kind):", *lines])

    @property
    def size(self) -> int:
        """Number of components of a vector."""
        return sum(column.width for column in self.columns)

    def standardise(
        self, values: NDArray[np.float64], *, exact: bool = False
    ) -> Float[Tensor, "n size"]:
        """Return the vectors of n × columns numbers; of a category its position.

        With `exact`, u is ½.
        """
        rows, cpu = range(len(values)), torch.device("cpu")
        bits = uniform_bits(0, 0, rows, len(self.columns), cpu).numpy()
        u = MARGIN + (1 - 2 * MARGIN) * (bits + 0.5) / 2**16
        u = np.full_like(u, 0.5) if exact else u
        columns = zip(self.columns, values.T, u.T, strict=True)
        parts = [column.encode(cells, v) for column, cells, v in columns]
        return torch.from_numpy(np.concatenate(parts, 1))

    @property
    def condition_table(self) -> "Table":
        """The columns of the condition as a table of their own."""
        return Table(self.condition, self.delimiter)

    def given(self, rows: Sequence[Row]) -> Float[Tensor, "n size"]:
        """Return the condition of rows that have all of its cells, for `model.given`."""
        x, present = self.condition_table.encode(rows)
        if not present.all():
            names = ", ".join(column.name for column in self.condition)
            raise ValueError(f"a row lacks cells of the condition: give all of {names}")
        return x

    def numbers(self, x: Float[Tensor, "n size"]) -> Float[Tensor, "n columns"]:
        """Return the numbers that vectors stand for, without rounding; of a category its position.

        Numbers are clipped to the range of the rows to train on.
        """
        widths = [column.width for column in self.columns]
        parts = torch.split(x.detach().cpu().double(), widths, 1)
        pairs = zip(self.columns, parts, strict=True)
        values = [column.numbers(part.numpy()) for column, part in pairs]
        return torch.from_numpy(np.stack(values, 1))

    def parse(self, row: Row) -> dict[str, float]:
        """Return the numbers of a row's cells, without those that are missing; see `encode`."""
        columns = {column.name: column for column in self.columns}
        check_names(row, columns, "the column ")
        texts = ((name, cell_text(value)) for name, value in row.items())
        return {name: columns[name].parse(text) for name, text in texts if text}

    def encode(self, rows: Sequence[Row]) -> tuple[Float[Tensor, "n size"], Bool[Tensor, "n size"]]:
        """Return vectors of rows that may lack cells, and which components their cells determine.

        A row maps names of columns to texts or numbers. A cell is missing if it is absent, None or
        a text such as NA; its components are 0.
        """
        numbers = list(map(self.parse, rows))
        parts, masks = list[NDArray[np.float32]](), list[NDArray[np.bool_]]()
        for column in self.columns:
            present = np.array([column.name in row for row in numbers], bool)
            values = np.array([row[column.name] for row in numbers if column.name in row])
            low, high = column.range
            outside = values[(values < low) | (values > high)]
            if column.kind != "category" and len(outside):
                warnings.warn(
                    f"{column.name[:40]!r} is {outside[0]:.6g} in a row, outside of {low:.6g} to "
                    f"{high:.6g} in the training rows: completions of the row extrapolate",
                    stacklevel=2,
                )
            part = np.zeros((len(rows), column.width), np.float32)
            part[present] = column.encode(values, 0.5)
            parts.append(part)
            masks.append(np.repeat(present[:, None], column.width, axis=1))
        x, mask = np.concatenate(parts, 1), np.concatenate(masks, 1)
        return torch.from_numpy(x), torch.from_numpy(mask)

    def decode(
        self, x: Float[Tensor, "n size"], rows: Sequence[Row] | None = None
    ) -> Iterator[tuple[str, ...]]:
        """Return the rows of text that vectors stand for, with the cells of `rows` unchanged."""
        if x.ndim != 2 or x.shape[1] != self.size or not x.isfinite().all():
            shape = tuple(x.shape)
            raise ValueError(f"x of shape {shape} is not finite, or not of {self.size} numbers")
        z = x.detach().cpu().double().numpy()
        ends = np.cumsum([column.width for column in self.columns])[:-1]
        parts = zip(self.columns, np.split(z, ends, axis=1), strict=True)
        decoded = zip(*(column.decode(part) for column, part in parts), strict=True)
        if rows is None:
            return decoded
        names = [column.name for column in self.columns]
        return (
            tuple(cell_text(row.get(name)) or text for name, text in zip(names, texts, strict=True))
            for row, texts in zip(rows, decoded, strict=True)
        )

    def text(
        self, x: Float[Tensor, "n size"], rows: Sequence[Row] | None = None, *, header: bool = True
    ) -> str:
        """Return vectors as the text of a file, with or without its header; see `decode`."""
        out = io.StringIO()
        writer = csv.writer(out, delimiter=self.delimiter, lineterminator="\n")
        if header:
            writer.writerow([column.name for column in self.columns])
        writer.writerows(self.decode(x, rows))
        return out.getvalue()

    def to_csv(
        self, x: Float[Tensor, "n size"], path: str | Path, rows: Sequence[Row] | None = None
    ) -> None:
        """Write vectors as a file like the one that the table was read from; see `decode`."""
        Path(path).write_text(self.text(x, rows), encoding="utf-8", newline="")

    def as_json(self) -> str:
        """Return the content of a file for `read`."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    @classmethod
    def read(cls, path: str | Path) -> "Table":
        """Return the table of a run, from its directory or from the table.json in it."""
        path = Path(path, TABLE_FILE) if Path(path).is_dir() else Path(path)
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: this is not a run trained on a table")
        try:
            content = json.loads(read_text(path))
            columns, condition = (
                tuple(Column(**convert_arguments(Column, dict(c), "column.")) for c in entries)
                for entries in (content["columns"], content.get("condition", ()))
            )
            if not columns or content["delimiter"] not in DELIMITERS:
                raise ValueError("it has no columns, or an unknown delimiter")
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
            raise ValueError(f"{path} is not the table of a run: {error!s:.500}") from error
        return cls(columns, content["delimiter"], condition)


def cell_text(value: object) -> str:
    """Return a cell as text, "" if it is missing."""
    text = "" if value is None else str(value).strip()
    return "" if text[:5].lower() in MISSING_TEXTS else text
