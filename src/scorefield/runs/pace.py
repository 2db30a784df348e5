"""Keep a run within its budget of time: the clock decides when it cools down and ends.

The learning rate is constant until `COOLDOWN` of the budget is left, then it falls linearly to 0.
The last step is planned from the speed of the latest steps, and again whenever the time or the
steps left have halved, so that a run ends in time on a machine that becomes slower or faster. A
decision is a pair of steps, (first, end), which config.json keeps in `training.cooldown`. It
changes nothing before its first step: a run that is resumed, or started with the same pairs, gives
the same result.
"""

import math
from bisect import bisect
from time import monotonic

from ..show.machine import waiting_seconds
from ..show.text import in_hours
from .config import Training

COOLDOWN = 0.4
"""Share of the budget in which the learning rate falls to 0."""
LAST_DECISION = 0.025
"""Share of the budget that is left at the last decision, at least."""
LEAST_WINDOW = 0.1
"""Least share of the budget over which the speed is measured; it is the time left, if longer."""
MARK_EVERY = 1e-3
"""Share of the budget between records of the step."""
FEWER_STEPS = 0.8
"""Share of the planned steps below which a run reports that it is slowed."""
OTHERS = 0.1
"""A run reports that other programs had the processor for more than this share of the time."""


class Pace:
    """The time that a run has used of its budget, and its steps in that time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = self._start = seconds
        self.closing: float | None = None
        """Seconds in which all files were last written, as they are at the end."""
        self._now, self._waiting = monotonic(), waiting_seconds()
        self._marks, self._explained = list[tuple[float, int]](), False

    def tick(self) -> None:
        """Read the clock."""
        now = monotonic()
        self.seconds, self._now = self.seconds + now - self._now, now

    def decide(self, training: Training, step: int, closing_steps: float) -> tuple[int, int] | None:
        """Return the first and the last step of a cool-down, if one is due after a step.

        Writing all files is taken to be as long as `closing_steps` until it has been measured.
        """
        self.tick()
        if not self._marks:  # starting and a first step take longer than the other steps
            self._marks.append((self.seconds, step))
            return None
        budget, pieces = training.budget or 0.0, training.cooldown
        begin, end = pieces[-1] if pieces else (0, math.inf)
        left = budget - self.seconds
        if step <= begin or (pieces and left < LAST_DECISION * budget):
            return None
        window = max(left, LEAST_WINDOW * budget)
        index = bisect(self._marks, (self.seconds - window, 0))
        seconds, before = self._marks[min(index, len(self._marks) - 1)]
        a_step = max(self.seconds - seconds, 1e-9) / (step - before)
        left -= closing_steps * a_step if self.closing is None else self.closing
        if self.seconds - self._marks[-1][0] >= MARK_EVERY * budget:
            self._marks.append((self.seconds, step))
        if left > COOLDOWN * budget / 2 ** len(pieces) and 2 * step < begin + end:
            return None
        return step, step + max(1, round(left / a_step))

    def explain(self, training: Training, end: int) -> str:
        """Report once that fewer steps fit than planned, or that other programs took much time."""
        others = (waiting_seconds() - self._waiting) / max(self.seconds - self._start, 1e-9)
        since = training.cooldown[-1][0] if training.cooldown else 0
        fewer = end - since < FEWER_STEPS * (training.steps - since)
        if self._explained or not (fewer or others > OTHERS):
            return ""
        self._explained = True
        fit = f"about {end} steps fit in {in_hours(training.budget or 0.0)}"
        busy = f"other programs, which had the processor for {others:.0%} of the time"
        if not fewer:
            return f"slowed by {busy}: {fit}"
        text = f"slowed down: {fit}, not {training.steps} as planned"
        return text + f", by {busy}" * (others > OTHERS)
