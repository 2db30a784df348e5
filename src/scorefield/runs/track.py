"""The tracker of a run, which receives its curves, grids of samples, configuration and figures.

    log.jsonl with samples/, figures of an evaluation  →  what the tracker lacks  →  the tracker

The log is replayed from the last step that the tracker has, which after a kill may be another one
than the run's, so that it has each step once. TensorBoard's files and an offline run of W&B are
written again from the start. A tracker that fails is reported once and receives nothing more; the
run continues.
"""

import json
import math
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
from time import monotonic
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..disk import hold_lock, read_json, write_file
from ..values import import_extra
from .config import flat_fields
from .journal import read_log

SEND_EVERY = 1.0
"""Seconds for which lines are collected, because some trackers take milliseconds for each call."""
SAMPLE_GRIDS = f"samples/{'[0-9]' * 8}.png"
"""Grids of samples in a run's folder, by step."""
IDENTITY_FILE = "tracker.json"  # the run's name in trackers; the figures, and those that they have
PROJECT = "scorefield"
MLFLOW_BATCH = 100
"""Rows a call, which takes at most 1,000 numbers and writes all of them or none."""


class Point(NamedTuple):
    """Curves and a grid of samples at a step, or figures of an evaluation after it."""

    step: int
    time: float  # seconds since 1970
    values: dict[str, float]
    grid: Path | None  # a PNG of samples


class Backend(NamedTuple):
    """A tracker with this run open."""

    last: int  # step that it has and keeps; less than 1 if it is written from the start
    log: Callable[[Sequence[Point]], object]  # receives rows in the order of their steps
    close: Callable[[bool], object]  # waits until all is written, and marks the run as finished


class Tracker:
    """A run's tracker, which receives the lines of the log; the kind "none" does nothing."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind, self.directory = kind, directory
        self.backend: Backend | None = None
        self.lines, self.sent_at = list[Mapping[str, Any]](), 0.0

    def open(self, step: int) -> None:
        """Open the tracker, again if steps were undone, and send the missing lines up to a step."""
        self.close(finished=False)
        with self._report_failure():
            if self.kind != "none":
                check_installed(self.kind)
                module, directory = import_module(self.kind), self.directory.resolve()
                config = dict(flat_fields(read_json(directory / "config.json")))
                identity = _update_identity(directory)
                self.backend = TRACKERS[self.kind](module, directory, identity["name"], config)
                last, figures = self.backend.last, identity.get("figures", {"step": math.inf})
                self.lines = [line for line in read_log(directory) if line["step"] > last]
                has_figures = figures == identity.get("sent") and figures["step"] <= last
                # those of a later step would hide the steps before it
                if figures["step"] <= step and not has_figures:
                    self.lines.append(figures)
                self._flush(self.backend)

    def send(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Send lines that the log has gained, together with those of the last second."""
        with self._report_failure():
            if self.backend is not None:
                self.lines += (line for line in lines if line["step"] > self.backend.last)
                if monotonic() - self.sent_at > SEND_EVERY:
                    self._flush(self.backend)

    def close(self, finished: bool) -> None:
        """Send the rest, and close the tracker."""
        with self._report_failure():
            if self.backend is not None:
                self._flush(self.backend)
                self.backend.close(finished)
                figures = _update_identity(self.directory).get("figures")
                _update_identity(self.directory, sent=figures)
        self.backend = None

    def _flush(self, backend: Backend) -> None:
        rows = list[Point]()
        for line in sorted(self.lines, key=lambda line: line["step"]):
            values = {k: x for k, x in line.items() if isinstance(x, float) and k != "time"}
            grid = self.directory / f"samples/{line['step']:08d}.png"
            has_grid = "loss" in line and grid.is_file()  # the figures come at the same step
            rows.append(Point(line["step"], line["time"], values, grid if has_grid else None))
        self.lines, self.sent_at = [], monotonic()
        if rows:
            backend.log(rows)

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
            warnings.warn(message, stacklevel=2)


def send_figures(directory: Path, figures: Mapping[str, float]) -> None:
    """Send figures of an evaluation to the tracker of a run, if the directory has one."""
    if not (directory / IDENTITY_FILE).exists():
        return
    config = read_json(directory / "config.json")
    tracker = Tracker(config["keeping"]["tracker"], directory)
    with tracker._report_failure(), hold_lock(directory):  # not while it trains
        last = read_log(directory)[-1]
        _update_identity(directory, figures={k: last[k] for k in ("step", "time")} | dict(figures))
        tracker.open(last["step"])
        tracker.close(last["step"] >= config["training"]["steps"])


def check_installed(kind: str) -> None:
    """Refuse a tracker that is not installed; an import that fails otherwise stops no run."""
    if kind != "none" and find_spec(kind) is None:
        import_extra(kind, kind, f"keeping.tracker={kind}")


def _update_identity(directory: Path, **changes: Any) -> dict[str, Any]:
    """Return the name of the run in trackers, which is chosen once, and its figures."""
    path, folder = directory / IDENTITY_FILE, re.sub(r"[^a-zA-Z0-9_.-]", "_", directory.name)
    new = {"name": f"{folder[:80]}-{uuid.uuid4().hex[:8]}"}
    content: dict[str, Any] = (read_json(path) if path.exists() else new) | changes
    write_file(path, json.dumps(content).encode())
    return content


# ── Trackers: without a network and an account they write to the disk ────────────────────────────


def _open_tensorboard(_: Any, directory: Path, name: str, config: Mapping[str, Any]) -> Backend:
    """Open event files in RUN/tensorboard."""
    from torch.utils.tensorboard import SummaryWriter

    place = directory / "tensorboard"
    for old in place.glob("events.out.tfevents.*"):
        old.unlink()
    writer: Any = SummaryWriter(str(place))
    writer.add_text("config", "\n".join(f"    {k}: {v}" for k, v in config.items()))

    def log(rows: Sequence[Point]) -> None:
        for row in rows:
            for key, value in row.values.items():
                writer.add_scalar(key, value, row.step, row.time)
            if row.grid:
                pixels = np.asarray(Image.open(row.grid).convert("RGB"))
                writer.add_image("samples", pixels, row.step, dataformats="HWC")
        writer.flush()

    return Backend(0, log, lambda finished: writer.close())


def _open_wandb(module: Any, directory: Path, name: str, config: Mapping[str, Any]) -> Backend:
    """Open a run of W&B; without WANDB_MODE and without a login it is kept in RUN/wandb."""
    if not (mode := os.getenv("WANDB_MODE")):
        mode = "online" if module.login(prompt=False, verify=False) else "offline"
    if mode == "offline":
        for old in (directory / "wandb").glob(f"offline-run-*-{name}"):
            shutil.rmtree(old)
    run = module.init(
        project=os.getenv("WANDB_PROJECT", PROJECT), dir=str(directory), id=name,
        name=name, config=dict(config), mode=mode, allow_val_change=True,
        resume="allow" if mode == "online" else None, settings=module.Settings(console="off"),
    )  # fmt: skip
    last = run.step - 1  # its step is that of the next row

    def log(rows: Sequence[Point]) -> None:
        for row in rows:
            image = {"samples": module.Image(str(row.grid))} if row.grid else {}
            if row.step > last:
                run.log(row.values | image, step=row.step)
            else:  # it refuses rows of an earlier step
                run.summary.update(row.values)

    return Backend(last, log, lambda finished: run.finish(exit_code=0 if finished else 1))


def _open_mlflow(module: Any, directory: Path, name: str, config: Mapping[str, Any]) -> Backend:
    """Open a run of MLflow; without MLFLOW_TRACKING_URI in a database in RUN/mlflow."""
    # A server that does not answer must not hold up the run: the client would try for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    metric, place, artifacts = module.entities.Metric, directory / "mlflow", None
    if not (uri := os.getenv("MLFLOW_TRACKING_URI")):
        place.mkdir(exist_ok=True)
        uri, artifacts = f"sqlite:///{place}/mlflow.db", (place / "artifacts").as_uri()
    client, project = module.MlflowClient(uri), os.getenv("MLFLOW_EXPERIMENT_NAME", PROJECT)
    old = client.get_experiment_by_name(project)
    owner = old.experiment_id if old else client.create_experiment(project, artifacts)
    runs = client.search_runs([owner], f"tags.scorefield = '{name}'")
    run = runs[0] if runs else client.create_run(owner, tags={"scorefield": name}, run_name=name)
    key = run.info.run_id
    client.update_run(key, "RUNNING")
    fields = {re.sub(r"[^\w./ -]", "_", k): str(x)[:6000] for k, x in config.items()}
    for field in fields.keys() - run.data.params.keys():  # a parameter cannot be changed
        client.log_param(key, field, fields[field], synchronous=True)

    def log(rows: Sequence[Point]) -> None:
        for row in rows:
            if row.grid:
                client.log_artifact(key, str(row.grid), "samples")  # twice is the same
        for i in range(0, len(rows), MLFLOW_BATCH):
            part = rows[i : i + MLFLOW_BATCH]
            pairs = ((row, item) for row in part for item in row.values.items())
            client.log_batch(key, [metric(*item, int(1000 * r.time), r.step) for r, item in pairs])

    last = max((metric.step for metric in client.get_metric_history(key, "rate")), default=0)
    return Backend(
        last, log, lambda finished: client.set_terminated(key, "FINISHED" if finished else "KILLED")
    )


def _open_trackio(module: Any, directory: Path, name: str, config: Mapping[str, Any]) -> Backend:
    """Open a run of trackio, in TRACKIO_DIR or on the Space TRACKIO_SPACE_ID."""
    run = module.init(
        project=PROJECT, name=name, config=dict(config), resume="allow", embed=False,
        auto_log_gpu=False, auto_log_cpu=False,
    )  # fmt: skip
    if not hasattr(run, "_next_step"):  # it has no public name
        raise RuntimeError("its last step is hidden: pip install 'scorefield[trackio]'")

    def log(rows: Sequence[Point]) -> None:
        for row in rows:
            image = {"samples": module.Image(row.grid)} if row.grid else {}
            run.log(row.values | image, step=row.step)

    return Backend(run._next_step - 1, log, lambda finished: run.finish())


TRACKERS: dict[str, Callable[[Any, Path, str, Mapping[str, Any]], Backend]] = {
    "tensorboard": _open_tensorboard,
    "wandb": _open_wandb,
    "mlflow": _open_mlflow,
    "trackio": _open_trackio,
}
"""Trackers by the name of their module."""
