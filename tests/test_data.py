"""Data sets by name, and sources.

Toys are bounded by 4 or 4.5 standard errors, or by p > 10⁻³, at fixed seeds.
"""

import zlib

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits, load_sample_images
from standins import all_rows

from scorefield.data import (
    DATASETS,
    Arrays,
    Batches,
    Crops,
    Part,
    all_samples,
    load_data,
    tensor_data,
)


def test_digits_are_scikit_learns_with_a_fixed_fifth_of_each_class_held_out():
    data, truth = load_data("digits"), load_digits()
    assert (len(data.train), len(data.test), data.kind) == (1437, 360, "images")
    assert data.classes == tuple("0123456789")
    line = "<Dataset 'digits': 1437 samples of 1 × 8 × 8 numbers, 360 held out, 10 classes>"
    assert str(data) == repr(data) == line
    parts = all_rows(data.train), all_rows(data.test)
    images, labels = (torch.cat(both).numpy() for both in zip(*parts, strict=True))
    rows = np.column_stack([images.reshape(1797, 64), labels])
    expected = np.column_stack([truth.data, truth.target])
    assert (rows[np.lexsort(rows.T)] == expected[np.lexsort(expected.T)]).all()
    share = data.test.labels.bincount() / torch.from_numpy(truth.target).bincount()
    assert (share - 0.2).abs().max() < 1 / 170
    # the same rows in every version, or results could not be compared
    assert zlib.crc32(data.test.data.numpy().tobytes()) == 2533240576


def test_photos_hold_out_the_right_fifth():
    data = load_data("photos", side=32)
    truth = torch.from_numpy(np.stack(load_sample_images().images)).permute(0, 3, 1, 2)
    assert (len(data.train), len(data.test)) == (2 * 396 * 481, 2 * 396 * 97)
    for part, start, end in ((data.train, 0, 512), (data.test, 512, 640)):
        crops, labels = part.take(torch.tensor([0, len(part) - 1]))
        assert labels is None
        assert torch.equal(crops[0], truth[0, :, :32, start : start + 32])
        assert torch.equal(crops[1], truth[1, :, -32:, end - 32 : end])


def test_crops_are_all_squares():
    images = torch.randint(256, (2, 3, 5, 7)).byte()
    crops = Crops(images, 3)
    expected = [p[:, i : i + 3, j : j + 3] for p in images for i in range(3) for j in range(5)]
    assert len(crops) == len(expected) == 30
    assert torch.equal(crops.take(torch.arange(30))[0], torch.stack(expected))
    assert crops.shape == (3, 3, 3)


@pytest.mark.parametrize("name", ["mixture", "checkerboard", "subspace"])
def test_toys_follow_their_oracle(name):
    data = load_data(name, n=20_000)
    prior, x = data.oracle.prior, all_samples(data.train).double()
    spread = prior.dense.double().diagonal().clamp(min=1e-12).sqrt()
    assert ((x.mean(0) - prior.mean).abs() < 4.5 * spread / 20_000**0.5).all()
    bound = 4.5 * 1.5 * torch.outer(spread, spread) / 20_000**0.5
    assert ((x.T.cov() - prior.dense).abs() < bound + 1e-6).all()
    # Stein's identity: E[x·s(x)] = −D for any distribution
    noisy = data.oracle.sample(20_000, 0.3)
    product = (noisy * data.oracle(noisy, 0.3)).sum(1)
    assert abs(product.mean() + x.shape[1]) < 4.5 * product.std() / 20_000**0.5


def test_checkerboard_is_uniform_on_black_and_empty_on_white():
    x = all_samples(load_data("checkerboard").train)
    i, j = ((x + 4) / 2).floor().long().T
    assert ((i + j) % 2 == 0).all()
    assert stats.chisquare((4 * i + j).unique(return_counts=True)[1]).pvalue > 1e-3
    assert stats.kstest(((x[:, 0] + 4) / 2 % 1).numpy(), "uniform").pvalue > 1e-3


def test_rings_are_three_equally_likely_circles():
    x = all_samples(load_data("rings").train).double()
    radius, angle = x.norm(dim=1), torch.atan2(*x.T)
    nearest = radius.round()
    assert stats.chisquare(nearest.unique(return_counts=True)[1]).pvalue > 1e-3
    assert nearest.unique().tolist() == [1, 2, 3]
    assert (radius - nearest).std().item() == pytest.approx(0.08, rel=4.5 * (2 * len(x)) ** -0.5)
    assert stats.kstest(angle.numpy() / (2 * np.pi) + 0.5, "uniform").pvalue > 1e-3


def test_spirals_are_two_arms_of_even_density():
    x = all_samples(load_data("spirals").train).double()
    radius, angle = x.norm(dim=1), torch.atan2(x[:, 1], x[:, 0])
    # r = θ/π on one arm; on the other θ is half a turn further, so r = θ/π − 1 at the same angle
    turn = radius - angle / torch.pi
    distance = (turn - turn.round()) / (1 + (np.pi * radius) ** -2).sqrt()  # normal to the arm
    assert distance.std().item() == pytest.approx(0.08, rel=4.5 * (2 * len(x)) ** -0.5)
    arm = turn.round() % 2
    assert abs(arm.mean() - 0.5) < 4 * 0.5 / len(x) ** 0.5
    theta = (torch.pi * (radius - turn + turn.round())).clamp(np.pi / 2, 3 * np.pi)
    length = theta * (1 + theta**2).sqrt() + torch.asinh(theta)
    share = (length - length.min()) / (length.max() - length.min())
    # p = 10⁻³ at 1.95/√n; θ², which is uniform, differs from the share of the length by 0.0075
    assert stats.kstest(share.numpy(), "uniform").statistic < 1.95 / len(x) ** 0.5 + 0.0075


@pytest.mark.parametrize("name", ["rings", "spirals", "checkerboard", "mixture", "subspace"])
def test_toys_are_a_function_of_their_seed(name):
    one, two, other = load_data(name, n=500), load_data(name, n=500), load_data(name, n=500, seed=1)
    assert torch.equal(one.train.data, two.train.data)
    assert not torch.equal(one.train.data, other.train.data)
    assert (len(one.train), len(one.test), one.kind) == (500, 50, "vectors")
    assert torch.cdist(one.train.data, one.test.data).min() > 0  # no test sample is trained on


def test_signals_have_the_covariance_of_the_process():
    """x_t = a·x_{t−1} + b·x_{t−2} + e by its recursion, started 376 steps earlier."""
    a, b = 2 * 0.95 * np.cos(np.pi / 8), -(0.95**2)
    e = np.random.default_rng(0).normal(size=(400, 20_000))
    for t in range(2, 400):
        e[t] += a * e[t - 1] + b * e[t - 2]
    cov = load_data("signals", n=10, length=24).oracle.prior.dense.numpy()
    assert np.abs(np.corrcoef(e[-24:]) - cov).max() < 4.5 / 20_000**0.5


def test_all_samples_are_the_middles_of_cells_or_a_fixed_choice():
    data = torch.randint(17, (2500, 1, 2, 2)).byte()
    assert torch.equal(all_samples(Arrays(data, levels=17)), (data.float() + 0.5) / 17)
    vectors = torch.randn(2500, 3)
    assert torch.equal(all_samples(Arrays(vectors)), vectors)
    some = all_samples(Arrays(vectors), limit=100)
    assert torch.equal(some, all_samples(Arrays(vectors), limit=100))
    assert len(some.unique(dim=0)) == 100
    assert set(map(tuple, some.tolist())) <= set(map(tuple, vectors.tolist()))


def test_a_part_has_some_of_the_rows():
    whole = Arrays(torch.arange(20.0).view(10, 2), torch.arange(10), levels=9)
    part = Part(whole, torch.tensor([7, 2, 5]))
    x, labels = part.take(torch.tensor([2, 0]))
    assert (x[:, 0].tolist(), labels.tolist()) == ([10, 14], [5, 7])
    assert (len(part), part.shape, part.levels) == (3, (2,), 9)
    assert Batches(part, 3, device="meta")(0).x.device.type == "meta"


@pytest.mark.parametrize("name", ["digits", "photos", "rings"])
def test_data_in_memory_move_to_a_device_as_they_are(name):
    moved = load_data(name).to("meta")
    for part in (moved.train, moved.test):
        x, labels = part.take(torch.arange(3))
        assert x.device.type == "meta"
        assert x.dtype == (torch.float32 if name == "rings" else torch.uint8)
        assert labels is None or labels.device.type == "meta"


@pytest.mark.usefixtures("unchecked")
def test_wrong_names_labels_and_sizes_are_refused_with_a_hint():
    with pytest.raises(ValueError, match="'nowhere' is neither a folder") as error:
        load_data("nowhere")
    assert all(name in str(error.value) for name in DATASETS)
    for call, message in (
        (lambda: load_data("didgits"), "'didgits' is neither .*: did you mean digits"),
        (lambda: load_data(f"{__file__[:-8]}dtaa.py"), r"did you mean .*/test_data\.py\?"),
        (lambda: load_data("pictures/"), "'pictures/' does not exist: there are"),
        (lambda: load_data("no/such.csv"), "'no/such.csv' does not exist: no holds nothing"),
        (lambda: Arrays(torch.rand(4, 2), torch.arange(3)), "4 rows and 3 labels"),
        (lambda: Arrays(torch.rand(0, 2)), "0 rows"),
        (lambda: tensor_data(torch.rand(0, 2), torch.arange(0)), "for 0 samples"),
        (lambda: load_data("rings", n=0), "n=0"),
        (lambda: load_data("subspace", rank=16), "rank=16"),
        (lambda: load_data("subspace", size=10**6), r"a sample is 1e\+10 numbers, 37.3 GiB"),
        (lambda: load_data("subspace", size=10**6, rank=10**5), "size × rank is"),
        (lambda: load_data("signals", length=10**6), "the covariance, is .* 3.73e.03 GiB"),
        (lambda: load_data("rings", n=10**12), "within 1 GiB"),
        (lambda: all_samples(Arrays(torch.rand(4, 2)), limit=0), "limit=0"),
        (lambda: Crops(torch.zeros(2, 3, 5, 7).byte(), 6), r"side=6: .* from 1 to 5"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
