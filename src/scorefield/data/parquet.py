"""Parquet files of tables, as the text that pandas would write of them into a CSV file.

What the footer states of the size is bounded before values are read. Beyond that, memory and errors
at hostile files are pyarrow's, whose parsers are in C++: open a file of strangers as CSV.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..disk import name_damage, open_regular
from ..values import import_extra
from .table import Record

MAX_PARQUET_BYTES = 2**26
"""Limit of the unpacked values of a file."""
MAX_PARQUET_CELLS = 2**25
"""A text file of 64 MiB has no more."""
ROWS_AT_ONCE = 1024


def parquet_records(path: Path) -> Iterator[Record]:
    """Yield the names of the columns, then the rows."""
    parquet = import_extra("pyarrow.parquet", "tables", str(path))
    damage = name_damage(f"{path} cannot be read as Parquet")
    with damage, open_regular(path) as content, parquet.ParquetFile(content) as file:
        names = file.schema_arrow.names
        _check_size(file.metadata, len(names))
        # pandas' name of an index without a name, which has none in a CSV file
        yield "", ["" if name.startswith("__index_level_") else name for name in names]
        parts = (b.columns for b in file.iter_batches(ROWS_AT_ONCE, use_threads=False))
        rows = (row for part in parts for row in zip(*map(_texts, part), strict=True))
        yield from ((f"row {i}", [*row]) for i, row in enumerate(rows))


def _check_size(about: Any, columns: int) -> None:
    """Refuse a footer that states too many values or bytes."""
    size = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
    cells = about.num_rows * columns
    if not (0 <= size <= MAX_PARQUET_BYTES and 0 <= cells <= MAX_PARQUET_CELLS):
        raise ValueError(
            f"it unpacks to {size:,} bytes and {cells:,} cells, and a table has at most "
            f"{MAX_PARQUET_BYTES:,} and {MAX_PARQUET_CELLS:,}: take some of its rows"
        )


def _texts(column: Any) -> list[str]:
    """Return the cells of a column as text, "" where one is missing."""
    # as numbers of NumPy, whose text has the digits that the type holds: 0.1 in 32 bits too
    floats = str(column.type) in ("halffloat", "float", "double")
    cells = column.to_numpy(zero_copy_only=False) if floats else column.to_pylist()
    texts = ["" if cell is None else str(cell) for cell in cells]
    limit = csv.field_size_limit()
    if any(len(text) > limit or "\0" in text for text in texts):
        raise ValueError(f"a cell of more than {limit:,} characters, or with one of code 0")
    return texts
