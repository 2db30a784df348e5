"""A transformer over the patches of an image (Peebles & Xie 2023, with adaLN-Zero).

    h ← W_in·patches + positions
    h ← h + g·attention((1 + a)·norm(h) + b)         for each block,
    h ← h + g·W₂·φ(W₁·((1 + a)·norm(h) + b))         with (a, b, g) = W·e of each of its two lines
    F = W_out·((1 + a)·norm(h) + b),                 (a, b) = W·e

e is the embedded noise level and condition, φ is GELU, and the norm is Ba et al.'s (2016), of the
features of a patch. Positions are sines and cosines, half of them of the row and half of the
column. W_out and every W of e start nearly at 0: a fresh block is nearly its shortcut, and a fresh
model under EDM nearly the score of N(centre, σ_d²I).
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Real
from torch import Tensor, nn

from .._ops import RowCondition
from .arguments import check_arguments, constructor_arguments
from .blocks import kernels_with_derivatives, linear_layer
from .condition import ConditionalNetwork
from .embedding import EmbeddingKind, sinusoidal
from .images import Vectors, check_image, fold, unfold

Patches: TypeAlias = Float[Tensor, "batch _patches _features"]


class DiT(ConditionalNetwork):
    """A transformer over patches, for images of any height and width that the patch divides.

    Args:
        channels: channels of the image
        patch: height and width of a patch, in pixels
        width: features of a patch; the paper's DiT-S has 384, with 12 blocks and 6 heads
        blocks: blocks, each of them attention and two layers
        heads: heads of the attention, which share the features
        embedding: "fourier" for a cond like ¼ log σ or log σ, "sinusoidal" for an index or timestep
        fourier_scale: standard deviation of the Fourier frequencies
        dropout: fraction of features dropped in each block while training
        labels: number of classes, 0 for none
        label_dropout: fraction of a training batch whose class or condition is withheld
        conditions: names and shapes of further conditions, [size] or [channels, height, width]
        withhold: other fractions than label_dropout, by the name of the condition
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        patch: int = 2,
        width: int = 256,
        blocks: int = 6,
        heads: int = 4,
        embedding: EmbeddingKind = "fourier",
        fourier_scale: float = 1.0,
        dropout: float = 0.0,
        labels: int = 0,
        label_dropout: float = 0.1,
        conditions: Mapping[str, Sequence[int]] = {},
        withhold: Mapping[str, float] = {},
    ) -> None:
        super().__init__()
        self.arguments = constructor_arguments(locals())
        minimum = dict(channels=1, patch=1, width=8, blocks=1, heads=1, labels=0)
        check_arguments(self.arguments, {"embedding": get_args(EmbeddingKind)}, **minimum)
        if width % 2 or width % heads:
            raise ValueError(f"width={width}, heads={heads}: give an even width that heads divides")
        self.channels, self.patch, self.width = channels, patch, width
        features, pixels = max(width // 4, 4), channels * patch**2
        self.add_embeddings(features, axes=3)
        self.stem = linear_layer(pixels + self.conditions.channels * patch**2, width)
        self.blocks = nn.ModuleList()
        for _ in range(blocks):
            first, second = linear_layer(width, 4 * width), linear_layer(4 * width, width)
            layers = nn.Sequential(first, nn.GELU("tanh"), nn.Dropout(dropout), second)
            for layer in (PatchAttention(width, heads), layers):
                self.blocks.append(AdaptiveBranch(layer, width, 4 * features))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.film = linear_layer(4 * features, 2 * width, scale=0.0)
        self.head = linear_layer(width, pixels, scale=0.0)

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        cond: Real[Tensor, "batch"] | None = None,
        condition: RowCondition = None,
    ) -> Float[Tensor, "batch channels height width"]:
        """Return F of a batch: one conditioning number a sample (default 0), and conditions."""
        check_image(x, self.channels)
        size, (height, width) = self.patch, x.shape[2:]
        if height % size or width % size:
            raise ValueError(f"patch={size}: give one that divides images of {height} × {width}")
        cond = x.new_zeros(len(x)) if cond is None else cond
        embedding = self.embed_conditions(cond, condition)
        rows, columns = height // size, width // size
        patches = fold(self.conditions.join(x, condition), size).flatten(2).mT.contiguous()
        index = torch.arange(rows * columns, device=x.device)
        places = [sinusoidal(i, self.width // 2) for i in (index // columns, index % columns)]
        with kernels_with_derivatives(x, cond):
            h = self.stem(patches) + torch.cat(places, dim=1).to(x.dtype)
            for block in self.blocks:
                h = block(h, embedding)
            gain, bias = self.film(embedding)[:, None].chunk(2, dim=2)
            out: Tensor = self.head((1 + gain) * self.norm(h) + bias)
        return unfold(out.mT.reshape(len(x), out.shape[2], rows, columns), size)


class PatchAttention(nn.Module):
    """Self-attention between all patches, softmax(qᵀk/√d)·v in each head (Vaswani et al. 2017)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.projections = heads, linear_layer(width, 3 * width)
        self.out = linear_layer(width, width)

    def forward(self, h: Patches) -> Patches:
        """Return the attended patches."""
        projections = self.projections(h).unflatten(2, (3, self.heads, -1))
        values = F.scaled_dot_product_attention(*projections.permute(2, 0, 3, 1, 4))
        out: Tensor = self.out(values.transpose(1, 2).flatten(2))
        return out


class AdaptiveBranch(nn.Module):
    """A layer and a shortcut, conditioned on the noise level by the norm and a gate."""

    def __init__(self, layer: nn.Module, width: int, embedding: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.film, self.layer = linear_layer(embedding, 3 * width, scale=0.0), layer

    def forward(self, h: Patches, embedding: Vectors) -> Patches:
        """Return h + g·layer((1 + a)·norm(h) + b), given φ of the embedded noise level."""
        gain, bias, gate = self.film(embedding)[:, None].chunk(3, dim=2)
        out: Tensor = h + gate * self.layer((1 + gain) * self.norm(h) + bias)
        return out
