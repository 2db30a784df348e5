"""The command line, as a user meets it."""

import os
import re
import subprocess
import sys
import time

import matplotlib.image
import numpy as np
import pytest

import scorefield.demo
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
    seconds = []
    for _ in range(3):  # the machine may be busy; the best of three is not
        start = time.perf_counter()
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        assert result.returncode == 0, result.stderr
        assert "scorefield" in result.stdout
    assert min(seconds) < 1.0


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert all(option in out for option in ("--out", "demo.png", "--n", "2000", "--seed"))


@pytest.mark.parametrize("args", [[], ["dance"], ["demo", "--number", "3"], ["demo", "--n", "x"]])
def test_what_cannot_be_parsed_exits_with_two(args, capsys):
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 2
    assert "--help" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "argument", "fix"),
    [
        (["--n", "0"], "--n 0", "--n 2000"),
        (["--n", "-3"], "--n -3", "--n 2000"),
        (["--seed", "-1"], "--seed -1", "from 0"),
        (["--seed", str(2**63)], f"--seed {2**63}", "2^63 - 1"),
        (["--out", "a.jpg"], "--out a.jpg", "a.png"),
        (["--out", "nowhere/a.png"], "--out nowhere/a.png", "make it first"),
        (["--out", "taken.png"], "--out taken.png", "a file in it"),
    ],
)
def test_errors_name_the_argument_and_the_fix(args, argument, fix, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.png").mkdir()
    message = _fails(capsys, "demo", *args)
    assert argument in message
    assert fix in message


def test_a_place_without_permission_is_refused_before_the_work(tmp_path, monkeypatch, capsys):
    # asked of the system by name, for root may write anywhere
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert "another place" in _fails(capsys, "demo", "--out", str(tmp_path / "a.png"))


@pytest.mark.parametrize("args", [["--debug", "demo", "--n", "0"], ["demo", "--n", "0", "--debug"]])
def test_debug_shows_where_an_error_arose(args):
    with pytest.raises(ValueError, match="--n 0"):
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


# ── The demo ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The output and the picture of one small run, on a terminal that knows only ASCII."""
    out = tmp_path_factory.mktemp("demo") / "small.png"
    args = ["demo", "--n", "500", "--out", str(out)]
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "scorefield", *args],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout, out


@pytest.fixture(scope="module")
def table(demo):
    row = re.compile(
        r"^(\w[\w, ]+?) +(\d+) +([\d.]+)  ([\d.]+), 95 % in ([\d.]+) to ([\d.]+)", re.M
    )
    return {name: tuple(map(float, rest)) for name, *rest in row.findall(demo[0])}


def test_demo_weighs_the_modes(table):
    exact, plain, annealed, heun = (
        table[name]
        for name in ("exact samples", "plain Langevin", "annealed Langevin", "Heun, 32 steps")
    )
    for _, _, weight, low, high in (exact, heun):
        assert low <= 0.2 <= high
        assert low < weight < high
    assert plain[2] > 0.4  # half of the square it starts in is nearer to the small mode
    assert abs(annealed[2] - 0.2) < 0.1  # near, at this many steps not yet there
    assert [row[0] for row in (exact, plain, heun)] == [0, 1000, 63]
    assert 900 < annealed[0] <= 1000


def test_demo_says_what_it_chose_and_wrote(demo):
    out, path = demo
    assert re.search(r"^  T .* steps a level", out, re.MULTILINE)
    assert f"wrote {path}" in out
    assert "next: scorefield demo" in out


def test_demo_draws_four_clouds_in_two_colours(demo):
    red, _, blue = np.moveaxis(matplotlib.image.imread(demo[1])[..., :3], -1, 0)
    half, quarter = len(red) // 2, len(red) // 4
    orange_share = []
    for top in (0, half):
        for left in (0, half):
            upper = np.s_[top : top + quarter, left + quarter : left + half]
            lower = np.s_[top + quarter : top + half, left : left + quarter]
            blues = (blue[upper] - red[upper] > 0.3).sum()
            oranges = (red[lower] - blue[lower] > 0.3).sum()
            assert blues > 500
            orange_share.append(oranges / (oranges + blues))
    assert max(orange_share) == orange_share[1] > 0.4  # plain Langevin
    assert min(orange_share) > 0.1


def test_same_seed_same_samples(monkeypatch):
    monkeypatch.setattr(scorefield.demo, "BUDGET", 60)
    runs = [scorefield.demo.compare(50, seed)[2] for seed in (1, 1, 2)]
    assert all((a.x == b.x).all() for a, b in zip(runs[0], runs[1], strict=True))
    assert not any((a.x == b.x).any() for a, b in zip(runs[0], runs[2], strict=True))


def test_one_sample_is_enough(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scorefield.demo, "BUDGET", 60)
    assert main(["demo", "--n", "1", "--out", str(tmp_path / "one.png")]) == 0
    assert "nan" not in capsys.readouterr().out
