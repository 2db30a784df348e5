"""Metrics, evaluation and converted checkpoints on an accelerator give the CPU's results."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from test_convert import NCSN, NCSNV2, SCORE_SDE

from benchmarks.authors import golden, model_of
from scorefield import EDM, Prior, ScoreModel, metrics, seeded
from scorefield.data import Arrays, Dataset
from scorefield.evaluate import evaluate, fit, judge, make_features
from scorefield.evaluate.fit import loss_curves
from scorefield.evaluate.gather import gather_samples
from scorefield.evaluate.inception import Inception, resize_tensorflow
from scorefield.sample import make_plan

IMAGES = torch.linspace(0, 400, 60 * 20).sin().view(60, 1, 5, 4)
OTHERS = torch.linspace(0, 500, 60 * 20).cos().view(60, 1, 5, 4)
METRICS = {
    "frechet": metrics.frechet,
    "kernel_distance": metrics.kernel_distance,
    "sliced_wasserstein": lambda x, y: metrics.sliced_wasserstein(
        x, y, directions=2 * len(x), noise=seeded(0)
    ),
    "inception_score": lambda x, y: metrics.inception_score(x.flatten(1).softmax(1), 4),
    "precision_recall": metrics.precision_recall,
    "density_coverage": metrics.density_coverage,
    "crowding": metrics.crowding,
    "nearest": lambda x, y: metrics.nearest(x, y, 3, flips=True),
    "stein_discrepancy": lambda x, y: metrics.stein_discrepancy(x, y[: len(x)]),
    "neighbour_ratio": lambda x, y: metrics.neighbour_ratio(x, y, y + 0.1, flips=True),
}


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_does_not_wait_for_each_block(name, device, same, growth, monkeypatch):
    monkeypatch.setattr(metrics.arguments, "BLOCK_ROWS", 8)
    monkeypatch.setattr(metrics.distances, "DIRECTIONS", 8)
    same(lambda place: METRICS[name](IMAGES.to(place), OTHERS.to(place)))
    x, y = IMAGES.to(device), OTHERS.to(device)
    assert not growth(lambda blocks: METRICS[name](x[: 8 * blocks], y), 1, 2)


class Net(torch.nn.Module):
    """A denoiser with a mean for each of two classes."""

    def __init__(self):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.tensor([0.5, 0.3, 0.6]))

    def forward(self, x, cond, label=None):
        label = torch.zeros_like(cond).long() if label is None else label + 1
        return 0.2 * x.sin() + self.mean[label].view(-1, 1, 1, 1)


def model_on(place):
    prior = Prior(torch.full((1, 5, 4), 0.5), torch.tensor(0.1))
    return ScoreModel(Net(), EDM(0.3, 5.0, 0.01), prior=prior, classes="ab").to(place)


@pytest.fixture(scope="module")
def data():
    x, labels = ((IMAGES + 1) * 127).byte(), torch.arange(60) % 2
    return Dataset("odd", Arrays(x[:36], labels[:36]), Arrays(x[36:], labels[36:]), ("a", "b"))


def test_an_evaluation_has_the_cpus_figures_and_compares_on_the_device(data, same, monkeypatch):
    classifier, types = make_features("classifier", data), list[str]()
    monkeypatch.setattr(fit, "LOSS_LEVELS", 4)

    def watch(metric):
        def run(x, *args, **options):
            types.append(x.device.type)
            return metric(x, *args, **options)

        return run

    for place in ("memory.nearest", "quality.metrics.kernel_distance"):
        function = getattr(metrics, place.rpartition(".")[2])
        monkeypatch.setattr(f"scorefield.evaluate.{place}", watch(function))

    def figures(place):
        model = model_on(place)
        plans = [make_plan(model, "heun", 3), make_plan(model, "annealed_langevin", 1, levels=3)]
        options = {"features": classifier, "bits": 2, "frontier": plans[:1]}
        result = evaluate(model, data, plans=plans, n=20, **options)
        assert len(result.figures) > 30
        assert result.notes == ()
        assert {state.x.device.type for state in result.samples["heun"].states} == {"cpu"}
        assert {*types[-5:]} == {torch.device(place).type}
        return [figure.value for figure in (*result.figures, *result.frontier)]

    same(figures)


def test_tf32_is_off_before_real_samples_have_features(data, monkeypatch):
    optimized, model = [], model_on("cpu")
    monkeypatch.setattr(judge, "optimize", lambda model, **options: optimized.append(model))
    monkeypatch.setattr(judge, "reference_of", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate(model, data)
    assert optimized == [model]


def test_an_evaluation_does_not_wait_for_each_step(data, device, growth, monkeypatch):
    model, features = model_on(device), make_features("pixels", data)
    assert not growth(lambda n: gather_samples(model, 4, make_plan(model, "heun", n), features))

    def losses(levels):
        monkeypatch.setattr(fit, "LOSS_LEVELS", levels)
        loss_curves(model, data)

    assert not [place for place in growth(losses, 2, 3) or () if place.startswith("evaluate/")]


@pytest.fixture(scope="module")
def inception():
    net = Inception()
    for kernel in net.state_dict().values():
        if kernel.ndim == 4:  # features keep their size from layer to layer
            kernel.mul_(6**0.5)
    return net


def test_inception_has_the_cpus_features(inception, data, same, tmp_path, monkeypatch):
    monkeypatch.setattr("scorefield.evaluate.inception.INPUT_SIDE", 75)  # the least for its layers
    monkeypatch.setattr("scorefield.evaluate.features.Inception", lambda: deepcopy(inception))
    monkeypatch.setattr(
        "scorefield.evaluate.features.read_pickle", lambda _: inception.state_dict()
    )
    (file := tmp_path / "weights").touch()
    extract = partial(make_features, "inception", data, weights=file)
    same(lambda place: extract(device=place).extract(IMAGES[:2]))


@pytest.mark.one_face
def test_images_are_resized_on_the_device(device, same, growth):
    same(lambda place: resize_tensorflow(IMAGES.to(place), 7))
    there = IMAGES.to(device)
    assert not growth(lambda n: [resize_tensorflow(there, 7) for _ in range(n)], 0, 1)


@torch.no_grad()
@pytest.mark.one_face
@pytest.mark.parametrize("folder", [*NCSN, *NCSNV2, *SCORE_SDE])
def test_a_converted_checkpoint_has_the_cpus_score(folder, device, same, growth):
    model = model_of(folder)
    x = golden(folder)[0]["x_t" if folder in SCORE_SDE else "x"][:1, :, :16, :16]
    sigmas = torch.tensor([model.sigma_min])

    def scores(place):
        one, several = model.to(place)(x.to(place), 0.5), model(x.to(place), sigmas.to(place))
        return one / one.abs().max(), several / several.abs().max()

    same(scores)
    there = x.to(device)
    assert not growth(lambda n: [model(there, 0.5) for _ in range(n)], 0, 1)
