"""Chains of a saved model, from its file to files of samples."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from itertools import chain, groupby, repeat
from operator import itemgetter
from pathlib import Path
from typing import Any

from PIL.Image import Image
from torch import Tensor

from .. import disk, distributed
from ..checkpoint import load, read_stored
from ..data import TABLE_FILE, Table
from ..model import ScoreModel
from ..runs import config
from ..runs.resolve import choose_device
from ..sample import Plan, make_plan
from ..samplers import States, every, final
from ..show import images
from ..show.track import track

TEXT_TABLES = (".csv", ".tsv")
"""Suffixes of files that hold samples as rows of text."""
MAX_FRAMES = 60
"""Frames of an animation."""


def load_model(run: Path, device: str) -> ScoreModel:
    """Load a model that can be sampled to this process's device."""
    model = load(run).to(distributed.local_device(choose_device(device)))
    if model.shape is None or model.prior is None:
        raise ValueError(f"{run} has no prior to start from: save it with ScoreModel(prior=...)")
    return model


def describe_model(run: Path) -> dict[str, Any]:
    """Return what files of samples record about the model."""
    about = read_stored(run).about
    return {"model": str(run), "trained": about, "scorefield": version("scorefield")}


def run_plan(run: Path, model: ScoreModel, sampler: str | None, steps: int | None) -> Plan:
    """Return the run's own plan, unless another sampler is asked for."""
    directory = run if run.is_dir() else run.parent
    directory = directory.parent if directory.name == "checkpoints" else directory
    if (directory / "config.json").exists():
        own = config.read(directory / "config.json").sampling
        if sampler in (None, own.sampler):
            steps = own.steps if steps is None else steps
            return make_plan(model, own.sampler, steps, **own.options)
    return make_plan(model, sampler, steps)


class Film:
    """Pictures of a batch of chains, of at most `MAX_FRAMES` of its states."""

    def __init__(self, states: int) -> None:
        self.interval = -(-states // MAX_FRAMES)
        self.frames = list[Image]()


def track_chains(
    parts: Iterable[States], total: int, what: str, film: Film | None = None
) -> Iterator[Tensor]:
    """Yield the final samples of chains, batch by batch, and show how many states are done.

    Args:
        parts: the chains.
        total: number of their states.
        what: name of the work.
        film: receives pictures of the first batch.
    """
    numbered = ((i, state) for i, states in enumerate(parts) for state in states)
    for i, group in groupby(track(numbered, total, what), key=itemgetter(0)):
        states = (state for _, state in group)
        if i or film is None:
            yield final(states)
        else:
            for state in every(states, film.interval):
                film.frames.append(images.grid(state.x[:64]))
            yield state.x


def choose_output(out: Path | None, run: Path, model: ScoreModel) -> tuple[Path, Table | None]:
    """Return the file for samples, and the table whose rows they are."""
    assert model.shape is not None
    assert model.prior is not None
    table = Table.read(run) if (run / TABLE_FILE).exists() else None
    if out is None:
        suffix = "png" if len(model.shape) == 3 else "npy" if table is None else "csv"
        out = Path(f"samples.{suffix}")
    if out.suffix not in TEXT_TABLES:
        images.check_name(out, model.prior.mean[None])
    elif table is None or table.size != model.shape.numel():
        raise ValueError(f"{out}: {run} has no {TABLE_FILE} of its rows; write samples as .npy")
    else:
        images.check_place(out)
    return out, table


@contextmanager
def open_output(
    out: Path, n: int, model: ScoreModel, table: Table | None, about: dict[str, Any]
) -> Iterator[Callable[[Tensor], None]]:
    """Yield a function that writes a batch of samples; only rank 0 writes."""
    assert model.shape is not None
    if not distributed.is_main():
        yield lambda x: None
    elif table is not None and out.suffix in TEXT_TABLES:
        header = chain([True], repeat(False))
        with disk.write_parts(out) as write:
            yield lambda x: write(table.text(x.cpu(), header=next(header)).encode())
        disk.write_file(out.with_suffix(".json"), json.dumps(about, indent=2).encode())
    else:
        with images.writing(out, n, model.shape, about) as add:
            yield add
