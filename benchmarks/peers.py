"""The same work done by other packages, diffusers and azula: samplers, and U-Nets of equal size.

All take turns in one process. A ratio is a speed over that of ours of the same kind: above 1 the
other package is faster. A package that is not installed is skipped, with a sentence on how to
install it. With a known score, the samples of each sampler are compared with the truth too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor, nn

from scorefield.fast.optimize import optimize
from scorefield.metrics import sliced_wasserstein
from scorefield.model import ScoreModel
from scorefield.oracles import GaussianMixture, Oracle

from . import Setting, packages
from .measure import Task, ratio, turns
from .networks import adam_step, digits, unet
from .packages import CONTENDERS, ENDS, OPTIMIZED, OURS, UNETS, Contender, Function, Size
from .step import operations
from .table import Cell, Table

STEPS, EVALUATIONS = 100, 18
"""Evaluations of a run whose overhead is measured, and of one that samples."""
DRAWS = 4000
"""Samples that are compared with the truth."""
SIZES = {
    "UNet 64, 1×28×28": Size((1, 28, 28), (64, 128, 128), 32),
    "UNet 128, 3×32×32": Size((3, 32, 32), (128, 256, 256), 8),
}
QUICK_SIZES = {"UNet 16, 1×8×8": Size((1, 8, 8), (16, 32), 4)}


def run(setting: Setting) -> Iterator[Table]:
    for title, make in setting.select(contests(setting.quick)).items():
        torch.manual_seed(setting.seed)
        yield make(setting, title)


def contests(quick: bool) -> dict[str, Callable[[Setting, str], Table]]:
    """Return what makes each table, by its title."""
    shapes, sizes = [(128, 2), (32, 1, 28, 28)], SIZES
    nets: dict[str, tuple[Callable[[], ScoreModel], int]] = {
        "digits’ MLP, 1×8×8": (digits, 128),
        "UNet 64, 1×8×8": (unet, 16),
    }
    if quick:
        shapes, sizes, nets = [(8, 2)], QUICK_SIZES, {"digits’ MLP, 1×8×8": (digits, 8)}
    made: dict[str, Callable[[Setting, str], Table]] = {
        f"A step’s overhead, free network, {'×'.join(map(str, shape))}": partial(
            overhead, shape=shape
        )
        for shape in shapes
    }
    for name, size in sizes.items():
        made[f"A step of training, {name}"] = partial(training, size=size)
    for name, (build, n) in nets.items():
        made[f"Samples of one network, {name}"] = partial(one_network, build=build, n=n)
    name, size = next(iter(sizes.items()))
    own = partial(own_networks, size=size._replace(batch=min(size.batch, 8)))
    return made | {f"Samples, each package’s own {name}": own}


class Timed(NamedTuple):
    """Median seconds of a task, and the ratio to that of ours."""

    seconds: float
    ratio: float


def time_all(
    setting: Setting, builders: Mapping[str, Callable[[], Task]], base: Mapping[str, str]
) -> tuple[dict[str, Timed], list[str]]:
    """Time tasks in turns, and return notes on the packages.

    Args:
        setting: how to measure.
        builders: build the tasks; one that fails is left out, with a note.
        base: the task of ours that each is compared with.
    """
    tasks, failures = dict[str, Task](), list[str]()
    for name, build in builders.items():
        try:
            task = build()
            task()
        except Exception as error:  # another version of a package; the others still count
            failures.append(f"{name} could not be run: {str(error).splitlines()[0]}")
        else:
            tasks[name] = task
    times = turns(tasks, repeats=setting.repeats)
    results = {name: Timed(median(t), ratio(times[base[name]], t)) for name, t in times.items()}
    return results, [*packages.notes(), *failures]


def time_samplers(
    setting: Setting, net: nn.Module, x: Tensor, evaluations: int
) -> tuple[list[tuple[Contender, Timed]], list[str]]:
    entries = {
        f"{entry.package} {entry.name}": entry
        for entry in CONTENDERS
        if packages.missing(entry.package) is None
    }
    builders = {
        name: partial(chain_task, entry, net, x, evaluations) for name, entry in entries.items()
    }
    base = {name: f"{OURS} {entry.ours}" for name, entry in entries.items()}
    results, notes = time_all(setting, builders, base)
    return [(entries[name], timed) for name, timed in results.items()], notes


def chain_task(entry: Contender, net: nn.Module, x: Tensor, evaluations: int) -> Task:
    return partial(entry.build(net, evaluations), x)


def overhead(setting: Setting, title: str, shape: tuple[int, ...]) -> Table:
    """Time a step of each sampler where the network is free."""
    answer, x = torch.randn(2, *shape, device=setting.device)
    results, notes = time_samplers(setting, packages.free_network(answer), x, STEPS)
    rows: list[list[Cell]] = []
    for entry, (seconds, gain) in results:
        microseconds = 1e6 * seconds * entry.per_step / STEPS
        rows.append([entry.package, entry.name, entry.per_step, microseconds, gain])
    heads = {"package": "", "sampler": "", "evaluations": "d", "µs a step": ".1f", "ratio": ".2f"}
    about = (
        f"In runs of {STEPS} evaluations, the grid, the preconditioning and all checks among them."
    )
    return Table(title, heads, rows, [about, *notes])


def one_network(setting: Setting, title: str, build: Callable[[], ScoreModel], n: int) -> Table:
    """Count samples per second of one network, and measure how exact they are for a known one."""
    x = ENDS["sigma_max"] * torch.randn(n, 1, 8, 8, device=setting.device)
    net = build().net.to(setting.device).eval()
    results, notes = time_samplers(setting, net, x, EVALUATIONS)
    rows: list[list[Cell]] = [
        [entry.package, entry.name, n / seconds, gain, distance_to_truth(entry)]
        for entry, (seconds, gain) in results
    ]
    heads = {"package": "", "sampler": "", "samples/s": ".0f", "ratio": ".2f", "distance": ".3f"}
    about = (
        f"{EVALUATIONS} evaluations for each sample, {n} at once.",
        "Distance: sliced Wasserstein of samples of a mixture, drawn by its exact score with as "
        f"many evaluations; two exact sets are {distance_to_truth(None):.3f} apart.",
    )
    return Table(title, heads, rows, [*about, *notes])


def exact_network(oracle: Oracle) -> nn.Module:
    """Return EDM's F for σ_d = 1 of a known distribution.

    F = (D − x/(1 + σ²))·√(1 + σ²)/σ at x = u√(1 + σ²), σ = exp(4·cond)
    """

    def f(u: Tensor, cond: Tensor) -> Tensor:
        sigma = (4 * cond.double()).exp()
        level = sigma.view(-1, *[1] * (u.ndim - 1))
        x = u.double() * (1 + level**2).sqrt()
        denoised = x + level**2 * oracle(x, sigma)
        return ((denoised - x / (1 + level**2)) * (1 + level**2).sqrt() / level).to(u.dtype)

    return Function(f)


def mixture() -> GaussianMixture:
    """Three modes in the plane, of different weights."""
    means = torch.tensor([[-2.0, 0.0], [2.0, 1.0], [0.5, -2.0]], dtype=torch.float64)
    return GaussianMixture(means, 0.04, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64))


def distance_to_truth(entry: Contender | None, evaluations: int = EVALUATIONS) -> float:
    """Compare exact samples with those that a sampler draws by the exact score, or with others."""
    oracle, generator = mixture(), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    x, truth = oracle.sample(DRAWS, ENDS["sigma_max"] if entry else 0.0), oracle.sample(DRAWS)
    if entry is not None:
        x = entry.build(exact_network(oracle), evaluations)(x.float())

    def noise(x: Tensor) -> Tensor:
        return torch.randn(x.shape, dtype=x.dtype, generator=generator)

    return sliced_wasserstein(x.double(), truth, order=1, noise=noise)


def time_unets(
    setting: Setting, build: Callable[[str], Task]
) -> tuple[dict[str, Timed], list[str]]:
    names = [name for name, unet in UNETS.items() if packages.missing(unet.package) is None]
    builders = {name: partial(build, name) for name in names}
    return time_all(setting, builders, dict.fromkeys(names, OURS))


def training(setting: Setting, title: str, size: Size) -> Table:
    """Time a step of training of each package's U-Net."""
    x = torch.randn(size.batch, *size.shape, device=setting.device)
    weights, work = dict[str, int](), dict[str, int]()

    def build(name: str) -> Task:
        net = UNETS[name].build(size).to(setting.device)
        weights[name] = sum(p.numel() for p in net.parameters())
        step = adam_step(net, UNETS[name].loss(net, x))
        work[name] = work[OURS] if name == OPTIMIZED else operations(step)  # as if none were saved
        return step

    results, notes = time_unets(setting, build)
    rows: list[list[Cell]] = []
    for name, (seconds, gain) in results.items():
        done, speed = work[name] / work[OURS], work[name] / seconds / 1e9
        rows.append([name, weights[name] / 1e6, done, 1e3 * seconds, gain, speed])
    heads = {"package": "", "M weights": ".2f", "operations": ".3f"}
    heads |= {"ms a step": ".1f", "ratio": ".2f", "GFLOP/s": ".0f"}
    about = (
        f"Batches of {size.batch}, in float32; {work[OURS] / 1e9:.2f} GFLOP a step of ours, of "
        "which others’ operations are multiples."
    )
    return Table(title, heads, rows, [about, *notes])


def own_networks(setting: Setting, title: str, size: Size) -> Table:
    """Count samples per second of each package's U-Net by its own sampler of order 2."""
    x = ENDS["sigma_max"] * torch.randn(size.batch, *size.shape, device=setting.device)
    entries = {(entry.package, entry.name): entry for entry in CONTENDERS}

    def build(name: str) -> Task:
        unet = UNETS[name]
        net = unet.build(size).to(setting.device).eval()
        if name == OPTIMIZED:
            optimize(packages.as_score(net, x.shape[1:]), batch=len(x))
        return chain_task(entries[unet.package, unet.sampler], net, x, EVALUATIONS)

    results, notes = time_unets(setting, build)
    rows: list[list[Cell]] = [
        [name, UNETS[name].sampler, len(x) / seconds, gain]
        for name, (seconds, gain) in results.items()
    ]
    heads = {"package": "", "sampler": "", "samples/s": ".2f", "ratio": ".2f"}
    about = f"{EVALUATIONS} evaluations for each sample, {len(x)} at once, in float32."
    return Table(title, heads, rows, [about, *notes])
