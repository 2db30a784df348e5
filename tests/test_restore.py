"""Restoration in Python and of files: known pixels come back unchanged, the rest agrees with y."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scorefield import (
    EDM,
    Gaussian,
    Mixture,
    Precondition,
    Prior,
    ScoreModel,
    inverse,
    load,
    save,
)
from scorefield.cli import main
from scorefield.data import Table
from scorefield.data.table import Column
from scorefield.measurements import OPTIONS, ImageMeasurement
from scorefield.nn import MLP, UNet
from scorefield.restore import METHODS, restore, restore_rows, workload
from scorefield.samplers import State, final


def gaussian_model(oracle):
    net = torch.nn.Module()
    net.forward = oracle.score
    return ScoreModel(net, Precondition("score", "sigma", 40.0, 0.01), prior=oracle.prior)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_returns_known_values_unchanged(method):
    oracle = Gaussian(torch.zeros(2), torch.tensor([[0.25, 0.2], [0.2, 0.25]]))
    observed, y = torch.tensor([True, False]), torch.tensor([[0.6, 0.0], [-0.6, 0.0]])
    model, steps = gaussian_model(oracle), {"algorithm2": 1, "particle_filter": 32}.get(method, 6)
    options = dict(method=method, steps=steps, particles=100)
    x = restore(model, inverse.mask(observed), y, 200, **options)
    assert x.shape == (2, 200, 2)
    assert torch.equal(x[:, :, 0], y[:, :1].expand(2, 200))
    assert torch.equal(x, restore(model, inverse.mask(observed), y, 200, **options))
    if method == "particle_filter":
        # 200 samples of N(0.8 y, 0.3²), in 4 filters of correlated particles, count as about 50:
        # standard errors of 0.042 for the mean and 10 % for the deviation; three of each
        torch.testing.assert_close(x[:, :, 1].mean(1), 0.8 * y[:, 0], rtol=0, atol=0.13)
        torch.testing.assert_close(x[:, :, 1].std(1), torch.tensor([0.3, 0.3]), rtol=0.3, atol=0)


def test_a_class_and_guidance_move_completions():
    class Net(torch.nn.Module):
        """The score of N(label, 0.5²) in each coordinate."""

        def forward(self, x, sigma, label=None):
            mean = 0 if label is None else label.to(x)[:, None]
            return (mean - x) / (0.25 + sigma[:, None] ** 2)

    prior = Prior(torch.zeros(2), torch.tensor(0.25))
    row = Precondition("score", "sigma", 200.0, 0.01)
    model = ScoreModel(Net(), row, prior=prior, classes="abc")
    known, y = torch.tensor([True, False]), torch.tensor([[0.6, 0.0]])
    for options, mean in (({}, 0), ({"label": "c"}, 2), ({"label": 2, "guidance": 2.0}, 4)):
        x = restore(model, inverse.mask(known), y, 400, method="replace", steps=40, **options)
        assert (x[0, :, 0] == 0.6).all()
        # four standard errors of 400 samples, and what is left of the prior's mean, 0
        assert abs(x[0, :, 1].mean() - mean) < 4 * 0.5 / 400**0.5 + mean * 0.5 / 200
    for options in ({"label": "d"}, {"guidance": 2.0}):
        with pytest.raises(ValueError, match="label"):
            restore(model, inverse.mask(known), y, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(zetta=1.0), "dps: option zetta does not exist: did you mean zeta"),
        (dict(noise=torch.randn_like), "noise is a function of `seed` here"),
        (dict(n=1.5), "n=1.5: give a whole number, 1 or more"),
        (dict(seed=2**64), "seed=18446744073709551616: give a whole number"),
        (dict(y=torch.zeros(1, 3)), r"mask has shape \(2,\), but is applied to a batch of \(3,\)"),
        (dict(operator=inverse.mask(torch.ones(3))), r"mask has shape \(3,\)"),
        (dict(operator=inverse.nonlinear(torch.sin), method="algorithm2"), "take dps or mmps"),
        (dict(peak=9.0, method="pigdm"), r"'pigdm' has no noise of counts \(peak\): take dps or"),
        (
            dict(method="particle_filter", steps=1),
            "steps=1: particle_filter .* give 2 or more",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments_are_named(options, message):
    model, y = gaussian_model(Gaussian(torch.zeros(2), 1.0)), torch.zeros(1, 2)
    own = dict(operator=inverse.mask(torch.tensor([True, False])), y=y, method="dps")
    with pytest.raises((ValueError, TypeError), match=message):
        restore(model, **own | options)


@pytest.mark.parametrize("method", ["dps", "mmps", "own"])
def test_a_function_is_restored_as_the_matrix_that_it_is(method, monkeypatch):
    monkeypatch.setitem(METHODS, "own", METHODS["dps"])  # also by a method that is added
    model, rows = gaussian_model(Gaussian(torch.zeros(2), torch.eye(2))), torch.tensor([[1.0, 2.0]])
    y, options = torch.tensor([[1.5]]), dict(method=method, steps=6, sigma_y=0.3)
    x = restore(model, inverse.nonlinear(lambda x: x @ rows.T), y, 20, **options)
    # float32 at σ up to 40: some 100 operations, 40 · 100 ε = 5e-4
    expected = restore(model, inverse.matrix(rows), y, 20, **options)
    torch.testing.assert_close(x, expected, rtol=0, atol=5e-4)
    for noiseless in ({"peak": 9.0}, {}):  # counts are not moved to where Ax = y
        x = restore(model, inverse.matrix(rows), y, 20, **options | noiseless | {"sigma_y": 0.0})
        assert ((x[0] @ rows.T - y).abs().max() < 1e-5) == (not noiseless)


def test_completions_come_from_all_filters_equally(monkeypatch):
    def numbered(score, x, sigmas, *, y, filter_size, **_):
        assert filter_size == 8
        yield State(torch.arange(len(x)).float()[:, None].expand_as(x), 0.0, x, 1)

    own = METHODS["particle_filter"]._replace(run=numbered)
    monkeypatch.setitem(METHODS, "particle_filter", own)
    model, observed = gaussian_model(Gaussian(torch.zeros(2), 1.0)), torch.tensor([True, False])
    y = torch.tensor([[0.6, 0.0], [-0.6, 0.0], [0.1, 0.0]])
    x = restore(model, inverse.mask(observed), y, 6, particles=8, filters=4, batch=64)
    # two measurements fill a batch of 64; the third starts with sample 64 in a new tensor
    first = torch.tensor([0.0, 8.0, 16.0, 24.0, 4.0, 12.0])
    assert torch.equal(x[:, :, 1], torch.stack([first, first + 32, first]))


def test_rows_are_completed_from_the_exact_conditional_distribution():
    """A city, and a Gaussian rent and age for each; the network is the mixture's exact score."""
    p, cov = torch.tensor([0.3, 0.7]), torch.tensor([[0.25, 0.2], [0.2, 0.5]])
    city = Column("city", "category", (0.3, 0.7), 0.21**0.5, categories=("Oslo", "Rome"))
    rent = Column("rent", "real", (900.0,), 200.0, (0.0, 2000.0), 1)
    table = Table((city, rent, Column("age", "integer", (40.0,), 10.0, (0.0, 90.0))))
    means = torch.tensor([[0.8, 0.0], [-0.4, 0.3]])  # of rent and age, standardised
    centres = torch.cat([table.encode([{"city": "Oslo"}, {"city": "Rome"}])[0][:, :2], means], 1)
    parts = [Gaussian(centre, torch.block_diag(torch.zeros(2, 2), cov)) for centre in centres]
    model = gaussian_model(Mixture(parts, p))
    rows = [
        {"city": "Rome", "age": 52},
        {"rent": 950.0},
        {"age": "52", "rent": "1e3", "city": "NA"},
    ]
    n, filters = 400, 50
    x = restore_rows(model, table, rows, n, batch=1600)
    texts = [[*table.decode(x[:, i], rows)] for i in range(n)]
    for i, unchanged in enumerate([("Rome", ..., "52"), (..., "950.0", ...), (..., "1e3", "52")]):
        for cells in (completion[i] for completion in texts):
            assert all(a in (b, ...) for a, b in zip(unchanged, cells, strict=True))
    # z = 1.2 of age: mean −0.4 + 0.2/0.5·(1.2 − 0.3) and variance 0.25 − 0.2²/0.5
    z = x[0, :, 2].double()
    log_p = p.log() - (0.25 - means[:, 0]) ** 2 / (2 * 0.25)
    both = torch.distributions.MultivariateNormal(means, cov).log_prob(torch.tensor([0.5, 1.2]))
    rome = (x[1:, :, 1] > x[1:, :, 0]).double()
    for values, truth in (
        (z, -0.04),
        ((z + 0.04) ** 2, 0.17),
        (rome[0], log_p.softmax(0)[1].item()),
        (rome[1], (p.log() + both).softmax(0)[1].item()),
    ):
        # completion i is from filter i mod 50; filters are independent
        of_filter = values.view(n // filters, filters).mean(0)
        assert (of_filter.mean() - truth).abs() < 4 * of_filter.std() / filters**0.5


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Untrained networks for images, grey and in colour, and for vectors."""
    folder = tmp_path_factory.mktemp("models")
    for name, channels in (("grey", 1), ("colour", 3)):
        torch.manual_seed(0)
        prior = Prior(torch.full((channels, 8, 8), 0.5), torch.tensor(0.1))
        net = UNet(channels=channels, width=8, multipliers=(1,), blocks=1, attention=())
        save(ScoreModel(net, EDM(0.5, sigma_max=5.0, sigma_min=0.01), prior=prior), folder / name)
    prior = Prior(torch.zeros(2), torch.tensor(1.0))
    save(ScoreModel(MLP(2, width=8, blocks=1), EDM(0.5), prior=prior), folder / "vectors")
    return folder


def write_picture(path, *shape, seed=0):
    array = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(array).save(path)
    return array


def run(model, image, args, out):
    options = f"-n 3 --steps 4 --particles 4 --out {out} {args}"
    return main(["restore", str(model), str(image), *options.split()])


@pytest.mark.parametrize("name", ["grey", "colour"])
def test_known_bytes_come_back_unchanged_in_every_file(models, tmp_path, name):
    shape = (8, 8) if name == "grey" else (8, 8, 3)
    pixels = write_picture(tmp_path / "in.png", *shape)
    observed = write_picture(tmp_path / "m.png", 8, 8, seed=1) > 127
    out, args = tmp_path / "out", f"--task inpaint --mask {tmp_path / 'm.png'}"
    assert run(models / name, tmp_path / "in.png", args, out) == 0
    for file in [*(out / "completions").iterdir(), out / "mean.png"]:
        restored = np.array(Image.open(file))
        assert (restored[observed] == pixels[observed]).all(), file.name
    assert (np.array(Image.open(out / "std.png"))[observed] == 0).all()
    assert np.array(Image.open(out / "std.png")).max() == 255
    x = np.load(out / "restored.npy")
    white = json.loads(Image.open(out / "std.png").text["scorefield"])["white"]
    assert white == pytest.approx(x.std(0, ddof=1).mean(0).max(), rel=1e-5)  # float32, 64 terms
    mean = np.array(Image.open(out / "mean.png")).reshape(8, 8, -1)
    truth = np.floor(256 * x.mean(0).transpose(1, 2, 0)).clip(0, 255)
    assert np.abs(mean - truth).max() <= 1
    about = json.loads((out / "restored.npy.json").read_text())
    assert (about["task"], about["n"], about["method"]) == ("inpaint", 3, "particle_filter")


@pytest.mark.parametrize(
    ("args", "shape", "operator"),
    [
        ("--task colorize", (8, 8), inverse.grayscale()),
        ("--task super-resolve --factor 4", (2, 2, 3), inverse.downsample(4)),
    ],
)
def test_completions_agree_with_the_measurement(models, tmp_path, args, shape, operator):
    pixels = write_picture(tmp_path / "in.png", *shape)
    assert run(models / "colour", tmp_path / "in.png", args, tmp_path / "out") == 0
    seen = operator(torch.from_numpy(np.load(tmp_path / "out/restored.npy")))
    y = (torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1) + 0.5) / 256
    # values up to 5 (σ_max), some 50 operations in float32: 5 · 50 ε = 3e-5
    torch.testing.assert_close(seen, y.expand_as(seen), rtol=0, atol=1e-4)


def frequencies(x):
    """Return the frequencies of images with the mean in the centre, as the command reads them."""
    return np.fft.fftshift(np.fft.fft2(x, norm="ortho"), axes=(-2, -1))


@pytest.mark.parametrize("name", ["grey", "colour"])
def test_scanners_are_read_and_agreed_with(models, tmp_path, name):
    """The truth is of the model's size; y has the numbers of the whole or of one channel."""
    channels = 1 if name == "grey" else 3
    truth = np.random.default_rng(0).random((channels, 8, 8)).astype(np.float32)
    observed = write_picture(tmp_path / "m.png", 8, 8, seed=1) > 127
    waves = np.where(observed, frequencies(truth), np.nan)
    np.save(tmp_path / "fourier.npy", waves[0] if channels == 1 else waves)
    radon = inverse.radon(5, 8)
    np.save(tmp_path / "radon.npy", radon(torch.from_numpy(truth)[None])[0].numpy())
    for task, args in (("fourier", f"--mask {tmp_path / 'm.png'}"), ("radon", "--angles 5")):
        out = tmp_path / task
        assert run(models / name, tmp_path / f"{task}.npy", f"--task {task} {args}", out) == 0
        x = np.load(out / "restored.npy")
        if task == "fourier":
            seen, y = frequencies(x)[..., observed], frequencies(truth)[..., observed]
        else:
            seen, y = radon(torch.from_numpy(x)).numpy(), np.load(tmp_path / "radon.npy")
        # values up to 5 (σ_max), some 50 operations in float32: 5 · 50 ε = 3e-5; the smallest
        # singular values of radon, 1e-4 of the largest, are left out
        np.testing.assert_allclose(seen, np.broadcast_to(y, seen.shape), rtol=0, atol=1e-3)


@pytest.mark.parametrize("task", OPTIONS)
def test_a_measurement_is_read_from_the_file_that_it_writes(task, tmp_path):
    options = {"factor": 2, "sigma": 1.0, "angles": 3}
    own = {OPTIONS[task]: options[OPTIONS[task]]} if OPTIONS[task] in options else {}
    measurement = ImageMeasurement(task, (3, 6, 6), **own, noise=0.1)
    y = measurement.measure(torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0)))
    path = tmp_path / "y.npy"
    path.write_bytes(measurement.file(y))
    assert torch.equal(measurement.read(path), y)


def test_counts_are_measured_and_restored(tmp_path, models):
    """Poisson(peak·Ax)/peak has the mean Ax and the variance Ax/peak."""
    x, peak = torch.full((20_000, 1, 2, 2), 0.25), 30.0
    y = ImageMeasurement("inpaint", (1, 2, 2), peak=peak).measure(x)
    counts = peak * y[..., 0].flatten()  # the left half is known
    torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-5)
    for value, truth, error in (
        (counts.mean(), 7.5, (7.5 / len(counts)) ** 0.5),
        (counts.var(), 7.5, 7.5 * (2.2 / len(counts)) ** 0.5),  # its kurtosis is 3 + 1/7.5
    ):
        assert value.item() == pytest.approx(truth, abs=4 * error)
    write_picture(tmp_path / "in.png", 4, 4)
    args = "--task super-resolve --factor 2 --method dps --steps 4 --peak 50"
    model, image, out = models / "grey", tmp_path / "in.png", tmp_path / "out"
    assert run(model, image, args, out) == 0
    y = ImageMeasurement("super-resolve", (1, 8, 8), factor=2).read(image)
    x = restore(load(model), inverse.downsample(2), y, 3, method="dps", steps=4, peak=50.0)
    np.testing.assert_allclose(np.load(out / "restored.npy"), x[0], rtol=0, atol=1e-4)
    assert json.loads((out / "restored.npy.json").read_text())["peak"] == 50


OPTICS = """
import torch
from scorefield import inverse

left = inverse.mask((torch.arange(8) < 4).expand(1, 8, 8))
number = 3.0

def expose(x):
    return 2 * x + 0.1

def add(x):
    return x.sum()

class Darken(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return self.factor * x.flatten(1)

darken = Darken()
"""


@pytest.fixture
def optics(tmp_path, monkeypatch):
    """A module of a reader in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "optics", raising=False)
    Path("optics.py").write_text(OPTICS)


@pytest.mark.usefixtures("optics")
def test_a_function_of_ones_own_has_its_posterior(tmp_path):
    """Of y = 2x + 0.1 + noise in 64 pixels, which are N(½, ¼) to a network that returns 0."""
    net = UNet(channels=1, width=8, multipliers=(1,), blocks=1, attention=())
    for parameter in net.requires_grad_(False).parameters():
        parameter.zero_()
    row = EDM(0.5, centre=0.5, sigma_max=20.0, sigma_min=0.01)
    prior = Prior(torch.full((1, 8, 8), 0.5), torch.tensor(0.25))
    save(ScoreModel(net, row, prior=prior), tmp_path / "run")
    z, variance = torch.randn(8, 8), 1 / (4 + 2**2 / 0.3**2)
    np.save("y.npy", y := 2 * (0.5 + 0.5 * z) + 0.1)
    args = ["--task", "optics:expose", "--noise", "0.3", "--method", "mmps", "--steps", "18"]
    assert main(["restore", "run", "y.npy", *args, "-n", "8"]) == 0
    mean = variance * (4 * 0.5 + 2 * (y - 0.1) / 0.3**2)
    gap = (torch.from_numpy(np.load("restored/restored.npy")) - mean) / variance**0.5
    assert abs(gap.mean()) < 4 / gap.numel() ** 0.5
    assert abs(gap.std() - 1) < 4 / (2 * gap.numel()) ** 0.5


@pytest.mark.usefixtures("optics")
def test_operators_and_networks_of_ones_own_are_tasks_too(models, tmp_path):
    write_picture(tmp_path / "in.png", 8, 8)
    np.save("y.npy", np.random.default_rng(0).random(64))
    left = inverse.mask((torch.arange(8) < 4).expand(1, 8, 8))
    halves = inverse.nonlinear(lambda x: x.flatten(1) / 2)
    for image, args, operator, method in (
        ("in.png", "--task optics:left", left, "ddrm"),
        ("y.npy", "--task optics:darken", halves, "dps"),
    ):
        assert run(models / "grey", image, f"{args} --method {method} --overwrite", "out") == 0
        y = ImageMeasurement(operator, (1, 8, 8)).read(image)
        x = restore(load(models / "grey"), operator, y, 3, method=method, steps=4)
        np.testing.assert_allclose(np.load("out/restored.npy"), x[0], rtol=0, atol=1e-4)
    network = inverse.nonlinear(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)))
    assert not ImageMeasurement(network, (1, 8, 8)).measure(torch.rand(3, 1, 8, 8)).requires_grad


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("optics:expose", "operator is nonlinear, but this method needs a linear one: take dps or"),
        ("optics:expose --mask m.png", "--task optics:expose has no --mask"),
        ("optics:exposed", "optics has no exposed: did you mean expose?"),
        ("optics:number", "give a function of a batch of images that returns a row of floats"),
        ("optics:add", "give a function of a batch of images that returns a row of floats"),
        ("optics:darken", "in.png cannot be read as arrays of numbers"),
        ("blurr", "--task blurr: did you mean deblur?, or MODULE:NAME"),
    ],
)
@pytest.mark.usefixtures("optics", "unchecked")
def test_mistakes_in_a_task_of_ones_own_are_named(models, capsys, args, message):
    write_picture("in.png", 8, 8)
    assert run(models / "grey", "in.png", f"--task {args}", "out") == 2
    assert message in capsys.readouterr().err


def test_deblurring_takes_the_rounding_of_bytes_as_noise(models, tmp_path):
    write_picture(tmp_path / "in.png", 8, 8)
    args = "--task deblur --sigma 1"
    model, image, out = models / "grey", tmp_path / "in.png", tmp_path / "out"
    assert run(model, image, args, out) == 0
    about = json.loads((out / "restored.npy.json").read_text())
    assert about["noise"] == pytest.approx(1 / 256 / 12**0.5)
    assert run(model, image, f"{args} -n 2 --overwrite", out) == 0
    assert len([*(out / "completions").iterdir()]) == 2  # no older ones


@pytest.mark.one_face
def test_the_command_restores_on_a_device(models, tmp_path, same):
    write_picture(tmp_path / "in.png", 8, 8)
    write_picture(tmp_path / "m.png", 8, 8, seed=1)

    def restored(place):
        args = f"--task inpaint --mask {tmp_path / 'm.png'} --device {place}"
        assert run(models / "grey", tmp_path / "in.png", args, tmp_path / place) == 0
        return torch.from_numpy(np.load(tmp_path / place / "restored.npy"))

    same(restored)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--task inpaint", "needs --mask"),
        ("--task colorize", "grey"),
        ("--task super-resolve --factor 3", "divide"),
        ("--task super-resolve --factor 4", "2 × 2"),
        ("--task inpaint --mask white.png", "it is all white"),
        ("--task inpaint --mask small.png", "5 × 5 pixels"),
        ("--task inpaint --mask clear.png", "transparent counts as white"),
        ("--task deblur --sigma 1 --factor 2", "has no --factor"),
        ("--task fourier", "needs --mask"),
        ("--task fourier --mask half.png", "cannot be read as arrays of numbers"),
        ("--task radon", "needs --angles"),
        ("--task radon --angles 0", "--angles 0: give 1 or more"),
        ("--task deblur --sigma 0", "above 0"),
        ("--task deblur --sigma 1 --method algorithm2", "a noiseless mask"),
        ("--task deblur --sigma 1 --peak 9", "no noise of counts (peak): take dps or mmps"),
        ("--task deblur --sigma 1 --peak 0 --method dps", "peak 0.0: give the photons"),
        ("--task fourier --mask half.png --peak 9 --method dps", "frequencies are not counted"),
        ("--task deblur --sigma 1 --out full", "--overwrite"),
        ("--task deblur --sigma 1 --out vectors", "not a model of images"),
    ],
)
def test_mistakes_are_named(models, tmp_path, monkeypatch, capsys, args, message):
    monkeypatch.chdir(tmp_path)
    write_picture("in.png", 8, 8)
    Image.new("L", (8, 8), 255).save("white.png")
    clear = np.dstack([np.full((8, 8, 3), 255), 255 * np.eye(8)]).astype(np.uint8)
    Image.fromarray(clear).save("clear.png")
    Image.new("L", (5, 5), 255).save("small.png")
    write_picture("half.png", 8, 8)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").touch()
    assert run(models / ("vectors" if "vectors" in args else "grey"), "in.png", args, "out") == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "values", "message"),
    [
        ("fourier", np.zeros((8, 4)), "has the shape (8, 4): task fourier needs an .npy file of"),
        ("radon", np.zeros((5, 12), np.complex64), "holds complex64: task radon needs"),
        ("radon", np.zeros((3, 5, 12)), "1 × 5 × 12 numbers"),
    ],
)
def test_wrong_measurements_of_scanners_are_named(models, tmp_path, capsys, task, values, message):
    np.save(tmp_path / "y.npy", values)
    write_picture(tmp_path / "m.png", 8, 8)
    args = "--angles 5" if task == "radon" else f"--mask {tmp_path / 'm.png'}"
    args = f"--task {task} {args}"
    assert run(models / "grey", tmp_path / "y.npy", args, tmp_path / "out") == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "at_once"),
    [
        ({"filters": 2, "particles": 5}, 10),
        ({"filters": 2, "particles": 5, "batch": 4}, 5),  # a filter is not divided
        ({"filters": 2, "particles": 1}, 4),  # enough particles for n = 3
        ({"method": "pigdm"}, 3),
        ({"method": "algorithm2", "batch": 2}, 2),
        ({"method": "tds", "filters": 2, "particles": 5}, 10),
        *(
            ({"method": name}, 3)
            for name, own in METHODS.items()
            if own.levels and not own.particles
        ),
    ],
)
def test_workload_is_what_restore_computes(options, at_once):
    """Batches, states and network calls, counted; the fast kernels are chosen by them."""
    oracle = Gaussian(torch.zeros(2), torch.eye(2))
    model = gaussian_model(oracle)
    sizes, states = [], []
    model.net.register_forward_pre_hook(lambda net, inputs: sizes.append(len(inputs[0])))

    def watch(chains, total):
        assert total == work.states
        for chain in chains:
            states.extend(chain := list(chain))
            yield final(chain)

    y = torch.tensor([[0.6, 0.0]])
    options = {"steps": 4} | options
    size = {"method": "particle_filter", "particles": 32, "filters": 4, "batch": 256} | options
    work = workload(model, 3, **size)
    x = restore(model, inverse.mask(torch.tensor([True, False])), y, 3, watch=watch, **options)
    assert x.shape == (1, 3, 2)
    assert (max(sizes), work.at_once) == (at_once, at_once)
    assert (len(sizes), len(states)) == (work.calls, work.states)


def test_the_errors_of_methods_are_those_of_the_documentation():
    page = (Path(__file__).parents[1] / "docs/restoration.md").read_text()
    rows = [[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    heads = [row[1:] for row in rows if row[1:2] in (["replace"], ["ddrm"])]
    for kind in ("mask", "matrix"):
        texts = [row[1:] for row in rows if row[:1] == [f"mixture, 64-D, {kind}"]]
        columns = [dict(zip(*table, strict=True)) for table in zip(heads, texts, strict=True)]
        measured = columns[0] | columns[1]
        assert measured.keys() == METHODS.keys()
        for name, text in measured.items():
            numbers = [float(n) for n in re.findall(r"[\d.]+", text)]
            assert numbers == [*(getattr(METHODS[name], kind) or ())]
    assert METHODS["daps"].mask.largest == pytest.approx(0.29)
    assert METHODS["ddrm"].mask.largest == 0.39
