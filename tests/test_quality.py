"""What trained models are worth: studies of minutes, each against its floor of real data."""

import time

import numpy as np
import pytest
import torch
from sklearn.svm import SVC

from scorefield import load, sample
from scorefield.data import all_samples, load_data
from scorefield.metrics import (
    density_coverage,
    frechet,
    neighbour_ratio,
    precision_recall,
    sliced_wasserstein,
)
from scorefield.runs import start
from scorefield.runs.config import overridden
from scorefield.runs.presets import PRESETS


def _trained(preset, directory, *settings):
    begin = time.perf_counter()
    for _ in start(overridden(PRESETS[preset](), settings), directory):
        pass
    return load(directory), time.perf_counter() - begin


def _floor(train, test, sets=200):
    """The mean distance of as many training samples, at random, to the held-out."""
    chance = torch.Generator().manual_seed(0)
    draws = (torch.randperm(len(train), generator=chance)[: len(test)] for _ in range(sets))
    return float(np.mean([frechet(train[rows], test) for rows in draws]))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_digits_are_near_the_floor(tmp_path, seed):
    model, seconds = _trained("digits", tmp_path / "run", f"seed={seed}")
    data = load_data("digits")
    train, test = (all_samples(part).flatten(1) for part in (data.train, data.test))
    floor = _floor(train, test)
    classes = SVC(gamma="scale").fit(train.numpy(), data.train.labels.numpy())
    found = {}
    for sampler, steps in (("heun", 18), ("dpm_solver", 20), ("annealed_langevin", None)):
        drawn = [
            sample(model, len(test), sampler, steps=steps, seed=s).flatten(1) for s in range(5)
        ]
        counts = [np.bincount(classes.predict(x.numpy()), minlength=10) / len(x) for x in drawn]
        found[sampler] = {
            "frechet": np.mean([frechet(x, test) for x in drawn]) / floor,
            "precision": np.mean([precision_recall(x, test, k=5).precision for x in drawn]),
            "coverage": np.mean([density_coverage(x, test, k=5).coverage for x in drawn]),
            "nearest": np.mean([neighbour_ratio(x, train, test).ratio for x in drawn]),
            "rarest": np.min(counts),
            "commonest": np.max(counts),
        }
    print(f"\nseed {seed}: trained in {seconds:.0f} s, floor {floor:.4f}")
    for name, row in found.items():
        print(f"{name:18s}", "  ".join(f"{key} {value:.3f}" for key, value in row.items()))
    for name in ("heun", "dpm_solver"):
        assert found[name]["precision"] >= 0.9
        assert found[name]["coverage"] >= 0.9
        assert 0.05 <= found[name]["rarest"] <= found[name]["commonest"] <= 0.15
        assert 0.9 <= found[name]["nearest"] <= 1.25
    # the demo's own seed is 0
    assert found["heun"]["frechet"] <= (1.25 if seed == 0 else 1.35)
    assert found["annealed_langevin"]["frechet"] <= 1.8


@pytest.mark.slow
def test_vectors_are_as_near_as_exact_samples(tmp_path):
    model, seconds = _trained("vectors", tmp_path / "run")
    oracle = load_data("mixture").oracle

    def exact(seed):
        chance = torch.Generator().manual_seed(seed)
        return oracle.sample(10_000, noise=lambda x: torch.randn(x.shape, generator=chance))

    def distance(x, y):
        chance = torch.Generator().manual_seed(0)
        return sliced_wasserstein(x, y, noise=lambda x: torch.randn(x.shape, generator=chance))

    # a pair of exact sets differs from another by a factor of two: means of several
    sets = [exact(seed) for seed in range(6)]
    pairs = [distance(x, y) for i, x in enumerate(sets) for y in sets[:i]]
    drawn = sample(model, 10_000, seed=0, batch=10_000)
    ratio = np.mean([distance(drawn, x) for x in sets]) / np.mean(pairs)
    print(f"\ntrained in {seconds:.0f} s; {ratio:.2f} × the distance of exact pairs")
    assert ratio <= 1.5
    assert seconds <= 120
