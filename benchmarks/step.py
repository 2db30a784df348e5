"""Time, memory and error of a training step and a sampling step, by each method of computing.

The methods take turns in one process, together with products of matrices, the faster of which is
the machine's peak. A ratio to eager float32 is the median of the turns' ratios. Operations are
those of eager torch, whatever a method saves. Errors are to the same network in float64 on the
images that are timed, at all levels: of σ·score, relative; of the gradients 1 less the least cosine
of a parameter whose norm is above 1e-3 of the largest, and the largest difference over the largest
norm. Memory is all that a network and its steps add to a process of their own: weights,
activations, gradients and Adam's moments.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scorefield.fast.optimize import Choice, optimize
from scorefield.model import ScoreModel
from scorefield.show.progress import progress

from . import Setting
from .measure import Task, peak_memory, ratio, seconds, turns
from .networks import GPU_NETWORKS, NETWORKS, QUICK_NETWORKS, STEPS, Network, make_inputs
from .table import Cell, Table

EAGER = "eager float32"
INEXACT = "optimize, to 2 %"
"""For sampling only."""
LONG_STEP = 1.0
"""Seconds of a step for which three turns are enough."""
PRODUCT_SIZE = 2048
"""Rows and columns of the matrices whose product gives the machine's peak."""


def compile_network(model: ScoreModel, train: bool, **choice: Any) -> None:
    """Apply torch.compile, with the weights as constants where they are not trained."""
    Choice(**choice).apply(model)
    torch._inductor.config.freezing = not train
    model.net.compile(dynamic=False)  # the batch is always the same


METHODS: dict[str, Callable[[ScoreModel, bool], object]] = {
    EAGER: lambda model, train: Choice().apply(model),
    "channels_last": lambda model, train: Choice(channels_last=True).apply(model),
    "bfloat16": lambda model, train: Choice(channels_last=True, autocast=True).apply(model),
    "compiled": compile_network,
    "compiled bfloat16": partial(compile_network, channels_last=True, autocast=True),
    "optimize": lambda model, train: optimize(model, train=train),
    INEXACT: lambda model, train: optimize(model, train=train, precision="bfloat16"),
}
QUICK_METHODS = (EAGER, "channels_last", "optimize")

COLUMNS = {"method": "", "ms a step": ".1f", "ratio": ".2f", "GFLOP/s": ".0f"}
COLUMNS |= {"of the peak": ".0%", "MiB": ".0f", "error of the score": ".1e"}
COLUMNS |= {"1 − cosine": ".1e", "error of gradients": ".1e"}


def run(setting: Setting) -> Iterator[Table]:
    networks = NETWORKS | GPU_NETWORKS if "cuda" in setting.device else NETWORKS
    for name, network in setting.select(QUICK_NETWORKS if setting.quick else networks).items():
        for kind in STEPS:
            yield compare(setting, name, network, kind)


def compare(setting: Setting, name: str, network: Network, kind: str) -> Table:
    """Compare the methods on one network and one kind of step."""
    torch._dynamo.reset()  # it compiles the same code only a few times
    torch.manual_seed(setting.seed)
    plain, train = randomize(network.build()).to(setting.device), kind == "training"
    x, sigma = make_inputs(plain, network.batch)
    truth = outcome(copy.deepcopy(plain).double(), x.double(), sigma.double(), train)
    steps, error, notes = dict[str, Task](), dict[str, list[Cell]](), list[str]()
    names = [
        name
        for name in (QUICK_METHODS if setting.quick else METHODS)
        if (setting.compile or "compiled" not in name) and not (train and name == INEXACT)
    ]
    for method in progress(names, len(names), f"{name}, {kind}"):
        model = copy.deepcopy(plain)
        torch._inductor.config.freezing = False
        try:
            METHODS[method](model, train)
            error[method] = errors(outcome(model, x, sigma, train), truth)
            step = STEPS[kind](model, x, sigma)
            step()
        except Exception as failure:  # a compiler raises anything; the other methods still count
            notes.append(f"{method} is not available: {str(failure).splitlines()[0]}")
        else:
            steps[method] = step
    products = matrix_products(torch.device(setting.device))
    repeats = min(setting.repeats, 3) if seconds(steps[EAGER]) > LONG_STEP else setting.repeats
    times = turns(products | steps, repeats=repeats)
    median = {method: statistics.median(values) for method, values in times.items()}
    peak = 2 * PRODUCT_SIZE**3 / min(median[product] for product in products)
    work = operations(STEPS[kind](copy.deepcopy(plain), x, sigma))
    rows: list[list[Cell]] = []
    for method in steps:
        speed, gain = work / median[method], ratio(times[EAGER], times[method])
        memory = None  # a compiler takes more than the step
        if "compiled" not in method:
            build = partial(build_step, setting.device, kind, method)
            (quick,) = QUICK_NETWORKS.values()
            memory = peak_memory(partial(build, quick), partial(build, network))
        cells = [method, 1e3 * median[method], gain, speed / 1e9, speed / peak, memory]
        rows.append([*cells, *error[method]])
    gpu = "cuda" in setting.device
    if gpu and torch.backends.cudnn.allow_tf32:
        notes.insert(0, "Convolutions in float32 are torch's, which round to TF32 on a GPU.")
    about = f"The peak: {peak / 1e9:.0f} GFLOP/s of {'TF32 or ' * gpu}float32."
    return Table(f"{name}, {kind}", COLUMNS, rows, [about, *notes])


def randomize(model: ScoreModel) -> ScoreModel:
    """Draw weights that start at or near zero again: they would hide all errors."""
    for parameter in model.parameters():
        if parameter.ndim > 1 and parameter.std() < 1e-3:
            torch.nn.init.xavier_uniform_(parameter)
    return model


def operations(task: Task) -> int:
    """Count the multiplications and additions of a task."""
    # the counter does not see those of fused attention
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        task()
    return int(counter.get_total_flops())


def matrix_products(device: torch.device) -> dict[str, Task]:
    """Return products of matrices by each library that torch has."""
    a, b = torch.randn(2, PRODUCT_SIZE, PRODUCT_SIZE, device=device)

    def in_tf32() -> None:
        torch.set_float32_matmul_precision("high")
        a @ b
        torch.set_float32_matmul_precision("highest")

    products: dict[str, Task] = {"product": lambda: a @ b}
    # on some processors `@` reaches half of what the library of the convolutions does
    linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if device.type == "cpu" and torch.backends.mkldnn.enabled and linear is not None:
        products["product, oneDNN"] = lambda: linear(a, b, None, "none", [], "")
    return products | ({"product, TF32": in_tf32} if device.type == "cuda" else {})


def build_step(device: str, kind: str, method: str, network: Network) -> Task:
    model = network.build().to(device)
    METHODS[method](model, kind == "training")
    return STEPS[kind](model, *make_inputs(model, network.batch))


def outcome(model: ScoreModel, x: Tensor, sigma: Tensor, train: bool) -> list[Tensor]:
    """Return σ·score, and in training the gradients of its product with a fixed image."""
    # in the mode of the step, or a compiled network would be compiled once more
    with torch.set_grad_enabled(train):
        y = model.train(train)(x, sigma) * sigma.view(-1, *[1] * (x.ndim - 1))
    if not train:
        return [y]
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    model.zero_grad()
    (y * weight).sum().backward()
    return [y.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def errors(outcome: list[Tensor], truth: list[Tensor]) -> list[Cell]:
    """Return the score's relative error, and in training those of the gradients."""
    (score, exact), *gradients = zip(outcome, truth, strict=True)
    error = ((score - exact).norm() / exact.norm()).item()
    if not gradients:
        return [error, None, None]
    largest = max(b.norm() for _, b in gradients)
    cosines = [
        F.cosine_similarity(a.double().flatten(), b.flatten(), dim=0).item()
        for a, b in gradients
        if b.norm() > 1e-3 * largest
    ]
    return [error, 1 - min(cosines), max(((a - b).norm() / largest).item() for a, b in gradients)]
