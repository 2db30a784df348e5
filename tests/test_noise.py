"""Grids, distributions of σ, the prior and sources of randomness against their definitions."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest, lognorm, loguniform, norm

from scorefield import Prior, brownian, geometric, interpolated, karras, linear
from scorefield._ops import WORD, philox
from scorefield.noise import (
    Discrete,
    LogNormal,
    LogUniform,
    perturb,
    replay,
    seeded,
    uniform_like,
)

GRIDS = {
    geometric: lambda a, b, t: a ** (1 - t) * b**t,
    karras: lambda a, b, t: (a ** (1 / 7) + t * (b ** (1 / 7) - a ** (1 / 7))) ** 7,
    linear: lambda a, b, t: a + t * (b - a),
}


@given(
    grid=st.sampled_from(list(GRIDS)),
    sigma_min=st.floats(1e-3, 1),
    ratio=st.floats(1.5, 1e4),
    levels=st.integers(2, 300),
)
def test_grids_are_their_formulas(grid, sigma_min, ratio, levels):
    sigma_max = sigma_min * ratio
    sigmas = grid(sigma_max, sigma_min, levels, dtype=torch.float64)
    truth = GRIDS[grid](sigma_max, sigma_min, np.linspace(0, 1, levels))
    # the last of the linear levels is a difference of terms up to 1e4 times as large: 1e4 × 1.1e-16
    np.testing.assert_allclose(sigmas, truth, rtol=1e-11)
    assert (sigmas.diff() < 0).all()
    assert sigmas[0] == sigma_max
    assert sigmas[-1] == sigma_min
    assert grid(sigma_max, sigma_min, levels).dtype == torch.float32


def test_perturb_and_the_uniform_start():
    x, z = torch.zeros(2, 3), torch.ones(2, 3)
    assert perturb(x, torch.tensor([1.0, 2.0]), z).tolist() == [[1.0] * 3, [2.0] * 3]
    u = uniform_like(torch.empty(2000, 1).double(), noise=lambda x: QUANTILES[:, None])
    torch.testing.assert_close(u[:, 0], SHARES)


SHARES = (torch.arange(2000).double() + 0.5) / 2000
QUANTILES = torch.special.ndtri(SHARES)
"""A normal sample without chance."""


def test_continuous_distributions_of_sigma():
    sigma = torch.logspace(-1.9, 1.2, 20, dtype=torch.float64)
    for levels, truth in (
        (LogUniform(20.0, 0.01), loguniform(0.01, 20)),
        (LogNormal(-1.2, 1.2), lognorm(1.2, scale=math.exp(-1.2))),
    ):
        torch.testing.assert_close(levels(QUANTILES), torch.from_numpy(truth.ppf(SHARES.numpy())))
        torch.testing.assert_close(levels.density(sigma), torch.from_numpy(truth.pdf(sigma)))


def test_levels_copied_in_inference_mode_serve_training_too():
    levels, there = Discrete(geometric(1.0, 0.1, 3)), torch.empty(1, device="meta")
    with torch.inference_mode():
        levels.like(there)
    assert not levels.like(there).is_inference()


def test_discrete_distribution_of_sigma():
    sigmas = geometric(1.0, 0.01, 10)
    levels = Discrete(sigmas)
    samples = levels(QUANTILES)
    assert [(samples == sigma).sum().item() for sigma in sigmas.double()] == [200] * 10
    assert levels(torch.tensor([-40.0, 40.0])).tolist() == sigmas[[0, -1]].tolist()
    # between two levels the nearer one in log σ: their geometric mean divides them
    middle = (sigmas[3] * sigmas[4]).sqrt()
    near = torch.stack([middle * 1.01, middle * 0.99, sigmas[0] * 9])
    assert levels.index(near).tolist() == [3, 4, 0]
    assert Discrete(sigmas[:1])(QUANTILES).unique().tolist() == [1.0]
    # its density tends to the continuous one
    levels = Discrete(geometric(20.0, 0.01, 2000, dtype=torch.float64))
    sigma = levels.sigmas[50:-50:100]
    truth = LogUniform(20.0, 0.01).density(sigma)
    # n levels have n − 1 gaps: 1/2000, and room
    torch.testing.assert_close(levels.density(sigma), truth, rtol=2e-3, atol=0)


@pytest.mark.parametrize("form", ["scalar", "diagonal", "dense", "plane", "thick plane"])
@pytest.mark.parametrize("sigma", [0.0, 0.5, 80.0])
def test_prior_is_its_gaussian(form, sigma):
    a, eye = torch.randn(6, 6).double(), torch.eye(6).double()
    factor = a[:, :2] if "plane" in form else None
    scales = {"scalar": 0.4, "plane": 0.0, "thick plane": 0.2}
    cov = {"diagonal": torch.rand(2, 3).double(), "dense": a @ a.T}.get(form)
    cov = torch.tensor(scales[form]).double() if cov is None else cov
    prior = Prior(torch.randn(2, 3).double(), cov, factor)
    dense = cov if form == "dense" else cov.flatten() * eye
    dense = dense if factor is None else dense + factor @ factor.T
    torch.testing.assert_close(prior.dense, dense)
    sigma = sigma or (0.1 if form == "plane" else 0.0)  # a plane has no density
    noisy = dense + sigma**2 * eye
    truth = torch.distributions.MultivariateNormal(prior.mean.flatten(), noisy)
    # a sample of unit vectors gives the columns of A, where a sample is mean + Az
    columns = prior.sample(6, sigma, noise=lambda x: eye.view_as(x)) - prior.mean
    torch.testing.assert_close(columns.flatten(1).T @ columns.flatten(1), noisy)
    x = prior.sample(100, sigma)
    torch.testing.assert_close(prior.log_prob(x, sigma), truth.log_prob(x.flatten(1)))


def test_prior_of_data():
    data, weights = torch.randn(50, 2, 3).double(), torch.rand(50).double()
    prior = Prior.fit(data, weights, 0.3)
    flat = data.flatten(1).T
    np.testing.assert_allclose(prior.mean.flatten(), np.average(flat, axis=1, weights=weights))
    truth = np.cov(flat, aweights=weights, ddof=0) + 0.3 * np.eye(6)
    np.testing.assert_allclose(prior.dense, truth, atol=1e-12)
    wide = torch.rand(9, 5, 300)
    torch.testing.assert_close(Prior.fit(wide).cov, wide.var(0, correction=0))


@given(
    n=st.integers(1, 6),
    shape=st.lists(st.integers(1, 4), max_size=3).map(tuple),
    first=st.integers(0, 5),
    calls=st.integers(1, 3),
)
def test_seeded_noise_is_a_function_of_position(n, shape, first, calls):
    whole, part = seeded(7, step=2), seeded(7, first=first, step=2)
    for _ in range(calls):
        all_rows = whole(torch.empty(first + n, *shape))
        rows = part(torch.empty(n, *shape))
    assert torch.equal(rows, all_rows[first:])


def test_the_random_words_are_those_of_the_authors():
    """The known answers that come with Salmon et al.'s own program."""
    pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
    for counter, key, answer in (
        ((0,) * 4, (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((WORD,) * 4, (WORD, WORD), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (*pi, "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ):
        words = philox([torch.tensor(word) for word in counter], key)
        assert " ".join(f"{int(word):08x}" for word in words) == answer


def test_seeded_noise_is_its_formula():
    """Seed, step, sample, call and position each choose words of their own."""
    noise = seeded(2**40 + 3, first=2**32 - 2, step=5)
    noise(torch.empty(2, 6))
    z = noise(torch.empty(2, 6, dtype=torch.float64))
    for row, position in ((0, 0), (1, 5)):
        counter = position // 4, 2**32 - 2 + row, 1, 5
        words = philox([torch.tensor(word) for word in counter], (3, 2**8))
        word = position % 4 % 2
        u, v = (int(words[2 * word + i]) / 2**32 for i in (0, 1))
        turn = (math.sin if position % 4 > 1 else math.cos)(2 * math.pi * v)
        # a handful of operations in float64
        assert z[row, position].item() == pytest.approx(
            math.sqrt(-2 * math.log(u + 2**-33)) * turn, rel=1e-14
        )


@pytest.mark.parametrize("rows", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_seeded_noise_is_normal_and_independent(rows):
    """Each statistic of a thousand numbers in a row is within 5 of its own standard errors."""
    z = seeded(0)(torch.empty(rows, 1000))
    n = z.numel()
    moments = [z.double().pow(k).mean().item() for k in (1, 2, 3, 4)]
    for value, truth, variance in zip(moments, (0, 1, 0, 3), (1, 2, 15, 96), strict=True):
        assert abs(value - truth) < 5 * math.sqrt(variance / n)
    tail = (z.abs() > 4).double().mean().item()
    assert abs(tail - (share := 2 * norm.sf(4))) < 5 * math.sqrt(share / n)
    assert kstest(z[:100].flatten(), "norm").pvalue > 1e-4
    others = [z.roll(shift, dim) for shift, dim in ((1, 0), (1, 1), (2, 1), (3, 1), (4, 1))]
    others += [seeded(1)(z), seeded(0, step=1)(z), seeded(0, first=rows)(z)]
    second = seeded(0)
    second(z[:, :1])
    others.append(second(z))
    for other in others:
        for a, b in ((z, other), (z**2 - 1, (other**2 - 1) / 2)):  # E a²b² = 1 and 1
            assert abs((a * b).mean(dtype=torch.float64).item()) < 5 / math.sqrt(n)


def test_seeded_noise_is_the_same_in_any_type():
    z, half = (seeded(4)(torch.empty(300, 70, dtype=d)) for d in (torch.float64, torch.bfloat16))
    single = seeded(4)(torch.empty(300, 70))
    assert torch.equal(half, single.bfloat16())
    # u near 1 has an error of 6e-8, and √(−2 log u) its root's: √(2 × 6e-8) = 3.5e-4 at most
    assert (z - single).abs().max() < 3.5e-4
    assert (z - single).abs().median() < 1e-6
    assert seeded(0)(torch.empty(0, 3)).shape == (0, 3)


def brownian_at(sigmas, x):
    """Return B(1/σ²) at each level of a grid but its first, from its first on."""
    noise, rho = brownian(3, sigmas), sigmas**-2
    steps = [width.sqrt() * noise(x) for width in rho.diff()]
    return torch.stack(steps).cumsum(0)


def test_a_brownian_path_is_one_on_every_grid():
    x, sigmas = torch.empty(4, 3).double(), geometric(5.0, 0.2, 9, dtype=torch.float64)
    path = brownian_at(sigmas, x)
    # two ways to add up to 8 increments, each within 2.2e-16 of B, whose deviation is 5
    for grid in (sigmas[::2], sigmas[[0, 5, 8]], sigmas[[0, 8]]):
        torch.testing.assert_close(brownian_at(grid, x)[-1], path[-1], rtol=0, atol=1e-13)
    alone = brownian(3, sigmas, first=2)(x[2:3])
    assert torch.equal(alone, brownian(3, sigmas)(x)[2:3])  # the same in any batch
    assert (brownian(4, sigmas)(x) - brownian(3, sigmas)(x)).abs().min() > 1e-4
    assert brownian(3, sigmas)(x.half()).dtype == torch.half
    noise = brownian(3, sigmas[:2])
    noise(x)
    with pytest.raises(ValueError, match=r"sigmas has 2 levels.*the grid that.*noise once a step"):
        noise(x)


def test_increments_of_a_brownian_path_are_normal_and_independent():
    """Steps as fine as 0.01 and as coarse as 3 octaves."""
    sigmas = torch.tensor([90.0, 11.0, 5.0, 4.97, 4.94, 1.0, 0.9, 0.01]).double()
    noise, x = brownian(0, sigmas), torch.empty(5000, 1).double()
    z = torch.cat([noise(x) for _ in sigmas[1:]], 1)
    for column in z.T:
        assert kstest(column, norm.cdf).pvalue > 1e-3
    # 4.5 standard errors of 28 products of 5000 pairs
    assert (z.T @ z / 5000 - torch.eye(7)).abs().max() < 4.5 * (2 / 5000) ** 0.5


def test_interpolated_noise_is_normal_throughout():
    """Its coefficients' squares sum to 1, so it is N(0, I) where its ends are."""
    start, end = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]).double()
    weights = torch.linspace(0, 1, 5).double()
    path = interpolated(replay([start]), replay([end]), weights)(torch.empty(5, 2).double())
    torch.testing.assert_close(path.norm(dim=1), torch.ones(5).double())
    torch.testing.assert_close(path[[0, -1]], torch.cat([start, end]))
    assert (path @ start.T).flatten().diff().max() < 0
    assert replay([torch.ones(2, 3)])(torch.empty(2, 3).double()).dtype == torch.float64


ZERO = torch.zeros(2)
NO_COVARIANCE = "cov is not a covariance"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: geometric(1.0, 0.0, 5), "sigma_max=1.0, sigma_min=0.0"),
        (lambda: geometric(0.1, 1.0, 5), "sigma_max=0.1, sigma_min=1.0"),
        (lambda: geometric(math.inf, 1.0, 3), "sigma_max=inf"),
        (lambda: geometric(1.0, 0.1, 1), "levels=1:"),
        (lambda: geometric(1.0, 0.1, 2.5), "levels=2.5: give a whole number"),
        (lambda: geometric(1e6, 0.1, 3, dtype=torch.float16), "do not differ in torch.float16"),
        *((partial(karras, 1.0, 0.1, 3, rho=rho), f"rho={rho}: give") for rho in (0, math.nan)),
        (lambda: linear(1.0, 0.999999, 100), "levels=100 do not differ in torch.float32"),
        (lambda: LogUniform(0.01, 20.0), "sigma_max=0.01, sigma_min=20.0"),
        (lambda: LogUniform(math.inf, 0.01), "sigma_max=inf"),
        (lambda: LogNormal(0.0, -1.0), "std=-1.0: give"),
        (lambda: LogNormal(math.nan), "mean=nan"),
        (lambda: Discrete(torch.tensor([0.1, 1.0])), "above 0 that strictly decrease"),
        (lambda: Discrete(torch.ones(0)), "above 0 that strictly decrease"),
        (lambda: Discrete(torch.tensor([1.0, 0.0])), "above 0 that strictly decrease"),
        (lambda: Discrete(torch.ones(1)).density(ZERO), "single level"),
        (lambda: interpolated(seeded(0), seeded(1), torch.ones(3))(ZERO), "weights has 3 rows"),
        *((partial(seeded, seed), f"seed={seed}: give a") for seed in (-1, 2**64, 1.5, None, True)),
        *((partial(seeded, 0, **{k: 2**32}), f"{k}=4294967296") for k in ("first", "step")),
        (lambda: replay([torch.ones(2, 2)])(ZERO), r"shape \(2, 2\) where shape \(2,\)"),
        (lambda: replay([])(ZERO), "no more tensors"),
        (lambda: Prior(ZERO, torch.tensor(0.0), torch.ones(3, 1)), "factor"),
        (lambda: Prior(ZERO, torch.tensor(1)), "cov is torch.int64: give a tensor"),
        (lambda: Prior.fit(torch.full((3, 2), math.nan)), "data has NaN or infinite values"),
        (lambda: Prior.fit(ZERO), r"data has shape \(2,\): give a batch"),
        (lambda: Prior.fit(torch.ones(0, 2)), r"data has shape \(0, 2\): give a batch"),
        (lambda: Prior.fit(torch.ones(3, 2), torch.ones(2)), "weights must be 3 numbers"),
        (lambda: Prior.fit(torch.ones(3, 2), torch.tensor([1.0, -1, 1])), "numbers ≥ 0"),
        (lambda: Prior(ZERO, torch.tensor(math.nan)), "cov has NaN"),
        (lambda: Prior(ZERO, torch.tensor(-1.0)).log_prob(ZERO[None], 1.0), NO_COVARIANCE),
        (lambda: Prior(ZERO, torch.tensor([1.0, -1])).log_prob(ZERO[None], 1.0), NO_COVARIANCE),
        (lambda: Prior(ZERO, -torch.eye(2)).log_prob(ZERO[None], 1.0), NO_COVARIANCE),
        (lambda: Prior(ZERO, torch.ones(2, 2).triu()).log_prob(ZERO[None], 1.0), NO_COVARIANCE),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_nonsense_is_refused_by_name(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
