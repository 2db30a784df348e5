"""The same work done by other packages, diffusers and azula: samplers, and U-Nets of equal size.

All take turns in one process. A ratio is a speed over that of ours of the same kind: above 1 the
other package is faster. A package that is not installed is skipped, with a sentence on how to
install it. `--data IMAGES` instead trains each on the same images for equal time, and judges what
they sample.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from statistics import median
from time import perf_counter

import torch

from scorefield.model import ScoreModel

from . import Setting, packages
from .contest import PEERS, contest
from .measure import Task, ratio, turns
from .networks import adam_step, digits, unet
from .packages import CONTENDERS, ENDS, OPTIMIZED, OURS, UNETS, Size
from .step import operations
from .table import Cell, Table

EVALUATIONS = 18
"""Evaluations of the network for each sample."""
SIZES = {
    "UNet 64, 1×28×28": Size((1, 28, 28), (64, 128, 128), 32),
    "UNet 128, 3×32×32": Size((3, 32, 32), (128, 256, 256), 8),
}
QUICK_SIZES = {"UNet 16, 1×8×8": Size((1, 8, 8), (16, 32), 4)}
NETS = {"digits’ MLP, 1×8×8": (digits, 128), "UNet 64, 1×8×8": (unet, 16)}
"""Networks that are sampled, and the number of samples at once."""
QUICK_NETS = {"digits’ MLP, 1×8×8": (digits, 8)}


def run(setting: Setting) -> Iterator[Table]:
    if setting.data is not None:
        yield contest(setting, PEERS)
        return
    sizes, nets = (QUICK_SIZES, QUICK_NETS) if setting.quick else (SIZES, NETS)
    contests: dict[str, Callable[[Setting, str], Table]] = {
        f"A step of training, {name}": partial(training, size=size) for name, size in sizes.items()
    } | {
        f"Samples of one network, {name}": partial(sampling, build=build, n=n)
        for name, (build, n) in nets.items()
    }
    for title, measure in setting.select(contests).items():
        torch.manual_seed(setting.seed)
        yield measure(setting, title)


def time_all(
    setting: Setting,
    builders: Mapping[str, Callable[[], Task]],
    base: Mapping[str, str],
    clock: Callable[[], float] = perf_counter,
) -> tuple[dict[str, tuple[float, float]], list[str]]:
    """Time tasks in turns; return the median seconds and the ratio of each, and which failed.

    A task that fails is left out. `base` names the task that each is compared with.
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
    times = turns(tasks, repeats=setting.repeats, clock=clock)
    return {name: (median(t), ratio(times[base[name]], t)) for name, t in times.items()}, failures


def sampling(setting: Setting, title: str, build: Callable[[], ScoreModel], n: int) -> Table:
    """Count the samples per second that each sampler draws from one network."""
    x = ENDS["sigma_max"] * torch.randn(n, 1, 8, 8, device=setting.device)
    net = build().net.to(setting.device).eval()
    named = {f"{entry.package} {entry.name}": entry for entry in CONTENDERS}
    entries = packages.available(named)
    builders: dict[str, Callable[[], Task]] = {
        name: lambda entry=entry: partial(entry.build(net, EVALUATIONS), x)
        for name, entry in entries.items()
    }
    base = {name: f"{OURS} {entry.ours}" for name, entry in entries.items()}
    results, failures = time_all(setting, builders, base)
    rows: list[list[Cell]] = [
        [entries[name].package, entries[name].name, n / seconds, gain]
        for name, (seconds, gain) in results.items()
    ]
    heads = {"package": "", "sampler": "", "samples/s": ".0f", "ratio": ".2f"}
    about = f"{EVALUATIONS} evaluations for each sample, {n} at once."
    return Table(title, heads, rows, [about, *packages.notes("diffusers", "azula"), *failures])


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

    names = [*packages.available(UNETS)]
    builders = {name: partial(build, name) for name in names}
    results, failures = time_all(setting, builders, dict.fromkeys(names, OURS))
    rows: list[list[Cell]] = []
    for name, (seconds, gain) in results.items():
        done, speed = work[name] / work[OURS], work[name] / seconds / 1e9
        rows.append([name, weights[name] / 1e6, done, 1e3 * seconds, gain, speed])
    heads = {"package": "", "M weights": ".2f", "operations": ".3f"}
    heads |= {"ms a step": ".1f", "ratio": ".2f", "GFLOP/s": ".0f"}
    about = f"Batches of {size.batch}, in float32. Operations: 1 is {work[OURS] / 1e9:.2f} GFLOP."
    return Table(title, heads, rows, [about, *packages.notes("diffusers", "azula"), *failures])
