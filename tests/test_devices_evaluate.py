"""Metrics, evaluation and converted checkpoints on an accelerator give the CPU's results."""

import pytest
import torch
from test_convert import NCSN, NCSNV2, SCORE_SDE, golden, model_of

from scorefield import EDM, Prior, ScoreModel, metrics, seeded
from scorefield.data import Arrays, Dataset
from scorefield.evaluate import evaluate, fit, make_features
from scorefield.evaluate.fit import loss_curves
from scorefield.evaluate.gather import gather_samples
from scorefield.evaluate.inception import resize_tensorflow
from scorefield.sample import make_plan

IMAGES = torch.linspace(0, 400, 60 * 16).sin().view(60, 1, 4, 4)
OTHERS = torch.linspace(0, 500, 60 * 16).cos().view(60, 1, 4, 4)
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
    "neighbour_ratio": lambda x, y: metrics.neighbour_ratio(x, y, y + 0.1, flips=True),
}


def as_tensors(result):
    parts = result if isinstance(result, tuple) else (result,)
    return [torch.as_tensor(part).cpu() for part in parts]


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_does_not_wait_for_each_block(name, device, growth, monkeypatch):
    monkeypatch.setattr(metrics.arguments, "BLOCK_ROWS", 8)
    monkeypatch.setattr(metrics.distances, "DIRECTIONS", 8)
    metric, (x, y) = METRICS[name], (IMAGES.to(device), OTHERS.to(device))
    # float64: 60² terms of 16 products, in a difference of numbers up to 100 times as large
    bound = {"rtol": 1e-9, "atol": 60**2 * 16 * 100 * 2**-53}
    torch.testing.assert_close(
        as_tensors(metric(x, y)), as_tensors(metric(IMAGES, OTHERS)), **bound
    )
    assert not growth(lambda blocks: metric(x[: 8 * blocks], y))


class Net(torch.nn.Module):
    """A denoiser with a mean for each of two classes."""

    def __init__(self):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.tensor([0.5, 0.3, 0.6]))

    def forward(self, x, cond, label=None):
        label = torch.zeros_like(cond).long() if label is None else label + 1
        return 0.2 * x.sin() + self.mean[label].view(-1, 1, 1, 1)


def model_on(place):
    prior = Prior(torch.full((1, 4, 4), 0.5), torch.tensor(0.1))
    return ScoreModel(Net(), EDM(0.3, 5.0, 0.01), prior=prior, classes="ab").to(place)


@pytest.fixture(scope="module")
def data():
    x, labels = ((IMAGES + 1) * 127).byte(), torch.arange(60) % 2
    return Dataset("odd", Arrays(x[:36], labels[:36]), Arrays(x[36:], labels[36:]), ("a", "b"))


def test_an_evaluation_has_the_cpus_figures(data, device):
    classifier, figures = make_features("classifier", data), []
    for place in ("cpu", device):
        model = model_on(place)
        plans = [make_plan(model, "heun", 3), make_plan(model, "annealed_langevin", 1, levels=3)]
        options = {"features": classifier, "bits": 2, "frontier": plans[:1]}
        result = evaluate(model, data, plans=plans, n=20, **options)
        assert result.notes == ()
        assert {state.x.device.type for state in result.samples["heun"].states} == {"cpu"}
        figures.append({(f.name, str(f.plan and f.plan["name"])): f.value for f in result.figures})
    assert len(figures[0]) > 30
    # of float32 samples: some 100 operations, and differences of numbers ten times as large; the
    # likelihood's own tolerance is 1e-3, which steps in float32 spend in another way
    bound = 2e-3 if device in ("mps", "pretend:1") else 100 * 10 * 2**-24
    assert figures[1] == pytest.approx(figures[0], rel=bound, abs=bound)


def test_an_evaluation_does_not_wait_for_each_step(data, device, growth, monkeypatch):
    model, features = model_on(device), make_features("pixels", data)
    assert not growth(lambda n: gather_samples(model, 4, make_plan(model, "heun", n), features))

    def losses(levels):
        monkeypatch.setattr(fit, "LOSS_LEVELS", levels)
        loss_curves(model, data)

    assert not [place for place in growth(losses) or () if place.startswith("evaluate/")]


def test_images_are_resized_on_the_device(device, growth):
    x = 255 * IMAGES[:2].expand(-1, 3, -1, -1)
    there = x.to(device)
    resized = resize_tensorflow(there, 7)
    torch.testing.assert_close(resized.cpu(), resize_tensorflow(x, 7), rtol=1e-6, atol=255 * 1e-6)
    assert not growth(lambda n: [resize_tensorflow(there, 7) for _ in range(n)])


@torch.no_grad()
@pytest.mark.parametrize("folder", [*NCSN, *NCSNV2, *SCORE_SDE])
def test_a_converted_checkpoint_has_the_cpus_score(folder, device, growth):
    model = model_of(folder, **SCORE_SDE.get(folder, ("", {}))[1])
    x = golden(folder)[0]["x_t" if folder in SCORE_SDE else "x"][:2]
    sigmas = torch.tensor([model.sigma_max, model.sigma_min])[: len(x)]
    expected = [model(x, 0.5), model(x, sigmas)]
    model, there = model.to(device), x.to(device)
    scores = [model(there, 0.5).cpu(), model(there, sigmas.to(device)).cpu()]
    # float32 networks of up to 60 layers: 60 × 1.2e-7 is 7e-6
    for score, truth in zip(scores, expected, strict=True):
        torch.testing.assert_close(score, truth, rtol=0, atol=1e-5 * truth.abs().max().item())
    assert not growth(lambda n: [model(there, 0.5) for _ in range(n)], 1, 2)
