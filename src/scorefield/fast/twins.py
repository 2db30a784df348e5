"""Blocks of `nn` that compute the same by kernels: subclasses that override `forward` alone.

A network is made fast by changing the class of its blocks, so parameters, hooks, checkpoints and
copies stay as they are.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Real
from torch import Tensor, nn

from ..nn import MLP
from ..nn.blocks import ConvLayer, GroupNorm, ResidualBlock, per_channel
from ..nn.embedding import Embedding
from ..nn.images import Images, Vectors
from ..nn.layers import Conv3, LevelIndex, PreActivation, identity, max_pool, mean_pool
from ..nn.levels import Head
from .norms import Function, fast_max_pool, kernels_accept, norm_activation, without_hooks
from .onednn import onednn_linear
from .winograd import conv3x3

# ── RefineNet ────────────────────────────────────────────────────────────────────────────────────


class FastConv3(Conv3):
    """A convolution by `winograd`."""

    coarse = False

    def forward(self, x: Images) -> Images:
        """Convolve x, with zeros around it."""
        return self.convolve(x, self.bias)

    def convolve(self, x: Images, bias: Tensor | None, **others: Any) -> Images:
        """Return `conv3x3` of x with these weights."""
        others |= dict(dilation=self.dilation[0], coarse=self.coarse)
        return conv3x3(x, self.weight, bias, **others)


class CoarseConv3(FastConv3):
    """A convolution by larger tiles where no gradients are needed, with errors of up to 1e-4."""

    coarse = True


class FastELU(nn.ELU):
    """ELU by a kernel."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ELU(x)."""
        return norm_activation(x, None, "elu")


class FastPreActivation(PreActivation):
    """Norm, function, convolution and sum in one pass."""

    def forward(self, x: Images, level: LevelIndex, plus: Tensor | None = None) -> Images:
        """Return conv(function(norm(x))) + plus."""
        norm, conv, function = self.norm, self.conv, self.function
        if isinstance(conv, FastConv3) and function in FUSED and without_hooks(conv, norm):
            settings: dict[str, Any] = dict(function=FUSED[function], plus=plus)
            if norm is not None:
                settings |= dict(affine=norm.affine, level=norm.row(level), eps=norm.eps)
            return conv.convolve(x, conv.bias, **settings)
        h = x if norm is None else norm(x, level)
        out: Tensor = conv((fast_max_pool if function is max_pool else function)(h))
        return out if plus is None else out + plus


FUSED: dict[Callable[[Tensor], Tensor], Function]
FUSED = {identity: "same", F.elu: "elu", mean_pool: "pool"}
"""The functions that `conv3x3` computes together with the convolution."""

# ── UNet ─────────────────────────────────────────────────────────────────────────────────────────


class FastGroupNorm(GroupNorm):
    """Group normalisation by a kernel, with channels innermost in memory."""

    def forward(self, x: Images) -> Images:
        """Centre each group of channels and divide it by its deviation."""
        table = torch.stack([self.weight, self.bias])[None]
        return norm_activation(x, table, "same", self.num_groups, self.eps)


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
        dropout = self.dropout if drops or not without_hooks(self.dropout) else None
        shift = self.shift(embedding)
        h = norm_silu_conv(self.norm_in, self.conv_in, x, between=change, shift=shift)
        plus = self.shortcut(self.resample(x))
        h = norm_silu_conv(self.norm_out, self.conv_out, h, between=dropout, plus=plus)
        return h if self.divisor == 1 else h / self.divisor


def norm_silu_conv(
    norm: GroupNorm,
    conv: ConvLayer,
    x: Images,
    *,
    between: Callable[[Tensor], Tensor] | None = None,
    shift: Vectors | None = None,
    plus: Images | None = None,
) -> Images:
    """Return conv(between(φ(norm(x)))) + shift + plus, the shift one number a channel."""
    h: Tensor
    if isinstance(conv, FastConv3) and without_hooks(conv, norm):
        table = torch.stack([norm.weight, norm.bias])[None]
        if between is None and conv.bias is not None:
            bias = conv.bias if shift is None else conv.bias + shift
            settings = dict(function="silu", groups=norm.num_groups, eps=norm.eps)
            return conv.convolve(x, bias, affine=table, plus=plus, **settings)
        h = norm_activation(x, table, "silu", norm.num_groups, norm.eps)
    else:
        h = F.silu(norm(x))
    h = conv(h if between is None else between(h))
    h = h if shift is None else h + per_channel(shift, h)
    return h if plus is None else h + plus


# ── MLP ──────────────────────────────────────────────────────────────────────────────────────────


class FastLinear(nn.Linear):
    """A linear layer by oneDNN where that pays."""

    def forward(self, x: Tensor) -> Tensor:
        """Return W·x + b."""
        return onednn_linear(x, self.weight, self.bias)


class FastEmbedding(Embedding):
    """An embedding of one row where a batch shares its noise level and needs no gradients."""

    def forward(
        self, cond: Real[Tensor, "batch"], extra: Float[Tensor, "batch size"] | float = 0.0
    ) -> Float[Tensor, "rows size"]:
        """Return the embedding, in one row where all rows would be the same."""
        alone = not isinstance(extra, Tensor) and not torch.is_grad_enabled()
        alone = alone and kernels_accept(cond) and not torch.compiler.is_compiling()
        if alone and (cond == cond[:1]).all():
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
