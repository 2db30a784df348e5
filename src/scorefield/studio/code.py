"""The same as a job of images or restorations, as a command and as Python."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..checkpoint import run_directory
from ..measurements import OPTIONS
from ..runs import Experiment, read_settings
from .context import Studio
from .pictures import SampleSettings, SeedPath
from .restorations import Completions, Measured, image_reader, measure
from .settings import parse_settings


def plan_options(studio: Studio, wanted: SampleSettings) -> dict[str, Any]:
    """Return the options of `make_plan` that make the plan; those of its default are left out."""
    plan, options = wanted.plan(studio), dict[str, Any]()
    experiment = None if studio.run is None else read_settings(studio.run)
    if experiment is not None and experiment.sampling.sampler == plan.sampler:
        own, usual = asdict(experiment.sampling), asdict(Experiment().sampling)
        options |= {k: own[k] for k in ("levels", "grid", "epsilon") if own[k] != usual[k]}
        denoise = True if plan.method.annealed else plan.method.defaults["denoise"]
        options |= {} if own["denoise"] == denoise else {"denoise": own["denoise"]}
        options["steps"] = own["steps"]
    return options | ({} if wanted.steps is None else {"steps": wanted.steps})


def plan_as_python(studio: Studio, wanted: SampleSettings) -> str:
    """Return the lines that load the model and make the plan."""
    own, run = wanted.plan(studio), repr(str(studio.run))
    others, imports = "", "from scorefield.fast import optimize"
    words = as_arguments("model", repr(own.sampler), **plan_options(studio, wanted))
    plan = f"sf.make_plan({words})"
    if own.others:  # the run's own guidance
        words = as_arguments(run, "model", sampler=wanted.sampler, steps=wanted.steps)
        plan, others = f"runs.choose_plan({words})", "*plan.others, "
        imports = f"from scorefield import runs\n{imports}"
    return f"""
import scorefield as sf
{imports}

model = sf.load({run})
plan = {plan}
optimize(model, {others}batch={wanted.n}, evaluations=plan.evaluations)
"""


def as_arguments(*words: str, **values: Any) -> str:
    """Return the arguments of a call; those that are None are left out."""
    keywords = (f"{name}={value!r}" for name, value in values.items() if value is not None)
    return ", ".join([*words, *keywords])


def command_line(name: str, studio: Studio, flags: Mapping[str, Any], *files: str) -> str:
    """Return a command over the run with its options; those that are None are left out."""
    places = [f"./{file}" if file.startswith("-") else file for file in files]  # no options
    words = ["scorefield", name, str(studio.run), *places]
    for flag, value in {**flags, "device": "cpu"}.items():
        words += [] if value is None else [f"--{flag}", str(value)]
    return shlex.join(words)


def write_pictures(settings: Mapping[str, Any], studio: Studio) -> dict[str, str | None]:
    """Return the command and the Python that give the same samples."""
    wanted = parse_settings(SampleSettings, settings)
    options: dict[str, Any] = {"seed": wanted.seed, "label": wanted.label}
    options |= {} if wanted.guidance == 1 else {"guidance": wanted.guidance}
    plan = {"n": wanted.n, "sampler": wanted.sampler, "steps": wanted.steps}
    arguments = as_arguments("model", str(wanted.n), "plan", **options)
    return {
        "command": command_line("sample", studio, plan | options),
        "python": f"{plan_as_python(studio, wanted)[1:]}x = sf.sample({arguments})\n",
    }


def write_path(settings: Mapping[str, Any], studio: Studio) -> dict[str, str | None]:
    """Return the Python that gives the same path between two seeds."""
    wanted, suffix = parse_settings(SeedPath, settings), ""
    if wanted.label is not None:
        suffix = f".given({wanted.condition(studio)})"
    score = f"model{suffix}"
    if wanted.guidance != 1:
        score = f"sf.guide({score}, model, {wanted.guidance!r})"
    elif wanted.plan(studio).others:
        own = "plan.guidance"
        score = f"sf.guide({score}, {own}.weak{suffix}, {own}.weight, interval={own}.interval)"
    python = f"""import torch
{plan_as_python(studio, wanted)}
weights = torch.linspace(0, 1, {wanted.n})
noise = sf.interpolated(sf.seeded({wanted.seed}), sf.seeded({wanted.other}), weights)
score = {score}
x = sf.final(plan.run(score, plan.start(model, {wanted.n}, noise), noise))
"""
    return {"command": None, "python": python}


def write_restoration(settings: Mapping[str, Any], studio: Studio) -> dict[str, str | None]:
    """Return the command, which reads the files that the page saves, and the Python."""
    wanted = parse_settings(Completions, settings)
    measurement, *_ = measure(studio, wanted)
    work = wanted.workload(studio.model)
    usual = Completions(method="particle_filter").options()
    options = {name: value for name, value in wanted.options().items() if value != usual[name]}
    own: dict[str, Any] = {"noise": wanted.noise}
    words, mask = [repr(wanted.task), str((*measurement.shape,))], ""
    if (option := OPTIONS[wanted.task]) == "mask":
        words.append("mask=torch.tensor(bits)")
        mask = f"""rows = {wanted.mask!r}.split()  # the bits of a row are 1 where it is known
bits = [[bit == "1" for bit in f"{{int(row, 16):0{measurement.shape[2]}b}}"] for row in rows]
"""
    elif option is not None:
        own[option] = getattr(wanted, option)
    names, image = image_as_python(studio, wanted)
    names += ["fast import optimize", "measurements import ImageMeasurement"]
    imports = "".join(f"from scorefield.{name}\n" for name in sorted(names))
    sigma_y = measurement.deviation or None
    python = f"""import torch

import scorefield as sf
{imports}
model = sf.load({str(studio.run)!r})
{mask}measurement = ImageMeasurement({as_arguments(*words, **own)})
{image}
optimize(model, batch={work.at_once}, evaluations={work.calls})
A = measurement.operator
x = sf.restore({as_arguments("model, A, y", n=wanted.n, sigma_y=sigma_y, **options)})[0]
"""
    file = wanted.file if wanted.measured else "measurement.npy"
    flags = {"task": wanted.task, **own, "mask": "mask.png" if mask else None, "n": wanted.n}
    saved = ["measurement.npy"] * (not wanted.measured) + ["mask.png"] * bool(mask)
    return {
        "command": command_line("restore", studio, flags | options, file),
        "python": python,
        "note": f"“Save the measurement” writes {' and '.join(saved)}." if saved else None,
    }


def image_as_python(studio: Studio, wanted: Measured) -> tuple[list[str], str]:
    """Return what is imported from the package, and the lines that read or measure y."""
    if wanted.measured:
        return [], f"y = measurement.read({wanted.file!r})"
    if wanted.upload is None:
        names = ["data import Part, all_samples", "runs import open_data"]
        test = f"open_data({str(run_directory(Path(str(studio.run))))!r})[1].test"
        image = f"all_samples(Part({test}, torch.tensor([{wanted.heldout}])))"
    else:
        names = ["data import ImageReader, cell_centres"]
        image = f"cell_centres({image_reader(studio)!r}({wanted.file!r}), 256)[None]"
    return names, f"x = {image}\ny = measurement.measure(x, seed={wanted.seed})"
