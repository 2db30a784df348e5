"""`scorefield convert`: a checkpoint of another program as a model of this package."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from ..disk import check_writable
from ..runs.config import parse_setting
from . import options
from .startup import say


def convert(
    checkpoint: Annotated[Positional[Path], arg(metavar="CHECKPOINT")],
    out: Annotated[Positional[Path], arg(metavar="OUT")],
    *,
    settings: options.Settings = (),
    overwrite: options.Overwrite = False,
) -> None:
    """Turn an official NCSN, NCSNv2, score_sde or EDM checkpoint into a model of this package.

    What the file does not contain takes its published value, and is printed.

    Args:
        checkpoint: a file as the official programs save it, or hub:OWNER/NAME/FILE, which is
            downloaded; none of its code is run.
        out: where to write: a file if it ends in .safetensors, else a directory.
        settings: an option of `from_official`, for what the file does not contain, as in
            sigma_max=50: image_size, sigma_max, sigma_min; ema, except for EDM; for score_sde also
            sde (ve, vp or subvp), continuous, beta_min, beta_max, fir, skip_rescale, groups,
            dropout.
    """
    if out.exists() and out.is_dir() == (out.suffix == ".safetensors"):
        kind = "a directory" if out.is_dir() else "a file, and a model's ends in .safetensors"
        raise ValueError(f"{out}: this is {kind}; choose another name")
    if out.exists() and not overwrite:
        raise ValueError(f"{out}: this exists already; choose another name, or add --overwrite")
    check_writable(out)
    checkpoint = options.download(checkpoint)
    if not checkpoint.is_file():
        kind = "is a directory, name a file in it" if checkpoint.is_dir() else "does not exist"
        raise ValueError(f"CHECKPOINT {checkpoint} {kind}")
    from scorefield import from_official, save

    from ..convert import origin

    lines = list[str]()
    model = from_official(checkpoint, report=lines.append, **dict(map(parse_setting, settings)))
    say("\n".join(lines))
    about = {"converted from": checkpoint.name, "report": lines} | origin(checkpoint)
    save(model, out, about=about)
    say(f"wrote {out}")
    say(f"next, in Python: model = scorefield.load({str(out)!r})")
