"""The command `python -m benchmarks NAME [options]`."""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace

import tyro

from scorefield.cli import startup
from scorefield.disk import check_writable
from scorefield.show.text import text_table
from scorefield.values import spelling_hint

from . import BENCHMARKS, RESULTS, Setting, describe

PROGRAM = "python -m benchmarks"
NAMES = (*BENCHMARKS, "tables", "all")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one benchmark, or all; return 0, or 2 if an argument is wrong."""
    name, *options = [*(sys.argv[1:] if argv is None else argv)] or ["--help"]
    try:
        if name in ("-h", "--help"):
            print(overview())
        else:
            run(name, options)
    except (ValueError, OSError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    return 0


def overview() -> str:
    """Return the help: a line per benchmark."""
    lines = [(f"  {name}", describe(name).partition("\n")[0]) for name in NAMES[:-1]]
    lines.append(("  all", "All but tables, recipes, short, and what this machine cannot run."))
    hint = f"`{PROGRAM} NAME --help` lists the options. Run nothing else on the machine meanwhile."
    table = text_table(("name", "measures"), lines, left=(0, 1))
    return f"usage: {PROGRAM} NAME [options]\n\n{table}\n\n{hint}"


def run(name: str, options: Sequence[str]) -> None:
    """Run a benchmark with the options of a command line."""
    if name not in NAMES:
        raise ValueError(f"there is no benchmark {name!r}: {spelling_hint(name, NAMES)}")
    about, program = overview() if name == "all" else describe(name), f"{PROGRAM} {name}"
    default = Setting(out=RESULTS) if name == "tables" else Setting(device="auto")
    setting = tyro.cli(Setting, prog=program, description=about, default=default, args=options)
    if not 0 <= setting.seed < 2**63:
        raise ValueError(f"--seed {setting.seed}: give a whole number from 0 to 2^63 - 1")
    startup.prepare()
    from scorefield.distributed import choose_device

    from .table import record
    from .tables import published_tables

    if name == "tables":
        print("\n\n".join(table.markdown() for table in published_tables(setting)))
        return
    check_writable(setting.out / f"{name}.json")
    setting = replace(setting, device=str(choose_device(setting.device)))
    cuda = setting.device.startswith("cuda")
    possible = {"gpu": cuda, "studio": shutil.which("chromium") is not None}
    possible |= dict.fromkeys(("recipes", "short"), False)
    usual = [n for n in BENCHMARKS if possible.get(n, True)]
    for benchmark in usual if name == "all" else (name,):
        record(benchmark, setting)


if __name__ == "__main__":
    sys.exit(main())
