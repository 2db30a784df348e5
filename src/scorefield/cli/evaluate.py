"""`scorefield evaluate`: figures of a trained model, with their uncertainty."""

from pathlib import Path
from typing import Literal

from . import options
from .startup import join_group, say


def evaluate(
    run: options.RunWithData,
    *,
    data: options.MovedData = None,
    n: options.Count = 360,
    features: Literal["pixels", "classifier", "inception"] = "pixels",
    inception: options.InceptionFile = None,
    reference: Literal["test", "train"] = "test",
    sampler: options.SamplerName = None,
    steps: options.Steps = None,
    fit_grid: options.FitGrid = False,
    guidance: options.Guiding = options.NO_GUIDANCE,
    seed: options.Seed = 0,
    raw: bool = False,
    bits: int = 32,
    dequantisation: options.Dequantising = "uniform",
    frontier: bool = False,
    out: Path | None = None,
    batch: options.BatchSize = 256,
    device: options.DeviceName = "auto",
) -> None:
    """Evaluate a run's model: its samples, its fit to held-out data, and memorisation.

    Writes metrics.json, in which every figure has its setting and its uncertainty, and report.html.

    Args:
        features: space in which samples are compared: their own numbers, the features of a
            classifier of the data's classes, or those of FID's Inception network.
        reference: compare samples with held-out data, or as the papers do with training data.
        raw: take the last weights instead of their average.
        bits: number of held-out samples whose likelihood is computed; 0 for none.
        frontier: also sample with every sampler that suits the model, at several costs.
        out: directory for both files; by default the run's, or one named after
            the model's file, or in the working folder after a model of the Hub.
    """
    options.check_options(n=n, batch=batch, steps=steps, seed=seed)
    name, run = run, options.find_run(run)
    if run.is_file() and run.suffix != ".safetensors":
        raise ValueError(f"RUN {run} is a file, but not a model: name the directory of a run")
    default = run if run.is_dir() else run.with_suffix("")
    if run != name:  # the Hub's cache stays as it was downloaded
        from ..convert import parse_hub_name

        default = Path(parse_hub_name(name.as_posix()).repository.rpartition("/")[2])
    options.check_directory(out := default if out is None else out)
    from .. import distributed
    from ..evaluate import METRICS_FILE, REPORT_FILE, cache_folder, evaluate_run, write_evaluation
    from . import files

    join_group()
    own = None if guidance == options.NO_GUIDANCE else files.read_guidance(guidance, device)
    evaluation = evaluate_run(
        run, data=data, n=n, features=features, inception=inception, reference=reference,
        sampler=sampler, steps=steps, fit_grid=fit_grid, guidance=own, seed=seed, raw=raw,
        bits=bits, dequantisation=dequantisation, frontier=frontier, batch=batch, device=device,
        cache=cache_folder(), progress=True,
    )  # fmt: skip
    if distributed.is_main():
        write_evaluation(evaluation, out)
        say("\n".join([evaluation.table(), *(f"not measured: {n}" for n in evaluation.notes)]))
        if evaluation.verdict:
            say(f"\n{evaluation.verdict}")
        say(f"wrote {out / METRICS_FILE} and {out / REPORT_FILE}")
