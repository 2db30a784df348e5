"""The demo with a small model: what it prints, keeps and removes."""

import importlib
import io
import json
import re
import shutil
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
from test_evaluate import Page

from scorefield import geometric, load, sample
from scorefield.cli import main
from scorefield.data import all_samples, load_data
from scorefield.fast.optimize import optimize
from scorefield.metrics import frechet
from scorefield.runs.config import Experiment, overridden

demo = importlib.import_module("scorefield.cli.demo")  # the package's `demo` is the command

SMALL = [
    "network={kind: MLP, width: 16, blocks: 1}",
    "training.batch=8",
    "keeping.evaluate=10",
    "training.warmup=100",
]
SEED, SAMPLES = 3, (30, 30, 30, 30, 12)
PLANS = ["annealed Langevin", "predictor–corrector", "Heun", "DPM-Solver++", "published ladder"]


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory):
    """The directory, the output and the page of `scorefield demo` in an empty folder."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as out:
        patch.chdir(folder)
        patch.setitem(demo.PRESETS, "digits", lambda: overridden(Experiment(), SMALL))
        patch.setattr(demo, "DEMO_SAMPLES", SAMPLES)
        patch.setattr(demo, "DEMO_FLOORS", 2)
        assert main(["demo", "--seed", str(SEED), "--steps", "20"]) == 0
    directory = folder / "runs/demo"
    return directory, out.getvalue(), (directory / "report.html").read_text()


def _array(directory, name):
    return torch.from_numpy(np.load(directory / f"arrays/{name}.npy"))


def test_the_table_has_five_plans_and_is_the_same_on_terminal_and_page(demo_run):
    directory, out, page = demo_run
    heads, *rows = Page(page).tables[0]
    assert [row[0] for row in rows if row[0] != "real digits"] == PLANS
    assert [row[3] for row in rows if row[0] != "real digits"] == [str(n) for n in SAMPLES]
    assert [row[3] for row in rows if row[0] == "real digits"] == ["2 × 30", "2 × 12"]
    ladder = json.loads((directory / "arrays/annealed_Langevin.json").read_text())["sigmas"]
    cost = [row[1] for row in rows if row[0] != "real digits"]
    assert cost == [str(n) for n in (5 * len(ladder) + 1, 71, 35, 20, 1000)]
    for name, *cells in [heads, *rows]:
        pattern = r"\s+".join(re.escape(cell) + r"(?: \([^)]*\))?" for cell in [name, *cells])
        assert re.search(f"^{pattern}$", out, re.MULTILINE), name


def test_the_samples_that_are_kept_are_those_of_the_public_functions(demo_run):
    directory, _, page = demo_run
    model, test = load(directory), all_samples(load_data("digits").test)
    optimize(model, batch=30)
    rows = {row[0]: row for row in Page(page).tables[0]}
    column = rows[""].index("Fréchet")
    for plan, sampler, steps in (("Heun", "heun", 18), ("DPM-Solver++", "dpm_solver", 20)):
        x = sample(model, 30, sampler, steps=steps, seed=SEED)
        assert torch.equal(x, _array(directory, plan))
        # three digits are shown
        assert float(rows[plan][column]) == pytest.approx(frechet(x, test), rel=0.005)


def test_the_published_ladder_is_the_papers(demo_run):
    plan = demo.five_plans(load(demo_run[0]))[4]
    assert torch.equal(plan.sigmas, geometric(1.0, 0.01, 10))
    assert plan.options == {"steps": 100, "epsilon": 2e-5}
    assert plan.uniform


def test_plans_yield_as_many_states_as_they_count(demo_run):
    model = load(demo_run[0])
    for plan in demo.five_plans(model)[:4]:
        x = model.prior.sample(2, plan.sigmas[0].item())
        assert len(list(plan.run(model, x, torch.randn_like))) == plan.states


def test_it_ends_with_what_to_do_next(demo_run):
    directory, out, _ = demo_run
    assert json.loads((directory / "config.json").read_text())["seed"] == SEED
    assert f"wrote {directory.resolve()}/report.html" in out
    assert "scorefield sample runs/demo -n 64 --sampler heun --out samples.png" in out


def test_only_the_demos_own_files_are_overwritten(demo_run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(demo_run[0], copy)
    (copy / "letter.txt").touch()
    (copy / "mine.npy").touch()
    demo.clear_demo(copy)
    assert {path.name for path in copy.iterdir()} == {"letter.txt", "mine.npy"}


def test_few_steps_have_a_short_warm_up(monkeypatch):
    monkeypatch.setitem(demo.PRESETS, "digits", lambda: overridden(Experiment(), SMALL))
    assert demo.demo_experiment(0, 20).training.warmup == 2
    assert demo.demo_experiment(0, None).training.warmup == 100
