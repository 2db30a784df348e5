"""What is kept of a stream of samples: moments of all, the first rows of them, and no more.

Memory is that of a few d × d matrices and of `KEPT` rows, however many samples come. The moments of
a data set are kept in a file, by the content of the data and of what made the features.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import checkpoint, distributed
from ..data import Part, Source, all_samples
from ..metrics import Moments
from .features import Features

KEPT, HELD = 10_000, 2**26
"""Samples that are kept for what looks at pairs of them, at most; and their numbers, 256 MB."""
WIDEST = 2048
"""Features of which a covariance is still computed."""
BATCH = 250


def parts_of(size: int) -> int:
    """Of the jackknife; each costs a covariance."""
    return 20 if size <= 512 else 5


@dataclass(frozen=True, eq=False)
class Gathered:
    """What is known of a set of samples.

    Attributes:
        n: How many came.
        parts: Moments of the features of every k-th, every k-th after the first, and so on; none
            where there are too many features.
        index: The numbers of the first samples,
        x: these samples,
        features: and their features.
        probabilities: Of their classes, if the features know any.
    """

    n: int
    parts: tuple[Moments, ...]
    index: Int[Tensor, "kept"]
    x: Float[Tensor, "kept *shape"]
    features: Float[Tensor, "kept size"]
    probabilities: Float[Tensor, "kept classes"] | None

    @property
    def moments(self) -> Moments:
        """Of all."""
        return reduce(Moments.merge, self.parts)

    def without(self, left: int) -> Moments:
        """Of all but one part."""
        return reduce(Moments.merge, (p for i, p in enumerate(self.parts) if i != left))


@dataclass(frozen=True, eq=False)
class Reference:
    """What samples are held against.

    Attributes:
        about: Data set, split and number.
        n: How many.
        moments: Of the features of all, None where there are too many features.
        features: Of some.
        probabilities: Of their classes.
    """

    about: str
    n: int
    moments: Moments | None
    features: Float[Tensor, "kept size"]
    probabilities: Float[Tensor, "kept classes"] | None


def gather(
    batches: Iterable[tuple[int, Tensor]], features: Features, *, kept: int = KEPT
) -> Gathered:
    """Look at batches, each with the number of its first sample.

    Args:
        batches: of samples.
        features: in which they are seen.
        kept: how many of the first samples are held, if they have few numbers.
    """
    n, parts = 0, list[Moments]()
    index, x, seen, classes = (list[Tensor]() for _ in range(4))
    for first, batch in batches:
        found, probabilities = features.extract(batch)
        size = found.shape[1]
        if not n and size <= WIDEST:
            parts = [Moments()] * parts_of(size)
        for i in range(min(len(parts), len(found))):
            part = (first + i) % len(parts)
            parts[part] = parts[part].update(found[i :: len(parts)])
        few = max(0, min(kept, HELD // max(size, batch[0].numel())) - first)
        index.append(torch.arange(first, first + len(batch))[:few])
        # copied, for a view would hold the whole batch
        x.append(batch[:few].clone())
        seen.append(found[:few].clone())
        classes += [] if probabilities is None else [probabilities[:few].clone()]
        n += len(batch)
    if not n:
        raise ValueError("batches is empty: there is nothing to look at")
    rows, samples, found = (torch.cat(each) for each in (index, x, seen))
    return Gathered(n, tuple(parts), rows, samples, found, _joined(classes))


def together(share: Gathered) -> Gathered:
    """What all processes have seen, in each of them."""
    return merged(distributed.all_gather(share))


def merged(shares: Sequence[Gathered]) -> Gathered:
    """What several processes have seen, each of batches of its own, as if one had seen it all."""
    each = zip(*(share.parts for share in shares), strict=True)
    index = torch.cat([share.index for share in shares])
    order = index.argsort()
    classes = _joined([s.probabilities for s in shares if s.probabilities is not None])
    return Gathered(
        sum(share.n for share in shares),
        tuple(reduce(Moments.merge, same) for same in each),
        index[order],
        torch.cat([share.x for share in shares])[order],
        torch.cat([share.features for share in shares])[order],
        None if classes is None else classes[order],
    )


def _joined(parts: list[Tensor]) -> Tensor | None:
    return torch.cat(parts) if parts else None


def batches_of(source: Source, limit: int | None = None) -> Iterable[tuple[int, Tensor]]:
    """The samples of a source in batches, as `gather` takes them; of a limit, some at random."""
    rows = torch.arange(len(source))
    if limit is not None:
        chance = torch.Generator().manual_seed(0)
        rows = torch.randperm(len(source), generator=chance)[:limit]
    for i, part in enumerate(torch.split(rows, BATCH)):
        yield i * BATCH, all_samples(Part(source, part))


def reference_of(source: Source, about: str, features: Features, cache: Path | None) -> Reference:
    """A data set as reference, its moments from the cache if they are there.

    Args:
        source: the samples.
        about: what they are.
        features: in which they are seen.
        cache: a folder; None for no cache.
    """
    rows = all_samples(source, min(KEPT, max(HELD // source.shape.numel(), 1)))
    found = [features.extract(part) for part in torch.split(rows, BATCH)]
    seen = torch.cat([part for part, _ in found])
    classes = _joined([part for _, part in found if part is not None])
    moments = None
    if seen.shape[1] <= WIDEST:
        moments = _cached(source, features, cache, lambda: gather(batches_of(source), features))
    return Reference(f"{about}, {len(source)} samples", len(source), moments, seen, classes)


def cache_folder() -> Path:
    """Where statistics of data sets are kept, by the custom of the system's users."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scorefield"


def _cached(
    source: Source, features: Features, cache: Path | None, count: Callable[[], Gathered]
) -> Moments:
    if cache is None:
        return count().moments
    path = cache / f"moments-{content(source, features)}.safetensors"
    with suppress(ValueError, KeyError, OSError):  # damaged, it is computed and written anew
        stored = checkpoint.read_stored(path)
        n, tensors = stored.about["n"], stored.tensors
        return Moments(n, tensors["mean"], tensors["scatter"])
    moments = count().moments
    description = {"format": checkpoint.FORMAT, "about": {"n": moments.n, "of": features.about}}
    with suppress(OSError):  # where nothing can be written, it takes its time again
        checkpoint.write_stored(
            path, description, {"mean": moments.mean, "scatter": moments.scatter}
        )
    return moments


def content(source: Source, features: Features) -> str:
    """A hash of the samples and of what makes their features."""
    total = hashlib.sha256(f"1 {features.digest} {source.levels} {source.shape}".encode())
    for rows in torch.split(torch.arange(len(source)), BATCH):
        block = source.take(rows)[0].cpu().contiguous()
        total.update(f"{block.dtype}".encode())
        total.update(block.numpy().tobytes())
    return total.hexdigest()[:32]
