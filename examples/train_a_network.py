"""
Train a small network
=====================

A residual MLP learns the score of eight Gaussians by denoising score matching. Their score is known
in closed form, so the error of the network can be measured at each noise level.
"""

import torch

from scorefield import (
    EDM,
    MLP,
    LogNormal,
    Prior,
    ScoreModel,
    annealed,
    denoising,
    edm_weight,
    sample,
    seeded,
)
from scorefield.data import all_samples, load_data
from scorefield.show import plots
from scorefield.train import MovingAverage, cosine, train

torch.set_num_threads(1)
torch.manual_seed(0)
data = load_data("mixture", n=20_000)
x = all_samples(data.train)
truth = data.oracle
ends = {"sigma_max": 25.0, "sigma_min": 0.02}
model = ScoreModel(MLP(2, width=96, blocks=2), EDM(2.9, **ends), prior=Prior.fit(x))


def levels(z):
    """Return noise levels from standard normal numbers, most of them where modes separate."""
    return LogNormal(0.0, 1.3)(z).clamp(0.02, 25.0)


def batch(step):
    """Return random samples."""
    return x[torch.randint(len(x), (256,))]


steps = 1_500
loss = annealed(denoising, levels, edm_weight(2.9))
average = MovingAverage(model, 0.99)
optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
rule = {"optimizer": optimizer, "steps": steps, "schedule": cosine(steps), "ema": average}
losses = [float(update.loss) for update in train(model, batch, loss, **rule)]
print(f"loss: {sum(losses[:100]) / 100:.2f} at first, {sum(losses[-100:]) / 100:.2f} at the end")

learned = average.module
for sigma in (0.1, 0.3, 1.0, 3.0, 10.0):
    noisy = truth.sample(2_000, sigma, noise=seeded(0))
    error = (learned(noisy, sigma) - truth(noisy, sigma)).norm() / truth(noisy, sigma).norm()
    print(f"σ = {sigma:<4g} relative error of the score {error:.3f}")

figure, axes = plots.panels(1, 3)
plots.scatter(axes[0], x)
plots.scatter(axes[1], sample(learned, 4_000, steps=24, batch=4_000).detach())
plots.field(axes[2], learned, 1.0, limit=7, log_prob=truth.log_prob)
for ax, title in zip(axes, ("data", "samples of the network", "its score at σ = 1"), strict=True):
    ax.set_title(title)
figure.savefig("train_a_network.png", dpi=150)
