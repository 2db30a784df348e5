"""What a run writes down of its steps: lines of JSON, and TensorBoard's events when asked for.

No step is there twice and none is missing: a run that goes on from a step begins by removing the
lines of later ones.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from ..disk import write_all, write_error, write_file


class Journal:
    """The log of a run, from a step on.

    Args:
        directory: of the run.
        step: the last one that is done.
        tensorboard: write events beside the lines.
        silent: write nothing, where another process does.
    """

    def __init__(
        self, directory: Path, step: int, *, tensorboard: bool = False, silent: bool = False
    ) -> None:
        self.path, self.events = directory / "log.jsonl", directory / "tensorboard"
        self.silent = silent
        self.board = _board() if tensorboard and not silent else None
        self.writer: Any = None
        self.rewind(step)

    def write(self, line: Mapping[str, Any]) -> None:
        """A line, which is in the file when this returns."""
        if self.silent:
            return
        with _naming(self.path):
            write_all(self.file.fileno(), f"{json.dumps(line)}\n".encode())
        with _naming(self.events):
            for name, value in line.items():
                if self.writer is not None and isinstance(value, float) and name != "time":
                    self.writer.add_scalar(name, value, line["step"])

    def rewind(self, step: int) -> None:
        """Forget what comes after a step."""
        if self.silent:
            return
        self.close()
        trim(self.path, step)
        with _naming(self.path):
            self.file: FileIO = self.path.open("ab", buffering=0)
        with _naming(self.events):
            precede(self.events)
            # TensorBoard itself leaves out what an interrupted run wrote too much
            self.writer = self.board and self.board(str(self.events), purge_step=step + 1)

    def close(self) -> None:
        """Close the files."""
        if hasattr(self, "file"):
            self.file.close()
        if self.writer is not None:
            with _naming(self.events):
                self.writer.close()


def trim(path: Path, step: int) -> None:
    """Leave the lines up to a step, each of which is there once; what is none is told of."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept, foreign, before = list[bytes](), 0, 0
    for line in lines:
        number = _step(line)
        if number is not None and before < number <= step:
            kept.append(line)
            before = number
        # the last one may have been cut short when the run was killed
        elif (number is None or number <= before) and line.endswith(b"\n"):
            foreign += 1
    if foreign:
        warnings.warn(
            f"{path} had {foreign} lines that are none of this run, or out of order; they are "
            "removed",
            stacklevel=2,
        )
    if len(kept) < len(lines):
        write_file(path, b"".join(kept))


def _step(line: bytes) -> int | None:
    """The step of a line that is whole."""
    try:
        found = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if line.endswith(b"\n") and type(found) is int else None


def precede(events: Path) -> None:
    """Let older events come first: TensorBoard reads files by their names, which a clock gave."""
    files = sorted(events.glob("events.out.tfevents.*"))
    if files and files[-1].name.split(".")[3] >= f"{int(time.time()):010d}":
        for number, path in enumerate(files):
            *start, _, rest = path.name.split(".", 4)
            path.rename(path.with_name(".".join([*start, f"{number:010d}", rest])))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """An error of the system, with the file that could not be written."""
    try:
        yield
    except OSError as error:
        raise write_error(path, error) from error


def _board() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "keeping.tensorboard needs that library: pip install 'scorefield[tracking]'"
        ) from error
    return SummaryWriter
