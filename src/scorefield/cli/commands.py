"""What the commands do, once the command line has been read.

They print what a person wants to know, and raise ValueError with what to change.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from PIL.Image import Image
from torch import Tensor
from tqdm.auto import tqdm

from .. import disk, distributed
from ..checkpoint import load, read_stored
from ..data import DATASETS, HUB_PREFIX, PUBLISHED_FILES, TABLE_FILE, Table, all_samples, load_data
from ..fast.optimize import Precision, optimize
from ..ladder import suggest as suggested
from ..model import ScoreModel
from ..runs import Run, config, start
from ..runs import resume as resume_run
from ..runs.config import Experiment
from ..runs.presets import PRESETS
from ..runs.resolve import choose_device
from ..sample import Plan, chains, gather, make_plan
from ..samplers import State, final
from ..show import images

TABLES = (".csv", ".tsv")
"""Of files in which samples are rows of text."""

FRAMES = 60
"""Of an animation, at most."""


def experiment(
    preset: str | None, file: Path | None, source: str | None, settings: Sequence[str]
) -> Experiment:
    """A preset, changed by a file, then by the name of the data, then by settings."""
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"{preset!r} is no preset: {config.nearest(preset, PRESETS)}")
    made = PRESETS[preset or ("digits" if source is None else _suited(source, settings))]()
    if file is not None:
        made = config.read(file, made if preset else None)
    if source is not None and source != made.data.source:
        options = _kept(made.data, source)
        flip = made.data.flip and preset is not None
        made = replace(made, data=replace(made.data, source=source, options=options, flip=flip))
    return config.overridden(made, settings)


def _kept(data: config.Data, source: str) -> dict[str, Any]:
    """The options that go with another source too: they are a source's, and another has others."""
    reader = DATASETS.get(data.source)
    if (
        source in DATASETS
        or source.startswith(HUB_PREFIX)
        or reader not in (None, *PUBLISHED_FILES.values())
    ):
        return {}
    # a folder of images may stand in for published ones, to be cut and scaled like them
    return {k: v for k, v in data.options.items() if k not in ("root", "download")}


def _suited(source: str, settings: Sequence[str]) -> str:
    """The preset for data of this kind."""
    if source == "digits":
        return source
    published = source.startswith(HUB_PREFIX) or DATASETS.get(source) in PUBLISHED_FILES.values()
    if published or Path(source).is_dir():
        return "photos"
    own = [each for each in settings if each.startswith("data.options.")]
    data = load_data(source, **config.overridden(Experiment(), own).data.options)
    if data.table is not None:
        return "table"
    return {"images": "photos", "signals": "signals", "vectors": "vectors"}[data.kind]


def train(made: Experiment, out: Path) -> None:
    """Begin a run."""
    _join()
    begun = start(made, out)
    _say(f"computing: {begun.reasons}")
    _say(f"{out}: {made.training.steps} steps on {begun.parts.data.name}; Ctrl-C saves and stops")
    _follow(begun)


def resume(out: Path, *, changed_data: bool = False) -> None:
    """Go on with a run."""
    _join()
    begun = resume_run(out, changed_data=changed_data)
    steps = begun.experiment.training.steps
    if begun.step == steps:
        _say(f"{out} has all of its {steps} steps")
        return
    _say(f"{out}: from step {begun.step} to {steps}")
    _follow(begun)


def _join() -> None:
    """Make ready, and meet the processes that a launcher has started with this one."""
    distributed.join()
    if distributed.is_main():
        for remark in distributed.launcher_warnings(os.environ):
            print(f"scorefield: {remark}", file=sys.stderr)


def _say(text: str) -> None:
    """Print what one of many processes is to say for all."""
    if distributed.is_main():
        print(text)


def _bar(total: int, done: int = 0) -> Any:
    """A progress bar in a terminal, of one process."""
    hidden = None if distributed.is_main() else True
    return tqdm(total=total, initial=done, disable=hidden, unit="step")


def _follow(begun: Run) -> None:
    """Train to the end behind a progress bar, and say what there is."""
    if left := begun.parts.data.skipped:
        _say(f"left out {len(left)} files that could not be read: {', '.join(left[:5])}...")
    if not begun.parts.data.exact:
        _say(f"{begun.parts.data.name} is streamed: if this run is stopped, `scorefield resume`")
        _say("continues at about the same place, but an exact resume cannot be promised")
    steps, smooth, skipped = begun.experiment.training.steps, math.nan, 0
    with _bar(steps, begun.step) as bar:
        for update in begun:
            skipped += update.skipped
            if not update.skipped:
                known = math.isfinite(smooth)
                smooth = 0.98 * smooth + 0.02 * update.loss if known else update.loss
                bar.set_postfix(loss=f"{smooth:.4g}", refresh=False)
            bar.update(update.step - bar.n)  # a run may go back
    if distributed.is_main():
        _conclude(begun.directory, skipped)


def _conclude(out: Path, skipped: int) -> None:
    """Say what a run has left."""
    about = read_stored(out).about
    best = "" if about["heldout"] is None else f", held-out loss {about['heldout']:.4g}"
    print(f"wrote {out / 'model.safetensors'} (averaged weights of step {about['step']}{best})")
    if skipped:
        print(f"{skipped} steps were skipped, for their loss or gradient was not finite")
    print(f"next: scorefield sample {out} -n 64")


def sample(
    where: Path,
    *,
    n: int,
    out: Path | None,
    sampler: str | None,
    steps: int | None,
    seed: int,
    label: int | None,
    guidance: float,
    animate: Path | None,
    batch: int,
    device: str,
    precision: Precision,
) -> None:
    """Draw samples of a run's model, or of any that `save` wrote, into a file."""
    _join()
    model = load(where).to(distributed.local_device(choose_device(device)))
    if model.shape is None or model.prior is None:
        raise ValueError(f"{where} has no prior to start from: save it with ScoreModel(prior=...)")
    pictures = len(model.shape) == 3
    table = Table.read(where) if (where / TABLE_FILE).exists() else None
    out = out or Path(f"samples.{'png' if pictures else 'npy' if table is None else 'csv'}")
    if out.suffix not in TABLES:
        images.check(out, model.prior.mean[None])
    elif table is None or table.size != model.shape.numel():
        raise ValueError(
            f"{out}: {where} has no {TABLE_FILE} of its rows; write its samples as .npy"
        )
    else:
        images.check_place(out)
    if seed < 0:
        raise ValueError(f"--seed {seed}: give a whole number of 0 or more")
    if animate == out:
        raise ValueError(f"--animate {animate}: the samples go there, name another file")
    if animate is not None and not pictures:
        raise ValueError(f"--animate {animate}: these samples are no images")
    planned = _planned(where, model, sampler, steps)
    about = _about(where, planned) | {"n": n, "seed": seed, "label": label, "guidance": guidance}
    about["precision"] = precision
    distributed.check_equal(**about)  # and none has written where another still looks
    drawn = chains(model, n, planned, seed=seed, label=label, guidance=guidance, batch=batch)
    evaluations = -(-n // batch) * planned.evaluations
    size = min(n, batch)
    chosen = optimize(model, batch=size, evaluations=evaluations, precision=precision)
    _say(f"computing: {chosen}")
    sheets, each = list[Image](), -(-planned.states // FRAMES)
    own = len(distributed.shard(range(0, n, batch)))
    with (
        _bar(own * planned.states) as bar,
        _writing(out, n, model, table, about) as write,
    ):

        def ends() -> Iterator[Tensor]:
            for i, (_, states) in enumerate(drawn):
                shown = states if i or animate is None else watched(states, each, sheets)
                yield final(counted(shown, bar))

        for x in gather(model, ends(), n, batch):
            write(x)
    if distributed.is_main():
        cost = planned.evaluations
        print(f"wrote {out}: {n} samples by {planned.sampler}, {cost} evaluations each")
        if table is not None and out.suffix == ".npy":
            print("they are standardised: Table.read(RUN).decode(x) makes rows of them")
        if animate is not None:
            disk.write_file(animate, images.animation(sheets, animate.suffix, about))
            print(f"wrote {animate}: {len(sheets)} states of its first {min(n, batch, 64)} samples")


@contextmanager
def _writing(
    out: Path, n: int, model: ScoreModel, table: Table | None, about: dict[str, Any]
) -> Iterator[Callable[[Tensor], None]]:
    """Samples, part by part, in the form that the file's name asks for, and how they were made."""
    assert model.shape is not None
    if not distributed.is_main():
        yield lambda x: None
    elif table is not None and out.suffix in TABLES:
        with disk.write_parts(out) as put:
            header = chain([True], repeat(False))
            yield lambda x: put(table.text(x.cpu(), header=next(header)).encode())
        disk.write_file(out.with_suffix(".json"), json.dumps(about, indent=2).encode())
    else:
        with images.writing(out, n, model.shape, about) as add:
            yield add


def counted(states: Iterable[State], bar: Any) -> Iterator[State]:
    """The same states, each a step of a bar."""
    for state in states:
        bar.update()
        yield state


def watched(states: Iterable[State], each: int, sheets: list[Image]) -> Iterator[State]:
    """The same states; of each so many, and of the last, a grid is kept."""
    state = None
    for state in states:
        if state.step % each == 0:
            sheets.append(images.grid(state.x[:64]))
        yield state
    if state is not None and state.step % each:
        sheets.append(images.grid(state.x[:64]))


def _planned(where: Path, model: ScoreModel, sampler: str | None, steps: int | None) -> Plan:
    """The run's own way of sampling, unless another is asked for."""
    run_of = where if where.is_dir() else where.parent
    run_of = run_of.parent if run_of.name == "checkpoints" else run_of
    if (run_of / "config.json").exists():
        own = config.read(run_of / "config.json").sampling
        if sampler in (None, own.sampler):
            return make_plan(
                model, own.sampler, own.steps if steps is None else steps, **own.options
            )
    return make_plan(model, sampler, steps)


def _about(where: Path, planned: Plan) -> dict[str, Any]:
    """How samples came to be."""
    return {
        "model": str(where),
        "trained": read_stored(where).about,
        "weights": "averaged, if the training averaged them",
        "sampler": planned.sampler,
        "options": planned.options,
        "sigmas": [planned.sigmas[0].item(), planned.sigmas[-1].item(), len(planned.sigmas)],
        "evaluations": planned.evaluations,
        "scorefield": version("scorefield"),
    }


def evaluate(run: Path, out: Path, **options: Any) -> None:
    """Judge a run's model, print the figures, write metrics.json and a page of the report."""
    from .. import evaluate as measures

    _join()

    def told(what: str) -> None:
        if distributed.is_main():
            print(f"   {what}", file=sys.stderr, flush=True)

    found = measures.evaluate(run, **options, cache=measures.cache_folder(), watch=told)
    if not distributed.is_main():
        return
    found.write(out)
    print(found.table())
    for note in found.notes:
        print(f"not measured: {note}")
    if found.memory is not None:
        print(f"\n{found.memory.verdict}")
    print(f"wrote {out / measures.FILE} and {out / 'report.html'}")


def suggest(
    source: str,
    *,
    size: int | None,
    signals: bool,
    budget: int | None,
    sigma_min: float | None,
) -> None:
    """Print the ladder that a data set asks for, with its reasons."""
    given = {} if size is None else {"size": size}
    data = load_data(source, **given, **({"signals": True} if signals else {}))
    x = all_samples(data.train, 5000)
    found = suggested(x, budget=budget, sigma_min=sigma_min)
    shape = " × ".join(map(str, data.train.shape))
    print(f"{data.name}: {len(data.train)} samples of {shape}, {len(x)} of them looked at\n")
    print(found)
    print(
        "\nin Python: annealed_langevin(score, x, geometric("
        f"{found.sigmas[0].item():.4g}, {found.sigmas[-1].item():.4g}, {len(found.sigmas)}), "
        f"steps={found.steps}, epsilon={found.epsilon:.4g})"
    )
