import torch

from scorefield import (
    EDM,
    MLP,
    Gaussian,
    GaussianMixture,
    Guidance,
    LinearOperator,
    Prior,
    ScoreModel,
    final,
    geometric,
    guide_by_classifier,
    heun,
    integrate,
    restore,
    sample,
    seeded,
)
from scorefield.data import load_data
from scorefield.inverse import (
    Operator,
    algorithm2,
    blur,
    compose,
    daps,
    ddrm,
    diffpir,
    downsample,
    dps,
    fourier,
    grayscale,
    log_normalizer,
    mask,
    matrix,
    mmps,
    nonlinear,
    particle_filter,
    pigdm,
    pigdm_langevin,
    radon,
    repaint,
    replace,
    smc,
    split_gibbs,
    tds,
)
from scorefield.measurements import OPTIONS, ImageMeasurement
from scorefield.restore import (
    METHODS,
    Bias,
    Method,
    Restoration,
    Workload,
    restoration,
    restore_rows,
    workload,
)

images = torch.rand(2, 3, 8, 8)
truth = Gaussian(torch.zeros(2), torch.tensor([[1.0, 0.8], [0.8, 1.0]]))
sigmas = geometric(50.0, 0.05, 40)
x = truth.prior.sample(1000, 50.0)
first = mask(torch.tensor([1.0, 0.0]))  # y is the first of the two numbers
y = torch.tensor([[1.0, 0.0]])  # then the second is distributed as N(0.8, 0.36)
modes = torch.tensor([[-2.0, 0.0], [2.0, 0.0]])
pair = GaussianMixture(modes, 0.5, torch.tensor([0.2, 0.8]))

# %%
operator: LinearOperator
left = (torch.arange(8) < 4).expand(3, 8, 8)
for operator in (mask(left), grayscale(), downsample(2), blur(1.0)):
    print(tuple(operator(images).shape))
# %%
lines = (torch.arange(8) % 2 == 0)[:, None].expand(8, 8)
pairs = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
print(
    fourier(lines)(images).shape,
    radon(5, 8)(images).shape,
    matrix(pairs)(torch.ones(1, 3)),
)
# %%
clipped: Operator = nonlinear(lambda x: x.clamp(-1, 1))
print(clipped(torch.tensor([[-3.0, 0.2]])))
# %%
scores = {
    "replace": replace(truth, first, y),
    "pigdm": pigdm(truth, first, y),
    "dps": dps(truth, first, y),
    "mmps": mmps(truth, first, y),
}
for name, score in scores.items():
    second = final(integrate(heun, score, x, sigmas))[:, 1]
    print(f"{name}: mean {second.mean():.2f}, variance {second.var():.2f}")
# %%
methods = (particle_filter, tds, pigdm_langevin, split_gibbs, daps, ddrm, diffpir)
for method in (*methods, repaint):
    second = final(method(truth, x, sigmas, operator=first, y=y))[:, 1]
    print(
        f"{method.__name__}: mean {second.mean():.2f}, variance {second.var():.2f}"
    )
# %%
states = algorithm2(
    truth, x, sigmas, observed=first.observed, y=y, steps=20, epsilon=1e-3
)
second = final(states)[:, 1]
print(f"mean {second.mean():.2f}, variance {second.var():.2f}")
# %%
start = pair.prior.sample(1024, 50.0)
*_, last = smc(pair, start, sigmas, prior=pair.prior, epsilon=1e-3)
print(last.x.mean(0))  # the truth is 1.2 and 0
print(
    log_normalizer(last.log_w, filter_size=64)
)  # log Z = 0, because the density is normalised
# %%
one, two = (
    Gaussian(torch.tensor([m]), 0.5) for m in (0.0, 1.0)
)  # p(θ | x) for each x
both = compose([one, two], Gaussian(torch.zeros(1), 10.0))
theta = final(integrate(heun, both, 50 * torch.randn(1000, 1), sigmas))
print(f"mean {theta.mean():.2f}, variance {theta.var():.2f}")


# %%
def classifier(x, sigma):
    """Return the logits of the two modes."""
    distances = torch.cdist(x, modes).square()
    return torch.tensor([0.2, 0.8]).log() - distances / (2 * (0.5 + sigma**2))


right = guide_by_classifier(pair, classifier, 1)
print(final(integrate(heun, right, x, sigmas)).mean(0))
# %%
prior = Prior(torch.full((1, 8, 8), 0.5), torch.tensor(0.1))
model = ScoreModel(
    MLP((1, 8, 8), width=32, blocks=1, labels=10), EDM(0.3), prior=prior
)
top = mask((torch.arange(8) < 4)[:, None].expand(1, 8, 8))
measured = top(torch.rand(2, 1, 8, 8))
print(
    restore(model, top, measured, n=4, method="ddrm", steps=10).shape
)  # of an untrained network
print(
    sample(
        model, 2, steps=5, label=3, guidance=Guidance(2.0, interval=(0.1, 2.0))
    ).shape
)
# %%
table = load_data("wine").table
prior = Prior(torch.zeros(table.size), torch.tensor(1.0))
model = ScoreModel(MLP(table.size, width=32, blocks=1), EDM(1.0), prior=prior)
rows = [{"alcohol": 13.2}]
completed = restore_rows(model, table, rows, n=2, method="ddrm", steps=10)
print(*table.decode(completed[:, 0], rows), sep="\n")
# %%
print(OPTIONS)
measurement = ImageMeasurement("super-resolve", (1, 8, 8), factor=2)
small = measurement.measure(torch.rand(2, 1, 8, 8), seed=0)
print(small.shape, measurement.picture(small).shape)
best = min(METHODS, key=lambda name: METHODS[name].mask.largest)
method: Method = METHODS[best]
bias: Bias = method.mask
print(best, bias, method.calls(32), "evaluations with 32 levels")
# %%
prior = Prior(torch.full((1, 8, 8), 0.5), torch.tensor(0.1))
model = ScoreModel(MLP((1, 8, 8), width=32, blocks=1), EDM(0.3), prior=prior)
top = mask((torch.arange(8) < 4)[:, None].expand(1, 8, 8))
measured = top(torch.rand(2, 1, 8, 8))
size = {"method": "ddrm", "steps": 5, "particles": 1, "filters": 1, "batch": 4}
work: Workload = workload(model, 4, **size, rows=2)
print(work.states, "states in all")
rest = {"label": None, "condition": None, "guidance": 1.0, "seed": 0}
pieces: Restoration = restoration(
    model, top, measured, 4, seeded, sigma_y=0.0, **size, **rest
)
x = pieces.join([final(states) for states in pieces.parts])
print(x.shape)
