"""The report of an evaluation; sections that do not apply to the data are left out."""

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from PIL.Image import Image

from ..data import Part, all_samples
from ..disk import write_file
from ..ladder import suggest
from ..runs import config
from ..runs.journal import METRICS_FILE, read_log
from ..runs.track import send_figures
from ..sample import describe_evaluations
from ..samplers import State
from ..show import images, plots
from ..show.machine import in_words, machine
from ..show.report import PageTable, Picture, Section, write_report
from .columns import compare_columns
from .evaluation import Evaluation
from .figure import Figure, in_text, number
from .fit import data_deviation
from .quality import CELLS, FRECHET

REPORT_FILE = "report.html"
"""File in a run's directory with the report of its evaluation."""
GRID_IMAGES = 64


def write_evaluation(evaluation: Evaluation, directory: str | Path) -> None:
    """Write metrics.json and report.html into a directory; earlier ones are replaced.

    If it is that of a run with a tracker, this receives the figures of the comparison too.
    """
    directory = Path(directory)
    write_file(directory / METRICS_FILE, evaluation.as_json().encode())
    pictured = evaluation.data.kind == "images" and evaluation.data.train.shape[0] in (1, 3)
    sections = (
        _samples(evaluation) if pictured else None,
        _quality(evaluation),
        compare_columns(evaluation),
        _chain(evaluation) if pictured else None,
        _cost(evaluation),
        _memorisation(evaluation, pictured),
        _fit(evaluation) if evaluation.losses else None,
        _levels(evaluation),
        _making(evaluation),
    )
    title = f"Evaluation of {evaluation.name}"
    write_report(directory / REPORT_FILE, [s for s in sections if s], title=title)
    send_figures(directory, evaluation.summary())


def _samples(evaluation: Evaluation) -> Section:
    """Show real images and those of each plan side by side."""
    data, source = evaluation.data, evaluation.data.test or evaluation.data.train
    rows = torch.randperm(len(source), generator=torch.Generator().manual_seed(0))[:GRID_IMAGES]
    grids = {f"Real {data.name}.": (all_samples(Part(source, rows)).cpu(), evaluation.reference)}
    for plan in evaluation.plans:
        cost = describe_evaluations(evaluation.samples[plan.name].evaluations)
        note = f"{cost} evaluations of the score per sample. {_sentence(plan.note)}"
        grids[_sentence(plan.name)] = evaluation.samples[plan.name].x[:GRID_IMAGES], note
    text = (
        "One network has learned ∇ₓ log q_σ(x). These are the first samples of each plan, not "
        "selected. Images in the same place of two grids started from the same noise."
    )
    pictures = [
        Picture(images.png(images.grid(x), {}), caption, title, "third")
        for title, (x, caption) in grids.items()
    ]
    return Section("Samples and real data", text, pictures=pictures)


def _quality(evaluation: Evaluation) -> Section:
    """Compare the plans, or list every figure of the only one."""
    notes = "".join(f"\n\nNot measured: {note}." for note in evaluation.notes)
    text = f"{evaluation.caption()} In small type: the 95 % interval.{notes}"
    if len(evaluation.plans) > 1:
        tables: list[PageTable] = [evaluation.comparison()]
        text += "\n\nAll figures are in metrics.json."
    else:
        (plan,) = evaluation.plans
        figures = [f for f in evaluation.of_plan(plan.name) if f.features != CELLS]
        classes = figures[0].plan["classes"] if figures[0].plan else ""
        cost = describe_evaluations(evaluation.samples[plan.name].evaluations)
        text = (
            f"Samples by {plan.name}: {cost} evaluations of the score each, σ from "
            f"{plan.sigmas[0]:.3g} to {plan.sigmas[-1]:.3g} in {len(plan.sigmas)} levels"
            f"{'; classes ' * bool(classes)}{classes}. {text}"
        )
        tables = [_figure_table(figures)]
    if evaluation.shares:
        names = {"real": f"real {evaluation.data.name}"}
        rows = [
            [names.get(name, name), *(f"{100 * share:.1f}" for share in shares)]
            for name, shares in evaluation.shares.items()
        ]
        tables.append((["class, %", *evaluation.data.classes], rows))
    return Section("Quality of the samples", text, tables)


def _figure_table(figures: Sequence[Figure]) -> PageTable:
    """List figures, each with what it was computed from; empty columns are left out."""
    rows = [("", "value", "real", "compared with", "interval by", "warning")]
    for figure in figures:
        of = f" of {figure.features.split(',')[0]}" if figure.features else ""
        name = f"{figure.name}\n{figure.samples} samples{of}"
        # a no-break space and a word joiner keep an interval on one line
        ends = "\n".join(in_text(figure)).replace(" ", "\u00a0").replace("–", "–\u2060")
        real = number(figure.real)
        rows.append((name, ends, real, figure.reference, figure.method, figure.warning))
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    heads, *used = zip(*columns, strict=True)
    return heads, used


def _chain(evaluation: Evaluation) -> Section:
    """Show the first plan's chain from noise to samples."""
    plan = evaluation.plans[0]
    frames = [_frame(state) for state in evaluation.samples[plan.name].states]
    caption = (
        f"{len(frames)} of {plan.states} states. Left: x, its contrast lowered to 1/(1 + 4σ) to "
        "show the noise. Right: the denoised image x + σ²s(x, σ), the mean of the images that x "
        "may come from."
    )
    title = f"{_sentence(plan.name)[:-1]}, from σ = {plan.sigmas[0]:.3g} to 0."
    moving = Picture(images.animation(frames, ".png", {}, seconds=6), caption, title)
    return Section("From noise to samples", pictures=[moving])


def _frame(state: State) -> Image:
    """Show noisy images, an empty column, and their denoised versions."""
    columns = min(8, len(state.x))
    rows = len(state.x) // columns
    grey = 0.5 + (state.x - 0.5) / (1 + 4 * state.sigma)  # noise would be black and white
    noisy, denoised = (
        x[: rows * columns].view(rows, columns, *x.shape[1:]) for x in (grey, state.denoised)
    )
    sheet = torch.cat([noisy, torch.ones_like(noisy[:, :1]), denoised], 1)
    return images.grid(sheet.flatten(0, 1), 2 * columns + 1)


def _cost(evaluation: Evaluation) -> Section | None:
    """Plot the Fréchet distance of all samplers against evaluations and seconds."""
    if not evaluation.frontier:
        return None
    label, first = f"{FRECHET} of {evaluation.features.about.split(',')[0]}", evaluation.frontier[0]
    pictures = []
    for axis, key in (
        ("evaluations of the score per sample", "evaluations"),
        (f"seconds for {first.samples} samples", "seconds"),
    ):
        curves = dict[str, list[tuple[float, float, float, float]]]()
        for figure in evaluation.frontier:
            plan = figure.plan or {}
            point = float(plan[key]), figure.value, figure.low, figure.high
            curves.setdefault(plan["name"], []).append(point)
        plot = plots.frontier(curves, label, axis, floor=first.real)
        caption = f"Against {axis}; bands are 95 % intervals, and the worst are off the plot."
        pictures.append(Picture(plots.as_png(plot), caption, f"{label}."))
    text = f"{first.samples} samples each, compared with {evaluation.reference}."
    return Section("Quality against cost", text, pictures=pictures)


def _memorisation(evaluation: Evaluation, pictured: bool) -> Section:
    """Show the samples nearest to training data, above the images that they are nearest to."""
    title = "Nearest neighbours in the training data"
    if not evaluation.memory:
        return Section(title, "Memorisation was not measured, for the reason given above.")
    text = (
        f"{evaluation.verdict}\n\nA model has memorised if the whole interval of that ratio is "
        "below one half, or if the interval of its share of near copies is above that of held-out "
        "data. A near copy is at most half as far from a training sample as 95 % of held-out data "
        "are. Distances are Euclidean, also to mirror images if the run trained with flips."
    )
    pictures = []
    for name, memory in evaluation.memory.items() if pictured else ():
        pairs = torch.cat([evaluation.samples[name].x[memory.worst], memory.sources])
        apart = ", ".join(f"{distance:.2f}" for distance in memory.distances.tolist())
        count = len(memory.worst)
        caption = (
            f"Above: the {count} of {memory.ratio.samples} samples that are nearest to the "
            "training data. Below: the training images that they are nearest to. Distances, "
            f"relative to the median of held-out data: {apart}."
        )
        png = images.png(images.grid(pairs, count), {})
        pictures.append(Picture(png, caption, _sentence(name), "half"))
    return Section(title, text, pictures=pictures)


def _fit(evaluation: Evaluation) -> Section:
    """Plot the loss at each σ, and the training curve of the run."""
    losses = evaluation.losses
    most = max(values.mean(1).max().item() for values in losses.values())
    label = "denoising loss per number"
    curves = plots.losses(evaluation.sigmas, losses, label, top=min(1.4, 1.1 * most))
    caption = (
        "E‖D(x + σz, σ) − x‖²·(σ² + σ_d²)/(σσ_d)² per number, σ_d = "
        f"{data_deviation(evaluation.model, evaluation.data):.3g}, over "
        f"{next(iter(losses.values())).shape[1]} samples, with the same z for all curves; bands "
        f"are 95 % intervals of the mean. The largest mean is {most:.3g}."
    )
    text = (
        "A model that knows only the mean and the deviation of the data has a loss of about 1 at "
        "each σ; the Gaussian knows their mean and covariance. The gap between held-out and "
        "training data is overfitting. A model that had memorised its training data would fail on "
        "held-out data at small σ."
    )
    own = evaluation.of_plan(None)
    pictures = [Picture(plots.as_png(curves), caption, "Loss at each σ."), *_training(evaluation)]
    tables = [_figure_table(own)] if own else []
    return Section("Fit to held-out data", text, tables, pictures=pictures)


def _training(evaluation: Evaluation) -> Iterator[Picture]:
    """Plot the run's log, if there is one."""
    lines = read_log(evaluation.run) if evaluation.run else []
    size = evaluation.data.train.shape.numel()
    heldout = {
        line["step"]: (line["heldout"] / size, line["heldout_error"] / size)
        for line in lines
        if line.get("heldout") is not None
    }
    lines = lines[:: -(-len(lines) // 20_000) or 1]  # a picture shows no more
    batches = {line["step"]: line["loss"] / size for line in lines if line["loss"] is not None}
    if batches:
        caption = f"{max(batches)} steps; the weights are {evaluation.weights}."
        plot = plots.training(batches, heldout, "loss per number")
        yield Picture(plots.as_png(plot), caption, "Training.")


def _levels(evaluation: Evaluation) -> Section | None:
    """Show the noise levels of each plan, and those that `suggest` computes from the data."""
    try:
        suggestion = suggest(all_samples(evaluation.data.train, 5000))
    except ValueError:  # there is one sample, or all are equal
        return None
    plot = plots.ladders({plan.name: plan.sigmas for plan in evaluation.plans})
    picture = Picture(plots.as_png(plot), "A tick is a level.", "The levels of each plan.")
    text = (
        "Annealed Langevin dynamics goes down a ladder of noise levels. The levels, the number of "
        "steps T at each and the step size ε follow from the data alone, by the rules of Song & "
        "Ermon 2020 (`scorefield suggest`):"
    )
    title = "Noise levels, with reasons"
    return Section(title, text, verbatim=str(suggestion), pictures=[picture])


def _making(evaluation: Evaluation) -> Section:
    """List what is needed to repeat the evaluation."""
    model, data, run = evaluation.model, evaluation.data, evaluation.run
    count, heldout = sum(p.numel() for p in model.net.parameters()), len(data.test or ())
    facts = {
        "data": f"{data.name}: {len(data.train)} to train on, {heldout} held out",
        "network": f"{type(model.net).__name__}, {count:,} weights, {evaluation.weights}",
        "seed": f"{evaluation.seed}, of samples and measurements",
        "machine": in_words(machine(str(model.device or "cpu"))),
        "versions": ", ".join(f"{p} {version(p)}" for p in ("scorefield", "numpy", "scikit-learn")),
    }
    folded = ""
    if run is not None and (run / "config.json").exists():
        experiment, log = config.read(run / "config.json"), read_log(run)
        folded = config.as_json(experiment)
        facts["training"] = f"{experiment.training.steps} steps, seed {experiment.seed}"
        if len(log) > 1:
            seconds = log[-1]["time"] - log[0]["time"]
            facts["training"] += f", {seconds:.0f} seconds from the first to the last"
        facts["again"] = f"scorefield train --config {run}/config.json --out NEW"
    listed = "\n".join(f"{name:9s} {fact}" for name, fact in facts.items())
    return Section("How this was made", verbatim=listed, folded=folded)


def _sentence(text: str) -> str:
    """Add a capital and a full stop."""
    return f"{text[:1].upper()}{text[1:]}." if text else ""
