"""The networks in EDM's checkpoints: DDPM++, NCSN++ and ADM, as modules that a pickle describes.

    enc   16x16_conv  16x16_block0 ...  8x8_down  [8x8_aux_residual]  8x8_block0 ...
    dec   8x8_in0  8x8_in1  8x8_block0 ...  16x16_up  16x16_block0 ...  [16x16_aux_norm, _conv]

Blocks contain their attention. Nothing is taken from the arguments of a constructor: names, shapes
and attributes of the modules determine the network.
"""

import math
import re
import reprlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..nn.blocks import EPSILON, normalization
from ..nn.resample import BOX
from ..nn.unet import ADM_EPSILON, UNet
from .pickles import PERSISTENT, PlainObject
from .shared import Report, check_tensor, load_network

PART_KEY = re.compile(r"(\d+)x\1_([a-z_]*[a-z])(\d*)")
"""Image side, role and number of a module."""
BLOCK_PARTS = {"norm0": "norm_in", "conv0": "conv_in", "affine": "shift", "skip": "shortcut"}
BLOCK_PARTS |= {"norm1": "norm_out", "conv1": "conv_out"}
"""Names of a block's parts: theirs and ours."""
ATTENTION_PARTS = {"norm2": "norm", "proj": "out"}
"""The same for its attention, besides `qkv`."""
CHANGES = {"down": "down", "aux_down": "down", "aux_residual": "down", "up": "up", "aux_up": "up"}
"""Change of size by the role of the module that makes it."""
UNCHANGING = {"conv1", "qkv", "proj"}
"""Convolutions that never change the size."""
MAX_MODULES = 1024
"""Limit of the modules of a network; those of EDM have some hundreds."""
MAX_NAME = 100
"""Characters of a module's name, which is repeated in the names of all that are in it."""
MAX_PATH = 300
"""Characters of a module's full name, which begins with the modules around it."""
MAX_TAPS = 32
"""Limit of the taps of a filter."""
FORMS = {"SongUNet": "DDPM++ or NCSN++", "DhariwalUNet": "ADM"}


# ── Modules ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class EDMModule:
    """A module of the file: its class, its attributes, its parameters and buffers, its parts."""

    name: str
    kind: str
    facts: dict[str, Any]
    tensors: dict[str, Any]
    parts: dict[str, "EDMModule"]

    def part(self, name: str) -> "EDMModule":
        """Return a part by its name."""
        if name not in self.parts:
            raise ValueError(f"{self.name}, of {self.kind:.80}, has no part {name}")
        return self.parts[name]

    def fact(self, name: str, kind: type) -> Any:
        """Return an attribute as a finite number of this kind."""
        value = self.facts.get(name)
        if not isinstance(value, (int, float)) or not math.isfinite(value) or kind(value) != value:
            raise ValueError(
                f"{self.name}.{name} is {reprlib.repr(value):.80}: the file is damaged"
            )
        return kind(value)

    def weight(self, ndim: int, name: str = "weight") -> Tensor:
        """Return a parameter or buffer with this number of dimensions."""
        return check_tensor(f"{self.name}.{name}", self.tensors.get(name), ndim)

    def walk(self) -> Iterator["EDMModule"]:
        """Yield this module and all in it."""
        yield self
        for part in self.parts.values():
            yield from part.walk()


def read_module(value: object, name: str, visited: set[int] | None = None) -> EDMModule:
    """Return the module that a pickle describes; each occurs once, so that there is no circle."""
    visited = set() if visited is None else visited
    if not isinstance(value, PlainObject) or id(value) in visited:
        raise ValueError(
            f"{name} is not a network of EDM: it is of {type(value).__name__}, or twice"
        )
    visited.add(id(value))
    kind, state = value.name.rpartition(".")[2], value.state
    if value.name == PERSISTENT:
        kind, state = value.arguments[0]["class_name"], value.arguments[0]["state"]
    groups = [state[group] for group in ("_parameters", "_buffers", "_modules")]
    if not all(isinstance(group, dict) for group in groups) or not _all_names([kind], *groups):
        raise ValueError(f"{name} is not a module of torch")
    own = {id(state), *map(id, groups)}
    if own & visited or len(name) > MAX_PATH:
        raise ValueError(f"{name:.80} shares its contents with another module, or is too deep")
    visited |= own
    parts = {
        part: read_module(inner, f"{name}.{part}", visited)
        for part, inner in state["_modules"].items()
        if inner is not None
    }
    tensors = state["_parameters"] | state["_buffers"]
    present = {key: tensor for key, tensor in tensors.items() if tensor is not None}
    return EDMModule(name, kind, state, present, parts)


def _all_names(*groups: Iterable[object]) -> bool:
    return all(isinstance(key, str) and len(key) <= MAX_NAME for group in groups for key in group)


def _common(modules: Iterable[EDMModule], fact: str, kind: type) -> Any:
    """Return the attribute that all modules must share."""
    values = {module.fact(fact, kind) for module in modules}
    if len(values) != 1:
        raise ValueError(f"{fact} is {sorted(values)} in different modules: they must share one")
    return values.pop()


# ── Arguments ────────────────────────────────────────────────────────────────────────────────────


class Stages:
    """The modules of encoder and decoder by image side, role and number."""

    def __init__(self, model: EDMModule) -> None:
        self.encoder, self.decoder = _by_key(model.part("enc")), _by_key(model.part("dec"))
        self.sides = list(dict.fromkeys(side for side, _, _ in self.encoder))
        if self.sides != [self.sides[0] >> level for level in range(len(self.sides))]:
            raise ValueError(f"the encoder has images of {self.sides} pixels: each must be halved")
        if strangers := {side for side, _, _ in self.decoder} - {*self.sides}:
            raise ValueError(f"the decoder has images of {sorted(strangers)} pixels, unlike enc")

    def roles(self, role: str) -> list[EDMModule]:
        """Return the modules of the encoder with this role."""
        return [module for (_, name, _), module in self.encoder.items() if name == role]

    def level(self, side: int) -> list[EDMModule]:
        """Return the blocks of the encoder at one size."""
        items = self.encoder.items()
        return [module for (s, role, _), module in items if (s, role) == (side, "block")]


def _by_key(modules: EDMModule) -> dict[tuple[int, str, int], EDMModule]:
    keys = {name: PART_KEY.fullmatch(name) for name in modules.parts}
    if unknown := [name for name, key in keys.items() if key is None]:
        raise ValueError(f"{modules.name} has the unknown parts {unknown!r:.200}")
    return {
        (int(key[1]), key[2], int(key[3] or 0)): modules.parts[name]
        for name, key in keys.items()
        if key
    }


def infer_unet(model: EDMModule, stages: Stages) -> dict[str, Any]:
    """Return the arguments of `UNet`."""
    width, channels = stages.encoder[stages.sides[0], "conv", 0].weight(4).shape[:2]
    blocks = [module for module in model.walk() if "conv0" in module.parts]
    levels = [stages.level(side) for side in stages.sides]
    outs = [level[-1].part("conv0").weight(4).shape[0] if level else 0 for level in levels]
    if (
        len({len(level) for level in levels}) > 1
        or any(out % width for out in [*outs, 0])
        or not blocks
    ):
        raise ValueError(
            f"the encoder's levels have {[len(level) for level in levels]} blocks and {outs} "
            f"channels, of which the first convolution has {width}: a UNet has as many blocks a "
            "level and multiples of its width"
        )
    classes = model.parts.get("map_label")
    residual, skip = stages.roles("aux_residual"), stages.roles("aux_skip")
    outputs = [key for key in stages.decoder if key[1] == "aux_conv"]
    return {
        "channels": channels,
        "width": width,
        "multipliers": tuple(out // width for out in outs),
        "blocks": len(levels[0]),
        "attention": tuple(i for i, level in enumerate(levels) if "qkv" in level[0].parts),
        "head_channels": _head_channels(blocks),
        "form": "adm" if _common(blocks, "adaptive_scale", bool) else "biggan",
        "embedding": _embedding(model.part("map_noise")),
        "fir": _taps(model),
        "progressive_input": "residual" if residual else "skip" if skip else "none",
        "progressive_output": "skip" if len(outputs) > 1 else "none",
        "skip_rescale": _rescales(_common(blocks, "skip_scale", float)),
        "dropout": _common(blocks, "dropout", float),
        "labels": classes.weight(2).shape[1] if classes else 0,
        "label_dropout": model.fact("label_dropout", float) if classes else 0.0,
        "early_condition": model.kind == "SongUNet" and classes is not None,
    }


def _embedding(noise: EDMModule) -> str:
    """Return our name of the embedding of the noise level."""
    if noise.kind == "FourierEmbedding":
        return "fourier"
    if noise.kind != "PositionalEmbedding":
        raise ValueError(f"{noise.name} is a {noise.kind:.80}: it is not known here")
    if (positions := noise.fact("max_positions", float)) != 10_000:
        raise ValueError(f"{noise.name}.max_positions is {positions:g}: supported is 10000")
    return "sinusoidal" if noise.fact("endpoint", bool) else "adm"


def _head_channels(blocks: list[EDMModule]) -> int | None:
    """Return the channels of a head that give all attentions their number of heads."""
    pairs = [
        (block.part("qkv").weight(4).shape[1], block.fact("num_heads", int))
        for block in blocks
        if "qkv" in block.parts
    ]
    if all(heads == 1 for _, heads in pairs):
        return None
    size: int = min(channels // max(heads, 1) for channels, heads in pairs)
    if any(channels // max(size, 1) != heads for channels, heads in pairs):
        raise ValueError(f"(channels, heads) are {pairs}: heads must have channels of one number")
    return size


def _rescales(scale: float) -> bool:
    """Return True if the factor of a sum of two branches is 1/√2, False if it is 1."""
    for factor, rescaled in ((math.sqrt(0.5), True), (1.0, False)):
        if math.isclose(scale, factor, rel_tol=1e-6):  # may be stored in float32
            return rescaled
    raise ValueError(f"skip_scale is {scale}: supported are 1 and √½")


def _taps(model: EDMModule) -> tuple[float, ...]:
    """Return the taps of the filter that changes sizes, the least that is not 0 of them 1."""
    modules = [module for module in model.walk() if "resample_filter" in module.tensors]
    if not modules:
        return BOX
    filters = [module.weight(4, "resample_filter") for module in modules]
    row = filters[0][0, 0, :MAX_TAPS].double().sum(1)
    square = torch.outer(row, row) / row.sum() ** 2
    for module, values in zip(modules, filters, strict=True):
        shape = (1, 1, *square.shape)
        same = values.shape == shape and torch.allclose(values[0, 0].double(), square)
        if not same or not torch.equal(row, row.flip(0)) or len(row) % 2:
            start = values.flatten()[:MAX_TAPS].tolist()
            raise ValueError(
                f"{module.name}.resample_filter is {start!r:.200}: supported is one symmetric "
                f"filter of an even number of taps, at most {MAX_TAPS}"
            )
    return tuple((row / row[row != 0].abs().min()).tolist())


# ── Names ────────────────────────────────────────────────────────────────────────────────────────


def build_edm_network(model: EDMModule, report: Report) -> UNet:
    """Build the network of the file."""
    if model.kind not in FORMS:
        raise ValueError(f"the network is a {model.kind:.80}: supported are {', '.join(FORMS)}")
    if (modules := sum(1 for _ in model.walk())) > MAX_MODULES:
        raise ValueError(f"the network has {modules} modules: at most {MAX_MODULES} are read")
    stages = Stages(model)
    arguments = infer_unet(model, stages)
    listed = ", ".join(f"{name} = {value}" for name, value in arguments.items())
    report(f"inferred: {model.kind} ({FORMS[model.kind]}), {listed}")
    if "map_augment" in model.parts:
        report("left out: map_augment, the embedding of augmentations, which samples do not have")
    _check_sharing(model)
    _check_changes(stages)
    _check_norms(model, ADM_EPSILON if arguments["form"] == "adm" else EPSILON)
    weights = _translate(model, stages, arguments)
    return load_network(partial(UNet, **arguments), weights, f"UNet of {listed}")


def _translate(
    model: EDMModule, stages: Stages, arguments: dict[str, Any]
) -> Iterator[tuple[str, str, Tensor]]:
    """Yield their name, our name and the tensor, module by module."""
    for module, place, attention in _places(stages, arguments):
        yield from _translate_block(module, place, attention)
    middle = stages.decoder.get((stages.sides[-1], "in", 0))
    if middle and "qkv" not in middle.parts and not arguments["skip_rescale"]:
        # ADM has no attention where there are fewer channels than a head has: it adds 0
        channels = arguments["width"] * arguments["multipliers"][-1]
        for part in ("norm", "query", "key", "value", "out"):
            square = (channels,) if part == "norm" else (channels, channels, 1, 1)
            for name, shape in (("weight", square), ("bias", (channels,))):
                yield middle.name, f"middle.1.{part}.{name}", torch.zeros(()).expand(shape)
    for theirs, ours in (("out_norm", "head.norm"), ("out_conv", "head.conv")):
        if theirs in model.parts:
            yield from _leaves(model.part(theirs), ours)
    yield from _translate_embedding(model, arguments)


def _places(stages: Stages, arguments: dict[str, Any]) -> Iterator[tuple[EDMModule, str, str]]:
    """Yield each module of encoder and decoder, our name of it and of the attention in it."""
    last = len(stages.sides) - 1
    for (side, role, number), module in stages.encoder.items():
        level = stages.sides.index(side)
        here, above = f"down.{level}", f"down.{level - 1}"
        names = {"conv": "stem", "block": f"{here}.blocks.{number}", "down": f"{above}.shrink"}
        names |= {"aux_residual": f"{above}.join.shrink.conv", "aux_skip": f"{above}.join.conv"}
        yield module, names.get(role, module.name), f"{here}.attentions.{number}"
    for (side, role, number), module in stages.decoder.items():
        level = stages.sides.index(side)
        here, below = f"up.{last - level}", f"up.{last - level - 1}"
        block, attention = f"{here}.blocks.{number}", f"{here}.attention"
        if arguments["form"] == "adm" and level in arguments["attention"]:
            block, attention = f"{block}.block", f"{block}.attention"
        head = "head" if arguments["progressive_output"] == "none" else f"{here}.output.head"
        names = {"block": block, "up": f"{below}.grow", "in": f"middle.{2 * number}"}
        names |= {"aux_norm": f"{head}.norm", "aux_conv": f"{head}.conv"}
        attention = "middle.1" if role == "in" else attention
        yield module, names.get(role, module.name), attention


def _translate_block(
    module: EDMModule, place: str, attention: str
) -> Iterator[tuple[str, str, Tensor]]:
    yield from _leaves(module, place)
    for name, part in module.parts.items():
        if name in ATTENTION_PARTS:
            yield from _leaves(part, f"{attention}.{ATTENTION_PARTS[name]}")
        elif name != "qkv":
            yield from _leaves(part, f"{place}.{BLOCK_PARTS.get(name, name)}")
        else:  # query, key and value of each channel of each head, one after another
            heads = max(module.fact("num_heads", int), 1)
            for theirs, leaf, tensor in _leaves(part, ""):
                if len(tensor) % (3 * heads):
                    raise ValueError(f"{theirs} has {len(tensor)} channels for {heads} heads")
                parts = tensor.reshape(heads, -1, 3, *tensor.shape[1:]).unbind(2)
                for ours, rows in zip(("query", "key", "value"), parts, strict=True):
                    yield theirs, f"{attention}.{ours}{leaf}", rows.flatten(0, 1)


def _leaves(module: EDMModule, place: str) -> Iterator[tuple[str, str, Tensor]]:
    """Yield a module's own tensors except for its filter."""
    for name, tensor in module.tensors.items():
        theirs = f"{module.name}.{name}"
        if name != "resample_filter":
            yield theirs, f"{place}.{name}", check_tensor(theirs, tensor)


def _translate_embedding(
    model: EDMModule, arguments: dict[str, Any]
) -> Iterator[tuple[str, str, Tensor]]:
    noise, first = model.part("map_noise"), model.part("map_layer0")
    if arguments["embedding"] == "fourier":
        yield f"{noise.name}.freqs", "embedding.features.frequencies", noise.weight(1, "freqs")
    for theirs, ours, tensor in _leaves(first, "embedding.hidden"):
        # the sines come first here, in the original ADM the cosines
        swapped = arguments["embedding"] == "adm" and tensor.ndim == 2
        yield theirs, ours, tensor.roll(tensor.shape[1] // 2, 1) if swapped else tensor
    yield from _leaves(model.part("map_layer1"), "embedding.out")
    if arguments["labels"]:
        classes = model.part("map_label")
        rows = classes.weight(2).T
        none = classes.weight(1, "bias") if "bias" in classes.tensors else rows.new_zeros(())
        scale = math.sqrt(len(rows)) if arguments["early_condition"] else 1.0
        none = none.expand(rows.shape[1])
        table = torch.cat([scale * rows + none, none[None]])
        yield f"{classes.name}.weight", "label.table.weight", table


def _check_sharing(model: EDMModule) -> None:
    """Refuse parameters that share their memory, by which a network could exceed its file."""
    places: dict[int, str] = {}
    for module in model.walk():
        for name in {"weight", "bias"} & module.tensors.keys():
            full = f"{module.name}.{name}"
            place = check_tensor(full, module.tensors[name]).untyped_storage().data_ptr()
            if place in places:
                raise ValueError(f"{full} and {places[place]} are one tensor: the file is damaged")
            places[place] = full


def _check_changes(stages: Stages) -> None:
    """Refuse convolutions that change the size where ours do not, or otherwise."""
    for (_, role, _), module in (*stages.encoder.items(), *stages.decoder.items()):
        for conv in (part for part in module.walk() if part.kind == "Conv2d"):
            unchanging = conv.name.rpartition(".")[2] in UNCHANGING
            expected = None if unchanging else CHANGES.get(role)
            for change in ("up", "down"):
                if conv.fact(change, bool) != (change == expected):
                    raise ValueError(f"{conv.name}.{change} is {change != expected}: unsupported")


def _check_norms(model: EDMModule, epsilon: float) -> None:
    """Refuse norms with other groups or another ε than ours."""
    for module in model.walk():
        if "num_groups" in module.facts:
            groups = normalization(len(module.weight(1))).num_groups
            stored = module.fact("num_groups", int), module.fact("eps", float)
            if stored != (groups, epsilon):
                raise ValueError(
                    f"{module.name} has (groups, ε) = {stored}: supported are {groups, epsilon}"
                )
