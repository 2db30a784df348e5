"""Likelihoods by the ODE against the oracles' own log-densities."""

import math

import pytest
import torch
from scipy.stats import norm

from scorefield import Gaussian, GaussianMixture, Prior, bits_per_dim, log_likelihood, replay


def gaussian(size):
    a = torch.randn(size, size).double()
    cov = a @ a.T / size + 0.1 * torch.eye(size).double()
    return Gaussian(torch.randn(size).double(), cov)


def mixture(size):
    means = 0.7 * torch.randn(3, size).double()
    return GaussianMixture(means, 0.2**2, torch.tensor([0.7, 0.2, 0.1]).double())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [2, 8, 64])
@pytest.mark.parametrize("make", [gaussian, mixture])
def test_exact_divergence_is_right_to_a_thousandth_of_a_nat(make, size, seed):
    torch.manual_seed(seed)
    oracle = make(size)
    x = oracle.sample(100, 0.01)
    found = log_likelihood(oracle, x, oracle.prior)
    assert (found.log_prob - oracle.log_prob(x, 0.01)).abs().max() <= 1e-3
    assert found.error.eq(0).all()
    # what a wrong coefficient of the method would multiply
    assert found.evaluations.max() <= 500


def test_other_ends_images_and_single_precision():
    oracle = GaussianMixture(torch.rand(3, 1, 4, 4), 0.05, torch.ones(3))
    x = oracle.sample(10, 0.1)
    for chunk in (1, 5, 64):
        found = log_likelihood(oracle, x, oracle.prior, sigma_min=0.1, sigma_max=80.0, chunk=chunk)
        assert found.log_prob.dtype == found.error.dtype == torch.float64
        assert found.evaluations.max() <= 500
        assert (found.log_prob - oracle.log_prob(x, 0.1)).abs().max() <= 2e-3


def test_a_looser_tolerance_costs_less_and_errs_more():
    oracle = mixture(8)
    x = oracle.sample(40, 0.01)
    runs = [log_likelihood(oracle, x, oracle.prior, tolerance=t) for t in (1e-7, 1e-5, 1e-3)]
    errors = [(r.log_prob - oracle.log_prob(x, 0.01)).abs().max().item() for r in runs]
    assert errors == sorted(errors)
    counts = [r.evaluations.double().mean().item() for r in runs]
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize("make", [gaussian, mixture])
def test_hutchinsons_estimate_lies_within_its_own_error(make):
    """50 repeats with 64 probes each: the estimates scatter as they say, about the truth."""
    oracle, repeats, probes = make(8), 50, 64
    x = oracle.sample(1, 0.01)
    found = log_likelihood(
        oracle, x.expand(repeats, 8), oracle.prior, probes=probes, tolerance=1e-4
    )
    z = (found.log_prob - oracle.log_prob(x, 0.01)) / found.error
    # all together, by their own errors; each alone, where a mixture's probes have heavy tails
    pooled = (found.error.square().mean() / repeats).sqrt()
    assert abs(found.log_prob.mean() - oracle.log_prob(x, 0.01)) < 3 * pooled
    assert (z.abs() > 3).sum() <= (0 if make is gaussian else 2)
    assert 0.7 < z.std() < 1.3


def test_hutchinsons_estimate_in_64_dimensions():
    oracle = gaussian(64)
    x = oracle.sample(1, 0.01)
    found = log_likelihood(oracle, x.expand(50, 64), oracle.prior, probes=32, tolerance=1e-4)
    z = (found.log_prob - oracle.log_prob(x, 0.01)) / found.error
    assert z.abs().max() <= 3
    assert 0.7 < z.std() < 1.3


def test_one_probe_has_no_error_estimate():
    oracle = gaussian(3)
    found = log_likelihood(oracle, oracle.sample(2, 0.01), oracle.prior, probes=1)
    assert found.error.isnan().all()
    assert found.log_prob.isfinite().all()


@pytest.mark.parametrize("probes", [None, 3])
def test_a_sample_does_not_depend_on_its_batch(probes):
    oracle = mixture(8)
    x = oracle.sample(6, 0.01)
    x[1] += 5  # a neighbour that needs other steps
    v = torch.randn(3, 6, 8).double()
    together = log_likelihood(oracle, x, oracle.prior, probes=probes, noise=replay(v))
    for i in range(6):
        one = log_likelihood(oracle, x[[i]], oracle.prior, probes=probes, noise=replay(v[:, [i]]))
        assert abs(one.log_prob - together.log_prob[i]) <= 1e-5
        assert one.evaluations == together.evaluations[i]


def test_a_sample_in_single_precision_depends_on_its_batch_by_rounding_alone():
    oracle = GaussianMixture(0.7 * torch.randn(3, 64), 0.2**2, torch.tensor([0.7, 0.2, 0.1]))
    x = oracle.sample(6, 0.05)
    together = log_likelihood(oracle, x, oracle.prior, sigma_min=0.05)
    for i in range(6):
        one = log_likelihood(oracle, x[[i]], oracle.prior, sigma_min=0.05)
        assert abs(one.log_prob - together.log_prob[i]) <= 1e-3


def test_it_integrates_to_one():
    """∫ exp(log q) over a line, with a score that is no oracle's: its flow is still a flow."""
    x = torch.linspace(-9, 9, 181).double()[:, None]
    prior = Prior(torch.zeros(1).double(), torch.tensor(1.0).double())

    def score(x, sigma):
        return -x / (1 + sigma[:, None] ** 2) + 0.2 * torch.cos(x) / (1 + sigma[:, None] ** 4)

    found = log_likelihood(score, x, prior, sigma_min=0.3)
    assert torch.trapezoid(found.log_prob.exp(), x[:, 0]) == pytest.approx(1, abs=1e-3)


def test_bits_per_dim():
    """Eight bits for uniform pixels; for a Gaussian of pixels, the entropy of its cells."""
    assert bits_per_dim(torch.zeros(2), 12).tolist() == [8.0, 8.0]
    cells = torch.arange(256).double()
    edges = torch.from_numpy(norm.cdf(torch.arange(257) / 256, 0.5, 0.1))
    p = edges.diff()
    entropy = -(p * p.log2()).sum().item()
    u = torch.rand(200_000).double()
    k = torch.multinomial(p, 200_000, replacement=True)
    log_prob = torch.from_numpy(norm.logpdf(((cells[k] + u) / 256).numpy(), 0.5, 0.1))
    assert bits_per_dim(log_prob, 1).mean() == pytest.approx(entropy, abs=0.01)
    assert bits_per_dim(torch.tensor([0.0]), 3, levels=2).item() == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 2, dtype=torch.uint8)}, "finite floats"),
        ({"x": torch.full((2, 2), math.nan)}, "finite floats"),
        ({"sigma_min": 0.0}, "sigma_min=0.0"),
        ({"sigma_max": 0.001}, "sigma_max=0.001"),
        ({"probes": 0}, "probes=0"),
        ({"score": lambda x, sigma: x * math.nan}, "samples .* score is not finite"),
        ({"score": lambda x, sigma: x[:, :1]}, r"score returned shape \(2, 1\)"),
        ({"score": torch.no_grad()(lambda x, sigma: -x)}, "without no_grad or detach"),
        ({"tolerance": 0.0}, "tolerance=0.0"),
        ({"max_evaluations": 20}, r"samples \[0, 1\] do not arrive within 20 evaluations"),
        ({"prior": Prior(torch.zeros(3), torch.tensor(1.0))}, r"prior is for samples of \(3,\)"),
        ({"x": torch.zeros(0, 2)}, "finite floats"),
        ({"x": torch.tensor([[0.0, 0.0], [math.inf, 0.0]])}, r"samples \[1\] are not"),
    ],
)
def test_errors(change, message, unchecked):
    oracle = Gaussian(torch.zeros(2), 1.0)
    arguments = {"score": oracle, "x": torch.zeros(2, 2), "prior": oracle.prior, **change}
    with pytest.raises((ValueError, TypeError), match=message):
        log_likelihood(**arguments)
