import torch

from scorefield import (
    EDM,
    MLP,
    Gaussian,
    GaussianMixture,
    Prior,
    Score,
    ScoreModel,
    from_denoiser,
    from_energy,
    from_noise,
    guide,
    rescale,
    to_denoiser,
    to_noise,
)
from scorefield._ops import Noise, Samples, Sigma
from scorefield.score import SigmaRange

means = torch.tensor([[-2.0, 0.0], [2.0, 0.0]])
truth = GaussianMixture(means, 0.5, weights=torch.tensor([0.3, 0.7]))
x = truth.sample(3, 1.0)


# %%
def standard_normal(x: Samples, sigma: Sigma) -> Samples:
    """Return the score of N(0, I) after noise of σ."""
    return -(x.T / (1 + sigma**2)).T


score: Score = standard_normal
print(score(x, 1.0))
print(score(x, torch.tensor([0.1, 1.0, 10.0])))  # one σ for each sample
# %%
denoiser = to_denoiser(truth)
epsilon = to_noise(truth)
print(denoiser(x, 1.0))
for score in (from_denoiser(denoiser), from_noise(epsilon)):
    print((score(x, 1.0) - truth(x, 1.0)).abs().max())
# %%
quartic = from_energy(lambda x, sigma: (x**4).sum(1) / 4)
print(quartic(x, 1.0) + x**3)
# %%
interval: SigmaRange = (0.3, 5.0)
right = Gaussian(means[1], 0.5)
print(guide(right, truth, 2.0, interval=interval)(x, 1.0))
# %%
in_metres = rescale(
    truth, 100.0
)  # the score of x in metres, where truth is of centimetres
print(in_metres(x / 100, 0.01))
# %%
prior = Prior(torch.zeros(2), torch.tensor(4.5))
print(prior.sample(2, 10.0))  # from N(0, (4.5 + 10²)I)
# %%
model = ScoreModel(
    MLP(2, width=32, blocks=1),
    EDM(2.0),
    prior=Prior(torch.zeros(2), torch.eye(2)),
)
print(model(x, 0.5).shape, model.sigma_max, model.sigma_min)


# %%
def antithetic(half: Noise) -> Noise:
    """Return noise whose second half is the first with the other sign."""
    return lambda x: torch.cat([z := half(x[: len(x) // 2]), -z])


print(antithetic(torch.randn_like)(torch.zeros(4, 2)))
