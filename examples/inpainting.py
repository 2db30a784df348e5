"""
A posterior against its closed form
===================================

Three Gaussians in the plane, and a measurement of the first coordinate. The posterior of the second
one is known, so that each method's bias can be seen. The particle filter has the weights of the
modes here, and so does ``pigdm_langevin``, if it is given the deviation within a mode in place of
the data's.
"""

import torch

from scorefield import GaussianMixture, inverse, restore
from scorefield.sample import as_model
from scorefield.show import plots

torch.set_num_threads(1)
means = torch.tensor([[-1.0, 3.0], [0.0, -3.0], [4.0, 0.0]])
truth = GaussianMixture(means, 0.8, torch.tensor([0.3, 0.3, 0.4]))
observed = torch.tensor([True, False])
operator = inverse.mask(observed)
y = torch.tensor([[0.4, 0.0]])

grid = torch.linspace(-7, 7, 561)
line = torch.stack([torch.full_like(grid, 0.4), grid], 1)
density = truth.log_prob(line, 0.0).exp()
density = density / (density.sum() * (grid[1] - grid[0]))
mean = (density * grid).sum() * (grid[1] - grid[0])
weight = (density * (grid > 1.5)).sum() * (grid[1] - grid[0])
print(f"{'exact posterior':18} mean {mean:+.2f}, weight above 1.5: {weight:.2f}")

filters = {"particles": 64, "filters": 100, "steps": 32}
methods = {"dps": {}, "mmps": {}, "split_gibbs": {"steps": 64}}
methods["pigdm_langevin"] = {"steps": 64, "sigma_data": 0.8}
methods["particle_filter"] = filters
figure, axes = plots.panels(2, 3, size=3.4)
bins = torch.linspace(-6, 6, 61).tolist()
for ax, (method, options) in zip(axes[1:], methods.items(), strict=True):
    x = restore(as_model(truth), operator, y, n=2_000, method=method, batch=6_400, **options)
    second = x[0, :, 1]
    weight = (second > 1.5).float().mean()
    print(f"{method:18} mean {second.mean():+.2f}, weight above 1.5: {weight:.2f}")
    ax.hist(second, bins, density=True, color="#C8C8C8")
    ax.plot(grid, density, color=plots.COLOURS[0])
    ax.set_title(method)
axes[0].hist(truth.sample(4_000)[:, 1], bins, density=True, color="#C8C8C8")
axes[0].set_title("without the measurement")
for ax in axes:
    ax.set(xlim=(-6, 6), ylim=(0, 0.5))
figure.supxlabel("second coordinate; the line is the exact posterior")
figure.savefig("inpainting.png", dpi=150)
