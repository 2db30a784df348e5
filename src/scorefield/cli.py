"""The command line: `scorefield COMMAND [options]`.

A command is a function in `COMMANDS`; its signature is the options, its docstring the help. What
it runs is imported when it is called, so that `--help` answers before torch has loaded.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import tyro

ABOUT = """Learn the score of a distribution from its samples, and draw from it.

With --debug, anywhere, an error shows where it arose."""


def demo(*, out: Path = Path("demo.png"), n: int = 2000, seed: int = 0) -> None:
    """Sample two Gaussians four ways, weigh what came out, and draw it.

    Args:
        out: the picture to write, a .png file.
        n: how many samples of each kind.
        seed: same seed, same samples.
    """
    _check_picture("--out", out)
    if n < 1:
        raise ValueError(f"--n {n}: draw at least one sample, as in --n 2000")
    if not 0 <= seed < 2**63:
        raise ValueError(f"--seed {seed}: give a whole number from 0 to 2^63 - 1")
    from .demo import run

    run(out, n=n, seed=seed)


COMMANDS: dict[str, Callable[..., None]] = {"demo": demo}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, or 2 if the user can mend what is wrong."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without σ shows ?, and no traceback
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="scorefield", description=ABOUT, args=args
        )
    except (ValueError, OSError) as error:  # the package says in them what to change
        if debug:
            raise
        print(f"scorefield: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130  # as a shell counts it
    return 0


def _check_picture(option: str, path: Path) -> None:
    """Refuse before the work what could not be written after it."""
    if path.suffix.lower() != ".png":
        raise ValueError(f"{option} {path}: the picture is a PNG, name it {path.stem}.png")
    if path.is_dir():
        raise ValueError(f"{option} {path}: this is a directory, name a file in it")
    if not path.parent.is_dir():
        raise ValueError(f"{option} {path}: there is no directory {path.parent}, make it first")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"{option} {path}: you may not write there, choose another place")
