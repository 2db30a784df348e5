"""Nearest neighbours, precision, recall, density, coverage and memorisation against the truth."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from scorefield.metrics import arguments
from scorefield.metrics.coverage import (
    crowding,
    density_coverage,
    nearest,
    neighbour_ratio,
    precision_recall,
)


@pytest.fixture(params=[None, 7])
def block(request, monkeypatch):
    """Rows of a block: as many as fit, or few, so that points of one set are in several."""
    if request.param is not None:
        monkeypatch.setattr(arguments, "BLOCK_ROWS", request.param)


def all_four(x, y, k):
    return (*precision_recall(x, y, k=k), *density_coverage(x, y, k=k))


@pytest.mark.usefixtures("block")
def test_nearest_against_sklearn():
    # far from zero, where ‖x‖² + ‖y‖² − 2xᵀy has no digits left in single precision
    x, y = torch.randn(40, 5) + 1e3, torch.randn(50, 5) + 1e3
    tree = NearestNeighbors(algorithm="kd_tree").fit(y.double().numpy())
    distances, indices = tree.kneighbors(x.double().numpy(), 4)
    neighbours, truth = nearest(x, y, 4), torch.from_numpy(distances)
    torch.testing.assert_close(neighbours.distances, truth, rtol=1e-12, atol=0)
    assert torch.equal(neighbours.indices, torch.from_numpy(indices))


def test_copies_and_mirrored_copies_are_at_exactly_zero():
    y = 255 * torch.rand(200, 300)
    order = torch.randperm(200)
    neighbours = nearest(y[order], y, 2)
    assert torch.equal(neighbours.distances[:, 0], torch.zeros(200).double())
    assert torch.equal(neighbours.indices[:, 0], order)
    assert (neighbours.distances[:, 1] > 0).all()
    # a difference in the last bit is not a copy
    other = y.clone()
    other[:, 0] = torch.nextafter(other[:, 0], torch.tensor(1e9))
    exact = (other[:, :1].double() - y[:, :1].double()).abs()
    assert torch.equal(nearest(other, y).distances, exact)


@pytest.mark.usefixtures("block")
def test_nearest_of_mirror_images():
    y = torch.rand(30, 2, 4, 5)
    x = torch.cat([y[:10].flip(-1), y[10:20], y[20:].flip(-2)]).requires_grad_()
    neighbours = nearest(x, y, 3, flips=True)
    assert not neighbours.distances.requires_grad
    assert (neighbours.distances[:20, 0] == 0).all()
    views = [view.flatten(1).double() for view in (x, x.flip(-1))]
    gaps = [(v[:, None] - y.flatten(1).double()).norm(dim=-1) for v in views]
    truth = torch.stack(gaps).amin(0).topk(3, largest=False)
    torch.testing.assert_close(neighbours.distances, truth.values, rtol=1e-12, atol=0)
    assert torch.equal(neighbours.indices, truth.indices)
    assert (nearest(x, y).distances[:10] > 0).all()


def test_nearest_errors_name_the_argument(unchecked):
    x, two = torch.randn(5, 3), torch.randn(5, 2)
    for y, options, message in (
        (x, {"k": 6}, "k=6 of 5 references"),
        (x, {"k": 0}, "k=0 of 5 references"),
        (x, {"flips": True}, r"x has shape \(5, 3\): flips=True is for images"),
        (two, {}, "x has 3 dimensions and reference 2"),
    ):
        with pytest.raises(ValueError, match=message):
            nearest(x, y, **options)
    for metric in (precision_recall, density_coverage, crowding):
        with pytest.raises(ValueError, match="k=0"):
            metric(x, x, k=0)


def loops(x, y, k):
    """All four, point by point, as the papers write them."""

    def within(a, z):
        """True for each point of z whose ball contains a."""
        return [math.dist(a, b) <= sorted(math.dist(b, c) for c in z)[k] for b in z]

    x, y = x.tolist(), y.tolist()
    inside, reached = [within(a, y) for a in x], [within(b, x) for b in y]
    precision = sum(map(any, inside)) / len(x)
    recall = sum(map(any, reached)) / len(y)
    density = sum(map(sum, inside)) / (k * len(x))
    coverage = sum(map(any, zip(*inside, strict=True))) / len(y)
    return precision, recall, density, coverage


@pytest.mark.parametrize(("k", "n", "m"), [(1, 30, 40), (3, 40, 25), (5, 20, 20)])
@pytest.mark.usefixtures("block")
def test_all_four_against_loops(k, n, m):
    x, y = torch.randn(n, 3) + 1, torch.randn(m, 3)
    truth = loops(x, y, k)
    assert min(truth[:2]) > 0
    assert max(truth[:2]) < 1
    assert all_four(x, y, k) == pytest.approx(truth, rel=1e-12)
    assert crowding(x, y, k=k).double().mean().item() / k == pytest.approx(truth[2], rel=1e-12)


@given(st.integers(0, 1000), st.integers(1, 3))
def test_all_four_among_ties_and_duplicates(seed, k):
    """On a grid most points lie on the edge of balls, and many on others."""
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randint(0, 3, (n, 2), generator=generator).float() for n in (9, 12))
    values = all_four(x, y, k)
    assert values == pytest.approx(loops(x, y, k), rel=1e-12)
    # far from zero the same edges are subject to rounding
    moved = [z * 0.25 + 1000.5 for z in (x, y)]
    assert all_four(*moved, k) == values


def test_neighbour_ratio_is_that_of_medians():
    train = torch.tensor([[0.0], [100.0]])
    heldout = torch.tensor([[2.0], [-4.0], [106.0]])
    samples = torch.tensor([[101.0], [1.5], [-1.0], [97.0], [0.0]])
    assert neighbour_ratio(samples, train, heldout) == 1 / 4


@pytest.mark.usefixtures("block")
def test_mirrored_copies_are_nearest_to_their_source():
    train, samples = torch.rand(2, 60, 1, 4, 4)
    samples[:5], samples[5:10] = train[20:25], train[50:55].flip(-1)
    neighbours = nearest(samples, train, flips=True)
    assert neighbours.indices[:10, 0].tolist() == [*range(20, 25), *range(50, 55)]
    assert neighbours.distances[:10, 0].tolist() == [0] * 10
    assert (nearest(samples, train).distances[5:10] > 0).all()


def test_errors_of_neighbour_ratio_name_the_argument(unchecked):
    x, bad, two = torch.randn(20, 3), torch.full((20, 3), math.nan), torch.randn(20, 2)
    for sets, message in (
        ((bad, x, x), "^samples has NaN"),
        ((x, bad, x), "^train has NaN"),
        ((x, x, bad), "^heldout has NaN"),
        ((x, two, x), "samples has 3 dimensions and train 2"),
        ((x, x, two), "samples has 3 dimensions and heldout 2"),
        ((x, x, x), "most of heldout is in train"),
    ):
        with pytest.raises(ValueError, match=message):
            neighbour_ratio(*sets)
