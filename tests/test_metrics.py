"""Metrics of samples against other programs, and against their definitions point by point.

A bound of 1e-12 is for float64: at most 10³ operations of 1.1e-16, whose sum is at least a tenth of
its terms. Other bounds are derived where they stand.
"""

import itertools
import math
import statistics
from functools import partial

import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors
from standins import Largest

from scorefield import seeded
from scorefield.metrics import (
    arguments,
    crowding,
    frechet,
    kernel_distance,
    nearest,
    stein_discrepancy,
)
from scorefield.metrics.coverage import density_coverage, neighbour_ratio, precision_recall
from scorefield.metrics.distances import Moments, inception_score, sliced_wasserstein


def spread(n, d):
    """Correlated samples of unequal widths about a mean that is not zero."""
    return torch.randn(n, d).double() @ torch.randn(d, d).double() + 3


def assert_moments(moments, x):
    # each of at most 54 merges rounds a mean of 1e4 by 1e-12, and the deviations inherit that
    assert moments.n == len(x)
    torch.testing.assert_close(moments.mean, x.double().mean(0), rtol=1e-14, atol=1e-12)
    torch.testing.assert_close(moments.cov, x.double().T.cov(), rtol=1e-10, atol=1e-12)


@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), st.integers(1, 7))
def test_streaming_moments_are_those_of_all_samples(sizes, rows):
    # a mean of 10⁴ deviations: sums of squares in single precision would lose all digits
    x = torch.randn(sum(sizes), 3, generator=torch.Generator().manual_seed(1)) + 1e4
    moments = Moments()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arguments, "BLOCK_ROWS", rows)
        for batch in x.split(sizes):
            moments = moments.update(batch)
    assert_moments(moments, x)


def test_moments_merge_in_any_order_and_leave_their_parts():
    a, b, c = parts = spread(7, 4), 10 * spread(1, 4), spread(20, 4) - 100
    x, y, z = (Moments().update(part) for part in parts)
    for merged in (x.merge(y).merge(z), x.merge(y.merge(z)), z.merge(x).merge(y)):
        assert_moments(merged, torch.cat([a, b, c]))
    assert_moments(Moments().merge(x).merge(Moments()), a)


# from eigh a root √λ is off by ε‖C‖/√λ: for 30 roots at a condition of 1e6 by 30 × 1e3 × 1.1e-16
@pytest.mark.parametrize(
    ("n", "d", "rel"),
    [*((n, 64, 1e-12) for n in (2, 5, 40)), *((80, d, 1e-10) for d in (1, 4, 30))],
)
def test_frechet_is_exact_of_few_and_of_many_samples(n, d, rel):
    """The trace is Σ of the singular values of X Yᵀ too, of the centred samples themselves."""
    x, y = spread(n, d), spread(n + 1, d)
    u, v = ((z - z.mean(0)) / math.sqrt(len(z) - 1) for z in (x, y))
    shared = torch.linalg.svdvals(u @ v.T).sum()
    gap = (x.mean(0) - y.mean(0)).square().sum()
    truth = (gap + u.square().sum() + v.square().sum() - 2 * shared).item()
    assert frechet(x, y) == pytest.approx(truth, rel=rel)
    for same in (x.flip(0), Moments().update(x)):
        assert frechet(x, same) < rel * u.square().sum().item()
    assert frechet(torch.ones(n, 3), torch.zeros(4, 3)) == pytest.approx(3)


@pytest.mark.parametrize(("degree", "scale", "offset"), [(3, None, 1.0), (2, 0.5, 2.0)])
def test_kernel_distance_is_its_definition_in_blocks_too(monkeypatch, degree, scale, offset):
    """The U-statistic of (γaᵀb + c)ᵖ, which is unbiased."""
    x, y = spread(6, 3), spread(5, 3)
    k = lambda a, b: ((scale or 1 / 3) * (a @ b).item() + offset) ** degree  # noqa: E731
    pairs = [[k(a, b) for a, b in itertools.permutations(z, 2)] for z in (x, y)]
    truth = sum(map(statistics.fmean, pairs)) - 2 * sum(k(a, b) for a in x for b in y) / 30
    options = {"degree": degree, "scale": scale, "offset": offset}
    distance = kernel_distance(x, y, **options)
    assert distance.value == pytest.approx(truth, rel=1e-12)
    for rows in (1, 4):
        monkeypatch.setattr(arguments, "BLOCK_ROWS", rows)
        assert kernel_distance(x, y, **options) == pytest.approx(distance, rel=1e-10)
    # with all points in one place the error is the root of a difference of 1e3s, which is 1e-13
    distance = kernel_distance(torch.ones(5, 3), 2 * torch.ones(6, 3))
    assert distance == pytest.approx((2**3 + 5**3 - 2 * 3**3, 0), abs=1e-6)


@pytest.mark.parametrize(
    ("n", "m", "shift", "low", "high"), [(25, 80, 0.0, 0.95, 1.4), (60, 20, 0.4, 0.85, 1.15)]
)
def test_the_kernel_distances_error_is_its_standard_deviation(n, m, shift, low, high):
    # 300 repeats tell a deviation to 4 %; the error may be a quarter too large without a shift
    x, y = 1 + torch.randn(300, n, 4), 1 + torch.randn(300, m, 4) * (1 + shift) + shift
    pairs = zip(x, y, strict=True)
    value, error = torch.tensor([kernel_distance(*p, degree=2) for p in pairs]).double().T
    assert low < error.square().mean().sqrt() / value.std() < high


@pytest.mark.parametrize(("n", "m"), [(1, 1), (5, 5), (7, 3), (4, 6), (1, 9), (60, 77)])
def test_sliced_wasserstein_is_its_definition_and_scipys_on_a_line(monkeypatch, n, m):
    """In one dimension all directions are ±1; scipy has W₁ there."""
    x, y = spread(n, 4), spread(m, 4)
    value = sliced_wasserstein(x, y, noise=seeded(3))
    directions = seeded(3)(torch.empty(512, 4).double())
    directions = directions / directions.norm(dim=1, keepdim=True)
    u, v = (z.repeat_interleave(r, 0) @ directions.T for z, r in ((x, m), (y, n)))
    truth = (u.sort(0).values - v.sort(0).values).square().mean().sqrt()
    assert value == pytest.approx(truth.item(), rel=1e-12)
    monkeypatch.setattr(arguments, "BLOCK_ROWS", 3)
    assert sliced_wasserstein(y, x.flip(0), noise=seeded(3)) == pytest.approx(value, rel=1e-12)
    truth = scipy.stats.wasserstein_distance(x[:, 0].numpy(), y[:, 0].numpy())
    line = sliced_wasserstein(x[:, :1], y[:, :1], order=1, directions=3)
    assert line == pytest.approx(truth, rel=1e-12)


def test_inception_score_is_its_definition(monkeypatch):
    monkeypatch.setattr(arguments, "BLOCK_ROWS", 4)
    p = torch.randn(103, 7).double().softmax(1)
    entropies = [[scipy.stats.entropy(row, q.mean(0)) for row in q] for q in p.tensor_split(5)]
    scores = [math.exp(statistics.fmean(values)) for values in entropies]
    truth = (statistics.fmean(scores), statistics.pstdev(scores))
    # the deviation of the scores is a hundredth of them
    assert inception_score(p, 5) == pytest.approx(truth, rel=1e-10)
    assert inception_score(torch.full((500, 10), 0.1)) == pytest.approx((1, 0), abs=1e-12)


PAIRED = {frechet: 2, kernel_distance: 4, sliced_wasserstein: 1}
PAIRED |= {precision_recall: 4, density_coverage: 6}
"""Each with the number of samples that it needs."""


@pytest.mark.parametrize("metric", [*PAIRED, neighbour_ratio])
def test_memory_is_that_of_a_block(metric, monkeypatch):
    n, d = 600 if metric is sliced_wasserstein else 150, 80  # more than the 512 directions
    monkeypatch.setattr(arguments, "BLOCK_ELEMENTS", 20 * d)
    sets = [torch.randn(n, d) for _ in range(3 if metric is neighbour_ratio else 2)]
    with Largest(torch.float64) as largest:
        metric(*sets)
    assert largest.size < n * d


@pytest.mark.parametrize("metric", PAIRED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_all_arithmetic_is_in_double_precision_on_flattened_images(metric, dtype):
    x, y = torch.randn(40, 1, 1, 3).to(dtype), torch.randn(30, 1, 1, 3).to(dtype)
    theta = torch.randn(512, 3, dtype=torch.float64)
    options = {"noise": lambda x: theta} if metric is sliced_wasserstein else {}
    value = metric(x.double().flatten(1), y.double().flatten(1), **options)
    assert metric(x, y, **options) == pytest.approx(value, rel=1e-12)


@pytest.fixture(params=[None, 7])
def block(request, monkeypatch):
    """Rows of a block: as many as fit, or few, so that points of one set are in several."""
    if request.param is not None:
        monkeypatch.setattr(arguments, "BLOCK_ROWS", request.param)


@pytest.mark.usefixtures("block")
def test_nearest_against_sklearn():
    # far from zero, where ‖x‖² + ‖y‖² − 2xᵀy has no digits left in single precision
    x, y = torch.randn(40, 5) + 1e3, torch.randn(50, 5) + 1e3
    tree = NearestNeighbors(algorithm="kd_tree").fit(y.double().numpy())
    distances, indices = tree.kneighbors(x.double().numpy(), 4)
    neighbours, truth = nearest(x, y, 4), torch.from_numpy(distances)
    torch.testing.assert_close(neighbours.distances, truth, rtol=1e-12, atol=0)
    assert torch.equal(neighbours.indices, torch.from_numpy(indices))


def test_copies_are_at_exactly_zero():
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


def all_four(x, y, k):
    return (*precision_recall(x, y, k=k), *density_coverage(x, y, k=k))


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


X = torch.zeros(20, 3)
NAN = X / 0
PLANE = torch.zeros(20, 2)


@pytest.mark.parametrize(
    ("metric", "args", "message"),
    [
        (frechet, (X, Moments().update(PLANE)), "moments of 3 and of 2 dimensions"),
        (partial(sliced_wasserstein, order=0.5), (X, X), "order=0.5"),
        (inception_score, (X,), r"give softmax\(logits\), not logits"),
        (inception_score, (X + torch.tensor([2.0, -1, 0]),), r"give softmax\(logits\), not logits"),
        (inception_score, (X[:5] + 1 / 3,), "splits=10 of 5 samples"),
        (Moments().update(X).update, (PLANE,), "moments of 3 and of 2 dimensions"),
        (lambda: Moments().cov, (), "0 were counted: `update` returns the new moments"),
        (nearest, (X, X, 21), "k=21 of 20 references"),
        (nearest, (X, PLANE), "x has 3 dimensions and reference 2"),
        (partial(nearest, flips=True), (X, X), r"x has shape \(20, 3\): flips=True is for"),
        *((partial(f, k=0), (X, X), "k=0") for f in (precision_recall, density_coverage, crowding)),
        (stein_discrepancy, (X, X[1:]), "^x has 20 samples and score 19: give the score of each"),
        (neighbour_ratio, (NAN, X, X), "^samples has NaN"),
        (neighbour_ratio, (X, NAN, X), "^train has NaN"),
        (neighbour_ratio, (X, X, NAN), "^heldout has NaN"),
        (neighbour_ratio, (X, PLANE, X), "samples has 3 dimensions and train 2"),
        (neighbour_ratio, (X, X, PLANE), "samples has 3 dimensions and heldout 2"),
        (neighbour_ratio, (X, X, X), "most of heldout is in train"),
    ],
)
def test_refusals_name_the_argument(metric, args, message, unchecked):
    with pytest.raises(ValueError, match=message):
        metric(*args)


@pytest.mark.parametrize("metric", PAIRED)
def test_refusals_of_pairs_name_the_argument(metric, unchecked):
    ours = metric in (precision_recall, density_coverage)
    first, second = ("samples", "real") if ours else ("x", "y")
    least, few = PAIRED[metric], PAIRED[metric] - 1
    bad = X.index_put((torch.tensor(7), torch.tensor(1)), torch.tensor(math.nan))
    for pair, message in {
        (X, bad): rf"^{second} has NaN or infinite",
        (X / 0, X): rf"^{first} has NaN or infinite",
        (X, PLANE): rf"^{first} has 3 dimensions and {second} 2",
        (X[:, 0], X): rf"^{first} has shape \(20,\)",
        (X, X.byte()): rf"^{second} is of torch.uint8",
        (X, X[:few]): rf"^{second} has ({few} samples: give at least {least}|shape \(0, 3\))",
    }.items():
        with pytest.raises(ValueError, match=message):
            metric(*pair)


def test_the_stein_discrepancy_is_that_of_its_kernel_in_every_pair(monkeypatch):
    """From derivatives of the kernel by autograd, in blocks of two rows."""
    monkeypatch.setattr(arguments, "BLOCK_ROWS", 2)
    x, s = spread(5, 3), spread(5, 3)
    kernel = lambda a, b: (1 + (a - b).square().sum() / 2.25) ** -0.5  # noqa: E731

    def pair(a, b, s, t):
        of_a, of_b = torch.func.grad(kernel)(a, b), torch.func.grad(kernel, argnums=1)(a, b)
        mixed = torch.func.jacrev(torch.func.grad(kernel), argnums=1)(a, b)
        return s @ t * kernel(a, b) + s @ of_b + t @ of_a + mixed.trace()

    terms = [pair(x[i], x[j], s[i], s[j]) for i, j in itertools.permutations(range(5), 2)]
    rows = torch.stack(terms).view(5, 4).mean(1)
    value, error = stein_discrepancy(x, s, scale=1.5)
    assert value == pytest.approx(rows.mean().item(), rel=1e-12)
    assert error == pytest.approx(2 * rows.std().item() / 5**0.5, rel=1e-12)


def test_the_stein_discrepancy_of_a_shift_has_its_closed_form():
    """Of N(m, I) from N(0, I) it is ‖m‖²·E k, as the scores differ by m; ‖x − x'‖²/2 is χ²."""
    x = seeded(0)(torch.empty(1500, 2).double())
    mean_kernel = scipy.stats.chi2(2).expect(lambda r: (1 + 2 * r / 4) ** -0.5)
    for m in (0.0, 0.3, 1.0):
        shift = torch.tensor([0.6, 0.8]).double() * m
        value, error = stein_discrepancy(x + shift, -(x + shift), scale=2.0)
        assert abs(value - m**2 * mean_kernel) < 4 * error
        assert m == 0 or error < 0.25 * value
