"""A studio on a free port, and pages of it in a real browser; tests are skipped without one.

Modules of tests load this by `pytest_plugins = ["studio_browser"]`, and may define a fixture
`studio` of their own:

    @pytest.fixture(scope="module")
    def studio(open_studio, trained):
        with open_studio(trained) as server:
            yield server
"""

import gc
import http.client
import json
import shutil
import socket
import threading
import tracemalloc
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from waiting import SECONDS, wait_until

from scorefield.cli import main

CHROMIUM = shutil.which("chromium")
TOKEN = "0123456789abcdef0123456789abcdef"


@dataclass
class OpenStudio:
    port: int
    token: str
    app: object

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}/"

    @property
    def entrance(self):
        return f"{self.address}?token={self.token}"


@contextmanager
def serve(run=None, runs=Path("runs")):
    """Serve a studio in a thread."""
    uvicorn = pytest.importorskip("uvicorn")
    from scorefield.studio.server import configure, make_app

    app = make_app(run, TOKEN, runs=runs)
    server = uvicorn.Server(configure(app))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ready = threading.Event()
        started = server.startup

        async def startup(*args, **options):
            await started(*args, **options)
            ready.set()

        server.startup = startup
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert ready.wait(SECONDS)
            yield OpenStudio(listener.getsockname()[1], TOKEN, app)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def open_studio():
    """Open a studio: `with open_studio(run, runs=folder) as studio`."""
    return serve


@pytest.fixture(scope="module")
def studio(open_studio, tmp_path_factory):
    """A studio without a run, over an empty folder of runs."""
    with open_studio(runs=tmp_path_factory.mktemp("studio") / "runs") as server:
        yield server


TINY = [
    *("--network.width=8", "--network.blocks=1", "--training.batch=16", "--machine.device=cpu"),
    *("--training.steps=30", "--data.labels=true", "--network.label_dropout=0.2"),
]
POINT = {
    "name": "Fréchet distance", "value": 2.5, "low": 2.25, "high": 2.75, "real": 0.5, "samples": 40,
    "plan": {"name": "heun", "evaluations": 9, "seconds": 4.0},
}  # fmt: skip


@pytest.fixture(scope="session")
def trained(make_once):
    """A run on digits with classes, and a frontier of two measured points."""

    def train(folder):
        assert main(["train", "digits", "--out", str(folder / "digits"), *TINY]) == 0
        costly = POINT | {"value": 1.5, "plan": POINT["plan"] | {"evaluations": 79}}
        frontier = json.dumps({"frontier": [POINT, costly]})
        (folder / "digits/metrics.json").write_text(frontier)

    return make_once("studio", train) / "digits"


@pytest.fixture
def cookie(studio):
    guard = pytest.importorskip("scorefield.studio.guard")
    return f"{guard.Guard(studio.app, token=studio.token, host='').cookie}={studio.token}"


@pytest.fixture
def ask(studio, cookie):
    """Send a request of the studio's own page, with other headers where they are given."""

    def send(path, method="GET", body=None, **headers):
        own = {"Host": f"127.0.0.1:{studio.port}", "Cookie": cookie}
        if method == "POST":
            own["Origin"] = f"http://127.0.0.1:{studio.port}"
        sent = {name: value for name, value in (own | headers).items() if value is not None}
        connection = http.client.HTTPConnection("127.0.0.1", studio.port, timeout=SECONDS)
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return answer.status, answer.read().decode("utf-8", "replace"), answer.headers
        finally:
            connection.close()

    return send


@dataclass
class Leftovers:
    """What the studio holds once its last page has gone."""

    threads: set
    """All but those that read files, which are few and end when there is nothing to read."""
    bytes: int


@pytest.fixture
def leftovers(studio):
    """Wait until the studio has forgotten every page, and return what it holds then.

    Other tests of this process have threads and sockets too, so only the studio's are waited for.
    """
    from scorefield.studio.server import POOL_THREADS, Page
    from scorefield.studio.work import Task

    def has_forgotten():
        """Return True once a closed socket's own task has ended, too."""
        gc.collect()
        return not any(isinstance(x, Page | Task) for x in gc.get_objects())

    def connected():
        sockets = psutil.Process().net_connections("tcp")
        return [s for s in sockets if s.laddr.port == studio.port and s.status != "LISTEN"]

    def rest():
        wait_until(lambda: studio.app.state.worker._running is None)
        wait_until(lambda: not connected())
        wait_until(has_forgotten)
        pool = {t for t in threading.enumerate() if "AnyIO" in t.name}
        assert len(pool) <= POOL_THREADS
        return Leftovers({*threading.enumerate()} - pool, tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    yield rest
    tracemalloc.stop()


@pytest.fixture(scope="session")
def browser():
    """One browser for all tests of a process, whose event loop runs in its main thread."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as p:
        own = {"executable_path": CHROMIUM, "args": ["--no-sandbox"]}
        window = p.chromium.launch(**own, timeout=1000 * SECONDS)
        yield window
        window.close()


def is_fault(line):
    """Return True for an error in the console that is not a refused request."""
    return line.type == "error" and not line.text.startswith("Failed to load resource")


@pytest.fixture
def open_page(browser, studio):
    """Open a view in a context of its own: `with open_page("#/plane?sigma=1", viewport=…)`.

    An error of a script there fails the test, and so does one in the console, such as of the
    Content-Security-Policy; a request that the studio refuses is part of some tests.
    """

    @contextmanager
    def opened(view="", **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        try:
            context.set_default_timeout(1000 * SECONDS)  # also of pages that this one opens
            page, faults = context.new_page(), []
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on("console", lambda line: is_fault(line) and faults.append(line.text))
            page.goto(studio.entrance + view)
            page.wait_for_selector("main h2")
            yield page
            assert not faults
        finally:
            context.close()

    return opened


FOCUSED_NAME = """() => {
  const { activeElement: element } = document;
  return element.ariaLabel ?? element.labels?.[0]?.textContent ?? element.textContent;
}"""
MOST_TABS = 80


@pytest.fixture
def tab_to():
    """Press Tab until the focus is on a control whose name begins like this."""

    def press(page, name):
        for _ in range(MOST_TABS):
            page.keyboard.press("Tab")
            if page.evaluate(FOCUSED_NAME).startswith(name):
                return
        raise AssertionError(f"Tab does not reach {name!r}")

    return press


@pytest.fixture
def page(open_page):
    """The studio's first view."""
    with open_page() as first:
        yield first
