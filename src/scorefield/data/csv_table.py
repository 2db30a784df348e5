"""Files of tables: Parquet, or text with a header and a row a line, in commas, semicolons or tabs.

They are read twice: for the kinds of the columns and the number of rows, so that a table that is
too large is refused before memory is allocated, and for the values.
"""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..disk import open_regular
from ..values import check_names, data_option
from .column_scan import ColumnScan, join_remarks, match_number
from .parquet import parquet_records
from .sources import Arrays, Dataset, Pairs, Source, Split, choose_condition, hold_out
from .table import DELIMITERS, TABLE_CONDITION, ColumnKind, Record, Table, cell_text

MAX_FILE_BYTES = 2**26
MAX_LINE_LENGTH = 2**20
"""Characters of a line; `csv` limits a field that continues over several lines."""
MAX_COLUMNS = 2048
MAX_NAME_LENGTH = 500
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
"""Suffixes of files that are tables."""


def table_file(
    path: str | Path,
    *,
    types: Mapping[str, ColumnKind] | None = None,
    drop: Sequence[str] = (),
    missing: Literal["error", "drop"] = "error",
    delimiter: Literal[",", ";", "\t"] | None = None,
    held_out: float | Path = 0.1,
    memory: int = 2**28,
    condition: Sequence[str] = (),
    parameters: Sequence[str] = (),
) -> Dataset:
    """Load a .csv or .tsv file in UTF-8, or a .parquet, as standardised vectors, see `Table`.

    Numbers are real, or integers if all are whole; text is a category, and so are a few different
    whole numbers. A fixed choice of the share `held_out` is held out, at least one row.

    `types` corrects guessed kinds of columns, and `drop` leaves columns out. `missing` drops rows
    that lack a value, or raises an error that names the first. The default `delimiter` is the one
    with most columns in the header, and of samples of a .parquet the comma. The table may take
    `memory` bytes. The rows are conditioned on the columns `condition`, or on all but the
    `parameters`.
    """
    records, mark = _find_records(Path(path), delimiter)
    reader = TableReader(str(path), records, missing == "drop", types or {}, drop, mark, memory)
    return reader.dataset(None, held_out, condition, parameters)


def read_cells(path: Path, table: Table) -> list[dict[str, str]]:
    """Return the rows of a file with some of a table's columns, each without its missing cells."""
    reader = TableReader(str(path), _find_records(path)[0])
    check_names(reader.header(), [column.name for column in table.columns], f"{path}: the column ")
    rows = list[dict[str, str]]()
    for place, cells in reader.rows():
        try:
            table.parse(cells)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        rows.append({name: text for name, text in cells.items() if text})
    if not rows:
        raise ValueError(f"{path} holds no rows below its header: give at least 1")
    return rows


def _find_records(
    path: Path, delimiter: str | None = None
) -> tuple[Callable[[], Iterator[Record]], str]:
    """Return the reader of a file's records, and the delimiter of its text or of its samples'."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: name a {', '.join(TABLE_SUFFIXES)} file")
    if (size := path.stat().st_size) > MAX_FILE_BYTES:
        raise ValueError(
            f"{path} has {size:,} bytes, and a table at most {MAX_FILE_BYTES:,}: take some of its "
            "rows, or save numbers as .npy"
        )
    if path.suffix.lower() == ".parquet":
        return partial(parquet_records, path), delimiter or ","
    mark = delimiter or _choose_delimiter(path)
    return partial(_text_records, path, mark), mark


def _choose_delimiter(path: Path) -> str:
    """Return the delimiter with most columns in the header."""

    def columns(delimiter: str) -> int:
        try:
            return len(next(_text_records(path, delimiter), ("", list[str]()))[1])
        except ValueError:  # a quote that only another delimiter closes
            return 0

    return max(DELIMITERS, key=columns)


def _lines(file: io.TextIOWrapper) -> Iterator[str]:
    while line := file.readline(MAX_LINE_LENGTH + 1):
        if len(line) > MAX_LINE_LENGTH:
            raise ValueError(f"a line of more than {MAX_LINE_LENGTH:,} characters")
        if "\0" in line:
            raise ValueError("a character of code 0: save the table as text in UTF-8")
        yield line


def _text_records(path: Path, delimiter: str) -> Iterator[Record]:
    """Yield the records of a file that are not blank, each with its last line."""
    with io.TextIOWrapper(open_regular(path), "utf-8-sig", newline="") as file:
        reader = csv.reader(_lines(file), delimiter=delimiter, strict=True)
        try:
            yield from ((f"line {reader.line_num}", row) for row in reader if row)
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not text in UTF-8 ({error.reason}): convert it") from error
        except (csv.Error, ValueError) as error:
            # reader counts the lines that it has read; the one that failed is the next
            raise ValueError(f"{path}, after line {reader.line_num}: {error}") from error


@dataclass(frozen=True)
class TableReader:
    """Reader of a table from text; see the arguments of `table_file`.

    `records` yields the header and the rows, each time that it is called.
    """

    source: str
    records: Callable[[], Iterator[Record]]
    drop_missing: bool = False
    types: Mapping[str, ColumnKind] = field(default_factory=dict)
    drop: Sequence[str] = ()
    delimiter: str = ","
    memory: int = 2**28

    def header(self) -> list[str]:
        """Return the names of all columns."""
        names = [name.strip() for name in next(self.records(), ("", list[str]()))[1]]
        reason, long = "", next((name for name in names if len(name) > MAX_NAME_LENGTH), None)
        if not any(names):
            reason = "holds no header: give the names of its columns first"
        elif len(names) > MAX_COLUMNS:
            reason = f"has {len(names)} columns, and a table at most {MAX_COLUMNS}"
        elif all(map(match_number, names)):
            reason = "begins with numbers: put a header above them"
        elif "" in names:
            number = names.index("") + 1
            reason = f"has no name of column {number} (in pandas save with index=False)"
        elif long is not None:
            reason = f"has a name of {len(long):,} characters, more than {MAX_NAME_LENGTH}"
        elif len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            reason = f"has two columns that are called {twice[:40]!r}"
        if reason:
            raise ValueError(f"{self.source} {reason}")
        return names

    def rows(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield the place of each row, and its cells in use by name, "" where one is missing."""
        records = self.records()
        names = [name.strip() for name in next(records)[1]]
        for position, row in records:
            place = f"{self.source}, {position}"
            if len(row) != len(names):
                raise ValueError(f"{place}: {len(row)} fields, but the header has {len(names)}")
            pairs = zip(names, map(cell_text, row), strict=True)
            yield place, {name: text for name, text in pairs if name not in self.drop}

    def dataset(
        self,
        split: Split | None = None,
        held_out: float | Path = 0.1,
        condition: Sequence[str] = (),
        parameters: Sequence[str] = (),
    ) -> Dataset:
        """Return the rows as standardised vectors, some of them held out."""
        header = self.header()
        names = [name for name in header if name not in self.drop]
        check_names((*self.types, *self.drop), header, f"{self.source}: the column ")
        condition = choose_condition(self.source, names, condition, parameters)
        scans = [ColumnScan(name) for name in names]
        total, n = self._scan(scans)
        remarks = [f"left out {total - n:,} of {total:,} rows, which lack a value"] * (n < total)
        if n < 2:
            reason = "; ".join([f"{self.source} holds {n} rows below its header", *remarks])
            raise ValueError(f"{reason}: give at least 2")
        for scan in scans:
            scan.choose_kind(n, self.source, self.types, self.drop)
        values = self._values(n, [scan.categories for scan in scans])
        rows = split or hold_out(n, held_out)
        train = values[rows[0].numpy()].T
        columns = [scan.fit(cells, total) for scan, cells in zip(scans, train, strict=True)]
        vary = [name not in condition for name in names]
        fixed = tuple(column for column in columns if column.name in condition)
        table = Table(tuple(compress(columns, vary)), self.delimiter, fixed)
        if not table.size or (fixed and not table.condition_table.size):
            raise ValueError(f"{self.source}: every column that is left has one value only")
        try:
            vectors: Source = Arrays(table.standardise(values[:, vary]))
            if fixed:
                x = table.condition_table.standardise(values[:, np.logical_not(vary)], exact=True)
                vectors = Pairs(vectors, {TABLE_CONDITION: Arrays(x)})
        except ValueError as error:
            raise ValueError(f"{self.source}: {error}") from error
        notices = (str(table), *join_remarks(scans, self.types), *remarks)
        name = Path(self.source).stem
        return Dataset.split(name, vectors, rows, table=table, notices=notices)

    def _scan(self, scans: Sequence[ColumnScan]) -> tuple[int, int]:
        """Add the complete rows to the columns; return the numbers of all and of complete rows."""
        total = complete = 0
        for total, (place, cells) in enumerate(self.rows(), 1):  # noqa: B007
            missing = [scan for scan in scans if not cells[scan.name]]
            if missing and not self.drop_missing:
                raise ValueError(
                    f"{place}: no value for {missing[0].name[:40]!r}; fill it in, or leave such "
                    f"rows out by {data_option('missing', 'drop')}"
                )
            for scan in missing:
                scan.missing += 1
            complete += not missing
            for scan in () if missing else scans:
                scan.add(place, cells[scan.name])
        return total, complete

    def _values(self, n: int, categories: list[dict[str, float]]) -> NDArray[np.float64]:
        """Return the numbers of the n complete rows; of a category its position."""
        width = sum(max(len(positions), 1) for positions in categories)
        # values in 64 bits, vectors and the two parts of them in 32
        need = n * (8 * width + 2 * 4 * width)
        if need > self.memory:
            raise ValueError(
                f"{self.source}: {n:,} rows of {width:,} numbers take {need:,} bytes, more than "
                f"memory={self.memory:,}: give more, or leave out columns of many categories"
            )
        rows = (cells.values() for _, cells in self.rows() if all(cells.values()))
        pairs = (pair for row in rows for pair in zip(categories, row, strict=True))
        numbers = (positions[text] if positions else float(text) for positions, text in pairs)
        return np.fromiter(numbers, float, n * len(categories)).reshape(n, -1)
