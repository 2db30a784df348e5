"""
Guidance, and the distribution that it does not sample
======================================================

Classifier-free guidance adds (w − 1)·(s_c − s_u) to the score of a class. At each σ this is the
score of p(x | c)ʷ p(x)¹⁻ʷ of the noisy densities. Noise and powers do not commute, so the samples
are not those of the tilted distribution p(x | c)ʷ p(x)¹⁻ʷ of the clean ones.
"""

import torch

from scorefield import Gaussian, Mixture, final, guide, heun, integrate, karras, seeded
from scorefield.show import plots

torch.set_num_threads(1)
left = Gaussian(torch.tensor([-1.0]), 1.0)
right = Gaussian(torch.tensor([1.0]), 1.0)
everything = Mixture([left, right], torch.tensor([0.5, 0.5]))
sigmas = karras(50.0, 0.01, 40)
start = everything.prior.sample(20_000, sigmas[0], noise=seeded(0))
grid = torch.linspace(-3, 6, 901)[:, None]
step = 0.01

figure, axes = plots.charts(3, width=4.0, height=3.2)
for ax, weight in zip(axes, (1.0, 2.0, 4.0), strict=True):
    x = final(integrate(heun, guide(right, everything, weight), start, sigmas))
    log_tilted = weight * right.log_prob(grid, 0.0) + (1 - weight) * everything.log_prob(grid, 0.0)
    tilted = log_tilted.exp() / (log_tilted.exp().sum() * step)
    mean = (tilted * grid[:, 0]).sum() * step
    print(f"w = {weight:g}: mean of the samples {x.mean():.2f}, of the tilted density {mean:.2f}")
    ax.hist(x[:, 0], 90, range=(-3, 6), density=True, color="#C8C8C8")
    ax.plot(grid[:, 0], tilted, color=plots.COLOURS[0])
    ax.set(title=f"w = {weight:g}", xlabel="x; line: tilted density")
figure.savefig("guidance.png", dpi=150)
