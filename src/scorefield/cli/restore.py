"""`scorefield restore`: completions of a measured image, or of a table's rows, as files."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from ..disk import check_writable
from . import options

BYTE_ROUNDING_STD = 1 / (256 * 12**0.5)
"""Standard deviation of the rounding error of 8-bit values."""


def restore(
    run: options.RunPath,
    image: Annotated[Positional[Path], arg(metavar="IMAGE|ROWS.csv")],
    *,
    task: Literal["inpaint", "colorize", "super-resolve", "deblur"] | None = None,
    mask: Path | None = None,
    factor: int | None = None,
    sigma: float | None = None,
    noise: float | None = None,
    n: options.Count = 8,
    out: Path = Path("restored"),
    overwrite: options.Overwrite = False,
    method: Literal["particle_filter", "pigdm", "dps", "replace", "algorithm2"] = "particle_filter",
    steps: options.Steps = None,
    particles: int = 32,
    filters: int = 4,
    label: str | None = None,
    guidance: options.Guidance = 1.0,
    seed: options.Seed = 0,
    batch: options.BatchSize = 256,
    device: options.DeviceName = "auto",
    precision: options.PrecisionName = "auto",
) -> None:
    """Complete an image from a measurement of a part of it: n samples, their mean and spread.

    Or complete the rows of a table: n copies of a .csv file with its empty cells filled in.

    Args:
        image: the measurement: the damaged, the grey, the small or the blurred image; or a .csv or
            .tsv file with columns of the run's table.
        task: what was done to the image; a table has none.
        mask: for inpaint, an image of the same size, white where pixels are known.
        factor: for super-resolve, the number of pixels per side that became one.
        sigma: for deblur, the standard deviation of the Gaussian blur in pixels.
        noise: standard deviation of the measurement's noise, in images from 0 to 1; by default the
            rounding error of 8 bits for deblur, else 0, which returns known pixels unchanged.
        out: directory for the results.
        method: particle_filter is asymptotically exact, the other methods are biased.
        particles: number of particles in a filter.
        filters: number of particle filters, at most n; samples from one filter are correlated.
        label: class of all completions, by name or number.
    """
    options.check_options(
        run=run, n=n, batch=batch, steps=steps, particles=particles, filters=filters, seed=seed
    )
    if out.exists() and not (out.is_dir() and (overwrite or not any(out.iterdir()))):
        raise ValueError(f"--out {out}: this exists already; add --overwrite, or name another")
    check_writable(out / "restored.png")
    size: dict[str, Any] = {"particles": particles, "filters": filters}
    size |= {"method": method, "steps": steps, "batch": batch}
    if image.suffix.lower() in (".csv", ".tsv"):
        options.check_unused(
            f"{image} is a table", task=task, mask=mask, factor=factor, sigma=sigma, noise=noise,
            label=label, guidance=guidance,
        )  # fmt: skip
        from .rows import restore_table

        size |= {"seed": seed, "device": device, "precision": precision}
        restore_table(run, image, n, out, **size)
        return
    if task is None:
        raise ValueError("an image needs --task: inpaint, colorize, super-resolve or deblur")
    owners = {"mask": "inpaint", "factor": "super-resolve", "sigma": "deblur"}
    for (option, owner), value in zip(owners.items(), (mask, factor, sigma), strict=True):
        if (task == owner) != (value is not None):
            raise ValueError(f"--task {task} {'needs' if task == owner else 'has no'} --{option}")
    from ..fast import optimize
    from ..restore import restore as complete
    from ..restore import workload
    from ..show import images
    from . import files

    images.check_place(out / "completions", overwrite)
    model, shape = files.load_model(run, device)
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(f"{run}: this is not a model of images with one or three channels")
    number = None if label is None else int(model.find_class(label))
    operator, measured = files.find_operator(shape, mask, factor, sigma)
    if noise is None:  # deblurring amplifies the rounding error of bytes
        noise = BYTE_ROUNDING_STD if task == "deblur" else 0.0
    y = files.read_pixels(image, measured, "IMAGE")[None].to(model.device or "cpu")
    work = workload(model, n, **size)
    choice = optimize(model, batch=work.at_once, evaluations=work.calls, precision=precision)
    print(f"computing: {choice}")
    (x,) = complete(
        model, operator, y, n, sigma_y=noise, label=number, guidance=guidance, seed=seed, **size,
        watch=partial(files.track_chains, what="restoring"),
    )  # fmt: skip
    about = files.describe_model(run) | size | {
        "image": str(image), "task": task, "mask": mask and str(mask), "factor": factor,
        "sigma": sigma, "noise": noise, "n": n, "label": label, "guidance": guidance, "seed": seed,
        "precision": precision,
    }  # fmt: skip
    white = files.write_completions(out, x, about, overwrite)
    print(f"wrote {n} completions into {out}; in std.png white is a deviation of {white:.3g}")
