"""Signals that ask a run to stop, which wait until a step has ended and is saved."""

import signal
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

from .. import distributed


class Interrupted(KeyboardInterrupt):
    """A signal has stopped the run, which has saved its state."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class Signals:
    """The signal that asked a run to stop: `number`, 0 if there is none."""

    number = 0

    @contextmanager
    def wait_for_step(self) -> Generator[None, None, None]:
        """Let SIGTERM and the first Ctrl-C wait for the end of a step."""

        def note(number: int, frame: FrameType | None) -> None:
            # with several processes, a launcher repeats the Ctrl-C that each has received
            if self.number and distributed.world() == 1:
                raise KeyboardInterrupt
            self.number = number

        try:
            before = {n: signal.signal(n, note) for n in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # only the main thread receives signals
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
