"""
Choose noise levels, and check them
===================================

`suggest` chooses a ladder of noise levels from the data and gives a reason for each number.
`diagnose` runs a chain down a ladder against a known truth and reports what is wrong with it.
"""

import torch

from scorefield import GaussianMixture, diagnose, geometric, seeded, suggest
from scorefield.show import plots

torch.set_num_threads(1)
truth = GaussianMixture(torch.tensor([[5.0, 5], [-5, -5]]), 1.0, torch.tensor([0.8, 0.2]))
ladder = suggest(truth.sample(2_000, noise=seeded(0)))
print(ladder)

# %%
# The paper's ladder for this mixture (§4.3), with the ε of its Figure 3, has steps that are too
# large for its last levels, where the chain explodes.
published = {"epsilon": 0.1, "convention": "paper", "noise": seeded(1)}
wrong = diagnose(truth, truth, geometric(10.0, 0.1, 10), n=500, **published)
print("\n".join(wrong.verdicts))

# %%
# The suggested ladder is stable at each level. Each chain takes 50 steps a level, ten times as many
# as suggested, so that it crosses between the modes as long as the noise joins them.
health = diagnose(
    truth, truth, ladder.sigmas, epsilon=ladder.epsilon, steps=50, n=2_000, noise=seeded(1)
)
print("\n".join(str(health).splitlines()[-3:]))
figure = plots.health(health)
figure.savefig("noise_levels.png", dpi=110)
