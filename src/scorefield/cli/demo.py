"""`scorefield demo`: digits, from training to a report, in minutes."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..disk import hold_lock
from ..runs.config import Experiment
from ..runs.presets import PRESETS
from . import options

if TYPE_CHECKING:
    from ..model import ScoreModel
    from ..sample import Plan

DEMO_SAMPLES = (360, 360, 360, 360, 120)
"""Samples by each plan: as many as are held out, and fewer by the slow one."""
DEMO_FLOORS = 20
"""Random sets of real digits behind the floors."""
ARRAYS = "arrays"


def demo(
    *,
    out: Path = Path("runs/demo"),
    seed: options.Seed = 0,
    steps: int | None = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Learn digits, sample them with five methods, evaluate the samples, and write a report.

    It takes two to three minutes on two cores.

    Args:
        out: directory for all results, report.html among them.
        steps: number of training steps; fewer for a quick look.
    """
    options.check_options(steps=steps, seed=seed)
    options.check_directory(out)
    if out.exists() and any(out.iterdir()):
        if not (out / "config.json").exists():
            raise ValueError(f"--out {out}: it holds files that are not a run, name another")
        if not overwrite:
            raise ValueError(f"--out {out}: holds a run; add --overwrite, or name another --out")
        clear_demo(out)
    from ..data import load_data
    from ..evaluate import evaluate, make_features, write_evaluation
    from ..runs import finish
    from ..runs.track import track_training
    from ..show import images

    experiment = demo_experiment(seed, steps)
    steps = experiment.training.steps
    print(f"1. learn the score of digits: {steps} steps; Ctrl-C saves and stops", flush=True)
    model = finish(experiment, out, watch=track_training)
    print("2. sample by five plans, and judge the samples", flush=True)
    data = load_data(experiment.data.source)
    evaluation = evaluate(
        model,
        data,
        plans=five_plans(model),
        n=DEMO_SAMPLES,
        classifier=make_features("classifier", data),
        floor_sets=DEMO_FLOORS,
        seed=seed,
        name="digits from noise",
        weights=f"averaged, step {steps}",
        run=out,
        progress=True,
    )
    write_evaluation(evaluation, out)
    for plan in evaluation.plans:
        figures = [asdict(figure) for figure in evaluation.of_plan(plan.name)]
        about = {"sigmas": plan.sigmas.tolist(), "figures": figures}
        path = out / ARRAYS / f"{plan.name.replace(' ', '_')}.npy"
        images.write(path, evaluation.samples[plan.name].x, about)
    print(evaluation.table(), f"\n{evaluation.caption()}\n", evaluation.verdict, sep="\n")
    run = shlex.quote(str(out))
    print(f"\nwrote {(out / 'report.html').resolve()}")
    print("next:")
    print(f"  scorefield sample {run} -n 64 --sampler heun --out samples.png")
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
    return [
        make_plan(model, "annealed_langevin", title="annealed Langevin", note=langevin),
        make_plan(model, "predictor_corrector", 36, title="predictor–corrector", note=corrector),
        make_plan(model, "heun", 18, title="Heun", note="18 levels of the ODE, without noise"),
        make_plan(model, "dpm_solver", 20, title="DPM-Solver++", note="20 levels, without noise"),
        Plan(
            "annealed_langevin",
            geometric(1.0, 0.01, 10),
            {"steps": 100, "epsilon": 2e-5},
            uniform=True,
            title="published ladder",
            note=published,
        ),
    ]


def demo_experiment(seed: int, steps: int | None) -> Experiment:
    """Return the preset on the CPU, with a short warm-up for few steps."""
    experiment = PRESETS["digits"]()
    training = experiment.training
    if steps is not None:
        training = replace(training, steps=steps, warmup=min(training.warmup, steps // 10))
    machine = replace(experiment.machine, device="cpu")
    return replace(experiment, seed=seed, training=training, machine=machine)


def clear_demo(out: Path) -> None:
    """Remove the files of an earlier demo, and nothing else."""
    names = ("config.json", "data.json", "log.jsonl", "model.safetensors", "model.json")
    with hold_lock(out):
        for name in (*names, "metrics.json", "report.html"):
            (out / name).unlink(missing_ok=True)
        for folder in ("checkpoints", "samples", ARRAYS):
            shutil.rmtree(out / folder, ignore_errors=True)
