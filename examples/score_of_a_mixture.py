"""
The score of a mixture, at three noise levels
=============================================

A score is a field of arrows, ∇ₓ log q_σ(x), that point to where the density grows. Noise of
deviation σ smooths the density, and the arrows at a large σ know about all modes.
"""

import torch

from scorefield import GaussianMixture
from scorefield.show import plots

means = torch.tensor([[-4.0, -3.0], [4.0, -2.0], [0.0, 4.0]])
truth = GaussianMixture(means, 0.7, torch.tensor([0.2, 0.3, 0.5]))

figure, axes = plots.panels(1, 3)
for ax, sigma in zip(axes, (0.0, 2.0, 6.0), strict=True):
    plots.field(ax, truth, sigma, limit=9, log_prob=truth.log_prob)
    ax.set_title(f"σ = {sigma:g}")

# %%
# At the point (−4, 2), the arrow without noise points to the nearest mode, which is a light one. At
# σ = 6 it points towards the mean of all three.
x = torch.tensor([[-4.0, 2.0]])
for sigma in (0.0, 2.0, 6.0):
    heading = torch.nn.functional.normalize(truth(x, sigma))[0]
    print(f"σ = {sigma:g}: ({heading[0]:+.2f}, {heading[1]:+.2f})")
figure.savefig("score_of_a_mixture.png", dpi=150)
