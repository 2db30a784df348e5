"""Figure 3 of the paper in seconds: samplers against a mixture whose score is known.

    python examples/mixture.py [--out mixture.png] [--n 2000] [--seed 0]

    p = 1/5 N((−5, −5), I) + 4/5 N((5, 5), I)        (Song & Ermon 2019, §3.2.2 and §4.3)

Between the modes there is next to no mass, so the score of p does not know their weights, and
plain Langevin dynamics leaves samples in the mode they started near. Noise joins the modes: from
large σ to small, annealed Langevin dynamics and the probability-flow ODE find the weights.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from scorefield import (
    GaussianMixture,
    Score,
    Suggestion,
    annealed_langevin,
    final,
    heun,
    integrate,
    karras,
    langevin,
    suggest,
    uniform_like,
    wilson,
)
from scorefield.show import plots

WEIGHT = 0.2
BUDGET = 1000
"""Evaluations of the score that either Langevin sampler may take; the paper's T."""


@dataclass(frozen=True, eq=False)
class Result:
    """Samples, what they cost, and how many are in the small mode."""

    name: str
    x: Tensor
    kind: Tensor
    """1 in the small mode, 0 in the large."""
    evaluations: int
    seconds: float

    @property
    def weight(self) -> float:
        """The share of the small mode."""
        return self.kind.double().mean().item()

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share, sound for few samples and for none of a kind."""
        return wilson(int(self.kind.sum()), len(self.kind))


def run(out: Path, *, n: int, seed: int) -> None:
    """Sample, print the table, draw the picture."""
    print(f"p = 1/5 N((-5,-5), I) + 4/5 N((5,5), I), its score exact; {n} samples, seed {seed}\n")
    # points in the plane are too little work to share: next to another busy program, threads that
    # wait for each other at each small step were measured to take 50 times as long as one
    torch.set_num_threads(1)
    oracle, ladder, results = compare(n, seed)
    print("annealed Langevin's ladder, suggested from 2000 samples:")
    print("\n".join(f"  {line}" for line in str(ladder).splitlines()))
    print(f"here with {BUDGET // len(ladder.sigmas)} steps a level, as {BUDGET} evaluations allow")
    print(f"\n{'':18} evaluations  seconds  weight of the small mode (true {WEIGHT:.2f})")
    for r in results:
        low, high = r.interval
        verdict = "" if low <= WEIGHT <= high else f"  off by {abs(r.weight - WEIGHT):.2f}"
        print(
            f"{r.name:18} {r.evaluations:11d} {r.seconds:8.2f}"
            f"  {r.weight:.3f}, 95 % in {low:.3f} to {high:.3f}{verdict}"
        )
    draw(oracle, results).savefig(out, dpi=150)
    print("\nWith more steps at each level annealed Langevin comes closer; the ODE does with few.")
    print(f"wrote {out.resolve()}")
    print(f"next: --n {10 * n} for narrower intervals, --seed {seed + 1} for others")


def compare(n: int, seed: int) -> tuple[GaussianMixture, Suggestion, list[Result]]:
    """The mixture, the suggested ladder, and n samples by each sampler."""
    means = torch.tensor([[5.0, 5.0], [-5.0, -5.0]])
    oracle = GaussianMixture(means, 1.0, torch.tensor([1 - WEIGHT, WEIGHT]))
    generator = torch.Generator().manual_seed(seed)

    def noise(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator)

    def uniform() -> Tensor:
        return 16 * uniform_like(torch.empty(n, 2), noise=noise) - 8

    ladder = suggest(oracle.sample(2000, noise=noise))
    grid = karras(ladder.sigmas[0].item(), ladder.sigmas[-1].item(), 32)

    def plain(score: Score) -> Tensor:
        chain = langevin(
            score, uniform(), 0.0, alpha=0.1, steps=BUDGET, convention="paper", noise=noise
        )
        return final(chain)

    def annealed(score: Score) -> Tensor:
        # ε for T = 5: a longer step at each level than `suggest` takes for more of them, so that
        # samples pass between the modes
        steps, epsilon = BUDGET // len(ladder.sigmas), ladder.epsilon
        chain = annealed_langevin(
            score, uniform(), ladder.sigmas, steps=steps, epsilon=epsilon, noise=noise
        )
        return final(chain)

    def ode(score: Score) -> Tensor:
        return final(integrate(heun, score, oracle.prior.sample(n, grid[0], noise=noise), grid))

    samplers: dict[str, Callable[[Score], Tensor]] = {
        "exact samples": lambda _: oracle.sample(n, noise=noise),
        "plain Langevin": plain,
        "annealed Langevin": annealed,
        "Heun, 32 steps": ode,
    }
    return oracle, ladder, [_measure(oracle, *item) for item in samplers.items()]


def _measure(oracle: GaussianMixture, name: str, sampler: Callable[[Score], Tensor]) -> Result:
    evaluations = 0

    def counted(x: Tensor, sigma: float | Tensor) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        return oracle(x, sigma)

    start = time.perf_counter()
    x = sampler(counted)
    seconds = time.perf_counter() - start
    return Result(name, x, oracle.responsibilities(x, 0.0).argmax(1), evaluations, seconds)


def draw(oracle: GaussianMixture, results: list[Result]) -> Figure:
    """Each cloud over the density and score field of p, titled with the small mode's weight."""
    figure, axes = plots.panels(2, 2)
    for ax, r in zip(axes, results, strict=True):
        plots.field(ax, oracle, 0.0, limit=10, log_prob=oracle.log_prob)
        plots.scatter(ax, r.x, r.kind)
        low, high = r.interval
        ax.set_title(r.name, fontweight="bold", pad=22)
        weight = f"small mode {r.weight:.3f}, 95 % in {low:.3f} to {high:.3f}"
        ax.text(0.5, 1.025, weight, transform=ax.transAxes, ha="center", color=plots.COLOURS[1])
    n = len(results[0].x)
    caption = (
        f"True weight of the small mode {WEIGHT:.3f}. Grey: the regions that hold 50, 90 and 99 % "
        "of p; arrows: the direction of its score."
    )
    most = plots.MAX_POINTS
    shown = f"\nOf {n} samples the first {most} are shown." if n > most else ""
    figure.supxlabel(caption + shown, fontsize=9)
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Sample two Gaussians by four methods.")
    parser.add_argument("--out", type=Path, default=Path("mixture.png"), help="the picture")
    parser.add_argument("--n", type=int, default=2000, help="samples of each kind")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same samples")
    args = parser.parse_args()
    run(args.out, n=args.n, seed=args.seed)
