"""A GPU in eight minutes: tests, samplers, images a second, training, and steps by each method.

Needs a GPU of CUDA; `--device cpu --quick` rehearses it. The tests are those of `pytest -m device`.
A sampler's overhead is the time of an evaluation by a score that costs nothing. Images are of the
preset photos' network with random weights: 10,000 in bfloat16, or as many as a minute allows, and
what 10 s allow in float32. Training is a minute, half of it for each of two presets. Of the steps,
the first networks are compiled too, until the 330th second, and the last ones are left out after
the 440th: --only measures them.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch

from scorefield import runs
from scorefield.fast.optimize import Choice, optimize
from scorefield.noise import geometric, seeded
from scorefield.runs.config import override
from scorefield.runs.presets import PRESETS
from scorefield.sample import Plan, make_plan, sample
from scorefield.samplers import SAMPLERS, final

from . import Setting
from .measure import Task, turns, wait
from .networks import (
    GPU_NETWORKS,
    QUICK_NETWORKS,
    STEPS,
    Network,
    make_inputs,
    ncsn,
    photos_unet,
)
from .step import COLUMNS, EAGER, GPU_METHODS, HALF, compare
from .table import Cell, Table
from .tables import OPTIMIZED, excerpt

ROOT = Path(__file__).parents[1]
SECONDS = 440
"""Time after which no part is started; the last ones, of steps, may take half a minute."""
COMPILE_SECONDS = 330
"""Time after which nothing is compiled for the tables of steps."""
TEST_SECONDS = 150
IMAGE_SECONDS = {"float32": 10, "bfloat16": 60}
"""Seconds after which no more images are sampled in a precision; in bfloat16 all are expected."""
TRAINING_SECONDS = 30
"""Seconds of each preset's training after its first steps, which compile."""
WARM_STEPS = 5
IMAGES = 10_000
AT_ONCE = 500
LEVELS = 11
"""Levels of the grids on which samplers are timed."""
QUICK_RUN = ["training.steps=12", "training.batch=4", "network.width=8", "keeping.samples=0"]


def run(setting: Setting) -> Iterator[Table]:
    if not setting.device.startswith("cuda") and not (setting.quick and setting.device == "cpu"):
        raise ValueError(
            f"--device {setting.device}: gpu measures a GPU of CUDA, and torch "
            f"{torch.__version__} finds {torch.cuda.device_count()}; --device cpu --quick rehearses"
        )
    start, tables = time.monotonic(), list[Table]()
    parts: dict[str, Callable[[Setting], Iterator[Table]]] = {
        "tests": device_tests,
        "samplers": samplers,
        "images": images,
        "training": training,
    }
    for name, network in (QUICK_NETWORKS if setting.quick else GPU_NETWORKS).items():
        deadline = start + COMPILE_SECONDS * setting.compile
        parts[f"steps, {name}"] = partial(steps, name=name, network=network, deadline=deadline)
    for name, measure in setting.select(parts).items():
        try:
            if time.monotonic() > start + SECONDS:
                raise TimeoutError(f"there is no time left: --only {name!r} measures it alone")
            for table in measure(setting):
                tables.append(table)
                yield table
        except Exception as error:  # out of memory, for one; the other parts still count
            reason = (str(error) or type(error).__name__).splitlines()[0]
            yield Table(f"GPU, {name}", {"part": "", "failed": ""}, [[name, reason]])
    if compared := [table for table in tables if table.columns == COLUMNS]:
        heads, rows = ("method", *OPTIMIZED), (f"{EAGER}|", "optimize")
        print(f"For docs/speed.md:\n\n{excerpt('GPU, a step', compared, heads, rows).markdown()}\n")


def steps(setting: Setting, name: str, network: Network, deadline: float) -> Iterator[Table]:
    for kind in STEPS:
        yield compare(setting, name, network, kind, GPU_METHODS, deadline)


def device_tests(setting: Setting) -> Iterator[Table]:
    options = ["--collect-only", "tests/test_devices.py"] if setting.quick else ["-r", "fE"]
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "device"]
    command = [*pytest, "--device", setting.device, *options]
    limits: dict[str, Any] = {"cwd": ROOT, "timeout": TEST_SECONDS}
    done = subprocess.run(command, capture_output=True, text=True, **limits)
    *lines, result = done.stdout.splitlines() or [done.stderr.strip()]
    failures = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    yield Table("GPU, tests of devices", {"tests": "", "result": ""}, [["all", result]], failures)


def samplers(setting: Setting) -> Iterator[Table]:
    width, batch = (8, 2) if setting.quick else (128, 16)
    model = ncsn(3, width, 8 if setting.quick else 32).to(setting.device).eval()
    x, zero = make_inputs(model, batch)[0], torch.zeros(batch, *model.shape, device=setting.device)
    annealed, sigmas = {"steps": 2, "epsilon": 2e-5}, geometric(1.0, 0.01, LEVELS)
    plans = [Plan(name, sigmas, annealed if s.annealed else {}) for name, s in SAMPLERS.items()]
    tasks: dict[str, Task] = {
        plan.name: lambda plan=plan: final(plan.run(lambda x, sigma: zero, x, seeded(0)))
        for plan in plans
    }
    Choice(**HALF).apply(model)
    tasks["network"] = torch.no_grad()(partial(model, x, 0.1))
    times = {name: statistics.median(t) for name, t in turns(tasks, repeats=3).items()}
    rows: list[list[Cell]] = []
    for plan in plans:
        *_, state = plan.run(lambda x, sigma: zero, x, seeded(0))
        own = times[plan.name] / int(torch.as_tensor(state.evaluations).max())
        rows.append([plan.name, 1e3 * own, own / (own + times["network"])])
    heads = {"sampler": "", "ms an evaluation": ".3f", "of a real step": ".1%"}
    about = f"{batch} images at once. An evaluation takes {1e3 * times['network']:.3f} ms besides."
    yield Table("GPU, overhead of samplers next to an NCSN in bfloat16", heads, rows, [about])


def images(setting: Setting) -> Iterator[Table]:
    n, batch, levels, width = (4, 2, 2, 8) if setting.quick else (IMAGES, AT_ONCE, 18, 64)
    rows: list[list[Cell]] = []
    notes = list[str]()
    for precision, limit in IMAGE_SECONDS.items():
        model, done = photos_unet(width).to(setting.device), 0
        plan = make_plan(model, "heun", levels)
        calls = plan.evaluations * n // batch
        choice = optimize(model, batch=batch, evaluations=calls, precision=precision)
        sample(model, batch, plan, batch=batch)
        wait()
        start = time.perf_counter()
        while done < n and time.perf_counter() - start < limit:
            sample(model, batch, plan, seed=done, batch=batch).cpu()
            done += batch
        seconds = time.perf_counter() - start
        rows.append([precision, done, seconds, done / seconds])
        notes.append(f"{precision}: {choice}.")
    heads = {"precision": "", "images": "d", "seconds": ".1f", "images/s": ".1f"}
    title = f"GPU, images of a UNet {width}, {batch} at once, {plan.evaluations} evaluations"
    yield Table(title, heads, rows, notes)


def training(setting: Setting) -> Iterator[Table]:
    rows: list[list[Cell]] = []
    notes = list[str]()
    for name in ("digits", "photos"):
        changes = [f"machine.device={setting.device}", f"seed={setting.seed}"]
        changes += [f"machine.threads={torch.get_num_threads()}", "training.steps=1000000"]
        changes += QUICK_RUN * setting.quick
        with tempfile.TemporaryDirectory() as folder:
            run = runs.start(override(PRESETS[name], changes), Path(folder) / "run")
            with closing(iter(run)) as updates:
                for update in updates:
                    if update.step <= WARM_STEPS:
                        wait()
                        start, first = time.perf_counter(), update.step
                    elif setting.quick or time.perf_counter() - start > TRAINING_SECONDS:
                        break
                wait()
            speed = (update.step - first) / (time.perf_counter() - start)
        batch = run.experiment.training.batch
        rows.append([name, update.step, speed, batch * speed, float(update.loss)])
        notes.append(f"{name}: {run.reasons}.")
    heads = {"preset": "", "steps": "d", "steps/s": ".1f", "images/s": ".0f", "loss": ".4f"}
    yield Table("GPU, training", heads, rows, notes)
