"""Methods of conditioning compared with the exact posterior.

Four distributions whose posterior is known, each measured in two ways:

    gauss2, mix2     in 2 dimensions: a correlated Gaussian, and three Gaussians
    gauss64, mix64   8 × 8 fields with correlation exp(−distance/1.5): a Gaussian, and three
                     patterns with a field of half the standard deviation around each
    mask             x₁ in 2 dimensions, in 64 a quarter: the 2 left columns; without noise
    matrix           one row of normal numbers in 2 dimensions, 4 in 64; with noise of 0.2

and mix2 by two functions, whose posterior is known on a grid:

    radius           ‖x‖, with noise of 0.2
    counts           ‖x‖ by 20 counts a unit, Poisson(20·‖x‖)/20

y comes from a sample of the distribution. Over the coordinates that are not known:

    mean      largest |mean − exact mean|, in exact standard deviations
    std       smallest and largest ratio of the standard deviation to the exact one
    cov       largest |covariance − exact|, in units of its two exact standard deviations
    modes     of a mixture, the largest |mean of p(k | x) − p(k | y)|
    bias      largest error of mean, std and modes
    Stein     the kernel Stein discrepancy of 2,000 samples, by the exact posterior's score: about
              a shift of the mean that is as bad; it needs no samples of the truth

The last columns repeat this for 200 samples of x and y: they count in how many the true x is in the
regions of highest density that hold 50 and 90 % of 99 samples by the method, with Wilson's interval
of 95 %. `from` and `to` of a calibrated method are on both sides of 0.5 and of 0.9.

y of those tables comes from one sample. Tables of "other y" have the errors for y of 12 other
samples, of the linear measurements in 2 dimensions: the median and the largest of each. The last
table has the rank correlation of Stein with the bias, over the methods and the exact samples.

`exact` is what as many exact samples score. Conditional scores go down 32 levels by Heun's method
(18 for mix64); algorithm2 takes 20 steps at each of 16 levels with α = 0.1σ². The other samplers go
down 64 levels, ddrm 32, daps and split_gibbs 128, and pigdm_langevin 32 of its own grid. tds and
particle_filter have twice as many particles as samples, of which every second is kept: filters of
2,000 particles for the errors, of 198, one for each y, for the coverage. algorithm2 and repaint
need a noiseless y. Everything is in float32; seconds are of one processor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from inspect import signature
from itertools import chain, groupby
from statistics import median
from typing import Any

import torch
from torch import Tensor

from scorefield import Gaussian, final, geometric, heun, integrate, karras
from scorefield.diagnose import wilson
from scorefield.inverse import algorithm2
from scorefield.metrics import stein_discrepancy
from scorefield.restore import METHODS, Method

from . import Setting
from .problems import EXACT, Distribution, Problem, problems
from .table import Cell, Table

THREADS = 1
SAMPLES = 50_000
QUICK_SAMPLES = 2_000
DRAWS = 200
QUICK_DRAWS = 20
RANKED = 99
"""Samples among which the truth has a rank; with 99, 50 and 90 % of the 100 ranks are exact."""
STEIN_SAMPLES = 2_000
AT_ONCE = 5_000
FILTER_AT_ONCE = 1_000
"""Samples at once; those of a filter have twice as many particles."""
OTHER_DRAWS = range(4, 16)
OTHER_SAMPLES = 4_000
ERRORS = ("mean", "std, least", "std, most", "cov", "modes", "bias", "Stein")


def run(setting: Setting) -> Iterator[Table]:
    n, draws = (QUICK_SAMPLES, QUICK_DRAWS) if setting.quick else (SAMPLES, DRAWS)
    pairs = {
        f"{problem.name}, {method}": (problem, method)
        for problem in problems()
        for method in (EXACT, *METHODS)
        if problem.allows(method)
    }
    columns = {"method": ""} | dict.fromkeys(ERRORS, ".3f")
    columns |= {"bias": ".0%", "evaluations": ".0f", "CPU s": ".1f"}
    columns |= {
        f"{head}{part}": ".3f" for part in ("50 %", "90 %") for head in ("", "from ", "to ")
    }
    notes = [f"{n} samples each; coverage of {draws} draws."]
    pairs |= {f"other y, {key}": pair for key, pair in pairs.items() if is_repeated(pair[0])}
    chosen, measured = setting.select(pairs), list[Table]()
    for name, keys in groupby(chosen, lambda key: key.rpartition(", ")[0]):
        if name.startswith("other y, "):
            yield compare_other(name, [chosen[key] for key in keys], setting)
        else:
            rows = [measure(*chosen[key], n, draws, setting.seed) for key in keys]
            measured.append(Table(f"Posteriors, {name}", columns, rows, notes))
            yield measured[-1]
    if comparable := [table for table in measured if len(table.rows) > 2]:
        yield stein_agreement(comparable)


def stein_agreement(tables: Sequence[Table]) -> Table:
    """Return the rank correlation of Stein's discrepancy with the bias, for each table and all."""
    pairs = dict[str, list[list[Cell]]]()
    for table in tables:
        places = [[*table.columns].index(name) for name in ("bias", "Stein")]
        own = [[row[place] for place in places] for row in table.rows]
        pairs[table.title.removeprefix("Posteriors, ")] = own
    pairs["all"] = [*chain.from_iterable(pairs.values())]
    rows = [[name, len(own), rank_correlation(torch.tensor(own))] for name, own in pairs.items()]
    columns = {"measurement": "", "samplers": "d", "rank correlation": ".2f"}
    return Table("Posteriors, Stein and bias", columns, rows, ["With the exact samples."])


def rank_correlation(pairs: Tensor) -> float:
    """Return Spearman's rank correlation of pairs of numbers; equal ones have their mean rank."""
    x = pairs.T[:, :, None]
    ranks = (x > x.mT).sum(2) + (x == x.mT).sum(2) / 2
    return torch.corrcoef(ranks)[0, 1].item()


def is_repeated(problem: Problem) -> bool:
    """Return True for the linear measurements in 2 dimensions, which have tables of other y."""
    return problem.name in {"gauss2 mask", "gauss2 matrix", "mix2 mask", "mix2 matrix"}


def compare_other(name: str, pairs: Sequence[tuple[Problem, str]], setting: Setting) -> Table:
    """Return the median and the largest errors of the methods over other y."""
    n = QUICK_SAMPLES if setting.quick else OTHER_SAMPLES
    draws = OTHER_DRAWS[:2] if setting.quick else OTHER_DRAWS
    columns = {"method": ""} | {
        f"{error}, {which}": ".3f"
        for error in ("mean", "std, least", "std, most", "modes")
        for which in ("median", "worst")
    }
    rows = list[list[Cell]]()
    for first, method in pairs:
        every = []
        for draw in draws:
            problem = next(problem for problem in problems(draw) if problem.name == first.name)
            torch.manual_seed(setting.seed)
            x = sampler_of(method)(problem, n)
            every.append(errors(problem, x if method == EXACT else x[:, problem.free]))
        shift, least, most, _, modes, _, _ = zip(*every, strict=True)
        worst = (max(shift), min(least), max(most), max(modes))
        middle = map(median, (shift, least, most, modes))
        rows.append([method, *chain.from_iterable(zip(middle, worst, strict=True))])
    notes = [f"y of {len(draws)} other samples, {n} samples of x each."]
    return Table(f"Posteriors, {name}", columns, rows, notes)


def measure(problem: Problem, method: str, n: int, draws: int, seed: int) -> list[Cell]:
    """Return the row of a method: errors, cost and coverage."""
    torch.manual_seed(seed)
    counted = Counted(problem.prior)
    start = time.process_time()
    sample, at_once = sampler_of(method), size_at_once(method)
    parts = [min(at_once, n - first) for first in range(0, n, at_once)]
    x = torch.cat([sample(problem._replace(prior=counted), part) for part in parts])
    spent = time.process_time() - start
    x = x if method == EXACT else x[:, problem.free]
    row = [method, *errors(problem, x), counted.rows / n, spent]
    if method == EXACT:
        return [*row, *[None] * 6]
    torch.manual_seed(seed)
    hits = coverage(problem, method, draws)
    return row + [share for k in hits for share in (k / draws, *wilson(k, draws))]


class Counted:
    """A distribution that counts the samples of which it returns the score."""

    def __init__(self, distribution: Distribution) -> None:
        self.distribution, self.rows = distribution, 0

    def __call__(self, x: Tensor, sigma: Any) -> Tensor:
        """Return the score of each sample."""
        self.rows += len(x)
        return self.distribution(x, sigma)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.distribution, name)


def coverage(problem: Problem, method: str, draws: int) -> list[int]:
    """Return how many of x are within the 50 % and the 90 % regions of samples given their y."""
    sample, ranks = sampler_of(method), []
    for truth in problem.prior.sample(draws).split(size_at_once(method) // RANKED):
        y = problem.measure(truth)
        rows = y.repeat_interleave(RANKED, 0)
        x = sample(problem._replace(y=rows), len(rows))
        if problem.noiseless:
            x = problem.operator.project(x, rows)
        density = [
            problem.prior.log_prob(x, 0.0) + problem.log_likelihood(x, y)
            for x, y in ((x, rows), (truth, y))
        ]
        above = density[0].view(-1, RANKED) > density[1][:, None]
        ranks.append(above.sum(1))
    rank = torch.cat(ranks)
    return [int((rank < share * (RANKED + 1)).sum()) for share in (0.5, 0.9)]


def by_score(make: Callable[..., Any]) -> Callable[[Problem, int], Tensor]:
    """Return the sampler by a method that makes a conditional score."""

    def sample(problem: Problem, n: int) -> Tensor:
        options = {"sigma_y": problem.sigma_y, "sigma_data": data_deviation(problem.prior)}
        options |= {"peak": problem.peak}
        options = {k: v for k, v in options.items() if k in signature(make).parameters}
        score = make(problem.prior, problem.operator, problem.y, **options)
        sigmas = heun_grid(problem)
        return final(integrate(heun, score, problem.prior.prior.sample(n, sigmas[0]), sigmas))

    return sample


def heun_grid(problem: Problem) -> Tensor:
    levels = 18 if problem.name.startswith("mix64") else 32
    return karras(5 * problem.sigma_max, 0.01, levels)


def data_deviation(prior: Distribution) -> float:
    return float(prior.prior.dense.diagonal().mean().sqrt())


def by_algorithm2(problem: Problem, n: int) -> Tensor:
    sigmas = geometric(problem.sigma_max, 0.02, 16)
    options = {"observed": problem.operator.observed, "y": problem.y, "steps": 20, "epsilon": 4e-5}
    x = problem.prior.prior.sample(n, sigmas[0])
    return final(algorithm2(problem.prior, x, sigmas, **options))


def by_sampler(method: Method) -> Callable[[Problem, int], Tensor]:
    """Return the sampler by a method that is one; of a filter's particles every second is kept."""
    particles = 2 if method.particles else 1

    def sample(problem: Problem, n: int) -> Tensor:
        deviation = data_deviation(problem.prior)
        sigmas = method.grid(problem.sigma_max, 0.02, method.levels, deviation)
        y = problem.y.expand(n, -1).repeat_interleave(particles, 0)
        own = {"sigma_y": problem.sigma_y, "sigma_data": deviation, "peak": problem.peak}
        own = {name: own[name] for name in own if name in signature(method.run).parameters}
        x = problem.prior.prior.sample(particles * n, sigmas[0])
        states = method.run(problem.prior, x, sigmas, operator=problem.operator, y=y, **own)
        return final(states)[::particles]

    return sample


def sampler_of(name: str) -> Callable[[Problem, int], Tensor]:
    """Return the sampler of a problem's posterior by a method of `restore`, or the exact one."""
    if name == EXACT:
        return lambda problem, n: problem.posterior.sample(n)
    method = METHODS[name]
    if method.levels:
        return by_sampler(method)
    return by_algorithm2 if method.run is algorithm2 else by_score(method.run)


def size_at_once(name: str) -> int:
    """Return how many samples of a method are computed at a time."""
    return FILTER_AT_ONCE if name != EXACT and METHODS[name].particles else AT_ONCE


def errors(problem: Problem, x: Tensor) -> list[float]:
    """Return the errors of mean, deviation, covariance and modes, the bias, and Stein's."""
    exact = problem.posterior
    mean, cov, x = exact.prior.mean, exact.prior.dense, x.double()
    deviation = cov.diag().sqrt()
    ratio = x.std(0) / deviation
    least, most = ratio.min().item(), ratio.max().item()
    shift = ((x.mean(0) - mean) / deviation).abs().max().item()
    difference = (x.T.cov().view_as(cov) - cov) / (deviation[:, None] * deviation)
    modes = 0.0
    if not isinstance(exact, Gaussian):
        modes = (exact.responsibilities(x, 0.0).mean(0) - exact.weights).abs().max().item()
    bias = max(shift, 1 - least, most - 1, modes)
    few = x[:STEIN_SAMPLES]
    square = stein_discrepancy(
        few / deviation, exact(few, 0.0) * deviation, scale=len(deviation) ** 0.5
    )
    stein = max(square.value, 0.0) ** 0.5
    return [shift, least, most, difference.abs().max().item(), modes, bias, stein]
