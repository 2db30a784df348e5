"""How the studio's page looks: the contrast of its colours, and views that fit every width."""

import re
from pathlib import Path

import numpy as np
import pytest

import scorefield

pytest_plugins = ["studio_browser"]

PAGE = Path(scorefield.__file__).parent / "studio/page"
THEMES = ("light", "dark")
TEXTS = ("ink", "muted", "accent", "second", "danger")
GROUNDS = ("paper", "raised")
TEXT_CONTRAST = 4.5
"""WCAG 2.2, 1.4.3, of text in any size."""
PART_CONTRAST = 3
"""WCAG 2.2, 1.4.11, of borders that show a control and of parts of a graphic."""
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
"""XYZ of the primaries of sRGB."""
WHITE = TO_XYZ.sum(1)
VISIONS = {
    "usual": np.eye(3),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.01182, 0.04294, 0.968881],
        ]
    ),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
}
"""Light as it is seen by readers without one kind of cones, by Machado et al. (2009)."""
TOLD_APART = 10 * 2.3
"""Ten differences that are just noticeable in CIELAB, because dots and thin lines are small."""
IN_CANVAS = {"paper": "paper", "ink": "ink", "muted": "muted", "line": "line",
             "first": "accent", "second": "second"}  # fmt: skip
"""Colours of the page by their names in draw.js."""


def page_colours(theme):
    """Return the colours of a theme by their names in the style sheet."""
    selector = ":root" if theme == "light" else ':root[data-theme="dark"]'
    text = (PAGE / "style.css").read_text()
    (block,) = re.findall(rf"^{re.escape(selector)} {{(.*?)}}", text, re.M | re.S)
    return dict(re.findall(r"--([\w-]+): (#\w{6});", block))


def canvas_colours(theme):
    """Return the opaque colours of a theme by their names in draw.js, and its shades."""
    text = (PAGE / "draw.js").read_text()
    (block,) = re.findall(rf"^  {theme}: {{(.*?)^  }}", text, re.M | re.S)
    (shades,) = re.findall(r"shades: \[(.*?)\]", block)
    return dict(re.findall(r'(\w+): "(#\w{6})"', block)), re.findall(r"#\w{6}", shades)


def linear(colour):
    """Return red, green and blue in proportion to their light, from 0 to 1."""
    values = np.array([*bytes.fromhex(colour[1:])]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(*colours):
    """Return the ratio of the lighter to the darker colour by WCAG, from 1 to 21."""
    darker, lighter = sorted(linear(colour) @ TO_XYZ[1] + 0.05 for colour in colours)
    return lighter / darker


def difference(vision, *colours):
    """Return the distance of two colours in CIELAB, as seen with one of VISIONS."""

    def lab(colour):
        x, y, z = np.cbrt(TO_XYZ @ np.clip(VISIONS[vision] @ linear(colour), 0, 1) / WHITE)
        return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    return np.linalg.norm(np.subtract(*map(lab, colours)))


def test_contrast_is_that_of_the_standard():
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)  # just too light


@pytest.mark.parametrize("theme", THEMES)
def test_text_and_controls_stand_out_from_their_ground(theme):
    colours = page_colours(theme)
    assert {*colours} == {*TEXTS, *GROUNDS, "on-accent", "edge", "line"}  # a new one has its rule
    for ground in GROUNDS:
        for text in TEXTS:
            assert contrast(colours[text], colours[ground]) >= TEXT_CONTRAST, (text, ground)
    assert contrast(colours["on-accent"], colours["accent"]) >= TEXT_CONTRAST
    assert contrast(colours["edge"], colours["paper"]) >= PART_CONTRAST


@pytest.mark.parametrize("theme", THEMES)
def test_a_canvas_has_the_colours_of_the_page_and_particles_that_stand_out(theme):
    """Both samplers are seen on the darkest shade of the density; their names are text."""
    colours, shades = canvas_colours(theme)
    page = page_colours(theme)
    for name, same in IN_CANVAS.items():
        assert colours[name] == page[same], name
    for particle in (colours["first"], colours["second"]):
        for shade in shades:
            assert contrast(particle, shade) >= PART_CONTRAST


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("theme", THEMES)
def test_samplers_are_told_apart_with_any_colour_vision(theme, vision):
    colours, _ = canvas_colours(theme)
    assert difference(vision, colours["first"], colours["second"]) >= TOLD_APART
    for colour in (colours["first"], colours["second"]):
        assert difference(vision, colour, colours["ink"]) >= TOLD_APART


def test_red_and_green_look_alike_without_cones_for_green():
    """The colours have the same lightness, so that only hue tells them apart."""
    red, green = "#b3261e", "#4f6b00"
    assert difference("usual", red, green) > 3 * difference("deuteranopia", red, green)


@pytest.fixture(scope="module")
def studio(open_studio, trained):
    with open_studio(trained, runs=trained.parent) as server:
        yield server


def run_samplers(page):
    page.locator(".ladder .tick").first.wait_for()
    page.get_by_role("button", name="Run both").click()
    page.get_by_text("after 20 evaluations").first.wait_for()
    page.get_by_role("button", name="Train a network").click()
    page.get_by_text("Trained", exact=True).wait_for()


def choose_sample(page):
    page.get_by_label("State", exact=True).filter(has_text="State 3 of 3").wait_for()
    page.get_by_role("button", name="Interpolate").click()
    page.get_by_label("Samples between two seeds").wait_for()
    page.get_by_label("Distances").filter(has_text="The nearest of").wait_for()


def restore_image(page):
    page.get_by_label("Known", exact=True).filter(has_text="are known").wait_for()
    page.get_by_role("button", name="Restore", exact=True).click()
    page.get_by_label("Errors").filter(has_text="single").wait_for()


def wait_for_run(page):
    page.get_by_label("Loss and held-out loss over the steps").wait_for()


VIEWS = {
    "#/plane?n=20&first_steps=2&second_steps=2&iterations=25": run_samplers,
    "#/images?n=9&steps=3&chosen=1": choose_sample,
    "#/restore?n=8&steps=3": restore_image,
    "#/runs": wait_for_run,
}
"""Addresses of views, and what shows all that they have."""


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 2560])
@pytest.mark.parametrize("theme", THEMES)
def test_no_view_scrolls_sideways(open_page, width, theme):
    window = {"viewport": {"width": width, "height": 900}, "color_scheme": theme}
    for address, work in VIEWS.items():
        with open_page(address, **window, reduced_motion="reduce") as page:
            work(page)
            assert page.evaluate("document.documentElement.dataset.theme") == theme
            assert page.evaluate("document.documentElement.scrollWidth") == width, address
            page.get_by_role("button", name="Copy as code").first.click()
            box = page.get_by_role("dialog").bounding_box()
            assert box["x"] >= 0, address
            assert box["x"] + box["width"] <= width, address


def test_the_bar_above_a_view_has_its_left_edge(open_page):
    with open_page("#/runs") as page:
        for width in (900, 1280, 1920, 2560):
            page.set_viewport_size({"width": width, "height": 900})
            edges = [page.locator(part).bounding_box()["x"] for part in ("header h1", "main h2")]
            assert edges[0] == pytest.approx(edges[1], abs=1), width


@pytest.mark.slow
def test_a_chosen_sample_and_completions_are_seen_next_to_their_source(open_page):
    """A click that changed only what is below the window would seem to do nothing."""
    for address, canvas in (("#/images", "Samples: "), ("#/restore", "The image and its mask: ")):
        (view,) = (view for view in VIEWS if view.startswith(address))
        with open_page(view, viewport={"width": 1280, "height": 720}) as page:
            VIEWS[view](page)
            source = page.locator(f"canvas[aria-label^='{canvas}']").bounding_box()
            result = page.locator("section.next").bounding_box()
            assert result["x"] >= source["x"] + source["width"]
            assert result["y"] == pytest.approx(source["y"], abs=1)


@pytest.mark.slow
def test_restore_is_in_the_window_below_all_pictures_of_a_measurement(open_page):
    with open_page("#/restore?task=radon", viewport={"width": 1280, "height": 720}) as page:
        page.get_by_label("What the measurement says").wait_for()
        button = page.get_by_role("button", name="Restore", exact=True).bounding_box()
        assert button["y"] + button["height"] <= 720
