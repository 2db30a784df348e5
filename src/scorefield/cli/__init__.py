"""The command line: `scorefield COMMAND [options]`.

A command is a function in `COMMANDS`: its signature is the options, its docstring the help.
"""

import inspect
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence

import tyro

from .. import __version__
from ..runs.config import Experiment
from ..runs.presets import PRESETS
from ..values import escape_controls, import_object
from . import startup
from .convert import convert
from .demo import demo
from .encode import encode
from .evaluate import evaluate
from .export import export
from .fields import fields_page
from .push import push
from .reproduce import reproduce
from .restore import restore
from .sample import sample
from .score import score
from .studio import studio
from .suggest import suggest
from .train import average, resume, train

FIELD = re.compile(r"--([a-z_]+\.[\w.]+|network|levels|training|sampling|keeping|machine)(=|$)")
"""An option that is a field of the configuration, or several as in --network='{width: 8}'."""

ABOUT = """Learn the score of a distribution from its samples, and sample from it.

With --debug, errors show a traceback; --version prints the version. --import MODULE:NAME, in any
command, imports what a file or an option names of your own: a network, an autoencoder, a sampler or
a method of restoration."""

COMMANDS: dict[str, Callable[..., None]] = {
    command.__name__: command
    for command in (
        *(demo, studio, train, resume, average),
        *(sample, evaluate, score, restore, suggest, encode, reproduce, convert, push, export),
    )
}

for _command in COMMANDS.values():  # the help keeps line ends, those in the source too
    _command.__doc__ = re.sub(r"\n {8,}", " ", inspect.cleandoc(_command.__doc__ or ""))

SHARED = ("train", "resume", "sample", "evaluate")
"""Commands that several processes share; the others run in rank 0 only."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, or 2 for an error that the user can fix."""
    try:
        try:
            return _dispatch(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader has closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes again
        return 141  # as shells report SIGPIPE


def _dispatch(args: list[str]) -> int:
    main_process = "WORLD_SIZE" not in os.environ or os.environ.get("RANK", "0") == "0"
    debug = "--debug" in args
    args, own = _split_imports(arg for arg in args if arg != "--debug")
    if not main_process and not (args and args[0] in SHARED):
        return 0
    if args[:1] == ["--version"]:
        print(f"scorefield {__version__}")
        return 0
    startup.prepare()
    args = [*_settings(args)]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without σ shows ?
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _complain  # type: ignore[assignment]
            for name in own:
                import_object(name)
            tyro.extras.subcommand_cli_from_dict(
                COMMANDS, prog="scorefield", description=ABOUT, args=args
            )
    except SystemExit as stop:
        if stop.code == 0 and args[0] == "train":
            preset = next((PRESETS[name] for name in args if name in PRESETS), Experiment())
            print(fields_page(preset))
        raise
    except (ValueError, TypeError, ImportError, OSError) as error:
        # These say what to change; any other exception is a bug of the package.
        if debug or isinstance(error, BrokenPipeError):
            raise
        _complain(error)
        return 2
    except KeyboardInterrupt as interrupt:
        # All processes of a launcher stop together, and rank 0 prints.
        if str(interrupt) and main_process:
            _complain(interrupt)
        return 128 + getattr(interrupt, "number", 2)  # the convention of shells
    return 0


def _complain(message: BaseException | str, *where: object) -> None:
    """Print an error, or a warning without its place in the code."""
    print(f"scorefield: {escape_controls(str(message), lines=True)}", file=sys.stderr)


def _split_imports(args: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the arguments without --import NAME, and the names."""
    args, others, names = iter(args), list[str](), list[str]()
    for arg in args:
        option, equals, name = arg.partition("=")
        if option == "--import":
            names.append(name if equals else next(args, ""))
        else:
            others.append(arg)
    return others, names


def _settings(args: Iterable[str]) -> Iterator[str]:
    """Turn --training.rate=3e-4 and --training.rate 3e-4 into --set training.rate=3e-4."""
    args = iter(args)
    for arg in args:
        if FIELD.match(arg):
            yield "--set"
            arg = arg[2:] if "=" in arg else f"{arg[2:]}={next(args, '')}"
        yield arg
