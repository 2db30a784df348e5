"""Nearest neighbours, precision, recall, density, coverage and memorisation against the truth."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from scorefield.metrics import (
    arguments,
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


# ── Nearest neighbours ───────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("block")
def test_nearest_against_sklearn():
    # far from zero, where ‖x‖² + ‖y‖² − 2xᵀy has no digits left in single precision
    x, y = torch.randn(40, 5) + 1e3, torch.randn(50, 5) + 1e3
    tree = NearestNeighbors(algorithm="kd_tree").fit(y.double().numpy())
    distances, indices = tree.kneighbors(x.double().numpy(), 4)
    neighbours = nearest(x, y, 4)
    torch.testing.assert_close(
        neighbours.distances, torch.from_numpy(distances), rtol=1e-12, atol=0
    )
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
def test_nearest_among_equals():
    y = torch.tensor([[1.0], [0.0], [1.0], [3.0], [1.0]])
    neighbours = nearest(torch.tensor([[1.0]]), y, 4)
    assert neighbours.distances.tolist() == [[0, 0, 0, 1]]
    assert set(neighbours.indices[0].tolist()) == {0, 1, 2, 4}


@pytest.mark.usefixtures("block")
def test_nearest_of_mirror_images():
    y = torch.rand(30, 2, 4, 5)
    x = torch.cat([y[:10].flip(-1), y[10:20], y[20:].flip(-2)])
    neighbours = nearest(x, y, 3, flips=True)
    assert (neighbours.distances[:20, 0] == 0).all()
    assert (neighbours.distances[20:] > 0).all()
    views = [view.flatten(1).double() for view in (x, x.flip(-1))]
    gaps = [(v[:, None] - y.flatten(1).double()).norm(dim=-1) for v in views]
    truth = torch.stack(gaps).amin(0).topk(3, largest=False)
    torch.testing.assert_close(neighbours.distances, truth.values, rtol=1e-12, atol=0)
    assert torch.equal(neighbours.indices, truth.indices)
    assert (nearest(x, y).distances[:10] > 0).all()


def test_nearest_keeps_no_graph():
    x = torch.rand(5, 1, 2, 2, requires_grad=True)
    assert not nearest(x, x, flips=True).distances.requires_grad


def test_nearest_errors_name_the_argument(unchecked):
    x = torch.randn(5, 3)
    with pytest.raises(ValueError, match="k=6 of 5 references"):
        nearest(x, x, 6)
    with pytest.raises(ValueError, match="k=0 of 5 references"):
        nearest(x, x, 0)
    with pytest.raises(ValueError, match=r"x has shape \(5, 3\): flips=True is for images"):
        nearest(x, x, flips=True)
    with pytest.raises(ValueError, match="x has 3 dimensions and reference 2"):
        nearest(x, x[:, :2])


# ── Precision, recall, density, coverage ─────────────────────────────────────────────────────────


def loops(x, y, k):
    """All four, point by point, as the papers write them."""

    def gap(a, b):
        return math.dist(a.tolist(), b.tolist())

    def radii(z):
        return [sorted(gap(a, b) for b in z)[k] for a in z]

    real, fake = radii(y), radii(x)
    inside = [[gap(a, b) <= r for b, r in zip(y, real, strict=True)] for a in x]
    reached = [[gap(b, a) <= r for a, r in zip(x, fake, strict=True)] for b in y]
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


def test_copies_of_the_data_are_perfect():
    y = torch.randn(50, 4)
    x = y[torch.randperm(50)]
    assert precision_recall(x, y) == (1, 1)
    density, coverage = density_coverage(x, y)
    assert coverage == 1
    assert density == pytest.approx(6 / 5)  # each ball holds its centre and its 5 neighbours


def test_lost_and_invented_clusters_show_in_the_right_score():
    """Two clusters in the data, of which the samples have one, and one of their own."""
    here, there, elsewhere = (torch.randn(60, 2) + c for c in (0.0, 50.0, -50.0))
    real = torch.cat([here, there])
    good, bad = torch.randn(120, 2), torch.cat([torch.randn(60, 2), elsewhere])
    lost = precision_recall(good, real)
    assert lost.precision > 0.9
    assert 0.4 < lost.recall < 0.51
    assert 0.4 < density_coverage(good, real).coverage < 0.51
    assert 0.4 < precision_recall(bad, real).precision < 0.51
    assert 0.2 < density_coverage(bad, real).density / density_coverage(good, real).density < 0.8


@pytest.mark.parametrize(("n", "m", "k"), [(40, 40, 5), (20, 60, 5), (60, 20, 2)])
def test_density_and_coverage_of_one_distribution(n, m, k):
    """E density = 1 and E coverage = 1 − Π (m − l)/(n + m − l), within four standard errors."""
    values = torch.tensor(
        [density_coverage(torch.rand(n, 2), torch.rand(m, 2), k=k) for _ in range(100)]
    ).double()
    error = values.std(0) / math.sqrt(len(values))
    missed = math.prod((m - i) / (n + m - i) for i in range(1, k + 1))
    gap = (values.mean(0) - torch.tensor([1, 1 - missed])) / error
    assert gap.abs().max() < 4


def test_balls_turn_and_move_with_the_points():
    x, y = torch.randn(30, 3).double() + 0.5, torch.randn(40, 3).double()
    q = torch.linalg.qr(torch.randn(3, 3).double()).Q
    values = all_four(x, y, 3)
    assert all_four(x[torch.randperm(30)], y.flip(0), 3) == pytest.approx(values, rel=1e-12)
    assert all_four(5 * x @ q + 1e4, 5 * y @ q + 1e4, 3) == pytest.approx(values, rel=1e-12)
    for metric in (precision_recall, density_coverage, crowding):
        with pytest.raises(ValueError, match="k=0"):
            metric(x, y, k=0)


# ── Memorisation ─────────────────────────────────────────────────────────────────────────────────


def test_the_true_distribution_has_ratio_one():
    train, heldout, samples = torch.randn(3, 1500, 4)
    memorisation = neighbour_ratio(samples, train, heldout)
    # a median's standard error is 1.25 deviations/√n, and distances deviate by 0.4 of it: three
    assert memorisation.ratio == pytest.approx(1, abs=3 * 1.25 * 0.4 * math.sqrt(2 / 1500))
    assert (memorisation.copies, memorisation.heldout_copies) == (0, 0)


def test_ratio_is_that_of_medians():
    train = torch.tensor([[0.0], [100.0]])
    heldout = torch.tensor([[2.0], [-4.0], [106.0]])
    samples = torch.tensor([[101.0], [1.5], [-1.0], [97.0], [0.0]])
    memorisation = neighbour_ratio(samples, train, heldout, worst=2, tolerance=1.0)
    assert memorisation.ratio == pytest.approx(1 / 4)
    assert memorisation.copies == pytest.approx(3 / 5)
    assert memorisation.heldout_copies == 0
    assert memorisation.worst.tolist() == [4, 0]
    assert memorisation.sources.tolist() == [0, 1]
    assert memorisation.distances.tolist() == [0, 1]


@pytest.mark.usefixtures("block")
def test_copies_are_listed_with_their_sources():
    train, heldout, samples = torch.rand(3, 60, 1, 4, 4)
    heldout[:6] = train[30:36]
    samples[10:20], samples[40:45] = train[:10], train[50:55].flip(-1)
    memorisation = neighbour_ratio(samples, train, heldout)
    assert memorisation.copies == pytest.approx(10 / 60)
    assert memorisation.heldout_copies == pytest.approx(6 / 60)
    assert memorisation.worst.tolist() == list(range(10, 20))
    assert memorisation.sources.tolist() == list(range(10))
    mirrored = neighbour_ratio(samples, train, heldout, flips=True, worst=15)
    assert mirrored.copies == pytest.approx(15 / 60)
    assert mirrored.sources.tolist() == [*range(10), *range(50, 55)]
    assert mirrored.distances.tolist() == [0] * 15


def test_noisy_copies_have_a_small_ratio():
    train, heldout = torch.randn(2, 500, 10)
    samples = train[torch.randint(500, (300,))] + 0.05 * torch.randn(300, 10)
    memorisation = neighbour_ratio(samples, train, heldout)
    # ‖0.05 z‖ in ten dimensions, over the distance of new data
    usual = nearest(heldout, train).distances.median().item()
    assert memorisation.ratio == pytest.approx(0.05 * math.sqrt(9.34) / usual, rel=0.05)
    assert memorisation.copies == 0


def test_memorisation_errors_name_the_argument(unchecked):
    x, bad = torch.randn(20, 3), torch.full((20, 3), math.nan)
    names = ("samples", "train", "heldout")
    for i, name in enumerate(names):
        with pytest.raises(ValueError, match=f"^{name} has NaN"):
            neighbour_ratio(*(bad if i == j else x for j in range(3)))
    for i in (1, 2):
        sets = [x, x, x]
        sets[i] = x[:, :2]
        with pytest.raises(ValueError, match=f"samples has 3 dimensions and {names[i]} 2"):
            neighbour_ratio(*sets)
    with pytest.raises(ValueError, match="most of heldout is in train"):
        neighbour_ratio(x, x, x)
    with pytest.raises(ValueError, match="tolerance=-1"):
        neighbour_ratio(x, x, x + 1, tolerance=-1.0)
