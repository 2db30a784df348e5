"""The studio's views Images and Restore, in a real browser: what is drawn, and its copied code."""

import base64
import io
import json
import re
import shlex
import threading
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from canvas import read_canvas
from PIL import Image
from waiting import SECONDS, wait_for_address, wait_until

pytest.importorskip("starlette")

from scorefield import Precondition, Prior, ScoreModel, inverse, load, sample, seeded
from scorefield.cli import main
from scorefield.data import all_samples, load_data
from scorefield.measurements import ImageMeasurement
from scorefield.metrics import nearest
from scorefield.show.images import as_bytes, grid
from scorefield.studio import pictures, restorations, work
from scorefield.studio.context import Studio
from scorefield.studio.jobs import CODE_WRITERS, JOBS
from scorefield.train import derive_seed

pytest_plugins = ["studio_browser"]

COUNT = """(canvas, colour) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let count = 0;
  for (let i = 0; i < data.length; i += 4) count += colour.every((c, k) => data[i + k] === c);
  return count;
}"""


@pytest.fixture(scope="module")
def studio(open_studio, trained):
    with open_studio(trained) as server:
        yield server


def pixels(page, label):
    return read_canvas(page.locator(f"canvas[aria-label^='{label}']"))


def cells(canvas, n, columns, side=8):
    """Return the n images of a canvas on which they are a pixel apart; they are opaque."""
    places = [divmod(i, columns) for i in range(n)]
    parts = [canvas[r * (side + 1) :, c * (side + 1) :][:side, :side] for r, c in places]
    assert all((part[..., 3] == 255).all() for part in parts)
    return np.stack(parts)[..., :3]


def drawn(x):
    """Return images as RGB bytes, channels last."""
    return as_bytes(x).permute(0, 2, 3, 1).expand(-1, -1, -1, 3).numpy()


def wait(page, label, text):
    page.get_by_label(label, exact=True).filter(has_text=text).wait_for()


def wait_for_end(page):
    """Wait until all states of the samples have come."""
    wait(page, "You are here", "On this page an image took")


def copied(page):
    """Return the command and the Python of the dialog, and the x that running the Python gives."""
    page.get_by_role("button", name="Copy as code").click()
    python = page.get_by_label("Python").inner_text()
    command = page.locator("pre[aria-label=Command]")
    command = command.inner_text() if command.count() else None
    page.get_by_role("button", name="Close").click()
    names = {}
    exec(python, names)
    return command, names["x"]


def test_samples_anneal_and_equal_those_of_the_copied_code(open_page, tmp_path, monkeypatch):
    with open_page("#/images?n=5&seed=3&steps=6&label=7&guidance=2") as page:
        wait(
            page,
            "State",
            "State 6 of 6, σ = 0, 11 evaluations of the score, 22 calls of the network",
        )
        end = pixels(page, "Samples:")
        command, x = copied(page)
        assert (cells(end, 5, 3) == drawn(x)).all()
        slider = page.get_by_label("Noise level σ")
        slider.focus()
        page.keyboard.press("Home")
        wait(page, "State", "State 1 of 6")
        noise = cells(pixels(page, "Samples:"), 5, 3)
        # at σ₂ of six levels nearly all pixels of the noise are black or white
        assert np.isin(noise, (0, 255)).mean() > 0.5 > np.isin(drawn(x), (0, 255)).mean()
        page.get_by_label("Show", exact=True).select_option("denoised")
        assert (cells(pixels(page, "Samples:"), 5, 3) != noise).any()
        page.get_by_label("Show", exact=True).select_option("x")
        page.get_by_label("Noise level σ").focus()
        page.keyboard.press("End")
        assert (pixels(page, "Samples:") == end).all()
        assert "seed=3" in page.url
        page.get_by_label("Seed", exact=True).fill("4")
        page.keyboard.press("Enter")
        page.wait_for_url("**seed=4**")
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command)[1:]) == 0
    assert (np.array(Image.open("samples.png")) == np.array(grid(x))).all()


def test_a_chosen_sample_has_its_path_and_its_nearest_training_images(
    open_page, trained, studio, monkeypatch
):
    with open_page("#/images?n=4&steps=5") as page:
        wait(page, "State", "State 5 of 5")
        page.locator("footer").get_by_text(f"Model: {trained}", exact=True).wait_for()
        page.get_by_label("Samples:").focus()
        page.keyboard.press("ArrowRight")
        wait(page, "Distances", "The nearest of 1437 training images")
        distances = page.get_by_label("Distances", exact=True)
        of_first = distances.inner_text()
        page.keyboard.press("ArrowDown")
        distances.filter(has_not_text=of_first).wait_for()
        page.wait_for_url("**chosen=2")
        samples = sample(load(trained), 4, steps=5)
        train = all_samples(load_data("digits").train)
        own = nearest(samples[2:3], train, 6)
        shown = page.locator(".thumbs output").all_inner_texts()
        assert [float(text) for text in shown] == pytest.approx(own.distances[0].tolist(), rel=0.01)
        assert (
            pixels(page, "Training image 1 of")[..., :3] == drawn(train[own.indices[0]])[0]
        ).all()
        chosen = cells(pixels(page, "Samples:"), 4, 2)[2]
        assert (pixels(page, "The chosen sample")[..., :3] == chosen).all()
        path = cells(pixels(page, "Its path"), 10, 5)
        assert (path[4] == chosen).all()
        assert (path[9] == chosen).all()
        assert (path[0] != path[5]).any()
        with hold_search(monkeypatch) as ended:
            page.get_by_label("Samples:").click(position={"x": 5, "y": 5})
            page.wait_for_url("**chosen=0")
            page.get_by_text("Compared with 1437 of 1437 training images").wait_for()
            page.get_by_role("button", name="Stop", exact=True).click()
            wait_until(lambda: studio.app.state.worker._running.cancelled)
        wait_until(lambda: ended)
        one = page.get_by_role("region", name="Chosen sample")
        one.get_by_text("Stopped", exact=True).wait_for()
        # those of the sample before would be taken for this one's
        assert page.get_by_label("Training image 1 of").is_hidden()
        assert page.get_by_label("Distances", exact=True).inner_text() == ""


@contextmanager
def hold_search(monkeypatch):
    """Let a search for neighbours wait after its first answer; return a list that its end fills."""
    released, ended, real = threading.Event(), [], JOBS["images.nearest"]

    def held(own, settings):
        try:
            for answer in real(own, settings):
                yield answer
                assert released.wait(SECONDS)
        finally:
            ended.append(True)

    monkeypatch.setitem(JOBS, "images.nearest", held)
    try:
        yield ended
    finally:
        released.set()


def test_a_path_between_two_seeds_ends_at_their_samples(open_page, trained):
    with open_page("#/images?n=1&steps=5&seed=2") as page:
        page.get_by_label("Other seed").fill("9")
        page.get_by_role("button", name="Interpolate").click()
        page.wait_for_url("**other=9**")
        page.locator("canvas[aria-label='Samples between two seeds'][width='80']").wait_for()
        page.get_by_text("Interpolating").wait_for(state="hidden")
        page.get_by_role("button", name="Copy path as code").click()
        names = {}
        exec(page.get_by_label("Python").inner_text(), names)
        page.get_by_role("button", name="Close").click()
        path = cells(pixels(page, "Samples between"), 9, 9)
        assert (path == drawn(names["x"])).all()
        ends = torch.cat([sample(load(trained), 1, steps=5, seed=seed) for seed in (2, 9)])
        # another size of batch rounds otherwise, so that a byte may be its neighbour
        assert np.abs(path[[0, 8]].astype(int) - drawn(ends)).max() <= 1


@pytest.mark.slow
def test_a_path_of_other_settings_is_cleared_and_a_path_of_all_classes_refused(open_page):
    with open_page("#/images?n=1&steps=2&other=3") as page:
        path = page.get_by_label("Samples between two seeds")
        path.wait_for()
        page.get_by_role("button", name="Sample", exact=True).click()
        wait(page, "State", "State 2 of 2")
        path.wait_for()
        page.get_by_role("button", name="Next seed").click()
        page.get_by_text("The settings have changed: Interpolate draws their path").wait_for()
        path.wait_for(state="hidden")
        interpolate = page.get_by_role("button", name="Interpolate")
        interpolate.click()
        path.wait_for()
        page.get_by_label("Class", exact=True).select_option("all")
        page.get_by_text("A path is of one class: choose one above").wait_for()
        path.wait_for(state="hidden")
        assert interpolate.is_disabled()
        page.get_by_label("Class", exact=True).select_option("3")
        interpolate.click()
        path.wait_for()


def test_the_scrubbed_noise_level_is_in_the_address_and_shown_after_a_reload(open_page):
    with open_page("#/images?n=1&steps=6") as page:
        wait(page, "State", "State 6 of 6")
        page.get_by_label("Noise level σ").press("ArrowLeft")
        wait(page, "State", "State 5 of 6")
        noisy = pixels(page, "Samples:")
        page.get_by_label("Noise level σ").press("ArrowLeft")
        page.get_by_label("Noise level σ").press("ArrowRight")
        wait_for_address(page)
        page.reload()
        wait_for_end(page)  # until then, one state after the other is shown
        wait(page, "State", "State 5 of 6")
        assert (pixels(page, "Samples:") == noisy).all()
        page.get_by_role("button", name="Play").click()
        page.wait_for_function("() => !location.hash.includes('sigma')")
        wait(page, "State", "State 6 of 6")
        for button in ("Sample", "Next seed"):
            page.get_by_label("Noise level σ").press("ArrowLeft")
            page.wait_for_url("**sigma=**")
            page.get_by_role("button", name=button, exact=True).click()
            wait(page, "State", "State 6 of 6")
            assert "sigma" not in page.url


def test_the_axis_of_costs_is_kept_by_a_reload(open_page):
    with open_page("#/images?n=1&steps=2") as page:
        axis = page.get_by_label("Cost", exact=True).and_(page.locator("select"))
        axis.select_option("seconds")
        page.wait_for_url("**cost=seconds**")
        page.reload()
        wait(page, "You are here", "s an image where it was measured")
        assert axis.input_value() == "seconds"


def test_unknown_values_of_the_address_are_those_of_a_new_page(open_page):
    with open_page() as page:
        for chosen in ("-1", "1.5", "one"):
            page.goto(
                f"{page.url.split('#')[0]}#/images?n=2&steps=2&show=all&sigma=low&chosen={chosen}"
            )
            wait(page, "State", "State 2 of 2, σ = 0, ")
            assert page.get_by_label("Show", exact=True).input_value() == "x"
            assert page.get_by_role("heading", name="The chosen sample").is_hidden()


def test_code_and_neighbours_are_of_the_samples_when_others_are_refused(open_page):
    """Three images cannot have each of ten classes, and the samples of one class stay."""
    with open_page("#/images?n=3&steps=3&label=4") as page:
        wait(page, "State", "State 3 of 3")
        end = cells(pixels(page, "Samples:"), 3, 2)
        page.get_by_label("Class", exact=True).select_option("all")
        page.locator(".status.error").filter(has_text="give n=10 or more").wait_for()
        wait(page, "Settings", "These are of other settings: Sample takes the new ones.")
        command, x = copied(page)
        assert "--label 4" in command
        assert (end == drawn(x)).all()
        page.get_by_label("Samples:").focus()
        page.keyboard.press("ArrowRight")
        wait(page, "Distances", "The nearest of 1437 training images")
        page.get_by_label("Class", exact=True).select_option("4")
        page.locator("output[aria-label=Settings]:empty").wait_for(state="attached")


@pytest.mark.parametrize("view", ["images", "restore"])
def test_a_model_that_always_had_a_class_is_sampled_with_one(open_page, monkeypatch, view):
    """Its score without a class was never trained, and guidance goes away from that."""
    monkeypatch.setattr(ScoreModel, "always_labelled", True)
    with open_page(f"#/{view}?n=1&steps=2&guidance=3") as page:
        if view == "images":
            wait(page, "State", "State 2 of 2, σ = 0, 3 evaluations of the score, 0")
        label = page.get_by_label("Class", exact=True)
        assert label.input_value() == "0"
        assert "any" not in label.locator("option").all_inner_texts()
        assert page.get_by_label("Guidance").is_hidden()
        page.get_by_role("button", name="Copy as code").click()
        assert "label='0'" in page.get_by_label("Python").inner_text()
        assert "guidance" not in page.get_by_label("Python").inner_text()


@pytest.mark.slow
def test_the_measured_frontier_says_where_the_page_is(open_page):
    with open_page("#/images?n=1&steps=5") as page:
        here = page.get_by_label("You are here")
        here.filter(has_text="With heun you are at 9 network calls an image, which has").wait_for()
        assert "which has a Fréchet distance of 2.5 (2.25 to 2.75)" in here.inner_text()
        wait(page, "You are here", "On this page an image took")
        plot = page.get_by_label("Fréchet distance against cost")
        assert plot.evaluate(COUNT, [0, 114, 178]) > 20  # the sampler's curve
        assert plot.evaluate(COUNT, [184, 119, 0]) > 20  # the line of the page
        page.get_by_label("Steps").fill("30")
        page.keyboard.press("Enter")
        here.filter(has_text="With heun you are at 59 network calls an image;").wait_for()
        assert "nearest that was measured, 79 calls, has a Fréchet distance of 1.5" in (
            here.inner_text()
        )
        # 40 samples of 79 calls took 4 seconds: 59/79 of 0.1
        page.get_by_label("Cost", exact=True).and_(page.locator("select")).select_option("seconds")
        wait(page, "You are here", "With heun you are at about 0.0747 s an image where it was")
        page.get_by_label("Class", exact=True).select_option("3")
        page.get_by_label("Guidance").press("End")
        # a second call for each evaluation
        wait(page, "You are here", "With heun you are at about 0.149 s an image where it was")
        wait(page, "You are here", "Guidance, which calls the network twice")
        wait(page, "Cost", "59 evaluations of the score, 118 calls of the network")


@pytest.mark.slow
def test_a_page_that_waits_for_another_says_so_and_has_its_lists(open_page, monkeypatch):
    """The other page's computation ends when the test lets it."""
    released = threading.Event()

    def busy(studio, settings):
        yield None
        assert released.wait(SECONDS)

    monkeypatch.setitem(JOBS, "test.busy", busy)
    with open_page() as other, open_page() as page:
        queue = page.get_by_label("Queue")
        other.evaluate(START, "test.busy")
        for view, button in ("plane", "Run both"), ("restore", "Restore"), ("images", "Sample"):
            page.get_by_role("link", name=view.title()).click()
            page.get_by_role("button", name=button, exact=True).click()  # is not disabled for long
            queue.get_by_text("Waiting: another page is computing, you are next").wait_for()
            assert other.get_by_label("Queue").inner_text() == ""
        assert "heun" in page.get_by_label("Sampler").inner_text()
        wait(page, "Cost", "evaluations of the score an image")
        released.set()
        queue.wait_for(state="hidden")
        wait(page, "State", "State 18 of 18")


START = """async (job) => {
  const { run } = await import("/page/wire.js");
  return new Promise((resolve) => run(job, {}, {
    status({ status }) { if (status === "running") resolve(); },
  }));
}"""


@pytest.mark.slow
def test_a_replay_shows_pictures_in_the_size_and_shape_of_the_page(open_page, tmp_path):
    with open_page("#/images?n=4&steps=3") as page:
        wait(page, "State", "State 3 of 3")
        page.get_by_label("Noise level σ").press("ArrowLeft")
        wait(page, "State", "State 2 of 3")
        shown = page.locator("canvas[aria-label^='Samples:']").bounding_box()
        exported(page, tmp_path / "replay.html")
        picture = page.locator("img[alt^='Samples:']")
        picture.wait_for()
        box = picture.bounding_box()
        assert [box[side] for side in ("width", "height")] == pytest.approx(
            [shown[side] for side in ("width", "height")], abs=2
        )
        assert picture.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"


def exported(page, place):
    """Export the replay, which leaves the page as it is, and open it."""
    states = page.get_by_label("State", exact=True).all_inner_texts()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export HTML").click()
    download.value.save_as(place)
    assert page.get_by_label("State", exact=True).all_inner_texts() == states
    page.goto(place.as_uri())


def replayed(page, label):
    """Return the bytes of a picture of an opened replay, height × width × RGB."""
    picture = page.locator(f"img[alt='{label}']")
    address = picture.evaluate("image => image.decode().then(() => image.src)")
    content = base64.b64decode(address.split(",")[1])
    return np.array(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def test_a_replay_of_a_restoration_shows_its_states_and_its_end(open_page, tmp_path):
    with open_page("#/restore?heldout=2&n=3&steps=4") as page:
        page.get_by_role("button", name="Restore", exact=True).click()
        wait(page, "Errors", "Root mean square error of the mean")
        names = ["Completions", "Mean of the completions", "Standard deviation of the completions"]
        ends = [pixels(page, name) for name in names]
        itself = pixels(page, "The image itself")[..., :3]
        exported(page, tmp_path / "replay.html")
        caption = page.locator("output")
        assert "frame 1 of" in caption.inner_text()
        first = [replayed(page, name) for name in names]
        page.get_by_label("Frame").press("End")
        caption.filter(has_text="State 4 of 4, σ = 0").wait_for()
        for name, before, end in zip(names, first, ends, strict=True):
            opaque, last = end[..., 3] == 255, replayed(page, name)
            assert (last[opaque] == end[..., :3][opaque]).all()
            assert (last != before).any()
        assert (replayed(page, "The image itself") == itself).all()


def test_the_errors_of_two_methods_on_one_measurement_are_compared(open_page):
    with open_page("#/restore?heldout=2&n=2&steps=3") as page:
        table = page.get_by_label("Methods compared")
        errors = []
        for name in ("mmps", "dps", "dps"):  # the last of them on another measurement
            page.get_by_label("Method", exact=True).select_option(name)
            if len(errors) == 2:
                page.get_by_role("button", name="Centre").click()
            restore(page)
            page.get_by_role("heading", name=f"Completions by {name}", exact=True).wait_for()
            errors.append(re.findall(r"\d\.\d+", page.get_by_label("Errors").inner_text()))
            assert table.is_visible() == (len(errors) == 2)
            if table.is_visible():
                shown = [row.split("\t") for row in table.locator("tbody").inner_text().split("\n")]
                assert [row[1:] for row in shown] == errors
                assert [row[0].split(":")[0] for row in shown] == ["mmps", "dps"]
                page.get_by_text("do not show which method is biased").wait_for()


def test_completions_of_other_settings_are_named_so_and_keep_their_code(open_page):
    with open_page("#/restore?heldout=2&n=2&steps=3") as page:
        completions = restore(page)
        wait_for_address(page)
        page.reload()  # samples them again
        wait(page, "State", "State 3 of 3, σ = 0, ")
        assert (cells(pixels(page, "Completions"), 2, 2) == completions).all()
        note = page.get_by_label("Settings", exact=True)
        assert note.inner_text() == ""
        page.get_by_role("button", name="Centre").click()
        wait(page, "Settings", "These are of other settings")
        page.wait_for_url("**mask=centre**")
        assert "restored" not in page.url
        assert (completions == drawn(copied(page)[1])).all()
        save_measurement(page, 2)
        assert (np.array(Image.open("mask.png")) == np.where(np.arange(8) < 4, 255, 0)).all()
        with page.expect_download() as download:
            page.get_by_role("button", name="Export HTML").click()
        (place,) = re.findall("Recorded .*<code>(.*)</code>", download.value.path().read_text())
        assert "heldout=2" in place
        assert "restored=1" in place
        assert "centre" not in place
        restore(page)
        assert note.inner_text() == ""
        shown = page.locator("main canvas:visible").count()
        page.evaluate(LEAVE_DURING_EXPORT)
        page.get_by_role("button", name="Export HTML").click()
        page.get_by_role("heading", name="Runs", level=2).wait_for()
        page.get_by_role("button", name="Export HTML", disabled=False).wait_for()
        assert 0 < page.evaluate("pictures") <= shown  # of one state, not of all
        assert page.get_by_role("dialog").count() == 0


LEAVE_DURING_EXPORT = """() => {
  globalThis.pictures = 0;
  const own = HTMLCanvasElement.prototype.toDataURL;
  HTMLCanvasElement.prototype.toDataURL = function (...values) {
    pictures += 1;
    if (pictures === 1) {
      location.hash = "#/runs";
      dispatchEvent(new Event("hashchange"));
    }
    return own.apply(this, values);
  };
}"""
"""Leave the view as the first picture of a replay is taken, and count the pictures."""


@pytest.mark.slow
def test_a_restoration_that_is_refused_leaves_the_completions_as_they_were(open_page, tmp_path):
    with open_page("#/restore?heldout=2&n=2&steps=3") as page:
        refused = page.get_by_role("status").get_by_text("The mask is all known")
        clear = page.get_by_role("button", name="Clear")
        clear.click()
        page.get_by_role("button", name="Restore", exact=True).click()
        refused.wait_for()
        assert page.get_by_role("heading", name="Completions").is_hidden()
        page.get_by_role("button", name="Centre").click()
        restore(page)
        clear.click()
        page.get_by_role("button", name="Restore", exact=True).click()
        refused.wait_for()
        assert "other settings" in page.get_by_label("Settings", exact=True).inner_text()
        exported(page, tmp_path / "replay.html")


@pytest.fixture
def release(monkeypatch):
    """Let the samples with seed 1 continue, which wait for this call after their third state."""
    released = threading.Event()
    real = JOBS["images.sample"]

    def held(studio, settings):
        for i, state in enumerate(real(studio, settings)):
            yield state
            assert (settings["seed"], i) != (1, 2) or released.wait(SECONDS)

    monkeypatch.setitem(JOBS, "images.sample", held)
    yield released.set
    released.set()


def test_a_state_that_is_chosen_while_others_are_sampled_stays(open_page, release):
    with open_page("#/images?n=1&steps=6") as page:
        wait(page, "State", "State 6 of 6")
        page.get_by_role("button", name="Next seed").click()
        wait(page, "State", "State 3 of 6")
        page.get_by_label("Noise level σ").press("Home")
        wait(page, "State", "State 1 of 6")
        release()
        wait_for_end(page)
        wait(page, "State", "State 1 of 6")


WATCH_NOTE = """(note) => {
  const canvas = document.querySelector("canvas[aria-label='Completions']");
  const before = canvas.toDataURL();
  globalThis.drawn = new Promise((resolve) => {
    new MutationObserver(() => note.textContent || resolve(canvas.toDataURL() !== before))
      .observe(note, { childList: true });
  });
}"""
"""See whether other completions are drawn when the note goes."""


def test_without_motion_old_completions_keep_their_note(open_page):
    with open_page("#/restore?heldout=2&n=2&steps=3", reduced_motion="reduce") as page:
        restore(page)
        page.get_by_label("Seed", exact=True).fill("1")
        page.keyboard.press("Enter")
        wait(page, "Settings", "These are of other settings")
        page.get_by_label("Settings", exact=True).evaluate(WATCH_NOTE)
        page.get_by_role("button", name="Restore", exact=True).click()
        assert page.evaluate("drawn")


def test_guidance_waits_for_a_class(open_page):
    with open_page("#/images?n=1&steps=2&guidance=3") as page:
        wait(page, "State", "State 2 of 2, σ = 0, 3 evaluations of the score, 0")
        guidance = page.get_by_label("Guidance")
        assert guidance.is_disabled()
        page.get_by_label("Class", exact=True).select_option("3")
        wait(page, "State", "State 2 of 2, σ = 0, 3 evaluations of the score, 6 calls")
        assert guidance.is_enabled()


@pytest.mark.slow
def test_a_mask_outlives_other_operators_and_a_reload(open_page):
    with open_page("#/restore?heldout=2") as page:
        wait(page, "Known", "32 of 64 pixels are known")
        page.get_by_label("Brush size").press("ArrowRight")
        page.get_by_label("The image and its mask").press("Space")
        wait(page, "Known", "28 of 64 pixels are known")
        page.get_by_label("Brush", exact=True).select_option("show")
        operator = page.get_by_label("Operator")
        operator.select_option("fourier")
        wait(page, "Known", "24 of 64 frequencies are known")
        page.get_by_role("button", name="Low ones").click()
        wait(page, "Known", "25 of 64 frequencies are known")
        operator.select_option("deblur")
        page.get_by_label("The spectrum and its mask").wait_for(state="hidden")
        for _ in range(2):  # from what the page keeps, and from its address
            operator.select_option("inpaint")
            wait(page, "Known", "28 of 64 pixels are known")
            operator.select_option("fourier")
            wait(page, "Known", "25 of 64 frequencies are known")
            page.reload()
            wait(page, "Known", "25 of 64 frequencies are known")
        assert page.get_by_label("Brush", exact=True).input_value() == "show"
        assert page.get_by_label("Brush size").input_value() == "2"


@pytest.fixture
def let(studio, monkeypatch):
    """Hold jobs with seed 1 after their third answer until `let("continue")` or `let("stop")`.

    The latter waits until the studio has heard that the job is cancelled.
    """
    permits = threading.Semaphore(0)

    def hold(real):
        def held(own, settings):
            for i, answer in enumerate(real(own, settings)):
                yield answer
                assert (settings["seed"], i) != (1, 2) or permits.acquire(timeout=SECONDS)

        return held

    for name in ("images.sample", "images.between", "restore.run"):
        monkeypatch.setitem(JOBS, name, hold(JOBS[name]))

    def release(how):
        if how == "stop":
            wait_until(lambda: studio.app.state.worker._running.cancelled)
        permits.release()

    yield release
    permits.release(9)


WATCH_STATES = """(output) => {
  globalThis.states = [];
  new MutationObserver(() => states.push(Number(output.textContent.split(" ")[1])))
    .observe(output, { childList: true });
}"""
"""List the numbers of the states that are shown from now on."""


@pytest.mark.slow
def test_images_are_played_counted_stopped_and_compared_by_their_costs(open_page, let):
    with open_page("#/images?n=1&steps=6") as page:
        wait(page, "State", "State 6 of 6")
        page.get_by_role("button", name="Next seed").click()
        wait(page, "State", "State 3 of 6")
        play, stop = (
            page.get_by_role("button", name=name, exact=True) for name in ("Play", "Stop")
        )
        page.get_by_label("State", exact=True).evaluate(WATCH_STATES)
        play.click()
        wait(page, "State", "State 1 of 6")
        let("continue")  # those that come are not shown before those that are played
        play.wait_for()
        assert list(dict.fromkeys(page.evaluate("states"))) == [1, 2, 3, 4, 5, 6]

        page.get_by_label("Images", exact=True).fill("3")
        page.keyboard.press("Enter")
        wait(page, "State", re.compile("State 3 of 6.* with 3 at once"))
        stop.click()
        let("stop")
        page.get_by_text("Stopped").wait_for()
        end = pixels(page, "Samples:")
        assert (cells(end, 3, 2)[0] != cells(end, 3, 2)[2]).any()
        play.click()
        wait(page, "State", "State 1 of 6")
        assert (pixels(page, "Samples:") != end).any()
        wait(page, "State", "State 3 of 6")
        assert (pixels(page, "Samples:") == end).all()
        play.wait_for()

        page.get_by_role("button", name="Interpolate").click()
        path = page.get_by_label("Samples between two seeds")
        path.wait_for()
        stop.click()
        let("stop")
        page.locator("section", has=path).get_by_text("Stopped").wait_for()

        let("continue")
        page.get_by_role("button", name="Sample", exact=True).click()
        wait(page, "State", "State 6 of 6")
        _, x = copied(page)
        assert (cells(pixels(page, "Samples:"), 3, 2) == drawn(x)).all()
        page.get_by_text("As a table").click()
        rows = page.locator("tbody tr").all_inner_texts()
        assert [row.split("\t") for row in rows] == [
            ["heun", "9", "2.5 (2.25 to 2.75)", "0.1"],
            ["heun", "79", "1.5 (2.25 to 2.75)", "0.1"],
        ]


@pytest.mark.slow
def test_a_restoration_is_stopped_and_has_its_steps_and_its_class(open_page, let):
    with open_page("#/restore?heldout=2&n=2&seed=1") as page:
        wait(page, "Known", "32 of 64 pixels are known")
        page.get_by_label("Steps", exact=True).fill("4")
        page.get_by_role("button", name="Restore", exact=True).click()
        wait(page, "State", "State 3 of 4")
        early = cells(pixels(page, "Completions"), 2, 2)
        page.get_by_role("button", name="Stop").click()
        let("stop")
        page.get_by_text("Stopped").wait_for()
        wait(page, "State", "State 3 of 4")
        assert page.get_by_label("Errors").inner_text() == ""  # they are of the end
        guidance = page.get_by_label("Guidance")
        assert guidance.is_disabled()
        page.get_by_label("Class", exact=True).select_option("3")
        wait(page, "Settings", "These are of other settings")
        guidance.press("End")
        page.wait_for_url("**label=3**")
        let("continue")
        guided = restore(page)
        command, x = copied(page)
        assert "--label 3" in command
        assert (guided == drawn(x)).all()
        assert (guided != early).any()
        save_measurement(page, 2)
        assert main(shlex.split(command)[1:]) == 0
        assert (np.load("restored/restored.npy") == x.numpy()).all()
        guidance.press("Home")
        let("continue")
        assert (restore(page) != guided).any()  # 0 is without the class


@pytest.mark.slow
def test_each_mask_by_name_is_drawn_and_the_blur_and_the_factor_are_measured(open_page):
    hidden = (0, 114, 178)
    x = all_samples(load_data("digits").test)[2:3]
    rows = np.arange(8)

    def known(noun):
        painted = pixels(page, f"The {noun} and its mask")[..., :3]
        return (painted != hidden).any(2)

    def press(name, noun):
        page.get_by_role("button", name=name, exact=True).click()
        return known(noun)

    def measured(**option):
        own = ImageMeasurement(page.get_by_label("Operator").input_value(), (1, 8, 8), **option)
        return drawn(own.picture(own.measure(x, 0)))[0]

    def wait_for_measured(**option):
        expected = measured(**option)
        page.wait_for_function(
            """([label, red]) => [...document.querySelector(`canvas[aria-label="${label}"]`)
              .getContext("2d").getImageData(0, 0, 8, 8).data].every((v, i) => (
                i % 4 || v === red[i / 4]))""",
            arg=["What the measurement says", expected[..., 0].flatten().tolist()],
        )

    with open_page("#/restore?heldout=2") as page:
        wait(page, "Known", "32 of 64 pixels are known")
        centre = (rows >= 2) & (rows < 6)
        assert (press("Centre", "image") == ~(centre & centre[:, None])).all()
        random = press("Random", "image")
        assert 0 < random.sum() < 64
        wait(page, "Known", f"{random.sum()} of 64 pixels are known")
        assert press("Clear", "image").all()
        assert (press("Right half", "image") == (rows < 4)).all()
        assert (press("Random", "image") == random).all()
        share = page.get_by_label("Share that is known")
        share.press("End")
        wait(page, "Known", f"{known('image').sum()} of 64 pixels are known")
        assert (known("image") >= random).all()
        assert known("image").sum() > random.sum()

        page.get_by_label("Operator").select_option("fourier")
        wait(page, "Known", "24 of 64 frequencies are known")
        random = press("Random rows", "spectrum")
        assert (random == random[:, :1]).all()
        assert random[4].all()  # the mean
        wait(page, "Known", f"{random.sum()} of 64 frequencies are known")
        share.press("Home")
        fewer = known("spectrum")
        assert (fewer <= random).all()
        assert fewer.sum() < random.sum()
        wait_for_measured(mask=torch.from_numpy(fewer))
        assert (press("Every third row", "spectrum") == (rows % 3 == 1)[:, None]).all()

        page.get_by_label("Operator").select_option("deblur")
        wait_for_measured(sigma=1.0)
        for _ in range(2):
            page.get_by_label("Blur in pixels").press("ArrowRight")
        wait_for_measured(sigma=1.5)
        wait_for_address(page)
        page.reload()
        wait_for_measured(sigma=1.5)
        page.get_by_label("Operator").select_option("super-resolve")
        wait_for_measured(factor=2)
        page.get_by_label("Pixels a side").select_option("4")
        wait_for_measured(factor=4)
        wait_for_address(page)
        page.reload()
        wait_for_measured(factor=4)


@pytest.mark.slow
def test_each_operator_keeps_the_share_of_its_own_mask(open_page):
    with open_page("#/restore?mask=random&share=0.25&frequencies=low+ones") as page:
        wait(page, "Known", "17 of 64 pixels are known")
        operator, share = page.get_by_label("Operator"), page.get_by_label("Share that is known")
        operator.select_option("fourier")
        wait(page, "Known", "25 of 64 frequencies are known")
        share.press("Home")
        wait(page, "Known", "1 of 64 frequencies are known")
        for _ in range(2):  # from what the page keeps, and from its address
            operator.select_option("inpaint")
            wait(page, "Known", "17 of 64 pixels are known")
            assert share.input_value() == "0.25"
            page.get_by_role("button", name="Random").click()
            wait(page, "Known", "17 of 64 pixels are known")
            page.reload()
            wait(page, "Known", "17 of 64 pixels are known")
            operator.select_option("fourier")
            wait(page, "Known", "1 of 64 frequencies are known")


def test_an_upload_is_shown_again_after_a_reload_unless_it_is_forgotten(open_page, studio):
    values = np.random.default_rng(3).integers(0, 256, (8, 8), dtype="uint8")
    Image.fromarray(values).save("own.png")
    with open_page("#/restore") as page:
        wait(page, "Known", "32 of 64 pixels are known")
        page.get_by_label("Your own image").set_input_files("own.png")
        wait(page, "Uploaded", "Chosen: own.png")
        page.wait_for_url("**file=own.png**")
        page.reload()
        wait(page, "Known", "32 of 64 pixels are known")
        wait(page, "Uploaded", "Chosen: own.png")
        assert (pixels(page, "The image and its mask")[:, :4, 0] == values[:, :4]).all()
        studio.app.state.studio.uploads.clear()
        page.reload()
        error = "is forgotten: drop the image again"
        page.locator(".status.error").filter(has_text=error).wait_for()
        page.get_by_label("Held-out image").fill("1")
        page.keyboard.press("Enter")
        wait(page, "Known", "32 of 64 pixels are known")
        wait_for_address(page)
        assert "upload" not in page.url
        page.get_by_label("Your own image").set_input_files("own.png")
        wait(page, "Uploaded", "Chosen: own.png")
        page.get_by_label("Held-out image").fill("1")  # as before
        page.keyboard.press("Enter")
        page.get_by_text("Chosen: own.png").wait_for(state="hidden")


def test_an_upload_that_cannot_be_read_is_not_shown_as_another_image(open_page):
    Path("text.npy").write_text("no array", "utf-8")
    with open_page("#/restore?heldout=2") as page:
        painted = page.get_by_label("The image and its mask")
        painted.wait_for()
        page.get_by_label("Your own image").set_input_files("text.npy")
        words = "text.npy cannot be read as arrays of numbers: it is neither an .npy nor an .npz"
        page.locator(".status.error").filter(has_text=words).wait_for()
        painted.wait_for(state="hidden")
        page.get_by_role("button", name="Back to the held-out image").click()
        wait(page, "Known", "32 of 64 pixels are known")
        painted.wait_for()
        assert page.get_by_label("Uploaded", exact=True).inner_text() == ""
        assert "upload" not in page.url
        page.get_by_label("Operator").select_option("fourier")
        page.get_by_role("button", name="Clear").click()
        page.get_by_role("status").get_by_text("The mask is all known").wait_for()
        page.get_by_label("The spectrum and its mask").wait_for()  # to paint over some


def test_an_upload_that_ends_after_another_choice_is_not_taken(open_page):
    held = []

    def choose(name):
        Image.new("L", (8, 8)).save(name)
        count = len(held)
        page.get_by_label("Your own image").set_input_files(name)
        while len(held) == count:
            page.wait_for_timeout(20)
        return held[-1]

    def answer(route):
        with page.expect_response("**/upload"):
            route.continue_()
        page.evaluate("() => fetch('about.json').then((answer) => answer.text())")  # it is read

    with open_page("#/restore") as page:
        wait(page, "Known", "32 of 64 pixels are known")
        page.route("**/upload", lambda route: held.append(route))
        first = choose("first.png")
        page.get_by_label("Held-out image").fill("1")
        page.keyboard.press("Enter")
        page.wait_for_url("**heldout=1**")
        answer(first)
        uploaded = page.get_by_label("Uploaded", exact=True)
        assert uploaded.inner_text() == ""
        second, third = choose("second.png"), choose("third.png")
        answer(third)
        wait(page, "Uploaded", "Chosen: third.png")
        answer(second)
        assert uploaded.inner_text() == "Chosen: third.png"
        choose("fourth.png").abort()
        error = "fourth.png was not uploaded (Failed to fetch): check that it is a file"
        page.locator(".status.error").filter(has_text=error).wait_for()


@pytest.mark.parametrize(
    ("address", "words"),
    [("heldout=99999", r"Held-out image: give a whole number from 0 to \d+"),
     ("task=deblur&sigma=wide", "sigma: give a number")],
)  # fmt: skip
def test_a_wrong_number_of_the_address_is_named(open_page, address, words):
    with open_page(f"#/restore?{address}") as page:
        error = page.get_by_role("status").get_by_text(re.compile(words))
        error.wait_for()
        page.get_by_label("Seed", exact=True).fill("1")  # of a field that is right
        page.get_by_role("button", name="Restore", exact=True).click()
        error.wait_for()
        assert page.get_by_role("heading", name="Completions").is_hidden()


def test_a_fast_stroke_hides_every_pixel_between_two_events(open_page):
    with open_page("#/restore?heldout=2") as page:
        wait(page, "Known", "32 of 64 pixels are known")
        box = page.get_by_label("The image and its mask").bounding_box()
        page.mouse.move(box["x"] + 5, box["y"] + 5)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 2 - 5, box["y"] + box["height"] / 2 - 5)
        page.mouse.up()
        wait(page, "Known", "28 of 64 pixels are known")


def save_measurement(page, count):
    """Save the files that the copied command reads into the working folder."""
    saved = []
    page.on("download", lambda file: saved.append(file))
    page.get_by_role("button", name="Save the measurement").click()
    while len(saved) < count:
        page.wait_for_timeout(20)
    for file in saved:
        file.save_as(file.suggested_filename)


def restore(page):
    """Press the button, and return the completions that are drawn at the end."""
    # the end of the restoration before stays on the page until this one has a frame
    page.get_by_label("State", exact=True).evaluate("output => { output.textContent = ''; }")
    page.get_by_role("button", name="Restore", exact=True).click()
    wait(page, "State", "σ = 0, ")
    n = int(page.get_by_label("Completions", exact=True).and_(page.locator("input")).input_value())
    return cells(pixels(page, "Completions"), n, n)


def test_completions_keep_the_known_pixels_and_equal_the_copied_code(open_page):
    with open_page("#/restore?heldout=2&n=3&steps=4&seed=5") as page:
        wait(page, "Known", "32 of 64 pixels are known")
        paint = page.get_by_label("The image and its mask")
        box = paint.bounding_box()
        page.mouse.move(box["x"] + 5, box["y"] + 5)
        page.mouse.down()
        page.mouse.move(box["x"] + 5, box["y"] + box["height"] / 4 - 5, steps=4)
        page.mouse.up()
        wait(page, "Known", "30 of 64 pixels are known")
        page.get_by_label("Brush", exact=True).select_option("show")
        paint.focus()
        for key in ("ArrowRight", "Space", *["ArrowRight"] * 4, "Space"):
            page.keyboard.press(key)
        wait(page, "Known", "31 of 64 pixels are known")
        page.wait_for_url("**mask=70.74.f0**")
        painted = pixels(page, "The image and its mask")[..., :3]
        known = (painted != (0, 114, 178)).any(2)
        page.get_by_label("Method", exact=True).select_option("pigdm")
        wait(page, "Measured bias", "means are wrong by up to 0.66 exact deviations")
        page.get_by_role("button", name="Restore", exact=True).click()
        wait(page, "Errors", "Root mean square error of the mean")
        canvas = pixels(page, "Completions")
        completions = cells(canvas, 3, 3)
        assert (completions[:, known] == painted[known]).all()
        assert (completions[0][~known] != completions[1][~known]).any()
        _, x = copied(page)
        assert (completions == drawn(x)).all()
        assert (pixels(page, "Mean of")[..., :3] == drawn(x.mean(0, keepdim=True))[0]).all()
        spread = x.std(0).max().item()
        text = page.get_by_label("Largest deviation").inner_text()
        assert float(text) == pytest.approx(spread, rel=0.01)
        page.get_by_label("Method", exact=True).select_option("algorithm2")
        page.get_by_label("Noise of").fill("0.1")
        page.get_by_role("button", name="Restore", exact=True).click()
        page.get_by_text("method='algorithm2' needs a noiseless mask").wait_for()


def test_an_uploaded_image_is_restored_as_by_the_copied_command(open_page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).integers(0, 256, (8, 8), dtype="uint8")
    Image.fromarray(values).save("own.png")
    Path("text.png").write_text("no image")
    with open_page("#/restore?n=2&steps=4&mask=random") as page:
        wait(page, "Known", "of 64 pixels are known")
        page.get_by_label("Your own image").set_input_files("own.png")
        wait(page, "Uploaded", "Chosen: own.png")
        page.get_by_label("Seed").fill("1")
        page.get_by_role("button", name="Restore", exact=True).click()
        wait(page, "State", "State 4 of 4, σ = 0")
        painted = pixels(page, "The image and its mask")[..., :3]
        known = (painted != (0, 114, 178)).any(2)
        assert (painted[known] == values[known][:, None]).all()
        command, x = copied(page)
        completions = cells(pixels(page, "Completions"), 2, 2)
        assert (completions == drawn(x)).all()
        assert (completions[:, known] == painted[known]).all()
        save_measurement(page, 2)
        page.get_by_label("Your own image").set_input_files("text.png")
        page.locator(".status.error").filter(has_text="text.png").wait_for()
    assert main(shlex.split(command)[1:]) == 0
    assert (np.load("restored/restored.npy") == x.numpy()).all()


@pytest.mark.slow
def test_known_frequencies_are_painted_and_restored_as_by_the_copied_code(open_page):
    hidden = (0, 114, 178)
    with open_page("#/restore?task=fourier&heldout=3&n=2&steps=4&noise=0.05&seed=2") as page:
        # rows 1, 4 and 7: the mean is in row 4
        wait(page, "Known", "24 of 64 frequencies are known")
        spectrum = pixels(page, "The spectrum and its mask")[..., :3]
        known = (spectrum != hidden).any(2)
        assert (known == (np.arange(8) % 3 == 1)[:, None]).all()
        x = all_samples(load_data("digits").test)[3:4]
        waves = np.log1p(np.abs(np.fft.fftshift(np.fft.fft2(x[0, 0].numpy(), norm="ortho"))))
        assert np.abs(spectrum[known][:, 0] - 255.5 * (waves / waves.max())[known]).max() < 2
        before = pixels(page, "What the measurement says")
        page.get_by_role("button", name="Low ones").click()
        wait(page, "Known", "25 of 64 frequencies are known")
        page.wait_for_url("**frequencies=low+ones**")
        page.wait_for_function(
            """([label, old]) => [...document.querySelector(`canvas[aria-label="${label}"]`)
              .getContext("2d").getImageData(0, 0, 8, 8).data].some((v, i) => v !== old[i])""",
            arg=["What the measurement says", before.flatten().tolist()],
        )
        low = torch.arange(-4, 4).abs() / 8 <= 0.5**0.5 / 2
        fourier = inverse.fourier(torch.fft.ifftshift(low & low[:, None]))
        y = fourier(x)
        y = y + 0.05 * seeded(derive_seed(2, 1))(y)
        # the mean of N(½, 1/12) given y, by a dense matrix
        a = fourier(torch.eye(64).view(64, 1, 8, 8)).flatten(1).T.double()
        gap = (y - fourier(torch.full_like(x, 0.5))).flatten().double()
        gain = a.T @ torch.linalg.inv(0.05**2 * torch.eye(len(a)).double() + a @ a.T / 12) / 12
        mean = drawn((0.5 + gain @ gap).view(1, 1, 8, 8))[0].astype(int)
        shown = pixels(page, "What the measurement says")[..., :3]
        assert np.abs(shown - mean).max() <= 1  # rounding in float32
        page.get_by_label("Method", exact=True).select_option("ddrm")
        wait(page, "Measured bias", "Bias on a mixture in 64 dimensions with a matrix")
        completions = restore(page)
        assert "Root mean square error" in page.get_by_label("Errors").inner_text()
        command, x = copied(page)
        assert (completions == drawn(x)).all()
        save_measurement(page, 2)
    assert main(shlex.split(command)[1:]) == 0
    assert (np.load("restored/restored.npy") == x.numpy()).all()


@pytest.mark.slow
def test_projections_are_drawn_and_restored_as_by_the_copied_code(open_page):
    with open_page("#/restore?task=radon&angles=5&heldout=3&n=2&steps=4") as page:
        page.get_by_label("Its projections").wait_for()
        radon = inverse.radon(5, 8)
        y = radon(all_samples(load_data("digits").test)[3:4])
        assert (pixels(page, "Its projections")[..., :3] == drawn(y / y.max())[0]).all()
        page.get_by_label("Method", exact=True).select_option("pigdm")
        completions = restore(page)
        command, x = copied(page)
        assert (completions == drawn(x)).all()
        # small singular values, below 1e-4 of the largest, are left out
        assert (radon(x) - y).abs().max() < 1e-3
        save_measurement(page, 1)
        page.get_by_label("Your own image").set_input_files("measurement.npy")
        page.get_by_label("Angles").fill("4")
        page.keyboard.press("Enter")
        error = "measurement.npy has the shape (1, 5, 12): task radon needs an .npy file of 1 × 4"
        page.locator(".status.error").filter(has_text=error).wait_for()
        page.get_by_label("Angles").fill("5")
        page.keyboard.press("Enter")
        page.get_by_label("The image", exact=True).wait_for(state="hidden")  # it is not known
        assert (restore(page) == completions).all()
        again, same = copied(page)
        assert again == command
        assert (same == x).all()
    assert main(shlex.split(command)[1:]) == 0
    assert (np.load("restored/restored.npy") == x.numpy()).all()


@pytest.mark.slow
def test_an_image_that_is_measured_already_is_not_measured_again(open_page):
    values = np.random.default_rng(0).integers(0, 256, (4, 4), dtype="uint8")
    Image.fromarray(values).save("small.png")
    with open_page("#/restore?task=super-resolve&factor=2&n=2&steps=4") as page:
        page.get_by_label("What the measurement says").wait_for()
        page.get_by_label("Your own image").set_input_files("small.png")
        page.get_by_label("It is a measurement already").check()
        page.get_by_label("The image", exact=True).wait_for(state="hidden")
        large = values.repeat(2, 0).repeat(2, 1)
        assert (pixels(page, "What the measurement says")[..., 0] == large).all()
        page.get_by_label("Method", exact=True).select_option("ddrm")
        completions = restore(page)
        command, x = copied(page)
        assert (completions == drawn(x)).all()
        means = x.view(2, 4, 2, 4, 2).mean((2, 4)).numpy()
        # values up to some tens (σ_max) in float32
        assert np.abs(means - (values + 0.5) / 256).max() < 1e-4
    assert main(shlex.split(command)[1:]) == 0
    assert (np.load("restored/restored.npy") == x.numpy()).all()


@pytest.fixture
def coloured(monkeypatch):
    """A studio over a model of images of 3 × 4 × 4, without a run."""
    net = torch.nn.Module()
    net.forward = lambda x, cond: -x / (1 + cond.view(-1, 1, 1, 1) ** 2)
    prior = Prior(torch.full((3, 4, 4), 0.5), torch.tensor(1.0))
    own = Studio(None, Path("runs"))
    model = ScoreModel(net, Precondition("score", "sigma", 40.0, 0.01), prior=prior)
    monkeypatch.setattr(Studio, "model", model)
    picture = Image.fromarray(np.arange(48, dtype="uint8").reshape(4, 4, 3))
    picture.save(path := Path("colours.png"))
    own.upload = own.remember(path.read_bytes())
    return own


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("job", ["images.sample", "images.between"])
def test_a_long_sampling_can_end_at_each_of_its_states(coloured, monkeypatch, job):
    """A computation that is cancelled ends at the next answer, also one that shows nothing."""
    monkeypatch.setattr(pictures, "MAX_SHOWN", 2)
    answers = [*JOBS[job](coloured, {"n": 2, "steps": 7, "sampler": "euler"})]
    assert [frame.header["step"] for frame in answers if frame] == [4, 7]
    # a page keeps each state of a grid, for its slider, and only the end of a path
    kept = [frame.header["keep"] for frame in answers if frame]
    assert kept == [job == "images.sample", True]
    assert len(answers) == 7 + 1  # the last state is shown once more


LEFT_HALF = " ".join(["f0"] * 8)


@pytest.mark.parametrize(
    ("job", "settings"),
    [("images.sample", {"n": 2, "sampler": "adaptive"}),
     ("images.between", {"n": 2, "sampler": "adaptive", "label": "3", "guidance": 2}),
     *(("restore.run", {"n": 2, "steps": 9, "method": method, "mask": LEFT_HALF})
       for method in ("particle_filter", "daps", "split_gibbs"))],
)  # fmt: skip
def test_a_job_that_is_cancelled_in_a_step_evaluates_the_network_no_more(trained, job, settings):
    """One step of these takes several evaluations, and one of `adaptive` tens of them."""
    own, calls = Studio(trained, trained.parent), []

    def prepare(cancel):
        own.model.net.register_forward_pre_hook(lambda *_: calls.append(1))
        own.model.net.register_forward_pre_hook(lambda *_: cancel() if len(calls) == 2 else None)

    run_until_cancelled(own, job, settings, prepare)
    assert len(calls) == 2


def run_until_cancelled(own, job, settings, prepare):
    """Run a job that is cancelled by what `prepare` is given, and wait for its end."""
    worker = work.Worker(JOBS)
    try:
        task = work.Task(1, job, settings, SimpleNamespace(wake=lambda: None, context=own))
        prepare(lambda: worker.cancel(task))
        worker.submit(task)
        wait_until(lambda: task.over)
        *_, end = iter(task.take, None)
        assert json.loads(end) == {"id": 1, "status": "cancelled"}
    finally:
        worker.close()


def test_a_particle_filter_that_is_cancelled_as_it_begins_draws_no_more_noise(trained, monkeypatch):
    """It draws the noise of all its steps before the first one, which takes seconds for many."""
    own, draws = Studio(trained, trained.parent), []

    def prepare(cancel):
        def counted(seed, first):
            noise = seeded(seed, first=first)
            return lambda x: draws.append(1) or (len(draws) == 5 and cancel()) or noise(x)

        monkeypatch.setattr(restorations, "seeded", counted)

    settings = {"n": 2, "steps": 50, "method": "particle_filter", "mask": LEFT_HALF}
    run_until_cancelled(own, "restore.run", settings, prepare)
    assert len(draws) == 5


def test_an_upload_that_claims_many_pixels_is_not_decoded(coloured):
    Image.new("L", (5000, 5000)).save("bomb.png")  # 25 megapixels in some kilobytes
    upload = coloured.remember(Path("bomb.png").read_bytes())
    for measured in (False, True):
        settings = {"upload": upload, "file": "bomb.png", "task": "deblur", "measured": measured}
        with pytest.raises(
            (ValueError, OSError),
            match="it claims 5000 × 5000 pixels",
        ):
            frames_of(coloured, "restore.image", **settings)


def frames_of(studio, job, **settings):
    return [frame for frame in JOBS[job](studio, settings) if frame is not None]


@pytest.mark.parametrize(
    "settings",
    [{"task": "colorize"}, {"task": "super-resolve", "noise": 0.1}, {"task": "deblur", "n": 1},
     {"task": "radon"}, {"mask": "7 6 6 7"}, {"task": "fourier", "mask": "6 f 1 0"}],
)  # fmt: skip
def test_colours_are_restored_from_each_measurement_as_by_the_copied_code(coloured, settings):
    settings = {"upload": coloured.upload, "file": "colours.png", "n": 2, "steps": 3} | settings
    *_, last = frames_of(coloured, "restore.run", **settings, method="pigdm")
    coloured.run = Path("model.safetensors")  # whose load the code begins with
    code = CODE_WRITERS["restore.run"](settings | {"method": "pigdm"}, coloured)
    own = {name: value for name, value in settings.items() if name not in ("n", "steps")}
    (saved,) = frames_of(coloured, "restore.files", **own)
    assert all(name in code["note"] and f" {name}" in code["command"] for name in saved.arrays)
    python = code["python"]
    names = {"model": coloured.model}
    exec(python.replace("sf.load('model.safetensors')", "model"), names)
    assert last.arrays["x"].shape == (settings["n"], 4, 4, 3)
    assert (last.arrays["x"] == as_bytes(names["x"]).permute(0, 2, 3, 1).numpy()).all()


def test_an_uploaded_file_named_like_an_option_is_a_file_of_the_copied_command(coloured):
    np.save("-m.npy", np.zeros((1, 4, 4), "float32"))
    coloured.run = Path("model.safetensors")
    upload = coloured.remember(Path("-m.npy").read_bytes())
    settings = {"upload": upload, "file": "-m.npy", "measured": True, "task": "colorize"}
    words = shlex.split(CODE_WRITERS["restore.run"](settings, coloured)["command"])
    assert [word for word in words if word.endswith(".npy")] == ["./-m.npy"]


@pytest.mark.parametrize(
    ("job", "settings", "message"),
    [
        ("images.sample", {"n": 257}, "n=257: give 1 to 256"),
        ("images.sample", {"seed": -1}, "seed=-1: give 0 to 9007199254740991"),
        ("images.sample", {"step": 3}, "step does not exist: did you mean steps"),
        ("images.sample", {"steps": "many"}, "steps='many': give a whole number or null"),
        ("images.nearest", {"n": 2, "index": 2}, "index=2: give a whole number from 0 to 1"),
        ("images.nearest", {}, "No run is open"),
        (
            "restore.run",
            {"upload": "../x", "mask": "7 7 7 7"},
            "upload='../x' is forgotten: drop the image again",
        ),
        ("restore.run", {"mask": "f f f f"}, "The mask is all known: paint over some"),
        ("restore.run", {"mask": "f0 f0"}, "mask has shape"),
        ("restore.run", {"mask": "one"}, "mask='one': give a hexadecimal number for each row"),
        ("restore.run", {"task": "super-resolve", "factor": 3}, "factor 3: it must divide 4 and 4"),
        ("restore.run", {"task": "deblur", "sigma": 0}, "sigma=0: give 0.001 to 100"),
        ("restore.run", {"particles": 10**9}, "particles=1000000000: give 1 to 256"),
    ],
)
def test_settings_that_make_no_sense_are_refused(coloured, job, settings, message):
    if job == "restore.run":
        settings = {"upload": coloured.upload} | settings
    with pytest.raises(ValueError, match=message):
        frames_of(coloured, job, **settings)
