"""The log of a run: lines of JSON, and TensorBoard events if asked for.

Each step has exactly one line: a run that continues from a step first removes later lines.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..disk import open_regular, write_all, write_error, write_file


class Journal:
    """The log of a run, after the last step that is done; TensorBoard events too if asked for."""

    def __init__(self, directory: Path, step: int, *, tensorboard: bool = False) -> None:
        self.path, self.events = directory / "log.jsonl", directory / "tensorboard"
        self.tensorboard = tensorboard
        self.writer: Any = None
        self.rewind(step)

    def write(self, line: Mapping[str, Any]) -> None:
        """Write a line; it is in the file when this returns."""
        with _naming(self.path), self.path.open("ab", buffering=0) as file:
            write_all(file.fileno(), f"{json.dumps(line)}\n".encode())
        with _naming(self.events):
            for name, value in line.items():
                if self.writer is not None and isinstance(value, float) and name != "time":
                    self.writer.add_scalar(name, value, line["step"])

    def rewind(self, step: int) -> None:
        """Remove what comes after a step."""
        self.close()
        trim(self.path, step)
        if self.tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ImportError(
                    "keeping.tensorboard needs that library: pip install 'scorefield[tracking]'"
                ) from error
            with _naming(self.events):
                # TensorBoard itself hides what an interrupted run wrote after this step
                self.writer = SummaryWriter(str(self.events), purge_step=step + 1)

    def close(self) -> None:
        """Close the event file."""
        if self.writer is not None:
            with _naming(self.events):
                self.writer.close()


def read_log(directory: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a run's log."""
    lines = _read_lines(directory / "log.jsonl")
    return [json.loads(line) for line in lines if _step_of_line(line) is not None]


def trim(path: Path, step: int) -> None:
    """Keep the lines up to a step, in order; warn about lines that are not the run's."""
    lines = _read_lines(path)
    good, foreign, last = list[bytes](), 0, 0
    for line in lines:
        number = _step_of_line(line)
        if number is not None and last < number <= step:
            good.append(line)
            last = number
        # the last line may have been cut short when the run was killed
        elif (number is None or number <= last) and line.endswith(b"\n"):
            foreign += 1
    if foreign:
        message = f"{path} had {foreign} lines that are not from this run; they are removed"
        warnings.warn(message, stacklevel=2)
    if len(good) < len(lines):
        write_file(path, b"".join(good))


def _read_lines(path: Path) -> list[bytes]:
    if not path.exists():
        return []
    with open_regular(path) as file:
        return file.readlines()


def _step_of_line(line: bytes) -> int | None:
    """Return the step of a complete line."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return step if line.endswith(b"\n") and type(step) is int else None


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Add the path of the file to an error of the system."""
    try:
        yield
    except OSError as error:
        raise write_error(path, error) from error
