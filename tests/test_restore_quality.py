"""Restoration on real data: the right halves of the held-out digits, by a trained model."""

import time

import pytest
import torch
from sklearn.svm import SVC

from scorefield import inverse, load, restore
from scorefield.data import all_samples, load_data
from scorefield.runs import start
from scorefield.runs.presets import PRESETS

N = 19
"""Completions: the truth is below or above all of 19 equals in 10 % of cases."""


METHODS = {
    "replace": {},
    "dps": {},
    "pigdm": {},
    "algorithm2": {},
    "particle_filter": {"particles": 32, "steps": 24},  # in 4 filters, as by default
}


def _covered(x, truth):
    """How often the truth lies between the least and the greatest of 19."""
    return ((x.amin(1) <= truth) & (truth <= x.amax(1))).float().mean().item()


@pytest.mark.slow
def test_right_halves_of_digits(tmp_path):
    for _ in start(PRESETS["digits"](), tmp_path / "run"):
        pass
    found = study(load(tmp_path / "run"))
    assert found["true"] >= 0.96
    assert found["particle_filter"] >= 0.83
    assert found["particle_filter"] >= found["pigdm"] >= found["mean-filled"]
    assert 0.78 <= found["particle_filter covers"] <= 0.93
    assert 0.85 <= found["pigdm covers"] <= 0.97


def study(model, every=1, methods=tuple(METHODS)):
    data = load_data("digits")
    train, test = all_samples(data.train), all_samples(data.test)[::every]
    labels = data.test.labels.numpy()[::every]
    classes = SVC(gamma="scale").fit(train.flatten(1).numpy(), data.train.labels.numpy())

    def accuracy(x):
        each = len(x) // len(labels)
        return (classes.predict(x.flatten(1).numpy()) == labels.repeat(each)).mean()

    known = torch.arange(8) < 4
    operator = inverse.mask(known)
    filled = operator.project(train.mean(0).expand_as(test), test)
    found = {"true": accuracy(test), "mean-filled": accuracy(filled)}
    print(f"\naccuracy: true digits {found['true']:.3f}, mean-filled {found['mean-filled']:.3f}")
    for method in methods:
        begin = time.perf_counter()
        x = restore(
            model, operator, operator(test), N, method=method, batch=1024, **METHODS[method]
        )
        assert torch.equal(x[..., known], test[:, None].expand_as(x)[..., known])
        found[method] = accuracy(x.flatten(0, 1))
        found[f"{method} covers"] = _covered(x[..., ~known], test[..., ~known])
        each = x[..., ~known].std(1).mean()
        print(
            f"{method:16s} accuracy {found[method]:.3f}, 90 % interval covers "
            f"{found[f'{method} covers']:.3f}, std {each:.3f}, "
            f"{time.perf_counter() - begin:.0f} s"
        )
    return found
