"""Samples of a model as files, for `sample`: of all data, of classes or under conditions."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    label: str | None,
    texts: Sequence[str],
    animate: Path | None,
    seed: int,
    batch: int,
    device: str,
    precision: options.PrecisionName,
    **choices: Any,
) -> None:
    """Write n samples, or n rows with the cells of `texts`, and print how to choose others.

    `choices` are the options of the plan, see `_choose_plan`.
    """
    join_group()
    model, shape, about = files.load_model(run, device)
    table = files.read_table(run)
    condition, cells = read_given(run, model, table, texts)
    size: Any = {"seed": seed, "batch": batch, "condition": condition or None}
    if table is not None and cells:
        place = {"device": device, "precision": precision, "steps": choices.pop("steps")}
        unused: dict[str, Any] = {name: choice or None for name, choice in choices.items()}
        unused |= unused.pop("guidance").arguments() | {"label": label, "animate": animate}
        reason = "--given of a column that is learned samples by restoration"
        options.check_unused(reason, **unused)
        sample_given(run, table, cells, n, out, overwrite, **size, **place)
        return
    decode, shape = open_decoder(run, shape)
    out = files.choose_output(out, run, table, shape, overwrite)
    check_label(run, model, label, others=", or `all`")
    if animate is not None:
        files.check_animation(animate, out, shape)
    plan, classes, notes = _choose_plan(run, model, n, label, condition, device, **choices)
    counts = files.count_classes(model, classes)
    about |= notes | {"n": n, "seed": seed, "precision": precision, "classes": counts}
    about |= {"given": dict(text.split("=", 1) for text in texts)} if texts else {}
    # Wait until every process has looked at the files, before the first one is written.
    distributed.check_equal(**about)
    parts: Iterable[tuple[int, Iterable[State]]] = chains(model, n, plan, label=classes, **size)
    work: Any = {"batch": min(n, batch), "evaluations": -(-n // batch) * plan.evaluations}
    say(f"computing: {optimize(model, *plan.others, **work, precision=precision)}")
    frames = list[Image]()
    if animate is not None:
        parts = files.film(parts, plan.states, frames, decode)
    with files.open_output(out, n, shape, table, about, overwrite) as write:
        cost = _write_batches(model, plan, parts, n, batch, lambda x: write(decode(x)), about)
    say(f"wrote {out}: {_count_in_words(n, plan, counts, cost)}")
    for hint in _hints(model, plan, table, out, label, condition):
        say(hint)
    if animate is not None and distributed.is_main():
        write_file(animate, images.animation(frames, animate.suffix, about))
        say(f"wrote {animate}: {len(frames)} states of the first samples")


def _choose_plan(
    run: Path,
    model: ScoreModel,
    n: int,
    label: str | None,
    condition: dict[str, Tensor],
    device: str,
    *,
    sampler: str | None,
    steps: int | None,
    fit_grid: bool,
    brownian: bool,
    guidance: options.GuidanceOptions,
) -> tuple[Plan, Tensor | None, dict[str, Any]]:
    """Return the plan, the classes of the samples, and what files record about both."""
    own = guidance == options.NO_GUIDANCE
    plan = replace(choose_plan(run, model, sampler, steps, guided=own), brownian=brownian)
    if not own:
        plan = replace(plan, guidance=files.read_guidance(guidance, device))
    elif plan.others:
        guidance = files.describe_guidance(plan.guidance, run / GUIDE_FILE)
    classes = None if label is None else choose_classes(model, label, n, plan.guidance)
    if fit_grid:
        from ..evaluate.plans import fit_plan  # imports much that most samples do not need

        plan = fit_plan(model, plan, classes, condition or None)
    return plan, classes, {
        "weights": "averaged, if the training averaged them",
        "sampler": plan.sampler,
        "options": plan.options,
        "sigmas": [plan.sigmas[0].item(), plan.sigmas[-1].item(), len(plan.sigmas)],
        **{"label": label, "guidance": 1.0} | guidance.arguments(),
        **({"fit_grid": True} if fit_grid else {}),
        **({"brownian": True} if brownian else {}),
    }  # fmt: skip


def _write_batches(
    model: ScoreModel,
    plan: Plan,
    parts: Iterable[tuple[int, Iterable[State]]],
    n: int,
    batch: int,
    write: Callable[[Tensor], None],
    about: dict[str, Any],
) -> Counter[int]:
    """Write the ends of all processes' chains, with progress; return and note the evaluations."""
    counts, cost = defaultdict[int, Counter[int]](Counter), Counter[int]()
    counted = (count_evaluations(chain, counts[first]) for first, chain in parts)
    batches = range(0, n, batch)
    states = len(distributed.shard(batches)) * plan.states
    ends = files.track_chains(counted, states, "sampling")
    for first, x in zip(batches, gather(model, ends, n, batch), strict=True):
        own = counts.pop(first, Counter())  # empty, except in the process of this batch
        own = sum(distributed.all_gather(own), Counter[int]())
        about |= record_evaluations(own)  # for images, which are written singly
        write(x)
        cost += own
    about |= record_evaluations(cost)
    return cost


def _count_in_words(n: int, plan: Plan, counts: Mapping[str, int], cost: Counter[int]) -> str:
    names, noun = [*counts], "evaluation" + "s" * (cost.keys() != {1})
    kind = f" of {repr(names[0]) if len(names) == 1 else f'{len(names)} classes'}" if names else ""
    return f"{quantity(n, 'sample')}{kind} by {plan.name}, {describe_evaluations(cost)} {noun} each"


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
