"""Progress of a loop: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

from tqdm.auto import tqdm

from .. import distributed

LINE_EVERY = 10.0
"""Seconds between lines where there is no terminal."""

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
    start = last = time.perf_counter()
    hidden = None if distributed.is_main() else True  # None: hidden off a terminal
    in_words = partial(tqdm.format_sizeof, suffix=unit) if unit else str
    scale = {"unit": unit, "unit_scale": True} if unit else {}
    with tqdm(
        total=total, initial=done, desc=title, disable=hidden, dynamic_ncols=True, **scale
    ) as bar:
        for count, item in enumerate(items, done + 1):
            yield item
            place = count if position is None else position(item)
            text = describe(item)
            bar.set_postfix_str(text, refresh=False)
            bar.update(place - bar.n)
            now = time.perf_counter()
            if bar.disable and distributed.is_main() and now - last > LINE_EVERY:
                last = now
                end = "" if total is None else f" of {in_words(total)}"
                line = f"{title}: {in_words(place)}{end}, {now - start:.0f} s  {text}"
                print(line.rstrip(), file=sys.stderr, flush=True)
