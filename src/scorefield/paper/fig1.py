"""Figure 1: without noise the loss of sliced score matching never settles.

    E[vᵀ(∇ₓs)v + ½‖s‖²] of images, and of images + N(0, 1e-4)                       (§3.1, B.1)

Images lie near a surface of fewer dimensions, and have no density whose score could be learned: the
loss falls without a bound and fluctuates. With a little noise they have one, and the loss a least
value, −½E‖∇ log q‖², near −D/(2·1e-4) if they fill few of the D dimensions.

Setting   the paper's, appendix B.1: CIFAR-10; an autoencoder of 5 residual blocks of 32, 64, 64,
          128 and 128 features, the second and the fourth halving the image, and the same back, with
          ELU; Adam at 1e-3, batches of 128, 50,000 steps.
Ours      the variance-reduced loss with one Rademacher direction; pixels are the middles of their
          8-bit cells, for what is dequantised has a density already. The fluctuation: the
          standard deviation of the running mean over a 50th of the steps, in the second half and
          without its linear trend.
Tried     at the small scale, where minutes are few: with noise the network has to learn a gain of
          1/σ² = 10⁴, of which a few hundred steps reach a hundredth. Of crops of photographs the
          loss falls steadily from there (8 × 8, batches of 256: to −6·10³ in 300 steps, and its
          fluctuation is then 1/1.6 of that without noise). Of the digits it does not: black
          margins and few shades make it jump with noise too, to −2·10³ after 2,000 steps of 64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from .. import plots
from .._ops import Noise
from ..config import Data
from ..data import Batches
from ..data import load as load_data
from ..nn.small import Autoencoder
from ..objectives import sliced
from ..samplers import progress
from ..score import Score
from ..train import train
from .finding import Finding, Setting, drawn
from .toy import unconditional

SIGMA = 0.01
TIMES = 3.0
STATEMENT = (
    f"in the second half of training the loss fluctuates at least {TIMES:g} × as much without "
    "noise as with N(0, 1e-4), where it goes on falling"
)


@dataclass(frozen=True)
class Scale:
    """How much of the experiment is done."""

    data: Data
    steps: int
    batch: int
    widths: tuple[int, ...]
    rate: float = 1e-3


SCALES = {
    "paper": Scale(Data("cifar10"), steps=50_000, batch=128, widths=(32, 64, 64, 128, 128)),
    "small": Scale(Data("photos", {"side": 8}), steps=2000, batch=128, widths=(8, 16, 16, 32, 32)),
}
SCALED = (
    "crops of two photographs, 8 × 8 in colour, for CIFAR-10; a quarter of the features; 2,000 "
    "steps, not 50,000"
)


def run(setting: Setting) -> Finding:
    """Train twice, and compare how the losses end."""
    scale = SCALES[setting.scale]
    curves = {sigma: losses(scale, setting, sigma) for sigma in (0.0, SIGMA)}
    plain, noisy = (fluctuation(curve) for curve in curves.values())
    smooth = running_mean(curves[SIGMA])
    level = -0.5 * _size(scale, setting) / SIGMA**2
    middle, end = smooth[len(smooth) // 2].item(), smooth[-1].item()
    return Finding(
        STATEMENT,
        {
            "fluctuation without noise": plain,
            "fluctuation with noise": noisy,
            "loss with noise, half-way": middle,
            "loss with noise, at the end": end,
            "its level, -D/(2e-4)": level,
        },
        plain >= TIMES * noisy and end < middle,
        drawn(_picture(curves, level)),
        scaled=SCALED if setting.scale == "small" else "",
    )


def losses(scale: Scale, setting: Setting, sigma: float) -> Tensor:
    """The loss of each step."""
    data = setting.source(scale.data)
    source = load_data(data.source, **data.options).train.to(setting.device)
    batches = Batches(
        source,
        setting.samples(scale.batch),
        seed=setting.seed,
        dequantise=False,
        device=setting.device,
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(setting.seed)
        net = Autoencoder(source.shape[0], widths=scale.widths).to(setting.device)

    def loss(model: Score, x: Tensor, *, noise: Noise) -> Tensor:
        return sliced(unconditional(net), x, sigma, noise=noise)

    updates = train(
        net,
        lambda step: batches(step).x,
        loss,
        optimizer=torch.optim.Adam(net.parameters(), lr=scale.rate),
        steps=(steps := setting.steps(scale.steps)),
        seed=setting.seed,
    )
    print(f"  the loss with noise of {sigma:g}: {steps} steps", flush=True)
    return torch.tensor([update.loss for update in progress(updates, steps)])


def running_mean(losses: Tensor) -> Tensor:
    """Means over a 50th of the steps."""
    return losses.double().unfold(0, max(len(losses) // 50, 1), 1).mean(1)


def fluctuation(losses: Tensor) -> float:
    """The deviation of the second half of the running mean from its line of least squares."""
    y = running_mean(losses)[len(losses) // 2 :].numpy()
    if len(y) < 3:
        return float("nan")
    t = np.arange(len(y))
    return float(np.std(y - np.polyval(np.polyfit(t, y, 1), t)))


def _size(scale: Scale, setting: Setting) -> int:
    data = setting.source(scale.data)
    return load_data(data.source, **data.options).train.shape.numel()


def _picture(curves: dict[float, Tensor], level: float) -> Figure:
    figure, axes = plots.charts(2)
    titles = ("no noise", f"N(0, {SIGMA**2:g}) added")
    for ax, (sigma, curve), title in zip(axes, curves.items(), titles, strict=True):
        ax.plot(range(1, len(curve) + 1), curve, color="#CCCCCC", linewidth=0.7, label="a batch")
        smooth = running_mean(curve)
        first = len(curve) - len(smooth) + 1
        steps = range(first, len(curve) + 1)
        ax.plot(steps, smooth, color=plots.COLOURS[0], label="running mean")
        if sigma:
            ax.axhline(level, color="#999999", linestyle=":", label="−D/(2·1e-4)")
        ax.set(title=title, xlabel="step", ylabel="loss of sliced score matching")
        ax.legend(frameon=False)
    return figure
