"""Batches are functions of (seed, step, position), whichever process or thread computes them."""

import itertools
import threading

import pytest
import torch
from scipy import stats
from waiting import SECONDS

from scorefield._ops import random_words
from scorefield.data import Arrays, Batches, Crops, LabelledBatch
from scorefield.data._random import DEQUANTISE, FLIP, ORDER


def _numbered(n, shape=(3, 4, 5)):
    """Random images, labelled by their index."""
    data = torch.randint(256, (n, *shape), generator=torch.Generator().manual_seed(1))
    return Arrays(data.byte(), torch.arange(n))


def _same(a, b):
    return torch.equal(a.x, b.x) and torch.equal(a.labels, b.labels)


@pytest.mark.parametrize(("n", "size"), [(7, 3), (10, 10), (5, 12), (1, 4), (64, 1)])
def test_each_epoch_visits_each_sample_once(n, size):
    batches = Batches(_numbered(n), size)
    labels = torch.cat([batches(step).labels for step in range(-(-4 * n // size))])
    epochs = labels[: 4 * n].view(4, n)
    assert torch.equal(epochs.sort(1).values, torch.arange(n).expand(4, n))
    if n > 8:
        assert len(epochs.unique(dim=0)) == 4


def test_orders_are_uniform_over_epochs_and_over_seeds():
    source = _numbered(4)
    for orders in (
        [Batches(source, 4)(step).labels for step in range(600)],
        [Batches(source, 4, seed=seed)(0).labels for seed in range(600)],
    ):
        counts = torch.stack(orders).unique(dim=0, return_counts=True)[1]
        assert len(counts) == 24
        assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_the_bits_of_a_batch_never_change():
    """A run that a later version resumes continues with the same batches."""
    data = (torch.arange(50 * 60) * 37 % 256).view(50, 3, 4, 5).byte()
    x, labels = Batches(Arrays(data, torch.arange(50)), 16, seed=3, flip=True)(0)
    assert labels[:6].tolist() == [19, 4, 38, 34, 46, 47]
    assert (x[0, 0, 0, :3].double() * 2**24).tolist() == [12845511, 15307783, 976949]


def test_no_random_word_is_used_twice():
    """For another seed, use, step, row or block; otherwise the noise of one step would repeat."""
    cpu, words = torch.device("cpu"), []
    for seed, use, step in itertools.product((0, 1, 2**32), (0, ORDER, FLIP, DEQUANTISE), range(5)):
        a, b, c, d = random_words(seed, range(3, 8), 20, use, step, cpu)
        words += [a << 32 | b, c << 32 | d]
    assert len(torch.cat(words).unique()) == torch.cat(words).numel()


@pytest.mark.parametrize("world", [2, 3, 6])
def test_the_shares_of_processes_make_up_the_batch(world):
    source = _numbered(20)
    for step in (0, 1, 9):  # batches 1 and 9 lie in two epochs
        shares = [Batches(source, 12, flip=True, rank=r, world=world)(step) for r in range(world)]
        x, labels = map(torch.cat, zip(*shares, strict=True))
        assert _same(LabelledBatch(x, labels), Batches(source, 12, flip=True)(step))


@pytest.mark.parametrize("source", [_numbered(20), Crops(_numbered(2, (3, 8, 8)).data, 6)])
def test_batches_of_a_source_on_a_device_are_those_of_a_cpu_without_a_copy(
    source, device, same, growth
):
    def run(place, steps):
        batches = Batches(source.to(place), 12, flip=True, device=place)
        return [batches(step) for step in range(steps)]

    same(lambda place: run(place, 6))
    assert not growth(lambda steps: run(device, steps))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_stream_is_the_batches_by_seed_and_step(workers):
    source = _numbered(50)
    batches = Batches(source, 16, seed=3, flip=True, workers=workers)
    stream = batches.stream(start=5)
    ahead = [next(stream) for _ in range(20)]
    torch.manual_seed(17)
    assert all(_same(ahead[step - 5], batches(step)) for step in (24, 7, 7, *range(5, 24)))
    stream.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("batches")]


def test_workers_read_ahead_by_two_batches_each():
    reads = threading.Semaphore(0)

    class Counting(Arrays):
        def take(self, index):
            reads.release()
            return super().take(index)

    stream = Batches(Counting(torch.rand(100, 2)), 4, workers=2).stream()
    next(stream)
    next(stream)
    assert all(reads.acquire(timeout=SECONDS) for _ in range(5))
    assert sum(reads.acquire(blocking=False) for _ in range(2)) <= 1
    stream.close()


@pytest.mark.parametrize("levels", [256, 17])
def test_dequantisation_is_uniform_and_independent_in_each_cell(levels):
    v = torch.arange(levels, dtype=torch.uint8).repeat(40).view(-1, 1, 1, 1)
    source = Arrays(v.expand(-1, 3, 5, 5).contiguous(), torch.arange(len(v)), levels)
    (x, rows), after = (Batches(source, len(v))(step) for step in (0, 1))
    byte = source.data[rows]
    # no point leaves its cell, not even the highest
    assert torch.equal((x * levels).floor().byte(), byte)
    assert x.max() < 1
    u = (x.double() * levels - byte).flatten(1)
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-3
    # nor is any number correlated with those next to it in row, batch and step: 4 standard errors
    w = (after.x.double() * levels - source.data[after.labels]).flatten(1)
    for a, b in ((u[:, 1:], u[:, :-1]), (u[1:], u[:-1]), (u, w)):
        r = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
        assert abs(r) < 4 / a.numel() ** 0.5


def test_flip_mirrors_a_random_half_of_the_images_and_changes_nothing_else():
    source = _numbered(2000)
    x, rows = Batches(source, 2000, flip=True, dequantise=False)(0)
    plain = (source.data[rows].float() + 0.5) / 256  # the middles of the cells
    same, mirrored = ((x == images).flatten(1).all(1) for images in (plain, plain.flip(3)))
    assert torch.equal(same, ~mirrored)
    assert abs(mirrored.float().mean() - 0.5) < 4 * 0.5 / 2000**0.5


def test_floats_are_unchanged():
    data = torch.randn(30, 3) * 100
    x, labels = Batches(Arrays(data), 30)(0)
    assert labels is None
    assert sorted(x.tolist()) == sorted(data.tolist())
    assert Batches(Arrays(data.double()), 5)(0).x.dtype == torch.float32


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (0, {}, "size=0"),
        (1, {"world": 2}, "size=1 with world=2"),
        (4, {"rank": 2, "world": 2}, "rank=2"),
        (4, {"seed": -1}, "seed=-1"),
        (4, {"workers": -1}, "workers=-1"),
        (4, {"flip": True}, "flip mirrors images"),
        (4, {}, "step=-1"),
    ],
)
def test_wrong_arguments_are_named(size, options, message):
    for call in (Batches.__call__, Batches.stream):
        with pytest.raises(ValueError, match=message):
            call(Batches(Arrays(torch.rand(10, 2)), size, **options), -1)
