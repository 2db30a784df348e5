"""Samples of a model as files, for `sample`: of all data, of classes or under conditions."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL.Image import Image
from torch import Tensor

from .. import distributed
from ..data import Table
from ..disk import write_file
from ..fast import optimize
from ..model import ScoreModel
from ..runs.own_plan import GUIDE_FILE, choose_plan, open_decoder
from ..sample import (
    Plan,
    chains,
    choose_classes,
    count_evaluations,
    describe_evaluations,
    gather,
    record_evaluations,
)
from ..samplers import State
from ..show import images
from ..values import describe_classes, quantity
from . import files, options
from .given import check_label, describe_condition, read_given
from .rows import sample_given
from .startup import join_group, say


def write_samples(
    run: Path,
    n: int,
    out: Path | None,
    overwrite: bool,
    *,
    sampler: str | None,
    steps: int | None,
    fit_grid: bool,
    brownian: bool,
    seed: int,
    label: str | None,
    guidance: options.GuidanceOptions,
    texts: Sequence[str],
    animate: Path | None,
    batch: int,
    device: str,
    precision: options.PrecisionName,
) -> None:
    """Write n samples, or n rows with the cells of `texts`, and print how to choose others."""
    join_group()
    model, shape, about = files.load_model(run, device)
    table = files.read_table(run)
    condition, cells = read_given(run, model, table, texts)
    if table is not None and cells:
        options.check_unused(
            "--given of a column that is learned samples by restoration", sampler=sampler,
            fit_grid=fit_grid or None, brownian=brownian or None, label=label, animate=animate,
            **guidance.arguments(),
        )  # fmt: skip
        sample_given(
            run, table, cells, n, out, overwrite, steps=steps, seed=seed, batch=batch,
            device=device, precision=precision, condition=condition or None,
        )  # fmt: skip
        return
    decode, shape = open_decoder(run, shape)
    out = files.choose_output(out, run, table, shape, overwrite)
    check_label(run, model, label, others=", or `all`")
    if animate is not None:
        files.check_animation(animate, out, shape)
    chosen = guidance != options.NO_GUIDANCE
    plan = choose_plan(run, model, sampler, steps, guided=not chosen)
    plan = replace(plan, brownian=brownian)
    if chosen:
        plan = replace(plan, guidance=files.read_guidance(guidance, device))
    elif plan.others:
        guidance = files.describe_guidance(plan.guidance, run / GUIDE_FILE)
    classes = None if label is None else choose_classes(model, label, n, plan.guidance)
    if fit_grid:
        from ..evaluate.plans import fit_plan  # imports much that most samples do not need

        plan = fit_plan(model, plan, classes, condition or None)
    counts = files.count_classes(model, classes)
    about |= {
        "weights": "averaged, if the training averaged them",
        "sampler": plan.sampler,
        "options": plan.options,
        "sigmas": [plan.sigmas[0].item(), plan.sigmas[-1].item(), len(plan.sigmas)],
        **{"n": n, "seed": seed, "label": label, "guidance": 1.0, "precision": precision},
        **guidance.arguments(),
        "classes": counts,
        **({"fit_grid": True} if fit_grid else {}),
        **({"brownian": True} if brownian else {}),
        **({"given": dict(text.split("=", 1) for text in texts)} if texts else {}),
    }
    # Wait until every process has looked at the files, before the first one is written.
    distributed.check_equal(**about)
    parts: Iterable[tuple[int, Iterable[State]]] = chains(
        model, n, plan, seed=seed, label=classes, condition=condition or None, batch=batch
    )
    calls = len(range(0, n, batch)) * plan.evaluations
    size: Any = {"batch": min(n, batch), "evaluations": calls}
    choice = optimize(model, *plan.others, **size, precision=precision)
    say(f"computing: {choice}")
    frames, cost = list[Image](), Counter[int]()
    if animate is not None:
        parts = (
            (first, files.film(states, plan.states, frames, decode) if first == 0 else states)
            for first, states in parts
        )
    with files.open_output(out, n, shape, table, about, overwrite) as write:
        for x, own in _count_batches(model, parts, n, batch, plan.states):
            about |= record_evaluations(own)  # for images, which are written singly
            write(decode(x))
            cost += own
        about |= record_evaluations(cost)
    kind, noun = _describe_classes(counts), "evaluation" + "s" * (cost.keys() != {1})
    cost_each = f"{describe_evaluations(cost)} {noun} each"
    say(f"wrote {out}: {quantity(n, 'sample')}{kind} by {plan.name}, {cost_each}")
    for hint in _hints(model, plan, table, out, label, condition):
        say(hint)
    if animate is not None and distributed.is_main():
        write_file(animate, images.animation(frames, animate.suffix, about))
        say(f"wrote {animate}: {len(frames)} states of the first samples")


def _count_batches(
    model: ScoreModel, parts: Iterable[tuple[int, Iterable[State]]], n: int, batch: int, states: int
) -> Iterator[tuple[Tensor, Counter[int]]]:
    """Yield each batch of all processes, and the evaluations of its samples, with progress.

    `parts` are this process's `chains`, of that many states each.
    """
    counts = defaultdict[int, Counter[int]](Counter)
    counted = (count_evaluations(chain, counts[first]) for first, chain in parts)
    batches = range(0, n, batch)
    ends = files.track_chains(counted, len(distributed.shard(batches)) * states, "sampling")
    for first, x in zip(batches, gather(model, ends, n, batch), strict=True):
        own = counts.pop(first, Counter())  # empty, except in the process of this batch
        yield x, sum(distributed.all_gather(own), Counter[int]())


def _describe_classes(counts: Mapping[str, int]) -> str:
    names = [*counts]
    return f" of {repr(names[0]) if len(names) == 1 else f'{len(names)} classes'}" if names else ""


def _hints(
    model: ScoreModel,
    plan: Plan,
    table: Table | None,
    out: Path,
    label: str | None,
    condition: Mapping[str, Tensor],
) -> Iterator[str]:
    """Yield further choices, and how to read the file."""
    if plan.note:  # the run's own guidance
        yield f"{plan.note}; --guidance 1 samples without that"
    if not condition and (example := describe_condition(model, table)):
        yield f"these are of all conditions: choose one by {example}"
    if label is None and model.classes:
        yield f"--label chooses one of {describe_classes(model.classes)}, or `all`"
    if table is not None and out.suffix == ".npy":
        yield "they are standardised: Table.read(RUN).decode(x) makes rows of them"
