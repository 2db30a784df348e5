"""
A sampler of your own, in ten lines
===================================

A sampler is a function from x at σ to x at a lower σ'. `sample` takes it like one of the package,
and the error against the number of steps shows its order.
"""

import torch

from scorefield import SAMPLERS, GaussianMixture, euler, final, heun, integrate, karras, sample
from scorefield.show import plots


def midpoint(score, x, sigma, sigma_next, noise):
    """Take a step of the midpoint method on dx/dσ = −σ·s."""
    half = (sigma + sigma_next) / 2
    x_half = x + sigma * (sigma - half) * score(x, sigma)
    s = score(x_half, half)
    return x + half * (sigma - sigma_next) * s, x_half + half**2 * s


torch.set_num_threads(1)
truth = GaussianMixture(torch.tensor([[5.0, 5], [-5, -5]]), 1.0, torch.tensor([0.8, 0.2]))
x = sample(truth, 4_000, sampler=midpoint, steps=32)
print(f"weight of the small mode: {(x.sum(1) < 0).float().mean():.3f}, truly 0.2")

# %%
# The order is the slope of a line, and `unipc` in 1,000 steps takes the place of the exact
# solution. On a Gaussian, which has one, the leading error of the midpoint method would cancel and
# its order be 3. A mixture shows its order, 2.
double = torch.float64
means = torch.tensor([[-2.0], [2.0]], dtype=double)
oracle = GaussianMixture(means, 0.25, torch.tensor([0.3, 0.7], dtype=double))
x = torch.linspace(-40, 40, 200, dtype=double)[:, None]
unipc = SAMPLERS["unipc"].run(oracle, x, karras(20.0, 0.01, 1_001, dtype=double), denoise=False)
exact = final(unipc)
steps = [8, 16, 32, 64, 128, 256]
figure, (ax,) = plots.charts(1, width=7, height=4)
for step, colour in zip((euler, heun, midpoint), plots.COLOURS, strict=False):
    errors = []
    for count in steps:
        sigmas = karras(20.0, 0.01, count + 1, dtype=double)
        end = final(integrate(step, oracle, x, sigmas, denoise=False))
        errors.append((end - exact).abs().mean().item())
    order = torch.tensor(errors[-2] / errors[-1]).log2().item()
    print(f"{step.__name__:10} order {order:.2f}")
    ax.plot(steps, errors, ".-", color=colour, label=f"{step.__name__}, order {order:.1f}")
ax.set(xscale="log", yscale="log", xlabel="steps", ylabel="mean error at the end")
ax.legend(frameon=False)
figure.savefig("own_sampler.png", dpi=150)
