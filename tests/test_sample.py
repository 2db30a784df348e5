"""Samples in one call, against the distribution of a model with an exact score."""

import pytest
import torch
from torch import nn

from scorefield import (
    EDM,
    MLP,
    NCSN,
    SAMPLERS,
    VE,
    Gaussian,
    Prior,
    ScoreModel,
    geometric,
    sample,
)
from scorefield.ladder import suggest_between
from scorefield.sample import make_plan
from scorefield.samplers import final

MEAN = torch.tensor([2.0, -1.0])


class Exact(nn.Module):
    """F under EDM with the score of N(MEAN, (0.5² + σ²)I), or of N(MEAN · label, …)."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, x, cond, label=None):
        sigma = (4 * cond).exp()[:, None]
        total = (sigma**2 + 0.25).sqrt()
        mean = MEAN if label is None else MEAN * label[:, None]
        return sigma / (0.5 * total) * mean


def _model(**changes):
    prior = Prior(MEAN, torch.tensor(0.25))
    return ScoreModel(Exact(), EDM(**dict(sigma_data=0.5, sigma_max=20.0) | changes), prior=prior)


@pytest.mark.parametrize("sampler", ["heun", "dpm_solver"])
def test_samples_have_the_models_distribution(sampler):
    x = sample(_model(), 1000, sampler, steps=40, batch=1000)
    # four standard errors, plus 2 % of the deviation for 40 steps of a second-order sampler
    assert (x.mean(0) - MEAN).abs().max() < 4 * 0.5 / 1000**0.5 + 0.01
    assert (x.std(0) / 0.5 - 1).abs().max() < 4 / 2000**0.5 + 0.02


def test_annealed_langevin_takes_the_suggested_ladder():
    planned = make_plan(_model(), "annealed_langevin")
    assert planned.options["steps"] == 5
    assert planned.sigmas[0] == 20
    assert planned.evaluations == 5 * len(planned.sigmas) + 1
    x = sample(_model(), 500, "annealed_langevin", steps=10, batch=500)
    assert (x.mean(0) - MEAN).abs().max() < 4 * 0.5 / 500**0.5 + 0.01
    # in two dimensions γ = 1.5 is coarse, and the deviation at the end is 10 % too large
    assert (x.std(0) / 0.5 - 1.1).abs().max() < 4 / 1000**0.5 + 0.02


def test_a_plan_takes_levels_and_a_grid():
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


@pytest.mark.parametrize("sampler", [*SAMPLERS.keys() - {"annealed_langevin"}])
def test_one_step_is_one_evaluation_at_the_largest_level(sampler):
    model = _model()
    levels, planned = [], make_plan(model, sampler, 1)
    assert (planned.evaluations, planned.states) == (1, 1)

    def watch(x, sigma):
        levels.append(sigma)
        return model(x, sigma)

    x = torch.randn(3, 2)
    end = final(planned.run(watch, x, torch.randn_like))
    assert levels == [20.0]
    assert torch.equal(end, x + 20.0**2 * model(x, 20.0))


@pytest.mark.filterwarnings("ignore:sigma from")  # churn adds noise to the first level
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samples_do_not_depend_on_the_batch_size(sampler):
    model, options = _model().double(), {"plan": sampler, "steps": 10}
    whole = sample(model, 7, seed=3, **options)
    torch.testing.assert_close(sample(model, 7, seed=3, batch=3, **options), whole)
    torch.testing.assert_close(sample(model, 4, seed=3, **options), whole[:4])
    assert (sample(model, 7, seed=4, **options) - whole).abs().min() > 1e-4


def test_labels_and_guidance_move_the_mean():
    model = _model(sigma_max=200.0)  # far enough out that the prior's mean has no effect
    classes = torch.tensor([1, 3, 3, 1] * 250)
    x = sample(model, 1000, steps=40, label=classes)
    bound = 4 * 0.5 / 500**0.5 + 0.02  # four standard errors of 500 samples, and 40 steps
    assert (x[classes == 3].mean(0) - 3 * MEAN).abs().max() < bound
    assert (x[classes == 1].mean(0) - MEAN).abs().max() < bound
    # for Gaussians of one variance, s_u + w(s_c − s_u) is the score at the mean m_u + w(m_c − m_u)
    x = sample(model, 1000, steps=40, label=3, guidance=2.0)
    assert (x.mean(0) - 5 * MEAN).abs().max() < bound


def test_classes_have_names():
    prior, net = Prior(MEAN, torch.tensor(0.25)), MLP(MEAN.shape, width=8, blocks=1, labels=3)
    nn.init.normal_(net.head.weight)  # which starts at 0
    model = ScoreModel(net, EDM(), prior=prior, classes=("cat", "dog", "flower"))
    for label, same in (
        ("flower", 2),
        ("1", 1),
        (["cat", "flower"] * 3 + ["dog"], torch.tensor([0, 2, 0, 2, 0, 2, 1])),
        ("all", torch.tensor([0, 0, 0, 1, 1, 2, 2])),
    ):
        x = sample(model, 7, steps=3, label=label)
        assert torch.equal(x, sample(model, 7, steps=3, label=same))
        assert not torch.equal(x, sample(model, 7, steps=3))
    x = torch.randn(2, *MEAN.shape)
    assert torch.equal(model.given("dog")(x, 1.0), model.given(1)(x, 1.0))
    assert ScoreModel(net, EDM()).classes == ("0", "1", "2")
    for label, message in (
        ("flwer", "'flwer' is not a class of the model: did you mean flower"),
        (3, "classes are 0 to 2"),
        ("all", "n=2, label='all': give n=3 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            sample(model, 2, label=label)
    with pytest.raises(ValueError, match="own name, 3 in all"):
        ScoreModel(net, EDM(), classes=("cat", "dog", "dog"))


def test_a_model_of_few_levels_is_evaluated_at_these_only():
    ladder = geometric(1.0, 0.01, 10)

    class Negative(nn.Module):
        def forward(self, x, cond):
            return -x

    model = ScoreModel(Negative(), NCSN(ladder), prior=Prior(MEAN, torch.tensor(0.25)))
    assert make_plan(model).sampler == "annealed_langevin"
    assert torch.equal(make_plan(model).sigmas, ladder)
    assert (make_plan(model).evaluations, make_plan(model).options) == (1001, {"denoise": True})
    assert set(make_plan(model, "heun", 50).sigmas.tolist()) <= set(ladder.tolist())


def test_dropout_is_off_while_sampling():
    class Dropping(nn.Module):
        def forward(self, x, cond):
            return nn.functional.dropout(x, training=self.training)

    model = ScoreModel(Dropping(), VE(2.0, 0.1), prior=Prior(MEAN, torch.tensor(0.25))).train()
    assert torch.equal(sample(model, 5), sample(model, 5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(n=0), "n=0"),
        (dict(steps=0), "steps=0"),
        (dict(steps=2.5), "steps=2.5: give a whole number"),
        (dict(plan="hein"), "sampler='hein': did you mean heun"),
        (dict(plan="churn", amont=3.0), "churn: option amont does not exist: did you mean amount"),
        (dict(guidence=2.0), "option guidence does not exist: did you mean guidance"),
        (dict(noise=torch.randn_like), "noise is a function of `seed` here: .*run"),
        (dict(guidance=2.0), "needs a label"),
        (dict(batch=0), "batch=0"),
        (dict(model=ScoreModel(Exact(), EDM())), "no prior"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        sample(**{"model": _model(), "n": 3} | options)


@pytest.mark.usefixtures("unchecked")
def test_a_score_that_is_not_a_model_is_refused():
    with pytest.raises(TypeError, match=r"model is a Gaussian: .* SAMPLERS\[name\]\.run"):
        sample(Gaussian(MEAN, 0.25), 3, "heun")
