"""Text files of tables: a header, then a row a line, between commas, semicolons or tabs.

Two passes: the first says what each column is and how many rows there are, so that what the second
fills is known, and refused if it is too much, before it is asked for.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from .columns import Seen, chosen, is_missing, kind_of, names_of, order_of
from .dataset import Dataset
from .source import Arrays, hold_out
from .table import DELIMITERS, Table, fitted

Records: TypeAlias = Callable[[], Iterator[tuple[int, list[str]]]]
"""Opens a table: each record with the number of its last line, the header first."""

LARGEST = 2**26
"""Bytes of a file."""
LONGEST = 2**20
"""Characters of a record."""
BEYOND = 1e100
"""No number is as large."""


def csv_file(
    path: str | Path,
    *,
    types: Mapping[str, str] | None = None,
    drop: Sequence[str] = (),
    missing: Literal["error", "drop"] = "error",
    delimiter: str | None = None,
    memory: int = 2**28,
) -> Dataset:
    """A .csv or .tsv file in UTF-8 as standardised vectors, see `scorefield.data.Table`.

    Numbers are real, or integers if they all are whole; text is a category, and so are whole
    numbers that are few. A fixed tenth is held out, at least one row.

    Args:
        path: the file.
        types: of a column, "real", "integer" or "category", where the guess is not what is meant.
        drop: columns to leave out.
        missing: what to do with a row that lacks a value: an error names it, or drop it.
        delimiter: between fields; if not given, the one of , ; and tab that finds most columns in
            the header.
        memory: bytes that the table may take.
    """
    path = Path(path)
    if missing not in ("error", "drop"):
        raise ValueError(f"missing={missing!r}: error or drop")
    if delimiter is not None and delimiter not in DELIMITERS:
        raise ValueError(f"delimiter={delimiter!r}: a comma, a semicolon or a tab")
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is not a file")
    if (size := path.stat().st_size) > LARGEST:
        raise ValueError(
            f"{path} has {size:,} bytes, and a table at most {LARGEST:,}: take some of its rows, "
            "or save numbers as .npy"
        )
    # max takes the first of equals
    mark = delimiter or max(DELIMITERS, key=lambda mark: len(_header(path, mark)))
    reading = Reading(str(path), missing == "drop", dict(types or {}), tuple(drop), mark, memory)
    return reading.dataset(path.stem, lambda: _records(path, mark))


def _header(path: Path, delimiter: str) -> list[str]:
    records = _records(path, delimiter)
    try:
        return next(records, (0, list[str]()))[1]
    except ValueError:  # of quotes that only another delimiter closes
        return []
    finally:
        records.close()  # type: ignore[attr-defined]


def _records(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The records of a file that are not blank."""
    taken = 0

    def lines() -> Iterator[str]:
        nonlocal taken
        while line := file.readline(LONGEST + 1):
            taken += len(line)
            if taken > LONGEST:
                raise ValueError(f"a record of more than {LONGEST:,} characters")
            if "\0" in line:
                raise ValueError("a character of code 0: save the table as text in UTF-8")
            yield line

    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(lines(), delimiter=delimiter, strict=True)
        try:
            for row in reader:
                taken = 0
                if row:
                    yield reader.line_num, row
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no text in UTF-8 ({error.reason}): save it so") from error
        except (csv.Error, ValueError) as error:
            # reader counts the lines that it has seen, the one that failed is the next
            raise ValueError(f"{path}, after line {reader.line_num}: {error}") from error


@dataclass(frozen=True)
class Reading:
    """How a table is read; the arguments of `csv_file`."""

    source: str
    lenient: bool = False
    types: Mapping[str, str] = field(default_factory=dict)
    drop: Sequence[str] = ()
    delimiter: str = ","
    memory: int = 2**28

    def dataset(
        self,
        name: str,
        records: Records,
        split: Callable[[int], tuple[Int[Tensor, "train"], Int[Tensor, "test"]]] | None = None,
    ) -> Dataset:
        """Standardised vectors, some of them held out."""
        header = names_of(next(records(), (0, list[str]()))[1], self.source)
        kept = chosen(header, self.drop, self.types, self.source)
        seen, n = [Seen() for _ in kept], 0
        for line, row in self._rows(records(), header, kept):
            n += 1
            for each, text in zip(seen, row, strict=True):
                each.add(line, text)
        if n < 2:
            raise ValueError(f"{self.source} holds {n} rows below its header: give at least 2")
        names = [header[i] for i in kept]
        kinds = [
            kind_of(name, each, n, told=self.types.get(name), source=self.source)
            for name, each in zip(names, seen, strict=True)
        ]
        orders = [
            sorted(each.texts, key=order_of) if kind == "category" else []
            for kind, each in zip(kinds, seen, strict=True)
        ]
        self._check_size(n, sum(max(len(order), 1) for order in orders))
        values = self._values(n, self._rows(records(), header, kept), names, orders)
        train, test = (split or (lambda n: hold_out(n, 0.1)))(n)
        rows = train.numpy()
        columns = tuple(
            fitted(name, kind, values[rows, i], decimals=each.decimals, categories=order)
            for i, (name, kind, each, order) in enumerate(
                zip(names, kinds, seen, orders, strict=True)
            )
        )
        return _of(name, Table(columns, self.delimiter), values, train, test, self.source)

    def _rows(
        self, records: Iterable[tuple[int, list[str]]], header: Sequence[str], kept: Sequence[int]
    ) -> Iterator[tuple[int, list[str]]]:
        """The rows below the header that are whole."""
        for number, (line, row) in enumerate(records):
            if number == 0:
                continue
            if len(row) != len(header):
                raise ValueError(
                    f"{self.source}, line {line}: {len(row)} fields, but the header has "
                    f"{len(header)}"
                )
            cells = [row[i].strip() for i in kept]
            lacking = [i for i, text in zip(kept, cells, strict=True) if is_missing(text)]
            if not lacking:
                yield line, cells
            elif not self.lenient:
                raise ValueError(
                    f"{self.source}, line {line}: no value for {header[lacking[0]][:40]!r}; fill "
                    "it in, or leave such rows out by missing=drop (--data.options.missing=drop)"
                )

    def _check_size(self, n: int, width: int) -> None:
        # values in 64 bits, vectors and the two parts of them in 32
        need = n * (8 * width + 2 * 4 * width)
        if need > self.memory:
            raise ValueError(
                f"{self.source}: {n:,} rows of {width:,} numbers take {need:,} bytes, more than "
                f"memory={self.memory:,}: give more, or leave out columns of many categories"
            )

    def _values(
        self,
        n: int,
        rows: Iterable[tuple[int, list[str]]],
        names: Sequence[str],
        orders: Sequence[Sequence[str]],
    ) -> NDArray[np.float64]:
        """The numbers of all cells; of a category its position."""
        places = [{text: float(i) for i, text in enumerate(order)} for order in orders]
        values = np.empty((n, len(names)))
        for i, (line, row) in enumerate(rows):
            for j, text in enumerate(row):
                number = places[j][text] if places[j] else float(text)
                if not abs(number) < BEYOND:
                    raise ValueError(
                        f"{self.source}, line {line}: {text[:40]} for {names[j][:40]!r} is beyond "
                        f"{BEYOND:g}"
                    )
                values[i, j] = number
        return values


def _of(
    name: str,
    table: Table,
    values: NDArray[np.float64],
    train: Int[Tensor, "train"],
    test: Int[Tensor, "test"],
    source: str,
) -> Dataset:
    if not table.size:
        raise ValueError(f"{source}: every column has one value only, there is nothing to learn")
    try:
        x = table.vectors(values)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    return Dataset(name, Arrays(x[train]), Arrays(x[test]), table=table)
