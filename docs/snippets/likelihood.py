import torch

from scorefield import (
    Diagnosis,
    GaussianMixture,
    Likelihood,
    bits_per_dim,
    diagnose,
    geometric,
    log_likelihood,
    wilson,
)
from scorefield.diagnose import diagnosis_steps

means = torch.tensor([[-5.0, -5.0], [5.0, 5.0]])
truth = GaussianMixture(means, 1.0, weights=torch.tensor([0.2, 0.8]))
x = truth.sample(3, 0.05)

# %%
likelihood: Likelihood = log_likelihood(truth, x, truth.prior, sigma_min=0.05)
print(likelihood.log_prob - truth.log_prob(x, 0.05), likelihood.evaluations)
# %%
uniform = torch.zeros(1)  # log-density of an image on [0, 1]: 8 bits each number
print(bits_per_dim(uniform, size=28 * 28))
# %%
diagnosis: Diagnosis = diagnose(
    truth,
    truth,
    geometric(10.0, 0.1, 10),
    epsilon=0.03,
    convention="paper",
    n=500,
)
print(diagnosis)
# %%
# the same in parts, so that one can stop between them
parts = diagnosis_steps(
    truth,
    truth,
    geometric(10.0, 0.1, 10),
    steps=100,
    epsilon=0.03,
    convention="paper",
    n=500,
    noise=torch.randn_like,
)
print(sum(part is None for part in parts), "parts")
# %%
for hits in (0, 20):
    low, high = wilson(hits, 100)
    print(f"{hits} of 100: {low:.3f} to {high:.3f}")
