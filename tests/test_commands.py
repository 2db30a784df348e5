"""The commands train, resume, sample and suggest, as a person uses them in an empty folder."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from benchmarks.measure import peak_memory
from scorefield import EDM, MLP, Prior, ScoreModel, load, sample, save
from scorefield.checkpoint import read_stored
from scorefield.cli import COMMANDS, commands, main

TINY = [
    "--set=network={kind: UNet, width: 8, multipliers: [1], blocks: 1, attention: [], "
    "fir: null, progressive_input: none}",
    "--training.batch=8",
    "--keeping.evaluate=5",
    "--keeping.checkpoint=5",
    "--keeping.samples=0",
    "--machine.threads=1",
]


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of ten steps."""
    directory = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["train", "digits", "--out", str(directory), "--steps", "10", *TINY]) == 0
    return directory


def _fails(capsys, *args):
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("scorefield: ")
    assert err.count("\n") == 1
    return err


# ── train ────────────────────────────────────────────────────────────────────────────────────────


def test_train_makes_a_run_and_says_how_to_go_on(capsys):
    assert main(["train", "--steps", "3", *TINY]) == 0
    out = capsys.readouterr().out
    assert "runs/digits" in out
    assert "next: scorefield sample runs/digits" in out
    assert json.loads(Path("runs/digits/config.json").read_text())["training"]["steps"] == 3
    with pytest.raises(SystemExit):
        main(["train", "--help"])


def test_fields_are_set_in_both_spellings_and_shown(capsys):
    settings = ["--training.rate", "3e-4", "--network.width=64", "--seed", "7"]
    assert main(["train", "digits", "--show", *settings]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["training"]["rate"], shown["network"]["width"], shown["seed"]) == (3e-4, 64, 7)
    assert not Path("runs").exists()


def test_a_config_file_is_read_and_written_back(capsys):
    Path("my.yaml").write_text("training: {rate: 2e-4, batch: 5}\ndata: {source: mixture}\n")
    given = ["--config", "my.yaml", "--set", "network={kind: MLP, width: 8, blocks: 1}"]
    assert main(["train", *given, "--steps", "2", "--training.batch=6"]) == 0
    kept = json.loads(Path("runs/my/config.json").read_text())
    assert kept["training"]["rate"] == 2e-4
    assert kept["training"]["batch"] == 6  # what is on the command line comes last
    assert kept["network"] == {"kind": "MLP", "width": 8, "blocks": 1, "shape": [2]}
    # and what was written back makes the same run
    assert main(["train", "--config", "runs/my/config.json", "--out", "again"]) == 0
    one, other = (
        read_stored(d / "model.safetensors").tensors for d in (Path("runs/my"), Path("again"))
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_folder_of_images_is_trained_on(capsys):
    Path("pictures").mkdir()
    for i in range(30):
        pixels = np.random.default_rng(i).integers(0, 255, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"pictures/{i}.png")
    given = ["--data", "pictures", "--data.options.size=16"]
    assert main(["train", *given, "--out", "run", "--steps", "2", *TINY]) == 0
    assert load("run").shape == (3, 16, 16)


def test_another_model_is_trained_on(trained):
    assert main(["train", "--from", str(trained), "--out", "more", "--steps", "1", *TINY]) == 0
    assert json.loads(Path("more/config.json").read_text())["network"]["width"] == 8


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["digitz"], "did you mean digits"),
        (["--data", "nowhere"], "neither a folder"),
        (["--training.stepz=4"], "did you mean steps"),
        (["--training.steps=few"], "give an int"),
        (["--training.steps"], "give an int"),
        (["--network.widht=4"], "did you mean width"),
        (["--set", "machine.device=tpu9"], "tpu9"),
        (["photos", "--data.options.sid=8"], "photos has no option sid: did you mean side"),
        (["--data.options.size=8"], "digits has no option size: it has none"),
        (["photos", "--network.multipliers=3"], "an argument has the wrong type"),
        (["--config", "none.yaml"], "none.yaml"),
        (["--from", "none.safetensors"], "does not exist"),
        (["--data.labels=true", "--data", "mixture", "--set", "network.kind=MLP"], "no classes"),
    ],
)
def test_mistakes_in_training_are_named(capsys, args, message):
    assert message in _fails(capsys, "train", *args)
    assert not Path("runs").exists()


def test_a_run_is_not_begun_twice(trained, capsys):
    assert "scorefield resume" in _fails(capsys, "train", "--out", str(trained))


# ── resume ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_answered_and_the_run_resumed(number):
    command = [sys.executable, "-m", "scorefield", "train", "--out", "run", "--steps", "100000"]
    with subprocess.Popen(
        [*command, *TINY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while not (log := Path("run/log.jsonl")).exists() or log.read_text().count("\n") < 3:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        err = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number
    assert "Traceback" not in err
    assert "to continue: scorefield resume run" in err
    done = json.loads(log.read_text().splitlines()[-1])["step"]
    config = Path("run/config.json")
    config.write_text(config.read_text().replace("100000", str(done + 2)))
    assert main(["resume", "run"]) == 0
    assert [json.loads(x)["step"] for x in log.read_text().splitlines()] == [*range(1, done + 3)]


def test_a_run_that_is_done_is_left_as_it_is(trained, capsys):
    before = {path: os.stat(path).st_mtime_ns for path in trained.rglob("*.safetensors")}
    assert main(["resume", str(trained)]) == 0
    assert "has all of its 10 steps" in capsys.readouterr().out
    assert before == {path: os.stat(path).st_mtime_ns for path in trained.rglob("*.safetensors")}
    assert "no config.json" in _fails(capsys, "resume", ".")


# ── sample ───────────────────────────────────────────────────────────────────────────────────────


def test_samples_are_those_of_python_and_say_how_they_were_made(trained, capsys):
    command = ["sample", str(trained), "-n", "5", "--seed", "3", "--steps", "4", "--out", "x.npy"]
    assert main(command) == 0
    assert "5 samples by heun, 7 evaluations" in capsys.readouterr().out
    expected = sample(load(trained), 5, "heun", steps=4, seed=3)
    np.testing.assert_array_equal(np.load("x.npy"), expected.numpy())
    about = json.loads(Path("x.json").read_text())
    assert (about["sampler"], about["seed"], about["evaluations"], about["n"]) == ("heun", 3, 7, 5)
    assert about["trained"]["step"] in (5, 10)
    assert about["model"] == str(trained)


@pytest.mark.parametrize("precision", ["auto", "bfloat16"])
def test_the_precision_that_is_asked_for_is_chosen_and_kept(trained, monkeypatch, precision):
    given = {}
    monkeypatch.setattr(commands, "optimize", lambda model, **found: given.update(found))
    assert (
        main(["sample", str(trained), "-n", "2", "--precision", precision, "--out", "x.npy"]) == 0
    )
    assert given["precision"] == precision
    assert json.loads(Path("x.json").read_text())["precision"] == precision


def test_pictures_and_animations(trained):
    args = ["sample", str(trained), "-n", "9", "--steps", "3", "--batch", "4"]
    assert main([*args, "--animate", "way.gif"]) == 0
    with Image.open("samples.png") as grid:
        assert json.loads(grid.text["scorefield"])["n"] == 9
    with Image.open("way.gif") as way:
        assert way.n_frames == 3
    assert main([*args, "--out", "singly"]) == 0
    names = sorted(each.name for each in Path("singly").iterdir())
    assert names == [f"{i:06d}.png" for i in range(9)]


def _sampling(place, n):
    def samples(n, batch):
        args = ["--out", f"{place}/x.npy", "--device", "cpu", "--steps", "2", "--batch", str(batch)]
        return lambda: main(["sample", f"{place}/model", "-n", str(n), *args])

    return samples(100, 100), samples(n, 100)


def test_many_samples_go_to_disk_in_constant_memory(tmp_path):
    """Of 3 × 32 × 32 pixels: 10,000 of them would be 117 MiB."""
    prior = Prior(torch.full((3, 32, 32), 0.5), torch.full((3, 32, 32), 0.1))
    net = MLP((3, 32, 32), width=2, blocks=1)
    save(ScoreModel(net, EDM(0.5, sigma_max=1.0, sigma_min=0.1), prior=prior), tmp_path / "model")
    most = peak_memory(_sampling, str(tmp_path), 10_000)
    assert np.load(tmp_path / "x.npy", mmap_mode="r").shape == (10_000, 3, 32, 32)
    assert most < 30


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--sampler", "hein"], "there are annealed_langevin"),
        (["--label", "3"], "trained without classes"),
        (["--out", "a.jpg"], "as .png, as .npy"),
        (["--animate", "a.mp4"], "a .gif or a .png"),
        (["-n", "0"], "at least one"),
        (["--steps", "0"], "at least one"),
        (["--device", "tpu9"], "tpu9"),
    ],
)
def test_mistakes_in_sampling_are_named(trained, capsys, args, message):
    assert message in _fails(capsys, "sample", str(trained), *args)
    assert not list(Path().iterdir())


def test_vectors_are_written_as_arrays():
    args = ["--data", "mixture", "--set", "network={kind: MLP, width: 8, blocks: 1}"]
    assert main(["train", *args, "--steps", "2", "--out", "run"]) == 0
    assert main(["sample", "run", "-n", "6", "--steps", "3"]) == 0
    assert np.load("samples.npy").shape == (6, 2)


# ── suggest ──────────────────────────────────────────────────────────────────────────────────────


def test_suggest_prints_what_the_function_says(capsys):
    assert main(["suggest", "digits"]) == 0
    out = capsys.readouterr().out
    assert "1437 samples of 1 × 8 × 8" in out
    assert "γ" in out
    assert "annealed_langevin" in out
    assert "neither a folder" in _fails(capsys, "suggest", "nowhere")


def test_the_help_names_all_presets_and_samplers(capsys):
    from scorefield.runs.presets import PRESETS
    from scorefield.samplers import SAMPLERS

    assert all(name in COMMANDS["train"].__doc__ for name in PRESETS)
    assert all(name in COMMANDS["sample"].__doc__ for name in SAMPLERS)
    assert yaml.safe_load("3e-4") == "3e-4"  # the trap that config reads around
