import torch

from scorefield import (
    Box,
    Empirical,
    Gaussian,
    GaussianMixture,
    Mixture,
    Oracle,
)

x = torch.tensor([[0.5, 0.5], [3.0, 0.0]])
zero = torch.zeros(2)
one = torch.ones(2)

# %%
oracle: Oracle
for oracle in (
    Gaussian(zero, 1.0),
    Gaussian(zero, torch.tensor([[2.0, 1.0], [1.0, 2.0]])),
):
    print(oracle.score(x, 0.5), oracle.log_prob(x, 0.5))
    print(oracle.sample(1000, 0.5).T.cov())
# %%
pair = GaussianMixture(
    torch.stack([-2 * one, 2 * one]), 0.5, weights=torch.tensor([0.2, 0.8])
)
print(pair.score(x, 0.1), pair.log_prob(x, 0.1))
# %%
box = Box(zero, one)
print(box.log_prob(x, 0.1), box.score(x, 0.1))
# %%
data = torch.randn(500, 2)
print(
    Empirical(data).score(x, 0.5)
)  # the best that a network can learn from these points
# %%
both = Mixture([Gaussian(-2 * one, 0.1), Box(zero, one)], torch.tensor([0.5, 0.5]))
print(both.sample(4), both.log_prob(x, 0.1))
