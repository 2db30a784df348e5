"""`suggest` against the published constants, and on data with known distances."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from scorefield import geometric, suggest
from scorefield.ladder import _diameter, overlap, variance_ratio


def test_published_constants():
    """γ, C and s_T²/σ² of the two papers' CIFAR-10 ladders."""
    for first, levels, e, steps, gamma, c, ratio in (
        (1.0, 10, 0.2, 100, 1.6681, 0.0000, 1.1111),
        (50.0, 232, 0.062, 5, 1.0376, 0.5670, 1.0555),
    ):
        sigmas = geometric(first, 0.01, levels, dtype=torch.float64)
        g = (sigmas[0] / sigmas[1]).item()
        # the four printed decimals
        assert g == pytest.approx(gamma, abs=5e-5)
        assert overlap(g, 3072) == pytest.approx(c, abs=5e-5)
        assert variance_ratio(e, g, steps) == pytest.approx(ratio, abs=5e-5)


# the pair is found by products, whose squares are right to 1.2e-7 × 64, here and below
ROUNDING = 1e-5


def test_digits():
    digits = torch.from_numpy(load_digits().images / 16).float()[:, None]
    s, s_bytes = suggest(digits), suggest((digits * 255).round().byte())
    truth = torch.pdist(digits.flatten(1).double()).max().item()
    assert s.max_distance == pytest.approx(truth, rel=ROUNDING)
    assert s.sigmas[[0, -1]].tolist() == pytest.approx([s.max_distance, 0.01], rel=1e-6)
    # a byte is right to 1/510, in each of 64 numbers of two samples
    assert s_bytes.sigmas[0] == pytest.approx(truth, abs=2 * 8 / 510)
    assert (len(s.sigmas), s.steps) == (22, 5)
    assert "110 evaluations" in str(s)


def test_outliers_do_not_stretch_the_ladder_and_a_rare_mode_does():
    x, outliers = torch.randn(2000, 6), [17, 900]
    broken, rare, kept = x.clone(), x.clone(), torch.ones(2000, dtype=torch.bool)
    broken[outliers[0]], broken[outliers[1]], kept[outliers] = 1e4, -3e5, False
    s = suggest(broken)
    # they move the mean by 150 in 6 numbers: products are right to 1.2e-7 × 6·150² of 80
    assert s.sigmas[0] == pytest.approx(suggest(x[kept]).max_distance, rel=1e-3)
    assert s.max_distance == pytest.approx(3.1e5 * math.sqrt(6), rel=ROUNDING)
    assert "without 2" in s.reasons["σ₁"]
    rare[:3] += 100
    assert suggest(rare).sigmas[0] > 200


@pytest.mark.parametrize(("offset", "size"), [(10.0, 64), (100.0, 64), (1000.0, 2)])
def test_data_far_from_the_origin(offset, size):
    x = offset + 0.01 * torch.randn(2000, size)
    truth = torch.pdist(x.double()).max().item()
    assert suggest(x).max_distance == pytest.approx(truth, rel=ROUNDING)


def test_data_with_many_copies_or_of_low_precision():
    mostly_zero = torch.zeros(2000, 3)
    mostly_zero[:400] = torch.randn(400, 3)
    two = torch.tensor([[0.0, 0.0]] * 900 + [[1.0, 1.0]] * 100)
    for x in (mostly_zero, two):
        s = suggest(x)
        assert s.sigmas[0] == pytest.approx(torch.pdist(x).max().item(), rel=ROUNDING)
        assert s.sigmas[-1] > 0
    # bfloat16 rounds both samples by 2⁻⁹, and the distance by twice that
    coarse = suggest(mostly_zero.bfloat16()).max_distance
    assert coarse == pytest.approx(suggest(mostly_zero).max_distance, rel=2**-8)


@given(st.integers(2, 40), st.integers(1, 5), st.integers(0, 3), st.integers(0, 2**31))
def test_diameter_and_bounds(n, size, copies, seed):
    x = torch.randn(n, size, generator=torch.Generator().manual_seed(seed))
    x = torch.cat([x] * (copies + 1))
    truth = torch.pdist(x.double()).max().item()
    s = suggest(x)
    assert s.max_distance == pytest.approx(truth, rel=ROUNDING)
    assert (s.sigmas[:-1] / s.sigmas[1:] <= 1.5 * (1 + 3e-7)).all()  # three roundings of float32
    assert (s.sigmas.diff() < 0).all()
    assert s.sigmas[-1] > 0


def test_diameter_skips_only_blocks_that_cannot_be_wider():
    """The farthest samples from the centre are close together; the widest pair is in block two."""
    arms = [(1024, 10.0, 0.0), (512, 0.0, 9.5), (512, 0.0, -9.5), (2048, -5.0, 0.0)]
    x = torch.cat([torch.tensor([[a, b]]).expand(n, 2) for n, a, b in arms])
    x = x + 0.01 * torch.randn(len(x), 2)
    assert _diameter(x) == pytest.approx(torch.pdist(x).max().item(), rel=ROUNDING)
    assert _diameter(x) > 18


def test_budget_buys_steps_and_smaller_ones_the_best_of_all():
    x = torch.randn(500, 64)
    few, many = suggest(x), suggest(x, budget=10**6)
    for s in (few, many):
        e, gamma = s.epsilon / s.sigmas[-1].item() ** 2, (s.sigmas[0] / s.sigmas[1]).item()
        best = min(variance_ratio(e * (1 + d / 1000), gamma, s.steps) for d in range(-50, 51))
        # e is within 0.1 % of the minimum, near which the ratio is flat
        assert s.variance_ratio - 1 <= (best - 1) * 1.001
    assert many.steps == 10**6 // len(few.sigmas)
    assert many.epsilon < few.epsilon
    assert 1 < many.variance_ratio < few.variance_ratio
    # C falls with γ, which is rounded down to divide the range
    assert 0.5 <= few.overlap < 0.6
    assert suggest(x, sigma_min=0.2).sigmas[-1] == torch.tensor(0.2)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (torch.zeros(1, 3), {}, "at least two samples"),
        (torch.randn(100), {}, "batch of at least two samples"),
        (torch.zeros(5, 3), {}, "one point, repeated"),
        (torch.tensor([[1.0, math.nan], [0.0, 1.0]]), {}, "data has NaN"),
        (torch.zeros(5, 3, dtype=torch.int64), {}, "data is torch.int64: give"),
        ([[1.0], [2.0]], {}, "data is list: give a tensor"),
        (torch.eye(64), {"budget": 3}, "budget=3 is less than one step"),
        *((torch.eye(3), {"sigma_min": s}, "sigma_min=") for s in (0, -1, math.nan, math.inf, 1e3)),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_errors_name_the_argument(data, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        suggest(data, **options)
