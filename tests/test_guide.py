"""A run's own guidance: the earlier average that is kept, its samples, and what stays unguided."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_faults import assert_same_end, vectors

from scorefield import Guidance, load, sample
from scorefield.checkpoint import read_tensors
from scorefield.cli import main
from scorefield.evaluate import evaluate_run, push
from scorefield.evaluate.plans import fit_plan
from scorefield.runs import choose_plan, resume, start
from scorefield.runs.config import as_json, override, read
from scorefield.samplers import final
from scorefield.studio.code import write_path, write_pictures
from scorefield.studio.context import Studio
from scorefield.studio.pictures import SampleSettings, SeedPath

GUIDED = ("sampling.steps=4", "sampling.guidance=3", "sampling.guidance_interval=[0.05, 2]")


@pytest.fixture(scope="module")
def guided(points, tmp_path_factory):
    """A run of four steps, whose samples are guided away from the average of step 2."""
    directory = tmp_path_factory.mktemp("guided") / "run"
    list(start(vectors(points, *GUIDED, "training.rate=0.1"), directory))
    return directory


@pytest.fixture
def copy(guided, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink(guided / "checkpoints", "checkpoints")
    for path in guided.glob("*.*"):
        Path(path.name).write_bytes(path.read_bytes())
    return tmp_path


def _expected(run):
    """Samples with the guidance in words, and without it."""
    weak = load(run / "guide.safetensors")
    guidance = Guidance(3.0, (0.05, 2.0), weak)
    one, other = (sample(load(run), 6, steps=4, guidance=g) for g in (guidance, 1.0))
    assert not torch.allclose(one, other, rtol=1e-3)
    return one, other


def _edit_config(run, *settings):
    path = run / "config.json"
    path.write_text(as_json(override(read(path), settings)))


def test_the_own_plan_of_a_run_is_guided_by_its_average_of_half_the_steps(guided):
    own = read(guided / "config.json").sampling
    assert (own.guide, read_tensors(guided / "guide.safetensors").about["step"]) == (2, 2)
    state = read_tensors(guided / "checkpoints/00000002.safetensors")
    kept = read_tensors(guided / "guide.safetensors")
    assert all(torch.equal(kept.under("net")[k], x) for k, x in state.under("net").items())
    with_guide, without = _expected(guided)
    model = load(guided)
    plan = choose_plan(guided, model)
    assert torch.equal(sample(model, 6, plan), with_guide)
    assert torch.equal(sample(model, 6, plan, guidance=1.0), without)
    for other in ({"sampler": "euler"}, {"run": guided / "checkpoints/00000004.safetensors"}):
        assert choose_plan(**{"run": guided, "model": model} | other).guidance == 1.0


def test_sample_is_guided_without_an_option_and_unguided_with_one(copy, capsys):
    with_guide, without = _expected(copy)
    weak = ["--autoguidance", "guide.safetensors", "--guidance-interval", "0.05", "2"]
    for options, expected, weight in (
        ([], with_guide, 3.0),
        (["--guidance", "1"], without, 1.0),
        (["--guidance", "3", *weak], with_guide, 3.0),
    ):
        assert main(["sample", ".", "-n", "6", "--out", "x.npy", "--overwrite", *options]) == 0
        np.testing.assert_allclose(np.load("x.npy"), expected, rtol=1e-4)
        assert json.loads(Path("x.npy.json").read_text())["guidance"] == weight
        out = capsys.readouterr().out
        assert ("the data's distribution; --guidance 1 samples without" in out) == (not options)


def test_evaluate_takes_the_guidance_of_sample(copy):
    own, few = evaluate_run(copy, n=24, bits=0), ["-n=24", "--bits=0", "--out=figures"]
    weak = ["--autoguidance", "guide.safetensors", "--guidance-interval", "0.05", "2"]
    for options, name in ((["--guidance", "3", *weak], "heun, guided"), (["--guidance=1"], "heun")):
        assert main(["evaluate", ".", *few, *options]) == 0
        figure = json.loads(Path("figures/metrics.json").read_text())["figures"][0]
        assert figure["plan"]["name"] == name
        same = figure["value"] == pytest.approx(own.figures[0].value, rel=1e-4)
        assert same == (name == "heun, guided")


def test_fitted_levels_are_those_of_the_guided_samples(copy):
    weak = ["--autoguidance", "guide.safetensors", "--guidance-interval", "0.05", "2"]
    own = ["--sampler=unipc", "--steps=3", "--fit-grid", "--guidance=3", *weak]
    assert main(["sample", ".", "-n", "6", "--out", "x.npy", *own]) == 0
    model, guidance = load(copy), Guidance(3.0, (0.05, 2.0), load("guide.safetensors"))
    plain = choose_plan(copy, model, "unipc", 3)
    plan = fit_plan(model, replace(plain, guidance=guidance))
    np.testing.assert_allclose(np.load("x.npy"), sample(model, 6, plan), rtol=1e-4)
    options = {"sampler": "unipc", "steps": 3, "fit_grid": True, "guidance": guidance}
    (judged,) = evaluate_run(copy, n=24, bits=0, **options).plans
    assert torch.equal(judged.sigmas, plan.sigmas)
    assert not torch.allclose(fit_plan(model, plain).sigmas, plan.sigmas)


@pytest.mark.usefixtures("copy")
def test_guidance_without_its_strength_is_refused_and_needs_no_guide_with_it(error_of, capsys):
    weak = ["--autoguidance", "guide.safetensors", "--guidance-interval", "0.05", "2"]
    message = "--guidance-interval and --autoguidance: give the strength too, as in --guidance 2"
    assert message in error_of("sample", ".", *weak)
    plain = error_of("sample", ".", "--guidance=2")
    assert "condition to go towards: give one, or a weaker" in plain
    Path("guide.safetensors").unlink()
    assert main(["sample", ".", "-n", "2", "--out", "x.npy", "--guidance", "1"]) == 0
    assert "by heun, 7 evaluations each" in capsys.readouterr().out


def test_only_the_samples_of_a_guided_run_are_guided(copy):
    """Its losses and likelihoods are of the score of the data; figures state the guidance."""
    options = dict(n=24, bits=4)
    guided = evaluate_run(copy, **options)
    assert [plan.name for plan in guided.plans] == ["heun, guided"]
    _edit_config(copy, "sampling.guidance=1")
    plain = evaluate_run(copy, **options)
    assert [plan.name for plan in plain.plans] == ["heun"]
    of_model = [[(f.name, f.value) for f in e.of_plan(None)] for e in (guided, plain)]
    assert of_model[0] == of_model[1]
    assert any("likelihood" in name or "bits" in name for name, _ in of_model[0])
    assert guided.figures[0].value != plain.figures[0].value


def test_a_missing_guide_is_named_with_its_fix(copy, error_of):
    Path("guide.safetensors").write_bytes(Path("model.safetensors").read_bytes())
    assert "is of step 4, but sampling.guide=2" in error_of("sample", ".")
    Path("guide.safetensors").unlink()
    message = error_of("sample", ".")
    assert "guide.safetensors is missing, the average of step 2" in message
    assert "set sampling.guidance to 1 in config.json" in message


def test_a_model_of_an_earlier_step_is_not_guided(copy):
    Path("model.safetensors").write_bytes(Path("guide.safetensors").read_bytes())
    assert choose_plan(copy, load(copy)).guidance == 1.0


def test_a_pushed_run_is_guided_too(copy):
    folder = Path(push(copy, "me/guided", dry_run=copy / "pushed"))
    model = load(folder)
    assert torch.equal(sample(model, 6, choose_plan(folder, model)), _expected(copy)[0])


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_stopped_run_keeps_the_same_guide(points, tmp_path, monkeypatch, stop):
    """Before its step, after it, and after it with a checkpoint of an earlier step."""
    monkeypatch.setattr("scorefield.runs.run.is_look", lambda *_: False)  # as on a GPU
    settings = (*GUIDED, "keeping.checkpoint=3")
    whole, run = tmp_path / "whole", tmp_path / "run"
    list(start(vectors(points, *settings), whole))
    assert (whole / "guide.safetensors").exists()
    for update in (updates := iter(start(vectors(points, *settings), run))):
        if update.step == stop:
            break
    updates.close()
    list(resume(run))
    assert_same_end(run, whole)


@pytest.mark.parametrize(
    ("steps", "before", "after"),
    [
        (12, 2, 6),  # half of the new steps
        (8, 2, 5),  # half has passed: 5 is nearer to it than 2
        (5, 2, 2),  # 5 is farther from half than 2
        (12, 1, 1),  # set, and not half of the steps before
    ],
)
def test_the_guide_of_a_run_that_trains_longer_is_near_half_of_its_steps(
    points, tmp_path, steps, before, after
):
    run = tmp_path / "run"
    settings = (*GUIDED, f"sampling.guide={before}", "keeping.best=last")
    list(start(vectors(points, *settings), run))
    for end in (4, steps):  # a resumed run that is not longer keeps it
        _edit_config(run, f"training.steps={end}")
        continued = resume(run)
        assert continued.experiment.sampling.guide == (before if end == 4 else after)
    updates = iter(continued)
    next(updates)
    updates.close()
    list(resume(run))  # and one that is stopped again
    assert read_tensors(run / "guide.safetensors").about["step"] == after
    assert choose_plan(run, load(run)).guidance.weight == 3


def test_guidance_that_is_set_after_the_end_is_refused_until_there_is_a_guide(points, tmp_path):
    run = tmp_path / "run"
    list(start(vectors(points, "keeping.best=last"), run))
    _edit_config(run, "sampling.guidance=3")
    assert resume(run).at_end
    with pytest.raises(ValueError, match="guidance=3, but the run has kept no earlier average"):
        choose_plan(run, load(run))
    assert choose_plan(run, load(run), guided=False).guidance == 1
    _edit_config(run, "training.steps=8")
    list(resume(run))
    assert read_tensors(run / "guide.safetensors").about["step"] == 5
    assert choose_plan(run, load(run)).guidance.weight == 3


def test_a_run_without_guidance_has_no_guide(points, tmp_path):
    list(start(vectors(points), tmp_path / "run"))
    assert not (tmp_path / "run/guide.safetensors").exists()
    assert choose_plan(tmp_path / "run", load(tmp_path / "run")).guidance == 1.0


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sampling.guidance_interval=[2, 1]", r"interval=\[2.0, 1.0\]: give two noise levels"),
        ("sampling.guide=4", "guide=4: give a step before training.steps=4"),
        ("sampling.guide=0", "guide=0: give 1 or more"),
    ],
)
def test_guidance_that_cannot_be_is_refused(points, tmp_path, setting, message):
    with pytest.raises(ValueError, match=message):
        start(vectors(points, "sampling.guidance=2", setting), tmp_path / "run")


def test_the_studio_samples_a_guided_run_as_its_copied_code_does(guided):
    studio, settings = Studio(guided, guided.parent), {"n": 6}
    for kind, write in ((SampleSettings, write_pictures), (SeedPath, write_path)):
        names = {}
        exec(write(settings, studio)["python"], names)
        x = final(kind(**settings).chains(studio))
        torch.testing.assert_close(names["x"], x)
        if kind is SampleSettings:
            torch.testing.assert_close(x, _expected(guided)[0], rtol=1e-4, atol=0)
