"""Conditions of a network: a class, vectors and images by name, any of which may be left out.

    class    e ← e + E_k
    vector   e ← e + W·(v − m)/s
    image    x ← [x, (y − m)/s]

e is the embedded noise level before its last φ, and an image is scaled to the size of x and takes
channels of its own. m and s are those of the training data. A condition is withheld at random in
training, for classifier-free guidance (Ho & Salimans 2022, algorithm 1). Without it, a class and a
vector have a trained vector in its place, and an image is its mean.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Real
from torch import Tensor, nn

from .._ops import RowCondition, wide
from .embedding import Embedding
from .images import Images

LABEL = "label"
"""Name of the class among other conditions."""
PREFIX = "given_"
"""Begins a module's attribute, because torch refuses names such as `train` and `type`."""


class LabelEmbedding(nn.Module):
    """A trained vector for each class and for none, which training gives to a share `dropout`."""

    def __init__(self, labels: int, size: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.table = nn.Embedding(labels + 1, size)
        self.labels, self.dropout = labels, dropout

    def forward(self, label: Int[Tensor, "batch"]) -> Float[Tensor, "batch size"]:
        """Return the vectors of a batch of classes; class `labels` means no class."""
        if self.training and self.dropout > 0:
            label = torch.where(_toss(label, self.dropout), self.labels, label)
        return F.embedding(label, self.table.weight)


class Standardise(nn.Module):
    """(v − m)/s, with m and s of the training data, and the share that training withholds."""

    mean: Tensor
    scale: Tensor

    def __init__(self, shape: Sequence[int], moments: Sequence[int], *, dropout: float) -> None:
        super().__init__()
        self.shape, self.dropout = tuple(shape), dropout
        self.register_buffer("mean", torch.zeros(moments))
        self.register_buffer("scale", torch.ones(moments))

    def fit(self, values: Float[Tensor, "n *shape"]) -> None:
        """Set m and s to mean and standard deviation, of each number of a vector or of images."""
        rows = wide(values.detach()).reshape(-1, *self.mean.shape)
        spread = rows.std(0, correction=0)
        self.mean.copy_(rows.mean(0))
        self.scale.copy_(torch.where(spread > 0, spread, 1.0))

    def standardise(self, values: Tensor, like: Tensor) -> Tensor:
        """Return (v − m)/s in another tensor's type."""
        return ((values - self.mean) / self.scale).to(like.dtype)

    def withhold(self, values: Tensor, instead: Tensor | float) -> Tensor:
        """Replace the values of a share of the rows while training."""
        if not self.training or self.dropout == 0:
            return values
        rows = _toss(values.flatten(1)[:, :1], self.dropout)
        return torch.where(rows.view(-1, *[1] * (values.ndim - 1)), instead, values)


class VectorCondition(Standardise):
    """A linear map of a vector, and a vector in its place, which starts at 0."""

    def __init__(self, shape: Sequence[int], size: int, *, dropout: float) -> None:
        super().__init__(shape, [math.prod(shape)], dropout=dropout)
        self.weight = nn.Parameter(torch.empty(size, math.prod(shape)))
        self.absent = nn.Parameter(torch.zeros(size))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # as nn.Linear does

    def forward(self, values: Tensor | None, batch: int) -> Float[Tensor, "batch size"]:
        """Return the vectors to add to the embedding."""
        if values is None:
            return self.absent.expand(batch, -1)
        vectors = F.linear(self.standardise(values.flatten(1), self.weight), self.weight)
        return self.withhold(vectors, self.absent)


class ImageCondition(Standardise):
    """An image or a signal for channels of its own, or 0 in its place."""

    def __init__(self, shape: Sequence[int], *, dropout: float) -> None:
        super().__init__(shape, [], dropout=dropout)

    def forward(self, values: Tensor | None, x: Images) -> Images:
        """Return the channels to add to x."""
        if values is None:
            return x.new_zeros(len(x), self.shape[0], *x.shape[2:])
        image = self.standardise(values, x)
        if image.shape[2:] != x.shape[2:]:
            mode = {3: "linear", 4: "bilinear", 5: "trilinear"}[x.ndim]
            image = F.interpolate(image, x.shape[2:], mode=mode, align_corners=False)
        return self.withhold(image, 0.0)


class Conditions(nn.Module):
    """The vectors and images of a network, by name; images are those with as many axes as x.

    `withhold` is the share of a training batch that lacks a condition, `dropout` by default.
    """

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        size: int,
        *,
        dropout: float,
        withhold: Mapping[str, float],
        axes: int | None = None,
    ) -> None:
        super().__init__()
        check_shapes(shapes, withhold, axes)
        for name, shape in shapes.items():
            share = withhold.get(name, dropout)
            part: Standardise = (
                ImageCondition(shape, dropout=share)
                if len(shape) == axes
                else VectorCondition(shape, size, dropout=share)
            )
            self.add_module(f"{PREFIX}{name}", part)
        self.names = tuple(shapes)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, name: str) -> Any:
        return getattr(self, f"{PREFIX}{name}")

    @property
    def channels(self) -> int:
        """Number of channels that images take."""
        parts = [self[name] for name in self.names]
        return sum(part.shape[0] for part in parts if isinstance(part, ImageCondition))

    def sum_vectors(
        self, table: LabelEmbedding | None, condition: RowCondition, batch: int
    ) -> Float[Tensor, "batch size"] | float:
        """Return the sum of the vectors of classes and vectors, for an `Embedding`; 0 if none."""
        values = self._read(condition, batch)
        total = class_vectors(table, values.pop(LABEL, None), batch)
        for name in self.names:
            if isinstance(part := self[name], VectorCondition):
                total = total + part(values.get(name), batch)
        return total

    def join(self, x: Images, condition: RowCondition) -> Images:
        """Return x with the images on further channels."""
        values = condition if isinstance(condition, Mapping) else {}
        parts = [name for name in self.names if isinstance(self[name], ImageCondition)]
        images = [self[name](values.get(name), x) for name in parts]
        return torch.cat([x, *images], 1) if images else x

    def _read(self, condition: RowCondition, batch: int) -> dict[str, Tensor]:
        """Return the values by name, after a check of names and shapes."""
        if not isinstance(condition, Mapping):
            return {} if condition is None else {LABEL: condition}
        for name, value in condition.items():
            if name == LABEL:
                continue
            if name not in self.names:
                names = ", ".join(self.names) or "none"
                raise ValueError(f"condition {name!r:.80}: the network has {names}")
            part = self[name]
            free = len(part.shape) - 1 if isinstance(part, ImageCondition) else 0
            wanted = (batch, *part.shape)
            fixed = len(wanted) - free
            if value.ndim != len(wanted) or tuple(value.shape[:fixed]) != wanted[:fixed]:
                raise ValueError(
                    f"condition {name!r:.80} has shape {tuple(value.shape)}: give "
                    f"{part.shape}, or one for each of {batch} samples"
                )
        return dict(condition)


class ConditionalNetwork(nn.Module):
    """A network of x that is conditioned on the noise level, a class and other values."""

    arguments: dict[str, Any]

    def add_embeddings(
        self, features: int, axes: int | None = None, *, early: bool = False
    ) -> None:
        """Add the layers for the noise level and the conditions that the arguments describe."""
        own, scale = self.arguments, self.arguments["fourier_scale"]
        labels, share = own["labels"], own["label_dropout"]
        self.embedding = Embedding(own["embedding"], features, fourier_scale=scale, early=early)
        size = self.embedding.hidden.in_features if early else 4 * features
        self.label = LabelEmbedding(labels, size, dropout=share) if labels else None
        self.conditions = Conditions(
            own["conditions"], size, dropout=share, withhold=own["withhold"], axes=axes
        )

    def embed_conditions(
        self, cond: Real[Tensor, "batch"], condition: RowCondition
    ) -> Float[Tensor, "rows size"]:
        """Return φ of the embedded noise level and condition of each sample."""
        vectors = self.conditions.sum_vectors(self.label, condition, len(cond))
        embedding: Tensor = self.embedding(cond, vectors)
        return embedding


def check_shapes(
    shapes: Mapping[str, Sequence[int]], withhold: Mapping[str, float], axes: int | None
) -> None:
    """Refuse shapes that are neither those of vectors nor of images, and shares beyond [0, 1]."""
    for name, shape in shapes.items():
        kinds = "[size]" if axes is None else f"[size], or {axes} numbers for an image or a signal"
        fits = axes is None or len(shape) in (1, axes)
        if name == LABEL or "." in name:
            raise ValueError(
                f"conditions.{name}={shape}: rename the condition, which takes the name of its "
                f"folder, array or column: a name is without a dot, and {LABEL} is that of classes"
            )
        if not fits or not shape or min(shape) < 1:
            raise ValueError(f"conditions.{name}={shape}: give the shape {kinds}")
    for name, share in withhold.items():
        if name not in shapes or not 0 <= share <= 1:
            raise ValueError(
                f"withhold.{name}={share}: give a fraction, from 0 to 1, for one of the conditions "
                f"{', '.join(shapes) or '(there are none)'}"
            )


def class_vectors(
    table: LabelEmbedding | None, label: Int[Tensor, "batch"] | None, batch: int
) -> Float[Tensor, "batch size"] | float:
    """Return the vectors of classes, or of no class; 0 without a table."""
    if table is None:
        if label is not None:
            raise ValueError("the network has no classes: build it with labels=their number")
        return 0.0
    if label is None:
        label = torch.full((batch,), table.labels, device=table.table.weight.device)
    # not on a GPU, which the check would have to wait for, nor in a compiler
    elif label.device.type == "cpu" and len(label) > 0 and not torch.compiler.is_compiling():
        lowest, highest = (int(end) for end in label.aminmax())
        if lowest < 0 or highest >= table.labels:
            raise ValueError(
                f"labels from {lowest} to {highest}: the network has {table.labels} classes, 0 to "
                f"{table.labels - 1}; leave label out for samples without a class"
            )
    vectors: Tensor = table(label)
    return vectors


def _toss(rows: Tensor, share: float) -> Bool[Tensor, "*rows"]:
    """Return True for a random share of the rows."""
    return torch.rand(rows.shape, device=rows.device) < share
