"""Images of the Hugging Face Hub, or of a folder that `datasets` reads, streamed if asked for.

Images are decoded here and not by that library, which from version 4 on runs no code of others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from jaxtyping import Int
from torch import Tensor

from .dataset import Dataset
from .folder import check, reading
from .picture import Encoded, File
from .pictures import Pictures
from .source import Arrays, Part, Source, hold_out
from .stream import Stream, stacked

SAVED = ("dataset_dict.json", "state.json")
"""What `save_to_disk` leaves in a folder."""
HEAD = 2**28
"""Bytes of the head of a stream, at most."""
HELD = 1024
"""Samples of a stream that are held out, at most."""
IMAGE = 2**26
"""Bytes of one image that is read from the Hub, at most."""


def hub(
    name: str,
    *,
    config: str | None = None,
    revision: str | None = None,
    split: str = "train",
    test: str | None = None,
    image: str | None = None,
    label: str | None = None,
    size: int | None = None,
    crop: int | None = None,
    channels: int | None = None,
    memory: int = 2**30,
    streaming: bool = False,
    buffer: int = 10_000,
) -> Dataset:
    """Images of the Hub; to ask for them by name is to ask for the download.

    Args:
        name: owner/name, or a folder that `datasets` has saved or can read.
        config: the configuration, where there are several.
        revision: the commit, branch or tag; the newest if not given.
        split: what is trained on.
        test: what is held out; the split test, or validation, or a fixed tenth if not given.
        image: the column of images; the only one, image or img if not given.
        label: the column of classes; label or labels, if there is one, if not given.
        size: the side of the square that images are scaled to; may be left out if all have one
            size. Of a stream the first image decides.
        crop: the side of the central square to cut out first.
        channels: 1 for grey, 3 for colour; if left out, grey if every image is, of a stream if the
            first one is.
        memory: keep the pixels in memory if they take no more bytes than this.
        streaming: download while training, and keep nothing on the disk.
        buffer: rows of a stream among which the next is drawn.
    """
    check(size, crop, channels)
    parts = _loaded(name, config, revision, streaming)
    if split not in parts or (test is not None and test not in parts):
        raise ValueError(f"hub:{name} has the splits {', '.join(parts)}: name them by split, test")
    others = [each for each in ("test", "validation") if each in parts and each != split]
    chosen = test or next(iter(others), None)
    columns = _columns(name, parts[split], image, label, streaming)
    train = columns.of(parts[split])
    held = None if chosen is None else columns.of(parts[chosen])
    shape = (size, crop, channels)
    if streaming:
        return _streamed(columns, train, held, shape, buffer)
    return _kept(columns, train, held, shape, memory)


def _library() -> ModuleType:
    try:
        import datasets
    except ImportError as error:
        raise ImportError("hub:... needs that library: pip install 'scorefield[hub]'") from error
    if int(datasets.__version__.partition(".")[0]) < 4:
        raise ImportError(
            f"datasets {datasets.__version__} may run code that comes with data: install 4 or newer"
        )
    return cast(ModuleType, datasets)


def _loaded(name: str, config: str | None, revision: str | None, streaming: bool) -> dict[str, Any]:
    """The tables of a data set, by the names of its splits."""
    datasets = _library()
    try:
        if not any((Path(name) / mark).exists() for mark in SAVED):
            found = datasets.load_dataset(name, config, revision=revision, streaming=streaming)
            return dict(found)
        found = datasets.load_from_disk(name)
        parts = dict(found) if isinstance(found, dict) else {"train": found}
        return {k: v.to_iterable_dataset() if streaming else v for k, v in parts.items()}
    except Exception as error:  # the library may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(f"hub:{name} cannot be loaded: {reason}") from error


# ── Columns ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Columns:
    """Where a data set has its images and their labels."""

    name: str
    image: str
    label: str | None
    classes: int
    """How many, 0 if that is not known."""

    def of(self, table: Any) -> Any:
        """Nothing else of a table, the images still encoded."""
        kept = table.select_columns([self.image, *([self.label] if self.label else [])])
        try:
            return kept.cast_column(self.image, _library().Image(decode=False))
        except Exception as error:  # Arrow has its own
            raise ValueError(
                f"hub:{self.name}: {self.image} holds no images, name a column of some by image"
            ) from error

    def file(self, row: dict[str, Any], place: str) -> File:
        """The image of a row."""
        cell, where = row[self.image], f"hub:{self.name}, {place}"
        if not isinstance(cell, dict) or not (cell["bytes"] or cell["path"]):
            raise ValueError(f"{where} has no image")
        if cell["bytes"]:
            return Encoded(where, cell["bytes"])
        if not cell["path"].startswith("hf://"):
            return Path(cell["path"])
        import fsspec  # it comes with datasets

        with fsspec.open(cell["path"], "rb") as file:
            return Encoded(cell["path"], file.read(IMAGE))

    def numbers(self, found: list[Any]) -> Int[Tensor, "n"]:
        """Labels, if they are some."""
        top = self.classes or 2**31
        if not all(type(each) is int and 0 <= each < top for each in found):
            raise ValueError(
                f"hub:{self.name}: {self.label} is not a class for each row, an integer from 0 on; "
                "name another column by label, or other splits by split and test"
            )
        return torch.tensor(found)


def _columns(
    name: str, table: Any, image: str | None, label: str | None, streaming: bool
) -> _Columns:
    datasets = _library()
    features = table.features or table._resolve_features().features
    pictures = [key for key, kind in features.items() if isinstance(kind, datasets.Image)]
    known = pictures if len(pictures) == 1 else [key for key in ("image", "img") if key in features]
    image = image or next(iter(known), None)
    classed = [k for k in ("label", "labels") if isinstance(features.get(k), datasets.ClassLabel)]
    label = label or next(iter(classed), None)
    for key, option in ((image, "image"), (label, "label")):
        if key not in features and not (key is None and option == "label"):
            raise ValueError(
                f"hub:{name} has the columns {', '.join(features)}: say by {option} which to take"
            )
    classes = getattr(features.get(label), "num_classes", 0)
    if streaming and label and not classes:
        raise ValueError(f"hub:{name}: of a stream, {label} has to say how many classes there are")
    return _Columns(name, str(image), label, classes)


# ── Kept ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Rows:
    """The images of a table, each taken from it when it is asked for."""

    columns: _Columns
    table: Any

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> File:
        return self.columns.file(self.table[index], f"row {index}")


def _kept(
    columns: _Columns, train: Any, held: Any, shape: tuple[int | None, ...], memory: int
) -> Dataset:
    """By index, and in memory if there is room."""
    rows, names = _Rows(columns, train), [f"row {i}" for i in range(len(train))]
    reader = reading(f"hub:{columns.name}", rows, names, *shape)
    tables = [train] if held is None else [train, held]
    numbers = [columns.numbers(t[columns.label][:]) if columns.label else None for t in tables]
    parts = [Pictures(_Rows(columns, t), reader, n) for t, n in zip(tables, numbers, strict=True)]
    fits = sum(len(p) * p.shape.numel() for p in parts) <= memory
    sources: list[Source] = [p.read() if fits else p for p in parts]
    if held is None:
        sources = [Part(sources[0], side) for side in hold_out(len(train), 0.1) if len(side)]
    most = max((int(n.max()) for n in numbers if n is not None), default=-1)
    test = sources[1] if len(sources) == 2 else None
    return Dataset(columns.name, sources[0], test, classes=columns.classes or most + 1)


# ── Streamed ─────────────────────────────────────────────────────────────────────────────────────


def _streamed(
    columns: _Columns, train: Any, held: Any, shape: tuple[int | None, ...], buffer: int
) -> Dataset:
    """One after another, with some held out, and a head in memory."""
    if buffer < 1:
        raise ValueError(f"buffer={buffer}: draw from at least 1 row")
    total = _count(train)
    if held is None:
        # where nobody has counted, a look at the first rows says whether there are few
        few = max(1, (total or sum(1 for _ in islice(train, 10 * HELD))) // 10)
        few = min(few, HELD)
        held, train = train.take(few), train.skip(few)
        total = total and total - few
    rows = _endless(columns.name, train, total, buffer)
    first = columns.file(next(rows(0), {columns.image: None}), "the first row")
    reader = reading(f"hub:{columns.name}", [first], ["the first row"], *shape)

    def decode(row: dict[str, Any]) -> tuple[Tensor, int | None]:
        label = None if columns.label is None else int(columns.numbers([row[columns.label]]))
        return reader(columns.file(row, "a row")), label

    def some(table: Any, number: int) -> Arrays:
        return Arrays(*stacked([decode(row) for row in islice(table, number)]))

    most = min(buffer, max(1, HEAD // (reader.channels * reader.height * reader.width)))
    head = some(train.shuffle(seed=0, buffer_size=buffer), most)
    test = some(held, HELD)
    return Dataset(
        columns.name, Stream(head, rows, decode), test, classes=columns.classes, exact=False
    )


def _count(table: Any) -> int | None:
    """How many rows a stream has, if somebody has counted them."""
    splits = table.info.splits or {}
    known = splits.get(str(table.split)) if table.split else None
    return (known.num_examples or None) if known else None


def _endless(
    name: str, table: Any, total: int | None, buffer: int
) -> Callable[[int], Iterator[Any]]:
    """All rows from a position on, in another order each time."""

    def rows(start: int) -> Iterator[Any]:
        try:
            yield from all_rows(start)
        except OSError:
            raise
        except Exception as error:  # of Arrow, or of the network; at an OSError a run is saved
            raise OSError(f"hub:{name} could not be read further: {error}") from error

    def all_rows(start: int) -> Iterator[Any]:
        # where the number of rows is not known, a run goes on with a pass of its own
        epoch, skip = divmod(start, total) if total else (start, 0)
        for number in count(epoch):
            shuffled = table.shuffle(seed=number, buffer_size=buffer)
            found = iter(shuffled.skip(skip) if skip else shuffled)
            first = next(found, None)
            if first is None and not skip:
                return
            if first is not None:
                yield first
            yield from found
            skip = 0

    return rows
