"""Fréchet, kernel and sliced Wasserstein distances and the inception score against the truth."""

import itertools
import math
import statistics

import pytest
import scipy.optimize
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scorefield import seeded
from scorefield.metrics import arguments, kernel_distance
from scorefield.metrics.coverage import density_coverage, neighbour_ratio, precision_recall
from scorefield.metrics.distances import (
    Moments,
    frechet,
    frechet_gaussian,
    inception_score,
    sliced_wasserstein,
)


def spread(n, d):
    """Correlated samples of unequal widths about a mean that is not zero."""
    return torch.randn(n, d).double() @ torch.randn(d, d).double() + 3


def assert_moments(moments, x):
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
    with pytest.raises(ValueError, match=r"0 were counted: `update` returns the new moments"):
        _ = Moments().cov
    with pytest.raises(ValueError, match="moments of 4 and of 2 dimensions"):
        x.update(torch.randn(10, 2))


FEW, MANY = [(n, 64, 1e-12) for n in (2, 5, 40)], [(80, d, 1e-10) for d in (1, 4, 30)]


@pytest.mark.parametrize(("n", "d", "rel"), FEW + MANY)
def test_frechet_is_exact_of_few_and_of_many_samples(n, d, rel):
    """The trace is Σ of the singular values of X Yᵀ too, of the centred samples themselves."""
    x, y = spread(n, d), spread(n + 1, d)
    u, v = ((z - z.mean(0)) / math.sqrt(len(z) - 1) for z in (x, y))
    shared = torch.linalg.svdvals(u @ v.T).sum()
    gap = (x.mean(0) - y.mean(0)).square().sum()
    truth = (gap + u.square().sum() + v.square().sum() - 2 * shared).item()
    assert frechet(x, y) == pytest.approx(truth, rel=rel)
    for same in (x, x.flip(0)):
        assert frechet(x, same) < rel * u.square().sum().item()
    assert frechet(torch.ones(n, 3), torch.zeros(4, 3)) == pytest.approx(3)


def test_frechet_gaussian_errors_name_the_argument(unchecked):
    m, c = torch.zeros(3), torch.eye(3)
    for *moments, message in (
        (m, c, m, torch.eye(2), r"cov_y has shape \(2, 2\): to fit mean_x give \(3, 3\)"),
        (m, c, torch.zeros(1), c, r"mean_y has shape \(1,\)"),  # it would broadcast
        (m, c * math.nan, m, c, "cov_x has NaN"),
        (m, c + torch.ones(3, 3).triu(1), m, c, "cov_x is not symmetric"),
        (m, c, m, torch.diag(torch.tensor([1.0, 2, -1])), "cov_y has the negative eigenvalue -1"),
    ):
        with pytest.raises(ValueError, match=message):
            frechet_gaussian(*moments)


@pytest.mark.parametrize(("degree", "scale", "offset"), [(3, None, 1.0), (2, 0.5, 2.0)])
def test_kernel_distance_is_its_definition_in_blocks_too(monkeypatch, degree, scale, offset):
    """The U-statistic of (γaᵀb + c)ᵖ, which is unbiased."""
    x, y = spread(6, 3), spread(5, 3)
    k = lambda a, b: ((scale or 1 / 3) * (a @ b).item() + offset) ** degree  # noqa: E731
    within = [
        sum(k(a, b) for a, b in itertools.permutations(z, 2)) / (len(z) * (len(z) - 1))
        for z in (x, y)
    ]
    truth = sum(within) - 2 * sum(k(a, b) for a in x for b in y) / 30
    options = {"degree": degree, "scale": scale, "offset": offset}
    distance = kernel_distance(x, y, **options)
    assert distance.value == pytest.approx(truth, rel=1e-12)
    for rows in (1, 4):
        monkeypatch.setattr(arguments, "BLOCK_ROWS", rows)
        assert kernel_distance(x, y, **options) == pytest.approx(distance, rel=1e-10)
    # with all points in one place there is nothing to vary
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
def test_sliced_wasserstein_on_a_line_against_scipy(n, m):
    """In one dimension all directions are ±1. scipy has W₁; W₂ comes from a linear program."""
    x, y = torch.randn(n, 1).double(), torch.randn(m, 1).double() + 0.5
    truth = scipy.stats.wasserstein_distance(x[:, 0].numpy(), y[:, 0].numpy())
    assert sliced_wasserstein(x, y, order=1, directions=3) == pytest.approx(truth, rel=1e-12)
    cost = (x - y.T).square().flatten()
    marginals = torch.cat([torch.eye(n).repeat_interleave(m, 1), torch.eye(m).repeat(1, n)])
    weights = [1 / n] * n + [1 / m] * m
    plan = scipy.optimize.linprog(cost.numpy(), A_eq=marginals.numpy(), b_eq=weights)
    assert sliced_wasserstein(x, y, directions=3) == pytest.approx(plan.fun**0.5, rel=1e-6)


def test_sliced_wasserstein_is_its_definition_on_the_seeds_directions(monkeypatch):
    x, y = spread(20, 4), spread(30, 4)
    value = sliced_wasserstein(x, y, noise=seeded(3))
    monkeypatch.setattr(arguments, "BLOCK_ROWS", 3)
    assert sliced_wasserstein(y, x.flip(0), noise=seeded(3)) == pytest.approx(value, rel=1e-12)
    directions = seeded(3)(torch.empty(512, 4).double())
    directions = directions / directions.norm(dim=1, keepdim=True)
    u, v = (z.repeat_interleave(r, 0) @ directions.T for z, r in ((x, 3), (y, 2)))
    truth = (u.sort(0).values - v.sort(0).values).square().mean().sqrt()
    assert value == pytest.approx(truth.item(), rel=1e-12)
    with pytest.raises(ValueError, match=r"order=0.5"):
        sliced_wasserstein(x, y, order=0.5)


def test_inception_score_is_its_definition(monkeypatch):
    monkeypatch.setattr(arguments, "BLOCK_ROWS", 4)
    p = torch.randn(103, 7).double().softmax(1)
    scores = [
        math.exp(sum(scipy.stats.entropy(row, part.mean(0)) for row in part) / len(part))
        for part in p.tensor_split(5)
    ]
    truth = (statistics.fmean(scores), statistics.pstdev(scores))
    assert inception_score(p, 5) == pytest.approx(truth, rel=1e-10)
    assert inception_score(torch.full((500, 10), 0.1)) == pytest.approx((1, 0), abs=1e-6)
    for wrong in (torch.randn(50, 10), torch.ones(50, 10) / 11):
        with pytest.raises(ValueError, match=r"give softmax\(logits\), not logits"):
            inception_score(wrong)
    with pytest.raises(ValueError, match="splits=10 of 5 samples"):
        inception_score(torch.ones(5, 10) / 10)


PAIRED = {frechet: 2, kernel_distance: 4, sliced_wasserstein: 1}
PAIRED |= {precision_recall: 4, density_coverage: 6}
"""Each with the number of samples that it needs."""


class Largest(TorchDispatchMode):
    """Record the size of the largest new tensor in double precision."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor) and x.dtype == torch.float64:
                self.size = max(self.size, x.numel())
        return result


@pytest.mark.parametrize("metric", [*PAIRED, neighbour_ratio])
def test_memory_is_that_of_a_block(metric, monkeypatch):
    n, d = 600, 80  # more than the 512 directions
    monkeypatch.setattr(arguments, "BLOCK_ELEMENTS", 20 * d)
    sets = [torch.randn(n, d) for _ in range(3 if metric is neighbour_ratio else 2)]
    with Largest() as largest:
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


@pytest.mark.parametrize("metric", PAIRED)
def test_errors_name_the_argument(metric, unchecked):
    ours = metric in (precision_recall, density_coverage)
    first, second = ("samples", "real") if ours else ("x", "y")
    x, bad = torch.randn(20, 3), torch.randn(20, 3)
    bad[7, 1] = math.nan
    least, few = PAIRED[metric], PAIRED[metric] - 1
    for pair, message in {
        (x, bad): rf"^{second} has NaN or infinite",
        (bad / 0, x): rf"^{first} has NaN or infinite",
        (x, torch.randn(20, 4)): rf"^{first} has 3 dimensions and {second} 4",
        (x[:, 0], x): rf"^{first} has shape \(20,\)",
        (x, x.byte()): rf"^{second} is of torch.uint8",
        (x, x[:few]): rf"^{second} has ({few} samples: give at least {least}|shape \(0, 3\))",
    }.items():
        with pytest.raises(ValueError, match=message):
            metric(*pair)
