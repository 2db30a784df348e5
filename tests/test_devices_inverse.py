"""Restorations on an accelerator give the CPU's results, and their steps do not wait for it."""

import pytest
import torch

from scorefield import geometric, inverse
from scorefield.samplers import final, heun, integrate

SHAPE = (3, 4, 4)
OPERATORS = {
    "mask": inverse.mask(torch.arange(16).view(4, 4) % 3 > 0),
    "grayscale": inverse.grayscale(),
    "downsample": inverse.downsample(2),
    "blur": inverse.blur(0.7),
    "matrix": inverse.matrix(torch.linspace(-1, 1, 240).sin().view(5, 48), SHAPE),
}
METHODS = ["particle_filter", "pigdm", "dps", "replace"]
CASES = [(method, name) for method in METHODS for name in OPERATORS] + [("algorithm2", "mask")]


def score(x, sigma):
    """Return the score of N(½, 0.1 I)."""
    return (0.5 - x) / (0.1 + sigma**2)


def restorations(method, name, x, steps, noise):
    """Return six restorations, in two particle filters, of two measurements on the CPU."""
    operator, sigmas = OPERATORS[name], geometric(2.0, 0.1, steps + 1)
    y = operator(torch.linspace(0, 1, 96).view(2, *SHAPE)).repeat_interleave(3, 0)
    options = {"noise": noise, "y": y}
    if method == "algorithm2":
        options |= {"steps": 2, "epsilon": 1e-3, "observed": operator.observed}
        return final(inverse.algorithm2(score, x, sigmas, **options))
    if method == "particle_filter":
        options |= {"operator": operator, "sigma_y": 0.1}
        return final(inverse.particle_filter(score, x, sigmas, **options))
    conditional = getattr(inverse, method)(score, operator, y, sigma_y=0.1)
    return final(integrate(heun, conditional, x, sigmas))


@pytest.mark.parametrize(("method", "name"), CASES)
def test_a_restorations_step_makes_no_copy_and_no_read(method, name, device, growth):
    def noise(x):
        return torch.randn(x.shape).to(x)

    ends = []
    for place in ("cpu", device):
        torch.manual_seed(0)
        x = 2 * torch.randn(6, *SHAPE)
        ends.append(restorations(method, name, x.to(place), 2, noise).cpu())
    # some 2 · 50 operations on numbers below 10, a hundredfold in directions that A hardly shows
    torch.testing.assert_close(*ends, rtol=0, atol=100 * 100 * 10 * 6e-8)
    there = x.to(device)
    assert not growth(
        lambda steps: restorations(method, name, there, steps, torch.randn_like), 1, 2
    )
