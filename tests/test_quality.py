"""Quality of trained models, in studies of minutes, against the floor of real data."""

import numpy as np
import pytest
import torch
from sklearn.svm import SVC

from scorefield import sample
from scorefield.data import all_samples, load_data
from scorefield.evaluate.memory import memorisation
from scorefield.metrics import (
    density_coverage,
    frechet,
    neighbour_ratio,
    precision_recall,
    sliced_wasserstein,
)
from scorefield.runs import finish
from scorefield.runs.config import override
from scorefield.runs.presets import PRESETS


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_digits_are_near_the_floor(tmp_path, seed):
    """Distances are multiples of the mean of 200 sets of training digits to the test's."""
    model = finish(override(PRESETS["digits"], [f"seed={seed}"]), tmp_path / "run")
    data, generator = load_data("digits"), torch.Generator().manual_seed(0)
    train, test = (all_samples(part).flatten(1) for part in (data.train, data.test))
    rows = [torch.randperm(len(train), generator=generator)[: len(test)] for _ in range(200)]
    floor = np.mean([frechet(train[chosen], test) for chosen in rows])
    classes = SVC(gamma="scale").fit(train.numpy(), data.train.labels.numpy())
    # the demo's own seed is 0
    heun = 1.25 if seed == 0 else 1.35
    for name, steps, limit in (
        ("heun", 18, heun),
        ("dpm_solver", 20, np.inf),
        ("annealed_langevin", None, 1.8),
    ):
        sets = [sample(model, len(test), name, steps=steps, seed=s).flatten(1) for s in range(5)]
        distance = np.mean([frechet(x, test) for x in sets]) / floor
        precision = np.mean([precision_recall(x, test, k=5).precision for x in sets])
        coverage = np.mean([density_coverage(x, test, k=5).coverage for x in sets])
        nearest = np.mean([neighbour_ratio(x, train, test) for x in sets])
        shares = [np.bincount(classes.predict(x.numpy()), minlength=10) / len(x) for x in sets]
        print(f"\n{name}: {distance=:.3f} {precision=:.3f} {coverage=:.3f} {nearest=:.3f}")
        assert distance <= limit
        if name != "annealed_langevin":
            assert precision >= 0.9
            assert coverage >= 0.9
            assert 0.05 <= np.min(shares) <= np.max(shares) <= 0.15
            assert 0.9 <= nearest <= 1.25
    memory = memorisation([sample(model, 1000, "heun", steps=18)], data)[0]
    print(memory.verdict)
    assert not memory.copies_training
    assert memory.ratio.low > 0.9
    assert memory.exact.value == 0


@pytest.mark.slow
def test_vectors_are_as_near_as_exact_samples(tmp_path):
    model = finish(PRESETS["vectors"], tmp_path / "run")
    oracle = load_data("mixture").oracle

    def exact(seed):
        generator = torch.Generator().manual_seed(seed)
        return oracle.sample(10_000, noise=lambda x: torch.randn(x.shape, generator=generator))

    def distance(x, y):
        generator = torch.Generator().manual_seed(0)
        return sliced_wasserstein(x, y, noise=lambda x: torch.randn(x.shape, generator=generator))

    # the distances of exact pairs vary by a factor of two, so both sides are means
    sets = [exact(seed) for seed in range(6)]
    pairs = [distance(x, y) for i, x in enumerate(sets) for y in sets[:i]]
    samples = sample(model, 10_000, seed=0, batch=10_000)
    ratio = np.mean([distance(samples, x) for x in sets]) / np.mean(pairs)
    print(f"\n{ratio:.2f} × the distance of exact pairs")
    assert ratio <= 1.5
