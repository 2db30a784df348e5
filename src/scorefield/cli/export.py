"""`scorefield export`: a model for diffusers or as an ONNX file."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from ..disk import check_writable
from . import options
from .startup import say


def export(
    run: options.RunPath,
    *,
    to: Literal["diffusers", "onnx"],
    out: Annotated[Path, arg(metavar="PLACE")],
) -> None:
    """Write a model in the form of another program.

    With --to diffusers a UNet2DModel with its scheduler, where that library has the same network;
    with --to onnx a file that computes the score(x, sigma), of any number of samples.

    Args:
        to: the form.
        out: where to write: a new folder for diffusers, a new .onnx file for ONNX.
    """
    run = options.find_run(run)
    if out.exists():
        raise ValueError(f"--out {out}: this exists already; choose another name")
    if (out.suffix == ".onnx") != (to == "onnx"):
        fix = "name a file that ends in .onnx" if to == "onnx" else "name a folder"
        raise ValueError(f"--out {out}: {fix}")
    check_writable(out)
    from .. import load
    from ..convert import to_diffusers, to_onnx

    (to_onnx if to == "onnx" else to_diffusers)(load(run), out)
    say(f"wrote {out}")
    if to == "onnx":
        say(f"next, in Python: session = onnxruntime.InferenceSession({str(out)!r})")
    else:
        say(
            f"next, in Python: pipeline = diffusers.DiffusionPipeline.from_pretrained({str(out)!r})"
        )
