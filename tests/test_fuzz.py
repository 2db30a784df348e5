"""A short run of `fuzz`, and each fault that it must report; the long run is `make fuzz`."""

import os
import subprocess
import sys
import time
from pathlib import Path

from fuzz import Target

HERE = Path(__file__).parent


def _python(*args):
    """Run a process of its own: fuzz forks, which is unsafe in a process with threads."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *args]
    result = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True)
    return result.returncode, result.stdout + result.stderr


def test_no_damaged_file_does_harm():
    code, output = _python("fuzz.py", "-n", "150")
    assert code == 0, output


def _raises(error):
    def read(path):
        raise error

    return read


def _wrong(path):
    assert path == "right"


PARSERS = {
    "KeyError": _raises(KeyError("x")),
    "MemoryError": _raises(MemoryError()),
    "SystemExit": _raises(SystemExit()),
    "error: ValueError": _raises(ValueError("something is wrong")),
    "error: UnicodeDecodeError": _raises(UnicodeDecodeError("x.bin", b"", 0, 1, "")),
    "5001 characters": _raises(ValueError("x.bin" + "x" * 4996)),
    "a wrong result": _wrong,
    "ended with 1": lambda path: time.sleep(600),
    "ended with -6": lambda path: os.abort(),
    "MB": lambda path: b"x" * (400 * 2**20),
}
"""Parsers with one fault each, by the words of the report."""


def _target(parse):
    def read(folder):
        if (folder / "x.bin").read_bytes() != b"sound":
            parse(folder / "x.bin")

    return Target(lambda: [{"x.bin": b"sound"}], lambda rng, seeds: {"x.bin": b"damaged"}, read)


BAD = {f"bad{i}": _target(parse) for i, parse in enumerate(PARSERS.values())}
GOOD = {
    "takes": _target(lambda path: None),
    "refuses": _target(_raises(ValueError("x.bin is damaged"))),
    "is": _target(_raises(FileNotFoundError("no x.bin"))),
}


def _fuzz(targets, *args):
    return _python(
        "-c",
        "import sys, fuzz, test_fuzz; fuzz.WATCHDOG_SECONDS = 5; "
        f"sys.exit(fuzz.main({list(args)}, test_fuzz.{targets}))",
    )


def test_each_fault_is_reported_and_can_be_repeated():
    code, output = _fuzz("BAD", "-n", "3")
    assert code == 1
    reports = output.split("python tests/fuzz.py ")
    for name, words in zip(BAD, PARSERS, strict=True):
        own = [report for report in reports if report.startswith(f"{name} --seed ")]
        assert any(words in report for report in own), output
    code, output = _fuzz("BAD", "bad0", "--seed", "1")
    assert (code, "KeyError" in output) == (1, True)


def test_sound_parsers_have_no_faults():
    code, output = _fuzz("GOOD", "-n", "5")
    assert code == 0, output
    assert [line.split()[:6] for line in output.splitlines()[-3:]] == [
        ["takes", "5", "5", "0", "0", "0"],
        ["refuses", "5", "1", "4", "0", "0"],
        ["is", "5", "1", "0", "4", "0"],
    ]
