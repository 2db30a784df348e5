"""The networks in score_sde_pytorch's checkpoints: NCSN++, DDPM++ and DDPM (Song et al. 2021).

A checkpoint contains `model`, a flat list of modules (`module.all_modules.7.Conv_0.weight`), and
`ema`, the averaged parameters in the same order without names. Properties that no tensor shows are
options with published defaults.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import zip_longest
from typing import Any

from torch import Tensor

from ..nn.unet import FIR, UNet
from .score_sde_modules import NumberedModule, infer_arguments, list_modules
from .shared import Report, Weights, check_tensor, load_network

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
LEAF_NAMES = {"W": "weight", "b": "bias"}


def build_unet(weights: Weights, *, report: Report, **options: bool | float | None) -> UNet:
    """Build the network of a checkpoint's tensors; what no tensor shows is an option, or assumed.

    Args:
        weights: the tensors by their official names, without the ladder.
        report: called with a line for each value inferred from the tensors, or assumed.
        options: `fir`, the filter (1, 3, 3, 1) in changes of size: for NCSN++, which has Fourier
            features or a progressive path. `skip_rescale`, the division of sums of two branches by
            √2: for BigGAN's blocks. `groups` of all normalisations: 32 for DDPM, else
            min(channels/4, 32). `dropout`: 0.1, and 0 with a progressive output.
    """
    modules = list_modules(weights)
    inferred = infer_arguments(modules)
    options = {name: value for name, value in options.items() if value is not None}
    for name in options.keys() & inferred.keys():
        if options[name] != inferred[name]:
            raise ValueError(f"{name}={options[name]}: the tensors show {inferred[name]}")
    ddpm, progressive = inferred["form"] == "ddpm", is_progressive(inferred)
    published = {
        "fir": inferred["embedding"] == "fourier" or progressive,
        "skip_rescale": not ddpm,
        "groups": 32 if ddpm and not progressive else None,
        "dropout": 0.1 if inferred["progressive_output"] == "none" else 0.0,
    }
    chosen = published | options | inferred
    arguments: dict[str, Any] = chosen | {"fir": FIR if chosen["fir"] else None}
    translation = _translate_unet(arguments, modules)
    net = load_network(partial(UNet, **arguments), translation, "score_sde UNet")
    name = "NCSN++" if progressive or inferred["embedding"] == "fourier" else "DDPM++"
    report(
        f"inferred: {'DDPM' if ddpm and not progressive else name}, {inferred['embedding']} "
        f"embedding, width {inferred['width']} times {inferred['multipliers']}, "
        f"{inferred['blocks']} blocks a level, attention on levels {inferred['attention']}, "
        f"{inferred['channels']} channels"
    )
    for option in sorted(published.keys() - options.keys() - inferred.keys()):
        report(f"assumed: {option} = {chosen[option]}")
    return net


def is_progressive(arguments: Mapping[str, Any]) -> bool:
    """Return True if the image enters or leaves the network at several levels."""
    return {arguments["progressive_input"], arguments["progressive_output"]} != {"none"}


def average_weights(ema: object, weights: Weights) -> dict[str, Tensor]:
    """Return the weights with averaged parameters, which are stored by order alone."""
    averages = ema.get("shadow_params") if isinstance(ema, Mapping) else None
    if not isinstance(averages, list) or not all(isinstance(v, Tensor) for v in averages):
        raise ValueError("the checkpoint's ema has no list of tensors under shadow_params")
    names = list(weights)
    if len(averages) < len(names):  # the frequencies are not trained, and not averaged
        names = [key for key in names if not key.endswith(".W") or ".NIN_" in key]
    if [v.shape for v in averages] != [weights[key].shape for key in names]:
        raise ValueError(
            f"{len(averages)} averaged tensors do not fit the {len(names)} of the model: take the "
            "raw ones by ema=False"
        )
    pairs = zip(names, averages, strict=True)
    return {**weights, **{key: check_tensor(f"the average of {key}", v) for key, v in pairs}}


def _layout(arguments: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
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
    arguments: Mapping[str, Any], modules: list[NumberedModule]
) -> Iterator[tuple[str, str, Tensor]]:
    """Yield their name, our name and the tensor, module by module."""
    for module, place in zip_longest(modules, _layout(arguments)):
        kind, ours = place or ("module", "nothing")
        if module is None:
            raise ValueError(f"the checkpoint ends before the {kind} that is {ours} of {arguments}")
        if module.kind != kind:
            raise ValueError(f"{module.keys} are not the {kind} that is {ours} of {arguments}")
        names = LEAF_NAMES | PART_NAMES.get(kind, {})
        for key, (name, tensor) in zip(module.keys, module.tensors.items(), strict=True):
            if name.endswith(".W"):  # a linear map of channels, stored input first
                tensor = check_tensor(key, tensor, ndim=2).T[:, :, None, None]
            yield (
                key,
                ".".join([ours, *(names.get(part, part) for part in name.split("."))]),
                tensor,
            )
