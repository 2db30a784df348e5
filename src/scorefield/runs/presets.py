"""Experiments by name: those of the papers, and ours on data that need no download.

    [P]  number from the paper             [C]  from the authors' configuration
    [S]  from `suggest`, given the data    unmarked numbers are ours

All of them dequantise 8-bit pixels and start chains from a Gaussian with the data's mean and
covariance. The authors start from uniform noise, and only their first code dequantises.
"""

from dataclasses import replace
from math import log
from typing import Any

from .config import Data, Experiment, Keeping, Levels, Machine, Sampling, Training

# ── Song & Ermon 2019 ────────────────────────────────────────────────────────────────────────────

RARELY = Keeping(log=50, evaluate=5000, samples=5000, checkpoint=5000)
"""Intervals for runs that take days."""

NCSN_MNIST = Experiment(
    data=Data("mnist"),
    network={"kind": "RefineNet", "width": 64, "depth": "original"},
    levels=Levels("NCSN", "discrete", sigma_max=1.0, sigma_min=0.01, count=10, centre=0.0),
    training=Training(weight="ncsn", steps=200_000, batch=128, rate=1e-3, ema=0.0),
    sampling=Sampling("annealed_langevin", steps=100, epsilon=2e-5, denoise=False),
    keeping=RARELY,
)
"""NCSN on MNIST (Song & Ermon 2019, §5, app. A.3 and B.2).

[P] RefineNet of 4 cascades, half of 128 filters; 10 levels from 1 to 0.01; λ = σ²; Adam, 1e-3,
batch 128, 200,000 steps, a checkpoint each 5,000; T = 100, ε = 2e-5.
[P] has no averaged weights and no last step to σ = 0. [C] Adam's β and ε.
"""

NCSN_CIFAR10 = replace(
    NCSN_MNIST,
    data=Data("cifar10", flip=True),
    network={"kind": "RefineNet", "width": 128, "depth": "original"},
)
"""[P] 128 filters and random flips, and the figures of the checkpoint with the least FID on 1,000
samples."""

# [P] the central 140 × 140 pixels, scaled to 32 × 32
NCSN_CELEBA = replace(NCSN_CIFAR10, data=Data("celeba", {"crop": 140, "size": 32}, flip=True))

# ── Song & Ermon 2020 ────────────────────────────────────────────────────────────────────────────

NCSNV2_CIFAR10 = Experiment(
    data=Data("cifar10", flip=True),
    network={"kind": "RefineNet", "width": 128, "depth": "original"},
    levels=Levels("NCSNv2", "discrete", sigma_max=50.0, sigma_min=0.01, count=232, centre=0.0),
    training=Training(weight="ncsn", steps=300_000, batch=128, rate=1e-4, ema=0.999),
    sampling=Sampling("annealed_langevin", steps=5, epsilon=6.2e-6, levels=232),
    keeping=RARELY,
)
"""NCSNv2 on CIFAR-10 (Song & Ermon 2020, app. B).

[P] RefineNet of 128 filters, not conditioned on σ; 232 levels from 50 to 0.01; λ = σ²; Adam, 1e-4,
batch 128, 300,000 steps; averaged at 0.999; random flips; T = 5, ε = 6.2e-6, a last step to σ = 0.
[C] Adam's β and ε; a checkpoint every 5,000.
"""

NCSNV2_CELEBA = replace(
    NCSNV2_CIFAR10,
    data=Data("celeba", {"crop": 140, "size": 64}, flip=True),
    levels=replace(NCSNV2_CIFAR10.levels, sigma_max=90.0, count=500),
    training=replace(NCSNV2_CIFAR10.training, steps=210_000),
    sampling=replace(NCSNV2_CIFAR10.sampling, epsilon=3.3e-6, levels=500),
)
"""NCSNv2 on CelebA at 64 × 64.

[P] the central 140 × 140 pixels, scaled; 500 levels from 90; 210,000 steps; ε = 3.3e-6.
[C] the network of CIFAR-10; the deeper one is for the 128 × 128 pixels of LSUN.
"""

# ── Song et al. 2021 ─────────────────────────────────────────────────────────────────────────────

NCSNPP_CIFAR10 = Experiment(
    data=Data("cifar10", flip=True),
    network={"kind": "UNet"},  # its defaults
    levels=Levels("VE", "loguniform", sigma_max=50.0, sigma_min=0.01, count=1000, centre=0.5),
    training=Training(weight="ncsn", steps=950_000, rate=2e-4, warmup=5000, clip=1.0, ema=0.999),
    sampling=Sampling("predictor_corrector", steps=1000, grid="geometric"),
    keeping=replace(RARELY, checkpoint=10_000, samples=50_000),
)
"""NCSN++ cont. on CIFAR-10 (Song et al. 2021, app. H); `network.blocks=8` is the deep one.

[P] FIR resampling, rescaled skips, BigGAN's blocks, 4 at each size, residual input; Fourier
features of scale 16; 950,000 steps (the code has 1.3 million), batch 128; averaged at 0.999; Adam,
2e-4, a warm-up of 5,000 and gradients clipped at 1, by Ho et al. 2020; 1,000 steps of reverse
diffusion with one correction each, r = 0.16.
[C] width 128 × (1, 2, 2, 2), attention at 16 × 16, dropout 0.1; σ from 50 to 0.01, λ = σ²; Adam's β
and ε; random flips; a checkpoint every 50,000, and one to resume from every 10,000.
Our corrections use the same step for each sample; `predictor_corrector` explains why.
"""

# ── Karras et al. 2022 ───────────────────────────────────────────────────────────────────────────


def _edm_recipe(data: Data, images: float, rate: float, steps: int, **network: Any) -> Experiment:
    """Return EDM's recipe with DDPM++, which trains on 200 million images.

    Durations are published in images: a batch of `images` is a step.
    """
    form = {"embedding": "sinusoidal", "fir": None, "progressive_input": "none"}
    return Experiment(
        data=data,
        network={"kind": "UNet", **form, **network},
        levels=Levels(
            sigma_max=40.0, sigma_min=0.001, mean=-1.2 - log(2), sigma_data=0.25, centre=0.5
        ),
        training=Training(
            steps=round(200e6 / images),
            batch=round(images),
            rate=rate,
            warmup=round(10e6 / images),
            ema=0.5 ** (images / 0.5e6),
        ),
        sampling=Sampling(steps=steps),
        keeping=replace(RARELY, samples=50_000),
    )


EDM_CIFAR10 = _edm_recipe(
    Data("cifar10", augment=0.12),
    images=512,
    rate=1e-3,
    steps=18,
    multipliers=[2, 2, 2],
    attention=[1],
    dropout=0.13,
)
"""EDM on CIFAR-10, DDPM++ (Karras et al. 2022, tables 1, 7 and 8, app. F.2).

[P] widths of 128 × (2, 2, 2), 4 blocks at each size, attention at 16 × 16, box filter; dropout
0.13; batch 512, 200 million images; Adam, 1e-3, a warm-up of 10 million images; averaged with a
half-life of 0.5 million; log σ ~ N(−1.2, 1.2²), σ_d = 0.5, their weight; Heun's method, 18 levels
from 80 to 0.002 with ρ = 7; augmented with probability 0.12. Their pixels are in [−1, 1] and ours
in [0, 1], so each σ is a half.
[C] Adam's β and ε; half of all images are mirrored, as part of the augmentation.

What differs: the network gets ¼ log σ of ours, which is ¼ log 2 less. A class and the augmentation
enter after the layers of the embedded noise level, not before. Images are transformed by bicubic
interpolation, theirs by wavelets. At first the half-life of our average is 0.08 of the steps done,
and theirs 0.05. They do not dequantise.
"""

EDM_CIFAR10_CLASSES = replace(
    EDM_CIFAR10,
    data=replace(EDM_CIFAR10.data, labels=True),
    network={**EDM_CIFAR10.network, "label_dropout": 0.0},
)
"""[P] by class, with the same numbers. [C] no class is withheld, so there is no guidance."""

EDM_FACES = _edm_recipe(
    Data("celeba", {"size": 64}, augment=0.15),
    images=256,
    rate=2e-4,
    steps=40,
    multipliers=[1, 2, 2, 2],
    attention=[2],
    dropout=0.05,
)
"""EDM on 64 × 64 faces: the numbers of FFHQ, on CelebA or a folder named by --data.

[P] widths of 128 × (1, 2, 2, 2), attention at 16 × 16, dropout 0.05 (0.25 for AFHQ's 15,000
images), augmented with probability 0.15, batch 256, rate 2e-4, 40 levels; all else as for CIFAR-10.
The paper has no CelebA.
"""

# ── Ours ─────────────────────────────────────────────────────────────────────────────────────────


def _unet(**changes: Any) -> dict[str, Any]:
    """Return a UNet in the form of DDPM++, conditioned on ¼ log σ, which varies less than log σ."""
    form = {"fourier_scale": 1.0, "fir": None, "progressive_input": "none"}
    return {"kind": "UNet", **form, **changes}


CONSISTENCY = (
    "levels.distribution=lognormal", "levels.mean=null", "levels.std=2.0",
    "sampling.sampler=consistency", "sampling.steps=2", "sampling.grid=karras",
    "sampling.denoise=true", "keeping.best=last",
)  # fmt: skip
"""Settings of a run with the objective consistency, in place of the preset's (Geng et al. 2024).

Its losses at different stages say little about the samples, so the last weights are kept.
"""
CONSISTENCY_RATE = 0.15
"""Rate of consistency tuning, in that of the preset.

A rate of 0.5 left the weights of modes in the plane to chance, and digits three times as far away.
"""

PRESETS = {
    # 8 × 8 digits in about two minutes; σ is [S]. With so few pixels an MLP learned more in the
    # same time than the UNets that were tried. `make study` compares its samples with real digits.
    "digits": Experiment(
        network={"kind": "MLP", "width": 384, "blocks": 4},
        levels=Levels(mean=-1.2, std=1.1),
        training=Training(steps=3000, rate=2e-3, schedule="cosine", warmup=50, clip=1.0, ema=0.998),
        keeping=Keeping(best="last"),
        machine=Machine(threads=1),  # a step is too small for two
    ),
    "digits-ncsn": replace(
        NCSN_MNIST,
        data=Data("digits"),
        training=replace(NCSN_MNIST.training, steps=10_000),
        keeping=Keeping(),
    ),
    # 32 × 32 colour crops of two photographs; σ is [S]
    "photos": Experiment(
        data=Data("photos", flip=True),
        network=_unet(width=64, multipliers=[1, 2, 2], blocks=2, attention=[2]),
        training=Training(steps=50_000, batch=64, rate=5e-4, schedule="cosine", clip=1.0),
        sampling=Sampling(steps=32),
        keeping=Keeping(samples=5000),
    ),
    # Eight Gaussians on a circle in the plane, in a minute on one core; σ is [S]. With 10,000
    # training samples the random weights of the modes alone would put the model's samples √1.5
    # times as far from the truth as exact ones. `make study` compares them.
    "vectors": Experiment(
        data=Data("mixture", {"n": 100_000}),
        network={"kind": "MLP", "width": 128, "blocks": 3},
        training=Training(steps=3000, batch=256, rate=2e-3, schedule="cosine", ema=0.995),
        keeping=Keeping(evaluate=1000, checkpoint=1000),
    ),
    # The rows of a table; σ is in standard deviations. Dropout, because the network could memorise
    # some hundred rows. `make study` measures its samples.
    "table": Experiment(
        data=Data("wine"),
        network={"kind": "MLP", "width": 128, "blocks": 2, "dropout": 0.2},
        levels=Levels(sigma_max=20.0, sigma_min=0.02, count=20, mean=-0.5),
        training=Training(steps=2000, schedule="cosine", clip=1.0, ema=0.995),
        sampling=Sampling(steps=32),
        keeping=Keeping(best="last"),
        machine=Machine(threads=1),
    ),
    # p(θ | x) of simulations (θ, x); σ is in standard deviations of θ, and small enough for
    # posteriors a thousand times narrower than the prior. The observation enters the first layer
    # too. Half of the noise levels are below 0.08, because errors are largest at the width of
    # narrow posteriors. The least held-out loss chooses the weights, because the last ones memorise
    # a few thousand pairs. `make study` compares posteriors with the truth, given more pairs.
    "posterior": Experiment(
        data=Data("two-moons"),
        network={"kind": "MLP", "width": 128, "blocks": 4, "condition_input": True},
        levels=Levels(sigma_max=20.0, sigma_min=0.002, count=20, mean=-2.5, std=1.6),
        training=Training(
            steps=12_000, batch=256, rate=2e-3, schedule="cosine", clip=1.0, ema=0.998
        ),
        sampling=Sampling(steps=32),
        machine=Machine(threads=1),
    ),
    # one-dimensional signals; σ is [S]
    "signals": Experiment(
        data=Data("signals"),
        network=_unet(width=32, multipliers=[1, 2, 2], blocks=1, attention=[2], dropout=0.0),
        training=Training(steps=3000, schedule="cosine", clip=1.0),
        keeping=Keeping(evaluate=1000, checkpoint=1000),
    ),
    "ncsn-mnist": NCSN_MNIST,
    "ncsn-cifar10": NCSN_CIFAR10,
    "ncsn-celeba": NCSN_CELEBA,
    "ncsnv2-cifar10": NCSNV2_CIFAR10,
    "ncsnv2-celeba": NCSNV2_CELEBA,
    "ncsnpp-cifar10": NCSNPP_CIFAR10,
    "edm-cifar10": EDM_CIFAR10,
    "edm-cifar10-classes": EDM_CIFAR10_CLASSES,
    "edm-faces": EDM_FACES,
}
"""All presets, as `scorefield train PRESET` takes them; those without a paper use EDM's formula."""
