"""What a step of training and of sampling costs, by each way of computing, and how exact it is.

    python benchmarks/step_speed.py [--networks NAME ...] [--ways WAY ...] [--json FILE]

Ways take turns in one process, a product of two 2048 × 2048 matrices among them, the machine's
peak. Printed is the median of the turns, and of each turn's ratio to eager float32; operations are
those that the profiler counts of the plain way, whatever a way saves. Errors are to the same
network in float64: the relative one of the score, and of the parameters' gradients the least cosine
(where the norm is above 1e-3 of the largest) and the largest error over the largest norm.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from scorefield import EDM, MLP, NCSN, NCSNv2, RefineNet, ScoreModel, geometric
from scorefield.optimize import Choice, keep_memory, optimize

ENDS: dict[str, Any] = dict(sigma_max=1.0, sigma_min=0.01)


class Network(NamedTuple):
    """What is measured, and on how many samples at once."""

    build: Callable[[], ScoreModel]
    shape: tuple[int, ...]
    batch: int


def ncsn(channels: int, width: int, size: int) -> ScoreModel:
    net = RefineNet(channels, width, levels=10)
    return ScoreModel(net, NCSN(geometric(1.0, 0.01, 10)), shape=(channels, size, size))


def ncsnv2() -> ScoreModel:
    return ScoreModel(RefineNet(3, 128), NCSNv2(**ENDS), shape=(3, 32, 32))


def digits() -> ScoreModel:
    net = MLP((1, 8, 8), width=384, blocks=4)
    return ScoreModel(net, EDM(0.4, **ENDS), shape=(1, 8, 8))


NETWORKS = {
    "ncsn-64 b32": Network(lambda: ncsn(1, 64, 28), (1, 28, 28), 32),
    "ncsn-64 b128": Network(lambda: ncsn(1, 64, 28), (1, 28, 28), 128),
    "ncsn-128 b32": Network(lambda: ncsn(3, 128, 32), (3, 32, 32), 32),
    "ncsnv2-128 b32": Network(ncsnv2, (3, 32, 32), 32),
    "digits-ncsn b128": Network(lambda: ncsn(1, 64, 8), (1, 8, 8), 128),
    "digits b128": Network(digits, (1, 8, 8), 128),
}


def compiled(model: ScoreModel, train: bool) -> None:
    torch._inductor.config.freezing = not train
    model.net.compile()


WAYS: dict[str, Callable[[ScoreModel, bool], Any]] = {
    "eager": lambda model, train: Choice().apply(model),
    "channels_last": lambda model, train: Choice(channels_last=True).apply(model),
    "bfloat16": lambda model, train: Choice(channels_last=True, autocast=True).apply(model),
    "compiled": compiled,
    "winograd": lambda model, train: Choice(winograd=True).apply(model),
    "optimize": lambda model, train: optimize(model, train=train),
}


# ── The steps ────────────────────────────────────────────────────────────────────────────────────


def training(model: ScoreModel, x: Tensor, sigma: Tensor) -> Callable[[], object]:
    """Denoising score matching with Adam."""
    adam = torch.optim.Adam(model.parameters(), lr=1e-6, fused=True)
    each = sigma.view(-1, *[1] * (x.ndim - 1))

    def step() -> None:
        z = torch.randn_like(x)
        adam.zero_grad()
        (0.5 * (each * model(x + each * z, sigma) + z).square()).flatten(1).sum(1).mean().backward()
        adam.step()

    model.train()
    return step


def sampling(model: ScoreModel, x: Tensor, sigma: Tensor) -> Callable[[], object]:
    """A step of Langevin dynamics."""

    @torch.no_grad()
    def step() -> None:
        _ = x + 1e-5 * model(x, sigma) + (2e-5) ** 0.5 * torch.randn_like(x)

    model.eval()
    return step


def inputs(network: Network, batch: int) -> tuple[Tensor, Tensor]:
    return torch.rand(batch, *network.shape), geometric(1.0, 0.01, 10)[torch.arange(batch) % 10]


def seconds(run: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    run()
    return clock() - start


def operations(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


# ── Errors ───────────────────────────────────────────────────────────────────────────────────────


def outcome(model: ScoreModel, x: Tensor, sigma: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The score, each sample's times σ, and the gradients of its product with a fixed image."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(x.shape, generator=generator).to(x)
    model.zero_grad()
    y = model(x, sigma) * sigma.view(-1, *[1] * (x.ndim - 1))
    (y * weight).sum().backward()
    return y.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def errors(model: ScoreModel, exact: ScoreModel, network: Network) -> dict[str, float]:
    x, sigma = inputs(network, 4)
    y, found = outcome(model.eval(), x, sigma)
    truth, expected = outcome(exact.eval(), x.double(), sigma.double())
    largest = max(each.norm() for each in expected)
    pairs = list(zip(found, expected, strict=True))
    cosines = [
        F.cosine_similarity(a.double().flatten(), b.flatten(), dim=0).item()
        for a, b in pairs
        if b.norm() > 1e-3 * largest
    ]
    return {
        "score": ((y - truth).norm() / truth.norm()).item(),
        "cosine": min(cosines),
        "gradient": max(((a - b).norm() / largest).item() for a, b in pairs),
    }


# ── The table ────────────────────────────────────────────────────────────────────────────────────


def measured(
    network: Network, ways: list[str], train: bool, repeats: int, clock: Callable[[], float]
) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    plain = network.build()
    exact = copy.deepcopy(plain).double()
    x, sigma = inputs(network, network.batch)
    made = training if train else sampling
    work = operations(made(copy.deepcopy(plain), x, sigma))
    a, b = torch.randn(2, 2048, 2048)
    steps: dict[str, Callable[[], object]] = {"peak": lambda: a @ b}
    found = {}
    for way in ways:
        model = copy.deepcopy(plain)
        WAYS[way](model, train)
        found[way] = errors(model, exact, network) if train else {}
        steps[way] = made(model, x, sigma)
        steps[way]()
    turns = [
        {way: seconds(step, clock) for way, step in steps.items()} for _ in range(repeats + 1)
    ][1:]
    peak = 2 * 2048**3 / statistics.median(turn["peak"] for turn in turns)
    rows = []
    for way in ways:
        middle = statistics.median(turn[way] for turn in turns)
        ratio = statistics.median(turn[ways[0]] / turn[way] for turn in turns)
        speed = dict(seconds=middle, gflops=work / middle / 1e9, share=work / middle / peak)
        rows.append(dict(way=way, ratio=ratio, **speed, **found[way]))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    told = parser.parse_args()
    kept = keep_memory()
    # beside other programs the time of one thread is told best by its own clock
    alone = torch.get_num_threads() == 1
    clock = time.thread_time if alone else time.perf_counter
    ways = ["eager", *[way for way in told.ways if way != "eager"]]
    about = dict(
        threads=torch.get_num_threads(), processors=os.cpu_count(), torch=torch.__version__
    )
    print(f"{about}, memory kept: {kept}, {'time of the thread' if alone else 'time of the wall'}")
    rows = []
    for name in told.networks:
        for train in (True, False):
            kind = "training" if train else "sampling"
            print(f"\n{name}, {kind}\n{'':14} ms/step  ratio  GFLOP/s  of the peak", end="")
            print("    score   1 - cos  gradient" if train else "")
            for row in measured(NETWORKS[name], ways, train, told.repeats, clock):
                rows.append(dict(network=name, step=kind, **row))
                print(
                    f"{row['way']:14} {1e3 * row['seconds']:7.1f}  {row['ratio']:5.2f}  "
                    f"{row['gflops']:7.0f}  {row['share']:11.0%}",
                    f"  {row['score']:.1e}  {1 - row['cosine']:.1e}  {row['gradient']:.1e}"
                    if train
                    else "",
                    flush=True,
                )
    if told.json is not None:
        told.json.write_text(json.dumps(dict(about=about, rows=rows), indent=2))


if __name__ == "__main__":
    main()
