"""Evaluation: figures are recomputed, and verdicts tried on models whose truth is known.

The numbers of the Inception network are those of torch-fidelity 0.4.0.
"""

import base64
import html
import io
import json
import math
import re
import shutil
import weakref
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from sklearn.neighbors import NearestNeighbors
from standins import undrawn

from scorefield import (
    EDM,
    MLP,
    Empirical,
    Gaussian,
    Prior,
    ScoreModel,
    distributed,
    karras,
    load,
    save,
    suggest,
)
from scorefield.cli import main
from scorefield.data import DATASETS, Arrays, Batches, Dataset, all_samples, load_data
from scorefield.diagnose import wilson
from scorefield.evaluate import evaluate, evaluate_run, make_features, open_run, write_evaluation
from scorefield.evaluate import figure as figures
from scorefield.evaluate.features import classifier_features
from scorefield.evaluate.fit import loss_curves
from scorefield.evaluate.gather import content_hash, gather_features, reference_of
from scorefield.evaluate.grid import FITTED
from scorefield.evaluate.inception import Inception
from scorefield.evaluate.judge import training_labels
from scorefield.evaluate.memory import memorisation
from scorefield.evaluate.plans import frontier_plans
from scorefield.evaluate.quality import coverage_figure, frechet_interval, warn_of_size
from scorefield.metrics import Moments, density_coverage, frechet, inception_score, kernel_distance
from scorefield.noise import seeded
from scorefield.runs import finish
from scorefield.runs.config import Experiment, as_json, override, read
from scorefield.sample import make_plan, sample
from scorefield.samplers import SAMPLERS, underdamped
from scorefield.show import images
from scorefield.show.report import Picture, Section, write_report

SETTINGS = [
    "data.source=few",
    "network={kind: MLP, width: 256, blocks: 2}",
    "levels.mean=-1.2",
    "training={steps: 400, batch: 64, rate: 5e-3, schedule: cosine, ema: 0.99}",
    "keeping={samples: 0, evaluate: 0, checkpoint: 0, best: last}",
    "machine.threads=1",
]
N, SEED = 120, 2
PLANE = Dataset("plane", Arrays(torch.zeros(1, 2)))
CLOSE = {"rel": 360 * 2**-53 * 1e4}
"""Float64: sums of up to 360 terms, then a difference of numbers up to 1e4 times as large."""


def few():
    """Return ten digits to train on, five times each, and the held-out ones."""
    digits = load_data("digits")
    x, labels = digits.train.take(torch.arange(0, len(digits.train), 28)[:10].repeat(5))
    return Dataset("few", Arrays(x, labels, 17), digits.test, classes=digits.classes)


@pytest.fixture(scope="module", autouse=True)
def _few():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "few", few)
        yield


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture(scope="module")
def classifier(digits):
    return make_features("classifier", digits)


@pytest.fixture(scope="module")
def few_run(make_once, tmp_path_factory):
    """A run of this worker, which adds files to it."""
    fill = lambda folder: finish(override(Experiment(), SETTINGS), folder / "few")  # noqa: E731
    copy = tmp_path_factory.mktemp("runs") / "few"
    return shutil.copytree(make_once("few", fill) / "few", copy)


@pytest.fixture(scope="module")
def results(few_run):
    """The evaluation of `scorefield evaluate`, and its metrics.json."""
    written = []

    def write(evaluation, directory):
        written.append(evaluation)
        write_evaluation(evaluation, directory)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(few_run / "cache"))
        patch.setattr("scorefield.evaluate.write_evaluation", write)
        args = ["-n", str(N), "--features", "classifier", "--steps", "8", "--seed", str(SEED)]
        assert main(["evaluate", str(few_run), *args, "--bits", "8", "--batch", "50"]) == 0
    return written[0], json.loads((few_run / "metrics.json").read_text())


def _named(metrics, start):
    (figure,) = [f for f in metrics["figures"] if f["name"].startswith(start)]
    return figure


def _normal(n, size, seed):
    return torch.randn(n, size, generator=torch.Generator().manual_seed(seed))


def _memory(x, data, **options):
    return memorisation([x], data, **options)[0]


def test_a_model_that_memorised_ten_digits_is_caught(results, few_run):
    _, metrics = results
    assert metrics["copies_training"]
    assert metrics["verdict"].startswith("Memorised:")
    assert _named(metrics, "distance to training data")["high"] < 0.6  # 1 for new digits
    near = _named(metrics, "near copies")
    assert near["low"] > near["real"] == 0
    assert metrics["verdict"] in html.unescape((few_run / "report.html").read_text())


def test_new_digits_are_not_copies_and_training_digits_are(digits):
    order = torch.randperm(len(digits.test), generator=torch.Generator().manual_seed(0))
    x = all_samples(digits.test)[order]
    data = replace(digits, test=Arrays(*digits.test.take(order[180:]), 17))
    # at so little noise the cells of 17 levels stay
    copies = Empirical(all_samples(digits.train)).sample(100, 0.002)
    mixed = torch.cat([copies[:18], x[:162]])  # one copy in ten samples is enough
    fresh, whole, part = memorisation([x[:180], copies, mixed], data)
    assert not fresh.copies_training
    assert fresh.ratio.low < 1 < fresh.ratio.high
    assert fresh.near.value == fresh.exact.value == 0
    assert whole.verdict.startswith("Memorised:")
    assert whole.exact.value == 1
    assert part.copies_training
    assert part.exact.value == 18 / 180
    assert part.verdict.startswith("Memorised in part")
    assert set(part.worst.tolist()) <= set(range(18))
    # ten standard deviations of the noise
    torch.testing.assert_close(part.sources, mixed[part.worst], atol=0.02, rtol=0)


def test_too_few_real_samples_to_compare_with_are_noted(results):
    notes = results[0].notes
    assert notes == (f"figures of real samples: there are 50, fewer than n={N}: give n=50",)


def test_mirrored_copies_count_only_where_training_flipped(digits, monkeypatch):
    copies = all_samples(digits.train)[::20].flip(-1)
    whole, one_sided = _memory(copies, digits, flips=True), _memory(copies, digits)
    assert whole.exact.value == 1
    assert "mirror" in whole.exact.reference
    assert one_sided.exact.value == 0
    assert "mirror" not in one_sided.exact.reference
    monkeypatch.setattr("scorefield.evaluate.memory.TRAIN_BLOCK", 64 * 100)  # read in 15 blocks
    blocks = _memory(copies, digits, flips=True)
    assert torch.equal(blocks.distances, whole.distances)
    assert torch.equal(blocks.sources, whole.sources)
    small = replace(digits, test=Arrays(digits.test.data[:5], levels=17))
    with pytest.raises(ValueError, match=r"fewer than 20 held-out .*: hold out more"):
        _memory(copies, small)


def test_duplicates_in_the_data_are_not_memorisation():
    """A tenth of the held-out data is in the training data, so a tenth of good samples is too."""
    x = _normal(900, 4, 0)
    train, test = Arrays(x[:300]), Arrays(torch.cat([x[:30], x[300:570]]))
    memory = _memory(torch.cat([x[30:60], x[570:840]]), Dataset("twice", train, test))
    assert memory.exact.value == memory.exact.real == 0.1
    assert not memory.copies_training


def test_figures_name_everything_they_depend_on(results, few_run):
    model, (_, metrics) = load(few_run), results
    for figure in metrics["figures"]:
        assert figure["samples"] > 0
        assert figure["seed"] == SEED
        assert figure["weights"] == "averaged with decay 0.99, step 400"
        assert figure["method"]
        assert "held out" in figure["reference"]
        assert figure["low"] <= figure["value"] <= figure["high"]
    of_samples = [figure for figure in metrics["figures"] if figure["plan"]]
    assert len(of_samples) == 13
    levels = [model.sigma_max, model.sigma_min, 8]
    expected = {"name": "heun", "sampler": "heun", "evaluations": 15, "levels": levels}
    assert all(expected.items() <= figure["plan"].items() for figure in of_samples)
    for figure in of_samples[:-3]:  # all but those of memorisation
        assert figure["features"].startswith("classifier of few, 64 features")
        assert figure["reference"] == "few, held out, 360 samples"
    assert "compare at equal numbers" in _named(metrics, "Fréchet")["warning"]
    assert "8 samples" in _named(metrics, "bits")["warning"]


def test_figures_are_those_of_the_samples(results):
    (evaluation, metrics), data = results, few()
    samples, features = evaluation.samples["heun"], evaluation.features
    x, a, b = samples.x, samples.features, reference_of(data.test, features).features
    values, probabilities = features.extract(x)
    # float32 in other batches: sums of 64 and 128 terms, 192 × 2⁻²⁴ of the largest feature
    torch.testing.assert_close(a, values, rtol=0, atol=192 * 2**-24 * values.max().item())
    assert _named(metrics, "Fréchet")["value"] == pytest.approx(frechet(a, b), **CLOSE)
    assert _named(metrics, "kernel")["value"] == pytest.approx(kernel_distance(a, b).value, **CLOSE)
    density = density_coverage(a, b).density
    assert _named(metrics, "density")["value"] == pytest.approx(density, **CLOSE)
    counts = torch.bincount(probabilities.argmax(1), minlength=10) / N
    # a sample at the border of two classes may change with the batch
    assert metrics["class shares"]["heun"] == pytest.approx(counts.tolist(), abs=1.01 / N)
    assert _named(metrics, "share of the rarest")["value"] == min(metrics["class shares"]["heun"])
    train, test = (all_samples(part).flatten(1).double() for part in (data.train, data.test))
    search, x = NearestNeighbors(n_neighbors=1).fit(train), x.flatten(1).double()
    medians = [np.quantile(search.kneighbors(z)[0], 0.5, method="lower") for z in (x, test)]
    assert _named(metrics, "distance")["value"] == pytest.approx(medians[0] / medians[1], **CLOSE)


def test_raw_weights_are_the_last_ones_in_training(few_run):
    (raw, *_, weights), (mean, *_) = open_run(few_run, raw=True), open_run(few_run)
    assert weights == "raw, step 400"
    # Adam moves a weight by its rate a step at most, of which the mean lacks 0.99ᵏ k steps later
    most = sum(0.99**k * 5e-3 * (1 - math.cos(math.pi * k / 400)) / 2 for k in range(400))
    assert 0 < (raw.net.head.weight - mean.net.head.weight).abs().max() < most


def test_losses_are_the_weighted_errors_of_each_denoiser(few_run, digits, monkeypatch):
    double = lambda *args: all_samples(*args).double()  # noqa: E731
    monkeypatch.setattr("scorefield.evaluate.fit.all_samples", double)
    model, data, x = load(few_run).double(), few(), double(digits.test)
    # rounded to float32, the covariance of 50 images may have an eigenvalue below 0
    model.prior = Prior(model.prior.mean, model.prior.cov + 1e-6 * torch.eye(64).double())
    sigmas, losses = loss_curves(model, data, seed=SEED)
    row = int((sigmas - 0.3).abs().argmin())
    sigma, sigma_data = sigmas[row].item(), model.precondition.sigma_data
    noise = [seeded(SEED, first=i * 250)(part) for i, part in enumerate(x.split(250))]
    noisy = x + sigma * torch.cat(noise)
    weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
    scores = {
        "the model, held-out data": model,
        "Gaussian of the data, held-out data": model.prior.score,
        "training data memorised, held-out data": Empirical(double(data.train)),
    }
    assert losses.keys() == {*scores, "the model, data it was trained on"}
    for name, score in scores.items():
        with torch.no_grad():
            denoised = noisy + sigma**2 * score(noisy, sigma)
        loss = weight * (denoised - x).square().flatten(1).mean(1)
        # float64, except for the weight: 6 operations in float32
        torch.testing.assert_close(losses[name][row].double(), loss, rtol=6 * 2**-24, atol=0)


def test_several_plans_are_compared_with_as_many_real_samples(few_run, digits):
    model, data = load(few_run), replace(few(), train=digits.train)
    plans = [make_plan(model, "heun", 5), make_plan(model, "dpm_solver", 9, title="DPM")]
    evaluation = evaluate(model, data, plans=plans, n=40, floor_sets=3, seed=SEED, bits=0)
    rows = evaluation.comparison()[1]
    assert [row[0] for row in rows] == ["real few", "heun", "DPM"]
    assert [row[1] for row in rows] == ["–", "9", "9"]
    assert [row[3] for row in rows] == ["3 × 40", "40", "40"]
    firsts = [line.split()[0] for line in evaluation.table().splitlines()[1:]]
    assert firsts == ["real", "heun", "DPM"]
    unsure = replace(evaluation.figures[0], low=-math.inf, high=math.inf)
    single = replace(evaluation, plans=evaluation.plans[:1], figures=(unsure,))
    line = single.table().splitlines()[1]
    assert "inf" not in line
    assert f"{unsure.value:.3g}  –" in re.sub(" {2,}", "  ", line)
    generator = torch.Generator().manual_seed(SEED)
    train, test = (all_samples(part) for part in (digits.train, digits.test))
    sets = [train[torch.randperm(len(train), generator=generator)[:40]] for _ in range(3)]
    distances = [frechet(x, test) for x in sets]
    floor = evaluation.floor["Fréchet distance"]
    assert floor.value == pytest.approx(np.mean(distances), **CLOSE)
    spread = (floor.high - floor.value) / 1.96  # of distances that differ by a tenth or more
    assert spread == pytest.approx(np.std(distances, ddof=1), rel=10 * CLOSE["rel"])
    for plan in plans:
        x = evaluation.samples[plan.name].x
        assert torch.equal(x, sample(model, 40, plan, seed=SEED))
        figure = evaluation.figure("Fréchet distance", plan.name)
        assert figure.value == pytest.approx(frechet(x, test), **CLOSE)
        assert figure.real == floor.value
    with pytest.raises(ValueError, match="plans are heun, heun"):
        evaluate(model, data, plans=[plans[0]] * 2)


@pytest.mark.parametrize(("name", "value"), [("n", 40.5), ("floor_sets", 0), ("bits", -1)])
def test_impossible_counts_are_refused(few_run, digits, name, value, unchecked):
    with pytest.raises(ValueError, match=f"{name}={value}: give a whole number, . or more"):
        evaluate(load(few_run), digits, **{name: value})


def test_intervals_cover_the_truth_in_nineteen_of_twenty_cases():
    """A mean, a median, a Fréchet distance and a ratio of distances that are all 1 in truth.

    With a fixed unit the interval of the ratio would cover 1 in 4 of 5 cases only.
    """
    hits, cases, caught = np.zeros(4), 60, 0
    truth = Moments(10**9, torch.zeros(2).double(), torch.eye(2).double() * (10**9 - 1))
    features = make_features("pixels", PLANE)
    for seed in range(cases):
        x, y = _normal(400, 2, seed), _normal(700, 3, seed)
        x[:, 0] += 1
        memory = _memory(y[500:], Dataset("normal", Arrays(y[:300]), Arrays(y[300:500])))
        intervals = [figures.mean_interval(x[:, 0]), figures.median_interval(x[:, 0])]
        intervals += [frechet_interval(gather_features([(0, x)], features), truth), memory.ratio]
        hits += [i.low <= 1 <= i.high for i in intervals]
        caught += memory.copies_training
    assert (hits >= 52).all()  # 0.95 × 60 less 3 standard errors of 1.7
    assert caught <= 1


def test_the_interval_of_coverage_covers_it_for_other_samples():
    """One sample covers many real ones or none: they are not independent cases."""
    y = _normal(120, 4, 7)
    intervals = [coverage_figure(1.1 * _normal(120, 4, seed), y) for seed in range(20)]
    middle = np.mean([i.value for i in intervals])
    # 0.95 × 20 less 2 standard errors of 1
    assert sum(i.low <= middle <= i.high for i in intervals) >= 17
    everywhere = coverage_figure(y, y)
    assert everywhere.value == everywhere.high == 1
    assert everywhere.low == pytest.approx(wilson(120, 120)[0])


def test_intervals_by_hand():
    assert "singular" in warn_of_size(64, 1000, 64)
    assert "too large" in warn_of_size(1000, 639, 64)
    assert warn_of_size(640, 640, 64) == ""
    a, b = figures.Interval(6, 3, 9), figures.Interval(3, 1, 5)
    assert figures.ratio_interval(a, b) == pytest.approx((2, 2 - 5 / 3, 2 + 5 / 3))
    assert figures.ratio_interval(figures.Interval(0, 0, 0), b) == (0, 0, 0)
    assert figures.share_interval(0.25, 40) == (0.25, *wilson(10, 40))
    assert figures.share_interval(0.0, 1000).low == 0
    assert figures.normal_interval(1.0, 0.5, 2.0) == (1, 0, 2)
    reach = 2.776 * math.sqrt(2 * 4)  # Student's t of five parts, of variance 2
    interval = figures.jackknife_interval(3.0, [1.0, 2.0, 3.0, 4.0, 5.0])
    assert interval == pytest.approx((3, 3 - reach, 3 + reach))
    assert figures.median_interval(torch.arange(100.0)) == (49, 40, 60)
    assert figures.in_text(figures.jackknife_interval(3.0, [])) == ("3", "")


def test_the_classifier_is_deterministic_and_right(digits, classifier):
    again = classifier_features.__wrapped__(digits)  # which the tests call once
    assert again.about == classifier.about  # with a hash of weights
    features, probabilities = classifier.extract(all_samples(digits.test))
    assert features.shape == (360, 64)
    assert features.min() == 0  # a hidden layer behind a ReLU
    accuracy = (probabilities.argmax(1) == digits.test.labels).double().mean().item()
    assert accuracy > 0.95  # 0.98, less 4 standard errors of 0.007
    assert f"{100 * accuracy:.1f} % of the held-out samples right" in classifier.about
    for kept in ([3, 7], [1, 4, 8]):  # two classes have a single output in scikit-learn
        train, test = (
            Arrays(*part.take(torch.isin(part.labels, torch.tensor(kept)).nonzero()[:, 0]), 17)
            for part in (digits.train, digits.test)
        )
        some = make_features("classifier", Dataset("some", train, test, digits.classes))
        probabilities = some.extract(all_samples(test))[1]
        assert (probabilities.argmax(1) == test.labels).double().mean() > 0.95  # at least of ten
        assert probabilities.sum(0).nonzero()[:, 0].tolist() == kept
        assert probabilities.shape == (len(test), 10)
    sides = torch.arange(2000) % 2  # of two clusters that do not touch
    points = Arrays(20.0 * sides[:, None] + torch.randn(2000, 2), sides)
    two = make_features("classifier", Dataset("two", points, points, ("low", "high")))
    assert "100.0 % of the held-out samples right" in two.about
    score = inception_score(two.extract(all_samples(points))[1], 1).value
    assert score == pytest.approx(2, rel=1e-2)  # exp(log 2 − H), the entropy H < 0.01


def inception_weights(net):
    """Return random tensors such that all features are alive and no two branches are alike."""
    generator, tensors = torch.Generator().manual_seed(0), {}
    for name, value in net.state_dict().items():
        z = torch.randn(value.shape, generator=generator)
        if name.endswith("conv.weight"):
            z *= math.sqrt(2 / value[0].numel())
        elif name.endswith(("running_var", "bn.weight")):
            z = 1 + 0.1 * z
        elif name.endswith("tracked"):
            z = torch.tensor(0)
        elif name != "fc.weight":
            z *= 0.1
        tensors[name] = z
    return tensors


def test_features_are_those_of_torch_fidelity():
    net = Inception().eval()
    net.load_state_dict(inception_weights(net))
    # one image that is smaller than the network's input, and not square
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (1, 3, 20, 33), generator=generator, dtype=torch.uint8)
    with torch.no_grad():
        features, logits = net(image)
    # float32: 47 convolutions in a row, each of about 1,000 terms: 47 × √1000 × 2⁻²⁴ = 9e-5
    expected = torch.tensor([0.916953, 0.015425, 0.179545])
    torch.testing.assert_close(features[0, :3], expected, rtol=1e-4, atol=1e-4)
    expected = torch.tensor([-42.127270, 22.222460, 31.149307])
    torch.testing.assert_close(logits[0, :3], expected, rtol=1e-4, atol=0)
    spread = [features.mean().item(), features.std().item(), logits.std().item()]
    assert spread == pytest.approx([0.418846, 0.552934, 30.273680], rel=1e-4)
    # Inception-v3 has 27,161,264 with 1,000 classes; its auxiliary classifier, of a 1 × 1 and a
    # 5 × 5 convolution with their norms and a linear layer, is left out, and 8 classes are more
    auxiliary = 768 * 128 + 2 * 128 + 128 * 768 * 25 + 2 * 768 + 768 * 1000 + 1000
    assert sum(p.numel() for p in net.parameters()) == 27_161_264 - auxiliary + 8 * 2049


def test_inception_is_loaded_without_running_its_file(digits, tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    torch.save(inception_weights(Inception()), path)
    features = make_features("inception", digits, weights=path)
    assert re.fullmatch(r"Inception-v3 of FID, weights [0-9a-f]{8}", features.about)
    values, probabilities = features.extract(all_samples(digits.test)[:1])
    assert values.shape == (1, 2048)
    assert probabilities.sum() == pytest.approx(1, abs=1008 * 2**-24)  # float32, 1,008 terms
    allowed = list[bool]()
    monkeypatch.setattr("scorefield.evaluate.features.allow_tf32", allowed.append)
    for place in ("cpu", "meta"):
        make_features("inception", digits, weights=path, device=place)
    assert allowed == [False]  # on a device other than the CPU
    torch.save({"net": Path("x")}, path)
    with pytest.raises(ValueError, match="does not hold the weights"):
        make_features("inception", digits, weights=path)
    with pytest.raises(ValueError, match="not plane"):
        make_features("inception", PLANE, weights=path)


def test_a_stream_has_the_moments_of_the_whole_and_keeps_no_batch_alive(monkeypatch):
    """Memory does not grow with the number of samples: only copies of the first rows stay."""
    monkeypatch.setattr("scorefield.evaluate.gather.MAX_KEPT", 90)
    x, alive = torch.randn(1003, 3) @ torch.randn(3, 3) + 100, list[weakref.ref]()

    def batches():
        for i in range(0, len(x), 70):
            batch = x[i : i + 70].clone()
            alive.append(weakref.ref(batch.untyped_storage()))
            yield i, batch
            del batch
            assert sum(storage() is not None for storage in alive) <= 1

    gathered = gather_features(batches(), make_features("pixels", PLANE))
    # float64: 1,003 terms × 2⁻⁵³ × 100², the mean's square over the variance
    np.testing.assert_allclose(gathered.moments.cov, np.cov(x.double().T), rtol=1e-9)
    assert torch.equal(gathered.x, x[:90])
    assert gathered.x.untyped_storage().nbytes() == 90 * 3 * 4
    left = x[torch.arange(len(x)) % 20 != 3].double()
    np.testing.assert_allclose(gathered.without(3).cov, np.cov(left.T), rtol=1e-9)
    assert gathered.without(3).n == len(left)


def test_only_the_first_process_writes(few_run, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(distributed, "join", lambda: calls.append(distributed.is_main()))
    monkeypatch.setattr("scorefield.evaluate.evaluate_run", lambda *_, **__: calls.append("judged"))
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    assert main(["evaluate", str(few_run), "--out", str(tmp_path / "out")]) == 0
    assert calls == [False, "judged"]
    assert not (tmp_path / "out").exists()


def test_moments_are_cached_by_content(digits, tmp_path, monkeypatch):
    pixels = make_features("pixels", digits)
    monkeypatch.setattr("scorefield.evaluate.gather.MAX_KEPT", 100)  # of fewer, all are at hand
    first = reference_of(digits.test, pixels, tmp_path)
    (path,) = tmp_path.iterdir()
    x = all_samples(digits.test).flatten(1).double()
    np.testing.assert_allclose(first.moments.cov, np.cov(x.T), atol=360 * 2**-53)  # 360 terms
    assert (first.n, len(first.x)) == (360, 100)
    whole = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("scorefield.evaluate.gather.source_batches", None)  # nothing is computed
        again = [reference_of(digits.test, pixels, tmp_path)]
    path.write_bytes(whole[:-9] + bytes(9))  # a damaged file is written again
    again.append(reference_of(digits.test, pixels, tmp_path))
    assert path.read_bytes() == whole
    assert all(torch.equal(first.moments.scatter, a.moments.scatter) for a in again)
    other = digits.test.data.clone()
    other[3, 0, 2, 2] += 1
    cases = [(Arrays(other, levels=17), pixels), (Arrays(digits.test.data, levels=256), pixels)]
    cases += [(digits.test, pixels), (digits.test, replace(pixels, about="others"))]
    assert len({content_hash(*case) for case in cases}) == 4


def test_the_frontier_has_every_sampler_near_its_budgets(few_run, tmp_path, monkeypatch):
    model, budgets = load(few_run), (5, 10, 20, 40, 80)
    fitted = lambda model, name, n, score=None: karras(3.0, 0.3, n)  # noqa: E731
    monkeypatch.setattr("scorefield.evaluate.plans.fit_grid", fitted)
    for name in SAMPLERS:
        plans = [*frontier_plans(model, name)]
        if name == "adaptive":
            assert [plan.options["tolerance"] for plan in plans] == [0.1, 0.01, 0.001]
            continue
        if name == "consistency":
            assert [plan.evaluations for plan in plans] == [1, 2, 4]
            continue
        if name in FITTED:
            for n in (5, 8):
                plan = plans.pop(0)
                assert (plan.name, plan.evaluations) == (f"{name}, fitted levels", n)
                assert torch.equal(plan.sigmas, fitted(model, name, n))
        costs = [plan.evaluations for plan in plans]
        assert len(costs) >= 2
        assert costs == sorted(set(costs))
        assert all(any(b / 1.5 <= cost <= 1.5 * b for b in budgets) for cost in costs)
    few_levels = {"sampler": "unipc", "steps": 3, "n": 20, "bits": 0}
    (plan,) = evaluate_run(few_run, fit_grid=True, **few_levels).plans
    assert torch.equal(plan.sigmas, fitted(model, "unipc", 3))
    monkeypatch.setattr("scorefield.show.plots.as_png", undrawn)
    monkeypatch.setattr(
        "scorefield.evaluate.runs.frontier_plans", lambda *args: frontier_plans(*args, (5, 22))
    )
    evaluation = evaluate_run(few_run, n=20, bits=0, frontier=True)
    write_evaluation(evaluation, tmp_path)
    points = json.loads((tmp_path / "metrics.json").read_text())["frontier"]
    costs = {(p["plan"]["sampler"], p["plan"]["evaluations"]): p for p in points}
    assert {sampler for sampler, _ in costs} == SAMPLERS.keys() - {"consistency"}
    x = sample(evaluation.model, 20, "dpm_solver", steps=22, seed=0)
    truth = frechet(x, all_samples(few().test))
    assert costs["dpm_solver", 22]["value"] == pytest.approx(truth, **CLOSE)
    assert costs["dpm_solver", 22]["plan"]["seconds"] > 0
    # counted in each sample, where they differ
    cost = costs["dpm_solver", 22]["plan"]["most evaluations"]
    assert cost == 22
    assert any(p["plan"]["most evaluations"] > p["plan"]["evaluations"] > 12 for p in points)
    floor = evaluation.figure("Fréchet distance", "heun").real
    assert {point["real"] for point in points} == {floor}
    assert "Quality against cost" in (tmp_path / "report.html").read_text()
    config = shutil.copytree(few_run, tmp_path / "tuned") / "config.json"
    tuned = "training.objective=consistency", "start=x", "sampling.sampler=consistency"
    config.write_text(as_json(override(read(config), tuned)))
    model.tuned = True
    save(model, tmp_path / "tuned/model.safetensors")
    evaluation = evaluate_run(tmp_path / "tuned", n=20, frontier=True)
    assert {point.plan["sampler"] for point in evaluation.frontier} == {"consistency"}
    assert not any("loss" in figure.name or "bits" in figure.name for figure in evaluation.figures)
    write_evaluation(evaluation, tmp_path)
    assert "Not measured: loss and likelihood" in (tmp_path / "report.html").read_text()


def test_vectors_are_judged_too(tmp_path, monkeypatch):
    """A model that is the Gaussian of its data, whose likelihood is known."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("scorefield.show.plots.as_png", undrawn)
    np.save("normal.npy", Gaussian(torch.zeros(3), torch.tensor([1.0, 0.5, 0.25])).sample(600))
    small = ["--set", "network={kind: MLP, width: 8, blocks: 1}", "--training.rate=1e-9"]
    assert main(["train", "--data", "normal.npy", "--out", "run", "--steps", "1", *small]) == 0
    evaluation = evaluate_run("run", n=200)
    nats = evaluation.figure("negative log-likelihood, nats")
    model, n = evaluation.model, 3
    # the untrained network under EDM is N(centre, σ_d²I)
    variance = model.precondition.sigma_data**2 + model.sigma_min**2
    x = Batches(evaluation.data.test, 32)(0).x
    square = (x - model.precondition.centre).square().sum(1).mean() / variance
    expected = 0.5 * (square + n * math.log(2 * math.pi * variance))
    assert nats.samples == 32
    # the ODE's tolerance is 1e-3, for x and for the trace
    assert nats.value == pytest.approx(expected.item(), rel=2e-3)
    assert not evaluation.copies_training
    write_evaluation(evaluation, "out")
    titles = Page(Path("out/report.html").read_text()).titles
    assert len(titles) == 5
    assert not {"Samples and real data", "From noise to samples"} & {*titles}  # they are pictures


def test_columns_of_a_table_are_compared_with_real_ones(tmp_path, monkeypatch):
    monkeypatch.setattr("scorefield.show.plots.as_png", undrawn)
    chance = np.random.default_rng(0)
    rows = (f"{chance.normal():.1f},{chance.choice(['$x_$', 'y'])},3\n" for _ in range(400))
    (tmp_path / "t.csv").write_text("size,<kind>,same\n" + "".join(rows))
    data = load_data(tmp_path / "t.csv")
    prior = Prior.fit(all_samples(data.train))
    model = ScoreModel(MLP(3, width=8, blocks=1), EDM(0.5, sigma_max=20.0), prior=prior)
    evaluation = evaluate(model, data, n=40, bits=0)
    assert len(data.test) == 40
    rows = torch.randperm(360, generator=torch.Generator().manual_seed(0))[:40]  # of the floor
    some, x = all_samples(data.train)[rows], evaluation.samples["heun"].x
    sets = x, some, all_samples(data.test)
    sampled, real, test = ([*zip(*data.table.decode(x), strict=True)] for x in sets)

    def distance(x, y):
        return ks_2samp([*map(float, x)], [*map(float, y)]).statistic

    def variation(x, y):
        return abs(x.count("y") / len(x) - y.count("y") / len(y))

    for i, name, measure in (
        (0, "size: Kolmogorov–Smirnov distance", distance),
        (1, "<kind>: total variation distance", variation),
        (2, "same: total variation distance", variation),
    ):
        figure = evaluation.figure(name, "heun")
        assert figure.value == pytest.approx(measure(sampled[i], test[i]), **CLOSE)
        assert figure.real == pytest.approx(measure(real[i], test[i]), **CLOSE)
        assert figure.low <= figure.value <= figure.high
    gaps = x.double().T.corrcoef() - all_samples(data.test).double().T.corrcoef()
    gap = evaluation.figure("largest difference of a correlation", "heun")
    assert gap.value == pytest.approx(gaps.abs().max().item(), **CLOSE)
    write_evaluation(evaluation, tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert "Columns of the table" in page.titles
    (table,) = [rows for rows in page.tables if "kind and values" in rows[0]]
    assert [row[0] for row in table[1:4]] == ["size", "<kind>", "same"]
    assert table[2][1].split() == ["category", "2", "values:", "'$x_$',", "'y'"]


def test_a_conditional_model_samples_classes_as_often_as_in_training(digits, tmp_path, monkeypatch):
    labels = digits.train.labels
    rows = torch.cat([(labels == 3).nonzero()[:60, 0], (labels == 7).nonzero()[:20, 0]])
    data = Dataset("odd", Arrays(*digits.train.take(rows), 17), digits.test, classes=digits.classes)
    monkeypatch.setitem(DATASETS, "odd", lambda: data)
    monkeypatch.setattr("scorefield.show.plots.as_png", undrawn)
    fast = ["data.source=odd", "data.labels=true", "training.steps=3", "training.rate=0.05"]
    finish(override(Experiment(), [*SETTINGS, *fast]), tmp_path / "run")
    counts = torch.bincount(training_labels(data, 4000, 0), minlength=10)
    assert counts.nonzero()[:, 0].tolist() == [3, 7]
    assert counts[3] / 4000 == pytest.approx(0.75, abs=0.03)  # 4 standard errors of 0.007
    evaluation = evaluate_run(tmp_path / "run", n=40, steps=4, bits=4, seed=5)
    own = {"sampler": "heun", "steps": 4, "seed": 5, "batch": 40}
    x = sample(evaluation.model, 40, label=training_labels(data, 40, 5), **own)
    assert torch.equal(evaluation.samples["heun"].x, x)
    assert (x - sample(evaluation.model, 40, **own)).abs().max() > 1e-3
    for figure in evaluation.figures:
        if figure.plan:
            assert figure.plan["classes"] == "as frequent as in training"
        else:
            assert figure.warning.startswith("of the model without a class")
    write_evaluation(evaluation, tmp_path)
    assert "; classes as frequent as in training. " in (tmp_path / "report.html").read_text()


def test_figures_of_a_model_judged_without_its_condition_carry_a_warning():
    data = Dataset("plane", Arrays(_normal(60, 2, 0)), Arrays(_normal(40, 2, 1)))
    net = MLP(2, width=8, blocks=1, conditions={"y": [1], "augment": [9]})
    model = ScoreModel(net, EDM(), prior=Prior.fit(all_samples(data.train)))
    for figure in evaluate(model, data, plans=[make_plan(model, steps=3)], n=40, bits=4).figures:
        assert figure.warning.startswith("of the model without a value of y")


def test_functions_among_the_options_of_a_plan_are_written_by_name():
    data = Dataset("plane", Arrays(_normal(60, 2, 0)), Arrays(_normal(40, 2, 1)))
    prior = Prior.fit(all_samples(data.train))
    model = ScoreModel(MLP(2, width=8, blocks=1), EDM(), prior=prior)
    plan = make_plan(model, "annealed_langevin", 1, levels=2, kernel=underdamped)
    evaluation = evaluate(model, data, plans=[plan], n=40, bits=0)
    plans = [figure["plan"] for figure in json.loads(evaluation.as_json())["figures"]]
    assert {p["options"]["kernel"] for p in plans if p} == {"underdamped"}


def test_mistakes_are_named(few_run, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for args, message in (
        ("-n 1", "n=1"),
        ("--sampler hein", "did you mean heun"),
        ("--features inception", "nothing is downloaded unasked"),
        ("--features inception --inception none.pth", "none.pth is not a file"),
    ):
        assert main(["evaluate", str(few_run), *args.split(), "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


class Page:
    """The contents of a page, in which every element is closed, except for the void ones."""

    def __init__(self, text):
        text = re.sub(r"<((?:meta|img|br)\b[^>]*)>", r"<\1/>", text.removeprefix("<!DOCTYPE html>"))
        root = ElementTree.fromstring(text)
        self.images = [image.attrib for image in root.iter("img")]
        self.titles = [heading.text for heading in root.iter("h2")]
        self.links = [v for e in root.iter() for k, v in e.items() if k in ("href", "src")]
        self.tables = [
            [[cell.text or "" for cell in row] for row in table.iter("tr")]
            for table in root.iter("table")
        ]


def test_the_report_is_whole_and_needs_nothing_else(results, few_run):
    text = (few_run / "report.html").read_text()
    page = Page(text)
    assert len(page.titles) == 7
    assert len(page.images) == len(page.links) == 2 + 1 + 1 + 2 + 1
    files = [base64.b64decode(image["src"].partition(",")[2]) for image in page.images]
    for image, content in zip(page.images, files, strict=True):
        assert image["src"].startswith("data:image/png;base64,")
        assert image["alt"]
        Image.open(io.BytesIO(content)).load()
    assert not re.search(r"http|<script|<link|url\(|@import", text)
    assert str(suggest(all_samples(few().train))) in html.unescape(text)
    assert (few_run / "config.json").read_text() in html.unescape(text)
    assert "400 steps, seed 0" in text
    heads, *rows = page.tables[1]
    assert heads == ["class, %", *map(str, range(10))]
    assert [row[0] for row in rows] == ["real few", "heun"]
    # the animation ends with the samples
    moving = Image.open(io.BytesIO(files[2]))
    assert moving.n_frames == 8
    moving.seek(moving.n_frames - 1)
    expected = np.asarray(images.grid(results[0].samples["heun"].x[:32], 8))
    assert np.array_equal(np.asarray(moving.convert("L"))[:, : expected.shape[1]], expected)


def test_a_page_escapes_its_text_and_embeds_animations(tmp_path):
    gif = images.animation([Image.new("L", (2, 2), 9)] * 2, ".gif", {})
    table, picture = (["&", "n"], [["<i>", "1\n0–2"]]), Picture(gif, "a < b", 'the "first"')
    section = Section("<One>", "First & last.\n\nSecond.", [table], "x\n  y", [picture], "{}")
    write_report(tmp_path / "page.html", [section, Section("Empty")], title="A & B\x1b")
    text = (tmp_path / "page.html").read_text()
    page = Page(text)
    assert page.titles == ["<One>", "Empty"]
    assert page.tables == [[["&", "n"], ["<i>", "1"]]]
    assert page.images[0]["alt"] == 'the "first"'
    assert page.images[0]["src"].startswith("data:image/gif;base64,")
    assert r"<title>A &amp; B\x1b</title>" in text
    assert "<small>0–2</small>" in text
    assert text.count("<p>") == 2
