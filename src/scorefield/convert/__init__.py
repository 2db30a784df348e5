"""Checkpoints of other programs as models of this package.

Of the authors' checkpoints the networks are ours, and differ from theirs in their names alone; each
family has a table of them. Of a model of `diffusers` the network is that library's.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..model import ScoreModel
from . import ncsn, score_sde
from .hub import from_diffusers

__all__ = ["from_diffusers", "from_official"]

MALFORMED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError)
"""What tensors of unheard-of shapes may still set off; most are named where they are first read."""

FAMILIES = {"ncsn": ncsn, "score_sde": score_sde}
"""Each recognises its own checkpoints, names its options, and builds the model of one."""


def from_official(
    path: str | Path, *, report: Callable[[str], None] = lambda line: None, **options: Any
) -> ScoreModel:
    """The model of an official checkpoint, its averaged weights if it has any.

    Nothing in the file is run: a pickle that asks for it is refused.

    Args:
        path: a file as their programs save it.
        report: called with a line for each thing inferred from the tensors, or assumed.
        options: what the file may not tell. For all: `ema`, `image_size`, `sigma_max`,
            `sigma_min`. For score_sde: `sde` ("ve", "vp" or "subvp"), `continuous`, `beta_min`,
            `beta_max`, and of the network `fir`, `skip_rescale`, `groups`, `dropout`.
    """
    checkpoint = _read(Path(path))
    for name, family in FAMILIES.items():
        if family.recognises(checkpoint):
            if unknown := sorted(options.keys() - set(family.OPTIONS)):
                raise ValueError(
                    f"{', '.join(unknown)}: not for the checkpoints of {name}; their options are "
                    f"{', '.join(sorted(family.OPTIONS))}"
                )
            return _build(family.build, path, checkpoint, report=report, **options)
    raise ValueError(
        f"{path} is none of the checkpoints known here ({', '.join(FAMILIES)}): it holds "
        f"{_summary(checkpoint)}"
    )


def _build(
    build: Callable[..., ScoreModel], path: str | Path, checkpoint: object, **options: Any
) -> ScoreModel:
    try:
        return build(checkpoint, **options).eval()
    except MALFORMED as error:
        raise ValueError(
            f"{path} is damaged, or an option has a value that can not be: no model is built of it "
            f"({type(error).__name__}: {error!s:.300})"
        ) from error


def _read(path: Path) -> object:
    """The one place where a pickle is opened: tensors and plain data come out, or an error."""
    try:
        with warnings.catch_warnings():  # the error below says it better
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no checkpoint fail in many ways
        # the system names the file; an OSError without one is of a seek to where no bytes are
        if isinstance(error, OSError) and error.filename is not None:
            raise
        # theirs goes on to say how to run the code all the same
        reason = re.search(r"WeightsUnpickler error:\s*([^.\n]+)", str(error))
        raise ValueError(
            f"{path} is not a checkpoint of tensors alone: it is damaged, or another kind of file, "
            "or wants to run code when loaded, which is refused "
            f"({reason[1] if reason else type(error).__name__})"
        ) from error


def _summary(checkpoint: object) -> str:
    if isinstance(checkpoint, dict):
        names = [str(name) for name in checkpoint]
        return f"the keys {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
    if isinstance(checkpoint, (list, tuple)):
        return f"a {type(checkpoint).__name__} of {len(checkpoint)}"
    return f"one {type(checkpoint).__name__}"
