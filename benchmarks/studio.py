"""The studio in chromium on loopback: first paint, frames a second, memory, what tabs leave behind.

Frames are those that the plane draws of 1,000 particles under two samplers, in a window of 1280 ×
900. Memory is the resident set of the studio's process, after each view has computed something,
less that of a process that has only loaded the same model. It needs chromium and Playwright.
"""

import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from scorefield.values import import_extra

from . import Setting
from .frontier import train
from .table import Cell, Table

CHROMIUM = shutil.which("chromium")
PARTICLES = 1000
SECONDS = 10.0
"""Time in which frames are counted."""
REST = 12.0
"""Time after which idle threads that read files have ended."""
TABS = 20
RELOADS = 100
MIB = 2**20
LONG = f"#/plane?n={PARTICLES}&first_steps=2000&second_steps=2000"
"""A sampling that takes longer than the counting."""
ROUND = f"#/plane?n={PARTICLES}&first_steps=20&second_steps=20"
LOADED = """import sys
from pathlib import Path
from scorefield import load
model = load(Path(sys.argv[1]))
print("loaded", flush=True)
sys.stdin.read()"""
PAINT = """() => performance.getEntriesByName("first-contentful-paint")[0].startTime / 1000"""
DRAWN = """() => Number(
  document.querySelector("canvas[aria-label='First sampler']").dataset.drawn)"""
NOW = "performance.now() / 1000"


def run(setting: Setting) -> Iterator[Table]:
    if CHROMIUM is None:
        raise ValueError("chromium is not installed: the studio is measured in it")
    psutil = import_extra("psutil", "dev", "memory of a process")
    playwright = import_extra("playwright.sync_api", "dev", "a browser")
    place = train(setting)
    with start([sys.executable, "-c", LOADED, str(place)]) as (loaded, _):
        base = psutil.Process(loaded.pid).memory_info().rss
    command = [sys.executable, "-m", "scorefield", "studio", str(place)]
    command += ["--runs", str(place.parent), "--port", "0", "--no-browser"]
    with start(command) as (studio, line), playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        address = re.search(r"http://[^\s#]+", line)
        assert address is not None
        process, open_page = psutil.Process(studio.pid), opener(browser, address[0])

        def processes() -> dict[str, list[Any]]:
            children = psutil.Process().children(recursive=True)
            return {"studio": [process], "browser": [c for c in children if "chrom" in c.name()]}

        yield show_speed(setting, open_page, processes)
        yield show_memory(setting, open_page, process, base)
        browser.close()


@contextmanager
def start(command: list[str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a process, and return it with the first line that it prints."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            if not (line := process.stdout.readline()):
                raise RuntimeError(f"{' '.join(command)} has failed")
            yield process, line
        finally:
            process.terminate()


def opener(browser: Any, address: str) -> Callable[..., Any]:
    """Return a function that opens a view in a tab with a cache of its own."""

    def open_page(view: str) -> Any:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(120_000)
        page.goto(f"{address}{view}")
        return page

    return open_page


def show_speed(
    setting: Setting,
    open_page: Callable[[str], Any],
    processes: Callable[[], dict[str, list[Any]]],
) -> Table:
    """Measure first paint and frames a second."""
    load, paints, fields = os.getloadavg()[0], [], []
    for _ in range(setting.repeats):
        page = open_page("")
        page.wait_for_selector(".ladder .tick")
        fields.append(page.evaluate(NOW))
        paints.append(page.evaluate(PAINT))
        page.close()
    page = open_page(LONG)
    page.wait_for_selector(".ladder .tick")
    page.get_by_role("button", name="Run both").click()
    page.get_by_text("evaluations").first.wait_for()
    groups = processes()
    before = {name: processor_seconds(group) for name, group in groups.items()}
    first, start_time = page.evaluate(DRAWN), page.evaluate(NOW)
    page.wait_for_timeout(1000 * (1.0 if setting.quick else SECONDS))
    frames, seconds = page.evaluate(DRAWN) - first, page.evaluate(NOW) - start_time
    assert page.get_by_role("button", name="Stop", exact=True).is_visible()  # it still computes
    rows: list[list[Cell]] = [
        ["first paint, s", statistics.median(paints), "≤ 1"],
        ["density and score drawn, s", statistics.median(fields), ""],
        ["frames a second while the samplers compute", frames / seconds, "≥ 20"],
    ]
    for name, group in groups.items():
        used = processor_seconds(group) - before[name]
        rows.append([f"processor time of the {name}, ms a frame", 1e3 * used / frames, ""])
    page.close()
    notes = [f"Load average of the machine before: {load:.1f}; the studio and the browser need 2."]
    return Table("The studio’s speed", {"": "", "measured": ".2f", "bar": ""}, rows, notes)


def processor_seconds(processes: list[Any]) -> float:
    """Return the processor time that they have used."""
    times = [process.cpu_times() for process in processes if process.is_running()]
    return sum(float(used.user + used.system) for used in times)


def use_views(open_page: Callable[[str], Any]) -> None:
    """Compute something in each view."""
    page = open_page(ROUND)
    page.wait_for_selector(".ladder .tick")
    page.get_by_role("button", name="Train a network").click()
    page.get_by_text("Trained", exact=True).wait_for()
    page.get_by_role("button", name="Run both").click()
    page.get_by_role("button", name="Play", exact=True).wait_for()
    page.goto(page.url.partition("#")[0] + "#/images?n=16")
    page.get_by_label("State", exact=True).filter(has_text="σ = 0,").wait_for()
    page.goto(page.url.partition("#")[0] + "#/restore?n=8")
    page.get_by_label("Known", exact=True).filter(has_text="are known").wait_for()
    page.get_by_role("button", name="Restore", exact=True).click()
    page.get_by_label("Errors").filter(has_text="single").wait_for()
    page.close()


def show_memory(
    setting: Setting, open_page: Callable[[str], Any], process: Any, base: int
) -> Table:
    """Measure what the studio holds, and what tabs and reloads leave behind."""
    tabs, reloads = (2, 2) if setting.quick else (TABS, RELOADS)
    use_views(open_page)
    used = holdings(setting, process)
    visit(open_page, tabs, reloads)
    left = holdings(setting, process)
    heads = {"": "", "MiB beyond the model": ".0f", "threads": "d", "sockets": "d", "files": "d"}
    rows: list[list[Cell]] = []
    for name, (memory, *counts) in {
        "after each view was used": used,
        f"after {tabs} tabs and {reloads} reloads more": left,
    }.items():
        rows.append([name, (memory - base) / MIB, *counts])
    notes = [
        f"The bar is 250 MiB. A process that has loaded the model has {base / MIB:.0f} MiB.",
        "Up to four of the threads read files, and stay for the next page.",
    ]
    return Table("The studio’s memory, threads and sockets", heads, rows, notes)


def holdings(setting: Setting, process: Any) -> tuple[int, int, int, int]:
    """Return memory in bytes, and the numbers of threads, sockets and files of an idle studio."""
    time.sleep(0 if setting.quick else REST)
    memory = process.memory_info().rss
    return memory, process.num_threads(), len(process.net_connections()), process.num_fds()


def visit(open_page: Callable[[str], Any], tabs: int, reloads: int) -> None:
    """Open tabs that compute, reload them in turn while they do, and close them."""
    pages = [open_page(ROUND) for _ in range(tabs)]
    for i in range(reloads):
        page = pages[i % tabs]
        page.wait_for_selector(".ladder .tick")
        page.get_by_role("button", name="Run both").click()
        page.reload()
    for page in pages:
        page.close()
