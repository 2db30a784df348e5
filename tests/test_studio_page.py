"""The shell of the studio's page, in a real browser."""

import math
import threading
import time

import numpy as np
import pytest

pytest.importorskip("starlette")

from waiting import SECONDS, wait_for_address, wait_until

from scorefield.studio.jobs import JOBS
from scorefield.studio.wire import Frame

pytest_plugins = ["studio_browser"]

RUN = """async ([job, settings]) => {
  const { run } = await import("/page/wire.js");
  const frames = [];
  return new Promise((resolve) => run(job, settings, {
    frame(header, arrays) { frames.push([header, [...arrays.x], [...arrays.label]]); },
    status(s) { if (s.status !== "queued" && s.status !== "running") resolve([frames, s]); },
  }));
}"""
"""Run a job, and return its frames and its last status."""


def double(studio, settings):
    """A job of three frames."""
    for i in range(3):
        x = np.array(settings["x"], "float32") * 2**i
        yield Frame({"keep": True, "sigma": i / 2}, {"x": x, "label": np.arange(i, dtype="uint8")})


def test_frames_arrive_as_they_were_sent(page, monkeypatch):
    monkeypatch.setitem(JOBS, "test.double", double)
    frames, last = page.evaluate(RUN, ["test.double", {"x": [1.5, -2, 3]}])
    assert last["status"] == "done"
    assert [(header["frame"], header["sigma"]) for header, *_ in frames] == [
        (1, 0),
        (2, 0.5),
        (3, 1),
    ]
    assert [x for _, x, _ in frames] == [[1.5, -2, 3], [3, -4, 6], [6, -8, 12]]
    assert [label for *_, label in frames] == [[], [0], [0, 1]]


RECONNECT = """async () => {
  const { connect, run } = await import("/page/wire.js");
  const start = () => new Promise((resolve) => run("test.double", { x: [] }, {
    status({ status }) { if (status !== "queued" && status !== "running") resolve(status); },
  }));
  const old = connect();
  const first = start();
  old.close();
  return Promise.all([first, start()]);
}"""
"""Start a job on a socket and, while it closes, a second job; return their last states."""


def test_the_end_of_an_old_socket_leaves_the_jobs_of_the_new_one(page, monkeypatch):
    monkeypatch.setitem(JOBS, "test.double", double)
    page.locator(".ladder .tick").first.wait_for()  # the first socket is open
    assert page.evaluate(RECONNECT) == ["error", "done"]


def test_views_are_reached_by_key_and_by_address(open_page):
    with open_page("#/restore?sigma=2") as page:
        assert page.get_by_role("heading", level=2).inner_text() == "Restore"
        link = page.get_by_role("link", name="Images")
        link.focus()
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Images").wait_for()
        assert link.get_attribute("aria-current") == "page"
        assert page.url.endswith("#/images")
        page.go_back()
        page.get_by_role("heading", name="Restore").wait_for()
        assert "token" not in page.url
        # a dark page is darker than its text
        paper = "getComputedStyle(document.documentElement).backgroundColor"
        assert page.evaluate(paper) == "rgb(255, 255, 255)"
        page.get_by_role("button", name="Dark").click()
        assert page.evaluate(paper) == "rgb(20, 23, 29)"
        page.reload()
        assert page.evaluate(paper) == "rgb(20, 23, 29)"


def test_a_description_that_comes_after_its_view_was_left_is_not_shown(open_page, monkeypatch):
    released = threading.Event()

    def late(studio, settings):
        assert released.wait(SECONDS)
        raise ValueError("no model")
        yield

    monkeypatch.setitem(JOBS, "restore.about", late)
    monkeypatch.setitem(JOBS, "plane.target", double)  # in the same thread, after it
    with open_page("#/restore") as page:
        page.get_by_text("Reading the model").wait_for()
        page.get_by_role("link", name="Runs").click()
        page.get_by_text("No runs yet").wait_for()
        released.set()
        page.evaluate(RUN, ["plane.target", {"x": []}])
        assert page.get_by_role("alert").count() == 0


def test_the_jobs_of_a_view_wait_for_another_page_and_end_as_the_view_is_left(
    open_page, monkeypatch
):
    started, ended = threading.Event(), threading.Event()

    def endless(studio, settings):
        started.set()
        try:
            yield from wait_for_ever(studio, settings)
        finally:
            ended.set()

    monkeypatch.setitem(JOBS, "plane.sample", endless)
    monkeypatch.setitem(JOBS, "test.busy", wait_for_ever)
    with open_page("#/plane?n=20") as page:
        page.locator(".ladder .tick").first.wait_for()
        page.evaluate(HOLD, "test.busy")
        page.get_by_role("button", name="Run both").click()
        queue = page.get_by_label("Queue")
        queue.get_by_text("Waiting: another page is computing, you are next").wait_for()
        assert not started.is_set()
        page.evaluate("busy.cancel()")
        wait_until(started.is_set)
        queue.wait_for(state="hidden")
        page.get_by_role("link", name="Runs").click()
        wait_until(ended.is_set)


def wait_for_ever(studio, settings):
    """A job that ends when it is cancelled."""
    while True:
        time.sleep(0.01)
        yield None


HOLD = """async (job) => {
  const { run } = await import("/page/wire.js?another");
  return new Promise((resolve) => {
    globalThis.busy = run(job, {}, { status: ({ status }) => status === "running" && resolve() });
  });
}"""
"""Let the studio compute for another socket, as that of another page."""


def is_sent(request):
    return request.method == "POST"


AFTER_ANSWERS = "() => fetch('about.json').then((answer) => answer.text())"


@pytest.mark.parametrize(
    ("view", "button", "path", "answer"),
    [("runs?name=one", "Start training", "runs", {"json": {}}),
     ("plane", "Copy training as code", "code", {"json": {"python": "x"}}),
     ("plane", "Copy training as code", "code", {"status": 400, "body": "wrong"})],
)  # fmt: skip
def test_an_answer_that_comes_after_its_view_was_left_changes_nothing(
    open_page, view, button, path, answer
):
    with open_page(f"#/{view}") as page:
        held = []

        def hold(route):  # but not what the view of runs asks for by time
            held.append(route) if is_sent(route.request) else route.continue_()

        page.route(f"**/{path}", hold)
        with page.expect_request(is_sent):
            page.get_by_role("button", name=button).click()
        page.get_by_role("link", name="Restore").click()
        page.get_by_role("alert").wait_for()  # that there is no model
        before = page.url
        (route,) = held
        route.fulfill(**answer)
        page.unroute(f"**/{path}")
        page.evaluate(AFTER_ANSWERS)
        wait_for_address(page)
        assert page.url == before
        assert page.get_by_role("dialog").count() == 0


CLIPBOARD = {"permissions": ["clipboard-read", "clipboard-write"]}
READ_CLIPBOARD = "() => navigator.clipboard.readText()"
CLOSE = "async () => (await import('/page/wire.js')).connect().close()"
REFUSE = "() => { navigator.clipboard.writeText = () => Promise.reject(new Error('no')); }"


def test_code_is_copied_and_the_footer_names_model_and_connection(open_page):
    with open_page("#/runs?preset=digits&name=one", **CLIPBOARD) as page:
        connection = page.locator("footer").get_by_role("status")
        connection.get_by_text("Connected", exact=True).wait_for()
        page.locator("footer").get_by_text("No model is open").wait_for()
        page.get_by_role("button", name="Copy as code").last.click()
        dialog = page.get_by_role("dialog")
        for name, refused in ("Command", False), ("Python", True):
            if refused:
                page.evaluate(REFUSE)  # the older way remains
            text = page.get_by_label(name, exact=True)
            section = dialog.locator("section", has=text)
            section.get_by_role("button", name="Copy").click()
            section.get_by_role("button", name="Copied").wait_for()
            assert "digits" in text.text_content()
            assert page.evaluate(READ_CLIPBOARD) == text.text_content()
        page.keyboard.press("Escape")
        page.evaluate(CLOSE)
        connection.get_by_text("Not connected: is the studio").wait_for()
        colour = "element => getComputedStyle(element).color"
        assert connection.evaluate(colour) != page.locator("#model").evaluate(colour)
        page.get_by_role("link", name="Images").click()  # which asks for the model
        page.get_by_role("alert").wait_for()
        connection.get_by_text("Connected", exact=True).wait_for()


@pytest.mark.parametrize("text", ["", pytest.param("7", marks=pytest.mark.slow)])
def test_no_computation_starts_with_a_field_that_is_empty_or_wrong(open_page, monkeypatch, text):
    """A number field that is empty would be 0 in a job."""
    asked = []

    def note(studio, settings):
        asked.append(settings["n"])
        yield None

    monkeypatch.setitem(JOBS, "plane.sample", note)
    with open_page("#/plane?n=30") as page:
        page.locator(".ladder .tick").first.wait_for()
        field = page.get_by_label("Particles", exact=True)
        field.fill(text)
        page.get_by_role("button", name="Run both").click()
        words = "Particles: give a whole number from 20 to 4000"
        assert page.locator(".problem:not(:empty)").all_inner_texts() == [words]
        assert field.get_attribute("aria-invalid") == "true"
        page.get_by_role("status").get_by_text(words).wait_for()
        assert page.get_by_role("button", name="Play", exact=True).is_disabled()
        page.get_by_role("button", name="Copy as code").click()
        page.get_by_role("dialog").get_by_text(words).wait_for()
        page.get_by_role("button", name="Close").click()
        assert "?n=30&" in page.url
        field.fill("40")
        page.get_by_role("button", name="Run both").click()
        page.wait_for_url("**?n=40&**")
        assert page.locator(".problem:not(:empty)").count() == 0
        wait_until(lambda: asked)
        assert asked == [40]


def test_a_link_leads_back_to_a_view_as_it_was(open_page):
    with open_page("#/plane?n=20") as page:
        page.locator(".ladder .tick").first.wait_for()
        page.get_by_label("Seed").fill("7")
        page.get_by_role("link", name="Runs").click()
        page.get_by_role("heading", name="Runs", level=2).wait_for()
        page.get_by_role("link", name="Plane").click()
        page.locator(".ladder .tick").first.wait_for()
        assert page.get_by_label("Seed").input_value() == "7"
        assert "seed=7" in page.url


LEAVE = """(slider) => {
  location.hash = "#/runs";
  slider.dispatchEvent(new Event("input"));
  document.body.click();
}"""
"""Go to another address, and write the one of a change before the browser reports it."""


DEAF = "addEventListener('hashchange', (event) => window.deaf && event.stopImmediatePropagation())"
GO_UNHEARD = "() => { window.deaf = true; location.hash = '#/runs'; }"
"""Go to another address, of which the page does not hear before it is reloaded."""


def test_a_change_of_the_address_is_not_taken_back_by_the_view_that_is_left(open_page):
    with open_page("#/plane") as page:
        page.locator(".ladder .tick").first.wait_for()
        page.get_by_label("Noise level σ of the picture").evaluate(LEAVE)
        page.get_by_role("heading", name="Runs", level=2).wait_for()
        assert page.url.endswith("#/runs")
        page.add_init_script(DEAF)
        page.go_back()
        page.reload()
        page.get_by_role("heading", name="Plane", level=2).wait_for()
        page.evaluate(GO_UNHEARD)
        page.reload()
        page.get_by_role("heading", name="Runs", level=2).wait_for()
        assert page.url.endswith("#/runs")


DRAG = """(slider) => {
  const { replaceState } = history;
  let writes = 0;
  history.replaceState = (...values) => { writes += 1; replaceState.apply(history, values); };
  for (let i = 0; i < 30; i += 1) {
    slider.value = Number(slider.max) - i * Number(slider.step);
    slider.dispatchEvent(new Event("input"));
  }
  return [writes, location.hash];
}"""
"""Move a slider without a rest; return the writes of the address, and the address."""


MOVE_TWICE = """(slider) => {
  for (const share of [0.3, 0.6]) {
    slider.value = slider.max * share;
    slider.dispatchEvent(new Event("input"));
  }
  return slider.value;
}"""
"""Move a slider to a place whose address is written after a pause, in which a reload may come."""


def test_a_drag_writes_the_address_rarely_and_its_end_is_in_it(open_page):
    """Chrome ignores changes of the address that are more frequent than about 20 a second."""
    with open_page("#/plane") as page:
        page.locator(".ladder .tick").first.wait_for()
        slider = page.get_by_label("Noise level σ of the picture")
        writes, address = slider.evaluate(DRAG)
        assert writes <= 1  # the first, or none if the page has just written it
        page.wait_for_function("address => location.hash !== address", arg=address)
        end = slider.input_value()
        page.reload()
        page.locator(".ladder .tick").first.wait_for()
        assert float(slider.input_value()) == pytest.approx(float(end), abs=1e-3)
        end = slider.evaluate(MOVE_TWICE)
        page.reload()
        page.locator(".ladder .tick").first.wait_for()
        assert float(slider.input_value()) == pytest.approx(float(end), abs=1e-3)


NUMBER = """async (text) => {
  const { number } = await import("/page/ui.js");
  const field = number({ label: "Steps", min: 1, value: "", optional: true });
  field.input.value = text;
  return field.value;
}"""


def test_a_field_that_may_be_empty_is_null_then(page):
    for text, value in ("", None), ("0", math.nan), ("12", 12):
        assert page.evaluate(NUMBER, text) == pytest.approx(value, nan_ok=True)


SELECT = """async (value) => {
  const { select } = await import("/page/ui.js");
  const field = select({ label: "Unit", options: ["seconds", "minutes"], value });
  const first = field.value;
  field.fill([["b", "B"], ["c", "C"]]);
  field.value = value;
  return [first, field.value];
}"""


def test_an_unknown_choice_is_the_first(page):
    for value, chosen in (
        ("minutes", ["minutes", "b"]), ("c", ["seconds", "c"]), ("years", ["seconds", "b"]),
    ):  # fmt: skip
        assert page.evaluate(SELECT, value) == chosen


PAINT = """async (side) => {
  const ui = await import("/page/ui.js");
  const { makeMask } = await import("/page/mask.js");
  const address = {};
  const setState = (patch) => Object.assign(address, patch);
  const mask = makeMask({ ui, state: {}, setState, onchange() {} });
  document.body.append(mask.controls, mask.figure);
  const open = (task) => {
    mask.open(task, [side, side]);
    mask.show(Object.assign(new Uint8Array(side * side), { shape: [side, side, 1] }));
  };
  const press = (name) => [...mask.controls.querySelectorAll("button")]
    .find((button) => button.textContent === name).click();
  const paint = () => mask.figure.querySelector("canvas")
    .dispatchEvent(new KeyboardEvent("keydown", { key: " " }));
  const seen = [];
  const look = () => {
    const again = makeMask({ ui, state: address, setState() {}, onchange() {} });
    again.open("inpaint", [side, side]);
    seen.push([
      address.mask?.length, again.encode() === mask.encode(),
      mask.figure.innerText.includes("a reload loses it"),
    ]);
  };
  open("inpaint");
  paint(); // on the right half
  look();
  press("Random");
  paint();
  look();
  open("fourier");
  seen.push(mask.figure.innerText.includes("a reload loses it"));
  open("inpaint");
  look();
  press("Right half");
  look();
  return seen;
}"""


def test_a_painted_mask_is_in_the_address_unless_it_is_named_as_too_long(page):
    """Rows of hexadecimal digits, and numbers of those that are alike."""
    half, rows = 64 + len(".") + 64 + len("x255"), 256 * 64 + 255
    seen = page.evaluate(PAINT, 256)
    assert seen == [
        [half, True, False], [rows, True, False], False, [rows, True, False], [10, True, False]
    ]  # fmt: skip
    seen = page.evaluate(PAINT, 300)
    assert seen[1:] == [[None, False, True], False, [None, False, True], [10, True, False]]
    address = f"{page.url.split('#')[0]}#/restore?mask={'7f' * (rows // 2)}"
    page.goto("about:blank")  # otherwise the plane's own change of the address may end the wait
    page.goto(address)
    assert page.url == address


FOLLOW = """async () => {
  const { follow } = await import("/page/pixels.js");
  const { status } = await import("/page/ui.js");
  const line = status();
  const reading = follow(line, "Reading");
  const texts = [];
  const hear = (job, status, message) => {
    job({ status, message });
    texts.push(line.element.textContent);
  };
  hear(reading, "queued");
  const restoring = follow(line, "Restoring");
  hear(restoring, "error", "Wrong");
  hear(reading, "running");
  hear(reading, "done");
  hear(restoring, "running");
  hear(restoring, "done");
  return texts;
}"""


def test_one_job_leaves_the_error_of_a_later_one(page):
    texts = page.evaluate(FOLLOW)
    assert texts == ["Waiting", "Wrong", "Wrong", "Wrong", "Restoring", ""]


TICKS = "async (range) => (await import('/page/curves.js')).axisTicks(...range)"


def test_ticks_of_the_loss_are_round(page):
    for range_, ticks in (
        ([0.02, 3.7, True], [0.03, 0.1, 0.3, 1, 3]),
        ([0.4, 0.9, True], [0.4, 0.5, 0.6, 0.7, 0.8, 0.9]),
        ([1e-9, 10, True], [1e-9, 1e-6, 1e-3, 1]),
        ([-1.7, 0.4, False], [-1.5, -1, -0.5, 0]),
    ):
        assert page.evaluate(TICKS, range_) == pytest.approx(ticks)


FORMAT = """async ([name, value]) => (await import("/page/ui.js"))[name](value)"""


def test_numbers_are_short_and_those_of_an_axis_have_one_format(page):
    for values, texts in (
        ([0.0005, 0.001, 0.02], ["0.0005", "0.001", "0.02"]),
        ([0.00005, 0.001], ["5e-5", "1e-3"]),
        ([1000, 200_000], ["1e3", "2e5"]),
        ([-0.5, 0], ["-0.5", "0"]),
    ):
        assert page.evaluate(FORMAT, ["formatTicks", values]) == texts
    for value, text in (
        (0.0005, "0.0005"),
        (0.00005, "5e-5"),
        (123_456, "1.23e5"),
        (2 / 3, "0.6667"),
    ):
        assert page.evaluate(FORMAT, ["format", value]) == text


LEAK = 2**20
"""Bytes of each frame that waits for a page."""
START_LARGE = """async () => {
  const { run } = await import("/page/wire.js");
  return new Promise((resolve) => run("test.large", {}, {
    frame() { resolve(); return new Promise(() => {}); },
  }));
}"""
"""Start a job, and return after its first frame, which is never drawn, so that others wait."""


@pytest.mark.slow
@pytest.mark.parametrize(("tabs", "reloads"), [(2, 6), (20, 100)])
def test_tabs_and_reloads_leave_no_thread_socket_or_memory(
    browser, studio, leftovers, monkeypatch, tabs, reloads
):
    """A studio that kept one frame for each reload would hold twice the bound."""

    def large(context, settings):
        for _ in range(5):
            yield Frame({}, {"x": np.zeros(LEAK, "uint8")})

    def work(tab):
        tab.wait_for_selector("main h2")
        tab.evaluate(START_LARGE)

    def visit(tabs, reloads):
        context = browser.new_context(viewport={"width": 400, "height": 300})
        context.set_default_timeout(1000 * SECONDS)
        pages = [context.new_page() for _ in range(tabs)]
        for tab in pages:
            tab.goto(studio.entrance)
            work(tab)
        for i in range(reloads):
            pages[i % tabs].reload()
            work(pages[i % tabs])
        context.close()

    monkeypatch.setitem(JOBS, "test.large", large)
    visit(2, 1)
    before = leftovers()
    visit(tabs, reloads)
    after = leftovers()
    assert after.threads <= before.threads
    assert after.bytes - before.bytes < reloads * LEAK / 2
