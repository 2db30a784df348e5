"""Score matching: its estimates agree with the exact loss, in value, in gradient and in optimum."""

import math

import pytest
import torch

from scorefield import (
    Discrete,
    Gaussian,
    GaussianMixture,
    LogUniform,
    annealed,
    denoising,
    edm_weight,
    exact,
    geometric,
    likelihood_weight,
    ncsn_weight,
    seeded,
    sliced,
    to_denoiser,
)
from scorefield.objectives import gaussian, rademacher, sphere

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


def still():
    """A source of noise that gives the same draws each time it is made."""
    generator = torch.Generator().manual_seed(5)
    return lambda x: torch.randn(x.shape, generator=generator).to(x)


def test_exact_is_half_norm_plus_trace_of_jacobian():
    _, score = mlp(5)
    x = torch.randn(4, 5).double()
    jacobian = torch.autograd.functional.jacobian(lambda x: score(x, 0.0).sum(0), x).movedim(1, 0)
    truth = 0.5 * score(x, 0.0).square().sum(1) + jacobian.diagonal(dim1=1, dim2=2).sum(1)
    for chunk in (1, 2, 64):
        torch.testing.assert_close(exact(score, x, 0.0, chunk=chunk), truth)


def test_exact_on_images_adds_the_noise():
    """On q_σ of a Gaussian: ½‖s‖² + tr ∇s with s = −(x + σz − m)/(v + σ²), tr = −D/(v + σ²)."""
    truth = Gaussian(torch.zeros(2, 3, 3).double(), 0.5)
    x = torch.randn(6, 2, 3, 3).double()
    width = 0.5 + 0.3**2
    noisy = x + 0.3 * still()(x)
    by_hand = 0.5 * noisy.flatten(1).square().sum(1) / width**2 - 18 / width
    torch.testing.assert_close(exact(truth, x, 0.3, noise=still()), by_hand)


@pytest.mark.parametrize("projection", [rademacher, gaussian, sphere])
@pytest.mark.parametrize("reduced", [True, False])
@pytest.mark.parametrize("projections", [1, 4])
def test_sliced_averages_to_exact(projection, reduced, projections):
    _, score = mlp(3)
    x, n = torch.randn(1, 3).double(), 20_000
    truth = exact(score, x, 0.0)
    losses = sliced(
        score,
        x.expand(n, 3),
        0.0,
        projection=projection,
        reduced=reduced,
        projections=projections,
    )
    assert (losses.mean() - truth).abs() < 3 * losses.std() / math.sqrt(n)
    # M directions divide the variance of one by M
    one = sliced(score, x.expand(n, 3), 0.0, projection=projection, reduced=reduced)
    assert (one.var() / losses.var() / projections).log().abs() < 0.2


def test_sliced_averages_to_exact_on_images_with_noise():
    _, score = convolutions()
    x, n = torch.randn(1, 2, 4, 4).double(), 4000
    noise = torch.randn(1, 2, 4, 4).double()
    truth = exact(score, x, 0.4, noise=lambda _: noise)
    draws = iter([noise.expand(n, 2, 4, 4), torch.randn(n, 2, 4, 4).double()])
    losses = sliced(score, x.expand(n, 2, 4, 4), 0.4, noise=lambda _: next(draws))
    assert (losses.mean() - truth).abs() < 3 * losses.std() / math.sqrt(n)


def test_objectives_refuse_nonsense():
    truth, x = Gaussian(torch.zeros(2), 1.0), torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"sigma=0.*above 0"):
        denoising(truth, x, 0.0)
    with pytest.raises(ValueError, match="projections=0"):
        sliced(truth, x, 1.0, projections=0)
    with pytest.raises(ValueError, match="chunk=0"):
        exact(truth, x, 1.0, chunk=0)


def test_annealed_by_seed():
    truth, x = Gaussian(torch.zeros(3), 0.5), torch.randn(6, 3)
    loss = annealed(denoising, Discrete(geometric(1.0, 0.01, 10)))
    whole = loss(truth, x, noise=seeded(1))
    torch.testing.assert_close(loss(truth, x[2:], noise=seeded(1, first=2)), whole[2:])


def test_projections_are_isotropic():
    z = torch.randn(50_000, 3)
    for projection in (rademacher, gaussian, sphere):
        v = projection(z)
        assert (v.T @ v / 50_000 - torch.eye(3)).abs().max() < 0.03
    assert rademacher(z).abs().unique().tolist() == [1.0]
    torch.testing.assert_close(sphere(z).norm(dim=1), torch.full((50_000,), math.sqrt(3)))


def test_variance_reduction_reduces_variance():
    _, score = mlp(3)
    x = torch.randn(1, 3).double().expand(20_000, 3)
    plain, reduced = (sliced(score, x, 0.0, reduced=r).var() for r in (False, True))
    assert reduced < plain


def test_denoising_by_hand():
    truth = Gaussian(torch.zeros(2, 3).double(), 0.5)
    x = torch.randn(4, 2, 3).double()
    sigma = torch.tensor([0.1, 0.2, 1.0, 3.0]).double()
    s = sigma[:, None, None]
    z = still()(x)
    by_hand = 0.5 * (-(x + s * z) / (0.5 + s**2) + z / s).square().sum((1, 2))
    torch.testing.assert_close(denoising(truth, x, sigma, noise=still()), by_hand)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_agree_in_expectation(name):
    """Over a Gaussian family s = −a(x − m), against J's own gradient, in closed form.

    With x ~ N(0, w): J = ½a²(w + m²)·D − a·D, for D equal dimensions.
    """
    n, size, sigma, w = 200_000, 2, 0.5, 0.8 + 0.5**2
    x = math.sqrt(0.8) * torch.randn(n, size).double()
    a, m = 0.7, 0.3
    each_a, each_m = (torch.full((n, 1), v).double().requires_grad_() for v in (a, m))
    loss = OBJECTIVES[name](lambda x, sigma: -each_a * (x - each_m), x, sigma)
    grads = torch.autograd.grad(loss.sum(), (each_a, each_m))
    for grad, truth in zip(grads, (size * (a * (w + m**2) - 1), size * a**2 * m), strict=True):
        assert (grad.mean() - truth).abs() < 4 * grad.std() / math.sqrt(n)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_all_lead_to_the_same_optimum(name):
    """A linear score fitted by any objective is −(Σ + σ²I)⁻¹(x − m)."""
    sigma, n = 0.6, 20_000
    cov = torch.tensor([[1.0, 0.6], [0.6, 0.8]]).double()
    truth = Gaussian(torch.tensor([1.0, -0.5]).double(), cov)
    x, net = truth.sample(n), torch.nn.Linear(2, 2).double()
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = OBJECTIVES[name](lambda x, sigma: net(x), x, sigma, noise=still()).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    precision = torch.linalg.inv(cov + sigma**2 * torch.eye(2).double())
    assert (net.weight + precision).abs().max() < 0.06
    assert (net.bias - precision @ truth.prior.mean).abs().max() < 0.06


@pytest.mark.parametrize("make", [lambda: mlp(3), convolutions], ids=["vectors", "images"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_backward_through_the_loss(name, make):
    """The gradient of every loss in the parameters against central differences."""
    net, score = make()
    shape = (3,) if isinstance(net[0], torch.nn.Linear) else (2, 4, 4)
    x = torch.randn(3, *shape).double()

    def loss():
        return OBJECTIVES[name](score, x, 0.4, noise=still()).sum()

    weights = list(net.parameters())
    direction = [torch.randn_like(w) for w in weights]
    grads = torch.autograd.grad(loss(), weights)
    slope = sum((g * d).sum() for g, d in zip(grads, direction, strict=True))
    values = []
    for shift in (1e-5, -2e-5):
        with torch.no_grad():
            for w, d in zip(weights, direction, strict=True):
                w += shift * d
        values.append(loss())
    assert slope.item() == pytest.approx(((values[0] - values[1]) / 2e-5).item(), rel=1e-6)


def test_losses_under_no_grad_hold_no_graph():
    net, score = mlp(3)
    with torch.no_grad():
        for objective in OBJECTIVES.values():
            assert not objective(score, torch.randn(4, 3).double(), 0.3).requires_grad
    assert all(w.grad is None for w in net.parameters())


def test_the_true_score_has_the_least_loss():
    truth = GaussianMixture(torch.randn(3, 2), 0.1, torch.ones(3))
    x = truth.sample(50_000)
    for objective in (exact, sliced, denoising):
        torch.manual_seed(1)
        best = objective(truth, x, 0.3)
        for off in (0.9, 1.1):
            torch.manual_seed(1)
            worse = objective(lambda x, sigma, off=off: off * truth(x, sigma), x, 0.3)
            gain = worse - best
            assert gain.mean() > 4 * gain.std() / math.sqrt(len(x))


def test_annealed_weighs_each_level():
    truth, noise = Gaussian(torch.zeros(3), 0.5), still()
    law, x = Discrete(geometric(1.0, 0.01, 10)), torch.randn(64, 3)
    loss = annealed(denoising, law)(truth, x, noise=still())
    sigma, z = law(noise(torch.empty(64))), noise(x)
    assert len(sigma.unique()) > 5
    paper = 0.5 * (sigma[:, None] * truth(x + sigma[:, None] * z, sigma) + z).square().sum(1)
    torch.testing.assert_close(loss, paper)


def test_published_weights():
    """EDM's λ‖D − x‖² with λ = (σ² + σ_d²)/(σσ_d)², and the likelihood's g²/2·‖·‖² over dσ."""
    truth = Gaussian(torch.zeros(3), 0.5)
    x, sigma = torch.randn(8, 3), torch.rand(8) + 0.1
    loss = denoising(truth, x, sigma, noise=still())
    d = to_denoiser(truth)(x + sigma[:, None] * still()(x), sigma)
    edm = (sigma**2 + 0.25) / (sigma * 0.5) ** 2 * (d - x).square().sum(1)
    torch.testing.assert_close(edm_weight(0.5)(sigma) * loss, edm)
    assert ncsn_weight(sigma).equal(sigma**2)
    # E over the law of the weighted loss is ∫ 2σ·loss dσ, whatever the law
    for law in (LogUniform(2.0, 0.5), LogUniform(2.0, 0.4)):
        draws = law(torch.randn(200_000).double())
        inside = torch.where((draws > 0.5) & (draws < 2), likelihood_weight(law)(draws), 0)
        error = inside.std() / math.sqrt(len(draws))
        assert abs(inside.mean() - (2.0**2 - 0.5**2)) < 4 * error + 1e-9
