"""Trackers: the curves, grids of samples and configuration of a run in TensorBoard and others.

    log.jsonl, samples/  →  what is after the tracker's last step  →  the tracker
    figures of an evaluation  →  the tracker, at its last step

A tracker that is opened again may have more steps than the log, from which a resumed run takes the
last ones back, or fewer, because it writes in the background. It continues after its last step, so
that it has each step once; TensorBoard's files and an offline W&B run are written again.
A tracker that fails is reported once and receives nothing more; the run continues.
"""

import json
import os
import re
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from time import monotonic, time
from typing import Any, NamedTuple, Protocol

from ..disk import hold_lock, read_text, write_file
from ..values import import_extra
from .config import flat_fields
from .journal import read_log

SEND_EVERY = 1.0
"""Seconds for which rows are collected, because some trackers take milliseconds for each call."""
PROJECT = "scorefield"
IDENTITY_FILE = "tracker.json"  # the name by which a tracker finds the run again


class Point(NamedTuple):
    """A step that a tracker receives."""

    step: int
    time: float  # seconds since 1970
    metrics: dict[str, float]
    grid: Path | None  # a PNG of samples


class Backend(Protocol):
    """A tracker with this run open."""

    last: int
    """Last step that it has, or less than 1."""

    def log(self, rows: Sequence[Point]) -> None:
        """Receive steps in order; figures of an evaluation have the last step again."""

    def close(self, finished: bool) -> None:
        """Wait until everything is written, and mark the run as finished or as stopped."""


class Tracker:
    """A run's tracker, which reads the run's log and files; the kind "none" does nothing."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind, self.directory = kind, directory
        self.backend: Backend | None = None
        self.rows = list[Point]()
        self.best, self.sent = float("inf"), 0.0

    def open(self, step: int) -> None:
        """Open the tracker, again if steps were undone, and send what it lacks up to a step."""
        self.close(finished=False)
        if self.kind == "none":
            return
        with self._report_failure():
            check_installed(self.kind)
            module, directory = import_module(self.kind), self.directory.resolve()
            config = dict(flat_fields(json.loads(read_text(directory / "config.json"))))
            self.backend = TRACKERS[self.kind](module, directory, _read_identity(directory), config)
            grids = (int(path.stem) for path in directory.glob("samples/[0-9]*.png"))
            self.send(read_log(directory), [grid for grid in grids if grid <= step])

    def send(self, lines: Iterable[Mapping[str, Any]], grids: Iterable[int] = ()) -> None:
        """Send lines of the log, and the grids of samples of these steps."""
        if self.backend is None:
            return
        steps: dict[int, Mapping[str, Any]] = {grid: {} for grid in grids}
        for step, line in sorted((steps | {line["step"]: line for line in lines}).items()):
            row = self._read_row(step, line)
            if step > self.backend.last and (row.metrics or row.grid):
                self.rows.append(row)
        if monotonic() - self.sent > SEND_EVERY:
            self._flush()

    def close(self, finished: bool) -> None:
        """Send the rest, and close the tracker."""
        self._flush()
        with self._report_failure():
            if self.backend is not None:
                self.backend.close(finished)
        self.backend, self.best, self.sent = None, float("inf"), 0.0

    def _read_row(self, step: int, line: Mapping[str, Any]) -> Point:
        """Return a line of the log with the least held-out loss so far, and the step's grid."""
        metrics = {k: x for k, x in line.items() if isinstance(x, float) and k != "time"}
        if "heldout" in metrics:
            self.best = metrics["best_heldout"] = min(self.best, metrics["heldout"])
        grid = self.directory / f"samples/{step:08d}.png"
        return Point(step, line.get("time", 0.0), metrics, grid if grid.is_file() else None)

    def _flush(self) -> None:
        rows, self.rows, self.sent = self.rows, [], monotonic()
        with self._report_failure():
            if self.backend is not None and rows:
                self.backend.log(rows)

    @contextmanager
    def _report_failure(self) -> Iterator[None]:
        """Turn any error of the tracker into a warning, after which it is not called again."""
        try:
            yield
        except Exception as error:  # each library has its own
            reason = " ".join(str(error).split()) or type(error).__name__
            message = (
                f"keeping.tracker={self.kind} failed and receives nothing more: {reason:.300}; the "
                "rest continues: scorefield resume or evaluate sends what is missing"
            )
            self.backend, self.kind = None, "none"
            self.rows.clear()
            warnings.warn(message, stacklevel=2)


def send_figures(directory: Path, figures: Mapping[str, float]) -> None:
    """Send figures of an evaluation to the tracker of a run, if the directory has one."""
    if not (directory / IDENTITY_FILE).exists():
        return
    config = json.loads(read_text(directory / "config.json"))
    tracker = Tracker(config["keeping"]["tracker"], directory)
    with tracker._report_failure(), hold_lock(directory):  # not while it trains
        step = read_log(directory)[-1]["step"]
        tracker.open(step)
        tracker.rows.append(Point(step, time(), dict(figures), None))
        tracker.close(step >= config["training"]["steps"])


def check_installed(kind: str) -> None:
    """Refuse a tracker that is not installed; an import that fails otherwise stops no run."""
    if kind != "none" and find_spec(kind) is None:
        import_extra(kind, kind, f"keeping.tracker={kind}")


def _read_identity(directory: Path) -> str:
    """Return the name of the run in trackers, which is chosen once."""
    path = directory / IDENTITY_FILE
    if not path.exists():
        name = re.sub(r"[^a-zA-Z0-9_.-]", "_", directory.name)[:80] + f"-{uuid.uuid4().hex[:8]}"
        write_file(path, json.dumps({"name": name}).encode())
    return str(json.loads(read_text(path))["name"])


class TensorBoard:
    """Event files in RUN/tensorboard."""

    last = 0

    def __init__(self, module: Any, directory: Path, name: str, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        place = directory / "tensorboard"
        for old in place.glob("events.out.tfevents.*"):
            old.unlink()
        self.writer: Any = SummaryWriter(str(place))
        self.writer.add_text("config", "\n".join(f"    {k}: {v}" for k, v in config.items()))

    def log(self, rows: Sequence[Point]) -> None:
        """Write the rows."""
        import numpy as np
        from PIL import Image

        for row in rows:
            for name, value in row.metrics.items():
                self.writer.add_scalar(name, value, row.step, row.time)
            if row.grid:
                with Image.open(row.grid) as image:
                    pixels = np.asarray(image.convert("RGB"))
                self.writer.add_image("samples", pixels, row.step, dataformats="HWC")
        self.writer.flush()

    def close(self, finished: bool) -> None:
        """Close the file."""
        self.writer.close()


class WeightsAndBiases:
    """A run of W&B; without WANDB_MODE and without a login it is kept in RUN/wandb."""

    def __init__(self, module: Any, directory: Path, name: str, config: Mapping[str, Any]) -> None:
        self.module, mode = module, os.environ.get("WANDB_MODE")
        if not mode:
            mode = "online" if module.login(prompt=False, verify=False) else "offline"
        if mode == "offline":
            for old in (directory / "wandb").glob(f"offline-run-*-{name}"):
                shutil.rmtree(old)
        self.run = module.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), dir=str(directory), id=name,
            name=name, config=dict(config), mode=mode, allow_val_change=True,
            resume="allow" if mode == "online" else None, settings=module.Settings(console="off"),
        )  # fmt: skip
        self.last = self.run.step - 1  # the step is that of the next row

    def log(self, rows: Sequence[Point]) -> None:
        """Write the rows."""
        for row in rows:
            image = {"samples": self.module.Image(str(row.grid))} if row.grid else {}
            if row.step > self.last:
                self.run.log(row.metrics | image, step=row.step)
            else:  # it refuses rows of an earlier step
                self.run.summary.update(row.metrics)

    def close(self, finished: bool) -> None:
        """Wait for the upload, if there is one."""
        self.run.finish(exit_code=0 if finished else 1)


class MLflow:
    """A run of MLflow; without MLFLOW_TRACKING_URI in a database in RUN/mlflow."""

    BATCH = 100
    """Rows or parameters a call, which takes at most 1,000 numbers or 100 parameters."""

    def __init__(self, module: Any, directory: Path, name: str, config: Mapping[str, Any]) -> None:
        self.module, uri, artifacts = module, os.environ.get("MLFLOW_TRACKING_URI"), None
        if not uri:
            place = directory / "mlflow"
            place.mkdir(exist_ok=True)
            uri, artifacts = f"sqlite:///{place}/mlflow.db", (place / "artifacts").as_uri()
        self.client = module.MlflowClient(uri)
        project = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        old = self.client.get_experiment_by_name(project)
        owner = old.experiment_id if old else self.client.create_experiment(project, artifacts)
        runs = self.client.search_runs([owner], f"tags.scorefield = '{name}'")
        tags = {"scorefield": name}
        run = runs[0] if runs else self.client.create_run(owner, tags=tags, run_name=name)
        self.id = run.info.run_id
        if runs:
            self.client.update_run(self.id, "RUNNING")
        history = self.client.get_metric_history(self.id, "rate") if runs else []
        self.last = max((metric.step for metric in history), default=0)
        # a parameter cannot be changed
        names = {re.sub(r"[^\w./ -]", "_", k): str(x)[:6000] for k, x in config.items()}
        new = names.keys() - run.data.params.keys()
        params = [module.entities.Param(key, names[key]) for key in new]
        for i in range(0, len(params), self.BATCH):
            self.client.log_batch(self.id, params=params[i : i + self.BATCH])

    def log(self, rows: Sequence[Point]) -> None:
        """Write the rows, all numbers of a row in one transaction; a grid twice is the same."""
        for row in rows:
            if row.grid:
                self.client.log_artifact(self.id, str(row.grid), "samples")
        metric = self.module.entities.Metric
        for i in range(0, len(rows), self.BATCH):
            part = rows[i : i + self.BATCH]
            pairs = [(row, item) for row in part for item in row.metrics.items()]
            metrics = [metric(*item, int(1000 * row.time), row.step) for row, item in pairs]
            self.client.log_batch(self.id, metrics=metrics)

    def close(self, finished: bool) -> None:
        """Mark the run."""
        self.client.set_terminated(self.id, "FINISHED" if finished else "KILLED")


class Trackio:
    """A run of trackio, in TRACKIO_DIR or on the Space TRACKIO_SPACE_ID."""

    def __init__(self, module: Any, directory: Path, name: str, config: Mapping[str, Any]) -> None:
        self.module = module
        self.run = module.init(
            project=PROJECT, name=name, config=dict(config), resume="allow", embed=False,
            auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip
        if not hasattr(self.run, "_next_step"):  # it has no public name
            raise RuntimeError("its last step is hidden: pip install 'scorefield[trackio]'")
        self.last = self.run._next_step - 1

    def log(self, rows: Sequence[Point]) -> None:
        """Queue the rows, which a thread writes."""
        for row in rows:
            image = {"samples": self.module.Image(row.grid)} if row.grid else {}
            self.run.log(row.metrics | image, step=row.step)

    def close(self, finished: bool) -> None:
        """Wait for the thread that writes."""
        self.run.finish()


TRACKERS: Mapping[str, Callable[[Any, Path, str, Mapping[str, Any]], Backend]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
    "trackio": Trackio,
}
