"""Samples reduced as they come: moments of all of them, and the first rows.

Memory is that of a few d × d matrices and of `MAX_KEPT` rows, for any number of samples. The
moments of a data set are cached in a file, by the content of the data and of the features.
"""

import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import checkpoint, distributed
from ..data import Part, Source, all_samples
from ..metrics import Moments
from ..model import ScoreModel
from ..sample import Plan, chains, count_evaluations, describe_broken
from ..samplers import State, every
from ..show.progress import progress
from .features import Features

MAX_KEPT = 10_000
"""Most samples that are kept, for the figures that compare pairs of samples."""
MAX_KEPT_NUMBERS = 2**26
"""Most numbers of these samples: 256 MB."""
MAX_FEATURES = 2048
"""Most features of which a covariance is computed."""
READ_BATCH = 250
"""Real samples that are read at a time."""
FRAMES = 40
"""Approximate number of states of a chain that are kept."""


@dataclass(frozen=True, eq=False)
class Gathered:
    """A set of n samples, reduced."""

    n: int
    # moments of the features of samples i, i + k, i + 2k … for i from 0 to k − 1; empty if there
    # are more than `MAX_FEATURES` features
    parts: tuple[Moments, ...]
    x: Float[Tensor, "kept *shape"]  # the first samples
    features: Float[Tensor, "kept size"]  # of these
    probabilities: Float[Tensor, "kept classes"] | None = None  # if the features have any
    seconds: float = 0.0  # time that sampling took
    evaluations: Counter[int] = field(default_factory=Counter)  # samples by theirs of the score
    states: Sequence[State] = ()  # some of the first samples' chains, in rank 0

    @property
    def moments(self) -> Moments:
        """Moments of all samples."""
        return reduce(Moments.merge, self.parts)

    def without(self, left: int) -> Moments:
        """Return the moments without one part, for the jackknife."""
        return reduce(Moments.merge, (p for i, p in enumerate(self.parts) if i != left))


def jackknife_parts(size: int) -> int:
    """Return the number of jackknife parts for a number of features; each costs a covariance."""
    return 20 if size <= 512 else 5


def gather_features(
    batches: Iterable[tuple[int, Tensor]], features: Features, *, shared: bool = False
) -> Gathered:
    """Reduce batches of samples, each given with the index of its first sample.

    With `shared`, several processes give different batches, and all get the whole.
    """
    n, parts, rows = 0, list[Moments](), list[tuple[int, list[Tensor]]]()
    for first, batch in batches:
        value, probabilities = features.extract(batch)
        size = value.shape[1]
        if not n and size <= MAX_FEATURES:
            parts = [Moments()] * jackknife_parts(size)
        for i in range(min(len(parts), len(value))):
            part = (first + i) % len(parts)
            parts[part] = parts[part].update(value[i :: len(parts)])
        few = max(0, min(MAX_KEPT, MAX_KEPT_NUMBERS // max(size, batch[0].numel())) - first)
        tensors = [batch, value] if probabilities is None else [batch, value, probabilities]
        rows.append((first, [x[:few].clone() for x in tensors]))  # a view would keep all of it
        n += len(batch)
    if not n:
        raise ValueError("batches is empty: give at least one batch of samples")
    shares = distributed.all_gather((n, parts, rows)) if shared else [(n, parts, rows)]
    counts, moments, kept_rows = zip(*shares, strict=True)
    ordered = sorted(chain.from_iterable(kept_rows), key=itemgetter(0))
    x, values, *classes = map(torch.cat, zip(*(row for _, row in ordered), strict=True))
    merged = (reduce(Moments.merge, same) for same in zip(*moments, strict=True))
    return Gathered(sum(counts), tuple(merged), x, values, classes[0] if classes else None)


def gather_samples(
    model: ScoreModel,
    n: int,
    plan: Plan,
    features: Features,
    *,
    seed: int = 0,
    batch: int = 256,
    label: Int[Tensor, "n"] | None = None,
    bar: bool = False,
) -> Gathered:
    """Sample a model as `sample` does, and reduce the samples batch by batch; `bar` shows a bar."""
    parts = chains(model, n, plan, seed=seed, label=label, batch=batch)
    states: Iterator[tuple[int, State]]
    counts = Counter[int]()
    counted = ((first, count_evaluations(yielded, counts)) for first, yielded in parts)
    states = ((first, state) for first, yielded in counted for state in yielded)
    if bar:
        own = len(distributed.shard(range(0, n, batch)))
        states = progress(states, own * plan.states, f"   {plan.name}")
    interval, shown, seconds = max(plan.states // FRAMES, 1), list[State](), 0.0

    def batches() -> Iterator[tuple[int, Tensor]]:
        nonlocal seconds
        start = time.perf_counter()
        for first, pairs in groupby(states, key=itemgetter(0)):
            for state in every((state for _, state in pairs), interval):
                if first == 0:
                    few = min(32, max(4, 2**17 // state.x[0].numel()))  # fewer large ones
                    x, denoised = (z[:few].clone() for z in (state.x, state.denoised))
                    shown.append(State(x, state.sigma, denoised, state.step))
            x = state.x.cpu()
            seconds += time.perf_counter() - start
            if problem := describe_broken(x, f" by {plan.name}"):
                raise ValueError(problem)
            yield first, x
            start = time.perf_counter()

    gathered = gather_features(batches(), features, shared=True)
    tensors = zip(*((state.x, state.denoised) for state in shown), strict=True)
    frames = zip(shown, *(torch.stack(same).cpu() for same in tensors), strict=True)
    shown = [state._replace(x=x, denoised=denoised) for state, x, denoised in frames]
    seconds = max(distributed.all_gather(seconds))
    counts = sum(distributed.all_gather(counts), Counter())
    return replace(gathered, seconds=seconds, evaluations=counts, states=shown)


def source_batches(
    source: Source, rows: Int[Tensor, "n"] | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Yield the samples of a source, or some of its rows, as `gather_features` takes them."""
    rows = torch.arange(len(source)) if rows is None else rows
    for i, part in enumerate(torch.split(rows, READ_BATCH)):
        yield i * READ_BATCH, all_samples(Part(source, part)).cpu()


def reference_of(source: Source, features: Features, cache: Path | None = None) -> Gathered:
    """Reduce real samples; the moments of many come from the folder `cache`, if there is one."""
    count = min(MAX_KEPT, max(MAX_KEPT_NUMBERS // source.shape.numel(), 1), len(source))
    x = torch.split(all_samples(source, count).cpu(), READ_BATCH)
    some = gather_features(((i * READ_BATCH, part) for i, part in enumerate(x)), features)
    if some.parts and count < len(source):
        some = replace(some, parts=(_cached_moments(source, features, cache),))
    return replace(some, n=len(source))


def cache_folder() -> Path:
    """Return the folder of cached moments."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scorefield"


def _cached_moments(source: Source, features: Features, cache: Path | None) -> Moments:
    path = cache and cache / f"moments-{content_hash(source, features)}.safetensors"
    # a damaged file is written again, and a cache that cannot be written is not an error
    with suppress(ValueError, KeyError, OSError):
        if path:
            stored = checkpoint.read_tensors(path)
            return Moments(stored.about["n"], stored.tensors["mean"], stored.tensors["scatter"])
    moments = gather_features(source_batches(source), features).moments
    about = {"format": checkpoint.FORMAT, "about": {"n": moments.n, "of": features.about}}
    with suppress(OSError):
        if path:
            tensors = {"mean": moments.mean, "scatter": moments.scatter}
            checkpoint.write_tensors(path, about, tensors)
    return moments


def content_hash(source: Source, features: Features) -> str:
    """Return a hash of the samples and of the features."""
    total = hashlib.sha256(f"2 {features.about} {source.levels} {source.shape}".encode())
    for rows in torch.split(torch.arange(len(source)), READ_BATCH):
        block = source.take(rows)[0].cpu().contiguous()
        total.update(f"{block.dtype}".encode())
        total.update(block.numpy().tobytes())
    return total.hexdigest()[:32]
