"""Samples in one call, against the distribution of a model with an exact score."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

from scorefield import (
    EDM,
    MLP,
    NCSN,
    VE,
    Gaussian,
    GaussianMixture,
    Guidance,
    Precondition,
    Prior,
    ScoreModel,
    geometric,
    inverse,
    karras,
    restore,
)
from scorefield.ladder import suggest_between
from scorefield.sample import OracleNet, make_plan, sample
from scorefield.samplers import (
    SAMPLERS,
    Sampler,
    State,
    annealed_langevin,
    euler,
    final,
    langevin,
    mala,
    underdamped,
)
from scorefield.samplers.state import sampler
from scorefield.values import describe_classes

MEAN = torch.tensor([2.0, -1.0])
ORACLE = Gaussian(MEAN.double(), 0.25)


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


@pytest.mark.parametrize(
    ("model", "plan"),
    [(_model(), "heun"), (_model(), "dpm_solver"), (ORACLE, None), (ORACLE, "annealed_langevin")],
)
def test_samples_have_the_distribution_of_a_model_or_an_oracle(model, plan):
    x = sample(model, 1000, plan, steps=40, batch=1000)
    # four standard errors; 40 steps leave a deviation too large by 0.6 %, and 40 a level by 2.7 %
    assert (x.mean(0) - MEAN).abs().max() < 4 * 0.5 / 1000**0.5
    bias = 0.027 if plan == "annealed_langevin" else 0.006
    assert (x.std(0) / 0.5 - 1).abs().max() < 4 / 2000**0.5 + bias


def test_an_oracle_is_planned_like_a_network_and_has_no_classes():
    assert torch.equal(sample(ORACLE, 5, make_plan(ORACLE)), sample(ORACLE, 5))
    with pytest.raises(ValueError, match=r"label=.* has no classes"):
        sample(ORACLE, 5, label=1)


@pytest.mark.parametrize("kernel", [langevin, underdamped, mala])
def test_a_kernel_is_a_sampler_down_a_ladder(kernel):
    runs = partial(sample, ORACLE, 5, steps=2, levels=3)
    x = runs("annealed_langevin", kernel=kernel)  # also mala, by the oracle's log_prob
    assert torch.equal(runs(partial(annealed_langevin, kernel=kernel)), x)
    assert torch.equal(runs(kernel), x)
    assert kernel is not mala or torch.equal(runs("mala"), x)
    plan = make_plan(ORACLE, kernel, 2, levels=3)
    first = 3 * (kernel is mala)  # at the start of each level
    assert (plan.name, plan.evaluations) == ("annealed_langevin", 7 + first)


def test_annealed_langevin_takes_the_suggested_ladder():
    planned = make_plan(_model(), "annealed_langevin")
    assert planned.options["steps"] == 5
    assert planned.sigmas[0] == 20
    assert planned.evaluations == 5 * len(planned.sigmas) + 1


def test_a_plan_takes_levels_and_a_grid():
    planned = make_plan(_model(), "annealed_langevin", levels=9)
    torch.testing.assert_close(planned.sigmas, geometric(20.0, 0.002, 9))
    own = suggest_between(20.0, 0.002, 2, levels=9)
    assert planned.options == {"denoise": True, "steps": 5, "epsilon": own.epsilon}
    planned = make_plan(_model(), "heun", 9, grid="geometric")
    torch.testing.assert_close(planned.sigmas, geometric(20.0, 0.002, 9))
    planned = make_plan(_model(), "consistency")  # from both levels to 0
    assert torch.equal(planned.sigmas, karras(20.0, 0.002, 3)[:2])
    assert planned.evaluations == 2
    with pytest.raises(ValueError, match="grid='linear': there are karras, geometric"):
        make_plan(_model(), "heun", 9, grid="linear")
    with pytest.raises(ValueError, match="levels=1: give a whole number, 2 or more"):
        make_plan(_model(), "annealed_langevin", levels=1)


@pytest.mark.parametrize("sampler", [name for name, one in SAMPLERS.items() if not one.annealed])
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
    model, options = _model().double(), {"sampler": sampler, "steps": 10}
    whole = sample(model, 7, seed=3, **options)
    torch.testing.assert_close(sample(model, 7, seed=3, batch=3, **options), whole)
    torch.testing.assert_close(sample(model, 4, seed=3, **options), whole[:4])
    assert (sample(model, 7, seed=4, **options) - whole).abs().min() > 1e-4


def test_labels_and_guidance_move_the_mean():
    model = _model(sigma_max=200.0)  # far enough out that the prior's mean has no effect
    classes = torch.tensor([1, 3, 3, 1] * 250)
    x = sample(model, 1000, steps=40, label=classes)
    # four standard errors of 500 samples, and what is left of the prior's mean
    bound = 4 * 0.5 / 500**0.5 + (5 - 1) * 2 * 0.5 / 200
    assert (x[classes == 3].mean(0) - 3 * MEAN).abs().max() < bound
    assert (x[classes == 1].mean(0) - MEAN).abs().max() < bound
    # for Gaussians of one variance, s_u + w(s_c − s_u) is the score at the mean m_u + w(m_c − m_u)
    x = sample(model, 1000, steps=40, label=3, guidance=2.0)
    assert (x.mean(0) - 5 * MEAN).abs().max() < bound


def test_guidance_by_a_weaker_model_in_an_interval_or_by_a_classifier_moves_the_mean():
    """The score of N(kM, v) guided by 2 away from that of N(0, v) is that of N(2kM, v)."""
    model, bound = _model(sigma_max=200.0), 4 * 0.5 / 500**0.5 + (6 - 1) * 2 * 0.5 / 200
    nothing = Gaussian(0 * MEAN, 0.25)
    for condition, guidance, factor in (
        ({}, Guidance(2.0, weak=nothing), 2),
        (dict(label=3), Guidance(2.0, weak=nothing), 6),
        (dict(label=3), Guidance(2.0, weak=model), 3),  # which is given the class too
        (dict(label=3), Guidance(2.0, interval=(300.0, 400.0)), 3),
    ):
        x = sample(model, 500, steps=40, guidance=guidance, **condition)
        assert (x.mean(0) - factor * MEAN).abs().max() < bound, guidance
    # an exact classifier makes the score of all classes that of the class
    mixture = GaussianMixture(torch.stack([-MEAN, MEAN]), 0.25, torch.ones(2) / 2)
    levels = Precondition("score", "sigma", 200.0, 0.01)
    exact = Guidance(1.0, classifier=lambda x, sigma: mixture.responsibilities(x, sigma).log())
    labels = torch.tensor([0, 1] * 500)
    model = ScoreModel(OracleNet(mixture), levels, prior=mixture.prior)
    x = sample(model, 1000, steps=40, label=labels, guidance=exact)
    for label, factor in ((0, -1), (1, 1)):
        assert (x[labels == label].mean(0) - factor * MEAN).abs().max() < bound


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
    # a control character in a name must not reach a terminal
    assert describe_classes(["a", "\x1b[2J"]) == r"2 classes: a, \x1b[2J"
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
    model = ScoreModel(nn.Identity(), NCSN(ladder), prior=Prior(MEAN, torch.tensor(0.25)))
    assert make_plan(model).sampler == "annealed_langevin"
    assert torch.equal(make_plan(model).sigmas, ladder)
    assert (make_plan(model).evaluations, make_plan(model).options) == (1001, {"denoise": True})
    assert set(make_plan(model, "heun", 50).sigmas.tolist()) <= set(ladder.tolist())


def test_dropout_is_off_while_sampling():
    net = nn.Module()
    net.forward = lambda x, cond: nn.functional.dropout(x, training=net.training)
    model = ScoreModel(net, VE(2.0, 0.1), prior=Prior(MEAN, torch.tensor(0.25))).train()
    assert torch.equal(sample(model, 5), sample(model, 5))


def test_samples_that_are_not_finite_are_warned_of():
    net = nn.Module()
    net.forward = lambda x, cond: x / 0
    model = ScoreModel(net, VE(), prior=Prior(MEAN, torch.tensor(1.0)))
    known, message = inverse.mask(torch.tensor([True, False])), "3 of 3 samples are not finite"
    with pytest.warns(UserWarning, match=message):
        sample(model, 3)
    with pytest.warns(UserWarning, match=message):
        restore(model, known, torch.zeros(1, 2), 3, method="dps")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(n=0), "n=0"),
        (dict(n=2.5), "n=2.5: give a whole number"),
        (dict(foo=1), "heun: option foo does not exist: there are denoise, levels"),
        (dict(steps=0), "steps=0"),
        (dict(steps=2.5), "steps=2.5: give a whole number"),
        (dict(sampler="hein"), "sampler='hein' is not in SAMPLERS: did you mean heun"),
        (
            dict(sampler="hmc"),
            "sampler='hmc': proposals are accepted by a log-density",
        ),
        (dict(sampler="annealed_langevin", kernel=mala), "a log-density, .*give an oracle"),
        (dict(sampler="churn", amont=3.0), "churn: option amont .*: did you mean amount"),
        (dict(guidence=2.0), "option guidence does not exist: did you mean guidance"),
        (dict(noise=torch.randn_like), "noise is a function of `seed` here: .*run"),
        (dict(guidance=2.0), "needs a label"),
        (dict(guidance=Guidance(1.0, classifier=Exact())), "by a classifier needs a label"),
        (dict(guidance=Guidance(2.0, weak=Gaussian(torch.zeros(3), 1.0))), r"shape \(3,\), but"),
        (dict(label=torch.zeros(2).long()), r"label=a tensor of torch.int64 and shape \(2,\)"),
        *((dict(label=x), "label=.* each of 3 samples") for x in (1.5, {}, torch.ones(0).long())),
        (dict(seed=-1), "seed=-1: give a whole number"),
        (dict(model=ScoreModel(Exact(), EDM())), "no prior"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        sample(**{"model": _model(), "n": 3} | options)


@pytest.mark.usefixtures("unchecked")
def test_a_score_that_is_neither_a_model_nor_an_oracle_is_refused():
    with pytest.raises(TypeError, match=r"model is a function: .* SAMPLERS\[name\].*kernel=mala"):
        sample(lambda x, sigma: -x, 3, "heun")


def _midpoint(score, x, sigma, sigma_next, noise):
    half = (sigma + sigma_next) / 2
    s = score(x + sigma * (sigma - half) * score(x, sigma), half)
    return x + half * (sigma - sigma_next) * s, x


def _euler_states(score, x, sigmas, *, scale=1.0, denoise=True):
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        x = x + scale * sigma * (sigma - sigma_next) * score(x, sigma)
        yield State(x, sigma_next, x)


def _tensors(score, x, sigmas):
    yield x


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("own", "message"),
    [
        (lambda score, x, sigma, sigma_next: (x, x), r"step=.*: give a function of \(score, x, si"),
        (lambda score, x, sigma, sigma_next, noise: x, "a step returned Tensor: return x at sigma"),
        (lambda score, x, sigma, sigma_next, noise: (x[:1], x[:1]), r"a step returned shape \(1, "),
        (_tensors, "a sampler yielded Tensor: yield State"),
    ],
)
def test_a_custom_step_or_sampler_that_does_not_fit_is_refused(own, message):
    with pytest.raises((TypeError, ValueError), match=message):
        sample(_model(), 2, sampler=own, steps=3)  # x of two samples could be taken for a pair


def test_a_path_of_noise_is_for_samplers_that_add_noise_once_a_step():
    for name in ("heun", "churn", "predictor_corrector", "annealed_langevin"):
        message = rf"sampler='{name}': a path of noise.*take one of ancestral, consistent, dpm"
        with pytest.raises(ValueError, match=message):
            sample(ORACLE, 2, name, brownian=True)


def test_a_custom_step_or_sampler_samples_like_the_built_in_one():
    model, steps = _model().double(), 12
    for own, name in ((euler, "euler"), (annealed_langevin, "annealed_langevin")):
        assert make_plan(model, own, steps).evaluations == make_plan(model, name, steps).evaluations
        assert torch.equal(sample(model, 5, own, steps=steps), sample(model, 5, name, steps=steps))
    for own in (_euler_states, sampler()(_euler_states), Sampler(sampler()(_euler_states))):
        x = sample(model, 5, sampler=own, steps=steps)
        torch.testing.assert_close(x, sample(model, 5, "euler", steps=steps))
        assert not x.requires_grad
    assert not torch.equal(sample(model, 5, own, steps=steps, scale=0.5), x)
    exact, error = sample(model, 5, "heun", steps=200), {}
    for own in (euler, _midpoint):
        error[own] = (sample(model, 5, sampler=own, steps=40) - exact).abs().max()
    assert error[_midpoint] < error[euler] / 4  # order 2 instead of 1
    _euler_states.__name__ = "heun"  # a name that is taken
    assert torch.equal(sample(model, 5, sampler=_euler_states, steps=steps), x)
    plan = make_plan(model, _midpoint, steps)
    assert (plan.name, plan.evaluations) == ("_midpoint", steps)
