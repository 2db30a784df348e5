"""
Likelihood by the ODE
=====================

Along the ODE the log-density changes by the trace of the Jacobian, so that a score gives the
likelihood of a sample. The exact trace needs a pullback for each dimension; Hutchinson's estimate
takes a few random directions and reports its standard error.
"""

import torch

from scorefield import GaussianMixture, log_likelihood, seeded
from scorefield.show import plots

torch.set_num_threads(1)
size = 16
means = 2 * torch.randn(5, size, generator=torch.Generator().manual_seed(0))
truth = GaussianMixture(means, 1.0, torch.full((5,), 0.2))
x = truth.sample(40, 0.05, noise=seeded(0))
closed_form = truth.log_prob(x, 0.05)

ends = {"sigma_min": 0.05, "sigma_max": 100.0, "tolerance": 1e-4}
exact = log_likelihood(truth, x, truth.prior, **ends)
estimate = log_likelihood(truth, x, truth.prior, probes=8, noise=seeded(1), **ends)
print(f"exact trace: largest error {(exact.log_prob - closed_form).abs().max():.4f} nats")
gap = estimate.log_prob - closed_form
inside = (gap.abs() < 2 * estimate.error).float().mean()
print(f"8 directions: errors of {gap.std():.2f} nats, {inside:.0%} within two standard errors")
print(f"evaluations: {exact.evaluations.float().mean():.0f} a sample")

figure, (ax,) = plots.charts(1, width=7, height=4.5)
style = {"fmt": ".", "color": plots.COLOURS[1], "elinewidth": 1, "label": "8 random directions"}
ax.errorbar(closed_form, estimate.log_prob, 2 * estimate.error, **style)
ax.plot(closed_form, exact.log_prob, "o", color=plots.COLOURS[0], markersize=4, label="exact trace")
ends = [closed_form.min(), closed_form.max()]
ax.plot(ends, ends, color="#999999", linewidth=1)
ax.set(xlabel="log-density in closed form", ylabel="by the ODE")
ax.legend(frameon=False)
figure.savefig("likelihood_by_the_ode.png", dpi=150)
