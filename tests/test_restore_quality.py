"""Restoration of real data by a trained model: the right halves of held-out digits."""

import pytest
import torch
from sklearn.svm import SVC

from scorefield import inverse, restore
from scorefield.data import all_samples, load_data
from scorefield.runs import finish
from scorefield.runs.presets import PRESETS

COMPLETIONS = 19
"""The truth is below or above all of 19 equal samples with probability 10 %."""

METHODS = {
    "replace": {},
    "dps": {},
    "pigdm": {},
    "algorithm2": {},
    "particle_filter": {"particles": 32, "steps": 24},  # in 4 filters, the default
}


@pytest.mark.slow
def test_right_halves_of_digits(tmp_path):
    model = finish(PRESETS["digits"], tmp_path / "run")
    accuracy, coverage = study(model)
    assert accuracy["true digits"] >= 0.96
    assert accuracy["particle_filter"] >= 0.83
    assert accuracy["particle_filter"] >= accuracy["pigdm"] >= accuracy["mean-filled"]
    assert 0.78 <= coverage["particle_filter"] <= 0.93
    assert 0.85 <= coverage["pigdm"] <= 0.97


def study(model):
    """Return a classifier's accuracy and the coverage of 90 % intervals, by method."""
    data = load_data("digits")
    train, test, labels = all_samples(data.train), all_samples(data.test), data.test.labels.numpy()
    classes = SVC(gamma="scale").fit(train.flatten(1).numpy(), data.train.labels.numpy())

    def score(x):
        repeated = labels.repeat(len(x) // len(labels))
        return (classes.predict(x.flatten(1).numpy()) == repeated).mean()

    known = torch.arange(8) < 4
    operator = inverse.mask(known)
    filled = operator.project(train.mean(0).expand_as(test), test)
    accuracy, coverage = {"true digits": score(test), "mean-filled": score(filled)}, {}
    for method, options in METHODS.items():
        y = operator(test)
        x = restore(model, operator, y, COMPLETIONS, method=method, batch=1024, **options)
        assert torch.equal(x[..., known], test[:, None].expand_as(x)[..., known])
        accuracy[method] = score(x.flatten(0, 1))
        free, truth = x[..., ~known], test[..., ~known]
        inside = (free.amin(1) <= truth) & (truth <= free.amax(1))
        coverage[method] = inside.float().mean().item()
    print(f"\naccuracy: {accuracy}\n90 % intervals cover: {coverage}")
    return accuracy, coverage
