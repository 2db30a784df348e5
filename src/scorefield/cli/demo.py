"""`scorefield demo`: digits, from training to a report, in minutes."""

import shlex
from pathlib import Path

from ..runs.config import override
from ..runs.presets import PRESETS
from . import options


def demo(
    *,
    out: Path = Path("runs/demo"),
    seed: options.Seed = 0,
    steps: int = PRESETS["digits"].training.steps,
) -> None:
    """Learn digits, sample them with five methods, evaluate the samples, and write a report.

    It takes two to three minutes on two cores. A demo that was stopped is continued, and a model
    that is finished is only evaluated.

    Args:
        out: directory for all results, report.html among them.
        steps: number of training steps; fewer for a quick look.
    """
    options.check_options(steps=steps, seed=seed)
    options.check_directory(out)
    from ..data import load_data
    from ..evaluate import REPORT_FILE, evaluate, five_plans, make_features, write_evaluation
    from ..runs import finish
    from ..runs.watch import track_training

    settings = [f"seed={seed}", f"training.steps={steps}", "machine.device=cpu"]
    model = finish(override(PRESETS["digits"], settings), out, watch=track_training)
    data, plans, weights = load_data("digits"), five_plans(model), f"averaged, step {steps}"
    evaluation = evaluate(
        model, data, plans=plans, classifier=make_features("classifier", data), n=360,
        floor_sets=20, seed=seed, weights=weights, run=out, progress=True,
    )  # fmt: skip
    write_evaluation(evaluation, out)
    print(evaluation.table(), f"\n{evaluation.caption()}\n", evaluation.verdict, sep="\n")
    print(f"\nwrote {(out / REPORT_FILE).resolve()}\nnext:")
    print(f"  scorefield sample {shlex.quote(str(out))} -n 64 --sampler heun --out samples.png")
    print("  scorefield suggest PHOTOS --size 32            noise levels for your images")
    print("  scorefield train --data PHOTOS --data.options.size=32 --out runs/mine")
    print("  scorefield train --data TABLE.csv --out runs/table")
