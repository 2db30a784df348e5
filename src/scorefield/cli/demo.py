"""`scorefield demo`: digits, from training to a report, in minutes."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..runs.choose import choose_experiment
from . import options

if TYPE_CHECKING:
    from ..model import ScoreModel
    from ..runs import Run
    from ..sample import Plan
    from ..train import Update

DEMO_SAMPLES = (360, 360, 360, 360, 120)
"""Samples by each plan: as many as are held out, and fewer by the slow one."""
DEMO_FLOORS = 20
"""Random sets of real digits behind the floors."""


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
    from ..evaluate import REPORT_FILE, evaluate, make_features, write_evaluation
    from ..runs import finish
    from ..runs.run import track_training

    own = [] if steps is None else [f"training.steps={steps}"]
    experiment = choose_experiment("digits", settings=[f"seed={seed}", "machine.device=cpu", *own])
    steps = experiment.training.steps

    def watch(run: Run) -> Iterator[Update]:
        print(f"1. learn the score of digits: {steps} steps; Ctrl-C saves and stops", flush=True)
        return track_training(run)

    model, data = finish(experiment, out, watch=watch), load_data("digits")
    print("2. sample by five plans, and judge the samples", flush=True)
    evaluation = evaluate(
        model, data, plans=five_plans(model), n=DEMO_SAMPLES, floor_sets=DEMO_FLOORS, seed=seed,
        classifier=make_features("classifier", data), name="digits from noise", run=out,
        weights=f"averaged, step {steps}", progress=True,
    )  # fmt: skip
    write_evaluation(evaluation, out)
    print(evaluation.table(), f"\n{evaluation.caption()}\n", evaluation.verdict, sep="\n")
    print(f"\nwrote {(out / REPORT_FILE).resolve()}\nnext:")
    print(f"  scorefield sample {shlex.quote(str(out))} -n 64 --sampler heun --out samples.png")
    print("  scorefield suggest FOLDER                      noise levels for your own images")
    print("  scorefield train digits --data FOLDER --out runs/mine")


def five_plans(model: ScoreModel) -> list[Plan]:
    """Return four plans for any model, and the paper's ladder, which was made for other data."""
    from ..noise import geometric
    from ..sample import Plan, make_plan

    langevin = "the paper's algorithm; σ, L, T and ε from suggest, which looked at these data"
    corrector = "36 levels; reverse diffusion, with a Langevin step at each"
    published = (
        "annealed Langevin as in the paper: σ from 1 to 0.01, L = 10, T = 100, ε = 2e-5, from "
        "uniform noise; made for other data"
    )
    ladder, step = geometric(1.0, 0.01, 10), {"steps": 100, "epsilon": 2e-5}
    title = "published ladder"
    return [
        make_plan(model, "annealed_langevin", title="annealed Langevin", note=langevin),
        make_plan(model, "predictor_corrector", 36, title="predictor–corrector", note=corrector),
        make_plan(model, "heun", 18, title="Heun", note="18 levels of the ODE, without noise"),
        make_plan(model, "dpm_solver", 20, title="DPM-Solver++", note="20 levels, without noise"),
        Plan("annealed_langevin", ladder, step, uniform=True, title=title, note=published),
    ]
