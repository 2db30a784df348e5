"""What a run is resumed from: the last state that is whole, its own configuration, its own data.

What is not as the run left it is said: a damaged state is set aside for the one before it, and
other data or another configuration are refused, for the end would be another.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import config
from .checkpoint import FILE, Stored, read
from .config import Experiment
from .data import DATASETS, Dataset, Table, difference, files_of, of_samples
from .data import load as load_data
from .disk import replace

FREE = ("training.steps", "data.source", "data.workers", "sampling", "keeping", "machine")
"""What may be changed on the way; the data are known by what is in them."""
DATA = "data.json"


def checkpoints(directory: Path) -> list[Path]:
    """The states that a run has kept, the last one last."""
    return sorted((directory / "checkpoints").glob("[0-9]*.safetensors"))


def last(directory: Path) -> tuple[Path, Stored] | None:
    """The last state that is whole; those after it are set aside, so that none takes them again."""
    damaged: list[tuple[Path, ValueError]] = []
    for path in reversed(checkpoints(directory)):
        try:
            found = path, read(path)
        except ValueError as error:
            damaged.append((path, error))
            continue
        for other, reason in damaged:
            aside = other.replace(other.with_name(f"{other.name}.damaged"))
            warnings.warn(f"{reason}; it is now {aside.name}, and {path} is used", stacklevel=3)
        return found
    log = directory / "log.jsonl"
    if damaged or (log.exists() and log.stat().st_size):
        raise ValueError(_none_whole(directory, damaged[0][1] if damaged else None))
    return None


def _none_whole(directory: Path, error: ValueError | None) -> str:
    model = directory / FILE
    beginning = f" --from {model}" if model.exists() else ""
    return (
        f"{directory} has no state that is whole{f' ({error})' if error else ''}: put back a file "
        f"of {directory / 'checkpoints'}, or train anew, by scorefield train --config "
        f"{directory / 'config.json'}{beginning} --out NEW"
    )


def experiment(directory: Path, about: Mapping[str, Any]) -> Experiment:
    """The configuration of a run, if it is that of its last state, `about` which this is."""
    path = directory / "config.json"
    try:
        kept = json.loads(path.read_text())
        missing = asdict(Experiment()).keys() - kept.keys()
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}; put it back as it was") from error
    if missing:
        raise ValueError(f"{path} is damaged: it has no {', '.join(sorted(missing))}")
    found = config.checked(config.read(path), DATASETS)
    now = dict(_flat(json.loads(config.as_json(found))))
    for name, value in _flat(about.get("config", {})):
        free = name in FREE or name.partition(".")[0] in FREE
        if not free and now.get(name) != value:
            raise ValueError(
                f"{path}: {name} is {now.get(name)!r}, and was {value!r} when step "
                f"{about['step']} was saved; put it back, or begin another run, by scorefield "
                f"train --config {path} --out NEW"
            )
    return found


def _flat(values: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{where}{key}.")
        else:
            yield f"{where}{key}", value


def data(directory: Path, experiment: Experiment, *, changed: bool = False) -> Dataset:
    """The data of a run, if they are those that it began with, or may have `changed`."""
    path, source = directory / DATA, experiment.data.source
    before = _known(path) if path.exists() and not changed else None
    hint = f"put back what was there, or go on by scorefield resume {directory} --changed-data"
    # the files first, for to read others may fail for another reason
    files = files_of(source)
    if files and before is not None and "trained on" in before:  # what was known by its samples
        raise ValueError(f"{source} does not hold any more what the run began with; {hint}")
    if files and before is not None and (words := difference(before, files)):
        raise ValueError(f"the data in {source} are not those the run began with: {words}; {hint}")
    found = load_data(source, **experiment.data.options)
    if not files and before is not None and (words := difference(before, of_samples(found))):
        raise ValueError(f"{source} is not the data the run began with: {words}; {hint}")
    check_table(directory, source, found)
    if before is None:  # noted last: what was refused is not what the run has
        note(directory, source, found)
    return found


def check_table(directory: Path, source: str, found: Dataset) -> None:
    """Refuse a table that is standardised otherwise than the run's."""
    if found.table is not None and found.table != Table.read(directory):
        raise ValueError(
            f"{directory}: {source} is not the table that the run began with, and is standardised "
            "otherwise; put that back, or start another run"
        )


def check_data(directory: Path, experiment: Experiment, found: Dataset) -> None:
    """Refuse to judge a run by data that are not those it began with."""
    path, source = directory / DATA, experiment.data.source
    check_table(directory, source, found)
    known = files_of(source) or of_samples(found)
    # a stream is not known to be the same twice
    if found.exact and path.exists() and (words := difference(_known(path), known)):
        raise ValueError(f"{source} is not the data the run began with: {words}; put that back")


def note(directory: Path, source: str, found: Dataset) -> None:
    """Write down what the data of a run are known by."""
    known = files_of(source) or of_samples(found)
    try:
        replace(directory / DATA, json.dumps(known, indent=0).encode())
    except OSError as error:
        raise stopped(error, directory) from error


def _known(path: Path) -> dict[str, str]:
    try:
        return dict(json.loads(path.read_text()))
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged, of which the data are known: {error}; if they are the same, "
            "remove it"
        ) from error


def stopped(error: OSError, directory: Path) -> OSError:
    """The error with what is saved, and how to go on."""
    saved = checkpoints(directory)
    state = f"step {int(saved[-1].stem)} is saved whole" if saved else "no step is saved yet"
    found = OSError(
        f"{error}; {state}; when that is mended, go on by scorefield resume {directory}"
    )
    found.errno = error.errno
    return found
