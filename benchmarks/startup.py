"""How long it takes to begin: the package beside torch, and the command line's help."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

from .measure import Way, ratio, turns
from .setting import Setting
from .table import Cell, Table

COLUMNS = {"": "", "s": ".3f", "of import torch": ".2f"}
TORCH = "import torch"
CODE = {
    TORCH: TORCH,
    "import scorefield": "import scorefield",
    "from scorefield import *": "from scorefield import *",
    "scorefield --help": "import sys; from scorefield.cli import main; main(['--help'])",
    "nothing, Python itself": "",
}


def run(setting: Setting) -> Iterator[Table]:
    """One table."""
    ways: dict[str, Way] = {
        name: partial(subprocess.run, [sys.executable, "-c", code], check=True, capture_output=True)
        for name, code in CODE.items()
    }
    spent = turns(ways, repeats=setting.repeats, least=0.0)
    rows: list[list[Cell]] = [
        [name, statistics.median(times), 1 / ratio(spent[TORCH], times)]
        for name, times in spent.items()
    ]
    yield Table("Start-up", COLUMNS, rows)
