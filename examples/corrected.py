"""
Remove the bias of large steps
==============================

MALA and HMC accept or reject each proposal of Langevin dynamics, which removes the bias of its
steps. With the same density, annealed importance sampling finds the constant of an energy: that of
three Gaussians less 3, so that log ∫ e^(−E) dx = 3 at every σ.
"""

import torch

from scorefield import GaussianMixture, Prior, from_energy, geometric, seeded
from scorefield.inverse import log_normalizer, smc
from scorefield.samplers import hmc, langevin, mala, underdamped
from scorefield.show import plots

torch.set_num_threads(1)  # points in the plane are too little work to share between threads
means = torch.tensor([[-2.0, 0.0], [2.0, 1.0], [0.0, -2.0]])
truth = GaussianMixture(means, 0.25, torch.tensor([0.2, 0.5, 0.3]))
score = from_energy(lambda x, sigma: -truth.log_prob(x, sigma) - 3)

sigma = 0.3
x = truth.sample(2_000, sigma, noise=seeded(0))
print(f"{'exact samples':16} mean log-density {truth.log_prob(x, sigma).mean():.2f} ± 0.03")
kernels = {"langevin": langevin, "underdamped": underdamped, "mala": mala, "hmc": hmc}
figure, axes = plots.panels(1, 4, size=3.4)
for ax, (name, kernel) in zip(axes, kernels.items(), strict=True):
    *_, state = kernel(score, x, sigma, alpha=0.25, steps=12, noise=seeded(1))
    rate = "" if state.accepted is None else f", {state.accepted.float().mean():.0%} accepted"
    print(f"{name:16} mean log-density {truth.log_prob(state.x, sigma).mean():.2f}{rate}")

    plots.field(ax, truth, sigma, limit=5, log_prob=truth.log_prob)
    plots.scatter(ax, state.x)
    ax.set_title(name)
figure.savefig("corrected.png", dpi=150)

# %%
# The weights of particles on their way from a Gaussian estimate log Z.
sigmas = geometric(6.0, 0.3, 20)
prior = Prior.fit(truth.sample(500, noise=seeded(2)))
start = prior.sample(1024, sigmas[0], noise=seeded(3))
for name, filter_size in (("AIS", 1), ("SMC", 64)):
    options = {"prior": prior, "epsilon": 0.1, "filter_size": filter_size, "noise": seeded(4)}
    *_, state = smc(score, start, sigmas, **options)
    log_z, error = log_normalizer(state.log_w, filter_size)
    print(f"{name}: log Z = {log_z:.3f} ± {error:.3f}, exactly 3")
