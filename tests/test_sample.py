"""Samples in one call, against the law of a model that is exact."""

import pytest
import torch
from torch import nn

from scorefield import EDM, NCSN, VE, Prior, ScoreModel, geometric, sample
from scorefield.ladder import suggest_between
from scorefield.sample import make_plan

MEAN = torch.tensor([2.0, -1.0])


class Exact(nn.Module):
    """F under EDM that makes the score of N(MEAN, (0.5² + σ²)I), or of the class's mean."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))
        self.asked = []

    def forward(self, x, cond, label=None):
        sigma = (4 * cond).exp()[:, None]
        self.asked += sigma.flatten().tolist()
        total = (sigma**2 + 0.25).sqrt()
        mean = MEAN if label is None else MEAN * label[:, None]
        return sigma / (0.5 * total) * mean


def _model(**changes):
    prior = Prior(MEAN, torch.tensor(0.25))
    return ScoreModel(Exact(), EDM(**dict(sigma_data=0.5, sigma_max=20.0) | changes), prior=prior)


@pytest.mark.parametrize("sampler", ["heun", "dpm_solver"])
def test_the_samples_have_the_models_law(sampler):
    x = sample(_model(), 1000, sampler, steps=40, batch=1000)
    # four standard errors, and 2 % for the discretisation
    assert (x.mean(0) - MEAN).abs().max() < 4 * 0.5 / 1000**0.5 + 0.01
    assert (x.std(0) / 0.5 - 1).abs().max() < 4 / 2000**0.5 + 0.02


def test_annealed_langevin_takes_the_ladder_of_suggest():
    planned = make_plan(_model(), "annealed_langevin")
    assert planned.options["steps"] == 5
    assert planned.sigmas[0] == 20
    assert planned.evaluations == 5 * len(planned.sigmas) + 1
    x = sample(_model(), 500, "annealed_langevin", steps=10, batch=500)
    assert (x.mean(0) - MEAN).abs().max() < 4 * 0.5 / 500**0.5 + 0.01
    # in two dimensions the ladder is coarse, and its variances stay above their own
    assert (x.std(0) / 0.5 - 1.1).abs().max() < 4 / 1000**0.5 + 0.02


def test_levels_and_grid_may_be_given():
    planned = make_plan(_model(), "annealed_langevin", levels=9)
    torch.testing.assert_close(planned.sigmas, geometric(20.0, 0.002, 9))
    own = suggest_between(20.0, 0.002, 2, levels=9)
    assert planned.options == {"denoise": True, "steps": 5, "epsilon": own.epsilon}
    planned = make_plan(_model(), "heun", 9, grid="geometric")
    torch.testing.assert_close(planned.sigmas, geometric(20.0, 0.002, 9))
    with pytest.raises(ValueError, match="grid='linear': there are karras, geometric"):
        make_plan(_model(), "heun", 9, grid="linear")
    with pytest.raises(ValueError, match="levels=1: give at least 2"):
        make_plan(_model(), "annealed_langevin", levels=1)


def test_a_sample_is_the_same_in_any_batch():
    model = _model().double()
    for sampler in ("heun", "ancestral"):
        whole = sample(model, 7, sampler, seed=3)
        torch.testing.assert_close(sample(model, 7, sampler, seed=3, batch=3), whole)
        torch.testing.assert_close(sample(model, 4, sampler, seed=3), whole[:4])
        assert (sample(model, 7, sampler, seed=4) - whole).abs().min() > 1e-4


def test_a_class_for_each_and_more_of_it():
    model = _model(sigma_max=200.0)  # so far out that the prior's own mean is forgotten
    classes = torch.tensor([1, 3, 3, 1] * 250)
    x = sample(model, 1000, steps=40, label=classes)
    assert (x[classes == 3].mean(0) - 3 * MEAN).abs().max() < 0.1
    assert (x[classes == 1].mean(0) - MEAN).abs().max() < 0.1
    # s_u + w(s_c − s_u) of Gaussians of one variance is that of m_u + w(m_c − m_u)
    x = sample(model, 1000, steps=40, label=3, guidance=2.0)
    assert (x.mean(0) - 5 * MEAN).abs().max() < 0.1


def test_a_model_of_few_levels_is_asked_there_alone():
    ladder = geometric(1.0, 0.01, 10)

    class Levels(nn.Module):
        def forward(self, x, cond):
            seen.append(cond)
            return -x

    seen = []
    model = ScoreModel(Levels(), NCSN(ladder), prior=Prior(MEAN, torch.tensor(0.25)))
    assert make_plan(model).sampler == "annealed_langevin"
    assert torch.equal(make_plan(model).sigmas, ladder)
    assert (make_plan(model).evaluations, make_plan(model).options) == (1001, {"denoise": True})
    assert set(make_plan(model, "heun", 50).sigmas.tolist()) <= set(ladder.tolist())


def test_dropout_is_off_while_sampling():
    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x, cond):
            return self.drop(x)

    model = ScoreModel(Dropping(), VE(2.0, 0.1), prior=Prior(MEAN, torch.tensor(0.25))).train()
    assert torch.equal(sample(model, 5), sample(model, 5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(n=0), "n=0"),
        (dict(steps=0), "steps=0"),
        (dict(plan="hein"), "there are annealed_langevin"),
        (dict(guidance=2.0), "needs a label"),
        (dict(batch=0), "batch=0"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        sample(_model(), **{"n": 3} | options)


def test_a_model_without_a_start_says_so():
    with pytest.raises(ValueError, match="no prior"):
        sample(ScoreModel(Exact(), EDM()), 3)
