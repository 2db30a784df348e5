"""Files that commands read and write: models, held-out samples of a run, and samples."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from itertools import chain, groupby, repeat
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from .. import disk, distributed
from ..checkpoint import load_with_notes, run_directory
from ..data import TABLE_FILE, Table, all_samples
from ..inverse import Guidance
from ..model import ScoreModel
from ..runs.resume import open_data
from ..sample import require_prior
from ..samplers import State, final
from ..score import EVERY_SIGMA
from ..show import images
from ..show.progress import progress
from ..values import import_object, quantity
from . import options

TEXT_TABLES = (".csv", ".tsv")
"""Suffixes of files that hold samples as rows of text."""
MAX_FRAMES = 60
"""Frames of an animation."""


def load_model(run: Path, device: str) -> tuple[ScoreModel, torch.Size, dict[str, Any]]:
    """Load a model to sample from onto this process's device.

    Return it, its shape, and what files of samples record about it.
    """
    model, notes = load_with_notes(run)
    model = model.to(distributed.local_device(distributed.choose_device(device)))
    about = {"model": notes.get("hub", str(run)), "trained": notes}
    about["scorefield"] = version("scorefield")
    return model, require_prior(model).mean.shape, about


def read_guidance(settings: options.GuidanceOptions, device: str) -> Guidance:
    """Return the guidance of a command's options, with its models loaded."""
    own = settings.arguments()
    if own and not own.keys() & {"guidance", "classifier"}:
        names = " and ".join(f"--{name.replace('_', '-')}" for name in own)
        raise ValueError(f"{names}: give the strength too, as in --guidance 2")
    weak = None if settings.autoguidance is None else load_model(settings.autoguidance, device)[0]
    classifier = None if settings.classifier is None else import_object(settings.classifier)
    if isinstance(classifier, torch.nn.Module):
        classifier = classifier.to(distributed.local_device(distributed.choose_device(device)))
        classifier.eval()
    elif not (classifier is None or callable(classifier)):
        raise ValueError(f"--classifier {settings.classifier}: give a function of (x, sigma)")
    weight = 1.0 if settings.guidance is None else settings.guidance
    return Guidance(weight, settings.guidance_interval or EVERY_SIGMA, weak, classifier)


def describe_guidance(guidance: Any, weak: Path) -> options.GuidanceOptions:
    """Return the options of a command that would give a run's own guidance by a weaker model."""
    every = guidance.interval == EVERY_SIGMA
    return options.GuidanceOptions(guidance.weight, None if every else guidance.interval, weak)


def read_held_out(run: Path, data: str | None, count: int) -> Tensor:
    """Return a fixed random choice of the held-out samples of a run's data."""
    _, dataset = open_data(run, data)
    if dataset.test is None:
        raise ValueError(f"{dataset.name} has nothing held out: name an IMAGE to restore")
    return all_samples(dataset.test, count)


def describe_completions(n: int, count: int, noun: str) -> str:
    """Return how many completions there are of how many rows or samples, in words."""
    return f"{quantity(n, 'completion')} of {'each of ' * (count > 1)}{quantity(count, noun)}"


def count_classes(model: ScoreModel, labels: Tensor | None) -> dict[str, int]:
    """Return how many samples there are of each class, in the order of the samples."""
    counts = enumerate([] if labels is None else labels.bincount().tolist())
    names = model.classes
    return {names[i] if names else str(i): count for i, count in counts if count}


def track_chains(parts: Iterable[Iterable[State]], total: int, what: str) -> Iterator[Tensor]:
    """Yield the final samples, batch by batch, and show how many of all states are done."""
    numbered = ((i, state) for i, states in enumerate(parts) for state in states)
    for _, batch in groupby(progress(numbered, total, what), key=itemgetter(0)):
        yield final(state for _, state in batch)


def film(
    parts: Iterable[tuple[int, Iterable[State]]],
    total: int,
    frames: list[Image],
    decode: Callable[[Tensor], Tensor],
) -> Iterator[tuple[int, Iterable[State]]]:
    """Yield the chains; add pictures of at most `MAX_FRAMES` states of the first ones to frames."""
    interval = -(-total // MAX_FRAMES)

    def picture(states: Iterable[State]) -> Iterator[State]:
        for i, state in enumerate(states, 1):
            if i % interval == 0 or i == total:
                frames.append(images.grid(decode(state.x[:64])))
            yield state

    for first, states in parts:
        yield first, picture(states) if first == 0 else states


def check_animation(path: Path, out: Path, shape: torch.Size) -> None:
    """Refuse a file for an animation that cannot be written, before the work."""
    reason = "this is --out: name another file" * (path == out)
    if path.suffix not in (".gif", ".png"):
        reason = "an animation is a .gif or a .png"
    elif not images.is_picture(shape):
        reason = "no images to animate"
    if reason:
        raise ValueError(f"--animate {path}: {reason}")
    images.check_place(path)


def read_table(run: Path) -> Table | None:
    """Return the table of a run that samples rows, None for other runs."""
    path = run_directory(run) / TABLE_FILE
    return Table.read(path) if path.exists() else None


def choose_output(
    out: Path | None, run: Path, table: Table | None, shape: torch.Size, overwrite: bool
) -> Path:
    """Return the file for samples, which are rows of a table if there is one."""
    if out is None:
        suffix = "png" if len(shape) == 3 else "npy" if table is None else "csv"
        out = Path(f"samples.{suffix}")
    if out.suffix not in TEXT_TABLES:
        images.check_name(out, shape, overwrite)
    elif table is None or table.size != shape.numel():
        raise ValueError(f"{out}: {run} has no {TABLE_FILE} of its rows; write samples as .npy")
    else:
        images.check_place(out)
    return out


@contextmanager
def open_output(
    out: Path,
    n: int,
    shape: torch.Size,
    table: Table | None,
    about: dict[str, Any],
    overwrite: bool,
    cells: Mapping[str, str] | None = None,
) -> Iterator[Callable[[Tensor], None]]:
    """Yield a function that writes a batch of samples; only rank 0 writes.

    `cells` are the same in all rows of a table.
    """
    if not distributed.is_main():
        yield lambda x: None
    elif table is not None and out.suffix in TEXT_TABLES:
        header = chain([True], repeat(False))
        with disk.write_parts(out) as write:
            yield lambda x: write(
                table.text(x, [cells] * len(x) if cells else None, header=next(header)).encode()
            )
        images.write_about(out, about)
    else:
        with images.write_batches(out, n, shape, about, overwrite) as add:
            yield add
