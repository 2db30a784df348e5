"""Progress of a loop: a bar on a terminal, a line now and then elsewhere."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from threading import Event, Thread
from time import perf_counter
from typing import TypeVar

from tqdm.auto import tqdm

from .. import distributed
from ..values import escape_controls

LINE_EVERY = 30.0
"""Seconds between lines where there is no bar."""

TrackedItem = TypeVar("TrackedItem")


def progress(
    items: Iterable[TrackedItem],
    total: int | None = None,
    title: str = "progress",
    *,
    done: int = 0,
    position: Callable[[TrackedItem], int] | None = None,
    describe: Callable[[TrackedItem], str] = lambda item: "",
    unit: str = "",
) -> Iterator[TrackedItem]:
    """Yield the items and show how far the loop has come. Only rank 0 shows anything.

    `done` of the `total` items were done before. `position` returns how far the work is after an
    item, if items may be repeated or count differently. `describe` returns a few words that are
    shown next to the bar. Counts of a `unit`, such as "B", are shown as 1.2kB.
    """
    place, text = done, ""

    def line(seconds: float) -> str:
        end = "" if total is None else f" of {in_words(total)}"
        return f"{title}: {in_words(place)}{end}, {seconds:.0f} s  {text}"

    hidden = None if distributed.is_main() else True  # None: hidden off a terminal
    in_words = partial(tqdm.format_sizeof, suffix=unit) if unit else str
    scale = {"unit": unit, "unit_scale": True} if unit else {}
    with (
        tqdm(
            total=total, initial=done, desc=title, disable=hidden, dynamic_ncols=True, **scale
        ) as bar,
        heartbeat(line) if bar.disable else nullcontext(),
    ):
        for count, item in enumerate(items, done + 1):
            yield item
            place = count if position is None else position(item)
            text = describe(item)
            bar.set_postfix_str(text, refresh=False)
            bar.update(place - bar.n)


@contextmanager
def stage(title: str, *, shown: bool = True) -> Iterator[None]:
    """Print what a block does, and again every `LINE_EVERY` seconds until it ends, if `shown`."""
    if not shown:
        yield
        return
    if distributed.is_main():
        print(escape_controls(title), file=sys.stderr, flush=True)
    with heartbeat(lambda seconds: f"{title}, {seconds:.0f} s"):
        yield


@contextmanager
def heartbeat(line: Callable[[float], str]) -> Iterator[None]:
    """Print a line of the seconds so far by time, however long a step takes; in rank 0 only."""
    ended, start = Event(), perf_counter()

    def repeat() -> None:
        while not ended.wait(LINE_EVERY):
            text = line(perf_counter() - start).rstrip()
            print(escape_controls(text), file=sys.stderr, flush=True)

    thread = Thread(target=repeat, daemon=True)
    if distributed.is_main():
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if thread.ident is not None:
            thread.join()
