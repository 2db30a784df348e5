"""Chains that are corrected, or whose bias is known, against closed forms."""

import math
from functools import partial

import pytest
import torch
from test_mixtures import TWO, orders

from scorefield import Gaussian, GaussianMixture, from_energy, geometric, replay, seeded
from scorefield.samplers import annealed_langevin, final, hmc, langevin, mala, underdamped
from scorefield.samplers.metropolis import leapfrog

GAUSSIAN = Gaussian(torch.tensor([1.0, -2.0]).double(), torch.tensor([0.25, 4.0]).double())


def test_underdamped_langevin_is_baoab():
    """Kick, drift, refresh, drift, kick: line by line, with recorded noise."""
    x = start = torch.randn(5, 2).double()
    draws = torch.randn(5, 5, 2).double()
    v, h, c = draws[0], math.sqrt(2 * 0.02), 0.7
    for z in draws[1:]:
        v = v + h / 2 * GAUSSIAN(x, 0.5)
        x = x + h / 2 * v
        v = c * v + math.sqrt(1 - c**2) * z
        x = x + h / 2 * v
        v = v + h / 2 * GAUSSIAN(x, 0.5)
    options = {"alpha": 0.02, "steps": 4, "momentum": c, "noise": replay(draws)}
    torch.testing.assert_close(final(underdamped(GAUSSIAN, start, 0.5, **options)), x)


KERNELS = [
    (langevin, lambda alpha: 1 / (1 - alpha / 2)),
    (partial(underdamped, momentum=0.0), lambda alpha: 1.0),
    (partial(underdamped, momentum=0.9), lambda alpha: 1.0),
]


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.5])
@pytest.mark.parametrize(("kernel", "factor"), KERNELS)
def test_stationary_variance_of_a_gaussian(kernel, factor, alpha):
    """Langevin dynamics has v/(1 − α/2v) instead of v, and underdamped dynamics v at any step.

    x ← (1 − a)x + √(2α)z, a = α/v, has the variance S = (1 − a)²S + 2α. Noise that is 1 in one call
    and one row makes each row the answer to one number, so that the sum of squares is the variance.
    """
    pulses, v = torch.eye(401, dtype=torch.float64)[:, :, None], 1.25
    options = {"alpha": alpha * v, "steps": 400, "noise": replay(pulses)}
    run = kernel(lambda x, sigma: -x / (1 + sigma**2), 0 * pulses[0], 0.5, **options)
    # a step keeps at most 0.95 of the start: 0.9^400 = 5e-19 of its variance is left
    assert final(run).square().sum().item() == pytest.approx(v * factor(alpha), rel=1e-12)


@pytest.mark.parametrize(
    ("kernel", "order"),
    [(langevin, 1), (partial(underdamped, momentum=0.0), 2), (partial(underdamped), 2)],
)
def test_order_of_the_bias_where_the_score_is_not_linear(kernel, order):
    """The fourth moment of exp(−x²/2 − e·x⁴/4) is 3 − 24e to first order in e.

    There x_n = Σ gₙₖzₖ − e·Σ rₙₖxₖ³, and E xₙ³xₖ³ = 9CₙₙCₙₖCₖₖ + 6Cₙₖ³ of Gaussians. g are the
    answers to pulses of the noise, r those to pulses of the force.
    """
    n = 400
    pulses = torch.eye(n + 1).double()[:, :, None]

    def answers(alpha, forces, noise):
        force = iter(forces)
        options = {"alpha": alpha, "steps": n, "noise": noise}
        states = kernel(lambda x, sigma: next(force) - x, 0 * pulses[0], 0.0, **options)
        return torch.stack([state.x[:, 0] for state in states])

    errors = []
    for alpha in (0.1, 0.05, 0.025):
        g = answers(alpha, 0 * pulses, replay(pulses))
        c, spread = g[:-1] @ g[-1], g[:-1].square().sum(1)  # xₖ is where the force is taken
        r = answers(alpha, pulses, torch.zeros_like)[-1, 1:n]
        sixth = 9 * g[-1].square().sum() * c * spread + 6 * c**3
        errors.append(abs(-4 * (r * sixth).sum().item() + 24))
    # where the next term of the error is cα of the first one, the ratio errs by cα/2; c < 5
    bounds = [5 * alpha / 2 / math.log(2) for alpha in (0.1, 0.05)]
    for found, bound in zip(orders(errors), bounds, strict=True):
        assert found == pytest.approx(order, abs=bound)


@pytest.mark.parametrize("kernel", [langevin, underdamped, mala, hmc])
def test_a_kernel_goes_down_a_ladder_with_steps_in_proportion_to_the_variance(kernel):
    x = start = torch.randn(5, 2).double()
    sigmas, noise, states = geometric(2.0, 0.1, 4).double(), seeded(0), []
    for sigma in sigmas.tolist():
        alpha = 1e-3 * (sigma / sigmas[-1].item()) ** 2
        states += kernel(GAUSSIAN, x, sigma, alpha=alpha, steps=3, noise=noise)
        x = states[-1].x
    options = {"kernel": kernel, "steps": 3, "epsilon": 1e-3, "noise": seeded(0)}
    run = list(annealed_langevin(GAUSSIAN, start, sigmas, **options))
    assert [state.step for state in run] == [*range(1, 13)]
    assert all(torch.equal(a.x, b.x) for a, b in zip(run, states, strict=True))


PLANE = GaussianMixture(
    torch.tensor([[-1, 0], [1, 1], [0, -1]]).double(), 0.1, torch.tensor([0.2, 0.5, 0.3]).double()
)


def test_mala_accepts_by_detailed_balance():
    """Accept y from x with probability min(1, q(y)k(y, x)/q(x)k(x, y)), k of Langevin's step.

    The uniform number is a millionth below and above that probability.
    """
    points, alpha, sigma = torch.linspace(-4, 4, 40).double(), 0.2, 0.3
    x, y = torch.cartesian_prod(points, points)[..., None].unbind(1)

    def log_flux(x, y):
        gap = y - x - alpha * TWO(x, sigma)
        return TWO.log_prob(x, sigma) - gap.square().sum(1) / (4 * alpha)

    ratio = (log_flux(y, x) - log_flux(x, y)).clamp(min=-30)
    assert (ratio < 0).sum() > 500
    z = (y - x - alpha * TWO(x, sigma)) / math.sqrt(2 * alpha)
    for share in (1 - 1e-6, 1 + 1e-6):
        u = (ratio.exp() * share).clamp(max=1 - 1e-6)
        noise = replay([z, torch.special.ndtri(u)])
        (state,) = mala(TWO, x, sigma, alpha=alpha, steps=1, noise=noise)
        decided = ratio > -18  # below, Φ is too coarse: 1e-16/e^(-18) is 1e-8
        accept = decided if share < 1 else ratio >= 0
        assert torch.equal(state.accepted & decided, accept)
        torch.testing.assert_close(state.x, torch.where(state.accepted[:, None], y, x))


@pytest.mark.parametrize("h", [0.8, 1.4, 1.9])
def test_mala_keeps_a_gaussian_at_a_step_where_langevin_does_not(h):
    """In one dimension the leapfrog's error ΔH is r²f(angle) for (x, p) of length r.

    The mean of min(1, e^(−ΔH)) over both is 1 − (2/π)·arctan(h³/8) for the variance 1.
    """
    v, n, noise = 1.25, 100_000, seeded(0)
    truth = Gaussian(torch.zeros(1).double(), 1.0)
    x = math.sqrt(v) * noise(torch.empty(n, 1).double())
    alpha = h**2 / 2 * v
    (state,) = mala(truth, x, 0.5, alpha=alpha, steps=1, noise=noise)
    rate = 1 - 2 / math.pi * math.atan(h**3 / 8)
    error = math.sqrt(rate * (1 - rate) / n)  # standard errors of a share and of a variance
    assert state.accepted.double().mean().item() == pytest.approx(rate, abs=4 * error)
    assert torch.equal(state.accepted, (state.x != x).squeeze(1))
    error = v * math.sqrt(2 / n)
    assert state.x.square().mean().item() == pytest.approx(v, abs=4 * error)
    biased = final(langevin(truth, x, 0.5, alpha=alpha, steps=1, noise=noise))
    assert biased.square().mean().item() > v + 20 * error  # v(1 + h⁴/4)


def test_leapfrog_is_reversible_keeps_volume_and_has_an_energy_error_of_order_two():
    x, p = PLANE.sample(50, 0.2), torch.randn(50, 2).double()

    def run(x, p, h, n):
        return leapfrog(PLANE, x, p, PLANE(x, 0.2), 0.2, h, n)

    x_end, p_end, s_end = run(x, p, 0.2, 7)
    assert torch.equal(s_end, PLANE(x_end, 0.2))
    x_back, p_back, _ = run(x_end, -p_end, 0.2, 7)
    # rounding, 2e-16, grows by the Lyapunov exponent of 7 steps, at most e^7 = 1e3
    torch.testing.assert_close((x_back, -p_back), (x, p), rtol=1e-11, atol=1e-11)
    for start in zip(x[:5, None], p[:5, None], strict=True):
        rows = torch.autograd.functional.jacobian(lambda x, p: run(x, p, 0.2, 7)[:2], start)
        matrix = torch.cat([torch.cat([part.reshape(2, 2) for part in row], 1) for row in rows])
        assert matrix.det().item() == pytest.approx(1, abs=1e-11)

    def error(h):
        x_end, p_end, _ = run(x, p, h, round(0.8 / h))
        gain = PLANE.log_prob(x_end, 0.2) - PLANE.log_prob(x, 0.2)
        return (gain - (p_end.square() - p.square()).sum(1) / 2).abs().mean().item()

    # the next term of the error is h² of the first one, times less than 40
    for h in (0.02, 0.01):
        assert error(h) / error(h / 2) == pytest.approx(4, rel=40 * h**2)


@pytest.mark.parametrize(("kernel", "alpha"), [(mala, 0.2), (partial(hmc, leapfrogs=4), 0.1)])
def test_a_corrected_kernel_keeps_a_mixture_where_langevin_does_not(kernel, alpha):
    x, noise = PLANE.sample(20_000, 0.2, noise=seeded(1)), seeded(2)

    def features(x):
        columns = [PLANE.log_prob(x, 0.2), PLANE.responsibilities(x, 0.2)[:, 0], *x.T, *x.T**2]
        return torch.stack(columns, 1)

    def drift(end):
        change = features(end) - features(x)
        return (change.mean(0) / change.std(0) * len(x) ** 0.5).abs().max()

    states = list(kernel(PLANE, x, 0.2, alpha=alpha, steps=3, noise=noise))
    assert drift(states[-1].x) < 4  # standard errors, the largest of 6
    assert all(0.4 < state.accepted.double().mean() < 0.9 for state in states)
    assert drift(final(langevin(PLANE, x, 0.2, alpha=alpha, steps=3, noise=noise))) > 20


def test_a_corrected_chain_needs_a_log_density_of_one_number_per_sample():
    x = torch.zeros(2, 2).double()
    with pytest.raises(TypeError, match=r"score has no log_prob.*from_energy"):
        hmc(lambda x, sigma: -x, x, 1.0, alpha=0.1)
    for coarse in (x.half(), x.bfloat16()):
        with pytest.raises(TypeError, match=rf"x is {coarse.dtype}, too coarse.*x.float\(\)"):
            mala(PLANE, coarse, 1.0, alpha=0.1)
    wrong = from_energy(lambda x, sigma: x.square().sum(1))
    wrong.log_prob = lambda x, sigma: -x.square()
    with pytest.raises(ValueError, match=r"score.log_prob returned shape \(2, 2\).*one number"):
        final(mala(wrong, x, 1.0, alpha=0.1))


@pytest.mark.parametrize("density", [-math.inf, math.nan])
def test_a_proposal_without_density_is_rejected_also_where_u_rounds_to_0(density):
    x = torch.zeros(2, 1).double()
    wall = from_energy(lambda x, sigma: 0 * x.sum(1))
    wall.log_prob = lambda x, sigma: torch.where(x[:, 0] == 0, 0.0, density)
    (state,) = mala(wall, x, 1.0, alpha=0.1, steps=1, noise=replay([x + 1, x[:, 0] - 40]))
    assert not state.accepted.any()


def test_a_chain_over_an_energy_is_that_over_its_score_and_the_same_in_any_batch():
    energy = from_energy(lambda x, sigma: -PLANE.log_prob(x, sigma))
    x = PLANE.sample(6)
    run = partial(hmc, sigma=0.2, alpha=0.2, leapfrogs=3, steps=5)
    ends = final(run(PLANE, x, noise=seeded(0)))
    torch.testing.assert_close(final(run(energy, x, noise=seeded(0))), ends)
    assert torch.equal(final(run(PLANE, x[2:], noise=seeded(0, first=2))), ends[2:])
