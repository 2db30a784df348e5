"""`scorefield reproduce`: the experiments of Song & Ermon 2019."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from . import options


def reproduce(
    experiments: Annotated[Positional[tuple[str, ...]], arg(metavar="EXPERIMENT ...")],
    *,
    scale: Literal["small", "paper"] = "small",
    out: Path = Path("runs/paper"),
    data: Path | None = None,
    seed: options.Seed = 0,
    device: options.DeviceName = "auto",
    steps: int | None = None,
    inception: options.InceptionFile = None,
) -> None:
    """Repeat experiments of Song & Ermon 2019 and compare them with what was published.

    Each prints its numbers and PASS or FAIL against a stated criterion, and saves a picture.
    Trained models and samples are kept, and an interrupted experiment continues where it stopped.

    Args:
        experiments: fig1 to fig17, table1, or all.
        scale: small takes minutes, on data that come with scikit-learn; paper is the published
            setting, for a GPU and MNIST, CelebA and CIFAR-10.
        out: directory; each experiment has a folder in it.
        data: folder with mnist, cifar10 and celeba in it; by default where `train` looks.
        steps: largest number of steps and of samples, to check that an experiment runs.
    """
    if not experiments:
        raise ValueError("name an experiment, as in `scorefield reproduce fig3`, or all")
    options.check_options(steps=steps, seed=seed)
    options.check_directory(out)
    from .. import paper
    from ..distributed import choose_device

    setting = paper.Setting(out, scale, seed, data, str(choose_device(device)), steps, inception)
    if not paper.run_experiments(experiments, setting):
        sys.exit(1)
