"""The command line, as a user meets it."""

import os
import resource
import statistics
import subprocess
import sys

import pytest

from scorefield import cli
from scorefield.cli import main


def _fails(capsys, *args):
    """The message of a command that must fail with 2, in one line and without output."""
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("scorefield: ")
    assert err.count("\n") == 1
    return err


# ── Help and errors ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("args", [["--help"], ["demo", "--help"], ["convert", "--help"]])
def test_help_is_quick_and_needs_no_torch(args):
    code = (
        "import sys; from scorefield.cli import main\n"
        f"try: main({args})\n"
        "finally: assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    assert _processor_time(code, says="scorefield") < 0.3


def _processor_time(code, says=""):
    """Of a process of its own; the machine may be busy, the best of five is not."""
    found = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert result.returncode == 0, result.stderr
        assert says in result.stdout
        found.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return min(found)


def test_all_of_the_package_loads_in_little_more_than_torch():
    """Both in one process, for a busy machine slows both; the median of five such processes."""
    code = """
from time import process_time
begun = process_time()
import scorefield
own = process_time() - begun
import torch
torch_loaded = process_time()
from scorefield import *
print(1 + own / (torch_loaded - begun - own), (process_time() - begun) / (torch_loaded - begun))
"""
    found = []
    for _ in range(5):
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert said.returncode == 0, said.stderr
        found.append([float(x) for x in said.stdout.split()])
    lazily, whole = map(statistics.median, zip(*found, strict=True))
    assert lazily < 1.1
    assert whole < 1.3


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert all(
        option in out for option in ("--out", "runs/demo", "--steps", "--seed", "--overwrite")
    )


@pytest.mark.parametrize(
    "args", [[], ["dance"], ["demo", "--number", "3"], ["demo", "--steps", "x"]]
)
def test_what_cannot_be_parsed_exits_with_two(args, capsys):
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 2
    assert "--help" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "argument", "fix"),
    [
        (["--steps", "0"], "--steps 0", "--steps 300"),
        (["--steps", "-3"], "--steps -3", "--steps 300"),
        (["--seed", "-1"], "--seed -1", "from 0"),
        (["--seed", str(2**63)], f"--seed {2**63}", "2^63 - 1"),
        (["--out", "taken"], "--out taken", "a directory"),
        (["--out", "full"], "--out full", "name another"),
        (["--out", "full", "--overwrite"], "--out full", "name another"),
        (["--out", "old"], "--out old", "--overwrite"),
    ],
)
def test_errors_name_the_argument_and_the_fix(args, argument, fix, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").touch()
    for name in ("full/letter.txt", "old/config.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    message = _fails(capsys, "demo", *args)
    assert argument in message
    assert fix in message


def test_a_place_without_permission_is_refused_before_the_work(tmp_path, monkeypatch, capsys):
    # asked of the system by name, for root may write anywhere
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert "another place" in _fails(capsys, "demo", "--out", str(tmp_path / "a"))


@pytest.mark.parametrize(
    "args", [["--debug", "demo", "--steps", "0"], ["demo", "--steps", "0", "--debug"]]
)
def test_debug_shows_where_an_error_arose(args):
    with pytest.raises(ValueError, match="--steps 0"):
        main(args)


def test_bugs_are_not_taken_for_mistakes_of_the_user(monkeypatch):
    def broken():
        raise RuntimeError("a bug")

    monkeypatch.setitem(cli.COMMANDS, "demo", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["demo"])


def test_interruption_is_quiet(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "demo", interrupted)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == ""
