import torch

from scorefield import (
    Discrete,
    Gaussian,
    LogNormal,
    LogUniform,
    Suggestion,
    brownian,
    final,
    geometric,
    heun,
    integrate,
    interpolated,
    karras,
    linear,
    perturb,
    replay,
    reverse_diffusion,
    seeded,
    suggest,
    uniform_like,
)

oracle = Gaussian(torch.zeros(2), 1.0)

# %%
print(geometric(10.0, 0.01, 4))
print(karras(10.0, 0.01, 4))
print(linear(10.0, 0.01, 4))
# %%
u = torch.rand(5)
for levels in (
    Discrete(geometric(1.0, 0.01, 10)),
    LogNormal(),
    LogUniform(80.0, 0.002),
):
    print(levels(u))  # a random σ for each u, uniform on [0, 1]
# %%
x = torch.zeros(2, 3)
z = torch.ones(2, 3)
print(perturb(x, torch.tensor([0.5, 2.0]), z))
# %%
ten = seeded(0)(torch.empty(10, 2))
print(
    seeded(0, first=4)(torch.empty(6, 2)) - ten[4:]
)  # sample 4 is the same in any batch
# %%
recorded = [torch.zeros(1, 2), torch.ones(1, 2)]
noise = replay(recorded)
print(noise(recorded[0]), noise(recorded[0]))
# %%
weights = torch.linspace(0, 1, 5)
noise = interpolated(seeded(0), seeded(1), weights)
x = noise(torch.empty(5, 2)) * 50  # starts on a path
print(final(integrate(heun, oracle, x, karras(50.0, 0.01, 20))))
# %%
for levels in (10, 30):  # two grids, one path
    sigmas = karras(50.0, 0.01, levels)
    x = 50 * seeded(0)(torch.empty(2, 2))
    print(
        final(
            integrate(
                reverse_diffusion, oracle, x, sigmas, noise=brownian(0, sigmas)
            )
        )
    )
# %%
print(uniform_like(torch.empty(2, 3), noise=seeded(0)))
# %%
ladder: Suggestion = suggest(oracle.sample(1000))
print(ladder)
print(ladder.sigmas, ladder.steps, ladder.epsilon)
