"""Progress of a loop: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm.auto import tqdm

from .. import distributed

LINE_EVERY = 10.0
"""Seconds between lines where there is no terminal."""

TrackedItem = TypeVar("TrackedItem")


def track(
    items: Iterable[TrackedItem],
    total: int,
    what: str,
    *,
    done: int = 0,
    position: Callable[[TrackedItem], int] | None = None,
    describe: Callable[[TrackedItem], str] = lambda item: "",
) -> Iterator[TrackedItem]:
    """Yield the items and show how far the loop has come. Only rank 0 shows anything.

    `done` of the `total` items were done before. `position` returns how far the work is after an
    item, if items may be repeated. `describe` returns a few words that are shown next to the bar.
    """
    start = last = time.perf_counter()
    hidden = None if distributed.is_main() else True  # None: hidden off a terminal
    with tqdm(total=total, initial=done, desc=what, disable=hidden, dynamic_ncols=True) as bar:
        for count, item in enumerate(items, done + 1):
            yield item
            place = count if position is None else position(item)
            text = describe(item)
            bar.set_postfix_str(text, refresh=False)
            bar.update(place - bar.n)
            now = time.perf_counter()
            if bar.disable and distributed.is_main() and now - last > LINE_EVERY:
                last = now
                line = f"{what}: {place} of {total}, {now - start:.0f} s  {text}"
                print(line.rstrip(), file=sys.stderr, flush=True)
