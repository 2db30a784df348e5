"""The commands of long pages, made small, run in the studies; `NOT_RUN` says why others do not.

`make docs` runs the blocks of sh of the short pages, and shows what they print.
"""

import re
import shutil
import sys
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from standins import undrawn
from test_documents import BUILT, DOCUMENTS, ROOT, _blocks, _lines

from scorefield import inverse
from scorefield.cli import main
from scorefield.data import all_samples, load_data
from scorefield.evaluate import evaluate_run
from scorefield.runs import finish
from scorefield.runs.config import override
from scorefield.runs.presets import PRESETS

sys.path.insert(0, str(ROOT / "docs/extensions"))
from reader_files import write_reader_files

NOT_RUN = {
    "pip install": "changes the installation, or needs the network",
    "make": "installs, tests, builds or measures everything",
    "python -m benchmarks": "takes minutes; test_benchmarks.py runs each with small numbers",
    "docker": "needs Docker",
    "mkdir": "is a step of Docker's",
    "torchrun": "starts processes; the build runs the how-to of many GPUs",
    "hf auth login": "needs an account",
    "scorefield demo": "takes minutes; test_demo.py runs it with a small network",
    "scorefield studio": "serves until it is stopped; test_studio.py asks it for pages",
    "scorefield reproduce all": "takes an hour; test_paper.py runs each experiment with few steps",
    "scorefield train --data pictures/ --data.options.size=32": (
        "has a budget of minutes; the build runs the how-to of budgets with one of seconds"
    ),
    "scorefield train ncsn-mnist": "needs MNIST; test_published.py reads files of its format",
    "scorefield train edm": "needs a GPU; test_presets.py compares it with the paper",
    "scorefield train --data ~/downloads": "needs CIFAR-10; test_published.py reads its format",
    "scorefield evaluate model --data cifar10": "needs CIFAR-10",
    "scorefield convert checkpoint_5.pth": "needs a download; the build converts a small file",
    "scorefield sample model": "needs the model of that download",
    "scorefield encode": "needs an autoencoder; test_commands.py has a small one",
    "scorefield train --data latents.npy": "needs the latents of that autoencoder",
    "scorefield sample runs/latents": "needs the latents of that autoencoder",
    "scorefield train digits --keeping.tracker=wandb": "needs W&B; test_track.py tries it",
    "scorefield export": "needs diffusers and ONNX; test_export.py runs the commands of the page",
    "scorefield train digits --out runs/mine --levels": "is the model that test_export.py exports",
    "scorefield evaluate runs/digits --frontier": "takes each sampler; test_evaluate.py does so",
    "scorefield push": "needs an account; the build runs the how-to, test_hub_models.py uploads",
}
"""Beginnings of commands that are only parsed, and the reasons; so are all that name hub:NAME."""


def _is_run(words):
    """True unless the command names a model or data of the Hub, or a reason is given."""
    of_hub = any(word.startswith("hub:") for word in words)
    return not (of_hub or " ".join(words).startswith((*NOT_RUN,)))


def _commands(document):
    """Yield the words of each command of a document that the build of the site does not run."""
    for block in _blocks(document, "console", *["sh"] * (document not in BUILT)):
        yield from _lines(block)


COMMANDS = {d: [words for words in _commands(d) if _is_run(words)] for d in DOCUMENTS}
STEPS = (
    *("--training.steps=2", "--training.warmup=1", "--training.batch=8"),
    *("--keeping.samples=0", "--keeping.evaluate=0"),
)
SMALL = *STEPS, "--network.width=8"


def _write_images(folder, count, shape, *, name="{:04d}.png"):
    """Write pictures of noise, of a shape as arrays have it."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / name.format(i))


def _write_measurements(folder):
    """Write what `restore` takes: images, masks, and arrays of frequencies and projections."""
    grey, colour = (8, 8), (8, 8, 3)
    shapes = {"damaged": grey, "grey": grey, "small": (2, 2, 3), "blurred": colour}
    for name, shape in shapes.items():
        _write_images(folder, 1, shape, name=f"{name}.png")
    x = all_samples(load_data("digits").test, 1)
    known = np.uint8([255] * 4 + [0] * 4)
    Image.fromarray(np.tile(known, (8, 1))).save(folder / "known.png")
    Image.fromarray(np.tile(known[:, None], (1, 8))).save(folder / "measured.png")
    frequencies = np.fft.fft2(x[0, 0].numpy(), norm="ortho")
    np.save(folder / "frequencies.npy", np.fft.fftshift(frequencies, axes=(-2, -1)))
    np.save(folder / "projections.npy", inverse.radon(30, 8)(x)[0, 0].numpy())
    np.save(folder / "y.npy", 1 - np.exp(-3 * x[0].numpy()))
    page = (ROOT / "docs/restoration.md").read_text()
    function = re.search(r"^import torch\n+def expose.*?(?=^`)", page, re.DOTALL | re.MULTILINE)
    (folder / "film.py").write_text(function[0])


def _write_arrays(folder):
    """Write vectors, pairs, simulations, a table with missing cells, and a network of a reader."""
    x = np.random.default_rng(0).normal(size=(60, 3)).astype("f")
    np.save(folder / "points.npy", x)
    np.savez(folder / "pairs.npz", x=x, y=x[:, :2])
    np.savez(folder / "simulations.npz", theta=x, x=x[:, :2])
    np.savez(folder / "others.npz", theta=x[:9], x=x[:9, :2])
    (folder / "incomplete.csv").write_text("age,height,city\n30,,Rome\n,1.70,\n")
    page = (ROOT / "docs/howto/add-network.md").read_text()
    network = re.search(r"^(import torch.*?)^prior", page, re.DOTALL | re.MULTILINE)[1]
    (folder / "my_package").mkdir()
    (folder / "my_package/nets.py").write_text(network)


def _write_runs(folder):
    """Write untrained models of grey and of coloured images."""
    small = [option.removeprefix("--") for option in SMALL]
    finish(override(PRESETS["digits"], small), folder / "runs/digits")
    for name in ("mine", "brains"):
        shutil.copytree(folder / "runs/digits", folder / "runs" / name)
    faces = [f"data.source={folder}/faces", "data.options.size=8", "data.options.held_out=0.3"]
    finish(override(PRESETS["digits"], [*small, *faces]), folder / "runs/faces")


def _fill(folder):
    """Write the files and the runs that the pages name."""
    write_reader_files(folder)
    _write_images(folder / "big", 12, (16, 16))
    _write_images(folder / "small", 12, (8, 8))
    _write_images(folder / "photographs", 12, (8, 8))
    _write_images(folder / "faces", 40, (8, 8, 3))
    for kind in ("rose", "tulip"):
        _write_images(folder / "flowers" / kind, 12, (8, 8))
    _write_measurements(folder)
    _write_arrays(folder)
    _write_runs(folder)


@pytest.fixture
def reader(make_once, tmp_path, monkeypatch):
    """A folder with all that the pages name, in which a reader works; few samples are judged."""
    shutil.copytree(make_once("reader", _fill), tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    few = {"n": 12, "bits": 2, "floor_sets": 2}
    monkeypatch.setattr(
        "scorefield.evaluate.evaluate_run", lambda *a, **k: evaluate_run(*a, **k | few)
    )
    monkeypatch.setattr("scorefield.show.plots.as_png", undrawn)
    return tmp_path


def _small(words):
    """Return the arguments of a command with few steps and samples, and a small network."""
    pairs = pairwise(words)
    args = ["4" if before in ("-n", "--count") else word for before, word in pairs]
    if args[0] == "train":
        out = args[args.index("--out") + 1] if "--out" in args else f"runs/{args[1]}"
        shutil.rmtree(out, ignore_errors=True)  # the prepared run of this name
        return [*args, *(STEPS if "--from" in args else SMALL)]
    return [*args, "--overwrite"] if args[0] == "restore" else args


@pytest.mark.slow
@pytest.mark.parametrize("document", [d for d in DOCUMENTS if COMMANDS[d]])
def test_the_commands_of_a_document_run(document, reader):
    for words in COMMANDS[document]:
        assert main(_small(words)) == 0, words


def test_each_reason_not_to_run_a_command_is_that_of_one():
    commands = [" ".join(words) for d in DOCUMENTS for words in _commands(d)]
    for start in NOT_RUN:
        assert any(command.startswith(start) for command in commands), start


def test_programs_of_others_have_a_reason_not_to_be_run():
    for document, commands in COMMANDS.items():
        assert {words[0] for words in commands} <= {"scorefield"}, document
