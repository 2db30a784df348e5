"""Text files of tables: a header, then one row a line, separated by commas, semicolons or tabs.

They are read twice: first the kind of each column and the number of rows are found, so that a table
that is too large is refused before memory is allocated; then the values are stored.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .sources import Arrays, Dataset, hold_out
from .table import COLUMN_KINDS, DELIMITERS, ColumnKind, Table, fit_column

Record: TypeAlias = "tuple[int, list[str]]"
"""The number of the last line of a record, and its fields."""

MAX_FILE_BYTES = 2**26
MAX_RECORD_LENGTH = 2**20
"""Characters of a record."""
MAX_TABLE_NUMBER = 1e100
MAX_COLUMNS = 2048
MAX_CATEGORIES = 100
FEW_NUMBERS = 10
"""Whole numbers are categories if there are at most this many, each this often on average."""

NUMBER_TEXT = re.compile(r"[+-]?(?:\d+(\.\d*)?|(\.\d+))(?:[eE]([+-]?\d{1,3}))?", re.ASCII)
MISSING_TEXTS = {"", "na", "n/a", "nan", "null", "?"}
"""In any case."""


def csv_file(
    path: str | Path,
    *,
    types: Mapping[str, str] | None = None,
    drop: Sequence[str] = (),
    missing: Literal["error", "drop"] = "error",
    delimiter: str | None = None,
    memory: int = 2**28,
) -> Dataset:
    """Load a .csv or .tsv file in UTF-8 as standardised vectors, see `scorefield.data.Table`.

    Numbers are real, or integers if all are whole; text is a category, and so are a few different
    whole numbers. A fixed tenth is held out, at least one row.

    Args:
        path: the file.
        types: "real", "integer" or "category" of columns whose guessed kind is wrong.
        drop: columns to leave out.
        missing: drop rows that lack a value, or raise an error that names the first.
        delimiter: between fields; by default the one of comma, semicolon and tab that finds most
            columns in the header.
        memory: number of bytes that the table may take.
    """
    path = Path(path)
    if missing not in ("error", "drop"):
        raise ValueError(f"missing={missing!r}: error or drop")
    if delimiter is not None and delimiter not in DELIMITERS:
        raise ValueError(f"delimiter={delimiter!r}: a comma, a semicolon or a tab")
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is not a file")
    if (size := path.stat().st_size) > MAX_FILE_BYTES:
        raise ValueError(
            f"{path} has {size:,} bytes, and a table at most {MAX_FILE_BYTES:,}: take some of its "
            "rows, or save numbers as .npy"
        )
    # max takes the first of equals
    mark = delimiter or max(DELIMITERS, key=lambda mark: len(_first_record(path, mark)))
    reader = TableReader(str(path), missing == "drop", types or {}, drop, mark, memory)
    return reader.dataset(path.stem, lambda: _records(path, mark))


def _first_record(path: Path, delimiter: str) -> list[str]:
    records = _records(path, delimiter)
    try:
        return next(records, (0, list[str]()))[1]
    except ValueError:  # of quotes that only another delimiter closes
        return []
    finally:
        records.close()  # type: ignore[attr-defined]


def _records(path: Path, delimiter: str) -> Iterator[Record]:
    """Yield the records of a file that are not blank."""
    length = 0

    def lines() -> Iterator[str]:
        nonlocal length
        while line := file.readline(MAX_RECORD_LENGTH + 1):
            length += len(line)
            if length > MAX_RECORD_LENGTH:
                raise ValueError(f"a record of more than {MAX_RECORD_LENGTH:,} characters")
            if "\0" in line:
                raise ValueError("a character of code 0: save the table as text in UTF-8")
            yield line

    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(lines(), delimiter=delimiter, strict=True)
        try:
            for row in reader:
                length = 0
                if row:
                    yield reader.line_num, row
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not text in UTF-8 ({error.reason}): save it so") from error
        except (csv.Error, ValueError) as error:
            # reader counts the lines that it has read; the one that failed is the next
            raise ValueError(f"{path}, after line {reader.line_num}: {error}") from error


# ── Columns ──────────────────────────────────────────────────────────────────────────────────────


@dataclass
class ColumnScan:
    """Summary of the cells of a column.

    `texts` are the distinct cells, up to one more than there may be categories; `numbers` counts
    the cells that are numbers, with at most `decimals` decimals; `word` and `fraction` are line and
    text of the first cell that is not a number, and of the first that is not a whole one.
    """

    name: str
    texts: dict[str, None] = field(default_factory=dict)
    decimals: int = 0
    numbers: int = 0
    word: tuple[int, str] | None = None
    fraction: tuple[int, str] | None = None
    kind: ColumnKind = "category"

    def add(self, line: int, text: str) -> None:
        """Add a cell."""
        if len(self.texts) <= MAX_CATEGORIES:
            self.texts[text] = None
        match = _match_number(text)
        if match is None:
            self.word = self.word or (line, text)
            return
        self.numbers += 1
        fraction, exponent = match[1] or match[2], match[3]
        if fraction is not None or exponent is not None:
            self.fraction = self.fraction or (line, text)
            self.decimals = max(self.decimals, len(fraction or ".") - 1 - int(exponent or 0))

    def choose_kind(self, n: int, chosen: str | None, source: str) -> None:
        """Set the kind of a column of n cells: the user's choice, or a guess."""
        self.kind = next((kind for kind in COLUMN_KINDS if kind == chosen), self._guess(n))
        wrong = {"real": self.word, "integer": self.word or self.fraction}.get(self.kind)
        if wrong is not None:
            line, text = wrong
            whole = "whole " if self.kind == "integer" and self.word is None else ""
            raise ValueError(
                f"{source}, line {line}: {text[:40]!r} in {self.name[:40]!r} is not a {whole}"
                "number; correct it, or set the column's kind by types, or leave it out by drop"
            )
        if self.kind == "category" and len(self.texts) > MAX_CATEGORIES:
            raise ValueError(
                f"{source}: {self.name[:40]!r} holds more than {MAX_CATEGORIES} different texts: "
                f"leave the column out by drop (--data.options.drop='[{self.name[:40]}]')"
            )

    def _guess(self, n: int) -> ColumnKind:
        few = len(self.texts) <= FEW_NUMBERS and n >= FEW_NUMBERS * len(self.texts)
        if len(self.texts) == 1 or not self.numbers or (few and not self.fraction):
            return "category"
        # in a column with numbers, words are mistakes
        return "integer" if self.word is None and self.fraction is None else "real"

    @property
    def categories(self) -> list[str]:
        """Categories in order: numbers by size, then words."""
        if self.kind != "category":
            return []
        size = {text: float(text) if _match_number(text) else np.inf for text in self.texts}
        return sorted(self.texts, key=lambda text: (size[text], text))


def _match_number(text: str) -> re.Match[str] | None:
    return NUMBER_TEXT.fullmatch(text) if len(text) < 50 else None


def _check_header(row: Sequence[str], source: str) -> list[str]:
    """Return the column names in a header."""
    names = [name.strip() for name in row]
    if not any(names):
        raise ValueError(f"{source} holds no header: give the names of its columns first")
    if len(names) > MAX_COLUMNS:
        raise ValueError(f"{source} has {len(names)} columns, and a table at most {MAX_COLUMNS}")
    if all(_match_number(name) for name in names):
        raise ValueError(f"{source} begins with numbers: put a header above them")
    if "" in names:
        raise ValueError(
            f"{source}: column {names.index('') + 1} has no name (pandas leaves out that of its "
            "index: save with index=False)"
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{source}: two columns are called {twice[:40]!r}")
    return names


# ── The table ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class TableReader:
    """Reader of a table from text; see the arguments of `csv_file`."""

    source: str
    skip_missing: bool = False
    types: Mapping[str, Any] = field(default_factory=dict)
    drop: Sequence[str] = ()
    delimiter: str = ","
    memory: int = 2**28

    def dataset(
        self,
        name: str,
        records: Callable[[], Iterator[Record]],
        split: tuple[Tensor, Tensor] | None = None,
    ) -> Dataset:
        """Read records, the header first, as standardised vectors, some of them held out."""
        header = _check_header(next(records(), (0, list[str]()))[1], self.source)
        self._check_names(header)
        columns = {i: ColumnScan(text) for i, text in enumerate(header) if text not in self.drop}
        if not columns:
            raise ValueError(f"drop leaves no column of {self.source}")
        scans, n = list(columns.values()), 0
        for line, cells in self._rows(records(), header, columns):
            n += 1
            for scan, text in zip(scans, cells, strict=True):
                scan.add(line, text)
        if n < 2:
            raise ValueError(f"{self.source} holds {n} rows below its header: give at least 2")
        for scan in scans:
            scan.choose_kind(n, self.types.get(scan.name), self.source)
        self._check_memory(n, sum(max(len(scan.categories), 1) for scan in scans))
        values = self._values(n, self._rows(records(), header, columns), scans)
        rows = split or hold_out(n, 0.1)
        train = values[rows[0].numpy()]
        fits = [
            fit_column(s.name, s.kind, x, decimals=s.decimals, categories=s.categories)
            for s, x in zip(scans, train.T, strict=True)
        ]
        table = Table(tuple(fits), self.delimiter)
        if not table.size:
            raise ValueError(f"{self.source}: every column has one value only")
        try:
            vectors = Arrays(table.standardise(values))
        except ValueError as error:
            raise ValueError(f"{self.source}: {error}") from error
        return Dataset.split(name, vectors, rows, table=table)

    def _check_names(self, header: Sequence[str]) -> None:
        """Check the options that name columns."""
        for name in (*self.types, *self.drop):
            if name not in header:
                close = get_close_matches(str(name), header, 1)
                others = f"there are {', '.join(header[:20])}"
                hint = f"did you mean {close[0]}?" if close else others
                raise ValueError(f"{self.source} has no column {name!r}: {hint}")
        for name, kind in self.types.items():
            if kind not in COLUMN_KINDS:
                raise ValueError(f"types: {name} is {kind!r}, and may be {', '.join(COLUMN_KINDS)}")

    def _rows(
        self, records: Iterable[Record], header: Sequence[str], columns: Iterable[int]
    ) -> Iterator[Record]:
        """Yield the complete rows below the header, with the cells of the columns in use."""
        for number, (line, row) in enumerate(records):
            if number == 0:
                continue
            if len(row) != len(header):
                raise ValueError(
                    f"{self.source}, line {line}: {len(row)} fields, but the header has "
                    f"{len(header)}"
                )
            cells = {i: row[i].strip() for i in columns}
            lacking = [i for i, text in cells.items() if _is_missing(text)]
            if not lacking:
                yield line, list(cells.values())
            elif not self.skip_missing:
                raise ValueError(
                    f"{self.source}, line {line}: no value for {header[lacking[0]][:40]!r}; fill "
                    "it in, or leave such rows out by missing=drop (--data.options.missing=drop)"
                )

    def _check_memory(self, n: int, width: int) -> None:
        # values in 64 bits, vectors and the two parts of them in 32
        need = n * (8 * width + 2 * 4 * width)
        if need > self.memory:
            raise ValueError(
                f"{self.source}: {n:,} rows of {width:,} numbers take {need:,} bytes, more than "
                f"memory={self.memory:,}: give more, or leave out columns of many categories"
            )

    def _values(
        self, n: int, rows: Iterable[Record], scans: Sequence[ColumnScan]
    ) -> NDArray[np.float64]:
        """Return the numbers of all cells; of a category its position."""
        places = [{text: float(i) for i, text in enumerate(s.categories)} for s in scans]
        values = np.empty((n, len(scans)))
        for i, (line, row) in enumerate(rows):
            for j, text in enumerate(row):
                number = places[j][text] if places[j] else float(text)
                if not abs(number) < MAX_TABLE_NUMBER:
                    raise ValueError(
                        f"{self.source}, line {line}: {text[:40]} for {scans[j].name[:40]!r} is "
                        f"beyond {MAX_TABLE_NUMBER:g}"
                    )
                values[i, j] = number
        return values


def _is_missing(text: str) -> bool:
    return len(text) < 5 and text.lower() in MISSING_TEXTS
