"""Runs: what they leave, and that one killed, stopped or poisoned ends as it should."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from scorefield import LogNormal, load, sample
from scorefield.checkpoint import read_stored
from scorefield.data import load_data
from scorefield.runs import Interrupted, Run, resume, start
from scorefield.runs.build import Clamped, build_loss, build_model
from scorefield.runs.config import Experiment, overridden
from scorefield.runs.resolve import resolve
from scorefield.train import train

SMALL = [
    "network.width=8",
    "network.multipliers=[1]",
    "network.blocks=1",
    "network.attention=[]",
    "network.fir=null",
    "network.progressive_input=none",
    "network.groups=4",
    "training.batch=8",
    "training.schedule=cosine",
    "training.warmup=3",
    "training.clip=5",
    "keeping.evaluate=8",
    "keeping.checkpoint=5",
    "keeping.samples=0",
    "machine.threads=1",
]


def _experiment(*settings):
    return overridden(Experiment(), [*SMALL, *settings])


def _log(directory):
    return [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]


def _last(directory):
    return sorted((directory / "checkpoints").glob("[0-9]*"))[-1]


def _same(one, other):
    first, second = read_stored(one).tensors, read_stored(other).tensors
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def _drain(updates):
    return list(updates)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 40 steps that nothing disturbed."""
    directory = tmp_path_factory.mktemp("run") / "whole"
    _drain(start(_experiment("training.steps=40", "keeping.samples=40"), directory))
    return directory


def test_what_a_run_leaves(whole):
    assert [line["step"] for line in _log(whole)] == list(range(1, 41))
    heldout = {line["step"]: line["heldout"] for line in _log(whole) if "heldout" in line}
    assert [*heldout] == [8, 16, 24, 32, 40]
    assert [p.name for p in sorted((whole / "checkpoints").iterdir())] == [
        f"{step:08d}.safetensors" for step in (30, 35, 40)
    ]
    best = min(heldout, key=heldout.get)
    assert read_stored(whole / "model.safetensors").about["step"] == best
    assert (whole / "samples/00000040.png").exists()
    assert sample(load(whole), 3, steps=2).shape == (3, 1, 8, 8)


@pytest.mark.parametrize("best", ["heldout", "last"])
def test_the_model_is_the_best_or_the_last(tmp_path, monkeypatch, best):
    losses = iter([3.0, 1.0, math.nan, 2.0])
    monkeypatch.setattr(Run, "_heldout", lambda run: torch.full((2,), next(losses)))
    _drain(start(_experiment("training.steps=32", f"keeping.best={best}"), tmp_path / "run"))
    heldout = [line["heldout"] for line in _log(tmp_path / "run") if "heldout" in line]
    assert heldout == [3.0, 1.0, None, 2.0]
    about = read_stored(tmp_path / "run/model.safetensors").about
    chosen = {"heldout": (16, 1.0), "last": (32, 2.0)}[best]
    assert (about["step"], about["heldout"], about["best"]) == (*chosen, 1.0)


def test_the_config_leaves_nothing_open(whole):
    kept = json.loads((whole / "config.json").read_text())
    assert kept["network"]["channels"] == 1
    assert kept["levels"]["sigma_max"] == pytest.approx(4.5, abs=0.4)
    assert kept["machine"] == {
        "device": "cpu", "autocast": "off", "channels_last": "off", "compile": "off", "threads": 1,
        "winograd": "off", "onednn": "off",
    }  # fmt: skip
    assert None not in kept["levels"].values()


def test_the_weights_are_those_of_the_plain_loop(whole):
    """The run is `train` and no more: from the same start, by hand."""
    data = load_data("digits")
    experiment, _ = resolve(_experiment("training.steps=40"), data)
    model = build_model(experiment, data)
    from scorefield.data import Batches
    from scorefield.train import cosine, derive_seed

    batches = Batches(data.train, 8, seed=0)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    list(
        train(
            model,
            lambda step: batches(step).x,
            build_loss(experiment, model),
            optimizer=adam,
            steps=40,
            schedule=cosine(40, 3),
            clip=5.0,
            seed=derive_seed(0, 2),
        )
    )
    raw = read_stored(_last(whole)).under("extra.raw")
    assert all(torch.equal(raw[name], value) for name, value in model.net.state_dict().items())


def test_killed_twenty_times_it_ends_as_the_whole(whole, tmp_path):
    directory, chance, during_writes = tmp_path / "run", random.Random(0), 0
    command = [sys.executable, Path(__file__).parent / "trainer.py", *SMALL, "training.steps=40"]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen(command, **pipes) as trainer:
        for kill in range(20):
            slow = kill % 2
            print(directory, 0.02 * slow, file=trainer.stdin, flush=True)
            child, enough = (
                int(trainer.stdout.readline()),
                _done(directory) + chance.randrange(1, 5),
            )
            while _done(directory) < 40:
                if slow and any(directory.rglob(".*.safetensors*")):
                    during_writes += 1
                    break
                if not slow and _done(directory) >= enough:
                    break
                time.sleep(0.001)
            os.kill(child, signal.SIGKILL)
            assert trainer.stdout.readline() == "gone\n"
    assert _done(directory) < 40
    assert during_writes == 10
    _drain(resume(directory))
    assert _same(_last(directory), _last(whole))
    assert _same(directory / "model.safetensors", whole / "model.safetensors")
    ours, theirs = ([{**x, "time": 0} for x in _log(d)] for d in (directory, whole))
    assert ours == theirs
    assert not [*directory.rglob(".*")]


def _done(directory):
    log = directory / "log.jsonl"
    return log.read_text().count("\n") if log.exists() else 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_and_saves(whole, tmp_path, number):
    before = signal.getsignal(number)

    def kick(updates):
        for update in updates:
            if update.step == 6:
                os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match=r"after step 6.*scorefield resume") as caught:
        kick(start(_experiment("training.steps=40"), tmp_path / "run"))
    assert caught.value.number == number
    assert signal.getsignal(number) == before
    assert read_stored(_last(tmp_path / "run")).about["step"] == 6
    _drain(resume(tmp_path / "run"))
    assert _same(_last(tmp_path / "run"), _last(whole))


@pytest.fixture
def poisoned(tmp_path):
    """Vectors whose rows from some on are NaN only after the data have been looked at."""
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(0).normal(size=(400, 3)).astype("float32"))
    return path


VECTORS = [
    "network={kind: MLP, width: 16, blocks: 1}",
    "training.batch=8",
    "training.steps=30",
    "keeping.checkpoint=10",
    "keeping.evaluate=0",
    "machine.threads=1",
]


def _vectors(path, *settings):
    made = overridden(Experiment(), [*VECTORS, f"data.source={path}", *settings])
    return replace(made, network={"kind": "MLP", "width": 16, "blocks": 1})


def _poison(monkeypatch, steps):
    """Batches of these steps are NaN; which of them were asked for is returned."""
    from scorefield.data import Batch, Batches

    stream, asked = Batches.stream, []

    def bad(self, begin=0):
        for step, (x, labels) in enumerate(stream(self, begin), begin):
            asked.append(step)
            yield Batch(x * math.nan if steps(step, len(asked)) else x, labels)

    monkeypatch.setattr(Batches, "stream", bad)
    return asked


def test_a_bad_batch_is_skipped_and_logged(poisoned, tmp_path, monkeypatch):
    _poison(monkeypatch, lambda step, _: step in (3, 4, 11))
    updates = _drain(start(_vectors(poisoned), tmp_path / "run"))
    assert [u.step for u in updates if u.skipped] == [4, 5, 12]
    lines = {line["step"]: line for line in _log(tmp_path / "run")}
    assert [*lines] == list(range(1, 31))
    assert lines[4]["skipped"]
    assert lines[4]["loss"] is None
    assert "skipped" not in lines[6]
    assert all(
        value.isfinite().all() for value in read_stored(_last(tmp_path / "run")).tensors.values()
    )


def test_after_several_it_goes_back_with_half_the_rate(poisoned, tmp_path, monkeypatch):
    asked = _poison(monkeypatch, lambda step, n: 12 <= step < 20 and n < 21)
    updates = _drain(start(_vectors(poisoned), tmp_path / "run"))
    assert asked == [*range(17), *range(10, 30)]
    assert [line["step"] for line in _log(tmp_path / "run")] == list(range(1, 31))
    assert updates[5].rate == 2 * updates[-1].rate
    assert read_stored(_last(tmp_path / "run")).about["slower"] == 0.5


def test_it_goes_back_once_only(poisoned, tmp_path, monkeypatch):
    _poison(monkeypatch, lambda step, _: step >= 12)
    with pytest.raises(ValueError, match=r"up to 17.*half the learning rate .*NaN in the data"):
        _drain(start(_vectors(poisoned), tmp_path / "run"))
    assert read_stored(_last(tmp_path / "run")).about["step"] == 10


def test_tensorboard_sees_each_step_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = ["training.steps=9", "keeping.tensorboard=true"]
    for update in start(_experiment(*settings), tmp_path / "run"):
        if update.step == 7:  # the checkpoint is that of step 5
            break
    _drain(resume(tmp_path / "run"))
    events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    losses = {line["step"]: line["loss"] for line in _log(tmp_path / "run")}
    seen = {event.step: event.value for event in events.Scalars("loss")}
    assert seen == pytest.approx(losses, rel=1e-6)
    assert [event.step for event in events.Scalars("heldout")] == [8, 9]


def test_skips_in_a_row_are_counted_over_a_kill(poisoned, tmp_path, monkeypatch):
    """NaN on both sides of the checkpoint at 10: the killed run goes back when the whole does."""
    settings = ["training.steps=22"]
    _poison(monkeypatch, lambda step, _: 8 <= step < 13)
    _drain(start(_vectors(poisoned, *settings), tmp_path / "whole"))
    for update in start(_vectors(poisoned, *settings), tmp_path / "run"):
        if update.step == 11:
            break
    _drain(resume(tmp_path / "run"))
    assert read_stored(_last(tmp_path / "run")).about["slower"] == 0.5
    assert _same(_last(tmp_path / "run"), _last(tmp_path / "whole"))
    ours, theirs = ([{**x, "time": 0} for x in _log(tmp_path / d)] for d in ("run", "whole"))
    assert ours == theirs


def test_resuming_removes_nothing_of_others(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run/.env").write_text("secret")
    (tmp_path / "run/.git").mkdir()
    (tmp_path / "run/checkpoints/.00000040.safetensors.123").write_text("cut sh")
    _drain(resume(tmp_path / "run"))
    assert (tmp_path / "run/.env").read_text() == "secret"
    assert [p.name for p in (tmp_path / "run/checkpoints").glob(".*")] == []


def test_a_run_killed_before_its_first_checkpoint_begins_with_the_same_model(whole, tmp_path):
    path = whole / "model.safetensors"
    start(_experiment("training.steps=1", "training.rate=0", f"start={path}"), tmp_path / "run")
    _drain(resume(tmp_path / "run"))  # which was never iterated over
    old, new = read_stored(path).under("net"), read_stored(_last(tmp_path / "run")).under("net")
    assert all(torch.equal(old[name], new[name]) for name in old)


def test_a_run_is_resumed_from_anywhere(poisoned, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start(_vectors(poisoned.name, "training.steps=2"), "run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    _drain(resume("../run"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sampling.sampler=foo", "there are annealed_langevin"),
        ("sampling.epsilon=1e-3", "epsilon"),
        ("training.batch=0", r"training\.batch=0: give 1 or more"),
        ("training.steps=0", r"training\.steps=0: give 1"),
        ("training.ema=2", r"training\.ema=2\.0"),
        ("training.clip=-1", r"training\.clip=-1\.0: give more than 0"),
        ("levels.std=0", r"levels\.std=0\.0"),
        ("keeping.checkpoint=-3", r"keeping\.checkpoint=-3"),
        ("data.workers=-1", r"data\.workers=-1"),
        ("seed=-1", "seed=-1"),
    ],
)
def test_what_could_only_fail_later_fails_at_the_start(tmp_path, setting, message):
    with pytest.raises((ValueError, TypeError), match=message):
        start(_experiment(setting), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_can_be_trained_on(whole, tmp_path):
    path = whole / "model.safetensors"
    begun = _experiment("training.steps=1", "training.rate=0", f"start={path}")
    _drain(start(begun, tmp_path / "run"))
    old, new = read_stored(path).under("net"), read_stored(_last(tmp_path / "run")).under("net")
    assert all(torch.equal(old[name], new[name]) for name in old)
    with pytest.raises(ValueError, match=r"for samples of shape \(1, 8, 8\)"):
        start(_experiment(f"start={path}", "data.source=mixture"), tmp_path / "other")


def test_classes_are_learnt_when_asked_for(tmp_path):
    _drain(start(_experiment("training.steps=2", "data.labels=true"), tmp_path / "run"))
    model = load(tmp_path / "run")
    assert model.net.label.labels == 10
    wrong = _experiment("data.labels=true", "data.source=mixture", "network.kind=MLP")
    with pytest.raises(ValueError, match="has no classes"):
        start(wrong, tmp_path / "other")


def test_runs_that_cannot_be(whole, tmp_path):
    with pytest.raises(ValueError, match=r"holds a run.*scorefield resume"):
        start(_experiment(), whole)
    with pytest.raises(ValueError, match=r"no config\.json"):
        resume(tmp_path)
    with pytest.raises(ValueError, match=r"network\.widht is not an argument: did you mean width"):
        start(_experiment("network.widht=3"), tmp_path / "a")
    with pytest.raises(ValueError, match="did you mean UNet"):
        start(_experiment("network.kind=Unet"), tmp_path / "a")
    with pytest.raises(ValueError, match="data are vectors of 2 numbers"):
        start(_experiment("data.source=mixture"), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_the_tails_of_a_law_move_to_its_ends():
    law = Clamped(LogNormal(0.0, 1.0), 3.0, 0.5)
    assert law(torch.tensor([-9.0, 0.0, 9.0])).tolist() == [0.5, 1.0, 3.0]
