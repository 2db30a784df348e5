"""
A sampler of your own, in ten lines
===================================

A sampler is a function from x at σ to x at a lower σ'. `sample` takes it like one of the package,
and a Gaussian, whose ODE has a known solution, measures its order.
"""

import torch

from scorefield import Gaussian, GaussianMixture, euler, final, heun, integrate, karras, sample
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
# On N(0, 1) the ODE takes x to x·√((1 + σ_L²)/(1 + σ₁²)). The order is the slope of a line. The
# midpoint method is of order 2; here its leading error cancels.
oracle = Gaussian(torch.zeros(1, dtype=torch.float64), 1.0)
x = torch.full((1, 1), 50.0, dtype=torch.float64)
exact = x * ((1 + 0.01**2) / (1 + 50.0**2)) ** 0.5
levels = [8, 16, 32, 64, 128, 256]
figure, (ax,) = plots.charts(1, width=7, height=4)
for step, colour in zip((euler, heun, midpoint), plots.COLOURS, strict=False):
    errors = []
    for count in levels:
        sigmas = karras(50.0, 0.01, count, dtype=torch.float64)
        end = final(integrate(step, oracle, x, sigmas, denoise=False))
        errors.append((end - exact).abs().item())
    order = torch.tensor(errors[-2] / errors[-1]).log2().item()
    print(f"{step.__name__:10} order {order:.2f}")
    ax.plot(levels, errors, ".-", color=colour, label=f"{step.__name__}, order {order:.1f}")
ax.set(xscale="log", yscale="log", xlabel="levels", ylabel="error at the end")
ax.legend(frameon=False)
figure.savefig("own_sampler.png", dpi=150)
