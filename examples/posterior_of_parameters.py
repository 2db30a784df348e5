"""
The posterior of a parameter, given data
========================================

A network learns p(rate | counts) from simulations: rates that are uniform on [0, 10], and three
Poisson counts of each. The exact posterior is a gamma distribution, cut off at 10.
"""

import torch

from scorefield import (
    EDM,
    MLP,
    LogUniform,
    Prior,
    ScoreModel,
    annealed,
    denoising,
    edm_weight,
    sample,
)
from scorefield.show import plots
from scorefield.train import MovingAverage, cosine, train

torch.set_num_threads(1)
torch.manual_seed(0)
rate = 10 * torch.rand(20_000, 1)
counts = torch.poisson(rate.expand(-1, 3))

net = MLP(1, width=64, blocks=3, conditions={"counts": (3,)}, condition_input=True)
model = ScoreModel(net, EDM(2.9, sigma_max=60.0, sigma_min=0.02), prior=Prior.fit(rate))
scale = counts.std()


def batch(step):
    """Return random simulations: the parameter, and the observation as the condition."""
    rows = torch.randint(len(rate), (256,))
    return rate[rows], {"counts": counts[rows] / scale}


steps = 1_000
loss = annealed(denoising, LogUniform(60.0, 0.02), edm_weight(2.9))
average = MovingAverage(model, 0.99)
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for _ in train(
    model, batch, loss, optimizer=optimizer, steps=steps, schedule=cosine(steps), ema=average
):
    pass

figure, axes = plots.charts(3, width=4.0, height=3.2)
grid = torch.linspace(0.01, 10, 500)
for ax, observed in zip(axes, ([0.0, 1.0, 2.0], [2.0, 4.0, 3.0], [9.0, 7.0, 8.0]), strict=True):
    y = torch.tensor(observed)
    x = sample(average.module, 4_000, steps=24, condition={"counts": y / scale}, batch=4_000)
    density = torch.exp(y.sum() * grid.log() - 3 * grid)
    density = density / (density.sum() * (grid[1] - grid[0]))
    mean = (density * grid).sum() * (grid[1] - grid[0])
    print(f"counts {observed}: mean {x.mean():.2f}, exactly {mean:.2f}")
    ax.hist(x[:, 0], 60, range=(0, 10), density=True, color="#C8C8C8")
    ax.plot(grid, density, color=plots.COLOURS[0])
    ax.set(title=f"counts {[int(count) for count in observed]}", xlabel="rate")
figure.savefig("posterior_of_parameters.png", dpi=150)
