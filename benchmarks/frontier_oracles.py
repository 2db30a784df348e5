"""Quality against cost: every sampler on three oracles, at equal numbers of score evaluations.

    python benchmarks/frontier_oracles.py [--out frontier_oracles.png] [--n 10000] [--quick]

Quality has two parts, each the mean over two seeds:

    SW ratio      the sliced Wasserstein distance W₁ of n samples to n exact ones, over the mean
                  distance of two exact samples: 1 is indistinguishable, below 1 chance
    weight error  |share − weight| of the mode where it is largest

Cost is the NFE, the number of evaluations of the score, counted as a sampler runs. Each sampler has
as many levels as the NFE allows and ends with the step to σ = 0. The oracles are

    circle        eight modes of std 0.3 on a circle of radius 4, of equal weight
    apart         three modes of std 0.2 in 64 dimensions, of weights 0.7, 0.2 and 0.1
    checkerboard  eight unit squares, each filled uniformly: edges instead of tails

How each is set:

    σ_max         1.5 × the largest distance that `suggest` finds: what is left of the data's shape
                  there is lost in noise, and the Gaussian of its mean and covariance can start
    σ_min         the larger of `suggest`'s and a tenth of a mode's std; the last step, to the
                  denoiser, then makes a Gaussian mode's variance about 1 % too small
    grid          `karras` for what solves the ODE (euler, heun, dpm_solver, and churn, which is
                  Heun's method with noise), `geometric` for what came of ladders (the others)
    churn         S_churn = 10 at all σ, a quarter of the paper's for a network: at the greatest NFE
                  each step goes up by 4 %. No excess of noise either, as an exact score loses none
    annealed_langevin  by `suggest` alone: its own σ and levels, T and ε from the NFE as budget.
                  A dash stands where there are fewer evaluations than levels

Beside the picture, the same numbers are written as JSON. Work is spread over two processes of one
thread each; what comes out does not depend on how it is spread.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from torch import Tensor

from scorefield import (
    SAMPLERS,
    Box,
    GaussianMixture,
    Mixture,
    Suggestion,
    final,
    geometric,
    karras,
    suggest,
)
from scorefield.show.plots import COLOURS

BUDGETS = (10, 20, 50, 100, 200, 500)
QUICK = (10, 50)
SEEDS = (0, 1)
REFERENCES = 10
"""Exact samples that each sample is compared with."""
DRAWS = 32
"""Further ones, that are compared with these as the samplers' are: their mean has SW ratio 1."""
CLOSE = 1.25
"""The SW ratio up to which a sampler counts as exact, as in the tests."""
ODE = ("euler", "heun", "churn", "dpm_solver")
OPTIONS: dict[str, dict[str, Any]] = {
    "churn": {"amount": 10.0, "s_min": 0.0, "s_max": math.inf, "s_noise": 1.0},
}

# ── The oracles, and what of each is made once ───────────────────────────────────────────────────


class Setting(NamedTuple):
    """An oracle, the std of one of its modes, and the σ at which a sample's mode is decided."""

    oracle: GaussianMixture | Mixture[Box]
    std: float
    sigma: float


class Case(NamedTuple):
    """A setting with its grid's ends, and n exact samples several times."""

    setting: Setting
    data: Tensor
    sigma_max: float
    sigma_min: float
    references: list[np.ndarray]
    """Exact samples, as `projections`."""
    floors: np.ndarray
    """How far further exact samples are from them."""


def circle() -> Setting:
    angle = torch.arange(8) * (2 * math.pi / 8)
    means = 4 * torch.stack([angle.cos(), angle.sin()], 1)
    return Setting(GaussianMixture(means, 0.3**2, torch.ones(8)), 0.3, 0.0)


def apart() -> Setting:
    means = 0.7 * torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    return Setting(GaussianMixture(means, 0.2**2, torch.tensor([0.7, 0.2, 0.1])), 0.2, 0.0)


def checkerboard() -> Setting:
    cells = [(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0]
    corners = torch.tensor(cells, dtype=torch.float32) - 2
    # at σ = 0 a sample just outside of all squares would belong to none
    return Setting(Mixture([Box(c, c + 1) for c in corners], torch.ones(8)), 1 / 12**0.5, 0.02)


ORACLES: dict[str, Callable[[], Setting]] = {
    "circle": circle,
    "apart": apart,
    "checkerboard": checkerboard,
}


@lru_cache(maxsize=1)  # an oracle is done with before the next
def case(name: str, n: int) -> Case:
    setting = ORACLES[name]()
    torch.manual_seed(1000)  # of which no sampler's run is a part
    data = setting.oracle.sample(2_000)
    sigmas = suggest(data).sigmas
    references = [projections(setting.oracle.sample(n)) for _ in range(REFERENCES)]
    floors = [distance(setting.oracle.sample(n), references) for _ in range(DRAWS)]
    return Case(
        setting,
        data,
        1.5 * sigmas[0].item(),
        max(sigmas[-1].item(), setting.std / 10),
        references,
        np.array(floors),
    )


# ── The measures ─────────────────────────────────────────────────────────────────────────────────


def projections(x: Tensor) -> np.ndarray:
    """The sample along each of 200 directions, in order."""
    directions = torch.randn(200, x.shape[1], generator=torch.Generator().manual_seed(0))
    directions = directions / directions.norm(dim=1, keepdim=True)
    return np.sort((directions @ x.T).numpy(), axis=1)  # several times faster than torch's


def distance(x: Tensor, references: list[np.ndarray]) -> float:
    """The sliced Wasserstein distance W₁, mean over the references, which are `projections`."""
    lines = projections(x)
    return float(np.mean([np.abs(lines - y).mean() for y in references]))


def weight_error(setting: Setting, x: Tensor) -> float:
    weights = setting.oracle.weights
    modes = setting.oracle.responsibilities(x, setting.sigma).argmax(1)
    shares = torch.bincount(modes, minlength=len(weights)) / len(x)
    return (shares - weights).abs().max().item()


def measure(name: str, n: int, x: Tensor) -> tuple[float, float]:
    """The SW ratio and the weight error; infinite for a chain that ran away."""
    if not x.isfinite().all():
        return math.inf, math.inf
    this = case(name, n)
    ratio = distance(x, this.references) / this.floors.mean()
    return float(ratio), weight_error(this.setting, x)


class Exact(NamedTuple):
    """What exact samples score: the mean, and where 90 % of means over as many seeds are."""

    mean: float
    low: float
    high: float


def exact_levels(name: str, n: int) -> dict[str, Exact]:
    """Of the SW ratio from samples, of the weight error from shares alone."""
    this, chance = case(name, n), np.random.default_rng(0)
    weights = this.setting.oracle.weights.double().numpy()
    shares = chance.multinomial(n, weights / weights.sum(), size=4_000) / n
    draws = {
        "sw_ratio": this.floors / this.floors.mean(),
        "weight_error": np.abs(shares - weights).max(1),
    }
    return {
        measure: Exact(
            float(values.mean()),
            *np.quantile(chance.choice(values, (4_000, len(SEEDS))).mean(1), (0.05, 0.95)).tolist(),
        )
        for measure, values in draws.items()
    }


# ── The runs ─────────────────────────────────────────────────────────────────────────────────────


class Job(NamedTuple):
    """One sampler on one oracle with one seed and one budget."""

    oracle: str
    sampler: str
    budget: int
    seed: int
    n: int


class Outcome(NamedTuple):
    """What became of a job; nothing, where the budget does not reach down the ladder."""

    evaluations: int
    sw_ratio: float
    weight_error: float


def plan(job: Job) -> tuple[Tensor, dict[str, Any]] | None:
    """The σ and the options with which a sampler spends its budget, if there are any."""
    sampler, this = SAMPLERS[job.sampler], case(job.oracle, job.n)
    options = {"denoise": True, **OPTIONS.get(job.sampler, {})}
    if job.sampler == "annealed_langevin":
        if job.budget - 1 < len(suggest(this.data).sigmas):
            return None
        ladder: Suggestion = suggest(this.data, budget=job.budget - 1)  # one is for the last step
        return ladder.sigmas, options | {"steps": ladder.steps, "epsilon": ladder.epsilon}
    levels = 2
    while sampler.evaluations(levels + 1, **options) <= job.budget:
        levels += 1
    grid = karras if job.sampler in ODE else geometric
    return grid(this.sigma_max, this.sigma_min, levels), options


def run(job: Job) -> Outcome | None:
    planned = plan(job)
    if planned is None:
        return None
    sigmas, options = planned
    oracle, evaluations = case(job.oracle, job.n).setting.oracle, 0

    def counted(x: Tensor, sigma: float | Tensor) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        return oracle(x, sigma)

    torch.manual_seed(job.seed)
    start = oracle.prior.sample(job.n, sigmas[0])
    x = final(SAMPLERS[job.sampler].run(counted, start, sigmas, **options))
    if evaluations != SAMPLERS[job.sampler].evaluations(len(sigmas), **options):
        raise RuntimeError(f"{job.sampler} took {evaluations} evaluations, not what it announces")
    return Outcome(evaluations, *measure(job.oracle, job.n, x))


Table = dict[str, list[Outcome | None]]
"""A row for each sampler, an entry for each budget."""


class Result(NamedTuple):
    """All that is known of the samplers on one oracle, and what exact samples score there."""

    oracle: str
    sigma_max: float
    sigma_min: float
    exact: dict[str, Exact]
    table: Table


def tabulate(name: str, budgets: tuple[int, ...], n: int, pool: ProcessPoolExecutor) -> Table:
    jobs = [
        Job(name, sampler, budget, seed, n)
        for budget in sorted(budgets, reverse=True)  # long ones first, so that no process waits
        for sampler in SAMPLERS
        for seed in SEEDS
    ]
    found = dict(zip(jobs, pool.map(run, jobs), strict=True))

    def mean(sampler: str, budget: int) -> Outcome | None:
        runs = [found[Job(name, sampler, budget, seed, n)] for seed in SEEDS]
        done = [r for r in runs if r is not None]
        if not done:
            return None
        return Outcome(done[0].evaluations, *np.mean([r[1:] for r in done], axis=0).tolist())

    return {sampler: [mean(sampler, budget) for budget in budgets] for sampler in SAMPLERS}


# ── Text ─────────────────────────────────────────────────────────────────────────────────────────


def entry(outcome: Outcome | None) -> str:
    if outcome is None:
        return "–"
    digits = 2 if outcome.sw_ratio < 10 else 1 if outcome.sw_ratio < 100 else 0
    return f"{outcome.sw_ratio:.{digits}f} / {outcome.weight_error:.3f}"


def reached(row: list[Outcome | None], budgets: tuple[int, ...]) -> int | None:
    """The least budget from which on a sampler is close; None if it never is."""
    least = None
    for budget, outcome in zip(reversed(budgets), reversed(row), strict=True):
        if outcome is None or outcome.sw_ratio > CLOSE:
            break
        least = budget
    return least


def closing(table: Table, budgets: tuple[int, ...]) -> str:
    least = {sampler: reached(row, budgets) for sampler, row in table.items()}
    groups = []
    for budget in budgets:
        names = [sampler for sampler, found in least.items() if found == budget]
        if names:
            groups.append(f"from NFE {budget}: {', '.join(names)}")
    late = [sampler for sampler, found in least.items() if found is None]
    if late:
        groups.append(f"not at NFE {budgets[-1]}: {', '.join(late)}")
    line = f"SW ratio ≤ {CLOSE} " + "; ".join(groups) + "."
    return textwrap.fill(line, 100, subsequent_indent="  ")


def report(result: Result, budgets: tuple[int, ...]) -> Iterator[str]:
    name, sigma_max, sigma_min, exact, table = result
    ratio, error = exact["sw_ratio"], exact["weight_error"]
    yield (
        f"{name}: σ from {sigma_max:.3g} to {sigma_min:.2g}; exact samples "
        f"{ratio.mean:.2f} / {error.mean:.3f}, "
        f"90 % of them {ratio.low:.2f}–{ratio.high:.2f} / {error.low:.3f}–{error.high:.3f}"
    )
    yield f"{'NFE':19s}" + "".join(f"{budget:>14d}" for budget in budgets)
    for sampler, row in table.items():
        yield f"{sampler:19s}" + "".join(f"{entry(outcome):>14s}" for outcome in row)
    yield closing(table, budgets)


# ── Picture and file ─────────────────────────────────────────────────────────────────────────────


def styles() -> dict[str, dict[str, Any]]:
    """Solid lines on `karras`, dashed on `geometric`; colours may repeat, markers do not."""
    others = [name for name in SAMPLERS if name not in ODE]
    return {
        **{
            name: {"color": colour, "linestyle": "-", "marker": marker}
            for name, colour, marker in zip(ODE, COLOURS, "os^D", strict=False)
        },
        **{
            name: {"color": colour, "linestyle": "--", "marker": marker}
            for name, colour, marker in zip(others, cycle(COLOURS[::-1]), cycle("*PXv<>dp"))
        },
    }


def panel(axes: Axes, result: Result, budgets: tuple[int, ...], measure: str) -> None:
    """One measure against the NFE on one oracle, in grey what exact samples have."""
    mean, low, high = result.exact[measure]
    axes.axhspan(low, high, color="#E4E4E4", linewidth=0, label="90 % of exact samples", zorder=0)
    axes.axhline(mean, color="#999999", linewidth=2.5, label="exact samples, mean", zorder=1)
    for name, style in styles().items():
        done = [outcome for outcome in result.table[name] if outcome is not None]
        axes.plot(
            [outcome.evaluations for outcome in done],
            [getattr(outcome, measure) for outcome in done],
            **style,
            label=name,
            linewidth=1.3,
            markersize=5,
            alpha=0.9,
        )
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(budgets, [str(budget) for budget in budgets])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(color="#EEEEEE")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def draw(results: list[Result], budgets: tuple[int, ...], n: int) -> Figure:
    figure = Figure(figsize=(13, 8.4))
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(results), sharex=True, sharey="row")
    for column, result in enumerate(results):
        for row, measure in enumerate(result.exact):
            panel(axes[row, column], result, budgets, measure)
        axes[0, column].set_title(result.oracle, fontweight="bold")
        axes[1, column].set_xlabel("NFE")
    axes[0, 0].set_ylabel("SW distance to exact samples,\nover that of two exact samples")
    axes[1, 0].set_ylabel("worst mode's |share − weight|")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False)
    figure.suptitle(
        f"Samplers at equal cost: {n:,} samples, mean of {len(SEEDS)} seeds "
        "(solid: Karras' grid, dashed: geometric)"
    )
    return figure


def processor() -> str:
    """The processor's name, which `platform` knows only in part on Linux."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def record(results: list[Result], budgets: tuple[int, ...], n: int) -> dict[str, Any]:
    def plain(outcome: Outcome | None) -> dict[str, float | None] | None:
        if outcome is None:
            return None  # JSON has no infinity
        return {k: v if math.isfinite(v) else None for k, v in outcome._asdict().items()}

    return {
        "torch": torch.__version__,
        "platform": platform.platform(),
        "processor": processor(),
        "seeds": SEEDS,
        "n": n,
        "budgets": budgets,
        "oracles": {
            result.oracle: {
                "sigma_max": result.sigma_max,
                "sigma_min": result.sigma_min,
                "exact": {k: v._asdict() for k, v in result.exact.items()},
                "samplers": {k: [plain(o) for o in row] for k, row in result.table.items()},
            }
            for result in results
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("frontier_oracles.png"), help="picture")
    parser.add_argument("--n", type=int, help="samples a run (10000; with --quick 2000)")
    parser.add_argument("--quick", action="store_true", help="fewer samples and budgets")
    args = parser.parse_args()
    budgets = QUICK if args.quick else BUDGETS
    n = args.n or (2_000 if args.quick else 10_000)
    if n < 100:
        parser.error(f"--n {n}: give at least 100 samples")
    torch.set_num_threads(1)
    print(f"SW ratio / weight error of {n} samples, mean of {len(SEEDS)} seeds")
    results = []
    with ProcessPoolExecutor(
        min(2, os.cpu_count() or 1),
        mp_context=multiprocessing.get_context("spawn"),  # a fork of torch's threads can hang
        initializer=torch.set_num_threads,
        initargs=(1,),
    ) as pool:
        for name in ORACLES:
            this, table = case(name, n), tabulate(name, budgets, n, pool)
            results.append(
                Result(name, this.sigma_max, this.sigma_min, exact_levels(name, n), table)
            )
            print("", *report(results[-1], budgets), sep="\n", flush=True)
    draw(results, budgets, n).savefig(args.out, dpi=150)
    numbers = args.out.with_suffix(".json")
    numbers.write_text(json.dumps(record(results, budgets, n), indent=1) + "\n")
    print(f"\nwrote {args.out} and {numbers}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
