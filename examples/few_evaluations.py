"""
Few evaluations: the order of a sampler
=======================================

The ODE dx/dσ = −σ·s turns noise into samples. A method of order k has an error that falls as
1/nᵏ with the number n of evaluations of the score. In one dimension the distance W₁ between samples
and truth is the mean gap between their quantiles, so the error can be measured.
"""

import torch

from scorefield import SAMPLERS, GaussianMixture, final, karras
from scorefield.show import plots

torch.set_num_threads(1)
double = torch.float64
means = torch.tensor([[-2.0], [2.0]], dtype=double)
truth = GaussianMixture(means, 0.25, torch.tensor([0.3, 0.7], dtype=double))
n = 2_000
quantiles = (torch.arange(n, dtype=double) + 0.5) / n
start = 20.0 * torch.special.ndtri(quantiles)[:, None] + truth.prior.mean
exact = final(SAMPLERS["heun"].run(truth, start, karras(20.0, 0.01, 400, dtype=double)))

counts = (5, 8, 12, 16, 24, 32, 48, 64)
figure, (ax,) = plots.charts(1, width=8, height=4.5)
names = ("euler", "heun", "dpm_solver", "dpm_solver_3", "unipc", "adams_bashforth")
print(f"{'evaluations':16}" + "".join(f"{count:9d}" for count in counts))
for name, colour in zip(names, plots.COLOURS, strict=False):
    errors = []
    for count in counts:
        levels = (count + 1) // 2 if name == "heun" else count
        x = final(SAMPLERS[name].run(truth, start, karras(20.0, 0.01, levels, dtype=double)))
        errors.append((x - exact).abs().mean().item())
    print(f"{name:16}" + "".join(f"{error:9.5f}" for error in errors))
    ax.plot(counts, errors, ".-", color=colour, label=name)
ax.set(xscale="log", yscale="log", xlabel="evaluations", ylabel="mean distance of a sample’s end")
ax.set_xticks(counts, [str(count) for count in counts])
ax.minorticks_off()
ax.legend(frameon=False)
figure.savefig("few_evaluations.png", dpi=150)
