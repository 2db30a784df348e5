"""`scorefield score`: how likely and how typical the samples of any data set are for a model."""

from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from ..disk import check_writable, write_file
from . import options
from .startup import say


def score(
    run: options.RunWithData,
    source: Annotated[Positional[str], arg(metavar="DATA")],
    *,
    data: options.MovedData = None,
    settings: options.Settings = (),
    n: Annotated[int | None, arg(aliases=["-n"])] = None,
    held_out: int = 360,
    label: str | None = None,
    out: Path = Path("scores.csv"),
    probes: int = 4,
    dequantisation: options.Dequantising = "uniform",
    seed: options.Seed = 0,
    batch: Annotated[int, arg(help="number of samples at a time")] = 256,
    device: options.DeviceName = "auto",
) -> None:
    """Compute the log-density of each sample of a data set, and how typical it is for a model.

    Each gets a p-value: its rank, from either end, among the log-densities of the run's held-out
    data. Small ones are out of distribution; a sample may also be too dense. If the model has
    conditions, each sample is scored given its own. Writes a .csv file and a histogram next to it.

    Args:
        source: a data set's name, a folder of images, or an .npy, .npz, .h5, .csv, .tsv or .parquet
            file. Images are scaled to the model's size; a table has the columns of the run's.
        settings: an option of DATA, as --data.options.crop=64; may be repeated.
        n: number of samples to score, chosen at random; by default all.
        held_out: number of held-out samples to compare with, if there are as many; the smallest
            p-value is 2 divided by one more than that.
        label: class of all DATA, by name or number; they are then compared with held-out samples of
            this class.
        out: the .csv file; the histogram is the .png of the same name.
        probes: random directions that estimate the divergence of samples of more than 16 numbers;
            with more of them the errors are smaller.
    """
    counts: dict[str, Any] = {"held-out": held_out}
    options.check_options(seed=seed, n=n, batch=batch, probes=probes, **counts)
    run = options.find_run(run)
    if out.suffix != ".csv":
        raise ValueError(f"--out {out}: scores are written as .csv")
    check_writable(out)
    from ..evaluate import score_run

    scores = score_run(
        run, source, options=options.data_options(settings), moved=data, n=n, compared=held_out,
        label=label, probes=probes, dequantisation=dequantisation, seed=seed, batch=batch,
        device=device, bar=True,
    )  # fmt: skip
    write_file(out, scores.as_csv().encode())
    write_file(out.with_suffix(".png"), scores.as_png())
    say(f"{scores.table()}\nwrote {out} and {out.with_suffix('.png')}")
