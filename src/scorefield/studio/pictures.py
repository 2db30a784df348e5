"""Jobs of the view Images: samples that anneal, their neighbours, paths between seeds, cost."""

import json
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .. import Plan, State, interpolated, make_plan, seeded
from ..checkpoint import run_directory
from ..data import Dataset, Part, all_samples
from ..evaluate import METRICS_FILE, nearest_in
from ..fast import optimize
from ..runs import Experiment, choose_plan, open_data, open_decoder
from ..sample import chains, guided_score, suitable_samplers
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
    guidance: Annotated[float, Between(-MAX_GUIDANCE, MAX_GUIDANCE)] = 1.0  # 1 is the run's own

    def plan(self, studio: Studio) -> Plan:
        """Return the plan, as `scorefield sample` chooses it."""
        if studio.run is None:
            plan = make_plan(studio.model, self.sampler, self.steps)
        else:
            plan = choose_plan(studio.run, studio.model, self.sampler, self.steps)
        return plan if self.guidance == 1 else replace(plan, guidance=self.guidance)

    def chains(self, studio: Studio) -> Iterator[State]:
        """Return the states of the chains of `sample` with these settings."""
        model, plan = studio.model, self.plan(studio)
        optimize(model, *plan.others, batch=self.n, evaluations=plan.evaluations)
        seed, label = self.seed, self.label
        ((_, states),) = chains(model, self.n, plan, seed=seed, label=label, batch=MAX_IMAGES)
        return states


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

    def chains(self, studio: Studio) -> Iterator[State]:
        """Return the states of the chains."""
        model, plan = studio.model.eval(), self.plan(studio)
        optimize(model, *plan.others, batch=self.n, evaluations=plan.evaluations)
        weights = torch.linspace(0, 1, self.n)
        noise = interpolated(seeded(self.seed), seeded(self.other), weights)
        score = guided_score(model, self.condition(studio), plan.guidance)
        return plan.run(score, plan.start(model, self.n, noise), noise)

    def condition(self, studio: Studio) -> dict[str, int] | None:
        """Return the class of all images."""
        if self.label is None:
            return None
        return {"label": int(studio.model.find_class(self.label))}


def image_decoder(studio: Studio) -> tuple[Decode, torch.Size]:
    """Return the function that makes images of the model's samples, and their shape."""
    if "decode" not in studio.cache:
        shape = studio.prior.mean.shape
        own = (lambda x: x, shape) if studio.run is None else open_decoder(studio.run, shape)
        studio.cache["decode"] = own
    decode, shape = studio.cache["decode"]
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(
            f"The model's samples have shape {tuple(shape)}: this view is for images with one or "
            "three channels, and Plane for points"
        )
    return decode, shape


def to_bytes(x: Tensor) -> Bytes:
    """Return images as bytes, with the channels last."""
    return np.ascontiguousarray(as_bytes(x).permute(0, 2, 3, 1).numpy())


def open_run_data(studio: Studio) -> tuple[Experiment, Dataset]:
    """Return the run's configuration and data, which are read once."""
    if studio.run is None:
        raise ValueError("No run is open: open one, or start `scorefield studio RUN`")
    folder = run_directory(studio.run)
    return studio.once("data", lambda: open_data(folder))


# ── Jobs ─────────────────────────────────────────────────────────────────────────────────────────


def describe_pictures(studio: Studio, settings: Mapping[str, Any]) -> Iterator[Frame]:
    """Yield what can be chosen: samplers, classes, and the measured costs of the samplers."""
    model, (_, shape) = studio.model, image_decoder(studio)
    parse_settings(SampleSettings, settings)
    own = SampleSettings().plan(studio)
    names = suitable_samplers(model)
    header = {
        "keep": True,
        "shape": [*shape],
        "classes": [*model.classes],
        # a class is needed if the training never left it out
        "free": not model.always_labelled,
        "sampler": own.sampler,
        "samplers": {name: count_steps(SampleSettings(name).plan(studio)) for name in names},
        "data": studio.run is not None and (run_directory(studio.run) / "config.json").exists(),
        "run": None if studio.run is None else str(studio.run),
        "frontier": read_frontier(studio),
    }
    yield Frame(header)


def count_calls(plan: Plan) -> int:
    """Return the number of network calls in an evaluation of the score, 2 with guidance."""
    return 1 if plan.guidance == 1 else 2


def count_steps(plan: Plan) -> int:
    """Return the `steps` of a plan: levels, or the steps at each level of a ladder."""
    return int(plan.options["steps"]) if plan.method.annealed else len(plan.sigmas)


def describe_plan(studio: Studio, settings: Mapping[str, Any]) -> Iterator[Frame]:
    """Yield the cost and the noise levels of a plan, before it is run."""
    wanted = parse_settings(SampleSettings, settings)
    plan = wanted.plan(studio)
    header = {"evaluations": plan.evaluations, "calls": count_calls(plan) * plan.evaluations}
    yield Frame({"keep": True, "levels": plan.sigmas.tolist(), **header})


def read_frontier(studio: Studio) -> list[dict[str, Any]]:
    """Return the Fréchet distances by sampler and cost that `evaluate --frontier` has measured."""
    if studio.run is None:
        return []
    path = run_directory(studio.run) / METRICS_FILE
    if not path.exists():
        return []
    points = []
    for figure in json.loads(path.read_text("utf-8")).get("frontier", ()):
        plan, numbers = figure["plan"], ("value", "low", "high")
        if all(isinstance(figure[name], float) for name in numbers):
            points.append({name: figure[name] for name in (*numbers, "real", "samples", "name")})
            points[-1] |= {name: plan[name] for name in ("evaluations", "seconds")}
            points[-1]["sampler"] = plan["name"]
    return points


def sample_pictures(studio: Studio, settings: Mapping[str, Any]) -> Iterator[Frame | None]:
    """Yield the states of a grid of samples, from noise to images, all of them for the path."""
    wanted = parse_settings(SampleSettings, settings)
    studio.cache["pictures"] = wanted, (yield from show_states(studio, wanted, keep=True))


def show_states(
    studio: Studio, wanted: SampleSettings, *, keep: bool
) -> Generator[Frame | None, None, Tensor]:
    """Yield a frame or None for each state, and a frame of the last, whose samples are returned."""
    plan, (decode, _) = wanted.plan(studio), image_decoder(studio)
    interval = -(-plan.states // MAX_SHOWN)
    for state, seconds in clock(wanted.chains(studio)):
        if state.step % interval:
            yield None
        else:
            yield frame_of(state, seconds, plan, wanted, decode, keep=keep)
    yield frame_of(state, seconds, plan, wanted, decode, keep=True, last=True)
    return state.x


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
        "calls": count_calls(plan) * evaluations, "seconds": seconds, "n": wanted.n,
        "sampler": plan.sampler, **more,
    }  # fmt: skip
    shown = {"x": to_bytes(decode(state.x)), "denoised": to_bytes(decode(state.denoised))}
    return Frame(header, shown)


def final_pictures(studio: Studio, wanted: SampleSettings) -> Iterator[None]:
    """Sample again if the samples of these settings are not remembered."""
    if studio.cache.get("pictures", (None,))[0] != wanted:
        for state in wanted.chains(studio):
            x = state.x
            yield None
        studio.cache["pictures"] = wanted, x


def find_neighbours(studio: Studio, settings: Mapping[str, Any]) -> Iterator[Frame | None]:
    """Yield the training images nearest to a sample, and how far held-out images usually are."""
    wanted, (decode, _) = parse_settings(OneOfThem, settings), image_decoder(studio)
    experiment, data = open_run_data(studio)
    own = {field.name: getattr(wanted, field.name) for field in fields(SampleSettings)}
    yield from final_pictures(studio, SampleSettings(**own))
    queries = studio.cache["pictures"][1][wanted.index : wanted.index + 1].cpu()
    if data.test is not None and "usual distance" not in studio.cache:
        queries = torch.cat([queries, all_samples(data.test, USUAL_SAMPLES).cpu()])
    flips = experiment.data.flip
    for progress in nearest_in(queries, data.train, NEIGHBOURS, flips=flips):
        compared, (distances, indices) = progress
        yield Frame({"compared": compared, "of": len(data.train)})
    if len(queries) > 1:
        studio.cache["usual distance"] = distances[1:, 0].median().item()
    images = decode(all_samples(Part(data.train, indices[0])))
    header = {"keep": True, "of": len(data.train), "distances": distances[0].tolist()}
    header |= {"index": wanted.index, "usual": studio.cache.get("usual distance")}
    yield Frame(header, {"images": to_bytes(images)})


def interpolate_pictures(studio: Studio, settings: Mapping[str, Any]) -> Iterator[Frame | None]:
    """Yield the states of n samples whose noise goes from that of one seed to that of another."""
    yield from show_states(studio, parse_settings(SeedPath, settings), keep=False)
