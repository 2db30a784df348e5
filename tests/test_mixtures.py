"""Two mixtures, and whether samplers find the weight of every mode and the shape of each."""

import math
from itertools import pairwise

import pytest
import torch
from scipy.stats import chisquare

from scorefield import (
    SAMPLERS,
    GaussianMixture,
    annealed_langevin,
    consistent,
    final,
    geometric,
    karras,
    predictor_corrector,
    suggest,
)

N = 10_000


def circle():
    """Eight modes on a circle of radius 4, std 0.3."""
    angle = torch.arange(8) * (2 * math.pi / 8)
    return GaussianMixture(4 * torch.stack([angle.cos(), angle.sin()], 1), 0.3**2, torch.ones(8))


def apart():
    """Three modes in 64 dimensions, std 0.2, of weights .7, .2 and .1."""
    means = 0.7 * torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    return GaussianMixture(means, 0.2**2, torch.tensor([0.7, 0.2, 0.1]))


MIXTURES = pytest.mark.parametrize("mixture", [circle(), apart()], ids=["circle", "apart"])


def counts(mixture, x):
    return torch.bincount(
        mixture.responsibilities(x, 0.0).argmax(1), minlength=len(mixture.weights)
    )


def weight_error(mixture, x):
    """The worst mode's |share − weight|."""
    return (counts(mixture, x) / len(x) - mixture.weights).abs().max().item()


def sliced_wasserstein(x, y):
    """The mean over 200 directions of the distance W₁ between two samples of one size."""
    directions = torch.randn(x.shape[1], 200, generator=torch.Generator().manual_seed(0))
    directions = directions / directions.norm(dim=0)
    return ((x @ directions).sort(0).values - (y @ directions).sort(0).values).abs().mean().item()


@MIXTURES
@pytest.mark.parametrize(("name", "levels"), [("heun", 32), ("dpm_solver", 20)])
def test_the_ode_finds_weights_and_shape_in_few_steps(mixture, name, levels):
    # from above the largest distance between two samples, 10, down to a tenth of the modes' std
    sigmas = karras(15.0, 0.02, levels)
    distances, floor = [], []
    for seed in range(5):
        torch.manual_seed(seed)
        x = mixture.prior.sample(N, sigmas[0])
        x = final(SAMPLERS[name].run(mixture, x, sigmas))
        expected = mixture.weights.double() * N
        assert chisquare(counts(mixture, x), expected).pvalue >= 0.001
        distances.append(sliced_wasserstein(x, mixture.sample(N)))
    for _ in range(20):
        floor.append(sliced_wasserstein(mixture.sample(N), mixture.sample(N)))
    assert sum(distances) / 5 <= 1.25 * sum(floor) / 20


@MIXTURES
def test_predictor_corrector_finds_the_weights(mixture):
    sigmas = geometric(50.0, 0.01, 400)
    for seed in range(5):
        torch.manual_seed(seed)
        x = mixture.prior.sample(N, sigmas[0])
        x = final(predictor_corrector(mixture, x, sigmas))
        assert weight_error(mixture, x) <= 0.015


@MIXTURES
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_consistent_sampling_beats_annealed_langevin_at_equal_cost(mixture, steps):
    """At few evaluations a level of the suggested ladder, the last step denoising in both."""
    data = mixture.sample(N)
    ladder = suggest(data, budget=steps * len(suggest(data).sigmas))
    sigmas = geometric(*ladder.sigmas[[0, -1]].tolist(), steps * len(ladder.sigmas))
    options = {"steps": steps, "epsilon": ladder.epsilon, "denoise": True}
    plain, better = [], []
    for seed in range(5):
        torch.manual_seed(seed)
        x, exact = mixture.prior.sample(N, ladder.sigmas[0]), mixture.sample(N)
        rough = final(annealed_langevin(mixture, x, ladder.sigmas, **options))
        plain.append(sliced_wasserstein(rough, exact))
        fine = final(consistent(mixture, x, sigmas))
        better.append(sliced_wasserstein(fine, exact))
        if mixture.weights.max() > 0.5:
            assert weight_error(mixture, fine) < 0.5 * weight_error(mixture, rough)
    # five evaluations a level bring both to what chance leaves on the circle
    near = steps == 5 and len(mixture.weights) == 8
    assert sum(better) < (1.0 if near else 0.9) * sum(plain)


@MIXTURES
def test_annealed_langevin_finds_the_weights_with_time(mixture):
    """The ladder and ε that `suggest` gives for T = 20, with T from 5 to 200.

    What is left at 200 is mostly the bias of the step size, about 0.01 on `apart`.
    """
    data = mixture.sample(N)
    ladder = suggest(data, budget=20 * len(suggest(data).sigmas))
    errors = []
    for steps, runs in ((5, 1), (20, 1), (50, 1), (200, 2)):
        x = mixture.prior.sample(N * runs, ladder.sigmas[0])
        x = torch.cat(
            [
                final(
                    annealed_langevin(
                        mixture, part, ladder.sigmas, steps=steps, epsilon=ladder.epsilon
                    )
                )
                for part in x.split(N)
            ]
        )
        errors.append(weight_error(mixture, x))
    assert errors[-1] <= 0.015
    # no error is above the one before it by more than the sample's chance
    assert all(after <= before + 0.01 for before, after in pairwise(errors))
    if mixture.weights.max() > 0.5:  # equal weights come from symmetry, at any T
        assert errors[0] > 0.05
        assert errors == sorted(errors, reverse=True)


def test_the_measures_see_a_wrong_sample():
    """A mode too light by 3 % and a std too large by 5 % do not pass."""
    mixture = apart()
    off = GaussianMixture(mixture.means, 0.2**2, torch.tensor([0.67, 0.23, 0.1]))
    wide = GaussianMixture(mixture.means, 0.21**2, mixture.weights)
    x = off.sample(N)
    assert chisquare(counts(mixture, x), mixture.weights.double() * N).pvalue < 0.001
    assert weight_error(mixture, x) > 0.015
    floor = [sliced_wasserstein(mixture.sample(N), mixture.sample(N)) for _ in range(5)]
    found = [sliced_wasserstein(wide.sample(N), mixture.sample(N)) for _ in range(5)]
    assert sum(found) > 1.25 * sum(floor)


@pytest.mark.slow
@MIXTURES
@pytest.mark.parametrize("seed", range(5))
def test_annealed_langevin_over_seeds(mixture, seed):
    """T = 200 with the ε of T = 20, as above, and with its own, which is a sixth of that."""
    torch.manual_seed(seed)
    data = mixture.sample(N)
    levels = len(suggest(data).sigmas)
    errors = []
    for budget in (20 * levels, 200 * levels):
        ladder = suggest(data, budget=budget)
        x = mixture.prior.sample(N, ladder.sigmas[0])
        run = annealed_langevin(mixture, x, ladder.sigmas, steps=200, epsilon=ladder.epsilon)
        errors.append(weight_error(mixture, final(run)))
    print(f"seed {seed}: worst weight off by {errors[0]:.4f}, with T's own ε by {errors[1]:.4f}")
    assert errors[0] <= 0.015
