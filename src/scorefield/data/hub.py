"""Images of the Hugging Face Hub, or of a folder that `datasets` reads, also as a stream.

Images are decoded by this package; `datasets` from version 4 on runs no code of a data set.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

from .._ops import check_count
from ..disk import name_damage
from ..values import import_extra
from .decode import EncodedImage, ImageFile
from .images import FileList, Fit, ImageFiles, ImageReader, Size, choose_reader
from .sources import MAX_CLASSES, Arrays, Dataset, Labelled, Stream, hold_out, stack_samples

MAX_HEAD_BYTES = 2**28
"""Size of the head of a stream."""
MAX_HELD_OUT_ROWS = 1024
"""Number of rows of a stream that are held out."""
MAX_REMOTE_IMAGE_BYTES = 2**26
Chooser: TypeAlias = Callable[[FileList], ImageReader]


def hub(
    name: str,
    *,
    config: str | None = None,
    revision: str | None = None,
    split: str = "train",
    test: str | None = None,
    image: str | None = None,
    label: str | None = None,
    size: Size | None = None,
    crop: int | None = None,
    fit: Fit = "crop",
    channels: int | None = None,
    memory: int = 2**30,
    streaming: bool = False,
    buffer: int = 10_000,
) -> Dataset:
    """Load images of the Hub; naming a data set downloads it.

    `name` is owner/name, or a folder that `datasets` has saved or can read, `config` one of several
    configurations, and `revision` a commit, branch or tag, by default the newest. `split` is
    trained on and `test` held out, by default test, validation, or a fixed tenth. `image` is the
    column of images, by default the only one, or image or img, and `label` that of classes, by
    default label or labels, if there is one. `size`, `crop`, `fit`, `channels` and `memory` are as
    in `folder`; what is not given of a stream, its first image decides. `streaming` downloads while
    training, keeps nothing on the disk, and chooses each row from `buffer` rows.
    """
    check_count(buffer=buffer)
    splits = _load_splits(name, streaming, name=config, revision=revision)
    if split not in splits or (test is not None and test not in splits):
        raise ValueError(f"hub:{name} has the splits {', '.join(splits)}: name them by split, test")
    others = (key for key in ("test", "validation") if key in splits and key != split)
    test = test or next(others, None)
    columns = _choose_columns(name, splits[split], image, label, streaming)
    tables = [columns.select(splits[key]) for key in (split, test) if key]
    choose = partial(choose_reader, size=size, crop=crop, channels=channels, fit=fit)
    if streaming:
        return _stream(columns, tables, choose, buffer)
    import datasets

    table, n = datasets.concatenate_datasets(tables), len(tables[0])
    names = [f"row {i}" for i in range(len(table))]
    files = FileList(f"hub:{name}", names, lambda i: columns.file(table[i], names[i]))
    labels = columns.classes_of(table[columns.label][:]) if columns.label else None
    images = ImageFiles(files, choose(files), labels, memory)
    rows = torch.arange(len(names))
    sides = (rows[:n], rows[n:]) if tables[1:] else hold_out(n, 0.1)
    numbers = range(0 if labels is None else int(labels.max()) + 1)
    classes = columns.classes or tuple(map(str, numbers))
    return Dataset.split(name, images, sides, classes=classes)


def _load_splits(path: str, streaming: bool, **options: str | None) -> dict[str, Any]:
    """Return the tables of a data set by the names of its splits."""
    datasets = import_extra("datasets", "hub", "hub:...")
    version = datasets.__version__
    if int(version.partition(".")[0]) < 4:
        raise ImportError(f"datasets {version} may run a data set's code: install 4 or newer")
    marks = (Path(path, "dataset_dict.json"), Path(path, "state.json"))  # of `save_to_disk`
    with name_damage(f"hub:{path} cannot be loaded"):
        if not any(mark.exists() for mark in marks):
            return dict(datasets.load_dataset(path, streaming=streaming, **options))
        saved = datasets.load_from_disk(path)
        splits = dict(saved) if isinstance(saved, dict) else {"train": saved}
        return {k: v.to_iterable_dataset() if streaming else v for k, v in splits.items()}


@dataclass(frozen=True)
class HubColumns:
    """Columns of images and labels of a data set; `classes` is empty if they have no names."""

    name: str
    image: str
    label: str | None
    classes: tuple[str, ...]

    def select(self, table: Any) -> Any:
        """Return these columns of a table, with the images still encoded."""
        import datasets

        selection = table.select_columns([self.image, *([self.label] if self.label else [])])
        try:
            return selection.cast_column(self.image, datasets.Image(decode=False))
        except Exception as error:  # Arrow raises types of its own
            message = f"hub:{self.name}: {self.image} holds no images; choose another one by image"
            raise ValueError(message) from error

    def file(self, row: dict[str, Any], place: str) -> ImageFile:
        """Return the image of a row."""
        cell, where = row[self.image], f"hub:{self.name}, {place}"
        if not isinstance(cell, dict) or not (cell["bytes"] or cell["path"]):
            raise ValueError(f"{where} has no image")
        if cell["bytes"]:
            return EncodedImage(where, cell["bytes"])
        if not cell["path"].startswith("hf://"):
            return Path(cell["path"])
        import fsspec  # installed with datasets

        with fsspec.open(cell["path"], "rb") as file:
            return EncodedImage(cell["path"], file.read(MAX_REMOTE_IMAGE_BYTES))

    def classes_of(self, labels: list[Any]) -> Int[Tensor, "n"]:
        """Return labels as a tensor, if they are classes."""
        top = len(self.classes) or MAX_CLASSES
        if not all(type(label) is int and 0 <= label < top for label in labels):
            place = f"hub:{self.name}: {self.label}"
            raise ValueError(f"{place} is not a class for each row: choose by label or split")
        return torch.tensor(labels)


def _choose_columns(
    name: str, table: Any, image: str | None, label: str | None, streaming: bool
) -> HubColumns:
    import datasets

    features = table.features or table._resolve_features().features
    images = [key for key, kind in features.items() if isinstance(kind, datasets.Image)]
    if len(images) != 1:
        images = [key for key in ("image", "img") if key in features]
    image = image or next(iter(images), "")
    classed = (k for k in ("label", "labels") if isinstance(features.get(k), datasets.ClassLabel))
    label = label or next(classed, None)
    for key, option in ((image, "image"), (label, "label")):
        if key is not None and key not in features:
            names = ", ".join(features)
            raise ValueError(f"hub:{name} has the columns {names}: choose one by {option}")
    classes = tuple(getattr(features.get(label), "names", ()))
    if streaming and label and not classes:
        raise ValueError(f"hub:{name}: a stream needs the number of classes, which {label} lacks")
    return HubColumns(name, image, label, classes)


def _stream(columns: HubColumns, tables: list[Any], choose: Chooser, buffer: int) -> Dataset:
    train, held_out = (*tables, None)[:2]
    counts = (train.info.splits or {}).get(str(train.split))
    total = (counts and counts.num_examples) or None  # None if the provider has not counted them
    if held_out is None:
        # Where the number of rows is not known, count the first ones in case there are few.
        count = total or sum(1 for _ in islice(train, 10 * MAX_HELD_OUT_ROWS))
        few = min(max(1, count // 10), MAX_HELD_OUT_ROWS)
        held_out, train = train.take(few), train.skip(few)
        total = total and total - few
    rows = partial(_endless_rows, columns.name, train, total, buffer)
    first = columns.file(next(rows(0), {columns.image: None}), "the first row")
    reader = choose(FileList(f"hub:{columns.name}", ["the first row"], lambda _: first))

    def decode(row: dict[str, Any]) -> tuple[Tensor, int | None]:
        label = None if columns.label is None else int(columns.classes_of([row[columns.label]]))
        return reader(columns.file(row, "a row")), label

    def first_rows(table: Any, n: int) -> Labelled:
        return stack_samples([decode(row) for row in islice(table, n)])

    fitting = max(1, MAX_HEAD_BYTES // (reader.channels * reader.height * reader.width))
    head = first_rows(train.shuffle(seed=0, buffer_size=buffer), min(buffer, fitting))
    stream, test = Stream(*head, rows=rows, decode=decode), first_rows(held_out, MAX_HELD_OUT_ROWS)
    return Dataset(columns.name, stream, Arrays(*test), classes=columns.classes, exact=False)


def _endless_rows(
    name: str, table: Any, total: int | None, buffer: int, start: int
) -> Iterator[Any]:
    """Yield all rows from a position on, in a new order each pass."""
    # where the number of rows is not known, a resumed run starts a pass of its own
    epoch, position = divmod(start, total) if total else (start, 0)
    try:
        while True:
            rows = table.shuffle(seed=epoch, buffer_size=buffer)
            for row in rows.skip(position) if position else rows:
                position += 1
                yield row
            if not position:
                return
            epoch, position = epoch + 1, 0
    except OSError:
        raise
    except Exception as error:  # Arrow's or the network's; at an OSError a run is saved
        raise OSError(f"hub:{name} could not be read further: {error}") from error
