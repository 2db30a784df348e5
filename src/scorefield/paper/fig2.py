"""Figure 2: a score is learned where there are data, and not between the modes.

    p = ⅕ N((−5, −5), I) + ⅘ N((5, 5), I),   min E[vᵀ(∇ₓs)v + ½‖s‖²]            (§3.2.1, B.1)

Sliced score matching sees s only where samples fall, and between the modes none do.

Setting   the paper's, appendix B.1: an MLP of 2, 128, 128 and 2 units with softplus, Adam at 1e-3,
          batches of 128, 10,000 steps, the variance-reduced loss with one direction.
Code      no part of this experiment is taken from it.
Ours      each batch is sampled from p, the direction is Rademacher's; the error is the root mean
          square of s − ∇ log p over that of ∇ log p, on a lattice of [−8, 8]². In the map of errors
          ‖∇ log p‖ counts as 0.3 at least, because it vanishes at the modes.
PASS      the error is ≤ 0.20 where the density is above 1 % of its maximum, and ≥ 3 × that between
          the modes.
"""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from .._ops import Noise, Sigma
from ..nn.small import ToyMLP
from ..objectives import sliced
from ..oracles import GaussianMixture
from ..score import Score
from ..show import plots
from ..train import train
from .finding import Finding, Setting

SMALL_MODE = 0.2
"""Weight of the small mode."""
SQUARE = 8.0
"""Half the side of the square that is looked at, and where the chains of Figure 3 start."""
DENSE_SHARE = 0.01
"""Share of the maximal density above which the score is to be right."""
BETWEEN_RADIUS = 3.0
"""Radius of the disc between the modes, 4 standard deviations from either."""
SMALLEST_NORM = 0.3
"""Smallest ‖∇ log p‖ that the map of errors divides by."""
LARGEST_ERROR = 0.20
ERROR_RATIO = 3.0
"""Error between the modes over that where the density is high, at least."""
STATEMENT = (
    f"the relative error of the score is at most {LARGEST_ERROR:.2f} where the density is above "
    f"{DENSE_SHARE:.0%} of its maximum, and at least {ERROR_RATIO:g} × as large between the modes"
)


def run(setting: Setting) -> Finding:
    """Learn the score and compare it with the true one."""
    learned = unconditional(train_toy_score(setting))
    x, truth = square_lattice(81), two_modes()
    density = truth.log_prob(x, 0.0).exp()
    dense = relative_error(learned, x[density > DENSE_SHARE * density.max()])
    between = relative_error(learned, x[x.norm(dim=1) < BETWEEN_RADIUS])
    return Finding(
        STATEMENT,
        {"relative error where dense": dense, "relative error between the modes": between},
        dense <= LARGEST_ERROR and between >= ERROR_RATIO * dense,
        _four_panels(learned),
    )


def two_modes() -> GaussianMixture:
    """⅕ N((−5, −5), I) + ⅘ N((5, 5), I)."""
    means = torch.tensor([[-5.0, -5.0], [5.0, 5.0]])
    return GaussianMixture(means, 1.0, torch.tensor([SMALL_MODE, 1 - SMALL_MODE]))


def sequential_noise(seed: int) -> Noise:
    """Return noise from a generator, in the order in which it is asked for."""
    generator = torch.Generator().manual_seed(seed)

    def noise(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)

    return noise


def unconditional(net: nn.Module) -> Score:
    """Return a network's output as a score that ignores the noise level."""

    def score(x: Tensor, sigma: Sigma) -> Tensor:
        s: Tensor = net(x)
        return s

    return score


def train_toy_score(setting: Setting) -> ToyMLP:
    """Train the network of appendix B.1; the same seed gives the same network."""
    with torch.random.fork_rng([]):
        torch.manual_seed(setting.seed)
        net = ToyMLP(width=128)
    truth, noise_of_batches = two_modes(), sequential_noise(setting.seed)

    def loss(model: Score, x: Tensor, *, noise: Noise) -> Tensor:
        return sliced(unconditional(net), x, 0.0, noise=noise)

    updates = train(
        net,
        lambda step: truth.sample(128, noise=noise_of_batches),
        loss,
        optimizer=torch.optim.Adam(net.parameters(), lr=1e-3),
        steps=setting.steps(10_000),
        seed=setting.seed,
    )
    for _ in updates:
        pass
    return net


def square_lattice(points: int) -> Tensor:
    """Return the points of a lattice on the square, the first coordinate running fastest."""
    side = torch.linspace(-SQUARE, SQUARE, points)
    return torch.cartesian_prod(side, side).flip(1)


@torch.no_grad()
def relative_error(score: Score, x: Tensor) -> float:
    """√(Σ‖s − ∇ log p‖² / Σ‖∇ log p‖²)."""
    true = two_modes()(x, 0.0)
    error: Tensor = (score(x, 0.0) - true).norm() / true.norm()
    return error.item()


@torch.no_grad()
def _four_panels(learned: Score) -> Figure:
    truth, points = two_modes(), 161
    x = square_lattice(points)
    density = truth.log_prob(x, 0.0).exp()
    norm = truth(x, 0.0).norm(dim=1).clamp(min=SMALLEST_NORM)
    error = ((learned(x, 0.0) - truth(x, 0.0)).norm(dim=1) / norm).log10()
    figure, axes = plots.panels(1, 4, size=3.8)
    _colour_map(figure, axes[0], density, "Oranges", "density", (0.0, density.max().item()))
    for ax, score, title in ((axes[1], truth, "∇ log p"), (axes[2], learned, "learned score")):
        plots.field(ax, score, 0.0, limit=SQUARE, log_prob=truth.log_prob)
        ax.set_title(title)
    title = "log₁₀ of the relative error"
    _colour_map(figure, axes[3], error, "viridis", title, (-1.5, 0.5))
    angle = torch.linspace(0, 2 * torch.pi, 100)
    axes[3].plot(BETWEEN_RADIUS * angle.cos(), BETWEEN_RADIUS * angle.sin(), "w--", linewidth=1)
    side, edge = x[:points, 0].numpy(), DENSE_SHARE * density.max().item()
    axes[3].contour(side, side, density.view(points, points).numpy(), [edge], colors="white")
    figure.supxlabel("white: where the score is to be right; dashed: between the modes", fontsize=9)
    return figure


def _colour_map(
    figure: Figure, ax: Axes, values: Tensor, colours: str, title: str, ends: tuple[float, float]
) -> None:
    """Show values on the lattice as colours."""
    n = round(len(values) ** 0.5)
    image = ax.imshow(
        values.view(n, n).numpy(),
        origin="lower",
        extent=(-SQUARE, SQUARE, -SQUARE, SQUARE),
        cmap=colours,
        vmin=ends[0],
        vmax=ends[1],
    )
    figure.colorbar(image, ax=ax, shrink=0.8)
    ax.set_title(title)
