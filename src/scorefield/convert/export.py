"""Models for other programs: a `UNet2DModel` of diffusers with its scheduler, and ONNX.

`UNet2DModel` is DDPM's network. Of ours it has the form "ddpm", without a filter and without
rescaled sums; its levels upwards have an attention after every block, of which all but the last
are given the weight 0 here. Its schedulers are DDPM's, for a network of the timestep, and
ScoreSdeVe, for one of log σ. Everything else is refused by name.
"""

import copy
import inspect
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..disk import write_file
from ..fast import Choice
from ..model import ScoreModel
from ..nn import UNet
from ..nn.blocks import EPSILON, Attention, GroupNorm, ResidualBlock
from ..precondition import Precondition
from ..values import import_extra
from .hub import PREDICTION_TYPES, VARIANCE_EXPLODING

ONNX_VERSION = 18
"""Operator set of ONNX, which programs of 2023 and later read."""
WITHOUT_COUNTERPART: dict[str, tuple[Any, str]] = {
    "form": ("ddpm", "residual blocks of another form"),
    "fir": (None, "a filter where the size changes"),
    "skip_rescale": (False, "sums divided by √2"),
    "progressive_input": ("none", "paths of the image into each level"),
    "progressive_output": ("none", "paths of each level into the image"),
    "conditions": ({}, "conditions besides a class"),
    "dims": (2, "signals and volumes"),
    "patch": (1, "patches"),
}
"""Value of each argument of a UNet in `UNet2DModel`, and the meaning of its other values."""
IRRELEVANT = {
    *("combine", "fourier_scale", "init_scale", "label_dropout", "withhold"),
    *("channels", "width", "multipliers", "blocks", "attention", "embedding", "groups", "dropout"),
    "labels",
}
"""Arguments that any value suits, or that are checked where they are used."""


def to_diffusers(model: ScoreModel, path: Path) -> None:
    """Write a folder that `diffusers` and `from_diffusers` read; needs `scorefield[hub]`."""
    net: Any = model.net
    config = _network_config(model)
    scheduler, options = _choose_scheduler(model.precondition, net.arguments["embedding"])
    diffusers = import_extra("diffusers", "hub", "an export to diffusers")
    unet = diffusers.UNet2DModel(**config, center_input_sample=scheduler == VARIANCE_EXPLODING)
    unet.load_state_dict(_rename(net, unet.state_dict()))
    unet.eval().save_pretrained(path / "unet")
    getattr(diffusers, scheduler)(**options).save_pretrained(path / "scheduler")
    pipeline = "ScoreSdeVePipeline" if scheduler == VARIANCE_EXPLODING else "DDPMPipeline"
    parts = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", scheduler]}
    index = {"_class_name": pipeline, "_diffusers_version": diffusers.__version__} | parts
    write_file(path / "model_index.json", json.dumps(index, indent=2).encode())


def _missing_part(part: str) -> ValueError:
    return ValueError(
        f"{part}: this has no counterpart in the UNet2DModel of diffusers; `--to onnx` "
        "(`to_onnx`) exports any network"
    )


def _network_config(model: ScoreModel) -> dict[str, Any]:
    """Return the configuration of the same network in diffusers, or name what it lacks."""
    net = model.net
    if not isinstance(net, UNet):
        raise _missing_part(f"the network is a {type(net).__name__}")
    own = net.arguments
    defaults = inspect.signature(UNet).parameters
    for name, value in own.items():
        wanted, meaning = WITHOUT_COUNTERPART.get(name, (defaults[name].default, "another network"))
        if value != wanted and name not in IRRELEVANT:
            raise _missing_part(f"network.{name}={value!r}, {meaning}")
    groups = {module.num_groups for module in net.modules() if isinstance(module, GroupNorm)}
    if len(groups) > 1:
        raise _missing_part(f"network.groups={own['groups']}, norms of {sorted(groups)} groups")
    if own["multipliers"][0] != 1:
        raise _missing_part(
            f"network.multipliers={own['multipliers']}, which does not begin with 1"
        )
    if model.shape is None or any(size % net.factor for size in model.shape[1:]):
        raise _missing_part(
            f"samples of shape {model.shape}, which cannot be halved for each level"
        )
    kinds = ["Attn" * (level in own["attention"]) for level in range(len(own["multipliers"]))]
    fourier, (height, across) = own["embedding"] == "fourier", model.shape[1:]
    return dict(
        sample_size=height if height == across else (height, across), in_channels=own["channels"],
        out_channels=own["channels"], dropout=own["dropout"], layers_per_block=own["blocks"],
        block_out_channels=tuple(own["width"] * factor for factor in own["multipliers"]),
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        time_embedding_type="fourier" if fourier else "positional", freq_shift=1,
        flip_sin_to_cos=False, downsample_padding=0, attention_head_dim=None, norm_eps=EPSILON,
        norm_num_groups=groups.pop(), num_class_embeds=own["labels"] + 1 if own["labels"] else None,
    )  # fmt: skip


def _choose_scheduler(row: Precondition, embedding: str) -> tuple[str, dict[str, Any]]:
    """Return the scheduler of a preconditioner and its options, or name what has none."""
    clock = (row.predicts, row.clock, embedding)
    predictions = {name: kind for kind, name in PREDICTION_TYPES.items()}
    if clock == ("scaled score at 2u", "log", "fourier") and (row.scale, row.centre) == (1, 0.5):
        ends = dict(sigma_max=row.sigma_max, sigma_min=row.sigma_min)
        return VARIANCE_EXPLODING, ends
    if row.predicts in predictions and clock[1:] == ("timestep", "sinusoidal"):
        if (row.scale, row.centre) == (2, 0.5) and row.levels is not None:
            squares = (row.scale * row.levels.double().flip(0)).square()
            alpha_bar = 1 / (1 + squares)
            before = torch.cat([torch.ones_like(alpha_bar[:1]), alpha_bar[:-1]])
            options = dict(
                num_train_timesteps=len(alpha_bar), prediction_type=predictions[row.predicts],
                trained_betas=(1 - alpha_bar / before).tolist(), clip_sample=False,
            )  # fmt: skip
            return "DDPMScheduler", options
        raise _missing_part(
            f"the preconditioner's range, scale={row.scale} and centre={row.centre}"
        )
    raise _missing_part(
        f"a network that predicts the {row.predicts} by the clock {row.clock!r}, embedded as "
        f"{embedding}, centre={row.centre}"
    )


def _rename(net: UNet, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights under the names of `UNet2DModel`, where one without a source is 0."""
    state = {name: torch.zeros_like(weight) for name, weight in like.items()}
    for name, module in _module_names(net):
        for key, weight in module.state_dict().items():
            state[f"{name}.{key}"] = weight.detach().cpu()
    if net.embedding.features is not None:
        state["time_proj.weight"] = net.embedding.features.frequencies.detach().cpu()
    if net.label is not None:
        state["class_embedding.weight"] = net.label.table.weight.detach().cpu()
    # norms of attention without a source are 1, their projections 0; 1 × 1 convolutions are linear
    return {name: weight.reshape(like[name].shape).float() for name, weight in state.items()}


def _module_names(net: Any) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers of a UNet under the names that they have in `UNet2DModel`."""
    yield "conv_in", net.stem
    yield "time_embedding.linear_1", net.embedding.hidden
    yield "time_embedding.linear_2", net.embedding.out
    for i, level in enumerate(net.down):
        for j, block in enumerate(level.blocks):
            yield from _block_names(f"down_blocks.{i}.resnets.{j}", block)
        for j, attention in enumerate(level.attentions):
            yield from _attention_names(f"down_blocks.{i}.attentions.{j}", attention)
        if level.shrink is not None:
            yield f"down_blocks.{i}.downsamplers.0.conv", level.shrink.conv
    for j in (0, 1):
        yield from _block_names(f"mid_block.resnets.{j}", net.middle[2 * j])
    yield from _attention_names("mid_block.attentions.0", net.middle[1])
    for i, level in enumerate(net.up):
        for j, block in enumerate(level.blocks):
            yield from _block_names(f"up_blocks.{i}.resnets.{j}", block)
        if level.attention is not None:
            last = len(level.blocks) - 1
            yield from _attention_names(f"up_blocks.{i}.attentions.{last}", level.attention)
        if level.grow is not None:
            yield f"up_blocks.{i}.upsamplers.0.conv", level.grow.conv
    yield "conv_norm_out", net.head.norm
    yield "conv_out", net.head.conv


def _block_names(place: str, block: ResidualBlock) -> Iterator[tuple[str, nn.Module]]:
    yield f"{place}.norm1", block.norm_in
    yield f"{place}.conv1", block.conv_in
    yield f"{place}.time_emb_proj", block.shift
    yield f"{place}.norm2", block.norm_out
    yield f"{place}.conv2", block.conv_out
    if isinstance(block.shortcut, nn.Conv2d):
        yield f"{place}.conv_shortcut", block.shortcut


def _attention_names(place: str, attention: Attention) -> Iterator[tuple[str, nn.Module]]:
    yield f"{place}.group_norm", attention.norm
    yield f"{place}.to_q", attention.query
    yield f"{place}.to_k", attention.key
    yield f"{place}.to_v", attention.value
    yield f"{place}.to_out.0", attention.out


class _ScoreGraph(nn.Module):
    """The score as a function of tensors alone."""

    def __init__(self, model: ScoreModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """Return the score."""
        score: Tensor = self.model(x, sigma, label)
        return score


@contextmanager
def _without_advice() -> Iterator[None]:
    """Leave out what torch's exporter prints about torchvision and about its own code."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


@_without_advice()
def to_onnx(model: ScoreModel, path: Path) -> None:
    """Write score(x, sigma) with a free batch to a file; needs `scorefield[onnx]`.

    x has float32 and sigma one float32 for each sample; a model with classes has label too, int64
    numbers of which the last, the number of classes, stands for none.
    """
    for module in ("onnx", "onnxscript"):
        import_extra(module, "onnx", "an export to ONNX")
    if model.shape is None:
        raise ValueError("the model has no shape of a sample: build it with shape=...")
    if model.condition_shapes:
        names = ", ".join(model.condition_shapes)
        raise ValueError(f"conditions {names}: the export takes a class at most")
    # without kernels and compilation, which a graph cannot hold
    plain = copy.deepcopy(model).to("cpu", torch.float32).eval()
    Choice().apply(plain)
    batch = 2
    inputs: dict[str, Tensor] = {"x": torch.zeros(batch, *model.shape), "sigma": torch.ones(batch)}
    if getattr(model.net, "arguments", {}).get("labels"):
        inputs["label"] = torch.zeros(batch, dtype=torch.int64)
    make_dimension: Callable[..., Any] = torch.export.Dim
    free = make_dimension("batch")
    # strict, because otherwise len(x) would fix the batch
    graph: Any = torch.export.export(
        _ScoreGraph(plain), (), inputs, strict=True,
        dynamic_shapes={name: {0: free} for name in inputs},
    )  # fmt: skip
    program: Any = torch.onnx.export(
        graph, dynamo=True, opset_version=ONNX_VERSION, verbose=False,
        input_names=[*inputs], output_names=["score"],
    )  # fmt: skip
    write_file(path, program.model_proto.SerializeToString())
