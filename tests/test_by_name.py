"""A sampler or a posterior method that is registered once is found by its name everywhere."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import Setting, frontier, posteriors, tables
from benchmarks.problems import problems
from scorefield import Gaussian, Sampler, euler, integrate, load, sample
from scorefield.cli import main
from scorefield.evaluate import evaluate, evaluate_run
from scorefield.inverse import dps
from scorefield.restore import METHODS, Method
from scorefield.samplers import SAMPLERS

UNIPC = SAMPLERS["unipc"]
TINY = ["--training.batch=8", "--training.warmup=1", "--network.width=8", "--steps=2"]


def toy_step(score, x, sigma, sigma_next, noise):
    return euler(score, x, sigma, sigma_next, noise)


def toy_method(score, operator, y, *, sigma_y=0.0):
    return lambda x, sigma: score(x, sigma) + operator.pinv(y - operator(x)) / sigma**2


@pytest.fixture
def run(make_once, tmp_path, monkeypatch):
    """A run on digits, in whose process `heun` and `toy` are the only samplers."""
    monkeypatch.chdir(tmp_path)
    for name in SAMPLERS.keys() - {"heun"}:
        monkeypatch.delitem(SAMPLERS, name)
    monkeypatch.setitem(SAMPLERS, "toy", Sampler(partial(integrate, toy_step)))
    monkeypatch.setitem(METHODS, "toy", Method(toy_method))
    train = ["train", "digits", *TINY, "--out"]
    return make_once("by name", lambda folder: main([*train, str(folder / "run")])) / "run"


def test_a_sampler_is_in_sample_evaluate_and_its_frontier(run):
    oracle = Gaussian(torch.zeros(2), 1.0)
    assert torch.equal(*(sample(oracle, 4, toy, steps=5) for toy in ("toy", toy_step)))
    assert main(["sample", str(run), "-n=4", "--sampler=toy", "--steps=5", "--out=x.npy"]) == 0
    x = sample(load(run), 4, toy_step, steps=5)
    np.testing.assert_allclose(np.load("x.npy"), x, rtol=0, atol=1e-4)  # float32
    evaluation = evaluate_run(run, n=20, bits=0, sampler="toy", steps=3, frontier=True)
    assert evaluation.plans[0].sampler == "toy"
    assert {figure.plan["sampler"] for figure in evaluation.frontier} == {"heun", "toy"}


def test_a_sampler_is_in_the_benchmark_of_quality_and_cost(run, monkeypatch):
    class Chosen(Exception):
        pass

    def evaluate(model, data, *, frontier, **options):
        raise Chosen({plan.sampler for plan in frontier})

    monkeypatch.setattr(frontier, "train", lambda setting: run)
    monkeypatch.setattr(frontier, "langevin_plans", lambda model, steps: [])
    monkeypatch.setattr(frontier, "evaluate", evaluate)
    with pytest.raises(Chosen) as chosen:
        next(frontier.run(Setting(quick=True)))
    assert chosen.value.args == ({"heun", "toy"},)


def test_the_benchmark_measures_levels_that_are_fitted_to_the_model(run, monkeypatch):
    few = {"features": "pixels", "progress": False}
    monkeypatch.setitem(SAMPLERS, "unipc", UNIPC)
    monkeypatch.setattr(frontier, "REPEATS", 1)
    monkeypatch.setattr(frontier, "train", lambda setting: run)
    monkeypatch.setattr(frontier, "langevin_plans", lambda model, steps: [])
    monkeypatch.setattr(frontier, "evaluate", lambda *args, **own: evaluate(*args, **own | few))
    (table,) = frontier.run(Setting(quick=True))
    rows = {(row[0], row[1]): row for row in table.rows if "fitted" in row[0]}
    assert rows.keys() == {("unipc, fitted levels", 5), ("unipc, fitted levels", 8)}
    assert all(0 < cell < np.inf for row in rows.values() for cell in row[2:])
    shown = tables.excerpt("Samples", [table], tables.COST, tables.PLANS).rows
    assert [row for row in shown if "fitted" in row[0]] == [*rows.values()]


def test_a_method_is_in_restore_and_the_benchmark_of_posteriors(run, monkeypatch):
    args = ["--count=1", "-n=2", "--method=toy", "--steps=3", "--out=restored"]
    assert main(["restore", str(run), *args]) == 0
    assert np.isfinite(np.load("restored/restored.npy")).all()
    monkeypatch.setattr(posteriors, "QUICK_SAMPLES", 4)
    monkeypatch.setattr(posteriors, "QUICK_DRAWS", 1)
    tables = posteriors.run(Setting(quick=True, only=("gauss2 mask, toy",)))
    assert [table.rows[0][0] for table in tables] == ["toy"] * 2


@pytest.mark.parametrize(
    ("method", "measured"),
    [
        (Method(toy_method), set()),
        (Method(toy_method, any_operator=True), {"mix2 radius"}),
        (Method(dps, any_operator=True), {"mix2 radius", "mix2 counts"}),
    ],
)
def test_a_method_is_measured_on_the_functions_and_counts_that_it_takes(
    method, measured, monkeypatch
):
    monkeypatch.setitem(METHODS, "toy", method)
    linear = {
        f"{name} {kind}"
        for name in ("gauss2", "mix2", "gauss64", "mix64")
        for kind in ("mask", "matrix")
    }
    assert {one.name for one in problems() if one.allows("toy")} == linear | measured


def test_both_are_in_the_reference(run, monkeypatch):
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "docs/extensions")
    from reference import method_table, sampler_table

    assert "``toy``" in sampler_table()
    assert "``toy``" in method_table()
