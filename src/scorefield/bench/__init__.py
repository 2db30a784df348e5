"""How fast the package is, beside others and beside the machine's limit.

    step       a step of training and of sampling, by each way of computing
    frontier   quality against evaluations and seconds, of all samplers on trained models
    peers      the same work through other packages: samplers, and U-Nets of equal size
    scale      how time and memory grow
    startup    how long it takes to begin

Each prints tables, and writes them with the machine's description into NAME.json.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone

from .. import disk
from ..config import nearest
from .machine import about, described
from .setting import Setting
from .table import Table

__all__ = ["BENCHES", "Setting", "Table", "bench"]

BENCHES = ("step", "frontier", "peers", "scale", "startup")
"""Modules of this package, each with a function `run` from a setting to tables."""


def bench(names: Sequence[str], setting: Setting) -> None:
    """Measure, print and keep."""
    known = [*BENCHES, "all"]
    for name in names:
        if name not in known:
            raise ValueError(f"{name!r} is not measured: {nearest(name, known)}")
    print(described(about()), flush=True)
    for name in BENCHES if "all" in names else names:
        _measured(name, setting)


def _measured(name: str, setting: Setting) -> None:
    begun, tables = time.perf_counter(), list[Table]()
    made: Iterator[Table] = importlib.import_module(f".{name}", __name__).run(setting)
    for table in made:
        print(table.text(), flush=True)
        tables.append(table)
    found = {
        "bench": name,
        "machine": about(),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "quick": setting.quick,
        "only": setting.only,
        "seconds": round(time.perf_counter() - begun),
        "tables": [table.as_dict() for table in tables],
    }
    path = setting.out / f"{name}.json"
    disk.replace(path, json.dumps(found, indent=1, ensure_ascii=False).encode())
    print(f"\n{path}")
