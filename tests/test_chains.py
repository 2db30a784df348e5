"""Chains that are corrected, or whose bias is known, against closed forms."""

import math
from functools import partial

import pytest
import torch

from scorefield import Gaussian, geometric, replay, seeded
from scorefield.samplers import annealed_langevin, final, langevin, underdamped

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


@pytest.mark.parametrize("kernel", [langevin, underdamped])
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
