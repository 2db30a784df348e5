"""CelebA (Liu et al. 2015): the aligned faces, from their folder or their zip without unpacking."""

import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import torch

from ..disk import open_regular, read_text
from ..values import data_option
from .decode import EncodedImage
from .download import PLAIN_METHODS, data_folder
from .fingerprint import check_unchanged, file_stamp
from .images import FileList, ImageFiles, Size, choose_reader, folder_files, image_names
from .sources import Dataset, Split, hold_out

CELEBA_PAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
CELEBA_FOLDER = "img_align_celeba"
PARTITION_FILE = "list_eval_partition.txt"
MAX_FACE_BYTES = 2**24
"""CelebA's have about 10,000."""
MAX_PARTITION_BYTES = 2**24
"""The published file has 3 million."""


def celeba(
    *, root: str | Path | None = None, size: Size = 64, crop: int = 140, memory: int = 2**30
) -> Dataset:
    """Load faces of 178 × 218 pixels: the central part, scaled; 162,770 to train on.

    With list_eval_partition.txt, the 19,962 of the test part are held out and the 19,867 of the
    validation part left aside; without it a fixed tenth of all is held out.

    `root` is img_align_celeba, its zip, or a folder with either, by default data/celeba. `size` is
    a side, or height and width, and the central part of that aspect has `crop` pixels along its
    shorter side, as far as the image goes. Pixels are kept in memory if they take at most `memory`
    bytes.
    """
    place = _find_faces(data_folder("celeba", root))
    files = folder_files(place, image_names(place)) if place.is_dir() else _zip_files(place)
    images = ImageFiles(files, choose_reader(files, size, crop, 3), None, memory)
    return Dataset.split("celeba", images, _published_split(place, files.names))


def _find_faces(place: Path) -> Path:
    """Return the folder of images, or the zip of it."""
    tops = (place, place / "celeba")
    paths = [top / name for top in tops for name in (CELEBA_FOLDER, f"{CELEBA_FOLDER}.zip")]
    if place.is_file() or any(place.glob("*.jpg")):
        return place
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        raise FileNotFoundError(
            f"CelebA is looked for in {place}, which has no {CELEBA_FOLDER} and no zip of it; its "
            f"authors ask you to agree to their terms: see {CELEBA_PAGE}, then name its folder by "
            f"{data_option('root', 'FOLDER')}"
        )
    return path


def _published_split(place: Path, names: Sequence[str]) -> Split:
    """Return the indices of the images to train on and of those held out."""
    tops = (place, place.parent, place.parent.parent)
    paths = [top / below / PARTITION_FILE for top in tops for below in ("", "Eval")]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return hold_out(len(names), 0.1)
    if path.stat().st_size > MAX_PARTITION_BYTES:
        raise OSError(f"{path} has more than {MAX_PARTITION_BYTES} bytes: download it again")
    try:
        parts = dict(line.split() for line in read_text(path, "latin-1").splitlines())
        sides = torch.tensor([int(parts[PurePosixPath(name).name]) for name in names])
    except (ValueError, KeyError) as error:
        reason = f"{error!s:.500}; download it again"
        raise OSError(f"{path} does not name the part of each image: {reason}") from error
    if not (sides == 0).any():
        raise OSError(f"{place} holds no image of the training part of {path}")
    return (sides == 0).nonzero()[:, 0], (sides == 2).nonzero()[:, 0]


def _zip_files(path: Path) -> FileList:
    """Return the images in a zip; one that has changed since is refused."""
    stamp = file_stamp(path)
    try:
        with open_regular(path):
            archive = zipfile.ZipFile(path)
    except Exception as error:  # zipfile may raise anything on a damaged file
        raise OSError(f"{path} cannot be read as a zip: {error!s:.500}: get it again") from error
    images = {name for name in archive.namelist() if name.lower().endswith(".jpg")}
    names = sorted(name for name in images if not PurePosixPath(name).name.startswith("."))
    if not names:
        raise OSError(f"{path} holds no .jpg")

    def read(index: int) -> EncodedImage:
        place = f"{path}: {names[index]:.255}"
        check_unchanged(path, stamp)
        try:
            if archive.getinfo(names[index]).compress_type not in PLAIN_METHODS:
                raise ValueError("it is neither stored nor deflated")
            with archive.open(names[index]) as file:
                return EncodedImage(place, file.read(MAX_FACE_BYTES))
        except Exception as error:  # zipfile and its decompressors may raise anything
            raise OSError(f"{place} is damaged: {error!s:.500}") from error

    return FileList(path, names, read)
