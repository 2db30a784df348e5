"""What a run is made of: frozen dataclasses, as JSON in the run, from YAML or the command line.

Where an option is `None` or "auto", the data or the machine decide, once: the run's config.json has
what was decided, and a resumed run takes it from there. This module knows nothing of torch.
"""

from __future__ import annotations

import difflib
import inspect
import json
import os
import re
import types
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Data:
    """Where samples come from.

    Attributes:
        source: A data set's name, or the path of a folder of images, or of a file: .npy, .npz,
            .csv or .tsv.
        options: Of the source, such as `size` for a folder.
        flip: Mirror images left to right at random.
        workers: Threads that read ahead, for sources that read files.
        labels: Learn the classes, if the data have them.
    """

    source: str = "digits"
    options: dict[str, Any] = field(default_factory=dict)
    flip: bool = False
    workers: int = 0
    labels: bool = False


@dataclass(frozen=True)
class Levels:
    """Which noise, and how the network is told of it.

    Attributes:
        precondition: A row of the table in `scorefield.precondition`.
        law: Of σ in training.
        sigma_max: The largest σ; the data's own largest distance if not given.
        sigma_min: The smallest σ; `suggest`'s if not given.
        count: Levels of a discrete law; `suggest`'s if not given.
        mean: Of log σ, for the log-normal law; log(0.6σ_d), as EDM's own, if not given.
        std: Of log σ, for the log-normal law.
        sigma_data: The data's standard deviation about the centre, for EDM.
        centre: What is taken from x first; the data's mean for EDM, else what the network expects.
    """

    precondition: Literal["EDM", "NCSN", "NCSNv2", "VE", "FlowMatching"] = "EDM"
    law: Literal["lognormal", "loguniform", "discrete"] = "lognormal"
    sigma_max: float | None = None
    sigma_min: float | None = None
    count: int | None = None
    mean: float | None = None
    std: float = 1.2
    sigma_data: float | None = None
    centre: float | None = None


@dataclass(frozen=True)
class Training:
    """How the network learns.

    Attributes:
        objective: The loss at one σ.
        weight: λ(σ), which makes levels comparable; `likelihood` bounds the divergence.
        steps: Updates in all.
        batch: Samples a step, over all processes.
        rate: Adam's learning rate.
        betas: Adam's.
        eps: Adam's.
        schedule: What becomes of the rate after the warm-up.
        warmup: Steps of linear rise.
        clip: The largest norm of the gradient.
        ema: The decay of the running average of the weights, 0 for none.
    """

    objective: Literal["denoising", "sliced", "exact"] = "denoising"
    weight: Literal["edm", "ncsn", "likelihood"] = "edm"
    steps: int = 10_000
    batch: int = 128
    rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = 0
    clip: float | None = None
    ema: float = 0.999


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn unless something else is asked for.

    Attributes:
        sampler: A name in `scorefield.SAMPLERS`.
        steps: Levels of the grid, or steps at each level of the ladder for annealed Langevin.
        epsilon: The step size of annealed Langevin; of the ladder's reasoning if not given.
        levels: Of its ladder, for a network that knows all σ; `suggest`'s number if not given.
        grid: How the levels of the other samplers are spaced.
        denoise: End with the step to σ = 0.
    """

    sampler: str = "heun"
    steps: int = 18
    epsilon: float | None = None
    levels: int | None = None
    grid: Literal["karras", "geometric"] = "karras"
    denoise: bool = True

    @property
    def options(self) -> dict[str, Any]:
        """All but the sampler and its steps, as `scorefield.draw.plan` takes them."""
        epsilon = {} if self.epsilon is None else {"epsilon": self.epsilon}
        return {"levels": self.levels, "grid": self.grid, "denoise": self.denoise, **epsilon}


@dataclass(frozen=True)
class Keeping:
    """What a run writes, and how often, in steps; 0 is never.

    Attributes:
        log: Lines in log.jsonl.
        evaluate: The held-out loss.
        samples: A grid of samples.
        checkpoint: A state to resume from.
        last: How many of these are kept.
        best: Which state is the run's model: that of the least held-out loss, or the last, so that
            what is held out chooses nothing.
        tensorboard: Write TensorBoard's events too.
    """

    log: int = 1
    evaluate: int = 500
    samples: int = 1000
    checkpoint: int = 500
    last: int = 3
    best: Literal["heldout", "last"] = "heldout"
    tensorboard: bool = False


@dataclass(frozen=True)
class Machine:
    """How the work is done; "auto" is decided once, and kept by the run.

    Attributes:
        device: cpu, cuda, mps.
        autocast: Run the network in bfloat16.
        channels_last: Keep images with their channels innermost.
        compile: Run the network through torch.compile.
        winograd: Convolve with a quarter of the multiplications, where the machine is a CPU.
        onednn: Multiply the matrices of an MLP by oneDNN, where the machine is a CPU.
        threads: Of the CPU; 0 leaves it to torch.
    """

    device: str = "auto"
    autocast: Literal["auto", "on", "off"] = "auto"
    channels_last: Literal["auto", "on", "off"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    winograd: Literal["auto", "on", "off"] = "auto"
    onednn: Literal["auto", "on", "off"] = "auto"
    threads: int = 0


@dataclass(frozen=True)
class Experiment:
    """A run, from the data to the samples.

    Attributes:
        network: `kind`, a name in `scorefield.nn.NETWORKS`, and its arguments; what the data
            decide (channels, shape, labels, levels) may be left out.
        start: A model to begin with, its network and preconditioner in the place of these.
        seed: Of everything random.
    """

    data: Data = Data()
    network: dict[str, Any] = field(default_factory=lambda: {"kind": "UNet"})
    levels: Levels = Levels()
    training: Training = Training()
    sampling: Sampling = Sampling()
    keeping: Keeping = Keeping()
    machine: Machine = Machine()
    start: str | None = None
    seed: int = 0


# ── From files and the command line ──────────────────────────────────────────────────────────────

Config = TypeVar("Config")


LONGEST = 2**15
"""Characters of a configuration, at most; one of all fields has 2,000."""


def read(path: Path, default: Experiment | None = None) -> Experiment:
    """The experiment in a YAML or JSON file; what it leaves out is the default's."""
    if (size := path.stat().st_size) > LONGEST:
        raise ValueError(f"{path} has {size:,} bytes, and a configuration at most {LONGEST:,}")
    try:
        found = _parsed(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is neither YAML nor JSON: {error}") from error
    try:
        return changed(default or Experiment(), {} if found is None else found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _parsed(text: str) -> Any:
    """What YAML or JSON says.

    Aliases are not taken: a few lines of them stand for gigabytes.
    """
    if len(text) > LONGEST:
        raise ValueError(f"{len(text):,} characters, more than {LONGEST:,}")
    try:
        found = _of_json_or_yaml(text)
        repr(found)  # what cannot be shown, as a number of 5,000 digits, no error could name
    except Exception as error:  # of a wrong !!tag, yaml raises anything
        reason = str(error) or type(error).__name__
        raise ValueError(f"{reason:.500}") from error
    return found


def _of_json_or_yaml(text: str) -> Any:
    import yaml

    try:
        return json.loads(text)  # of which YAML reads 1e-05 and pairs of \\u otherwise
    except (ValueError, RecursionError):
        pass
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it has an alias (*): write out what is meant")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > 2 * DEEPEST:
            raise ValueError(f"it has more than {2 * DEEPEST} lists and mappings in each other")
    return yaml.safe_load(text)


def as_json(experiment: Experiment) -> str:
    """What `read` understands."""
    return json.dumps(asdict(experiment), indent=2)


def overridden(experiment: Experiment, settings: Iterable[str]) -> Experiment:
    """The experiment with `field.name=value` settings, the values in YAML."""
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"{setting:.80}: give a value, as in {name:.80}=...")
        try:
            value: Any = _parsed(text)
        except ValueError as error:
            raise ValueError(f"{setting:.80}: the value is not YAML ({error})") from error
        for key in reversed(name.split(".")):
            value = {key: value}
        experiment = changed(experiment, value)
    return experiment


def changed(default: Config, values: object, where: str = "") -> Config:
    """A dataclass with some of its fields changed, nested ones by nested mappings."""
    if not isinstance(values, Mapping):
        what = where or "the configuration"
        raise ValueError(f"{what} is {values!r:.80}: give names and values")
    hints, new = get_type_hints(type(default)), dict[str, Any]()
    for key, value in values.items():
        name = f"{where}.{key}" if where else str(key)
        if key not in hints:
            raise ValueError(f"{name:.80} is no field: {nearest(str(key)[:80], hints)}")
        now = getattr(default, key)
        if is_dataclass(now):
            new[key] = changed(cast(Any, now), value, name)
        elif isinstance(now, dict) and isinstance(value, Mapping):
            given = {str(k): _number(v) for k, v in _plain(value, name).items()}
            # another network has other arguments
            other = given.get("kind", now.get("kind")) != now.get("kind")
            new[key] = given if other else now | given
        else:
            new[key] = _as(hints[key], _plain(value, name), name)
    result: Config = replace(cast(Any, default), **new)
    return result


LEAST = {
    "data.workers": 0,
    "levels.count": 1,
    "training.steps": 1,
    "training.batch": 1,
    "training.rate": 0,
    "training.warmup": 0,
    "training.ema": 0,
    "sampling.steps": 1,
    "sampling.levels": 2,
    "keeping.log": 0,
    "keeping.evaluate": 0,
    "keeping.samples": 0,
    "keeping.checkpoint": 0,
    "keeping.last": 1,
    "machine.threads": 0,
    "seed": 0,
}
"""The least value of a field; those in `POSITIVE` are to be more than 0."""
POSITIVE = ("levels.std", "levels.sigma_data", "levels.sigma_min", "training.clip", "training.eps")


def checked(experiment: Experiment, names: Container[str] = ()) -> Experiment:
    """The experiment, if its numbers can be meant, its paths made absolute.

    Args:
        experiment: any.
        names: what is no path as a source, even if there is a file of that name.
    """
    values = {
        f"{part}.{name}": value
        for part, fields in asdict(experiment).items()
        if isinstance(fields, dict)
        for name, value in fields.items()
    } | {"seed": experiment.seed}
    for name, least in LEAST.items():
        if values[name] is not None and not values[name] >= least:
            raise ValueError(f"{name}={values[name]}: give {least} or more")
    for name in POSITIVE:
        if values[name] is not None and not values[name] > 0:
            raise ValueError(f"{name}={values[name]}: give more than 0")
    if not experiment.training.ema < 1:
        raise ValueError(f"training.ema={experiment.training.ema}: give a decay below 1, as 0.999")
    data, begin = experiment.data, experiment.start
    # not Path's, which fails on what is too long to be one
    if data.source not in names and os.path.exists(data.source):
        data = replace(data, source=str(Path(data.source).resolve()))
    if "root" in data.options:
        root = str(Path(str(data.options["root"])).expanduser().resolve())
        data = replace(data, options=data.options | {"root": root})
    experiment = replace(experiment, data=data)
    return experiment if begin is None else replace(experiment, start=str(Path(begin).resolve()))


def nearest(name: str, known: Iterable[str]) -> str:
    """What somebody may have meant."""
    known = list(known)
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"


def signature(build: Callable[..., Any]) -> set[str]:
    """The names of a function's arguments."""
    return set(inspect.signature(build).parameters)


LARGEST = 2**63
"""No number of a configuration is as large."""
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE | re.ASCII)
PATH = 4096
"""Characters of a path, and of any text."""
DEEPEST = 8
"""Lists and mappings in each other, in a field."""


def _plain(value: Any, name: str, depth: int = 0) -> Any:
    """A value, if it is one that JSON can keep for the run."""
    if isinstance(value, Mapping) and depth < DEEPEST:
        return {str(k): _plain(v, f"{name}.{k}", depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)) and depth < DEEPEST:
        return [_plain(each, name, depth + 1) for each in value]
    number = isinstance(value, (int, float)) and abs(value) < LARGEST
    text = isinstance(value, str) and len(value) <= PATH and "\0" not in value
    if number or text or value is None:
        return value
    raise ValueError(
        f"{name:.80}: give text, true, false, null, a number below {LARGEST:.0e}, or lists and "
        f"mappings of these, not {value!r:.80}"
    )


def _as(hint: Any, value: Any, name: str) -> Any:
    """A value of a field's type, or a refusal that says which type that is."""
    if get_origin(hint) in (Union, types.UnionType):
        if value is None and type(None) in get_args(hint):
            return None
        (hint,) = (option for option in get_args(hint) if option is not type(None))
    if get_origin(hint) is Literal:
        # YAML reads on and off as true and false
        text = {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value
        if text in get_args(hint):
            return text
        raise ValueError(f"{name}={value!r:.80}: {nearest(str(value), map(str, get_args(hint)))}")
    if get_origin(hint) is tuple and isinstance(value, (list, tuple)):
        if len(value) == len(get_args(hint)):
            return tuple(_as(h, v, name) for h, v in zip(get_args(hint), value, strict=True))
    elif hint is float and isinstance(number := _number(value), (int, float)):
        if not isinstance(number, bool):
            return float(number)
    elif hint is int and isinstance(number := _number(value), (int, float)):
        if number == int(number) and not isinstance(number, bool):
            return int(number)
    elif isinstance(hint, type) and type(value) is hint:
        return value
    kind = getattr(hint, "__name__", str(hint)).removesuffix("'>")
    raise ValueError(f"{name}={value!r:.80}: give {'an' if kind == 'int' else 'a'} {kind}")


def _number(value: Any) -> Any:
    """YAML 1.1 takes 3e-4 for a word."""
    if isinstance(value, str) and NUMBER.fullmatch(value) and abs(float(value)) < LARGEST:
        return float(value)
    return value
