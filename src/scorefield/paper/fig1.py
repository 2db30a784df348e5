"""Figure 1: without noise the loss of sliced score matching never settles.

    E[vᵀ(∇ₓs)v + ½‖s‖²] of images, and of images + N(0, 1e-4)                       (§3.1, B.1)

Images lie near a surface of fewer dimensions and have no density whose score could be learned: the
loss falls without bound and fluctuates. With a little noise they have one, and the loss has a
minimum, −½E‖∇ log q‖², near −D/(2·1e-4) if they fill few of the D dimensions.

Setting   the paper's, appendix B.1: CIFAR-10; an autoencoder of 5 residual blocks of 32, 64, 64,
          128 and 128 features, the second and the fourth halving the image, and the same back, with
          ELU; Adam at 1e-3, batches of 128, 50,000 steps; the variance-reduced loss, one direction.
Ours      the direction is Rademacher's; pixels are the middles of their 8-bit cells, because
          dequantised ones have a density already. The fluctuation is the standard deviation of the
          running mean over a 50th of the steps, in the second half and without its linear trend.
Small     with noise the network has to learn a gain of 1/σ² = 10⁴ across the images' surface, and
          almost none along it: to come near the minimum it must know the surface to σ = 0.01. It
          can in minutes if images fill a quarter of the dimensions (they are enlarged), if its
          input is multiplied by 16, which divides the gain, and if gradients are clipped: a single
          one that is too large fills Adam's second moments for a thousand steps, in which hardly
          anything is learned.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from ..data import Batches, load_data
from ..fast.optimize import allow_tf32
from ..nn.small import Autoencoder
from ..objectives import sliced
from ..runs.config import Data
from ..show import plots
from ..show.progress import progress
from ..train import constant, cosine, train
from .finding import Finding, Setting

ADDED_SIGMA = 0.01
TRAINING_PARTS = 5
SMALLEST_FLUCTUATION_RATIO = 3.0
SMALLEST_SHARE_OF_MINIMUM = 0.5
LARGEST_FLUCTUATION_SHARE = 0.05
INPUT_GAIN = 16.0
"""A factor of the network's input at the small scale: the gain to learn is 1/(16σ²)."""
STATEMENT = (
    f"in the second half of training the loss fluctuates at least {SMALLEST_FLUCTUATION_RATIO:g} × "
    f"as much without noise as with N(0, 1e-4), where it falls from each of {TRAINING_PARTS} parts "
    f"of the training to the next, to at least {SMALLEST_SHARE_OF_MINIMUM:g} of -D/(2e-4), and "
    f"fluctuates by at most {LARGEST_FLUCTUATION_SHARE:g} of that"
)
SMALL_TRAINING = (
    "for CIFAR-10, crops of two photographs, 4 × 4 in grey, enlarged to 8 × 8; a quarter of the "
    f"features; the network gets {INPUT_GAIN:g} × (x - 0.5); 6,000 steps, not 50,000, Adam's rate "
    "rising to 1e-3 in 50 steps and falling as a cosine, gradients clipped to a norm of 1"
)


def run(setting: Setting) -> Finding:
    """Train with noise and without, and compare how the losses end."""
    curves = {sigma: training_losses(setting, sigma) for sigma in (0.0, ADDED_SIGMA)}
    plain, noisy = (fluctuation(curve) for curve in curves.values())
    minimum = -0.5 * images_by_step(setting)(0)[0].numel() / ADDED_SIGMA**2
    parts = [p.double().mean().item() for p in curves[ADDED_SIGMA].tensor_split(TRAINING_PARTS)]
    end = running_mean(curves[ADDED_SIGMA])[-1].item()
    return Finding(
        STATEMENT,
        {
            "fluctuation without noise": plain,
            "fluctuation with noise": noisy,
            **{f"loss with noise, part {i} of {len(parts)}": x for i, x in enumerate(parts, 1)},
            "loss with noise, at the end": end,
            "-D/(2e-4)": minimum,
        },
        plain >= SMALLEST_FLUCTUATION_RATIO * noisy
        and all(after < before for before, after in pairwise(parts))
        and end <= SMALLEST_SHARE_OF_MINIMUM * minimum
        and noisy <= LARGEST_FLUCTUATION_SHARE * abs(minimum),
        _loss_curves(curves, minimum),
        SMALL_TRAINING if setting.scale == "small" else "",
    )


def images_by_step(setting: Setting) -> Callable[[int], Tensor]:
    """Return the function that gives the images of each step."""
    small = setting.scale == "small"
    data = Data("photos", {"side": 4}) if small else setting.source(Data("cifar10"))
    source = load_data(data.source, **data.arguments).train.to(setting.device)
    size = setting.samples(128)
    batches = Batches(source, size, seed=setting.seed, dequantise=False, device=setting.device)
    return lambda step: enlarge(batches(step).x) if small else batches(step).x


def enlarge(x: Tensor) -> Tensor:
    """Return grey images of twice the size, which leave three quarters of the dimensions empty."""
    return F.interpolate(x.mean(1, keepdim=True), scale_factor=2, mode="bicubic")


def training_losses(setting: Setting, sigma: float) -> Tensor:
    """Train on images with noise of σ, and return the loss of each step."""
    if torch.device(setting.device).type != "cpu":
        allow_tf32(False)
    images, small = images_by_step(setting), setting.scale == "small"
    steps = setting.steps(6000 if small else 50_000)
    widths = (8, 16, 16, 32, 32) if small else (32, 64, 64, 128, 128)
    with torch.random.fork_rng([]):
        torch.manual_seed(setting.seed)
        net = Autoencoder(images(0).shape[1], widths=widths).to(setting.device)

    updates = train(
        net,
        images,
        lambda model, x, *, noise: sliced(
            lambda x, sigma: model(INPUT_GAIN * (x - 0.5) if small else x), x, sigma, noise=noise
        ),
        optimizer=torch.optim.Adam(net.parameters(), lr=1e-3),
        steps=steps,
        schedule=cosine(steps, warmup=50) if small else constant(),
        clip=1.0 if small else None,
        seed=setting.seed,
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if small else threads)  # more gain nothing at so small a step
    try:
        losses = [u.loss for u in progress(updates, steps, f"noise of {sigma:g}")]
        return torch.stack(losses).cpu()  # float64 follows, which not every device has
    finally:
        torch.set_num_threads(threads)


def running_mean(losses: Tensor) -> Tensor:
    """Return means over a 50th of the steps."""
    return losses.double().unfold(0, max(len(losses) // 50, 1), 1).mean(1)


def fluctuation(losses: Tensor) -> float:
    """Standard deviation of the second half of the running mean from its regression line."""
    y = running_mean(losses)[len(losses) // 2 :].numpy()
    if len(y) < 3:
        return float("nan")
    t = np.arange(len(y))
    return float(np.std(y - np.polyval(np.polyfit(t, y, 1), t)))


def _loss_curves(curves: dict[float, Tensor], minimum: float) -> Figure:
    figure, axes = plots.charts(2)
    titles = ("no noise", f"N(0, {ADDED_SIGMA**2:g}) added")
    for ax, (sigma, curve), title in zip(axes, curves.items(), titles, strict=True):
        ax.plot(range(1, len(curve) + 1), curve, color="#CCCCCC", linewidth=0.7, label="a batch")
        smooth = running_mean(curve)
        steps = range(len(curve) - len(smooth) + 1, len(curve) + 1)
        ax.plot(steps, smooth, color=plots.COLOURS[0], label="running mean")
        if sigma:
            ax.axhline(minimum, color="#999999", linestyle=":", label="−D/(2·1e-4)")
        ax.set(title=title, xlabel="step", ylabel="loss of sliced score matching")
        ax.legend(frameon=False)
    return figure
