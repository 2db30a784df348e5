"""Continue a run: from its last undamaged state, with its own configuration and its own data.

Other data or another configuration are refused, because the result would be a different one.
"""

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor

from .. import distributed
from ..checkpoint import load_stored
from ..convert import find_commit
from ..data import (
    DATASETS,
    HUB_PREFIX,
    IN_MEMORY,
    Dataset,
    Table,
    data_folder,
    describe_changes,
    fingerprint_files,
    fingerprint_samples,
    load_data,
    tensor_data,
)
from ..disk import read_json, write_file
from . import config
from .build import build
from .choose import change_source
from .config import FINGERPRINTS_FILE, Experiment
from .resolve import extend, resolve
from .run import Run, lock_run
from .state import interrupted_write, last_state

OwnData: TypeAlias = str | Path | Tensor | tuple[Tensor, Any] | Dataset
"""A source, or data in memory; a pair is of samples and their condition."""

FREE = {
    *("training.steps", "training.budget", "training.cooldown", "data.source"),
    *("data.options.root", "data.options.download", "data.workers"),
    *("sampling", "keeping", "machine"),
}
"""Fields that may differ when a run is resumed; data are recognised by content, not by path."""

PARTIAL = re.compile(r"\.[\w.-]+\.(jsonl?|safetensors|png)\.\d+")
"""Temporary files that a killed run leaves."""
FOLDERS = (".", "checkpoints", "samples", "snapshots")
"""Folders of a run in which it writes files."""


def resume(
    directory: str | Path, *, data: OwnData | None = None, changed_data: bool = False
) -> Run:
    """Return a run that continues from its last undamaged checkpoint when iterated over.

    `data` is the new place of data that were moved, or the data that `start` was given. Data that
    differ from those the run started with are refused, unless `changed_data` is true. A run trains
    longer if `training.steps` or `training.budget` in its config.json is larger than before.
    """
    distributed.join()
    directory = Path(directory)
    if not (directory / "config.json").exists():
        raise ValueError(f"{directory} holds no run: there is no config.json in it")
    with distributed.main_first(), lock_run(directory):
        for place in map(directory.joinpath, FOLDERS):
            for path in partial_files(place):
                path.unlink()
        state = last_state(directory)
        about = state.about if state else {}
        experiment = read_experiment(directory, about)
        moved, dataset = move_data(extend(experiment, about), data)
        # Rank 0 records new data; the others compare theirs with the record.
        changed = changed_data and distributed.is_main()
        dataset = read_data(directory, moved, dataset, changed=changed)
        if moved != experiment and distributed.is_main():
            write_file(directory / "config.json", config.as_json(moved).encode())
    if state is None:
        resolve(moved, dataset)  # refuses what this machine cannot train, as `start` does
    run = Run(directory, moved, build(moved, dataset, load_stored(state) if state else None))
    if state:
        run.restore(state)
    return run


def partial_files(directory: Path) -> list[Path]:
    """Return the temporary files that a killed run has left in a directory."""
    return [path for path in directory.glob(".*") if PARTIAL.fullmatch(path.name)]


def read_experiment(directory: Path, about: Mapping[str, Any]) -> Experiment:
    """Return a run's configuration; refuse one that contradicts the header of its last state."""
    path = directory / "config.json"
    missing = asdict(Experiment()).keys() - read_json(path, "; put it back as it was").keys()
    if missing:
        raise ValueError(f"{path} is damaged: it has no {', '.join(sorted(missing))}")
    experiment = config.check_experiment(config.read(path), DATASETS)
    saved = json.dumps(about.get("config", {}))
    for name, value, now in config.differing_fields(saved, config.as_json(experiment)):
        moved = name == "data.condition" and _same_folders(value, now)
        if not moved and {name, name.partition(".")[0]}.isdisjoint(FREE):
            raise ValueError(
                f"{path}: {name} is {now!r}, but was {value!r} when step {about['step']} was "
                f"saved; put it back, or start another run with scorefield train --config {path} "
                "--out NEW"
            )
    return experiment


def _same_folders(before: Sequence[str], now: Sequence[str]) -> bool:
    """True for folders that may have moved; their images are recognised by content."""
    absolute = all(map(os.path.isabs, (*before, *now)))
    return absolute and [*map(os.path.basename, before)] == [*map(os.path.basename, now)]


def open_data(directory: str | Path, data: OwnData | None = None) -> tuple[Experiment, Dataset]:
    """Return a run's experiment and its data; see `resume` for `data`.

    Those that a configuration from the Hub names are refused: its author would choose what is read.
    For the same reason its local places of held-out samples and of conditions are left out.
    """
    path = Path(directory, "config.json")
    if not path.exists():
        raise ValueError(
            f"{directory} holds no run: it has no config.json, which names the data: name the "
            "directory of a run, or in Python give model and data to evaluate or score_data"
        )
    experiment = config.read(path)
    name = find_commit(path)[1]
    if name and data is None:
        raise ValueError(
            f"{name} names the data {experiment.data.source!r}, which are loaded only if you name "
            "them: add --data (data=... in Python) with these or others"
        )
    if name:
        experiment = config.leave_out_local_places(experiment)
    experiment, dataset = move_data(experiment, data)
    return experiment, read_data(Path(directory), experiment, dataset)


def move_data(experiment: Experiment, own: OwnData | None) -> tuple[Experiment, Dataset | None]:
    """Return the experiment with its data at a new place or in memory, and those in memory."""
    if isinstance(own, Tensor | tuple):
        own = tensor_data(*((own,) if isinstance(own, Tensor) else own))
    data, dataset = experiment.data, own if isinstance(own, Dataset) else None
    if not isinstance(own, str | Path | Dataset | None):
        raise TypeError(
            f"data is a {type(own).__name__}: give a tensor, a pair (x, condition), a Dataset, or "
            "a name"
        )
    if dataset is not None:
        data = replace(data, source=IN_MEMORY, options={})
    elif own is not None:
        data = change_source(data, str(own))
    names = (*DATASETS, IN_MEMORY)
    return config.check_experiment(replace(experiment, data=data), names), dataset


def read_data(
    directory: Path, experiment: Experiment, data: Dataset | None = None, *, changed: bool = False
) -> Dataset:
    """Return the data of a run; refuse different ones unless they may have `changed`."""
    source, options = experiment.data.source, experiment.data.options
    record, before = directory / FINGERPRINTS_FILE, None
    if record.exists() and not changed:
        before = read_json(record, "; if the data are unchanged, remove it")
    again = f"scorefield {shlex.join(['resume', str(directory), '--data', source])} --changed-data"
    again = "changed_data=True" if source == IN_MEMORY else again

    def check(now: Mapping[str, str]) -> None:
        if before is not None and (changes := describe_changes(before, now)):
            raise ValueError(
                f"the data in {source} are not those the run started with: {changes}; put the old "
                f"data back, name their place by --data, or continue with these by {again}"
            )

    try:
        if not (data or source in DATASETS or source.startswith(HUB_PREFIX)):
            Path(source).stat()
        # Compare files before reading them: reading different ones may fail in other ways.
        in_memory = before and "trained on" in before
        files = {} if in_memory else _fingerprint_files(experiment.data)
        if files:
            check(files)
        data = data or load_data(source, **experiment.data.arguments)
    except FileNotFoundError as error:
        place = error.filename or data_folder(source, options.get("root"))
        place = "memory" if source == IN_MEMORY else place
        setting = "by --data (data=... in Python)"
        if str(place) in experiment.data.condition:
            setting = f"as data.condition in {directory / 'config.json'}"
        raise ValueError(
            f"the data this run began with are gone: {place} does not have them; put them back, or "
            f"name their new place {setting}"
        ) from error
    if not files:
        check(fingerprint_samples(data))
    if data.table is not None and data.table != Table.read(directory):
        raise ValueError(
            f"{directory}: {source} is not the table that the run started with, and is "
            "standardised differently; put the old one back, or start another run"
        )
    if before is None:  # recorded last, so that refused data are not
        write_fingerprints(directory, experiment.data, data)
    return data


def _fingerprint_files(data: config.Data) -> dict[str, str]:
    return fingerprint_files(data.source, data.options.get("held_out"), data.condition)


def write_fingerprints(directory: Path, data: config.Data, dataset: Dataset) -> None:
    """Record fingerprints of the run's data."""
    files = _fingerprint_files(data)
    fingerprints = files or fingerprint_samples(dataset)
    try:
        write_file(directory / FINGERPRINTS_FILE, json.dumps(fingerprints, indent=0).encode())
    except OSError as error:
        raise interrupted_write(error, directory) from error
