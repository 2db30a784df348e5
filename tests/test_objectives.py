"""Estimates of the score-matching loss against the exact one: value, gradient and optimum."""

import math
from functools import partial

import pytest
import torch
from torch.autograd import gradcheck

from scorefield import Empirical, Gaussian, edm_weight, to_denoiser
from scorefield.noise import Discrete, geometric, replay, seeded
from scorefield.objectives import annealed, denoising, exact, gaussian, rademacher, sliced, sphere

OBJECTIVES = {
    "exact": exact,
    "exact, one by one": lambda *a, **k: exact(*a, chunk=1, **k),
    "sliced": sliced,
    "sliced, plain": lambda *a, **k: sliced(*a, reduced=False, projection=gaussian, **k),
    "sliced, sphere": lambda *a, **k: sliced(*a, projection=sphere, projections=3, **k),
    "denoising": denoising,
}


def mlp(size):
    net = torch.nn.Sequential(
        torch.nn.Linear(size + 1, 16), torch.nn.Softplus(), torch.nn.Linear(16, size)
    ).double()

    def score(x, sigma):
        level = torch.as_tensor(sigma, dtype=x.dtype).expand(len(x))[:, None]
        return net(torch.cat([x, level], 1))

    return net, score


def convolutions():
    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.ELU(), torch.nn.Conv2d(4, 2, 3, padding=1)
    ).double()
    return net, lambda x, sigma: net(x)


SIGNS = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3).double()
AXES = 3**0.5 * torch.eye(3).double()


@pytest.mark.parametrize(
    ("projection", "directions"), [(rademacher, 2 * SIGNS), (gaussian, AXES), (sphere, 2 * AXES)]
)
@pytest.mark.parametrize("reduced", [True, False])
@pytest.mark.parametrize("sigma", [0.0, 0.4])
def test_sliced_averages_to_exact(projection, directions, reduced, sigma):
    """Over all signs, or √3 times the axes, the mean of vvᵀ is the identity without chance.

    Signs and points of the sphere do not depend on the length of the normal vector.
    """
    _, score = mlp(3)
    x, z = torch.randn(2, 5, 3).double()
    draws = replay([z, *directions[:, None].expand(-1, 5, 3)])
    options = {"projection": projection, "projections": len(directions), "reduced": reduced}
    losses = sliced(score, x, sigma, noise=draws, **options)
    torch.testing.assert_close(losses, exact(score, x, sigma, noise=replay([z])))


def test_objectives_refuse_nonsense():
    for loss, sigma, options, message in (
        (denoising, 0.0, {}, r"sigma=0.*above 0"),
        (sliced, 1.0, {"projections": 0}, "projections=0"),
        (exact, 1.0, {"chunk": 0}, "chunk=0"),
    ):
        with pytest.raises(ValueError, match=message):
            loss(Gaussian(torch.zeros(2), 1.0), torch.zeros(3, 2), sigma, **options)


def test_variance_reduction_reduces_variance():
    """For s = −x the trace term is the same for all signs v; ½(vᵀs)² alone varies."""
    x = torch.tensor([[1.0, -0.5, 2.0]]).double().expand(8, 3)
    loss = partial(sliced, lambda x, sigma: -x, x, 0.0)
    plain, reduced = (loss(reduced=r, noise=replay([x, SIGNS])).var() for r in (False, True))
    assert reduced == 0 < plain


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_agree_in_expectation(name):
    """Over a Gaussian family s = −a(x − m), against J's own gradient, in closed form.

    With x ~ N(0, w): J = ½a²(w + m²)·D − a·D, for D equal dimensions. Within four standard errors.
    """
    n, size, sigma, w = 50_000, 2, 0.5, 0.8 + 0.5**2
    x = math.sqrt(0.8) * torch.randn(n, size).double()
    a, m = 0.7, 0.3
    slope, mean = (torch.full((n, 1), v).double().requires_grad_() for v in (a, m))
    loss = OBJECTIVES[name](lambda x, sigma: -slope * (x - mean), x, sigma)
    grads = torch.autograd.grad(loss.sum(), (slope, mean))
    for grad, truth in zip(grads, (size * (a * (w + m**2) - 1), size * a**2 * m), strict=True):
        assert (grad.mean() - truth).abs() < 4 * grad.std() / math.sqrt(n)


@pytest.mark.parametrize("make", [lambda: mlp(3), convolutions], ids=["vectors", "images"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_backward_through_the_loss(name, make):
    """The gradient of every loss in the parameters against central differences, along one line.

    A step h = 1e-5 leaves h² = 1e-10 times a third derivative and 2e-16/h = 2e-11 times a loss,
    each at most 1e3 slopes.
    """
    net, score = make()
    shape = (3,) if isinstance(net[0], torch.nn.Linear) else (2, 4, 4)
    x = torch.randn(3, *shape).double()

    def loss(*weights):
        return OBJECTIVES[name](score, x, 0.4, noise=seeded(5)).sum()

    bounds = {"eps": 1e-5, "atol": 0.0, "rtol": 1e-6, "fast_mode": True}
    assert gradcheck(loss, tuple(net.parameters()), **bounds)


def test_annealed_weights_each_level_in_any_batch():
    truth, noise = Gaussian(torch.zeros(3).double(), 0.5), seeded(5)
    levels, x = Discrete(geometric(1.0, 0.01, 10).double()), torch.randn(64, 3).double()
    loss = annealed(denoising, levels)
    whole = loss(truth, x, noise=seeded(1))
    torch.testing.assert_close(loss(truth, x[2:], noise=seeded(1, first=2)), whole[2:])
    sigma, z = levels(noise(x.new_empty(64))), noise(x)
    assert len(sigma.unique()) > 5
    paper = 0.5 * (sigma[:, None] * truth(x + sigma[:, None] * z, sigma) + z).square().sum(1)
    torch.testing.assert_close(loss(truth, x, noise=seeded(5)), paper)


@pytest.mark.parametrize("sigma", [0.01, 0.5, 20.0])
def test_with_others_the_target_is_the_score_of_all_points(sigma):
    """q_σ of x and the others is a mixture in closed form, whose score then has no loss.

    Both are sums of 8 terms, which round by 1e-15 of |x|/σ ≤ 500: squared at most 1e-24.
    """
    x, others = 5 * torch.rand(5, 2, 3).double(), 5 * torch.rand(7, 2, 3).double()
    for one in x.split(1):
        truth = Empirical(torch.cat([one, others]))
        loss = denoising(truth, one, sigma, noise=seeded(5), others=others)
        torch.testing.assert_close(loss, torch.zeros_like(loss), rtol=0, atol=1e-20)


def test_others_keep_the_minimiser_and_reduce_the_variance():
    """At a = −1/(1 + σ²), the score's slope for N(0, 1), the loss of s = ax has no mean gradient.

    At σ = 5 the clean sample is nearly equally likely each of 33: much of its variance goes.
    """
    sigma, slopes = 5.0, {"plain": [], "averaged": []}
    a = torch.tensor(-1 / (1 + sigma**2), dtype=torch.double, requires_grad=True)
    for seed in range(500):
        x, others = seeded(seed)(torch.empty(48, 1, dtype=torch.double)).split((16, 32))
        for name, more in (("plain", None), ("averaged", others)):
            loss = denoising(lambda y, _: a * y, x, sigma, noise=seeded(500 + seed), others=more)
            slopes[name].append(torch.autograd.grad(loss.mean(), a)[0])
    plain, averaged = map(torch.stack, slopes.values())
    for slope in (plain, averaged):
        assert abs(slope.mean()) <= 4 * slope.std() / 500**0.5
    assert averaged.var() < plain.var() / 4


def test_the_weight_of_edm_gives_its_loss_of_the_denoiser():
    """EDM's λ‖D − x‖² with λ = (σ² + σ_d²)/(σσ_d)²; the others are in test_formulas.py."""
    truth = Gaussian(torch.zeros(3).double(), 0.5)
    x, sigma = torch.randn(8, 3).double(), torch.rand(8).double() + 0.1
    loss = denoising(truth, x, sigma, noise=seeded(5))
    d = to_denoiser(truth)(x + sigma[:, None] * seeded(5)(x), sigma)
    edm = (sigma**2 + 0.25) / (sigma * 0.5) ** 2 * (d - x).square().sum(1)
    torch.testing.assert_close(edm_weight(0.5)(sigma) * loss, edm)
