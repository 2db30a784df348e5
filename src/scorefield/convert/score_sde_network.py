"""The networks in score_sde_pytorch's checkpoints: NCSN++, DDPM++ and DDPM (Song et al. 2021).

A checkpoint contains `model`, a flat list of modules (`module.all_modules.7.Conv_0.weight`), and
`ema`, the averaged parameters in the same order without names. The list has the grammar

    [fourier] linear linear conv  (block [attention])... shrink [join] ...  block attention block

in which names and shapes of the tensors tell the modules apart. Widths, levels, attention, the form
of the blocks and the progressive paths follow from it. Properties that no tensor shows are options
with published defaults.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from torch import Tensor

from ..nn.unet import FIR, UNet
from .score_sde_modules import LADDER_KEY, NumberedModule, infer_arguments, numbered_modules
from .shared import Weights, check_tensor, fit_weights, named_weights

PART_NAMES = {
    "fourier": {"W": "frequencies"},
    "block": {"GroupNorm_0": "norm_in", "Conv_0": "conv_in", "Dense_0": "shift"}
    | {"GroupNorm_1": "norm_out", "Conv_1": "conv_out"}
    | {"Conv_2": "shortcut", "NIN_0": "shortcut"},
    "attention": {"GroupNorm_0": "norm", "NIN_3": "out"}
    | {"NIN_0": "query", "NIN_1": "key", "NIN_2": "value"},
    "resample": {"Conv_0": "conv", "Conv2d_0": "conv"},
    "combine": {"Conv_0": "conv"},
}
"""For each kind of module, the official name of a part and ours."""


@dataclass(frozen=True)
class ConvertedNetwork:
    """A checkpoint's network in our terms.

    Attributes:
        arguments: arguments of `UNet`.
        state: the network's tensors.
        sigmas: the stored ladder, from the largest σ; None if there is none.
        step: the training step, if it is stored.
        assumed: names of the arguments that no tensor shows.
    """

    arguments: dict[str, Any]
    state: dict[str, Tensor]
    sigmas: Tensor | None
    step: int | None
    assumed: tuple[str, ...]


def convert_network(
    checkpoint: object,
    *,
    ema: bool = True,
    fir: bool | None = None,
    skip_rescale: bool | None = None,
    groups: int | None = None,
    dropout: float | None = None,
) -> ConvertedNetwork:
    """Translate a checkpoint, or its `model` alone; with `ema`, with the averaged weights.

    What no tensor shows is assumed where it is not given. `fir`, the filter (1, 3, 3, 1) in changes
    of size: for NCSN++, which has Fourier features or a progressive path. `skip_rescale`, the
    division of sums of two branches by √2: for BigGAN's blocks. `groups` of all normalisations: 32
    for DDPM, else min(channels/4, 32). `dropout`: 0.1, and 0 with a progressive output.
    """
    around = checkpoint if isinstance(checkpoint, Mapping) else {}
    weights = named_weights(checkpoint)
    modules, ladder = numbered_modules(weights)
    inferred = infer_arguments(modules)
    options = dict(fir=fir, skip_rescale=skip_rescale, groups=groups, dropout=dropout)
    options = {name: value for name, value in options.items() if value is not None}
    for name in options.keys() & inferred.keys():
        if options[name] != inferred[name]:
            raise ValueError(f"{name}={options[name]}: the tensors show {inferred[name]}")
    if groups is not None and groups < 1:
        raise ValueError(f"groups={groups}: give the groups of the normalisations, 1 or more")
    published = _published_options(inferred)
    arguments = published | options | inferred
    arguments["fir"] = FIR if arguments["fir"] else None
    if ema:
        modules, _ = numbered_modules(_average(around, weights))
    state = fit_weights(
        lambda: UNet(**arguments), _translate_unet(arguments, modules), "score_sde UNet"
    )
    assumed = published.keys() - options.keys() - inferred.keys()
    return ConvertedNetwork(arguments, state, ladder, around.get("step"), tuple(sorted(assumed)))


def is_progressive(arguments: Mapping[str, Any]) -> bool:
    """Return True if the image enters or leaves the network at several levels."""
    return {arguments["progressive_input"], arguments["progressive_output"]} != {"none"}


def _average(checkpoint: Mapping[str, Any], weights: Weights) -> dict[str, Tensor]:
    """Return the weights with averaged parameters, which are stored by order alone."""
    if "ema" not in checkpoint:
        raise ValueError("the checkpoint has no averaged weights: take the raw ones by ema=False")
    ema = checkpoint["ema"]
    averages = ema.get("shadow_params") if isinstance(ema, Mapping) else None
    if not isinstance(averages, list) or not all(isinstance(v, Tensor) for v in averages):
        raise ValueError("the checkpoint's ema has no list of tensors under shadow_params")
    names = [key for key in weights if key != LADDER_KEY]
    if len(averages) < len(names):  # the frequencies are not trained, and not averaged
        names = [key for key in names if not key.endswith(".W") or ".NIN_" in key]
    if [v.shape for v in averages] != [weights[key].shape for key in names]:
        raise ValueError(
            f"{len(averages)} averaged tensors do not fit the {len(names)} of the model"
        )
    pairs = zip(names, averages, strict=True)
    return {**weights, **{key: check_tensor(f"the average of {key}", v) for key, v in pairs}}


def _published_options(inferred: Mapping[str, Any]) -> dict[str, Any]:
    """Return the published values of what no tensor shows, for a network like this."""
    ddpm, paths = inferred["form"] == "ddpm", is_progressive(inferred)
    return {
        "fir": inferred["embedding"] == "fourier" or paths,
        "skip_rescale": not ddpm,
        "groups": 32 if ddpm and not paths else None,
        "dropout": 0.1 if inferred["progressive_output"] == "none" else 0.0,
    }


def _layout(arguments: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the kind of each module, in the official order, and our name for it."""
    enters, leaves = arguments["progressive_input"], arguments["progressive_output"]
    attention, last = arguments["attention"], len(arguments["multipliers"]) - 1
    resize = "resample" if arguments["form"] == "ddpm" else "block"
    if arguments["embedding"] == "fourier":
        yield "fourier", "embedding.features"
    yield from (("linear", "embedding.hidden"), ("linear", "embedding.out"), ("conv", "stem"))
    for level in range(last + 1):
        down = f"down.{level}"
        for i in range(arguments["blocks"]):
            yield "block", f"{down}.blocks.{i}"
            if level in attention:
                yield "attention", f"{down}.attentions.{i}"
        if level < last:
            yield resize, f"{down}.shrink"
            if enters == "skip":
                yield "combine", f"{down}.join"
            elif enters == "residual":
                yield "resample", f"{down}.join.shrink"
    yield from (("block", "middle.0"), ("attention", "middle.1"), ("block", "middle.2"))
    for level in reversed(range(last + 1)):
        up = f"up.{last - level}"
        for i in range(arguments["blocks"] + 1):
            yield "block", f"{up}.blocks.{i}"
        if level in attention:
            yield "attention", f"{up}.attention"
        if leaves == "residual" and level < last:
            yield "resample", f"{up}.output.grow"
        elif leaves != "none":
            head = f"{up}.output.{'head' if leaves == 'skip' else 'start'}"
            yield from (("norm", f"{head}.norm"), ("conv", f"{head}.conv"))
        if level > 0:
            yield resize, f"{up}.grow"
    if leaves != "skip":
        yield from (("norm", "head.norm"), ("conv", "head.conv"))


def _translate_unet(
    arguments: dict[str, Any], modules: list[NumberedModule]
) -> Iterator[tuple[str, str, Tensor]]:
    """Yield their name, our name and the tensor, module by module."""
    for module, place in zip_longest(modules, _layout(arguments)):
        kind, ours = place or ("module", "nothing")
        if module is None:
            raise ValueError(f"the checkpoint ends before the {kind} that is {ours} of {arguments}")
        if module.kind != kind:
            raise ValueError(f"{module.keys} are not the {kind} that is {ours} of {arguments}")
        for theirs in module.tensors:
            name, tensor = _translate_tensor(module, theirs)
            yield f"all_modules.{module.number}.{theirs}", f"{ours}.{name}", tensor


def _translate_tensor(module: NumberedModule, theirs: str) -> tuple[str, Tensor]:
    """Return our name of a tensor within its module, and the tensor in our layout."""
    part, _, leaf = theirs.partition(".")
    tensor, names = module.tensors[theirs], PART_NAMES.get(module.kind, {})
    if not leaf:
        return names.get(part, theirs), tensor
    if leaf == "W":  # a linear map of channels, stored input first
        tensor = check_tensor(f"all_modules.{module.number}.{theirs}", tensor, ndim=2)
        tensor = tensor.T[:, :, None, None]
    return f"{names.get(part, part)}.{'weight' if leaf in ('W', 'weight') else 'bias'}", tensor
