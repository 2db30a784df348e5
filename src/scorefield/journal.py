"""What a run writes down of its steps: lines of JSON, and TensorBoard's events when asked for.

No step is there twice and none is missing: a run that goes on from a step begins by removing the
lines of later ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from .checkpoint import replace


class Journal:
    """The log of a run, from a step on.

    Args:
        directory: of the run.
        step: the last one that is done.
        tensorboard: write events beside the lines.
    """

    def __init__(self, directory: Path, step: int, *, tensorboard: bool = False) -> None:
        self.path, self.events = directory / "log.jsonl", directory / "tensorboard"
        self.board = _board() if tensorboard else None
        self.rewind(step)

    def write(self, line: Mapping[str, Any]) -> None:
        """A line, which is in the file when this returns."""
        self.file.write(json.dumps(line) + "\n")
        for name, value in line.items():
            if self.writer is not None and isinstance(value, float) and name != "time":
                self.writer.add_scalar(name, value, line["step"])

    def rewind(self, step: int) -> None:
        """Forget what comes after a step."""
        self.close()
        trim(self.path, step)
        self.file: TextIO = self.path.open("a", buffering=1)
        # TensorBoard itself leaves out what an interrupted run wrote too much
        self.writer = self.board and self.board(str(self.events), purge_step=step + 1)

    def close(self) -> None:
        """Close the files."""
        if hasattr(self, "file"):
            self.file.close()
            if self.writer is not None:
                self.writer.close()


def trim(path: Path, step: int) -> None:
    """Leave the lines up to a step, which are whole."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        try:
            if line.endswith("\n") and json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):  # cut short when the run was killed
            continue
    replace(path, "".join(kept).encode())


def _board() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "keeping.tensorboard needs that library: pip install 'scorefield[tracking]'"
        ) from error
    return SummaryWriter
