"""Runs in a folder, and trainings in processes of their own.

A training is `scorefield train`, and its state is read from the run's files. It is ended by the
signal of Ctrl-C, after which it saves its state, and it does not outlive the studio. If the studio
is killed, it does: the lock of the run shows that another process trains it. A report is made by
`scorefield evaluate` in the same way.
"""

import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from inspect import signature
from pathlib import Path
from shlex import join
from threading import Lock
from typing import IO, Any, Literal

from ..data import DATASETS
from ..runs import PRESETS, is_training, read_log, read_settings
from ..values import check_names
from .settings import parse_settings

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}", re.ASCII)
"""Names of runs: one folder, no path."""
SHOWN = re.compile(r"report\.html|samples/\d{8,12}\.png", re.ASCII)
"""Files of a run that the page shows."""
MAX_POINTS_SHOWN = 400
MAX_TRAINED_SECONDS = 7 * 24 * 3600.0
GRACE = 60.0
"""Seconds in which a training that is stopped saves its state."""
TAIL = 2000
"""Bytes of a failed training's output that are read for its error."""
TIMED = (
    "A limit of time ends after as many steps as the machine takes in it, so that another training "
    "gives another model. A number of steps gives the same one."
)
"""Note next to the code of such a training."""


@dataclass(frozen=True)
class TrainingSettings:
    """A training that the page asks for."""

    name: str
    preset: str
    amount: float
    unit: Literal["seconds", "minutes", "hours", "steps"] = "minutes"

    def __post_init__(self) -> None:
        check_names([self.preset], PRESETS, "preset ")
        if not NAME.fullmatch(self.name):
            raise ValueError(
                f"name {self.name!r:.80}: give letters, digits, dots, - and _, 64 at most"
            )
        if self.unit == "steps" and (self.amount < 1 or not float(self.amount).is_integer()):
            raise ValueError(f"steps {self.amount:g}: give a whole number of 1 or more")
        if self.unit != "steps" and not 1 <= self.seconds <= MAX_TRAINED_SECONDS:
            raise ValueError(f"{self.amount:g} {self.unit}: give between a second and a week")

    @property
    def seconds(self) -> float:
        """The time budget."""
        return self.amount * {"seconds": 1, "minutes": 60, "hours": 3600, "steps": 0}[self.unit]

    def arguments(self, folder: Path) -> list[str]:
        """Return the arguments of `scorefield` for this training."""
        limit = ["--budget", f"{self.seconds:g}s"]
        if self.unit == "steps":
            limit = ["--steps", f"{self.amount:.0f}"]
        return ["train", self.preset, "--out", str(folder / self.name), *limit]


def write_run(settings: Mapping[str, Any], studio: Any) -> dict[str, str | None]:
    """Return the command and the Python of a training."""
    asked = parse_settings(TrainingSettings, settings)
    limit = f"training.budget={asked.seconds:g}"
    if asked.unit == "steps":
        limit = f"training.steps={asked.amount:.0f}"
    return {
        "note": None if asked.unit == "steps" else TIMED,
        "command": join(["scorefield", *asked.arguments(studio.runs)]),
        "python": f"""from pathlib import Path

from scorefield.runs import PRESETS, finish, override

experiment = override(PRESETS[{asked.preset!r}], [{limit!r}])
model = finish(experiment, Path({str(studio.runs / asked.name)!r}))
""",
    }


@dataclass(eq=False)
class RunProcess:
    """A process that trains or evaluates a run, and the file of what it prints."""

    process: subprocess.Popen[bytes]
    output: IO[bytes]
    evaluates: bool
    stopping: bool = False
    """True once it was asked to end."""
    _reading: Lock = field(default_factory=Lock)

    @property
    def is_alive(self) -> bool:
        """True until the process has ended."""
        return self.process.poll() is None

    def error(self) -> str:
        """Return the last line of a process that failed."""
        if self.is_alive or self.process.returncode in (0, 128 + signal.SIGINT, -signal.SIGINT):
            return ""
        with self._reading:  # requests come in several threads, which share the place in the file
            size = self.output.seek(0, 2)
            self.output.seek(max(0, size - TAIL))
            content = self.output.read()
        lines = content.decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else f"ended with code {self.process.returncode}"


class Trainings:
    """The runs of a folder, one of which may be training."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._starting = Lock()  # requests come in several threads
        self._trainings = dict[str, RunProcess]()
        self._asked = dict[str, TrainingSettings]()
        self._logs = dict[str, tuple[tuple[int, int], list[dict[str, Any]]]]()

    def summarise_all(self) -> Sequence[dict[str, Any]]:
        """Return all runs, the newest first."""
        paths = [*self.folder.glob("*/config.json")]
        paths.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        names = [path.parent.name for path in paths if NAME.fullmatch(path.parent.name)]
        starting = [name for name, training in [*self._trainings.items()] if name not in names
                    and (training.is_alive or training.error())]  # fmt: skip
        return [self.summarise(name) for name in [*starting, *names]]

    def summarise(self, name: str) -> dict[str, Any]:
        """Return the state of a run."""
        training = self._trainings.get(name)
        alive = training is not None and training.is_alive
        stopping = training is not None and training.stopping
        summary = {"name": name, "step": 0, "steps": None, "budget": None, "loss": None}
        summary |= {"heldout": None, "error": training.error() if training else ""}
        summary["state"] = "starting" if alive else "failed"
        asked = self._asked.get(name)
        summary["asked"] = None if asked is None else asdict(asked)
        directory = self.folder / name
        try:
            experiment = read_settings(directory)
            if experiment is None:
                return summary
            log = self._read_log(self.find(name))
        except (ValueError, TypeError, OSError) as error:
            return summary | {"state": "unreadable", "error": str(error)}
        step = log[-1]["step"] if log else 0
        wanted = experiment.training
        is_open = wanted.budget is not None and not wanted.cooldown
        at_end = step >= wanted.steps and not is_open
        state = "finished" if at_end else "stopped"
        evaluates = training is not None and training.evaluates
        if alive:
            state = "evaluating" if evaluates else "training"
            state = "stopping" if stopping else state
        elif summary["error"] and not evaluates:
            state = "failed"
        elif state == "stopped" and is_training(directory):
            state = "elsewhere"
        summary |= {"step": step, "state": state, "budget": wanted.budget}
        summary["steps"] = None if is_open else wanted.steps
        summary["images"] = len(experiment.network.get("shape", "CHW")) == len("CHW")
        for loss in ("loss", "heldout"):
            values = (line[loss] for line in reversed(log) if line.get(loss) is not None)
            summary[loss] = next(values, None)
        return summary

    def describe(self, name: str) -> dict[str, Any]:
        """Return the state of a run, its curves, and which files of it can be shown."""
        directory = self.find(name)
        log = self._read_log(directory)
        samples = [
            p for p in directory.glob("samples/*.png") if SHOWN.fullmatch(f"samples/{p.name}")
        ]
        return self.summarise(name) | {
            "curve": [[line["step"], line["loss"]] for line in thin_lines(lines_with(log, "loss"))],
            "curve_heldout": [
                [line["step"], line["heldout"]] for line in thin_lines(lines_with(log, "heldout"))
            ],
            "samples": sorted(path.name for path in samples),
            "report": (directory / "report.html").is_file(),
            "command": join(["scorefield", "evaluate", str(directory)]),
        }

    def find(self, name: str) -> Path:
        """Return the directory of a run, which is in the folder and not elsewhere by a link."""
        directory = self.folder / name
        inside = directory.resolve().parent == self.folder.resolve()
        if NAME.fullmatch(name) and inside and directory.is_dir():
            return directory
        raise FileNotFoundError(f"There is no run {name!r:.80} in {self.folder}")

    def find_file(self, name: str, path: str) -> Path:
        """Return a file of a run that the page may show."""
        directory = self.find(name)
        file = directory / path
        inside = SHOWN.fullmatch(path) and file.resolve().is_relative_to(directory.resolve())
        if not inside or not file.is_file():
            raise FileNotFoundError(f"{name} has no file {path!r:.80} to show")
        return file

    def start(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Start a training in a new folder."""
        asked = parse_settings(TrainingSettings, settings)
        if (self.folder / asked.name).exists():
            raise ValueError(f"name {asked.name!r}: this run exists; give another name")
        self._launch(asked.name, asked.arguments(self.folder))
        self._asked[asked.name] = asked
        return self.summarise(asked.name)

    def resume(self, name: str) -> dict[str, Any]:
        """Continue a run that was stopped."""
        return self._launch(name, ["resume", str(self.find(name))])

    def evaluate(self, name: str) -> dict[str, Any]:
        """Make the report of a run."""
        return self._launch(name, ["evaluate", str(self.find(name))], evaluates=True)

    def stop(self, name: str) -> dict[str, Any]:
        """Let a training save its state and end, or end an evaluation."""
        training = self._trainings.get(name)
        if training is None or not training.is_alive:
            raise ValueError(f"{name!r:.80} is not being trained or evaluated by this studio")
        training.process.send_signal(signal.SIGINT)
        training.stopping = True
        return self.summarise(name)

    def close(self) -> None:
        """End all trainings; each saves its state first."""
        alive = [training for training in self._trainings.values() if training.is_alive]
        for training in alive:
            training.process.send_signal(signal.SIGINT)
        for training in alive:
            try:
                training.process.wait(GRACE)
            except subprocess.TimeoutExpired:
                training.process.kill()
                training.process.wait()
        for training in self._trainings.values():
            training.output.close()
        self._trainings.clear()

    def _launch(
        self, name: str, arguments: Iterable[str], *, evaluates: bool = False
    ) -> dict[str, Any]:
        with self._starting:
            for other, training in self._trainings.items():
                if training.is_alive:
                    verb = "evaluated" if training.evaluates else "trained"
                    raise ValueError(f"{other} is being {verb}: stop it first")
            if name in self._trainings:
                self._trainings.pop(name).output.close()
            output = tempfile.TemporaryFile()  # noqa: SIM115
            # its own session, so that Ctrl-C in the terminal reaches it once, through `close`
            process = subprocess.Popen(
                [sys.executable, "-m", "scorefield", *arguments],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
            self._trainings[name] = RunProcess(process, output, evaluates)
        return self.summarise(name)

    def _read_log(self, directory: Path) -> list[dict[str, Any]]:
        """Return the lines of a log, which are read again only after a change."""
        try:
            stat = (directory / "log.jsonl").stat()
        except FileNotFoundError:
            return []
        version = stat.st_mtime_ns, stat.st_size
        stored = self._logs.get(directory.name)
        if stored is None or stored[0] != version:
            self._logs[directory.name] = stored = version, read_log(directory)
        return stored[1]


def describe_presets() -> dict[str, dict[str, Any]]:
    """Return the data of each preset, and whether the package has them without a download."""
    sources = {name: experiment.data.source for name, experiment in PRESETS.items()}
    return {
        name: {"data": source, "included": "root" not in signature(DATASETS[source]).parameters}
        for name, source in sources.items()
    }


def lines_with(log: Iterable[Mapping[str, Any]], field: str) -> list[Mapping[str, Any]]:
    """Return the lines of a log that have a value of a field."""
    return [line for line in log if line.get(field) is not None]


def thin_lines(lines: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return evenly spaced lines, with the last."""
    stride = -(-len(lines) // MAX_POINTS_SHOWN) or 1
    return lines[::-1][::stride][::-1]
