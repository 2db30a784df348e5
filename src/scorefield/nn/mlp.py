"""A residual network for vectors and the rows of a table.

    h ← W_in·x, or W_in·x + W_c·c
    h ← h + W₂·φ(W₁·((1 + a)·norm(h) + b)),   (a, b) = W·e      for each block
    F = W_out·h

c is the sum of the vectors of the condition, e is φ of the embedded noise level and c, φ is SiLU,
and the norm is Ba et al.'s (2016) with its gain and bias computed from e (Perez et al. 2018; the
form of Peebles & Xie 2023). W_out starts at 0, so that a fresh model under EDM is the score of
N(centre, σ_d²I).
"""

import math
from collections.abc import Mapping, Sequence
from typing import get_args

import torch.nn.functional as F
from jaxtyping import Float, Real
from torch import Tensor, nn

from .._ops import RowCondition, Samples
from .arguments import check_arguments, constructor_arguments
from .condition import ConditionalNetwork
from .embedding import EmbeddingKind


class MLP(ConditionalNetwork):
    """A residual network for vectors, or samples of any one shape, which are flattened inside.

    Args:
        shape: shape of a sample, or the size of a vector
        width: features of a block
        blocks: number of residual blocks
        embedding: "fourier" for a cond like ¼ log σ or log σ, "sinusoidal" for an index or timestep
        fourier_scale: standard deviation of the frequencies; if it is 1, the features change when
            ¼ log σ does by 1/2π, σ by a factor of 1.9
        dropout: fraction of features dropped in each block while training
        labels: number of classes, 0 for none
        label_dropout: fraction of a training batch whose class or condition is withheld
        conditions: names and shapes of further conditions, each of which is taken as a vector
        withhold: other fractions than label_dropout, by the name of the condition
        condition_input: add the condition to the first layer too, for samples that depend on sums
            of their own numbers and the condition's
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        *,
        width: int = 256,
        blocks: int = 4,
        embedding: EmbeddingKind = "fourier",
        fourier_scale: float = 1.0,
        dropout: float = 0.0,
        labels: int = 0,
        label_dropout: float = 0.1,
        conditions: Mapping[str, Sequence[int]] = {},
        withhold: Mapping[str, float] = {},
        condition_input: bool = False,
    ) -> None:
        super().__init__()
        self.arguments = constructor_arguments(locals())
        choices = {"embedding": get_args(EmbeddingKind)}
        check_arguments(self.arguments, choices, blocks=1, labels=0)
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self.size, features = math.prod(self.shape), max(width // 4, 4)
        if min(self.size, width) < 1:
            raise ValueError(f"shape={shape}, width={width}: each has to be 1 at least")
        self.add_embeddings(features)
        self.stem = nn.Linear(self.size, width)
        self.blocks = nn.ModuleList(MLPBlock(width, 4 * features, dropout) for _ in range(blocks))
        self.head = nn.Linear(width, self.size)
        joins = condition_input and (labels or conditions)
        self.join = nn.Linear(4 * features, width, bias=False) if joins else None
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self,
        x: Samples,
        cond: Real[Tensor, "batch"] | None = None,
        condition: RowCondition = None,
    ) -> Samples:
        """Return F of a batch: one conditioning number a sample (default 0), and conditions."""
        if x.shape[1:] != self.shape:
            raise ValueError(
                f"x is a batch of {tuple(x.shape[1:])}, but the network was built for {self.shape}"
            )
        cond = x.new_zeros(len(x)) if cond is None else cond
        vector = self.conditions.sum_vectors(self.label, condition, len(x))
        embedding, h = self.embedding(cond, vector), self.stem(x.reshape(len(x), self.size))
        if self.join is not None:
            h = h + self.join(vector)
        for block in self.blocks:
            h = block(h, embedding)
        out: Tensor = self.head(h)
        return out.view(x.shape)


class MLPBlock(nn.Module):
    """Two layers and a shortcut, conditioned on the noise level by the norm before them."""

    def __init__(self, width: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.film = nn.Linear(embedding, 2 * width)
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, h: Float[Tensor, "batch width"], embedding: Float[Tensor, "rows size"]
    ) -> Float[Tensor, "batch width"]:
        """Return the block's output, given φ of the embedded noise level, one row or a batch."""
        gain, bias = self.film(embedding).chunk(2, dim=1)
        branch = F.silu(self.first((1 + gain) * self.norm(h) + bias))
        out: Tensor = h + self.second(self.dropout(branch))
        return out
