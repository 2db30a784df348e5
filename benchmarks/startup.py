"""Time to import the package, compared with torch, and to print the command line's help."""

import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

from . import Setting
from .measure import Task, ratio, turns
from .table import Table

TORCH = "import torch"
CODE = {
    TORCH: TORCH,
    "import scorefield": "import scorefield",
    "from scorefield import *": "from scorefield import *",
    "scorefield --help": "import sys; from scorefield.cli import main; main(['--help'])",
    "nothing, Python itself": "",
}


def run(setting: Setting) -> Iterator[Table]:
    tasks: dict[str, Task] = {
        name: partial(subprocess.run, [sys.executable, "-c", code], check=True, capture_output=True)
        for name, code in CODE.items()
    }
    times = turns(tasks, repeats=setting.repeats, calls=1)
    rows = [[name, statistics.median(t), 1 / ratio(times[TORCH], t)] for name, t in times.items()]
    yield Table("Start-up", {"": "", "s": ".3f", "of import torch": ".2f"}, rows)
