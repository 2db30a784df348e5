"""The same work through other packages: `diffusers`, and `azula`.

Their samplers and ours are run on one function, and their U-Nets and ours, of as many operations,
are trained and sampled. All take turns in one process; a ratio is the speed over that of ours of
the same kind, so above 1 the other is faster. A package that is not there is named, with how to get
it. What is compared is the same: with a known score, the samples of each are held against the truth
in `scorefield bench peers` itself, and its trajectories against ours in the tests.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from scorefield.fast.optimize import optimize
from scorefield.metrics import sliced_wasserstein
from scorefield.oracles import GaussianMixture, Oracle

from .loops import LOOPS, OURS, SIGMA_MAX, Chain, Free, Loop, Subject, free, network, notes, why_not
from .measure import Way, ratio, turns
from .networks import digits, unet
from .setting import Setting
from .step import operations
from .table import Cell, Table
from .unets import OPTIMIZED, UNETS, Size, Unet, modelled

STEPS = 100
"""Evaluations of a run whose overhead is measured."""
EVALUATIONS = 18
"""Of a run that makes samples."""
DRAWS = 4000
"""Samples that are held against the truth."""

SIZES = {
    "UNet 64, 1×28×28": Size((1, 28, 28), 64, (1, 2, 2), 32),
    "UNet 128, 3×32×32": Size((3, 32, 32), 128, (1, 2, 2), 8),
}
SMALL = {"UNet 16, 1×8×8": Size((1, 8, 8), 16, (1, 2), 4)}
"""Only to see whether it runs."""


def run(setting: Setting) -> Iterator[Table]:
    """A table for each kind of work."""
    for name, make in setting.chosen(small() if setting.quick else work()).items():
        torch.manual_seed(setting.seed)
        yield make(setting, name)


Make = Callable[[Setting, str], Table]


def work() -> dict[str, Make]:
    """What is measured."""
    return {
        "A step’s overhead, free score, 128×2": partial(overhead, shape=(128, 2)),
        "A step’s overhead, free score, 32×1×28×28": partial(overhead, shape=(32, 1, 28, 28)),
        "A step’s overhead, free network, 128×2": partial(overhead, shape=(128, 2), net=True),
        "A step’s overhead, free network, 32×1×28×28": partial(
            overhead, shape=(32, 1, 28, 28), net=True
        ),
        **{f"A step of training, {name}": partial(training, size=SIZES[name]) for name in SIZES},
        "Samples of one network, digits’ MLP, 1×8×8": partial(
            one_network, build=lambda: digits().net, shape=(128, 1, 8, 8)
        ),
        "Samples of one network, UNet 64, 1×8×8": partial(
            one_network, build=lambda: unet().net, shape=(16, 1, 8, 8)
        ),
        "Samples, each package’s own UNet 64, 1×28×28": partial(
            own_networks, size=SIZES["UNet 64, 1×28×28"]._replace(batch=8)
        ),
    }


def small() -> dict[str, Make]:
    """The same in little."""
    ((name, size),) = SMALL.items()
    return {
        "A step’s overhead, free score, 8×2": partial(overhead, shape=(8, 2)),
        "A step’s overhead, free network, 8×2": partial(overhead, shape=(8, 2), net=True),
        f"A step of training, {name}": partial(training, size=size),
        "Samples of one network, digits’ MLP, 1×8×8": partial(
            one_network, build=lambda: digits().net, shape=(8, 1, 8, 8)
        ),
        f"Samples, each package’s own {name}": partial(own_networks, size=size),
    }


# ── What can be run ──────────────────────────────────────────────────────────────────────────────


def prepared(makers: Mapping[str, Callable[[], Way]]) -> tuple[dict[str, Way], list[str]]:
    """The ways that run, each having been called, and why others do not."""
    ways, failed = dict[str, Way](), list[str]()
    for name, make in makers.items():
        try:
            way = make()
            way()
        except Exception as error:  # of another version of a package; the others still stand
            failed.append(f"{name} could not be run, {str(error).splitlines()[0]}")
        else:
            ways[name] = way
    return ways, failed


def loops(bare: bool = False) -> dict[str, Loop]:
    """The samplers of packages that are there; bare, those that take a score."""
    found = [loop for loop in LOOPS if why_not(loop.package) is None]
    return {_named(loop): loop for loop in found if loop.bare or not bare}


def unets() -> dict[str, Unet]:
    """The networks of packages that are there."""
    return {name: each for name, each in UNETS.items() if why_not(each.package) is None}


def _named(loop: Loop) -> str:
    return f"{loop.package} {loop.name}"


# ── Samplers ─────────────────────────────────────────────────────────────────────────────────────


def overhead(setting: Setting, title: str, shape: tuple[int, ...], net: bool = False) -> Table:
    """Of a step of each sampler where the function is free."""
    answer, x = torch.randn(2, *shape, device=setting.device)
    subject = network(Free(answer)) if net else free(answer)
    spent, failed = _timed(setting, subject, x, STEPS, bare=not net)
    rows: list[list[Cell]] = []
    for name, times in spent.items():
        loop = loops()[name]
        each = 1e6 * statistics.median(times) * loop.each / STEPS
        rows.append([loop.package, loop.name, loop.each, each, ratio(_base(spent, loop), times)])
    columns = {
        "package": "",
        "sampler": "",
        "evaluations": "d",
        "µs a step": ".1f",
        "ratio": ".2f",
    }
    said = [f"In runs of {STEPS} evaluations, the grid and all checks among them."]
    if net:
        said.append("The preconditioning is each package’s own; ScoreSdeVeScheduler is given ours.")
    return Table(title, columns, rows, [*said, *notes(), *failed])


def one_network(
    setting: Setting, title: str, build: Callable[[], nn.Module], shape: tuple[int, ...]
) -> Table:
    """Samples a second of each sampler on the same network, and how true it is on a known one."""
    net = build().to(setting.device).eval()
    x = SIGMA_MAX * torch.randn(shape, device=setting.device)
    spent, failed = _timed(setting, network(net), x, EVALUATIONS)
    rows: list[list[Cell]] = []
    for name, times in spent.items():
        loop, speed = loops()[name], len(x) / statistics.median(times)
        gain = ratio(_base(spent, loop), times)
        rows.append([loop.package, loop.name, speed, gain, distance(loop, EVALUATIONS)])
    columns = {"package": "", "sampler": "", "samples/s": ".0f", "ratio": ".2f", "distance": ".3f"}
    said = [
        f"{EVALUATIONS} evaluations for each sample, {len(x)} at once.",
        "Distance: sliced Wasserstein of samples of a mixture, drawn by its exact score with as "
        f"many evaluations; two exact sets are {between_exact():.3f} apart.",
    ]
    return Table(title, columns, rows, [*said, *notes(), *failed])


def _timed(
    setting: Setting, subject: Subject, x: Tensor, evaluations: int, bare: bool = False
) -> tuple[dict[str, list[float]], list[str]]:
    """Seconds of runs of each sampler in turn, and what could not be run."""
    makers = {
        name: partial(_way, loop, subject, x, evaluations) for name, loop in loops(bare).items()
    }
    ways, failed = prepared(makers)
    return turns(ways, repeats=setting.repeats), failed


def _way(loop: Loop, subject: Subject, x: Tensor, evaluations: int) -> Way:
    chain: Chain = loop.build(subject, evaluations)
    return lambda: chain(x)


def _base(spent: Mapping[str, list[float]], loop: Loop) -> list[float]:
    """The times of ours of the same kind."""
    return spent[f"{OURS} {loop.beside}"]


# ── The truth ────────────────────────────────────────────────────────────────────────────────────


class Exact(nn.Module):
    """The network that a known distribution would make: EDM's F, σ_d = 1, from its score."""

    def __init__(self, oracle: Oracle) -> None:
        super().__init__()
        self.oracle = oracle

    def forward(self, u: Tensor, cond: Tensor) -> Tensor:
        """(D − x/(1 + σ²))·√(1 + σ²)/σ at x = u√(1 + σ²), σ = exp(4·cond)."""
        sigma = (4 * cond.double()).exp()
        level = sigma.view(-1, *[1] * (u.ndim - 1))
        x = u.double() * (1 + level**2).sqrt()
        denoised = x + level**2 * self.oracle(x, sigma)
        return ((denoised - x / (1 + level**2)) * (1 + level**2).sqrt() / level).to(u.dtype)


def mixture() -> GaussianMixture:
    """Three modes of the plane, of unlike weight."""
    means = torch.tensor([[-2.0, 0.0], [2.0, 1.0], [0.5, -2.0]], dtype=torch.float64)
    return GaussianMixture(means, 0.04, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64))


def distance(loop: Loop, evaluations: int) -> float:
    """From samples that a sampler draws by an exact score to exact ones."""
    oracle, noise = mixture(), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    start, truth = oracle.sample(DRAWS, SIGMA_MAX).float(), oracle.sample(DRAWS)
    found = loop.build(network(Exact(oracle)), evaluations)(start)
    return sliced_wasserstein(found.double(), truth, order=1, noise=partial(_normal, noise))


def between_exact() -> float:
    """Between two sets of exact samples."""
    oracle, noise = mixture(), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    one, other = oracle.sample(DRAWS), oracle.sample(DRAWS)
    return sliced_wasserstein(one, other, order=1, noise=partial(_normal, noise))


def _normal(generator: torch.Generator, x: Tensor) -> Tensor:
    return torch.randn(x.shape, dtype=x.dtype, generator=generator)


# ── U-Nets ───────────────────────────────────────────────────────────────────────────────────────


TRAINED = {
    "package": "",
    "M weights": ".2f",
    "operations": ".3f",
    "ms a step": ".1f",
    "ratio": ".2f",
    "GFLOP/s": ".0f",
}


def training(setting: Setting, title: str, size: Size) -> Table:
    """A step of training of each package's U-Net."""
    x = torch.randn(size.batch, *size.shape, device=setting.device)
    nets = dict[str, nn.Module]()

    def make(name: str) -> Way:
        nets[name] = UNETS[name].build(size).to(setting.device)
        return UNETS[name].training(nets[name], x)

    ways, failed = prepared({name: partial(make, name) for name in unets()})
    works = {name: operations(ways[name]) for name in ways if name != OPTIMIZED}
    works[OPTIMIZED] = works[OURS]  # as if none were saved
    spent = turns(ways, repeats=setting.repeats)
    rows: list[list[Cell]] = []
    for name, times in spent.items():
        middle, weights = statistics.median(times), sum(p.numel() for p in nets[name].parameters())
        speed, done = works[name] / middle, works[name] / works[OURS]
        gain = ratio(spent[OURS], times)
        rows.append([name, weights / 1e6, done, 1e3 * middle, gain, speed / 1e9])
    said = [
        f"Batches of {size.batch}, in float32; {works[OURS] / 1e9:.2f} GFLOP a step of ours, of "
        "which others’ operations are multiples."
    ]
    return Table(title, TRAINED, rows, [*said, *notes(), *failed])


def own_networks(setting: Setting, title: str, size: Size) -> Table:
    """Samples a second of each package's own U-Net by its own sampler of order 2."""
    x = SIGMA_MAX * torch.randn(size.batch, *size.shape, device=setting.device)
    makers = {name: partial(_own, name, each, size, x) for name, each in unets().items()}
    ways, failed = prepared(makers)
    spent = turns(ways, repeats=setting.repeats)
    rows: list[list[Cell]] = [
        [name, UNETS[name].loop, len(x) / statistics.median(times), ratio(spent[OURS], times)]
        for name, times in spent.items()
    ]
    columns = {"package": "", "sampler": "", "samples/s": ".2f", "ratio": ".2f"}
    said = [f"{EVALUATIONS} evaluations for each sample, {len(x)} at once, in float32."]
    return Table(title, columns, rows, [*said, *notes(), *failed])


def _own(name: str, own: Unet, size: Size, x: Tensor) -> Way:
    net = own.build(size).to(x.device).eval()
    if name == OPTIMIZED:  # in float32, so that nothing of it is the model's own
        optimize(modelled(net, x), batch=len(x))
    (loop,) = (each for each in LOOPS if (each.package, each.name) == (own.package, own.loop))
    return _way(loop, network(net), x, EVALUATIONS)
