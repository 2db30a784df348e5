"""Digits from noise in minutes: train, sample by five ways, judge, and write a report.

All that is found is in a directory: the run, the samples of each way in arrays/, report.html.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

from tqdm.auto import tqdm

from .. import runs
from ..checkpoint import load
from ..data import load_data
from ..disk import hold_lock
from ..fast.optimize import optimize
from ..model import ScoreModel
from ..runs import config
from ..runs.config import Experiment
from ..runs.presets import PRESETS
from ..show import images, report
from ..train import Update
from .findings import HEADS, Findings, Result, rows
from .measures import DRAWS, Judge
from .pages import sections
from .ways import Way, draw, ways

SAMPLES, FEW = 360, 120
"""Drawn by each way, as many as are held out; and by the published ladder, which takes long."""
EVERY = 10.0
"""Seconds between lines where no bar can be shown."""
PAGE, ARRAYS = "report.html", "arrays"

Item = TypeVar("Item")


def run(
    out: Path, *, seed: int, steps: int | None = None, samples: int = SAMPLES, few: int = FEW
) -> None:
    """Do it all, print the table, write the report.

    Args:
        out: a directory that holds no run.
        seed: of everything.
        steps: of training; the preset's if not given.
        samples: how many each way draws,
        few: and the slow one.
    """
    made = experiment(seed, steps)
    steps = made.training.steps
    print(f"1. learn the score of digits: {steps} steps; Ctrl-C saves and stops", flush=True)
    begun = time.perf_counter()
    for _ in watched(runs.start(made, out), steps, "training", _told):
        pass
    trained = time.perf_counter() - begun
    print(f"   {trained:.0f} seconds; the run is in {out}")
    model, judge = load(out), Judge.of(load_data(made.data.source))
    print("2. draw samples by five ways", flush=True)
    planned = ways(model, samples, few)
    calls = sum(way.plan.evaluations for way in planned)
    print(f"   computing: {optimize(model, batch=samples, evaluations=calls)}", flush=True)
    results = [_result(out, model, judge, way, seed) for way in planned]
    floors = {n: judge.floor(n, seed) for n in sorted({samples, few}, reverse=True)}
    kept = config.read(out / "config.json")
    found = Findings(out, kept, model, judge, floors, results, trained)
    _print(found)
    report.write(out / PAGE, sections(found), title="scorefield demo: digits from noise")
    _farewell(out)


def experiment(seed: int, steps: int | None) -> Experiment:
    """The preset, on the CPU, where everybody can repeat it."""
    made = PRESETS["digits"]()
    training = made.training
    if steps is not None:
        training = replace(training, steps=steps, warmup=min(training.warmup, steps // 10))
    return replace(made, seed=seed, training=training, machine=replace(made.machine, device="cpu"))


def clear(out: Path) -> None:
    """Remove what an earlier demo has left, and nothing else."""
    if not out.is_dir():
        return
    names = ("config.json", "data.json", "log.jsonl", "model.safetensors", "model.json", PAGE)
    with hold_lock(out):
        for name in names:
            (out / name).unlink(missing_ok=True)
        for folder in ("checkpoints", "samples", ARRAYS):
            shutil.rmtree(out / folder, ignore_errors=True)


def watched(
    items: Iterable[Item], total: int, what: str, tell: Callable[[Item], str] = lambda _: ""
) -> Iterator[Item]:
    """The same items behind a progress bar; where there is no terminal, a line now and then."""
    begun = said = time.perf_counter()
    bar = tqdm(total=total, desc=f"   {what}", disable=None, leave=False, dynamic_ncols=True)
    with bar:
        for count, item in enumerate(items, 1):
            yield item
            bar.set_postfix_str(tell(item), refresh=False)
            bar.update()
            now = time.perf_counter()
            if bar.disable and now - said > EVERY:
                said = now
                line = f"   {what}: {count} of {total}, {now - begun:.0f} s  {tell(item)}"
                print(line.rstrip(), file=sys.stderr, flush=True)


def _told(update: Update) -> str:
    return f"loss {update.loss:.3g}"


def _result(out: Path, model: ScoreModel, judge: Judge, way: Way, seed: int) -> Result:
    """Draw, judge, and keep the samples with how they were made."""
    drawn = draw(model, way, seed, lambda states: watched(states, way.length, way.name))
    measures = judge.measure(drawn.x)
    about = {
        "sampler": way.plan.sampler,
        "options": way.plan.options,
        "sigmas": way.plan.sigmas.tolist(),
        "start": "uniform noise" if way.uniform else "the model's prior",
        "evaluations": way.plan.evaluations,
        "seconds": drawn.seconds,
        "seed": seed,
        "measures": asdict(measures),
    }
    images.write(out / ARRAYS / f"{way.file}.npy", drawn.x, about)
    return Result(way, drawn, measures)


def _print(found: Findings) -> None:
    """The table of the report, with the interval of the distance only."""
    table = [list(HEADS)]
    for row in rows(found):
        lines = [cell.split("\n") for cell in row]
        short = [line[0] for line in lines]
        short[4] = f"{lines[4][0]} ({lines[4][1]})"
        table.append(short)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for name, *cells in table:
        line = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
        print("  ".join([f"{name:{widths[0]}}", *line]).rstrip())
    print(
        f"Against the {len(found.judge.test)} held-out digits, seed {found.experiment.seed}. "
        f"Fréchet distance of pixels: of real digits mean and 95 % range of {DRAWS} sets, of\n"
        "samples the 95 % interval. Classes: the rarest and the commonest. Nearest: distance to "
        "training digits, 1 as new digits have."
    )


def _farewell(out: Path) -> None:
    run = shlex.quote(str(out))
    print(f"\nwrote {(out / PAGE).resolve()}")
    print("next:")
    print(f"  scorefield sample {run} -n 64 --sampler heun --out samples.png")
    print("  scorefield suggest FOLDER                      noise levels for images of your own")
    print("  scorefield train digits --data FOLDER --out runs/mine")
