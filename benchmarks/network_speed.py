"""How near to the machine's peak the published NCSNs run, eager, in float32.

    python benchmarks/network_speed.py

The peak is that of a product of two 2048 × 2048 matrices in the same run, interleaved with the
networks; times are the least of the repeats, operations those that the profiler counts.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from scorefield import RefineNet

REPEATS = 5
# channels, width, size, batch, and the least share of the peak
NETWORKS = {"1×28×28, 64 wide": (1, 64, 28, 16, 0.50), "3×32×32, 128 wide": (3, 128, 32, 8, 0.65)}


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def operations(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@torch.no_grad()
def main() -> int:
    a, b = torch.randn(2, 2048, 2048)

    def product() -> object:
        return a @ b

    print(f"{'':18}  ms/image  GFLOP/image  GFLOP/s  of the peak  bound")
    missed = 0
    for name, (channels, width, size, batch, bound) in NETWORKS.items():
        net = RefineNet(channels, width, levels=10)
        x, level = torch.rand(batch, channels, size, size), torch.arange(batch) % 10

        def forward(
            net: RefineNet = net, x: torch.Tensor = x, level: torch.Tensor = level
        ) -> object:
            return net(x, level)

        work, peak_work = operations(forward), operations(product)
        times = [(seconds(forward), seconds(product)) for _ in range(REPEATS)]
        best, best_product = (min(column) for column in zip(*times, strict=True))
        share = work / best / (peak_work / best_product)
        missed += share < bound
        print(
            f"{name:18}  {best / batch * 1e3:8.2f}  {work / batch / 1e9:11.2f}  "
            f"{work / best / 1e9:7.0f}  {share:11.0%}  {bound:.0%}"
        )
    return min(missed, 1)


if __name__ == "__main__":
    sys.exit(main())
