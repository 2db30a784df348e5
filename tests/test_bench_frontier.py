"""Quality against cost: who is no worse, what is said of it, and what the distances are."""

import copy
import json
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from scorefield import Gaussian, ScoreModel, geometric, load
from scorefield.bench import Setting, frontier, measure, overhead, trained
from scorefield.bench.frontier import (
    LANGEVIN,
    Judge,
    Point,
    closing,
    langevin,
    no_worse,
    point,
)
from scorefield.cli import main
from scorefield.data import Arrays, Dataset
from scorefield.draw import Plan, plan
from scorefield.evaluate import FEATURES, Interval
from scorefield.evaluate.gather import Reference, reference_of
from scorefield.metrics import Moments
from scorefield.nn import MLP, dense
from scorefield.precondition import Plain
from scorefield.run import start
from scorefield.samplers import SAMPLERS

# ── Who is no worse, and how much faster ─────────────────────────────────────────────────────────


def _point(name, seconds, *values, steps=100):
    sigmas = torch.tensor([1.0, 0.1])
    planned = Plan("annealed_langevin", sigmas, {"steps": steps})
    return Point(name, planned, seconds, tuple(Interval(v, v - 1, v + 1) for v in values))


PAPER, OWN = _point("paper", 30.0, 5.0, 0.30, steps=500), _point("own", 29.0, 5.5, 0.27, steps=500)


def test_no_worse_is_as_near_as_each_reference_in_all_features():
    points = [
        _point("slow", 2.0, 4.0, 0.2),
        _point("equal", 1.0, 5.0, 0.27),
        _point("within its interval only", 0.1, 5.01, 0.2),
        _point("nearer than one reference only", 0.1, 5.2, 0.2),
        _point("near in one of two features", 0.1, 4.0, 0.28),
    ]
    assert [each.name for each in no_worse([PAPER, OWN], points)] == ["equal", "slow"]


def test_the_last_line_is_the_ratio_of_the_times():
    points = [_point("slow", 2.0, 4.0, 0.2), _point("fast", 0.12, 4.0, 0.2)]
    line = "same Fréchet distance as 1,000-step annealed Langevin at {}× less time"
    assert closing([PAPER, OWN], points)[-1] == line.format(250)
    assert closing([PAPER, OWN], points[:1])[-1] == line.format(15)
    assert "fast, 200 evaluations" in closing([PAPER, OWN], points)[0]


def test_where_nothing_is_as_near_it_is_said():
    (line,) = closing([PAPER], [_point("far", 0.1, 6.0, 0.2)])
    assert line == "no sampler has as small a Fréchet distance as 1,000-step annealed Langevin"


# ── Distances ────────────────────────────────────────────────────────────────────────────────────


class Exact(nn.Module):
    """A Gaussian's score as a network."""

    def __init__(self, oracle):
        super().__init__()
        self.oracle = oracle

    def forward(self, x, cond):
        return self.oracle(x, cond)


def _gaussian():
    """One of 4 dimensions, and a judge that knows it."""
    oracle = Gaussian(torch.tensor([1.0, -1.0, 0.0, 2.0]), torch.tensor([4.0, 1.0, 0.25, 1.0]))
    model = ScoreModel(Exact(oracle), Plain(10.0, 0.01), prior=oracle.prior)
    data = Dataset("points", Arrays(oracle.sample(2)))
    features = FEATURES["pixels"](data, None, torch.device("cpu"))
    mean, cov = oracle.prior.mean.double(), oracle.prior.dense.double()
    known = Moments(2, mean, cov)  # their scatter, over n − 1, is the covariance
    return oracle, model, Judge((features,), (Reference("", 2, known, mean[None], None),))


def test_a_point_is_at_the_distance_that_its_sampler_has():
    """Euler's steps on a Gaussian's ODE multiply by 1 − σ(σ − σ')/(v + σ²), the last by σ' = 0."""
    oracle, model, judge = _gaussian()
    planned = plan(model, "euler", 5)
    found = point(model, judge, 50_000, "euler", planned, seed=0)
    v, sigmas = oracle.prior.dense.diagonal(), [*planned.sigmas.tolist(), 0.0]
    deviation = (v + sigmas[0] ** 2).sqrt()
    for high, low in pairwise(sigmas):
        deviation = deviation * (1 - high * (high - low) / (v + high**2))
    truth = (deviation - v.sqrt()).square().sum().item()
    (measured,) = found.distances
    assert measured.low < truth < measured.high
    assert measured.high - measured.low < 0.05 * truth
    # as near as samples can be
    (floor,) = judge.distances(oracle.sample(2000))
    best = point(model, judge, 2000, "heun", plan(model, "heun", 40), seed=0)
    assert best.distances[0].low < floor.value < floor.high < 0.05 * truth
    assert best.distances[0].value < floor.high


def test_the_reference_is_the_papers_and_one_between_the_models_own_levels():
    _, model, _ = _gaussian()
    found = langevin(model, 100)
    assert [each.evaluations for each in found.values()] == [1000, 1000]
    paper, own = found.values()
    assert paper.options == {"steps": 100, "epsilon": pytest.approx(2e-5)}
    assert torch.equal(paper.sigmas, geometric(1.0, 0.01, 10))
    assert (own.sigmas[0].item(), own.sigmas[-1].item()) == pytest.approx((10.0, 0.01))


def test_random_convolutions_tell_apart_what_has_the_same_moments():
    """Images of one contrast, and of two with the same variance, both without a mean."""

    def draw(n, contrasts):
        z = torch.randn(n, 3, 8, 8)
        return z * torch.tensor(contrasts)[torch.arange(n) % 2, None, None, None]

    one, two = (1.0, 1.0), (0.1, (2 - 0.1**2) ** 0.5)
    data = Dataset("noise", Arrays(draw(5000, one)))
    (features,), again = trained.features_of(data, 100), trained.convolved(data)
    x = draw(10, one)
    assert torch.equal(features.extract(x)[0], again.extract(x)[0])
    (plain,) = trained.features_of(Dataset("rows", Arrays(data.train.data.flatten(1))), 100)
    for seen, factor in ((features, 100), (plain, 1)):
        judge = Judge((seen,), (reference_of(data.train, "", seen, None),))
        floor, other = (judge.distances(draw(4000, each))[0].value for each in (one, two))
        assert factor < other / floor < 2 or (factor * floor < other and factor > 1)


# ── Beside the score ─────────────────────────────────────────────────────────────────────────────


def test_what_a_sampler_takes_beside_the_score_is_what_is_not_in_it(monkeypatch):
    """Draws of noise that take as long as the score, and a method that draws none."""
    clock = [0.0]

    class Slow(nn.Module):
        def forward(self, x, cond):
            clock[0] += 1
            return -x

    def seeded(seed):
        def noise(x):
            clock[0] += 1
            return torch.zeros_like(x)

        return noise

    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(overhead, "seeded", seeded)
    model, sigmas = ScoreModel(Slow(), Plain(), shape=(1,)).eval(), geometric(1.0, 0.1, 5)
    assert overhead.beside(model, Plan("ancestral", sigmas, {})) == (9, 5)
    assert overhead.beside(model, Plan("heun", sigmas, {})) == (9, 9)


# ── The command ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder with a run that has hardly learned."""
    out = tmp_path_factory.mktemp("bench")
    setting = Setting(out, quick=True)
    trained.trained(setting, "digits")
    return out


def test_a_model_is_trained_once_and_of_one_seed(digits, capsys):
    place = digits / "models" / "digits-quick"
    before = (place / "model.safetensors").read_bytes()
    capsys.readouterr()
    subject = trained.trained(Setting(digits, quick=True), "digits")
    assert capsys.readouterr().out == ""
    assert (place / "model.safetensors").read_bytes() == before
    assert f"step {trained.QUICK}" in subject.weights
    with pytest.raises(ValueError, match="a run of another seed"):
        trained.trained(Setting(digits, quick=True, seed=1), "digits")


def test_a_training_that_was_stopped_goes_on_to_the_same_end(digits, tmp_path):
    place = tmp_path / "models" / "digits-quick"
    begun = iter(start(trained.experiment(Setting(tmp_path, quick=True), "digits"), place))
    for _ in range(7):
        next(begun)
    begun.close()
    trained.trained(Setting(tmp_path, quick=True), "digits")
    here, there = (each / "models" / "digits-quick" for each in (digits, tmp_path))
    ends = [load(each).net.state_dict() for each in (here, there)]
    assert all(torch.equal(a, b) for a, b in zip(*(e.values() for e in ends), strict=True))


def test_the_command_judges_any_run(digits, monkeypatch, tmp_path, capsys):
    """By a clock that goes on by a second when the network is evaluated, and not otherwise."""
    clock, forward = [0.0], MLP.forward

    def ticking(*args, **kwargs):
        clock[0] += 1
        return forward(*args, **kwargs)

    monkeypatch.setattr(MLP, "forward", ticking)
    for module in (frontier, measure):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    place = str(digits / "models" / "digits-quick")
    command = ["bench", "frontier", "--quick", "--device", "cpu", "--out", str(tmp_path)]
    assert main([*command, "--only", place]) == 0
    printed = capsys.readouterr().out
    (table,) = json.loads((tmp_path / "frontier.json").read_text())["tables"]
    assert table["title"] == f"frontier, {place}"
    found = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    assert {row["sampler"] for row in found} >= {LANGEVIN, "heun", "dpm_solver", "churn"}
    for row in found:
        assert row["seconds"] == row["NFE"]
        assert row["times faster"] == pytest.approx(found[0]["NFE"] / row["NFE"])
    assert len({row["Fréchet"] for row in found}) == len(found)  # each of its own samples
    assert "less time" in table["notes"][-1] or "no sampler" in table["notes"][-1]
    assert table["notes"][-1] in printed


def test_from_end_to_end_the_optimized_model_draws_the_same(digits):
    setting = Setting(digits, quick=True)
    subject = trained.trained(setting, "digits")
    judge, plain = Judge.of(subject, 60), copy.deepcopy(subject.model)
    held = [point(plain, judge, 60, LANGEVIN, langevin(plain, 2)[LANGEVIN], 0)]
    found = [point(plain, judge, 60, "dpm_solver", plan(plain, "dpm_solver", 10), 0)]
    models = (plain, subject.model)
    table = frontier.end_to_end(setting, "digits", models, judge, held, found)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert rows[0]["ratio"] == 1
    assert all(0 < row["first, ms"] < 60_000 for row in rows)
    eager, optimized = (row["Fréchet"] for row in rows[1:3])
    assert optimized == pytest.approx(eager, rel=1e-4)
    assert subject.model.net.onednn == dense.available()
    assert not plain.net.onednn


def test_what_is_added_to_the_score_is_printed(tmp_path, capsys):
    command = ["bench", "frontier", "--quick", "--device", "cpu", "--out", str(tmp_path)]
    assert main([*command, "--only", "overhead"]) == 0
    assert "overhead, NCSN 16, 1×8×8, batch 32" in capsys.readouterr().out
    (table,) = json.loads((tmp_path / "frontier.json").read_text())["tables"]
    evaluations = {row[0]: row[1] for row in table["rows"]}
    assert list(evaluations) == list(SAMPLERS)
    assert (evaluations["annealed_langevin"], evaluations["heun"]) == (20, 19)
    assert all(0 < row[3] < row[2] for row in table["rows"])
