"""The commands train, resume, sample and suggest, as a person uses them in an empty folder."""

import json
import os
import re
import shlex
import shutil
import signal
import string
import sys
import time
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from threading import Thread
from weakref import ref

import numpy as np
import pytest
import torch
from PIL import Image
from standins import undrawn

from scorefield import EDM, MLP, SAMPLERS, Prior, ScoreModel, inverse, load, make_plan, sample, save
from scorefield.checkpoint import read_tensors
from scorefield.cli import main
from scorefield.data import Arrays, Dataset, Latents, all_samples, load_data
from scorefield.evaluate import fit_grid
from scorefield.runs import start
from scorefield.runs.config import Experiment, override, read
from scorefield.sample import Plan, chains
from scorefield.show import images
from scorefield.values import IMPORTED, import_object

TINY = [
    "--set=network={kind: UNet, width: 8, multipliers: [1], blocks: 1, attention: [], "
    "fir: null, progressive_input: none}",
    "--training.batch=8",
    "--set=keeping={evaluate: 5, checkpoint: 5, samples: 0}",
    "--machine.threads=1",
]
MLP_8 = "network={kind: MLP, width: 8, blocks: 1}"


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(make_once):
    train = ["train", "digits", "--steps", "10", *TINY, "--out"]
    return make_once("trained", lambda folder: main([*train, str(folder / "digits")])) / "digits"


def test_train_makes_a_run_and_names_the_next_command(capsys, error_of):
    assert main(["train", "--steps", "3", *TINY]) == 0
    out = capsys.readouterr().out
    assert "next: scorefield sample runs/digits" in out
    assert "held out" not in out
    assert json.loads(Path("runs/digits/config.json").read_text())["training"]["steps"] == 3
    assert main(["train", "--from", "runs/digits", "--out", "more", "--steps", "1"]) == 0
    assert json.loads(Path("more/config.json").read_text())["network"]["width"] == 8
    assert "scorefield resume" in error_of("train", *TINY)


@pytest.mark.parametrize("objective", ["denoising", "consistency"])
def test_training_from_a_run_alone_takes_its_data(capsys, error_of, objective):
    np.save("points.npy", np.arange(9 * 64, dtype=np.uint8).reshape(9, 8, 8))
    held_out = ["--held-out", "0.4", "--data.flip=true"]
    assert main(["train", "--data", "points.npy", "--steps", "1", *held_out, *TINY]) == 0
    tune = ["--objective", objective, "--steps", "1", "--from"]
    assert main(["train", *tune, "runs/points"]) == 0
    out = capsys.readouterr().out
    assert f"data: {Path('points.npy').resolve()}" in out
    assert "4 of 9 samples are held out, too few" in out
    before, after = (read(Path(f"runs/{name}/config.json")) for name in ("points", "points-tuned"))
    assert after.data == before.data
    assert after.data.options == {"held_out": 0.4}
    shutil.copy("runs/points/model.safetensors", "alone.safetensors")
    if objective == "consistency":
        assert "name them by --data" in error_of("train", *tune, "alone.safetensors")
        shutil.copy("runs/points-tuned/model.safetensors", "alone.safetensors")
        Image.new("L", (8, 8)).save("gap.png")
        for run in ("runs/points-tuned", "alone.safetensors"):
            assert "tuned to consistency" in error_of("sample", run, "--sampler", "heun")
            assert "run that it was tuned from" in error_of(
                "restore", run, "gap.png", "--task", "deblur", "--sigma", "1"
            )
        assert "only models that are tuned" in error_of(
            "sample", "runs/points", "--sampler", "consistency"
        )
        assert main(["sample", "alone.safetensors", "-n", "2", "--out", "x.npy"]) == 0
        tuned = load("alone.safetensors")
        assert make_plan(tuned).sampler == "consistency"
        with pytest.raises(ValueError, match="sampler='heun': the model is tuned to consistency"):
            sample(tuned, 1, "heun")
        save(tuned, "again")
        assert load("again").tuned
    else:
        assert main(["train", "--show", *tune, "alone.safetensors"]) == 0


def test_fields_are_set_in_both_spellings_and_shown(capsys):
    for setting in ("--network.width=64", "--network={width: 64}", '--network={"width": 64}'):
        settings = ["--training.rate", "3e-4", setting, "--seed", "7", "--keeping", "{last: 9}"]
        assert main(["train", "digits", "--show", *settings]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert (shown["training"]["rate"], shown["network"]["width"]) == (3e-4, 64)
        assert (shown["seed"], shown["keeping"]["last"]) == (7, 9)
    assert not Path("runs").exists()


def test_a_config_file_is_read_and_the_one_that_is_written_repeats_the_run(error_of):
    Path("my.yaml").write_text("training: {rate: 2e-4, batch: 5}\ndata: {source: mixture}\n")
    options = ["--config", "my.yaml", "--set", MLP_8]
    assert main(["train", *options, "--steps", "2", "--training.batch=6"]) == 0
    config = json.loads(Path("runs/my/config.json").read_text())
    # the command line comes after the file
    assert (config["training"]["rate"], config["training"]["batch"]) == (2e-4, 6)
    assert config["network"] == {"kind": "MLP", "width": 8, "blocks": 1, "shape": [2]}
    assert main(["train", "--config", "runs/my/config.json", "--out", "again"]) == 0
    one, other = (read_tensors(f"{run}/model.safetensors").tensors for run in ("runs/my", "again"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert main(["sample", "again", "-n", "6", "--steps", "3"]) == 0
    assert np.load("samples.npy").shape == (6, 2)  # vectors are written as arrays
    assert "no images to animate" in error_of("sample", "again", "--animate", "a.gif")


def test_other_data_lose_the_options_of_those_before(points, capsys):
    Path("my.yaml").write_text("data: {source: rings}\nseed: 3\n")
    Path("own.yaml").write_text("data: {source: rings, options: {n: 50}}\n")
    for args, options in (
        (["--config", "my.yaml"], {}),
        (["--config", "own.yaml"], {"n": 50}),
        (["--config", "own.yaml", "--data", "spirals"], {}),
        (["--config", "own.yaml", "--data", "hub:a/b"], {}),
        (["--data", str(points)], {}),
        (["--data.source=rings"], {}),
        (["--data.options.n=60", "--data.source=rings"], {"n": 60}),
        (["--data.source=mixture"], {"n": 100_000}),
    ):
        assert main(["train", "vectors", *args, "--show"]) == 0
        assert json.loads(capsys.readouterr().out)["data"]["options"] == options


def test_a_folder_of_classes_and_wide_images_makes_a_conditional_model(capsys, error_of):
    for i in range(20):
        pixels = np.random.default_rng(i).integers(0, 255, (4, 8, 3), dtype=np.uint8)
        (folder := Path("pictures", ["cat", "flower"][i % 2])).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    size = "--data.options.size=8,16"
    train = ["train", "--data", "pictures", "--steps", "2", size, *TINY]
    assert main(["suggest", "pictures", "--held-out", "0.5"]) == 0
    assert "pictures: 10 samples" in capsys.readouterr().out
    assert main(["suggest", "pictures", "--size=8,16"]) == 0
    assert main([*train, "--out", "plain"]) == 0
    out = capsys.readouterr().out
    assert "samples of 3 × 8 × 16 in 2 classes: cat, flower" in out
    assert "2 classes: cat, flower; --data.labels=true learns each" in out
    assert main([*train, "--out", "run", "--data.labels=true"]) == 0
    out = capsys.readouterr().out
    assert "2 classes: cat, flower\n" in out
    assert "next: scorefield sample run -n 64 --label all\n" in out
    config, model = (json.loads(Path("run", f"{x}.json").read_text()) for x in ("config", "model"))
    assert config["data"]["classes"] == model["classes"] == ["cat", "flower"]
    sample = ["sample", "run", "--steps", "2", "-n", "5", "--out"]
    for label, counts, words in (
        ("flower", {"flower": 5}, "5 samples of 'flower'"),
        ("all", {"cat": 3, "flower": 2}, "5 samples of 2 classes"),
    ):
        assert main([*sample, f"{label}.npy", "--label", label, "--guidance", "2"]) == 0
        assert words in capsys.readouterr().out
        assert json.loads(Path(f"{label}.npy.json").read_text())["classes"] == counts
    assert main([*sample, "any.npy"]) == 0
    assert np.load("any.npy").shape == (5, 3, 8, 16)
    # a model guides away from itself, an interval above all levels is empty, and a classifier of
    # equal logits leave the samples of all classes; the rounding of float32 grows in a few steps
    Path("equal_logits.py").write_text("def logits(x, sigma): return 0 * x[:, 0, 0, :2]")
    assert main([*sample, "cat.npy", "--label", "cat"]) == 0
    for options, same in (
        ("--guidance 2 --autoguidance run", "cat"),
        ("--guidance 2 --guidance-interval 1e5 1e6", "cat"),
        ("--guidance 2 --classifier equal_logits:logits", "any"),
    ):
        assert main([*sample, "x.npy", "--label", "cat", *options.split()]) == 0
        np.testing.assert_allclose(np.load("x.npy"), np.load(f"{same}.npy"), atol=1e-4)
        name = options.split()[2].removeprefix("--").replace("-", "_")
        assert name in json.loads(Path("x.npy.json").read_text())
    assert "--label chooses one of 2 classes: cat, flower, or `all`" in capsys.readouterr().out
    assert "did you mean flower" in error_of(*sample, "x.npy", "--label", "flwer")
    restore = ["restore", "run", "pictures/cat/0.png", "--task", "super-resolve", "--factor", "2"]
    assert "did you mean cat" in error_of(*restore, "--label", "cta")
    options = ["-n", "1", "--method", "dps", "--steps", "2", "--label", "cat"]
    assert main([*restore, *options]) == 0
    assert json.loads(Path("restored/restored.npy.json").read_text())["label"] == "cat"


def test_held_out_samples_of_moved_data_are_measured_and_restored(monkeypatch, error_of, capsys):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 3, 8, 8), dtype=np.uint8)
    np.save("x.npy", pixels)
    assert main(["train", "--data", "x.npy", "--out", "run", "--steps", "1", *TINY]) == 0
    np.save("x.npy", pixels[::-1])
    restore = ["restore", "run", "-n", "2", "--method", "dps", "--steps", "2"]
    assert "x.npy are not those the run started with" in error_of(*restore)
    np.save("moved.npy", pixels)
    rows = torch.zeros(8, 8, dtype=torch.bool)
    rows[[0, 3, -3]] = True  # the row of the mean, and every third from it
    for task, operator in (
        (["--task", "colorize"], inverse.grayscale()),
        (["--task", "radon", "--angles", "3"], inverse.radon(3, 8)),
        (["--task", "fourier"], inverse.fourier(rows)),
        ([], inverse.mask((torch.arange(8) < 4).expand(1, 8, 8))),
    ):
        again = ["--data", "moved.npy", "--count", "3", "--overwrite", *task]
        assert main([*restore, *again]) == 0
        assert "2 completions of each of 3 held-out samples" in capsys.readouterr().out
        x, truth = (torch.from_numpy(np.load(f"restored/{k}.npy")) for k in ("restored", "truth"))
        assert x.shape == (3, 2, 3, 8, 8)
        # values up to 50 (σ_max), some ten operations in float32: 50 · 10 ε = 6e-5
        torch.testing.assert_close(operator(x[:, 1]), operator(truth), rtol=0, atol=1e-4)
    # five images of 12 × 8 pixels side by side, and 12 pixels between them
    sheet = np.array(Image.open("restored/restored.png"))
    assert sheet.shape == (12 * (3 * 9 - 1), 12 * (5 * 9 - 1), 3)
    assert "--count 0: give 1 or more" in error_of(*restore, "--count", "0")
    assert "leave out --count" in error_of(*restore, "y.png", "--count", "3", "--out", "new")
    dataset = Dataset("own", Arrays(torch.from_numpy(pixels)))
    monkeypatch.setattr("scorefield.cli.files.open_data", lambda run, data: (None, dataset))
    assert "own has nothing held out: name an IMAGE" in error_of(*restore, "--out", "new")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["digitz"], "did you mean digits"),
        (["--training.steps"], "give a whole number"),
        (["--steps", "0"], "--steps 0: give 1 or more"),
        (["photos", "--data.options.sid=8"], "photos option sid does not exist: did you mean side"),
        (["--data.options.size=8"], "digits option size does not exist: there are none"),
        (["photos", "--network.multipliers=3"], "network.multipliers=3: give"),
        (["--config", "none.yaml"], "none.yaml"),
        (["--from", "none.safetensors"], "does not exist"),
        (["--data", ".", "--data.options.size=8,8,3"], "[a whole number, a whole number]"),
        (["--data", ".", "--data.options.fit=stretch"], "fit='stretch': there are crop, pad"),
        (["--data", ".", "--data.options.skip=1"], "folder option skip=1: give true or false"),
        (["photos", "--data.options.side=null"], "photos option side=None: give a whole number"),
        (["--data", "rings", "--data.options.n=inf"], "rings option n='inf': give a whole number"),
    ],
)
def test_mistakes_in_training_are_named(error_of, args, message):
    assert message in error_of("train", *args)
    assert not list(Path().iterdir())


def test_a_signal_saves_the_run_and_resume_continues_it(capsys):
    log = Path("run/log.jsonl").resolve()

    def stop_at_step_3():
        while not log.exists() or log.read_text().count("\n") < 3:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=stop_at_step_3, daemon=True).start()
    assert main(["train", "--out", "run", "--steps", "10000000", *TINY]) == 128 + signal.SIGTERM
    assert "to continue: scorefield resume run" in capsys.readouterr().err
    done = json.loads(log.read_text().splitlines()[-1])["step"]
    config = Path("run/config.json")
    config.write_text(config.read_text().replace("10000000", str(done + 2)))
    assert main(["resume", "run"]) == 0
    assert [json.loads(x)["step"] for x in log.read_text().splitlines()] == [*range(1, done + 3)]


def test_an_average_made_afterwards_is_a_model_of_its_run(trained, monkeypatch, error_of):
    monkeypatch.setattr("scorefield.show.plots.as_png", undrawn)
    assert "train with training.snapshots=N" in error_of("average", str(trained), "--length", "0.1")
    options = ["--steps", "20", "--training.snapshots=10", "--set", MLP_8]
    assert main(["train", "table", "--out", "run", *options]) == 0
    assert "above 0 and below 0.2887" in error_of("average", "run", "--length", "0.3")
    assert main(["average", "run", "--length", "0.07"]) == 0
    assert main(["sample", "run/average-0.07.safetensors", "-n", "3"]) == 0
    assert Path("samples.csv").read_text().startswith("alcohol,")  # a row of the run's table
    judged = ["evaluate", "run/average-0.07.safetensors", "-n", "30", "--bits", "0"]
    assert "checkpoints of run, so name it alone" in error_of(*judged, "--raw")
    assert main(judged) == 0
    assert "relative length of 0.07" in Path("run/average-0.07/metrics.json").read_text()


OWN_NETWORKS = """
from torch import nn

class Net(nn.Module):
    def __init__(self, shape, width: int = 8):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(shape[0], width), nn.Linear(width, shape[0]))

    def forward(self, x, cond):
        return self.layers(x)

class Unary(Net):
    def forward(self, x):
        return x

class Narrow(Net):
    def forward(self, x, cond):
        return x[:, :1]
"""


def test_a_custom_network_is_trained_and_no_file_imports_it(monkeypatch, capsys, error_of):
    def forget():
        IMPORTED.clear()
        sys.modules.pop("own_networks", None)
        capsys.readouterr()

    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    Path("own_networks.py").write_text(OWN_NETWORKS)
    new = ["train", "vectors", "--steps", "2", "--out"]
    for kind, message in {
        "own_networks:Nett": "did you mean Net?",
        "own_netwrks:Net": "there is no module own_netwrks",
        "own_networks:nn": "not a class of networks",
        "own_networks:Unary": "called as net(x, cond)",
        "own_networks:Narrow": "Narrow returned shape (1, 1) for x of (1, 2)",
        "own_networks:Net, widht: 3": "network.widht does not exist: did you mean width?",
        "own_networks:Net, width: x": "network.width='x': give a whole number",
        "Netz": "one of your own is MODULE:CLASS",
    }.items():
        assert message in error_of(*new, "none", f"--network={{kind: {kind}}}")
    assert main([*new, "run", "--network={kind: own_networks:Net, width: 5}"]) == 0
    assert load("run").net.arguments == {"shape": [2], "width": 5}
    for command in ("sample", "resume"):
        forget()
        assert "add --import own_networks:Net" in error_of(command, "run")
        assert "own_networks" not in sys.modules
        assert main([command, "run", "--import", "own_networks:Net"]) == 0
    forget()


OWN_STEPS = """
from functools import partial

from scorefield import SAMPLERS, Sampler, heun, integrate

def own_heun(score, x, sigma, sigma_next, noise):
    return heun(score, x, sigma, sigma_next, noise)

SAMPLERS["own"] = Sampler(partial(integrate, own_heun), per_step=2)
"""


def test_a_sampler_that_an_imported_module_adds_is_found_by_its_name(
    trained, monkeypatch, error_of
):
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    monkeypatch.setitem(SAMPLERS, "own", SAMPLERS["heun"])
    del SAMPLERS["own"]
    Path("own_steps.py").write_text(OWN_STEPS)
    own = ["--import", "own_steps:own_heun", "--sampler", "own"]
    command = ["sample", str(trained), "-n=4", "--steps=3"]
    assert "sampler='own' is not in SAMPLERS: there are" in error_of(*command, *own[2:])
    assert main([*command, *own, "--out=own.npy"]) == 0
    assert main([*command, "--sampler=heun", "--out=heun.npy"]) == 0
    assert np.array_equal(np.load("own.npy"), np.load("heun.npy"))
    IMPORTED.clear()


CODEC = """
import torch
from torch import nn

class Codec(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.Conv2d(1, 2, 2, 2)
        self.decode = nn.ConvTranspose2d(2, 1, 2, 2)

def trained():
    codec = Codec()
    codec.load_state_dict(torch.load("codec.pt", weights_only=True))
    return codec
"""


def test_a_run_on_latents_samples_decoded_images(monkeypatch, capsys, error_of):
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    Path("codec.py").write_text(CODEC)
    codec = import_object("codec:Codec")()
    digits = load_data("digits")
    x = all_samples(digits.train)
    adam = torch.optim.Adam(codec.parameters(), lr=1e-2)
    for _ in range(150):
        loss = (codec.decode(codec.encode(x)) - x).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert loss < 0.25 * x.var()  # two numbers of four: it was 0.16
    torch.save(codec.state_dict(), "codec.pt")

    assert "does not fit photos" in error_of("encode", "photos", "--with", "codec:trained")
    assert "not an autoencoder: name a" in error_of("encode", "digits", "--with", "codec:nn")
    assert main(["encode", "digits", "--with", "codec:trained"]) == 0
    z = load_data("latents.npy")
    assert (len(z.train), len(z.test), z.classes) == (1437, 360, digits.classes)
    torch.testing.assert_close(all_samples(z.test), codec.encode(all_samples(digits.test)))
    rows = torch.arange(9)
    assert torch.equal(z.train.take(rows)[1], digits.train.take(rows)[1])
    lazy = load_data("latents.npy", memory=0)  # rows are read when they are taken
    assert all(map(torch.equal, lazy.test.take(rows), z.test.take(rows)))

    new = ["train", "--data", "latents.npy", "--steps", "5", *TINY, "--keeping.samples=5"]
    IMPORTED.clear()
    capsys.readouterr()
    assert main([*new, "--out", "blind"]) == 0
    assert "grids of samples are left out: --import codec:trained" in capsys.readouterr().out
    assert "add --import codec:trained" in error_of("sample", "blind")
    assert "samples are latents" in error_of("restore", "blind")
    own = ["--import", "codec:trained"]
    assert main([*new, "--out", "run", *own]) == 0
    with Image.open("run/samples/00000005.png") as grid:
        assert grid.size[0] > 6 * 8
    assert main(["sample", "run", "-n", "4", "--out", "x.npy", *own]) == 0
    plan = make_plan(model := load("run"), "heun", 32)
    images = Latents.read("run").decode(sample(model, 4, plan))
    np.testing.assert_array_equal(np.load("x.npy"), images.numpy())
    codec.encode.bias.data += 1
    torch.save(codec.state_dict(), "codec.pt")
    assert "has other weights" in error_of("sample", "run", *own)
    IMPORTED.clear()


def test_resume_leaves_a_finished_run_unchanged(trained, capsys, error_of):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*.safetensors")}
    assert main(["resume", str(trained)]) == 0
    assert "has all of its 10 steps" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in trained.rglob("*.safetensors")}
    assert "no config.json" in error_of("resume", ".")


def test_samples_are_those_of_python_and_record_how_they_were_made(trained, monkeypatch, capsys):
    options = {}
    monkeypatch.setattr("scorefield.cli.chains.optimize", lambda _, **new: options.update(new))
    command = "-n 5 --seed 3 --steps 4 --out x.npy --precision bfloat16"
    assert main(["sample", str(trained), *command.split()]) == 0
    assert options == {"batch": 5, "evaluations": 7, "precision": "bfloat16"}
    assert "5 samples by heun, 7 evaluations" in capsys.readouterr().out
    expected = sample(load(trained), 5, "heun", steps=4, seed=3)
    np.testing.assert_array_equal(np.load("x.npy"), expected.numpy())
    about = json.loads(Path("x.npy.json").read_text())
    assert (about["sampler"], about["seed"], about["evaluations"], about["n"]) == ("heun", 3, 7, 5)
    assert about["trained"]["step"] in (5, 10)
    assert (about["model"], about["precision"]) == (str(trained), "bfloat16")
    few = "-n 5 --sampler adaptive --batch 2"
    for out in ("y.npy", "singly"):
        assert main(["sample", str(trained), *few.split(), "--out", out]) == 0
    about, model = json.loads(Path("y.npy.json").read_text()), load(trained)
    batches = chains(model, 5, make_plan(model, "adaptive"), batch=2)
    own = [[*states][-1].evaluations.double() for _, states in batches]
    counts = torch.cat(own)
    assert len({part.mean().item() for part in own}) > 1
    for i in range(5):
        with Image.open(f"singly/{i:06d}.png") as image:
            single = json.loads(image.text["scorefield"])
        assert single["evaluations"] == pytest.approx(own[i // 2].mean().item())
        assert single["most evaluations"] == own[i // 2].max()
    assert about["evaluations"] == pytest.approx(counts.mean().item())
    assert about["most evaluations"] == counts.max()
    assert "5 samples by adaptive, " in capsys.readouterr().out


def test_fitted_levels_and_a_path_of_noise_are_those_of_python(trained, monkeypatch, error_of):
    monkeypatch.setattr("scorefield.cli.chains.optimize", lambda *_, **options: "")
    model, few = load(trained), ["-n=5", "--steps=3", "--out=x.npy", "--overwrite"]
    for sampler, option, expected in (
        ("unipc", "fit_grid", Plan("unipc", fit_grid(model, "unipc", 3))),
        ("ancestral", "brownian", make_plan(model, "ancestral", 3, brownian=True)),
    ):
        flag = f"--{option.replace('_', '-')}"
        assert main(["sample", str(trained), *few, f"--sampler={sampler}", flag]) == 0
        np.testing.assert_array_equal(np.load("x.npy"), sample(model, 5, expected).numpy())
        assert json.loads(Path("x.npy.json").read_text())[option] is True
    for sampler, flag, message in (
        ("heun", "--fit-grid", "levels are fitted for unipc and adams_bashforth"),
        ("heun", "--brownian", "take one of ancestral, consistent, dpm_solver_sde, rev"),
    ):
        assert message in error_of("sample", str(trained), *few, f"--sampler={sampler}", flag)


def test_samples_are_written_as_a_grid_an_animation_or_single_files(trained, error_of):
    args = ["sample", str(trained), "-n", "9", "--steps", "3", "--batch", "4"]
    assert main([*args, "--animate", "chain.gif"]) == 0
    with Image.open("samples.png") as grid, Image.open("chain.gif") as chain:
        assert json.loads(grid.text["scorefield"])["n"] == 9
        assert chain.n_frames == 3
    assert main([*args, "--out", "singly"]) == 0
    assert {path.name for path in Path("singly").iterdir()} == {f"{i:06d}.png" for i in range(9)}
    assert "holds 9 samples" in error_of(*args, "--out", "singly")
    assert main([*args, "--out", "singly", "--overwrite", "-n", "2"]) == 0
    assert len([*Path("singly").iterdir()]) == 2


def test_at_most_two_batches_of_samples_are_in_memory(monkeypatch):
    """The batch that is written and the one before it, which the chain still holds."""
    prior = Prior(torch.full((3, 8, 8), 0.5), torch.full((3, 8, 8), 0.1))
    save(ScoreModel(MLP((3, 8, 8), width=2, blocks=1), EDM(0.5), prior=prior), "model")
    batches, alive, write_batches = [], [], images.write_batches

    @contextmanager
    def counting(*args):
        with write_batches(*args) as add:
            yield lambda x: (add(x), batches.append(ref(x)), alive.append(count_alive()))

    def count_alive():
        return sum(batch() is not None for batch in batches)

    monkeypatch.setattr(images, "write_batches", counting)
    command = ["sample", "model", "-n", "60", "--batch", "5", "--steps", "2", "--out", "x.npy"]
    assert main(command) == 0
    assert np.load("x.npy", mmap_mode="r").shape == (60, 3, 8, 8)
    assert len(alive) == 12
    assert max(alive) <= 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--sampler hein", "did you mean heun"),
        ("--sampler mala", "take 'annealed_langevin' or 'underdamped'"),
        ("--label 3", "trained without classes"),
        ("--guidance 2", "needs a label"),
        ("--guidance-interval 0.1 1", "--guidance-interval: give the strength too"),
        ("--guidance 2 --classifier json:tool", "json has no tool"),
        ("--guidance 2 --classifier json:__name__", "give a function of (x, sigma)"),
        ("--out a.jpg", "as .png, as .npy"),
        ("--out a.csv", "has no table.json"),
        ("--animate a.mp4", "a .gif or a .png"),
        ("--animate samples.png", "name another file"),
        ("--animate {run}/config.json/a.gif", "is not a writable directory"),
        ("--seed -1", "--seed -1: give a whole number"),
        ("--device tpu9", "tpu9"),
    ],
)
def test_mistakes_in_sampling_are_named(trained, error_of, options, message):
    options = options.format(run=trained).split()
    assert message in error_of("sample", str(trained), *options)
    assert not list(Path().iterdir())


@pytest.mark.filterwarnings("default")
def test_a_run_without_a_model_yet_is_used_by_its_newest_checkpoint(monkeypatch, capsys):
    monkeypatch.setattr("scorefield.show.plots.as_png", undrawn)
    settings = [option.removeprefix("--").removeprefix("set=") for option in TINY]
    experiment = override(Experiment(), [*settings, "training.steps=10", "keeping.evaluate=0"])
    list(islice(start(experiment, "run"), 7))  # its checkpoints are of steps 0 and 5
    Image.fromarray(np.zeros((8, 8), np.uint8)).save("y.png")
    few = ["-n", "2", "--steps", "2"]
    for command in (
        ["sample", "run", *few],
        ["evaluate", "run", "--bits", "0", *few],
        ["restore", "run", "y.png", "--task", "deblur", "--sigma", "1", *few],
    ):
        assert main(command) == 0
        assert "its newest checkpoint is used, step 5 of 10\n" in capsys.readouterr().err
    Path("run/checkpoints/00000005.safetensors").write_bytes(b"damaged")
    for command, warning in (
        (["sample", "run", *few], "step 0 of 10, because 00000005.safetensors is damaged"),
        (["evaluate", "run", "--raw", "--bits", "0", *few], "00000000.safetensors is used"),
    ):
        assert main([*command, "--out", command[0] + ".npy"]) == 0
        assert warning in capsys.readouterr().err
    Path("run/checkpoints/00000000.safetensors").unlink()
    assert main(["sample", "run", *few]) == 2
    assert "00000005.safetensors is damaged" in capsys.readouterr().err


def _write_data(kind):
    """Write data that need two options, or one, and return their path."""
    if kind == "pictures":
        Path("pictures").mkdir()
        for i, size in enumerate([(20, 24), (16, 16), (16, 30)]):
            Image.new("L", size, 80 * i).save(f"pictures/{i}.png")
        Path("pictures/bad.png").write_bytes(b"not a picture")
    elif kind == "signals.npy":
        np.save(kind, np.sin(np.arange(640.0)).reshape(10, 1, 64))
    else:
        rows = [f"row {i},{i % 7},{i / 3},{'' if i == 8 else 2}" for i in range(150)]
        Path(kind).write_text("\n".join(['"a ""b"", c",a,b,c', *rows, "x,1,two,3"]))
    return kind


@pytest.mark.parametrize(
    ("kind", "hints"),
    [
        ("pictures", ["size=16", "skip=true"]),
        ("signals.npy", ["signals=true"]),
        ("table.csv", ["missing=drop", 'drop=["a \\"b\\", c"]', 'drop=["a \\"b\\", c", "b"]']),
    ],
)
def test_each_option_that_an_error_names_works_where_it_is_printed(kind, hints, capsys):
    source, options = _write_data(kind), []
    while main(["suggest", source, *options]) == 2:
        *_, hint = re.findall(r"\((--data\.options\..+?)\)(?=[,;\n])", capsys.readouterr().err)
        options += shlex.split(hint)
    assert options == [f"--data.options.{hint}" for hint in hints]
    assert main(["train", "--data", source, "--show", *options]) == 0


def test_suggest_prints_a_ladder_in_no_more_memory_than_it_may_take(capsys, monkeypatch, error_of):
    assert main(["suggest", "digits"]) == 0
    out = capsys.readouterr().out
    assert all(text in out for text in ("1437 samples of 1 × 8 × 8", "γ", "annealed_langevin"))
    _write_data("pictures")
    error = error_of("suggest", "pictures", "--size=100000")
    assert "size=100000, crop=None: give 1 to 4096 pixels" in error
    module = sys.modules["scorefield.cli.suggest"]  # the package has a function of that name
    monkeypatch.setattr(module, "MAX_SAMPLE_NUMBERS", 10 * 64)
    assert main(["suggest", "digits"]) == 0
    assert "uses 10 of them" in capsys.readouterr().out
    monkeypatch.setattr(module, "MAX_SAMPLE_NUMBERS", 64)
    assert "two samples of 1 × 8 × 8 numbers are too many" in error_of("suggest", "digits")


TINY_TABLE = ("--network={kind: MLP, width: 8, blocks: 1}", "--training.steps=1")


def test_commands_on_a_device_write_the_numbers_of_a_cpu(same, monkeypatch):
    monkeypatch.setattr("scorefield.show.plots.as_png", undrawn)
    rows = "\n".join(f"{i % 7 / 7},{i % 5 / 3}" for i in range(60))
    Path("x.csv").write_text(f"a,b\n{rows}\n")

    def numbers(place):
        on = [place, f"--device={place}"]
        assert main(["train", "--data=x.csv", f"--out={place}", f"--machine.device={place}",
                     *TINY_TABLE]) == 0  # fmt: skip
        assert main(["sample", *on, "-n=4", "--steps=2", f"--out={place}.npy"]) == 0
        completions = ["-n=2", "--count=2", "--steps=2", "--particles=4", f"--out={place}-rows"]
        assert main(["restore", *on, *completions]) == 0
        assert main(["evaluate", *on, "-n=8", "--steps=2", "--bits=1"]) == 0
        figures = json.loads(Path(place, "metrics.json").read_text())["figures"]
        return (
            read_tensors(place).tensors,
            np.load(f"{place}.npy").tolist(),
            np.loadtxt(f"{place}-rows/completion-2.csv", delimiter=",", skiprows=1).tolist(),
            [figure["value"] for figure in figures],
        )

    same(numbers)


HOSTILE_NAME = "\x1b]0;title\x07\x9b2J\u202e"  # of a window, an empty screen, from right to left


@pytest.mark.parametrize("kind", ["folder", "class", "npz", "column", "choice", "file"])
def test_names_in_data_do_not_reach_the_terminal_as_they_are(kind, capsys):
    rows = "\n".join(f"{i},{i % 7 / 3}" for i in range(150))
    Path("x.csv").write_text(f"{HOSTILE_NAME},b\n{rows}\n")
    np.savez("x.npz", **{HOSTILE_NAME: np.ones((3, 2)), "b": np.ones((3, 2))})
    for name in ("a", HOSTILE_NAME):
        Path("classes", name).mkdir(parents=True)
        Image.new("L", (8, 8), len(name)).save(Path("classes", name, "1.png"))
        Image.new("L", (8, 8), 9 + len(name)).save(Path("classes", name, "2.png"))
    shutil.copytree("classes", "folder")
    Path("folder", HOSTILE_NAME, "3.png").write_bytes(b"")
    Path(f"{HOSTILE_NAME}.csv").write_text(f"a,b\n{rows}\n")
    source = {"class": "classes", "folder": "folder", "npz": "x.npz"}.get(kind, "x.csv")
    options = ["--data.options.drop=[c]"] * (kind == "choice")
    command = ["suggest", source, *options]
    if kind == "file":
        command = ["train", f"--data={HOSTILE_NAME}.csv", f"--out={HOSTILE_NAME}", *TINY_TABLE]
    assert main(command) == (2 if kind in ("folder", "npz", "choice") else 0)
    shown = "".join(capsys.readouterr())
    assert not {*HOSTILE_NAME} & {*shown} - {*string.printable}
    assert r"\x1b]0;title\x07\x9b2J\u202e" in shown
