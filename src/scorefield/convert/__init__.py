"""Checkpoints of other programs as models of this package.

Of the authors' checkpoints the networks are ours, and differ from theirs in their names alone; each
family has a table of them. Of a model of `diffusers` the network is that library's.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..model import ScoreModel
from . import ncsn
from .hub import from_diffusers

__all__ = ["from_diffusers", "from_official"]

FAMILIES = {"ncsn": ncsn}
"""Each recognises its own checkpoints, and builds the model of one."""


def from_official(
    path: str | Path, *, report: Callable[[str], None] = lambda line: None, **options: Any
) -> ScoreModel:
    """The model of an official checkpoint, its averaged weights if it has any.

    Nothing in the file is run: a pickle that asks for it is refused.

    Args:
        path: a file as their programs save it.
        report: called with a line for each thing inferred from the tensors, or assumed.
        options: what the file may not tell: `ema`, `sigma_max`, `sigma_min`, `image_size`.
    """
    checkpoint = _read(Path(path))
    for family in FAMILIES.values():
        if family.recognises(checkpoint):
            model: ScoreModel = family.build(checkpoint, report=report, **options)
            return model
    raise ValueError(
        f"{path} is none of the checkpoints known here ({', '.join(FAMILIES)}): it holds "
        f"{_summary(checkpoint)}"
    )


def _read(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is not a file of tensors alone: it is damaged, or wants to run code when "
            f"loaded, which is refused ({str(error).splitlines()[0]})"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as a checkpoint: {error}") from error


def _summary(checkpoint: object) -> str:
    if isinstance(checkpoint, dict):
        names = [str(name) for name in checkpoint]
        return f"the keys {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
    if isinstance(checkpoint, (list, tuple)):
        return f"a {type(checkpoint).__name__} of {len(checkpoint)}"
    return f"one {type(checkpoint).__name__}"
