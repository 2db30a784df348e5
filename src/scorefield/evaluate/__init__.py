"""Judge a model: quality of its samples by several plans, memorisation, fit to held-out data, cost.

    evaluation = evaluate(model, data, plans=five_plans(model), features="classifier")
    evaluation = evaluate_run("runs/digits")          # model, data and plan of a run's directory
    print(evaluation.table(), evaluation.verdict)
    write_evaluation(evaluation, "runs/digits")       # metrics.json and report.html

For other uses: `make_features` and `reference_of`, `draw` or `gather_features`, then `quality` or
`frechet_interval`; `frontier_plans` and `open_run`.
"""

from .evaluation import Evaluation
from .features import Features, make_features
from .figure import Figure, Interval
from .gather import Gathered, cache_folder, draw, gather_features, reference_of
from .judge import evaluate, evaluate_run, open_run
from .memory import Memory
from .pages import METRICS_FILE, REPORT_FILE, write_evaluation
from .plans import five_plans, frontier_plans
from .quality import frechet_interval, quality

__all__ = [
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
    "five_plans",
    "frechet_interval",
    "frontier_plans",
    "gather_features",
    "make_features",
    "open_run",
    "quality",
    "reference_of",
    "write_evaluation",
]
