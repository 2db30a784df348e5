"""What a sampler costs beside the score, in time a step and in memory.

    python benchmarks/sampler_cost.py [BOUND]

The score is free (it returns a tensor made before), the batch 128 points of the plane, noise and
options the default.

Time is that of a step, the least and the median of interleaved repeats; the least is held against
the bound, 30 µs if not given, for what else runs on a machine can only add to it. Memory is how
much the resident set grows over a run of 30,000 steps after shorter ones.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterable

import psutil
import torch

from scorefield import SAMPLERS, State, geometric, langevin

BOUND = 30.0  # µs a step
STEPS = 500


def samplers(steps: int) -> dict[str, Iterable[State]]:
    x, answer = torch.randn(128, 2), torch.zeros(128, 2)

    def free(x: torch.Tensor, sigma: object) -> torch.Tensor:
        return answer

    ladder = geometric(1.0, 0.01, 10)
    grid = geometric(50.0, 0.01, steps + 1, dtype=torch.float64)
    runs = {"langevin": langevin(free, x, 1.0, alpha=1e-3, steps=steps)}
    for name, sampler in SAMPLERS.items():
        if name == "annealed_langevin":
            runs[name] = sampler.run(free, x, ladder, steps=steps // 10)
        else:
            runs[name] = sampler.run(free, x, grid, denoise=False)
    return runs


def exhaust(states: Iterable[State]) -> float:
    """Microseconds a step."""
    start, count = time.perf_counter(), 0
    for _ in states:
        count += 1
    return (time.perf_counter() - start) / count * 1e6


def main() -> int:
    bound = float(sys.argv[1]) if len(sys.argv) > 1 else BOUND
    torch.set_num_threads(1)
    times: dict[str, list[float]] = {name: [] for name in samplers(STEPS)}
    for _ in range(15):
        for name, states in samplers(STEPS).items():
            times[name].append(exhaust(states))
    print(
        f"{'µs a step':20s} {'least':>8} {'median':>8} {'bound':>6s}   MiB more after 60× the steps"
    )
    failed = False
    for name, runs in times.items():
        before = psutil.Process().memory_info().rss
        exhaust(samplers(60 * STEPS)[name])
        grown = (psutil.Process().memory_info().rss - before) / 2**20
        failed |= min(runs) > bound or grown > 4
        print(
            f"{name:20s} {min(runs):8.1f} {statistics.median(runs):8.1f} {bound:6.0f}   {grown:.2f}"
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
