import torch

from scorefield import (
    EDM,
    MLP,
    Gaussian,
    LogNormal,
    LogUniform,
    Objective,
    Prior,
    ScoreModel,
    annealed,
    consistency,
    denoising,
    edm_weight,
    exact,
    likelihood_weight,
    ncsn_weight,
    sliced,
)
from scorefield.objectives import gaussian, rademacher, sphere
from scorefield.train import (
    MovingAverage,
    Update,
    constant,
    cosine,
    inverse_sqrt,
    train,
)

truth = Gaussian(torch.tensor([1.0, -1.0]), 0.05)
x = truth.sample(2000)


def make_model():
    """Build a small model."""
    prior = Prior(torch.zeros(2), torch.eye(2))
    return ScoreModel(MLP(2, width=32, blocks=1), EDM(1.0), prior=prior)


# %%
# they differ by a constant, which does not depend on the score
objective: Objective
for objective in (exact, sliced, denoising):
    ours, shifted = (
        objective(s, x, 0.5).mean() for s in (truth, lambda x, s: truth(x, s) + 1)
    )
    print(
        f"{objective.__name__}: {shifted - ours:.2f} worse if the score is off by 1"
    )
# %%
for projection in (rademacher, gaussian, sphere):
    print(projection(torch.randn(2, 3)))
    print(sliced(truth, x, 0.5, projection=projection, projections=4).mean())
# %%
print(consistency(make_model(), x, 1.0, sigma_data=1.0).mean())
# %%
levels = LogNormal(-1.2, 1.2)
for weight in (
    ncsn_weight,
    edm_weight(1.0),
    likelihood_weight(LogUniform(80.0, 0.01)),
):
    loss = annealed(denoising, levels, weight)
    print(loss(truth, x).mean())
# %%
model = make_model()
average = MovingAverage(model, decay=0.99)
updates = train(
    model,
    lambda step: truth.sample(256),
    annealed(denoising, LogNormal(), edm_weight(1.0)),
    optimizer=torch.optim.Adam(model.parameters(), 2e-3),
    steps=100,
    schedule=cosine(100, warmup=10),
    ema=average,
)
update: Update
for update in updates:
    if update.step % 50 == 0:
        print(f"step {update.step}, loss {update.loss:.2f}")
print(average.module(x, 1.0).shape)
# %%
for schedule in (constant(warmup=10), inverse_sqrt(plateau=50, warmup=10)):
    print([round(schedule(step), 2) for step in (0, 5, 10, 100, 1000)])
