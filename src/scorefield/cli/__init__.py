"""The command line: `scorefield COMMAND [options]`.

A command is a function in `COMMANDS`; its signature is the options, its docstring the help. What
it runs is imported when it is called, so that `--help` answers before torch has loaded.
"""

from __future__ import annotations

import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, UseAppendAction, arg

from ..disk import check_writable
from . import startup

FIELD = re.compile(r"--[a-z_]+\.[\w.]+(=|$)")
"""An option that is a field of the configuration."""

ABOUT = """Learn the score of a distribution from its samples, and draw from it.

With --debug, anywhere, an error shows where it arose."""


def demo(
    *,
    out: Path = Path("runs/demo"),
    seed: int = 0,
    steps: int | None = None,
    overwrite: bool = False,
) -> None:
    """Learn digits, sample them by five ways, judge the samples, and write a report.

    It takes two to three minutes on two cores.

    Args:
        out: the directory for all of it, report.html included.
        seed: same seed, same digits.
        steps: of training; fewer for a quick look.
        overwrite: in the place of a run that is there.
    """
    if steps is not None and steps < 1:
        raise ValueError(f"--steps {steps}: train for one step at least, as in --steps 300")
    if not 0 <= seed < 2**63:
        raise ValueError(f"--seed {seed}: give a whole number from 0 to 2^63 - 1")
    _check_run(out, overwrite)
    from .. import demo

    if overwrite:
        demo.clear(out)
    demo.run(out, seed=seed, steps=steps)


def convert(
    checkpoint: Annotated[Positional[Path], arg(metavar="CHECKPOINT")],
    out: Annotated[Positional[Path], arg(metavar="OUT")],
    *,
    overwrite: bool = False,
    ema: bool = True,
    image_size: int | None = None,
    sigma_max: float | None = None,
    sigma_min: float | None = None,
    sde: Literal["ve", "vp", "subvp"] | None = None,
    continuous: bool | None = None,
    beta_min: float | None = None,
    beta_max: float | None = None,
    fir: bool | None = None,
    skip_rescale: bool | None = None,
    groups: int | None = None,
    dropout: float | None = None,
) -> None:
    """Turn an official NCSN, NCSNv2 or score_sde checkpoint into a model of this package.

    What the file does not tell is assumed, as published, and said with the option to change it.

    Args:
        checkpoint: a file as their programs save it; nothing in it is run.
        out: where to write, a file if it ends in .safetensors, else a directory.
        overwrite: replace what is there.
        ema: take the averaged weights, if there are any.
        image_size: pixels a side.
        sigma_max: the largest noise level, if the file has no ladder.
        sigma_min: the smallest one.
        sde: score_sde only, what the network was trained on.
        continuous: score_sde only, whether at all times rather than at 1000.
        beta_min: score_sde's vp and subvp, β at time 0.
        beta_max: β at time 1.
        fir: score_sde only, whether sizes change through a filter.
        skip_rescale: score_sde only, whether sums of two branches are divided by √2.
        groups: score_sde only, groups of the normalisations.
        dropout: score_sde only, for training on.
    """
    given: dict[str, Any] = dict(image_size=image_size, sigma_max=sigma_max, sigma_min=sigma_min)
    given |= dict(sde=sde, continuous=continuous, beta_min=beta_min, beta_max=beta_max)
    given |= dict(fir=fir, skip_rescale=skip_rescale, groups=groups, dropout=dropout)
    _check_model(out, overwrite)
    from scorefield import from_official, save

    lines: list[str] = []
    options = {name: value for name, value in given.items() if value is not None}
    model = from_official(checkpoint, report=lines.append, ema=ema, **options)
    print("\n".join(lines))
    save(model, out, about={"converted from": checkpoint.name, "report": lines})
    print(f"wrote {out}")
    print(f"next, in Python: model = scorefield.load({str(out)!r})")


Settings = Annotated[tuple[str, ...], arg(name="set", metavar="FIELD=VALUE")]


def train(
    preset: Annotated[Positional[str | None], arg(metavar="PRESET")] = None,
    *,
    data: str | None = None,
    out: Path | None = None,
    config: Path | None = None,
    start: Annotated[Path | None, arg(name="from")] = None,
    steps: int | None = None,
    seed: int | None = None,
    settings: UseAppendAction[Settings] = (),
    show: bool = False,
) -> None:
    """Learn a model from data, in a directory that holds all of the run.

    Any field of the configuration can be set, as in --training.rate=3e-4 or
    --network.width=64; --show prints them all.

    Args:
        preset: digits, digits-ncsn, photos, vectors, table, signals, ncsn-mnist, ncsn-cifar10,
            ncsn-celeba, ncsnv2-cifar10, ncsnv2-celeba or ncsnpp-cifar10; the one that suits the
            data if there is no --config. Those of MNIST and CIFAR-10 read data/mnist and
            data/cifar10, or what --data.options.root=FOLDER names, and fetch it with
            --data.options.download=true.
        data: a data set's name, hub:OWNER/NAME, a folder of images, an .npy, .npz, .csv or .tsv
            file; the preset's own if not given.
        out: the directory of the run; runs/PRESET if not given.
        config: a YAML or JSON file of fields, as a run's config.json.
        start: a model to train on, as `save`, a run or `convert` wrote it.
        steps: how many; the same as --training.steps.
        seed: same seed, same run.
        settings: a field of the configuration and its value in YAML; may be repeated.
        show: print the configuration and do nothing.
    """
    given = {"training.steps": steps, "seed": seed, "start": start}
    named = [f"{name}={value}" for name, value in given.items() if value is not None]
    from ..runs.config import as_json
    from . import commands

    made = commands.experiment(preset, config, data, [*named, *settings])
    name = preset or (config.stem if config else Path(data).stem if data else "digits")
    if show:
        print(as_json(made))
        return
    commands.train(made, out or Path("runs") / name)


def resume(
    run: Annotated[Positional[Path], arg(metavar="RUN")], *, changed_data: bool = False
) -> None:
    """Go on with a run that was stopped, to the same end as if it had not been.

    Args:
        run: its directory.
        changed_data: go on though the data are not those that it began with.
    """
    from . import commands

    commands.resume(run, changed_data=changed_data)


def sample(
    run: Annotated[Positional[Path], arg(metavar="RUN")],
    *,
    n: Annotated[int, arg(aliases=["-n"])] = 64,
    out: Path | None = None,
    sampler: str | None = None,
    steps: int | None = None,
    seed: int = 0,
    label: int | None = None,
    guidance: float = 1.0,
    animate: Path | None = None,
    batch: int = 256,
    device: str = "auto",
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
) -> None:
    """Draw samples of a trained model.

    Args:
        run: a run's directory, or a model that was saved or converted.
        n: how many.
        out: a .png grid, an .npy file of floats, a .csv of the rows of a table, or a folder of
            single images; samples.png for images, samples.csv for a table and samples.npy for
            other vectors if not given.
        sampler: heun, dpm_solver, annealed_langevin, predictor_corrector, euler, churn,
            ancestral, reverse_diffusion or consistent; the run's own if not given.
        steps: levels of the grid; for annealed Langevin the steps at each level.
        seed: same seed, same samples.
        label: the class of all.
        guidance: how much more of the class than the model has, 1 for as much.
        animate: also write the way of the samples, a .gif or a .png that moves.
        batch: how many at once.
        device: cpu, cuda, mps.
        precision: the network's, float32 to 1e-5, which auto is too, or bfloat16 to 2 %, which may
            be faster.
    """
    if n < 1 or batch < 1:
        raise ValueError(f"-n {n} --batch {batch}: draw at least one")
    _check_animation(animate)
    from . import commands

    commands.sample(
        run,
        n=n,
        out=out,
        sampler=sampler,
        steps=steps,
        seed=seed,
        label=label,
        guidance=guidance,
        animate=animate,
        batch=batch,
        device=device,
        precision=precision,
    )


def evaluate(
    run: Annotated[Positional[Path], arg(metavar="RUN")],
    *,
    n: Annotated[int, arg(aliases=["-n"])] = 360,
    features: Literal["pixels", "classifier", "inception"] = "pixels",
    inception: Path | None = None,
    reference: Literal["test", "train"] = "test",
    sampler: str | None = None,
    steps: int | None = None,
    seed: int = 0,
    raw: bool = False,
    bits: int = 32,
    frontier: bool = False,
    out: Path | None = None,
    batch: int = 256,
    device: str = "auto",
) -> None:
    """Judge a run's model: its samples, its fit to held-out data, and whether it has memorised.

    Writes metrics.json, in which every figure says what it is of and how uncertain it is, and a
    page in report.html.

    Args:
        run: its directory.
        n: how many samples are drawn.
        features: in which samples are compared: their own numbers, those of a classifier of the
            data's classes, or of the Inception network of FID.
        inception: the file of that network's weights.
        reference: what is held out, or as in the papers the training data.
        sampler: the run's own if not given.
        steps: levels of the grid; for annealed Langevin the steps at each level.
        seed: same seed, same samples.
        raw: the weights as they were trained last, not their average.
        bits: held-out samples whose likelihood is computed; 0 for none.
        frontier: also draw by every sampler at several costs.
        out: a directory for both files; the run's if not given.
        batch: samples at once.
        device: cpu, cuda, mps.
    """
    place = run if out is None else out
    if place.exists() and not place.is_dir():
        raise ValueError(f"--out {place}: this is a file, name a directory")
    check_writable(place / "report.html")
    from . import commands

    commands.evaluate(
        run,
        place,
        n=n,
        features=features,
        inception=inception,
        reference=reference,
        sampler=sampler,
        steps=steps,
        seed=seed,
        raw=raw,
        bits=bits,
        with_frontier=frontier,
        batch=batch,
        device=device,
    )


def restore(
    run: Annotated[Positional[Path], arg(metavar="RUN")],
    image: Annotated[Positional[Path], arg(metavar="IMAGE")],
    *,
    task: Literal["inpaint", "colorize", "super-resolve", "deblur"],
    mask: Path | None = None,
    factor: int | None = None,
    sigma: float | None = None,
    noise: float | None = None,
    n: Annotated[int, arg(aliases=["-n"])] = 8,
    out: Path = Path("restored"),
    overwrite: bool = False,
    method: Literal["particle_filter", "pigdm", "dps", "replace", "algorithm2"] = "particle_filter",
    steps: int | None = None,
    particles: int = 32,
    filters: int = 4,
    seed: int = 0,
    batch: int = 256,
    device: str = "auto",
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
) -> None:
    """Complete an image of which a part was measured: many times, with their mean and spread.

    Args:
        run: a run's directory, or a model that was saved or converted.
        image: what was measured: the damaged, the grey, the small or the blurred image.
        task: what is wrong with it.
        mask: for inpaint, an image of its size, white where it is known.
        factor: for super-resolve, how many pixels a side became one.
        sigma: for deblur, the standard deviation of the Gaussian blur in pixels.
        noise: the standard deviation of the measurement's noise, in images from 0 to 1; for deblur
            that of 8 bits if not given, else 0, and known pixels come back as they are.
        n: how many completions.
        out: the directory for them.
        overwrite: what a restoration left there.
        method: particle_filter is exact for many particles, the others are not.
        steps: levels of the grid; for algorithm2 the steps at each level.
        particles: of each particle filter.
        filters: of the particle filter, n at most; completions of one are akin.
        seed: same seed, same completions.
        batch: how many chains at once.
        device: cpu, cuda, mps.
        precision: the network's, float32 to 1e-5, which auto is too, or bfloat16 to 2 %, which may
            be faster.
    """
    if out.exists() and not (out.is_dir() and (overwrite or not any(out.iterdir()))):
        raise ValueError(f"--out {out}: there is something; add --overwrite, or name another")
    check_writable(out / "restored.png")
    from ..runs.resolve import choose_device
    from .restore import restore_image

    restore_image(
        run,
        image,
        task=task,
        out=out,
        mask=mask,
        factor=factor,
        blur=sigma,
        sigma_y=noise,
        n=n,
        device=choose_device(device),
        method=method,
        steps=steps,
        particles=particles,
        filters=filters,
        seed=seed,
        batch=batch,
        precision=precision,
    )


def suggest(
    data: Annotated[Positional[str], arg(metavar="DATA")],
    *,
    size: int | None = None,
    signals: bool = False,
    budget: int | None = None,
    sigma_min: float | None = None,
) -> None:
    """Say which noise levels, how many steps and which step size a data set asks for, and why.

    Args:
        data: a data set's name, a folder of images, an .npy, .npz, .csv or .tsv file.
        size: to which images are scaled, if a folder's are not all of one size.
        signals: the file holds signals, (n, channels, length) or (n, length).
        budget: how often a chain may evaluate the score.
        sigma_min: the last level, if you know better.
    """
    from . import commands

    commands.suggest(data, size=size, signals=signals, budget=budget, sigma_min=sigma_min)


def reproduce(
    experiments: Annotated[Positional[tuple[str, ...]], arg(metavar="EXPERIMENT ...")],
    *,
    scale: Literal["small", "paper"] = "small",
    out: Path = Path("runs/paper"),
    data: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    steps: int | None = None,
    inception: Path | None = None,
) -> None:
    """Repeat experiments of Song & Ermon 2019, and say of each whether it came out as published.

    PASS or FAIL is against a statement that is printed with the numbers; a picture is saved beside
    them. What was trained and sampled is kept, and taken up where it was stopped.

    Args:
        experiments: fig1 to fig17, table1, or all.
        scale: small is minutes on data that come with scikit-learn; paper is the published setting,
            for a GPU and MNIST, CelebA and CIFAR-10.
        out: a directory; each experiment has a folder in it.
        data: a folder with mnist, cifar10 and celeba in it; where `train` looks if not given.
        seed: same seed, same findings.
        device: cpu, cuda, mps.
        steps: as many at most of anything, be it steps, samples or a batch, only to see whether it
            runs.
        inception: the weights of the network of FID, for fig10 and table1 at the paper's scale.
    """
    if not experiments:
        raise ValueError("name an experiment, as fig3, or all")
    if steps is not None and steps < 1:
        raise ValueError(f"--steps {steps}: take one at least")
    if not 0 <= seed < 2**63:
        raise ValueError(f"--seed {seed}: give a whole number from 0 to 2^63 - 1")
    check_writable(out / "fig1")
    from .. import paper
    from ..runs.resolve import choose_device

    setting = paper.Setting(out, scale, seed, data, str(choose_device(device)), steps, inception)
    if not paper.run_experiments(experiments, setting):
        sys.exit(1)


COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "train": train,
    "resume": resume,
    "sample": sample,
    "evaluate": evaluate,
    "restore": restore,
    "suggest": suggest,
    "reproduce": reproduce,
    "convert": convert,
}


SHARED = ("train", "resume", "sample", "evaluate")
"""Commands that many processes do together; of others, the first does all."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, or 2 if the user can mend what is wrong."""
    args = list(sys.argv[1:] if argv is None else argv)
    other = "WORLD_SIZE" in os.environ and os.environ.get("RANK", "0") != "0"
    if other and not any(each in SHARED for each in args[:2]):  # --debug may come first
        return 0
    startup.prepare()
    debug = "--debug" in args
    args = _settings([each for each in args if each != "--debug"])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without σ shows ?, and no traceback
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _say  # type: ignore[assignment]
            tyro.extras.subcommand_cli_from_dict(
                COMMANDS, prog="scorefield", description=ABOUT, args=args
            )
    except (ValueError, TypeError, ImportError, OSError) as error:
        # the package says in them what to change; other errors are its own
        if debug:
            raise
        print(f"scorefield: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        # a launcher's processes stop together, and the first one says it
        if str(stopped) and os.environ.get("RANK", "0") == "0":
            print(f"scorefield: {stopped}", file=sys.stderr)
        return 128 + getattr(stopped, "number", 2)  # as a shell counts it
    return 0


def _say(message: Warning | str, *where: object) -> None:
    """A warning as a line, which says what was found amiss, not where in the code."""
    print(f"scorefield: {message}", file=sys.stderr)


def _settings(args: list[str]) -> list[str]:
    """--training.rate=3e-4 and --training.rate 3e-4 as --set training.rate=3e-4."""
    found: list[str] = []
    rest = iter(args)
    for each in rest:
        if FIELD.match(each) is None:
            found.append(each)
        else:
            found += ["--set", each[2:] if "=" in each else f"{each[2:]}={next(rest, '')}"]
    return found


def _check_animation(path: Path | None) -> None:
    if path is not None and path.suffix not in (".gif", ".png"):
        raise ValueError(f"--animate {path}: an animation is a .gif or a .png")


def _check_run(out: Path, overwrite: bool) -> None:
    """Refuse a place that holds something; a run may be overwritten, other things may not."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: this is a file, name a directory")
    if out.is_dir() and any(out.iterdir()):
        if not (out / "config.json").exists():
            raise ValueError(f"--out {out}: there is something else than a run in it, name another")
        if not overwrite:
            raise ValueError(f"--out {out}: holds a run; add --overwrite, or name another --out")
    check_writable(out / "report.html")


def _check_model(path: Path, overwrite: bool) -> None:
    """Refuse a place where a model is not to be written, or could not."""
    single = path.suffix == ".safetensors"
    if path.exists() and path.is_dir() == single:
        kind = "a directory" if single else "a file, and a model's ends in .safetensors"
        raise ValueError(f"{path}: this is {kind}; choose another name")
    if path.exists() and not overwrite:
        raise ValueError(f"{path}: there is one already; choose another name, or add --overwrite")
    check_writable(path)
