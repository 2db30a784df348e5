"""CelebA (Liu et al. 2015): the aligned faces, in their folder or their zip, which stays packed."""

from __future__ import annotations

import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .dataset import Dataset
from .fingerprint import Stamp, check_stamp, stamp
from .folder import listed
from .picture import Encoded, Reader
from .pictures import Below, Files, Pictures
from .published import home
from .source import Source, hold_out

PAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
IMAGES = "img_align_celeba"
PARTITION = "list_eval_partition.txt"
IMAGE = 2**24
"""Bytes of an image in a zip, at most; those of CelebA have some 10,000."""
NAME = 255
"""Characters of its name."""
LIST = 2**24
"""Bytes of the list of the three parts, at most; it has 3 million."""


def celeba(
    *, root: str | Path | None = None, size: int = 64, crop: int = 140, memory: int = 2**30
) -> Dataset:
    """Faces of 178 × 218 pixels, their central square scaled; 162,770 to train on, as published.

    With list_eval_partition.txt, the 19,962 of the test part are held out, and the 19,867 of the
    validation part left aside; without it a fixed tenth of all is held out.

    Args:
        root: img_align_celeba, its zip, or a folder with either; data/celeba if not given.
        size: the side of the square that each image is scaled to.
        crop: the side of the central square that is cut out first.
        memory: keep the pixels in memory if they take no more bytes than this.
    """
    if size < 1 or crop < 1:
        raise ValueError(f"size={size}, crop={crop}: give at least 1 pixel")
    images = _images(home("celeba", root))
    names = listed(images) if images.is_dir() else _members(images)
    before = stamp(images)
    archive = None if images.is_dir() else zipfile.ZipFile(images)
    train, test = _parts(images, names)

    def source(rows: list[int]) -> Source:
        some = tuple(names[i] for i in rows)
        total, reader = (len(train) + len(test)) * 3 * size * size, Reader(3, size, size, crop)
        if archive is not None:
            files: Files = Members(archive, some, before)
        else:
            stamps = None if total <= memory else tuple(stamp(images / name) for name in some)
            files = Below(images, some, stamps)
        pictures = Pictures(files, reader)
        return pictures.read() if total <= memory else pictures

    return Dataset("celeba", source(train), source(test) if test else None)


def _images(place: Path) -> Path:
    """The folder of images, or the zip of it."""
    below = [top / name for top in (place, place / "celeba") for name in (IMAGES, f"{IMAGES}.zip")]
    direct = [place] if place.is_file() or any(place.glob("*.jpg")) else []
    found = next((path for path in (*direct, *below) if path.exists()), None)
    if found is None:
        raise FileNotFoundError(
            f"CelebA is looked for in {place}, where there is no {IMAGES} and no {IMAGES}.zip; it "
            f"cannot be fetched from here, for its authors ask you to agree to their terms: see "
            f"{PAGE}, then name its folder by --data.options.root=FOLDER (in Python root=...)"
        )
    return found


# ── Which image is on which side ─────────────────────────────────────────────────────────────────


def _parts(images: Path, names: list[str]) -> tuple[list[int], list[int]]:
    """The indices of the images to train on, and of those held out."""
    tops = (images, images.parent, images.parent.parent)
    paths = [top / below / PARTITION for top in tops for below in ("", "Eval")]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        train, test = hold_out(len(names), 0.1)
        return train.tolist(), test.tolist()
    part = _partition(path)
    lost = [name for name in names if _plain(name) not in part]
    if lost:
        raise OSError(f"{path} has no line for {lost[0]}: get it anew, or take it away")
    chosen = [[i for i, name in enumerate(names) if part[_plain(name)] == side] for side in (0, 2)]
    if not chosen[0]:
        raise OSError(f"{images} holds no image of the training part of {path}")
    return chosen[0], chosen[1]


def _partition(path: Path) -> dict[str, int]:
    if path.stat().st_size > LIST:
        raise OSError(f"{path} has {path.stat().st_size} bytes, and should have {LIST} at most")
    found: dict[str, int] = {}
    for number, line in enumerate(path.read_text("latin-1").splitlines(), 1):
        words = line.split()
        if len(words) != 2 or words[1] not in ("0", "1", "2") or words[0] in found:
            raise OSError(f"{path}, line {number}: give a name and 0, 1 or 2, each name once")
        found[words[0]] = int(words[1])
    return found


def _plain(name: str) -> str:
    return PurePosixPath(name).name


# ── The zip ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Members:
    """The files of these names in a zip, read when they are asked for."""

    archive: zipfile.ZipFile
    names: tuple[str, ...]
    stamp: Stamp
    """Of the zip when it was opened; one that differs later is refused."""

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Encoded:
        name = self.names[index]
        check_stamp(Path(str(self.archive.filename)), self.stamp)
        try:
            # not by `read` without a number, which unpacks more than the size that was checked
            with self.archive.open(name) as file:
                return Encoded(f"{self.archive.filename}: {name}", file.read(IMAGE))
        except Exception as error:  # zipfile and what it unpacks with may raise anything
            raise OSError(f"{self.archive.filename}: {name} is damaged: {error!s:.500}") from error


def _members(path: Path) -> list[str]:
    """The images in a zip, sorted; each is of a size that it may have."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = {info.filename: info for info in archive.infolist()}
    except Exception as error:  # zipfile may raise anything on a damaged file
        raise OSError(f"{path} cannot be read as a zip: {error!s:.500}; get it anew") from error
    jpegs = (name for name in found if name.lower().endswith(".jpg"))
    names = sorted(name for name in jpegs if not _plain(name).startswith("."))
    for info in (found[name] for name in names):
        plain = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        linked = stat.S_ISLNK(info.external_attr >> 16)
        if not plain or linked or info.file_size > IMAGE or len(info.filename) > NAME:
            raise OSError(
                f"{path}: {info.filename:.{NAME}} is no image of at most {IMAGE} bytes, packed as "
                "zips are"
            )
    if not names:
        raise OSError(f"{path} holds no .jpg")
    return names
