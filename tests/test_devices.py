"""Everything on an accelerator, by default the pretend one, gives the CPU's results.

A sampler's step neither copies to the device nor waits for it.
"""

from dataclasses import replace
from functools import partial

import pytest
import torch
from test_evidence import last
from test_objectives import OBJECTIVES
from test_oracles import KINDS, oracles
from torch import nn

from scorefield import EDM, MLP, NCSN, VP, Guidance, Prior, ScoreModel, VPDiscrete, geometric
from scorefield.data import Arrays, Pairs
from scorefield.data.sources import Part
from scorefield.diagnose import diagnose
from scorefield.evaluate import fit_grid
from scorefield.inverse import guide_by_classifier, log_normalizer, smc
from scorefield.inverse.operators import matrix
from scorefield.ladder import suggest
from scorefield.likelihood import log_likelihood
from scorefield.nn import DiT
from scorefield.noise import Discrete, LogNormal, brownian, interpolated, replay, seeded
from scorefield.objectives import annealed
from scorefield.precondition import ddpm_sigmas
from scorefield.sample import as_model, make_plan, sample
from scorefield.samplers import SAMPLERS, final, hmc, mala
from scorefield.samplers.integrate import predictor_corrector
from scorefield.samplers.langevin import langevin
from scorefield.score import from_energy, guide, rescale, to_denoiser, to_noise

X = torch.linspace(-2, 2, 12).reshape(6, 2)
LADDER = geometric(2.0, 0.1, 4)
LEVELS = Discrete(LADDER)


def normal(x, sigma):
    """Return the score of N(0, I)."""
    return -x / (1 + sigma**2)


def levels(run, **options):
    """Return a sampler's run as a function of x and the number of steps."""
    grid = partial(geometric, 2.0, 0.1)
    return lambda x, steps: run(normal, x, grid(steps + 1), noise=seeded(0), **options)


ENERGY = from_energy(lambda x, sigma: x.square().sum(1) / (2 + 2 * sigma**2))


def kernel(run, alpha):
    """Return a kernel's run as a function of x and the number of steps."""
    return lambda x, steps: run(ENERGY, x, 0.5, alpha=alpha, steps=steps, noise=seeded(0))


def tempering(x, steps):
    """Return a run of sequential Monte Carlo in two filters, from a prior that is off."""
    prior, sigmas = Prior(0 * x[0] + 0.5, 0 * x[0] + 2), geometric(2.0, 0.1, steps + 1)
    options = {"prior": prior, "epsilon": 0.01, "filter_size": 3, "noise": seeded(0)}
    return smc(ENERGY, x, sigmas, **options)


RUNS = {
    "langevin": kernel(langevin, 0.01),
    "mala": kernel(mala, 1.0),
    "hmc": kernel(partial(hmc, leapfrogs=2), 0.5),
    "smc": tempering,
    **{
        name: levels(one.run, **({"steps": 2, "epsilon": 1e-3} if one.annealed else {}))
        for name, one in SAMPLERS.items()
        if name != "adaptive"  # which reads the error of each step
    },
    "predictor_corrector, batch": levels(predictor_corrector, rule="batch", corrections=2),
}


def test_devices_do_not_mix(device):
    here, there = X.clone(), X.to(device)
    assert there.device.type == torch.device(device).type
    assert (there * torch.tensor(2.0) + 1).tolist() == (2 * here + 1).tolist()
    assert there[torch.tensor([1])].tolist() == here[1:2].tolist()
    two_devices = (
        lambda: there + here,
        lambda: torch.cat([there, here]),
        lambda: here.add_(there),
        lambda: here[torch.tensor([1], device=device)],
        lambda: there @ here.T,
    )
    for call in two_devices:
        with pytest.raises(RuntimeError, match="device"):
            call()
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(2, device=device, generator=torch.Generator())
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()


def test_float64_only_where_there_is_some(device):
    wide = (
        lambda: X.to(device).double(),
        lambda: X.double().to(device),
        lambda: torch.zeros(2, dtype=torch.float64, device=device),
        lambda: torch.tensor([0.5], dtype=torch.float64, device=device),
    )
    for call in wide:
        if device in ("mps", "pretend:1"):
            with pytest.raises(TypeError, match="float64"):
                call()
        else:
            assert call().dtype == torch.float64


def test_copies_and_reads_are_counted():
    pretend = pytest.importorskip("pretend", exc_type=ImportError)
    there = X.to("pretend")
    crossings = (
        there.cpu,
        lambda: X.to("pretend"),
        lambda: torch.tensor([1.0], device="pretend"),
        lambda: torch.where(there > 0, there, torch.tensor(0.0)),
    )
    waits = (there[0, 0].item, there.tolist, lambda: there[there > 0], lambda: bool(there.any()))
    free = (lambda: torch.arange(3, device="pretend"), there.bfloat16, lambda: there * 2)
    for calls, expected in ((crossings, (1, 0)), (waits, (0, 1)), (free, (0, 0))):
        for call in calls:
            with pretend.counting() as counts:
                call()
            assert (counts.copies.total(), counts.reads.total()) == expected

    def sample(steps):
        final(langevin(lambda x, sigma: -x * x.sum().item(), there, 1.0, alpha=0.01, steps=steps))

    # from 1 step to 2, at the innermost line of the package
    ((place, reads),) = pretend.growth(sample).items()
    assert place.startswith("samplers/state.py:")
    assert reads == 1


@pytest.mark.one_face
@pytest.mark.parametrize("name", RUNS)
def test_a_samplers_step_makes_no_copy_and_no_read(name, device, same, growth):
    same(lambda place: final(RUNS[name](X.to(place), 3)))
    there = X.to(device)
    # the first and the last step may be of another order
    assert not growth(lambda steps: final(RUNS[name](there, steps)), 2, 4)


def test_a_condition_that_stays_on_the_host_is_taken_with_samples_on_a_device(device):
    files = Part(Arrays(X[:, :1]), torch.arange(6))  # as images that are too large for memory
    pairs = Pairs(Arrays(X), {"y": files}).to(device)
    x, values = pairs.take(torch.tensor([4, 1], device=device))
    assert (x.device.type, values["y"].device.type) == (torch.device(device).type, "cpu")
    assert x[:, :1].tolist() == values["y"].tolist() == X[[4, 1], :1].tolist()


def model(place, precondition=None, labels=3):
    """Return a model of random weights on a device."""
    torch.manual_seed(0)
    net = MLP((2,), width=8, blocks=1, labels=labels)
    nn.init.normal_(net.head.weight)  # which starts at 0
    prior = Prior(torch.tensor([1.0, -1.0]), torch.tensor([[1.0, 0.3], [0.3, 0.5]]))
    return ScoreModel(net, precondition or EDM(), prior=prior).to(place).eval()


def transformer(place, **values):
    """Return the score of pairs that are images of two pixels, given a vector or an image."""
    torch.manual_seed(0)
    shapes = {name: [*value.shape[1:]] for name, value in values.items()}
    net = DiT(channels=1, patch=1, width=8, blocks=1, heads=2, conditions=shapes)
    nn.init.normal_(net.head.weight)  # which starts nearly at 0
    score = ScoreModel(net, EDM()).to(place).eval()
    for name, value in values.items():
        net.conditions[name].fit(value.to(place))
    score = score.given(values) if values else score
    return lambda x, sigma: score(x.view(6, 1, 1, 2), sigma).view(6, 2)


def oracle(kind, place):
    return oracles((2,), torch.float32, place)[kind]


points, mixture = partial(oracle, "empirical"), partial(oracle, "mixture")


def classify(x, sigma):
    """Return logits of three classes."""
    return torch.stack([x.sin().sum(1), x[:, 0], x[:, 1] ** 2], 1)


SCORES = {
    **{kind: partial(oracle, kind) for kind in KINDS},
    "EDM": model,
    "NCSN": partial(model, precondition=NCSN(LADDER), labels=0),
    "transformer": transformer,
    "vectors": partial(transformer, v=X),
    "images": partial(transformer, image=X.view(6, 1, 1, 2)),
    "VP": partial(model, precondition=VP()),
    "DDPM": partial(model, precondition=VPDiscrete(ddpm_sigmas())),
    "a class": lambda place: model(place).given(1),
    "classes": lambda place: model(place).given(torch.arange(6) % 3),
    "guidance": lambda place: guide(model(place).given(2), model(place), 2.0),
    "guidance in an interval": lambda place: guide(
        model(place).given(2), model(place), 2.0, interval=(0.5, 1.0)
    ),
    "a classifier": lambda place: guide_by_classifier(
        points(place), classify, 1, 2.0, interval=(0.5, 1.0)
    ),
    "a classifier of each": lambda place: guide_by_classifier(
        points(place), classify, torch.arange(6).to(place) % 3
    ),
    "denoiser": lambda place: to_denoiser(points(place)),
    "noise": lambda place: to_noise(points(place)),
    "rescaled": lambda place: rescale(points(place), 2.0, -1.0),
    "energy": lambda place: from_energy(lambda x, sigma: x.square().sum(1) / (1 + sigma**2)),
    "model of an oracle": lambda place: as_model(points(place)),
}


@pytest.mark.parametrize("name", SCORES)
def test_a_score_makes_no_copy_and_no_read(name, device, same, growth):
    """At one level, a float, and at a level for each sample."""

    def scores(place):
        score, x = SCORES[name](place), X.to(place)
        sigmas = 0.7, torch.linspace(0.2, 1.2, 6).to(place)
        return lambda steps=1: [score(x, sigma) for _ in range(steps) for sigma in sigmas]

    same(lambda place: scores(place)())
    assert not growth(scores(device))


def loss(objective, place, levels=LEVELS):
    """Return the loss of each sample, and the gradients of the weights."""
    score = model(place)
    values = annealed(objective, levels)(score, X.to(place))
    values.sum().backward()
    return values, [p.grad for p in score.parameters() if p.grad is not None]


@pytest.mark.one_face
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_loss_makes_no_copy_and_no_read(name, device, growth):
    score, there, objective = model(device), X.to(device), annealed(OBJECTIVES[name], LEVELS)
    assert not growth(
        lambda steps: [objective(score, there).sum().backward() for _ in range(steps)]
    )


def likelihood(place, probes):
    score, options = oracle("box", place), {"sigma_min": 0.5, "sigma_max": 2.0, "tolerance": 0.1}
    return log_likelihood(score, X.to(place), score.prior, probes=probes, **options)


RESULTS = {
    **{name: partial(loss, objective) for name, objective in OBJECTIVES.items()},
    "all levels": lambda place: loss(OBJECTIVES["denoising"], place, LogNormal()),
    "suggest": lambda place: suggest(X.to(place)).sigmas,
    "diagnose": lambda place: [
        (level.stiffness, *level.errors, level.mean, level.variance, level.widest, level.local)
        for level in diagnose(model(place), mixture(place), LADDER[:1], steps=2, n=20).levels
    ],
    "likelihood": lambda place: likelihood(place, None),
    "matrix": lambda place: matrix(X[:2].to(place)).pinv(X.to(place)),
    "likelihood, two probes": lambda place: likelihood(place, 2),
    "interpolated": lambda place: interpolated(
        torch.randn_like, torch.randn_like, torch.linspace(0, 1, 6)
    )(X.to(place)),
    "smc": lambda place: list(tempering(X.to(place), 2)),
    "log_normalizer": lambda place: log_normalizer(last(tempering(X.to(place), 2)).log_w, 3),
    "replay": lambda place: replay([X])(torch.zeros(6, 2, device=place)),
    "an oracle": lambda place: sample(points(place), 5),
    "fit_grid": lambda place: fit_grid(points(place), "unipc", 2, samples=8),
}
SAMPLES = {
    "adaptive": lambda place: sample(model(place), 5, "adaptive", tolerance=0.01),
    "a model": lambda place: sample(model(place), 5, batch=3),
    "a plan": lambda place: sample(
        model(place), 5, make_plan(model(place), "predictor_corrector", 4, rule="batch")
    ),
    "few levels": lambda place: sample(model(place, NCSN(LADDER), 0), 5, steps=2),
    "from uniform noise": lambda place: sample(
        model(place), 5, replace(make_plan(model(place), steps=4), uniform=True)
    ),
    "guidance": lambda place: sample(
        model(place), 5, "churn", steps=4, label=["0", "2", "1", "1", "0"], guidance=2.0
    ),
    "autoguidance": lambda place: sample(
        model(place), 5, steps=2, label=1, guidance=Guidance(2.0, (0.2, 2.0), model(place))
    ),
    "a classifier": lambda place: sample(
        model(place), 5, steps=2, label=1, guidance=Guidance(1.5, classifier=classify)
    ),
}


@pytest.mark.one_face
def test_more_steps_of_sample_make_no_copy_and_no_read(device, growth):
    run = partial(sample, model(device), 6, "churn", label="all", guidance=2.0, batch=3)
    assert not growth(lambda steps: run(steps=steps))


@pytest.mark.one_face
def test_noise_between_two_seeds_is_weighted_without_a_copy(device, growth):
    there, weights = X.to(device), torch.linspace(0, 1, 6)
    noise = interpolated(seeded(0), seeded(1), weights)
    assert not growth(lambda steps: [noise(there) for _ in range(steps)])


def test_noise_of_a_path_is_the_cpus_and_made_without_a_copy(device, same, growth, monkeypatch):
    monkeypatch.setattr("scorefield.noise.BROWNIAN_HALVINGS", 2)

    def increments(x, steps):
        noise = brownian(0, geometric(2.0, 0.1, steps + 1))
        return [noise(x) for _ in range(steps)]

    same(lambda place: increments(X.to(place), 2))
    there = X.to(device)
    assert not growth(lambda steps: increments(there, steps))


@pytest.mark.parametrize("name", RESULTS)
def test_results_are_the_cpus(name, same):
    same(RESULTS[name])


@pytest.mark.one_face
@pytest.mark.parametrize("name", SAMPLES)
def test_samples_are_the_cpus(name, same):
    same(SAMPLES[name])


@pytest.mark.one_face
@pytest.mark.parametrize("name", ["suggest", "diagnose", "matrix", "likelihood"])
def test_without_float64_results_are_near_those_of_a_cpu_with_it(name, device, same, monkeypatch):
    if device == "pretend:1":
        monkeypatch.setattr("scorefield._ops.NO_FLOAT64", {"pretend"})
    if name != "likelihood":
        same(RESULTS[name])
        return
    # float32 rounds the at most 7 terms that a step's stage adds, in each of 25 evaluations
    same(lambda place: likelihood(place, None).log_prob.float(), 25 * 7 * 2**-24)


@pytest.mark.parametrize("kind", KINDS)
def test_oracles_are_the_cpus(kind, same):
    def everything(place):
        truth = oracle(kind, place)
        results = [truth.log_prob(X.to(place), 0.5), truth.sample(5, 0.1), truth.prior.dense]
        if hasattr(truth, "posterior") and kind != "mixture":
            posterior = truth.posterior(torch.ones(1, 2).to(place), torch.ones(1).to(place), 0.3)
            results += [posterior.score(X.to(place), 0.5), posterior.prior.mean]
        if hasattr(truth, "responsibilities"):
            results.append(truth.responsibilities(X.to(place), 0.5))
        return results

    same(everything)
