"""The authors' NCSN and NCSNv2 checkpoints as ours.

They save `[model_state, optimizer_state]` (NCSN) and `[model_state, optimizer_state, epoch, step,
ema_state]` (NCSNv2, whose samples are drawn with the averaged weights), the names under `module.`,
where DataParallel put them. Only the ladder of an NCSN is not in the file.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from ..model import ScoreModel
from ..nn import DEPTHS, Depth, RefineNet
from ..noise import geometric
from ..precondition import NCSN, NCSNv2
from .shared import (
    Report,
    State,
    checked,
    ends,
    names,
    plain,
    raw_state,
    uniform_prior,
)
from .shared import image_size as checked_size

STAGES: dict[Depth, tuple[str, ...]] = {
    "original": ("1", "2", "3", "4"),
    "deeper": ("1", "2", "3", "4", "5"),
    "deepest": ("1", "2", "3", "31", "4", "5"),
}
"""Their numbers for the stages of `DEPTHS`; 31 came later, between 3 and 4."""

REFINEMENTS: dict[Depth, tuple[str, ...]] = {
    "original": ("1", "2", "3", "4"),
    "deeper": ("1", "2", "3", "4", "5"),
    "deepest": ("1", "2", "31", "3", "4", "5"),
}

SIZES: dict[Depth, int] = {"original": 32, "deeper": 64, "deepest": 256}
"""The papers' image sizes, if none is given; the original's is 28 for one channel."""

RENAMED = (
    (r"^begin_conv\.", "begin."),
    (r"^normalizer\.", "end.norm."),
    (r"^end_conv\.", "end.conv."),
    # the convolution of one that is followed by a mean
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
"""Their names, part by part; `res` and `refine` are numbered by the tables above."""

OPTIONS = ("ema", "image_size", "sigma_max", "sigma_min")
"""What the file may not tell."""


def recognises(checkpoint: object) -> bool:
    """Whether this is the checkpoint of an NCSN or NCSNv2."""
    return "begin_conv.weight" in names(checkpoint)


def averaged_state(checkpoint: object) -> dict[str, Tensor] | None:
    """The exponential moving average, the last of five entries, with the ladder it leaves out."""
    if not isinstance(checkpoint, (list, tuple)) or len(checkpoint) < 5:
        return None
    return {**_buffers(raw_state(checkpoint)), **plain(checkpoint[4])}


def build(
    checkpoint: object,
    *,
    ema: bool = True,
    sigma_max: float | None = None,
    sigma_min: float | None = None,
    image_size: int | None = None,
    report: Report,
) -> ScoreModel:
    """The model of a checkpoint.

    Args:
        checkpoint: as loaded.
        ema: take the averaged weights, if there are any.
        sigma_max: first level, if the file has no ladder; the papers' 1 (NCSN) or 50 (NCSNv2).
        sigma_min: last level; the papers' 0.01.
        image_size: pixels a side; the papers' 28 or 32 (original), 64 (deeper), 256 (deepest).
        report: told what is read off the tensors and what is assumed.
    """
    averaged = averaged_state(checkpoint) if ema else None
    state = raw_state(checkpoint) if averaged is None else averaged
    report(f"inferred: weights {'as trained' if averaged is None else 'averaged (EMA)'}")
    sigmas = state.pop("sigmas", None)
    depth, net = _network(state, report)
    load(net, state, depth)
    size = _size(state, depth, image_size, report)
    precondition = _precondition(state, sigmas, sigma_max, sigma_min, report)
    return ScoreModel(net, precondition, prior=uniform_prior(_channels(state), size, report))


def _size(state: State, depth: Depth, given: int | None, report: Report) -> int:
    if given is not None:
        return checked_size(given)
    size = 28 if depth == "original" and _channels(state) == 1 else SIZES[depth]
    report(f"assumed: images of {size} × {size} pixels (image_size)")
    return size


def load(net: RefineNet, state: State, depth: Depth) -> None:
    """Give a network the weights of theirs, each used once."""
    renamed = rename(state, depth)
    ours = net.state_dict()
    missing, extra = sorted(ours.keys() - renamed.keys()), sorted(renamed.keys() - ours.keys())
    wrong = [
        f"{name} {tuple(renamed[name].shape)} for {tuple(ours[name].shape)}"
        for name in ours.keys() & renamed.keys()
        if ours[name].shape != renamed[name].shape
    ]
    if missing or extra or wrong:
        raise ValueError(
            f"not the weights of a RefineNet of depth {depth!r}: missing {missing}, "
            f"unknown {extra}, of another shape {sorted(wrong)} (names after conversion)"
        )
    net.load_state_dict(renamed)


def rename(state: State, depth: Depth) -> dict[str, Tensor]:
    """Their weights under our names; γ, α, β of a norm become one table."""
    renamed: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        ours = _rename(name, depth)
        norm, _, part = ours.rpartition(".")
        if part in ("gamma", "alpha", "beta"):
            parts.setdefault(norm, {})[part] = value
        elif ours.endswith(".norm.embed.weight"):
            renamed[ours.replace("embed.weight", "affine")] = _table(name, value)
        elif ours in renamed:
            raise ValueError(f"{name} and another key both mean {ours}")
        else:
            renamed[ours] = value
    for norm, found in parts.items():
        if len(found) < 3:
            raise ValueError(f"{norm} has only {sorted(found)} of gamma, alpha and beta")
        if len(shapes := {tuple(value.shape) for value in found.values()}) > 1:
            raise ValueError(f"gamma, alpha and beta of {norm} have the shapes {sorted(shapes)}")
        table = torch.stack([found["gamma"], found["alpha"], found["beta"]])
        renamed[f"{norm}.affine"] = table[None]
    return renamed


def _table(name: str, value: Tensor) -> Tensor:
    """One row a level, of γ, α, β in this order."""
    if checked(name, value, ndim=2).shape[1] % 3:
        raise ValueError(f"{name} has the shape {tuple(value.shape)}: 3 does not divide its rows")
    return value.reshape(len(value), 3, -1)


def _rename(name: str, depth: Depth) -> str:
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    found = re.match(r"(res|refine)(\d+)\.(.*)", name)
    if found is None:
        return name
    kind, number, rest = found.groups()
    tables = {"res": ("encoder", STAGES), "refine": ("decoder", REFINEMENTS)}
    place, table = tables[kind]
    # a stage the depth does not have keeps its name, to be named when it is found unknown
    return f"{place}.{table[depth].index(number)}.{rest}" if number in table[depth] else name


def _network(state: State, report: Report) -> tuple[Depth, RefineNet]:
    stages = {found[1] for name in state if (found := re.match(r"res(\d+)\.", name))}
    depth: Depth = "deepest" if "31" in stages else "deeper" if "5" in stages else "original"
    table = state.get("normalizer.embed.weight")
    levels = None if table is None else len(checked("normalizer.embed.weight", table, ndim=2))
    channels, width = _channels(state), len(state["begin_conv.weight"])
    report(
        f"inferred: {'NCSNv2' if levels is None else f'NCSN of {levels} levels'}, depth {depth!r} "
        f"({len(DEPTHS[depth])} stages), width {width}, {channels} channels"
    )
    return depth, RefineNet(channels, width, levels, depth=depth)


def _channels(state: State) -> int:
    return checked("begin_conv.weight", state["begin_conv.weight"], ndim=4).shape[1]


def _precondition(
    state: State,
    sigmas: Tensor | None,
    sigma_max: float | None,
    sigma_min: float | None,
    report: Report,
) -> NCSN | NCSNv2:
    table = state.get("normalizer.embed.weight")
    published = (50.0 if table is None else 1.0, 0.01)
    first, last = ends(sigmas, sigma_max, sigma_min, published, report)
    if table is None:
        return NCSNv2(first, last)
    if sigmas is not None and len(sigmas) != len(table):
        raise ValueError(
            f"sigmas has {len(sigmas)} levels, but normalizer.embed.weight a table of "
            f"{len(table)}: the checkpoint is damaged, or put together from two"
        )
    return NCSN(geometric(first, last, len(table)) if sigmas is None else sigmas)


def _buffers(state: State) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name == "sigmas"}
