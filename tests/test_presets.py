"""Presets: the papers' numbers, the sizes of their networks, and runs of the small ones."""

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from standins import write_celeba, write_cifar10

from scorefield import ScoreModel
from scorefield.data import Arrays, Dataset, Pairs
from scorefield.nn import NETWORKS
from scorefield.runs import start
from scorefield.runs.build import build_plan, precondition
from scorefield.runs.config import Experiment, as_json, differing_fields, override, read
from scorefield.runs.presets import PRESETS
from scorefield.runs.resolve import resolve

ALL = """training.objective=denoising training.weight=ncsn training.batch=128
    training.betas=[0.9,0.999] training.eps=1e-8 training.schedule=constant"""
NCSN = f"""{ALL}
    network.kind=RefineNet network.depth=original levels.precondition=NCSN
    levels.distribution=discrete levels.sigma_max=1 levels.sigma_min=0.01 levels.count=10
    levels.centre=0 training.steps=200000 training.rate=1e-3 training.warmup=0 training.clip=null
    training.ema=0 sampling.sampler=annealed_langevin sampling.steps=100 sampling.epsilon=2e-5
    sampling.denoise=false keeping.checkpoint=5000"""
NCSNV2 = f"""{ALL}
    data.flip=true network.kind=RefineNet network.width=128 network.depth=original
    levels.precondition=NCSNv2 levels.distribution=discrete levels.sigma_min=0.01 levels.centre=0
    training.ema=0.999 training.rate=1e-4 training.warmup=0 training.clip=null
    sampling.sampler=annealed_langevin sampling.steps=5 sampling.denoise=true
    keeping.checkpoint=5000"""
EDM = """training.objective=denoising training.weight=edm training.schedule=constant
    training.betas=[0.9,0.999] training.eps=1e-8 training.clip=null
    network.kind=UNet network.width=128 network.blocks=4 network.embedding=sinusoidal
    network.fir=null network.progressive_input=none levels.precondition=EDM levels.std=1.2
    levels.distribution=lognormal
    levels.sigma_max=40 levels.sigma_min=0.001 levels.sigma_data=0.25 levels.centre=0.5
    sampling.sampler=heun sampling.grid=karras"""
EDM_CIFAR10 = f"""{EDM}
    data.source=cifar10 data.augment=0.12 network.multipliers=[2,2,2] network.attention=[1]
    network.dropout=0.13 training.batch=512 training.rate=1e-3 training.steps=390625
    training.warmup=19531 sampling.steps=18"""
PAPERS = {
    "ncsn-mnist": f"{NCSN} data.source=mnist data.flip=false network.width=64",
    "ncsn-cifar10": f"{NCSN} data.source=cifar10 data.flip=true network.width=128",
    "ncsn-celeba": f"""{NCSN}
        data.source=celeba data.flip=true data.options.crop=140 data.options.size=32
        network.width=128""",
    "ncsnv2-cifar10": f"""{NCSNV2}
        data.source=cifar10 levels.count=232 levels.sigma_max=50 training.steps=300000
        sampling.epsilon=6.2e-6 sampling.levels=232""",
    "ncsnv2-celeba": f"""{NCSNV2}
        data.source=celeba data.options.crop=140 data.options.size=64
        levels.sigma_max=90 levels.count=500 training.steps=210000
        sampling.epsilon=3.3e-6 sampling.levels=500""",
    "ncsnpp-cifar10": f"""{ALL}
        data.source=cifar10 data.flip=true network.kind=UNet network.blocks=4
        network.progressive_input=residual network.fourier_scale=16.0 network.dropout=0.1
        levels.precondition=VE levels.distribution=loguniform levels.count=1000 levels.centre=0.5
        levels.sigma_max=50 levels.sigma_min=0.01 training.ema=0.999
        training.steps=950000 training.rate=2e-4 training.warmup=5000 training.clip=1
        sampling.sampler=predictor_corrector sampling.steps=1000 sampling.grid=geometric
        sampling.denoise=true""",
    "edm-cifar10": f"{EDM_CIFAR10} data.labels=false",
    "edm-cifar10-classes": f"{EDM_CIFAR10} data.labels=true network.label_dropout=0.0",
    "edm-faces": f"""{EDM}
        data.source=celeba data.options.size=64 data.augment=0.15 network.multipliers=[1,2,2,2]
        network.attention=[2] network.dropout=0.05 training.batch=256 training.rate=2e-4
        training.steps=781250 training.warmup=39062 sampling.steps=40""",
}
"""Numbers of the papers and the authors' configurations; `presets` has the source of each."""
OURS = {"digits", "digits-ncsn", "photos", "table", "vectors", "posterior", "signals"}
"""Presets without a paper."""
FREE = {"keeping.log", "keeping.evaluate", "keeping.samples", "keeping.checkpoint"}
"""Fields that change no result."""
IN_IMAGES = {"training.ema", "levels.mean"}
"""Fields of EDM that test_durations_in_images_are_edms checks."""
SHAPES = dict(digits=(1, 8, 8), mnist=(1, 28, 28), mixture=(2,), wine=(16,), signals=(1, 64))
"""Other data are images in colour."""


def _data(experiment):
    """Noise in the shape of the preset's data, which may not be on this machine."""
    size = experiment.data.options.get("size", 32)
    shape = SHAPES.get(experiment.data.source, (3, size, size))
    x = torch.randn((24, *shape), generator=torch.Generator().manual_seed(0))
    x = (255 * x.sigmoid()).to(torch.uint8) if len(shape) == 3 else x
    classes = ("even", "odd") if experiment.data.labels else ()
    rows = Arrays(x, torch.arange(24) % 2) if classes else Arrays(x)
    if experiment.network.get("condition_input"):  # that needs a condition
        rows = Pairs(rows, {"x": Arrays(x)})
    return Dataset(experiment.data.source, rows, rows, classes=classes)


@cache
def _resolve(name, *changes):
    """The whole experiment of a preset, whose network has been tried, and the data's shape."""
    experiment = override(PRESETS[name], [*changes, "training.batch=4"])  # little memory will do
    data = _data(experiment)
    return resolve(experiment, data)[0], data.train.shape


def _net(*args):
    arguments = dict(_resolve(*args)[0].network)
    with torch.device("meta"):
        return NETWORKS[arguments.pop("kind")](**arguments)


def _size(*args):
    return sum(p.numel() for p in _net(*args).parameters())


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_read_back_from_its_json_and_fits_its_data(name, tmp_path):
    experiment = PRESETS[name]
    assert type(experiment) is Experiment
    (tmp_path / "config.json").write_text(as_json(experiment))
    assert read(tmp_path / "config.json") == experiment
    assert _resolve(name)


@pytest.mark.parametrize("name", PAPERS)
def test_presets_have_the_papers_numbers(name):
    experiment = PRESETS[name]
    arguments = {"kind": experiment.network["kind"], **_net(name).arguments}
    experiment = replace(experiment, network=arguments)  # its defaults as well
    for setting in PAPERS[name].split():
        assert override(experiment, [setting]) == experiment, setting


def test_every_field_of_a_papers_preset_is_compared_with_the_paper():
    assert PAPERS.keys() == PRESETS.keys() - OURS
    for name in PAPERS:
        fields = differing_fields(as_json(PRESETS[name]), as_json(Experiment()))
        compared = {setting.partition("=")[0] for setting in PAPERS[name].split()} | FREE
        compared |= IN_IMAGES if name.startswith("edm") else set()
        assert not {field for field, *_ in fields} - compared, name


def test_networks_have_the_published_number_of_parameters():
    """NCSNv2's is known from its checkpoint; a norm of NCSN has 30 numbers instead of 3."""
    assert _size("ncsnv2-cifar10") == _size("ncsnv2-celeba") == 29_694_083
    # In widths of 128: the norms of the residual blocks and the last, which NCSNv2 also has, and
    # those of the four refinement blocks, which it does not have.
    shared, refining = 4 + 6 + 8 + 8 + 1, 16 + 28 + 24 + 18
    more = 3 * 128 * (9 * shared + 10 * refining)
    assert _size("ncsn-cifar10") == _size("ncsn-celeba") == 29_694_083 + more
    assert _size("ncsnpp-cifar10") == pytest.approx(62.8e6, abs=5e4)
    assert _size("ncsnpp-cifar10", "network.blocks=8") == pytest.approx(107.6e6, abs=5e5)
    # EDM adds the 9 numbers of its augmentation to 128 others, where ours are added to 512
    assert _size("edm-cifar10") == 55_733_891 - 9 * 128 + (9 + 1) * 512


def test_durations_in_images_are_edms():
    for name in ("edm-cifar10", "edm-cifar10-classes", "edm-faces"):
        training, levels = PRESETS[name].training, PRESETS[name].levels
        assert training.steps * training.batch == 200e6
        assert training.warmup * training.batch == pytest.approx(10e6, abs=training.batch)
        assert training.ema ** (0.5e6 / training.batch) == pytest.approx(0.5)
        assert levels.mean == pytest.approx(math.log(math.exp(-1.2) / 2))


def _plan(name):
    experiment, shape = _resolve(name)
    model = ScoreModel(_net(name), precondition(experiment), shape=shape)
    return build_plan(model, experiment.sampling)


def test_sampling_plans_are_the_papers():
    ncsn, v2, pp = (_plan(name) for name in ("ncsn-mnist", "ncsnv2-cifar10", "ncsnpp-cifar10"))
    evaluations = [10 * 100, 232 * 5 + 1, 2 * 999 + 1]
    assert [plan.evaluations for plan in (ncsn, v2, pp)] == evaluations
    assert ncsn.options == {"steps": 100, "epsilon": 2e-5, "denoise": False}
    assert v2.options == {"steps": 5, "epsilon": 6.2e-6, "denoise": True}


SMALL = {
    "MLP": ["network.width=8"],
    "UNet": ["network.width=4", "network.blocks=1"],
    "RefineNet": ["network.width=4", "levels.count=2"],
    "mixture": ["data.options={n: 200}"],
    "signals": ["data.options={n: 200}"],
    "photos": ["data.options={side: 8}"],
    "celeba": ["data.options.size=16"],
    "annealed_langevin": ["sampling.steps=1", "sampling.levels=2"],
    "training": ["training.batch=4", "training.steps=2", "machine.threads=1"],
}
"""Settings that make a preset quick, by its network, data and sampler."""
STAND_INS = {"cifar10": write_cifar10, "celeba": write_celeba}
TRAINED_BY_COMMAND = {"ncsn-mnist", "ncsn-cifar10", "ncsn-celeba"}
"""Presets that test_published.py trains and resumes."""


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in TRAINED_BY_COMMAND])
def test_every_other_preset_runs_for_two_steps(name, tmp_path, monkeypatch):
    monkeypatch.setattr("scorefield.runs.run.GRID_SAMPLES", 4)
    preset = PRESETS[name]
    source, sampler = preset.data.source, preset.sampling.sampler
    kinds = preset.network["kind"], source, sampler, "training"
    settings = ["sampling.steps=2", *(s for kind in kinds for s in SMALL.get(kind, ()))]
    if source in STAND_INS:
        STAND_INS[source](tmp_path / "data", 10)
        settings.append(f"data.options.root={tmp_path / 'data'}")
    updates = list(start(override(preset, settings), tmp_path / "run"))
    assert [update.step for update in updates] == [1, 2]
    assert all(math.isfinite(update.loss) for update in updates)
    assert (tmp_path / "run/model.safetensors").exists()
    images = preset.keeping.samples and name not in ("vectors", "table", "signals", "posterior")
    assert (tmp_path / "run/samples/00000002.png").exists() == bool(images)
