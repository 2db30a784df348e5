"""`scorefield train`, `resume` and `average`: models in a directory that holds the run."""

from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

from tyro.conf import Positional, arg

from ..runs.choose import choose_experiment
from ..runs.config import Experiment, as_json
from ..runs.presets import PRESETS
from ..show.text import in_hours
from ..values import describe_classes, parse_duration
from . import options
from .startup import join_group, say

PRESET_HELP = (
    f"{', '.join(PRESETS)}; by default the one that suits the data. Presets of MNIST and CIFAR-10 "
    "read data/mnist and data/cifar10, or --data.options.root=FOLDER, and download the data with "
    "--data.options.download=true"
)


def train(
    preset: Annotated[
        Positional[str | None],
        arg(metavar="[PRESET]", help=PRESET_HELP, help_behavior_hint=""),
    ] = None,
    *,
    data: str | None = None,
    held_out: str | None = None,
    out: Path | None = None,
    config: Path | None = None,
    start: Annotated[Path | None, arg(name="from")] = None,
    objective: str | None = None,
    steps: int | None = None,
    budget: str | None = None,
    seed: int | None = None,
    settings: options.Settings = (),
    show: bool = False,
) -> None:
    """Learn a model from data, in a directory that holds the whole run.

    Any field of the configuration can be set, as in --training.rate=3e-4 or --network.width=64. The
    options are followed by all fields, with the values of PRESET if one is named; --show prints
    them. A network's channels, shape, labels and levels may be left out, because the data determine
    them. --network.kind=MODULE:CLASS trains a network of your own, such as my_package.nets:MyNet: a
    torch.nn.Module that is called as net(x, cond) and returns the shape of x.

    Args:
        data: a data set's name, hub:OWNER/NAME, a folder of images, or an .npy, .npz, .h5,
            .csv, .tsv or .parquet file; by default the preset's own, or with --from RUN alone
            those of RUN.
        held_out: share of a folder's or file's samples to hold out, as 0.1, or a folder of images
            to hold out; the same as --data.options.held_out.
        out: directory of the run; runs/PRESET by default, or runs/RUN-tuned with --from RUN alone.
        config: YAML or JSON file of fields, such as a run's config.json.
        start: a model to continue training from, as written by `save`, a run or `convert`, or
            hub:OWNER/NAME, which is downloaded. Without PRESET, --data and --config, a run's own
            data are used again, with the options that they had.
        objective: the loss, the same as --training.objective; with --from RUN, consistency turns
            its model into one that samples in 1 or 2 evaluations.
        steps: number of training steps, the same as --training.steps.
        budget: time that the whole run takes, as 90s, 20m or 1h30m, to within 10 %. It chooses the
            number of steps and, for images, the network, by a few measured steps, and its sampler.
            Fields that are set are kept; --network fields keep the preset's network.
        seed: same seed, same run.
        settings: a field of the configuration and its value in YAML; may be repeated.
        show: print the configuration and do nothing else.
    """
    options.check_options(steps=steps)
    named: dict[str, Any] = {"training.steps": steps, "seed": seed}
    named["start"] = None if start is None else options.download(start)
    named |= {"training.objective": objective, "data.options.held_out": held_out}
    if budget is not None:
        named["training.budget"] = parse_duration(budget, "--budget")
    own = [f"{name}={value}" for name, value in named.items() if value is not None]
    own += settings
    experiment = choose_experiment(preset, file=config, source=data, settings=own)
    name = preset or (config.stem if config else Path(data).stem if data else "digits")
    if start is not None and not (preset or config or data):
        name = f"{start.name.removesuffix('.safetensors')}-tuned"
    if show:
        print(as_json(experiment))
    else:
        _start(out or Path("runs") / name, experiment, own)


def resume(
    run: Annotated[Positional[Path], arg(metavar="RUN")],
    *,
    data: options.MovedData = None,
    changed_data: bool = False,
) -> None:
    """Continue a run that was stopped, with the same result as an uninterrupted one.

    A run that has ended trains longer if training.steps, or training.budget in seconds, is larger
    in its config.json. Guided samples are then guided away from the average that is nearest to half
    of all steps, of the old one and those that are still to come.

    Args:
        run: the run's directory.
        changed_data: continue even if the data differ from those the run started with.
    """
    join_group()
    from .. import runs

    continued = runs.resume(run, data=data, changed_data=changed_data)
    if continued.at_end:
        _ = [*continued]  # a tracker may lack the last steps
        field = "steps" if continued.experiment.training.budget is None else "budget"
        more = f"to train longer, raise training.{field} in {run}/config.json"
        say(f"{run} has all of its {continued.step} steps; {more}")
    else:
        _finish(continued)


def average(
    run: Annotated[Positional[Path], arg(metavar="RUN", help="a run's directory")],
    *,
    length: float,
) -> None:
    """Average the weights of a run over any length, after the training.

    A run with --training.snapshots=N keeps what this needs, every N steps.

    Args:
        length: standard deviation of the average relative to the training, as 0.05; shorter ones
            follow the last weights more closely.
    """
    run = options.find_run(run)
    from .. import runs

    path = runs.average(run, length)
    say(f"wrote {path}")
    say(f"next: scorefield sample {path}, or scorefield evaluate {path}")


def _start(directory: Path, experiment: Experiment, settings: Sequence[str]) -> None:
    """Start a run, and train it to the end; the seconds of the imports are part of its budget."""
    began = monotonic()
    from ..runs.finish import start

    join_group()
    importing = monotonic() - began
    run = start(experiment, directory, settings=settings)
    run.pace.seconds += importing
    if experiment.start is not None:
        say(f"data: {experiment.data.source}")
    say(f"computing: {run.reasons}")
    _warn_of_few_held_out(run.parts.data)
    if run.plan:
        say(run.plan)
    _finish(run)


def _warn_of_few_held_out(data: Any) -> None:
    """Print that a `Dataset` holds out too few samples to test a model for memorisation."""
    from ..runs.heldout import MIN_HELDOUT

    held_out = 0 if data.test is None else len(data.test)
    if held_out < MIN_HELDOUT and data.exact:
        total = len(data.train) + held_out
        say(f"{held_out} of {total} samples are held out, too few to see whether a model memorises")
        say("the others: --held-out 0.2 holds out a fifth")


def _finish(run: Any) -> None:
    """Train a `Run`, whose module would load torch, to the end, and print what to do next."""
    from ..checkpoint import read_tensors
    from ..distributed import is_main
    from ..runs.watch import track_training
    from .given import describe_condition

    data, directory = run.parts.data, run.directory
    for notice in data.notices:
        say(notice)
    if data.classes:
        hint = "" if run.experiment.data.labels else "; --data.labels=true learns each"
        say(f"{describe_classes(run.model.classes or data.classes)}{hint}")
    if not data.exact:
        say(f"{data.name} is streamed: if this run is stopped, `scorefield resume`")
        say("continues at about the same place, but an exact resume cannot be promised")
    for _ in track_training(run):
        pass
    if not is_main():
        return
    about = read_tensors(directory).about
    loss = "" if about["heldout"] is None else f", held-out loss {about['heldout']:.4g}"
    say(f"wrote {directory}/model.safetensors (averaged weights of step {about['step']}{loss})")
    if run.experiment.training.budget is not None:
        run.pace.tick()
        say(f"{run.step} steps in {in_hours(run.pace.seconds)}")
    if run.skipped:
        say(f"{run.skipped} steps were skipped, because their loss or gradient was not finite")
    hint = " --label all" * run.experiment.data.labels
    hint += f" {describe_condition(run.model, data.table)}".rstrip()
    say(f"next: scorefield sample {directory} -n 64{hint}")
