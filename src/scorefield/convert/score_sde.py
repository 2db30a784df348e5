"""The checkpoints of score_sde_pytorch as ours (Song et al. 2021).

Its networks are told the noise in four ways, and what the tensors show leaves these rows:

    embedding       told      sde, continuous           row, for images in [0, 1]
    Fourier         log σ     ve, True                  VE of 2x − 1
    sinusoidal      index     ve, False                 VEDiscrete of 2x − 1
                    999·t     vp or subvp, True         VP or SubVP, rescaled from [−1, 1]
                    timestep  vp, False                 VPDiscrete, rescaled from [−1, 1]

For VE the data, and so σ, are in [0, 1], and only what the network sees is 2x − 1; for the others
the data are in [−1, 1]. The stored `sigmas` are a VE's ladder; a VP's β is in no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..model import ScoreModel
from ..noise import geometric
from ..precondition import (
    VE,
    VP,
    Precondition,
    Rescaled,
    SubVP,
    VEDiscrete,
    VPDiscrete,
    ddpm_sigmas,
)
from .score_sde_network import Converted, convert
from .score_sde_units import UNIT
from .shared import Report, checked, ends, names, uniform_prior
from .shared import image_size as checked_size

SDES = ("ve", "vp", "subvp")
RANGES = {"sigma_max": "ve", "sigma_min": "ve", "beta_min": "vp", "beta_max": "vp"}
"""Which options are the range of a VE's noise, and which that of the others'."""

OPTIONS = (
    *("ema", "sde", "continuous", "image_size", *RANGES),
    *("dropout", "fir", "groups", "skip_rescale"),
)
"""What the file may not tell; the last four are `convert`'s."""


def recognises(checkpoint: object) -> bool:
    """Whether this is one of their checkpoints."""
    return any(UNIT.fullmatch(name) for name in names(checkpoint))


def build(
    checkpoint: object,
    *,
    report: Report,
    ema: bool = True,
    sde: str | None = None,
    continuous: bool | None = None,
    image_size: int | None = None,
    sigma_max: float | None = None,
    sigma_min: float | None = None,
    beta_min: float | None = None,
    beta_max: float | None = None,
    **network: Any,
) -> ScoreModel:
    """The model of a checkpoint.

    Args:
        checkpoint: as loaded.
        report: told what is read off the tensors and what is assumed.
        ema: take the averaged weights, if there are any.
        sde: "ve", "vp" or "subvp"; that of the published model with such a network.
        continuous: whether it was trained at all times, or at 1,000 (or as many as are stored).
        image_size: pixels a side; where the network's first attention is at 16 pixels, or 32.
        sigma_max: largest σ of a VE, if the file has no ladder; CIFAR-10's 50.
        sigma_min: smallest; 0.01.
        beta_min: β(0) of a VP or sub-VP; 0.1.
        beta_max: β(1); 20.
        network: options of `score_sde_network.convert`.
    """
    averaged = ema and isinstance(checkpoint, Mapping) and "ema" in checkpoint
    converted = convert(checkpoint, ema=averaged, **network)
    report(f"inferred: weights {'averaged (EMA)' if averaged else 'as trained'}")
    _describe(converted, report)
    sde, continuous = _process(converted.arguments, sde, continuous, report)
    given = dict(sigma_max=sigma_max, sigma_min=sigma_min, beta_min=beta_min, beta_max=beta_max)
    _check_range(sde, given)
    if sde == "ve":
        row = _exploding(converted.sigmas, continuous, sigma_max, sigma_min, report)
    else:
        row = _preserving(converted.sigmas, sde, continuous, beta_min, beta_max, report)
    size = _size(converted.arguments, image_size, report)
    prior = uniform_prior(converted.arguments["channels"], size, report)
    return ScoreModel(converted.build(), row, prior=prior)


def _describe(converted: Converted, report: Report) -> None:
    seen = converted.arguments
    name = {"fourier": "NCSN++", "sinusoidal": "DDPM++"}[seen["embedding"]]
    name = "NCSN++" if _progressive(seen) else "DDPM" if seen["form"] == "ddpm" else name
    report(
        f"inferred: {name}, {seen['embedding']} embedding, width {seen['width']} times "
        f"{seen['multipliers']}, {seen['blocks']} blocks a level, attention on levels "
        f"{seen['attention']}, {seen['channels']} channels"
    )
    if converted.step is not None:
        report(f"inferred: training step {converted.step}")
    for option in converted.assumed:
        value = seen[option] is not None if option == "fir" else seen[option]
        report(f"assumed: {option} = {value} ({option})")


def _progressive(seen: Mapping[str, Any]) -> bool:
    return {seen["progressive_input"], seen["progressive_output"]} != {"none"}


def _process(
    seen: Mapping[str, Any], sde: str | None, continuous: bool | None, report: Report
) -> tuple[str, bool]:
    """The SDE and whether its time is continuous, of those that fit the embedding."""
    if sde not in (None, *SDES):
        raise ValueError(f"sde={sde!r}: give one of {', '.join(SDES)}")
    modern = seen["form"] == "biggan"
    # the first is that of the published models
    fitting = [("vp", modern), ("vp", not modern), ("subvp", True), ("ve", False)]
    if seen["embedding"] == "fourier":
        fitting = [("ve", True)]
    elif _progressive(seen):
        fitting.insert(0, fitting.pop())
    left = [(s, c) for s, c in fitting if sde in (None, s) and continuous in (None, c)]
    if not left:
        choices = " or ".join(f"sde={s!r} with continuous={c}" for s, c in fitting)
        raise ValueError(
            f"sde={sde!r} with continuous={continuous} does not fit a network with a "
            f"{seen['embedding']} embedding: that has {choices}"
        )
    source = "assumed" if left[1:] else "inferred" if len(fitting) == 1 else "given"
    found = left[0]
    report(f"{source}: sde {found[0]!r}, continuous {found[1]} (sde, continuous)")
    return found


def _check_range(sde: str, given: Mapping[str, float | None]) -> None:
    kind = "ve" if sde == "ve" else "vp"
    for option, value in given.items():
        if value is not None and RANGES[option] != kind:
            own = " and ".join(o for o, k in RANGES.items() if k == kind)
            raise ValueError(f"{option}={value}: the noise of sde={sde!r} is set by {own}")


def _exploding(
    ladder: Tensor | None,
    continuous: bool,
    sigma_max: float | None,
    sigma_min: float | None,
    report: Report,
) -> Precondition:
    first, last = ends(ladder, sigma_max, sigma_min, (50.0, 0.01), report)
    if continuous:
        return VE(first, last, centre=0.5, scale=2.0)
    sigmas = geometric(first, last, 1000) if ladder is None else ladder
    report(f"{'assumed' if ladder is None else 'inferred'}: {len(sigmas)} levels")
    return VEDiscrete(sigmas, centre=0.5, scale=2.0)


def _preserving(
    ladder: Tensor | None,
    sde: str,
    continuous: bool,
    beta_min: float | None,
    beta_max: float | None,
    report: Report,
) -> Precondition:
    source = "assumed" if None in (beta_min, beta_max) else "given"
    low, high = 0.1 if beta_min is None else beta_min, 20.0 if beta_max is None else beta_max
    if not 0 < low < high:
        raise ValueError(f"β from {low:.4g} to {high:.4g}: give beta_max > beta_min > 0")
    report(f"{source}: β from {low:.4g} to {high:.4g} (beta_min, beta_max)")
    if continuous:
        return Rescaled(VP(low, high) if sde == "vp" else SubVP(low, high))
    # the ladder itself is idle, but as long
    steps = 1000 if ladder is None else len(checked("sigmas", ladder, ndim=1))
    report(f"{'assumed' if ladder is None else 'inferred'}: {steps} timesteps")
    return Rescaled(VPDiscrete(ddpm_sigmas(low, high, steps)))


def _size(seen: Mapping[str, Any], given: int | None, report: Report) -> int:
    """Pixels a side: the published networks attend first where the image has 16."""
    given = None if given is None else checked_size(given)
    size = (16 << min(seen["attention"]) if seen["attention"] else 32) if given is None else given
    multiple = 1 << (len(seen["multipliers"]) - 1)
    if size % multiple:
        raise ValueError(
            f"image_size={size}: give a multiple of {multiple}, for the network halves it"
        )
    if given is None:
        report(f"assumed: images of {size} × {size} pixels (image_size)")
    return size
