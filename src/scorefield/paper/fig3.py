"""Figure 3: annealing finds the weights of two modes, plain Langevin dynamics does not.

    p = ⅕ N((−5, −5), I) + ⅘ N((5, 5), I),   1,280 chains from U[−8, 8]²        (§3.2.2, §4.3, B.1)

The scores are exact. Between the modes there is no mass that could tell the score their weights,
and a plain chain stays in the mode where it started: half of them do.

Setting   the paper's, appendix B.1: T = 1,000 and ε = 0.1; annealed T = 100, L = 10, σ from 20 to
          1, ε = 0.1, in the paper's own convention, drift α/2·s. §4.3 says σ from 10 to 0.1, with
          which ε = 0.1 diverges: a step is stable for ε < 4σ_L².
Code      its σ are the standard deviations of the components, with no noise added to them, so that
          the ladder ends at p itself. So it is here; p blurred by σ_L = 1 would end twice as wide.
"""

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..diagnose import wilson
from ..noise import geometric, uniform_like
from ..oracles import GaussianMixture
from ..samplers import annealed_langevin, final, langevin
from ..show import plots
from .fig2 import SMALL_MODE, SQUARE, sequential_noise, two_modes
from .finding import Finding, Setting

MIXTURE_CHAINS = 1280
WEIGHT_TOLERANCE = 0.03
SMALLEST_PLAIN_ERROR = 0.1
STATEMENT = (
    f"the weight of the small mode is {SMALL_MODE} ± {WEIGHT_TOLERANCE} by annealed Langevin "
    f"dynamics, and off by more than {SMALLEST_PLAIN_ERROR} by plain"
)
TITLES = ("exact samples", "Langevin dynamics", "annealed Langevin dynamics")


def run(setting: Setting) -> Finding:
    """Sample by each of three methods, and compare the weights of the small mode."""
    clouds = sample_clouds(setting)
    counts = {name: int((x.sum(1) < 0).sum()) for name, x in clouds.items()}
    errors = {name: abs(count / MIXTURE_CHAINS - SMALL_MODE) for name, count in counts.items()}
    return Finding(
        STATEMENT,
        {f"weight of the small mode, {name}": n / MIXTURE_CHAINS for name, n in counts.items()},
        errors["annealed"] <= WEIGHT_TOLERANCE and errors["plain"] > SMALLEST_PLAIN_ERROR,
        _three_clouds(clouds, counts),
    )


def sample_clouds(setting: Setting) -> dict[str, Tensor]:
    """Sample exactly, by plain Langevin dynamics and by annealed, with the numbers of B.1."""
    truth, noise = two_modes(), sequential_noise(setting.seed)
    start = SQUARE * (2 * uniform_like(torch.empty(MIXTURE_CHAINS, 2), noise=noise) - 1)
    steps = setting.steps(1000)
    plain = langevin(truth, start, 0.0, alpha=0.1, steps=steps, convention="paper", noise=noise)
    # with σ as the components' standard deviation, p is its two means blurred by σ
    p, sigmas = GaussianMixture(truth.means, 0.0, truth.weights), geometric(20.0, 1.0, 10)
    annealed = annealed_langevin(
        p, start, sigmas, steps=setting.steps(100), epsilon=0.1, convention="paper", noise=noise
    )
    return {
        "exact": truth.sample(MIXTURE_CHAINS, noise=noise),
        "plain": final(plain),
        "annealed": final(annealed),
    }


def _three_clouds(clouds: dict[str, Tensor], counts: dict[str, int]) -> Figure:
    truth = two_modes()
    figure, axes = plots.panels(1, 3)
    for ax, (name, x), title in zip(axes, clouds.items(), TITLES, strict=True):
        plots.field(ax, truth, 0.0, limit=9, log_prob=truth.log_prob)
        plots.scatter(ax, x, (x.sum(1) < 0).long())
        low, high = wilson(counts[name], len(x))
        share = f"small mode {counts[name] / len(x):.3f}, 95 % in {low:.3f} to {high:.3f}"
        ax.set_title(f"{title}\n{share}", fontsize=11)
    caption = f"{MIXTURE_CHAINS} samples each; the small mode's true weight is {SMALL_MODE}"
    figure.supxlabel(caption, fontsize=9)
    return figure
