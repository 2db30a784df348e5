"""`scorefield sample`: samples of a trained model as files."""

from pathlib import Path

from . import options


def sample(
    run: options.RunPath,
    *,
    n: options.Count = 64,
    out: Path | None = None,
    overwrite: options.Overwrite = False,
    sampler: options.SamplerName = None,
    steps: options.Steps = None,
    fit_grid: options.FitGrid = False,
    brownian: bool = False,
    seed: options.Seed = 0,
    label: str | None = None,
    guidance: options.Guiding = options.NO_GUIDANCE,
    cells: options.Given = (),
    animate: Path | None = None,
    batch: options.BatchSize = 256,
    device: options.DeviceName = "auto",
    precision: options.PrecisionName = "auto",
) -> None:
    """Sample from a trained model.

    Args:
        out: a .png grid, an .npy file of floats, a .csv file of a table's rows, or a folder of
            single images; by default samples.png for images, samples.csv for a table and
            samples.npy for other vectors.
        brownian: the noise of a seed is one path, which ancestral, reverse_diffusion, consistent
            and dpm_solver_sde follow the more closely the more levels they have.
        label: class of all samples, by name or number; `all` spreads the n samples evenly over the
            classes, in the order of their names.
        animate: also write the path of the samples, as a .gif or an animated .png.
    """
    options.check_options(n=n, batch=batch, steps=steps, seed=seed)
    run = options.find_run(run)
    from .chains import write_samples

    write_samples(
        run, n, out, overwrite, sampler=sampler, steps=steps, fit_grid=fit_grid,
        brownian=brownian, seed=seed, label=label, guidance=guidance, texts=cells,
        animate=animate, batch=batch, device=device, precision=precision,
    )  # fmt: skip
