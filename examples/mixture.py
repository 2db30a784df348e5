"""
Plain and annealed Langevin dynamics
====================================

This samples a mixture of two Gaussians, whose score is known, by four methods (Figure 3 of the
paper):

::

    p = 1/5 N((−5, −5), I) + 4/5 N((5, 5), I)        (Song & Ermon 2019, §3.2.2 and §4.3)

There is almost no mass between the modes, so the score near a mode does not depend on the weights,
and plain Langevin dynamics leaves each sample in the mode that it started near. Noise joins the
modes: annealed Langevin dynamics and the probability-flow ODE, which lower σ step by step, find the
weights.
"""

import argparse
from pathlib import Path

import torch

from scorefield import (
    GaussianMixture,
    annealed_langevin,
    final,
    heun,
    integrate,
    karras,
    langevin,
    seeded,
    suggest,
    uniform_like,
    wilson,
)
from scorefield.show import plots

WEIGHT = 0.2
EVALUATIONS = 1000  # that each Langevin sampler may use; the paper's T
parser = argparse.ArgumentParser(description="Sample two Gaussians by four methods.")
parser.add_argument("--out", type=Path, default=Path("mixture.png"), help="file for the picture")
parser.add_argument("--n", type=int, default=2000, help="number of samples by each method")
parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same samples")
args = parser.parse_args()

torch.set_num_threads(1)  # points in the plane are too little work to share between threads
noise = seeded(args.seed)


def score(x, sigma):
    """Return the score of p, and count the evaluations."""
    global evaluations
    evaluations += 1
    return p(x, sigma)


p = GaussianMixture(torch.tensor([[5.0, 5], [-5, -5]]), 1.0, torch.tensor([1 - WEIGHT, WEIGHT]))
ladder = suggest(p.sample(2000, noise=noise))
print(f"The noise levels, chosen from 2000 samples:\n{ladder}\n")
# more steps than `suggest` advises at each level, so that samples cross between the modes
steps = EVALUATIONS // len(ladder.sigmas)
options = {"steps": steps, "epsilon": ladder.epsilon, "noise": noise}
grid = karras(ladder.sigmas[0].item(), ladder.sigmas[-1].item(), 32)
square = 16 * uniform_like(torch.empty(args.n, 2), noise=noise) - 8
prior = p.prior.sample(args.n, grid[0], noise=noise)
samplers = {
    "exact samples": lambda: p.sample(args.n, noise=noise),
    "plain Langevin": lambda: final(
        langevin(score, square, 0.0, alpha=0.1, steps=EVALUATIONS, convention="paper", noise=noise)
    ),
    "annealed Langevin": lambda: final(annealed_langevin(score, square, ladder.sigmas, **options)),
    "Heun, 32 steps": lambda: final(integrate(heun, score, prior, grid)),
}

figure, axes = plots.panels(2, 2)
print(f"{'':18} evaluations  weight of the small mode (true: {WEIGHT})")
for ax, (name, draw) in zip(axes, samplers.items(), strict=True):
    evaluations = 0
    x = draw()
    component = p.responsibilities(x, 0.0).argmax(1)  # 0 in the large mode, 1 in the small one
    low, high = wilson(int(component.sum()), args.n)
    weight = f"{component.double().mean():.3f}, 95 % in {low:.3f} to {high:.3f}"
    print(f"{name:18} {evaluations:11d}  {weight}")
    plots.field(ax, p, 0.0, limit=10, log_prob=p.log_prob)
    plots.scatter(ax, x, component)
    ax.set_title(f"{name}\nsmall mode {weight}")
figure.supxlabel("Grey: regions that hold 50, 90 and 99 % of p. Arrows: direction of its score.")
figure.savefig(args.out, dpi=150)
print(f"wrote {args.out.resolve()}")
