"""Named data, and what is made of a source."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits, load_sample_images

from scorefield import Prior
from scorefield.data import DATASETS, Arrays, Batches, Crops, Part, all_samples, load_data, moments


def _frechet(a, b):
    gap, (u, v) = a.mean(0) - b.mean(0), (a.T.cov(), b.T.cov())
    roots = torch.linalg.eigvals(u @ v).real.clamp(min=0).sqrt()
    return (gap.square().sum() + u.trace() + v.trace() - 2 * roots.sum()).item()


# ── Digits and photographs ───────────────────────────────────────────────────────────────────────


def test_digits_are_those_of_scikit_learn():
    data, truth = load_data("digits"), load_digits()
    assert (len(data.train), len(data.test), data.classes, data.kind) == (1437, 360, 10, "images")
    parts = [part.take(torch.arange(len(part))) for part in (data.train, data.test)]
    images, labels = (torch.cat(both).numpy() for both in zip(*parts, strict=True))
    found = np.column_stack([images.reshape(1797, 64), labels])
    expected = np.column_stack([truth.data, truth.target])
    assert (found[np.lexsort(found.T)] == expected[np.lexsort(expected.T)]).all()
    held = data.test.labels.bincount() / torch.from_numpy(truth.target).bincount()
    assert (held - 0.2).abs().max() < 1 / 170


def test_the_floor_of_digits():
    """360 digits to train on are 0.149 from the 360 held out, on average."""
    data, generator = load_data("digits"), torch.Generator().manual_seed(0)
    test = Batches(data.test, 360)(0).x.flatten(1).double()
    train = all_samples(data.train).flatten(1).double()
    draws = [torch.randperm(1437, generator=generator)[:360] for _ in range(30)]
    floor = np.mean([_frechet(train[rows], test) for rows in draws])
    assert floor == pytest.approx(0.149, abs=0.01)


def test_photos_hold_out_the_right_fifth():
    data = load_data("photos", side=32)
    truth = torch.from_numpy(np.stack(load_sample_images().images)).permute(0, 3, 1, 2)
    assert (len(data.train), len(data.test)) == (2 * 396 * 481, 2 * 396 * 97)
    for part, low, high in ((data.train, 0, 512), (data.test, 512, 640)):
        columns = high - low - 31
        for picture, row, column in ((0, 0, 0), (0, 395, columns - 1), (1, 200, columns - 1)):
            index = torch.tensor([(picture * 396 + row) * columns + column])
            (crop,), labels = part.take(index)
            left = low + column
            assert left + 32 <= high
            assert labels is None
            assert torch.equal(crop, truth[picture, :, row : row + 32, left : left + 32])


def test_crops_are_every_square():
    pictures = torch.randint(256, (2, 3, 5, 7)).byte()
    crops = Crops(pictures, 3)
    expected = [p[:, i : i + 3, j : j + 3] for p in pictures for i in range(3) for j in range(5)]
    assert len(crops) == len(expected) == 30
    assert torch.equal(crops.take(torch.arange(30))[0], torch.stack(expected))
    assert crops.shape == (3, 3, 3)
    with pytest.raises(ValueError, match=r"side=6: .* from 1 to 5"):
        Crops(pictures, 6)


# ── Toys ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["mixture", "checkerboard", "subspace"])
def test_toys_follow_their_oracle(name):
    data = load_data(name, n=20_000)
    prior, x = data.oracle.prior, all_samples(data.train).double()
    spread = prior.dense.double().diagonal().clamp(min=1e-12).sqrt()
    assert ((x.mean(0) - prior.mean).abs() < 4.5 * spread / 20_000**0.5).all()
    bound = 4.5 * 1.5 * torch.outer(spread, spread) / 20_000**0.5
    assert ((x.T.cov() - prior.dense).abs() < bound + 1e-6).all()
    # E ‖∇ log q‖² = −E tr ∇² log q: by Stein's identity E[x·s(x)] = −D, whatever the law
    noisy = data.oracle.sample(20_000, 0.3)
    product = (noisy * data.oracle(noisy, 0.3)).sum(1)
    assert abs(product.mean() + x.shape[1]) < 4.5 * product.std() / 20_000**0.5


def test_checkerboard_is_even_on_black_and_empty_on_white():
    x = all_samples(load_data("checkerboard").train)
    i, j = ((x + 4) / 2).floor().long().T
    assert ((i + j) % 2 == 0).all()
    assert stats.chisquare((4 * i + j).unique(return_counts=True)[1]).pvalue > 1e-3
    assert stats.kstest(((x[:, 0] + 4) / 2 % 1).numpy(), "uniform").pvalue > 1e-3


def test_subspace_is_a_plane():
    x = all_samples(load_data("subspace", size=10, rank=3).train)
    s = torch.linalg.svdvals(x.double()) / len(x) ** 0.5
    assert s[:3].tolist() == pytest.approx([1, 1, 1], abs=0.03)
    assert s[3:].max() < 1e-6


def test_rings_are_three_blurred_circles():
    x = all_samples(load_data("rings").train).double()
    radius, angle = x.norm(dim=1), torch.atan2(*x.T)
    nearest = radius.round()
    assert stats.chisquare(nearest.unique(return_counts=True)[1]).pvalue > 1e-3
    assert nearest.unique().tolist() == [1, 2, 3]
    assert (radius - nearest).std().item() == pytest.approx(0.08, rel=0.05)
    assert stats.kstest(angle.numpy() / (2 * np.pi) + 0.5, "uniform").pvalue > 1e-3


def test_spirals_are_two_arms_of_even_density():
    x = all_samples(load_data("spirals").train).double()
    radius, angle = x.norm(dim=1), torch.atan2(x[:, 1], x[:, 0])
    # r = θ/π on one arm; on the other θ is half a turn further, and r = θ/π − 1 at the same angle
    turn = radius - angle / torch.pi
    # the gap to the nearest arm is nearly normal to it, blurred by 0.08 along r = θ/π
    assert (turn - turn.round()).std().item() == pytest.approx(0.08, rel=0.1)
    arm = turn.round() % 2
    assert abs(arm.mean() - 0.5) < 4 * 0.5 / len(x) ** 0.5
    theta = (torch.pi * (radius - turn + turn.round())).clamp(np.pi / 2, 3 * np.pi)
    length = theta * (1 + theta**2).sqrt() + torch.asinh(theta)
    share = (length - length.min()) / (length.max() - length.min())
    assert stats.kstest(share.numpy(), "uniform").statistic < 0.03


@pytest.mark.parametrize("name", ["rings", "spirals", "checkerboard", "mixture", "subspace"])
def test_toys_are_the_same_each_time(name):
    one, two, other = load_data(name, n=500), load_data(name, n=500), load_data(name, n=500, seed=1)
    assert torch.equal(one.train.data, two.train.data)
    assert not torch.equal(one.train.data, other.train.data)
    assert (len(one.train), len(one.test), one.kind) == (500, 50, "vectors")
    # nothing that is held out is trained on
    assert torch.cdist(one.train.data, one.test.data).min() > 0


# ── Sources ──────────────────────────────────────────────────────────────────────────────────────


def test_everything_is_the_middle_of_each_cell():
    data = torch.randint(17, (2500, 1, 2, 2)).byte()
    assert torch.equal(all_samples(Arrays(data, levels=17)), (data.float() + 0.5) / 17)
    vectors = torch.randn(2500, 3)
    assert torch.equal(all_samples(Arrays(vectors)), vectors)
    some = all_samples(Arrays(vectors), limit=100)
    assert torch.equal(some, all_samples(Arrays(vectors), limit=100))
    assert len(some.unique(dim=0)) == 100
    assert set(map(tuple, some.tolist())) <= set(map(tuple, vectors.tolist()))
    with pytest.raises(ValueError, match="limit=0"):
        all_samples(Arrays(vectors), limit=0)


def test_moments_are_those_of_dequantised_data():
    data = load_data("digits").train
    prior = moments(data)
    x = torch.cat([Batches(data, 1437)(step).x for step in range(30)]).flatten(1).double()
    assert isinstance(prior, Prior)
    torch.testing.assert_close(prior.mean.flatten().double(), x.mean(0), rtol=0, atol=1e-3)
    torch.testing.assert_close(prior.cov.double(), x.T.cov(correction=0), rtol=0, atol=3e-4)
    # a pixel that is always black has the variance of its dequantisation alone
    assert prior.spectrum[1].min().item() == pytest.approx(1 / (12 * 17**2), rel=1e-2)


def test_a_part_is_some_of_the_rows():
    whole = Arrays(torch.arange(20.0).view(10, 2), torch.arange(10), levels=9)
    part = Part(whole, torch.tensor([7, 2, 5]))
    x, labels = part.take(torch.tensor([2, 0]))
    assert (x[:, 0].tolist(), labels.tolist()) == ([10, 14], [5, 7])
    assert (len(part), part.shape, part.levels) == (3, (2,), 9)
    assert part.to("meta") is part
    (batch, _) = Batches(part, 3, device="meta")(0)
    assert batch.device.type == "meta"


@pytest.mark.parametrize("name", ["digits", "photos", "rings"])
def test_small_data_goes_to_a_device_as_it_is(name):
    moved = load_data(name).to("meta")
    for part in (moved.train, moved.test):
        x, labels = part.take(torch.arange(3))
        assert x.device.type == "meta"
        assert x.dtype == (torch.float32 if name == "rings" else torch.uint8)
        assert labels is None or labels.device.type == "meta"


@pytest.mark.usefixtures("unchecked")
def test_arrays_need_a_label_for_each_sample():
    with pytest.raises(ValueError, match="4 rows beside 3 labels"):
        Arrays(torch.rand(4, 2), torch.arange(3))
    with pytest.raises(ValueError, match="0 rows"):
        Arrays(torch.rand(0, 2))


def test_an_unknown_name_is_told_the_known_ones():
    with pytest.raises(ValueError, match="'didgits' is neither a folder") as error:
        load_data("didgits")
    assert all(name in str(error.value) for name in DATASETS)
    for name in ("rings", "subspace"):
        with pytest.raises(ValueError, match="n=0"):
            load_data(name, n=0)
    with pytest.raises(ValueError, match="rank=16"):
        load_data("subspace", rank=16)
