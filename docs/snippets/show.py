import torch

from scorefield import GaussianMixture, diagnose, geometric, karras, progress
from scorefield.show.images import animation, as_bytes, grid, picture
from scorefield.show.plots import (
    as_png,
    charts,
    field,
    health,
    ladders,
    panels,
    scatter,
)

means = torch.tensor([[-2.0, -2.0], [2.0, 2.0]])
truth = GaussianMixture(means, 0.5, weights=torch.tensor([0.2, 0.8]))
images = torch.rand(6, 3, 8, 8)

# %%
figure, axes = panels(1, 2)
field(axes[0], truth, 0.5, limit=5.0, log_prob=truth.log_prob)
scatter(axes[1], truth.sample(500, 0.5))
# %%
figure, axes = charts(2)
axes[0].hist(truth.sample(1000)[:, 0].numpy(), 40)
axes[1].plot(karras(50.0, 0.01, 20))
content = as_png(figure)
# %%
figure = health(
    diagnose(truth, truth, geometric(10.0, 0.1, 10), epsilon=0.05, n=300)
)
# %%
figure = ladders(
    {"geometric": geometric(10.0, 0.1, 10), "Karras": karras(10.0, 0.1, 10)}
)
# %%
figure = grid(images, columns=3)
# %%
frames = [grid(images * t) for t in torch.linspace(0, 1, 4)]
content = animation(frames, ".gif", {"seed": 0})
one = picture(as_bytes(images)[0])
print(len(content), one.size)
# %%
total = 0
for i in progress(range(100), 100, "adding", describe=lambda i: f"at {i}"):
    total += i
