"""Figure 2: a score is learned where there are data, and not between the modes.

    p = ⅕ N((−5, −5), I) + ⅘ N((5, 5), I),   min E[vᵀ(∇ₓs)v + ½‖s‖²]            (§3.2.1, B.1)

Sliced score matching sees s only where samples fall, and between the modes none do.

Setting   the paper's, appendix B.1: an MLP of 2, 128, 128 and 2 units with softplus, Adam at 1e-3,
          batches of 128, 10,000 steps, the variance-reduced loss with one direction.
Ours      each batch is sampled from p, the direction is Rademacher's; the error is the root mean
          square of s − ∇ log p over that of ∇ log p, on a lattice of [−8, 8]². In the map of errors
          ‖∇ log p‖ counts as 0.3 at least, because it vanishes at the modes.
"""

import torch
from matplotlib.figure import Figure
from torch import Tensor

from .._ops import Noise, Sigma
from ..nn.small import ToyMLP
from ..objectives import sliced
from ..oracles import GaussianMixture
from ..score import Score
from ..show import plots
from ..train import train
from .finding import Finding, Setting

SMALL_MODE = 0.2  # its weight
SQUARE = 8.0  # half the side of what is looked at, and where the chains of Figure 3 start
DENSE_SHARE = 0.01  # of the maximal density; above it the score is to be right
BETWEEN_RADIUS = 3.0  # of the disc between the modes, 4 standard deviations from either
LARGEST_ERROR = 0.20
ERROR_RATIO = 3.0  # between the modes over where the density is high, at least
STATEMENT = (
    f"the relative error of the score is at most {LARGEST_ERROR:.2f} where the density is above "
    f"{DENSE_SHARE:.0%} of its maximum, and at least {ERROR_RATIO:g} × as large between the modes"
)


def run(setting: Setting) -> Finding:
    """Learn the score and compare it with the true one."""
    learned, x = train_toy_score(setting), plots.lattice(SQUARE, 81)
    density = two_modes().log_prob(x, 0.0).exp()
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
    return lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype)


def train_toy_score(setting: Setting) -> Score:
    """Train the network of appendix B.1; the same seed gives the same network."""
    with torch.random.fork_rng([]):
        torch.manual_seed(setting.seed)
        net = ToyMLP(width=128)
    truth, noise_of_batches = two_modes(), sequential_noise(setting.seed)

    def score(x: Tensor, sigma: Sigma) -> Tensor:
        s: Tensor = net(x)
        return s

    updates = train(
        net,
        lambda step: truth.sample(128, noise=noise_of_batches),
        lambda model, x, *, noise: sliced(score, x, 0.0, noise=noise),
        optimizer=torch.optim.Adam(net.parameters(), lr=1e-3),
        steps=setting.steps(10_000),
        seed=setting.seed,
    )
    for _ in updates:
        pass
    return score


@torch.no_grad()
def relative_error(score: Score, x: Tensor) -> float:
    """√(Σ‖s − ∇ log p‖² / Σ‖∇ log p‖²)."""
    true = two_modes()(x, 0.0)
    error: Tensor = (score(x, 0.0) - true).norm() / true.norm()
    return error.item()


@torch.no_grad()
def _four_panels(learned: Score) -> Figure:
    truth, points = two_modes(), 161
    x = plots.lattice(SQUARE, points)
    density = truth.log_prob(x, 0.0).exp()
    true = truth(x, 0.0)
    norm = true.norm(dim=1).clamp(min=0.3)  # it vanishes at the modes
    error = ((learned(x, 0.0) - true).norm(dim=1) / norm).log10()
    figure, axes = plots.panels(1, 4, size=3.8)
    highest, extent = density.max().item(), (-SQUARE, SQUARE, -SQUARE, SQUARE)
    for ax, values, colours, title, (low, high) in (
        (axes[0], density, "Oranges", "density", (0.0, highest)),
        (axes[3], error, "viridis", "log₁₀ of the relative error", (-1.5, 0.5)),
    ):
        rows = values.view(points, points).numpy()
        image = ax.imshow(rows, cmap=colours, vmin=low, vmax=high, origin="lower", extent=extent)
        figure.colorbar(image, ax=ax, shrink=0.8)
        ax.set_title(title)
    for ax, score, title in ((axes[1], truth, "∇ log p"), (axes[2], learned, "learned score")):
        plots.field(ax, score, 0.0, limit=SQUARE, log_prob=truth.log_prob)
        ax.set_title(title)
    angle = torch.linspace(0, 2 * torch.pi, 100)
    axes[3].plot(BETWEEN_RADIUS * angle.cos(), BETWEEN_RADIUS * angle.sin(), "w--", linewidth=1)
    side, rows = x[:points, 0].numpy(), density.view(points, points).numpy()
    axes[3].contour(side, side, rows, [DENSE_SHARE * highest], colors="white")
    figure.supxlabel("white: where the score is to be right; dashed: between the modes", fontsize=9)
    return figure
