"""Checkpoints of EDM's training program (Karras et al. 2022): a pickle of the averaged network.

    preconditioner   F is           input for the noise   row, for images in [0, 1]
    EDMPrecond       the mixture    ¼ log σ               EDM, rescaled from [−1, 1]
    VPPrecond        the noise      999·t(σ)              VP, rescaled from [−1, 1]
    VEPrecond        σ·score        log(σ/2)              VE of 2x − 1

The pickle describes each module by its class, its attributes, its parameters and the modules in it.
The networks are SongUNet, the DDPM++ and NCSN++ of Song et al. 2021, and DhariwalUNet, which is the
ADM of Dhariwal & Nichol 2021. `edm_network` reads them.
"""

from typing import Any

from ..model import ScoreModel
from ..precondition import EDM, VE, VP, Precondition
from .edm_network import EDMModule, build_edm_network, read_module
from .shared import Range, Report, choose_range, choose_size, uniform_prior

SIGMA_ENDS = (80.0, 0.002)
"""Largest and smallest σ at which the paper samples, for images in [−1, 1] (table 1)."""
MAX_STORED_NUMBERS = 3 * 1024**2
"""Largest image that is believed without `image_size`, in numbers."""


def build_edm(
    checkpoint: Any,
    *,
    report: Report,
    image_size: int | tuple[int, int] | None = None,
    sigma_max: float | None = None,
    sigma_min: float | None = None,
) -> ScoreModel:
    """Build the model of a checkpoint; all but the range of σ of an EDMPrecond is in the file.

    The paper's range is 80 to 0.002 in [−1, 1], which is 40 to 0.001 in [0, 1].
    """
    outer = read_module(checkpoint["ema"], "ema")
    report("inferred: weights averaged (EMA)")
    row = _read_row(outer, (sigma_max, sigma_min), report)
    net = build_edm_network(outer.part("model"), report)
    multiple = 1 << (len(net.arguments["multipliers"]) - 1)
    stored = outer.fact("img_resolution", int)
    if image_size is None:
        if net.arguments["channels"] * stored**2 > MAX_STORED_NUMBERS:
            raise ValueError(f"img_resolution is {stored}: if that is true, give image_size")
        report(f"inferred: image_size = {stored}")
    size = choose_size(stored if image_size is None else image_size, 0, report, multiple=multiple)
    prior = uniform_prior((net.arguments["channels"], *size), report)
    return ScoreModel(net, row, prior=prior)


def _read_row(outer: EDMModule, sigma: Range, report: Report) -> Precondition:
    """Return the row of the preconditioner's class and attributes."""
    report(f"inferred: preconditioned by {outer.kind}, for images in [−1, 1]")
    if outer.kind == "EDMPrecond":
        high, low = choose_range("sigma", sigma, (SIGMA_ENDS[0] / 2, SIGMA_ENDS[1] / 2), report)
        return EDM(outer.fact("sigma_data", float), 2 * high, 2 * low).rescale()
    if outer.kind == "VEPrecond":
        ends = outer.fact("sigma_max", float) / 2, outer.fact("sigma_min", float) / 2
        return VE(*choose_range("sigma", sigma, ends, report, "inferred"), centre=0.5)
    if outer.kind != "VPPrecond":
        raise ValueError(
            f"the network is preconditioned by {outer.kind:.80}: supported are EDMPrecond, "
            "VPPrecond and VEPrecond"
        )
    if sigma != (None, None):
        raise ValueError(f"sigma_max, sigma_min={sigma}: leave them out, β in the file sets them")
    low, rise, steps = (outer.fact(name, float) for name in ("beta_min", "beta_d", "M"))
    if steps != 1000:
        raise ValueError(f"M is {steps:g}: supported are the 1000 time steps of the paper")
    high, low = choose_range("beta", (None, None), (low + rise, low), report, "inferred")
    return VP(low, high).rescale()
