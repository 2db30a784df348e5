"""Writes the tables of docs/speed.md from what was measured.

    scorefield bench all --out benchmarks/results && python benchmarks/tables.py

Between `<!-- NAME -->` and `<!-- end -->` stand the tables of results/NAME.json, with the machine;
`<!-- NAME: PART -->` takes those whose titles have PART in them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from benchmarks import Table
from benchmarks.machine import described

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/speed.md"
RESULTS = ROOT / "benchmarks/results"
PLACE = re.compile(r"<!-- ([\w-]+)(?:: (.+?))? -->\n.*?<!-- end -->", re.DOTALL)


def filled(page: str) -> str:
    """The page with the tables that were measured last."""
    return PLACE.sub(
        lambda found: f"{_marker(found)}\n{_tables(*found.groups())}\n<!-- end -->", page
    )


def _marker(found: re.Match[str]) -> str:
    return found[0].partition("\n")[0]


def _tables(name: str, part: str | None) -> str:
    about = json.loads((RESULTS / f"{name}.json").read_text())
    if about["quick"]:
        raise ValueError(f"{name}.json was measured with --quick, which says nothing")
    tables = [Table(**each) for each in about["tables"]]
    chosen = [table for table in tables if part is None or part in table.title]
    if not chosen:
        raise ValueError(f"{name}.json has no table of {part!r}")
    dates = sorted({table.date or about["date"] for table in chosen})
    when = " to ".join(dict.fromkeys([dates[0], dates[-1]]))
    where = f"On {described(about['machine'])}; {when}."
    return "\n\n".join(["", *(table.markdown() for table in chosen), where, ""])


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
