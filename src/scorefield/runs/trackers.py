"""TensorBoard, W&B, MLflow and trackio as the tracker of a run.

Each is opened with its module, the run's folder, the name by which it finds the run again, and the
configuration. Without a network and an account they write to the disk.
"""

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

PROJECT = "scorefield"
MLFLOW_BATCH = 100
"""Rows a call, which takes at most 1,000 numbers and writes all of them or none."""


class Point(NamedTuple):
    """Curves and a grid of samples at a step, or figures of an evaluation after it."""

    step: int
    time: float  # seconds since 1970
    values: dict[str, float]
    grid: Path | None = None  # a PNG of samples


class Backend(Protocol):
    """A tracker with this run open."""

    last: int
    """Last step that it has and keeps; less than 1 if it is written from the start."""

    def log(self, rows: Sequence[Point]) -> None:
        """Receive rows in the order of their steps."""

    def close(self, finished: bool) -> None:
        """Wait until everything is written, and mark the run as finished or as stopped."""


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
            for name, value in row.values.items():
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
                self.run.log(row.values | image, step=row.step)
            else:  # it refuses rows of an earlier step
                self.run.summary.update(row.values)

    def close(self, finished: bool) -> None:
        """Wait for the upload, if there is one."""
        self.run.finish(exit_code=0 if finished else 1)


class MLflow:
    """A run of MLflow; without MLFLOW_TRACKING_URI in a database in RUN/mlflow."""

    def __init__(self, module: Any, directory: Path, name: str, config: Mapping[str, Any]) -> None:
        self.metric, uri, artifacts = module.entities.Metric, os.getenv("MLFLOW_TRACKING_URI"), None
        if not uri:
            place = directory / "mlflow"
            place.mkdir(exist_ok=True)
            uri, artifacts = f"sqlite:///{place}/mlflow.db", (place / "artifacts").as_uri()
        self.client = module.MlflowClient(uri)
        project = os.getenv("MLFLOW_EXPERIMENT_NAME", PROJECT)
        old = self.client.get_experiment_by_name(project)
        owner = old.experiment_id if old else self.client.create_experiment(project, artifacts)
        tag = {"scorefield": name}
        runs = self.client.search_runs([owner], f"tags.scorefield = '{name}'")
        run = runs[0] if runs else self.client.create_run(owner, tags=tag, run_name=name)
        self.id = run.info.run_id
        self.client.update_run(self.id, "RUNNING")
        rates = self.client.get_metric_history(self.id, "rate")
        self.last = max((metric.step for metric in rates), default=0)
        fields = {re.sub(r"[^\w./ -]", "_", key): str(x)[:6000] for key, x in config.items()}
        for key in fields.keys() - run.data.params.keys():  # a parameter cannot be changed
            self.client.log_param(self.id, key, fields[key], synchronous=True)

    def log(self, rows: Sequence[Point]) -> None:
        """Write the rows; a grid twice is the same."""
        for row in rows:
            if row.grid:
                self.client.log_artifact(self.id, str(row.grid), "samples")
        for i in range(0, len(rows), MLFLOW_BATCH):
            part = rows[i : i + MLFLOW_BATCH]
            pairs = [(row, item) for row in part for item in row.values.items()]
            metrics = [self.metric(*item, int(1000 * row.time), row.step) for row, item in pairs]
            self.client.log_batch(self.id, metrics=metrics)

    def close(self, finished: bool) -> None:
        """Mark the run."""
        self.client.set_terminated(self.id, "FINISHED" if finished else "KILLED")


class Trackio:
    """A run of trackio, in TRACKIO_DIR or on the Space TRACKIO_SPACE_ID."""

    def __init__(self, module: Any, directory: Path, name: str, config: Mapping[str, Any]) -> None:
        self.image = module.Image
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
            image = {"samples": self.image(row.grid)} if row.grid else {}
            self.run.log(row.values | image, step=row.step)

    def close(self, finished: bool) -> None:
        """Wait for the thread that writes."""
        self.run.finish()


TRACKERS: Mapping[str, Callable[[Any, Path, str, Mapping[str, Any]], Backend]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
    "trackio": Trackio,
}
"""Trackers by the name of their module."""
