"""Steps shared by all families: read and check the weights, choose range and size, the prior."""

import math
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from ..disk import open_regular
from ..prior import Prior
from .pickles import read_network
from .torch_files import ZIP_MARK, read_before_zip, read_zip

Weights: TypeAlias = Mapping[str, Tensor]
Report: TypeAlias = Callable[[str], None]
Network = TypeVar("Network", bound=nn.Module)

Range: TypeAlias = tuple[float | None, float | None]
"""Largest and smallest value, None where not given."""

PICKLE_MARK = b"\x80"
"""Begins a pickle."""
TORCH_MARK = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""Follows the version of the pickle in a file of torch before it had zip files."""
MAX_SIDE = 65_536
"""Largest image side, in pixels."""
MAX_REPEATED = 2**20
"""Numbers of a tensor of fewer stored ones, which strides of 0 repeat."""


def read_pickle(path: Path) -> object:
    """Read another program's file of tensors and plain data; no code in it is run."""
    with open_regular(path) as file:
        start = file.read(2 + len(TORCH_MARK))
        file.seek(0)
        try:
            if start[: len(ZIP_MARK)] == ZIP_MARK:
                return read_zip(file)
            if start[:1] == PICKLE_MARK and start[2:] != TORCH_MARK:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of torch: the bytes cannot be written
                    return read_network(file.read())
            return read_before_zip(bytearray(file.read()))
        except Exception as error:  # bytes that are not a checkpoint fail in many ways
            has_reason = isinstance(error, (ValueError, zipfile.BadZipFile))
            reason = f"{error!s:.300}" if has_reason else type(error).__name__
            raise ValueError(
                f"{path} is not a checkpoint of tensors alone: it is damaged, or another kind of "
                f"file, or would run code when loaded, which is refused ({reason})"
            ) from error


def model_entries(checkpoint: Any) -> dict[str, object]:
    """Return the entries of a checkpoint's model by name, without `module.` before it.

    The model is the first entry of a list, and in a dict the entry of a usual name, or the dict.
    """
    if isinstance(checkpoint, (list, tuple)) and checkpoint:
        checkpoint = checkpoint[0]
    for name in ("model_state", "model", "state_dict"):
        if isinstance(checkpoint, Mapping):
            checkpoint = checkpoint.get(name, checkpoint)
    entries: dict[str, object] = {}
    for key, value in checkpoint.items() if isinstance(checkpoint, Mapping) else ():
        name = str(key).removeprefix("module.")
        if not name.isprintable():
            raise ValueError(f"{name!r:.80} is not the name of a tensor: the checkpoint is damaged")
        if name in entries:
            raise ValueError(f"{name} appears twice, with and without module. before it")
        entries[name] = value
    return entries


def read_weights(checkpoint: object) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint's model."""
    return {name: check_tensor(name, value) for name, value in model_entries(checkpoint).items()}


def check_tensor(name: str, value: object, ndim: int | None = None) -> Tensor:
    """Return the tensor if it is floating, dense, not empty and of `ndim` dimensions."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} is of {type(value).__name__}, not a tensor")
    dense = value.layout == torch.strided and value.is_floating_point()
    stored = value.untyped_storage().nbytes() // value.element_size() if dense else 0
    repeated = value.numel() > max(stored, MAX_REPEATED)
    if not dense or repeated or value.numel() == 0 or ndim not in (None, value.ndim):
        rank = "" if ndim is None else f", of {ndim} dimensions"
        raise ValueError(
            f"{name} is of {value.dtype}, {value.layout} and the shape {tuple(value.shape)}: the "
            f"checkpoint is damaged, it must be of dense floats and not empty{rank}"
        )
    return value


def load_network(
    build: Callable[[], Network], weights: Iterable[tuple[str, str, Tensor]], description: str
) -> Network:
    """Build a network with weights that must be exactly its own; an error lists all that are not.

    Each item of `weights` is the official name, our name and the tensor.
    """
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in build().state_dict().items()}
    state, wrong = {}, []
    for theirs, ours, tensor in weights:
        if shapes.pop(ours, None) == tensor.shape:
            state[ours] = tensor
        else:
            wrong.append(f"{theirs} {tuple(tensor.shape)}")
    if wrong or shapes:
        raise ValueError(
            f"not the weights of a {description}: not in this network: {wrong}; "
            f"missing: {list(shapes)}"
        )
    net = build()
    net.load_state_dict(state)
    return net


def choose_range(
    name: str, chosen: Range, default: tuple[float, float], report: Report, source: str = "assumed"
) -> tuple[float, float]:
    """Return the largest and smallest value of a parameter, the default ones where not chosen."""
    high, low = (d if c is None else c for c, d in zip(chosen, default, strict=True))
    if not high > low > 0:
        raise ValueError(f"{name} from {high:.4g} to {low:.4g}: give {name}_max > {name}_min > 0")
    source = source if None in chosen else "given"
    report(f"{source}: {name}_max = {high:.4g}, {name}_min = {low:.4g}")
    return high, low


def choose_sigmas(
    ladder: Tensor | None, chosen: Range, published: tuple[float, float], report: Report
) -> tuple[float, float]:
    """Return the largest and smallest σ: the stored ladder's, those chosen, or the paper's."""
    if ladder is None:
        return choose_range("sigma", chosen, published, report)
    check_tensor("sigmas", ladder, ndim=1)
    stored = ladder[0].item(), ladder[-1].item()
    for value, end in zip(chosen, stored, strict=True):
        # ladders are stored in float32, or as exponentials of logarithms
        if value is not None and not math.isclose(value, end, rel_tol=1e-5):
            raise ValueError(
                f"the checkpoint has its own ladder, {stored[0]:.4g} to {stored[1]:.4g}: leave "
                "out sigma_max and sigma_min"
            )
    return choose_range("sigma", (None, None), stored, report, "inferred")


def choose_size(
    size: int | tuple[int, int] | None, assumed: int, report: Report, *, multiple: int = 1
) -> tuple[int, int]:
    """Return height and width in pixels, which the network must be able to halve."""
    if size is None:
        report(f"assumed: image_size = {assumed}")
    size = assumed if size is None else size
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(n, int) and 1 <= n <= MAX_SIDE for n in sides):
        raise ValueError(f"image_size={size}: give the pixels a side, from 1 to {MAX_SIDE}")
    if any(side % multiple for side in sides):
        raise ValueError(
            f"image_size={size}: give a multiple of {multiple}, because the network halves it"
        )
    return sides[0], sides[1]


def uniform_prior(shape: tuple[int, ...], report: Report) -> Prior:
    """Return the moments of images whose pixels are uniform in [0, 1]."""
    report("assumed: the prior has the moments of uniform pixels, mean 1/2 and variance 1/12")
    return Prior(torch.full(shape, 0.5), torch.tensor(1 / 12))
