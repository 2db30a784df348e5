"""CelebA (Liu et al. 2015): the aligned faces, from their folder or their zip without unpacking."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path, PurePosixPath

import torch

from .download import data_folder
from .fingerprint import check_unchanged, file_stamp
from .image import EncodedImage
from .images import FileList, FolderFiles, ImageFiles, ImageSize, image_names
from .sources import Dataset, hold_out

CELEBA_PAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
CELEBA_FOLDER = "img_align_celeba"
PARTITION_FILE = "list_eval_partition.txt"
MAX_FACE_BYTES = 2**24
"""CelebA's have about 10,000."""
MAX_NAME_LENGTH = 255
MAX_PARTITION_BYTES = 2**24
"""The published file has 3 million."""


def celeba(
    *, root: str | Path | None = None, size: int = 64, crop: int = 140, memory: int = 2**30
) -> Dataset:
    """Load faces of 178 × 218 pixels: the central square, scaled; 162,770 to train on.

    With list_eval_partition.txt, the 19,962 of the test part are held out and the 19,867 of the
    validation part left aside; without it a fixed tenth of all is held out.

    Args:
        root: img_align_celeba, its zip, or a folder with either; by default data/celeba.
        size: side of the square that each image is scaled to.
        crop: side of the central square that is cut out first.
        memory: keep the pixels in memory if they take no more bytes than this.
    """
    choice = ImageSize(size, crop, 3)
    place = _find_faces(data_folder("celeba", root))
    names = image_names(place) if place.is_dir() else _zipped_images(place)
    train, test = _published_split(place, names)
    used = [names[i] for i in (*train, *test)]  # without the validation part
    files: FileList = FolderFiles(place, used) if place.is_dir() else ZipFiles(place, used)
    images = ImageFiles(files, choice.reader(place, files, used), None, memory)
    rows = torch.arange(len(used))
    return Dataset.split("celeba", images, (rows[: len(train)], rows[len(train) :]))


def _find_faces(place: Path) -> Path:
    """Return the folder of images, or the zip of it."""
    tops = (place, place / "celeba")
    paths = [top / name for top in tops for name in (CELEBA_FOLDER, f"{CELEBA_FOLDER}.zip")]
    if place.is_file() or any(place.glob("*.jpg")):
        return place
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        raise FileNotFoundError(
            f"CelebA is looked for in {place}, which has no {CELEBA_FOLDER} and no "
            f"{CELEBA_FOLDER}.zip; it cannot be downloaded here because its authors ask you to "
            f"agree to their terms: see {CELEBA_PAGE}, then name its folder by "
            "--data.options.root=FOLDER (in Python root=...)"
        )
    return path


def _published_split(place: Path, names: list[str]) -> tuple[list[int], list[int]]:
    """Return the indices of the images to train on and of those held out."""
    tops = (place, place.parent, place.parent.parent)
    paths = [top / below / PARTITION_FILE for top in tops for below in ("", "Eval")]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        train, test = hold_out(len(names), 0.1)
        return train.tolist(), test.tolist()
    part = _read_partition(path)
    sides = [part.get(_base(name)) for name in names]
    if None in sides:
        name = names[sides.index(None)]
        raise OSError(f"{path} has no line for {name}: download it again, or remove it")
    train_rows, test_rows = ([i for i, s in enumerate(sides) if s == side] for side in (0, 2))
    if not train_rows:
        raise OSError(f"{place} holds no image of the training part of {path}")
    return train_rows, test_rows


def _read_partition(path: Path) -> dict[str, int]:
    if path.stat().st_size > MAX_PARTITION_BYTES:
        raise OSError(f"{path} has more than {MAX_PARTITION_BYTES} bytes: download it again")
    part: dict[str, int] = {}
    for number, line in enumerate(path.read_text("latin-1").splitlines(), 1):
        words = line.split()
        if len(words) != 2 or words[1] not in ("0", "1", "2") or words[0] in part:
            raise OSError(f"{path}, line {number}: give a name and 0, 1 or 2, each name once")
        part[words[0]] = int(words[1])
    return part


def _base(name: str) -> str:
    return PurePosixPath(name).name


class ZipFiles:
    """Files of a zip, read when they are asked for; a zip that has changed since is refused."""

    def __init__(self, path: Path, names: list[str]) -> None:
        self.path, self.names, self.stamp = path, names, file_stamp(path)
        self.archive = zipfile.ZipFile(path)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> EncodedImage:
        name = self.names[index]
        check_unchanged(self.path, self.stamp)
        try:
            # `read` without a number would unpack more than the size that was checked
            with self.archive.open(name) as file:
                return EncodedImage(f"{self.path}: {name}", file.read(MAX_FACE_BYTES))
        except Exception as error:  # zipfile and its decompressors may raise anything
            raise OSError(f"{self.path}: {name} is damaged: {error!s:.500}") from error


def _zipped_images(path: Path) -> list[str]:
    """Return the names of the images in a zip, sorted, after checking their sizes."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = {info.filename: info for info in archive.infolist()}
    except Exception as error:  # zipfile may raise anything on a damaged file
        reason = f"{error!s:.500}; download it again"
        raise OSError(f"{path} cannot be read as a zip: {reason}") from error
    images = (name for name in infos if name.lower().endswith(".jpg"))
    names = sorted(name for name in images if not _base(name).startswith("."))
    for info in (infos[name] for name in names):
        common = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        linked = stat.S_ISLNK(info.external_attr >> 16)
        large = info.file_size > MAX_FACE_BYTES or len(info.filename) > MAX_NAME_LENGTH
        if not common or linked or large:
            raise OSError(
                f"{path}: {info.filename:.{MAX_NAME_LENGTH}} is not an image of at most "
                f"{MAX_FACE_BYTES} bytes, stored or deflated"
            )
    if not names:
        raise OSError(f"{path} holds no .jpg")
    return names
