"""Checkpoints of the official NCSN and NCSNv2 programs.

They are saved as `[model_state, optimizer_state]` (NCSN) and as `[model_state, optimizer_state,
epoch, step, ema_state]` (NCSNv2, whose samples use the averaged weights). DataParallel put
`module.` before the names. An NCSN's file does not contain its ladder.
"""

import re
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from ..model import ScoreModel
from ..nn import DEPTHS, Depth, RefineNet
from ..noise import geometric
from ..precondition import NCSN, NCSNv2, Precondition
from .shared import (
    Report,
    Weights,
    check_tensor,
    choose_sigmas,
    choose_size,
    load_network,
    read_weights,
    uniform_prior,
)

STAGES: dict[Depth, tuple[str, ...]] = {
    "original": ("1", "2", "3", "4"),
    "deeper": ("1", "2", "3", "4", "5"),
    "deepest": ("1", "2", "3", "31", "4", "5"),
}
"""Official numbers of the stages of `DEPTHS`; 31 was added later, between 3 and 4."""

REFINEMENTS: dict[Depth, tuple[str, ...]] = {**STAGES, "deepest": ("1", "2", "31", "3", "4", "5")}
"""Official numbers of the refinement blocks, from coarse to fine."""

IMAGE_SIDES: dict[Depth, int] = {"original": 32, "deeper": 64, "deepest": 256}
"""The papers' image sizes in pixels; 28 for the original depth with one channel."""

RENAMINGS = (
    (r"^begin_conv\.", "begin."),
    (r"^normalizer\.", "end.norm."),
    (r"^end_conv\.", "end.conv."),
    # the convolution of a module that also pools
    (r"(conv2|shortcut)\.conv\.", r"\1."),
    (r"\.normalize([12])\.", lambda m: f".units.{int(m[1]) - 1}.norm."),
    (r"^(res.*)\.conv([12])\.", lambda m: f"{m[1]}.units.{int(m[2]) - 1}.conv."),
    # block i of two convolutions, 1_1, 1_2, 2_1, ..., as one sequence
    (r"\.(\d)_([12])_(norm|conv)\.", lambda m: f".{2 * int(m[1]) + int(m[2]) - 3}.{m[3]}."),
    (r"\.adapt_convs\.", ".adapt."),
    (r"\.output_convs\.", ".smooth."),
    (r"\.msf\.(norm|conv)s\.(\d)\.", r".merge.\2.\1."),
    (r"\.crp\.(norm|conv)s\.(\d)\.", r".pools.\2.\1."),
)
"""Official names to ours, part by part; the tables above number `res` and `refine`."""


def build_ncsn(
    checkpoint: object,
    *,
    report: Report,
    ema: bool = True,
    sigma_max: float | None = None,
    sigma_min: float | None = None,
    image_size: int | None = None,
) -> ScoreModel:
    """Build the model of a checkpoint, with the papers' values where none is given.

    They are σ from 1 (NCSN) or 50 (NCSNv2) to 0.01, and images of 28 or 32 (original), 64 (deeper)
    or 256 (deepest) pixels a side.
    """
    weights = read_weights(checkpoint)
    sigmas = weights.pop("sigmas", None)
    entries = checkpoint if isinstance(checkpoint, (list, tuple)) else ()
    averaged = ema and len(entries) >= 5
    if averaged:
        weights = read_weights(entries[4])
        sigmas = weights.pop("sigmas", sigmas)  # a buffer, which the average may leave out
    report(f"inferred: weights {'averaged (EMA)' if averaged else 'as trained'}")
    net = _load_network(weights, report)
    channels, depth = net.arguments["channels"], net.arguments["depth"]
    side = 28 if depth == "original" and channels == 1 else IMAGE_SIDES[depth]
    shape = (channels, *choose_size(image_size, side, report))
    levels = net.arguments["levels"]
    published = (50.0 if levels is None else 1.0, 0.01)
    first, last = choose_sigmas(sigmas, (sigma_max, sigma_min), published, report)
    precondition: Precondition = NCSNv2(first, last)
    if levels is not None:
        ladder = geometric(first, last, levels) if sigmas is None else sigmas
        if len(ladder) != levels:
            raise ValueError(
                f"sigmas has {len(ladder)} levels, but normalizer.embed.weight a table of "
                f"{levels}: the checkpoint is damaged, or combines two"
            )
        precondition = NCSN(ladder)
    return ScoreModel(net, precondition, prior=uniform_prior(shape, report))


def _load_network(weights: Weights, report: Report) -> RefineNet:
    stages = {match[1] for name in weights if (match := re.match(r"res(\d+)\.", name))}
    depth: Depth = "deepest" if "31" in stages else "deeper" if "5" in stages else "original"
    table = weights.get("normalizer.embed.weight")
    levels = None if table is None else len(check_tensor("normalizer.embed.weight", table, 2))
    width, channels, *_ = check_tensor("begin_conv.weight", weights["begin_conv.weight"], 4).shape
    report(
        f"inferred: {'NCSNv2' if levels is None else f'NCSN of {levels} levels'}, depth {depth!r} "
        f"({len(DEPTHS[depth])} stages), width {width}, {channels} channels"
    )
    build = partial(RefineNet, channels, width, levels, depth=depth)
    translation = _translate_refinenet(weights, depth)
    return load_network(build, translation, f"RefineNet of depth {depth!r}")


def _translate_refinenet(weights: Weights, depth: Depth) -> Iterator[tuple[str, str, Tensor]]:
    """Yield their name, our name and the tensor; γ, α, β of a norm become one table."""
    norms: dict[str, dict[str, Tensor]] = {}
    for theirs, value in weights.items():
        ours = _our_name(theirs, depth)
        norm, _, part = ours.rpartition(".")
        if part in ("gamma", "alpha", "beta"):
            norms.setdefault(norm, {})[part] = value
        elif ours.endswith(".norm.embed.weight"):  # a row for each level: γ, α, β one after another
            if check_tensor(theirs, value, 2).shape[1] % 3:
                raise ValueError(f"{theirs} has the shape {tuple(value.shape)}: give 3 × n columns")
            yield theirs, ours.replace("embed.weight", "affine"), value.view(len(value), 3, -1)
        else:
            yield theirs, ours, value
    for norm, parts in norms.items():
        if len(parts) < 3:
            raise ValueError(f"{norm} has only {sorted(parts)} of gamma, alpha and beta")
        if len(shapes := {tuple(value.shape) for value in parts.values()}) > 1:
            raise ValueError(f"gamma, alpha and beta of {norm} have the shapes {sorted(shapes)}")
        table = torch.stack([parts["gamma"], parts["alpha"], parts["beta"]])
        yield f"gamma of {norm}", f"{norm}.affine", table[None]


def _our_name(name: str, depth: Depth) -> str:
    for pattern, replacement in RENAMINGS:
        name = re.sub(pattern, replacement, name)
    for kind, place, table in (("res", "encoder", STAGES), ("refine", "decoder", REFINEMENTS)):
        for i, number in enumerate(table[depth]):
            name = re.sub(rf"^{kind}{number}\.", f"{place}.{i}.", name)
    return name  # a stage that this depth does not have keeps its name, which is then reported
