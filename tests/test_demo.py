"""The demo on few digits: what it prints and shows, recomputed from what it keeps."""

import base64
import html
import io
import json
import re
import shutil
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import SVC

from scorefield import (
    annealed_langevin,
    geometric,
    load,
    sample,
    seeded,
    suggest,
    uniform_like,
    wilson,
)
from scorefield import demo as package
from scorefield.cli import main
from scorefield.data import all_samples, load_data
from scorefield.demo.measures import DRAWS, PARTS, Judge, _jackknife, losses
from scorefield.demo.ways import draw, ways
from scorefield.fast.optimize import optimize
from scorefield.runs.config import Experiment, overridden
from scorefield.sample import Plan
from scorefield.show import images, report

SMALL = [
    "network={kind: MLP, width: 16, blocks: 1}",
    "training.batch=8",
    "keeping.evaluate=10",
    "training.warmup=100",
]
SEED, SAMPLES, FEW = 3, 30, 12
FILES = ["annealed_langevin", "predictor_corrector", "heun", "dpm_solver", "published_ladder"]


class Page(HTMLParser):
    """What is on a page, and whether each element that was opened was closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.titles, self.tables, self.links = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.links += [value for name, value in attrs.items() if name in ("href", "src")]
        if tag == "img":
            self.images.append(attrs)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data
        if self.open and self.open[-1] == "h2":
            self.titles.append(data)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The directory, the output and the page of `scorefield demo` in an empty folder."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as out:
        patch.chdir(folder)
        patch.setitem(package.PRESETS, "digits", lambda: overridden(Experiment(), SMALL))
        patch.setattr(package, "run", partial(package.run, samples=SAMPLES, few=FEW))
        assert main(["demo", "--seed", str(SEED), "--steps", "20"]) == 0
    directory = folder / "runs/demo"
    return directory, out.getvalue(), (directory / "report.html").read_text()


@pytest.fixture(scope="module")
def digits():
    data = load_data("digits")
    return all_samples(data.train), all_samples(data.test)


@pytest.fixture(scope="module")
def judge():
    return Judge.of(load_data("digits"))


def _kept(directory, name):
    return torch.from_numpy(np.load(directory / f"arrays/{name}.npy"))


# ── The table ────────────────────────────────────────────────────────────────────────────────────


def _frechet(x, y):
    """By eigenvalues of the product, as is common."""
    covs = [np.cov(z.T) for z in (x, y)]
    roots = np.sqrt(scipy.linalg.eigvals(covs[0] @ covs[1]).real.clip(0))
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(covs[0] + covs[1]) - 2 * roots.sum()


def _expected(x, train, test):
    """Fréchet distance, precision, coverage and the median distance to training data, of arrays."""
    neighbours = NearestNeighbors(n_neighbors=6).fit(test)
    radius = neighbours.kneighbors(test)[0][:, 5]  # the first is the digit itself
    within = np.linalg.norm(x[:, None] - test, axis=2) <= radius
    nearest = NearestNeighbors(n_neighbors=1).fit(train)
    medians = [np.quantile(nearest.kneighbors(z)[0], 0.5, method="lower") for z in (x, test)]
    return [
        _frechet(x, test),
        within.any(1).mean(),
        within.any(0).mean(),
        medians[0] / medians[1],
    ]


def test_the_figures_are_those_of_the_samples_that_are_kept(made, digits):
    directory, _, page = made
    rows = [row for row in Page(page).tables[0][1:] if row[0] != "real digits"]
    train, test = (part.flatten(1).double().numpy() for part in digits)
    labels = load_data("digits").train.labels
    machine = SVC(gamma=0.289).fit(train, labels)
    assert [row[3] for row in rows] == [str(SAMPLES)] * 4 + [str(FEW)]
    for row, name in zip(rows, FILES, strict=True):
        x = _kept(directory, name).flatten(1).double().numpy()
        shown = [float(row[i]) for i in (4, 5, 6, 8)]
        assert shown == pytest.approx(_expected(x, train, test), abs=0.0051)
        assert shown[0] == pytest.approx(_frechet(x, test), abs=0.00051)
        counts = np.bincount(machine.predict(x), minlength=10) / len(x)
        assert row[7] == f"{100 * counts.min():.1f}–{100 * counts.max():.1f}"


def test_the_rows_of_real_digits_are_the_floors(made, judge):
    rows = [row for row in Page(made[2]).tables[0] if row[0] == "real digits"]
    for row, n in zip(rows, (SAMPLES, FEW), strict=True):
        floor = judge.floor(n, SEED)
        values = (floor.precision.value, floor.coverage.value)
        assert values[0] > 2 * values[1]  # so that neither is taken for the other
        assert row[3:7] == [f"{DRAWS} × {n}", f"{floor.frechet.value:.3f}"] + [
            f"{value:.2f}" for value in values
        ]


def test_the_terminal_shows_the_table_of_the_page(made):
    _, out, page = made
    for name, *cells in Page(page).tables[0]:
        pattern = r"\s+".join(re.escape(cell) + r"(?: \([^)]*\))?" for cell in [name, *cells])
        assert re.search(f"^{pattern}$", out, re.MULTILINE), name


def test_the_evaluations_are_those_of_the_samplers(made):
    directory, _, page = made
    levels = len(json.loads((directory / "arrays/annealed_langevin.json").read_text())["sigmas"])
    shown = [row[1] for row in Page(page).tables[0][1:] if row[0] != "real digits"]
    assert shown == [str(n) for n in (5 * levels + 1, 71, 35, 20, 1000)]


def test_progress_counts_the_states_that_come(made):
    model = load(made[0])
    for way in ways(model, 2, 2)[:4]:
        x = model.prior.sample(2, way.plan.sigmas[0].item())
        assert len(list(way.plan.run(model, x, torch.randn_like))) == way.length


def test_samples_are_those_of_the_public_functions(made):
    model = load(made[0])
    optimize(model, batch=SAMPLES)
    for name, steps in (("heun", 18), ("dpm_solver", 20), ("annealed_langevin", None)):
        drawn = sample(model, SAMPLES, name, steps=steps, seed=SEED)
        assert torch.equal(drawn, _kept(made[0], name))


def test_the_published_ladder_is_the_papers(made):
    model = load(made[0])
    way = ways(model, 2, 2)[4]
    assert torch.equal(way.plan.sigmas, geometric(1.0, 0.01, 10))
    assert way.plan.options == {"steps": 100, "epsilon": 2e-5}
    # few steps, for many forget where they began; and not every second of 85 states is the last
    short = replace(way, plan=Plan("annealed_langevin", way.plan.sigmas[:5], {"steps": 17}))
    drawn, noise = draw(model, short, SEED), seeded(SEED)
    start = uniform_like(torch.empty(2, 1, 8, 8), noise=noise)
    chain = list(annealed_langevin(model, start, short.plan.sigmas, steps=17, noise=noise))
    assert torch.equal(drawn.x, chain[-1].x)
    assert [state.step for state in drawn.frames] == [*range(2, 85, 2), 85]
    assert all(torch.equal(frame.x, chain[frame.step - 1].x) for frame in drawn.frames)


def test_the_seed_is_that_of_training_too(made):
    assert json.loads((made[0] / "config.json").read_text())["seed"] == SEED


# ── The measures ─────────────────────────────────────────────────────────────────────────────────


def test_measures_of_good_samples(judge):
    x = judge.train[::12] + 0.05 * torch.randn(judge.train[::12].shape)
    found = judge.measure(x)
    values = [found.frechet, found.precision, found.coverage, found.ratio]
    arrays = [part.flatten(1).double().numpy() for part in (x, judge.train, judge.test)]
    assert [value.value for value in values] == pytest.approx(_expected(*arrays), rel=1e-5)
    assert (found.precision.low, found.precision.high) == wilson(
        round(found.precision.value * len(x)), len(x)
    )
    assert 0.1 < found.coverage.value < 0.9


def test_the_floor_is_the_known_one(judge):
    floor = judge.floor(360, 0)
    # the mean and deviation of 0.149 and 0.012 that the data set's docstring gives
    assert abs(floor.frechet.value - 0.149) < 4 * 0.012 / DRAWS**0.5
    reach = (floor.frechet.high - floor.frechet.low) / 2
    assert 0.5 < reach / (1.96 * 0.012) < 1.6
    # of equal laws, coverage is about 1 − 2⁻⁵
    assert abs(floor.coverage.value - (1 - 2**-5)) < 0.02
    assert floor.ratio.value == 1
    assert sum(floor.shares) == pytest.approx(1)
    assert judge.accuracy > 0.97


def test_the_jackknife_of_a_mean_is_its_standard_error():
    x = torch.randn(10 * PARTS, dtype=torch.float64)
    means = x.view(10, PARTS).mean(0)
    expected = means.std() / PARTS**0.5
    assert _jackknife(x, lambda part: part.mean().item()) == pytest.approx(expected.item())


def test_the_interval_of_the_ratio_is_of_order_statistics(judge):
    x = judge.test[:100] + 0.1
    distances = NearestNeighbors(n_neighbors=1).fit(judge.train.flatten(1)).kneighbors
    ordered, usual = (np.sort(distances(z.flatten(1))[0][:, 0]) for z in (x, judge.test))
    unit = usual[179]
    expected = ordered[49] / unit, ordered[40] / unit, ordered[60] / unit
    assert judge.measure(x).ratio == pytest.approx(expected, rel=1e-5)


def test_losses_are_those_of_the_denoisers(made, judge):
    model, sigma_data = load(made[0]), 0.35
    found = losses(model, judge, torch.tensor([1.0, 0.2]), sigma_data, SEED)
    x, z = judge.test, seeded(SEED)(judge.test)
    prior = model.prior
    cov = prior.cov.double()
    for row, sigma in enumerate((1.0, 0.2)):
        noisy = x + sigma * z
        with torch.no_grad():
            network = noisy + sigma**2 * model(noisy, sigma)
        gap = (noisy - prior.mean).flatten(1).double()
        filtered = torch.linalg.solve(cov + sigma**2 * torch.eye(64).double(), gap.T).T @ cov
        wiener = prior.mean + filtered.view_as(x)
        points = torch.cdist(noisy.flatten(1), judge.train.flatten(1)) ** 2
        heart = (-points / (2 * sigma**2)).softmax(1) @ judge.train.flatten(1)
        weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
        values = [*found.values()]
        for value, denoised in (
            (values[0], network), (values[2], wiener), (values[3], heart.view_as(x))
        ):  # fmt: skip
            expected = weight * (denoised - x).square().flatten(1).mean(1)
            torch.testing.assert_close(value[row], expected.float(), rtol=2e-3, atol=1e-4)


# ── The page ─────────────────────────────────────────────────────────────────────────────────────


def test_the_page_is_whole_and_needs_nothing_else(made):
    text = made[2]
    page = Page(text)
    assert page.titles == [
        "Samples beside real digits",
        "How good they are",
        "From noise to digits",
        "The noise levels, with reasons",
        "What was learned",
        "Nearest neighbours in the training data",
        "How this was made",
    ]
    assert len(page.images) == 6 + 1 + 2 + 2 + 5
    assert len(page.links) == len(page.images)
    for image in page.images:
        kind, data = image["src"].split(";base64,")
        assert kind == "data:image/png"
        assert image["alt"]
        Image.open(io.BytesIO(base64.b64decode(data))).load()
    assert not re.search(r"http|<script|<link|url\(|@import", text)


def test_the_page_says_how_it_was_made(made):
    text = html.unescape(made[2])
    assert str(suggest(all_samples(load_data("digits").train))) in text
    assert f"scorefield demo --seed {SEED} --steps 20" in text
    assert f"torch {torch.__version__}" in text
    assert (made[0] / "config.json").read_text() in text
    assert f"wrote {made[0].resolve()}/report.html" in made[1]
    assert "scorefield sample runs/demo -n 64 --sampler heun --out samples.png" in made[1]


def test_the_animation_goes_from_noise_to_the_samples(made):
    source = Page(made[2]).images[6]["src"]
    moving = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    assert moving.n_frames >= 20
    moving.seek(moving.n_frames - 1)
    shown = _kept(made[0], "annealed_langevin")
    expected = images.grid(shown[:32], 8)
    assert np.array_equal(np.asarray(moving)[:, : expected.width], np.asarray(expected))


def test_a_page_of_other_pieces(tmp_path):
    gif = images.animation([Image.new("L", (2, 2), 9)] * 2, ".gif", {})
    picture = report.Picture(gif, "a < b", 'the "first"')
    table = report.Table(["&", "n"], [["<i>", "1\n0–2"]], "a note")
    section = report.Section(
        "<One>", "First & last.\n\nSecond.", [table], "x\n  y", [picture], "{}"
    )
    report.write(tmp_path / "page.html", [section, report.Section("Empty")], title="A & B")
    text = (tmp_path / "page.html").read_text()
    page = Page(text)
    assert page.titles == ["<One>", "Empty"]
    assert page.tables == [[["&", "n"], ["<i>", "1"]]]
    assert "<title>A &amp; B</title>" in text
    assert "<small>0–2</small>" in text
    assert page.images[0]["alt"] == 'the "first"'
    assert page.images[0]["src"].startswith("data:image/gif;base64,")
    assert text.count("<p>") == 2


# ── The directory ────────────────────────────────────────────────────────────────────────────────


def test_what_is_overwritten_is_the_demos_own(made, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(made[0], copy)
    (copy / "letter.txt").touch()
    (copy / "mine.npy").touch()
    package.clear(copy)
    assert {path.name for path in copy.iterdir()} == {"letter.txt", "mine.npy"}


def test_lines_come_where_no_bar_can_be_shown(monkeypatch, capsys):
    monkeypatch.setattr(package, "EVERY", 0.0)
    assert list(package.watched("abc", 3, "spelling", str.upper)) == ["a", "b", "c"]
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line.split() for line in err.splitlines()]
    assert [(words[1], words[3], words[-1]) for words in lines] == [
        (str(i), "3,", letter) for i, letter in enumerate("ABC", 1)
    ]


def test_few_steps_have_a_short_warm_up(monkeypatch):
    monkeypatch.setitem(package.PRESETS, "digits", lambda: overridden(Experiment(), SMALL))
    assert package.experiment(0, 20).training.warmup == 2
    assert package.experiment(0, None).training.warmup == 100
    assert package.experiment(0, None).machine.threads <= 2
