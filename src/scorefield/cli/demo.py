"""`scorefield demo`: digits, from training to a report, in minutes."""

import shlex
from collections.abc import Iterator
from pathlib import Path

from ..runs.choose import choose_experiment
from . import options


def demo(
    *, out: Path = Path("runs/demo"), seed: options.Seed = 0, steps: int | None = None
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
    from ..runs import Run, finish
    from ..runs.run import track_training
    from ..train import Update

    settings = [f"seed={seed}", "machine.device=cpu"]
    settings += [] if steps is None else [f"training.steps={steps}"]
    experiment = choose_experiment("digits", settings=settings)
    steps = experiment.training.steps

    def watch(run: Run) -> Iterator[Update]:
        print(f"1. learn the score of digits: {steps} steps; Ctrl-C saves and stops", flush=True)
        return track_training(run)

    model, data = finish(experiment, out, watch=watch), load_data("digits")
    print("2. sample by five plans, and judge the samples", flush=True)
    evaluation = evaluate(
        model, data, plans=five_plans(model), n=360, floor_sets=20, seed=seed,
        classifier=make_features("classifier", data), weights=f"averaged, step {steps}", run=out,
        progress=True,
    )  # fmt: skip
    write_evaluation(evaluation, out)
    print(evaluation.table(), f"\n{evaluation.caption()}\n", evaluation.verdict, sep="\n")
    print(f"\nwrote {(out / REPORT_FILE).resolve()}\nnext:")
    print(f"  scorefield sample {shlex.quote(str(out))} -n 64 --sampler heun --out samples.png")
    print("  scorefield suggest FOLDER                      noise levels for your own images")
    print("  scorefield train digits --data FOLDER --out runs/mine")
