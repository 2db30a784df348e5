"""Models on disk: one safetensors file whose header describes its tensors in JSON.

    {"format": 1,
     "network": {"kind": "UNet", "width": 64, ...},  "precondition": {"predicts": "noise", ...},
     "prior": ["mean", "cov"],  "shape": null,  "classes": ["cat", "dog"],
     "about": notes of the writer,
     "sha256": checksum of everything else}

A directory holds such a file, `model.safetensors`, and a copy of the JSON for people to read.
`load` also reads what `convert` does, and downloads models that begin with hub:.
Nothing is unpickled, and no memory is allocated for a network that the tensors do not fit.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from ._ops import check_finite
from .convert import fetch_model, is_other, origin, read_other
from .disk import open_regular, write_file
from .model import ScoreModel
from .nn import build_module, find_network, network_kind
from .precondition import Precondition
from .prior import Prior

FORMAT = 1
MODEL_FILE = "model.safetensors"
SPARE_PARAMETERS = 64
"""Parameters, and entries of a list, that a network may have beyond the tensors of its file."""
MISMATCHES = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""Errors that a header with another meaning may cause."""

NetworkClasses: TypeAlias = Mapping[str, Callable[..., nn.Module]]
"""Network classes by name."""


@dataclass(frozen=True, eq=False)
class TensorFile:
    """Contents of an undamaged file."""

    path: Path
    description: dict[str, Any]  # the JSON of its header
    tensors: dict[str, Tensor]  # of a model: `net.…`, `prior.…` and `precondition.levels`

    @property
    def about(self) -> dict[str, Any]:
        """Notes of the writer."""
        return dict(self.description.get("about", {}))

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names start with `prefix.`, without the prefix."""
        start, items = f"{prefix}.", self.tensors.items()
        return {name.removeprefix(start): x for name, x in items if name.startswith(start)}


def save(
    model: ScoreModel,
    path: str | Path,
    *,
    about: Mapping[str, Any] | None = None,
    extra: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a model, whole or not at all, to a directory or to a file that ends in .safetensors.

    The network's attribute `arguments` holds the arguments that build it. `read_tensors` returns
    the notes (in JSON) as `about` and the other tensors, of any shape, by `under("extra")`.
    """
    path, net, row = Path(path), model.net, model.precondition
    arguments = getattr(net, "arguments", None)
    if not isinstance(arguments, Mapping):
        raise ValueError(
            f"{type(net).__name__} has no record of how it was built: give it an attribute "
            f"`arguments`, a dict such that {type(net).__name__}(**arguments) builds it again"
        )
    if type(row) is not Precondition:
        raise ValueError(f"precondition is a {type(row).__name__}, which no file can describe")
    names = () if model.prior is None else ("mean", "cov", "factor")
    prior = {k: value for k in names if (value := getattr(model.prior, k)) is not None}
    tensors = {f"net.{name}": value for name, value in net.state_dict().items()}
    tensors |= {f"extra.{name}": value for name, value in (extra or {}).items()}
    tensors |= {f"prior.{name}": value for name, value in prior.items()}
    if row.levels is not None:
        tensors["precondition.levels"] = row.levels
    description = {
        "format": FORMAT,
        "network": {"kind": network_kind(net), **arguments},
        "precondition": {name: getattr(row, name) for name in HEADER_FIELDS},
        "prior": list(prior),
        "shape": None if model.prior is not None or model.shape is None else list(model.shape),
        "classes": list(model.classes),
        "about": ({"objective": "consistency"} if model.tuned else {}) | dict(about or {}),
    }
    if path.suffix == ".safetensors":
        write_tensors(path, description, tensors)
        return
    path.mkdir(parents=True, exist_ok=True)
    write_tensors(path / MODEL_FILE, description, tensors)
    write_file(path / "model.json", json.dumps(description, indent=2).encode())


def load(path: str | Path, *, networks: NetworkClasses | None = None) -> ScoreModel:
    """Load a model that `save` wrote, in evaluation mode, or one of the Hub.

    hub:OWNER/NAME[@REVISION][/FILE] is downloaded into the cache of `huggingface_hub`: a model that
    `push` wrote, a `UNet2DModel` of diffusers, or a FILE that `from_official` reads.
    No code is imported because a file names it: give your own classes by name in `networks`, or
    import them by `import_object` before.
    A run that has no model yet gives its newest undamaged checkpoint, with a warning.
    """
    return load_with_notes(path, networks=networks)[0]


def load_with_notes(
    path: str | Path, *, networks: NetworkClasses | None = None
) -> tuple[ScoreModel, dict[str, Any]]:
    """Load a model, with the notes of its writer, and of the Hub its commit and checksums."""
    path = fetch_model(path)
    if is_other(path):
        lines = list[str]()
        return read_other(path, lines.append), {"report": lines} | origin(path)
    file = read_tensors(path)
    return load_stored(file, networks=networks), file.about | origin(path)


def load_stored(file: TensorFile, *, networks: NetworkClasses | None = None) -> ScoreModel:
    """Return the model of a file that was read; its weights are the file's tensors, not copies."""
    path = file.path
    try:
        precondition = _rebuild_precondition(file)
        net = _rebuild_network(file, networks or {})
        prior, shape = file.under("prior"), file.description["shape"]
        if sorted(prior) != sorted(file.description["prior"]):
            raise ValueError(f"the prior's tensors are {sorted(prior)}")
        for name, value in prior.items():
            check_finite(value, f"prior.{name}")
        start, shape = Prior(**prior) if prior else None, shape and tuple(shape)
        classes = tuple(map(str, file.description.get("classes", ())))
        tuned = file.about.get("objective") == "consistency"
        model = ScoreModel(
            net, precondition, prior=start, shape=shape, classes=classes, tuned=tuned
        ).eval()
        model.check_weights()
        return model
    except KeyError as error:
        raise ValueError(f"{path} is not a model: its header lacks {error!s:.100}") from error
    except MISMATCHES as error:
        raise ValueError(f"{path} is not a model that can be built: {error!s:.1000}") from error


def write_tensors(
    path: Path, description: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write tensors with a description and the checksum of both, whole or not at all."""
    on_cpu = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    header = json.dumps({**description, "sha256": _digest(description, on_cpu)}, allow_nan=False)
    write_file(path, serialise(on_cpu, {"scorefield": header}))


def read_tensors(path: str | Path) -> TensorFile:
    """Read a file that `save` or `write_tensors` wrote; raise ValueError if it is damaged.

    Of a run, read its model, or its newest undamaged checkpoint if it has none yet.
    """
    path = Path(path)
    if path.is_dir():
        return _read_run(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        with open_regular(path), safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("scorefield")
            # Copied, because a mapped tensor would change with the file.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or not a safetensors file: {error}") from error
    if header is None:
        raise ValueError(f"{path} is a safetensors file of another program, not of scorefield")
    try:
        description = json.loads(header)
        checksum, version = description.pop("sha256"), description["format"]
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: its header has other contents ({error})") from error
    if version != FORMAT:
        raise ValueError(
            f"{path} is of format {version!s:.40}, and this version of scorefield reads {FORMAT}: "
            "install the version that wrote it"
        )
    if checksum != _digest(description, tensors):
        raise ValueError(f"{path} is damaged: its contents do not match their checksum")
    return TensorFile(path, description, tensors)


def run_directory(path: Path) -> Path:
    """Return the directory of the run that a model's file belongs to, or the path of a run."""
    place = path if path.is_dir() else path.parent
    return place.parent if place.name in ("checkpoints", "snapshots") else place


def checkpoints(directory: Path, folder: str = "checkpoints") -> list[Path]:
    """Return the checkpoints of a run, or its files in another folder, oldest first."""
    return sorted((directory / folder).glob("[0-9]*.safetensors"))


def newest_checkpoint(directory: Path) -> tuple[TensorFile | None, dict[Path, ValueError]]:
    """Return the newest undamaged checkpoint of a run, and the errors of damaged newer ones."""
    damaged = dict[Path, ValueError]()
    for path in reversed(checkpoints(directory)):
        try:
            return read_tensors(path), damaged
        except ValueError as error:
            damaged[path] = error
    return None, damaged


def _read_run(directory: Path) -> TensorFile:
    if (directory / MODEL_FILE).exists():
        return read_tensors(directory / MODEL_FILE)
    file, damaged = newest_checkpoint(directory)
    if file is not None:
        done = f"step {file.about['step']} of {file.about['config']['training']['steps']}"
        message = f"{directory} has no model yet: its newest checkpoint is used, {done}"
        if damaged:
            message += f", because {', '.join(path.name for path in damaged)} is damaged"
        warnings.warn(message, stacklevel=5)
        return file
    if damaged:
        raise next(iter(damaged.values()))
    reason = f"holds no run: there is no {MODEL_FILE} in it"
    if (directory / "config.json").exists():
        reason = f"has no model yet: continue it with `scorefield resume {directory}`"
    raise FileNotFoundError(f"{directory} {reason}")


def _digest(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    total = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


HEADER_FIELDS = [f.name for f in fields(Precondition) if f.init and f.name != "levels"]
"""Fields of a preconditioner that are in a header."""


def _rebuild_precondition(file: TensorFile) -> Precondition:
    values = dict(file.description["precondition"])
    if wrong := values.keys() ^ {*HEADER_FIELDS}:
        raise ValueError(f"precondition has the wrong fields, {', '.join(sorted(wrong))}")
    values |= {k: float(v) for k, v in values.items() if type(v) is int}
    if (levels := file.tensors.get("precondition.levels")) is not None:
        check_finite(levels, "precondition.levels")
        values["levels"] = levels
    return Precondition(**values)


def _rebuild_network(file: TensorFile, networks: NetworkClasses) -> nn.Module:
    """Build the network that the header names, with exactly the file's weights."""
    arguments, state = dict(file.description["network"]), file.under("net")
    kind = str(arguments.pop("kind"))
    name = kind if kind in networks else re.split("[:.]", kind)[-1]
    network = networks[name] if name in networks else find_network(kind)
    _check_sizes(arguments, sum(value.numel() for value in state.values()), len(state))
    # No memory is allocated before the shapes have been compared.
    most = 2 * len(state) + SPARE_PARAMETERS  # some are replaced during the building
    with torch.device("meta"), limit_parameters(most, f"its file has {len(state)} tensors"):
        net = build_module(network, arguments)
    own = net.state_dict()
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    wrong = sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)
    if missing or unknown or wrong:
        raise ValueError(
            f"its weights are of another architecture than {arguments}: missing {missing[:5]}, "
            f"unknown {unknown[:5]}, of another shape {wrong[:5]}"
        )
    net.load_state_dict(state, assign=True)
    return net


def _check_sizes(arguments: Any, elements: int, tensors: int) -> None:
    """Refuse arguments larger than the file, such as a billion blocks, before building starts."""
    if len(arguments) > tensors + SPARE_PARAMETERS:
        raise ValueError(f"{len(arguments)} arguments in a row, for a network of {tensors} tensors")
    items = arguments.items() if isinstance(arguments, Mapping) else enumerate(arguments)
    for name, value in items:
        if isinstance(value, (list, Mapping)):
            _check_sizes(value, elements, tensors)
        elif isinstance(value, int) and value > elements:
            raise ValueError(f"{name}={value:.6g} asks for more than the {elements} numbers stored")


@contextmanager
def limit_parameters(most: int, reason: str) -> Iterator[None]:
    """Stop building a network that has more parameter tensors."""
    left = most

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"the network has more than {most} parameter tensors: {reason}")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()
