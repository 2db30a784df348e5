"""`scorefield sample`: samples of a trained model as files."""

from __future__ import annotations

from pathlib import Path

from . import options
from .startup import join_group, say


def sample(
    run: options.RunPath,
    *,
    n: options.Count = 64,
    out: Path | None = None,
    sampler: options.SamplerName = None,
    steps: options.Steps = None,
    seed: options.Seed = 0,
    label: int | None = None,
    guidance: float = 1.0,
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
        label: class of all samples.
        guidance: strength of the guidance towards the class; 1 is none.
        animate: also write the path of the samples, as a .gif or an animated .png.
    """
    options.check_options(run=run, n=n, batch=batch, steps=steps, seed=seed)
    if animate is not None and animate.suffix not in (".gif", ".png"):
        raise ValueError(f"--animate {animate}: an animation is a .gif or a .png")
    from .. import distributed
    from ..disk import write_file
    from ..fast import optimize
    from ..sample import chains, gather
    from ..show import images
    from . import chains as work

    join_group()
    model = work.load_model(run, device)
    out, table = work.choose_output(out, run, model)
    pictures = model.shape is not None and len(model.shape) == 3
    if animate is not None and (animate == out or not pictures):
        reason = "--out writes there, name another file" if pictures else "no images to animate"
        raise ValueError(f"--animate {animate}: {reason}")
    plan = work.run_plan(run, model, sampler, steps)
    about = work.describe_model(run) | {
        "weights": "averaged, if the training averaged them",
        "sampler": plan.sampler,
        "options": plan.options,
        "sigmas": [plan.sigmas[0].item(), plan.sigmas[-1].item(), len(plan.sigmas)],
        "evaluations": plan.evaluations,
        **{"n": n, "seed": seed, "label": label, "guidance": guidance, "precision": precision},
    }
    # Wait until every process has looked at the files, before the first one is written.
    distributed.check_equal(**about)
    parts = chains(model, n, plan, seed=seed, label=label, guidance=guidance, batch=batch)
    calls = -(-n // batch) * plan.evaluations
    choice = optimize(model, batch=min(n, batch), evaluations=calls, precision=precision)
    say(f"computing: {choice}")
    total = len(distributed.shard(range(0, n, batch))) * plan.states
    film = None if animate is None else work.Film(plan.states)
    ends = work.track_chains((states for _, states in parts), total, "sampling", film)
    with work.open_output(out, n, model, table, about) as write:
        for x in gather(model, ends, n, batch):
            write(x)
    say(f"wrote {out}: {n} samples by {plan.sampler}, {plan.evaluations} evaluations each")
    if table is not None and out.suffix == ".npy":
        say("they are standardised: Table.read(RUN).decode(x) makes rows of them")
    if animate is not None and film is not None and distributed.is_main():
        write_file(animate, images.animation(film.frames, animate.suffix, about))
        print(f"wrote {animate}: {len(film.frames)} states of the first samples")
