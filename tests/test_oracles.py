"""Oracles, the truth for all other tests, against autograd, scipy, mpmath and Bayes' rule."""

import math

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from standins import Largest
from torch.autograd import gradcheck, gradgradcheck
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from scorefield import Box, Empirical, Gaussian, GaussianMixture, Mixture, seeded


def oracles(shape, dtype=torch.float64, device="cpu"):
    """Return one oracle of each kind, the same in every call."""
    torch.manual_seed(0)
    size = math.prod(shape)
    mean, low, *means = torch.randn(7, *shape, dtype=dtype).to(device)
    weights = (torch.rand(5, dtype=dtype) + 0.1).log().softmax(0)
    a, tall = torch.randn(size, size, dtype=dtype), torch.randn(size, (size + 1) // 2, dtype=dtype)
    cov = (a @ a.T / size + 0.1 * torch.eye(size, dtype=dtype)).to(device)
    sides, points = (
        torch.rand(2, *shape, dtype=dtype).to(device),
        torch.rand(100, *shape, dtype=dtype),
    )
    parts = [Gaussian(means[0], 0.2), Gaussian(means[1], cov), Box(means[2] - 1, means[2] + 1)]
    return {
        "scalar": Gaussian(mean, 0.3),
        "diagonal": Gaussian(mean, sides[0] + 0.1),
        "dense": Gaussian(mean, cov),
        "plane": Gaussian(mean, 0.0, tall.to(device)),
        "thick plane": Gaussian(mean, 0.2, tall.to(device)),
        "gaussian mixture": GaussianMixture(torch.stack(means), 0.05, weights),
        "mixture": Mixture(parts, weights[:3] / weights[:3].sum()),
        "empirical": Empirical(points.to(device)),
        "box": Box(low, low + 0.1 + sides[1]),
    }


KINDS = [*oracles((1,))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1,), (2,), (64,), (3, 8, 8)])
@pytest.mark.parametrize("sigma", [0.0, 1e-3, 1.0, 50.0])
def test_score_is_the_gradient_of_log_prob(kind, shape, sigma):
    oracle = oracles(shape)[kind]
    if sigma == 0 and (kind == "empirical" or (kind == "plane" and math.prod(shape) > 1)):
        with pytest.raises(ValueError, match=r"points have no density|fill only a plane"):
            oracle.score(oracle.sample(1, sigma), sigma)
        return
    x = oracle.sample(50, sigma).requires_grad_()
    log_prob = oracle.log_prob(x, sigma)
    truth = torch.autograd.grad(log_prob.sum(), x)[0].flatten(1)
    error = (oracle.score(x.detach(), sigma).flatten(1) - truth).norm(dim=1)
    assert log_prob.isfinite().all()
    assert truth.isfinite().all()
    # 2e-16 × exponents ‖x−μ‖²/σ² of up to 5e5, where components at σ = 1e-3 are 1 apart
    assert (error <= 1e-10 * truth.norm(dim=1)).all(), (error / truth.norm(dim=1)).max()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_box_against_high_precision(dtype):
    # a quotient of two exponentials of at most 30²/2, each rounded about twice
    tolerance = 2000 * torch.finfo(dtype).eps
    mpmath.mp.dps = 500
    box = Box(torch.tensor([-0.5], dtype=dtype), torch.tensor([0.5], dtype=dtype))
    for sigma in (1e-3, 0.125, 1.0, 50.0):
        for away in (-30.0, -3.0, 0.0, 0.3, 3.0, 30.0):
            x = torch.tensor([[0.25 + away * sigma]], dtype=dtype)
            point, s = mpmath.mpf(x.item()), mpmath.mpf(sigma)
            upper, lower = (point + 0.5) / s, (point - 0.5) / s
            mass = (mpmath.erfc(-upper / mpmath.sqrt(2)) - mpmath.erfc(-lower / mpmath.sqrt(2))) / 2
            score = (mpmath.npdf(upper) - mpmath.npdf(lower)) / (s * mass)
            truth = float(mpmath.log(mass))
            assert box.log_prob(x, sigma).item() == pytest.approx(truth, tolerance, tolerance)
            # the smallest normal number stands in for what underflows
            truth, tiny = float(score), torch.finfo(dtype).tiny
            assert box.score(x, sigma).item() == pytest.approx(truth, tolerance, tiny)


@pytest.mark.parametrize("sigma", [0.0, 0.3, 20.0])
def test_gaussian_mixture_density_is_torchs(sigma):
    oracle = oracles((4,))["gaussian mixture"]
    modes = MultivariateNormal(oracle.means, (0.05 + sigma**2) * torch.eye(4).double())
    truth = MixtureSameFamily(Categorical(oracle.weights), modes)
    same = Mixture([Gaussian(mean, 0.05) for mean in oracle.means], oracle.weights)
    x = oracle.sample(20, sigma)
    torch.testing.assert_close(oracle.log_prob(x, sigma), truth.log_prob(x))
    torch.testing.assert_close(same.log_prob(x, sigma), truth.log_prob(x))
    torch.testing.assert_close(same.score(x, sigma), oracle.score(x, sigma))
    torch.testing.assert_close(same.responsibilities(x, sigma), oracle.responsibilities(x, sigma))
    torch.testing.assert_close(same.prior.dense, oracle.prior.dense)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_samples_have_the_stated_moments_in_any_batch(kind, sigma):
    """Moments as the prior's; and Stein's E[x·s] = −D, E[s] = 0 tie samples to scores.

    Each within four standard errors, of a fixed seed.
    """
    shape, n = (2,), 10_000
    oracle = oracles(shape)[kind]
    x = oracle.sample(n, sigma)
    cov = oracle.prior.dense + sigma**2 * torch.eye(2)
    gap = x - oracle.prior.mean
    assert (gap.mean(0) / (cov.diagonal() / n).sqrt()).abs().max() < 4
    products = gap[:, :, None] * gap[:, None]
    assert ((products.mean(0) - cov) / (products.std(0) / math.sqrt(n))).abs().max() < 4
    if sigma > 0:
        score = oracle.score(x, sigma)
        assert (score.mean(0) / (score.std(0) / math.sqrt(n))).abs().max() < 4
        stein = (gap * score).sum(1) + 2
        assert stein.mean().abs() < 4 * stein.std() / math.sqrt(n)
    whole = oracle.sample(6, sigma, noise=seeded(3))
    part = oracle.sample(4, sigma, noise=seeded(3, first=2))
    torch.testing.assert_close(part, whole[2:], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(64,), (3, 32, 32)])
@pytest.mark.parametrize("sigma", [1e-3, 0.03, 1.0, 50.0])
def test_empirical_in_float32_with_near_duplicates(shape, sigma):
    data = torch.rand(100, *shape)
    data = torch.cat([data, data + 1e-4 * torch.randn_like(data), data])
    x = data[:40] + sigma * torch.randn(40, *shape)
    single, double = Empirical(data), Empirical(data.double())
    truth = double.score(x.double(), sigma)
    error = (single.score(x, sigma) - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)
    # exponents of D/2 = 1,536, rounded to 1.2e-7, move weights by 2e-4 between points 0.14σ apart
    assert error.max() <= 1e-4
    # five roundings of a log-density of 16,400
    assert (single.log_prob(x, sigma) - double.log_prob(x.double(), sigma)).abs().max() <= 0.01


def test_means_of_no_weight_are_as_if_absent_and_pieces_add_up():
    means, x = torch.randn(100, 3, 2).double(), torch.randn(5, 3, 2).double()
    sigma = torch.linspace(0.05, 3, 5).double()
    for gone in (slice(0), slice(40, None), slice(None, 60)):
        weights = torch.rand(100).double() + 0.1
        weights[gone] = 0
        kept = weights > 0
        pieces = Empirical(means, weights, budget=100)
        whole = GaussianMixture(means[kept], 0.0, weights[kept] / weights.sum())
        torch.testing.assert_close(pieces.score(x, sigma), whole.score(x, sigma))
        torch.testing.assert_close(pieces.log_prob(x, sigma), whole.log_prob(x, sigma))
        assert pieces.responsibilities(x, sigma)[:, gone].eq(0).all()


def test_empirical_never_holds_more_than_its_budget():
    """Neither in one tensor nor, where x is differentiated through, in what backward needs."""
    n, size, budget, saved = 3000, 40, 20_000, []
    data, x = torch.rand(n, size).double(), torch.rand(4, size).double()
    oracle = Empirical(data, budget=budget)
    with Largest() as largest:
        score = oracle.score(x, 0.1)
    assert 0 < largest.size <= budget
    x.requires_grad_()
    hooks = torch.autograd.graph.saved_tensors_hooks
    with Largest() as largest:
        with hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
            log_prob = oracle.log_prob(x, 0.1).sum()
        log_prob.backward()
    assert 0 < largest.size <= budget
    assert 0 < sum(saved) < 0.1 * n * size * len(x)
    torch.testing.assert_close(x.grad, score)


@pytest.mark.parametrize("sigma_y", [0.0, 0.4])
@pytest.mark.parametrize("kind", ["diagonal", "dense", "thick plane", "gaussian mixture"])
def test_posterior_is_bayes(kind, sigma_y):
    shape, oracle = (2, 2), oracles((2, 2))[kind]
    matrix, y = torch.randn(2, 4, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    posterior = oracle.posterior(matrix, y, sigma_y)
    x = posterior.sample(40)
    if sigma_y == 0:
        # the covariance along y is 0 up to 2e-16, so its deviation is 1.5e-8
        torch.testing.assert_close(x.flatten(1) @ matrix.T, y.expand(40, 2), rtol=0, atol=1e-6)
        return
    gap = y - x.flatten(1) @ matrix.T
    bayes = oracle.log_prob(x, 0.0) - 0.5 * gap.square().sum(1) / sigma_y**2
    constant = posterior.log_prob(x, 0.0) - bayes
    torch.testing.assert_close(constant, constant[:1].expand(40), rtol=1e-9, atol=1e-9)
    assert posterior.score(x, 0.7).shape == (40, *shape)


def test_posterior_in_single_precision_keeps_small_variances():
    oracle, matrix = Gaussian(torch.zeros(3), 1.0), torch.eye(3)[:1]
    for sigma_y in (1e-2, 1e-3, 1e-4, 1e-5):
        posterior = oracle.posterior(matrix, torch.ones(1), sigma_y)
        x = torch.tensor([[1.0 + sigma_y, 0.5, 0.0]], dtype=torch.float64)
        v = sigma_y**2 / (1 + sigma_y**2)
        truth = (1 / (1 + sigma_y**2) - x[0, 0]) / (v + sigma_y**2)
        # in float64 throughout: 2e-16 × prior variance/σ_y² ≤ 1e10
        assert posterior.score(x, sigma_y)[0, 0] == pytest.approx(truth.item(), rel=5e-6)


def test_posterior_of_dense_gaussians_in_single_precision():
    """Their float32 covariances are symmetric up to 6e-8 of 10, over a noise of 0.5²: 3e-6."""
    parts = [(torch.randn(3), b @ b.T + torch.eye(3)) for b in torch.randn(2, 3, 3)]
    matrix, y, x = torch.randn(2, 3), torch.randn(2), torch.randn(4, 3)
    scores = []
    for dtype in (torch.float32, torch.float64):
        gaussians = [Gaussian(mean.to(dtype), (cov + cov.T).to(dtype) / 2) for mean, cov in parts]
        posterior = Mixture(gaussians, torch.tensor([0.3, 0.7])).posterior(matrix, y, 0.5)
        scores.append(posterior.score(x.double(), 0.3))
    torch.testing.assert_close(*scores, rtol=1e-4, atol=1e-4)


def test_posteriors_have_their_limits():
    """Without noise, that of noise tending to 0; of points, that of narrow Gaussians."""
    oracle, matrix = oracles((3,))["gaussian mixture"], torch.randn(1, 3, dtype=torch.float64)
    y = torch.zeros(1, dtype=torch.float64)
    exact, nearly = (oracle.posterior(matrix, y, sigma_y) for sigma_y in (0.0, 1e-6))
    x = exact.sample(10, 0.1)
    # 1e-6: σ_y² = 1e-12 over the least variance along y, and room
    torch.testing.assert_close(exact.score(x, 0.1), nearly.score(x, 0.1), rtol=1e-6, atol=1e-6)
    # 1e-6: the variance of the narrow ones, 1e-10, over 0.3²·0.5², and room
    data = torch.randn(20, 3).double()
    points = Empirical(data).posterior(matrix, y, 0.3)
    narrow = GaussianMixture(data, 1e-10, torch.ones(20) / 20).posterior(matrix, y, 0.3)
    x = torch.randn(5, 3).double()
    torch.testing.assert_close(points.score(x, 0.5), narrow.score(x, 0.5), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives(kind):
    """The score and the gradient of log_prob have the Jacobian of central differences.

    Its step of 1e-6 leaves 2e-16/1e-6 = 2e-10, far below the tolerance of 1e-5.
    """
    oracle = oracles((2,))[kind]
    with torch.inference_mode():  # what is kept from there serves derivatives too
        oracle.score(torch.ones(3, 2).double(), 0.5)
    x = oracle.sample(3, 0.5).requires_grad_()
    assert gradcheck(lambda x: oracle.score(x, 0.5), x)
    assert gradgradcheck(lambda x: oracle.log_prob(x, 0.5), x)


@given(
    kind=st.sampled_from(KINDS),
    shape=st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple),
    batch=st.integers(1, 4),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    sigma=st.floats(1e-3, 1e3),
)
def test_shapes_types_and_the_forms_of_sigma(kind, shape, batch, dtype, sigma):
    oracle = oracles(shape)[kind]
    x = oracle.sample(batch, sigma).to(dtype)
    for method in (oracle.score, oracle.log_prob):
        value = method(x, sigma)
        assert value.dtype == dtype
        assert value.shape == (x.shape if method == oracle.score else (batch,))
        assert value.isfinite().all()
        tensor = torch.tensor(sigma, dtype=torch.float64)
        torch.testing.assert_close(method(x, tensor), value)
        torch.testing.assert_close(method(x, tensor.expand(batch)), value)
        rows = torch.cat([method(x[i : i + 1], sigma) for i in range(batch)])
        # of float32, 1.2e-7 × exponents of up to 100 for samples of 27 numbers
        torch.testing.assert_close(rows, value, rtol=1e-4, atol=1e-6)


X = torch.zeros(2, 3)
N = Gaussian(torch.zeros(3), 1.0)
EYE = torch.eye(3)
BOX = Box(torch.zeros(3), torch.ones(3))
# of rank 2 up to rounding
TALL = torch.tensor([[1.0, 2.0, 3.0], [0.1, 0.3, 0.4], [0.7, 0.2, 0.9]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma", [1.0, torch.ones(0).double()])
def test_an_empty_batch_has_an_empty_score(kind, sigma):
    oracle = oracles((3,))[kind]
    for x in (torch.zeros(0, 3).double(), torch.zeros(0, 3).double().requires_grad_()):
        assert oracle.score(x, sigma).shape == (0, 3)
        assert oracle.log_prob(x, sigma).shape == (0,)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: N.score(X[:, :2], 1.0), "reshape x"),
        (lambda: N.score(X.to("meta"), 1.0), "reshape x or move"),
        (lambda: N.score(X, -1.0), "sigma=-1"),
        (lambda: N.sample(2, -1.0), "sigma=-1"),
        (lambda: Empirical(X).log_prob(X, torch.tensor([0.0, 1.0])), "density: give sigma > 0"),
        (lambda: GaussianMixture(X.byte(), 1.0, torch.ones(2)), "means is torch.uint8"),
        (lambda: GaussianMixture(X, 1.0, torch.zeros(2)), "weights must be 2 numbers"),
        (lambda: GaussianMixture(X, 1.0, torch.tensor([0.8, 0.3])), "whose sum is 1, not 1.1"),
        (lambda: Mixture([N, N], torch.ones(2)), r"give weights / weights.sum\(\)"),
        (lambda: GaussianMixture(X, -1.0, torch.ones(2)), "variance=-1"),
        (lambda: GaussianMixture(X, [1.0], torch.ones(2)), r"variance=\[1.0\]: give a finite"),
        (lambda: GaussianMixture(X / 0, 1.0, torch.ones(2) / 2), "means has NaN"),
        (lambda: GaussianMixture(X[:0], 1.0, torch.ones(0)), r"means has shape \(0, 3\)"),
        (lambda: Empirical(X[0]), r"data has shape \(3,\): give a batch"),
        (lambda: Gaussian(X[0], math.inf), "cov has NaN or infinite"),
        (lambda: Box(X[0], X[0] + math.inf), "high has NaN or infinite"),
        (lambda: Gaussian(torch.zeros(3, dtype=torch.int64), 1), "mean is torch.int64: give"),
        (lambda: Gaussian(torch.zeros(3), torch.ones(2)), "give a scalar, a diagonal"),
        (lambda: Gaussian(torch.zeros(3), -EYE).score(X, 1.0), "no negative eigenvalue"),
        (lambda: Gaussian(torch.zeros(3), 0.0, TALL).score(X, 0.0), "fill only a plane"),
        (lambda: BOX.score(X - 1, 0.0), "density 0 at sigma = 0"),
        (lambda: Box(torch.ones(3), torch.zeros(3)), "opposite corners"),
        (lambda: N.posterior(torch.ones(2, 4), X[0, :2], 0.1), "matrix has shape"),
        (lambda: N.posterior(torch.ones(2, 3), X[0, :2], -1.0), "sigma_y=-1.0"),
        (lambda: N.posterior(EYE[:1], X[0, :2], 0.1), "y has shape"),
        (lambda: N.posterior(torch.ones(2, 3), X[0, :2], 0.0), "rows that depend on each other"),
        (lambda: Mixture([BOX], torch.ones(1)).posterior(EYE, X[0], 0.1), "must all be Gaussian"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
