"""`scorefield average`: the weights of a run averaged over another part of its training."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from . import options
from .startup import say


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
    options.check_options(run=run)
    from .. import runs

    path = runs.average(run, length)
    say(f"wrote {path}")
    say(f"next: scorefield sample {path}, or scorefield evaluate {path}")
