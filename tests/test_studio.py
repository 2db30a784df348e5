"""The studio's server without a browser: who may talk, and which frames are sent."""

import asyncio
import json
import logging
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("websockets")

from waiting import SECONDS, wait_until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync import client

from scorefield.cli import main
from scorefield.studio import guard, make_app, work
from scorefield.studio.context import Studio
from scorefield.studio.jobs import JOBS
from scorefield.studio.wire import Frame

pytest_plugins = ["studio_browser"]

SECRET = "a" * 32


@pytest.fixture
def connect(studio, cookie):
    """Open a socket as a page does; `host` is the name that a rebinding page uses."""

    @contextmanager
    def opened(host="127.0.0.1", origin=True, **headers):
        name = f"{host}:{studio.port}"
        origin = f"http://{name}" if origin is True else origin
        with (
            socket.create_connection(("127.0.0.1", studio.port)) as raw,
            client.connect(
                f"ws://{name}/ws",
                sock=raw,
                origin=origin,
                additional_headers={"Cookie": cookie} | headers,
                compression=None,
                open_timeout=SECONDS,
                ping_interval=None,
                close_timeout=1,
                max_size=None,
            ) as connection,
        ):
            yield connection

    return opened


def receive(connection):
    """Return the next message: a status, or the header of a frame."""
    content = connection.recv(timeout=SECONDS)
    if isinstance(content, str):
        return json.loads(content)
    return json.loads(content[4 : 4 + int.from_bytes(content[:4], "little")])


def say(connection, **message):
    connection.send(json.dumps(message))


REFUSED = {
    "no token": ({"Cookie": None}, "token is missing or wrong"),
    "another studio's token": ({"Cookie": "studio=1"}, "token is missing or wrong"),
    "an empty token": ({"Cookie": "{name}="}, "token is missing or wrong"),
    "the token's beginning": ({"Cookie": "{name}={token:.31}"}, "token is missing or wrong"),
    "the token and more": ({"Cookie": "{name}={token}0"}, "token is missing or wrong"),
    "a token that is not ASCII": ({"Cookie": "{name}=\xe9"}, "token is missing or wrong"),
    "a foreign origin": ({"Origin": "http://evil.example"}, "not the studio's page"),
    "a foreign origin with the port": ({"Origin": "http://evil.example:{port}"}, "not the studio"),
    "a sandboxed page": ({"Origin": "null"}, "not the studio's page"),
    "a name that was bound to loopback": ({"Host": "evil.example:{port}"}, "Host 'evil.example"),
    "a name that begins like loopback": ({"Host": "127.0.0.1.evil.example"}, "is not this studio"),
    "a name with another inside": ({"Host": "127.0.0.1@evil.example"}, "is not this studio's"),
    "no host that can be read": ({"Host": "[::1"}, "is not this studio's"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("request_line", ["GET /?token=wrong", "GET /page/main.js", "POST /upload"])
def test_a_stranger_is_refused_in_plain_words(ask, studio, cookie, case, request_line):
    method, path = request_line.split()
    headers, words = REFUSED[case]
    name, token = cookie.split("=")
    values = {"port": studio.port, "name": name, "token": token}
    headers = {key: value and value.format(**values) for key, value in headers.items()}
    status, text, _ = ask(path, method, b"x" * (method == "POST") or None, **headers)
    assert status == 403
    assert words in text
    assert not studio.app.state.studio.uploads


@pytest.mark.parametrize(
    "how",
    [{"Cookie": "studio=1"}, {"origin": "http://evil.example"}, {"origin": None},
     {"host": "evil.example"}],
)  # fmt: skip
def test_a_strangers_socket_is_refused(connect, how):
    with pytest.raises(InvalidStatus) as refusal, connect(**how):
        pass
    assert refusal.value.response.status_code == 403
    assert refusal.value.response.body


def test_a_request_that_changes_something_needs_an_origin(ask):
    status, text, _ = ask("/upload", "POST", b"x", Origin=None)
    assert (status, "Origin None" in text) == (403, True)


def test_the_token_moves_from_the_address_into_a_cookie(ask, studio):
    status, _, headers = ask(f"/?a=1&token={studio.token}", Cookie=None)
    assert (status, headers["Location"]) == (303, "/?a=1")
    assert {"HttpOnly", "SameSite=strict"} <= set(headers["Set-Cookie"].split("; "))
    status, text, headers = ask("/", Cookie=headers["Set-Cookie"].split(";")[0])
    assert (status, "<main" in text) == (200, True)
    # a path that begins with two slashes would lead to another host
    _, _, headers = ask(f"//evil.example/?token={studio.token}", Cookie=None)
    assert headers["Location"].startswith("/evil.example")


def test_a_page_takes_scripts_and_pictures_from_the_studio_alone(ask):
    for path in ("/", "/page/main.js", "/page/style.css", "/nowhere"):
        _, text, headers = ask(path)
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'self';")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert (
            "//" not in text.replace("http://www.w3.org", "").replace("\n//", "") or ".js" in path
        )


@pytest.mark.parametrize(
    "path", ["../server.py", "%2e%2e/server.py", "..%2fserver.py", "/etc/fstab"]
)
def test_no_other_file_of_the_package_is_served(ask, path):
    status, text, _ = ask(f"/page/{path}")
    assert (status, "import" in text) == (404, False)


def test_an_oversized_upload_is_refused_with_and_without_a_length(ask, studio):
    size = guard.MAX_BODY + 1
    pieces = (b"x" * min(2**16, size - sent) for sent in range(0, size, 2**16))
    for body, headers in ((None, {"Content-Length": str(size)}), (pieces, {})):
        status, text, _ = ask("/upload", "POST", body, **headers)
        assert (status, text) == (413, "The upload is larger than 16 MiB.\n")
    assert not studio.app.state.studio.uploads


def test_the_newest_uploads_are_remembered(ask, studio):
    names = [json.loads(ask("/upload", "POST", bytes([i]))[1])["upload"] for i in range(6)]
    assert len(set(names)) == 6
    assert studio.app.state.studio.uploads == {names[i]: bytes([i]) for i in range(2, 6)}
    studio.app.state.studio.uploads.clear()


@pytest.mark.parametrize(
    "text",
    ["", "{", "7", "[]", "{}", "null", '{"id": "7", "job": "a"}', '{"id": true, "job": "a"}',
     '{"id": 1}', '{"id": 1, "job": 2}', '{"id": 1, "job": "a", "cancel": true}', "[" * 100_000,
     '{"id": 1, "job": "a", "settings": []}', '{"id": 1, "ack": "2"}', '{"id": 1, "other": 2}',
     b'{"id": 1, "job": "a"}'],
    ids=range(16),
)  # fmt: skip
def test_a_malformed_message_closes_the_socket_with_a_reason(connect, text):
    with connect() as connection:
        connection.send(text)
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(timeout=SECONDS)
    assert closed.value.rcvd.code == 1003
    assert closed.value.rcvd.reason


def test_a_job_may_not_take_the_number_of_another(connect, start_steps):
    start_steps()
    with connect() as page:
        say(page, id=1, job="test.steps")
        assert receive(page)["status"] == "running"
        say(page, id=1, job="test.steps")
        with pytest.raises(ConnectionClosed, match="id 1 is in use"):
            page.recv(timeout=SECONDS)


def test_a_message_that_is_too_long_closes_the_socket(connect):
    with connect() as connection:
        say(connection, id=1, job="a", settings={"points": "x" * 2**20})
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(timeout=SECONDS)
    assert closed.value.rcvd.code == 1009


class Steps:
    """A job whose steps the test takes, one at a time."""

    def __init__(self, monkeypatch, keep=False):
        self.started = self.done = 0
        self.ended, self.released = threading.Event(), False
        self.permits, self.keep = threading.Semaphore(0), keep
        monkeypatch.setitem(JOBS, "test.steps", self)

    def __call__(self, studio, settings):
        self.started += 1
        try:
            while True:
                assert self.permits.acquire(timeout=SECONDS)
                if self.released:
                    return
                self.done += 1
                yield Frame({"step": self.done, "keep": self.keep}, {"x": np.zeros(9, "uint8")})
        finally:
            self.ended.set()

    def step(self, n=1):
        self.permits.release(n)

    def release(self):
        """End this job, and those that still wait, whether or not their page is seen to be gone."""
        self.released = True
        self.step(100)


@pytest.fixture
def start_steps(studio, monkeypatch):
    """Offer the job `test.steps`, and let it end with the test."""
    jobs = []
    yield lambda **options: jobs.append(Steps(monkeypatch, **options)) or jobs[-1]
    jobs[-1].release()
    wait_until(lambda: studio.app.state.worker._running is None)


def test_a_second_page_waits_and_is_told_how_many_come_first(connect, studio, start_steps):
    steps = start_steps()
    with connect() as first, connect() as second, connect() as third:
        say(first, id=1, job="test.steps")
        assert receive(first)["status"] == "running"
        for ahead, page in enumerate((second, third), 1):
            say(page, id=5, job="test.steps")
            assert receive(page) == {"id": 5, "status": "queued", "ahead": ahead}
        say(first, id=2, job="test.steps")
        assert receive(first) == {"id": 2, "status": "queued", "ahead": 2}  # not its own first one
        say(first, id=2, cancel=True)
        assert receive(first) == {"id": 2, "status": "cancelled"}
        for ahead, page in enumerate((second, third), 1):  # places are sent again
            assert receive(page) == {"id": 5, "status": "queued", "ahead": ahead}
        say(first, id=1, cancel=True)
        wait_until(lambda: studio.app.state.worker._running.cancelled)
        steps.step()
        assert receive(first) == {"id": 1, "status": "cancelled"}
        assert receive(second)["status"] == "running"
        assert receive(third) == {"id": 5, "status": "queued", "ahead": 1}
        say(third, id=5, cancel=True)
        assert receive(third) == {"id": 5, "status": "cancelled"}
        steps.step()  # the second page's
        assert receive(second)["step"] == 2


def test_a_page_has_few_computations_waiting(connect, start_steps):
    start_steps()
    with connect() as page:
        for number in range(work.MAX_WAITING + 2):
            say(page, id=number, job="test.steps")
            while receive(page)["status"] not in ("running", "queued", "error"):
                pass
        say(page, id=99, job="test.steps")
        assert "wait already" in receive(page)["message"]


def test_a_closed_tab_ends_its_work_within_a_step(connect, studio, start_steps):
    steps = start_steps()
    with connect() as page:
        say(page, id=1, job="test.steps")
        assert receive(page)["status"] == "running"
        say(page, id=2, job="test.steps")
        assert receive(page)["status"] == "queued"
        steps.step()
        assert receive(page)["step"] == 1
    wait_until(lambda: studio.app.state.worker._running.cancelled)
    assert not steps.ended.is_set()  # it is within its second step
    steps.step(9)
    assert steps.ended.wait(SECONDS)
    wait_until(lambda: studio.app.state.worker._running is None)
    assert (steps.started, steps.done) == (1, 2)  # what waited does not start


def test_a_slow_page_sees_the_newest_frame(connect, start_steps):
    steps = start_steps()
    with connect() as page:
        say(page, id=1, job="test.steps")
        assert receive(page)["status"] == "running"
        for i in (1, 2):
            steps.step()
            assert receive(page)["step"] == i
        steps.step(7)
        wait_until(lambda: steps.done == 9)
        wait_until(lambda: steps.permits._value == 0)
        with pytest.raises(TimeoutError):  # two frames are under way
            page.recv(timeout=0.05)
        say(page, id=1, ack=1)
        assert receive(page)["step"] >= 8  # the ninth is perhaps still being packed


def test_a_page_that_takes_nothing_finds_its_newest_place_in_the_queue():
    task = work.Task(7, "test.steps", {}, SimpleNamespace(wake=lambda: None))
    for ahead in (3, 2, 1):
        task.say("queued", ahead=ahead)
    assert json.loads(task.take()) == {"id": 7, "status": "queued", "ahead": 1}
    assert task.take() is None


def test_frames_to_keep_all_arrive_and_the_job_waits_for_the_page(connect, start_steps):
    steps = start_steps(keep=True)
    steps.step(50)
    most = work.MAX_UNANSWERED + work.MAX_AHEAD
    with connect() as page:
        say(page, id=1, job="test.steps")
        assert receive(page)["status"] == "running"
        for i in range(1, 41):
            assert receive(page)["step"] == i
            assert steps.done <= i + most  # of which `i - 1` are acknowledged
            say(page, id=1, ack=i)
    assert steps.ended.wait(SECONDS)


def test_a_hidden_page_does_not_lose_its_job_nor_hold_the_others_up(
    connect, monkeypatch, start_steps
):
    monkeypatch.setattr(work, "PATIENCE", 0.05)
    steps = start_steps(keep=True)
    steps.step(50)
    most = work.MAX_UNANSWERED + work.MAX_AHEAD
    with connect() as page, connect() as other:
        say(page, id=1, job="test.steps")
        wait_until(lambda: steps.done == most)
        assert not steps.ended.wait(5 * work.PATIENCE)
        assert receive(page)["status"] == "running"
        for i in (1, 2, 3):  # it is back
            assert receive(page)["step"] == i
            say(page, id=1, ack=i)
        wait_until(lambda: steps.done == most + 3)
        say(page, id=2, job="test.steps")  # its own next job waits as well
        assert not steps.ended.wait(5 * work.PATIENCE)
        say(other, id=1, job="test.steps")
        assert steps.ended.wait(SECONDS)


def test_an_error_is_shown_and_a_fault_is_logged(connect, monkeypatch, caplog):
    def fail(studio, settings):
        yield None
        raise (ValueError if settings["own"] else KeyError)("sigma=-1: give a positive number")

    monkeypatch.setitem(JOBS, "test.fail", fail)
    with connect() as page, caplog.at_level(logging.ERROR, "scorefield.studio"):
        answers = []
        for i, job in enumerate(("test.fail", "test.fail", "test.other")):
            say(page, id=i, job=job, settings={"own": i == 0})
            while (answer := receive(page))["status"] != "error":
                pass
            answers.append(answer["message"])
    assert answers[0] == "sigma=-1: give a positive number"
    assert "its terminal shows where" in answers[1]
    assert "'test.other' does not exist" in answers[2]
    assert "KeyError" in caplog.text


@pytest.mark.parametrize(
    ("header", "array", "words"),
    [
        ({"id": 1}, "float32", "id"),
        ({}, "float16", "float16"),
        ({"x": float("nan")}, "uint8", "JSON"),
    ],
)
def test_a_frame_that_a_page_could_not_read_is_refused(header, array, words):
    with pytest.raises((TypeError, ValueError), match=words):
        work.pack(Frame(header, {"x": np.zeros(3, array)}), 1, 1)


def test_the_page_of_any_address_knows_its_own_names():
    names = {"127.0.0.1:8642", "localhost", "[::1]:80", "LOCALHOST:1"}
    assert all(guard.is_own_name(name, "127.0.0.1") for name in names)
    assert guard.is_own_name("box.lan:8642", "box.lan")
    assert not guard.is_own_name("192.168.0.7:8642", "127.0.0.1")
    assert guard.is_own_name("192.168.0.7:8642", "0.0.0.0")
    assert guard.is_own_name(socket.gethostname(), "0.0.0.0")
    assert not guard.is_own_name("evil.example", "0.0.0.0")
    assert not guard.is_own_name("", "127.0.0.1")


LEAK = 2**20
"""Bytes of the frame that each page receives: of 100 pages that leaked it, 100 MiB would remain."""


@pytest.mark.slow
def test_many_reloads_leave_no_thread_socket_or_memory(ask, connect, leftovers, monkeypatch):
    def large(context, settings):
        yield Frame({}, {"x": np.zeros(LEAK, "uint8")})
        yield Frame({}, {"x": np.zeros(LEAK, "uint8")})
        yield Frame({}, {"x": np.zeros(LEAK, "uint8")})  # waits for the page

    monkeypatch.setitem(JOBS, "test.large", large)

    def load():
        for path in ("/", "/page/main.js", "/about.json"):
            assert ask(path)[0] == 200
        with connect() as page:
            say(page, id=1, job="test.large")
            while "frame" not in receive(page):
                pass

    for _ in range(5):
        load()
    before = leftovers()
    for _ in range(100):
        load()
    after = leftovers()
    assert after.threads <= before.threads
    assert after.bytes - before.bytes < 10 * LEAK


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("--host 0.0.0.0", "give a --token"),
        ("--token short", "at least 16 letters"),
        ("--token " + "ä" * 16, "at least 16 letters"),
        ("--port 65536", "from 0 to 65535"),
        ("nowhere", "does not exist"),
        (".", "holds no run"),
        ("file", "not a safetensors file"),
        ("--runs file", "name a folder of runs"),
    ],
)
def test_the_command_refuses_what_it_cannot_serve(error_of, tmp_path, monkeypatch, args, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("words")
    assert words in error_of("studio", "--no-browser", *args.split())


def test_a_host_for_other_machines_is_warned_of(capsys):
    # an address for documents, which no machine has
    assert main(["studio", "--host", "192.0.2.1", "--token", SECRET]) == 2
    warning, error = capsys.readouterr().err.splitlines()
    assert "the connection is not encrypted" in warning
    assert "name an address of this machine" in error


def test_the_command_names_the_extra_and_a_port_in_use(error_of, studio, monkeypatch):
    error = error_of("studio", "--port", studio.port)
    assert f"--port {studio.port}: Address already in use; name another port" in error
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    assert "pip install 'scorefield[studio]'" in error_of("studio")


@pytest.mark.parametrize(
    ("about", "view"),
    [({"run": None}, ""), ({"shape": None}, ""), ({"shape": [2]}, ""),
     ({"shape": [1, 8, 8]}, "#/images")],
)  # fmt: skip
def test_the_printed_address_opens_the_images_of_a_model(monkeypatch, capsys, about, view):
    uvicorn = pytest.importorskip("uvicorn")
    monkeypatch.setattr(uvicorn.Server, "run", lambda *args, **options: None)
    monkeypatch.setattr(Studio, "about", lambda studio: about)
    assert main(["studio", "--port", "0", "--no-browser", "--token", SECRET]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith(f"/?token={SECRET}{view}")


def test_the_application_stands_on_its_own_and_ends_its_threads():
    """Any ASGI server can run it; here its lifespan alone."""
    app, threads = make_app(None, SECRET), []

    async def live():
        async with app.router.lifespan_context(app):
            threads.extend(one._thread for one in (app.state.worker, app.state.reader))
            assert all(thread.is_alive() for thread in threads)

    with ThreadPoolExecutor(1) as other:  # in this thread the event loop of a browser may run
        other.submit(asyncio.run, live()).result()
    assert not any(thread.is_alive() for thread in threads)
