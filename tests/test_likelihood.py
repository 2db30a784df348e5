"""Likelihoods by the ODE against the closed log-densities of oracles."""

import math

import pytest
import torch

from scorefield import (
    Empirical,
    Gaussian,
    GaussianMixture,
    Prior,
    bits_per_dim,
    log_likelihood,
    replay,
    seeded,
)
from scorefield.data import dequantise


def gaussian(size):
    a = torch.randn(size, size).double()
    cov = a @ a.T / size + 0.1 * torch.eye(size).double()
    return Gaussian(torch.randn(size).double(), cov)


def mixture(size):
    means = 0.7 * torch.randn(3, size).double()
    return GaussianMixture(means, 0.2**2, torch.tensor([0.7, 0.2, 0.1]).double())


@pytest.mark.parametrize(("size", "n"), [(2, 30), (24, 4)])
@pytest.mark.parametrize("make", [gaussian, mixture])
def test_the_exact_trace_is_right_to_a_thousandth_of_a_nat(make, size, n):
    """About 60 steps of 3e-6 in each number, the error that `tolerance` allows."""
    oracle = make(size)
    x = oracle.sample(n, 0.01)
    result = log_likelihood(oracle, x, oracle.prior)
    assert (result.log_prob - oracle.log_prob(x, 0.01)).abs().max() <= 1e-3
    assert result.error.eq(0).all()
    # a wrong coefficient of the method would multiply the steps
    assert result.evaluations.max() <= 500


@pytest.mark.parametrize(("chunk", "dtype"), [(1, torch.float64), (4, torch.float32)])
def test_images_in_single_precision_and_other_ends(chunk, dtype, monkeypatch):
    """Integrated in float64, or in float32 on a device without it."""
    if dtype == torch.float32:
        monkeypatch.setattr("scorefield._ops.NO_FLOAT64", {"cpu"})
    oracle = GaussianMixture(torch.rand(3, 1, 2, 3), 0.05, torch.ones(3) / 3)
    x, ends = oracle.sample(4, 0.1), {"sigma_min": 0.1, "sigma_max": 80.0}
    result = log_likelihood(oracle, x, oracle.prior, chunk=chunk, **ends)
    assert result.log_prob.dtype == result.error.dtype == dtype
    assert result.evaluations.max() <= 500
    # the same, and in each step 4 × 1.2e-7 of a log-density of up to 50
    assert (result.log_prob - oracle.log_prob(x, 0.1)).abs().max() <= 1e-3 + 60 * 4 * 1.2e-7 * 50


def test_a_looser_tolerance_costs_less_and_errs_more():
    oracle = mixture(3)
    x, ends = oracle.sample(20, 0.2), {"sigma_min": 0.2, "sigma_max": 20.0}
    runs = [
        log_likelihood(oracle, x, oracle.prior, tolerance=t, **ends) for t in (1e-6, 1e-4, 1e-2)
    ]
    # the prior's own error at σ = 20 is common to all
    errors = [(r.log_prob - oracle.log_prob(x, 0.2)).abs().max().item() for r in runs]
    counts = [r.evaluations.double().mean().item() for r in runs]
    assert errors == sorted(errors)
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize("make", [gaussian, mixture])
def test_hutchinsons_estimate_lies_within_its_own_error(make):
    """50 repeats with 64 probes each scatter about the truth by their own errors."""
    oracle, repeats, probes = make(4), 50, 64
    x, options = oracle.sample(1, 0.2), {"probes": probes, "tolerance": 1e-3, "sigma_min": 0.2}
    result = log_likelihood(oracle, x.expand(repeats, 4), oracle.prior, **options)
    gap = result.log_prob - oracle.log_prob(x, 0.2)
    # all together, by their own errors; each alone, where a mixture's probes have heavy tails
    pooled = (result.error.square().mean() / repeats).sqrt()
    assert abs(gap.mean()) < 4 * pooled
    z = gap / result.error
    assert (z.abs() > 3).sum() <= 2
    # a deviation of 50 is known to 10 %: four standard errors
    assert 0.6 < z.std() < 1.4
    # one probe has no error estimate
    options["probes"] = 1
    assert log_likelihood(oracle, x, oracle.prior, **options).error.isnan().all()


@pytest.mark.parametrize("probes", [None, 2])
def test_a_sample_depends_on_its_batch_by_rounding_alone(probes):
    oracle, v = mixture(4), torch.randn(2, 3, 4).double()
    x = oracle.sample(3, 0.2)
    x[1] += 5  # a neighbour that needs other steps
    options = {"probes": probes, "sigma_min": 0.2, "sigma_max": 10.0, "tolerance": 1e-3}
    together = log_likelihood(oracle, x, oracle.prior, noise=replay(v), **options)
    for i in range(3):
        one = log_likelihood(oracle, x[[i]], oracle.prior, noise=replay(v[:, [i]]), **options)
        assert one.evaluations == together.evaluations[i]
        # the same steps: 2.2e-16 × 1e3 operations × log-densities of up to 1e3
        assert abs(one.log_prob - together.log_prob[i]) <= 1e-9


def test_bits_per_dim():
    """Eight bits for uniform pixels; for a density of 2⁶ in 3 dimensions, two less."""
    assert bits_per_dim(torch.zeros(2), 12).tolist() == [8.0, 8.0]
    assert bits_per_dim(torch.tensor([6 * math.log(2)]), 3).item() == pytest.approx(6)
    assert bits_per_dim(torch.tensor([0.0]), 3, levels=2).item() == 1


@pytest.mark.parametrize("sigma", [0.01, 0.05])
def test_dequantisation_bounds_the_probability_of_a_cell(sigma):
    """Of q_σ of data at the middles of five cells of 8 × 8, whose integral over a cell is known."""
    cells = torch.tensor([[0, 0], [3, 4], [4, 4], [7, 2], [7, 2]], dtype=torch.uint8)
    middles = (cells.double() + 0.5) / 8
    ends = ((cells.double() + k) / 8 for k in (0, 1))
    low, high = (torch.special.ndtr((end[:, None] - middles) / sigma) for end in ends)
    truth = (high - low).prod(2).mean(1)
    data, n, means = Empirical(middles), 4000, []
    for q_sigma in (math.inf, 2 * sigma, sigma):
        x, log_q = dequantise(cells.repeat(n, 1), q_sigma, levels=8, noise=seeded(0))
        assert torch.equal((x * 8).clamp(max=7.99).floor().byte(), cells.repeat(n, 1))
        gap = (data.log_prob(x.double(), sigma) - log_q).view(n, 5) - truth.log()
        means.append(gap.mean(0))
        # 15 comparisons, each of 4 standard errors, and the float32 of x
        assert (means[-1] <= 4 * gap.std(0) / n**0.5 + 1e-5).all()
        # p/q is the probability on average, not only a bound
        error = 4 * gap.exp().std(0) / n**0.5 + 1e-5
        assert ((gap.exp().mean(0) - 1).abs() <= error).all()
    uniform, wide, matched = means
    assert (matched > wide).all()
    assert (wide > uniform).all()
    # where the neighbours are empty, q is p: up to the tails of other data and the float32 of x
    assert matched[[0, 3, 4]].abs().max() <= 1e-6


@pytest.mark.parametrize(("name", "value"), [("sigma", 0.0), ("sigma", math.nan), ("levels", 0)])
def test_dequantisation_names_an_impossible_argument(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}"):
        dequantise(torch.zeros(1, 2, dtype=torch.uint8), **{name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 2, dtype=torch.uint8)}, "give a tensor of floats"),
        ({"sigma_min": 0.0}, "sigma_min=0.0"),
        ({"sigma_max": 0.001}, "sigma_max=0.001"),
        ({"probes": 0}, "probes=0"),
        ({"score": lambda x, sigma: x * math.nan}, r"samples \[0, 1\] meet a score that is not f"),
        ({"score": lambda x, sigma: x[:, :1]}, r"score returned shape \(2, 1\)"),
        ({"tolerance": 0.0}, "tolerance=0.0"),
        (
            {"max_evaluations": 20},
            r"samples \[0, 1\] do not reach the last noise level within 20",
        ),
        ({"prior": Prior(torch.zeros(3), torch.tensor(1.0))}, r"prior is for samples of \(3,\)"),
        ({"x": torch.tensor([[0.0, 0.0], [math.inf, 0.0]])}, r"samples \[1\] are not"),
    ],
)
def test_errors_name_the_argument(change, message, unchecked):
    oracle = Gaussian(torch.zeros(2), 1.0)
    arguments = {"score": oracle, "x": torch.zeros(2, 2), "prior": oracle.prior, **change}
    with pytest.raises((ValueError, TypeError), match=message):
        log_likelihood(**arguments)
