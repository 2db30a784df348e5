"""
One or two evaluations, by consistency tuning
=============================================

A score model needs many evaluations, because its denoiser returns a mean. Consistency tuning turns
it into a map from noise to the end of the ODE's trajectory. In the plane this takes seconds.
"""

from copy import deepcopy
from functools import partial

import torch

from scorefield import (
    EDM,
    MLP,
    SAMPLERS,
    LogNormal,
    Prior,
    ScoreModel,
    annealed,
    consistency,
    denoising,
    edm_weight,
    final,
    sample,
    seeded,
)
from scorefield.data import all_samples, load_data
from scorefield.metrics import sliced_wasserstein
from scorefield.show import plots
from scorefield.train import MovingAverage, cosine, train

torch.set_num_threads(1)
torch.manual_seed(0)
x = all_samples(load_data("mixture", n=20_000).train)
ends = {"sigma_max": 25.0, "sigma_min": 0.02}
model = ScoreModel(MLP(2, width=96, blocks=2), EDM(2.9, **ends), prior=Prior.fit(x))


def batch(step):
    """Return random samples."""
    return x[torch.randint(len(x), (256,))]


def levels(z):
    """Return noise levels from standard normal numbers."""
    return LogNormal(0.0, 1.5)(z).clamp(0.02, 25.0)


def fit(model, loss, steps, rate):
    """Train a model, and return the average of its weights."""
    average = MovingAverage(model, 0.99)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    rule = {"optimizer": optimizer, "steps": steps, "schedule": cosine(steps), "ema": average}
    for _ in train(model, batch, loss, **rule):
        pass
    return average.module


score = fit(model, annealed(denoising, levels, edm_weight(2.9)), 1_500, 4e-3)
clouds = {
    "data": x[:4_000],
    "Heun, 35 evaluations": sample(score, 4_000, "heun", steps=18, batch=4_000),
}
jump = SAMPLERS["consistency"].run
start = model.prior.sample(4_000, 25.0, noise=seeded(0))
sigmas = torch.tensor([25.0, 1.5])
clouds["the score, as if tuned, 2"] = final(jump(score, start, sigmas, noise=seeded(1)))

# %%
# The loss compares D at two points of one trajectory. In five stages they move together, so that D
# becomes the trajectory's end.
tuned = deepcopy(score)
for doublings in range(1, 6):
    objective = partial(consistency, doublings=doublings, sigma_data=2.9, sigma_min=0.02)
    tuned = fit(tuned, annealed(objective, levels, torch.ones_like), 300, 2e-3)
clouds["tuned, 2"] = final(jump(tuned, start, sigmas, noise=seeded(1)))
clouds["tuned, 1"] = final(jump(tuned, start, sigmas[:1], noise=seeded(1)))

truth = load_data("mixture").oracle
real = truth.sample(4_000, noise=seeded(3))
figure, axes = plots.panels(1, 5, size=3.0)
for ax, (name, cloud) in zip(axes, clouds.items(), strict=True):
    distance = sliced_wasserstein(cloud, real)
    print(f"{name:28} sliced Wasserstein distance {distance:.3f}")
    plots.scatter(ax, cloud)
    ax.set(title=name, xlim=(-6, 6), ylim=(-6, 6))
figure.savefig("consistency.png", dpi=150)
