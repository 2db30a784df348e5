"""A run: a directory in which a model is trained, interrupted as often as need be.

    config.json       the experiment, with every automatic choice filled in
    data.json         fingerprints of the training data, so that `resume` can refuse different data
    table.json        for a table: how to turn vectors back into rows
    log.jsonl         one line per step, in order
    checkpoints/      the last states to resume from
    tracker.json      the name of the run in a tracker, if there is one, and figures it received
    samples/          grids of samples during training
    guide.safetensors an earlier average, if sampling.guidance guides samples away from it
    snapshots/        averages of the weights, of which `average` makes one of any length
    model.safetensors, model.json    the averaged model: best held-out loss, or the last

`for update in start(experiment, directory)` trains. The state is a function of the number of steps
alone, so a run that is killed and resumed gives the same result as an uninterrupted one.
"""

import math
import signal
import time
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from .. import checkpoint, distributed
from .._ops import RowCondition
from ..checkpoint import MODEL_FILE, TensorFile, checkpoints, read_tensors
from ..data import condition_shapes
from ..disk import hold_lock, write_file
from ..model import ScoreModel
from ..sample import sample
from ..show import images
from ..train import MAX_SKIPPED, Update, derive_seed, is_look, read_updates, train
from .build import Parts, build_plan, build_schedule
from .config import Experiment, as_json
from .heldout import HELDOUT_SAMPLES, heldout_losses, select_condition, take_condition
from .journal import Journal
from .own_plan import GUIDE_FILE, guide_plan
from .pace import Pace
from .signals import Interrupted, Signals
from .state import (
    Progress,
    interrupted_write,
    regular_checkpoints,
    restore_state,
    save_snapshots,
    save_state,
)
from .track import Tracker

GRID_SAMPLES = 36
BACKWARD = 3
"""Time of a training step in passes through the network; the backward one counts as two."""
CHECKPOINT_EVERY = 600.0
"""Seconds between checkpoints, if those by steps are rarer."""
MEAN_STEPS = 50
"""Number of steps over which the loss that is shown is a mean."""


class Run:
    """The training loop of a run. Iterating trains to the end and yields an `Update` per step.

    Results are read, and processes agree on signals, at the steps of `_is_look` only, so that
    nothing waits in between. Each regular checkpoint is one of them, and steps are undone back to
    such a checkpoint: hence the state does not depend on how often the run looks.
    """

    def __init__(self, directory: Path, experiment: Experiment, parts: Parts) -> None:
        self.directory, self.experiment, self.parts = directory, experiment, parts
        self.progress, self.pace = Progress(), Pace(0.0)
        self.reasons = ""  # for the backend
        self.plan = ""  # choices for the budget, in words
        self.skipped = 0  # number of steps that were skipped since the start
        self.losses = deque[float](maxlen=MEAN_STEPS)
        """Last losses that have been read, without those of skipped steps."""
        self._saved = 0.0  # time of the last checkpoint
        self._written = 0  # last step whose files are all written, except perhaps its checkpoint
        self._signals = Signals()
        self._tracker = Tracker("none", directory)

    @property
    def step(self) -> int:
        """Number of steps done."""
        return self.progress.step

    @property
    def model(self) -> ScoreModel:
        """The averaged model, or the model itself if none is kept."""
        return self.parts.average if self.experiment.training.ema else self.parts.model

    @property
    def at_end(self) -> bool:
        """True after the last step; with a budget, its number is an estimate until decided."""
        training = self.experiment.training
        open_end = training.budget is not None and not training.cooldown
        return self.step >= training.steps and not open_end

    def restore(self, stored: TensorFile) -> None:
        """Continue from a checkpoint."""
        self.progress = restore_state(self.parts, stored)
        self.pace = Pace(self.progress.seconds)
        self._written = self.step

    @cached_property
    def closing_steps(self) -> float:
        """Number of steps that take about as long as the last held-out losses and samples."""
        keeping, data = self.experiment.keeping, self.parts.data
        rows = 0 if data.test is None else min(len(data.test), HELDOUT_SAMPLES)
        if keeping.samples and images.is_picture(data.train.shape):
            rows += GRID_SAMPLES * build_plan(self.model, self.experiment.sampling).evaluations
        return rows / (BACKWARD * self.experiment.training.batch)

    def __iter__(self) -> Generator[Update, None, None]:
        """Train to the end; a step is yielded after everything due at it has been written."""
        with lock_run(self.directory):
            last = max((int(path.stem) for path in checkpoints(self.directory)), default=0)
            if last > self.step:
                raise ValueError(
                    f"{self.directory} has meanwhile reached step {last}: resume it again"
                )
            try:
                yield from self._updates()
            except OSError as error:
                if self._written == self.step:  # reading data failed; a failed write leaves a gap
                    with suppress(OSError):
                        self.save()
                raise interrupted_write(error, self.directory) from error

    def _updates(self) -> Generator[Update, None, None]:
        torch.set_num_threads(self.experiment.machine.threads or torch.get_num_threads())
        self.check_in_step()
        self._saved = monotonic()
        journal = None
        if distributed.is_main():
            journal = Journal(self.directory, self.step)
            self._tracker = Tracker(self.experiment.keeping.tracker, self.directory)
        try:
            with self._signals.wait_for_step():
                if self.step == 0:
                    self.save()
                self._tracker.open(self.step)
                while not self.at_end:
                    yield from self._steps(journal)
        finally:
            self._tracker.close(self.at_end)

    def _steps(self, journal: Journal | None) -> Generator[Update, None, None]:
        """Train to the end, or until steps are undone."""
        unread = list[Update]()
        try:
            with closing(self.take_steps()) as updates:
                for update in updates:
                    self.progress.step = update.step
                    unread.append(update)
                    if self._is_look() and not self._look(unread, journal):
                        return
                    yield update
                    if self._is_look():
                        self._stop_if_signalled()
                        if self.at_end:
                            return
                        self._plan_end()
        except OSError:
            if unread and distributed.world() == 1:  # reading data failed between two looks
                self._look(unread, journal)
            raise

    def _is_look(self) -> bool:
        keeping, training = self.experiment.keeping, self.experiment.training
        due = (keeping.evaluate, keeping.samples, keeping.checkpoint, training.snapshots)
        look = self.at_end or is_look(self.step, self.parts.device)
        look = look or self.step == self.experiment.sampling.guide
        return look or any(_due(self.step, n) for n in due)

    def _look(self, unread: list[Update], journal: Journal | None) -> bool:
        """Read the results since the last look and write what is due; False if steps are undone."""
        updates = read_updates(unread)
        unread.clear()
        if (step := self._count_skipped(updates)) is None:
            self._write_due(updates, journal)
            self._written = self.step
            return True
        self._roll_back(step)
        self.check_in_step()
        if journal:
            journal.rewind(self.step)
            self._tracker.open(self.step)
        return False

    def _count_skipped(self, updates: Iterable[Update]) -> int | None:
        """Return the step that is the `MAX_SKIPPED`-th in a row to be skipped, if there is one."""
        for update in updates:
            if not update.skipped:
                self.progress.bad = 0
                self.losses.append(float(update.loss))
                continue
            self.skipped += 1
            self.progress.bad += 1
            if self.progress.bad == MAX_SKIPPED:
                return update.step
        return None

    def take_steps(self) -> Generator[Update, None, None]:
        """Train and write nothing."""
        training, parts = self.experiment.training, self.parts
        autocast = self.experiment.machine.autocast == "on"
        with closing(parts.batches.stream(self.step)) as batches:
            labels = self.experiment.data.labels
            pairs = ((x, select_condition(condition, labels)) for x, condition in batches)
            yield from train(
                parts.model,
                lambda step: next(pairs),
                parts.loss,
                optimizer=parts.optimizer,
                steps=training.steps if training.budget is None else None,
                start=self.step,
                schedule=lambda k: (
                    self.progress.slower * build_schedule(self.experiment.training)(k)
                ),
                clip=training.clip,
                clip_quantile=parts.clip_quantile,
                ema=[*([parts.ema] if training.ema else []), *parts.powers],
                autocast=torch.bfloat16 if autocast else None,
                size=training.batch,
                accumulate=training.accumulate,
                seed=derive_seed(self.experiment.seed, 2),
            )

    def _plan_end(self) -> None:
        """Record a cool-down that the budget asks for, before its first step."""
        training = self.experiment.training
        if training.budget is None:
            return
        piece = self.pace.decide(training, self.step, self.closing_steps)
        if distributed.all_max(piece is not None) and (piece := distributed.broadcast(piece)):
            message = self.pace.explain(training, piece[1])
            if message and distributed.is_main():
                warnings.warn(message, stacklevel=2)
            training = replace(training, cooldown=[*training.cooldown, piece], steps=piece[1])
            sampling = self.experiment.sampling
            if sampling.guide is not None and sampling.guide > self.step:  # the run was slowed
                sampling = replace(sampling, guide=self.step)
            self.experiment = replace(self.experiment, training=training, sampling=sampling)
            self._save_guide()  # before the record of its step, so that a resumed run has it
            if distributed.is_main():
                text = as_json(self.experiment)
                write_file(self.directory / "config.json", text.encode())

    def _write_due(self, updates: Sequence[Update], journal: Journal | None) -> None:
        """Write what is due after the last of some steps; their lines come before a checkpoint."""
        keeping, training = self.experiment.keeping, self.experiment.training
        last, begin = self.at_end, monotonic()
        heldout = self.evaluate() if last or _due(self.step, keeping.evaluate) else {}
        lines = list[dict[str, Any]]()
        for update in updates:
            line = _line(update) | (heldout if update.step == self.step else {})
            due = any(_due(update.step, every) for every in (keeping.log, keeping.samples))
            final = last and update.step == self.step
            logged = final or update.skipped or "heldout" in line or due
            if logged and journal:
                journal.write(line)
                lines.append(line)
        if distributed.is_main() and (last or _due(self.step, training.snapshots)):
            save_snapshots(self.directory, self.parts, self.step)
        self._save_guide()
        late = monotonic() - self._saved >= CHECKPOINT_EVERY
        if last or late or _due(self.step, keeping.checkpoint):
            self.save()
        if _due(self.step, keeping.samples) or (last and keeping.samples):
            self._write_grid()
        self._tracker.send(lines)
        if _due(self.step, keeping.evaluate):
            self.pace.closing = monotonic() - begin

    def _save_guide(self) -> None:
        """Write the average that guides samples, if this is its step."""
        if distributed.is_main() and self.step == self.experiment.sampling.guide:
            about = {"step": self.step}
            checkpoint.save(self.model, self.directory / GUIDE_FILE, about=about)

    def _write_grid(self) -> None:
        """Write a grid of pictures, of the classes in their order or of held-out conditions."""
        data, latents = self.parts.data, self.parts.data.latents
        if not (latents.is_available if latents else images.is_picture(data.train.shape)):
            return
        sampling = self.experiment.sampling
        plan = build_plan(self.model, sampling)
        if sampling.guidance != 1 and self.step > (sampling.guide or self.step):
            plan = guide_plan(plan, self.directory, self.model, sampling)
        source, numbers = data.test or data.train, torch.arange(GRID_SAMPLES)
        if self.experiment.data.labels and not condition_shapes(source):
            condition: RowCondition = numbers * len(self.model.classes) // GRID_SAMPLES
        else:
            condition = take_condition(self.experiment, source, numbers % len(source))
        x = sample(self.model, GRID_SAMPLES, plan, condition=condition)
        about = asdict(self.progress) | {"sampler": plan.sampler}
        if distributed.is_main():
            x = latents.decode(x) if latents else x
            images.write(self.directory / f"samples/{self.step:08d}.png", x, about)

    def evaluate(self) -> dict[str, float | None]:
        """Return the held-out loss with its standard error, and keep the model if it is better."""
        line = dict[str, float | None]()
        keep = self.experiment.keeping.best == "last" or self.parts.data.test is None
        if self.parts.data.test is not None:
            losses = heldout_losses(self.experiment, self.parts, self.model)
            mean, best = losses.mean().item(), self.progress.best
            line["heldout"] = mean if math.isfinite(mean) else None
            if math.isfinite(mean):
                spread = losses.std(correction=min(1, len(losses) - 1)).item()
                line["heldout_error"] = spread / len(losses) ** 0.5
                if best is None or mean < best:
                    self.progress.best, keep = mean, True
                line["best_heldout"] = self.progress.best
        if distributed.is_main() and (keep or not (self.directory / MODEL_FILE).exists()):
            about = asdict(self.progress) | {"heldout": line.get("heldout")}
            checkpoint.save(self.model, self.directory, about=about)
        return line

    def save(self) -> None:
        """Write a checkpoint."""
        self._saved = monotonic()
        if self.experiment.training.budget is not None:
            self.pace.tick()
            self.progress.seconds = self.pace.seconds
        if distributed.is_main():
            save_state(self.directory, self.experiment, self.parts, self.progress)

    def _roll_back(self, step: int) -> None:
        """Reload the last checkpoint and halve the learning rate; fail the second time."""
        if self.progress.slower < 1:
            raise ValueError(
                f"{MAX_SKIPPED} steps in a row up to {step} had a loss or gradient that is "
                "not finite, with half the learning rate as well: look for NaN in the data, or try "
                f"a training.rate below {self.experiment.training.rate} or a training.clip"
            )
        # Only a checkpoint by steps, or the result would depend on when a signal or a time came.
        paths, every = checkpoints(self.directory), self.experiment.keeping.checkpoint
        path = (regular_checkpoints(paths, every) or paths)[-1]
        seconds = self.pace.seconds
        self.restore(read_tensors(path))
        self.pace = Pace(seconds)  # the time of steps that are undone is used
        if distributed.is_main():
            snapshots = checkpoints(self.directory, "snapshots")
            undone = [p for p in snapshots if int(p.name[:8]) > self.step]
            for later in (*paths[paths.index(path) + 1 :], *undone):
                later.unlink(missing_ok=True)
        self.progress.slower, self.progress.bad = 0.5, 0

    def check_in_step(self) -> None:
        """Wait for the other processes and check that they have the same step and weights."""
        weights = sum(p.cpu().double().abs().sum().item() for p in self.model.parameters())
        samples = len(self.parts.data.train)
        distributed.check_equal(step=self.step, weights=f"{weights:.6g}", samples=samples)

    def _stop_if_signalled(self) -> None:
        number = distributed.all_max(self._signals.number)
        if number:
            self.save()
            self.check_in_step()  # a launcher ends all processes as soon as one has ended
            raise Interrupted(
                f"stopped by {signal.Signals(number).name} after step {self.step}, which is "
                f"saved; to continue: scorefield resume {self.directory}",
                number,
            )


def lock_run(directory: Path) -> AbstractContextManager[None]:
    """Return the run's lock, which rank 0 holds for all processes."""
    return hold_lock(directory) if distributed.is_main() else nullcontext()


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _line(update: Update) -> dict[str, Any]:
    """Return the log line of a step; a loss, norm or rate that is not finite is null."""
    numbers = {name: float(getattr(update, name)) for name in ("loss", "norm", "rate")}
    finite = {name: x if math.isfinite(x) else None for name, x in numbers.items()}
    line = {"step": update.step, "time": round(time.time(), 3), **finite}
    return line | {"skipped": True} if update.skipped else line
