"""The studio's plane: its jobs, the closed forms of its page, and the view in a real browser."""

import csv
import math
import re
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import torch
from canvas import read_address
from PIL import Image
from waiting import SECONDS, wait_for_address, wait_until

pytest.importorskip("starlette")

from scorefield import (
    GaussianMixture,
    annealed_langevin,
    diagnose,
    final,
    geometric,
    seeded,
    wilson,
)
from scorefield.studio import plane, plane_training, work
from scorefield.studio.context import Studio
from scorefield.studio.jobs import JOBS
from scorefield.studio.server import PAGE
from scorefield.studio.targets import TargetSettings, make_target
from scorefield.studio.wire import pack

pytest_plugins = ["studio_browser"]

LADDER = [20.0, 6.0, 2.0, 1.0]
MODES = torch.tensor([[-5.0, -5.0], [5.0, 5.0]], dtype=torch.float64)


STUDIO = Studio(None, Path("runs"))


def frames_of(job, **settings):
    return [frame for frame in job(STUDIO, settings) if frame is not None]


def test_the_page_lists_each_sampler_of_the_plane():
    page = (PAGE / "plane_settings.js").read_text(encoding="utf-8")
    rows = re.search(r"SAMPLERS = \[(.*?)\n\];", page, re.S)[1]
    unmatched = set(re.findall(r'\["(\w+)", ', rows)) ^ set(plane.PLANE_SAMPLERS)
    assert not unmatched, f"plane_settings.js, SAMPLERS: add or remove {unmatched}"


# ── Jobs ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"particles": 9}, "setting particles does not exist: there are target, points"),
        ({"n": 10.5}, "n=10.5: give a whole number"),
        ({"n": True}, "n=True: give a whole number"),
        ({"n": 9}, "n=9: give 20 to 4000"),
        ({"epsilon": "0.1"}, "epsilon='0.1': give a number"),
        ({"epsilon": math.nan}, "epsilon=nan: give 1e-09 to 10000"),
        ({"first": "magic"}, "first='magic': there are langevin, annealed_langevin"),
        ({"ladder": 3}, r"ladder=3: give \[a number, ...\]"),
        ({"ladder": [3.0]}, "ladder has 1 numbers: give 2 to 64"),
        ({"ladder": [3.0, -1.0]}, "ladder=-1: give 0.0001 to 10000"),
        ({}, "ladder: missing"),
        ({"ladder": LADDER[::-1]}, "strictly decrease"),
        ({"ladder": LADDER, "target": "points", "points": [1]}, "points has 1 numbers"),
        ({"ladder": LADDER, "target": "points"}, "no points yet: draw one"),
    ],
)
def test_wrong_settings_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        frames_of(plane.sample_plane, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"first": "langevin", "second": "annealed_langevin", "second_steps": 3},
        {"first": "underdamped", "second": "heun", "convention": "official", "epsilon": 0.01},
        {"second": "annealed_langevin", "second_score": "network", "iterations": 3},
        {"first": "dpm_solver_sde", "second": "adaptive", "start": "prior", "target": "circle"},
        {"first": "ancestral", "target": "spirals", "start": "prior"},
        {"target": "points", "points": [1, 2.5, -3, 0.25], "spread": 0.3},
    ],
)
def test_copied_python_gives_the_same_particles_bit_for_bit(settings):
    settings = {
        "ladder": LADDER,
        "n": 50,
        "first_steps": 7,
        "second_steps": 5,
        "seed": 3,
    } | settings
    first, *_, last = frames_of(plane.sample_plane, **settings)
    assert np.array_equal(first.arrays["first"], first.arrays["second"])
    names = {}
    exec(plane.write_sampling(settings, STUDIO)["python"], names)
    for side in ("first", "second"):
        assert np.array_equal(last.arrays[side], names[side].numpy())
        assert last.header[side]["sigma"] == pytest.approx(LADDER[-1])


def test_particles_that_are_stopped_within_a_step_move_no_more(monkeypatch):
    """A step of `adaptive` takes as many evaluations as its samples need, tens of them here."""
    own, calls = work.Task(1, "plane.sample", {}, SimpleNamespace(wake=lambda: None)), []
    score = GaussianMixture._score

    def counted(target, x, sigma):
        calls.append(1)
        if len(calls) == 9:
            own.cancel()
        return score(target, x, sigma)

    monkeypatch.setattr(GaussianMixture, "_score", counted)
    monkeypatch.setattr(work.CURRENT, "task", own, raising=False)
    with pytest.raises(work.Cancelled):
        frames_of(plane.sample_plane, ladder=LADDER, n=20, first="adaptive", first_steps=2)
    assert len(calls) == 9


def test_particles_that_diverge_are_counted():
    """4σ_L² = 4 is the limit; twice of it multiplies distances by 3 in each of 12 · 10 steps."""
    settings = {"ladder": [2.0, 1.5, 1.0], "n": 20, "epsilon": 8.0, "second_steps": 60}
    last = frames_of(plane.sample_plane, **settings)[-1]
    assert last.header["second"]["lost"] == 20
    assert last.header["second"]["modes"] == []
    pack(last, 1, 1)  # JSON has no NaN


def test_shares_of_overlapping_modes_are_their_weights():
    """A count of the nearest modes would give the middle one 0.43 instead of 0.6."""
    weights = torch.tensor([0.2, 0.6, 0.2])
    target = GaussianMixture(torch.tensor([[-1.0, 0], [0, 0], [1, 0]]), 0.25, weights)
    n = 4000
    generator = torch.Generator().manual_seed(0)
    x = target.sample(n, 0.5, noise=lambda x: torch.randn(x.shape, generator=generator))
    for mode, weight in zip(plane.mode_shares(target, x, 0.5), weights.tolist(), strict=True):
        # p(k | x) has at most the variance w(1 − w) of an indicator
        assert abs(mode["share"] - weight) < 4 * math.sqrt(weight * (1 - weight) / n)
        assert (mode["low"], mode["high"]) == wilson(round(mode["share"] * n), n)


def test_the_target_comes_with_its_ladder():
    (frame,) = frames_of(plane.show_target)
    paper = frame.header["paper"]
    assert (paper["steps"], paper["epsilon"], paper["convention"]) == (300, 0.1, "paper")
    torch.testing.assert_close(
        torch.tensor(paper["ladder"]), geometric(20.0, 1.0, 10), rtol=1e-3, atol=0
    )
    (frame,) = frames_of(plane.show_target, target="circle")
    assert frame.header["paper"] is None
    assert frame.header["suggested"]["ladder"][-1] == pytest.approx(0.1)
    oracle = make_target(TargetSettings("circle"))
    assert np.array_equal(frame.arrays["means"], oracle.means.numpy())


def test_a_diagnosis_judges_the_ladder_and_can_end_at_each_step():
    """At σ_L = 1, ε = 5 is above the limit of 4."""
    settings = {"ladder": LADDER, "n": 20, "steps": 2}
    (frame,) = frames_of(plane.diagnose_plane, **settings, epsilon=5.0)
    assert "unstable" in frame.header["verdicts"][0]
    *parts, frame = plane.diagnose_plane(STUDIO, settings)
    assert parts == [None] * (4 + 4 * 2)  # the levels of the score, and the steps of the chains
    target = make_target(TargetSettings())
    options = {"epsilon": 0.1, "convention": "paper", "n": 20, "noise": seeded(0), "steps": 2}
    diagnosis = diagnose(target, target, torch.tensor(LADDER), **options)
    assert frame.header["text"] == str(diagnosis)
    assert not [verdict for verdict in diagnosis.verdicts if "unstable" in verdict]


def test_a_stopped_training_goes_on_as_if_it_had_not_been_stopped():
    settings = {"iterations": 6, "sigma": 2.0}
    with torch.no_grad():
        steps = plane_training.train_plane(STUDIO, settings)
        for _ in range(4):  # the first field, and three steps
            next(steps)
        steps.close()
        *_, last = frames_of(plane_training.train_plane, **settings)
        again = frames_of(plane_training.train_plane, **settings | {"sigma": 1.0})
    assert [frame.header["step"] for frame in again] == [6]  # another σ trains nothing again
    names = {}
    exec(plane_training.write_training(settings, STUDIO)["python"], names)
    x = plane_training.cell_middles(10.0, plane_training.FIELD_ARROWS)
    with torch.no_grad():
        assert np.array_equal(last.arrays["arrows"], names["model"](x, 2.0).numpy())


def test_a_network_that_is_only_looked_at_is_not_trained():
    settings = {"iterations": 5, "sigma": 3.0, "sigma_max": 9.0}
    with torch.no_grad():
        steps = plane_training.train_plane(STUDIO, settings)
        for _ in range(3):  # the first field, and two steps
            next(steps)
        steps.close()
    (frame,) = frames_of(plane_training.train_plane, **settings | {"train": False, "sigma": 2.0})
    assert frame.header["step"] == 2
    other = settings | {"train": False, "sigma_max": 8.0}
    (empty,) = frames_of(plane_training.train_plane, **other)
    (kept,) = frames_of(plane_training.train_plane, **settings | {"train": False})
    assert (empty.header["step"], kept.header["step"]) == (0, 2)


def test_particles_on_the_learned_score_come_with_its_arrows_at_their_noise():
    """The network of the panel is the one that the section below it has trained."""
    network = {"iterations": 4, "sigma_max": LADDER[0], "sigma_min": LADDER[-1]}
    settings = {"ladder": LADDER, "n": 20, "first_steps": 2, "second_steps": 2, "iterations": 4}
    with torch.no_grad():
        *_, field = frames_of(plane_training.train_plane, **network, sigma=LADDER[0])
        frames = frames_of(plane.sample_plane, **settings, second_score="network")
        *_, end = frames_of(plane_training.train_plane, **network, sigma=LADDER[-1])
    assert np.array_equal(frames[0].arrays["second_arrows"], field.arrays["arrows"])
    assert np.array_equal(frames[-1].arrays["second_arrows"], end.arrays["arrows"])
    exact = frames_of(plane.sample_plane, **settings)
    assert "second_arrows" not in exact[-1].arrays
    assert np.array_equal(frames[-1].arrays["first"], exact[-1].arrays["first"])
    assert not np.array_equal(frames[-1].arrays["second"], exact[-1].arrays["second"])


def test_a_long_sampling_shows_a_state_of_every_few(monkeypatch):
    monkeypatch.setattr(plane, "SHOWN_STATES", 3)
    settings = {"ladder": LADDER, "n": 20, "first_steps": 1, "second_steps": 50}
    frames = frames_of(plane.sample_plane, **settings)
    steps = [frame.header["second"]["step"] for frame in frames]
    assert steps == [*range(0, 4 * 50 + 1, plane.SHOWN_EVERY)]
    assert all(frame.header["keep"] for frame in frames)  # the slider leads back to each


def test_the_map_of_errors_is_relative_to_the_exact_score():
    target = make_target(TargetSettings())
    exact = plane_training.error_map(target, target, 10.0, 1.0)
    assert (exact == 0).all()
    double = plane_training.error_map(lambda x, sigma: 2 * target(x, sigma), target, 10.0, 1.0)
    slope = target(plane_training.cell_middles(10.0, 48), 1.0).norm(dim=1)
    # 100 % is 1.5 of the 2 decades
    torch.testing.assert_close(double[slope > 0.3], torch.full_like(double[slope > 0.3], 0.75))
    assert (double[slope < 0.29] < 0.75).all()


# ── Closed forms of the page ─────────────────────────────────────────────────────────────────────

FIGURE = """
const means = MEANS;
const target = gaussianMixture(means, 0.25, [1, 3, 4]);
const line = gaussianMixture([[-1], [2]], 0.5);
const x = Float64Array.from(POINTS);
const xs = spaced(-3, 3, 5);
const [samples, repeated] = [5, 5].map((seed) => (
  sampleMixture(target, 20000, seededRandom(seed), 0.5)));
const chain = sampleMixture(gaussianMixture([[0, 0]], 0), 1280, seededRandom(1), 8);
const modes = gaussianMixture([[-5, -5], [5, 5]], 0, [0.2, 0.8]);
const options = { epsilon: 0.1, steps: 100, random: seededRandom(2), convention: "paper" };
for (const state of annealedLangevin(modes, chain, SIGMAS, options));
const one = gaussianMixture([[0, 0]], 0);
const [paper, official] = ["paper", "official"].map((convention) => {
  const y = sampleMixture(one, 1280, seededRandom(3), 1);
  const step = { alpha: 1, steps: 30, random: seededRandom(4), convention };
  for (const state of langevin(one, y, 1, step));
  return [...y];
});
const circle = spaced(-2, 2, 41);
const radius = Float64Array.from({ length: 41 * 41 }, (_, k) => (
  -Math.hypot(circle[k % 41], circle[Math.floor(k / 41)])));
globalThis.results = {
  score: [...mixtureScore(target, x, 0.7)], logDensity: [...logDensity(target, x, 0.7)],
  lattice: [...densityOnLattice(target, 0.7, xs, spaced(-2, 2, 4))],
  lineScore: [...mixtureScore(line, xs, 0.3)], lineDensity: [...densityOnLattice(line, 0.3, xs)],
  samples: [...samples], repeated: repeated.every((v, i) => v === samples[i]),
  chain: [...chain], paper, official,
  contour: contour(radius, circle, circle, -1),
};
"""


@pytest.fixture(scope="module")
def figure(browser, tmp_path_factory):
    """Results of a page without a server that includes both files, as figures of documents do."""
    points = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    means = [[-1.0, 0.5], [2.0, 0.0], [0.0, -1.0]]
    code = FIGURE.replace("MEANS", str(means)).replace("POINTS", str(points.flatten().tolist()))
    code = code.replace("SIGMAS", str(geometric(20.0, 1.0, 10).tolist()))
    sources = [(PAGE / name).read_text() for name in ("mixture.js", "draw.js")]
    file = tmp_path_factory.mktemp("figure") / "figure.html"
    script = "\n".join([*sources, code])
    file.write_text(f'<!DOCTYPE html><meta charset="utf-8"><script type="module">{script}</script>')
    page = browser.new_page()
    page.set_default_timeout(1000 * SECONDS)
    page.goto(file.as_uri())
    results = page.wait_for_function("() => globalThis.results").json_value()
    page.close()
    means = torch.tensor(means, dtype=torch.float64)
    weights = torch.tensor([1, 3, 4], dtype=torch.float64) / 8
    target = GaussianMixture(means, 0.25, weights)
    return SimpleNamespace(results=results, x=points, target=target)


def close(numbers, expected):
    torch.testing.assert_close(torch.tensor(numbers, dtype=torch.float64), expected.flatten())


def test_the_page_computes_the_mixture_as_the_package_does(figure):
    close(figure.results["score"], figure.target(figure.x, 0.7))
    close(figure.results["logDensity"], figure.target.log_prob(figure.x, 0.7))
    x = torch.linspace(-3, 3, 5, dtype=torch.float64)
    rows = torch.cartesian_prod(torch.linspace(-2, 2, 4, dtype=torch.float64), x).flip(1)
    close(figure.results["lattice"], figure.target.log_prob(rows, 0.7).exp())
    means = torch.tensor([[-1.0], [2.0]], dtype=torch.float64)
    line = GaussianMixture(means, 0.5, torch.full((2,), 0.5))
    close(figure.results["lineScore"], line(x[:, None], 0.3))
    close(figure.results["lineDensity"], line.log_prob(x[:, None], 0.3).exp())


def test_the_page_samples_the_mixture(figure):
    assert figure.results["repeated"]
    x = torch.tensor(figure.results["samples"]).view(-1, 2).double()
    n, prior = len(x), figure.target.prior
    cov = prior.dense + 0.5**2 * torch.eye(2)
    assert ((x.mean(0) - prior.mean).abs() < 4 * (cov.diagonal() / n).sqrt()).all()
    shares = figure.target.responsibilities(x, 0.5).mean(0)
    weights = figure.target.weights
    assert ((shares - weights).abs() < 4 * (weights * (1 - weights) / n).sqrt()).all()
    gap = x - x.mean(0)
    products = gap[:, :, None] * gap[:, None]
    assert ((products.mean(0) - cov).abs() < 4 * products.std(0) / n**0.5).all()


def test_annealed_langevin_of_the_page_finds_the_weights_as_the_package_does(figure):
    x = torch.tensor(figure.results["chain"]).view(-1, 2)
    share = (x.sum(1) < 0).double().mean().item()
    target = GaussianMixture(MODES.float(), 0.0, torch.tensor([0.2, 0.8]))
    generator = torch.Generator().manual_seed(0)

    def noise(x):
        return torch.randn(x.shape, generator=generator)

    start = 8 * torch.randn(1280, 2, generator=generator)
    options = {"steps": 100, "epsilon": 0.1, "convention": "paper", "noise": noise}
    reference = final(annealed_langevin(target, start, geometric(20.0, 1.0, 10), **options))
    expected = (reference.sum(1) < 0).double().mean().item()
    assert abs(share - expected) < 4 * math.sqrt(2 * 0.25 * 0.75 / 1280)


def test_a_step_of_the_page_has_the_size_of_its_convention(figure):
    """On N(0, I), a step with the drift α ends at the variance 2/(2 − α)."""
    for convention, alpha in ("paper", 0.5), ("official", 1.0):
        square = np.square(figure.results[convention])
        variance = 2 / (2 - alpha)
        assert abs(square.mean() - variance) < 4 * variance * (2 / len(square)) ** 0.5


def test_a_contour_is_where_the_level_is(figure):
    """On the unit circle: linear interpolation errs by at most h²/8 · 1/r, with h = 0.1."""
    ends = np.array(figure.results["contour"]).reshape(-1, 2)
    assert np.abs(np.hypot(*ends.T) - 1).max() < 0.1**2 / 8
    length = np.hypot(*np.diff(ends.reshape(-1, 2, 2), axis=1)[:, 0].T).sum()
    assert length == pytest.approx(2 * math.pi, rel=0.01)


# ── The view ─────────────────────────────────────────────────────────────────────────────────────


def pixels(page, name):
    """Return the pixels of a canvas, (rows, columns, 3)."""
    canvas = page.locator(f'canvas[aria-label="{name}"]')
    return decode(canvas.evaluate("canvas => canvas.toDataURL()"))


def decode(address):
    """Return the pixels of a picture on white."""
    image = read_address(address)
    paper = Image.new("RGBA", image.size, "white")
    return np.array(Image.alpha_composite(paper, image).convert("RGB")).astype(int)


def number(page, name):
    return float(page.get_by_label(name, exact=True).inner_text())


def read_csv(download):
    with open(download.path()) as file:
        rows = [[float(v) for v in row] for row in [*csv.reader(file)][1:]]
    return np.array(rows, np.float32)


def saved(page):
    with page.expect_download() as download:
        page.get_by_role("button", name="Save particles").click()
    return read_csv(download.value)


def wait_for_field(page):
    """Wait for the distribution and its ladder."""
    page.locator(".ladder .tick").first.wait_for()


def run_both(page):
    """Run both samplers, and wait until the last state has been played."""
    run = page.get_by_role("button", name="Run both")
    run.click()  # its name is Stop from here
    run.wait_for()
    page.get_by_role("button", name="Play", exact=True).wait_for()


def coloured(image, rgb):
    """Return where the pixels have a colour."""
    return (np.abs(image - rgb) <= 8).all(2)


BLUE = (0x00, 0x72, 0xB2)
ORANGE = (0xA3, 0x5F, 0x00)
INK = (0x1D, 0x23, 0x30)


def test_modes_are_numbered_in_the_picture_as_in_the_table(open_page):
    with open_page("#/plane", viewport={"width": 1000, "height": 800}) as page:
        wait_for_field(page)
        rows, columns = coloured(pixels(page, "First sampler"), INK).nonzero()
        size = len(pixels(page, "First sampler"))
        x, y = columns / size * 20 - 10, 10 - rows / size * 20
        table = page.get_by_role("table", name="First sampler: modes")
        for row, place, weight in (1, -5, "0.200"), (2, 5, "0.800"):
            assert table.get_by_role("row").nth(row).inner_text().split()[:2] == [str(row), weight]
            assert ((abs(x - place) < 0.5) & (abs(y - place) < 0.5)).sum() > 5
        assert (abs(abs(x) - 5) < 0.5).all()  # nothing else is written in ink


@pytest.mark.parametrize(
    ("steps", "motion"),
    [(200, "reduce"), pytest.param(300, "no-preference", marks=pytest.mark.slow)],
)
def test_figure_3_happens_on_the_page(open_page, steps, motion):
    """In 300 steps at a level, as the page does by itself, and quickly in 200 without motion."""
    view = f"#/plane?first_steps={steps}&second_steps={steps}&speed=4"
    window = {"width": 1000, "height": 800}
    with open_page(view, viewport=window, reduced_motion=motion) as page:
        wait_for_field(page)
        page.get_by_role("button", name="Run both").click()
        page.get_by_text(f"after {10 * steps} evaluations").first.wait_for()
        low, high = map(
            float, page.get_by_label("Second sampler: mode 1, 95 %").inner_text().split("–")
        )
        assert low <= 0.2 <= high
        assert abs(number(page, "First sampler: mode 1, share") - 0.2) > 0.1
        assert number(page, "First sampler: σ") == number(page, "Second sampler: σ") == 1
        # the particles that are drawn are in the shares that are written: (−5, −5) is below left
        for name, colour in ("First", BLUE), ("Second", ORANGE):
            dots = coloured(pixels(page, f"{name} sampler"), colour)
            half = len(dots) // 2
            below, above = dots[half:, :half].sum(), dots[:half, half:].sum()
            assert below > 100 < above
            assert below + above > 0.99 * dots.sum()
            # dots overlap more in the larger mode
            share = number(page, f"{name} sampler: mode 1, share")
            assert share - 0.03 < below / (below + above) < share + 0.15
        page.get_by_label("Time").press("Home")
        starts = saved(page)
        assert np.array_equal(starts[:, :2], starts[:, 2:])
        assert np.abs(starts).max() <= 8
        assert len(starts) == 1280
        # only particles have a colour; their edges mix it with the two backgrounds
        first, second = (
            np.ptp(pixels(page, f"{name} sampler"), axis=2) > 80 for name in ("First", "Second")
        )
        assert (first == second).mean() > 0.98


def ink(image, middle, along, share, aside):
    """Return how dark pixels are at a share of arrows from their middles, and aside of them."""
    across = aside * along[:, ::-1] * (1, -1)
    places = np.stack([middle + share * along + across, middle + share * along - across])
    column, row = np.moveaxis(np.round(places).astype(int), -1, 0)
    return 1 - image[row, column].mean((0, -1)) / 255


def test_arrows_have_the_direction_of_the_score_at_the_slider(open_page):
    """The shaft lies along the score, and the head, which is wider, is at its end."""
    target = GaussianMixture(MODES, 0.0, torch.tensor([0.2, 0.8]))
    side, limit = 15, 10.0
    places = limit * ((2 * torch.arange(side).double() + 1) / side - 1)
    x = torch.cartesian_prod(places, places)
    x = x[(x > -8).all(1)]  # away from the numbers of the axes
    scores = []
    with open_page(
        "#/plane", viewport={"width": 1000, "height": 800}, device_scale_factor=2
    ) as page:
        wait_for_field(page)
        for key in ("Home", "End"):
            page.get_by_label("Noise level σ of the picture").press(key)
            s = torch.nn.functional.normalize(target(x, number(page, "First sampler: σ")), dim=1)
            scores.append(s)
            image = pixels(page, "First sampler")
            scale = len(image) / (2 * limit)
            along = (s * torch.tensor([1, -1])).numpy() * 0.62 * len(image) / side
            middle = ((x - torch.tensor([-limit, limit])) * torch.tensor([1, -1])).numpy() * scale

            ink_at = partial(ink, image, middle, along)
            shaft = np.mean([ink_at(share, 0) for share in (-0.4, -0.2, 0.4)], axis=0)
            has_shaft = shaft - ink_at(0, 0.4) > 0.15
            has_head = ink_at(0.22, 0.09) - ink_at(-0.22, 0.09) > 0.15
            # contours cross some arrows
            assert (has_shaft & has_head).mean() > 0.9
    turned = (scores[0] * scores[1]).sum(1) < 0.5
    assert turned.float().mean() > 0.2  # so that the arrows of one σ would fail at the other


def ladder_of(page):
    return [
        float(v)
        for v in page.get_by_label("Levels", exact=True)
        .and_(page.locator("output"))
        .inner_text()
        .split(" · ")
    ]


def axis_of(tick):
    return [float(tick.get_attribute(f"aria-value{end}")) for end in ("min", "max")]


@pytest.mark.slow
def test_the_stability_limit_is_on_the_axis_or_said_to_be_beside_it(open_page):
    with open_page("#/plane?ladder=20,5,1") as page:
        wait_for_field(page)
        for convention, epsilon, aside in (
            ("paper", 0.1, ""),
            ("paper", 1e-6, ", which is left of this axis"),
            ("official", 0.02, ""),
            ("official", 9000, ""),
        ):
            page.get_by_label("ε counts as in the authors'").select_option(convention)
            page.get_by_label("Step size ε").fill(str(epsilon))
            page.get_by_label("Step size ε").press("Enter")
            sigma = math.sqrt(epsilon / {"paper": 4, "official": 2}[convention])
            head, tail = page.get_by_label("Limit of the last level").inner_text().split("σ = ")
            assert head == "Unstable with this ε if the last level is below "
            assert tail == f"{sigma:.4g}{aside}"
            low, high = axis_of(page.get_by_role("slider", name="Level 3 of 3"))
            share = math.log(sigma / low) / math.log(high / low)
            assert aside or 0.05 < share < 0.95
            boxes = (page.locator(f".{name}").bounding_box() for name in ("unstable", "ladder"))
            hatch, track = (box["width"] for box in boxes)
            # two pixels are the line of the limit itself
            assert hatch == pytest.approx(max(0, share * track), abs=2)


def test_ticks_of_the_ladder_are_dragged_by_mouse_and_by_keys(open_page):
    with open_page("#/plane", viewport={"width": 1000, "height": 800}) as page:
        wait_for_field(page)
        before = ladder_of(page)
        assert before == pytest.approx(geometric(20.0, 1.0, 10).tolist(), rel=1e-3)
        tick = page.get_by_role("slider", name="Level 10 of 10")
        tick.press("ArrowLeft")
        assert ladder_of(page) == [*before[:-1], pytest.approx(1 / 1.03, rel=1e-3)]
        assert "is below 4σ_L² = 3.77" in page.get_by_label("Stability").inner_text()
        box, track = tick.bounding_box(), page.locator(".ladder").bounding_box()
        middle = box["y"] + box["height"] / 2
        page.mouse.move(box["x"] + box["width"] / 2, middle)
        page.mouse.down()
        page.mouse.move(track["x"] + 0.1 * track["width"], middle, steps=3)
        page.mouse.up()
        low, high = axis_of(tick)
        assert ladder_of(page)[-1] == pytest.approx(low * (high / low) ** 0.1, rel=0.01)
        page.get_by_label("Step size ε").fill("3")
        page.get_by_label("Step size ε").press("Enter")
        assert "Unstable: ε = 3 is not below" in page.get_by_label("Stability").inner_text()
        page.wait_for_url("**epsilon=3**")
        state = parse_qs(urlsplit(page.url).fragment.split("?")[1])
        assert [float(v) for v in state["ladder"][0].split(",")] == ladder_of(page)
        assert state["epsilon"] == ["3"]
        page.get_by_role("slider", name="Level 2 of 10").press("Delete")
        assert ladder_of(page)[:2] == [before[0], before[2]]


CONTROLS = """() => Object.fromEntries(
  [...document.querySelectorAll("main input, main select")].map((input) => [
    `${input.closest("fieldset")?.className}: ${input.ariaLabel ?? input.labels[0].textContent}`,
    input.value,
  ]))"""
"""Values of all controls by name."""
CHOICES = {
    "ε counts as in the authors'": "paper",
    "Score": "network",
    "Start": "square",
    "Speed": "4",
}
FIELDS = {
    "Step size ε": "0.05",
    "Particles": "60",
    "Seed": "7",
    "Levels": "5",
    "Training steps": "20",
}


@pytest.mark.slow
def test_a_reloaded_page_is_as_it_was(open_page):
    """Every control has another value than it has by itself, and so has the particles' time."""
    view = "#/plane?target=points&points=5,5,-3,2.5&spread=0.7"
    with open_page(view, viewport={"width": 1000, "height": 800}) as page:
        wait_for_field(page)
        own = page.evaluate(CONTROLS)
        for label, value in CHOICES.items():
            page.get_by_label(label, exact=True).select_option(value)
        for label, value in FIELDS.items():
            field = page.get_by_label(label, exact=True).and_(page.locator("input"))
            field.fill(value)
            field.press("Enter")
        for side, method, steps in ("first", "heun", "11"), ("second", "underdamped", "12"):
            group = page.locator(f".group.{side}")
            group.get_by_label("Method").select_option(method)
            group.locator("input").fill(steps)
        page.get_by_label("Noise level σ of the picture").press("ArrowRight")
        run_both(page)
        for _ in range(3):
            page.get_by_label("Time").press("ArrowLeft")
        before, image = page.evaluate(CONTROLS), pixels(page, "Second sampler")
        # but what the address had at first
        same = {name.split(": ")[1] for name in before if before[name] == own.get(name)}
        assert same == {"Distribution", "Width of each point's Gaussian"}
        wait_for_address(page)
        page.reload()
        page.wait_for_function(
            "time => document.querySelector('[aria-label=Time]').value === time",
            arg=before["undefined: Time"],
        )
        assert page.evaluate(CONTROLS) == before
        page.get_by_role("button", name="Run both").wait_for()
        assert np.array_equal(pixels(page, "Second sampler"), image)


def test_values_that_the_page_does_not_know_are_those_of_a_new_one(open_page):
    """An address that was cut off or edited still opens a page that can run."""
    wrong = "target=x&first=x&second=x&start=x&convention=x&second_score=x&sigma=-1&time=x"
    few = f"#/plane?{wrong}&n=20&first_steps=2&second_steps=2&ladder="
    with open_page(f"{few}low", reduced_motion="reduce") as page:
        for ladder in ("low", "3", "1,20", "20,0"):
            page.goto(f"{page.url.split('#')[0]}{few}{ladder}")
            page.locator(".ladder .tick").nth(9).wait_for()
            assert page.get_by_label("First sampler: σ").inner_text() == "1"
            page.get_by_role("button", name="Run both").click()
            for side in ("First", "Second"):
                steps = page.get_by_label(f"{side} sampler: steps")
                steps.filter(has_text="after 20 evaluations").wait_for()


def test_on_a_narrow_screen_the_distribution_is_above_what_is_drawn(open_page):
    with open_page("#/plane", viewport={"width": 360, "height": 740}) as page:
        wait_for_field(page)
        canvas = page.get_by_label("First sampler", exact=True).and_(page.locator("canvas"))
        places = [
            control.bounding_box()["y"]
            for control in (
                page.get_by_label("Distribution", exact=True).and_(page.locator("select")),
                page.get_by_role("button", name="Run both"),
                canvas,
                page.get_by_label("Method").first,
            )
        ]
        assert places == sorted(places)
        assert places[0] < 740  # without scrolling
        for width in (360, 800):
            page.set_viewport_size({"width": width, "height": 740})
            assert page.evaluate("document.documentElement.scrollWidth") == width
            links = page.get_by_role("navigation").get_by_role("link").all()
            assert len({link.bounding_box()["y"] for link in links}) == 1


def test_a_method_that_starts_from_noise_is_not_started_in_a_square_unawares(open_page):
    with open_page("#/plane?n=20") as page:
        wait_for_field(page)
        warning = page.get_by_text("Heun expects to start from the first level's noise")
        assert not warning.is_visible()
        page.get_by_label("Method").first.select_option("heun")
        assert warning.is_visible()
        page.get_by_label("Start", exact=True).select_option("prior")
        assert not warning.is_visible()


def test_a_ladder_is_diagnosed_in_a_dialog_unless_it_is_stopped(open_page, studio, monkeypatch):
    """The first diagnosis is held back until it is stopped."""
    parts, released, ended = [], threading.Event(), threading.Event()

    def held(studio, settings):
        try:
            for part in plane.diagnose_plane(studio, settings):
                assert not parts or released.wait(SECONDS)
                parts.append(part)
                yield part
        finally:
            ended.set()

    monkeypatch.setitem(JOBS, "plane.diagnose", held)
    with open_page("#/plane?n=20&second_steps=2&epsilon=5") as page:
        wait_for_field(page)
        page.get_by_role("button", name="Diagnose").click()
        page.get_by_text("Diagnosing", exact=True).wait_for()
        wait_until(lambda: parts)
        page.get_by_role("button", name="Stop diagnosing").click()
        page.get_by_text("Diagnosing", exact=True).wait_for(state="hidden")
        # it has ended if it was stopped before its second part
        wait_until(lambda: (job := studio.app.state.worker._running) is None or job.cancelled)
        released.set()
        wait_until(ended.is_set)
        assert len(parts) <= 2  # one was perhaps under way
        page.get_by_role("button", name="Diagnose").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_text("unstable").first.wait_for()  # 4σ_L² = 4
        assert len(dialog.get_by_label("Diagnosis", exact=True).inner_text().splitlines()) > 10
        page.keyboard.press("Escape")
        dialog.wait_for(state="detached")


def test_points_drawn_by_mouse_and_keys_become_the_distribution(open_page):
    with open_page("#/plane", viewport={"width": 1000, "height": 800}) as page:
        wait_for_field(page)
        page.get_by_label("Distribution").select_option("points")
        page.get_by_text("Click or drag in a picture").wait_for()
        canvas = page.get_by_label("First sampler", exact=True).and_(page.locator("canvas"))
        white = pixels(page, "First sampler")
        assert not shaded(white).any()
        side = canvas.evaluate("canvas => canvas.clientWidth")
        canvas.click(position={"x": side * 0.75, "y": side * 0.25})  # (5, 5)
        for key in ["ArrowLeft"] * 4 + ["Enter"]:
            canvas.press(key)
        page.evaluate(LAST_STATUS, {"target": "circle"})  # after the ladder of both points
        wait_for_address(page)
        assert "sigma=" in page.url
        state = parse_qs(urlsplit(page.url).fragment.split("?")[1])
        x1, y1, x2, y2 = map(float, state["points"][0].split(","))
        assert (x1, y1, x2, y2) == pytest.approx((5, 5, 3, 5), abs=0.05)
        canvas.blur()
        image = pixels(page, "First sampler")
        rows, columns = shaded(image).nonzero()
        size = len(image)
        # both Gaussians have a deviation of 0.5, and 99 % of the mass lies within 3.04 of it
        assert columns.mean() / size * 20 - 10 == pytest.approx(4, abs=0.15)
        assert 10 - rows.mean() / size * 20 == pytest.approx(5, abs=0.15)
        assert np.ptp(rows) / size * 20 == pytest.approx(2 * 3.04 * 0.5, abs=0.4)
        page.reload()
        wait_for_field(page)
        assert np.array_equal(pixels(page, "First sampler"), image)


@pytest.mark.slow
def test_points_are_dragged_and_taken_back_by_each_control(open_page):
    """The width of the line that is drawn shows how many points are left."""
    with open_page("#/plane?target=points", viewport={"width": 1000, "height": 800}) as page:
        canvas = page.get_by_label("First sampler", exact=True).and_(page.locator("canvas"))
        suggest = page.get_by_role("button", name="Suggest a ladder")
        page.get_by_text("Click or drag in a picture").wait_for()
        suggest.wait_for(state="hidden")  # there is nothing to suggest it for
        box = canvas.bounding_box()

        def place(x):
            return box["x"] + box["width"] * (x + 10) / 20, box["y"] + box["height"] / 2

        def drawn_until(x):
            """Wait until Gaussians are drawn from x = −6 to this one."""
            page.wait_for_url("**sigma=**")
            image = pixels(page, "First sampler")
            columns = 20 * shaded(image).nonzero()[1] / len(image) - 10
            # 99 % of the mass lies within 3.04 deviations of 0.5
            assert columns.min() == pytest.approx(-6 - 3.04 * 0.5, abs=0.3)
            assert columns.max() == pytest.approx(x + 3.04 * 0.5, abs=0.3)

        page.mouse.move(*place(-6))
        page.mouse.down()
        page.mouse.move(*place(6), steps=3)
        page.mouse.move(*place(16), steps=2)  # out of the picture
        page.mouse.up()
        drawn_until(6)
        wait_for_address(page)
        state = parse_qs(urlsplit(page.url).fragment.split("?")[1])
        points = np.array([float(v) for v in state["points"][0].split(",")]).reshape(-1, 2)
        assert points == pytest.approx(np.array([[-6, 0], [-2, 0], [2, 0], [6, 0]]), abs=0.1)
        page.get_by_role("button", name="Undo").click()
        drawn_until(2)
        canvas.press("Backspace")
        drawn_until(-2)
        suggest.wait_for()
        page.get_by_role("button", name="Clear", exact=True).click()
        page.get_by_text("Click or drag in a picture").wait_for()
        assert not shaded(pixels(page, "First sampler")).any()
        suggest.wait_for(state="hidden")


@pytest.mark.slow
def test_the_ladders_of_figure_3_and_of_the_rules_come_with_their_steps(open_page):
    with open_page(
        "#/plane?first=heun&first_steps=25", viewport={"width": 1000, "height": 800}
    ) as page:
        wait_for_field(page)
        (frame,) = frames_of(plane.show_target)
        suggested, paper = frame.header["suggested"], frame.header["paper"]
        assert ladder_of(page) == paper["ladder"]
        figure_3 = page.get_by_role("button", name="Figure 3's ladder")
        for button, own, stable in (
            (page.get_by_role("button", name="Suggest a ladder"), suggested, "2σ_L²"),
            (figure_3, paper, "4σ_L²"),
        ):
            button.click()
            assert ladder_of(page) == own["ladder"]
            assert stable in page.get_by_label("Stability").inner_text()
            values = page.evaluate(CONTROLS)
            assert float(values["group: Step size ε"]) == own["epsilon"]
            assert values["group: ε counts as in the authors'"] == own["convention"]
            assert int(values["group second: Steps at each level"]) == own["steps"]
            assert values["group first: Levels"] == "25"  # which no ladder has
            # the ticks stand where their levels are on the axis
            track = page.locator(".ladder").bounding_box()
            for i, sigma in enumerate(own["ladder"], 1):
                tick = page.get_by_role("slider", name=f"Level {i} of {len(own['ladder'])}")
                low, high = axis_of(tick)
                share = math.log(sigma / low) / math.log(high / low)
                box = tick.bounding_box()
                middle = box["x"] + box["width"] / 2 - track["x"]
                assert middle == pytest.approx(share * track["width"], abs=2)
        page.get_by_label("Distribution").select_option("circle")
        figure_3.wait_for(state="hidden")
        page.get_by_role("button", name="Suggest a ladder").click()
        (frame,) = frames_of(plane.show_target, target="circle")
        assert ladder_of(page) == frame.header["suggested"]["ladder"]


def test_a_distribution_that_arrives_late_does_not_replace_the_next_choice(open_page, monkeypatch):
    """The studio is still busy with the first one as another is chosen."""
    released = threading.Event()

    def late(studio, settings):
        assert settings["target"] != "modes" or released.wait(SECONDS)
        yield from plane.show_target(studio, settings)

    monkeypatch.setitem(JOBS, "plane.target", late)
    with open_page("#/plane", viewport={"width": 1000, "height": 800}) as page:
        page.get_by_label("Distribution").select_option("points")
        page.get_by_text("Click or drag in a picture").wait_for()
        released.set()
        page.evaluate(LAST_STATUS, {"target": "circle"})  # after the first one
        assert page.get_by_text("Click or drag in a picture").is_visible()
        assert not shaded(pixels(page, "First sampler")).any()


LAST_STATUS = """async (settings) => {
  const { run } = await import("/page/wire.js");
  return new Promise((resolve) => run("plane.target", settings, {
    status({ status }) { if (status === "done") resolve(status); },
  }));
}"""


def shaded(image):
    """Return where the density is shaded, by the colours of a light page."""
    shades = ((0xEE, 0xF1, 0xF4), (0xDF, 0xE5, 0xEA), (0xCB, 0xD4, 0xDC))
    return np.any([(image == shade).all(2) for shade in shades], axis=0)


def test_a_network_trained_on_the_page_comes_closer_to_the_exact_score(open_page):
    with open_page("#/plane?iterations=75", viewport={"width": 1000, "height": 800}) as page:
        wait_for_field(page)
        page.get_by_role("button", name="Train a network").click()
        page.get_by_text("Trained").wait_for()
        assert number(page, "Training step") == 75
        assert number(page, "Relative error of the score") < 0.5  # 0.99 before the first step
        assert number(page, "Loss now") < 0.5
        # dark blue is an error below 10 %: it is small where data are, such as above (5, 5)
        assert np.subtract(*pixels(page, "Map of the error").transpose(2, 0, 1)[[2, 0]]).max() > 20
        curve = pixels(page, "Loss")
        assert coloured(curve, BLUE).sum() > 100
        page.get_by_role("button", name="Export HTML").click()
        page.get_by_role("dialog").get_by_text("There are no particles yet").wait_for()
        page.get_by_role("button", name="Close").click()
        page.reload()  # the studio still has it
        page.get_by_label("Training step").filter(has_text="75").wait_for()
        assert np.array_equal(pixels(page, "Loss"), curve)


def test_a_look_at_the_network_does_not_train_it_nor_hold_a_training_up(open_page, monkeypatch):
    """Looks wait for the test, so that the next one and a training begin during them."""
    asked, released = [], threading.Event()

    def held(studio, settings):
        asked.append(settings["train"])
        assert settings["train"] or released.wait(SECONDS)
        yield from plane_training.train_plane(studio, settings)

    monkeypatch.setitem(JOBS, "plane.train", held)
    with open_page("#/plane?iterations=25") as page:
        wait_for_field(page)
        train = page.get_by_role("button", name="Train a network")
        train.click()
        page.get_by_text("Trained", exact=True).wait_for()
        slider = page.get_by_label("Noise level σ of the picture")
        level = page.get_by_label("Noise level of the learned score")
        slider.press("Home")
        wait_until(lambda: len(asked) == 2)
        slider.press("End")
        page.evaluate(AFTER_LOOK)
        released.set()
        level.filter(has_text="20").wait_for()
        assert asked == [True, False, False]
        released.clear()
        slider.press("Home")
        wait_until(lambda: len(asked) == 4)
        train.click()
        released.set()
        wait_until(lambda: len(asked) == 5)
        assert asked[3:] == [False, True]
        level.filter(has_text=re.compile("^1$")).wait_for()


def test_a_training_that_is_stopped_goes_on_at_its_button_and_not_at_the_slider(
    open_page, studio, monkeypatch
):
    """The answer to Stop is held back, as by a long step, while the slider of σ is moved."""
    asked, released = [], threading.Event()

    def held(studio, settings):
        asked.append(settings["train"])
        for i, frame in enumerate(plane_training.train_plane(studio, settings)):
            yield frame
            assert (len(asked), i) != (1, 6) or released.wait(SECONDS)

    monkeypatch.setitem(JOBS, "plane.train", held)
    monkeypatch.setattr(plane_training, "SHOW_EVERY", 5)
    with open_page("#/plane?iterations=8", viewport={"width": 800, "height": 700}) as page:
        wait_for_field(page)
        train = page.get_by_role("button", name="Train a network")
        step = page.get_by_label("Training step", exact=True)
        train.click()
        step.filter(has_text="5").wait_for()
        before = pixels(page, "Map of the error")
        page.get_by_role("button", name="Stop training").click()
        page.get_by_text("Stopped; train again to continue").wait_for()
        page.get_by_label("Noise level σ of the picture").press("End")
        page.evaluate(AFTER_LOOK)
        wait_until(lambda: studio.app.state.worker._running.cancelled)
        released.set()
        page.get_by_label("Noise level of the learned score").filter(has_text="20").wait_for()
        assert asked == [True, False]
        assert step.inner_text() == "7"  # one more was under way
        assert (pixels(page, "Map of the error") != before).any()
        train.click()
        page.get_by_text("Trained", exact=True).wait_for()
        assert asked == [True, False, True]
        assert step.inner_text() == "8"


AFTER_LOOK = "() => new Promise((resolve) => setTimeout(resolve, 300))"
"""Wait longer than the slider has to rest before the network is looked at."""


def test_the_noise_level_of_the_slider_next_to_particles_is_kept_by_a_reload(open_page):
    view = "#/plane?n=20&first_steps=1&second_steps=1"
    with open_page(view, reduced_motion="reduce") as page:
        wait_for_field(page)
        page.get_by_role("button", name="Run both").click()
        end = page.get_by_text("after 10 evaluations").first
        end.wait_for()
        page.get_by_label("Noise level σ of the picture").press("End")
        level = number(page, "First sampler: σ")
        assert level > LADDER[0]
        wait_for_address(page)
        page.reload()
        end.wait_for()
        assert number(page, "First sampler: σ") == level
        page.get_by_label("Time").press("ArrowLeft")
        assert number(page, "First sampler: σ") == LADDER[-1]  # plain dynamics stay there


@pytest.mark.slow
def test_a_page_that_is_reloaded_as_particles_play_shows_them_where_they_were(open_page):
    with open_page("#/plane?n=20&first_steps=1&second_steps=1&speed=0.25") as page:
        wait_for_field(page)
        page.get_by_role("button", name="Run both").click()  # a frame a second
        page.wait_for_url("**time=1**")
        page.reload()
        page.wait_for_function("() => document.querySelector('[aria-label=Time]').value > 0")


@pytest.mark.slow
def test_the_second_sampler_runs_on_a_network_that_is_trained_first(open_page):
    view = "#/plane?iterations=50&n=100&first_steps=2&second_steps=2"
    with open_page(view, viewport={"width": 1000, "height": 800}) as page:
        wait_for_field(page)
        exact = pixels(page, "Second sampler")
        page.get_by_label("Score", exact=True).select_option("network")
        empty = pixels(page, "Second sampler")
        assert is_arrow(exact).sum() > 1000 > is_arrow(empty).sum()
        run_both(page)
        page.get_by_text("Trained", exact=True).wait_for()
        assert number(page, "Training step") == 50
        page.get_by_text("after 20 evaluations").first.wait_for()
        assert is_arrow(pixels(page, "Second sampler")).sum() > 1000
        errors, maps, arrows = [], [], []
        for level in ("1", "20"):
            page.get_by_label("Noise level of the learned score").filter(has_text=level).wait_for()
            errors.append(number(page, "Relative error of the score"))
            maps.append(pixels(page, "Map of the error"))
            arrows.append(pixels(page, "Learned score on the exact score"))
            page.get_by_label("Noise level σ of the picture").press("End")
        # at the largest σ the exact score is nearly a line, which a network has at once
        assert errors[1] < errors[0]
        assert (maps[0] != maps[1]).mean() > 0.5
        learned = [coloured(image, ORANGE) for image in arrows]
        assert min(image.sum() for image in learned) > 1000
        assert (learned[0] != learned[1]).sum() > 500
        # the other panel, next to it, has the exact score
        assert is_arrow(pixels(page, "Second sampler")).sum() > 1000
        assert (pixels(page, "Second sampler") != pixels(page, "First sampler")).any()
        names = {}
        page.get_by_role("button", name="Copy as code").click()
        exec(page.get_by_label("Python", exact=True).inner_text(), names)
        page.get_by_role("button", name="Close").click()
        assert "model" in names
        page.get_by_label("Time").press("End")
        assert np.array_equal(saved(page), torch.cat([names["first"], names["second"]], 1).numpy())


def is_arrow(image):
    """Return where the pixels have the grey of arrows on white."""
    return coloured(image, (0x99, 0xA0, 0xA8))


AFTER_FRAMES = """n => new Promise((resolve) => {
  const wait = (left) => (left ? requestAnimationFrame(() => wait(left - 1)) : resolve());
  wait(n);
})"""


PLAY_A_LITTLE = """async () => {
  const time = document.querySelector("[aria-label=Time]");
  const button = (name) => [...document.querySelectorAll("button")].find((one) => (
    one.textContent === name));
  const end = time.value;
  button("Play").click();
  while (time.value === end) await new Promise(requestAnimationFrame);
  button("Pause").click();
  return Number(time.value);
}"""
"""Play until another frame is shown: a test that pressed the buttons might come after the end."""


def test_stop_ends_the_computation_and_play_moves_what_has_arrived(open_page, studio, monkeypatch):
    """Of 1001 frames, those after the first ones are held back until it is stopped."""
    many, shown, released = 40, [], threading.Event()

    def held(studio, settings):
        for frame in plane.sample_plane(studio, settings):
            yield frame
            shown.extend([frame] * (frame is not None))
            assert len(shown) < many or released.wait(SECONDS)

    monkeypatch.setitem(JOBS, "plane.sample", held)
    view = "#/plane?n=100&first_steps=2000&second_steps=2000"
    with open_page(view, viewport={"width": 1000, "height": 800}) as page:
        wait_for_field(page)
        page.get_by_role("button", name="Run both").click()
        page.wait_for_function("() => document.querySelector('[aria-label=Time]').value > 9")
        page.get_by_role("button", name="Stop", exact=True).click()
        # it has ended if it was stopped before it was held back
        wait_until(lambda: (job := studio.app.state.worker._running) is None or job.cancelled)
        released.set()
        page.get_by_role("button", name="Run both").wait_for()
        time = page.get_by_label("Time")
        end = int(time.get_attribute("max"))
        assert 9 < end < many
        page.get_by_role("button", name="Play", exact=True).wait_for()
        assert int(time.input_value()) == end
        last = pixels(page, "First sampler")
        now = page.evaluate(PLAY_A_LITTLE)
        assert now < end
        assert (pixels(page, "First sampler") != last).any()
        page.evaluate(AFTER_FRAMES, 30)  # in which it would play two at least
        assert int(time.input_value()) == now


PIXELS_OF_IMAGE = """async (image) => {
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0);
  return canvas.toDataURL();
}"""


@pytest.mark.slow
def test_without_motion_only_the_end_is_drawn_and_it_is_that_of_the_copied_python(
    open_page, tmp_path
):
    view = "#/plane?n=100&first_steps=20&second_steps=20"
    with open_page(view, reduced_motion="reduce") as page:
        wait_for_field(page)
        canvas = page.get_by_label("First sampler", exact=True).and_(page.locator("canvas"))
        before = int(canvas.get_attribute("data-drawn"))
        page.get_by_role("button", name="Run both").click()
        page.get_by_text("after 200 evaluations").first.wait_for()
        assert int(canvas.get_attribute("data-drawn")) - before <= 4
        ends = saved(page)
        page.get_by_label("Time").press("ArrowLeft")
        page.get_by_text("after 198 evaluations").first.wait_for()
        assert not np.array_equal(saved(page), ends)
        drawn = pixels(page, "First sampler")
        with page.expect_download() as download:
            page.get_by_role("button", name="Export HTML").click()
        download.value.save_as(tmp_path / "replay.html")
        assert page.get_by_label("Time").input_value() == "119"  # as before
        requests, replay = [], page.context.new_page()  # a click on a page behind may wait for ever
        replay.on("request", lambda request: requests.append(request.url))
        replay.goto((tmp_path / "replay.html").as_uri())
        replay.get_by_text("frame 1 of 121").wait_for()
        replay.get_by_label("Frame").press("End")
        replay.get_by_label("Frame").press("ArrowLeft")
        replay.get_by_text("frame 120 of 121").wait_for()
        picture = replay.get_by_alt_text("First sampler", exact=True)
        image = decode(picture.evaluate(PIXELS_OF_IMAGE))
        assert {url for url in requests if not url.startswith("data:")} == {replay.url}
        # WebP changes a pixel here and there; another frame has other particles
        assert np.abs(image - drawn).mean() < 3
        replay.close()
        page.get_by_role("button", name="Copy as code").click()
        names = {}
        exec(page.get_by_label("Python", exact=True).inner_text(), names)
        assert np.array_equal(ends, torch.cat([names["first"], names["second"]], 1).numpy())


def test_code_and_replay_are_of_the_particles_when_settings_have_changed(open_page):
    view = "#/plane?n=20&first_steps=1&second_steps=1&seed=3"
    with open_page(view, reduced_motion="reduce") as page:
        wait_for_field(page)
        page.get_by_role("button", name="Run both").click()
        page.get_by_text("after 10 evaluations").first.wait_for()
        seed, note = page.get_by_label("Seed"), page.get_by_text("of other settings")
        assert not note.is_visible()
        seed.fill("5")
        seed.press("Enter")
        note.wait_for()
        page.get_by_label("Method").first.select_option("heun")
        page.get_by_role("button", name="Copy as code").click()
        names = {}
        exec(page.get_by_label("Python", exact=True).inner_text(), names)
        page.get_by_role("button", name="Close").click()
        assert np.array_equal(saved(page), torch.cat([names["first"], names["second"]], 1).numpy())
        with page.expect_download() as download:
            page.get_by_role("button", name="Export HTML").click()
        (place,) = re.findall("Recorded .*<code>(.*)</code>", download.value.path().read_text())
        assert "seed=3" in place
        names = re.findall("<figcaption>(.*)</figcaption>", download.value.path().read_text())
        assert names[:2] == ["Langevin, plain", "Langevin, plain: weights of the modes"]
        seed.fill("3")
        seed.press("Enter")
        page.get_by_label("Method").first.select_option("langevin")
        page.locator(".group.first input").fill("1")
        page.locator(".group.first input").press("Enter")
        note.wait_for(state="hidden")


@pytest.fixture
def release(monkeypatch):
    """Let the distribution `circle` come, which waits for this call."""
    released = threading.Event()

    def late(studio, settings):
        assert settings["target"] != "circle" or released.wait(SECONDS)
        yield from plane.show_target(studio, settings)

    monkeypatch.setitem(JOBS, "plane.target", late)
    yield released.set
    released.set()


def test_samplers_start_once_the_distribution_has_come(open_page, release):
    """What were started before would end when it comes."""
    with open_page("#/plane?target=circle&n=20&first_steps=1&second_steps=1") as page:
        page.get_by_role("button", name="Run both").click()
        page.get_by_text("Waiting for the distribution").wait_for()
        page.get_by_role("button", name="Stop", exact=True).click()
        page.get_by_role("button", name="Run both").click()
        release()
        page.get_by_text("evaluations").first.wait_for()
        assert "first_steps=1&" in page.url


def test_edits_stay_while_a_distribution_is_on_its_way(open_page, release):
    with open_page("#/plane?n=20") as page:
        wait_for_field(page)
        before = ladder_of(page)
        page.get_by_label("Distribution").select_option("circle")
        typed = page.locator(".group.first input")
        for field, text in (
            (page.locator(".group.second input"), "4"),
            (page.get_by_label("Step size ε"), "0.05"),
        ):
            field.fill(text)
            field.press("Enter")
        typed.fill("3")  # and not left
        release()
        page.wait_for_url("**target=circle**start=prior**")
        assert ladder_of(page) != before
        typed.press("Enter")
        page.wait_for_url("**first_steps=3**")
        assert "second_steps=4" in page.url
        assert "epsilon=0.05" in page.url
