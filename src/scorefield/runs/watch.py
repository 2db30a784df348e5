"""Show the progress of a run's training on a terminal."""

import math
import sys
from collections.abc import Iterable, Iterator
from operator import attrgetter
from statistics import fmean
from time import monotonic

from tqdm import tqdm

from .. import distributed
from ..show.progress import progress
from ..show.text import in_hours
from ..train import Update
from ..values import escape_controls
from .run import Run

ESTIMATE_AFTER = 5.0
"""Seconds of training after which the time of the whole is estimated."""
LONG = 3600.0
"""Seconds above which the estimate names the option for less."""


def track_training(run: Run) -> Iterator[Update]:
    """Train a run to its end, and show its progress and a running mean of its loss."""
    steps, budget = run.experiment.training.steps, run.experiment.training.budget
    if distributed.is_main():
        end = f"to {steps}" if budget is None else f"for {in_hours(budget - run.pace.seconds)}"
        place = f"from step {run.step} {end} on {run.parts.data.name}"
        line = f"{run.directory}: {place}; Ctrl-C saves and stops"
        print(escape_controls(line), flush=True)

    def describe(update: Update) -> str:
        left = "" if budget is None else f", {in_hours(max(0.0, budget - run.pace.seconds))} left"
        return f"loss {fmean(run.losses or [math.nan]):.4g}{left}"

    updates, total = (estimate_time(run, steps), steps) if budget is None else (run, None)
    position = attrgetter("step")
    return progress(updates, total, "training", done=run.step, position=position, describe=describe)


def estimate_time(updates: Iterable[Update], steps: int) -> Iterator[Update]:
    """Yield the updates, and print once, after a few seconds, how long the rest will take."""
    begin, first = math.inf, 0
    for update in updates:
        now = monotonic()
        if first == 0:  # the first step also allocates memory and compiles
            begin, first = now, update.step
        elif now - begin > ESTIMATE_AFTER and update.step > first:
            a_step, begin = (now - begin) / (update.step - first), math.inf
            if distributed.is_main():
                rest = in_hours(a_step * (steps - update.step))
                line = f"about {rest} left on this machine, at {a_step:.2g} s a step"
                if first == 1 and a_step * steps > LONG:
                    line += "; --budget 20m trains for 20 minutes, with the steps that fit in them"
                tqdm.write(line, file=sys.stderr)
        yield update
