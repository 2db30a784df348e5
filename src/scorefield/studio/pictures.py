"""Jobs of the view Images: samples that anneal, their neighbours, paths between seeds, cost."""

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..checkpoint import run_directory
from ..data import LATENTS_FILE, Dataset, Latents, Part, all_samples
from ..disk import read_text
from ..fast import optimize
from ..metrics import nearest
from ..noise import interpolated, seeded
from ..runs.config import Experiment, Sampling
from ..runs.journal import METRICS_FILE
from ..runs.own_plan import choose_plan, read_settings
from ..runs.resume import open_data
from ..sample import Plan, chains, class_number, guided_score, make_plan, require_prior
from ..samplers import SAMPLERS, State, every
from ..show.images import as_bytes
from .context import Studio
from .settings import MAX_SEED, Between, parse_settings
from .wire import Frame

MAX_IMAGES = 256
"""Images of one page: the batch of `sample`, so that all of them anneal together."""
MAX_STEPS = 10_000
MAX_GUIDANCE = 1e6
MAX_SHOWN = 120
"""States of a chain that are sent, evenly spaced."""
NEIGHBOURS = 6
USUAL_SAMPLES = 100
"""Held-out images that show what distance is usual."""
COMPARED_AT_ONCE = 2**22
"""Numbers of the training data that are compared in one step."""

Bytes = npt.NDArray[np.uint8]
Decode = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SampleSettings:
    """Settings of a grid of samples; None is the run's own choice."""

    sampler: str | None = None
    steps: Annotated[int | None, Between(1, MAX_STEPS)] = None
    seed: Annotated[int, Between(0, MAX_SEED)] = 0
    n: Annotated[int, Between(1, MAX_IMAGES)] = 16
    label: str | None = None
    guidance: Annotated[float, Between(-MAX_GUIDANCE, MAX_GUIDANCE)] = 1.0

    def plan(self, studio: Studio) -> Plan:
        """Return the plan, as `scorefield sample` chooses it."""
        if studio.run is None:
            return make_plan(studio.model, self.sampler, self.steps)
        return choose_plan(studio.run, studio.model, self.sampler, self.steps)


@dataclass(frozen=True)
class OneOfThem(SampleSettings):
    """Settings of a grid, and the image that was chosen in it."""

    index: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.n:
            raise ValueError(f"index={self.index}: give a whole number from 0 to {self.n - 1}")


@dataclass(frozen=True)
class SeedPath(SampleSettings):
    """Settings of n images on the way from one seed to another."""

    n: Annotated[int, Between(1, MAX_IMAGES)] = 9
    other: Annotated[int, Between(0, MAX_SEED)] = 1


def image_decoder(studio: Studio) -> Decode:
    """Return the function that makes images of the model's samples; others are refused."""
    decode: Decode = lambda x: x  # noqa: E731
    shape = require_prior(studio.model).mean.shape
    if studio.run is not None and (run_directory(studio.run) / LATENTS_FILE).exists():
        if "decode" not in studio.cache:
            studio.cache["decode"] = Latents.read(run_directory(studio.run)).decode
        decode = studio.cache["decode"]
        shape = decode(torch.zeros(1, *shape)).shape[1:]
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(
            f"The model's samples have shape {tuple(shape)}: this view is for images with one or "
            "three channels, and Plane for points"
        )
    return decode


def to_bytes(x: Tensor) -> Bytes:
    """Return images as bytes, with the channels last."""
    return np.ascontiguousarray(as_bytes(x).permute(0, 2, 3, 1).numpy())


def open_run_data(studio: Studio) -> tuple[Experiment, Dataset]:
    """Return the run's configuration and data, which are read once."""
    if studio.run is None:
        raise ValueError("No run is open: start the studio as `scorefield studio RUN`")
    if "data" not in studio.cache:
        studio.cache["data"] = open_data(run_directory(studio.run))
    experiment, data = studio.cache["data"]
    return experiment, data


# ── Jobs ─────────────────────────────────────────────────────────────────────────────────────────


def describe_pictures(studio: Studio, settings: Mapping[str, Any]) -> Iterator[Frame]:
    """Yield what can be chosen: samplers, classes, and the measured costs of the samplers."""
    model, decode = studio.model, image_decoder(studio)
    parse_settings(SampleSettings, settings)
    own = SampleSettings().plan(studio)
    tuned = SAMPLERS[own.sampler].jumps
    names = [name for name, one in SAMPLERS.items() if one.jumps == tuned]
    if model.precondition.levels is not None:
        names = [name for name in names if "tolerance" not in SAMPLERS[name].defaults]
    header = {
        "keep": True,
        "shape": [*decode(torch.zeros(1, *require_prior(model).mean.shape)).shape[1:]],
        "classes": [*model.classes],
        # a class is needed if the training never left it out
        "free": getattr(model.net, "arguments", {}).get("label_dropout") != 0,
        "sampler": own.sampler,
        "samplers": {name: count_steps(SampleSettings(name).plan(studio)) for name in names},
        "data": studio.run is not None and (run_directory(studio.run) / "config.json").exists(),
        "run": None if studio.run is None else str(studio.run),
        "frontier": read_frontier(studio),
    }
    yield Frame(header)


def count_steps(plan: Plan) -> int:
    """Return the `steps` of a plan: levels, or the steps at each level of a ladder."""
    return int(plan.options["steps"]) if plan.method.annealed else len(plan.sigmas)


def describe_plan(studio: Studio, settings: Mapping[str, Any]) -> Iterator[Frame]:
    """Yield the cost and the noise levels of a plan, before it is run."""
    plan = parse_settings(SampleSettings, settings).plan(studio)
    yield Frame({"keep": True, "evaluations": plan.evaluations, "levels": plan.sigmas.tolist()})


def read_frontier(studio: Studio) -> list[dict[str, Any]]:
    """Return the Fréchet distances by sampler and cost that `evaluate --frontier` has measured."""
    if studio.run is None:
        return []
    path = run_directory(studio.run) / METRICS_FILE
    if not path.exists():
        return []
    points = []
    for figure in json.loads(read_text(path)).get("frontier", ()):
        plan, numbers = figure["plan"], ("value", "low", "high")
        if all(isinstance(figure[name], float) for name in numbers):
            points.append({name: figure[name] for name in (*numbers, "real", "samples", "name")})
            points[-1] |= {name: plan[name] for name in ("sampler", "evaluations", "seconds")}
    return points


def sample_pictures(studio: Studio, settings: Mapping[str, Any]) -> Iterator[Frame]:
    """Yield the states of a grid of samples, from noise to images."""
    wanted, decode = parse_settings(SampleSettings, settings), image_decoder(studio)
    yield from show_states(studio, wanted, wanted.plan(studio), run_chains(studio, wanted), decode)


def run_chains(studio: Studio, wanted: SampleSettings) -> Iterator[State]:
    """Return the states of the chains of `sample` with these settings."""
    model, plan = studio.model, wanted.plan(studio)
    optimize(model, batch=wanted.n, evaluations=plan.evaluations)
    ((_, states),) = chains(
        model, wanted.n, plan, seed=wanted.seed, label=wanted.label, guidance=wanted.guidance,
        batch=MAX_IMAGES,
    )  # fmt: skip
    return states


def show_states(
    studio: Studio, wanted: SampleSettings, plan: Plan, states: Iterator[State], decode: Decode
) -> Iterator[Frame]:
    """Yield a frame of some states, and one of the last, whose samples are remembered."""
    for state, seconds in clock(every(states, -(-plan.states // MAX_SHOWN))):
        yield frame_of(state, seconds, plan, wanted, decode, keep=True)  # all, for the path
    studio.cache["pictures"] = wanted, state.x
    yield frame_of(state, seconds, plan, wanted, decode, keep=True, last=True)


def clock(states: Iterator[State]) -> Iterator[tuple[State, float]]:
    """Yield the states, each with the seconds that computing has taken so far."""
    seconds = 0.0
    while True:
        start = perf_counter()
        state = next(states, None)
        seconds += perf_counter() - start
        if state is None:
            return
        yield state, seconds


def frame_of(
    state: State, seconds: float, plan: Plan, wanted: SampleSettings, decode: Decode, **more: Any
) -> Frame:
    """Return a state as a frame: images as they are, and the means of those they may become."""
    evaluations = torch.as_tensor(state.evaluations).float().mean().item()
    header = {
        "step": state.step, "of": plan.states, "sigma": state.sigma, "evaluations": evaluations,
        "seconds": seconds, "n": wanted.n, "sampler": plan.sampler, **more,
    }  # fmt: skip
    shown = {"x": to_bytes(decode(state.x)), "denoised": to_bytes(decode(state.denoised))}
    return Frame(header, shown)


def final_pictures(studio: Studio, wanted: SampleSettings) -> Iterator[None]:
    """Sample again if the samples of these settings are not remembered."""
    if studio.cache.get("pictures", (None,))[0] != wanted:
        for state in run_chains(studio, wanted):
            x = state.x
            yield None
        studio.cache["pictures"] = wanted, x


def find_neighbours(studio: Studio, settings: Mapping[str, Any]) -> Iterator[Frame | None]:
    """Yield the training images nearest to a sample, and how far held-out images usually are."""
    wanted, decode = parse_settings(OneOfThem, settings), image_decoder(studio)
    experiment, data = open_run_data(studio)
    own = {field.name: getattr(wanted, field.name) for field in fields(SampleSettings)}
    yield from final_pictures(studio, SampleSettings(**own))
    x = studio.cache["pictures"][1][wanted.index : wanted.index + 1].cpu()
    heldout = None if data.test is None else all_samples(data.test, USUAL_SAMPLES).cpu()
    usual = studio.cache.get("usual distance") if heldout is not None else None
    queries = torch.cat([x, heldout]) if heldout is not None and usual is None else x
    distances = torch.full((len(queries), 0), torch.inf, dtype=torch.float64)
    indices = torch.zeros_like(distances, dtype=torch.int64)
    train, flips = data.train, experiment.data.flip
    size = max(NEIGHBOURS, COMPARED_AT_ONCE // train.shape.numel())
    for rows in torch.split(torch.arange(len(train)), size):
        k = min(NEIGHBOURS, len(rows))
        block = nearest(queries, all_samples(Part(train, rows)).cpu(), k, flips=flips)
        distances = torch.cat([distances, block.distances], 1)
        indices = torch.cat([indices, rows[block.indices]], 1)
        order = distances.argsort(dim=1)[:, :NEIGHBOURS]
        distances, indices = distances.gather(1, order), indices.gather(1, order)
        yield Frame({"compared": int(rows[-1]) + 1, "of": len(train)})
    if len(queries) > 1:
        usual = studio.cache["usual distance"] = distances[1:, 0].median().item()
    images = decode(all_samples(Part(train, indices[0])))
    header = {"keep": True, "index": wanted.index, "usual": usual, "of": len(train)}
    yield Frame(header | {"distances": distances[0].tolist()}, {"images": to_bytes(images)})


def interpolate_pictures(studio: Studio, settings: Mapping[str, Any]) -> Iterator[Frame]:
    """Yield the states of n samples whose noise goes from that of one seed to that of another."""
    wanted, decode = parse_settings(SeedPath, settings), image_decoder(studio)
    model, plan = studio.model.eval(), wanted.plan(studio)
    optimize(model, batch=wanted.n, evaluations=plan.evaluations)
    weights = torch.linspace(0, 1, wanted.n)
    noise = interpolated(seeded(wanted.seed), seeded(wanted.other), weights)
    condition = None
    if wanted.label is not None:
        condition = {"label": int(class_number(model, wanted.label, wanted.guidance))}
    score = guided_score(model, condition, wanted.guidance)
    states = plan.run(score, plan.start(model, wanted.n, noise), noise)
    for state, seconds in clock(every(states, -(-plan.states // MAX_SHOWN))):
        yield frame_of(state, seconds, plan, wanted, decode)
    yield frame_of(state, seconds, plan, wanted, decode, keep=True, last=True)


# ── The same as code ─────────────────────────────────────────────────────────────────────────────


def plan_options(studio: Studio, wanted: SampleSettings) -> dict[str, Any]:
    """Return the options of `make_plan` that make the plan; those of its default are left out."""
    plan, options = wanted.plan(studio), dict[str, Any]()
    experiment = None if studio.run is None else read_settings(studio.run)
    if experiment is not None and experiment.sampling.sampler == plan.sampler:
        own, usual = asdict(experiment.sampling), asdict(Sampling())
        options |= {k: own[k] for k in ("levels", "grid", "epsilon") if own[k] != usual[k]}
        denoise = True if plan.method.annealed else plan.method.defaults["denoise"]
        options |= {} if own["denoise"] == denoise else {"denoise": own["denoise"]}
        options["steps"] = own["steps"]
    return options | ({} if wanted.steps is None else {"steps": wanted.steps})


def plan_as_python(studio: Studio, wanted: SampleSettings) -> list[str]:
    """Return the lines that load the model and make the plan."""
    arguments = {name: f"{name}={value!r}" for name, value in plan_options(studio, wanted).items()}
    words = ["model", repr(wanted.plan(studio).sampler), *arguments.values()]
    return [
        f"model = load({str(studio.run)!r})",
        f"plan = make_plan({', '.join(words)})",
        f"optimize(model, batch={wanted.n}, evaluations=plan.evaluations)",
    ]


def write_pictures(settings: Mapping[str, Any], studio: Studio) -> dict[str, str | None]:
    """Return the command and the Python that give the same samples."""
    wanted = parse_settings(SampleSettings, settings)
    flags = {
        "-n": wanted.n, "--sampler": wanted.sampler, "--steps": wanted.steps,
        "--seed": wanted.seed, "--label": wanted.label,
        "--guidance": None if wanted.guidance == 1 else wanted.guidance, "--device": "cpu",
    }  # fmt: skip
    python = [
        "from scorefield import load, make_plan, sample",
        "from scorefield.fast import optimize",
        "",
        *plan_as_python(studio, wanted),
        f"x = sample(model, {wanted.n}, plan, seed={wanted.seed}{as_keywords(wanted)})",
    ]
    return {"command": command_line("sample", studio, flags), "python": "\n".join(python) + "\n"}


def as_keywords(wanted: SampleSettings) -> str:
    """Return the class and the guidance as keywords of a call, empty by default."""
    label = "" if wanted.label is None else f", label={wanted.label!r}"
    return label + ("" if wanted.guidance == 1 else f", guidance={wanted.guidance!r}")


def command_line(name: str, studio: Studio, flags: Mapping[str, Any], *files: str) -> str:
    """Return a command over the run with its options; those that are None are left out."""
    words = ["scorefield", name, str(studio.run), *files]
    for flag, value in flags.items():
        words += [] if value is None else [flag, str(value)]
    return shlex.join(words)


def write_path(settings: Mapping[str, Any], studio: Studio) -> dict[str, str | None]:
    """Return the Python that gives the same path between two seeds."""
    wanted, model = parse_settings(SeedPath, settings), studio.model
    condition = "None"
    if wanted.label is not None:
        condition = f"{{'label': {int(class_number(model, wanted.label, wanted.guidance))}}}"
    python = [
        "import torch",
        "from scorefield import final, interpolated, load, make_plan, seeded",
        "from scorefield.fast import optimize",
        "from scorefield.sample import guided_score",
        "",
        *plan_as_python(studio, wanted),
        f"weights = torch.linspace(0, 1, {wanted.n})",
        f"noise = interpolated(seeded({wanted.seed}), seeded({wanted.other}), weights)",
        f"score = guided_score(model, {condition}, {wanted.guidance!r})",
        f"x = final(plan.run(score, plan.start(model, {wanted.n}, noise), noise))",
    ]
    return {"command": None, "python": "\n".join(python) + "\n"}
