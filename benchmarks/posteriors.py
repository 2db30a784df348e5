"""What each way of conditioning draws, against the exact posterior.

    python benchmarks/posteriors.py [--out posteriors.json] [--n 50000] [--quick]
        [--only mix64] [--methods dps pigdm]

Four laws whose posterior is known, each measured in two ways:

    gauss2, mix2     in 2 dimensions: a correlated Gaussian, and three Gaussians
    gauss64, mix64   8 × 8 fields with correlation exp(−distance/1.5): one law, and three patterns
                     with a field of half the standard deviation about each
    mask             x₁ in 2 dimensions, in 64 a quarter: the 2 columns to the left; without noise
    matrix           one row of normal numbers in 2 dimensions, 4 in 64; with noise of 0.2

y is that of one draw of the law. For each method, over the coordinates that are not known:

    mean    the largest |mean − exact mean|, in exact standard deviations
    std     the smallest and the largest ratio of the standard deviation to the exact one
    cov     the largest |covariance − exact|, each in units of its two exact standard deviations
    modes   of a mixture, the largest |mean of p(k | x) − p(k | y)|

`chance` is what as many exact draws score. A method is called exact here if mean, std and modes are
within 3 %, and otherwise biased by so much. Scores (replace, dps, pigdm) go down 32 levels by Heun
steps, 18 for mix64, whose score costs most; `algorithm2` takes 20 steps at each of 16 levels with
α = 0.1σ². `particle_filter` goes down 64 levels with twice as many particles as are drawn, in sets
of 2,000, each with its own noisy path of y, on which a part of the error depends; every other one
is kept. All draw in float32, on one thread; seconds are of the processor.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from scorefield import Gaussian, Mixture, final, geometric, heun, integrate, karras, seeded
from scorefield.inverse import (
    LinearOperator,
    algorithm2,
    dps,
    mask,
    matrix,
    particle_filter,
    pigdm,
    replace,
)

Law = Gaussian | Mixture
CLOSE = 0.03
AT_ONCE = 5_000
PARTICLES = 2_000


class Problem(NamedTuple):
    """A law, what is measured of it, and the exact posterior of what is not known."""

    name: str
    law: Law
    operator: LinearOperator
    y: Tensor
    sigma_y: float
    free: Tensor
    posterior: Law

    @property
    def sigma_max(self) -> float:
        """Where what is left of the law is its mean and covariance."""
        return 6 * self.law.prior.dense.diagonal().max().sqrt().item()

    @property
    def levels(self) -> int:
        """Of Heun's method."""
        return 18 if self.name.startswith("mix64") else 32


def laws() -> dict[str, Law]:
    steps = torch.arange(8, dtype=torch.float64)
    places = torch.cartesian_prod(steps, steps)
    field = (-(places[:, None] - places).norm(dim=2) / 1.5).exp()
    patterns = torch.stack([places[:, 0].sin(), places[:, 1].sin(), (0.8 * places.sum(1)).cos()])
    two = [
        Gaussian(
            torch.tensor([-1.5, -1.0]).double(), torch.tensor([[0.3, 0.2], [0.2, 0.3]]).double()
        ),
        Gaussian(
            torch.tensor([-0.3, 2.0]).double(), torch.tensor([[0.3, -0.2], [-0.2, 0.3]]).double()
        ),
        Gaussian(torch.tensor([1.0, 0.0]).double(), 0.3),
    ]
    weights = torch.tensor([0.5, 0.3, 0.2]).double()
    tilted = torch.tensor([[1.0, 0.8], [0.8, 1.0]]).double()
    return {
        "gauss2": Gaussian(torch.tensor([-1.0, 1.0]).double(), tilted),
        "mix2": Mixture(two, weights),
        "gauss64": Gaussian(0.1 * places[:, 1], field),
        "mix64": Mixture([Gaussian(0.3 * p, field / 4) for p in patterns], weights),
    }


def problems() -> Iterator[Problem]:
    for name, law in laws().items():
        size = law.shape.numel()
        x = law.sample(1, noise=seeded(3))
        known = torch.arange(size) % 8 < (1 if size == 2 else 2)
        y = mask(known)(x)
        exact = law.posterior(torch.eye(size).double()[known], y[0, known], 0.0)
        free, fast = torch.arange(size)[~known], single(law)
        yield Problem(f"{name} mask", fast, mask(known), y.float(), 0.0, free, part(exact, free))
        rows = seeded(5)(torch.empty(1 if size == 2 else 4, size).double()) / size**0.5
        y = x @ rows.T + 0.2 * seeded(6)(torch.empty(1, len(rows)).double())
        exact = law.posterior(rows, y[0], 0.2)
        yield Problem(
            f"{name} matrix", fast, matrix(rows), y.float(), 0.2, torch.arange(size), exact
        )


def single(law: Law) -> Law:
    """The same in float32."""
    if isinstance(law, Mixture):
        return Mixture([single(each) for each in law.components], law.weights.float())
    return Gaussian(law.prior.mean.float(), law.prior.cov.float())


def part(law: Law, rows: Tensor) -> Law:
    """The law of some of the coordinates."""
    if isinstance(law, Mixture):
        return Mixture([part(each, rows) for each in law.components], law.weights)
    return Gaussian(law.prior.mean[rows], law.prior.dense[rows][:, rows])


# ── The methods ──────────────────────────────────────────────────────────────────────────────────


def guided(make: Callable[..., Callable]) -> Callable[[Problem, int], Tensor]:
    def run(this: Problem, n: int) -> Tensor:
        score = make(this.law, this.operator, this.y, sigma_y=this.sigma_y)
        sigmas = karras(5 * this.sigma_max, 0.01, this.levels)
        return in_parts(
            n, AT_ONCE, lambda n: final(integrate(heun, score, start(this, n, sigmas), sigmas))
        )

    return run


def pseudoinverse(law: Law, *args: object, **options: object) -> Callable:
    spread = law.prior.dense.diagonal().mean().sqrt().item()
    return pigdm(law, *args, sigma_data=spread, **options)


def overwritten(this: Problem, n: int) -> Tensor | None:
    if this.operator.known is None:
        return None
    sigmas = geometric(this.sigma_max, 0.02, 16)
    given = {"known": this.operator.known, "y": this.y, "steps": 20, "epsilon": 0.1 * 0.02**2}
    return in_parts(
        n, AT_ONCE, lambda n: final(algorithm2(this.law, start(this, n, sigmas), sigmas, **given))
    )


def filtered(this: Problem, n: int) -> Tensor:
    sigmas = geometric(this.sigma_max, 0.02, 64)
    given = {"operator": this.operator, "y": this.y, "sigma_y": this.sigma_y}

    def run(n: int) -> Tensor:
        return final(particle_filter(this.law, start(this, n, sigmas), sigmas, **given))[::2]

    return in_parts(2 * n, PARTICLES, run)


def in_parts(n: int, most: int, run: Callable[[int], Tensor]) -> Tensor:
    return torch.cat([run(min(most, n - done)) for done in range(0, n, most)])


def start(this: Problem, n: int, sigmas: Tensor) -> Tensor:
    return this.law.prior.sample(n, sigmas[0])


METHODS: dict[str, Callable[[Problem, int], Tensor | None]] = {
    "chance": lambda this, n: this.posterior.sample(n),
    "replace": guided(replace),
    "dps": guided(dps),
    "pigdm": guided(pseudoinverse),
    "algorithm2": overwritten,
    "particle_filter": filtered,
}


# ── The measures ─────────────────────────────────────────────────────────────────────────────────


def measure(this: Problem, x: Tensor) -> dict[str, float]:
    mean, cov, x = this.posterior.prior.mean, this.posterior.prior.dense, x.double()
    std = cov.diag().sqrt()
    ratio = x.std(0) / std
    found = {
        "mean": ((x.mean(0) - mean) / std).abs().max().item(),
        "least": ratio.min().item(),
        "most": ratio.max().item(),
        "cov": ((x.T.cov().view_as(cov) - cov) / (std[:, None] * std)).abs().max().item(),
        "modes": 0.0,
    }
    if isinstance(this.posterior, Mixture):
        shares = this.posterior.responsibilities(x, 0.0).mean(0)
        found["modes"] = (shares - this.posterior.weights).abs().max().item()
    return found | {
        "bias": max(found["mean"], 1 - found["least"], found["most"] - 1, found["modes"])
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("posteriors.json"))
    parser.add_argument("--n", type=int, default=50_000)
    parser.add_argument("--quick", action="store_true", help="4,000 draws")
    parser.add_argument("--only", default="", help="problems whose names begin so")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    args = parser.parse_args()
    n = 4_000 if args.quick else args.n
    torch.set_num_threads(1)
    rows = []
    print(f"{n} draws\n{'':16s}{'':16s}   mean        std         cov   modes  seconds")
    for this in problems():
        if not this.name.startswith(args.only):
            continue
        for name in args.methods:
            torch.manual_seed(0)
            begin = time.process_time()
            x = METHODS[name](this, n)
            if x is None:
                continue
            row = {"problem": this.name, "method": name, "seconds": time.process_time() - begin}
            row |= measure(this, x if name == "chance" else x[:, this.free])
            rows.append(row)
            verdict = "exact" if row["bias"] <= CLOSE else f"biased by {row['bias']:.0%}"
            said = "" if name == "chance" else verdict
            print(
                f"{this.name:16s}{name:16s}  {row['mean']:.3f}  "
                f"{row['least']:.3f}–{row['most']:.3f}  {row['cov']:.3f}  {row['modes']:.3f} "
                f"{row['seconds']:6.1f}  {said}",
                flush=True,
            )
    args.out.write_text(json.dumps({"n": n, "rows": rows}, indent=2))
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
