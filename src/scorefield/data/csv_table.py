"""Text files of tables: a header, then one row a line, separated by commas, semicolons or tabs.

They are read twice: for the kinds of the columns and the number of rows, so that a table that is
too large is refused before memory is allocated, and for the values.
"""

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..disk import open_regular
from ..values import data_option, spelling_hint
from .sources import Arrays, Dataset, Split, hold_out
from .table import DELIMITERS, Column, ColumnKind, Table, cell_text

Record: TypeAlias = tuple[int, list[str]]
"""The number of the last line of a record, and its fields."""

MAX_FILE_BYTES = 2**26
MAX_LINE_LENGTH = 2**20
"""In characters; `csv` limits the length of a field that continues over lines."""
MAX_TABLE_NUMBER = 1e100
MAX_COLUMNS = 2048
MAX_NAME_LENGTH = 500
MAX_CATEGORIES = 100
FEW_NUMBERS = 10
"""Whole numbers are categories if so few differ, and each occurs as often on average."""

NUMBER_TEXT = re.compile(r"[+-]?(?:\d+(\.\d*)?|(\.\d+))(?:[eE]([+-]?\d{1,3}))?", re.ASCII)
NUMBER_MARKS = {
    "a currency sign": re.compile("[$€£¥₹]"),
    "a percent sign": re.compile("%"),
    "a thousands separator or decimal comma": re.compile(r"(?<=\d)[,'\s](?=\d)"),
}
"""Marks of texts that look like numbers; 1,000 may be 1000 or 1, so a person has to decide."""


def csv_file(
    path: str | Path,
    *,
    types: Mapping[str, ColumnKind] | None = None,
    drop: Sequence[str] = (),
    missing: Literal["error", "drop"] = "error",
    delimiter: Literal[",", ";", "\t"] | None = None,
    held_out: float = 0.1,
    memory: int = 2**28,
) -> Dataset:
    """Load a .csv or .tsv file in UTF-8 as standardised vectors, see `Table`.

    Numbers are real, or integers if all are whole; text is a category, and so are a few different
    whole numbers. A fixed choice of the share `held_out` is held out, at least one row.

    `types` corrects guessed kinds of columns, and `drop` leaves columns out. `missing` drops rows
    that lack a value, or raises an error that names the first. The default `delimiter` is the one
    with most columns in the header. The table may take `memory` bytes.
    """
    path = Path(path)
    if (size := path.stat().st_size) > MAX_FILE_BYTES:
        raise ValueError(
            f"{path} has {size:,} bytes, and a table at most {MAX_FILE_BYTES:,}: take some of its "
            "rows, or save numbers as .npy"
        )
    mark: str = delimiter or max(DELIMITERS, key=partial(_header_length, path))
    read = partial(_records, path, mark)
    reader = TableReader(str(path), read, missing == "drop", types or {}, drop, mark, memory)
    return reader.dataset(held_out=held_out)


def read_cells(path: Path, table: Table) -> list[dict[str, str]]:
    """Return the rows of a file with some of a table's columns, each without its missing cells."""
    records = partial(_records, path, max(DELIMITERS, key=partial(_header_length, path)))
    header = _read_header(records())
    _check_header(header, str(path))
    table.encode([dict.fromkeys(header)])  # the names alone
    columns, rows = {column.name: column for column in table.columns}, list[dict[str, str]]()
    for place, named in _named_cells(str(path), records()):
        cells = {name: text for name, text in named.items() if cell_text(text)}
        try:
            for name, text in cells.items():
                columns[name].parse(text)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        rows.append(cells)
    return rows


def _header_length(path: Path, delimiter: str) -> int:
    try:
        return len(_read_header(_records(path, delimiter)))
    except ValueError:  # a quote that only another delimiter closes
        return 0


def _lines(file: io.TextIOWrapper) -> Iterator[str]:
    while line := file.readline(MAX_LINE_LENGTH + 1):
        if len(line) > MAX_LINE_LENGTH:
            raise ValueError(f"a line of more than {MAX_LINE_LENGTH:,} characters")
        if "\0" in line:
            raise ValueError("a character of code 0: save the table as text in UTF-8")
        yield line


def _records(path: Path, delimiter: str) -> Iterator[Record]:
    """Yield the records of a file that are not blank."""
    with io.TextIOWrapper(open_regular(path), "utf-8-sig", newline="") as file:
        reader = csv.reader(_lines(file), delimiter=delimiter, strict=True)
        try:
            yield from ((reader.line_num, row) for row in reader if row)
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not text in UTF-8 ({error.reason}): convert it") from error
        except (csv.Error, ValueError) as error:
            # reader counts the lines that it has read; the one that failed is the next
            raise ValueError(f"{path}, after line {reader.line_num}: {error}") from error


@dataclass
class ColumnScan:
    """Summary of the cells of a column.

    `texts` are the distinct cells, up to one more than there may be categories; `word` and
    `fraction` are line and text of the first cell that is not a number or not a whole one.
    `remark` is what the user should know about the guessed kind.
    """

    name: str
    texts: dict[str, None] = field(default_factory=dict)
    decimals: int = 0
    numeric: bool = False
    word: tuple[str, str] | None = None
    fraction: tuple[str, str] | None = None
    kind: ColumnKind = "category"
    remark: str = ""

    def add(self, line: str, text: str) -> None:
        """Add a cell."""
        if len(self.texts) <= MAX_CATEGORIES:
            self.texts[text] = None
        match = _match_number(text)
        if match is None:
            self.word = self.word or (line, text)
            return
        if abs(float(text)) >= MAX_TABLE_NUMBER:
            raise ValueError(f"{line}: {text} for {self.name[:40]!r} is beyond {MAX_TABLE_NUMBER}")
        self.numeric = True
        fraction, exponent = match[1] or match[2], match[3]
        if fraction is not None or exponent is not None:
            self.fraction = self.fraction or (line, text)
            self.decimals = max(self.decimals, len(fraction or ".") - 1 - int(exponent or 0))

    def choose_kind(self, n: int, reader: "TableReader") -> None:
        """Set the kind of a column of n cells: the user's choice, or a guess with a remark."""
        leave_out = f"leave the column out by {data_option('drop', [*reader.drop, self.name])}"
        category = data_option("types", {**reader.types, self.name: "category"})
        few = len(self.texts) <= FEW_NUMBERS and n >= FEW_NUMBERS * len(self.texts)
        if len(self.texts) > 1 and self.numeric and (self.fraction or not few):
            # in a column with numbers, words are mistakes
            self.kind = "real" if self.word or self.fraction else "integer"
        self.kind = reader.types.get(self.name, self.kind)
        wrong = {"real": self.word, "integer": self.word or self.fraction}.get(self.kind)
        if wrong is not None:
            whole = "" if self.word else "whole "
            raise ValueError(
                f"{wrong[0]}: {wrong[1][:40]!r} in {self.name[:40]!r} is not a {whole}number; "
                f"correct it, or change its column's kind by {category}, or {leave_out}"
            )
        if self.kind == "category" and self.name not in reader.types:
            self.remark = self._marked_numbers(category)
        if self.kind == "category" and len(self.texts) > MAX_CATEGORIES:
            raise ValueError(
                f"{reader.source}: {self.name[:40]!r} has more than {MAX_CATEGORIES} different "
                f"texts: {leave_out}" + f"; {self.remark}" * bool(self.remark)
            )

    def _marked_numbers(self, category: str) -> str:
        """Return a warning if most texts look like numbers, and some of them have marks."""
        plain = {text: text for text in self.texts}
        for mark in NUMBER_MARKS.values():
            plain = {text: mark.sub("", rest) for text, rest in plain.items()}
        numbers = [text for text, rest in plain.items() if _match_number("".join(rest.split()))]
        marked = next((text for text in numbers if plain[text] != text), None)
        if marked is None or 2 * len(numbers) <= len(self.texts):
            return ""
        marks = " and ".join(k for k, mark in NUMBER_MARKS.items() if mark.search(marked))
        return (
            f"{self.name[:40]!r} is taken as a category, but {marked!r} looks like a number with "
            f"{marks}: write numbers as 1234.5 and read the file again, or confirm the category "
            f"by {category}"
        )

    @property
    def categories(self) -> dict[str, float]:
        """Positions of the categories in order: numbers by size, then words."""
        size = {text: float(text) if _match_number(text) else math.inf for text in self.texts}
        order = sorted(size, key=lambda text: (size[text], text))
        return {text: float(i) for i, text in enumerate(order) if self.kind == "category"}

    def fit(self, values: NDArray[np.float64]) -> Column:
        """Return the column of these numbers in its cells to train on."""
        if self.kind == "category":
            texts = tuple(self.categories)
            p = np.bincount(values.astype(np.int64), minlength=len(texts)) / len(values)
            scale = float(np.sqrt((p * (1 - p)).mean())) or 1.0
            return Column(self.name, self.kind, tuple(p.tolist()), scale, categories=texts)
        mean = float(values.mean())
        # relative to the largest deviation, so that squares neither vanish nor overflow
        largest = float(np.abs(values - mean).max()) or 1.0
        scale = largest * float(((values - mean) / largest).std())
        if self.kind == "integer":
            scale = math.hypot(scale, 1 / math.sqrt(12))
        ends = float(values.min()), float(values.max())
        return Column(self.name, self.kind, (mean,), scale or 1.0, ends, self.decimals)


def _match_number(text: str) -> re.Match[str] | None:
    return NUMBER_TEXT.fullmatch(text) if len(text) < 50 else None


def _read_header(records: Iterator[Record]) -> list[str]:
    return [name.strip() for name in next(records, (0, list[str]()))[1]]


def _named_cells(source: str, records: Iterator[Record]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the place of each row, and its cells by the names in the header."""
    header = _read_header(records)
    for line, row in records:
        place = f"{source}, line {line}"
        if len(row) != len(header):
            raise ValueError(f"{place}: {len(row)} fields, but the header has {len(header)}")
        yield place, dict(zip(header, map(str.strip, row), strict=True))


def _check_header(names: list[str], source: str) -> None:
    if not any(names):
        raise ValueError(f"{source} holds no header: give the names of its columns first")
    if len(names) > MAX_COLUMNS:
        raise ValueError(f"{source} has {len(names)} columns, and a table at most {MAX_COLUMNS}")
    if all(map(_match_number, names)):
        raise ValueError(f"{source} begins with numbers: put a header above them")
    if "" in names:
        number = names.index("") + 1
        raise ValueError(f"{source}: column {number} has no name (in pandas save with index=False)")
    for name in names:
        if len(name) > MAX_NAME_LENGTH:
            length = f"a name of {len(name):,} characters"
            raise ValueError(f"{source}: {name[:40]!r}... is {length}, more than {MAX_NAME_LENGTH}")
        if names.count(name) > 1:
            raise ValueError(f"{source}: two columns are called {name[:40]!r}")


@dataclass(frozen=True)
class TableReader:
    """Reader of a table from text; see the arguments of `csv_file`.

    `records` yields the header and the rows, each time that it is called.
    """

    source: str
    records: Callable[[], Iterator[Record]]
    skip_missing: bool = False
    types: Mapping[str, ColumnKind] = field(default_factory=dict)
    drop: Sequence[str] = ()
    delimiter: str = ","
    memory: int = 2**28

    def dataset(self, split: Split | None = None, held_out: float = 0.1) -> Dataset:
        """Return the rows as standardised vectors, some of them held out."""
        header = _read_header(self.records())
        _check_header(header, self.source)
        for key in (*self.types, *self.drop):
            if key not in header:
                hint = spelling_hint(str(key), header)
                raise ValueError(f"{self.source} has no column {key!r}: {hint}")
        scans = [ColumnScan(column) for column in header if column not in self.drop]
        n, incomplete = 0, Counter[tuple[str, ...]]()
        for n, (line, cells) in enumerate(self._rows(incomplete), 1):  # noqa: B007
            for scan, text in zip(scans, cells, strict=True):
                scan.add(line, text)
        total = n + incomplete.total()
        remarks = [f"left out {total - n:,} of {total:,} rows, which lack a value"] * (n < total)
        if n < 2:
            reason = "; ".join([f"{self.source} holds {n} rows below its header", *remarks])
            raise ValueError(f"{reason}: give at least 2")
        for scan in scans:
            scan.choose_kind(n, self)
        values = self._values(n, [scan.categories for scan in scans])
        rows = split or hold_out(n, held_out)
        train = values[rows[0].numpy()].T
        fitted = (scan.fit(cells) for scan, cells in zip(scans, train, strict=True))
        lacking = Counter(name for names, count in incomplete.items() for name in names * count)
        columns = tuple(replace(column, missing=lacking[column.name] / total) for column in fitted)
        table = Table(columns, self.delimiter)
        if not table.size:
            raise ValueError(f"{self.source}: every column that is left has one value only")
        try:
            vectors = Arrays(table.standardise(values))
        except ValueError as error:
            raise ValueError(f"{self.source}: {error}") from error
        notices = (str(table), *filter(None, (scan.remark for scan in scans)), *remarks)
        name = Path(self.source).stem
        return Dataset.split(name, vectors, rows, table=table, notices=notices)

    def _values(self, n: int, categories: list[dict[str, float]]) -> NDArray[np.float64]:
        """Return the numbers of n rows; of a category its position."""
        width = sum(max(len(positions), 1) for positions in categories)
        # values in 64 bits, vectors and the two parts of them in 32
        need = n * (8 * width + 2 * 4 * width)
        if need > self.memory:
            raise ValueError(
                f"{self.source}: {n:,} rows of {width:,} numbers take {need:,} bytes, more than "
                f"memory={self.memory:,}: give more, or leave out columns of many categories"
            )
        pairs = (pair for _, cells in self._rows() for pair in zip(categories, cells, strict=True))
        numbers = (positions[text] if positions else float(text) for positions, text in pairs)
        return np.fromiter(numbers, float, n * len(categories)).reshape(n, -1)

    def _rows(
        self, incomplete: Counter[tuple[str, ...]] | None = None
    ) -> Iterator[tuple[str, list[str]]]:
        """Yield the place of each complete row, and its cells of the columns in use.

        Count the other rows in `incomplete`, by the names of the columns that lack a value.
        """
        for place, named in _named_cells(self.source, self.records()):
            cells = {name: text for name, text in named.items() if name not in self.drop}
            lacking = [name for name, text in cells.items() if not cell_text(text)]
            if not lacking:
                yield place, list(cells.values())
            elif not self.skip_missing:
                raise ValueError(
                    f"{place}: no value for {lacking[0][:40]!r}; fill it in, or leave such "
                    f"rows out by {data_option('missing', 'drop')}"
                )
            elif incomplete is not None:
                incomplete[tuple(lacking)] += 1
