"""The log of a run: lines of JSON.

Each step has exactly one line: a run that continues from a step first removes later lines.
"""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..disk import open_regular, write_all, write_error, write_file

METRICS_FILE = "metrics.json"
"""File in a run's directory with the figures of its evaluation."""


class Journal:
    """The log of a run, after the last step that is done."""

    def __init__(self, directory: Path, step: int) -> None:
        self.path = directory / "log.jsonl"
        trim(self.path, step)

    def write(self, line: Mapping[str, Any]) -> None:
        """Write a line; it is in the file when this returns."""
        try:
            with self.path.open("ab", buffering=0) as file:
                write_all(file.fileno(), f"{json.dumps(line)}\n".encode())
        except OSError as error:
            raise write_error(self.path, error) from error

    def rewind(self, step: int) -> None:
        """Remove what comes after a step."""
        trim(self.path, step)


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
