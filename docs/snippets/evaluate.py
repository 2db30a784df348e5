from pathlib import Path

import torch

from scorefield import Gaussian, make_plan
from scorefield.data import tensor_data
from scorefield.evaluate import (
    METRICS_FILE,
    REPORT_FILE,
    DataScores,
    Evaluation,
    Features,
    cache_folder,
    evaluate,
    evaluate_run,
    fit_grid,
    five_plans,
    frontier_plans,
    gather_samples,
    make_features,
    nearest_in,
    open_run,
    push,
    score_data,
    score_run,
    write_evaluation,
)
from scorefield.metrics import (
    Moments,
    Neighbours,
    crowding,
    density_coverage,
    frechet,
    inception_score,
    kernel_distance,
    nearest,
    neighbour_ratio,
    precision_recall,
    sliced_wasserstein,
    stein_discrepancy,
)
from scorefield.runs import Experiment, finish
from scorefield.runs.config import override

truth = Gaussian(torch.zeros(3), 1.0)
real = truth.sample(500)
fake = truth.sample(500) + 0.5
settings = ["network={kind: MLP, width: 32, blocks: 1}", "training.steps=40"]
model = finish(override(Experiment(), settings), "runs/mine", data=real)
data = tensor_data(real)

# %%
for distance in (frechet, sliced_wasserstein, kernel_distance):
    print(
        distance.__name__,
        distance(fake, real),
        distance(truth.sample(500), real),
    )
# %%
moments = Moments()
for part in real.split(100):
    moments = moments.update(part)
print(moments.mean, frechet(moments, real))
# %%
for compare in (precision_recall, density_coverage):
    print(compare(fake, real))
print(crowding(fake, real)[:10])
# %%
neighbours: Neighbours = nearest(fake[:2], real, k=3)
print(neighbours)
print(neighbour_ratio(fake, train=real, heldout=truth.sample(200)))
# %%
for compared, closest in nearest_in(fake[:2], data.train, k=3, flips=False):
    print(f"{compared} of {len(data.train)}: {closest.indices.tolist()}")
# %%
print(
    inception_score(torch.eye(4).repeat(25, 1))
)  # each class for sure, and equally often
print(
    stein_discrepancy(real, truth(real, 0.01)),
    stein_discrepancy(fake, truth(fake, 0.01)),
)
# %%
evaluation: Evaluation = evaluate(model, data, n=40, plans=five_plans(model)[:2])
print(evaluation.table())
write_evaluation(evaluation, "runs/mine")
print(METRICS_FILE, REPORT_FILE)
# %%
evaluation = evaluate_run("runs/mine", data=real, n=40, steps=10)
print(evaluation.verdict)
model, data, experiment, weights = open_run("runs/mine", data=real)
print(weights, experiment.training.steps)
# %%
features: Features = make_features("pixels", data)
gathered = gather_samples(model, 100, make_plan(model, "heun", 10), features)
print(features.about, frechet(gathered.moments, real))
# %%
print(fit_grid(model, "unipc", 5))
for plan in frontier_plans(model, "heun", [5, 20]):
    print(plan.sampler, len(plan.sigmas))
# %%
scores: DataScores = score_data(
    model, tensor_data(fake[:10]), data.test, compared=20
)
print(scores.table())
print(score_run("runs/mine", fake[:10], moved=real, compared=20).auroc)
# %%
print(
    cache_folder().name
)  # in $XDG_CACHE_HOME, or in ~/.cache: moments of large data
# %%
push(
    "runs/mine", "OWNER/mine", dry_run="card", license="mit"
)  # without dry_run it uploads
print(sorted(path.name for path in Path("card").iterdir()))
