"""Figure 1: without noise the loss of sliced score matching never settles.

    E[vᵀ(∇ₓs)v + ½‖s‖²] of images, and of images + N(0, 1e-4)                       (§3.1, B.1)

Images lie near a surface of fewer dimensions, and have no density whose score could be learned: the
loss falls without a bound and fluctuates. With a little noise they have one, and the loss a least
value, −½E‖∇ log q‖², near −D/(2·1e-4) if they fill few of the D dimensions.

Setting   the paper's, appendix B.1: CIFAR-10; an autoencoder of 5 residual blocks of 32, 64, 64,
          128 and 128 features, the second and the fourth halving the image, and the same back, with
          ELU; Adam at 1e-3, batches of 128, 50,000 steps.
          The loss is the variance-reduced one with one direction.
Code      no part of this experiment is taken from it.
Ours      the direction is Rademacher's; pixels are the middles of their 8-bit cells, for what is
          dequantised has a density already. The fluctuation: the standard deviation of the running
          mean over a 50th of the steps, in the second half and without its linear trend.
Small     with noise the network has to learn a gain of 1/σ² = 10⁴ across the images' surface, and
          next to none along it: to be near the level it must know the surface to σ = 0.01. In
          minutes it can if images fill a quarter of the dimensions (they are enlarged), if it is
          given standardised pixels, and if gradients are clipped: one that is too large fills
          Adam's second moments for a thousand steps, in which hardly anything is learned.
PASS      in the second half the loss without noise fluctuates ≥ 3 × as much as with noise, where it
          falls from each fifth of the training to the next, to at least half of −D/(2·1e-4), and
          fluctuates by at most 5 % of that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from .._ops import Noise, Sigma
from ..data import Batches, load_data
from ..nn.small import Autoencoder
from ..objectives import sliced
from ..runs.config import Data
from ..samplers import progress
from ..score import Score
from ..show import plots
from ..train import constant, cosine, train
from .finding import Finding, Setting, drawn, threads

SIGMA = 0.01
TIMES, NEAR, SMOOTH, PARTS = 3.0, 0.5, 0.05, 5
STATEMENT = (
    f"in the second half of training the loss fluctuates at least {TIMES:g} × as much without "
    f"noise as with N(0, 1e-4), where it falls from each of {PARTS} parts of the training to the "
    f"next, to at least {NEAR:g} of -D/(2e-4), and fluctuates by at most {SMOOTH:g} of that"
)


def as_they_are(x: Tensor) -> Tensor:
    """What the paper's setting does to images."""
    return x


def enlarged(x: Tensor) -> Tensor:
    """The mean of the colours, twice as large: of the dimensions three quarters are empty."""
    return F.interpolate(x.mean(1, keepdim=True), scale_factor=2, mode="bicubic")


def standardised(x: Tensor) -> Tensor:
    """About the mean and deviation of photographs to 0 and 1."""
    return 4 * (x - 0.5)


@dataclass(frozen=True)
class Scale:
    """How much of the experiment is done, and with what help.

    Attributes:
        data: The images.
        steps: Of training.
        batch: Of images.
        widths: Features of the encoder.
        rate: Of Adam, at the start.
        prepared: What is done to the images.
        given: What the network is given of a noisy image.
        schedule: The factor of the rate at each step of so many.
        clip: The largest norm of a gradient.
        threads: Of a CPU, for steps so small that they gain nothing from more.
    """

    data: Data
    steps: int
    batch: int
    widths: tuple[int, ...]
    rate: float = 1e-3
    prepared: Callable[[Tensor], Tensor] = as_they_are
    given: Callable[[Tensor], Tensor] = as_they_are
    schedule: Callable[[int], Callable[[int], float]] = lambda steps: constant()
    clip: float | None = None
    threads: int | None = None


SCALES = {
    "paper": Scale(Data("cifar10"), steps=50_000, batch=128, widths=(32, 64, 64, 128, 128)),
    "small": Scale(
        Data("photos", {"side": 4}),
        steps=6000,
        batch=128,
        widths=(8, 16, 16, 32, 32),
        rate=3e-3,
        prepared=enlarged,
        given=standardised,
        schedule=partial(cosine, warmup=50),
        clip=1.0,
        threads=1,
    ),
}
SCALED = (
    "for CIFAR-10, crops of two photographs, 4 × 4 in grey, enlarged to 8 × 8; a quarter of the "
    "features; the network is given standardised pixels; 6,000 steps, not 50,000, Adam's rate "
    "rising to 3e-3 in 50 steps and falling as a cosine, not 1e-3 throughout, gradients clipped to "
    "a norm of 1"
)


def run(setting: Setting) -> Finding:
    """Train twice, and compare how the losses end."""
    scale = SCALES[setting.scale]
    curves = {sigma: losses(scale, setting, sigma) for sigma in (0.0, SIGMA)}
    plain, noisy = (fluctuation(curve) for curve in curves.values())
    level = -0.5 * batches_of(scale, setting)(0)[0].numel() / SIGMA**2
    parts = [part.double().mean().item() for part in curves[SIGMA].tensor_split(PARTS)]
    end = running_mean(curves[SIGMA])[-1].item()
    return Finding(
        STATEMENT,
        {
            "fluctuation without noise": plain,
            "fluctuation with noise": noisy,
            **{f"loss with noise, part {i} of {PARTS}": part for i, part in enumerate(parts, 1)},
            "loss with noise, at the end": end,
            "its level, -D/(2e-4)": level,
        },
        plain >= TIMES * noisy and settles(parts, end, noisy, level),
        drawn(_picture(curves, level)),
        scaled=SCALED if setting.scale == "small" else "",
    )


def settles(parts: Sequence[float], end: float, fluctuates: float, level: float) -> bool:
    """Whether a loss falls smoothly towards its level."""
    falls = all(after < before for before, after in pairwise(parts))
    return falls and end <= NEAR * level and fluctuates <= SMOOTH * abs(level)


def batches_of(scale: Scale, setting: Setting) -> Callable[[int], Tensor]:
    """The images of each step."""
    data = setting.source(scale.data)
    source = load_data(data.source, **data.options).train.to(setting.device)
    size = setting.samples(scale.batch)
    batches = Batches(source, size, seed=setting.seed, dequantise=False, device=setting.device)
    return lambda step: scale.prepared(batches(step).x)


def losses(scale: Scale, setting: Setting, sigma: float) -> Tensor:
    """The loss of each step."""
    batches = batches_of(scale, setting)
    with torch.random.fork_rng([]):
        torch.manual_seed(setting.seed)
        net = Autoencoder(batches(0).shape[1], widths=scale.widths).to(setting.device)

    def score(x: Tensor, sigma: Sigma) -> Tensor:
        s: Tensor = net(scale.given(x))
        return s

    def loss(model: Score, x: Tensor, *, noise: Noise) -> Tensor:
        return sliced(score, x, sigma, noise=noise)

    updates = train(
        net,
        batches,
        loss,
        optimizer=torch.optim.Adam(net.parameters(), lr=scale.rate),
        steps=(steps := setting.steps(scale.steps)),
        schedule=scale.schedule(steps),
        clip=scale.clip,
        seed=setting.seed,
    )
    print(f"  the loss with noise of {sigma:g}: {steps} steps", flush=True)
    with threads(scale.threads):
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
