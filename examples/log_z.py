"""
The constant of an energy, by annealed importance sampling
==========================================================

An energy gives the density e^(−E)/Z, with Z unknown. Annealed importance sampling weighs particles
on their way from a Gaussian, whose constant is known; sequential Monte Carlo also resamples them.
The longer the ladder, the smaller the error.
"""

import torch

from scorefield import GaussianMixture, Prior, from_energy, geometric, seeded
from scorefield.inverse import log_normalizer, smc
from scorefield.show import plots

torch.set_num_threads(1)
means = torch.tensor([[-3.0, 0.0], [3.0, 1.0], [0.0, -3.0]])
truth = GaussianMixture(means, 0.25, torch.tensor([0.2, 0.5, 0.3]))
score = from_energy(lambda x, sigma: -truth.log_prob(x, sigma) - 3)  # so that log Z = 3
prior = Prior.fit(truth.sample(500, noise=seeded(0)))

figure, (ax,) = plots.charts(1, width=7, height=4)
lengths = (5, 10, 20, 40)
for colour, (name, size) in zip(plots.COLOURS, {"AIS": 1, "SMC": 64}.items(), strict=False):
    estimates = []
    for length in lengths:
        sigmas = geometric(6.0, 0.2, length)
        x = prior.sample(1_024, sigmas[0], noise=seeded(1))
        options = {"prior": prior, "epsilon": 0.02, "filter_size": size, "noise": seeded(2)}
        *_, state = smc(score, x, sigmas, **options)
        estimates.append(log_normalizer(state.log_w, size))
        value, error = estimates[-1]
        print(f"{name}, {length:2d} levels: log Z = {value:.3f} ± {error:.3f}")
    shift = 0.98 if name == "AIS" else 1.02
    ax.errorbar(
        [length * shift for length in lengths],
        [value for value, _ in estimates],
        [2 * error for _, error in estimates],
        fmt="o",
        color=colour,
        label=name,
    )
ax.axhline(3, color="#999999", linewidth=1)
ax.set(xscale="log", xlabel="noise levels", ylabel="log Z, ± 2 standard errors; truth: 3")
ax.set_xticks(lengths, [str(length) for length in lengths])
ax.minorticks_off()
ax.legend(frameon=False)
figure.savefig("log_z.png", dpi=150)
