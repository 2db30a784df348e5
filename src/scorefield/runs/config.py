"""The configuration of a run: frozen dataclasses, read from YAML, JSON or the command line.

A field that is `None` or "auto" is filled in by `resolve`, once; the run's config.json records the
value, and a resumed run reads it from there. `scorefield train --help` shows the comments below.
This module does not import torch.
"""

import io
import json
import os
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from operator import ge, gt, le, lt
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, cast, get_type_hints

from ..disk import open_regular
from ..values import convert_value, spelling_hint

LOCAL_OPTIONS = ("held_out", "root")
"""Options of data that may be places on this machine."""

Switch: TypeAlias = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class Data:
    """The training data."""

    # name of a data set, or path of a folder of images or of a file of arrays or a table
    source: str = "digits"
    # options of the source, such as `size` for a folder
    options: dict[str, Any] = field(default_factory=dict)
    flip: bool = False  # mirror images left to right at random
    dequantise: bool = True  # train on random points of the cells of 8-bit values, not on middles
    # probability of turning, scaling, stretching and shifting an image; the network gets the
    # parameters as a condition, which is 0 in sampling, so that samples are like the data
    augment: float = 0.0
    workers: int = 0  # threads that read ahead, for sources that read files
    labels: bool = False  # train a class-conditional model, if the data have classes
    # what else the model is conditioned on: columns of a table, arrays of an .npz, or folders of
    # images with the same names as those to learn
    condition: Sequence[str] = field(default_factory=list)
    classes: Sequence[str] | None = None  # names of the classes; by default those of the data

    @property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of `load_data`."""
        return self.options | ({"condition": self.condition} if self.condition else {})


@dataclass(frozen=True)
class Levels:
    """The noise levels, and the preconditioner that conditions the network on them."""

    # a function in `scorefield.precondition`
    precondition: Literal["EDM", "NCSN", "NCSNv2", "VE", "FlowMatching"] = "EDM"
    # distribution of σ in training
    distribution: Literal["lognormal", "loguniform", "discrete"] = "lognormal"
    sigma_max: float | None = None  # largest σ; by default the largest distance between two samples
    sigma_min: float | None = None  # smallest σ; by default that of `suggest`
    count: int | None = None  # levels of the discrete distribution; by default that of `suggest`
    mean: float | None = None  # mean of log σ, if log-normal; by default log(0.6σ_d), as in EDM
    std: float = 1.2  # standard deviation of log σ, if log-normal
    sigma_data: float | None = None  # σ_d, the data's standard deviation about the centre, for EDM
    # subtracted from x; by default the data's mean for EDM, else the network's own
    centre: float | None = None


@dataclass(frozen=True)
class Training:
    """The optimisation."""

    # the loss at one σ; `consistency` turns the model to start from into one for 1 or 2 evaluations
    objective: Literal["denoising", "sliced", "exact", "consistency"] = "denoising"
    # λ(σ), which makes levels comparable; `likelihood` bounds the divergence; consistency has none
    weight: Literal["edm", "ncsn", "likelihood"] = "edm"
    # samples of the data over which each target of denoising is averaged, which helps short
    # trainings; they must be in memory and have no condition
    references: int = 0
    steps: int = 10_000  # number of optimiser steps; with a budget, those that fit in it
    # seconds that training may take: they choose the steps, and a network of kind "auto"
    budget: float | None = None
    batch: int = 128  # samples per step, over all processes
    # parts in which a process takes its samples of a step, for batches that exceed the memory
    accumulate: int = 1
    # muon makes all directions of a matrix's gradient count the same, and leaves the rest to Adam
    optimizer: Literal["adam", "muon"] = "adam"
    rate: float = 1e-3  # learning rate
    betas: tuple[float, float] = (0.9, 0.999)  # Adam's β₁ and β₂
    eps: float = 1e-8  # Adam's ε
    decay: float = 0.0  # decoupled weight decay (AdamW) of weights of two or more dimensions
    # learning rate after the warm-up
    schedule: Literal["constant", "cosine", "inverse_sqrt"] = "constant"
    warmup: int = 0  # steps of linear warm-up
    # steps k₀ after which inverse_sqrt is √(k₀/k); by default a tenth of the steps
    plateau: int | None = None
    # steps between halvings of the distance σ − r of consistency; by default an eighth of the steps
    stage: int | None = None
    # [first, end] of linear cool-downs to a rate of 0; each replaces the rest of the one before
    cooldown: Sequence[tuple[int, int]] = field(default_factory=list)
    clip: float | None = None  # largest norm of the gradient
    # clip the gradient at this quantile of its norms in the last 1,000 steps, such as 0.9
    clip_quantile: float | None = None
    ema: float = 0.999  # decay of the moving average of the weights; 0 for none
    # steps between snapshots of two more averages, from which `scorefield average` makes one of any
    # length; 0 for none
    snapshots: int = 0


@dataclass(frozen=True)
class Sampling:
    """The run's own plan, which `sample` and `evaluate` use unless another sampler is named."""

    sampler: str = "heun"  # a name in `scorefield.SAMPLERS`, listed by `scorefield sample --help`
    steps: int = 18  # number of levels, or for annealed Langevin the steps at each level
    epsilon: float | None = None  # step size of annealed Langevin; by default that of the ladder
    # levels of the ladder, for a network that accepts any σ; by default that of `suggest`
    levels: int | None = None
    grid: Literal["karras", "geometric"] = "karras"  # spacing of the levels of the other samplers
    denoise: bool = True  # end with the step to σ = 0
    # strength of autoguidance, away from the run's average at an earlier step; 1 is no
    # guidance, and samples have the distribution of the data
    guidance: float = 1.0
    guidance_interval: tuple[float, float] | None = None  # σ with this strength, by default all
    # step of that average; by default half of all, but not later than the cool-down of a budget; it
    # moves if the run is to train longer
    guide: int | None = None


@dataclass(frozen=True)
class Keeping:
    """The files of a run and the number of steps between them; 0 is never."""

    log: int = 1  # steps between lines of log.jsonl
    evaluate: int = 500  # steps between held-out losses
    samples: int = 1000  # steps between grids of samples
    checkpoint: int = 500  # steps between regular checkpoints; there is also one every 10 minutes
    last: int = 3  # number of regular checkpoints to keep, in addition to the newest one
    # weights that become the run's model: those of the least held-out loss, or the last ones, so
    # that the held-out data choose nothing
    best: Literal["heldout", "last"] = "heldout"
    # where curves, grids and the configuration go too; needs scorefield[tensorboard] etc.
    tracker: Literal["none", "tensorboard", "wandb", "mlflow", "trackio"] = "none"


@dataclass(frozen=True)
class Machine:
    """The device and the backend; "auto" is resolved once and recorded."""

    device: str = "auto"  # cpu, cuda or mps
    autocast: Switch = "auto"  # run the network in bfloat16
    channels_last: Switch = "auto"  # store images with their channels innermost
    tf32: Switch = "auto"  # let a GPU round the factors of float32 products; auto is off
    compile: Switch = "auto"  # run the network through torch.compile
    winograd: Switch = "auto"  # use Winograd convolutions, on a CPU
    onednn: Switch = "auto"  # multiply the matrices of an MLP with oneDNN, on a CPU
    threads: int = 0  # number of CPU threads; 0 leaves it to torch


@dataclass(frozen=True)
class Experiment:
    """A run, from the data to the samples."""

    data: Data = Data()  # the training data
    # `kind`, a name in `scorefield.nn.NETWORKS` or MODULE:CLASS, and its arguments; channels,
    # shape, labels and levels may be left out, because the data determine them
    network: dict[str, Any] = field(default_factory=lambda: {"kind": "UNet"})
    levels: Levels = Levels()  # the noise levels
    training: Training = Training()  # the optimisation
    sampling: Sampling = Sampling()  # the run's own plan
    keeping: Keeping = Keeping()  # the files of a run
    machine: Machine = Machine()  # the device and the backend
    # a model to start from; its network and preconditioner replace those above
    start: str | None = None
    seed: int = 0  # seed of everything random


Config = TypeVar("Config")

FINGERPRINTS_FILE = "data.json"
"""File of a run that its data are recognised by."""
MAX_CONFIG_CHARACTERS = 2**20
"""A configuration has about 2,000, but one with the names of `MAX_CLASSES` classes almost 2²⁰."""
MAX_YAML_CHARACTERS = 2**15
"""YAML is read more slowly."""
MAX_NUMBER = 2**63
MAX_TEXT = 4096
"""Characters of a path, and of any other text."""
MAX_DEPTH = 8
"""Nesting of lists and mappings in a field."""
YAML_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.IGNORECASE | re.ASCII)

FIELD_LIMITS: Sequence[tuple[Callable[[float, float], bool], float, str, str]] = (
    (ge, 0, "0 or more", "data.augment data.workers training.rate training.decay training.warmup "
     "training.ema training.snapshots training.references keeping.log keeping.evaluate "
     "keeping.samples keeping.checkpoint machine.threads seed"),
    (ge, 1, "1 or more", "levels.count training.steps training.batch training.accumulate "
     "training.plateau training.stage sampling.steps sampling.guide keeping.last"),
    (ge, 2, "2 or more", "sampling.levels"),
    (gt, 0, "more than 0", "levels.std levels.sigma_data levels.sigma_max levels.sigma_min "
     "training.budget training.clip training.clip_quantile training.eps sampling.epsilon"),
    (le, 1, "1 or less", "data.augment training.clip_quantile"),
    (lt, 1, "a decay below 1, as 0.999", "training.ema"),
    (le, 1024, "1,024 or less", "data.workers machine.threads"),
    (le, 10_000, "10,000 or less", "network.blocks"),
    (le, 1e6, "1,000,000 or less", "levels.count sampling.levels sampling.steps"),
)  # fmt: skip
"""Comparison, bound, the same in words, and the fields that must keep to it."""


def read(path: Path, default: Experiment | None = None) -> Experiment:
    """Read an experiment from a YAML or JSON file; missing fields keep the default's values."""
    try:
        with io.TextIOWrapper(open_regular(path), "utf-8") as file:
            values = _parse(file.read(MAX_CONFIG_CHARACTERS + 1))
        return replace_fields(default or Experiment(), {} if values is None else values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def leave_out_local_places(experiment: Experiment) -> Experiment:
    """Return an experiment of another author without the places on this machine that it names.

    They are those of held-out samples and of conditions; `source` is for the caller to replace.
    """
    data = experiment.data
    options = {
        key: value
        for key, value in data.options.items()
        if not (key in LOCAL_OPTIONS and isinstance(value, str))
    }
    condition = [name for name in data.condition if not os.path.isabs(name)]
    return replace(experiment, data=replace(data, options=options, condition=condition))


def override(experiment: Experiment, settings: Iterable[str]) -> Experiment:
    """Apply settings of the form `field.name=value`, with values in YAML."""
    for name, value in map(parse_setting, settings):
        for key in reversed(name.split(".")):
            value = {key: value}
        experiment = replace_fields(experiment, value)
    return experiment


def parse_setting(setting: str) -> tuple[str, Any]:
    """Return the name and the value of `name=value`, with the value in YAML."""
    name, equals, text = setting.partition("=")
    if not equals:
        raise ValueError(f"{setting:.80}: give a value, as in {name:.80}=...")
    try:
        return name, _parse(text)
    except ValueError as error:
        raise ValueError(f"{setting:.80}: {error}") from error


def _parse(text: str) -> Any:
    """Return the content of JSON or YAML text."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """YAML with 3e-4 and None, and without aliases, a few lines of which can mean gigabytes."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("it has an alias (*): write the value out")
            return super().compose_node(parent, index)

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", YAML_NUMBER, list("-+.0123456789"))
    Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("None$"), ["N"])
    if len(text) > MAX_CONFIG_CHARACTERS:
        raise ValueError(f"not a configuration: more than {MAX_CONFIG_CHARACTERS:,} characters")
    try:
        try:
            values = json.loads(text)  # YAML reads 1e-05 and surrogate pairs differently
        except (ValueError, RecursionError):
            if len(text) > MAX_YAML_CHARACTERS:
                raise ValueError(f"it has more than {MAX_YAML_CHARACTERS:,} characters") from None
            values = yaml.load(text, Loader)
        repr(values)  # fails for a number of 5,000 digits, which no error message could show
    except Exception as error:  # yaml raises anything for a wrong !!tag
        raise ValueError(f"not YAML: {str(error) or type(error).__name__:.500}") from error
    return values


def replace_fields(default: Config, values: object, prefix: str = "") -> Config:
    """Return a dataclass with some fields replaced, those of nested ones by nested mappings."""
    if not isinstance(values, Mapping):
        name = prefix or "the configuration"
        raise ValueError(f"{name} is {values!r:.80}: give names and values")
    hints, new = get_type_hints(type(default)), dict[str, Any]()
    for key, value in values.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if key not in hints:
            raise ValueError(f"{name:.80} is not a field: {spelling_hint(str(key)[:80], hints)}")
        now = getattr(default, key)
        if is_dataclass(now):
            new[key] = replace_fields(cast(Any, now), value, name)
            continue
        new[key] = convert_value(_as_plain(value, name), hints[key], name)
        # another kind of network has other arguments
        if isinstance(now, dict) and new[key].get("kind", now.get("kind")) == now.get("kind"):
            new[key] = now | new[key]
    return cast(Config, replace(cast(Any, default), **new))


def _as_plain(value: Any, name: str, depth: int = 0) -> Any:
    """Return a value that JSON can keep, or refuse it."""
    if isinstance(value, Mapping) and depth < MAX_DEPTH:
        return {str(k): _as_plain(v, f"{name}.{k}", depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)) and depth < MAX_DEPTH:
        return [_as_plain(item, name, depth + 1) for item in value]
    number = isinstance(value, (int, float)) and abs(value) < MAX_NUMBER
    text = isinstance(value, str) and len(value) <= MAX_TEXT and "\0" not in value
    if number or text or value is None:
        return value
    raise ValueError(
        f"{name:.80}: give text, true, false, null, a number below {MAX_NUMBER:.0e}, or lists and "
        f"mappings of these, not {value!r:.80}"
    )


def as_json(experiment: Experiment) -> str:
    """Return JSON that `read` understands."""
    return json.dumps(asdict(experiment), indent=2)


def differing_fields(one: str, other: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield the fields of a configuration in JSON that have another value in another one."""
    values = dict(flat_fields(json.loads(other)))
    for name, value in flat_fields(json.loads(one)):
        if values.get(name) != value:
            yield name, value, values.get(name)


def flat_fields(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the fields of nested mappings, with names such as training.rate."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat_fields(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def check_experiment(experiment: Experiment, names: Container[str] = ()) -> Experiment:
    """Refuse impossible values, and make paths absolute, except sources that are `names`."""
    values = dict(flat_fields(asdict(experiment)))
    for fits, bound, words, fields in FIELD_LIMITS:
        for name in fields.split():
            value = values.get(name)  # an argument of the network may have another type
            if isinstance(value, (int, float)) and not fits(value, bound):
                raise ValueError(f"{name}={value:.6g}: give {words}")
    levels = experiment.levels
    if levels.count == 1 and (levels.sigma_max is None or levels.sigma_max != levels.sigma_min):
        raise ValueError(
            "levels.count=1: give 2 or more, or equal levels.sigma_max and levels.sigma_min"
        )
    pieces, steps = experiment.training.cooldown, experiment.training.steps
    firsts = [first for first, _ in pieces]
    if pieces and not (firsts == sorted({*firsts}) and firsts[-1] < pieces[-1][1] == steps):
        raise ValueError(
            f"training.cooldown={[*map(list, pieces)]}: give [], or [first, end] with ascending "
            f"first steps, the last of which ends at training.steps={steps}"
        )
    interval, guide = experiment.sampling.guidance_interval, experiment.sampling.guide
    if interval is not None and not 0 <= interval[0] < interval[1]:
        raise ValueError(
            f"sampling.guidance_interval={[*interval]}: give two noise levels, 0 ≤ low < high"
        )
    if guide is not None and guide >= steps and experiment.training.budget is None:
        raise ValueError(f"sampling.guide={guide}: give a step before training.steps={steps}")
    sampler, tuned = experiment.sampling.sampler, experiment.training.objective == "consistency"
    if sampler == "consistency" and not tuned:
        raise ValueError(
            "sampling.sampler=consistency is for models that are tuned to it: leave it out, or add "
            "training.objective=consistency"
        )
    if tuned and experiment.start is None:
        raise ValueError("training.objective=consistency: name the model to tune by --from RUN")
    if tuned and sampler != "consistency":
        raise ValueError(
            f"sampling.sampler={sampler}: after training.objective=consistency a model is not a "
            "score: set it to consistency, and sampling.steps=2"
        )
    return _make_absolute(experiment, names)


def _make_absolute(experiment: Experiment, names: Container[str]) -> Experiment:
    """Make the paths of an experiment absolute."""
    data, start = experiment.data, experiment.start
    if data.condition and os.path.isdir(data.source):  # the condition is in folders too
        data = replace(data, condition=[os.path.abspath(place) for place in data.condition])
    # os.path's, because Path's fails on text that is too long to be a path
    if data.source not in names and os.path.exists(data.source):
        data = replace(data, source=str(Path(data.source).resolve()))
    for name in ("root", "held_out"):
        place = data.options.get(name)
        if isinstance(place, str) or (name == "root" and place is not None):
            place = str(Path(str(place)).expanduser().resolve())
            data = replace(data, options=data.options | {name: place})
    start = None if start is None else str(Path(start).resolve())
    return replace(experiment, data=data, start=start)
