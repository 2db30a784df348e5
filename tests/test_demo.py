"""The demo with a small model: the lines that it prints, and that it can be continued."""

import io
import json
import math
import re
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from standins import line_at_the_end, undrawn
from test_evaluate import Page

from scorefield import load
from scorefield.cli import main
from scorefield.evaluate import evaluate, five_plans
from scorefield.runs.config import Experiment, override
from scorefield.runs.presets import PRESETS
from scorefield.show.progress import progress, stage

SMALL = ["network={kind: MLP, width: 16, blocks: 1}", "training.batch=8", "keeping.evaluate=10"]
SEED = 3
PLANS = ["annealed Langevin", "predictor–corrector", "Heun", "DPM-Solver++", "published ladder"]


def evaluate_few(*args, plans, **options):
    """Take 2 steps at each published level, where the paper takes 100."""
    *own, published = plans
    plans = [*own, replace(published, options=published.options | {"steps": 2})]
    return evaluate(*args, plans=plans, **options | {"n": 12, "floor_sets": 2})


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory):
    """The directory of `scorefield demo` in an empty folder, and the outputs of two calls."""
    folder, outputs = tmp_path_factory.mktemp("demo"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setitem(PRESETS, "digits", override(Experiment(), SMALL))
        patch.setattr("scorefield.evaluate.evaluate", evaluate_few)
        patch.setattr("scorefield.show.progress.heartbeat", line_at_the_end)
        patch.setattr("scorefield.runs.watch.ESTIMATE_AFTER", math.inf)
        patch.setattr("scorefield.show.plots.as_png", undrawn)
        for _ in range(2):
            with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as lines:
                assert main(["demo", "--seed", str(SEED), "--steps", "20"]) == 0
            outputs.append((out.getvalue(), lines.getvalue()))
    return folder / "runs/demo", *outputs


def test_progress_off_a_terminal_is_whole_lines(demo_run):
    _, (_, first), (_, second) = demo_run
    training, *rest = first.splitlines()
    assert re.fullmatch(r"training: 20 of 20, \d+ s  loss [\d.e+-]+", training)
    assert rest[0].startswith("   reference: digits, held out, 360 samples; features: pixels")
    assert re.fullmatch(r"   reference: .*, \d+ s", rest[1])
    assert rest[2].startswith("   computing: ")
    sampling = [line.split(":")[0].strip() for line in rest if re.search(r": \d+ of \d+, ", line)]
    assert list(dict.fromkeys(sampling)) == PLANS
    measuring = [
        line for line in rest if re.fullmatch(r".*: figures and their intervals, 0 s", line)
    ]
    assert [line.split(":")[0].strip() for line in measuring] == PLANS
    assert "\r" not in first
    assert second.startswith("   reference: ")


def test_lines_come_by_time_however_long_a_step_takes(monkeypatch, capsys):
    class Clock:
        """A clock of 100 seconds, on which a wait takes no time."""

        seconds = 0.0

        def wait(self, seconds):
            Clock.seconds += seconds
            return Clock.seconds > 100

        def set(self):
            pass

    monkeypatch.setattr("scorefield.show.progress.Event", Clock)
    monkeypatch.setattr("scorefield.show.progress.perf_counter", lambda: Clock.seconds)
    with stage("likelihood"):
        pass
    lines = [f"likelihood, {seconds} s" for seconds in (30, 60, 90)]
    assert capsys.readouterr().err.splitlines() == ["likelihood", *lines]
    Clock.seconds = 0.0
    list(progress([1], 5, "sampling"))  # the lines may come before or after the item
    assert re.fullmatch(r"(sampling: [01] of 5, [369]0 s\n){3}", capsys.readouterr().err)


def test_the_table_has_five_plans_and_is_the_same_on_terminal_and_page(demo_run):
    directory, _, (out, _) = demo_run
    heads, real, *plans = Page((directory / "report.html").read_text()).tables[0]
    assert real[:4] == ["real digits", "–", "–", "2 × 12"]
    assert [row[0] for row in plans] == PLANS
    assert {row[3] for row in plans} == {"12"}
    model = load(directory)
    *own, published = five_plans(model)
    evaluations = (5 * len(own[0].sigmas) + 1, 71, 35, 20, 20)
    assert [row[1] for row in plans] == [str(n) for n in evaluations]
    for row in [heads, real, *plans]:
        pattern = r"\s+".join(re.escape(cell) + r"(?: \([^)]*\))?" for cell in row)
        assert re.search(f"^{pattern}$", out, re.MULTILINE), row
    assert published.uniform  # as in the paper
    assert published.evaluations == 1000
    for plan in own:  # progress is counted in states
        x = model.prior.sample(2, plan.sigmas[0].item())
        assert len(list(plan.run(model, x, torch.randn_like))) == plan.states


def test_the_last_lines_suit_photographs(demo_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _, (out, _), _ = demo_run
    for i in range(8):
        pixels = np.random.default_rng(i).integers(0, 255, (60, 40 + i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"{i}.jpg")
    suggest, train = (line.replace("PHOTOS", ".").split() for line in out.splitlines()[-3:-1])
    assert main(suggest[1:5]) == 0
    assert "7 samples of 3 × 32 × 32" in capsys.readouterr().out  # one is held out
    assert main([*train[1:], "--show"]) == 0
    assert json.loads(capsys.readouterr().out)["network"]["kind"] == "UNet"


def test_a_second_demo_evaluates_the_same_model_and_another_one_is_refused(demo_run, error_of):
    directory, (first, _), (second, _) = demo_run
    assert json.loads((directory / "config.json").read_text())["seed"] == SEED
    assert f"wrote {directory}/report.html" in first
    assert "scorefield sample runs/demo -n 64 --sampler heun --out samples.png" in first
    line, _, judged = first.partition("\n")
    assert line == "runs/demo: from step 0 to 20 on digits; Ctrl-C saves and stops"
    fixed = [re.sub(r" +\d+\.\d\b", "", text).split() for text in (judged, second)]  # no seconds
    assert fixed[0] == fixed[1]
    assert "holds another run" in error_of(
        "demo", "--out", directory, "--steps", 21, "--seed", SEED
    )
