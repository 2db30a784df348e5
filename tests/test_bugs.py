"""A bug for each sampler, posterior method, operator and estimate, which its test must find.

The table is in bugs.md. The study puts each bug into a copy of the sources and runs its test.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from scorefield.restore import METHODS
from scorefield.samplers import DENSITY_KERNELS, SAMPLERS

ROOT = Path(__file__).resolve().parents[1]


class Bug(NamedTuple):
    """A part of a line of a file in src/scorefield, its replacement, and the test that finds it."""

    file: str
    right: str
    wrong: str
    test: str


def read_bugs():
    """Return the rows of the table by the name of the method."""
    rows = (ROOT / "tests/bugs.md").read_text(encoding="utf-8").split("|---|\n")[1].splitlines()
    cells = [[cell.strip(" `") for cell in row.strip("|").split("|")] for row in rows]
    return {name: Bug(*others) for name, *others in cells}


BUGS = read_bugs()


def test_each_method_has_a_bug_that_fits_the_source():
    missing = {*SAMPLERS, *DENSITY_KERNELS, *METHODS} - BUGS.keys()
    assert not missing, f"tests/bugs.md: add the rows of {missing}"
    for name, bug in BUGS.items():
        source = (ROOT / "src/scorefield" / bug.file).read_text(encoding="utf-8")
        assert source.count(bug.right) == 1, name
        file, _, test = bug.test.partition("::")
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), name


@pytest.mark.slow
@pytest.mark.parametrize("name", BUGS)
def test_a_bug_makes_its_test_fail(name, tmp_path):
    bug, ignore = BUGS[name], shutil.ignore_patterns("__pycache__")
    for part in ("src", "tests", "benchmarks"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    file = tmp_path / "src/scorefield" / bug.file
    file.write_text(file.read_text(encoding="utf-8").replace(bug.right, bug.wrong))
    command = [sys.executable, "-m", "pytest", "-x", "-q", f"tests/{bug.test}"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "src")}
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert "1 failed" in run.stdout, run.stdout + run.stderr
