"""Inverse problems against linear algebra, and samples against the exact posterior."""

import math
from functools import partial

import pytest
import torch
from torch.nn.functional import one_hot, scaled_dot_product_attention

from scorefield import Gaussian, GaussianMixture, Mixture, final, geometric, seeded
from scorefield.inverse import (
    algorithm2,
    compose,
    dps,
    mmps,
    particle_filter,
    pigdm,
    posterior,
    replace,
)
from scorefield.inverse.operators import (
    BLUR_CUTOFF,
    blur,
    downsample,
    grayscale,
    mask,
    matrix,
    nonlinear,
)
from scorefield.inverse.posterior import resample
from scorefield.inverse.scanners import fourier, radon

IMAGE = (3, 8, 12)
SHAPE = (2, 3, 4)
normal = partial(torch.randn, dtype=torch.float64)
OPERATORS = {
    "mask of a shape": (lambda: mask(torch.rand(IMAGE) < 0.4), IMAGE),
    "mask of pixels": (lambda: mask(torch.rand(8, 12) < 0.4), IMAGE),
    "grayscale": (grayscale, IMAGE),
    "downsample": (lambda: downsample(4), IMAGE),
    "blur": (lambda: blur(1.5), IMAGE),
    "blur of odd sides": (lambda: blur(0.7), (1, 7, 9)),
    "fourier": (lambda: fourier(torch.rand(8, 12) < 0.6), IMAGE),
    "fourier of odd sides": (lambda: fourier(torch.rand(7, 9) < 0.6), (1, 7, 9)),
    "radon": (lambda: radon(5, 8), (2, 8, 8)),
    "matrix": (lambda: matrix(normal(5, 9)), (9,)),
    "matrix of rank 3": (lambda: matrix(normal(7, 3) @ normal(3, 24), SHAPE), SHAPE),
}


def dense(linear, shape):
    """Return the matrix of a linear map, from its values at unit vectors."""
    units = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)
    return linear(units).flatten(1).T


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_is_consistent_with_its_matrix(name):
    """Adjoint, pseudoinverse, functions of AAᵀ and projection, all in float64.

    A blur's smallest eigenvalues are (1e-4)²: 1e-16/1e-8 of rounding, so 1e-7 for what it inverts.
    """
    make, shape = OPERATORS[name]
    operator = make()
    x, other = torch.randn(2, 3, *shape, dtype=torch.float64)
    y = operator(x)
    a = dense(operator, shape)
    torch.testing.assert_close(dense(operator.adjoint, y.shape[1:]), a.T, rtol=0, atol=1e-12)
    b = dense(operator.pinv, y.shape[1:])  # Moore and Penrose's
    torch.testing.assert_close(a @ b @ a, a, rtol=0, atol=1e-7)
    torch.testing.assert_close(b @ a @ b, b, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(b @ a, (b @ a).T, rtol=0, atol=1e-7)
    gram = a @ a.T
    regular = 0.01 * torch.eye(len(gram)).double() + 0.49 * gram
    truth = torch.linalg.solve(regular, y.flatten(1).T).T  # of y in the range of A
    torch.testing.assert_close(operator.solve(y, 0.1, 0.7), truth.view_as(y), rtol=1e-8, atol=1e-8)
    projected = operator.project(other, y)
    torch.testing.assert_close(operator(projected), y, rtol=1e-7, atol=1e-7)
    null = x - operator.pinv(y)  # it moves as little as it can
    assert ((projected - other) * null).sum().abs() < 1e-7 * (projected - other).norm() * x.norm()


def test_operators_have_the_meaning_of_their_names():
    x, y = torch.rand(2, 2, 3, 8, 8)
    observed = torch.rand(8, 8) < 0.5
    assert torch.equal(mask(observed).project(x, y), torch.where(observed, y, x))
    assert torch.equal(grayscale((0.0, 1.0, 0.0))(x), x[:, 1:2])
    torch.testing.assert_close(downsample(8)(x), x.mean((2, 3), keepdim=True))
    wide = torch.zeros(1, 1, 64, 64)
    wide[0, 0, 30, 33] = 1
    rows = blur(2.0)(wide.double())[0, 0].sum(1)
    density = torch.distributions.Normal(30.0, 2.0).log_prob(torch.arange(64.0).double()).exp()
    # each of the waves that are left out has a factor below the cutoff, and their mean is the error
    torch.testing.assert_close(rows, density, rtol=0, atol=BLUR_CUTOFF)
    waves = torch.view_as_complex(fourier(observed)(x))
    torch.testing.assert_close(waves, torch.fft.fft2(x, norm="ortho")[..., observed])


def test_projections_of_a_gaussian_are_gaussians():
    """A bump of 3 pixels off the centre of 40, whose edges are 5.7 deviations away.

    Pixels and detectors are boxes, which add 1/12 each to the variance, whatever the angle, and at
    most 1/60 to the fourth cumulant: 3/24/60/3⁴ = 3e-5 of the largest integral, 7.5/40. Along the
    axes there is nothing to add, because pixels and detectors coincide.
    """
    angles, at = torch.tensor([0.3, 2.2, 0.0, math.pi / 2]).double(), torch.arange(40.0).double()
    row, column = at[:, None] - 19.5 + 2, at - 19.5 - 3
    x = (-(row**2 + column**2) / 18).exp()
    y = radon(angles, 40)(x.view(1, 1, 40, 40))[0, 0]
    t = torch.arange(y.shape[1]) - (y.shape[1] - 1) / 2
    normals = torch.distributions.Normal(3 * angles.cos() - 2 * angles.sin(), (9 + 1 / 6) ** 0.5)
    truth = normals.log_prob(t[:, None]).exp().T * 18 * math.pi / 40
    truth[2:, 9:-9] = torch.stack([x.mean(0), x.mean(1)])
    torch.testing.assert_close(y, truth, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "cov"),
    [
        (partial(pigdm, sigma_data=0.6), torch.tensor(0.36)),
        (mmps, (lambda root: root @ root.T)(torch.linspace(-2, 2, 16).cos().view(4, 4))),
    ],
)
def test_moment_matching_is_exact_for_the_gaussian_it_assumes(method, cov):
    target = Gaussian(normal(4), cov.double())
    rows, y, x = normal(2, 4), normal(1, 2), normal(6, 4)
    truth = target.posterior(rows, y[0], 0.3)
    score = method(target, matrix(rows), y, sigma_y=0.3)
    for sigma in (0.1, 2.0, torch.rand(6).double() + 0.1):
        torch.testing.assert_close(score(x, sigma), truth(x, sigma))


@pytest.mark.parametrize("peak", [None, 50.0])
@pytest.mark.parametrize("function", [lambda z: z, torch.exp])
def test_mmps_has_the_covariance_of_the_clean_sample_in_its_likelihood(function, peak):
    """Line by line with a dense V; without noise, and where one sample fits y already."""
    target, rows, x = (
        GaussianMixture(normal(3, 4), 0.2, torch.ones(3) / 3),
        normal(2, 4),
        normal(5, 4),
    )
    measure = lambda x: function(x @ rows.T)  # noqa: E731
    denoise = lambda x: x + 0.25 * target(x[None], 0.5)[0]  # noqa: E731
    clean = torch.stack([*map(denoise, x)])
    y = normal(5, 2)
    y[0] = measure(clean[0])
    if peak is not None:
        y, rows[0] = y.abs(), -rows[0] * (clean[1] @ rows[0]).sign()  # the second has A·D < 0
    jacobian = torch.stack([torch.func.jacrev(denoise)(row) for row in x])
    slope = torch.stack([torch.func.jacrev(measure)(row) for row in clean])
    variance = torch.zeros(5, 2).double()
    if peak is not None:
        variance = torch.where(measure(clean) > 1 / peak, measure(clean), 1 / peak) / peak
    regular = 0.25 * slope @ jacobian @ slope.mT + torch.diag_embed(variance)
    gap = torch.linalg.solve(regular, y - measure(clean))
    pull = (jacobian.mT @ slope.mT @ gap[..., None]).squeeze(-1)
    operator = matrix(rows) if function is not torch.exp else nonlinear(measure)
    score = mmps(target, operator, y, iterations=4, peak=peak)
    torch.testing.assert_close(score(x, 0.5), target(x, 0.5) + pull)


class Sine(torch.autograd.Function):
    """sin x in the older form of a function, which forward differentiation refuses."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, dy):
        return dy * ctx.saved_tensors[0].cos()


@pytest.mark.parametrize("function", [lambda x: scaled_dot_product_attention(x, x, x), Sine.apply])
@pytest.mark.parametrize("training", [False, True])
def test_the_derivative_is_of_any_function_that_autograd_differentiates(function, training):
    """By central differences, whose error is h²/6 times a third derivative: 1e-8 × tens."""
    x, v, u = normal(3, 2, 1, 4, 5)
    with torch.set_grad_enabled(training):
        push, pull = nonlinear(function).derivative(x)
        out, back = push(v), pull(u)
    slope = (function(x + 1e-4 * v) - function(x - 1e-4 * v)) / 2e-4
    torch.testing.assert_close(out.detach(), slope, rtol=0, atol=1e-6)
    torch.testing.assert_close((back * v).sum(), (u * out).sum())
    assert not (out.requires_grad or back.requires_grad) or training


@pytest.mark.parametrize("sigma", [0.01, 0.03, 0.1])
def test_mmps_of_many_photons_has_the_posterior_of_a_grid(sigma):
    """10,000 photons of ½x with x ~ N(1, 0.02²), at whose posterior the variance is nearly ½D/peak.

    The mean of ∂ log p(x₀ | x, y)/∂x₀ is 0. A normal y has peak·(y − ½x₀)/D there and Poisson's
    peak·(y − ½x₀)/x₀: their difference is (½·peak/D)·E(x₀ − 2y)(x₀ − D)/x₀. The error of
    E(x₀ | x, y) is that over 1/V + ½·peak/D.
    """
    peak, counts = 20_000, torch.tensor([[10_300.0]]).double()
    y, grid = counts / peak, torch.linspace(0.9, 1.1, 4001).double()
    x = 1.02 + sigma * torch.linspace(-3, 3, 7).double()[:, None]
    prior = torch.distributions.Normal(1.0, 0.02)
    joint = prior.log_prob(grid) + torch.distributions.Poisson(peak / 2 * grid).log_prob(counts)
    weights = (joint - (x - grid) ** 2 / (2 * sigma**2)).softmax(1)
    truth = (weights @ grid)[:, None] - x
    target = Gaussian(torch.ones(1).double(), torch.full((1,), 4e-4).double())
    denoised = x + sigma**2 * target(x, sigma)
    bound = (weights * ((grid - 2 * y) * (grid - denoised) / grid).abs()).sum(1, keepdim=True)
    score = mmps(target, matrix(torch.tensor([[0.5]]).double()), y, peak=peak)(x, sigma)
    assert ((sigma**2 * score - truth).abs() <= bound).all()
    assert (bound < 0.1 * (denoised - x - truth).abs().max()).all()  # of what y does to the mean


@pytest.mark.parametrize("sigma_y", [0.0, 0.1])
@pytest.mark.parametrize("variance", [-1.0, -0.499, -0.0399])
def test_mmps_is_bounded_where_a_variance_is_negative(variance, sigma_y):
    """∂D/∂x = diag(½, variance), as a trained score may have; σ²·0.0399 is nearly σ_y² = 0.01."""
    jacobian, x = torch.tensor([0.5, variance]).double(), torch.zeros(1, 2).double()
    score = lambda x, sigma: (jacobian - 1) * x / sigma**2  # noqa: E731

    def pull(observed, gap, **options):
        operator, y = mask(torch.tensor(observed)), torch.tensor([gap]).double()
        return mmps(score, operator, y, sigma_y=sigma_y, **options)(x, 0.5)[0].detach()

    exact = 0.5 / (sigma_y**2 + 0.25 * 0.5)
    assert pull([False, True], [0.0, 1.0]).tolist() == [0, 0]  # it is not informed
    assert math.isclose(pull([True, True], [1.0, 0.0])[0], exact, rel_tol=1e-12)
    assert math.isclose(pull([True, True], [1.0, 0.1])[0], exact, rel_tol=0.05)
    for iterations in (1, 2, 5):  # |J·u| ≤ |(σ_y² + σ²J)·u|/σ² ≤ 2·|gap|/σ² without noise
        assert pull([True, True], [1.0, 1.0], iterations=iterations).norm() <= 8 * 2**0.5


def test_replace_is_exact_for_independent_coordinates():
    target = Gaussian(torch.randn(3).double(), torch.tensor([0.3, 2.0, 1.0]).double())
    observed, y = torch.tensor([True, False, False]), torch.tensor([[0.7, 0.0, 0.0]]).double()
    score, x = replace(target, mask(observed), y), torch.randn(5, 3).double()
    expected = target(x, 0.8)
    expected[:, 0] = (0.7 - x[:, 0]) / 0.64
    torch.testing.assert_close(score(x, 0.8), expected)


@pytest.mark.parametrize("function", [lambda z: z, torch.exp])
def test_dps_has_the_gradient_of_its_likelihood(function):
    target = GaussianMixture(torch.randn(3, 4).double(), 0.2, torch.ones(3) / 3)
    rows, y, x = torch.randn(2, 4).double(), torch.randn(1, 2).double(), torch.randn(5, 4).double()
    measure = lambda x: function(x @ rows.T)  # noqa: E731
    x.requires_grad_()
    residual = (y - measure(x + 0.25 * target(x, 0.5))).norm(dim=1)
    (slope,) = torch.autograd.grad(residual.square().sum(), x)
    pull = -0.5 * slope / (0.04 + 0.25 * residual / math.sqrt(2))[:, None]
    operator = matrix(rows) if function is not torch.exp else nonlinear(measure)
    score = dps(target, operator, y, sigma_y=0.2, zeta=2.0)
    torch.testing.assert_close(score(x, 0.5), target(x, 0.5) + pull)


def test_dps_of_counts_has_the_gradient_of_poissons_likelihood():
    """Without the heuristic part of its variance, which a large `zeta` removes."""
    target = GaussianMixture(normal(3, 4), 0.2, torch.ones(3) / 3)
    measure = lambda x: (x @ torch.linspace(-1, 1, 8).double().view(4, 2)).exp()  # noqa: E731
    y, x = torch.tensor([[3, 70]]).double() / 50, normal(5, 4).requires_grad_()
    rate = 50 * measure(x + 0.25 * target(x, 0.5))
    likelihood = torch.distributions.Poisson(rate).log_prob(50 * y).sum()
    (pull,) = torch.autograd.grad(likelihood, x)
    score = dps(target, nonlinear(measure), y, peak=50.0, zeta=1e20)
    torch.testing.assert_close(score(x, 0.5), target(x, 0.5) + pull)


def test_algorithm2_samples_the_noise_of_known_pixels_once_a_level():
    target = Gaussian(torch.zeros(2), torch.tensor([[1.0, 0.8], [0.8, 1.0]]))
    observed, y = torch.tensor([True, False]), torch.tensor([[1.0, 0.0]])
    sigmas = geometric(2, 0.3, 3)
    options = {"observed": observed, "y": y, "steps": 200, "epsilon": 0.02}
    states = list(algorithm2(target, torch.zeros(3000, 2), sigmas, **options))
    parts = (states[i : i + 200] for i in range(0, 600, 200))
    for part, sigma in zip(parts, sigmas, strict=True):
        assert all(torch.equal(state.x[:, 0], part[0].x[:, 0]) for state in part)
        assert (part[0].x[:, 0] - 1).std() == pytest.approx(sigma.item(), rel=0.05)
    # at the last level: Langevin dynamics of the rest given the known, with the bias of its step;
    # 3000 chains tell a deviation to 1.3 % and a mean to 0.015
    rest = states[-1].x[:, 1] - 0.8 / 1.09 * states[-1].x[:, 0]
    assert rest.std() == pytest.approx((1.09 - 0.64 / 1.09) ** 0.5, rel=0.05)
    assert abs(rest.mean()) < 0.05


def two():
    parts = [
        Gaussian(torch.tensor([-1.5, -1.0]), torch.tensor([[0.3, 0.2], [0.2, 0.3]])),
        Gaussian(torch.tensor([-0.3, 2.0]), torch.tensor([[0.3, -0.2], [-0.2, 0.3]])),
    ]
    return Mixture(parts, torch.tensor([0.6, 0.4]))


def field():
    """8 × 8 pixels, two patterns and a correlated field about each."""
    at = torch.arange(8.0).double()
    places = torch.cartesian_prod(at, at)
    cov = (-(places[:, None] - places).norm(dim=2) / 1.5).exp() / 4
    means = 0.3 * torch.stack([places[:, 0].sin(), places[:, 1].sin()])
    return Mixture([Gaussian(mean, cov) for mean in means], torch.tensor([0.6, 0.4]).double())


@pytest.mark.parametrize("kind", ["mask", "matrix"])
@pytest.mark.parametrize(
    ("make", "n", "levels", "sets", "limit"),
    [
        # four filters of 1000 from one path of y each: a standard error of about 0.02
        (two, 4000, 40, 4, 0.07),
        *(pytest.param(f, 50_000, 64, 25, 0.03, marks=pytest.mark.slow) for f in (two, field)),
    ],
)
def test_the_particle_filter_samples_the_posterior(make, kind, n, levels, sets, limit):
    """Errors of means and deviations are in exact standard deviations."""
    target = make()
    size = target.shape.numel()
    seen, masked = torch.arange(size) % 8 < (1 if size == 2 else 2), kind == "mask"
    rows = torch.eye(size)[seen] if masked else torch.randn(1 if size == 2 else 4, size) / size**0.5
    operator, sigma_y = (mask(seen), 0.0) if masked else (matrix(rows), 0.2)
    free = ~seen if masked else slice(None)
    y = operator(target.sample(1, noise=seeded(3)).float())
    y = y + sigma_y * torch.randn_like(y)
    exact = target.posterior(rows.double(), y[0, seen if masked else free].double(), sigma_y).prior
    mean, std = exact.mean[free], exact.dense.diagonal()[free].sqrt()
    sigmas = geometric(6 * target.prior.dense.diagonal().max().sqrt().item(), 0.02, levels)
    starts = [target.prior.sample(n // sets, sigmas[0]).float() for _ in range(sets)]
    options = {"operator": operator, "y": y, "sigma_y": sigma_y}
    runs = [final(particle_filter(target, start, sigmas, **options)) for start in starts]
    samples = torch.cat(runs)[:, free].double()
    assert ((samples.mean(0) - mean) / std).abs().max() < limit
    assert (samples.std(0) / std - 1).abs().max() < limit


def unit(levels, n, **measured):
    """Sample N(0, I) in two dimensions with a measurement of the first."""
    target, sigmas = Gaussian(torch.zeros(2), 1.0), geometric(8, 0.02, levels)
    return final(particle_filter(target, target.prior.sample(n, sigmas[0]), sigmas, **measured))


def test_few_levels_keep_the_spread():
    # of the rest, to three standard errors of some 1000 independent particles; by a first-order
    # step, 1.25
    first = {"operator": mask(torch.tensor([True, False])), "y": torch.tensor([[0.5, 0.0]])}
    assert unit(16, 4000, **first)[:, 1].std() == pytest.approx(1.03, abs=0.06)
    # as exactly, of a noisy y whose noise ends within a step; 0.8 without the bridge's noise there
    noisy = {"operator": matrix(torch.tensor([[1.0, 0.0]])), "y": torch.tensor([[0.5]])}
    x = torch.cat([unit(8, 1000, sigma_y=0.2, **noisy) for _ in range(4)])
    assert x[:, 0].std() == pytest.approx(0.2 / 1.04**0.5, rel=0.06)
    assert x[:, 0].mean() == pytest.approx(0.5 / 1.04, abs=0.02)


def test_each_filter_has_its_own_path():
    target, sigmas = two(), geometric(10, 0.02, 12)
    start, y = target.prior.sample(60, sigmas[0]), torch.tensor([[-1.0, math.nan]])
    options = {"operator": mask(torch.tensor([True, False])), "filter_size": 15}
    run = particle_filter(target, start, sigmas, y=y, **options)
    seen = list(run)[4].x[:, 0].view(4, 15)
    torch.testing.assert_close(seen, seen[:, :1].expand(4, 15))
    assert seen[:, 0].diff().abs().min() > 0.01


def test_resampling_keeps_each_particle_as_often_as_its_weight_says():
    """Systematic: n·w children, rounded down or up, and n·w on average over 2000 uniform starts.

    A number that is rounded up or down has a deviation ≤ ½: a standard error of 0.011, four of it.
    """
    y = torch.tensor([[3.0], [1.0], [3.0], [3.0], [1.0], [3.0]])
    filters = posterior.group_particles(y, y, None)
    log_w = torch.tensor([0.0, 0.5, 1.0, -2.0, -0.5, -torch.inf])
    shares = torch.zeros(6)
    for value in (1.0, 3.0):
        own = y[:, 0] == value
        shares[own] = own.sum() * log_w[own].softmax(0)
    noise, counts = seeded(0), []
    for _ in range(2000):
        parents, weights = posterior.choose_parents(log_w, filters, noise, 1.0)
        assert torch.equal(y[parents], y)
        counts.append(parents.bincount(minlength=6))
    assert (torch.stack(counts) - shares).abs().max() < 1
    torch.testing.assert_close(torch.stack(counts).float().mean(0), shares, rtol=0, atol=0.044)
    assert torch.equal(weights, torch.zeros(6))
    parents, weights = posterior.choose_parents(log_w, filters, noise, 0.5)
    # effective sizes: 1.8 of 4, and 1.6 of 2
    assert torch.equal(weights, torch.tensor([0, 0.5, 0, 0, -0.5, 0]))
    assert parents[[1, 4]].tolist() == [1, 4]


def test_particles_of_different_measurements_are_separate_filters():
    target, y = two(), torch.tensor([[-1.5, 0.0], [-0.3, 0.0]]).repeat_interleave(500, 0)
    operator, sigmas = mask(torch.tensor([True, False])), geometric(10, 0.02, 32)
    start = target.prior.sample(1000, sigmas[0])
    x = final(particle_filter(target, start, sigmas, operator=operator, y=y))
    assert torch.equal(x[:, 0], y[:, 0])
    for part, at in ((x[:500], -1.5), (x[500:], -0.3)):  # to three standard errors of 500
        exact = target.posterior(torch.tensor([[1.0, 0.0]]), torch.tensor([at]).double(), 0.0).prior
        assert abs(part[:, 1].mean() - exact.mean[1]) < 0.15 * exact.dense[1, 1].sqrt()


SUM = matrix(torch.ones(1, 2))
ZERO, FOUR = torch.zeros(1, 1), torch.zeros(4, 2)


def test_each_place_of_a_filter_has_parents_by_weight():
    """`restore` takes particles from fixed places, so that their mean over all is not enough."""
    w = torch.tensor([0.05, 0.6, 0.05, 0.3], dtype=torch.float64)
    uniform = (torch.arange(4_000, dtype=torch.float64)[:, None] + 0.5) / 4_000
    parents, lost = resample(w.log().expand(4_000, 4), uniform, 1.0)
    assert lost.all()
    shares = one_hot(parents, 4).double().mean(0)
    # the parents of a place are intervals of `uniform`, each counted to within a point at both ends
    torch.testing.assert_close(shares, w.expand(4, 4), rtol=0, atol=2 / 4_000)


SUM_FILTER = partial(particle_filter, two(), FOUR, geometric(10, 0.02, 4), operator=SUM)
FIRST = [
    partial(algorithm2, *SUM_FILTER.args, observed=torch.tensor([True, False])),
    partial(particle_filter, *SUM_FILTER.args, operator=mask(torch.tensor([True, False]))),
]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mask(torch.tensor([0.5, 1.0])), "threshold"),
        (lambda: mask([True, False]), r"observed is list: .* torch.as_tensor\(observed\)"),
        (lambda: dps(two(), ZERO, ZERO), "operator is Tensor: give a LinearOperator"),
        (lambda: downsample(0), "factor=0"),
        (lambda: downsample(3)(torch.zeros(1, 1, 8, 9)), "divides"),
        (lambda: grayscale()(torch.zeros(1, 1, 8, 8)), "3 channels"),
        (lambda: blur(-1.0), "sigma=-1"),
        (lambda: matrix(torch.zeros(2, 3), (2, 2)), "3 columns"),
        (lambda: matrix(torch.zeros(2, 3)), "rows are all 0"),
        (lambda: pigdm(two(), SUM, ZERO, sigma_y=-1), "sigma_y"),
        (lambda: dps(two(), SUM, ZERO, zeta=0), "zeta=0"),
        (lambda: mmps(two(), SUM, ZERO, iterations=0), "iterations=0: give"),
        (lambda: replace(two(), SUM, ZERO / 0), "NaN"),
        (lambda: pigdm(two(), nonlinear(torch.sin), ZERO), "a linear one: take dps or mmps"),
        (lambda: nonlinear(ZERO), "function is Tensor"),
        (lambda: dps(two(), SUM, ZERO, peak=0.0), "peak=0.0: give the photons"),
        (lambda: dps(two(), SUM, ZERO - 1, peak=9.0), "y has negative values"),
        (lambda: fourier(torch.ones(4)), r"observed has shape \(4,\)"),
        (lambda: fourier(torch.ones(4, 4))(torch.zeros(1, 1, 4, 5)), "images of 4 × 4"),
        (lambda: fourier([[1.0]]), r"observed is list: .* torch.as_tensor\(observed\)"),
        (lambda: radon(0, 8), "angles=0: give a whole number"),
        (lambda: radon([0.0, 1.0], 8), r"angles is list: .* torch.as_tensor\(angles\)"),
        (lambda: radon(torch.tensor(0.5), 8), r"angles has shape \(\)"),
        (lambda: radon(360, 128), "360 angles need a matrix of 8,587,837,440 bytes, above"),
        *((partial(run, y=torch.zeros(1, 3)), "the mask has shape") for run in FIRST),
        *((partial(run, y=torch.zeros(3, 2)), "3 rows for 4 samples: give") for run in FIRST),
        (lambda: SUM_FILTER(y=torch.zeros(1, 2)), r"samples of \(2,\) are measured as \(1,\)"),
        (lambda: replace(two(), SUM, torch.zeros(1, 2))(FOUR, 1.0), "y is a batch"),
        (lambda: mask(torch.tensor([True, False])).project(FOUR, FOUR[:, :1]), "y is a batch"),
        (lambda: mask(torch.ones(3)).project(FOUR, FOUR), "the mask has shape"),
        (lambda: SUM.project(FOUR, torch.zeros(3, 1)), "3 rows for 4 samples: give 1 or 4"),
        (lambda: SUM_FILTER(y=ZERO, filter_size=3), "divides 4"),
        (lambda: SUM_FILTER(y=torch.arange(4.0)[:, None], filter_size=2), "one y"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_errors_name_the_argument_and_the_fix(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


@pytest.mark.parametrize("sigma", [0.01, 0.5, 20.0])
def test_composed_posteriors_of_a_linear_gaussian_simulator_are_exact_at_every_level(sigma):
    """θ ~ N(m, C), xᵢ = Aθ + 0.6z: p(θ | x₁ … x₅) has precision C⁻¹ + 5·AᵀA/0.36.

    The sum of the scores, (1 − n)·s₀ + Σ sᵢ, is not: at σ = 0.5 it is wrong by more than itself.
    """
    n, a, mean, root = 5, normal(4, 3), normal(3), normal(3, 3)
    cov, x = root @ root.T + 0.3 * torch.eye(3).double(), normal(n, 4)
    prior, precision = Gaussian(mean, cov), torch.linalg.inv(cov)

    def conditional(total, count):
        """The posterior of `count` observations of this sum."""
        inverse = torch.linalg.inv(precision + count * a.T @ a / 0.36)
        inverse = (inverse + inverse.T) / 2
        return Gaussian(inverse @ (precision @ mean + a.T @ total / 0.36), inverse)

    parts, truth = [conditional(one, 1) for one in x], conditional(x.sum(0), n)
    theta = mean + sigma * normal(7, 3)
    with torch.no_grad():
        composed = compose(parts, prior)(theta, sigma)
    expected = truth(theta, sigma)
    # float64: 2⁻⁵² × 1/σ² ≤ 1e4, by which D − θ cancels, × some hundreds of the covariances
    assert (composed - expected).norm() < 1e-9 * expected.norm()
    naive = sum(part(theta, sigma) for part in parts) + (1 - n) * prior(theta, sigma)
    assert sigma != 0.5 or (naive - expected).norm() > expected.norm()
    one = compose(parts[:1], prior)(theta, torch.full((7,), sigma).double())
    torch.testing.assert_close(one, parts[0](theta, sigma), rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="posteriors is empty"):
        compose([], prior)
