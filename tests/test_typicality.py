"""Scores of data sets, compared with closed log-densities and the distribution of a rank."""

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import kstest
from sklearn.datasets import load_digits
from standins import undrawn

from scorefield import (
    NCSN,
    Empirical,
    Gaussian,
    GaussianMixture,
    Precondition,
    Prior,
    ScoreModel,
    geometric,
    log_likelihood,
    seeded,
)
from scorefield.cli import main
from scorefield.data import Arrays, Dataset, Pairs, dequantise, load_data
from scorefield.evaluate import open_run, score_data, score_run
from scorefield.evaluate.typicality import auroc, rank_p_values
from scorefield.sample import OracleNet, as_model

SMALL = ["--set", "network={kind: MLP, width: 4, blocks: 1}", "--training.rate=1e-9"]


def _score(model, x, others, **options):
    """Return the scores, and the exact log-densities of both sets."""
    scores = score_data(model, Dataset("x", Arrays(x)), Arrays(others), **options)
    return scores, *(model.log_prob(y.double(), model.sigma_min) for y in (x, others))


def test_log_densities_are_exact_and_p_values_of_like_data_are_uniform():
    """Data with noise σ, from an oracle's q_σ; shifted data are noticed."""
    means = torch.tensor([[-2.0, 0.0], [2.0, 1.0]]).double()
    oracle = GaussianMixture(means, 0.3, torch.ones(2) / 2)
    model = as_model(oracle)
    x, others = (oracle.sample(n, model.sigma_min, noise=seeded(n)).float() for n in (100, 150))
    scores, truth, held_out = _score(model, torch.cat([x, x[:20] + 4]), others)
    # the ODE's tolerance is 1e-3 in each of about 60 steps; far away, the prior is not exact
    assert (scores.data.log_prob - truth)[:100].abs().max() <= 0.06
    assert (scores.held_out.log_prob - held_out).abs().max() <= 0.06
    assert scores.data.error.eq(0).all()
    # both samples are random, which widens the distribution a little: seed 100, and a level of 1 %
    assert kstest(scores.p_value[:100], "uniform").pvalue > 0.01
    assert scores.p_value[100:].median() == pytest.approx(2 / 151)
    assert scores.paths == [str(i) for i in range(120)]
    torch.testing.assert_close(scores.data.bits, -scores.data.log_prob / (2 * math.log(2)))


def test_a_truncated_normal_gives_the_probability_of_a_cell():
    """Of data at the middles of cells with empty neighbours; uniform points bound it from below.

    In a dimension log N(x | middle, σ²) has the mean −log(2πσ²)/2 − w²/24σ² over a cell of width w,
    and the deviation w²/2σ²·√(1/180).
    """
    v, sigma, width, n = torch.tensor([[0, 0], [3, 4], [7, 2]], dtype=torch.uint8), 0.02, 1 / 8, 200
    oracle = Empirical((v.double() + 0.5) * width)
    row = Precondition("score", "sigma", 20.0, sigma)
    model = ScoreModel(OracleNet(oracle), row, prior=oracle.prior)
    source = Arrays(v.repeat(n, 1), levels=8)

    def log_probability(kind):
        settings = {"n": n, "compared": n, "dequantisation": kind}
        scores = score_data(model, Dataset("cells", source), source, **settings)
        bits = torch.cat([scores.data.bits, scores.held_out.bits])
        return -bits * 2 * math.log(2)

    truth = 2 * math.log(math.erf(width / 2 / sigma / 2**0.5)) - math.log(3)
    # the ODE's tolerance is 1e-3 in each of about 60 steps
    assert (log_probability("normal") - truth).abs().max() <= 0.06
    gap = math.log(width) - 0.5 * math.log(2 * math.pi * sigma**2) - width**2 / (24 * sigma**2)
    error = width**2 / (2 * sigma**2) / 180**0.5 * (2 / (2 * n)) ** 0.5
    uniform = log_probability("uniform").mean().item()
    assert uniform == pytest.approx(2 * gap - math.log(3), abs=4 * error + 0.06)


class Labelled(torch.nn.Module):
    """The score of N(label, ¼) in each coordinate, of N(0, ¼) without a class."""

    def forward(self, x, sigma, label=None):
        mean = 0 if label is None else label.to(x)[:, None]
        return (mean - x) / (0.25 + sigma[:, None] ** 2)


def test_a_class_is_scored_by_its_density_among_held_out_samples_of_it():
    prior, row = Prior(torch.zeros(2), torch.tensor(0.25)), Precondition("score", "sigma", 200, 0.1)
    model = ScoreModel(Labelled(), row, prior=prior, classes="abc")
    noise, labels = 0.5 * torch.randn(2, 9, 2), torch.tensor([0, 2, 1, 2, 2, 0, 1, 1, 2])
    x, held_out = 2 + noise[0], Arrays(labels[:, None] + noise[1], labels)
    for label in ("c", 2):
        scores = score_data(model, Dataset("x", Arrays(x)), held_out, label=label)
        same = held_out.data[labels == 2]
        for densities, data in ((scores.data, x), (scores.held_out, same)):
            truth = Gaussian(torch.full((2,), 2.0), 0.25).log_prob(data, 0.1)
            # the ODE's tolerance is 1e-3 in each of about 60 steps
            torch.testing.assert_close(densities.log_prob, truth.double(), rtol=0, atol=0.06)
    with pytest.raises(ValueError, match=r"label=1: there is no held-out sample of this class"):
        score_data(model, Dataset("x", Arrays(x)), Arrays(x, 0 * labels), label=1)


class Conditioned(torch.nn.Module):
    """The score of N(y, ¼), in each coordinate."""

    def __init__(self):
        super().__init__()
        self.arguments = {"conditions": {"y": [2]}}

    def forward(self, x, sigma, condition):
        return (condition["y"] - x) / (0.25 + sigma[:, None] ** 2)


def test_each_sample_is_scored_given_its_own_condition():
    prior, row = Prior(torch.zeros(2), torch.tensor(1.25)), Precondition("score", "sigma", 200, 0.1)
    model, y = ScoreModel(Conditioned(), row, prior=prior), torch.randn(12, 2)
    x = y + 0.5 * torch.randn(12, 2)
    pairs = [Pairs(Arrays(x[i]), {"y": Arrays(y[i])}) for i in torch.arange(12).split([5, 3, 4])]
    data = Dataset("pairs", *pairs[:2], rows=(torch.tensor([7, 0, 2, 3, 1]), torch.arange(4, 7)))
    scores = score_data(model, data, pairs[2], batch=3)
    order = torch.cat(data.rows).argsort()
    for densities, rows in ((scores.data, order), (scores.held_out, torch.arange(8, 12))):
        truth = Gaussian(torch.zeros(2), 0.25).log_prob((x - y)[rows], 0.1)
        # the ODE's tolerance is 1e-3 in each of about 60 steps
        torch.testing.assert_close(densities.log_prob, truth.double(), rtol=0, atol=0.06)
    for one, other, name in ((Arrays(x), pairs[2], "x"), (pairs[0], Arrays(x), "held_out")):
        with pytest.raises(ValueError, match=f"{name} has no condition 'y'.*condition=NAME"):
            score_data(model, Dataset("x", one), other)


def test_a_model_of_a_ladder_is_refused_with_a_way_out():
    prior, row = Prior(torch.zeros(2), torch.tensor(0.25)), NCSN(geometric(5.0, 0.1, 10))
    model, x = ScoreModel(Labelled(), row, prior=prior), Arrays(torch.randn(4, 2))
    with pytest.raises(ValueError, match=r"knows only its ladder's levels.* on a range of σ"):
        score_data(model, Dataset("x", x), x)


def test_the_error_of_few_probes_covers_the_truth():
    oracle = GaussianMixture(torch.randn(3, 20).double(), 0.5, torch.ones(3) / 3)
    x = oracle.sample(40, 0.2).float()
    scores, truth, _ = _score(as_model(oracle), x, x[:2], probes=8)
    gap = scores.data.log_prob - truth
    # 0.1 by the ODE; of 40 values of Student's t with 7 degrees of freedom, 1 in 350 exceeds 4.5
    assert (gap.abs() > 4.5 * scores.data.error + 0.1).sum() <= 2
    assert abs(gap.mean()) <= 4 * (scores.data.error.square().mean() / 40).sqrt() + 0.1


def test_a_sample_that_is_denser_than_all_others_is_not_typical():
    """In many dimensions a normal distribution is densest where it has no samples."""
    oracle = Gaussian(torch.zeros(16, dtype=torch.float64), 1.0)
    scores, *_ = _score(as_model(oracle), torch.zeros(2, 16), oracle.sample(40).float())
    assert scores.data.log_prob.min() > scores.held_out.log_prob.max()
    assert scores.p_value.max() == pytest.approx(2 / 41)
    assert scores.auroc.value > 0.95
    assert scores.table().splitlines()[1].split()[-1] == "1"
    few, *_ = _score(as_model(oracle), torch.zeros(2, 16), oracle.sample(38).float())
    assert few.table().splitlines()[1].split()[-1] == "–"
    assert few.table().endswith("smallest possible p is 0.0513, with so few held-out samples")


@pytest.mark.parametrize("n", [4, 5])
def test_the_p_value_of_each_rank_is_as_frequent_as_it_is_small(n):
    """Among n others a sample has any of n + 1 ranks with the same chance."""
    others = torch.arange(n).double()
    p = rank_p_values(torch.arange(-0.5, n), others)
    assert all((p <= value).double().mean() <= value + 1e-9 for value in p.tolist())
    assert p.min() == 2 / (n + 1)
    assert torch.equal(p, p.flip(0))
    # equal values: the larger of the p-values that any order of them gives
    assert rank_p_values(torch.zeros(1), torch.zeros(n)).item() == 1
    assert rank_p_values(torch.zeros(1), torch.ones(n)).item() == pytest.approx(2 / (n + 1))


def test_auroc_counts_pairs_and_its_interval_covers_the_truth():
    x, y = torch.tensor([1.0, 2.0, 2.0]), torch.tensor([0.0, 2.0])
    assert auroc(x, y).value == pytest.approx((1 + 0 + 2 * 1.5) / 6)
    assert auroc(x, x - 9).value == auroc(x, x - 9).high == 1
    assert auroc(x, x - 9).low < 0.6  # of three and three
    generator, truth = torch.Generator().manual_seed(0), 0.5 * math.erfc(-0.5)
    covered = 0
    for _ in range(200):
        x, y = (torch.randn(60, generator=generator) + shift for shift in (1, 0))
        covered += auroc(x, y).low <= truth <= auroc(x, y).high
    # 95 % of 200, and three standard errors of 3.1
    assert covered >= 180


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Untrained runs of digits and of a table, which know mean and deviation, and images."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "people.csv").write_text("age,city\n" + "31,Rome\n40,Oslo\n22,Rome\n57,Oslo\n" * 6)
    for name, source in (("digits", "digits"), ("people", folder / "people.csv")):
        out = ["--out", str(folder / name), "--steps", "1"]
        assert main(["train", "--data", str(source), *out, *SMALL]) == 0
    for i, (name, side) in enumerate({"b/1": 8, "b/0": 12, "a/2": 20, "a/10": 9}.items()):
        path = folder / f"pictures/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (side, side + i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


def test_images_are_prepared_as_those_of_the_run(runs, monkeypatch, capsys):
    monkeypatch.chdir(runs)
    assert main(["score", "digits", "pictures", "--held-out", "3", "--batch", "3"]) == 0
    with Path("scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["a/10.png", "a/2.png", "b/0.png", "b/1.png"]
    model = open_run("digits")[0]
    ends = {"sigma_min": model.sigma_min, "sigma_max": model.sigma_max, "tolerance": 1e-3}
    photos = load_data("pictures", size=8, channels=1, held_out=0.5).whole
    for first, part in ((0, rows[:3]), (3, rows[3:])):
        index, noise = torch.arange(first, first + len(part)), seeded(0, first=first)
        v = (photos.take(index)[0].int() * 17 // 256).to(torch.uint8)
        x = dequantise(v, levels=17, noise=noise)[0]
        truth = log_likelihood(model, x, model.prior, probes=4, noise=noise, **ends)
        for row, log_prob, error in zip(part, truth.log_prob, truth.error, strict=True):
            # six digits
            assert float(row["log_prob"]) == pytest.approx(log_prob.item(), rel=1e-4, abs=1e-4)
            assert float(row["error"]) == pytest.approx(error.item(), rel=1e-3, abs=1e-3)
            bits = math.log2(17) - float(row["log_prob"]) / (64 * math.log(2))
            assert float(row["bits_per_dim"]) == pytest.approx(bits, abs=1e-4)
    with Image.open("scores.png") as picture:
        assert picture.width > 300
    out = capsys.readouterr().out
    assert "AUROC" in out
    assert "wrote scores.csv and scores.png" in out
    normal = ["--dequantisation", "normal"]
    assert main(["score", "digits", "pictures", "--held-out", "3", *normal]) == 0
    v, noise = (photos.take(torch.arange(4))[0].int() * 17 // 256).to(torch.uint8), seeded(0)
    x, log_q = dequantise(v, model.sigma_min, levels=17, noise=noise)
    truth = log_likelihood(model, x, model.prior, probes=4, noise=noise, **ends).log_prob - log_q
    with Path("scores.csv").open() as file:
        bits = [float(row["bits_per_dim"]) for row in csv.DictReader(file)]
    assert bits == pytest.approx((truth / (-64 * math.log(2))).tolist(), abs=1e-4)
    monkeypatch.setattr("scorefield.show.plots.as_png", undrawn)
    evaluate = ["evaluate", "digits", "-n", "20", "--bits", "4", "--out", "figures"]
    assert main([*evaluate, *normal]) == 0
    figures = json.loads(Path("figures/metrics.json").read_text())["figures"]
    (figure,) = (one for one in figures if one["name"] == "bits per dimension")
    assert figure["reference"].endswith("dequantised from 17 levels by a truncated normal")


def test_the_whole_of_a_data_set_has_the_order_of_its_source():
    digits = torch.from_numpy(load_digits().images).byte()
    for index in (torch.arange(len(digits)), torch.tensor([1700, 3, 900, 3])):
        assert torch.equal(load_data("digits").whole.take(index)[0][:, 0], digits[index])


def test_rows_of_a_table_are_scored_in_the_order_of_their_file(runs, monkeypatch):
    monkeypatch.chdir(runs)
    Path("two.csv").write_text("city,age\nOslo,90\nRome,31\n")
    two, own = score_run("people", "two.csv"), score_run("people", "people.csv", n=16)
    assert two.paths == ["0", "1"]
    assert two.data.log_prob[0] < two.data.log_prob[1]
    rows = [int(path) for path in own.paths]
    assert rows == sorted({*rows})
    assert len(rows) == 16
    # every fourth row is of 57 years, far from the mean of 37
    last = torch.tensor([row % 4 == 3 for row in rows])
    assert own.data.log_prob[last].max() < own.data.log_prob[~last].min()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("nowhere digits", "RUN nowhere does not exist"),
        ("digits nothing", "'nothing' is neither a folder nor"),
        ("digits small.npy", "small has samples of 1 × 4 × 4 numbers, but the model is for 1 × 8"),
        ("digits people.csv", "people.csv is a table, but the run did not learn one"),
        ("digits floats.npy", "floats has samples that are not 8-bit, but the model is for 8-bit"),
        ("alone/model.safetensors digits", "alone holds no run: it has no config.json, which"),
        ("people digits", "digits is not a table, but the run learned the rows of one"),
        ("people gap.csv", "gap.csv: row 2 has no value for 'city'"),
        ("people wine", "wine is another table than that of the run"),
        ("digits pictures --out scores.txt", "scores are written as .csv"),
        ("digits pictures --held-out 0", "--held-out 0: give 1 or more"),
        ("people people.csv --dequantisation normal", "is for 8-bit samples, and these are other"),
        ("digits pictures --data.options.crop=99", "crop=99"),
    ],
)
def test_errors_name_the_data_and_the_fix(args, message, runs, monkeypatch, error_of):
    monkeypatch.chdir(runs)
    np.save("small.npy", np.zeros((3, 4, 4), np.uint8))
    np.save("floats.npy", np.zeros((3, 8, 8), np.float32))
    Path("alone").mkdir(exist_ok=True)
    shutil.copy("digits/model.safetensors", "alone")
    Path("gap.csv").write_text("age,city\n31,Rome\n20,\n")
    assert message in error_of("score", *args.split())


def test_a_run_without_held_out_data_is_refused(runs, monkeypatch):
    monkeypatch.setattr("scorefield.evaluate.typicality.open_run", _without_held_out)
    with pytest.raises(ValueError, match="nothing held out to compare with"):
        score_run(runs / "digits", "digits")


def _without_held_out(directory, **options):
    model, data, experiment, weights = open_run(directory, **options)
    return model, Dataset(data.name, data.train), experiment, weights
