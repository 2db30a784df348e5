"""Runs: their files, and that a killed, stopped or poisoned run ends as an undisturbed one."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image
from test_faults import assert_same_end, read_log, state_files, vectors
from torch.nn.utils import parameters_to_vector

from scorefield import (
    EDM,
    MLP,
    LogNormal,
    ScoreModel,
    annealed,
    edm_weight,
    load,
    objectives,
    sample,
)
from scorefield.checkpoint import read_tensors
from scorefield.data import Batches, LabelledBatch, all_samples, load_data, tensor_data
from scorefield.evaluate import open_run
from scorefield.noise import seeded
from scorefield.runs import Interrupted, average, finish, resume, start
from scorefield.runs.average import PowerAverage, power_exponent, profile_products
from scorefield.runs.build import (
    build,
    build_loss,
    build_model,
    build_optimizer,
    build_plan,
    build_references,
    outline_model,
)
from scorefield.runs.choose import choose_experiment
from scorefield.runs.config import Experiment, Sampling, Training, as_json, override, read
from scorefield.runs.presets import PRESETS
from scorefield.runs.resolve import resolve
from scorefield.runs.watch import estimate_time
from scorefield.show.images import grid
from scorefield.show.text import in_hours
from scorefield.train import Update, cosine, derive_seed, train

SMALL = """
    network.width=8 network.multipliers=[1] network.blocks=1 network.attention=[] network.fir=null
    network.progressive_input=none network.groups=4 training.batch=8 training.schedule=cosine
    training.warmup=3 training.clip=5 keeping.evaluate=8 keeping.checkpoint=5 keeping.samples=0
    training.snapshots=10 machine.threads=1
"""


def _experiment(*settings):
    return override(Experiment(), [*SMALL.split(), *settings])


@pytest.fixture(scope="module")
def whole(make_once):
    """An undisturbed run of 40 steps."""
    experiment = _experiment("training.steps=40", "keeping.samples=40")
    return make_once("whole", lambda folder: list(start(experiment, folder / "run"))) / "run"


def test_a_run_writes_its_log_checkpoints_model_and_grids(whole):
    assert [line["step"] for line in read_log(whole)] == list(range(1, 41))
    heldout = {line["step"]: line["heldout"] for line in read_log(whole) if "heldout" in line}
    assert [*heldout] == [8, 16, 24, 32, 40]
    assert [p.name for p in sorted((whole / "checkpoints").iterdir())] == [
        f"{step:08d}.safetensors" for step in (30, 35, 40)
    ]
    best = min(heldout, key=heldout.get)
    assert read_tensors(whole / "model.safetensors").about["step"] == best
    assert (whole / "samples/00000040.png").exists()
    assert sample(load(whole), 3, steps=2).shape == (3, 1, 8, 8)


def test_a_grid_of_a_run_with_classes_shows_all_of_them_in_order(tmp_path):
    settings = ["training.steps=1", "data.labels=true", "keeping.samples=1", "sampling.steps=2"]
    list(start(experiment := _experiment(*settings), tmp_path / "run"))
    model = load(tmp_path / "run")
    plan = build_plan(model, experiment.sampling)
    shown = np.array(Image.open(tmp_path / "run/samples/00000001.png"))
    assert (shown == np.array(grid(sample(model, 36, plan, label="all")))).all()


@pytest.mark.parametrize("best", ["heldout", "last"])
def test_the_model_kept_is_the_best_or_the_last(tmp_path, monkeypatch, best):
    losses = iter([3.0, 1.0, math.nan, 2.0])
    heldout = "scorefield.runs.run.heldout_losses"
    monkeypatch.setattr(heldout, lambda *_: torch.full((2,), next(losses)))
    list(start(_experiment("training.steps=32", f"keeping.best={best}"), tmp_path / "run"))
    heldout = [line["heldout"] for line in read_log(tmp_path / "run") if "heldout" in line]
    assert heldout == [3.0, 1.0, None, 2.0]
    least = [line["best_heldout"] for line in read_log(tmp_path / "run") if "best_heldout" in line]
    assert least == [3.0, 1.0, 1.0]
    about = read_tensors(tmp_path / "run/model.safetensors").about
    chosen = {"heldout": (16, 1.0), "last": (32, 2.0)}[best]
    assert (about["step"], about["heldout"], about["best"]) == (*chosen, 1.0)


def test_config_json_has_no_open_field(whole):
    kept = json.loads((whole / "config.json").read_text())
    assert kept["network"]["channels"] == 1
    largest = torch.pdist(all_samples(load_data("digits").train).flatten(1)).max().item()
    assert kept["levels"]["sigma_max"] == pytest.approx(largest, rel=64 * 2**-24)  # 64 terms
    assert kept["machine"] == {
        "device": "cpu", "autocast": "off", "channels_last": "off", "compile": "off", "threads": 1,
        "winograd": "off", "onednn": "off", "tf32": "off",
    }  # fmt: skip
    assert None not in kept["levels"].values()


def test_a_run_has_the_weights_of_the_plain_training_loop(whole):
    data = load_data("digits")
    experiment, _ = resolve(_experiment("training.steps=40"), data)
    model = build_model(experiment, data)
    batches = Batches(data.train, 8, seed=0)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    options = dict(steps=40, schedule=cosine(40, 3), clip=5.0, seed=derive_seed(0, 2))
    loss = build_loss(experiment, model)
    list(train(model, lambda step: batches(step).x, loss, optimizer=adam, **options))
    raw = read_tensors(state_files(whole)[-1]).under("extra.raw")
    assert all(torch.equal(raw[name], value) for name, value in model.net.state_dict().items())


@pytest.mark.parametrize("dequantise", [True, False])
def test_a_run_learns_points_of_the_cells_of_pixels_or_their_middles(dequantise):
    data, settings = load_data("digits"), [f"data.dequantise={dequantise}", "training.references=9"]
    experiment, _ = resolve(_experiment(*settings), data)
    others = build_references(experiment, data, torch.device("cpu"))
    for batches in (build(experiment, data).batches, others):
        offset = batches(0).x * data.train.levels % 1 - 0.5
        # float32 of 17 cells
        assert (offset.abs().max() < 1e-5) == (not dequantise)


def test_the_profiles_of_averages_have_their_length_and_their_products():
    t = (np.arange(10**6) + 0.5) / 10**6
    gamma = np.array([power_exponent(length) for length in (0.05, 0.1, 0.25)])[:, None]
    ends = np.array([1.0, 0.8, 0.3])[:, None]
    p = np.where(t < ends, (gamma + 1) * t**gamma / ends ** (gamma + 1), 0.0)
    # midpoints: a relative error of about (γ · 1e-6)² within, and of 18e-6 at the end of a profile
    products = profile_products(gamma, ends, gamma.T, ends.T)
    np.testing.assert_allclose(products, p @ p.T / 10**6, rtol=5e-5)
    mean, square = p @ t / 10**6, p @ t**2 / 10**6
    spread = (square - mean**2) ** 0.5 / ends[:, 0]
    np.testing.assert_allclose(spread, [0.05, 0.1, 0.25], rtol=5e-4)  # variance ≪ square


def test_averages_of_any_length_are_those_of_the_training(points, tmp_path):
    steps = ["training.steps=400", "training.snapshots=20", "training.rate=0.01"]
    run = start(_vectors(points, *steps), tmp_path / "run")
    direct = {length: PowerAverage(run.model, length) for length in (0.05, 0.07, 0.15)}
    begin = parameters_to_vector(run.parts.model.parameters()).detach().clone()
    for update in run:
        for power in direct.values() if update.step <= 100 or update.step % 10 == 0 else ():
            power.update_parameters(run.parts.model)
    for length, power in direct.items():
        model = load(average(run.directory, length))
        one, other = map(parameters_to_vector, (model.parameters(), power.module.parameters()))
        assert (one - other).norm() <= 1e-3 * (other - begin).norm()
    with pytest.warns(UserWarning, match="40 snapshots .* a smaller training.snapshots"):
        average(run.directory, 0.01)


def test_a_run_killed_four_times_is_bit_identical(whole, tmp_path):
    """At any moment after some steps, or in the write of a checkpoint."""
    directory, chance = tmp_path / "run", random.Random(0)
    program = Path(__file__).with_name("trainer.py")
    command = [sys.executable, program, *SMALL.split(), "training.steps=40"]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen(command, **pipes) as trainer:
        for in_write in (False, True) * 2:
            place = 0 if in_write else _done(directory) + chance.randrange(1, 9)
            print(directory, place, file=trainer.stdin, flush=True)
            os.kill(int(trainer.stdout.readline()), signal.SIGKILL)
            assert trainer.stdout.readline() == "gone\n"
            assert any(directory.rglob(".*.safetensors*")) or not in_write
    assert _done(directory) < 40
    list(resume(directory))
    assert_same_end(directory, whole)


def _done(directory):
    log = directory / "log.jsonl"
    return log.read_text().count("\n") if log.exists() else 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_waits_for_the_step_and_saves_it(whole, tmp_path, number):
    before = signal.getsignal(number)

    def run_with_signal():
        for update in start(_experiment("training.steps=40"), tmp_path / "run"):
            if update.step == 6:
                os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match=r"after step 6.*scorefield resume") as caught:
        run_with_signal()
    assert caught.value.number == number
    assert signal.getsignal(number) == before
    assert read_tensors(state_files(tmp_path / "run")[-1]).about["step"] == 6
    list(resume(tmp_path / "run"))
    assert_same_end(tmp_path / "run", whole)


def test_decay_shrinks_matrices_and_leaves_vectors():
    model = ScoreModel(MLP(2, width=4, blocks=1), EDM())
    optimizer = build_optimizer(Training(rate=0.1, decay=0.5), model)
    before = [p.detach().clone().requires_grad_() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.zeros_like(p)  # Adam itself takes no step
    optimizer.step()
    # a product rounds to a half of 2⁻²³
    expected = [p * (1 - 0.1 * 0.5) if p.ndim > 1 else p for p in before]
    torch.testing.assert_close(list(model.parameters()), expected, rtol=2**-23, atol=0)


def test_targets_are_averaged_in_training_and_not_for_held_out_samples(points, tmp_path):
    plain, averaged = (
        start(_vectors(points, f"training.references={n}"), tmp_path / str(n)).parts
        for n in (0, 500)
    )
    x, score = averaged.batches(0).x, averaged.model
    losses = [averaged.loss(score, x, noise=seeded(5), step=k) for k in (0, 0, 1)]
    assert losses[0].equal(losses[1])
    assert not losses[0].equal(losses[2])
    held_out = averaged.loss(score, x, noise=seeded(5))
    assert held_out.equal(plain.loss(score, x, noise=seeded(5)))
    assert losses[0].mean() < held_out.mean()  # the variance of the targets is not in it


@pytest.mark.parametrize("other", ["data.labels=true", "data.augment=0.1"])
def test_targets_are_averaged_without_conditions_only(tmp_path, other):
    with pytest.raises(ValueError, match=r"training\.references=9: leave it out.* conditions and"):
        start(_experiment("training.references=9", other), tmp_path / "run")


RECIPE = [
    *("training.schedule=inverse_sqrt", "training.warmup=2"),
    *("training.decay=0.1", "training.clip_quantile=0.9", "training.references=9"),
]


@pytest.mark.parametrize("recipe", [[], [*RECIPE, "training.optimizer=muon"]])
def test_a_checkpoint_by_time_is_kept_and_changes_nothing(points, tmp_path, monkeypatch, recipe):
    experiment = _vectors(points, *recipe)
    list(start(experiment, tmp_path / "whole"))
    rates = {line["step"]: line["rate"] for line in read_log(tmp_path / "whole")}
    # k₀ is a tenth of 30 steps, and the factor of step 28 that of k = 27
    assert rates[28] == experiment.training.rate * (1 / 3 if recipe else 1)
    clock = [0.0]
    monkeypatch.setattr("scorefield.runs.run.monotonic", lambda: clock[0])
    for update in islice(start(experiment, tmp_path / "run"), 18):
        clock[0] += 250
        if update.step == 10:
            assert [int(path.stem) for path in state_files(tmp_path / "run")] == [0, 10]
    # of those of steps 4, 7, 13 and 16, which came by time, the newest is kept
    assert [int(path.stem) for path in state_files(tmp_path / "run")] == [0, 10, 16]
    list(resume(tmp_path / "run"))
    assert_same_end(tmp_path / "run", tmp_path / "whole")


def test_the_time_of_a_run_is_estimated_from_its_first_seconds(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr("scorefield.runs.watch.monotonic", lambda: clock[0])

    def updates(begin=101):
        for step in range(begin, begin + 99):
            clock[0] += 60 if step == begin else 2  # the first step is no measure of the others
            yield Update(step, torch.ones(()), torch.ones(()), 1e-3, torch.tensor(False))

    assert len(list(estimate_time(updates(), 5100))) == 99
    # 2 · (5100 − 104) s, printed 6 s after the first step
    assert capsys.readouterr().err == "about 2 h 47 min left on this machine, at 2 s a step\n"
    assert len(list(estimate_time(updates(1), 5000))) == 99
    hint = "--budget 20m trains for 20 minutes, with the steps that fit in them\n"
    assert f"2 h 47 min left on this machine, at 2 s a step; {hint}" in capsys.readouterr().err
    assert [in_hours(s) for s in (40, 800, 200_000)] == ["40 s", "13 min", "2 days 7 h"]


def _vectors(path, *settings):
    steps = "training.steps=30", "keeping.checkpoint=10", "keeping.evaluate=0"
    return vectors(path, *steps, *settings)


def test_a_run_on_a_device_is_that_of_a_cpu_and_resumes_exactly(
    points, tmp_path, monkeypatch, device, same
):
    """There it looks at steps 10, 20 and 23. The device without float64 steps as an Apple GPU."""
    if device == "pretend:1":
        for module in ("train", "runs.build"):
            monkeypatch.setattr(f"scorefield.{module}.NO_FOUND_INF", {"pretend", "cpu"})

    def end(place):
        settings = _vectors(points, "training.steps=23", f"machine.device={place}")
        list(start(settings, tmp_path / place))
        assert [line["step"] for line in read_log(tmp_path / place)] == [*range(1, 24)]
        return read_tensors(state_files(tmp_path / place)[-1]).tensors

    same(end)
    settings = _vectors(points, "training.steps=23", f"machine.device={device}")
    list(islice(start(settings, tmp_path / "run"), 14))
    list(resume(tmp_path / "run"))
    assert_same_end(tmp_path / "run", tmp_path / device)


@pytest.mark.one_face
def test_a_run_of_images_on_a_device_is_that_of_a_cpu(tmp_path, device, same, growth):
    """Accumulated, with labels, flips and a grid; between looks, nothing is copied or read."""
    settings = ["training.accumulate=2", "data.labels=true", "data.flip=true", "sampling.steps=2"]
    settings += ["keeping.samples=4", "keeping.evaluate=0", "keeping.checkpoint=3"]

    def begin(place, name):
        own = "training.steps=4", f"machine.device={place}"
        return start(_experiment(*settings, *own), tmp_path / name)

    def end(place):
        list(begin(place, place))
        grid = np.array(Image.open(tmp_path / place / "samples/00000004.png"))
        return read_tensors(state_files(tmp_path / place)[-1]).tensors, torch.from_numpy(grid)

    same(end)
    run = iter(begin(device, "run"))
    next(run)
    assert not growth(lambda steps: list(islice(run, steps)), 0, 1)
    next(run)
    run.close()
    list(resume(tmp_path / "run"))
    assert_same_end(tmp_path / "run", tmp_path / device)


def poison(monkeypatch, steps):
    """Make the batches of some steps NaN; return the list of steps that are asked for."""
    stream, asked = Batches.stream, []

    def bad(self, begin=0):
        for step, (x, labels) in enumerate(stream(self, begin), begin):
            asked.append(step)
            yield LabelledBatch(x * math.nan if steps(step, len(asked)) else x, labels)

    monkeypatch.setattr(Batches, "stream", bad)
    return asked


@pytest.mark.filterwarnings("ignore:step .* is skipped")
def test_a_step_with_a_bad_batch_is_skipped_and_logged(points, tmp_path, monkeypatch):
    poison(monkeypatch, lambda step, _: step in (3, 4, 11))
    updates = list(start(_vectors(points), tmp_path / "run"))
    assert [u.step for u in updates if u.skipped] == [4, 5, 12]
    lines = {line["step"]: line for line in read_log(tmp_path / "run")}
    assert [*lines] == list(range(1, 31))
    assert lines[4]["skipped"]
    assert lines[4]["loss"] is None
    assert "skipped" not in lines[6]
    tensors = read_tensors(state_files(tmp_path / "run")[-1]).tensors
    assert all(value.isfinite().all() for value in tensors.values())


@pytest.mark.filterwarnings("ignore:step .* is skipped")
@pytest.mark.parametrize("seconds", [600.0, 0.0])  # between checkpoints by time
def test_several_bad_batches_roll_back_and_halve_the_rate(points, tmp_path, monkeypatch, seconds):
    monkeypatch.setattr("scorefield.runs.run.CHECKPOINT_EVERY", seconds)
    asked, updates = poison(monkeypatch, lambda step, n: 12 <= step < 20 and n < 21), []
    for update in start(_vectors(points), tmp_path / "run"):
        updates.append(update)
        assert int(state_files(tmp_path / "run")[-1].stem) <= update.step
    assert asked == [*range(17), *range(10, 30)]
    assert [line["step"] for line in read_log(tmp_path / "run")] == list(range(1, 31))
    assert updates[5].rate == 2 * updates[-1].rate
    assert read_tensors(state_files(tmp_path / "run")[-1]).about["slower"] == 0.5


@pytest.mark.filterwarnings("ignore:step .* is skipped")
def test_the_state_does_not_depend_on_how_often_a_run_looks(points, tmp_path, monkeypatch):
    stream = Batches.stream
    for every, last in ((1, 17), (7, 20)):  # a checkpoint is due at 20
        bad = [4, *range(13, 18)]  # once
        monkeypatch.setattr(Batches, "stream", stream)
        asked = poison(monkeypatch, lambda k, _, bad=bad: k + 1 in bad and not bad.remove(k + 1))
        for module in ("train", "runs.run"):
            looks = f"scorefield.{module}.is_look"
            monkeypatch.setattr(looks, lambda step, _, every=every: step % every == 0)
        list(start(_vectors(points), tmp_path / str(every)))
        assert asked == [*range(last), *range(10, 30)]
    assert_same_end(tmp_path / "7", tmp_path / "1")


@pytest.mark.filterwarnings("ignore:step .* is skipped")
def test_a_run_rolls_back_only_once(points, tmp_path, monkeypatch):
    poison(monkeypatch, lambda step, _: step >= 12)
    with pytest.raises(ValueError, match=r"up to 17.*half the learning rate .*NaN in the data"):
        list(start(_vectors(points), tmp_path / "run"))
    assert read_tensors(state_files(tmp_path / "run")[-1]).about["step"] == 10


@pytest.mark.filterwarnings("ignore:step .* is skipped")
def test_skipped_steps_are_counted_across_a_kill(points, tmp_path, monkeypatch):
    # NaN on both sides of the checkpoint at step 10
    settings = ["training.steps=22"]
    poison(monkeypatch, lambda step, _: 8 <= step < 13)
    list(start(_vectors(points, *settings), tmp_path / "whole"))
    list(islice(start(_vectors(points, *settings), tmp_path / "run"), 11))
    list(resume(tmp_path / "run"))
    assert read_tensors(state_files(tmp_path / "run")[-1]).about["slower"] == 0.5
    assert_same_end(tmp_path / "run", tmp_path / "whole")


def test_resuming_removes_only_its_own_partial_files(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run/.env").write_text("secret")
    (tmp_path / "run/.git").mkdir()
    (tmp_path / "run/checkpoints/.00000040.safetensors.123").write_text("cut sh")
    list(resume(tmp_path / "run"))
    assert (tmp_path / "run/.env").read_text() == "secret"
    assert [p.name for p in (tmp_path / "run/checkpoints").glob(".*")] == []


def test_a_run_can_be_resumed_from_another_folder(points, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(points, "x.npy")
    start(_vectors("x.npy", "training.steps=2"), "run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    list(resume("../run"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sampling.sampler=foo", "there are annealed_langevin"),
        ("sampling.epsilon=1e-3", "epsilon"),
        ("training.batch=0", r"training\.batch=0: give 1 or more"),
        ("training.ema=2", r"training\.ema=2"),
        ("training.clip=-1", r"training\.clip=-1: give more than 0"),
        ("levels.std=0", r"levels\.std=0"),
        ("levels.sigma_max=0", r"levels\.sigma_max=0: give more than 0"),
        ("levels.count=1", r"levels\.count=1: give 2 or more"),
        ("sampling.epsilon=0", r"sampling\.epsilon=0: give more than 0"),
        ("keeping.checkpoint=-3", r"keeping\.checkpoint=-3"),
        ("training.objective=consistency", "name the model to tune by --from RUN"),
        ("training.references=-1", r"training\.references=-1: give 0 or more"),
        ("sampling.sampler=consistency", "is for models that are tuned to it: leave it out"),
        ("network.widht=3", r"network\.widht does not exist: did you mean width"),
        ("network.kind=Unet", "did you mean UNet"),
        ("data.source=mixture", "data are vectors of 2 numbers"),
        ("network={kind: DiT, patch: 3}", "patch=3: give one that divides images of 8 × 8"),
    ],
)
def test_a_bad_setting_fails_at_the_start(tmp_path, setting, message):
    with pytest.raises((ValueError, TypeError), match=message):
        start(_experiment(setting), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("machine.device=cuda:99", "device 'cuda:99' is not available"),
        ("machine.device=tpu9", "'tpu9' is not available: the devices are cpu, cuda and mps"),
        ("machine.device=mps:9", "'mps:9' is not available: it needs a Mac"),
        ("machine.threads=1000000", r"machine\.threads=1e\+06: give 1,024 or less"),
        ("data.workers=1000000", r"data\.workers=1e\+06: give 1,024 or less"),
        ("levels.count=1000000000", r"levels\.count=1e\+09: give 1,000,000 or less"),
        ("sampling.steps=1000000000", r"sampling\.steps=1e\+09: give 1,000,000 or less"),
        ("network.blocks=10000000", r"network\.blocks=1e\+07: give 10,000 or less"),
        ("network.blocks=90", r"100 parameter tensors: give fewer network\.blocks"),
        ("network.width=100000", "'width': 100000.* takes .* has 1 GiB, .* give a smaller network"),
        ("network.width=1000000000000000000", "'width': 1000000000000000000.* overflowed"),
        ("training.batch=100000000", r"batch=100000000.* cpu has 1 GiB, .* or a batch of \d+ or"),
        ("training.batch=5000000", r"takes 0\.866 GiB .* 80% of it .* training\.accumulate=2 or a"),
        ("training.accumulate=999", r"accumulate=999: give \d+ or less, .* training\.batch=\d+"),
        ("training.steps=1000000000000000000", None),  # nothing depends on how many there are
    ],
)
def test_settings_beyond_the_machine(points, tmp_path, monkeypatch, setting, message):
    limit = tmp_path / "memory.max"  # of a container
    limit.write_text(f"{2**30}\n")
    monkeypatch.setattr("scorefield.show.machine.CONTAINER_LIMITS", [limit])
    monkeypatch.setattr("scorefield.runs.build.MAX_PARAMETERS", 100)
    edited = tmp_path / "edited"
    config_file = start(_vectors(points), edited).directory / "config.json"
    config_file.write_text(as_json(override(read(config_file), [setting])))
    for run in (lambda: start(_vectors(points, setting), tmp_path / "new"), lambda: resume(edited)):
        if message is None:
            assert next(iter(run())).step == 1
            continue
        with pytest.raises(ValueError, match=message):
            run()
    assert message is None or not (tmp_path / "new").exists()


def test_a_batch_in_parts_needs_the_memory_of_a_part(points, monkeypatch):
    monkeypatch.setattr("scorefield.runs.build.memory_bytes", lambda device: 2**30)
    experiment, _ = resolve(_vectors(points), load_data(str(points)))
    experiment = override(experiment, ["training.batch=8000000"])
    with pytest.raises(ValueError, match=r"give training\.accumulate=2 or a batch of 4\d{6} or"):
        outline_model(experiment, torch.Size([3]))
    outline_model(override(experiment, ["training.accumulate=2"]), torch.Size([3]))


def test_training_starts_from_a_saved_model(whole, tmp_path):
    path = whole / "model.safetensors"
    still = _experiment("training.steps=1", "training.rate=0", f"start={path}")
    list(start(still, tmp_path / "run"))
    start(still, tmp_path / "killed")  # before its first checkpoint
    list(resume(tmp_path / "killed"))
    old = read_tensors(path).under("net")
    for run in ("run", "killed"):
        new = read_tensors(state_files(tmp_path / run)[-1]).under("net")
        assert all(torch.equal(old[name], new[name]) for name in old)
    with pytest.raises(ValueError, match=r"for samples of shape \(1, 8, 8\)"):
        start(_experiment(f"start={path}", "data.source=mixture"), tmp_path / "other")


def test_consistency_tuning_resumes_in_its_stage(points, tmp_path):
    model = finish(_vectors(points, "training.steps=1"), tmp_path / "run")
    settings = (
        "training.objective=consistency", f"start={tmp_path / 'run'}", "training.steps=12",
        "training.stage=6", "keeping.checkpoint=5", "training.rate=0.01",
    )  # fmt: skip
    experiment = choose_experiment("vectors", source=str(points), settings=settings)
    own = experiment.sampling, experiment.levels.std, experiment.keeping.best
    assert own == (Sampling("consistency", steps=2), 2.0, "last")
    default = choose_experiment("vectors", settings=settings[:2]).training.rate
    assert default == pytest.approx(0.15 * PRESETS["vectors"].training.rate)
    tuned = finish(experiment, tmp_path / "whole")
    assert build_plan(tuned, experiment.sampling).evaluations == 2
    list(islice(start(experiment, tmp_path / "killed"), 11))  # its last checkpoint is of step 10
    list(resume(tmp_path / "killed"))
    assert_same_end(tmp_path / "killed", tmp_path / "whole")
    list(start(override(experiment, ["training.stage=100"]), tmp_path / "one"))
    one, two = (read_log(tmp_path / name) for name in ("one", "whole"))
    same = [a["loss"] == b["loss"] for a, b in zip(one, two, strict=True)]
    assert same == [True] * 6 + [False] * 6
    assert not torch.equal(*(parameters_to_vector(m.parameters()) for m in (model, tuned)))


@pytest.mark.parametrize("kind", ["UNet", "DiT"])
def test_a_run_is_class_conditional_if_asked_for(tmp_path, kind):
    form = [] if kind == "UNet" else ["network={kind: DiT, width: 8, blocks: 1, heads: 2}"]
    conditional = "training.steps=2", "data.labels=true", *form
    list(start(_experiment(*conditional, f"data.classes={[*'abcdefghij']}"), tmp_path / "run"))
    for model in (load(tmp_path / "run"), resume(tmp_path / "run").model):
        assert (model.net.label.labels, model.classes) == (10, tuple("abcdefghij"))
    for setting, message in (
        (("data.classes=[a, b]", *conditional), "has 2 names, but digits has 10 classes: 0, 1, "),
        (("data.classes=[a, b]",), "add data.labels=true"),
    ):
        with pytest.raises(ValueError, match=message):
            start(_experiment(*setting), tmp_path / "other")
    wrong = _experiment("data.labels=true", "data.source=mixture", "network.kind=MLP")
    with pytest.raises(ValueError, match="has no classes"):
        start(wrong, tmp_path / "other")


def test_sigmas_beyond_the_range_are_clamped_to_its_ends():
    model, sigmas = ScoreModel(MLP(3), EDM(0.5, sigma_max=3.0, sigma_min=0.5)), []

    def score(x, sigma):
        sigmas.append(sigma)
        return x

    loss = build_loss(_experiment("levels.mean=0", "levels.std=9"), model)
    z = torch.tensor([-9.0, 0.0, 9.0])
    loss(score, torch.zeros(3, 3), noise=z.expand_as)
    assert sigmas[0].tolist() == [0.5, 1.0, 3.0]


def test_training_by_an_objective_has_its_loss():
    """The score's Jacobian is not diagonal, so that its exact and its sliced trace differ."""
    names = {*get_args(get_type_hints(Training)["objective"])} - {"consistency"}
    model, x = ScoreModel(MLP(3), EDM(0.5)), torch.randn(4, 3)
    score = lambda x, sigma: x.sin().cumsum(1)  # noqa: E731
    for name in names:
        loss = build_loss(_experiment(f"training.objective={name}", "levels.std=1"), model)
        plain = annealed(getattr(objectives, name), LogNormal(0.0, 1.0), edm_weight(0.5))
        assert torch.equal(loss(score, x, noise=seeded(0)), plain(score, x, noise=seeded(0)))


def test_finish_trains_resumes_or_loads(points, tmp_path):
    experiment = _vectors(points)
    trained = finish(experiment, tmp_path / "whole")
    list(islice(start(experiment, tmp_path / "run"), 13))  # its last checkpoint is of step 10
    steps = []

    def watch(run):
        for update in run:
            steps.append(update.step)
            yield update

    resumed = finish(experiment, tmp_path / "run", watch=watch)
    assert steps == list(range(11, 31))
    loaded = finish(experiment, tmp_path / "run", watch=watch)
    assert len(steps) == 20
    states = [model.net.state_dict() for model in (trained, resumed, loaded)]
    for state in states[1:]:
        assert all(torch.equal(state[name], states[0][name]) for name in states[0])


@pytest.mark.usefixtures("unchecked")
def test_data_in_memory_are_trained_on_and_kept_apart_from_others(points, tmp_path, error_of):
    x = torch.from_numpy(np.load(points))
    experiment = _vectors(points, "data.options={memory: 0}")
    start(experiment, tmp_path / "file")
    list(resume(tmp_path / "file"))
    for name, data in (("tensor", x), ("set", tensor_data(x))):
        run, changed = tmp_path / name, tensor_data(x + 1)
        start(experiment, run, data=data)
        assert "are gone: memory does not have them" in error_of("resume", run)
        with pytest.raises(TypeError, match="data is a ndarray: give a tensor"):
            resume(run, data=np.zeros((60, 3)))
        with pytest.raises(ValueError, match="not those the run started with"):
            resume(run, data=changed)
        model = finish(experiment, run, data=data)
        assert_same_end(run, tmp_path / "file")
        assert open_run(run, data=data)[1].train.shape == model.shape
        resume(run, data=points)  # a file of the same samples
        with pytest.raises(ValueError, match="not those the run started with"):
            finish(experiment, run, data=changed)
    for wrong in (x.long(), x[0], (x > 0).byte()):
        with pytest.raises(TypeError, match="data is a tensor of"):
            start(experiment, tmp_path / "wrong", data=wrong)
    with pytest.raises(ValueError, match="row 3 is not finite"):
        start(experiment, tmp_path / "wrong", data=x.index_fill(0, torch.tensor(3), math.nan))


@pytest.mark.parametrize("setting", ["training.rate=0.5", "network.width=16", "seed=1"])
def test_finish_refuses_a_run_of_another_experiment(points, tmp_path, setting):
    start(_vectors(points), tmp_path / "run")
    with pytest.raises(ValueError, match=f"holds another run, with {setting.partition('=')[0]}="):
        finish(_vectors(points, setting), tmp_path / "run")


def test_finish_leaves_the_number_of_threads(points, tmp_path):
    threads = torch.get_num_threads()
    settings = "training.steps=1", f"machine.threads={threads + 1}"
    finish(_vectors(points, *settings), tmp_path / "run")
    assert torch.get_num_threads() == threads
