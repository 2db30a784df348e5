"""Blocks of `nn` that compute the same by kernels: subclasses that override `forward` alone.

A network is made fast by changing the class of its blocks, so parameters, hooks, checkpoints and
copies stay as they are.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Real
from torch import Tensor, nn

from ..nn import MLP
from ..nn.blocks import GroupNorm, ResidualBlock, group_norm, per_channel
from ..nn.embedding import Embedding
from ..nn.images import Images, Vectors
from ..nn.layers import (
    Conv3,
    LevelIndex,
    PreActivation,
    identity,
    instance_norm_plus,
    max_pool,
    mean_pool,
)
from ..nn.levels import Head
from . import norms, winograd
from .onednn import onednn_linear

# ── RefineNet ────────────────────────────────────────────────────────────────────────────────────


class FastConv3(Conv3):
    """A convolution by `winograd`."""

    coarse = False

    def forward(self, x: Images) -> Images:
        """Convolve x, with zeros around it."""
        op = _unit(None, identity, self.dilation[0], self.coarse)
        return winograd.convolve(op, winograd.Operands(x, self.weight, self.bias))


class CoarseConv3(FastConv3):
    """The same by larger tiles where no gradients are needed, with errors of up to 1e-4."""

    coarse = True


class FastELU(nn.ELU):
    """ELU by a kernel."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ELU(x)."""
        return norms.fast_elu(x)


class FastPreActivation(PreActivation):
    """Norm, function, convolution and sum in one pass."""

    def forward(self, x: Images, level: LevelIndex, plus: Tensor | None = None) -> Images:
        """Return conv(function(norm(x))) + plus."""
        norm, conv, function = self.norm, self.conv, self.function
        fast = isinstance(conv, FastConv3)
        if fast and function in FUSED and norms.without_hooks(conv, norm):
            op = _unit(norm and norm.eps, function, conv.dilation[0], conv.coarse)
            affine, row = (None, None) if norm is None else (norm.affine, norm.row(level))
            operands = winograd.Operands(x, conv.weight, conv.bias, affine, row, plus)
            return winograd.convolve(op, operands)
        if not fast or function is not max_pool:
            return super().forward(x, level, plus)
        h = x if norm is None else norm(x, level)
        out: Tensor = conv(norms.fast_max_pool(h, max_pool))
        return out if plus is None else out + plus


FUSED: dict[Callable[[Tensor], Tensor], Literal["same", "elu", "pool"]] = {
    identity: "same",
    F.elu: "elu",
    mean_pool: "pool",
}
"""The functions that `winograd` computes together with the convolution."""


@functools.cache
def _unit(
    eps: float | None, function: Callable[[Tensor], Tensor], dilation: int, coarse: bool
) -> norms.Operation:
    """Describe conv(function(norm(x))) + plus to `winograd`."""

    def plain(*tensors: Any) -> Tensor:
        x, weight, bias, affine, level, plus = winograd.Operands(*tensors)
        h = x if affine is None or eps is None else instance_norm_plus(x, affine, level, eps)
        out = F.conv2d(function(h), weight, bias, padding=dilation, dilation=dilation)
        return out if plus is None else out + plus

    return norms.Operation(plain, dilation, FUSED[function], eps=eps or 0.0, coarse=coarse)


# ── UNet ─────────────────────────────────────────────────────────────────────────────────────────


class FastGroupNorm(GroupNorm):
    """Group normalisation by a kernel, with channels innermost in memory."""

    def forward(self, x: Images) -> Images:
        """Centre each group of channels and divide it by its deviation."""
        op = _group_norm(self.num_groups, self.eps, "same")
        return norms.norm_activation(op, x, torch.stack([self.weight, self.bias])[None])


class FastHead(Head):
    """conv(φ(norm(h))) in one pass."""

    def forward(self, h: Images) -> Images:
        """Return the image."""
        return norm_silu_conv(self.norm, self.conv, h)


class FastResidualBlock(ResidualBlock):
    """Norms, activations, convolutions and sums in two passes where nothing is between them."""

    def forward(self, x: Images, embedding: Vectors) -> Images:
        """Return the block's output, given φ of the embedded noise level."""
        change = None if self.resample is identity else self.resample
        drops = self.dropout.training and self.dropout.p > 0
        dropout = self.dropout if drops or not norms.without_hooks(self.dropout) else None
        shift = self.shift(embedding)
        h = norm_silu_conv(self.norm_in, self.conv_in, x, between=change, shift=shift)
        plus = self.shortcut(self.resample(x))
        h = norm_silu_conv(self.norm_out, self.conv_out, h, between=dropout, plus=plus)
        return h if self.divisor == 1 else h / self.divisor


def norm_silu_conv(
    norm: GroupNorm,
    conv: nn.Conv1d | nn.Conv2d,
    x: Images,
    *,
    between: Callable[[Tensor], Tensor] | None = None,
    shift: Vectors | None = None,
    plus: Images | None = None,
) -> Images:
    """Return conv(between(φ(norm(x)))) + shift + plus, the shift one number a channel."""
    fast = isinstance(conv, FastConv3) and norms.without_hooks(conv, norm)
    table = torch.stack([norm.weight, norm.bias])[None] if fast else None
    if isinstance(conv, FastConv3) and fast and between is None:
        op = _norm_silu_conv(norm.num_groups, norm.eps, conv.coarse)
        assert conv.bias is not None  # every convolution of a UNet has one
        bias = conv.bias if shift is None else conv.bias + shift
        return winograd.convolve(op, winograd.Operands(x, conv.weight, bias, table, None, plus))
    h: Tensor
    if fast:
        h = norms.norm_activation(_group_norm(norm.num_groups, norm.eps, "silu"), x, table)
    else:
        h = F.silu(norm(x))
    h = conv(h if between is None else between(h))
    h = h if shift is None else h + per_channel(shift, h)
    return h if plus is None else h + plus


@functools.cache
def _group_norm(groups: int, eps: float, function: Literal["same", "silu"]) -> norms.Operation:
    """Describe function(norm(x)) to `norms`."""

    def plain(x: Tensor, affine: Tensor) -> Tensor:
        gain, bias = affine[0]
        h = group_norm(x, gain, bias, groups, eps)
        return F.silu(h) if function == "silu" else h

    return norms.Operation(plain, function=function, groups=groups, eps=eps)


@functools.cache
def _norm_silu_conv(groups: int, eps: float, coarse: bool) -> norms.Operation:
    """Describe conv(φ(norm(x))) + bias + plus to `winograd`."""
    before = _group_norm(groups, eps, "silu")

    def plain(*tensors: Any) -> Tensor:
        x, weight, bias, affine, _, plus = tensors
        h = F.conv2d(before.plain(x, affine), weight, padding=1) + per_channel(bias, x)
        return h if plus is None else h + plus

    return dataclasses.replace(before, plain=plain, coarse=coarse)


# ── MLP ──────────────────────────────────────────────────────────────────────────────────────────


class FastLinear(nn.Linear):
    """A linear layer by oneDNN where that pays."""

    def forward(self, x: Tensor) -> Tensor:
        """Return W·x + b."""
        return onednn_linear(x, self.weight, self.bias)


class FastEmbedding(Embedding):
    """Without gradients one row for a noise level that a batch shares."""

    def forward(
        self, cond: Real[Tensor, "batch"], extra: Float[Tensor, "batch size"] | float = 0.0
    ) -> Float[Tensor, "rows size"]:
        """Return the embedding, in one row where all rows would be the same."""
        alone = not isinstance(extra, Tensor) and not torch.is_grad_enabled()
        if alone and norms.supported(cond) and (cond == cond[:1]).all():
            cond = cond[:1]
        return super().forward(cond, extra)


# ── Swapping ─────────────────────────────────────────────────────────────────────────────────────

CONVOLUTIONAL: dict[type[nn.Module], type[nn.Module]] = {
    nn.ELU: FastELU,
    GroupNorm: FastGroupNorm,
    Head: FastHead,
    PreActivation: FastPreActivation,
    ResidualBlock: FastResidualBlock,
}
LINEAR: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: FastLinear, Embedding: FastEmbedding}
PLAIN = {twin: kind for kind, twin in (CONVOLUTIONAL | LINEAR).items()}
PLAIN |= {FastConv3: Conv3, CoarseConv3: Conv3}
"""The class of `nn` or torch that each twin stands for."""


def swap(net: nn.Module, *, winograd: bool, coarse: bool, onednn: bool) -> None:
    """Give each block the twin that is asked for, or its own class again."""
    twins = {Conv3: CoarseConv3 if coarse else FastConv3} | CONVOLUTIONAL if winograd else {}
    for module in net.modules():
        module.__class__ = PLAIN.get(type(module), type(module))
        module.__class__ = twins.get(type(module), type(module))
    if onednn and isinstance(net, MLP):
        small = set(net.embedding.children())
        for module in set(net.modules()) - small:
            module.__class__ = LINEAR.get(type(module), type(module))
