"""`scorefield convert`: a checkpoint of another program as a model of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from ..disk import check_writable
from . import options


def convert(
    checkpoint: Annotated[Positional[Path], arg(metavar="CHECKPOINT")],
    out: Annotated[Positional[Path], arg(metavar="OUT")],
    *,
    overwrite: options.Overwrite = False,
    ema: bool = True,
    image_size: int | None = None,
    sigma_max: float | None = None,
    sigma_min: float | None = None,
    sde: Literal["ve", "vp", "subvp"] | None = None,
    continuous: bool | None = None,
    beta_min: float | None = None,
    beta_max: float | None = None,
    fir: bool | None = None,
    skip_rescale: bool | None = None,
    groups: int | None = None,
    dropout: float | None = None,
) -> None:
    """Turn an official NCSN, NCSNv2 or score_sde checkpoint into a model of this package.

    What the file does not contain takes its published value, and is printed with the option that
    changes it.

    Args:
        checkpoint: a file as the official programs save it; none of its code is run.
        out: where to write: a file if it ends in .safetensors, else a directory.
        ema: take the averaged weights if there are any.
        image_size: pixels per side.
        sigma_max: the largest noise level, if the file has no ladder.
        sigma_min: the smallest noise level, if the file has no ladder.
        sde: score_sde only: the process that the network was trained on.
        continuous: score_sde only: trained at all times, not at 1000 of them.
        beta_min: score_sde's vp and subvp only: β at time 0.
        beta_max: score_sde's vp and subvp only: β at time 1.
        fir: score_sde only: a filter is used where the resolution changes.
        skip_rescale: score_sde only: sums of two branches are divided by √2.
        groups: score_sde only: number of groups of the normalisations.
        dropout: score_sde only: dropout rate for further training.
    """
    settings: dict[str, Any] = {k: v for k, v in locals().items() if v is not None}
    for name in ("checkpoint", "out", "overwrite"):  # the rest are options of `from_official`
        del settings[name]
    if not checkpoint.is_file():
        kind = "is a directory, name a file in it" if checkpoint.is_dir() else "does not exist"
        raise ValueError(f"CHECKPOINT {checkpoint} {kind}")
    if out.exists() and out.is_dir() == (out.suffix == ".safetensors"):
        kind = "a directory" if out.is_dir() else "a file, and a model's ends in .safetensors"
        raise ValueError(f"{out}: this is {kind}; choose another name")
    if out.exists() and not overwrite:
        raise ValueError(f"{out}: this exists already; choose another name, or add --overwrite")
    check_writable(out)
    from scorefield import from_official, save

    lines = list[str]()
    model = from_official(checkpoint, report=lines.append, **settings)
    print("\n".join(lines))
    save(model, out, about={"converted from": checkpoint.name, "report": lines})
    print(f"wrote {out}")
    print(f"next, in Python: model = scorefield.load({str(out)!r})")
