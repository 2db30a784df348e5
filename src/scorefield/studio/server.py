"""The studio's addresses, and the socket over which jobs and frames travel."""

import asyncio
import errno
import json
import os
import socket as sockets
import sys
import webbrowser
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn
from anyio import to_thread
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from starlette.requests import Request as HttpRequest
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from .context import OpenedRuns, Studio
from .guard import WILDCARDS, Guard, refuse
from .jobs import CODE_WRITERS, JOBS, READINGS
from .trainings import Trainings, describe_presets
from .wire import MAX_SETTINGS, Request, parse_request
from .work import Task, Worker

PAGE = Path(__file__).parent / "page"
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
"""A report has a style and pictures within it, and no scripts."""
POOL_THREADS = 4
"""Threads that read files and write code, next to the one that computes."""
UNREADABLE = 1003
"""Code with which a socket is closed after a message that makes no sense."""


class Page:
    """A page's side of the socket: its tasks, and an event when there may be something to send."""

    def __init__(self, context: Studio, worker: Worker[Studio], reader: Worker[Studio]) -> None:
        self.context, self.worker, self.reader = context, worker, reader
        self.tasks = dict[int, Task]()
        self.loop, self.changed = asyncio.get_running_loop(), asyncio.Event()

    def wake(self) -> None:
        """Let the socket send what waits; any thread may call this."""
        with suppress(RuntimeError):  # the loop has ended
            self.loop.call_soon_threadsafe(self.changed.set)

    def receive(self, request: Request) -> None:
        """Do what the page asks."""
        task = self.tasks.get(request.id)
        if request.job is not None:
            if task is not None:
                raise ValueError(f"id {request.id} is in use")
            self.tasks[request.id] = Task(request.id, request.job, request.settings, self)
            self.worker_of(request.job).submit(self.tasks[request.id])
        elif task is not None and request.cancel:
            self.worker_of(task.job).cancel(task)
        elif task is not None and request.ack is not None:
            task.acknowledge(request.ack)

    def worker_of(self, job: str) -> Worker[Studio]:
        """Return the thread in which a job runs."""
        return self.reader if job in READINGS else self.worker

    async def send(self, socket: WebSocket) -> None:
        """Send messages as the page takes them."""
        with suppress(WebSocketDisconnect, RuntimeError):  # the page has gone
            while True:
                await self.changed.wait()
                self.changed.clear()
                for task in [*self.tasks.values()]:
                    while (content := task.take()) is not None:
                        if isinstance(content, str):
                            await socket.send_text(content)
                        else:
                            await socket.send_bytes(content)
                    if task.is_sent():
                        del self.tasks[task.number]

    def close(self) -> None:
        """End what the page has started, the last job first, so that none starts meanwhile."""
        for task in reversed(self.tasks.values()):
            self.worker_of(task.job).cancel(task)


async def talk(socket: WebSocket) -> None:
    """Serve one page until it closes, or says something that makes no sense."""
    await socket.accept()
    try:
        context = studio_of(socket)
    except OSError as error:
        await socket.close(UNREADABLE, str(error)[:120])
        return
    page = Page(context, socket.app.state.worker, socket.app.state.reader)
    sender = asyncio.create_task(page.send(socket))
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            page.receive(parse_request(message.get("text") or ""))
    except ValueError as error:
        await socket.close(UNREADABLE, str(error)[:120])
    finally:
        page.close()
        sender.cancel()


def studio_of(connection: HTTPConnection) -> Studio:
    """Return the studio of the run that a page's address names, or the one of the command."""
    state, name = connection.app.state, connection.query_params.get("run")
    own: Studio = state.studio
    opened: OpenedRuns = state.opened
    return own if name is None else opened.open(state.trainings.find(name))


async def index(request: HttpRequest) -> Response:
    """Return the page."""
    return FileResponse(PAGE / "index.html")


async def about(request: HttpRequest) -> Response:
    """Return what the page shows of the model."""
    return await answer(lambda: studio_of(request).about())


async def upload(request: HttpRequest) -> Response:
    """Keep a file for a job that names it."""
    return JSONResponse({"upload": request.app.state.studio.remember(await request.body())})


async def code(request: HttpRequest) -> Response:
    """Return the command and the Python that do the same as a job."""
    asked = await read_object(request)
    write, settings = CODE_WRITERS.get(str(asked.get("job"))), asked.get("settings")
    if write is None or not isinstance(settings, dict):
        return refuse(f"There is no code for {asked.get('job')!r:.80}", 400)
    return await answer(lambda: write(settings, studio_of(request)))


async def answer(work: Callable[..., Any], *args: Any) -> Response:
    """Return what a function returns as JSON, or its error in plain words."""
    try:
        return JSONResponse(await run_in_threadpool(work, *args))
    except FileNotFoundError as error:
        return refuse(str(error), 404)
    except (ValueError, TypeError, OSError) as error:
        return refuse(str(error), 400)


async def list_runs(request: HttpRequest) -> Response:
    """Return the runs of the folder, or start a training."""
    trainings = request.app.state.trainings
    if request.method == "POST":
        return await answer(trainings.start, await read_object(request))
    return await answer(lambda: {"runs": trainings.summarise_all(), "presets": describe_presets()})


async def show_run(request: HttpRequest) -> Response:
    """Return one run with its curves."""
    return await answer(request.app.state.trainings.describe, request.path_params["name"])


async def steer_run(request: HttpRequest) -> Response:
    """Stop or resume a training, or make the report of a run."""
    name, action = request.path_params["name"], request.path_params["action"]
    trainings = request.app.state.trainings
    actions = {"stop": trainings.stop, "resume": trainings.resume, "evaluate": trainings.evaluate}
    if action not in actions:
        return refuse(f"A run is stopped, resumed or evaluated, not {action!r:.80}", 404)
    return await answer(actions[action], name)


async def show_file(request: HttpRequest) -> Response:
    """Return the report or a grid of samples of a run."""
    try:
        file = request.app.state.trainings.find_file(**request.path_params)
    except FileNotFoundError as error:
        return refuse(str(error), 404)
    return FileResponse(file, headers={"Content-Security-Policy": REPORT_POLICY})


async def read_object(request: HttpRequest) -> dict[str, Any]:
    """Return the JSON object of a request's body, empty if it is anything else."""
    try:
        content = json.loads(await request.body())
    except (ValueError, RecursionError):
        content = None
    return content if isinstance(content, dict) else {}


def make_app(
    run: Path | None, token: str, *, runs: Path = Path("runs"), host: str = "127.0.0.1"
) -> Starlette:
    """Return the studio as an application of any ASGI server."""
    studio = Studio(run, runs)

    @asynccontextmanager
    async def work(app: Starlette) -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = POOL_THREADS
        app.state.worker, app.state.reader = Worker(JOBS), Worker(JOBS)
        try:
            yield
        finally:
            await run_in_threadpool(app.state.worker.close)
            await run_in_threadpool(app.state.reader.close)
            await run_in_threadpool(app.state.trainings.close)

    routes = [
        Route("/", index),
        Route("/about.json", about),
        Route("/upload", upload, methods=["POST"]),
        Route("/code", code, methods=["POST"]),
        Route("/runs", list_runs, methods=["GET", "POST"]),
        Route("/runs/{name}", show_run),
        Route("/runs/{name}/{action}", steer_run, methods=["POST"]),
        Route("/runs/{name}/{path:path}", show_file),
        WebSocketRoute("/ws", talk),
        Mount("/page", StaticFiles(directory=PAGE)),
    ]
    guard = Middleware(Guard, token=token, host=host)
    app = Starlette(routes=routes, middleware=[guard], lifespan=work)
    app.state.studio, app.state.opened = studio, OpenedRuns(studio)
    app.state.trainings = Trainings(runs)
    return app


def configure(app: Starlette) -> uvicorn.Config:
    """Return the settings of the server."""
    return uvicorn.Config(
        app, loop="asyncio", http="h11", ws="websockets-sansio", ws_max_size=MAX_SETTINGS,
        ws_per_message_deflate=False, log_level="warning", access_log=False, server_header=False,
        timeout_graceful_shutdown=2,
    )  # fmt: skip


def serve(
    run: Path | None = None,
    *,
    runs: Path,
    host: str,
    port: int,
    token: str,
    open_browser: bool,
) -> None:
    """Serve the studio until Ctrl-C."""
    app = make_app(run, token, runs=runs, host=host)
    shape = app.state.studio.about().get("shape")  # fails now on what is no model
    family = sockets.AF_INET6 if ":" in host else sockets.AF_INET
    try:
        listener = sockets.create_server((host, port), family=family)
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]
        of_port = error.errno in (errno.EADDRINUSE, errno.EACCES)
        fix = "name another port, 0 for any" if of_port else "name an address of this machine"
        raise ValueError(f"--host {host} --port {port}: {reason}; {fix}") from error
    with listener:
        name = "127.0.0.1" if host in WILDCARDS else f"[{host}]" if ":" in host else host
        view = "#/images" if shape and len(shape) == 3 else ""
        address = f"http://{name}:{listener.getsockname()[1]}/?token={token}{view}"
        print(f"The studio is at {address}\nCtrl-C ends it", flush=True)
        if open_browser and has_screen():
            webbrowser.open(address)
        try:
            uvicorn.Server(configure(app)).run(sockets=[listener])
        finally:  # a second Ctrl-C leaves out the application's own end
            app.state.trainings.close()


def has_screen() -> bool:
    """Return True if a browser would open in a window, not in the terminal."""
    return sys.platform != "linux" or bool(os.environ.keys() & {"DISPLAY", "WAYLAND_DISPLAY"})
