"""Log-densities of a data set, and how typical they are among those of held-out data.

    p = 2 min(1 + #{i: hᵢ ≤ ℓ}, 1 + #{i: hᵢ ≥ ℓ})/(n + 1), at most 1

is the p-value of a log-density ℓ among the hᵢ of n held-out samples. It is exact if the sample is
exchangeable with them. Both ends count, because a sample that is denser than the held-out ones is
as foreign as one that is less dense (Nalisnick et al. 2019).
"""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..data import AUGMENTATION, Dataset, Source, Stream, choose_rows, condition_shapes
from ..fast.optimize import optimize
from ..likelihood import bits_per_dim
from ..model import Condition, ScoreModel
from ..noise import seeded
from ..runs.resume import OwnData
from ..show import plots
from ..show.progress import progress
from ..show.text import text_table
from ..values import Dequantisation, describe_classes
from .features import read_labels
from .figure import Interval, in_text, mean_interval
from .fit import cell_likelihood, check_dequantisation, is_eight_bit, model_likelihood
from .other_data import open_like
from .runs import open_run

SIGNIFICANCE = 0.05
"""Level of the p-values that the table counts."""
CALLS = 300
"""Approximate number of evaluations of a log-density."""


class LogDensities(NamedTuple):
    """Log-densities at the model's smallest σ, in nats; those of 8-bit samples are of cells."""

    log_prob: Float[Tensor, "n"]
    error: Float[Tensor, "n"]  # standard error, 0 if the trace is exact, NaN for a single probe
    bits: Float[Tensor, "n"]  # bits per dimension, of the density for samples that are not 8-bit


@dataclass(frozen=True, eq=False)
class DataScores:
    """Scores of samples, and of the held-out ones that they are compared with."""

    name: str
    paths: Sequence[str]  # of images, or the numbers of other samples in their file
    data: LogDensities
    held_out: LogDensities
    p_value: Float[Tensor, "n"]
    auroc: Interval  # chance of being farther from the mean of `held_out` than a held-out sample

    def as_csv(self) -> str:
        """Return a line for each sample."""
        out, data = io.StringIO(), self.data
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["path", "log_prob", "bits_per_dim", "error", "p_value"])
        columns = (data.log_prob, data.bits, data.error, self.p_value)
        for path, *values in zip(self.paths, *(x.tolist() for x in columns), strict=True):
            writer.writerow([path, *("" if math.isnan(v) else f"{v:.6g}" for v in values)])
        return out.getvalue()

    def table(self) -> str:
        """Return the means of both sets, and how well typicality separates them."""
        share = f"{(self.p_value <= SIGNIFICANCE).double().mean():.3g}"
        note, smallest = "", 2 / (1 + len(self.held_out.log_prob))
        if smallest > SIGNIFICANCE:
            share = "–"
            note = f"\nthe smallest possible p is {smallest:.3g}, with so few held-out samples"
        rows, sets = list[list[str]](), {self.name: self.data, "held out": self.held_out}
        for (name, densities), typical in zip(sets.items(), (share, ""), strict=True):
            mean, bits = map(mean_interval, (densities.log_prob, densities.bits))
            numbers = (*in_text(mean), in_text(bits)[0], typical)
            rows.append([name, str(len(densities.log_prob)), *numbers])
        heads = ["", "samples", "log-density, nats", "95 % interval", "bits per dimension"]
        value, ends = in_text(self.auroc)
        return (
            f"{text_table([*heads, f'p ≤ {SIGNIFICANCE}'], rows)}\n\n"
            f"AUROC of the distance from the held-out mean: {value} (95 % interval {ends}); 0.5 "
            f"for data like those held out{note}"
        )

    def as_png(self) -> bytes:
        """Return a histogram of both sets."""
        sets = {"held out": self.held_out.log_prob.tolist(), self.name: self.data.log_prob.tolist()}
        return plots.as_png(plots.histogram(sets, "log-density, nats"))


def score_run(
    directory: str | Path,
    data: OwnData,
    *,
    options: dict[str, Any] | None = None,
    moved: OwnData | None = None,
    device: str = "auto",
    batch: int = 256,
    label: int | str | None = None,
    **settings: Any,
) -> DataScores:
    """Score data by the model of a run, prepared as the run's own: see `score_data`.

    `data` are a source with `options`, a tensor or a `Dataset`; images are scaled to the model's
    size. `moved` is the new place of the run's own data. See `open_run` for `device`.
    """
    model, own, experiment, _ = open_run(directory, data=moved, device=device)
    if label is None and model.classes and model.always_labelled:
        raise ValueError(
            f"{directory}: it was trained with network.label_dropout=0, never without a class: "
            f"give label, one of {describe_classes(model.classes)}"
        )
    if experiment.training.objective == "consistency":
        raise ValueError(
            f"{directory}: a model that is tuned to consistency has no density: name the run that "
            "it was tuned from"
        )
    if own.test is None:
        raise ValueError(f"{own.name} has nothing held out to compare with: train on more samples")
    others = open_like(data, own, experiment, options or {})
    optimize(model, batch=batch, evaluations=CALLS)
    return score_data(model, others, own.test, batch=batch, label=label, **settings)


def score_data(
    model: ScoreModel,
    data: Dataset,
    held_out: Source,
    *,
    n: int | None = None,
    compared: int = 360,
    probes: int = 4,
    seed: int = 0,
    batch: int = 256,
    label: int | str | None = None,
    dequantisation: Dequantisation = "uniform",
    bar: bool = False,
) -> DataScores:
    """Score all samples of data, or a random choice of n, among `compared` held-out ones.

    With a `label`, a name or a number, all are scored under this class and compared with held-out
    samples of it. If the model has conditions besides a class, each sample is scored under its own.

    8-bit samples are rounded to the levels of the held-out ones, and dequantised uniformly or by a
    truncated normal, as by `dequantise`; their log-densities are then those of their cells. In more
    than 16 numbers the divergence is estimated by `probes` random directions for each sample.
    """
    whole, names = data.whole, [name for name in model.condition_shapes if name != AUGMENTATION]
    _check_alike(data, held_out, names)
    check_dequantisation(held_out, dequantisation)
    number = None if label is None else int(model.find_class(label))
    if number is not None:
        same = read_labels(held_out, torch.arange(len(held_out))) == number
        if not same.any():
            raise ValueError(f"label={label!r}: there is no held-out sample of this class")
        held_out = held_out.part(same.nonzero()[:, 0])
    cells: dict[str, Any] = {"levels": held_out.levels, "dequantisation": dequantisation}
    score = partial(_score_rows, model.eval(), probes, names, number, cells)
    sets = whole, held_out
    rows = [choose_rows(source, count) for source, count in zip(sets, (n, compared), strict=True)]
    work = [(k, i, part) for k in (0, 1) for i, part in enumerate(torch.split(rows[k], batch))]
    parts: tuple[list[LogDensities], list[LogDensities]] = [], []
    for k, i, part in progress(work, len(work), "scoring") if bar else work:
        parts[k].append(score(sets[k], part, seeded(seed, first=i * batch, step=k)))
    scores, others = (LogDensities(*map(torch.cat, zip(*part, strict=True))) for part in parts)
    numbers = rows[0] if data.rows is None else torch.cat(data.rows).sort().values[rows[0]]
    mean = others.log_prob.mean()
    return DataScores(
        data.name,
        [data.paths[i] if data.paths else str(i) for i in numbers.tolist()],
        scores,
        others,
        rank_p_values(scores.log_prob, others.log_prob),
        auroc((scores.log_prob - mean).abs(), (others.log_prob - mean).abs()),
    )


def _check_alike(data: Dataset, held_out: Source, names: Sequence[str]) -> None:
    """Refuse samples of another form than the held-out ones, or any without these conditions."""
    whole = data.whole
    if isinstance(data.train, Stream):
        raise ValueError(f"{data.name} is streamed, and has no fixed samples: leave streaming out")
    if whole.shape != held_out.shape:
        own, other = (" × ".join(map(str, source.shape)) for source in (held_out, whole))
        raise ValueError(
            f"{data.name} has samples of {other} numbers, but the model is for {own}: give samples "
            "of that shape, prepared as those that it was trained on"
        )
    if is_eight_bit(held_out) != is_eight_bit(whole):
        fix = "8-bit, but the model is for others: give floats in its units"
        if is_eight_bit(held_out):
            fix = "not 8-bit, but the model is for 8-bit ones: save them as 8-bit images or uint8"
        raise ValueError(f"{data.name} has samples that are {fix}")
    for title, source in ((data.name, whole), ("held_out", held_out)):
        if missing := [name for name in names if name not in condition_shapes(source)]:
            raise ValueError(
                f"{title} has no condition {missing[0]!r:.80}, and the model has a density of "
                "samples given that: name its columns, arrays or folders, as in "
                "--data.options.condition=NAME, or give pairs in Python"
            )


def _score_rows(
    model: ScoreModel,
    probes: int,
    names: Sequence[str],
    label: int | None,
    cells: dict[str, Any],
    source: Source,
    rows: Int[Tensor, "n"],
    noise: Callable[[Tensor], Tensor],
) -> LogDensities:
    """Score some rows of a source under their conditions of these names, and under a class.

    8-bit samples are rounded to the `levels` of the cells first.
    """
    (x, values), levels = source.take(rows), 1
    condition: Condition | None = label
    if names and isinstance(values, Mapping):
        condition = {name: values[name] for name in names}
        condition |= {} if label is None else {"label": label}
    if x.dtype == torch.uint8:
        levels = cells["levels"]
        v = (x.int() * levels // source.levels).to(torch.uint8)
        result = cell_likelihood(model, v, probes, noise, condition, **cells)
    else:
        result = model_likelihood(model, x.float(), probes, noise, condition)
    log_prob, error = result.log_prob.cpu(), result.error.cpu()
    return LogDensities(log_prob, error, bits_per_dim(log_prob, x[0].numel(), levels=levels))


def rank_p_values(x: Float[Tensor, "n"], others: Float[Tensor, "others"]) -> Float[Tensor, "n"]:
    """Return the two-sided p-value of each x by its rank among others."""
    ordered, n = others.sort().values, len(others)
    below = 1 + torch.searchsorted(ordered, x, right=True)
    above = 1 + n - torch.searchsorted(ordered, x)
    return (2 * torch.minimum(below, above) / (n + 1)).clamp(max=1)


def auroc(x: Float[Tensor, "n"], y: Float[Tensor, "m"]) -> Interval:
    """Return P(x > y) + P(x = y)/2 with a 95 % interval, which also holds near 0 and 1.

    It has the values whose own variance, by Hanley & McNeil 1982, allows the one observed (method 5
    of Newcombe 2006).
    """
    ordered, n, m = y.sort().values, len(x), len(y)
    wins = torch.searchsorted(ordered, x) + torch.searchsorted(ordered, x, right=True)
    value = wins.double().mean() / (2 * m)
    grid = torch.cat([torch.linspace(0, 1, 10_001, dtype=torch.float64), value[None]])
    pairs = (grid / (1 + grid) + (1 - grid) / (2 - grid)) * ((n + m) / 2 - 1)
    variance = grid * (1 - grid) * (1 + pairs) / (n * m)
    low, high = grid[(value - grid).square() <= 1.96**2 * variance].aminmax()
    return Interval(value.item(), low.item(), high.item())
