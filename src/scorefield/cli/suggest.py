"""`scorefield suggest`: the noise levels that a data set needs."""

from typing import Annotated

from tyro.conf import Positional, arg

from ..values import describe_classes
from . import options
from .startup import say

MAX_SAMPLES = 5000
"""Largest number of samples that the suggestion uses."""
MAX_SAMPLE_NUMBERS = 2**28
"""Largest number of pixels or other numbers in these samples; 1 GiB in float32."""


def suggest(
    data: Annotated[Positional[str], arg(metavar="DATA")],
    *,
    size: str | None = None,
    held_out: str | None = None,
    budget: int | None = None,
    sigma_min: float | None = None,
    settings: options.Settings = (),
) -> None:
    """Print the noise levels, the number of steps and the step size for a data set, with reasons.

    Options of the data are those of `train`, as in --data.options.skip=true.

    Args:
        data: a data set's name, a folder of images, an .npy, .npz, .h5, .csv, .tsv or .parquet
            file.
        size: side that images are scaled to, or HEIGHT,WIDTH, the same as --data.options.size.
        held_out: share of the samples to hold out, or a folder of images, as in `train`.
        budget: number of score evaluations that a chain may take.
        sigma_min: the smallest noise level, instead of the suggested one.
        settings: an option of the data and its value in YAML; may be repeated.
    """
    options.check_options(budget=budget)
    from .. import ladder
    from ..data import all_samples, load_data

    named = {"size": size, "held_out": held_out}
    own = [f"data.options.{name}={value}" for name, value in named.items() if value is not None]
    source = load_data(data, **options.data_options([*settings, *own]))
    for notice in source.notices:
        say(notice)
    numbers, shape = source.train.shape.numel(), " × ".join(map(str, source.train.shape))
    if 2 * numbers > MAX_SAMPLE_NUMBERS:
        raise ValueError(f"{data}: two samples of {shape} numbers are too many: give a --size")
    x = all_samples(source.train, min(MAX_SAMPLES, MAX_SAMPLE_NUMBERS // numbers))
    suggestion = ladder.suggest(x, budget=budget, sigma_min=sigma_min)
    sigmas = suggestion.sigmas
    about = f"{len(source.train)} samples of {shape}"
    about += f" in {describe_classes(source.classes)}" if source.classes else ""
    say(f"{source.name}: {about}; the suggestion uses {len(x)} of them\n")
    say(str(suggestion))
    print(
        f"\nin Python: annealed_langevin(score, x, geometric({sigmas[0].item():.4g}, "
        f"{sigmas[-1].item():.4g}, {len(sigmas)}), steps={suggestion.steps}, "
        f"epsilon={suggestion.epsilon:.4g})"
    )
