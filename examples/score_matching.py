"""
Denoising against sliced score matching
=======================================

Both losses have the same mean up to a constant, so they teach the same score. They differ in
variance: denoising divides by σ, so it is noisy at small σ, where sliced score matching is not.
"""

import torch

from scorefield import Gaussian, denoising, exact, seeded, sliced
from scorefield.show import plots

torch.set_num_threads(1)
size = 16
factor = torch.randn(size, size, generator=torch.Generator().manual_seed(0)) / size**0.5
truth = Gaussian(torch.zeros(size), factor @ factor.T + 0.1 * torch.eye(size))
x = truth.sample(20_000, noise=seeded(0))


def wrong(x, sigma):
    """Return a score that is 20 % too small."""
    return 0.8 * truth(x, sigma)


losses = {"exact": exact, "denoising": denoising, "sliced": sliced}
sigmas = torch.logspace(-2, 1, 10).tolist()
deviations = {name: [] for name in losses}
print("   σ     " + "".join(f"{name:>12}" for name in losses))
for sigma in sigmas:
    x_noisy = truth.sample(20_000, sigma, noise=seeded(2))
    mean = 0.5 * (wrong(x_noisy, sigma) - truth(x_noisy, sigma)).square().sum(1).mean()
    # the loss of a wrong score less that of the true one, with the same noise; all have this mean
    for name, loss in losses.items():
        gap = loss(wrong, x, sigma, noise=seeded(1)) - loss(truth, x, sigma, noise=seeded(1))
        deviations[name].append((gap.std() / mean).item())
    print(f"{sigma:6.3f}   " + "".join(f"{values[-1]:12.2f}" for values in deviations.values()))

figure, (ax,) = plots.charts(1, width=7)
for name, colour in zip(losses, plots.COLOURS, strict=False):
    ax.plot(sigmas, deviations[name], ".-", color=colour, label=name)
ax.set(xscale="log", yscale="log", xlabel="σ", ylabel="deviation over mean, for one sample")
ax.legend(frameon=False)
figure.savefig("score_matching.png", dpi=150)
