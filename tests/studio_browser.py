"""A studio on a free port, and pages of it in a real browser; tests are skipped without one.

Modules of tests load this by `pytest_plugins = ["studio_browser"]`, and may define a fixture
`studio` of their own:

    @pytest.fixture(scope="module")
    def studio(open_studio, trained):
        with open_studio(trained) as server:
            yield server
"""

import http.client
import shutil
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

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
            assert ready.wait(60)
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
        connection = http.client.HTTPConnection("127.0.0.1", studio.port, timeout=20)
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return answer.status, answer.read().decode("utf-8", "replace"), answer.headers
        finally:
            connection.close()

    return send


@pytest.fixture(scope="module")
def browser():
    """One browser for a module."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as p:
        window = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield window
        window.close()


@pytest.fixture
def open_page(browser, studio):
    """Open a view in a context of its own: `with open_page("#/plane?sigma=1", viewport=…)`.

    An error of a script there fails the test.
    """

    @contextmanager
    def opened(view="", **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        try:
            page, faults = context.new_page(), []
            page.set_default_timeout(20_000)
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.goto(studio.entrance + view)
            page.wait_for_selector("main h2")
            yield page
            assert not faults
        finally:
            context.close()

    return opened


@pytest.fixture
def page(open_page):
    """The studio's first view."""
    with open_page() as first:
        yield first
