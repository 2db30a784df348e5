"""Pullbacks and traces against autograd's Jacobian, and the forms of σ."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from scorefield import Gaussian, from_denoiser, from_energy, from_noise, to_denoiser, to_noise
from scorefield._ops import check_count, linearize, match, sq_norm, trace, wide, widest
from scorefield.model import ScoreModel
from scorefield.nn import MLP
from scorefield.noise import LogNormal, perturb
from scorefield.objectives import annealed, denoising, exact, sliced
from scorefield.precondition import VE


def cubic(x):
    return x**3 + x.flip(1).square() * x


def test_pullback_and_trace_agree_with_the_jacobian():
    x, v = torch.randn(3, 2, 2).double(), torch.randn(5, 3, 2, 2).double()
    jacobian = torch.autograd.functional.jacobian(lambda x: cubic(x).sum(0), x).movedim(2, 0)
    y, pullback = linearize(cubic, x)
    products = torch.einsum("nbij,bijkl->nbkl", v, jacobian)
    torch.testing.assert_close(y, cubic(x))
    torch.testing.assert_close(pullback(v[0]), products[0])
    torch.testing.assert_close(pullback(v, batched=True), products)
    truth = torch.einsum("bijij->b", jacobian)
    for chunk in (1, 3, 9):
        torch.testing.assert_close(trace(pullback, y, chunk=chunk), truth)


def test_graphs_exist_in_grad_mode_only():
    w = torch.ones(2, requires_grad=True)
    x = torch.randn(3, 2, requires_grad=True)
    y, pullback = linearize(lambda x: w * x**2, x)
    torch.autograd.grad((y.sum() + pullback(y).sum()), (w, x))
    with torch.no_grad():
        y, pullback = linearize(lambda x: w * x**2, x)
    assert not y.requires_grad
    assert not pullback(y).requires_grad


def test_a_score_that_autograd_cannot_see_is_an_error():
    x = torch.randn(3, 2)
    for cut in (torch.ones_like, torch.no_grad()(cubic), lambda x: cubic(x).detach()):
        with pytest.raises(ValueError, match="without no_grad or detach"):
            linearize(cut, x)
    for n in (3, 0):
        y, pullback = linearize(lambda x: 1 + 0 * x, x[:n])
        assert trace(pullback, y).tolist() == [0.0] * n


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.arange(6).view(3, 2), "x is torch.int64: give a tensor of floats"),
        (torch.ones(3, 2, dtype=torch.uint8), r"x is torch.uint8: .* x.float\(\) / 255"),
        (torch.ones(3, 2) + 0j, "x is torch.complex64: give a tensor"),
        (np.ones((3, 2)), "x is ndarray: give a tensor"),
        ([[1.0, 2.0]], "x is list: give a tensor"),
    ],
)
def test_a_score_of_anything_but_floats_is_refused_by_name(x, message):
    """In the type of integers σ = 0.5 would be 0, and to_denoiser would return its input."""
    model, oracle = ScoreModel(MLP(2, labels=2), VE()), Gaussian(torch.zeros(2), 1.0)
    scores = [model, model.given(0), oracle, oracle.log_prob, oracle.prior.score]
    scores += [convert(model) for convert in (to_denoiser, from_denoiser, to_noise, from_noise)]
    scores += [convert(lambda x, sigma: -x) for convert in (to_denoiser, to_noise)]
    scores += [from_energy(lambda x, sigma: x.square().sum(1))]
    scores += [partial(loss, lambda x, sigma: -x) for loss in (denoising, exact, sliced)]
    scores += [lambda x, _: annealed(denoising, LogNormal())(lambda x, sigma: -x, x)]
    for score in (*scores, lambda x, sigma: perturb(x, sigma, torch.ones(3, 2))):
        with pytest.raises(TypeError, match=message):
            score(x, 0.5)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("sigma", "message"),
    [
        *((torch.ones(n, device="meta"), "on the device meta, .* device of x") for n in ((), (3,))),
        *((s, f"{type(s).__name__}: give a float") for s in (np.ones(3), [1.0] * 3, None)),
    ],
)
def test_a_sigma_without_values_is_refused_by_name(sigma, message):
    model, oracle = ScoreModel(MLP(2), VE()), Gaussian(torch.zeros(2), 1.0)
    for score in (model, oracle, oracle.log_prob, oracle.prior.score, from_noise(model)):
        with pytest.raises((ValueError, TypeError), match=f"sigma is {message}"):
            score(torch.ones(3, 2), sigma)


def test_the_widest_type_is_one_that_the_device_has(monkeypatch):
    here, there = torch.device("cpu"), torch.device("mps")
    assert [widest(device) for device in (here, there)] == [torch.float64, torch.float32]
    monkeypatch.setattr("scorefield._ops.NO_FLOAT64", {"meta"})
    assert widest(torch.device("meta")) == torch.float32
    assert wide(torch.ones(3)).dtype == torch.float64


def test_sigma_in_its_three_forms():
    x = torch.zeros(2, 3, 4, dtype=torch.float64)
    assert match(0.5, x).shape == match(torch.tensor(0.5), x).shape == ()
    assert match(torch.tensor([0.5, 1.0]), x).shape == (2, 1, 1)
    assert match(0.1, x).item() == 0.1
    with pytest.raises(ValueError, match="give a float, a scalar tensor or one value per sample"):
        match(torch.ones(3), x)
    assert sq_norm(torch.full((2, 3, 4), 2.0)).tolist() == [48.0, 48.0]


@pytest.mark.parametrize("value", [1, 2.5, 3.0, True, math.nan, "3"])
def test_a_count_is_a_whole_number_of_two_or_more(value):
    check_count(2, n=2, steps=np.int64(3), batch=None)
    with pytest.raises(ValueError, match=f"n={value!r}: give a whole number, 2 or more"):
        check_count(2, steps=3, n=value)
