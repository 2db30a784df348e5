"""The constant Z of an energy by annealed importance sampling and sequential Monte Carlo."""

import math
from functools import partial

import pytest
import torch

from scorefield import Gaussian, GaussianMixture, Prior, from_energy, geometric, seeded
from scorefield.inverse import log_normalizer, smc
from scorefield.samplers import hmc


def mixture(size):
    """Return three modes of deviation 0.5 in a plane of `size` dimensions."""
    means = torch.zeros(3, size).double()
    means[:, :2] = torch.tensor([[-2, 0], [2, 1], [0, -2]])
    return GaussianMixture(means, 0.25, torch.tensor([0.2, 0.5, 0.3]).double())


def last(states):
    """Return the last state, whose weights differ between filters only."""
    *_, state = states
    return state


def test_all_weights_are_the_constant_where_the_prior_is_exact():
    """For E = (x − μ)ᵀ(Σ + σ²I)⁻¹(x − μ)/2, Z² is the determinant of 2π(Σ + σ²I)."""
    root = torch.randn(6, 6).double()
    truth = Gaussian(torch.randn(2, 3).double(), root @ root.T)
    values = torch.linalg.eigvalsh(truth.prior.dense)

    def energy(x, sigma):
        gap = (x - truth.prior.mean).flatten(1)
        power = truth.prior.covariance.power(torch.tensor(sigma).double(), -1)
        return 0.5 * (gap * (power @ gap)).sum(1)

    sigmas = geometric(5.0, 0.2, 6).double()
    x = truth.prior.sample(8, sigmas[0])
    options = {"prior": truth.prior, "epsilon": 0.01, "filter_size": 4, "steps": 2}
    for state in smc(from_energy(energy), x, sigmas, **options):
        log_z = 0.5 * (2 * math.pi * (values + state.sigma**2)).log().sum()
        # rounding, 2e-16, × the condition of Σ + σ²I, below 1e4, × a few hundred operations
        torch.testing.assert_close(state.log_w, log_z.expand(8), rtol=1e-10, atol=1e-10)


def run_mixture(filter_size, particles, prior, sigmas):
    """Return the states of many particles, and their w/Z at each level."""
    score = from_energy(lambda x, sigma: -mixture(2).log_prob(x, sigma) - 3 - sigma)
    x = prior.sample(particles, sigmas[0], noise=seeded(0))
    options = {"prior": prior, "epsilon": 0.15, "filter_size": filter_size, "noise": seeded(1)}
    states = list(smc(score, x, sigmas, **options))
    return states, [(state.log_w - 3 - state.sigma).exp() for state in states]


@pytest.mark.parametrize("filter_size", [1, 4, 16])
def test_the_mean_weight_is_unbiased_and_weighs_the_samples(filter_size):
    """With a prior that is off, and a coarse grid."""
    off, sigmas = (
        Prior(torch.tensor([1.0, 0.0]).double(), torch.tensor(4.0).double()),
        torch.tensor([2.0, 0.6, 0.25]).double(),
    )
    states, weights = run_mixture(filter_size, 32_000, off, sigmas)
    for state, w in zip(states, weights, strict=True):
        assert abs(w.mean() - 1) < 4 * log_normalizer(state.log_w, filter_size).error
    # before the end many filters are resampled
    pairs = states[1].log_w.view(-1, 2)
    assert ((pairs.diff() == 0).double().mean() > 0.1) == (filter_size > 1)
    ends = states[-1].log_w.view(-1, filter_size)  # all are, at the end
    assert torch.equal(ends, ends[:, :1].expand_as(ends))
    prior = mixture(2).prior
    gap = states[-1].x - prior.mean
    gap = torch.cat([gap, gap**2 - prior.dense.diag() - states[-1].sigma ** 2], 1)
    filters = (weights[-1][:, None] * gap).view(-1, filter_size, 4).mean(1)
    assert ((filters.mean(0) / filters.std(0)).abs() * len(filters) ** 0.5 < 4).all()


# of Student's t for 90 %, with one degree of freedom less than there are filters
@pytest.mark.parametrize(("filter_size", "quantile"), [(1, 1.669), (4, 1.753), (16, 2.353)])
def test_the_standard_error_covers(filter_size, quantile):
    """In 400 estimates from 64 particles each."""
    states, _ = run_mixture(filter_size, 400 * 64, mixture(2).prior, geometric(3, 0.5, 6).double())
    results = [log_normalizer(part, filter_size) for part in states[-1].log_w.view(400, 64)]
    gaps = torch.tensor([(r.value - 3 - states[-1].sigma) / r.error for r in results])
    inside = (gaps.abs() < quantile).double().mean().item()
    assert inside == pytest.approx(0.9, abs=3 * math.sqrt(0.9 * 0.1 / 400))


TARGETS = {
    "Gaussian, 2-D": Gaussian(torch.zeros(2).double(), torch.tensor([0.2, 0.6]).double()),
    "Gaussian, 64-D": Gaussian(torch.zeros(64).double(), torch.linspace(0.2, 0.6, 64).double()),
    "mixture, 2-D": mixture(2),
    "mixture, 64-D": mixture(64),
}


def estimate(name, filter_size, seed):
    """Return the error of log Z = −σ of a target, from 1,024 particles of a prior fitted to it."""
    truth, noise, sigmas = TARGETS[name], seeded(seed), geometric(6.0, 0.3, 20).double()
    prior = Prior.fit(truth.sample(4000, noise=noise))
    options = {"prior": prior, "epsilon": 0.015, "kernel": partial(hmc, leapfrogs=5)}
    x = prior.sample(1024, sigmas[0], noise=noise)

    def score(x, sigma):
        return truth(x, sigma)

    score.log_prob = lambda x, sigma: truth.log_prob(x, sigma) - sigma
    state = last(smc(score, x, sigmas, filter_size=filter_size, noise=noise, **options))
    return log_normalizer(state.log_w + state.sigma, filter_size)


@pytest.mark.parametrize(("name", "filter_size"), list(zip(TARGETS, [1, 64, 64, 1], strict=True)))
def test_log_z_to_a_twentieth_of_a_nat(name, filter_size):
    value, error = estimate(name, filter_size, seed=0)
    print(f"{name}, filters of {filter_size}: {value:.4f} ± {error:.4f}")
    assert error < 0.05 / 2
    assert abs(value) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("filter_size", [1, 64])
@pytest.mark.parametrize("name", TARGETS)
def test_log_z_of_many_seeds(name, filter_size):
    results = [estimate(name, filter_size, seed) for seed in range(40)]
    gaps = torch.tensor([result.value / result.error for result in results])
    # 95 % within 1.96, or 2.13 for the 16 filters: at least 33 of 40 except in one case of 500
    assert (gaps.abs() < (1.96 if filter_size == 1 else 2.13)).sum() >= 33
    assert abs(gaps.mean()) < 4 / len(gaps) ** 0.5
    assert sum(abs(result.value) for result in results) / 40 < 0.025


def test_a_filter_does_not_depend_on_the_others():
    truth, sigmas = mixture(2), geometric(2.0, 0.4, 4).double()
    x = truth.prior.sample(12, sigmas[0], noise=seeded(0))
    run = partial(smc, truth, sigmas=sigmas, prior=truth.prior, epsilon=0.15, filter_size=4)
    whole, part = last(run(x, noise=seeded(1))), last(run(x[4:], noise=seeded(1, first=4)))
    # rounding, 2e-16, of sums in another order, through a few hundred operations
    torch.testing.assert_close((part.x, part.log_w), (whole.x[4:], whole.log_w[4:]))


def test_arguments_that_do_not_fit_are_refused():
    truth, sigmas = mixture(2), torch.tensor([2.0, 1.0])
    x, options = torch.zeros(6, 2).double(), {"prior": truth.prior, "epsilon": 0.1}
    with pytest.raises(ValueError, match="filter_size=4: give a number that divides 6"):
        smc(truth, x, sigmas, filter_size=4, **options)
    with pytest.raises(TypeError, match="score has no log_prob"):
        smc(lambda x, sigma: -x, x, sigmas, filter_size=3, **options)
    with pytest.raises(ValueError, match="prior is for samples of"):
        smc(truth, x, sigmas, prior=Prior(torch.zeros(3), torch.tensor(1.0)), epsilon=0.1)
    with pytest.raises(ValueError, match="filter_size=6: one filter has no standard error"):
        log_normalizer(torch.zeros(6), 6)
