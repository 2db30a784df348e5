"""`scorefield restore`: completions of a measured image, or of a table's rows, as files."""

from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from ..disk import check_writable
from ..values import RestorationTask
from . import options


def restore(
    run: options.RunPath,
    image: Annotated[
        Positional[Path | None], arg(metavar="[IMAGE|ROWS.csv]", help_behavior_hint="")
    ] = None,
    *,
    data: options.MovedData = None,
    count: int | None = None,
    task: RestorationTask | str | None = None,
    mask: Path | None = None,
    factor: int | None = None,
    sigma: float | None = None,
    angles: int | None = None,
    noise: float | None = None,
    peak: float | None = None,
    n: options.Count = 8,
    out: Path = Path("restored"),
    overwrite: options.Overwrite = False,
    method: options.MethodName = "particle_filter",
    steps: options.Steps = None,
    particles: int = 32,
    filters: int = 4,
    label: str | None = None,
    guidance: options.Guiding = options.NO_GUIDANCE,
    seed: options.Seed = 0,
    batch: options.BatchSize = 256,
    device: options.DeviceName = "auto",
    precision: options.PrecisionName = "auto",
) -> None:
    """Complete an image from a measurement of a part of it: n samples, their mean and spread.

    Or complete the rows of a table: n copies of a file of rows with its empty cells filled in.
    Without a file, held-out samples of the run's own data are measured, completed and compared with
    the truth; by default their right half is hidden.

    Args:
        image: the measurement: the damaged, the grey, the small or the blurred image, or an .npy
            file of its floats, of frequencies or of projections; or a .csv, .tsv or .parquet file
            with columns of the run's table.
        count: number of held-out samples if there is no file, by default 4.
        task: what was done to the image; a table takes none. fourier measures frequencies, as
            magnetic resonance does, radon projections, as tomography does. MODULE:NAME is an
            operator of your own, or for dps and mmps any differentiable function of a batch of
            images from 0 to 1.
        mask: for inpaint, an image of the same size, white where pixels are known; for fourier
            white where frequencies are, with the mean in the centre, as np.fft.fftshift puts it.
        factor: for super-resolve, the number of pixels per side that became one.
        sigma: for deblur, the standard deviation of the Gaussian blur in pixels.
        angles: for radon, the number of angles between 0 and 180 degrees.
        noise: standard deviation of the measurement's noise, in images from 0 to 1; by default the
            rounding error of 8 bits for deblur, else 0, which returns known pixels unchanged.
        peak: the measurement has shot noise, of that many photons at a value of 1; for the methods
            dps and mmps.
        out: directory for the results.
        particles: number of particles in a filter.
        filters: number of particle filters, at most n; samples from one filter are correlated.
        label: class of all completions, by name or number.
    """
    options.check_options(
        n=n, batch=batch, steps=steps, particles=particles, filters=filters, seed=seed, count=count,
        angles=angles,
    )  # fmt: skip
    if out.exists() and not (out.is_dir() and (overwrite or not any(out.iterdir()))):
        raise ValueError(f"--out {out}: this exists already; add --overwrite, or name another")
    check_writable(out / "restored.png")
    if image is not None:
        options.check_unused(f"{image} is restored, not the run's own data", data=data, count=count)
    run = options.find_run(run)
    size: dict[str, Any] = {"particles": particles, "filters": filters, "method": method}
    size |= {"steps": steps, "batch": batch, "seed": seed, "device": device, "precision": precision}
    size |= {"data": data, "count": count or 4}
    from ..data import TABLE_FILE, TABLE_SUFFIXES

    if image.suffix.lower() in TABLE_SUFFIXES if image else (run / TABLE_FILE).exists():
        options.check_unused(
            f"{image or run} is a table", task=task, mask=mask, factor=factor, sigma=sigma,
            angles=angles, noise=noise, peak=peak, label=label, **guidance.arguments(),
        )  # fmt: skip
        from .rows import restore_table

        restore_table(run, image, n, out, **size)
    else:
        from .pictures import restore_images

        restore_images(
            run, image, n, out, overwrite, task=task, noise=noise, peak=peak, label=label,
            guidance=guidance, **size,
            option={"mask": mask, "factor": factor, "sigma": sigma, "angles": angles},
        )  # fmt: skip
