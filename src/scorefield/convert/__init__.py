"""Read the checkpoints of other programs as models of this package, and write some of theirs.

The networks of the official checkpoints are ours and differ only in the names of their tensors,
which each family translates. The network of a `diffusers` model stays that library's.
"""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..model import ScoreModel
from .edm import build_edm
from .export import to_diffusers, to_onnx
from .fetch import (
    RUN_FILES,
    fetch_model,
    find_commit,
    hub_error,
    open_hub,
    origin,
    parse_hub_name,
)
from .hub import from_diffusers
from .ncsn import build_ncsn
from .score_sde import build_score_sde
from .score_sde_network import MODULE_KEY
from .shared import model_entries, read_pickle

__all__ = [
    "RUN_FILES",
    "fetch_model",
    "find_commit",
    "from_diffusers",
    "from_official",
    "hub_error",
    "is_other",
    "open_hub",
    "origin",
    "parse_hub_name",
    "read_other",
    "to_diffusers",
    "to_onnx",
]

FAMILIES: dict[str, tuple[re.Pattern[str], Callable[..., ScoreModel]]] = {
    "ncsn": (re.compile(r"begin_conv\.weight"), build_ncsn),
    "score_sde": (MODULE_KEY, build_score_sde),
    "edm": (re.compile("ema"), build_edm),
}
"""For each family, the name of an entry that only it has, and the function that builds a model."""

CHECKPOINTS = (".pth", ".pt", ".pkl")
"""Suffixes of official checkpoints."""
DIFFUSERS = ("model_index.json", "unet/config.json", "diffusion_pytorch_model.safetensors")
"""Files that mark a folder of diffusers."""

MALFORMED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError)
"""Errors that malformed tensors may still raise; most are refused by name where they are read."""


def from_official(
    path: str | Path, *, report: Callable[[str], None] = lambda line: None, **options: Any
) -> ScoreModel:
    """Build the model of an official checkpoint, with its averaged weights if it has any.

    No code in the file is run: a pickle that asks for it is refused.

    Args:
        path: a file as the official programs save it.
        report: called with a line for each value inferred from the tensors, or assumed.
        options: values that the file may not contain. All families: `image_size`, `sigma_max`,
            `sigma_min`. NCSN and score_sde also: `ema`. score_sde also: `sde` ("ve", "vp" or
            "subvp"), `continuous`, `beta_min`, `beta_max`, and for the network `fir`,
            `skip_rescale`, `groups`, `dropout`.
    """
    checkpoint = read_pickle(Path(path))
    try:
        model = _build_model(checkpoint, report=report, **options).eval()
        model.check_weights()
    except ValueError as error:
        error.args = (f"{path}: {error!s:.4000}",)
        raise
    except MALFORMED as error:
        raise ValueError(
            f"no model can be built from {path}: the file is damaged, or an option has an "
            f"impossible value ({type(error).__name__}: {error!s:.300})"
        ) from error
    return model


def _build_model(checkpoint: object, **options: Any) -> ScoreModel:
    """Build the model by the function of the checkpoint's family, after a check of its options."""
    names = model_entries(checkpoint)
    families = (f for f, (key, _) in FAMILIES.items() if any(key.fullmatch(name) for name in names))
    if (family := next(families, None)) is None:
        contents = ", ".join(list(names)[:8]) or type(checkpoint).__name__
        raise ValueError(
            f"not a checkpoint of {' or '.join(FAMILIES)}: it contains {contents:.500}"
        )
    _, build = FAMILIES[family]
    allowed = inspect.signature(build).parameters.keys() - {"checkpoint", "report"}
    if unknown := sorted(options.keys() - allowed - {"report"}):
        raise ValueError(
            f"{', '.join(unknown)}: not an option for checkpoints of {family}, whose options "
            f"are {', '.join(sorted(allowed))}"
        )
    return build(checkpoint, **options)


def is_other(path: Path) -> bool:
    """Return True for a checkpoint of another program, or a folder of diffusers."""
    checkpoint = path.suffix in CHECKPOINTS and path.is_file()
    return checkpoint or any((path / name).is_file() for name in DIFFUSERS)


def read_other(path: Path, report: Callable[[str], None]) -> ScoreModel:
    """Build the model of such a file or folder."""
    return (from_diffusers if path.is_dir() else from_official)(path, report=report)
