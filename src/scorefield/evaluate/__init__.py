"""Judge a model: quality of its samples by several plans, memorisation, fit to held-out data, cost.

    evaluation = evaluate(model, data, plans=[make_plan(model, "heun", 18)], features="classifier")
    evaluation = evaluate_run("runs/digits")          # model, data and plan of a run's directory
    print(evaluation.table(), evaluation.verdict)
    write_evaluation(evaluation, "runs/digits")       # metrics.json and report.html

For other harnesses, the parts of it:

    features = make_features("classifier", data)      # a name in FEATURES; features.extract(x)
    reference = reference_of(data.test, features)     # moments of all, rows of some: a Gathered
    samples = draw(model, n, plan, features)          # sampled and reduced as they come: a Gathered
    samples = gather_features([(0, x)], features)     # the same for samples that exist already
    frechet_interval(samples, reference.moments)      # value, low, high
    quality(samples, reference)                       # all figures of samples
    frontier_plans(model, "heun", budgets)            # plans near numbers of evaluations
    model, data, experiment, weights = open_run("runs/digits")
"""

from .evaluation import Evaluation
from .features import FEATURES, Features, make_features
from .figure import Figure, Interval
from .from_run import open_run, plan_of_run
from .frontier import frontier_plans
from .gather import Gathered, cache_folder, draw, gather_features, reference_of
from .judge import evaluate, evaluate_run
from .memory import Memory
from .pages import METRICS_FILE, REPORT_FILE, write_evaluation
from .quality import frechet_interval, quality

__all__ = [
    "FEATURES",
    "METRICS_FILE",
    "REPORT_FILE",
    "Evaluation",
    "Features",
    "Figure",
    "Gathered",
    "Interval",
    "Memory",
    "cache_folder",
    "draw",
    "evaluate",
    "evaluate_run",
    "frechet_interval",
    "frontier_plans",
    "gather_features",
    "make_features",
    "open_run",
    "plan_of_run",
    "quality",
    "reference_of",
    "write_evaluation",
]
