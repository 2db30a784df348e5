"""Tables as vectors: what each column becomes, and the way back to the text of a file.

    real       z = (v − m)/s                         v rounded to the decimals of the file
    integer    z = (v + u − ½ − m)/s, u ~ U(0, 1)    v = ⌊m + sz + ½⌋, uniform dequantisation
    category   z = (one-hot(v) − p)/s                v = argmax(p + sz)

m and s are mean and standard deviation of the rows to train on, p the shares of the categories, and
s² the mean of p(1 − p). A column of one value takes no number at all. Numbers that come back are
kept within the range of the rows to train on: no area is below 0 where none was.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ._draws import uniforms

Kind: TypeAlias = Literal["real", "integer", "category"]
KINDS: tuple[Kind, ...] = get_args(Kind)
DELIMITERS = (",", ";", "\t")

TABLE_FILE = "table.json"
"""Where a run keeps its table."""
PLAIN = 12
"""Decimals up to which a number is written without an exponent."""
MARGIN = 0.01
"""Of u from 0 and 1, so that no rounding in float32 makes a whole number its neighbour."""


@dataclass(frozen=True)
class Column:
    """One column: its name, its kind, and the numbers of its transform.

    Attributes:
        name: In the header.
        kind: "real", "integer" or "category".
        mean: m, or the shares p of the categories.
        scale: s.
        range: The least and the largest value in training; not of categories.
        decimals: Of a real number in the file.
        categories: The texts, in the order of the one-hot numbers.
    """

    name: str
    kind: Kind
    mean: tuple[float, ...]
    scale: float
    range: tuple[float, float] = (0.0, 0.0)
    decimals: int = 0
    categories: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """How many numbers of the vector it takes."""
        return 0 if len(self.categories) == 1 else len(self.mean)

    def number(self, text: str) -> float:
        """The number of a cell; of a category its position."""
        if self.kind != "category":
            return float(text)
        if text not in self.categories:
            raise ValueError(f"column {self.name!r} has no category {text[:40]!r}")
        return float(self.categories.index(text))

    def forth(self, values: NDArray[np.float64], u: NDArray[np.float64]) -> NDArray[np.float64]:
        """z of the numbers of its cells."""
        if self.kind == "category":
            hot = np.eye(len(self.categories))[values.astype(np.int64)]
            return ((hot - self.mean) / self.scale)[:, : self.width]
        shifted = values + u - 0.5 if self.kind == "integer" else values
        return ((shifted - self.mean[0]) / self.scale)[:, None]

    def back(self, z: NDArray[np.float64]) -> list[str]:
        """The texts of its cells."""
        if self.kind == "category":
            found = (z * self.scale + self.mean).argmax(1) if self.width else np.zeros(len(z), int)
            return [self.categories[i] for i in found]
        values = (z[:, 0] * self.scale + self.mean[0]).clip(*self.range).tolist()
        if self.kind == "integer":
            return [str(math.floor(v + 0.5)) for v in values]
        if self.decimals > PLAIN:
            return [f"{v:.9g}" for v in values]
        # + 0 turns −0 into 0
        return [f"{round(v, self.decimals) + 0.0:.{self.decimals}f}" for v in values]


def fitted(
    name: str,
    kind: Kind,
    values: NDArray[np.float64],
    *,
    decimals: int = 0,
    categories: Sequence[str] = (),
) -> Column:
    """The column of these numbers of its cells, those to train on."""
    if kind == "category":
        p = np.bincount(values.astype(np.int64), minlength=len(categories)) / len(values)
        scale = float(np.sqrt((p * (1 - p)).mean())) or 1.0
        return Column(name, kind, tuple(p.tolist()), scale, categories=tuple(categories))
    mean = float(values.mean())
    # the deviation of a share of the largest, whose squares neither vanish nor overflow
    largest = float(np.abs(values - mean).max()) or 1.0
    scale = largest * float(((values - mean) / largest).std())
    if kind == "integer":
        scale = math.hypot(scale, 1 / math.sqrt(12))
    ends = float(values.min()), float(values.max())
    return Column(name, kind, (mean,), scale or 1.0, range=ends, decimals=decimals)


@dataclass(frozen=True)
class Table:
    """The columns of a table, in order, and what stands between them in a file.

    >>> table = Table.read("runs/wine")
    >>> table.to_csv(sample(load("runs/wine"), 1000), "samples.csv")
    """

    columns: tuple[Column, ...]
    delimiter: str = ","

    @property
    def size(self) -> int:
        """Numbers of a vector."""
        return sum(column.width for column in self.columns)

    def encode(self, rows: Sequence[Sequence[str]]) -> Float[Tensor, "n size"]:
        """The vectors of rows of text, in the order of the columns."""
        return self.vectors(
            np.array([[c.number(t) for c, t in zip(self.columns, r, strict=True)] for r in rows])
        )

    def vectors(self, values: NDArray[np.float64]) -> Float[Tensor, "n size"]:
        """The vectors of the numbers of cells, n × columns."""
        out = np.empty((len(values), self.size), np.float32)
        bits = uniforms(0, 0, range(len(values)), len(self.columns))
        first = 0
        for i, column in enumerate(self.columns):
            u = (bits[:, i].astype(np.float64) + 2**15 + 0.5) / 2**16
            u = MARGIN + (1 - 2 * MARGIN) * u
            with np.errstate(over="ignore"):
                part = column.forth(values[:, i], u).astype(np.float32)
            finite = np.isfinite(part).all(1)
            if not finite.all():
                raise ValueError(
                    f"{values[finite.argmin(), i]:.4g} for {column.name[:40]!r} is too far from "
                    f"the rows to train on, which are about {column.mean[0]:.4g} ± "
                    f"{column.scale:.4g}: mend it, or leave its row out"
                )
            out[:, first : first + column.width] = part
            first += column.width
        return torch.from_numpy(out)

    def decode(self, x: Float[Tensor, "n size"]) -> Iterator[tuple[str, ...]]:
        """The rows of text of vectors."""
        if x.ndim != 2 or x.shape[1] != self.size or not x.isfinite().all():
            raise ValueError(
                f"x of shape {tuple(x.shape)} is not finite, or not of this table: give vectors of "
                f"{self.size} numbers"
            )
        z = x.detach().cpu().double().numpy()
        ends = np.cumsum([column.width for column in self.columns])[:-1]
        parts = np.split(z, ends, axis=1)
        texts = [column.back(part) for column, part in zip(self.columns, parts, strict=True)]
        return zip(*texts, strict=True)

    def text(self, x: Float[Tensor, "n size"], *, header: bool = True) -> str:
        """The file of vectors, with its header, or more of its rows."""
        out = io.StringIO()
        writer = csv.writer(out, delimiter=self.delimiter, lineterminator="\n")
        if header:
            writer.writerow([column.name for column in self.columns])
        writer.writerows(self.decode(x))
        return out.getvalue()

    def to_csv(self, x: Float[Tensor, "n size"], path: str | Path) -> None:
        """Write vectors as a file like the one the table was read from."""
        Path(path).write_text(self.text(x), encoding="utf-8", newline="")

    def as_json(self) -> str:
        """What `read` understands."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    @classmethod
    def read(cls, path: str | Path) -> Table:
        """The table of a run, from its directory or from the table.json in it."""
        path = Path(path)
        path = path / TABLE_FILE if path.is_dir() else path
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            columns = tuple(_column(each) for each in found["columns"])
            if not columns or found["delimiter"] not in DELIMITERS:
                raise ValueError("it has no columns, or a delimiter that is none")
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
            raise ValueError(f"{path} is no table of a run: {error}") from error
        return cls(columns, found["delimiter"])


def _column(found: dict[str, Any]) -> Column:
    """A column from JSON, if it can be one."""
    lists = {"mean": float, "range": float, "categories": str}
    column = Column(**found | {name: tuple(map(kind, found[name])) for name, kind in lists.items()})
    numbers = (*column.mean, *column.range, column.scale)
    shares = len(column.categories) if column.kind == "category" else 1
    if not (
        column.kind in KINDS
        and isinstance(column.name, str)
        and all(map(math.isfinite, numbers))
        and column.scale > 0
        and len(column.mean) == shares >= 1
        and len(column.range) == 2
        and type(column.decimals) is int
        and column.decimals >= 0
    ):
        raise ValueError(f"the column {column.name!r} is none")
    return column
