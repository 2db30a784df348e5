"""A run: a directory with a trained model in the end, interrupted as often as need be.

    config.json       the experiment, with what was decided by data and machine
    data.json         what its data are known by, so that it goes on with no others
    table.json        of a table, the way back from vectors to rows
    log.jsonl         a line a step, in order
    checkpoints/      the last states to resume from: model, average, optimiser, step
    samples/          grids on the way
    model.safetensors, model.json    the averaged model, best by its held-out loss or the last

`for update in start(experiment, directory)` trains. The state of a run is a function of the number
of steps alone, so that one killed and resumed ends as one never stopped.
"""

from __future__ import annotations

import math
import re
import signal
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch
from torch import Tensor

from . import checkpoint, config, images, processes, recover
from .checkpoint import Stored, load, read
from .config import Experiment
from .data import DATASETS, TABLE, Batches, Dataset, everything
from .data import load as load_data
from .disk import LOCK, check_writable, locked, replace
from .draw import plan, sample
from .experiment import begun, build, loss_of, resolved, settled
from .journal import Journal
from .model import ScoreModel
from .optimize import Choice
from .recover import checkpoints
from .train import Update, averaged, constant, cosine, mixed, placed, train

PATIENCE = 5
"""Steps in a row that may be skipped before the run goes back, or ends."""

PARTIAL = re.compile(
    r"\.((config|data|model|table)\.json|log\.jsonl|(model|\d{8})\.safetensors|\d{8}\.png)\.\d+"
)
"""What was being written when a run was killed."""


class Interrupted(KeyboardInterrupt):
    """The run was told to stop, and has saved its state."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class Run:
    """The state of a training run, and its directory."""

    def __init__(
        self, directory: Path, experiment: Experiment, data: Dataset, model: ScoreModel
    ) -> None:
        machine, training = experiment.machine, experiment.training
        self.directory, self.experiment = directory, experiment
        self.device = processes.device(torch.device(machine.device))
        self.data = data.to(self.device)
        self.model = model.to(self.device)
        # bfloat16 is the trainer's, and what is compiled is not copied
        Choice(
            winograd=machine.winograd == "on",
            onednn=machine.onednn == "on",
            channels_last=machine.channels_last == "on",
        ).apply(self.model)
        self.ema = averaged(self.model, training.ema)
        self.average = cast(ScoreModel, self.ema.module)
        if machine.compile == "on":
            Choice.compiled(self.model)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(),
            lr=training.rate,
            betas=training.betas,
            eps=training.eps,
            fused=self.device.type in ("cpu", "cuda"),
        )
        self.loss = loss_of(experiment, self.model)
        self.batches = Batches(
            self.data.train,
            training.batch,
            seed=experiment.seed,
            flip=experiment.data.flip,
            device=self.device,
            workers=experiment.data.workers,
            rank=processes.rank(),
            world=processes.world(),
        )
        self.step, self.best = 0, math.inf
        self.kept = 0
        """The last step of which all is written that belongs to it, but perhaps its state."""
        self.bad = 0
        """Steps skipped in a row."""
        self.slower = 1.0
        """The factor of the rate, less than 1 after the run went back."""
        self.stop = 0
        """The signal that asked for an end."""
        self.reasons = ""
        """For the way of computing that was chosen when it began."""

    @property
    def mean(self) -> ScoreModel:
        """The averaged model, or the model itself if none is kept."""
        return self.average if self.experiment.training.ema else self.model

    def __iter__(self) -> Generator[Update, None, None]:
        """Train to the end, and yield after each step, when all that belongs to it is written."""
        with _owned(self.directory):
            later = [path for path in checkpoints(self.directory) if int(path.stem) > self.step]
            if later:
                raise ValueError(
                    f"{self.directory} has gone on to step {int(later[-1].stem)} meanwhile: "
                    "resume it again"
                )
            try:
                yield from self._updates()
            except OSError as error:
                if self.kept == self.step:  # it was the data; a file that fails leaves a gap
                    with suppress(OSError):
                        self._save_once()
                raise recover.stopped(error, self.directory) from error

    def _updates(self) -> Generator[Update, None, None]:
        keeping, training = self.experiment.keeping, self.experiment.training
        torch.set_num_threads(self.experiment.machine.threads or torch.get_num_threads())
        self._meet()
        journal = Journal(
            self.directory,
            self.step,
            tensorboard=keeping.tensorboard,
            silent=not processes.first(),
        )
        with closing(journal), self._signals():
            if self.step == 0 and not checkpoints(self.directory):
                self.save()
            while self.step < training.steps:
                for update in self._train():
                    self.bad = self.bad + 1 if update.skipped else 0
                    if self.bad == PATIENCE:
                        break
                    self.step = update.step
                    self._keep(update, journal)
                    self.kept = self.step
                    yield update
                    self._heed()
                if self.bad == PATIENCE:
                    self._back(update)
                    self._meet()
                    journal.rewind(self.step)

    def _keep(self, update: Update, journal: Journal) -> None:
        """Write what is due after a step; the line is there before the checkpoint of its step."""
        keeping = self.experiment.keeping
        last = self.step == self.experiment.training.steps
        line = _line(update)
        if last or _due(self.step, keeping.evaluate):
            line |= self.evaluate()
        if last or update.skipped or "heldout" in line or _due(self.step, keeping.log):
            journal.write(line)
        if last or _due(self.step, keeping.checkpoint):
            self.save()
        if last or _due(self.step, keeping.samples):
            self.draw()

    def _train(self) -> Generator[Update, None, None]:
        training, machine = self.experiment.training, self.experiment.machine
        data = self.experiment.data
        batches = self.batches.stream(self.step)

        def batch(step: int) -> tuple[Tensor, Tensor | None]:
            x, labels = next(batches)
            return x, labels if data.labels else None

        schedule = (
            cosine(training.steps, training.warmup)
            if training.schedule == "cosine"
            else constant(training.warmup)
        )
        try:
            yield from train(
                self.model,
                batch,
                self.loss,
                optimizer=self.optimizer,
                steps=training.steps,
                start=self.step,
                schedule=lambda step: self.slower * schedule(step),
                clip=training.clip,
                ema=self.ema if training.ema else None,
                autocast=torch.bfloat16 if machine.autocast == "on" else None,
                size=training.batch,
                seed=mixed(self.experiment.seed, 2),
            )
        finally:
            batches.close()  # type: ignore[attr-defined]

    # ── What is done on the way ──────────────────────────────────────────────────────────────────

    @torch.no_grad()
    def _heldout(self) -> Tensor:
        """The loss of each held-out sample, always of the same samples and noise."""
        assert self.data.test is not None
        x = everything(self.data.test, 1024).to(self.device)
        generator = torch.Generator(self.device).manual_seed(mixed(self.experiment.seed, 3))
        self.mean.eval()
        losses = x.new_zeros(len(x))
        for part, found in zip(torch.split(x, 256), torch.split(losses, 256), strict=True):
            rows = processes.mine(len(part))
            if len(part[rows]):
                found[rows] = self.loss(self.mean, part[rows], noise=placed(generator, len(part)))
        return processes.total(losses)

    def evaluate(self) -> dict[str, float | None]:
        """The held-out loss with its standard error; the model that is to be kept is written."""
        if self.data.test is None:
            self._keep_model(None)
            return {}
        losses = self._heldout()
        mean = losses.mean().item()
        better = mean < self.best or self.experiment.keeping.best == "last"
        self.best = min(mean, self.best) if math.isfinite(mean) else self.best
        heldout = mean if math.isfinite(mean) else None
        if better or not (self.directory / checkpoint.FILE).exists():
            self._keep_model(heldout)
        if heldout is None:
            return {"heldout": None}
        error = losses.std(correction=min(1, len(losses) - 1)).item() / len(losses) ** 0.5
        return {"heldout": heldout, "heldout_error": error}

    def _keep_model(self, heldout: float | None) -> None:
        if processes.first():
            checkpoint.save(self.mean, self.directory, about=self.about() | {"heldout": heldout})

    def draw(self) -> None:
        """A grid of samples of the averaged model."""
        if self.data.kind != "images" or not self.experiment.keeping.samples:
            return
        sampling = self.experiment.sampling
        planned = plan(self.mean, sampling.sampler, sampling.steps, **sampling.options)
        x = sample(
            self.mean, 36, sampler=sampling.sampler, steps=sampling.steps, **sampling.options
        )
        about = self.about() | {"sampler": sampling.sampler, "evaluations": planned.evaluations}
        if processes.first():
            images.write(self.directory / f"samples/{self.step:08d}.png", x, about)

    def about(self) -> dict[str, Any]:
        """What a file of the run says of itself."""
        best = None if math.isinf(self.best) else self.best
        return {"step": self.step, "best": best, "slower": self.slower, "bad": self.bad}

    # ── The state, to the disk and back ──────────────────────────────────────────────────────────

    def save(self) -> None:
        """Write a checkpoint, and remove those that are too old."""
        if not processes.first():
            return
        extra = {f"raw.{name}": value for name, value in self.model.net.state_dict().items()}
        extra["averaged"] = self.ema.n_averaged
        states = self.optimizer.state_dict()["state"]
        for index, state in states.items():
            extra |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        about = self.about() | {"config": asdict(self.experiment)}
        checkpoint.save(self.average, self._path(), about=about, extra=extra)
        for old in checkpoints(self.directory)[: -max(self.experiment.keeping.last, 1)]:
            old.unlink()

    def _save_once(self) -> None:
        if not self._path().exists():
            self.save()

    def restore(self, stored: Stored) -> None:
        """Take the state of a checkpoint."""
        extra = stored.under("extra")
        self.average.net.load_state_dict(stored.under("net"))
        self.ema.n_averaged.copy_(extra.pop("averaged"))
        raw = {k.removeprefix("raw."): v for k, v in extra.items() if k.startswith("raw.")}
        self.model.net.load_state_dict(raw)
        states: dict[int, dict[str, Tensor]] = {}
        for key, value in extra.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                states.setdefault(int(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": states, "param_groups": groups})
        about = stored.about
        self.step, self.slower, self.bad = about["step"], about["slower"], about["bad"]
        self.best = math.inf if about["best"] is None else about["best"]
        self.kept = self.step

    def _path(self) -> Path:
        return self.directory / f"checkpoints/{self.step:08d}.safetensors"

    def _back(self, update: Update) -> None:
        """To the last checkpoint with half the rate, once; then it is no accident."""
        kept = checkpoints(self.directory)
        # not one that a signal left, or the end would depend on when it came
        due = [path for path in kept if _due(int(path.stem), self.experiment.keeping.checkpoint)]
        if self.slower < 1:
            raise ValueError(
                f"{PATIENCE} steps in a row up to {update.step} had a loss or gradient that is not "
                f"finite, with half the rate as well: look for NaN in the data, or take a lower "
                f"training.rate than {self.experiment.training.rate} or a training.clip"
            )
        self.restore(read((due or kept)[-1]))
        self.slower, self.bad = 0.5, 0

    def _meet(self) -> None:
        """Wait for the other processes, which must be where this one is."""
        weights = sum(p.cpu().double().abs().sum().item() for p in self.mean.parameters())
        processes.agreed(step=self.step, weights=f"{weights:.6g}", samples=len(self.data.train))

    def _heed(self) -> None:
        """End here if a signal has asked for it; it may have come since the step was saved."""
        number = processes.highest(self.stop)  # while it waits, a signal may come for the next step
        if number:
            self._save_once()
            self._meet()  # a launcher ends all as soon as one has ended
            raise Interrupted(
                f"stopped by {signal.Signals(number).name} after step {self.step}, which is "
                f"saved; to go on: scorefield resume {self.directory}",
                number,
            )

    @contextmanager
    def _signals(self) -> Generator[None, None, None]:
        """SIGTERM and the first Ctrl-C wait for the end of a step.

        A launcher passes on what the terminal has sent already, and ends who does not heed it.
        """

        def note(number: int, frame: FrameType | None) -> None:
            if self.stop and processes.world() == 1:
                raise KeyboardInterrupt
            self.stop = number

        try:
            before = {n: signal.signal(n, note) for n in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread, where no signal comes
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def start(experiment: Experiment, directory: str | Path) -> Run:
    """Begin a run in a directory of its own; to iterate over it is to train.

    Under a launcher, all processes begin it together, and the first one writes.
    """
    processes.join()
    directory = Path(directory)
    _check_new(directory)
    check_writable(directory / "config.json")
    experiment = config.checked(experiment, DATASETS)
    data = load_data(experiment.data.source, **experiment.data.options)
    if experiment.start is None:
        experiment = processes.told(resolved(experiment, data))
        model = build(experiment, data)
    else:
        model, experiment = begun(experiment, data)
    experiment, reasons = settled(experiment, model.to(torch.device(experiment.machine.device)))
    run = Run(directory, experiment, data, model)
    run.reasons = reasons
    sampling = experiment.sampling  # what would fail at the first grid fails here
    _ = plan(model, sampling.sampler, sampling.steps, **sampling.options).evaluations
    run._meet()  # all have found the directory empty
    if processes.first():
        directory.mkdir(parents=True, exist_ok=True)
        with locked(directory):
            _check_new(directory)  # another process may have begun there meanwhile
            if data.table is not None:
                replace(directory / TABLE, data.table.as_json().encode())
            replace(directory / "config.json", config.as_json(experiment).encode())
            recover.note(directory, experiment.data.source, data)
    return run


def _check_new(directory: Path) -> None:
    if (directory / "config.json").exists():
        raise ValueError(
            f"{directory} holds a run: continue it by `scorefield resume {directory}`, or name "
            "another directory"
        )
    there = directory.exists()
    if there and (not directory.is_dir() or any(p.name != LOCK for p in directory.iterdir())):
        raise ValueError(f"{directory} is there already and holds no run: name another directory")


def resume(directory: str | Path, *, changed_data: bool = False) -> Run:
    """Go on with a run from its last state that is whole, by iterating over it.

    Args:
        directory: of the run.
        changed_data: go on though the data are not those that it began with.
    """
    processes.join()
    directory = Path(directory)
    if not (directory / "config.json").exists():
        raise ValueError(f"{directory} holds no run: there is no config.json in it")
    with processes.in_turn(), _owned(directory):
        for place in (directory, directory / "checkpoints", directory / "samples"):
            for left in place.glob(".*"):
                if PARTIAL.fullmatch(left.name):
                    left.unlink()
        saved = recover.last(directory)
        experiment = recover.experiment(directory, saved[1].about if saved else {})
        # what the first process has noted, the others compare with theirs
        changed = changed_data and processes.first()
        data = recover.data(directory, experiment, changed=changed)
    if saved:
        model = load(saved[0])
    else:
        model = build(experiment, data) if experiment.start is None else begun(experiment, data)[0]
    run = Run(directory, experiment, data, model)
    if saved:
        run.restore(saved[1])
    return run


def _owned(directory: Path) -> AbstractContextManager[None]:
    """The lock of a run, which is held by the first of its processes."""
    return locked(directory) if processes.first() else nullcontext()


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _line(update: Update) -> dict[str, Any]:
    """JSON knows no NaN; a skipped step says why by which of the two is missing."""
    line: dict[str, Any] = {"step": update.step, "time": round(time.time(), 3)}
    for name in ("loss", "norm", "rate"):
        value = getattr(update, name)
        line[name] = value if math.isfinite(value) else None
    return line | {"skipped": True} if update.skipped else line
