"""`scorefield encode`: the latents of images, written once, to train on."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from . import options
from .startup import say


def encode(
    data: Annotated[Positional[str], arg(metavar="DATA")],
    *,
    autoencoder: Annotated[str, arg(name="with")],
    out: Path = Path("latents.npy"),
    settings: options.Settings = (),
    batch: Annotated[int, arg(help="number of images at a time")] = 64,
    device: options.DeviceName = "auto",
) -> None:
    """Write the latents of images by an autoencoder, to train on and to sample decoded images.

    Options of the data are those of `train`, as in --data.options.size=64.

    Args:
        data: a data set's name, a folder of images, or an .npy, .npz or .h5 file of images.
        autoencoder: MODULE:NAME of a torch.nn.Module with encode(x) and decode(z), or of a class or
            function that returns one, with images in [0, 1]; or the folder of an AutoencoderKL of
            diffusers.
        out: the .npy file to write; what decoding needs is written next to it.
        settings: an option of the data, as --data.options.size=64; may be repeated.
    """
    options.check_options(batch=batch)
    if out.suffix != ".npy":
        raise ValueError(f"--out {out}: latents are written as .npy")
    from .. import distributed
    from ..data import encode as write_latents
    from ..data import load_data
    from ..show.progress import progress

    source = load_data(data, **options.data_options(settings))
    device = str(distributed.choose_device(device))
    watch = lambda parts, count: progress(parts, count, "encoding")  # noqa: E731
    write_latents(source, autoencoder, out, batch=batch, device=device, watch=watch)
    say(f"wrote {out} and {out}.json")
    say(f"next: scorefield train --data {out}")
