"""Consistency tuning compared with its equations and with the ends of the ODE."""

import math

import pytest
import torch

from scorefield import Gaussian, consistency, denoising, from_denoiser, replay, seeded, to_denoiser


def test_consistency_is_ects_loss_of_two_points_with_the_same_noise():
    """The levels of Geng et al. 2024, eq. 13, at σ_d = 0.5; where r is 0, it is score matching."""
    truth, x, z = Gaussian(torch.zeros(2).double(), 0.5), *torch.randn(2, 4, 2).double()
    sigma = torch.tensor([0.02, 0.5, 2.0, 9.0]).double()
    share = 1 - (1 + 8 / (1 + sigma.exp())) / 4  # negative for the first
    r = sigma * share * (share > 0)
    ends = to_denoiser(truth)(x + r.clamp(min=1e-9)[:, None] * z, r.clamp(min=1e-9))
    gap = (to_denoiser(truth)(x + sigma[:, None] * z, sigma) - ends).square().sum(1)
    c = 0.00054 * 2**0.5
    loss = consistency(truth, x, sigma, noise=replay([z]), doublings=2)
    assert r[1] == 0 < r[2]
    torch.testing.assert_close(loss, ((gap + c**2).sqrt() - c) / (sigma - r))
    matching = 2 * sigma**4 * denoising(truth, x, sigma, noise=replay([z]))
    loss = consistency(truth, x, sigma, noise=replay([z]), doublings=0)
    torch.testing.assert_close(loss, ((matching + c**2).sqrt() - c) / sigma)


@pytest.mark.parametrize(("denoise", "order"), [(False, 1), (True, 0)])
def test_the_minimum_of_consistency_is_the_end_of_the_ode(denoise, order):
    """D = θ·x√(v/(v + σ²)) of N(0, v) has no gradient at θ = 1, up to a term of order σ − r.

    The denoiser x·v/(v + σ²) has one, which tends to a number. ±√v and ±1 have the moments of x and
    z; with σ_d = 10⁶, c = 10³ is so large that the loss is a square. At 1 − r = 5/2¹² the next term
    is 10⁻³ of the first.
    """
    v, pairs = 0.5, torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * 2)
    x, z = v**0.5 * pairs[:, :1], pairs[:, 1:]
    slopes = []
    for doublings in (12, 13):
        theta = torch.ones((), dtype=torch.float64, requires_grad=True)

        def end(x, sigma, theta=theta):
            return theta * x * (v / (v + sigma[:, None] ** 2)) ** (1 if denoise else 0.5)

        score = from_denoiser(end)
        options = {"noise": replay([z]), "doublings": doublings, "sigma_data": 1e6}
        loss = consistency(score, x, 1.0, **options).mean()
        slopes.append(torch.autograd.grad(loss, theta)[0].item())
    assert math.log2(slopes[0] / slopes[1]) == pytest.approx(order, abs=1e-2)


def test_both_points_of_consistency_have_the_same_dropout():
    score = from_denoiser(lambda x, sigma: torch.nn.functional.dropout(torch.ones_like(x)))
    x, state = torch.zeros(8, 5).double(), torch.get_rng_state()
    loss = consistency(score, x, 1.0, noise=seeded(0))
    assert torch.equal(loss, torch.zeros_like(loss))  # two masks would differ
    assert not torch.equal(torch.get_rng_state(), state)  # the next step has another one
