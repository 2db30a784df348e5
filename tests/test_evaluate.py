"""The evaluation of a run: its figures recomputed, its verdicts on models whose truth is known."""

import json
import math
import re
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from scorefield import Empirical, Gaussian, distributed, load, sample
from scorefield.cli import main
from scorefield.data import DATASETS, Arrays, Batches, Dataset, all_samples, load_data
from scorefield.diagnose import wilson
from scorefield.evaluate import Interval, Subject, evaluate
from scorefield.evaluate.costs import BUDGETS, frontier, plans
from scorefield.evaluate.features import classifier, inception, pixels
from scorefield.evaluate.figure import around, jackknife, mean, median, over, share
from scorefield.evaluate.gather import Reference, content, gather, merged, reference_of
from scorefield.evaluate.memory import memory, nearest_in
from scorefield.evaluate.quality import coverage, quality, too_few
from scorefield.evaluate.subject import drawn
from scorefield.metrics import Moments, density_coverage, frechet, kernel_distance, nearest
from scorefield.runs import start
from scorefield.runs.config import Experiment, overridden
from scorefield.sample import make_plan
from scorefield.samplers import SAMPLERS
from scorefield.show import report

CPU = torch.device("cpu")
KNOWN = 50
"""Digits that a model is to learn by heart."""
BY_HEART = [
    "data.source=few",
    "network={kind: MLP, width: 256, blocks: 2}",
    "levels.mean=-1.2",
    "training={steps: 500, batch: 256, rate: 5e-3, schedule: cosine, ema: 0.99}",
    "keeping={samples: 0, evaluate: 0, checkpoint: 0, best: last}",
    "machine.threads=1",
]


def few():
    """Fifty digits to train on."""
    digits = load_data("digits")
    rows = torch.arange(0, len(digits.train), 28)[:KNOWN]
    x, labels = digits.train.take(rows)
    return Dataset("few", Arrays(x, labels, 17), digits.test, classes=10)


@pytest.fixture(scope="module", autouse=True)
def _few():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "few", few)
        yield


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture(scope="module")
def memorised(tmp_path_factory):
    """A run that has trained on fifty digits for long."""
    directory = tmp_path_factory.mktemp("runs") / "few"
    for _ in start(overridden(Experiment(), BY_HEART), directory):
        pass
    return directory


@pytest.fixture(scope="module")
def judged(memorised):
    """What `scorefield evaluate` wrote of it and printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(memorised / "cache"))
        args = ["-n", "120", "--features", "classifier", "--steps", "8", "--seed", "2"]
        assert main(["evaluate", str(memorised), *args, "--bits", "8", "--batch", "50"]) == 0
    return json.loads((memorised / "metrics.json").read_text())


def _named(found, start):
    (figure,) = [f for f in found["figures"] if f["name"].startswith(start)]
    return figure


# ── Memorisation ─────────────────────────────────────────────────────────────────────────────────


def test_a_model_that_learned_fifty_digits_by_heart_is_caught(judged, memorised):
    assert judged["memorised"]
    assert judged["verdict"].startswith("Memorised")
    ratio = _named(judged, "distance to training data")
    assert ratio["high"] < 0.6
    near = _named(judged, "near copies")
    assert near["low"] > 0.05
    assert near["real"] == 0
    text = (memorised / "report.html").read_text()
    assert judged["verdict"].split(":")[0] in text


@pytest.mark.slow
def test_the_digits_of_the_preset_are_not(tmp_path):
    from scorefield.runs.presets import PRESETS

    for _ in start(PRESETS["digits"](), tmp_path / "run"):
        pass
    found = evaluate(tmp_path / "run", n=1000, bits=0)
    print(found.memory.verdict)
    assert not found.memory.memorised
    assert found.memory.ratio.low > 0.9
    assert found.memory.exact.value == 0


def test_new_digits_are_no_copies_and_the_training_digits_are(digits):
    order = torch.randperm(len(digits.test), generator=torch.Generator().manual_seed(0))
    x = all_samples(digits.test)[order]
    data = replace(digits, test=Arrays(*digits.test.take(order[180:]), 17))
    fresh = memory(x[:180], data)
    assert not fresh.memorised
    assert fresh.ratio.low < 1 < fresh.ratio.high
    assert fresh.near.value == fresh.exact.value == 0
    # what the law by heart draws, at so little noise that the cells of 17 levels stay
    copies = Empirical(all_samples(digits.train)).sample(100, 0.002)
    found = memory(copies, data)
    assert found.typical
    assert found.exact.value == 1
    # one in ten is enough
    mixed = torch.cat([copies[:18], x[:162]])
    part = memory(mixed, data)
    assert part.memorised
    assert not part.typical
    assert part.exact.value == pytest.approx(0.1)
    assert part.verdict.startswith("Memorised in part")
    assert set(part.worst.tolist()) <= set(range(18))
    torch.testing.assert_close(part.sources, mixed[part.worst], atol=0.02, rtol=0)


def test_mirrored_copies_are_found_where_flips_were_trained(digits):
    copies = all_samples(digits.train)[::20].flip(-1)
    assert memory(copies, digits, flips=True).exact.value == 1
    assert memory(copies, digits).exact.value < 0.1


def test_duplicates_of_the_data_set_are_no_memorisation():
    """A tenth of what is held out is in the training data: so is a tenth of good samples."""
    x = torch.randn(900, 4, generator=torch.Generator().manual_seed(0))
    train = Arrays(x[:300])
    test = Arrays(torch.cat([x[:30], x[300:570]]))
    found = memory(torch.cat([x[30:60], x[570:840]]), Dataset("twice", train, test))
    assert found.exact.value == found.exact_heldout.value == pytest.approx(0.1)
    assert not found.memorised


def test_fresh_samples_of_a_law_are_cleared_in_nineteen_of_twenty_cases_and_more():
    caught = 0
    for seed in range(40):
        x = torch.randn(700, 3, generator=torch.Generator().manual_seed(seed))
        data = Dataset("normal", Arrays(x[:300]), Arrays(x[300:500]))
        caught += memory(x[500:], data).memorised
    assert caught <= 1


def test_nearest_in_pieces_is_nearest(digits, monkeypatch):
    monkeypatch.setattr("scorefield.evaluate.memory.BLOCK", 64 * 100)
    x = all_samples(digits.test)[:50]
    found = nearest_in(x, digits.train, flips=True)
    whole = nearest(x, all_samples(digits.train), flips=True)
    assert torch.equal(found.distances, whole.distances)
    assert torch.equal(found.indices, whole.indices)


def test_too_little_held_out_is_said(digits):
    small = replace(digits, test=Arrays(digits.test.data[:5], levels=17))
    with pytest.raises(ValueError, match="fewer than 20 held-out"):
        memory(torch.rand(5, 1, 8, 8), small)


# ── What every figure says ───────────────────────────────────────────────────────────────────────


def test_figures_say_what_they_are_of(judged, memorised):
    model = load(memorised)
    for figure in judged["figures"]:
        assert figure["samples"] > 0
        assert figure["seed"] == 2
        assert figure["weights"] == "averaged with decay 0.99, step 500"
        assert figure["method"]
        assert "held out" in figure["reference"]
        assert figure["low"] <= figure["value"] <= figure["high"]
    drawn = [figure for figure in judged["figures"] if figure["draw"]]
    assert len(drawn) == 11
    for figure in drawn:
        draw = figure["draw"]
        assert (draw["sampler"], draw["evaluations"], draw["seed"]) == ("heun", 15, 2)
        assert draw["levels"] == pytest.approx([model.sigma_max, model.sigma_min, 8])
    quality = [f for f in drawn if "training samples" not in f["reference"]]
    assert all(f["features"].startswith("classifier of few, 64 features") for f in quality)
    assert {f["reference"] for f in quality} == {"few, held out, 360 samples"}
    assert "compare at equal numbers" in _named(judged, "Fréchet")["warning"]
    assert "8 samples" in _named(judged, "bits")["warning"]


def test_the_figures_are_those_of_the_samples(judged, memorised):
    data = few()
    x = sample(load(memorised), 120, "heun", steps=8, seed=2)
    extract = classifier(data, None, CPU).extract
    (a, _), (b, _) = extract(x), extract(all_samples(data.test))
    assert _named(judged, "Fréchet")["value"] == pytest.approx(frechet(a, b), rel=1e-4)
    assert _named(judged, "kernel")["value"] == pytest.approx(kernel_distance(a, b).value, rel=1e-3)
    density = density_coverage(a, b).density
    assert _named(judged, "density")["value"] == pytest.approx(density, rel=1e-6)
    train, test = (all_samples(part).flatten(1).numpy() for part in (data.train, data.test))
    search = NearestNeighbors(n_neighbors=1).fit(train)
    distances = [search.kneighbors(z)[0] for z in (x.flatten(1), test)]
    medians = [np.quantile(each, 0.5, method="lower") for each in distances]
    assert _named(judged, "distance")["value"] == pytest.approx(medians[0] / medians[1], rel=1e-4)


def test_the_page_is_added_to_a_report_and_replaced(tmp_path):
    page = tmp_path / "report.html"
    report.write(page, [report.Section("Old", "Stays.")], title="A run")
    for what in ("first", "second"):
        report.add(page, [report.Section(what)], title="Judged", part="evaluation")
    text = page.read_text()
    assert re.findall(r"<h[12]>(.*?)</h[12]>", text) == ["A run", "Old", "Judged", "second"]
    assert text.count("</body>") == text.count("</html>") == 1
    assert text.rstrip().endswith("</body>\n</html>")
    new = tmp_path / "new.html"
    for what in "xy":
        report.add(new, [report.Section(what)], title="Judged", part="evaluation")
    assert re.findall(r"<h[12]>(.*?)</h[12]>", new.read_text()) == ["Judged", "y"]
    page.write_text("no page")
    with pytest.raises(ValueError, match=r"report\.html is no whole page"):
        report.add(page, [], title="", part="evaluation")


def test_few_samples_are_warned_of():
    assert "singular" in too_few(64, 1000, 64)
    assert "few for 64" in too_few(1000, 639, 64)
    assert too_few(640, 640, 64) == ""


def test_raw_weights_are_those_trained_last(memorised):
    subject = Subject.of(memorised, raw=True)
    assert subject.weights == "raw, step 500"
    (own, mean) = (s.model.net.head.weight for s in (subject, Subject.of(memorised)))
    gap = (own - mean).abs().max().item()
    assert 0 < gap < 0.1


# ── Uncertainty ──────────────────────────────────────────────────────────────────────────────────


def test_intervals_hold_the_truth_in_nineteen_of_twenty_cases():
    """Of a mean, a median and a Fréchet distance of which the truth is known."""
    hits = np.zeros(3)
    cases = 100
    truth = Moments(10**9, torch.zeros(2).double(), torch.eye(2).double() * (10**9 - 1))
    for seed in range(cases):
        x = torch.randn(400, 2, generator=torch.Generator().manual_seed(seed))
        x[:, 0] += 1
        intervals = [mean(x[:, 0]), median(x[:, 0])]
        found = gather([(0, x)], pixels(_plane(), None, CPU))
        measured = next(quality(found, Reference("", 10**9, truth, x[:4], None), 0))
        intervals.append(measured.interval)
        hits += [each.low <= 1 <= each.high for each in intervals]
    assert all(0.88 <= hit / cases <= 0.99 for hit in hits)


def test_the_ratio_of_distances_holds_one_for_fresh_samples():
    """Held-out data are a sample as well: of a fixed unit the interval held 1 in 4 of 5 cases."""
    hits, cases = 0, 150
    for seed in range(cases):
        x = torch.randn(700, 3, generator=torch.Generator().manual_seed(seed))
        ratio = memory(x[500:], Dataset("normal", Arrays(x[:300]), Arrays(x[300:500]))).ratio
        hits += ratio.low <= 1 <= ratio.high
    assert 0.9 <= hits / cases <= 0.99


def test_the_interval_of_coverage_holds_it_for_other_samples():
    """One sample covers many data or none: the data are no independent cases."""
    y = torch.randn(120, 4, generator=torch.Generator().manual_seed(7))
    intervals = []
    for seed in range(40):
        x = 1.1 * torch.randn(120, 4, generator=torch.Generator().manual_seed(seed))
        intervals.append(coverage(x, y).interval)
    middle = np.mean([each.value for each in intervals])
    hits = sum(each.low <= middle <= each.high for each in intervals)
    assert 36 <= hits <= 40
    everywhere = coverage(y, y).interval
    assert everywhere.value == everywhere.high == 1
    assert everywhere.low < wilson(120, 120)[0] + 1e-9


def test_a_ratio_is_as_uncertain_as_both_its_parts():
    found = over(Interval(6, 3, 9), Interval(3, 1, 5))
    assert found.value == 2
    assert (found.low, found.high) == pytest.approx((2 - 5 / 3, 2 + 5 / 3))
    assert over(Interval(0, 0, 0), Interval(3, 1, 5)) == (0, 0, 0)


def _plane():
    return Dataset("plane", Arrays(torch.zeros(1, 2)))


def test_shares_are_in_wilsons_interval():
    assert share(0.25, 40) == (0.25, *wilson(10, 40))
    assert share(0.0, 1000).low == 0
    assert around(1.0, 0.5, 2.0) == (1, 0, 2)
    assert jackknife([1.0, 2.0, 3.0]) == pytest.approx(math.sqrt(2 / 3 * 2))


# ── Features ─────────────────────────────────────────────────────────────────────────────────────


def test_the_classifier_is_the_same_each_time_and_right(digits):
    one, two = (classifier(digits, None, CPU) for _ in range(2))
    assert one.digest == two.digest
    features, probabilities = one.extract(all_samples(digits.test))
    assert features.shape == (360, 64)
    labels = digits.test.take(torch.arange(360))[1]
    accuracy = (probabilities.argmax(1) == labels).double().mean().item()
    assert accuracy > 0.95
    assert f"right about {100 * accuracy:.1f} %" in one.about
    # the penultimate layer: a linear map of it decides
    assert features.min() == 0


def test_inception_is_loaded_from_a_file_that_runs_nothing(digits, tmp_path, monkeypatch):
    from test_inception import weights

    from scorefield.evaluate.inception import Inception

    path = tmp_path / "weights.pth"
    torch.save(weights(Inception()), path)
    features = inception(digits, path, CPU)
    assert re.fullmatch(r"Inception-v3 of FID, weights [0-9a-f]{8}", features.about)
    found, probabilities = features.extract(all_samples(digits.test)[:1])
    assert found.shape == (1, 2048)
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)
    torch.save({"net": Path("x")}, path)
    with pytest.raises(ValueError, match="does not hold the weights"):
        inception(digits, path, CPU)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match="nothing is downloaded unasked"):
        inception(digits, None, CPU)
    with pytest.raises(ValueError, match="not of plane"):
        inception(_plane(), path, CPU)


# ── Streams and caches ───────────────────────────────────────────────────────────────────────────


def test_a_stream_has_the_moments_of_the_whole():
    x = torch.randn(1003, 3) @ torch.randn(3, 3) + 100
    batches = [(i, x[i : i + 70]) for i in range(0, len(x), 70)]
    found = gather(batches, pixels(_plane(), None, CPU), kept=90)
    np.testing.assert_allclose(found.moments.cov, np.cov(x.double().T), rtol=1e-9)
    assert torch.equal(found.x, x[:90])
    left = x[torch.arange(len(x)) % 20 != 3].double()
    np.testing.assert_allclose(found.without(3).cov, np.cov(left.T), rtol=1e-9)
    assert found.without(3).n == len(left)


def test_processes_see_together_what_one_sees(memorised, digits, monkeypatch):
    model, features = load(memorised), classifier(digits, None, CPU)
    planned = make_plan(model, "heun", 3)
    whole = gather(drawn(model, 47, planned, seed=1, batch=5), features, kept=23)
    shares = []
    monkeypatch.setattr(distributed, "world", lambda: 3)
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append(gather(drawn(model, 47, planned, seed=1, batch=5), features, kept=23))
    assert [share.n for share in shares] == [17, 15, 15]
    found = merged(shares)
    assert found.n == 47
    for name in ("index", "x", "features", "probabilities"):
        assert torch.equal(getattr(found, name), getattr(whole, name))
    for one, other in zip(found.parts, whole.parts, strict=True):
        torch.testing.assert_close(one.scatter, other.scatter, rtol=1e-9, atol=1e-9)


def test_the_command_meets_the_other_processes_of_a_launcher(memorised, tmp_path, monkeypatch):
    met = []
    monkeypatch.setattr(distributed, "join", lambda: met.append(distributed.is_main()))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("scorefield.evaluate.evaluate", lambda *_, **__: met.append("judged"))
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    assert main(["evaluate", str(memorised), "--out", str(tmp_path / "out")]) == 0
    assert met == [False, "judged"]
    assert not (tmp_path / "out").exists()  # the first one writes


def test_fifty_thousand_images_take_no_more_memory_than_five_hundred():
    code = """
        import resource, torch
        from scorefield.data import Arrays, Dataset
        from scorefield.evaluate.features import pixels
        from scorefield.evaluate.gather import gather
        data = Dataset("noise", Arrays(torch.zeros(1, 1, 12, 12)))
        for n in (500, 50_000):
            made = ((i, torch.randn(250, 1, 12, 12)) for i in range(0, n, 250))
            found = gather(made, pixels(data, None, torch.device("cpu")), kept=500)
            assert found.n == found.moments.n == n
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    """
    told = subprocess.check_output([sys.executable, "-c", textwrap.dedent(code)], text=True)
    peaks = [int(line) for line in told.split()]
    held = 50_000 * 144 * 4 / 1024
    assert peaks[1] - peaks[0] < held / 3


def test_moments_are_cached_by_content(digits, tmp_path, monkeypatch):
    features = pixels(digits, None, CPU)
    first = reference_of(digits.test, "held out", features, tmp_path)
    (path,) = tmp_path.iterdir()
    x = all_samples(digits.test).flatten(1).double()
    np.testing.assert_allclose(first.moments.cov, np.cov(x.T), atol=1e-12)
    with monkeypatch.context() as patch:
        patch.setattr("scorefield.evaluate.gather.gather", None)  # nothing is computed
        again = reference_of(digits.test, "held out", features, tmp_path)
    assert torch.equal(first.moments.scatter, again.moments.scatter)
    # other data, other levels, other features: another file
    other = digits.test.data.clone()
    other[3, 0, 2, 2] += 1
    hashes = {
        content(source, made)
        for source, made in (
            (digits.test, features),
            (Arrays(other, levels=17), features),
            (Arrays(digits.test.data, levels=256), features),
            (digits.test, replace(features, digest="others")),
        )
    }
    assert len(hashes) == 4
    # damaged, it is computed again and mended
    whole = path.read_bytes()
    path.write_bytes(whole[:-9] + bytes(9))
    again = reference_of(digits.test, "", features, tmp_path)
    assert torch.equal(first.moments.scatter, again.moments.scatter)
    assert path.read_bytes() == whole


# ── The frontier and the commands ────────────────────────────────────────────────────────────────


def test_the_frontier_has_every_sampler_near_its_budgets(memorised):
    model = load(memorised)
    for name in SAMPLERS:
        costs = [planned.evaluations for planned in plans(model, name, BUDGETS)]
        assert len(costs) >= 2
        assert costs == sorted(set(costs))
        assert all(any(b / 1.5 <= cost <= 1.5 * b for b in BUDGETS) for cost in costs)


def test_a_frontier_is_drawn(memorised, tmp_path, monkeypatch):
    monkeypatch.setattr("scorefield.evaluate.costs.BUDGETS", (5, 22))
    found = evaluate(memorised, n=45, bits=0, with_frontier=True)
    found.write(tmp_path)
    points = json.loads((tmp_path / "metrics.json").read_text())["frontier"]
    assert {point["sampler"] for point in points} == set(SAMPLERS)
    (point,) = (p for p in points if p["sampler"] == "dpm_solver" and p["evaluations"] == 22)
    x = sample(load(memorised), 45, "dpm_solver", steps=22, seed=0)
    truth = frechet(x, all_samples(load_data("digits").test))
    assert point["frechet"][0] == pytest.approx(truth, rel=1e-4)
    assert "Quality against cost" in (tmp_path / "report.html").read_text()


def test_vectors_are_judged_too(tmp_path, monkeypatch):
    """A model that is the Gaussian of its data, whose likelihood is known."""
    monkeypatch.chdir(tmp_path)
    law = Gaussian(torch.zeros(3), torch.tensor([1.0, 0.5, 0.25]))
    np.save("normal.npy", law.sample(600).numpy())
    small = ["--set", "network={kind: MLP, width: 8, blocks: 1}", "--training.rate=1e-9"]
    assert main(["train", "--data", "normal.npy", "--out", "run", "--steps", "1", *small]) == 0
    found = evaluate("run", n=500)
    nats = next(f for f in found.figures if "nats" in f.name)
    # the untrained network under EDM is N(centre, σ_d²I), its mean and deviation the data's own
    sigma2, n = found.subject.sigma_data**2, 3
    model = found.subject.model
    centre = model.precondition.centre
    x = Batches(found.subject.data.test, 32)(0).x
    variance = sigma2 + model.sigma_min**2
    square = (x - centre).square().sum(1).mean() / variance
    expected = 0.5 * (square + n * math.log(2 * math.pi * variance))
    assert nats.samples == 32
    assert nats.value == pytest.approx(expected.item(), abs=0.01)
    assert found.memory is not None
    found.write("out")
    assert Path("out/metrics.json").exists()


def test_a_model_of_classes_draws_them_as_frequent_as_in_training(tmp_path, monkeypatch):
    digits = load_data("digits")
    x, labels = digits.train.take(torch.arange(len(digits.train)))
    kept = torch.cat([(labels == 3).nonzero()[:60, 0], (labels == 7).nonzero()[:20, 0]])
    data = Dataset("odd", Arrays(x[kept], labels[kept], 17), digits.test, classes=10)
    monkeypatch.setitem(DATASETS, "odd", lambda: data)
    fast = ["data.source=odd", "data.labels=true", "training.steps=3", "training.rate=0.05"]
    for _ in start(overridden(Experiment(), [*BY_HEART, *fast]), tmp_path / "run"):
        pass
    subject = Subject.of(tmp_path / "run")
    classes = subject.classes(4000, 0)
    counts = torch.bincount(classes, minlength=10)
    assert counts.nonzero()[:, 0].tolist() == [3, 7]
    assert counts[3] / 4000 == pytest.approx(0.75, abs=0.03)
    found = evaluate(subject, n=40, steps=4, bits=4, seed=5)
    own = {"plan": "heun", "steps": 4, "seed": 5, "batch": 40}
    x = sample(subject.model, 40, label=subject.classes(40, 5), **own)
    torch.testing.assert_close(found.samples, x)
    assert (x - sample(subject.model, 40, **own)).abs().max() > 1e-3
    for figure in found.figures:
        if figure.draw:
            assert figure.draw.classes == "as frequent as in training"
        else:
            assert figure.warning.startswith("of the model when it is not told the class")
    found.write(tmp_path)
    assert "; classes as frequent as in training; " in (tmp_path / "report.html").read_text()
    monkeypatch.setattr("scorefield.evaluate.costs.BUDGETS", (5,))
    points = frontier(subject.model, 40, pixels(data, None, CPU), _moments(data), seed=5, batch=40,
                      classes=subject.classes(40, 5))  # fmt: skip
    point = next(p for p in points if p.sampler == "heun")
    x = sample(subject.model, 40, label=subject.classes(40, 5), **own | {"steps": 3})
    assert point.frechet.value == pytest.approx(frechet(x, all_samples(data.test)), rel=1e-4)


def _moments(data):
    return Moments().update(all_samples(data.test))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere"], "holds no run"),
        (["RUN", "-n", "1"], "n=1"),
        (["RUN", "--sampler", "hein"], "there are annealed_langevin"),
        (["RUN", "--features", "inception"], "nothing is downloaded unasked"),
        (["RUN", "--features", "inception", "--inception", "none.pth"], "none.pth is no file"),
    ],
)
def test_mistakes_are_named(memorised, args, message, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    args = [str(memorised) if arg == "RUN" else arg for arg in args]
    assert main(["evaluate", *args, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
