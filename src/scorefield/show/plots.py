"""Plots: a density with its score field, clouds of samples, losses, ladders, quality against cost.

Figures are created without pyplot, so that nothing global is set and no window opens. The colours,
by Okabe & Ito (2008), are distinct to the colour-blind.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from torch import Tensor

from ..diagnose import Diagnosis
from ..score import Score

MAX_POINTS = 4000
"""Most points of a scatter plot; more would be one blot."""

ARROWS = 15
"""Arrows along each side of a field."""
MAX_TEXTS = 8
BINS = 60
MAX_LABELS = 40
WORST = 10.0
"""Largest value of a frontier, in the least one; others are off the plot."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")


def as_png(figure: Figure, *, dpi: int = 110) -> bytes:
    """Return a figure as the content of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi, metadata={"Software": None})
    return content.getvalue()


def panels(rows: int, columns: int, *, size: float = 4.2) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure of equal square panels, row by row, with shared axes."""
    figure = _figure(size * columns, size * rows)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    return figure, list(axes.flat)


def charts(columns: int, *, width: float = 5.0, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    """Return a figure of charts side by side, each with its own axes."""
    figure = _figure(width * columns, height)
    return figure, list(figure.subplots(1, columns, squeeze=False).flat)


@torch.no_grad()
def field(
    axes: Axes,
    score: Score,
    sigma: float,
    *,
    limit: float,
    log_prob: Callable[[Tensor, float], Tensor] | None = None,
) -> None:
    """Draw the score of a 2-D distribution on the square |xᵢ| ≤ limit, over its density if given.

    All arrows have the same length, because the score of N(0, 1) is 8 at x = 8 and 0 at its mode.
    Contours contain 50, 90 and 99 % of the mass.
    """
    if log_prob is not None:
        x = lattice(limit, 200)
        density = log_prob(x, sigma).exp()
        side = x[:200, 0]
        falling = density.sort(descending=True).values
        mass = falling.cumsum(0) / falling.sum()
        levels = [falling[int((mass < share).sum())].item() for share in (0.99, 0.9, 0.5)]
        levels.append(falling[0].item() * 1.01)
        shades = ("#EEEEEE", "#DDDDDD", "#C8C8C8")
        axes.contourf(side, side, density.view(200, 200), levels=levels, colors=shades, zorder=0)
    x = lattice(limit * (1 - 1 / ARROWS), ARROWS)
    heading = torch.nn.functional.normalize(score(x, sigma), dim=1)
    style: dict[str, Any] = dict(color="#B0B0B0", pivot="mid", angles="xy", zorder=1)
    axes.quiver(*x.T, *heading.T, **style, scale=1.6 * ARROWS, width=0.0035)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, symmetric=True))
    axes.tick_params(colors="#666666", labelsize=9)
    axes.spines[:].set_color("#BBBBBB")


def scatter(axes: Axes, x: Float[Tensor, "n 2"], kind: Int[Tensor, "n"] | None = None) -> None:
    """Draw the first `MAX_POINTS` samples, coloured by kind."""
    colour = torch.zeros(len(x)) if kind is None else kind % len(COLOURS)
    style: dict[str, Any] = dict(cmap=ListedColormap(COLOURS), s=5, alpha=0.5, linewidths=0)
    style |= {"vmin": -0.5, "vmax": len(COLOURS) - 0.5, "zorder": 2}
    axes.scatter(x[:MAX_POINTS, 0], x[:MAX_POINTS, 1], c=colour[:MAX_POINTS], **style)


def health(diagnosis: Diagnosis) -> Figure:
    """Plot a diagnosis: stability, variance and score error against σ, and the modes."""
    figure = _figure(11, 7.5)
    stable, variance, error, modes = axes = list(figure.subplots(2, 2).flat)
    levels, names = diagnosis.levels, ("widest", "local")
    sigmas = [level.sigma for level in levels]
    for ax in axes:
        ax.set_prop_cycle(color=COLOURS)
    stable.plot(sigmas, [diagnosis.epsilon / level.bound for level in levels], ".-")
    stable.set(title="ε over its bound: stable below 1", yscale="log")
    variance.plot(sigmas, [(v.widest, v.local) for v in levels], ".-", label=names)
    variance.set_prop_cycle(color=COLOURS)
    settled = [(level.widest_settled, level.local_settled) for level in levels]
    variance.plot(sigmas, settled, ":", label=[f"{name}, settled" for name in names])
    variance.set_title("the chain's variance over that of q")
    regions = ("all", "dense half", "middle", "sparse 5 %")
    error.plot(sigmas, [level.errors for level in levels], ".-", label=regions)
    error.set_title("relative score error")
    positive = [e for level in levels for e in level.errors if e > 0]
    if positive:
        error.set(yscale="log", ylim=(min(positive) / 3, max(positive) * 3))
    for ax in axes[:3]:
        ax.set(xscale="log", xlabel="σ")
        ax.invert_xaxis()  # as the chain goes
    for ax in axes[:2]:
        ax.axhline(1, color="#999999", linewidth=1)
    weighed, shares = diagnosis.modes, [mode.share for mode in diagnosis.modes]
    reach = [
        [mode.share - mode.low for mode in weighed],
        [mode.high - mode.share for mode in weighed],
    ]
    modes.errorbar(range(len(weighed)), shares, reach, fmt="o", label="measured")
    modes.plot([mode.weight for mode in weighed], "_", markersize=18, label="true")
    modes.set(title="modes: share with 95 % interval" if weighed else "no modes weighed")
    modes.set_ylim(bottom=0)
    modes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for ax in axes[1:]:
        ax.legend(frameon=False)
    return figure


def losses(
    sigmas: Float[Tensor, "levels"],
    curves: Mapping[str, Float[Tensor, "levels n"]],
    label: str,
    *,
    top: float,
) -> Figure:
    """Plot losses of n samples at each σ: the mean with its 95 % interval, cut off at the top."""
    figure, (axes,) = charts(1, width=9, height=4.2)
    for i, ((name, values), colour) in enumerate(zip(curves.items(), COLOURS, strict=False)):
        mean, reach = values.mean(1), 1.96 * values.std(1) / values.shape[1] ** 0.5
        over = len(curves) - i  # the first above the others
        axes.plot(sigmas, mean, color=colour, marker=".", label=name, zorder=2 + over)
        style: dict[str, Any] = dict(color=colour, alpha=0.2, linewidth=0, zorder=over)
        axes.fill_between(sigmas, mean - reach, mean + reach, **style)
    axes.set(xscale="log", xlabel="σ", ylabel=label, ylim=(0, top))
    axes.legend(frameon=False)
    return figure


def training(
    losses: Mapping[int, float], heldout: Mapping[int, tuple[float, float]], label: str
) -> Figure:
    """Plot the loss of each step, its running mean, and held-out means with standard errors."""
    figure, (axes,) = charts(1, width=9)
    steps, values = list(losses), list(losses.values())
    axes.plot(steps, values, color="#CCCCCC", linewidth=0.7, label="a batch")
    width = max(len(values) // 40, 1)
    total = torch.tensor([0.0, *values], dtype=torch.float64).cumsum(0)
    running = (total[width:] - total[:-width]) / width
    axes.plot(steps[width - 1 :], running, color=COLOURS[0], label=f"running mean, width {width}")
    means, errors = zip(*heldout.values(), strict=True) if heldout else ((), ())
    label_heldout = "held out, averaged weights, with 95 % intervals"
    reach = [1.96 * error for error in errors]
    axes.errorbar(list(heldout), means, reach, fmt="o", color=COLOURS[1], label=label_heldout)
    axes.set(xlabel="step", ylabel=label)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure


def ladders(grids: Mapping[str, Float[Tensor, "_"]]) -> Figure:
    """Plot grids of σ under each other, on a logarithmic axis that falls from left to right."""
    figure, (axes,) = charts(1, width=9, height=0.9 + 0.45 * len(grids))
    for row, (sigmas, colour) in enumerate(zip(grids.values(), COLOURS, strict=False)):
        axes.plot(sigmas, [row] * len(sigmas), "|", color=colour, markersize=16, markeredgewidth=2)
    axes.set_yticks(range(len(grids)), list(grids))
    axes.set(xscale="log", xlabel="σ", ylim=(len(grids) - 0.4, -0.6))
    axes.invert_xaxis()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params("y", length=0)
    return figure


def frontier(
    curves: Mapping[str, Sequence[tuple[float, float, float, float]]],
    label: str,
    across: str,
    *,
    floor: float = math.nan,
) -> Figure:
    """Plot quality against cost: for each name the points (cost, value, low, high).

    The axis ends at `WORST` times the least value, below which samplers differ.
    """
    figure, (axes,) = charts(1, width=9, height=4.6)
    styles = [(colour, line) for line in ("o-", "s--", "^:") for colour in COLOURS]
    for (name, points), (colour, line) in zip(curves.items(), cycle(styles), strict=False):
        cost, value, low, high = zip(*sorted(points), strict=True)
        axes.plot(cost, value, line, color=colour, markersize=5, label=name)
        axes.fill_between(cost, low, high, color=colour, alpha=0.08, linewidth=0)
    if not math.isnan(floor):
        axes.axhline(floor, color="#999999", linewidth=1, linestyle="--", label="real")
    axes.set(xscale="log", yscale="log", xlabel=across, ylabel=label)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    values = [value for points in curves.values() for _, value, _, _ in points]
    least = min(values)
    axes.set_ylim(0.8 * min(least, floor), min(1.2 * max(values), WORST * least))
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def columns(
    tables: Mapping[str, Mapping[str, Sequence[Any]]], categories: Mapping[str, Sequence[str]]
) -> Figure:
    """Plot the distribution of each column in several sets of rows: {column: {set: cells}}.

    Numbers have a histogram, and `categories` their shares: in order if there are few, or the
    `MAX_TEXTS` that are the commonest over all sets.
    """
    across = 4
    figure = _figure(11, 2.2 * math.ceil(len(tables) / across))
    panels = list(figure.subplots(-(-len(tables) // across), across, squeeze=False).flat)
    for axes in panels[len(tables) :]:
        axes.set_axis_off()
    for axes, (name, sets) in zip(panels, tables.items(), strict=False):
        if texts := categories.get(name):
            share = {t: [x.count(t) / len(x) for x in sets.values()] for t in texts}
            if len(texts) > MAX_TEXTS:
                texts = sorted(texts, key=lambda t: -sum(share[t]))[:MAX_TEXTS]
            shares = list(zip(*(share[t] for t in texts), strict=True))
            edges = np.arange(len(texts) + 1) - 0.5
            axes.set_xticks(range(len(texts)), [t[:9] for t in texts], parse_math=False)
            axes.tick_params("x", rotation=45 * (len(texts) > 3))
        else:
            values = np.concatenate(list(sets.values()))
            edges = np.histogram_bin_edges(values, min(20, len(np.unique(values))))
            axes.xaxis.set_major_locator(MaxNLocator(4))
            shares = [(np.histogram(x, edges)[0] / len(x)).tolist() for x in sets.values()]
        for i, (label, heights) in enumerate(zip(sets, shares, strict=True)):
            colour = "#BBBBBB" if i == 0 else COLOURS[(i - 1) % len(COLOURS)]
            axes.stairs(heights, edges, fill=i == 0, color=colour, linewidth=1.5, label=label)
        axes.set_title(name[:30], parse_math=False, fontsize=10)
        axes.tick_params(labelsize=8)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", frameon=False, ncols=len(labels))
    return figure


def histogram(sets: Mapping[str, Sequence[float]], label: str) -> Figure:
    """Plot the distribution of a number in several sets, the first of them filled."""
    figure, (axes,) = charts(1, width=9, height=4.2)
    edges = np.histogram_bin_edges(np.concatenate(list(sets.values())), BINS)
    for i, (name, values) in enumerate(sets.items()):
        colour = COLOURS[(i - 1) % len(COLOURS)] if i else "#BBBBBB"
        shares = np.histogram(values, edges)[0] / len(values)
        axes.stairs(shares, edges, fill=i == 0, color=colour, linewidth=1.5, label=name[:40])
    axes.set(xlabel=label, ylabel="share of the samples")
    axes.legend(frameon=False)
    return figure


def matrices(values: Mapping[str, Float[Tensor, "d d"]], places: Mapping[str, float]) -> Figure:
    """Plot matrices of correlations side by side, with labels at these rows."""
    figure, panels = charts(len(values), width=4.6, height=4.8)
    for axes, (name, matrix) in zip(panels, values.items(), strict=True):
        image = axes.imshow(matrix.numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
        axes.set_title(name, parse_math=False)
        axes.set_yticks([])
        axes.set_xticks([])
    if len(places) <= MAX_LABELS:
        labels = [label[:20] for label in places]
        panels[0].set_yticks(list(places.values()), labels, parse_math=False, fontsize=8)
    figure.colorbar(image, ax=panels, shrink=0.8)
    return figure


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height))
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
    return figure


def lattice(limit: float, points: int) -> Float[Tensor, "cells 2"]:
    """Return the points of a lattice on |xᵢ| ≤ limit, the first coordinate running fastest."""
    side = torch.linspace(-limit, limit, points)
    return torch.cartesian_prod(side, side).flip(1)
