"""Tables of raw numbers, printed and stored next to a description of the machine."""

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from scorefield import disk
from scorefield.show.machine import in_words, machine
from scorefield.show.text import text_table

from . import Setting

Cell = str | float | int | None


@dataclass(frozen=True)
class Table:
    """Rows of raw numbers, with a format for each column that is not text, and notes below."""

    title: str
    columns: Mapping[str, str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()
    date: str = ""

    def text(self) -> str:
        """Return the table for a terminal."""
        left = [place for place, form in enumerate(self.columns.values()) if not form]
        table = text_table([*self.columns], self._cells(), left=left)
        return "\n".join([self.title, table, *self.notes])

    def markdown(self) -> str:
        """Return the table for a document."""
        rule = ["---:" if form else "---" for form in self.columns.values()]
        lines = [f"| {' | '.join(row)} |" for row in ([*self.columns], rule, *self._cells())]
        return "\n\n".join([f"**{self.title}**", "\n".join(lines), *self.notes])

    def _cells(self) -> list[list[str]]:
        forms = self.columns.values()
        rows = [zip(row, forms, strict=True) for row in self.rows]
        return [["–" if cell is None else format(cell, form) for cell, form in r] for r in rows]


def record(name: str, setting: Setting) -> None:
    """Run a benchmark; print and store each table as soon as it is measured.

    It goes to NAME.json, or NAME-cuda.json for a GPU. Tables in the file that were measured on the
    same machine in the same way stay; others go.
    """
    module: Any = importlib.import_module(f".{name}", __package__)
    before = torch.get_num_threads()
    torch.set_num_threads(threads := getattr(module, "THREADS", before))
    try:
        about = {"bench": name, "quick": setting.quick, "machine": machine(setting.device)}
        print(f"{in_words(about['machine'])}\n", flush=True)
        kind = setting.device.partition(":")[0]
        path = setting.out / f"{name}{'' if kind == 'cpu' else f'-{kind}'}.json"
        for table in module.run(setting):
            if (used := torch.get_num_threads()) != threads:
                raise RuntimeError(f"{table.title}: measured with {used} threads, not {threads}")
            print(f"{table.text()}\n", flush=True)
            today = datetime.now(timezone.utc).date().isoformat()
            # read again, because another process may measure other tables of this file
            tables = {stored.title: stored for stored in read_tables(path, about)}
            tables[table.title] = replace(table, date=today)
            content = about | {"tables": [asdict(stored) for stored in tables.values()]}
            disk.write_file(path, json.dumps(content, indent=1, ensure_ascii=False).encode())
        print(f"wrote {path}\n")
    finally:
        torch.set_num_threads(before)


def read_tables(path: Path, about: Mapping[str, Any]) -> list[Table]:
    """Return the tables of a file that has this description."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    same = all(content.get(key) == value for key, value in about.items())
    return [Table(**table) for table in content.get("tables", ())] if same else []
