"""Start a run, or bring one to its end: train, resume or load, whichever is needed."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from .. import distributed
from ..checkpoint import load
from ..data import LATENTS_FILE, TABLE_FILE, load_data
from ..disk import LOCK_FILE, check_writable, hold_lock, write_file
from ..model import ScoreModel
from ..train import Update
from ..values import import_object
from . import config
from .budget import fit_budget
from .build import build, build_plan
from .config import Experiment
from .pace import Pace
from .resolve import resolve
from .resume import OwnData, move_data, partial_files, resume, write_fingerprints
from .run import Run
from .track import check_installed

DECODERS = (TABLE_FILE, LATENTS_FILE)
"""Files of a run that say how samples become rows or images."""


def start(
    experiment: Experiment,
    directory: str | Path,
    *,
    data: OwnData | None = None,
    settings: Sequence[str] = (),
) -> Run:
    """Start a run in a new directory; iterating over it trains.

    `data`, a tensor, a `Dataset` or the source of one, replaces the experiment's own data. If
    `training.budget` limits the time, the number of steps is chosen for it, and with
    network={"kind": "auto"} the network and its training too, in which `settings` such as
    "training.batch=32" are kept. The budget begins with this call.
    Under a launcher, all processes call this together, and rank 0 writes.
    """
    pace = Pace(0.0)
    distributed.join()
    directory = Path(directory)
    _check_new(directory)
    check_writable(directory / "config.json")
    _import_network(experiment)
    check_installed(experiment.keeping.tracker)
    experiment, dataset = move_data(experiment, data)
    dataset = dataset or load_data(experiment.data.source, **experiment.data.arguments)
    if experiment.training.budget is None:
        choices = (*resolve(experiment, dataset), "")
    else:
        choices = fit_budget(experiment, dataset, settings, pace)
    experiment, reasons, plan = distributed.broadcast(choices)
    run = Run(directory, experiment, build(experiment, dataset))
    run.reasons, run.plan, run.pace = reasons, plan, pace
    # Fail now on what would fail at the first grid of samples.
    _ = build_plan(run.model, experiment.sampling).states
    run.check_in_step()  # every process has found the directory empty
    if distributed.is_main():
        directory.mkdir(parents=True, exist_ok=True)
        with hold_lock(directory):
            _check_new(directory)  # another process may have started a run there meanwhile
            for path in (*map(directory.joinpath, DECODERS), *partial_files(directory)):
                path.unlink(missing_ok=True)
            for name, decoder in zip(DECODERS, (dataset.table, dataset.latents), strict=True):
                if decoder is not None:
                    write_file(directory / name, decoder.as_json().encode())
            write_file(directory / "config.json", config.as_json(experiment).encode())
            write_fingerprints(directory, experiment.data, dataset)
    return run


def _import_network(experiment: Experiment) -> None:
    """Import a network of the user's own; that of a run in a directory is not imported."""
    if ":" in (kind := str(experiment.network.get("kind"))):
        import_object(kind)


def _check_new(directory: Path) -> None:
    """Refuse a directory with a run or other files, except those of a run killed at its start."""
    if (directory / "config.json").exists():
        raise ValueError(f"{directory} holds a run: scorefield resume {directory} continues it")
    lock, decoders = directory / LOCK_FILE, map(directory.joinpath, DECODERS)
    own = {lock, *partial_files(directory), *(decoders if lock.exists() else [])}
    if directory.exists() and not (directory.is_dir() and own.issuperset(directory.iterdir())):
        raise ValueError(f"{directory} exists and holds no run: name another directory")


def finish(
    experiment: Experiment,
    directory: str | Path,
    *,
    data: OwnData | None = None,
    watch: Callable[[Run], Iterator[Update]] = iter,
) -> ScoreModel:
    """Train, resume or load the model of an experiment, whichever its directory needs.

    A run in the directory must be of the same experiment. `data` is that of `start`. `watch`
    returns a run's updates, for example behind a progress bar.
    """
    _import_network(experiment)
    directory, threads = Path(directory), torch.get_num_threads()
    if (directory / "config.json").exists():
        run = resume(directory, data=data)
        _check_same(directory, run.experiment, move_data(experiment, data)[0])
    else:
        run = start(experiment, directory, data=data)
    try:
        if not run.at_end:
            for _ in watch(run):
                pass
    finally:
        torch.set_num_threads(threads)  # a run sets its own
    return load(directory).to(run.parts.device)


def _check_same(directory: Path, stored: Experiment, experiment: Experiment) -> None:
    """Refuse a run whose configuration contradicts the experiment's; open fields agree with all."""
    wanted, free = config.as_json(experiment), {"sampling", "keeping", "machine"}
    free |= {"network", "training"} if experiment.training.budget is not None else set()
    for name, value, other in config.differing_fields(wanted, config.as_json(stored)):
        if value is not None and name.partition(".")[0] not in free:
            raise ValueError(
                f"{directory} holds another run, with {name}={other!r:.300}, not {value!r:.300}: "
                "remove it, or name another directory"
            )
