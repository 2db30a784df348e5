"""The demo with a small model: the lines that it prints, and that it can be continued."""

import importlib
import io
import json
import re
from contextlib import redirect_stderr, redirect_stdout

import pytest
import torch
from test_evaluate import Page

from scorefield import load
from scorefield.cli import main
from scorefield.evaluate import five_plans
from scorefield.runs.config import Experiment, override
from scorefield.runs.presets import PRESETS

demo = importlib.import_module("scorefield.cli.demo")  # the package's `demo` is the command

SMALL = ["network={kind: MLP, width: 16, blocks: 1}", "training.batch=8", "keeping.evaluate=10"]
SEED, SAMPLES = 3, (30, 30, 30, 30, 12)
PLANS = ["annealed Langevin", "predictor–corrector", "Heun", "DPM-Solver++", "published ladder"]


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory):
    """The directory of `scorefield demo` in an empty folder, and the outputs of two calls."""
    folder, outputs = tmp_path_factory.mktemp("demo"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setitem(PRESETS, "digits", override(Experiment(), SMALL))
        patch.setattr(demo, "DEMO_SAMPLES", SAMPLES)
        patch.setattr(demo, "DEMO_FLOORS", 2)
        patch.setattr("scorefield.show.track.LINE_EVERY", 0.0)  # a line for each item
        for _ in range(2):
            with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as lines:
                assert main(["demo", "--seed", str(SEED), "--steps", "20"]) == 0
            outputs.append((out.getvalue(), lines.getvalue()))
    return folder / "runs/demo", *outputs


def test_lines_off_a_terminal_tell_the_progress(demo_run):
    """Neither a bar nor a carriage return: a log file or a pipe gets whole lines."""
    _, (_, first), (_, second) = demo_run
    lines = first.splitlines()
    training = [line for line in lines if line.startswith("training: ")]
    assert [line.split(", ")[0] for line in training] == [
        f"training: {step} of 20" for step in range(1, 21)
    ]
    assert re.fullmatch(r"training: 20 of 20, \d+ s  loss [\d.e+-]+", training[-1])
    rest = lines[len(training) :]
    assert rest[0].startswith("   reference: digits, held out, 360 samples; features: pixels")
    assert rest[1].startswith("   computing: ")
    states = [line.split(":")[0].strip() for line in rest if re.search(r": \d+ of \d+, ", line)]
    assert list(dict.fromkeys(states)) == PLANS
    assert "\r" not in first
    assert second.startswith("   reference: ")


def test_the_table_has_five_plans_and_is_the_same_on_terminal_and_page(demo_run):
    directory, _, (out, _) = demo_run
    heads, *rows = Page((directory / "report.html").read_text()).tables[0]
    plans = [row for row in rows if row[0] != "real digits"]
    assert [row[0] for row in plans] == PLANS
    assert [row[3] for row in plans] == [str(n) for n in SAMPLES]
    assert [row[3] for row in rows if row not in plans] == ["2 × 30", "2 × 12"]
    ladder = five_plans(load(directory))[0].sigmas
    assert [row[1] for row in plans] == [str(n) for n in (5 * len(ladder) + 1, 71, 35, 20, 1000)]
    for row in [heads, *rows]:
        pattern = r"\s+".join(re.escape(cell) + r"(?: \([^)]*\))?" for cell in row)
        assert re.search(f"^{pattern}$", out, re.MULTILINE), row


def test_plans_yield_as_many_states_as_they_count(demo_run):
    model = load(demo_run[0])
    *plans, published = five_plans(model)
    assert published.uniform  # as in the paper
    for plan in plans:
        x = model.prior.sample(2, plan.sigmas[0].item())
        assert len(list(plan.run(model, x, torch.randn_like))) == plan.states


def test_a_second_demo_evaluates_the_same_model_and_another_one_is_refused(demo_run, capsys):
    directory, (first, _), (second, _) = demo_run
    assert json.loads((directory / "config.json").read_text())["seed"] == SEED
    assert f"wrote {directory}/report.html" in first
    assert "scorefield sample runs/demo -n 64 --sampler heun --out samples.png" in first
    assert "1. learn" in first
    assert "1. learn" not in second
    judged = [text[text.index("2. sample") :] for text in (first, second)]
    fixed = [re.sub(r" +\d+\.\d\b", "", text).split() for text in judged]  # no seconds
    assert fixed[0] == fixed[1]
    assert main(["demo", "--out", str(directory), "--steps", "21", "--seed", str(SEED)]) == 2
    assert "holds another run" in capsys.readouterr().err
