"""Every view by keys alone, without motion, and with a dropped file, in a real browser."""

import io

import numpy as np
import pytest
from canvas import read_canvas
from PIL import Image

pytest.importorskip("starlette")

pytest_plugins = ["studio_browser"]


@pytest.fixture(scope="module")
def studio(open_studio, trained):
    with open_studio(trained) as server:
        yield server


def shown(page, label, text):
    page.get_by_label(label, exact=True).filter(has_text=text).wait_for()


def pixels(page, label):
    canvas = page.locator(f"canvas[aria-label='{label}'], canvas[aria-label^='{label}: ']").first
    return read_canvas(canvas)


# ── Keys alone ───────────────────────────────────────────────────────────────────────────────────


def test_the_plane_is_run_and_scrubbed_by_keys(open_page, tab_to):
    with open_page("#/plane?n=50&first_steps=2&second_steps=2") as page:
        page.locator(".ladder .tick").first.wait_for()
        tab_to(page, "Distribution")
        page.keyboard.press("ArrowDown")
        page.get_by_role("heading", name="Langevin, annealed").wait_for()
        page.wait_for_url("**target=circle**")
        tab_to(page, "Steps at each level")
        page.keyboard.type("3")
        tab_to(page, "Run both")
        page.keyboard.press("Enter")
        page.get_by_text("evaluations").first.wait_for()
        page.get_by_role("button", name="Play", exact=True).wait_for()
        end = pixels(page, "First sampler")
        tab_to(page, "Time")
        page.keyboard.press("Home")
        page.get_by_text("evaluations").first.wait_for(state="hidden")
        assert (pixels(page, "First sampler") != end).any()
        page.keyboard.press("End")
        page.get_by_text("evaluations").first.wait_for()
        assert (pixels(page, "First sampler") == end).all()


def test_three_keys_run_both_samplers(open_page):
    with open_page("#/plane?n=50&first_steps=2&second_steps=2") as page:
        page.locator(".ladder .tick").first.wait_for()
        before = pixels(page, "First sampler")
        skip = page.get_by_role("button", name="Skip to the main button")
        assert skip.bounding_box()["x"] < -skip.bounding_box()["width"]  # seen by keys alone
        page.keyboard.press("Tab")
        box = skip.bounding_box()
        assert box["x"] >= 0
        assert box["y"] >= 0
        page.keyboard.press("Enter")
        page.keyboard.press("Space")
        page.get_by_label("First sampler: mode 1, share").filter(has_text="0.").wait_for()
        assert (pixels(page, "First sampler") != before).any()


def test_a_sample_is_chosen_and_scrubbed_by_keys(open_page, tab_to):
    with open_page("#/images?n=4&steps=4") as page:
        shown(page, "State", "State 4 of 4")
        tab_to(page, "Seed")
        page.keyboard.type("7")
        page.keyboard.press("Enter")
        page.wait_for_url("**seed=7**")
        shown(page, "State", "State 4 of 4")
        tab_to(page, "Samples:")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        shown(page, "Distances", "The nearest of")
        page.wait_for_url("**chosen=1**")
        tab_to(page, "Noise level σ")
        page.keyboard.press("ArrowLeft")
        shown(page, "State", "State 3 of 4")


def test_a_mask_is_painted_and_an_image_restored_by_keys(open_page, tab_to):
    with open_page("#/restore?n=2&steps=3") as page:
        shown(page, "Known", "32 of 64")
        tab_to(page, "Held-out image")
        page.keyboard.press("ArrowUp")
        page.keyboard.press("Enter")
        page.wait_for_url("**heldout=1**")
        tab_to(page, "The image and its mask")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Space")
        shown(page, "Known", "31 of 64")
        tab_to(page, "Restore")
        page.keyboard.press("Enter")
        shown(page, "State", "State 3 of 3")
        painted, completions = (
            pixels(page, name)[..., :3] for name in ("The image and its mask", "Completions")
        )
        known = (painted != (0, 114, 178)).any(2)
        assert known.sum() == 31
        itself = pixels(page, "The image itself")[..., :3]
        assert (itself[known] == painted[known]).all()
        assert (itself[~known] != painted[~known]).any()
        for completion in completions[:, :8], completions[:, 9:]:
            assert (completion[known] == painted[known]).all()
        assert (completions[:, :8] != completions[:, 9:]).any()


# ── Motion ───────────────────────────────────────────────────────────────────────────────────────

COUNT_DRAWINGS = """label => {
  globalThis.drawings = 0;
  const own = CanvasRenderingContext2D.prototype.putImageData;
  CanvasRenderingContext2D.prototype.putImageData = function (...values) {
    if (this.canvas.ariaLabel.startsWith(label)) globalThis.drawings += 1;
    return own.apply(this, values);
  };
}"""
"""Count the images that are put on a canvas from now on."""


@pytest.mark.parametrize(
    ("view", "canvas", "button"),
    [
        ("images", "Samples", "Next seed"),
        pytest.param("restore", "Completions", "Restore", marks=pytest.mark.slow),
    ],
)
def test_without_motion_images_are_drawn_at_the_end_and_by_a_key(open_page, view, canvas, button):
    steps, n = 12, 2
    with open_page(f"#/{view}?n={n}&steps={steps}", reduced_motion="reduce") as page:
        if view == "images":
            shown(page, "State", f"State {steps} of {steps}")
        else:
            shown(page, "Known", "32 of 64")
        page.evaluate(COUNT_DRAWINGS, canvas)
        page.get_by_role("button", name=button, exact=True).click()
        page.wait_for_function("() => drawings > 0")
        shown(page, "State", f"State {steps} of {steps}")
        # the end, and once more with what came after it
        assert page.evaluate("drawings") <= 2 * n
        if view == "images":
            before = page.evaluate("drawings")
            page.get_by_label("Noise level σ").press("ArrowLeft")
            shown(page, "State", f"State {steps - 1} of {steps}")
            assert page.evaluate("drawings") == before + n


# ── Files ────────────────────────────────────────────────────────────────────────────────────────

MAKE_DROP = """bytes => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([new Uint8Array(bytes)], "own.png", { type: "image/png" }));
  return transfer;
}"""


def test_a_dropped_image_is_shown_and_restored(open_page):
    values = np.random.default_rng(1).integers(0, 256, (8, 8), dtype="uint8")
    Image.fromarray(values).save(file := io.BytesIO(), "PNG")
    with open_page("#/restore?n=2&steps=3") as page:
        shown(page, "Known", "32 of 64")
        transfer = page.evaluate_handle(MAKE_DROP, [*file.getvalue()])
        page.dispatch_event(".drop", "dragover", {"dataTransfer": transfer})
        page.dispatch_event(".drop", "drop", {"dataTransfer": transfer})
        page.wait_for_function(HAS_PIXEL, arg=[0, 0, int(values[0, 0])])
        painted = pixels(page, "The image and its mask")
        assert (painted[:, :4, 0] == values[:, :4]).all()
        page.get_by_role("button", name="Restore", exact=True).click()
        shown(page, "State", "State 3 of 3")
        completions = pixels(page, "Completions")[..., 0]
        assert (completions[:, :4] == values[:, :4]).all()
        assert (completions[:, 9:13] == values[:, :4]).all()


HAS_PIXEL = """([x, y, value]) => {
  const canvas = document.querySelector("canvas[aria-label^='The image and its mask']");
  return canvas.getContext("2d").getImageData(x, y, 1, 1).data[0] === value;
}"""
