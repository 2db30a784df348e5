"""The command line: what it imports, its help, its errors, and the process that it sets up."""

import inspect
import os
import subprocess
import sys
from dataclasses import asdict
from types import SimpleNamespace
from typing import get_args

import pytest

from scorefield import EDM, MLP, ScoreModel, __version__, cli, save
from scorefield.cli import COMMANDS, main
from scorefield.cli.fields import read_networks
from scorefield.cli.startup import KEPT_BYTES, SPIN_COUNT, keep_memory, prepare
from scorefield.nn import NETWORKS
from scorefield.restore import METHODS
from scorefield.runs.config import Experiment, flat_fields
from scorefield.runs.presets import PRESETS
from scorefield.samplers import SAMPLERS

APPLICATIONS = {"cli", "data", "evaluate", "paper", "runs"}
HEAVY = ("torch", "numpy", "matplotlib", "sklearn", "scipy", "PIL", "diffusers", "datasets")


def _run_python(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_help_configurations_and_presets_import_nothing_heavy():
    """The process is prepared, so before torch is loaded."""
    code = f"""
import sys, scorefield, scorefield.runs.presets
from scorefield.cli import COMMANDS, main, startup
prepared = []
startup.prepare = lambda: prepared.append(1)
for command in ([], *([name] for name in COMMANDS)):
    try: main([*command, "--help"])
    except SystemExit as stop: assert stop.code == 0
print(len(prepared) - len(COMMANDS), *(name for name in {HEAVY} if name in sys.modules))
"""
    lines = _run_python(code).splitlines()
    assert any("scorefield" in line for line in lines)
    assert lines[-1] == "1"


def test_the_package_imports_no_more_than_it_needs():
    """Nothing for itself; for its names no run or evaluation, and no library of images."""
    code = f"""
import sys, scorefield
print(*(name for name in sys.modules if name.startswith("scorefield.")))
from scorefield import *
print(*(name for name in {HEAVY} if name in sys.modules))
units = {{name.split(".")[1] for name in sys.modules if name.startswith("scorefield.")}}
print(*units & {APPLICATIONS})
"""
    own, heavy, applications = _run_python(code).split("\n")[:3]
    assert own == applications == ""
    assert set(heavy.split()) == {"torch", "numpy"}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_describes_every_option_field_preset_and_sampler(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    fields = asdict(Experiment(network={}, start="")) | {"start": {}, "seed": {}}
    fields = [f"--{name}=" for name, value in flat_fields(fields) if value != {}]
    fields += [f"network.kind={kind} " for kind in NETWORKS]
    names = {"train": [*PRESETS, *fields], "sample": SAMPLERS, "evaluate": SAMPLERS}
    names |= {"restore": METHODS}
    assert not [name for name in names.get(command, ()) if name not in out]
    function = COMMANDS[command]
    for name, option in inspect.signature(function, eval_str=True).parameters.items():
        shared = any(getattr(mark, "help", None) for mark in get_args(option.annotation))
        assert shared or f" {name}: " in function.__doc__, name
        if option.kind is option.POSITIONAL_OR_KEYWORD:
            marks = get_args(option.annotation)
            metavar = next(mark.metavar for mark in marks if hasattr(mark, "metavar"))
            assert metavar in out.splitlines()[0]
            assert metavar.startswith("[") == (option.default is not option.empty)


def test_help_describes_every_argument_of_a_network():
    arguments = {kind: [*inspect.signature(net).parameters] for kind, net in NETWORKS.items()}
    assert {kind: [name for name, *_ in rows] for kind, _, rows in read_networks()} == arguments


@pytest.mark.parametrize(
    "args",
    [[], ["dance"], ["demo", "--number", "3"], ["demo", "--steps", "x"], ["convert", "a.pth"],
     ["evaluate", "run", "--features", "words"]],
)  # fmt: skip
def test_arguments_that_cannot_be_parsed_exit_with_two(args, capsys):
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 2
    assert "--help" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "argument", "fix"),
    [
        ("demo --steps 0", "--steps 0", "1 or more"),
        (f"demo --seed {2**63}", f"--seed {2**63}", "2^63 - 1"),
        ("demo --out taken", "--out taken", "a directory"),
        ("demo --out full", "full exists and holds no run", "name another"),
        ("demo --out old", "old/config.json is damaged", "put it back"),
        ("sample nowhere", "RUN nowhere", "`scorefield train`"),
        ("sample full", "full holds no run", "model.safetensors"),
        ("sample old", "old has no model yet", "`scorefield resume old`"),
        ("sample taken", "taken is damaged", "not a safetensors file"),
        ("evaluate taken", "RUN taken is a file", "directory of a run"),
        ("convert full out", "CHECKPOINT full", "name a file in it"),
        ("convert gone out", "CHECKPOINT gone", "does not exist"),
        ("resume nowhere", "nowhere holds no run", "config.json"),
        ("suggest digits --budget 0", "--budget 0", "1 or more"),
        ("suggest digits --set size=8", "scorefield: size=8", "data.options.NAME=VALUE"),
        ("reproduce", "experiment", "fig3"),
        ("reproduce fig99", "'fig99'", "did you mean"),
    ],
)
def test_errors_name_the_argument_and_the_fix(args, argument, fix, tmp_path, monkeypatch, error_of):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").touch()
    for name in ("full/letter.txt", "old/config.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    message = error_of(*args.split())
    assert argument in message
    assert fix in message


def test_a_place_without_permission_is_refused_before_the_work(tmp_path, monkeypatch, error_of):
    save(ScoreModel(MLP(2, width=2, blocks=1), EDM(0.5)), tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    # root may write anywhere, so the system's answer is replaced
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    for args in ("demo", f"convert {__file__} b", "restore run x.png --task colorize"):
        assert "another place" in error_of(*args.split())


def test_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"scorefield {__version__}\n"


def test_a_closed_pipe_ends_a_command_without_a_traceback():
    command = [sys.executable, "-m", "scorefield", "train", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize("args", ["--debug demo --steps 0", "demo --steps 0 --debug"])
def test_debug_shows_where_an_error_arose(args):
    with pytest.raises(ValueError, match="--steps 0"):
        main(args.split())


def test_a_bug_keeps_its_traceback_and_an_interruption_is_quiet(monkeypatch, capsys):
    errors = [KeyboardInterrupt(), RuntimeError("a bug")]

    def broken():
        raise errors.pop()

    monkeypatch.setitem(cli.COMMANDS, "demo", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["demo"])
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == ""


def test_the_memory_of_large_tensors_is_kept(monkeypatch):
    """glibc maps no block, and returns the end of the heap only above `KEPT_BYTES`."""
    calls = []
    library = SimpleNamespace(mallopt=lambda *option: calls.append(option) or 1)
    monkeypatch.setattr("ctypes.CDLL", lambda name: library)
    assert keep_memory()
    assert calls == [(-4, 0), (-1, KEPT_BYTES)]  # M_MMAP_MAX and M_TRIM_THRESHOLD


@pytest.mark.parametrize("settings", [{}, {"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}])
def test_threads_spin_briefly_unless_the_environment_says_otherwise(monkeypatch, settings):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    prepare()
    expected = settings.get("GOMP_SPINCOUNT") if settings else SPIN_COUNT
    assert os.environ.get("GOMP_SPINCOUNT") == expected
