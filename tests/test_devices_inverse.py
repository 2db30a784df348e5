"""Restorations on an accelerator give the CPU's results, and their steps do not wait for it."""

import pytest
import torch

from scorefield import Precondition, Prior, ScoreModel, geometric, inverse, seeded
from scorefield.data import Table
from scorefield.data.table import Column
from scorefield.restore import METHODS, restore, restore_rows
from scorefield.samplers import final, heun, integrate

SHAPE = (3, 4, 4)
IMAGES = torch.linspace(0, 1, 96).view(2, *SHAPE)
OPERATORS = {
    "mask": inverse.mask(torch.arange(16).view(4, 4) % 3 > 0),
    "grayscale": inverse.grayscale(),
    "downsample": inverse.downsample(2),
    "blur": inverse.blur(0.7),
    "fourier": inverse.fourier(torch.arange(16).view(4, 4) % 3 > 0),
    "radon": inverse.radon(3, 4),
    "matrix": inverse.matrix(torch.linspace(-1, 1, 240).sin().view(5, 48), SHAPE),
}
CHAINS = {name for name, own in METHODS.items() if own.levels} - {"particle_filter"}
"""Methods that touch an operator in the same few functions."""
CASES = [(method, name) for method in {*METHODS} - CHAINS - {"algorithm2"} for name in OPERATORS]
CASES = sorted([*CASES, *((method, "blur") for method in CHAINS), ("algorithm2", "mask")])
FEW = {"repaint": {"resamplings": 2}}


def score(x, sigma):
    """Return the score of N(½, 0.1 I)."""
    return (0.5 - x) / (0.1 + sigma**2)


def model_on(place, shape=SHAPE):
    """Return a model of N(½, 0.1 I)."""
    net = torch.nn.Module()
    net.forward = lambda x, sigma: score(x, sigma.view(-1, *[1] * len(shape)))
    prior = Prior(torch.full(shape, 0.5), torch.tensor(0.1))
    return ScoreModel(net, Precondition("score", "sigma", 1.0, 0.4), prior=prior).to(place)


def restorations(method, name, place, steps):
    """Return six restorations, in two particle filters, of two measurements on the CPU."""
    operator, sigmas = OPERATORS[name], geometric(2.0, 0.1, steps + 1)
    x = 2 * IMAGES.sin().repeat(3, 1, 1, 1).to(place)
    options = {"noise": seeded(0), "y": operator(IMAGES).repeat_interleave(3, 0)}
    if method == "algorithm2":
        options |= {"steps": 2, "epsilon": 1e-3, "observed": operator.observed}
        return final(inverse.algorithm2(score, x, sigmas, **options))
    run = METHODS[method].run
    if METHODS[method].levels:
        options |= {"operator": operator} | FEW.get(method, {"sigma_y": 0.1})
        return final(run(score, x, sigmas, **options))
    conditional = run(score, operator, options["y"], sigma_y=0.1)
    return final(integrate(heun, conditional, x, sigmas))


@pytest.mark.one_face
@pytest.mark.parametrize(("method", "name"), CASES)
def test_a_restorations_step_makes_no_copy_and_no_read(method, name, device, same, growth):
    same(lambda place: restorations(method, name, place, 2))
    assert not growth(lambda steps: restorations(method, name, device, steps), 1, 2)


@pytest.mark.parametrize("method", METHODS)
def test_restore_waits_for_no_step(method, device, same, growth):
    options = {"method": method, "n": 4, "particles": 3, "filters": 2, "batch": 6}
    options |= FEW.get(method, {})
    operator, there = OPERATORS["mask"], model_on(device)
    same(lambda place: restore(model_on(place), operator, operator(IMAGES), steps=2, **options))
    y, options["n"] = operator(IMAGES[:1]).to(device), 2  # one batch
    assert not growth(lambda steps: restore(there, operator, y, steps=1 + steps, **options), 1, 2)


def test_rows_are_completed_on_the_device(same):
    columns = (Column(name, "real", (0.0,), 1.0, (-9.0, 9.0), 1) for name in "abc")
    table, rows = Table(tuple(columns)), [{"a": 0.5, "c": -0.2}, {"b": 1.5}, {}]
    same(lambda place: restore_rows(model_on(place, (3,)), table, rows, 4, steps=3, particles=4))
