"""Checkpoints of score_sde_pytorch (Song et al. 2021).

Its networks are conditioned on the noise in four ways, which the tensors do not fully determine:

    embedding       input     sde, continuous           row, for images in [0, 1]
    Fourier         log σ     ve, True                  VE of 2x − 1
    sinusoidal      index     ve, False                 VEDiscrete of 2x − 1
                    999·t     vp or subvp, True         VP or SubVP, rescaled from [−1, 1]
                    timestep  vp, False                 VPDiscrete, rescaled from [−1, 1]

For VE the data, and so σ, are in [0, 1], and only the network's input is 2x − 1; for the others
the data are in [−1, 1]. The stored `sigmas` are a VE's ladder; the β of a VP is in no file.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..model import ScoreModel
from ..noise import geometric
from ..precondition import VE, VP, Precondition, SubVP, VEDiscrete, VPDiscrete, ddpm_sigmas
from .score_sde_network import average_weights, build_unet, is_progressive
from .shared import (
    Range,
    Report,
    check_tensor,
    choose_range,
    choose_sigmas,
    choose_size,
    read_weights,
    uniform_prior,
)

SDES = ("ve", "vp", "subvp")


def build_score_sde(
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
    fir: bool | None = None,
    skip_rescale: bool | None = None,
    groups: int | None = None,
    dropout: float | None = None,
) -> ScoreModel:
    """Build the model of a checkpoint, with published values where none is given.

    They are the SDE and time of the published model with such a network, 1,000 levels, σ from 50 to
    0.01, β from 0.1 to 20, and images with 16 pixels a side at the first attention, or 32. See
    `build_unet` for the others.
    """
    around = checkpoint if isinstance(checkpoint, Mapping) else {}
    weights, averaged = read_weights(checkpoint), ema and "ema" in around
    ladder = weights.pop("sigmas", None)
    report(f"inferred: weights {'averaged (EMA)' if averaged else 'as trained'}")
    if "step" in around:
        report(f"inferred: training step {around['step']}")
    if averaged:
        weights = average_weights(around["ema"], weights)
    options = {"fir": fir, "skip_rescale": skip_rescale, "groups": groups, "dropout": dropout}
    net = build_unet(weights, report=report, **options)
    arguments = net.arguments
    sde, continuous = _choose_sde(arguments, sde, continuous, report)
    sigma, beta = (sigma_max, sigma_min), (beta_max, beta_min)
    row = _precondition(ladder, sde, continuous, sigma, beta, report)
    # the published networks attend first where the image has 16 pixels
    side = 16 << min(arguments["attention"]) if arguments["attention"] else 32
    multiple = 1 << (len(arguments["multipliers"]) - 1)
    size = choose_size(image_size, side, report, multiple=multiple)
    prior = uniform_prior((arguments["channels"], *size), report)
    return ScoreModel(net, row, prior=prior)


def _choose_sde(
    arguments: Mapping[str, Any], sde: str | None, continuous: bool | None, report: Report
) -> tuple[str, bool]:
    """Return the SDE and whether its time is continuous, among those that fit the embedding."""
    if sde not in (None, *SDES):
        raise ValueError(f"sde={sde!r}: give one of {', '.join(SDES)}")
    modern = arguments["form"] == "biggan"
    # the first one is that of the published models
    fitting = [("vp", modern), ("vp", not modern), ("subvp", True), ("ve", False)]
    if arguments["embedding"] == "fourier":
        fitting = [("ve", True)]
    elif is_progressive(arguments):
        fitting.insert(0, fitting.pop())
    left = [(s, c) for s, c in fitting if sde in (None, s) and continuous in (None, c)]
    if not left:
        choices = " or ".join(f"sde={s!r} with continuous={c}" for s, c in fitting)
        raise ValueError(
            f"sde={sde!r} with continuous={continuous} does not fit a network with a "
            f"{arguments['embedding']} embedding, which has {choices}"
        )
    source = "assumed" if left[1:] else "inferred" if len(fitting) == 1 else "given"
    report(f"{source}: sde = {left[0][0]}, continuous = {left[0][1]}")
    return left[0]


def _precondition(
    ladder: Tensor | None, sde: str, continuous: bool, sigma: Range, beta: Range, report: Report
) -> Precondition:
    own, other, foreign = ("sigma", "beta", beta) if sde == "ve" else ("beta", "sigma", sigma)
    for end, value in zip(("max", "min"), foreign, strict=True):
        if value is not None:
            raise ValueError(
                f"{other}_{end}={value}: the noise of sde={sde!r} is set by {own}_min and {own}_max"
            )
    count = 1000 if ladder is None else len(check_tensor("sigmas", ladder, ndim=1))
    if not continuous:
        report(f"{'assumed' if ladder is None else 'inferred'}: {count} noise levels")
    if sde == "ve":
        first, last = choose_sigmas(ladder, sigma, (50.0, 0.01), report)
        if continuous:
            return VE(first, last, centre=0.5)
        sigmas = geometric(first, last, count) if ladder is None else ladder
        return VEDiscrete(sigmas, centre=0.5)
    high, low = choose_range("beta", beta, (20.0, 0.1), report)
    if continuous:
        return (VP if sde == "vp" else SubVP)(low, high).rescale()
    return VPDiscrete(ddpm_sigmas(low, high, count)).rescale()  # of the ladder only its length
