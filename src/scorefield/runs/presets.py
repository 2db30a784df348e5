"""Experiments by name: those of the papers, and ours on data that need no download.

    [P]  number from the paper             [C]  from the authors' configuration
    [S]  from `suggest`, given the data    unmarked numbers are ours

All of them dequantise 8-bit pixels and start chains from a Gaussian with the data's mean and
covariance. The authors start from uniform noise, and only their first code dequantises.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .config import Data, Experiment, Keeping, Levels, Machine, Sampling, Training

# ── Small ones ───────────────────────────────────────────────────────────────────────────────────


def digits() -> Experiment:
    """An MLP with EDM's preconditioner for 8 × 8 digits, in about two minutes; σ's range is [S].

    With so few pixels it learned more in the same time than the UNets that were tried. `make study`
    compares its samples with real digits.
    """
    return Experiment(
        network={"kind": "MLP", "width": 384, "blocks": 4},
        levels=Levels(mean=-1.2, std=1.1),
        training=Training(steps=3000, rate=2e-3, schedule="cosine", warmup=50, clip=1.0, ema=0.998),
        keeping=Keeping(best="last"),
        machine=Machine(threads=1),  # a step is too small for two
    )


def digits_ncsn() -> Experiment:
    """The NCSN for MNIST on 8 × 8 digits: `ncsn_mnist` with 10,000 steps."""
    paper = ncsn_mnist()
    return replace(
        paper,
        data=Data("digits"),
        training=replace(paper.training, steps=10_000),
        keeping=Keeping(),
    )


def photos() -> Experiment:
    """A UNet with EDM's preconditioner for 32 × 32 colour crops of two photographs; σ is [S]."""
    return Experiment(
        data=Data("photos", flip=True),
        network=_unet(width=64, multipliers=[1, 2, 2], blocks=2, attention=[2]),
        training=Training(steps=50_000, batch=64, rate=5e-4, schedule="cosine", clip=1.0),
        sampling=Sampling(steps=32),
        keeping=Keeping(samples=5000),
    )


def vectors() -> Experiment:
    """An MLP with EDM's preconditioner for eight Gaussians on a circle in the plane; σ is [S].

    It trains in a minute on one core; `make study` compares its samples with exact ones. There are
    100,000 training samples because with 10,000 the random weights of the modes alone would put
    the samples √1.5 times as far from the truth as exact ones.
    """
    return Experiment(
        data=Data("mixture", {"n": 100_000}),
        network={"kind": "MLP", "width": 128, "blocks": 3},
        training=Training(steps=3000, batch=256, rate=2e-3, schedule="cosine", ema=0.995),
        keeping=Keeping(evaluate=1000, checkpoint=1000),
    )


def table() -> Experiment:
    """A small MLP with EDM's preconditioner for the rows of a table; σ is in standard deviations.

    It drops a fifth of its features in training, because it could memorise a table of some hundred
    rows. `make study` measures its samples.
    """
    return Experiment(
        data=Data("wine"),
        network={"kind": "MLP", "width": 128, "blocks": 2, "dropout": 0.2},
        levels=Levels(sigma_max=20.0, sigma_min=0.02, count=20, mean=-0.5),
        training=Training(steps=2000, schedule="cosine", clip=1.0, ema=0.995),
        sampling=Sampling(steps=32),
        keeping=Keeping(best="last"),
        machine=Machine(threads=1),
    )


def signals() -> Experiment:
    """A one-dimensional UNet with EDM's preconditioner for signals; σ is [S]."""
    return Experiment(
        data=Data("signals"),
        network=_unet(width=32, multipliers=[1, 2, 2], blocks=1, attention=[2], dropout=0.0),
        training=Training(steps=3000, schedule="cosine", clip=1.0),
        keeping=Keeping(evaluate=1000, checkpoint=1000),
    )


def _unet(**changes: Any) -> dict[str, Any]:
    """A UNet in the form of DDPM++, conditioned on ¼ log σ, which varies less than log σ."""
    form = {"fourier_scale": 1.0, "fir": None, "progressive_input": "none"}
    return {"kind": "UNet", **form, **changes}


# ── Song & Ermon 2019 ────────────────────────────────────────────────────────────────────────────


def ncsn_mnist() -> Experiment:
    """NCSN on MNIST (Song & Ermon 2019, §5, app. A.3 and B.2).

    [P] RefineNet of 4 cascades, half of 128 filters; 10 levels from 1 to 0.01; λ = σ²; Adam, 1e-3,
    batch 128, 200,000 steps, a checkpoint each 5,000; T = 100, ε = 2e-5.
    [P] has no averaged weights and no last step to σ = 0. [C] Adam's β and ε.
    """
    return Experiment(
        data=Data("mnist"),
        network={"kind": "RefineNet", "width": 64, "depth": "original"},
        levels=Levels("NCSN", "discrete", sigma_max=1.0, sigma_min=0.01, count=10, centre=0.0),
        training=Training(weight="ncsn", steps=200_000, batch=128, rate=1e-3, ema=0.0),
        sampling=Sampling("annealed_langevin", steps=100, epsilon=2e-5, denoise=False),
        keeping=RARELY,
    )


def ncsn_cifar10() -> Experiment:
    """NCSN on CIFAR-10 (Song & Ermon 2019): `ncsn_mnist` with [P] 128 filters and random flips.

    [P] publishes the figures of the checkpoint with the least FID on 1,000 samples.
    """
    return replace(
        ncsn_mnist(),
        data=Data("cifar10", flip=True),
        network={"kind": "RefineNet", "width": 128, "depth": "original"},
    )


def ncsn_celeba() -> Experiment:
    """NCSN on CelebA: `ncsn_cifar10` on [P] the central 140 × 140 pixels, scaled to 32 × 32."""
    return replace(ncsn_cifar10(), data=Data("celeba", {"crop": 140, "size": 32}, flip=True))


# ── Song & Ermon 2020 ────────────────────────────────────────────────────────────────────────────


def ncsnv2_cifar10() -> Experiment:
    """NCSNv2 on CIFAR-10 (Song & Ermon 2020, app. B).

    [P] RefineNet of 128 filters, not conditioned on σ; 232 levels from 50 to 0.01; λ = σ²; Adam,
    1e-4, batch 128, 300,000 steps; averaged at 0.999; random flips; T = 5, ε = 6.2e-6, a last step
    to σ = 0.
    [C] Adam's β and ε; a checkpoint every 5,000.
    """
    return Experiment(
        data=Data("cifar10", flip=True),
        network={"kind": "RefineNet", "width": 128, "depth": "original"},
        levels=Levels("NCSNv2", "discrete", sigma_max=50.0, sigma_min=0.01, count=232, centre=0.0),
        training=Training(weight="ncsn", steps=300_000, batch=128, rate=1e-4, ema=0.999),
        sampling=Sampling("annealed_langevin", steps=5, epsilon=6.2e-6, levels=232),
        keeping=RARELY,
    )


def ncsnv2_celeba() -> Experiment:
    """NCSNv2 on CelebA at 64 × 64: `ncsnv2_cifar10` with other numbers.

    [P] the central 140 × 140 pixels, scaled; 500 levels from 90; 210,000 steps; ε = 3.3e-6.
    [C] the network of CIFAR-10; the deeper one is for the 128 × 128 pixels of LSUN.
    """
    cifar10 = ncsnv2_cifar10()
    return replace(
        cifar10,
        data=Data("celeba", {"crop": 140, "size": 64}, flip=True),
        levels=replace(cifar10.levels, sigma_max=90.0, count=500),
        training=replace(cifar10.training, steps=210_000),
        sampling=replace(cifar10.sampling, epsilon=3.3e-6, levels=500),
    )


# ── Song et al. 2021 ─────────────────────────────────────────────────────────────────────────────


def ncsnpp_cifar10() -> Experiment:
    """NCSN++ cont. on CIFAR-10 (Song et al. 2021, app. H); `network.blocks=8` is the deep one.

    [P] FIR resampling, rescaled skips, BigGAN's blocks, 4 at each size, residual input; Fourier
    features of scale 16; 950,000 steps (the code has 1.3 million), batch 128; averaged at 0.999;
    Adam, 2e-4, a warm-up of 5,000 and gradients clipped at 1, by Ho et al. 2020; 1,000 steps of
    reverse diffusion with one correction each, r = 0.16.
    [C] width 128 × (1, 2, 2, 2), attention at 16 × 16, dropout 0.1; σ from 50 to 0.01, λ = σ²;
    Adam's β and ε; random flips; a checkpoint every 50,000, and one to resume from every 10,000.
    Our corrections use the same step for each sample; `predictor_corrector` explains why.
    """
    return Experiment(
        data=Data("cifar10", flip=True),
        network={"kind": "UNet"},  # its defaults
        levels=Levels("VE", "loguniform", sigma_max=50.0, sigma_min=0.01, count=1000, centre=0.5),
        training=Training(weight="ncsn", steps=950_000, rate=2e-4, warmup=5000, clip=1.0),
        sampling=Sampling("predictor_corrector", steps=1000, grid="geometric"),
        keeping=replace(RARELY, checkpoint=10_000, samples=50_000),
    )


RARELY = Keeping(log=50, evaluate=5000, samples=5000, checkpoint=5000)
"""For runs that take days."""

PRESETS: dict[str, Callable[[], Experiment]] = {
    "digits": digits,
    "digits-ncsn": digits_ncsn,
    "photos": photos,
    "vectors": vectors,
    "table": table,
    "signals": signals,
    "ncsn-mnist": ncsn_mnist,
    "ncsn-cifar10": ncsn_cifar10,
    "ncsn-celeba": ncsn_celeba,
    "ncsnv2-cifar10": ncsnv2_cifar10,
    "ncsnv2-celeba": ncsnv2_celeba,
    "ncsnpp-cifar10": ncsnpp_cifar10,
}
"""All presets, as `scorefield train PRESET` takes them."""
