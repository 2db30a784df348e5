"""What a step of training and of sampling costs by each way of computing, and how exact it is.

Ways take turns in one process, products of matrices among them: the faster product is the machine's
peak. A ratio to eager float32 is the median of the turns' ratios. Operations are those of the plain
way, whatever a way saves. Errors are to the same network in float64, on the images that are timed,
at all levels: the relative one of σ·score, and of the parameters' gradients the least cosine, where
the norm is above 1e-3 of the largest, and the largest error over the largest norm. Memory is all
that a network and its steps add to a process of their own: weights, in whatever form a way keeps
them, gradients, the optimiser's moments, and what is between.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scorefield.fast.optimize import Choice, optimize
from scorefield.model import ScoreModel

from .machine import SIZE, products
from .measure import Way, late, peak_memory, ratio, say, seconds, turns
from .networks import NETWORKS, ON_A_GPU, QUICK, STEPS, Network, inputs
from .setting import Setting
from .table import Cell, Table

EAGER = "eager float32"
ROUGHLY = "optimize, to 2 %"
"""In sampling only."""
LONG = 1.0
"""Seconds of a step that is measured in few turns."""


def compiled(model: ScoreModel, train: bool, **settings: Any) -> None:
    """Through torch.compile, with the weights as constants where they are not trained."""
    Choice(**settings).apply(model)
    torch._inductor.config.freezing = not train
    model.net.compile(dynamic=False)  # a step's batch is always the same


WAYS: dict[str, Callable[[ScoreModel, bool], object]] = {
    EAGER: lambda model, train: Choice().apply(model),
    "channels_last": lambda model, train: Choice(channels_last=True).apply(model),
    "bfloat16": lambda model, train: Choice(channels_last=True, autocast=True).apply(model),
    "compiled": compiled,
    "compiled bfloat16": lambda model, train: compiled(
        model, train, channels_last=True, autocast=True
    ),
    "optimize": lambda model, train: optimize(model, train=train),
    ROUGHLY: lambda model, train: optimize(model, train=train, precision="bfloat16"),
}
QUICKLY = (EAGER, "channels_last", "optimize")
"""Ways that take no minute to prepare."""

COLUMNS = {
    "way": "",
    "ms a step": ".1f",
    "ratio": ".2f",
    "GFLOP/s": ".0f",
    "of the peak": ".0%",
    "MiB": ".0f",
    "error of the score": ".1e",
    "1 − cosine": ".1e",
    "error of gradients": ".1e",
}


def run(setting: Setting) -> Iterator[Table]:
    """A table for each network and kind of step."""
    networks = NETWORKS | ON_A_GPU if "cuda" in setting.device else NETWORKS
    for name, network in setting.chosen(QUICK if setting.quick else networks).items():
        for kind in STEPS:
            yield table(setting, name, network, kind)


def table(setting: Setting, name: str, network: Network, kind: str) -> Table:
    """Of one network and one kind of step."""
    torch._dynamo.reset()  # which compiles the same code a few times only, and then no more
    torch.manual_seed(0)
    plain, train = stirred(network.build()).to(setting.device), kind == "training"
    exact = copy.deepcopy(plain).double()
    x, sigma = (t.to(setting.device) for t in inputs(network, network.batch))
    work = operations(STEPS[kind](copy.deepcopy(plain), x, sigma))
    truth = outcome(exact, x.double(), sigma.double(), train)
    names = QUICKLY if setting.quick else tuple(WAYS)
    names = tuple(way for way in names if setting.compile or "compiled" not in way)
    names = tuple(way for way in names if not train or way != ROUGHLY)
    steps, found, failed = dict[str, Way](), dict[str, list[Cell]](), list[str]()
    for way in names:
        model = copy.deepcopy(plain)
        say(f"{name}, {kind}: preparing {way}")
        torch._inductor.config.freezing = False  # but where a way wants it
        try:
            WAYS[way](model, train)
            found[way] = errors(outcome(model, x, sigma, train), truth)
            steps[way] = STEPS[kind](model, x, sigma)
            steps[way]()
        except Exception as error:  # a compiler's own, of any kind; the other ways still stand
            steps.pop(way, None)
            failed.append(f"{way}: not to be had, {str(error).splitlines()[0]}")
    say(f"{name}, {kind}: measuring")
    limits = products(torch.device(setting.device))
    # of long steps a few turns tell as much
    slow = seconds(steps[EAGER]) > LONG
    spent = turns(limits | steps, repeats=min(setting.repeats, 3 if slow else setting.repeats))
    middle = {name: statistics.median(times) for name, times in spent.items()}
    peak = 2 * SIZE**3 / min(middle[name] for name in limits)
    share = work / middle[EAGER] / peak
    rows: list[list[Cell]] = []
    for way in steps:
        speed, gain = work / middle[way], ratio(spent[EAGER], spent[way])
        memory = memory_of(setting, name, kind, way)
        rows.append([way, 1e3 * middle[way], gain, speed / 1e9, speed / peak, memory, *found[way]])
    kinds = "TF32 or float32, the faster" if "cuda" in setting.device else "float32"
    notes = [f"The peak: {peak / 1e9:.0f} GFLOP/s of {kinds}."]
    if "cuda" in setting.device and torch.backends.cudnn.allow_tf32:
        notes.append("Convolutions in float32 are torch's, which round to TF32 on a GPU.")
    if share < network.least:
        less = f"{EAGER} reaches {share:.0%} of it, less than {network.least:.0%}"
        notes.append(f"{less}: the ratios mean little.")
    notes += failed
    return Table(f"{name}, {kind}", COLUMNS, rows, notes)


def stirred(model: ScoreModel) -> ScoreModel:
    """The model, with weights that begin at or near zero drawn anew: they would hide all errors."""
    for parameter in model.parameters():
        if parameter.ndim > 1 and parameter.std() < 1e-3:
            torch.nn.init.xavier_uniform_(parameter)
    return model


def operations(run: Way) -> int:
    """Multiplications and additions of what is called."""
    # the counter does not see those of fused attention
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def memory_of(setting: Setting, name: str, kind: str, way: str) -> float | None:
    """MiB of a network and its steps; compilation has too much of its own to tell."""
    if "compiled" in way:
        return None
    return peak_memory(_steps, setting, name, kind, way)


def _steps(setting: Setting, name: str, kind: str, way: str) -> tuple[Way, Way]:
    """A step of a network that takes next to nothing, and one of that which is measured."""
    torch.set_num_threads(setting.threads)

    def step(network: Network) -> Way:
        model = network.build().to(setting.device)
        WAYS[way](model, kind == "training")
        x, sigma = inputs(network, network.batch)
        return STEPS[kind](model, x.to(setting.device), sigma.to(setting.device))

    (little,) = QUICK.values()
    return late(lambda: step(little)), late(lambda: step((NETWORKS | ON_A_GPU | QUICK)[name]))


# ── Errors ───────────────────────────────────────────────────────────────────────────────────────


class Outcome(NamedTuple):
    """What a network makes of a batch."""

    score: Tensor
    gradients: list[Tensor]


def outcome(model: ScoreModel, x: Tensor, sigma: Tensor, train: bool) -> Outcome:
    """The score, and in training the parameters' gradients."""
    # in the mode of the step, or a compiled network would be compiled once more
    with torch.set_grad_enabled(train):
        y = scaled(model.train(train), x, sigma)
    return Outcome(y.detach(), gradients(model, y) if train else [])


def errors(found: Outcome, truth: Outcome) -> list[Cell]:
    """Of the score, and in training of the gradients."""
    score = ((found.score - truth.score).norm() / truth.score.norm()).item()
    if not truth.gradients:
        return [score, None, None]
    largest = max(each.norm() for each in truth.gradients)
    pairs = list(zip(found.gradients, truth.gradients, strict=True))
    cosines = [
        F.cosine_similarity(a.double().flatten(), b.flatten(), dim=0).item()
        for a, b in pairs
        if b.norm() > 1e-3 * largest
    ]
    return [score, 1 - min(cosines), max(((a - b).norm() / largest).item() for a, b in pairs)]


def scaled(model: ScoreModel, x: Tensor, sigma: Tensor) -> Tensor:
    """σ·score, which is of one size at all levels."""
    score: Tensor = model(x, sigma)
    return score * sigma.view(-1, *[1] * (x.ndim - 1))


def gradients(model: ScoreModel, y: Tensor) -> list[Tensor]:
    """By the parameters, of the product of y with a fixed image."""
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    model.zero_grad()
    (y * weight).sum().backward()  # type: ignore[no-untyped-call]
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]
