"""Posteriors by deepinv and by this package, where the exact posterior is known.

Both get the same prior in closed form, measurement, starts and noise levels; methods of one name
are compared. dps, pigdm and mmps go down by Heun's method. deepinv's DiffPIR is for images in
[0, 1]: 2·`RANGE` of the data's units become 1.
"""

from collections.abc import Callable
from statistics import median
from time import process_time
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from scorefield import geometric
from scorefield.restore import METHODS
from scorefield.score import to_denoiser

from . import Setting, packages
from .measure import ratio
from .packages import OURS
from .posteriors import QUICK_SAMPLES, Counted, errors, heun_grid, sampler_of
from .problems import Problem, problems
from .table import Cell, Table

DEEPINV = "deepinv"
PROBLEMS = ("gauss64 matrix", "mix64 matrix", "gauss64 mask", "mix64 mask")
"""Problems of the benchmark `posteriors`."""
SHAPE = (1, 8, 8)
TURN_SAMPLES = 5_000
TURNS = 4
RANGE = 6.0
"""Largest value, about six standard deviations, in the units of `gauss64`."""

Draw = Callable[[Problem, int], Tensor]


class Denoiser(nn.Module):
    """The mean of the clean image given a noisy one, with the arguments of deepinv."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.denoise = to_denoiser(problem.prior)

    def forward(self, x: Tensor, sigma: Any, *args: Any, **options: Any) -> Tensor:
        """Return E[x₀ | x] for one σ or one per sample."""
        sigma = torch.as_tensor(sigma).flatten()
        sigma = sigma if len(sigma) == len(x) else float(sigma)
        return self.denoise(x.flatten(1), sigma).view_as(x)


class UnitDenoiser(Denoiser):
    """The same for images whose values from −`RANGE` to `RANGE` are scaled to [0, 1]."""

    def forward(self, x: Tensor, sigma: Any, *args: Any, **options: Any) -> Tensor:
        """Return E[x₀ | x] of images in [0, 1]."""
        width = 2 * RANGE
        return super().forward(width * (x - 0.5), width * sigma) / width + 0.5


def physics(problem: Problem, noise: float) -> Any:
    """Return a problem's measurement as deepinv's, of images of shape `SHAPE`."""
    library = packages.import_deepinv()
    rows = problem.operator(torch.eye(SHAPE[1] * SHAPE[2])).T
    return library.physics.LinearPhysics(
        A=lambda x, **_: (x.flatten(1) @ rows.T)[:, None, None],
        A_adjoint=lambda y, **_: (y.flatten(1) @ rows).view(-1, *SHAPE),
        noise_model=library.physics.GaussianNoise(noise),
    )


def measurements(problem: Problem, n: int) -> Tensor:
    return problem.y.expand(n, -1)[:, None, None]


def by_fidelity(name: str, **options: Any) -> Draw:
    """Return the sampler by one of deepinv's approximations of the score of p(y | x, σ)."""

    @torch.no_grad()
    def sample(problem: Problem, n: int) -> Tensor:
        library = packages.import_deepinv().sampling
        sigmas = heun_grid(problem)
        sde = library.EDMDiffusionSDE(
            sigma_t=lambda t: t,
            sigma_prime_t=torch.ones_like,
            variance_exploding=True,
            alpha=0.0,
            dtype=torch.float32,
        )
        chain = library.PosteriorDiffusion(
            data_fidelity=getattr(library, name)(**options),
            denoiser=Denoiser(problem),
            sde=sde,
            solver=library.HeunSolver(timesteps=sigmas),
            dtype=torch.float32,
            minus_one_one=False,
        )
        start = problem.prior.prior.sample(n, sigmas[0]).view(n, *SHAPE)
        x = chain(measurements(problem, n), physics(problem, problem.sigma_y), x_init=start)
        return x.flatten(1)

    return sample


def by_diffpir(problem: Problem, n: int) -> Tensor:
    library = packages.import_deepinv()
    noise = problem.sigma_y / (2 * RANGE)
    operator = physics(problem, noise)
    y = measurements(problem, n) / (2 * RANGE) + operator.A(torch.full((1, *SHAPE), 0.5))
    fidelity, levels = library.optim.data_fidelity.L2(), METHODS["diffpir"].levels
    method = library.sampling.DiffPIR(UnitDenoiser(problem), fidelity, noise, max_iter=levels)
    return 2 * RANGE * (method(y, operator).flatten(1) - 0.5)


def by_ddrm(problem: Problem, n: int) -> Tensor:
    library = packages.import_deepinv()
    observed = problem.operator.observed.view(SHAPE).float()
    operator = library.physics.Inpainting(
        SHAPE, observed, noise_model=library.physics.GaussianNoise(0.0)
    )
    sigmas = geometric(problem.sigma_max, 0.02, METHODS["ddrm"].levels)
    method = library.sampling.DDRM(Denoiser(problem), sigmas)
    y = problem.y.repeat(n, 1).view(n, *SHAPE)  # which it overwrites
    return method(y, operator).flatten(1)


class Rival(NamedTuple):
    """A sampler of posteriors, and the one of ours to compare with."""

    ours: str
    draw: Draw


RIVALS = {
    "matrix": {
        "DPS, norm": Rival("dps", by_fidelity("DPSDataFidelity")),
        "DPS, annealed": Rival("dps", by_fidelity("DPSDataFidelity", guidance="annealed")),
        "PiGDM": Rival("pigdm", by_fidelity("PiGDMDataFidelity")),
        "MomentMatching": Rival("mmps", by_fidelity("MomentMatchingDataFidelity")),
        "DiffPIR": Rival("diffpir", by_diffpir),
    },
    "mask": {"DDRM": Rival("ddrm", by_ddrm)},
}
"""By the kind of the problem."""


def posterior_table(setting: Setting, title: str, name: str) -> Table:
    """Sample one posterior by each method, in turns: errors of the samples, and the time."""
    (problem,) = (problem for problem in problems() if problem.name == name)
    rivals = RIVALS[name.split()[1]]
    ours = [*dict.fromkeys(["exact", *(rival.ours for rival in rivals.values())])]
    methods = {f"{OURS} {method}": Rival(method, sampler_of(method)) for method in ours}
    theirs = {f"{DEEPINV} {method}": rival for method, rival in rivals.items()}
    methods |= packages.available(theirs)
    n = QUICK_SAMPLES if setting.quick else TURN_SAMPLES
    draws = {name: method.draw for name, method in methods.items()}
    results = draw_in_turns(problem, draws, n, 1 if setting.quick else TURNS, setting.seed)
    rows: list[list[Cell]] = []
    for method, (x, times, evaluations) in results.items():
        unknown = x if x.shape[1] == len(problem.free) else x[:, problem.free]
        mean, least, most, cov, modes, bias, _ = errors(problem, unknown)
        gain = ratio(results[f"{OURS} {methods[method].ours}"][1], times)
        numbers = (mean, least, most, cov, modes, bias, evaluations, median(times), gain)
        rows.append([*method.split(" ", 1), *numbers])
    heads = {"package": "", "method": ""}
    heads |= dict.fromkeys(("mean", "std, least", "std, most", "cov", "modes"), ".3f")
    heads |= {"bias": ".0%", "evaluations": ".0f", "CPU s": ".2f", "ratio": ".2f"}
    about = f"{len(x):,} samples each, seconds of {n:,}; errors as in the benchmark `posteriors`."
    return Table(title, heads, rows, [about, *packages.notes(DEEPINV)])


def draw_in_turns(
    problem: Problem, draws: dict[str, Draw], n: int, turns: int, seed: int
) -> dict[str, tuple[Tensor, list[float], float]]:
    """Return all samples, the seconds of each turn of n, and the evaluations of a sample."""
    parts, times = {name: list[Tensor]() for name in draws}, {name: list[float]() for name in draws}
    counted = {name: Counted(problem.prior) for name in draws}
    for turn in range(turns):
        for name, draw in draws.items():
            torch.manual_seed(seed + turn)  # the same start for all
            start = process_time()
            parts[name].append(draw(problem._replace(prior=counted[name]), n))
            times[name].append(process_time() - start)
    return {
        name: (torch.cat(parts[name]), times[name], counted[name].rows / n / turns)
        for name in draws
    }
