"""Latents: images that an autoencoder has encoded once, as an .npy file to train on.

NAME.npy has the latents, first of the samples to train on, then of those held out. NAME.npy.json
names the autoencoder, with a checksum of its weights, and has the classes.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..show.images import write_batches
from ..values import IMPORTED, import_object
from .arrays import check_samples
from .autoencoder import Latents, checksum, open_autoencoder, read_about
from .numpy_files import open_rows
from .sources import Dataset, Stream, cell_centres, condition_shapes


@torch.no_grad()
def encode(
    data: Dataset,
    autoencoder: str,
    out: str | Path,
    *,
    batch: int = 64,
    device: torch.device | str = "cpu",
    watch: Callable[[Iterator[Tensor], int], Iterator[Tensor]] = lambda parts, count: parts,
) -> None:
    """Write the latents of a data set's images to an .npy file, for `load_data` and a run.

    `autoencoder` is MODULE:NAME, which is imported, or the folder of one of diffusers. Its images
    are in [0, 1]. `watch` returns the batches, of which it gets the number, behind a progress bar.
    """
    if not Path(autoencoder).is_dir():
        import_object(autoencoder)
    module = open_autoencoder(autoencoder).to(device)
    shape = _latent_shape(module, autoencoder, data, device)
    name = autoencoder if autoencoder in IMPORTED else str(Path(autoencoder).resolve())
    about: dict[str, Any] = asdict(Latents(name, checksum(module)))
    parts, labels = [data.train] if data.test is None else [data.train, data.test], list[int]()
    n, count = sum(map(len, parts)), sum(-(-len(part) // batch) for part in parts)
    about |= {"data": data.name, "held out": n - len(parts[0]), "classes": data.classes}
    about["labels"] = labels  # filled while the latents are written, and written after them

    def latents() -> Iterator[Tensor]:
        for part in parts:
            for index in torch.split(torch.arange(len(part)), batch):
                x, classes = part.take(index)
                labels.extend(classes.tolist() if isinstance(classes, Tensor) else [])
                yield module.encode(cell_centres(x, part.levels).to(device)).float()

    with write_batches(Path(out), n, shape, about, overwrite=True) as write:
        for z in watch(latents(), count):
            write(z)


def _latent_shape(
    module: Any, autoencoder: str, data: Dataset, device: torch.device | str
) -> torch.Size:
    """Return the shape of the latents of an image; refuse an autoencoder that does not fit."""
    if data.kind != "images" or isinstance(data.train, Stream):
        raise ValueError(f"{data.name}: give images that are not streamed, not {data.kind}")
    if condition_shapes(data.train):
        raise ValueError(f"{data.name} has a condition, which is not encoded: leave it out")
    x = cell_centres(data.train.take(torch.arange(1))[0], data.train.levels).to(device)
    try:
        z = module.encode(x)
        again, reason = module.decode(z).shape, "it decodes to another shape"
    except RuntimeError as error:
        again, reason = None, str(error).partition("\n")[0]
    if again != x.shape:
        raise ValueError(
            f"{autoencoder} does not fit {data.name}, images of {tuple(x.shape[1:])}: {reason}"
        )
    return torch.Size(z.shape[1:])


def encoded_file(path: str | Path, *, memory: int = 2**30) -> Dataset:
    """Load latents that `encode` wrote, with its part held out.

    From a file of more than `memory` bytes only the rows in use are read.
    """
    path = Path(path)
    content, source = about_latents(path), open_rows(path, lambda array: array, memory)
    check_samples(path, source, images=False)
    n, labels = len(source), content.get("labels")
    if labels:
        source = replace(source, labels=torch.tensor(labels))
    latents = Latents(str(content["autoencoder"]), str(content.get("weights")))
    hint = f"grids of samples are left out: --import {latents.autoencoder} decodes them"
    rows, first = torch.arange(n), n - content.get("held out", 0)
    return Dataset.split(
        path.stem, source, (rows[:first], rows[first:]), classes=tuple(content.get("classes", ())),
        latents=latents, notices=() if latents.is_available else (hint,),
    )  # fmt: skip


def about_latents(path: Path) -> dict[str, Any]:
    """Return the notes next to a file of latents; nothing for a file of other samples."""
    if path.suffix.lower() != ".npy":
        return {}
    return read_about(path.with_name(f"{path.name}.json"))
