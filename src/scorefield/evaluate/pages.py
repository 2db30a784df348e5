"""The page of an evaluation in a run's report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..show import images, plots, report
from ..show.report import Picture, Section, Table, drawn
from .costs import Point
from .figure import Figure, number, shown
from .memory import Memory

if TYPE_CHECKING:
    from . import Evaluation

HEADS = ("", "value", "real", "of", "interval by", "to be taken with care")
SHOWN = 100
"""Samples of a grid."""


def write(path: Path, found: Evaluation) -> None:
    """Add the page, or write it anew."""
    sections = [_quality(found), _memory(found), _fit(found), *_frontier(found.points, found)]
    report.add(path, sections, title=f"Evaluation of {found.subject.name}", part="evaluation")


def table(figures: Sequence[Figure]) -> Table:
    """Figures under each other, each with what it is of, their intervals in small type.

    A column in which nothing would be is left out.
    """
    rows = []
    for figure in figures:
        of = f" of {figure.features.split(',')[0]}" if figure.features else ""
        value, interval = shown(figure)
        real = "" if figure.real is None else number(figure.real)
        name = f"{figure.name}\n{figure.samples} samples{of}"
        # a line may be broken after a dash, but for a word joiner
        ends = f"{value}\n{interval}".replace(" ", "\u00a0").replace("–", "–\u2060")
        rows.append([name, ends, real, figure.reference, figure.method, figure.warning])
    used = [i for i in range(len(HEADS)) if any(row[i] for row in rows)]
    return Table([HEADS[i] for i in used], [[row[i] for i in used] for row in rows])


def _quality(found: Evaluation) -> Section:
    figures = [figure for figure in found.figures if figure.draw is not None]
    (draw, *_) = (figure.draw for figure in figures if figure.draw is not None)
    first, last, count = draw.levels
    notes = "".join(f"\n\nNot measured: {note}." for note in found.notes)
    text = (
        f"Samples by {draw.sampler}, {draw.evaluations} evaluations of the score each, seed "
        f"{draw.seed}, σ from {first:.3g} to {last:.3g} in {count} levels; weights {draw.weights}; "
        f"{'classes ' * bool(draw.classes)}{draw.classes}{'; ' * bool(draw.classes)}"
        f"features: {figures[0].features}. "
        "Real: the same figure of as many real samples of the other split, which is where a "
        "perfect model would be; of the last three, that of the held-out data. In small type: "
        f"where 95 % of other sets of that size would lie.{notes}"
    )
    return Section("Samples", text, [table(figures)], pictures=_grid(found))


def _grid(found: Evaluation) -> list[Picture]:
    if found.samples.ndim != 4 or found.samples.shape[1] not in (1, 3):
        return []
    shown = images.png(images.grid(found.samples[:SHOWN]), {})
    n = min(SHOWN, len(found.samples))
    return [Picture(shown, "The first of them, not chosen.", f"{n} samples.", "half")]


def _memory(found: Evaluation) -> Section:
    title = "Has it learned its training data by heart?"
    known = found.memory
    if known is None:
        return Section(title, "That cannot be told, for the reason given above.")
    text = (
        f"{known.verdict}\n\nA model has memorised if the interval of that ratio is below one half "
        "as a whole, or if there are more near copies than among held-out data, interval above "
        "interval. A near copy is at most half as far from a training sample as 95 % of held-out "
        f"data are at least. Distances are Euclidean{', to the image or its mirror' * known.flips}."
    )
    return Section(title, text, pictures=_pairs(found, known))


def _pairs(found: Evaluation, known: Memory) -> list[Picture]:
    """The worst offenders, each above what it is nearest to."""
    if found.samples.ndim != 4 or found.samples.shape[1] not in (1, 3):
        return []
    pairs = torch.cat([found.samples[known.worst], known.sources.to(found.samples)])
    apart = ", ".join(f"{d / known.usual:.2f}" for d in known.distances.tolist())
    return [
        Picture(
            images.png(images.grid(pairs, len(known.worst)), {}),
            f"Above: samples. Below: the training data that they are nearest to. Distances, where "
            f"those of held-out data are 1 in the median: {apart}.",
            "The nearest of all.",
            "half",
        )
    ]


def _fit(found: Evaluation) -> Section:
    figures = [figure for figure in found.figures if figure.draw is None]
    most = max(values.mean(1).max().item() for values in found.losses.values())
    curve = drawn(
        plots.losses(
            found.sigmas, found.losses, "denoising loss per number", top=min(1.4, 1.1 * most)
        ),
        "Loss at each σ.",
        f"E‖D(x + σz, σ) − x‖²·(σ² + σ_d²)/(σσ_d)² per number at {len(found.sigmas)} levels, σ_d = "
        f"{found.subject.sigma_data:.3g}, the same noise for all curves; bands are 95 % intervals "
        "of the mean.",
    )
    text = (
        "Who knows the mean and the deviation of the data only has a loss of about 1 at each σ. A "
        "gap between held-out and training data is what the model has learned by heart."
    )
    return Section("Fit to data that it has not seen", text, [table(figures)], pictures=[curve])


def _frontier(points: Sequence[Point], found: Evaluation) -> list[Section]:
    if not points:
        return []
    (distance, *_) = (f for f in found.figures if f.name.startswith("Fréchet"))
    names = list(dict.fromkeys(point.sampler for point in points))
    label = f"Fréchet distance of {distance.features.split(',')[0]}"
    pictures = []
    for across, cost in (
        ("evaluations of the score for each sample", lambda p: float(p.evaluations)),
        (f"seconds for {points[0].samples} samples", lambda p: p.seconds),
    ):
        curves = {
            name: [(cost(p), *p.frechet) for p in points if p.sampler == name] for name in names
        }
        figure = plots.frontier(curves, label, across, floor=distance.real)
        pictures.append(drawn(figure, f"{label}.", f"Against {across}; bands are 95 % intervals."))
    lines = [
        f"{p.sampler:20s} {p.evaluations:4d} evaluations {p.seconds:8.2f} s   "
        "{:>8s}  ({} – {})".format(*map(number, p.frechet))
        for p in sorted(points, key=lambda p: p.frechet.value)
    ]
    text = (
        f"{points[0].samples} samples each, against {distance.reference}; features: "
        f"{distance.features}; seed {distance.seed}."
    )
    return [Section("Quality against cost", text, pictures=pictures, folded="\n".join(lines))]
