"""`scorefield suggest`: the noise levels that a data set needs."""

from typing import Annotated

from tyro.conf import Positional, arg

from . import options

MAX_SAMPLES = 5000
"""Largest number of samples that the suggestion uses."""


def suggest(
    data: Annotated[Positional[str], arg(metavar="DATA")],
    *,
    size: int | None = None,
    signals: bool = False,
    budget: int | None = None,
    sigma_min: float | None = None,
) -> None:
    """Print the noise levels, the number of steps and the step size for a data set, with reasons.

    Args:
        data: a data set's name, a folder of images, an .npy, .npz, .csv or .tsv file.
        size: side that images are scaled to, if a folder's images differ in size.
        signals: the file holds signals, (n, channels, length) or (n, length).
        budget: number of score evaluations that a chain may take.
        sigma_min: the smallest noise level, instead of the suggested one.
    """
    options.check_options(size=size, budget=budget)
    from .. import ladder
    from ..data import all_samples, load_data

    size_option = {} if size is None else {"size": size}
    source = load_data(data, **size_option, **({"signals": True} if signals else {}))
    print(*source.notices, sep="\n", end="\n" * bool(source.notices))
    x = all_samples(source.train, MAX_SAMPLES)
    suggestion = ladder.suggest(x, budget=budget, sigma_min=sigma_min)
    sigmas, shape = suggestion.sigmas, " × ".join(map(str, source.train.shape))
    about = f"{len(source.train)} samples of {shape}"
    print(f"{source.name}: {about}; the suggestion uses {len(x)} of them\n")
    print(suggestion)
    print(
        f"\nin Python: annealed_langevin(score, x, geometric({sigmas[0].item():.4g}, "
        f"{sigmas[-1].item():.4g}, {len(sigmas)}), steps={suggestion.steps}, "
        f"epsilon={suggestion.epsilon:.4g})"
    )
