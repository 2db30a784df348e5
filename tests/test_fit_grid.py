"""Fitted grids against Karras' on a mixture, by the distance of samples from the truth."""

from dataclasses import replace

import pytest
import torch
from test_mixtures import TWO, quantiles

from scorefield import NCSN, Precondition, ScoreModel, geometric, guide, karras, seeded
from scorefield.evaluate import fit_grid
from scorefield.evaluate.plans import fit_plan
from scorefield.inverse import Guidance
from scorefield.sample import OracleNet, as_model, make_plan
from scorefield.samplers import SAMPLERS, final


@pytest.mark.parametrize("n", [5, 8])
@pytest.mark.parametrize(("name", "factor"), [("adams_bashforth", 2), ("unipc", 10)])
def test_a_fitted_grid_beats_karras_grid(name, factor, n):
    """Where other starting points fitted it.

    Measured with 5 and 8 levels: 3.7 and 3.4 times, and 22 and 111 times.
    """
    model, error = as_model(TWO), []
    high, low = model.sigma_max, model.sigma_min
    start, truth = quantiles(high)[:, None], quantiles(0.0)
    for grid in (karras(high, low, n), fit_grid(TWO, name, n)):
        assert grid.shape == (n,)
        x = final(SAMPLERS[name].run(TWO, start, grid.to(start)))
        error.append((x[:, 0].sort()[0] - truth).abs().mean().item())
    print(f"{name}, {n}: W₁ of Karras' grid / {error[0] / error[1]:.1f}")
    assert error[1] < error[0] / factor


LADDER = NCSN(geometric(5.0, 0.1, 10))


@pytest.mark.parametrize(
    ("model", "name", "n", "message"),
    [
        (TWO, "ancestral", 5, "sampler='ancestral': levels are fitted for unipc and adams_bash"),
        (TWO, "dpm_solver", 8, "gain nothing at 8 evaluations"),
        (TWO, "unipc", 1, "n=1: give a whole number, 2 or more"),
        (ScoreModel(OracleNet(TWO), LADDER, prior=TWO.prior), "unipc", 5, "trained on 10 noise le"),
    ],
)
def test_grids_that_cannot_be_fitted_are_refused(model, name, n, message):
    with pytest.raises(ValueError, match=message):
        fit_grid(model, name, n)


class Classes(OracleNet):
    """The score of both modes of `TWO`, or of the one that is a sample's class."""

    def forward(self, x, cond, label=None):
        if label is None:
            return super().forward(x, cond)
        return (torch.where(label == 0, -2.0, 2.0)[:, None] - x) / (0.25 + cond[:, None] ** 2)


ROW = Precondition("score", "sigma", 6.8, 0.01)


def test_levels_are_fitted_to_the_guided_samples_of_classes():
    model = ScoreModel(Classes(TWO), ROW, prior=TWO.prior, classes="ab")
    plan = replace(make_plan(model, "unipc", 5), guidance=3.0)
    labels = torch.arange(2).repeat_interleave(32)
    guided = guide(model.given(labels), model, 3.0)
    fitted = fit_plan(model, plan, torch.tensor([0, 1]))
    assert torch.equal(fitted.sigmas, fit_grid(model, "unipc", 5, score=guided))
    x = TWO.prior.sample(64, 6.8, noise=seeded(1))
    truth = final(SAMPLERS["heun"].run(guided, x, karras(6.8, 0.01, 64)))

    def error(levels):
        ends = final(SAMPLERS["unipc"].run(guided, x, levels.sigmas.to(x)))
        return (ends - truth).square().mean().sqrt().item()

    assert error(fitted) < error(fit_plan(model, replace(plan, guidance=1.0))) / 2


def test_levels_are_fitted_to_the_guidance_of_a_classifier():
    """With the exact classifier, whose gradient makes the score of all that of a class."""
    model, labels = ScoreModel(Classes(TWO), ROW, prior=TWO.prior), torch.tensor([0, 1])
    exact = Guidance(1.0, classifier=lambda x, sigma: TWO.responsibilities(x, sigma).log())
    plan = replace(make_plan(model, "unipc", 4), guidance=exact)
    of_classes = ScoreModel(Classes(TWO), ROW, prior=TWO.prior, classes="ab")
    fits = (
        fit_plan(model, plan, labels),
        fit_plan(of_classes, replace(plan, guidance=1.0), labels),
    )
    torch.testing.assert_close(fits[0].sigmas, fits[1].sigmas, rtol=1e-3, atol=0)


class Dropping(OracleNet):
    """An oracle with dropout."""

    def forward(self, x, cond):
        return torch.nn.functional.dropout(super().forward(x, cond), training=self.training)


def test_a_grid_is_fitted_without_dropout():
    model = as_model(TWO)
    model.net = Dropping(TWO)
    fits = [fit_grid(model.train(mode), "unipc", 2, samples=4) for mode in (False, True)]
    assert torch.equal(*fits)
