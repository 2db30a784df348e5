"""Folders of image files, and readers that turn image files into samples of one shape.

Images are scaled by Lanczos and keep their aspect: they are cut, or padded. Pixels are kept in
memory, or read from the files whenever samples are taken; see `decode` for how a file is read.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from ..values import data_option, quantity
from .decode import ImageFile, decode, image_formats, read_header, read_image
from .fingerprint import check_unchanged, file_stamp
from .sources import Arrays, Dataset, Labelled, Pairs, Part, Source, Split, check_share

Size: TypeAlias = int | tuple[int, int]
"""Side of a square, or height and width, in pixels."""
Fit: TypeAlias = Literal["crop", "pad"]
"""How an image of another aspect becomes a sample: cut to the central part, or padded."""
MAX_SAMPLE_SIDE = 4096
"""Largest side of a sample, in pixels."""


@dataclass(frozen=True)
class ImageReader:
    """Function from image files to tensors of one shape.

    `crop` is the shorter side of the central part to cut out first, as far as it lies in the image:
    of the result's aspect, or a square to pad. An image of another aspect than the result's is cut
    to the largest central part of that aspect, or padded: its pixels at the edge are repeated
    outwards, because a border of one colour would be an edge that the model learns.
    """

    channels: int
    height: int
    width: int
    crop: int | None = None
    fit: Fit = "crop"

    def __call__(self, file: ImageFile) -> UInt8[Tensor, "channels height width"]:
        """Return the pixels of a file."""
        crop = self.crop
        with decode(file, "L" if self.channels == 1 else "RGB") as image:
            if crop is not None:
                if crop > min(image.size):
                    pixels = f"{image.width} × {image.height} pixels"
                    raise ValueError(f"crop={crop}, but {file} has {pixels}: give a smaller crop")
                aspect = (1, 1) if self.fit == "pad" else (self.width, self.height)
                across, down = (round(crop * side / min(aspect)) for side in aspect)
                across, down = min(across, image.width), min(down, image.height)
                left, top = (image.width - across) // 2, (image.height - down) // 2
                image = image.crop((left, top, left + across, top + down))
            if self.fit == "pad":
                scale = min(self.width / image.width, self.height / image.height)
                width, height = (max(1, round(scale * length)) for length in image.size)
                image = image.resize((width, height), Image.Resampling.LANCZOS)
            elif image.size != (self.width, self.height):
                image = ImageOps.fit(image, (self.width, self.height), Image.Resampling.LANCZOS)
        values = np.array(image).reshape(image.height, image.width, self.channels)
        margins = self.height - image.height, self.width - image.width, 0
        values = np.pad(values, [(m // 2, m - m // 2) for m in margins], mode="edge")
        return torch.from_numpy(values).permute(2, 0, 1)


@dataclass(frozen=True)
class FileList:
    """Image files of a place, each opened by its index when it is asked for."""

    place: str | Path
    names: Sequence[str]
    file: Callable[[int], ImageFile]
    advice: str = ""  # ends the error of a file that cannot be read

    def read(self, index: int, reader: Callable[[ImageFile], Any]) -> Any:
        """Return the result of a reader on a file."""
        file = self.file(index)
        try:
            return reader(file)
        except OSError as error:
            raise OSError(f"{error}{self.advice}") from error


def folder_files(root: Path, names: Sequence[str], advice: str = "") -> FileList:
    """Return files of a folder; one that has changed since is refused."""
    stamps = [file_stamp(root / name) for name in names]

    def file(index: int) -> Path:
        path = root / names[index]
        check_unchanged(path, stamps[index])
        return path

    return FileList(root, names, file, advice)


@dataclass(frozen=True, eq=False)
class ImageFiles(Source):
    """Image files, decoded when they are taken.

    A part of them is read at once if all together take at most `memory` bytes.
    """

    files: FileList
    reader: ImageReader
    labels: Int[Tensor, "n"] | None = None
    memory: int = 0

    @property
    def shape(self) -> torch.Size:
        """Shape of one image."""
        return torch.Size([self.reader.channels, self.reader.height, self.reader.width])

    def __len__(self) -> int:
        return len(self.files.names)

    def take(self, index: Int[Tensor, "batch"], *, threads: bool = False) -> Labelled:
        """Return the images of these indices, read from their files, and their labels."""
        stack = torch.empty(len(index), *self.shape, dtype=torch.uint8)
        read = partial(self.files.read, reader=self.reader)
        images = (map_in_threads if threads else map)(read, index.tolist())
        for place, image in zip(stack, images, strict=True):
            place.copy_(image)
        return stack, None if self.labels is None else self.labels[index]

    def part(self, rows: Int[Tensor, "n"]) -> Source:
        """Return some of the images, in memory if there is room for all."""
        if len(self) * self.shape.numel() > self.memory:
            return Part(self, rows)
        return Arrays(*self.take(rows, threads=True))


def map_in_threads(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """Yield function(item) of each item in order, computed by one thread a processor."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # a part at a time, so that results do not pile up
        for start in range(0, len(items), 1024):
            yield from pool.map(function, items[start : start + 1024])


def choose_reader(
    files: FileList,
    size: Size | None,
    crop: int | None,
    channels: int | None,
    fit: Fit = "crop",
) -> ImageReader:
    """Return a reader, see `folder`; what is not chosen is read from the headers of the files."""
    square = crop if size is None else size
    height, width = square if isinstance(square, tuple) else (square, square)
    if any(side is not None and not 1 <= side <= MAX_SAMPLE_SIDE for side in (height, width, crop)):
        raise ValueError(f"size={size}, crop={crop}: give 1 to {MAX_SAMPLE_SIDE} pixels, or none")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels={channels}: give 1 for grey or 3 for colour, or none")
    if height is not None and width is not None and channels is not None:
        return ImageReader(channels, height, width, crop, fit)
    first, *_ = names = files.names
    headers = map_in_threads(lambda i: files.read(i, read_header), range(len(names)))
    first_width, first_height, grey = next(headers)
    for name, (w, h, without_colour) in zip(names[1:], headers, strict=True):
        if square is None and (w, h) != (first_width, first_height):
            smallest = min(first_width, first_height, w, h)
            raise ValueError(
                f"{files.place}: {first} has {first_width} × {first_height} pixels, {name} {w} × "
                f"{h}; scale them to one by {data_option('size', smallest)}"
            )
        grey = grey and without_colour
    shape = channels or (1 if grey else 3), height or first_height, width or first_width
    return ImageReader(*shape, crop, fit)


def folder(
    path: str | Path,
    *,
    size: Size | None = None,
    crop: int | None = None,
    fit: Fit = "crop",
    channels: int | None = None,
    held_out: float | Path | None = None,
    skip: bool = False,
    memory: int = 2**30,
    condition: Sequence[str] = (),
) -> Dataset:
    """Load the images in a folder and its subfolders, sorted by name; hidden files are ignored.

    If every image is in one of several folders of the first level, these are classes, in the order
    of their names.

    A twentieth of them is held out, at least one: the names with the smallest hashes, so that a
    file stays on its side when others are added.

    Args:
        path: the folder. Links to other folders are not followed.
        size: side of the square that each image is scaled to, or height and width; by default the
            size of all.
        crop: side of the central square to cut out first, or the shorter side of a central part of
            the aspect of `size`; by default the largest part that fits.
        fit: "crop" cuts an image of another aspect than `size`, "pad" keeps all of it and repeats
            the pixels at its edge.
        channels: 1 for grey, 3 for colour; by default grey if every image is.
        held_out: share of the images to hold out, or a folder of images to hold out, which may be
            below the first one.
        skip: leave out files that cannot be read; this reads all files once more.
        memory: keep the pixels in memory if they take no more bytes than this. If they take more,
            give `size` and `channels` too: otherwise the header of each file is read first.
        condition: folders of images that the images of the same names are conditioned on, such as
            grey or small ones; each takes the name of its folder.
    """
    root = Path(path)
    names, skipped, own = image_names(root), tuple[str, ...](), ""
    if isinstance(held_out, Path) and condition:
        raise ValueError(
            f"held_out={held_out}: with a condition, the images to hold out cannot be a folder; "
            "give a share, as 0.1"
        )
    if isinstance(held_out, Path):
        names, own = _add_folder(root, names, held_out), f"{held_out.resolve()}/"
    if skip:
        names, skipped = _readable(root, names)
    classes, labels = _find_classes([name.removeprefix(own) for name in names])
    skipping = f"; repair it, or leave such files out by {data_option('skip', True)}"
    files = folder_files(root, names, skipping)
    reader = choose_reader(files, size, crop, channels, fit)
    images: Source = ImageFiles(files, reader, labels, memory)
    if condition:
        choose = partial(choose_reader, size=size, crop=crop, channels=None, fit=fit)
        images = Pairs(images, _condition_images(condition, names, choose, memory))
    rows, name = _hash_split(names, held_out), root.resolve().name
    left_out = ", ".join(skipped[:5]) + ", ..." * (len(skipped) > 5)
    notices = (f"left out {len(skipped)} of the files, which cannot be read: {left_out}",)
    return Dataset.split(
        name, images, rows, classes=classes, notices=notices * bool(skipped), paths=tuple(names)
    )


def _find_classes(names: Sequence[str]) -> tuple[tuple[str, ...], Tensor | None]:
    """Return the folders of the first level and each image's number, if they are classes."""
    tops = [name.rpartition("/")[0].partition("/")[0] for name in names]
    order = {top: i for i, top in enumerate(sorted(set(tops)))}
    if "" in order or len(order) < 2:
        return (), None
    return tuple(order), torch.tensor([order[top] for top in tops])


def _condition_images(
    places: Sequence[str],
    names: Sequence[str],
    choose: Callable[[FileList], ImageReader],
    memory: int,
) -> dict[str, Source]:
    """Return the images of these names in each of several folders, by the folder's name."""
    others = dict[str, Source]()
    for place in map(Path, places):
        if (folder_name := place.resolve().name) in others:
            raise ValueError(
                f"condition={place}: another condition is called {folder_name!r} too; rename one "
                "of the folders, because a condition takes the name of its folder"
            )
        partners = folder_files(place, _same_names(place, names))
        others[folder_name] = ImageFiles(partners, choose(partners), None, memory)
    return others


def image_names(root: Path) -> list[str]:
    """Return the paths of all image files below a folder, relative to it and sorted."""
    errors, files = list[OSError](), list[Path]()
    for place, folders, names in os.walk(root, onerror=errors.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(place, name) for name in names if not name.startswith(".")]
    if errors:
        raise errors[0]
    formats = Image.registered_extensions()
    images = [file for file in files if formats.get(file.suffix.lower()) in image_formats()]
    if not images:
        raise FileNotFoundError(
            f"{root} holds no images" + f", but {quantity(len(files), 'other file')}" * bool(files)
        )
    return sorted(image.relative_to(root).as_posix() for image in images)


def _same_names(place: Path, names: Sequence[str]) -> list[str]:
    """Return the images of a folder with these names, whatever their format."""
    partners = {name.rpartition(".")[0]: name for name in image_names(place)}
    missing = [name for name in names if name.rpartition(".")[0] not in partners]
    if missing:
        raise ValueError(
            f"condition={place}: it holds no image for {missing[0]}"
            + f", and for {len(missing) - 1} others" * (len(missing) > 1)
            + "; give images of the same names"
        )
    return [partners[name.rpartition(".")[0]] for name in names]


def _add_folder(root: Path, names: Sequence[str], other: Path) -> list[str]:
    """Return the names of a folder's images that are not in another one, and the paths in that."""
    if not other.is_dir():
        raise ValueError(f"held_out={other}: this is neither a share, as 0.1, nor a folder")
    place, own = root.resolve(), other.resolve()
    if place.is_relative_to(own):
        raise ValueError(f"held_out={other}: name a folder that does not hold all of {root}")
    inside = f"{own.relative_to(place).as_posix()}/" if own.is_relative_to(place) else "/"
    rest = [name for name in names if not name.startswith(inside)]
    if not rest:
        raise ValueError(f"held_out={other} holds all images of {root}: leave some to train on")
    return rest + [f"{own}/{name}" for name in image_names(own)]


def _readable(root: Path, names: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Separate the files that can be read from the others."""

    def is_readable(name: str) -> bool:
        try:
            read_image(root / name, "RGB")
        except OSError:
            return False
        return True

    readable = list(compress(names, map_in_threads(is_readable, names)))
    if not readable:
        raise OSError(f"{root} holds {len(names)} images, none of which can be read")
    return readable, tuple(sorted({*names} - {*readable}))


def _hash_split(names: Sequence[str], held_out: float | Path | None) -> Split:
    """Split by the hashes of the names, or by folder; the rows stay in their order."""
    if isinstance(held_out, Path):
        own = torch.tensor([name.startswith("/") for name in names])
        return (~own).nonzero()[:, 0], own.nonzero()[:, 0]
    hashes = [hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest() for name in names]
    twentieth = sum(int.from_bytes(digest[:8], "big") < 2**64 // 20 for digest in hashes)
    wanted = twentieth if held_out is None else round(check_share(held_out) * len(names))
    count = min(max(1, wanted), len(names) - 1)
    order = torch.tensor(sorted(range(len(names)), key=hashes.__getitem__))
    return order[count:].sort().values, order[:count].sort().values
