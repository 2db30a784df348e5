"""`scorefield push`: a run's model on the Hugging Face Hub, with a model card."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from . import options
from .startup import say


def push(
    run: options.RunPath,
    name: Annotated[Positional[str], arg(metavar="OWNER/NAME")],
    *,
    dry_run: Annotated[Path | None, arg(metavar="DIR")] = None,
    private: bool = False,
    message: str | None = None,
    license: str | None = None,
) -> None:
    """Upload a run's model to the Hugging Face Hub, with its figures, samples and a model card.

    Needs a login, by `hf auth login`. `scorefield evaluate RUN` measures the figures before.

    Args:
        name: name on the Hub, which is created if there is none.
        dry_run: write the files into this new folder to look at them, and upload nothing.
        private: create a repository that only its owner sees.
        message: message of the commit.
        license: identifier of a licence for the model card, as mit or cc-by-4.0.
    """
    run = options.find_run(run)
    from ..evaluate import push as push_run

    place = push_run(run, name, dry_run=dry_run, private=private, message=message, license=license)
    say(f"{'wrote' if dry_run else 'uploaded'} {place}")
    say(
        f"next: scorefield sample hub:{name.removeprefix('hub:')}"
        if dry_run is None
        else f"next: read {dry_run / 'README.md'}, and leave out --dry-run"
    )
