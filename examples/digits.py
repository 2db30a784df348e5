"""
Digits to samples in half a minute
==================================

The preset `digits` trains an MLP on scikit-learn's 1,437 digits of 8 × 8 pixels. Here it is half as
wide and takes two thirds of its steps. A run is a directory: calling `finish` again loads the model
instead.
"""

import tempfile

import torch

from scorefield import make_plan, sample, seeded
from scorefield.runs import finish
from scorefield.runs.config import override
from scorefield.runs.presets import PRESETS
from scorefield.show.images import grid
from scorefield.show.plots import charts

experiment = override(PRESETS["digits"], ["network.width=192", "training.steps=2000"])
model = finish(experiment, tempfile.mkdtemp() + "/digits", watch=lambda run: run)
x = sample(model, 100, sampler="dpm_solver", steps=16)
print(f"pixels from {x.min():.2f} to {x.max():.2f}")

# %%
# Six chains of Heun's method on their way from noise: the denoised images of every third step.
plan = make_plan(model, "heun", 18)
start = plan.start(model, 6, seeded(1))
states = list(plan.run(model, start, seeded(2)))[::3]
paths = torch.stack([state.denoised for state in states], 1).flatten(0, 1)

figure, axes = charts(2, width=5, height=4.6)
for ax, images, columns, title in (
    (axes[0], x, 10, "a hundred samples"),
    (axes[1], paths, len(states), "six chains, denoised"),
):
    ax.imshow(grid(images, columns), cmap="gray")
    ax.set_title(title)
    ax.set_axis_off()
figure.savefig("digits.png", dpi=150)
