"""`scorefield sample`: samples of a trained model as files."""

from pathlib import Path
from typing import Any

from ..values import describe_classes, quantity
from . import options
from .startup import join_group, say


def sample(
    run: options.RunPath,
    *,
    n: options.Count = 64,
    out: Path | None = None,
    overwrite: options.Overwrite = False,
    sampler: options.SamplerName = None,
    steps: options.Steps = None,
    seed: options.Seed = 0,
    label: str | None = None,
    guidance: options.Guidance = 1.0,
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
        label: class of all samples, by name or number; `all` spreads the n samples evenly over the
            classes, in the order of their names.
        animate: also write the path of the samples, as a .gif or an animated .png.
    """
    options.check_options(run=run, n=n, batch=batch, steps=steps, seed=seed)
    from .. import distributed
    from ..disk import write_file
    from ..fast import optimize
    from ..sample import chains, choose_classes, gather
    from ..show import images
    from . import files
    from .given import describe_condition, read_given
    from .rows import sample_given

    join_group()
    model, shape, about = files.load_model(run, device)
    condition, rest = read_given(run, model, cells)
    if rest:
        options.check_unused(
            "--given of a column that is learned samples by restoration", sampler=sampler,
            label=label, guidance=guidance, animate=animate,
        )  # fmt: skip
        sample_given(
            run, rest, n, out, overwrite, steps=steps, seed=seed, batch=batch, device=device,
            precision=precision, condition=condition or None,
        )  # fmt: skip
        return
    decode, shape = files.open_decoder(run, shape)
    out, table = files.choose_output(out, run, shape, overwrite)
    never_free = getattr(model.net, "arguments", {}).get("label_dropout") == 0
    if label is None and model.classes and never_free:
        raise ValueError(
            f"{run}: it was trained with network.label_dropout=0, never without a class: give "
            f"--label, one of {describe_classes(model.classes)}, or `all`"
        )
    if animate is not None:
        files.check_animation(animate, out, shape)
    plan = files.choose_plan(run, model, sampler, steps)
    classes = None if label is None else choose_classes(model, label, n)
    about |= {
        "weights": "averaged, if the training averaged them",
        **{"sampler": plan.sampler, "options": plan.options, "evaluations": plan.evaluations},
        "sigmas": [plan.sigmas[0].item(), plan.sigmas[-1].item(), len(plan.sigmas)],
        **{"n": n, "seed": seed, "label": label, "guidance": guidance, "precision": precision},
        "classes": files.count_classes(model, classes),
        **({"given": dict(text.split("=", 1) for text in cells)} if cells else {}),
    }
    # Wait until every process has looked at the files, before the first one is written.
    distributed.check_equal(**about)
    parts = chains(
        model, n, plan, seed=seed, label=classes, condition=condition or None, guidance=guidance,
        batch=batch,
    )  # fmt: skip
    batches, frames = range(0, n, batch), list[Any]()
    calls = len(batches) * plan.evaluations
    choice = optimize(model, batch=min(n, batch), evaluations=calls, precision=precision)
    say(f"computing: {choice}")
    total = len(distributed.shard(batches)) * plan.states
    watched = (
        files.film(states, plan.states, frames, decode) if animate and first == 0 else states
        for first, states in parts
    )
    ends = files.track_chains(watched, total, "sampling")
    with files.open_output(out, n, shape, table, about, overwrite) as write:
        for x in gather(model, ends, n, batch):
            write(decode(x))
    names = [*about["classes"]]
    kind = f" of {repr(names[0]) if len(names) == 1 else f'{len(names)} classes'}" if names else ""
    cost = quantity(plan.evaluations, "evaluation")
    say(f"wrote {out}: {quantity(n, 'sample')}{kind} by {plan.sampler}, {cost} each")
    if not condition and (example := describe_condition(model, table)):
        say(f"these are of all conditions: choose one by {example}")
    if label is None and model.classes:
        say(f"--label chooses one of {describe_classes(model.classes)}, or `all`")
    if table is not None and out.suffix == ".npy":
        say("they are standardised: Table.read(RUN).decode(x) makes rows of them")
    if animate is not None and distributed.is_main():
        write_file(animate, images.animation(frames, animate.suffix, about))
        say(f"wrote {animate}: {len(frames)} states of the first samples")
