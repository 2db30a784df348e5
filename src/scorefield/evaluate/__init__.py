"""Judge a model: quality of its samples by several plans, memorisation, fit to held-out data, cost.

    evaluation = evaluate(model, data, plans=five_plans(model), features="classifier")
    evaluation = evaluate_run("runs/digits")          # model, data and plan of a run's directory
    print(evaluation.table(), evaluation.verdict)
    write_evaluation(evaluation, "runs/digits")       # metrics.json and report.html
    push("runs/digits", "owner/name")                 # with a model card, to the Hugging Face Hub
    print(score_run("runs/digits", "photographs/").table())  # are other data like its own?

Each figure has a 95 % interval, and is compared with that of as many real samples.
"""

from ..runs.journal import METRICS_FILE
from .evaluation import Evaluation
from .features import Features, make_features
from .gather import cache_folder, gather_samples
from .grid import fit_grid
from .judge import evaluate
from .memory import nearest_in
from .pages import REPORT_FILE, write_evaluation
from .plans import five_plans, frontier_plans
from .push import push
from .runs import evaluate_run, open_run
from .typicality import DataScores, score_data, score_run

__all__ = [
    "METRICS_FILE",
    "REPORT_FILE",
    "DataScores",
    "Evaluation",
    "Features",
    "cache_folder",
    "evaluate",
    "evaluate_run",
    "fit_grid",
    "five_plans",
    "frontier_plans",
    "gather_samples",
    "make_features",
    "nearest_in",
    "open_run",
    "push",
    "score_data",
    "score_run",
    "write_evaluation",
]
