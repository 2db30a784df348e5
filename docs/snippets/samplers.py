import torch

from scorefield import (
    EDM,
    MLP,
    SAMPLERS,
    Gaussian,
    Plan,
    Prior,
    Sampler,
    ScoreModel,
    State,
    Step,
    ancestral,
    annealed_langevin,
    churn,
    consistent,
    dpm_solver,
    euler,
    every,
    final,
    geometric,
    heun,
    hmc,
    integrate,
    karras,
    langevin,
    make_plan,
    mala,
    predictor_corrector,
    reverse_diffusion,
    sample,
    seeded,
    underdamped,
)
from scorefield.sample import chains, guided_score, suitable_samplers
from scorefield.samplers import (
    Kernel,
    States,
    adaptive,
    find_sampler,
    multistep,
)

truth = Gaussian(torch.tensor([3.0, -1.0]), 0.5)
sigmas = karras(50.0, 0.01, 20)
x = truth.prior.sample(1000, sigmas[0].item(), noise=seeded(0))

# %%
step: Step
for step in (euler, heun, ancestral, reverse_diffusion):
    y = final(integrate(step, truth, x, sigmas))
    print(f"{step.__name__}: mean {y.mean(0)}, variance {y.var(0).mean():.3f}")
# %%
for sampler in (
    dpm_solver,
    multistep,
    churn,
    predictor_corrector,
    consistent,
    adaptive,
):
    y = final(sampler(truth, x, sigmas))
    print(f"{sampler.__name__}: mean {y.mean(0)}, variance {y.var(0).mean():.3f}")
# %%
states: States = every(integrate(euler, truth, x, sigmas), 5)
state: State
for state in states:
    print(
        f"step {state.step}, σ = {state.sigma:.2f}, deviation {state.x.std():.2f}"
    )
# %%
kernel: Kernel
for kernel in (
    langevin,
    mala,
    underdamped,
    hmc,
):  # at σ = 0, the distribution itself
    y = final(kernel(truth, x / 50, 0.0, alpha=0.05, steps=100))
    print(f"mean {y.mean(0)}, variance {y.var(0).mean():.3f}")
# %%
ladder = geometric(50.0, 0.1, 30)
for kernel in (langevin, mala):
    y = final(
        annealed_langevin(truth, x, ladder, kernel=kernel, steps=5, epsilon=2e-3)
    )
    print(f"mean {y.mean(0)}, variance {y.var(0).mean():.3f}")
# %%
plan: Plan = make_plan(truth, "dpm_solver", steps=10)
print(plan.sampler, plan.sigmas)
print(sample(truth, 1000, plan).mean(0))
# %%
prior = Prior(torch.zeros(2), torch.eye(2))
model = ScoreModel(MLP(2, width=32, blocks=1, labels=3), EDM(1.0), prior=prior)
score = guided_score(model, {"label": 2}, 1.5)  # of an untrained network
print(score(x[:4], 1.0).shape)
print(suitable_samplers(model))
plan = make_plan(model, "heun", 10)
for first, states in chains(model, 100, plan, label=2, guidance=1.5, batch=50):
    print(f"samples {first} to {first + len(final(states)) - 1}")
# %%
sampler: Sampler
for name in ("euler", "heun"):
    sampler = SAMPLERS[name]
    y = final(sampler.run(truth, x, sigmas))
    print(
        f"{name}: {sampler.evaluations(len(sigmas))} evaluations, mean {y.mean(0)}"
    )
# %%
name, sampler = find_sampler(heun)
print(name, sampler.evaluations(10))
