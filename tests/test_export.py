"""Exports compared with this package: diffusers in float64, and ONNX by its runtime."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scorefield import EDM, MLP, VE, ScoreModel, UNet, VPDiscrete, ddpm_sigmas, load, save
from scorefield.cli import main
from scorefield.convert import from_diffusers, to_diffusers
from scorefield.runs import finish
from scorefield.runs.config import override
from scorefield.runs.presets import PRESETS

PLAIN = dict(
    channels=1, width=8, multipliers=(1, 2), blocks=2, attention=(1,), form="ddpm", fir=None,
    progressive_input="none", skip_rescale=False, groups=4, embedding="sinusoidal",
)  # fmt: skip


def _model(row, shape=(1, 8, 8), **arguments):
    net = UNet(**PLAIN | arguments)
    for weight in net.parameters():  # the last of a branch would be almost 0
        torch.nn.init.normal_(weight, std=0.2)
    return ScoreModel(net, row, shape=shape).eval()


def _vp(predicts="noise"):
    return VPDiscrete(ddpm_sigmas(), predicts=predicts).rescale()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["ve", "vp", "vp with classes"])
def test_an_exported_network_predicts_the_same_and_comes_back(tmp_path, kind):
    diffusers = pytest.importorskip("diffusers")
    ve, labels = kind == "ve", 3 * kind.endswith("classes")
    row = VE(centre=0.5) if ve else _vp("v" if labels else "noise")
    embedding, shape = ("fourier", (1, 8, 6)) if ve else ("sinusoidal", (1, 8, 8))
    model = _model(row, shape, embedding=embedding, labels=labels)
    to_diffusers(model, tmp_path / "out")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out")
    unet, model, back = pipeline.unet.double(), model.double(), from_diffusers(tmp_path / "out")
    x, label = torch.rand(2, *model.shape).double(), torch.tensor([0, 2]) if labels else None
    times = torch.tensor([0.3, 7.0]).double() if ve else torch.tensor([10, 700])
    expected = model(x, times) if ve else model.net(x, times, label)
    # the embedding is computed in float32, with phases up to 999: 999 × 6e-8
    same = dict(rtol=0, atol=1e-5 * expected.abs().max())
    torch.testing.assert_close(unet(x, times, class_labels=label).sample, expected, **same)
    sigma = torch.tensor([0.3, 7.0]).double()
    score = model(x, sigma, label)
    same["atol"] = 1e-5 * score.abs().max()
    torch.testing.assert_close(back.double()(x, sigma, label), score, **same)


@pytest.mark.parametrize(
    ("model", "part"),
    [
        (lambda: ScoreModel(MLP(2), EDM(0.5), shape=(2,)), "the network is a MLP"),
        (lambda: _model(_vp(), form="biggan"), "network.form='biggan', residual blocks of another"),
        (lambda: _model(_vp(), skip_rescale=True), "network.skip_rescale=True, sums divided"),
        (
            lambda: _model(_vp(), groups=None),
            r"network.groups=None, norms of \[2, 4, 6, 8\] groups",
        ),
        (lambda: _model(_vp(), shape=(1, 9, 8)), "shape .* which cannot be halved"),
        (lambda: _model(EDM(0.5)), "predicts the mixture by the clock 'quarter log'"),
        (lambda: _model(VPDiscrete(ddpm_sigmas())), "range, scale=1.0 and centre=0.0"),
    ],
)
def test_parts_without_a_counterpart_in_diffusers_are_named(tmp_path, model, part):
    with pytest.raises(ValueError, match=f"{part}.*: this has no counterpart.*--to onnx"):
        to_diffusers(model(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


WITH_KERNELS = """import sys, pathlib, scorefield
from scorefield.convert import to_onnx
from scorefield.fast.twins import swap
model = scorefield.load(sys.argv[1])
swap(model.net, winograd=True, coarse=False, onednn=False)
to_onnx(model, pathlib.Path(sys.argv[2]))
"""


@torch.no_grad()
@pytest.mark.parametrize("kernels", [True, False])
def test_the_runtime_of_onnx_computes_the_same_score(tmp_path, kernels):
    """In another process, because this one checks shapes in every call."""
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name)
    runtime, path = pytest.importorskip("onnxruntime"), tmp_path / "model.onnx"
    save(_model(EDM(0.5), labels=3, form="biggan", skip_rescale=True), tmp_path / "model")
    args = ["-m", "scorefield", "export", tmp_path / "model", "--to", "onnx", "--out", path]
    args = ["-c", WITH_KERNELS, tmp_path / "model", path] if kernels else args
    subprocess.run([sys.executable, *args], check=True, capture_output=True)
    model, session = load(tmp_path / "model"), runtime.InferenceSession(path)
    for label in (None, torch.tensor([0, 1, 2, 2, 0])):
        sigma = torch.tensor([0.01, 0.1, 1.0, 10.0, 80.0])
        x = torch.rand(5, 1, 8, 8) + sigma[:, None, None, None] * torch.randn(5, 1, 8, 8)
        classes = torch.full((5,), 3) if label is None else label  # class 3 is none
        for n in (1, 5):
            inputs = dict(x=x[:n].numpy(), sigma=sigma[:n].numpy(), label=classes[:n].numpy())
            (score,) = session.run(None, inputs)
            expected = model(x[:n], sigma[:n], None if label is None else label[:n])
            # relative to a sample's largest: float32 through some 20 layers
            ratio = (torch.from_numpy(score) - expected).flatten(1).abs().amax(1)
            assert (ratio <= 1e-5 * expected.flatten(1).abs().amax(1)).all()


SMALL = ["training.steps=2", "training.warmup=1", "network.width=8"]
PAGE = (Path(__file__).parents[1] / "docs/export.md").read_text().replace("\\\n", " ")
TO_ONNX, TO_DIFFUSERS, TRAIN = (shlex.split(s) for s in re.findall("^scorefield .*", PAGE, re.M))


def test_the_page_exports_to_onnx_and_its_python_reads_the_file(tmp_path, monkeypatch):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    finish(override(PRESETS["digits"], SMALL), Path("runs/digits"))
    command = [sys.executable, "-m", *TO_ONNX]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    assert result.stderr == ""  # the exporter's advice to install torchvision, for one
    (code,), names = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.M), {}
    exec(code, names)
    x, sigma = torch.from_numpy(names["x"]), torch.from_numpy(names["sigma"])
    with torch.no_grad():
        expected = load("runs/digits")(x, sigma)
    bound = 1e-5 * expected.abs().max().item()  # the page's
    torch.testing.assert_close(torch.from_numpy(names["score"]), expected, rtol=0, atol=bound)


def test_the_run_of_the_page_has_a_counterpart_in_diffusers(tmp_path, monkeypatch):
    pytest.importorskip("diffusers")
    monkeypatch.chdir(tmp_path)
    small = [word for change in SMALL for word in ("--set", change)]
    assert main([*TRAIN[1:], *small]) == 0
    assert main(TO_DIFFUSERS[1:]) == 0
    x, sigma = torch.rand(2, 1, 8, 8), torch.tensor([0.1, 4.0])
    with torch.no_grad():
        expected, score = load("runs/mine")(x, sigma), from_diffusers("mine")(x, sigma)
    bound = 1e-5 * expected.abs().max().item()  # the page's
    torch.testing.assert_close(score, expected, rtol=0, atol=bound)


def test_a_place_that_does_not_suit_the_form_is_refused(tmp_path, error_of):
    save(_model(EDM(0.5)), tmp_path / "model")
    place = tmp_path / "model", "--to"
    assert "exists already" in error_of("export", *place, "diffusers", "--out", tmp_path / "model")
    assert "ends in .onnx" in error_of("export", *place, "onnx", "--out", tmp_path / "new")
    assert "name a folder" in error_of("export", *place, "diffusers", "--out", tmp_path / "x.onnx")
    assert "mixture" in error_of("export", *place, "diffusers", "--out", tmp_path / "new")
    assert not (tmp_path / "new").exists()
