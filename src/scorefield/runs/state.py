"""The state of a run on disk: checkpoints to resume from, and the held-out best model.

A checkpoint is a model file of the moving average, with the weights in training ("raw") and the
optimiser's state as extra tensors, with the norms that a quantile clips at.
"""

import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from torch import Tensor

from .. import checkpoint
from ..checkpoint import MODEL_FILE, TensorFile, checkpoints, newest_checkpoint
from ..model import ScoreModel
from .build import Parts
from .config import Experiment


@dataclass
class Progress:
    """Progress of a run."""

    step: int = 0  # number of steps done
    best: float | None = None  # least held-out loss so far, if there is any
    slower: float = 1.0  # factor of the learning rate, less than 1 after the run has rolled back
    bad: int = 0  # number of steps skipped in a row
    seconds: float = 0.0  # time used, if training.budget limits it


def save_state(directory: Path, experiment: Experiment, parts: Parts, progress: Progress) -> None:
    """Write a checkpoint, and remove all others except the last regular ones."""
    net = parts.model.net.state_dict()
    extra = {f"raw.{name}": value for name, value in net.items()}
    extra["averaged"] = parts.ema.n_averaged
    if parts.clip_quantile is not None:
        extra["norms"] = parts.clip_quantile.norms
    for i, power in enumerate(parts.powers):
        extra |= {f"powers.{i}.{name}": value for name, value in power.state_dict().items()}
    for index, state in parts.optimizer.state_dict()["state"].items():
        extra |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    about = asdict(progress) | {"config": asdict(experiment)}
    path = directory / f"checkpoints/{progress.step:08d}.safetensors"
    checkpoint.save(parts.average, path, about=about, extra=extra)
    keeping, paths = experiment.keeping, checkpoints(directory)
    needed = {path, *regular_checkpoints(paths, keeping.checkpoint)[-max(keeping.last, 1) :]}
    for other in set(paths) - needed:
        other.unlink()


def save_snapshots(directory: Path, parts: Parts, step: int) -> None:
    """Write the averages for `scorefield average`, each as a model."""
    for power in parts.powers:
        path = directory / f"snapshots/{power.steps:08d}-{power.length}.safetensors"
        about = {"step": step, "length": power.length}
        checkpoint.save(cast(ScoreModel, power.module), path, about=about)


def regular_checkpoints(paths: list[Path], every: int) -> list[Path]:
    """Return the checkpoints that are due by their steps, the one before the first step too."""
    steps = {path: int(path.stem) for path in paths}
    return [path for path, step in steps.items() if step == 0 or (every and step % every == 0)]


def restore_state(parts: Parts, stored: TensorFile) -> Progress:
    """Load a checkpoint into the parts, and return the progress of the run."""
    parts.average.net.load_state_dict(stored.under("net"))
    parts.model.net.load_state_dict(stored.under("extra.raw"))
    extra = stored.under("extra")
    parts.ema.n_averaged.copy_(extra["averaged"])
    if parts.clip_quantile is not None:
        parts.clip_quantile.norms.copy_(extra["norms"])
    for i, power in enumerate(parts.powers):
        power.load_state_dict(stored.under(f"extra.powers.{i}"))
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in extra.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            states.setdefault(int(index), {})[name] = value
    groups = parts.optimizer.state_dict()["param_groups"]
    parts.optimizer.load_state_dict({"state": states, "param_groups": groups})
    defaults = asdict(Progress())
    return Progress(**{name: stored.about.get(name, value) for name, value in defaults.items()})


def last_state(directory: Path) -> TensorFile | None:
    """Return the newest undamaged checkpoint, and rename the damaged ones that are newer."""
    state, damaged = newest_checkpoint(directory)
    if state is not None:
        for path, error in damaged.items():
            aside = path.replace(path.with_name(f"{path.name}.damaged"))
            warnings.warn(f"{error}; renamed to {aside.name}, {state.path} is used", stacklevel=3)
        return state
    log = directory / "log.jsonl"
    if not damaged and not (log.exists() and log.stat().st_size):
        return None
    damage = f" ({next(iter(damaged.values()))})" if damaged else ""
    start = f" --from {directory / MODEL_FILE}" if (directory / MODEL_FILE).exists() else ""
    raise ValueError(
        f"{directory} has no undamaged checkpoint{damage}: put back a file of "
        f"{directory / 'checkpoints'}, or train again with scorefield train --config "
        f"{directory / 'config.json'}{start} --out NEW"
    )


def interrupted_write(error: OSError, directory: Path) -> OSError:
    """Return the error with the last saved step and how to continue."""
    saved = checkpoints(directory)
    state = f"step {int(saved[-1].stem)} is saved" if saved else "no step is saved yet"
    new = OSError(f"{error}; {state}; once that is fixed, run scorefield resume {directory}")
    new.errno = error.errno
    return new
