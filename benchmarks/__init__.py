"""How fast the package is, beside others and beside the machine's limit.

    step       a step of training and of sampling, by each way of computing
    frontier   quality against evaluations and seconds, of all samplers on trained models
    peers      the same work through other packages: samplers, and U-Nets of equal size
    scale      how time and memory grow
    startup    how long it takes to begin

Each prints tables, and writes them with the machine's description into NAME.json, those of a GPU
into NAME-cuda.json.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from scorefield import disk
from scorefield.runs.config import nearest

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
    torch.set_num_threads(setting.threads)
    print(described(about(setting.device)), flush=True)
    for name in BENCHES if "all" in names else names:
        _measured(name, setting)


def _measured(name: str, setting: Setting) -> None:
    """Print and keep each table; others of the same machine, measured before, stay."""
    kind = setting.device.partition(":")[0]
    path = setting.out / (f"{name}.json" if kind == "cpu" else f"{name}-{kind}.json")
    told = {"bench": name, "quick": setting.quick, "machine": about(setting.device)}
    tables = _kept(path, told)
    made: Iterator[Table] = importlib.import_module(f".{name}", __name__).run(setting)
    for table in made:
        if (used := torch.get_num_threads()) != setting.threads:
            raise RuntimeError(f"{table.title}: measured with {used} threads, not as it is told")
        print(table.text(), flush=True)
        date = datetime.now(timezone.utc).date().isoformat()
        tables[table.title] = replace(table, date=date).as_dict()
        found = told | {"tables": list(tables.values())}
        disk.write_file(path, json.dumps(found, indent=1, ensure_ascii=False).encode())
    print(f"\n{path}")


def _kept(path: Path, told: dict[str, Any]) -> dict[str, Any]:
    """The tables of a file that were measured in the same way on the same machine, by title."""
    if not path.exists():
        return {}
    found = json.loads(path.read_text())
    same = {name: found.get(name) for name in told} == told
    return {table["title"]: table for table in found["tables"]} if same else {}
