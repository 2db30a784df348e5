"""Time, memory and error of a training step and a sampling step, by each method of computing.

The methods take turns in one process, together with products of matrices, the faster of which is
the machine's peak. A ratio to eager float32 is the median of the turns' ratios. Operations are
those of eager torch, whatever a method saves. Errors are to the same network in float64 on the
images that are timed, at all levels: of σ·score, relative; of the gradients 1 less the least cosine
of a parameter whose norm is above 1e-3 of the largest, and the largest difference over the largest
norm. Memory is all that a network and its steps add to a process of their own, or to a GPU:
weights, activations, gradients and Adam's moments.
"""

import copy
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scorefield.fast.optimize import Choice, allow_tf32, compile_unavailable_reason, optimize
from scorefield.model import ScoreModel
from scorefield.show.progress import progress

from . import Setting
from .measure import Task, peak_memory, ratio, seconds, turns
from .networks import NETWORKS, QUICK_NETWORKS, STEPS, Network, make_inputs
from .table import Cell, Table

EAGER = "eager float32"
INEXACT = "optimize, to 2 %"
"""For sampling only."""
LONG_STEP = 1.0
"""Seconds of a step for which three turns are enough."""
PRODUCT_SIZE = 2048
"""Rows and columns of the matrices whose product gives the machine's peak, on a GPU four times."""
TRUTH_AT_ONCE = 16
"""Images at once in float64, which takes the most memory."""

Method = Callable[[ScoreModel, bool], Choice]
"""Sets up a network, for training or not."""


def apply(model: ScoreModel, train: bool, **fields: Any) -> Choice:
    (choice := Choice(**fields)).apply(model)
    return choice


def compile_network(model: ScoreModel, train: bool, **fields: Any) -> Choice:
    """Apply torch.compile, with the weights as constants where they are not trained."""
    torch._inductor.config.freezing = not train
    choice = apply(model, train, **fields)
    model.net.compile(dynamic=False)  # the batch is always the same
    return choice


def compile_without_graphs(model: ScoreModel, train: bool, **fields: Any) -> Choice:
    """Compile as `optimize` does on a GPU, and launch the kernels one by one."""
    if reason := compile_unavailable_reason("cuda"):
        raise RuntimeError(reason)
    choice = apply(model, train, **fields)
    Choice.compile_network(model, graphs=False)
    return choice


HALF = {"channels_last": True, "autocast": True}
METHODS: dict[str, Method] = {
    EAGER: apply,
    "channels_last": partial(apply, channels_last=True),
    "bfloat16": partial(apply, **HALF),
    "compiled": compile_network,
    "compiled bfloat16": partial(compile_network, **HALF),
    "optimize": lambda model, train: optimize(model, train=train),
    INEXACT: lambda model, train: optimize(model, train=train, precision="bfloat16"),
}
GPU_METHODS: dict[str, Method] = {
    EAGER: apply,
    "TF32": partial(apply, tf32=True),
    "channels_last": METHODS["channels_last"],
    "bfloat16": METHODS["bfloat16"],
    "compiled bfloat16": partial(compile_without_graphs, **HALF),
    "optimize": METHODS["optimize"],
    INEXACT: METHODS[INEXACT],
}
"""`optimize` replays CUDA graphs, in training and to 2 % in bfloat16, else in float32."""
COMPILED = ("compiled bfloat16", "optimize", INEXACT)
"""Those that compile on a GPU."""
QUICK_METHODS = (EAGER, "TF32", "channels_last", "optimize")

COLUMNS = {"method": "", "ms a step": ".1f", "ratio": ".2f", "GFLOP/s": ".0f"}
COLUMNS |= {"of the peak": ".0%", "MiB": ".0f", "error of the score": ".1e"}
COLUMNS |= {"1 − cosine": ".1e", "error of gradients": ".1e"}


def run(setting: Setting) -> Iterator[Table]:
    for name, network in setting.select(QUICK_NETWORKS if setting.quick else NETWORKS).items():
        for kind in STEPS:
            yield compare(setting, name, network, kind)


def compare(
    setting: Setting,
    name: str,
    network: Network,
    kind: str,
    methods: Mapping[str, Method] = METHODS,
    deadline: float = math.inf,
) -> Table:
    """Compare methods on one network and one kind of step; after the deadline none is compiled."""
    torch._dynamo.reset()  # it compiles the same code only a few times
    gc.collect()
    torch.manual_seed(setting.seed)
    plain, train = randomize(network.build()).to(setting.device), kind == "training"
    x, sigma = make_inputs(plain, network.batch)
    exact = (copy.deepcopy(plain).double(), x.double(), sigma.double())
    truth = outcome(*exact, train, at_once=TRUTH_AT_ONCE)
    steps, error, memory = dict[str, Task](), dict[str, list[Cell]](), dict[str, float | None]()
    notes, gpu = list[str](), setting.device.startswith("cuda")
    names = [
        name
        for name in methods
        if (name in QUICK_METHODS or not setting.quick)
        and (setting.compile or "compiled" not in name)
        and not (train and name == INEXACT)
    ]
    for method in progress(names, len(names), f"{name}, {kind}"):
        torch._inductor.config.freezing = False
        before = reset_gpu_memory() if gpu else 0
        model = copy.deepcopy(plain)
        try:
            if gpu and method in COMPILED and time.monotonic() > deadline:
                raise TimeoutError("there is no time left to compile")
            choice = methods[method](model, train)
            error[method] = errors(outcome(model, x, sigma, train), truth)
            step = in_precision(choice, STEPS[kind](model, x, sigma))
            step()
        except Exception as failure:  # a compiler raises anything; the other methods still count
            notes.append(f"{method} is not available: {str(failure).splitlines()[0]}")
        else:
            steps[method] = step
            memory[method] = (torch.cuda.max_memory_allocated() - before) / 2**20 if gpu else None
    if EAGER not in steps:
        return Table(f"{name}, {kind}", COLUMNS, [], notes)
    size = PRODUCT_SIZE * (4 if gpu else 1)
    products = matrix_products(torch.device(setting.device), size)
    few = gpu or seconds(steps[EAGER]) > LONG_STEP
    repeats = min(setting.repeats, 3) if few else setting.repeats
    times = turns(products | steps, repeats=repeats)
    median = {method: statistics.median(values) for method, values in times.items()}
    peak = 2 * size**3 / min(median[product] for product in products)
    work = operations(STEPS[kind](copy.deepcopy(plain), x, sigma))
    rows: list[list[Cell]] = []
    for method in steps:
        speed, gain = work / median[method], ratio(times[EAGER], times[method])
        if not gpu and "compiled" not in method:  # a compiler takes more than the step
            build = partial(build_step, setting.device, kind, method)
            (quick,) = QUICK_NETWORKS.values()
            memory[method] = peak_memory(partial(build, quick), partial(build, network))
        cells = [method, 1e3 * median[method], gain, speed / 1e9, speed / peak, memory[method]]
        rows.append([*cells, *error[method]])
    about = f"The peak: {peak / 1e9:.0f} GFLOP/s of {'TF32 or ' * gpu}float32."
    return Table(f"{name}, {kind}", COLUMNS, rows, [about, *notes])


def reset_gpu_memory() -> int:
    """Return the bytes that are allocated now, from which a peak is counted."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def in_precision(choice: Choice, step: Task) -> Task:
    """Set whether float32 is TF32 before each step, because methods take turns in one process."""

    def task() -> None:
        if torch.cuda.is_available():
            allow_tf32(choice.tf32)
        step()

    return task


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


def matrix_products(device: torch.device, size: int) -> dict[str, Task]:
    """Return products of matrices by each library that torch has."""
    a, b = torch.randn(2, size, size, device=device)
    products: dict[str, Task] = {"product": in_precision(Choice(), lambda: a @ b)}
    # on some processors `@` reaches half of what the library of the convolutions does
    linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if device.type == "cpu" and torch.backends.mkldnn.enabled and linear is not None:
        products["product, oneDNN"] = lambda: linear(a, b, None, "none", [], "")
    if device.type == "cuda":
        products["product, TF32"] = in_precision(Choice(tf32=True), lambda: a @ b)
    return products


def build_step(device: str, kind: str, method: str, network: Network) -> Task:
    model = network.build().to(device)
    (GPU_METHODS | METHODS)[method](model, kind == "training")
    return STEPS[kind](model, *make_inputs(model, network.batch))


def outcome(
    model: ScoreModel, x: Tensor, sigma: Tensor, train: bool, at_once: int | None = None
) -> list[Tensor]:
    """Return σ·score, and in training the gradients of its product with fixed images."""
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x)
    level, scores = sigma.view(-1, *[1] * (x.ndim - 1)), list[Tensor]()
    model.zero_grad()
    # in the mode of the step, or a compiled network would be compiled once more
    with torch.set_grad_enabled(train):
        parts = (z.split(at_once or len(x)) for z in (x, sigma, level, weight))
        for part, noise_level, factor, images in zip(*parts, strict=True):
            y = model.train(train)(part, noise_level) * factor
            if train:
                (y * images).sum().backward()
            scores.append(y.detach())
    gradients = (p.grad.clone() for p in model.parameters() if p.grad is not None)
    return [torch.cat(scores), *gradients]


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
