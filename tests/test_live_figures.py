"""The live figures of the site, in a real browser, on a page that is opened as a file."""

import re
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from canvas import read_canvas
from waiting import SECONDS

sys.path.insert(0, str(Path(__file__).parents[1] / "docs/extensions"))

from live_figures import SCRIPT, join_scripts

pytest_plugins = ["studio_browser"]

STYLE = Path(__file__).parents[1] / "docs/static/site.css"
LIMIT = 10
"""The plane is |x| ≤ 10 in both directions."""
BLUE = 0x0072B2
ORANGE = 0xA35F00


@pytest.fixture
def open_figure(browser, tmp_path):
    """Open a page with one figure; an error of its script or a request elsewhere fails the test."""

    @contextmanager
    def opened(name, **options):
        (tmp_path / SCRIPT).write_text(join_scripts())
        style = f"<style>{STYLE.read_text()}</style>"
        figure = f'<div class="live" data-figure="{name}"></div>'
        script = f'<script defer src="{SCRIPT}"></script>'
        page_file = tmp_path / "page.html"
        page_file.write_text(f"<!doctype html><meta charset=utf-8><body>{style}{script}{figure}")
        context = browser.new_context(**{"viewport": {"width": 900, "height": 700}} | options)
        page, faults, requests = context.new_page(), [], []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.set_default_timeout(1000 * SECONDS)
        page.goto(page_file.as_uri())
        page.wait_for_function("document.querySelector('.live output').textContent")
        yield page
        context.close()
        assert not faults
        assert requests == [page_file.as_uri(), (tmp_path / SCRIPT).as_uri()]

    return opened


def read_pixels(page, i=0):
    """Return the colours of a canvas, height × width, as numbers 0xRRGGBB."""
    rgb = read_canvas(page.locator("canvas").nth(i)).astype(int)
    return rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]


def places(pixels, colour):
    """Return the points of the plane whose pixels have a colour."""
    rows, columns = np.nonzero(pixels == colour)
    height, width = pixels.shape
    return 2 * LIMIT * np.stack([columns / width - 0.5, 0.5 - rows / height], 1)


def test_noise_brings_samples_to_where_there_were_none(open_figure):
    with open_figure("density") as page:
        shares = []
        for log_sigma in (-1, 0.7):
            page.get_by_role("slider").fill(str(log_sigma))
            text = page.locator("output").inner_text()
            sigma, share = re.fullmatch(r"σ = ([\d.]+): (\d+) % of .*", text).groups()
            assert float(sigma) == pytest.approx(10**log_sigma, abs=0.005)
            shares.append(int(share))
            x = places(read_pixels(page), BLUE)
            # on the sides of the two means, none in the other quadrants while σ is small
            mixed = (x[:, 0] * x[:, 1] < 0).mean()
            assert (mixed > 0.1) == (log_sigma > 0)
        few, many = shares
        assert 3 * few < many


def test_particles_and_the_weight_below_them_are_those_of_the_chains(open_figure):
    with open_figure("mixing", reduced_motion="reduce") as page:
        page.get_by_role("button").click()
        text = page.locator("output").inner_text()
        start = r"step 1000, σ = 1.00: weight of the small mode ([\d.]+) plain, ([\d.]+) annealed"
        plain, annealed = map(float, re.match(start, text).groups())
        error = (0.2 * 0.8 / 600) ** 0.5  # of the share of 600 particles
        assert abs(annealed - 0.2) < 4 * error
        assert plain > 0.2 + 10 * error
        for i, (colour, share) in enumerate([(BLUE, plain), (ORANGE, annealed)]):
            x = places(read_pixels(page, i), colour)
            assert abs(np.median(np.abs(x)) - 5) < 0.5  # both means are at ±5
            # overlapping particles hide more of the larger cloud
            assert share < (x.sum(1) < 0).mean() < share + 0.25
        assert page.get_by_role("button").inner_text() == "Run again"


START_AND_PAUSE = """async () => {
  const [button, output] = ["button", "output"].map((tag) => document.querySelector(tag));
  const before = output.textContent;
  button.click();
  const label = button.textContent;
  await new Promise((resolve) => {
    new MutationObserver(() => output.textContent.startsWith("step 0,") || resolve())
      .observe(output, { childList: true });
  });
  button.click();
  const paused = output.textContent;
  await new Promise((resolve) => setTimeout(resolve, 100));
  return [before, label, paused, output.textContent];
}"""
"""Press the button, and again after the first states: what a test does between them may be late."""


def test_a_chain_runs_and_stops_at_the_button_and_is_drawn_in_the_dark(open_figure):
    with open_figure("mixing") as page:
        light = read_pixels(page)
        before, label, paused, after = page.evaluate(START_AND_PAUSE)
        assert before.startswith("step 0,")
        assert label == "Pause"
        assert paused.startswith("step 5,")
        assert after == paused
        page.evaluate("document.body.dataset.theme = 'dark'")
        dark = read_pixels(page)
        assert light[2, 2] == 0xFFFFFF
        assert dark[2, 2] == 0x14171D
