"""The view of runs: trainings that are started, stopped and resumed, by clicks in a browser."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from canvas import read_canvas
from PIL import Image
from waiting import SECONDS, wait_until

pytest.importorskip("starlette")

from scorefield.checkpoint import read_tensors
from scorefield.disk import hold_lock
from scorefield.runs.journal import read_log
from scorefield.show.images import as_bytes
from scorefield.studio import context
from scorefield.studio.context import OpenedRuns, Studio
from scorefield.studio.trainings import Trainings, write_run

pytest_plugins = ["studio_browser"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("studio") / "runs"


@pytest.fixture(scope="module")
def studio(open_studio, folder):
    with open_studio(runs=folder) as server:
        yield server


def number_of(page, name):
    """Return a number on the page."""
    text = page.get_by_role("status", name=name, exact=True).inner_text()
    return float(text.split()[0])


def wait_for_state(page, state):
    shown = page.get_by_role("status", name="State", exact=True).filter(has_text=state)
    shown.wait_for()


def begin(page, tab_to, name, amount, unit):
    """Start a training by keys alone."""
    # two letters choose a unit, also if the second comes so late that it begins another word
    fields = {"Name of the run": name, "Train for": str(amount), "Unit": unit[:2]}
    for label, text in fields.items():
        tab_to(page, label)
        page.keyboard.type(text)
    tab_to(page, "Start training")
    page.keyboard.press("Enter")


COUNT_COLOUR = """(canvas) => {
  const style = getComputedStyle(canvas).getPropertyValue("--accent").trim();
  const want = [1, 3, 5].map((i) => parseInt(style.slice(i, i + 2), 16));
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let n = 0;
  for (let i = 0; i < data.length; i += 4) {
    n += want.every((c, k) => Math.abs(c - data[i + k]) < 40);
  }
  return n;
}"""
"""Pixels in the colour of the curve of losses."""


def test_a_training_is_started_by_keys_and_its_curves_and_samples_are_shown(
    open_page, tab_to, folder
):
    with open_page("#/runs?preset=digits") as page:
        page.get_by_text("No runs yet").wait_for()
        begin(page, tab_to, "mine", 6, "steps")
        wait_for_state(page, "finished")
        last = read_log(folder / "mine")[-1]
        assert number_of(page, "Steps") == 6
        assert number_of(page, "Loss") == pytest.approx(last["loss"], rel=1e-3)
        assert number_of(page, "Held-out loss") == pytest.approx(last["heldout"], rel=1e-3)
        chart = page.get_by_label("Loss and held-out loss")
        # the line crosses the chart, so it has more pixels than the chart is wide
        assert chart.evaluate(COUNT_COLOUR) > chart.evaluate("c => c.clientWidth") / 2
        picture = page.get_by_role("img", name="Samples of mine at step 6")
        picture.wait_for()
        assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
        page.reload()  # the address has what was typed
        wait_for_state(page, "finished")
        assert page.get_by_label("Train for").input_value() == "6"
        copies = page.get_by_role("button", name="Copy as code")
        for copy, name in (copies.first, "mine"), (copies.last, "digits"):  # shown, and asked for
            copy.click()
            command = page.get_by_label("Command", exact=True).inner_text()
            page.get_by_role("button", name="Close").click()
            words = ["scorefield", "train", "digits", "--out", str(folder / name), "--steps", "6"]
            assert command.split() == words


def test_the_code_of_a_training_with_a_limit_of_time_warns_that_it_gives_another_model():
    settings = {"name": "new", "preset": "vectors", "amount": 2}
    notes = [
        write_run(settings | {"unit": unit}, Studio(None, Path("runs")))["note"]
        for unit in ("minutes", "steps")
    ]
    assert "another training gives another model" in notes[0]
    assert notes[1] is None


@pytest.mark.slow
def test_the_copied_python_trains_the_same_model_as_the_page(open_page, folder):
    with open_page("#/runs?preset=digits&name=page&amount=6&unit=steps") as page:
        page.get_by_role("button", name="Start training").click()
        page.get_by_role("heading", name="page", exact=True).wait_for()
        wait_for_state(page, "finished")
        page.get_by_label("Name of the run").fill("python")
        page.get_by_role("button", name="Copy as code").last.click()
        exec(page.get_by_label("Python", exact=True).inner_text(), {})
    first, second = (read_tensors(folder / name).tensors for name in ("page", "python"))
    assert first.keys() == second.keys()
    assert all((first[name] == second[name]).all() for name in first)


@pytest.fixture
def pictured(folder):
    """A run of 20 steps with a grid of samples at two of them, and no report."""
    run = folder / "pictured"
    (run / "samples").mkdir(parents=True, exist_ok=True)
    (run / "config.json").write_text(json.dumps({"training": {"steps": 20}}))
    lines = ({"step": i, "loss": 1 / i} for i in range(1, 21))
    (run / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    for step, colour in ((10, (200, 0, 0)), (20, (0, 0, 200))):
        Image.new("RGB", (16, 16), colour).save(run / f"samples/{step:08d}.png")
    yield run
    shutil.rmtree(run)


PICTURES = """label => Promise.all([...document.images]
  .filter((image) => image.alt.startsWith(label))
  .map((image) => image.decode().then(() => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 16, height: 16 });
    const pen = canvas.getContext("2d");
    pen.drawImage(image, 0, 0);
    return [...pen.getImageData(8, 8, 1, 1).data];
  })))"""
"""A pixel of each picture with this label, once it is drawn."""


def test_the_run_that_is_shown_is_marked_in_the_list(open_page, pictured):
    with open_page("#/runs") as page:
        page.get_by_role("heading", level=3).filter(has_text=pictured.name).wait_for()
        assert page.locator("tr[aria-selected=true] button").inner_text() == pictured.name


def test_a_long_name_hides_no_column_on_a_narrow_screen(open_page, studio, monkeypatch):
    one = {"name": "n" * 64, "state": "failed", "step": 0, "steps": 5, "loss": 1, "heldout": 1}
    monkeypatch.setattr(studio.app.state.trainings, "summarise_all", lambda: [one])
    with open_page("#/runs", viewport={"width": 360, "height": 740}) as page:
        last = page.get_by_role("columnheader", name="Held out")
        box = last.bounding_box()
        assert box["x"] + box["width"] <= 360


def test_a_replay_of_a_run_shows_its_grids_over_the_steps(open_page, pictured, tmp_path):
    with open_page(f"#/runs?run={pictured.name}") as page:
        page.get_by_role("img", name="Samples of pictured at step 20").wait_for()
        page.get_by_label("Samples at step").press("Home")
        page.get_by_role("img", name="Samples of pictured at step 10").wait_for()
        with page.expect_download() as download:
            page.get_by_role("button", name="Export HTML").click()
        page.get_by_role("img", name="Samples of pictured at step 10").wait_for()  # as before
        download.value.save_as(tmp_path / "replay.html")
        page.goto((tmp_path / "replay.html").as_uri())
        caption = page.locator("output")
        assert caption.inner_text() == "frame 1 of 2: pictured, step 10"
        assert page.evaluate(PICTURES, "Samples of") == [[200, 0, 0, 255]]
        curve = page.get_by_role("img", name="Loss and held-out loss")
        first = curve.get_attribute("src")
        page.get_by_label("Frame").press("End")
        caption.filter(has_text="frame 2 of 2: pictured, step 20").wait_for()
        assert page.evaluate(PICTURES, "Samples of") == [[0, 0, 200, 255]]
        assert curve.get_attribute("src") != first  # the mark has moved


def test_a_grid_that_cannot_be_read_is_named_in_place_of_a_replay(open_page, pictured):
    with open_page(f"#/runs?run={pictured.name}") as page:
        grid = page.get_by_role("img", name="Samples of pictured at step 20")
        grid.wait_for()
        page.route("**/00000010.png", lambda route: route.abort())
        page.get_by_role("button", name="Export HTML").click()
        error = "Samples of pictured at step 10 cannot be read: check that the run still has"
        page.get_by_role("dialog").get_by_text(error).wait_for()
        page.get_by_role("button", name="Close").click()
        grid.wait_for()  # as before


def test_a_report_is_made_as_the_page_says_and_opened(open_page, studio, pictured, monkeypatch):
    asked = []

    def launch(name, arguments, *, evaluates):
        asked.append((name, [*arguments], evaluates))
        (pictured / "report.html").write_text("<p>report</p>")
        return {}

    monkeypatch.setattr(studio.app.state.trainings, "_launch", launch)
    with open_page(f"#/runs?run={pictured.name}", permissions=["clipboard-read"]) as page:
        hint = page.get_by_text("No report yet: ")
        hint.filter(has_text=f"scorefield evaluate {pictured} writes one").wait_for()
        page.get_by_role("button", name="Copy command").first.click()
        page.get_by_role("button", name="Copied").wait_for()
        text = page.evaluate("() => navigator.clipboard.readText()")
        assert text == f"scorefield evaluate {pictured}"
        page.get_by_role("button", name="Make a report").click()
        with page.context.expect_page() as opened:
            page.get_by_role("link", name="Open the report").click()
        opened.value.locator("body").get_by_text("report", exact=True).wait_for()
        hint.wait_for(state="hidden")
    assert asked == [("pictured", ["evaluate", str(pictured)], True)]


def test_a_preset_names_its_data_and_those_that_must_be_downloaded(open_page):
    with open_page("#/runs?preset=digits") as page:
        data = page.get_by_label("Its data")
        data.filter(has_text="Data: digits").wait_for()
        assert "downloaded" not in data.inner_text()
        page.get_by_label("Preset", exact=True).select_option("ncsn-celeba")
        data.filter(has_text="Data: celeba, which must be downloaded first").wait_for()


def wait_for_samples(page):
    """Wait for all samples of the view Images."""
    page.get_by_label("State", exact=True).filter(has_text="σ = 0,").wait_for()


def test_a_run_is_opened_by_a_click_and_stays_that_of_its_page(open_page, folder, trained):
    """Another page has none, although the studio has opened one meanwhile."""
    run = folder / "opened"
    shutil.copytree(trained, run)
    with open_page("#/runs?run=opened") as page:
        page.get_by_role("link", name="Open in Images").click()
        wait_for_samples(page)
        page.get_by_label("Images", exact=True).fill("1")
        page.keyboard.press("Enter")
        page.get_by_label("State", exact=True).filter(has_text="with 1 at once").wait_for()
        page.reload()
        wait_for_samples(page)
        page.locator("footer").get_by_text(f"Model: {run}").wait_for()
        canvas = page.locator("canvas[aria-label^='Samples:']")
        page.get_by_role("button", name="Copy as code").click()
        names = {}
        exec(page.get_by_label("Python", exact=True).inner_text(), names)
        (image,) = as_bytes(names["x"]).permute(0, 2, 3, 1).numpy()
        assert (read_canvas(canvas)[..., :1] == image).all()
        page.get_by_role("button", name="Close").click()
        page.get_by_role("link", name="Restore").click()
        page.get_by_label("Known", exact=True).filter(has_text="are known").wait_for()
        with page.context.expect_page() as another:
            page.evaluate("open('/#/images')")
        another.value.get_by_role("alert").filter(has_text="No model is open").wait_for()
        another.value.get_by_role("link", name="Runs").last.click()
        another.value.get_by_role("link", name="Open in Images").wait_for()
        shutil.rmtree(run)
        page.reload()
        page.get_by_role("alert").filter(has_text="There is no run 'opened'").wait_for()


def test_a_run_that_is_open_already_is_opened_again_with_its_newest_model(
    open_page, folder, trained
):
    run = folder / "opened"
    shutil.copytree(trained, run)
    with open_page("#/runs?run=opened") as page:
        link = page.get_by_role("link", name="Open in Images")
        link.click()
        wait_for_samples(page)
        before = read_canvas(page.locator("canvas[aria-label^='Samples:']"))
        page.get_by_role("link", name="Runs").click()
        shutil.copy2(run / "checkpoints/00000000.safetensors", run / "model.safetensors")
        os.utime(run / "model.safetensors", ns=(1, 1))
        with page.expect_request("**/about.json*"):  # of the page that is loaded again
            link.click()
        wait_for_samples(page)
        after = read_canvas(page.locator("canvas[aria-label^='Samples:']"))
        assert (after != before).any()
    shutil.rmtree(run)


def test_a_run_without_images_has_no_link_to_views_of_images(folder):
    run = folder / "points"
    run.mkdir(parents=True)
    for shape, images in ([2], False), ([1, 8, 8], True):
        (run / "config.json").write_text(json.dumps({"network": {"kind": "MLP", "shape": shape}}))
        assert Trainings(folder).summarise("points")["images"] is images
    shutil.rmtree(run)


def test_the_models_of_opened_runs_are_kept_until_they_change_or_too_many_are_open(tmp_path):
    opened = OpenedRuns(Studio(None, tmp_path))
    runs = [tmp_path / str(i) for i in range(context.MAX_OPENED + 1)]
    first = opened.open(runs[0])
    name = opened.own.remember(b"an image")
    assert opened.open(runs[0]) is first
    assert first.find_upload(name) == b"an image"
    for run in runs:
        opened.open(run)
    assert opened.open(runs[0]) is not first  # it was closed
    runs[0].mkdir()
    second = opened.open(runs[0])
    (runs[0] / "model.safetensors").touch()
    assert opened.open(runs[0]) is not second


def test_a_training_that_starts_can_be_stopped_and_a_typed_name_stays(
    open_page, studio, monkeypatch
):
    asked = []
    one = {"name": "one", "state": "starting", "step": 0, "steps": None, "loss": None}
    monkeypatch.setattr(studio.app.state.trainings, "summarise_all", lambda: [one])
    monkeypatch.setattr(studio.app.state.trainings, "stop", lambda name: asked.append(name) or one)
    with open_page("#/runs?preset=digits") as page:
        page.get_by_role("button", name="Stop").click()
        wait_until(lambda: asked == ["one"])
        name, preset = page.get_by_label("Name of the run"), page.get_by_label("Preset")
        assert name.input_value() == "digits"
        preset.select_option("vectors")
        assert name.input_value() == "vectors"
        name.fill("mine")
        preset.select_option("digits")
        assert name.input_value() == "mine"


def test_a_press_on_a_button_goes_on_while_the_view_is_refreshed(open_page, studio, monkeypatch):
    asked, step = [], count()
    one = {"name": "one", "state": "starting", "steps": None, "loss": None}
    trainings = studio.app.state.trainings
    monkeypatch.setattr(trainings, "summarise_all", lambda: [one | {"step": next(step)}])
    monkeypatch.setattr(trainings, "stop", lambda name: asked.append(name) or one)
    with open_page("#/runs") as page:
        shown = page.get_by_role("status", name="Steps", exact=True)
        box = page.get_by_role("button", name="Stop").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        shown.filter(has_not_text=shown.inner_text()).wait_for()
        page.mouse.up()
        wait_until(lambda: asked == ["one"])


def test_a_button_acts_on_the_run_whose_name_is_above_it(open_page, studio, monkeypatch):
    """Another run is chosen in the list, and its description is still on its way."""
    asked, released = [], threading.Event()
    one = {"name": "one", "state": "starting", "step": 0, "steps": None, "loss": None}
    two = one | {"name": "two", "state": "stopped"}
    trainings = studio.app.state.trainings
    monkeypatch.setattr(trainings, "summarise_all", lambda: [one, two])
    monkeypatch.setattr(trainings, "describe", lambda name: released.wait(SECONDS) and two)
    monkeypatch.setattr(trainings, "stop", lambda name: asked.append(name) or one)
    with open_page("#/runs?run=one") as page:
        page.get_by_role("heading", name="one", exact=True).wait_for()
        with page.expect_request("**/runs/two"):
            page.get_by_role("button", name="two", exact=True).click()
        with page.expect_response("**/stop"):
            page.get_by_role("button", name="Stop").click()
        assert asked == ["one"]
        released.set()
        page.get_by_role("heading", name="two", exact=True).wait_for()


@pytest.mark.slow
def test_a_training_is_stopped_and_resumed_and_ends_with_the_studio(
    open_studio, browser, tab_to, tmp_path
):
    with open_studio(runs=tmp_path / "runs") as server:
        page = browser.new_page()
        page.set_default_timeout(1000 * SECONDS)
        page.goto(f"{server.entrance}#/runs")
        page.get_by_text("No runs yet").wait_for()
        begin(page, tab_to, "long", 10, "minutes")
        wait_for_state(page, "training")
        page.wait_for_function(
            "() => Number(document.querySelector('[aria-label=Steps]').value) > 5"
        )
        page.get_by_role("button", name="Stop").click()
        wait_for_state(page, "stopped")
        step = number_of(page, "Steps")
        page.get_by_role("button", name="Resume").click()
        wait_for_state(page, "training")
        page.wait_for_function(
            f"() => Number(document.querySelector('[aria-label=Steps]').value) > {step}"
        )
        page.close()
    assert not psutil.Process().children(recursive=True) or not any(
        "train" in " ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)
    )
    lines = [line["step"] for line in read_log(tmp_path / "runs/long")]
    assert lines == sorted(set(lines))
    assert max(int(p.stem) for p in (tmp_path / "runs/long/checkpoints").iterdir()) >= lines[-1]


@pytest.fixture
def trainings(tmp_path, monkeypatch):
    """A folder with a run of a few steps that nobody trains."""
    run = tmp_path / "runs/one"
    (run / "samples").mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"training": {"steps": 9}}))
    lines = [
        {"step": i, "loss": 1 / i} | ({"heldout": 2 / i} if i == 4 else {}) for i in range(1, 6)
    ]
    (run / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (run / "samples/00000005.png").write_bytes(b"picture")
    (run / "report.html").write_text("<p>report</p>")
    manager = Trainings(tmp_path / "runs")
    yield manager
    manager.close()


def test_the_state_of_a_run_is_read_from_its_journal(trainings):
    (run,) = trainings.summarise_all()
    assert (run["step"], run["steps"], run["state"]) == (5, 9, "stopped")
    assert (run["loss"], run["heldout"]) == (1 / 5, 0.5)
    shown = trainings.describe("one")
    assert shown["curve"] == [[i, 1 / i] for i in range(1, 6)]
    assert shown["curve_heldout"] == [[4, 0.5]]
    assert (shown["samples"], shown["report"]) == (["00000005.png"], True)
    with (trainings.folder / "one/log.jsonl").open("a") as file:
        file.write('{"step": 9, "loss": null}\n')  # a step that was skipped
    (run,) = trainings.summarise_all()
    assert (run["step"], run["state"], run["loss"]) == (9, "finished", 1 / 5)


def test_a_run_that_another_process_trains_is_not_called_stopped(trainings):
    with hold_lock(trainings.folder / "one"):
        assert trainings.summarise("one")["state"] == "elsewhere"
    assert trainings.summarise("one")["state"] == "stopped"
    with hold_lock(trainings.folder / "one"):  # looking has not kept it
        pass


def test_a_damaged_run_does_not_hide_the_others(trainings):
    (trainings.folder / "two").mkdir()
    (trainings.folder / "two/config.json").write_text("{")
    states = {run["name"]: run["state"] for run in trainings.summarise_all()}
    assert states == {"one": "stopped", "two": "unreadable"}


def test_long_curves_are_thinned_and_keep_their_end(trainings):
    lines = (f'{{"step": {i}, "loss": 1}}\n' for i in range(1, 5003))
    (trainings.folder / "one/log.jsonl").write_text("".join(lines))
    curve = trainings.describe("one")["curve"]
    assert 350 < len(curve) <= 400
    assert curve[-1][0] == 5002


def test_no_path_leads_out_of_a_run(trainings, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    run = trainings.folder / "one"
    (run / "samples/00000006.png").symlink_to(tmp_path / "secret.png")
    (trainings.folder / "link").symlink_to(tmp_path)
    (trainings.folder / ".hidden").mkdir()
    for folder in (tmp_path, trainings.folder / ".hidden"):
        (folder / "report.html").write_text("secret")
    assert trainings.find_file("one", "samples/00000005.png").read_bytes() == b"picture"
    for name, path in (
        ("one", "samples/00000006.png"), ("one", "../../secret.png"), ("one", "config.json"),
        ("one", "samples/../config.json"), ("one", str(tmp_path / "secret.png")),
        ("link", "report.html"), ("..", "report.html"), (".", "one/report.html"),
        ("one/../..", "report.html"), (".hidden", "report.html"),
        ("nowhere", "report.html"), ("one", "samples/00000007.png"),
    ):  # fmt: skip
        with pytest.raises(FileNotFoundError):
            trainings.find_file(name, path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "../x"}, "give letters"),
        ({"name": "-x"}, "give letters"),
        ({"preset": "vector"}, "did you mean vectors"),
        ({"amount": 0.5, "unit": "steps"}, "whole number"),
        ({"amount": 1e9}, "a second and a week"),
        ({"amount": float("nan")}, "a second and a week"),
        ({"amount": float("inf"), "unit": "steps"}, "whole number"),
        ({"unit": "days"}, "there are seconds, minutes, hours, steps"),
        ({"out": "x"}, "out does not exist"),
        ({"name": "one"}, "this run exists"),
    ],
)
def test_a_training_that_makes_no_sense_is_refused(trainings, change, words):
    with pytest.raises(ValueError, match=words):
        trainings.start({"name": "new", "preset": "vectors", "amount": 1} | change)
    with pytest.raises(ValueError, match="preset, amount: missing"):
        trainings.start({"name": "x"})
    assert [run["name"] for run in trainings.summarise_all()] == ["one"]


WAIT = """
import time
def wait():
    for _ in range(6000):  # a signal that comes just before a long sleep does not end it
        time.sleep(0.1)
"""
STAND_IN = f"""{WAIT}
import pathlib, signal, sys
out = pathlib.Path(sys.argv[0])
def save(*_):
    (out / "saved").write_text("")
    sys.exit(130)
signal.signal(signal.SIGINT, save)
(out / "ready").write_text("")
print("some words"); print("the reason", flush=True)
if sys.argv[1:] != ["fail"]:
    wait()
sys.exit(2)
"""


@pytest.fixture
def launch(trainings, monkeypatch):
    """Start a process in place of a training, which takes seconds to begin."""
    real = subprocess.Popen

    def begin(name, *args, evaluates=False):
        place = trainings.folder / name
        place.mkdir(exist_ok=True)
        (place / "ready").unlink(missing_ok=True)
        script = STAND_IN.replace("sys.argv[0]", repr(str(place)))
        command = [sys.executable, "-c", script, *args]
        monkeypatch.setattr(subprocess, "Popen", lambda _, **options: real(command, **options))
        trainings._launch(name, [], evaluates=evaluates)
        wait_until((place / "ready").exists)

    return begin


def test_a_training_is_ended_by_its_own_signal_and_one_runs_at_a_time(
    trainings, launch, monkeypatch
):
    launch("one")
    assert trainings.summarise("one")["state"] == "training"
    with pytest.raises(ValueError, match="one is being trained: stop it first"):
        trainings.start({"name": "new", "preset": "vectors", "amount": 1})
    process = trainings._trainings["one"].process
    with monkeypatch.context() as late:
        late.setattr(process, "send_signal", lambda number: None)  # it still saves its state
        assert trainings.stop("one")["state"] == "stopping"
    trainings.stop("one")
    process.wait(SECONDS)
    assert trainings.summarise("one")["state"] == "stopped"
    assert (trainings.folder / "one/saved").exists()
    with pytest.raises(ValueError, match="not being trained or evaluated by this studio"):
        trainings.stop("one")


def test_one_of_two_trainings_that_are_asked_for_at_once_starts(trainings, monkeypatch):
    """Two tabs may ask while the process of the first is about to start."""
    real, asked, refused = subprocess.Popen, [], []

    def ask():
        try:
            trainings._launch("second", [])
        except ValueError as error:
            refused.append(str(error))

    other = threading.Thread(target=ask)

    def start(_, **options):
        asked.append(1)
        if len(asked) == 1:
            other.start()
            other.join(0.2)
        return real([sys.executable, "-c", f"{WAIT}\nwait()"], **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    trainings._launch("one", [])
    other.join()
    assert refused == ["one is being trained: stop it first"]
    assert len(asked) == 1


def test_a_training_that_fails_shows_the_last_line_that_it_printed(trainings, launch):
    launch("one", "fail")
    trainings._trainings["one"].process.wait(SECONDS)
    run = trainings.summarise("one")
    assert (run["state"], run["error"]) == ("failed", "the reason")


def test_two_requests_at_once_read_the_same_error(trainings, launch):
    launch("one", "fail")
    training, errors = trainings._trainings["one"], []
    training.process.wait(SECONDS)
    output, other = (
        training.output,
        threading.Thread(target=lambda: errors.append(training.error())),
    )

    def seek(place, whence=0):
        at = output.seek(place, whence)
        if not whence and threading.current_thread() is not other:  # it is about to read
            other.start()
            other.join(0.2)
        return at

    training.output = SimpleNamespace(seek=seek, read=output.read, close=output.close)
    errors.append(training.error())
    other.join()
    assert errors == ["the reason"] * 2


def test_an_evaluation_is_stopped_as_a_training_is_and_its_failure_is_not_that_of_the_run(
    trainings, launch
):
    launch("one", evaluates=True)
    assert trainings.summarise("one")["state"] == "evaluating"
    with pytest.raises(ValueError, match="one is being evaluated: stop it first"):
        trainings.resume("one")
    trainings.stop("one")
    trainings._trainings["one"].process.wait(SECONDS)
    assert (trainings.summarise("one")["state"], trainings.summarise("one")["error"]) == (
        "stopped",
        "",
    )
    launch("one", "fail", evaluates=True)
    trainings._trainings["one"].process.wait(SECONDS)
    run = trainings.summarise("one")
    assert (run["state"], run["error"]) == ("stopped", "the reason")


def test_no_training_outlives_the_studio(trainings, launch):
    launch("new")
    process = trainings._trainings["new"].process
    assert os.getsid(process.pid) == process.pid  # the terminal's Ctrl-C does not reach it twice
    trainings.close()
    assert process.returncode == 130
    assert (trainings.folder / "new/saved").exists()


def test_a_report_may_run_nothing(studio, folder, ask):
    (folder / "old").mkdir(parents=True, exist_ok=True)
    (folder / "old/report.html").write_text("<p>report</p>")
    status, text, headers = ask("/runs/old/report.html")
    assert (status, text) == (200, "<p>report</p>")
    policy = headers["Content-Security-Policy"]
    assert re.search("default-src 'none'.*sandbox", policy)
    for path in ("/runs/old/config.json", "/runs/..%2fold/report.html", "/runs/old/../old/x"):
        assert ask(path)[0] == 404
