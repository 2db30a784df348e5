"""`scorefield convert`: the model it writes, and the files and options that it refuses."""

import json
from pathlib import Path

import pytest
import torch

import scorefield
from scorefield.checkpoint import read_tensors
from scorefield.cli import main


def _path(folder):
    (path,) = (Path(__file__).parent / "golden" / folder).glob("checkpoint.*")
    return str(path)


@pytest.mark.parametrize(
    ("folder", "args", "options"),
    [
        ("ncsn_1x28x28", "sigma_max=2 sigma_min=0.1", dict(sigma_max=2.0, sigma_min=0.1)),
        ("ncsnv2_3x32x32", "ema=false", dict(ema=False)),
        ("ddpmpp_vp_continuous", "sde=subvp image_size=16", dict(sde="subvp", image_size=16)),
        ("edm_adm_16_classes", "sigma_max=30", dict(sigma_max=30.0)),
    ],
)
@torch.no_grad()
def test_the_file_holds_the_model_with_these_options(folder, args, options, tmp_path, capsys):
    out, lines = tmp_path / "model.safetensors", []
    settings = [f"--set={setting}" for setting in args.split()]
    assert main(["convert", _path(folder), str(out), *settings]) == 0
    expected = scorefield.from_official(_path(folder), report=lines.append, **options)
    printed = capsys.readouterr().out.splitlines()
    assert printed[:-1] == [*lines, f"wrote {out}"]
    loaded = eval(printed[-1].removeprefix("next, in Python: model = "))
    x, sigma = torch.rand(2, *expected.shape), (expected.sigma_max * expected.sigma_min) ** 0.5
    assert torch.equal(loaded(x, sigma), expected(x, sigma))
    assert loaded.shape == expected.shape
    assert (loaded.sigma_max, loaded.sigma_min) == (expected.sigma_max, expected.sigma_min)
    assert json.dumps(loaded.net.arguments) == json.dumps(expected.net.arguments)  # lists, tuples
    about = {"converted from": Path(_path(folder)).name, "report": lines}
    assert read_tensors(out).about == about


def test_a_model_is_replaced_only_by_overwrite(tmp_path, error_of):
    for out in (tmp_path / "model.safetensors", tmp_path / "model"):
        assert main(["convert", _path("ncsn_1x28x28"), str(out)]) == 0
        file = out if out.is_file() else out / "model.safetensors"
        first = file.read_bytes()
        assert "add --overwrite" in error_of("convert", _path("ddpm_vp"), out)
        assert file.read_bytes() == first
        assert main(["convert", _path("ddpm_vp"), str(out), "--overwrite"]) == 0
        assert scorefield.load(out).shape == (3, 32, 32)


def test_a_path_that_cannot_hold_a_model_is_refused(tmp_path, error_of):
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "file.txt").write_text("mine")
    args = _path("ncsn_1x28x28"), "--overwrite"
    assert "a directory" in error_of("convert", *args, tmp_path / "folder.safetensors")
    assert "ends in .safetensors" in error_of("convert", *args, tmp_path / "file.txt")
    message = error_of("convert", *args, tmp_path / "file.txt/model.safetensors")
    assert f"{tmp_path / 'file.txt'} is not a writable directory" in message
    assert (tmp_path / "file.txt").read_text() == "mine"
