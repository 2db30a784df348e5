"""Figure 3: annealing finds the weights of two modes, plain Langevin dynamics does not.

    p = ⅕ N((−5, −5), I) + ⅘ N((5, 5), I),   1,280 chains from U[−8, 8]²        (§3.2.2, §4.3, B.1)

The scores are exact. Between the modes there is no mass from which the score could know their
weights, and a plain chain stays in the mode that it began near: half of them do.

Setting   the paper's, appendix B.1: T = 1,000 and ε = 0.1; annealed T = 100, L = 10, σ from 20 to
          1, ε = 0.1, in the paper's own convention, drift α/2·s. §4.3 says σ from 10 to 0.1, with
          which ε = 0.1 diverges: a step is stable for ε < 4σ_L².
Code      its σ are the standard deviations of the components, no noise added to them, so that the
          ladder ends at p itself. So it is here; p blurred by σ_L = 1 would end twice as wide.
PASS      annealed, the small mode weighs 0.20 ± 0.03; by plain dynamics it is off by more than 0.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..diagnose import wilson
from ..noise import geometric, uniform_like
from ..oracles import GaussianMixture
from ..samplers import annealed_langevin, final, langevin
from ..show import plots
from .finding import Finding, Setting, drawn
from .toy import WEIGHT, generated, mixture

CLOSE, OFF = 0.03, 0.1
STATEMENT = (
    f"the weight of the small mode is {WEIGHT} ± {CLOSE} by annealed Langevin dynamics, and off by "
    f"more than {OFF} by plain"
)


@dataclass(frozen=True)
class Scale:
    """The numbers of appendix B.1."""

    chains: int = 1280
    limit: float = 8.0
    steps: int = 1000
    annealed_steps: int = 100
    levels: int = 10
    sigma_max: float = 20.0
    sigma_min: float = 1.0
    epsilon: float = 0.1


def run(setting: Setting) -> Finding:
    """Draw the three clouds and weigh their small modes."""
    scale = Scale()
    clouds = sampled(scale, setting)
    counts = {name: int((x.sum(1) < 0).sum()) for name, x in clouds.items()}
    weights = {name: count / scale.chains for name, count in counts.items()}
    passed = abs(weights["annealed"] - WEIGHT) <= CLOSE and abs(weights["plain"] - WEIGHT) > OFF
    return Finding(
        STATEMENT,
        {f"weight of the small mode, {name}": weight for name, weight in weights.items()},
        passed,
        drawn(_picture(clouds, counts)),
        scaled="",
    )


def sampled(scale: Scale, setting: Setting) -> dict[str, Tensor]:
    """Exact samples, plain Langevin dynamics, and annealed."""
    truth, noise = mixture(), generated(setting.seed)
    start = scale.limit * (2 * uniform_like(torch.empty(scale.chains, 2), noise=noise) - 1)
    plain = langevin(
        truth,
        start,
        0.0,
        alpha=scale.epsilon,
        steps=setting.steps(scale.steps),
        convention="paper",
        noise=noise,
    )
    # at the components' standard deviation σ, p is its two means blurred by σ
    points = GaussianMixture(truth.means, 0.0, truth.weights)
    annealed = annealed_langevin(
        points,
        start,
        geometric(scale.sigma_max, scale.sigma_min, scale.levels),
        steps=setting.steps(scale.annealed_steps),
        epsilon=scale.epsilon,
        convention="paper",
        noise=noise,
    )
    return {
        "exact": truth.sample(scale.chains, noise=noise),
        "plain": final(plain),
        "annealed": final(annealed),
    }


def _picture(clouds: dict[str, Tensor], counts: dict[str, int]) -> Figure:
    truth = mixture()
    figure, axes = plots.panels(1, 3)
    for ax, (name, x) in zip(axes, clouds.items(), strict=True):
        plots.field(ax, truth, 0.0, limit=9, log_prob=truth.log_prob)
        plots.scatter(ax, x, (x.sum(1) < 0).long())
        low, high = wilson(counts[name], len(x))
        share = f"small mode {counts[name] / len(x):.3f}, 95 % in {low:.3f} to {high:.3f}"
        ax.set_title(f"{TITLES[name]}\n{share}", fontsize=11)
    figure.supxlabel(f"{len(x)} samples each; the small mode's true weight is {WEIGHT}", fontsize=9)
    return figure


TITLES = {
    "exact": "exact samples",
    "plain": "Langevin dynamics",
    "annealed": "annealed Langevin dynamics",
}
