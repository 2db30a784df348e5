"""The tracker of a run, which receives its curves, grids of samples, configuration and figures.

    log.jsonl, samples/, figures of an evaluation  →  what the tracker lacks  →  the tracker

A tracker that is opened again may have more steps than the log, from which a resumed run takes the
last ones back, or fewer, because it writes in the background. It receives what comes after its last
step, so that it has each step once, and figures that it does not have.
A tracker that fails is reported once and receives nothing more; the run continues.
"""

import json
import re
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from time import monotonic, time
from typing import Any

from ..disk import hold_lock, read_text, write_file
from ..values import import_extra
from .config import flat_fields
from .journal import read_log
from .trackers import TRACKERS, Backend, Point

SEND_EVERY = 1.0
"""Seconds for which rows are collected, because some trackers take milliseconds for each call."""
SAMPLE_GRIDS = f"samples/{'[0-9]' * 8}.png"
"""Grids of samples in a run's folder, by step."""
IDENTITY_FILE = "tracker.json"  # the run's name in trackers; the figures, and those that they have


class Tracker:
    """A run's tracker, which reads the run's log and files; the kind "none" does nothing."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind, self.directory = kind, directory
        self.backend: Backend | None = None
        self.rows = list[Point]()
        self.best, self.sent_at = float("inf"), 0.0

    def open(self, step: int) -> None:
        """Open the tracker, again if steps were undone, and send what it lacks up to a step."""
        self.close(finished=False)
        if self.kind == "none":
            return
        with self._report_failure():
            check_installed(self.kind)
            module, directory = import_module(self.kind), self.directory.resolve()
            config = dict(flat_fields(json.loads(read_text(directory / "config.json"))))
            identity = _read_identity(directory)
            self.backend = TRACKERS[self.kind](module, directory, identity["name"], config)
            self.rows += _missing_figures(identity, step, self.backend.last)
            grids = (int(path.stem) for path in directory.glob(SAMPLE_GRIDS))
            self.send(read_log(directory), [grid for grid in grids if grid <= step])

    def send(self, lines: Iterable[Mapping[str, Any]], grids: Iterable[int] = ()) -> None:
        """Send lines of the log, and the grids of samples of these steps."""
        if self.backend is None:
            return
        steps: dict[int, Mapping[str, Any]] = {grid: {} for grid in grids}
        for step, line in sorted((steps | {line["step"]: line for line in lines}).items()):
            row = self._read_row(step, line)
            if step > self.backend.last and (row.values or row.grid):
                self.rows.append(row)
        if monotonic() - self.sent_at > SEND_EVERY:
            self._flush()

    def close(self, finished: bool) -> None:
        """Send the rest, and close the tracker."""
        self._flush()
        with self._report_failure():
            if self.backend is not None:
                self.backend.close(finished)
                identity = _read_identity(self.directory)
                if "figures" in identity:
                    _write_identity(self.directory, identity | {"sent": identity["figures"]})
        self.backend, self.best, self.sent_at = None, float("inf"), 0.0

    def _read_row(self, step: int, line: Mapping[str, Any]) -> Point:
        """Return a line of the log with the least held-out loss so far, and the step's grid."""
        values = {k: x for k, x in line.items() if isinstance(x, float) and k != "time"}
        if "heldout" in values:
            self.best = values["best_heldout"] = min(self.best, values["heldout"])
        grid = self.directory / f"samples/{step:08d}.png"
        return Point(step, line.get("time", 0.0), values, grid if grid.is_file() else None)

    def _flush(self) -> None:
        rows, self.rows, self.sent_at = self.rows, [], monotonic()
        with self._report_failure():
            if self.backend is not None and rows:
                self.backend.log(sorted(rows, key=lambda row: row.step))

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
        content = {"step": step, "time": time(), "values": dict(figures)}
        _write_identity(directory, _read_identity(directory) | {"figures": content})
        tracker.open(step)
        tracker.close(step >= config["training"]["steps"])


def check_installed(kind: str) -> None:
    """Refuse a tracker that is not installed; an import that fails otherwise stops no run."""
    if kind != "none" and find_spec(kind) is None:
        import_extra(kind, kind, f"keeping.tracker={kind}")


def _missing_figures(identity: Mapping[str, Any], step: int, last: int) -> Iterator[Point]:
    """Yield the figures up to a step that a tracker with this last step does not have."""
    figures, sent = identity.get("figures"), identity.get("sent", {})
    if figures and figures["step"] <= step:  # later ones would hide the steps before them
        values = figures["values"]
        if last >= figures["step"] == sent.get("step"):
            values = {k: x for k, x in values.items() if sent["values"].get(k) != x}
        if values:
            yield Point(figures["step"], figures["time"], values)


def _read_identity(directory: Path) -> dict[str, Any]:
    """Return the name of the run in trackers, which is chosen once, and its figures."""
    path = directory / IDENTITY_FILE
    if not path.exists():
        name = re.sub(r"[^a-zA-Z0-9_.-]", "_", directory.name)[:80] + f"-{uuid.uuid4().hex[:8]}"
        _write_identity(directory, {"name": name})
    return dict(json.loads(read_text(path)))


def _write_identity(directory: Path, content: Mapping[str, Any]) -> None:
    write_file(directory / IDENTITY_FILE, json.dumps(content).encode())
