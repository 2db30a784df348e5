"""Faults: files stay whole, errors name the fix, and a resumed run gives the same result.

Each test causes a fault, resumes the run, and compares it with an undisturbed one.
"""

import ctypes
import errno
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scorefield import load, sample
from scorefield.checkpoint import read_tensors
from scorefield.cli import main
from scorefield.data import DATASETS, Arrays, Batches, Dataset, fingerprint_files
from scorefield.evaluate import open_run
from scorefield.runs import resume, start
from scorefield.runs.config import Experiment, override

STEPS = 4
TINY = f"""
    network.kind=MLP network.width=8 network.blocks=1 training.batch=4 training.steps={STEPS}
    keeping.checkpoint=2 keeping.evaluate=4 machine.threads=1
""".split()


def vectors(path, *settings):
    return override(Experiment(), [*TINY, f"data.source={path}", *settings])


def _end(run, step=0, fault=None):
    """Train to the end, or to the error that a fault after a step leads to, and return that."""
    try:
        for update in run() if callable(run) else run:
            if update.step == step:
                fault()
    except OSError as error:
        return str(error)


def _finish(directory, experiment=None, like=None):
    """Resume the run if there is one, else start it; return the error, or compare the end."""
    started = (directory / "config.json").exists()
    error = _end(lambda: resume(directory) if started else start(experiment, directory))
    if like is not None:
        assert error is None
        assert_same_end(directory, like)
    return error


def read_log(directory):
    lines = (directory / "log.jsonl").read_text().splitlines()
    return [json.loads(line) | {"time": 0} for line in lines]


def state_files(directory):
    return sorted((directory / "checkpoints").glob("[0-9]*.safetensors"))


def assert_same_end(one, other):
    """The last state, all models and the log are bit-identical; no temporary file is left."""
    paths = (*other.glob("snapshots/*"), *other.glob("guide.safetensors"))
    files = [path.relative_to(other) for path in paths]
    for name in (state_files(other)[-1].relative_to(other), "model.safetensors", *files):
        first, second = read_tensors(one / name).tensors, read_tensors(other / name).tensors
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert read_log(one) == read_log(other)
    assert not [*one.rglob(".*")]


@pytest.fixture(scope="module")
def whole(points, tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "whole"
    list(start(vectors(points), directory))
    return directory


@pytest.fixture
def copy(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "run"))


@pytest.fixture
def disk(tmp_path):
    """A disk of a megabyte, where one can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    options = ["-t", "tmpfs", "-o", "size=1m", "none", str(place)]
    if os.name != "posix" or os.geteuid() or subprocess.run(["mount", *options]).returncode:
        pytest.skip("no disk can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def _fill_disk(patch, room=0, until=sys.maxsize):
    """Let writes and flushes fail from a number of them on; a write then stores half its bytes."""
    calls, write = [], os.write

    def refuse_when_full(handle, content=b""):
        calls.append(handle)
        if room < len(calls) <= until:
            if content:
                write(handle, bytes(content[: len(content) // 2]))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, content) if content else None

    patch.setattr(os, "write", refuse_when_full)
    patch.setattr(os, "fsync", refuse_when_full)
    return calls


def test_a_disk_that_is_full_from_any_write_on(points, whole, tmp_path):
    """Each attempt has room for one more write; every other disk has room again three later."""
    run, messages, room, phase, calls = tmp_path / "run", [], -1, None, [1]
    while len(calls) > room:
        last, phase = phase, (run.exists(), len(state_files(run)))
        room = room + 1 if phase == last else 0
        with pytest.MonkeyPatch.context() as patch:
            calls = _fill_disk(patch, room, until=room + 3 if room % 2 else sys.maxsize)
            messages.append(_finish(run, vectors(points)))
        assert all(read_tensors(path).about["step"] == int(path.stem) for path in state_files(run))
    assert_same_end(run, whole)
    messages = [message for message in messages if message]
    assert len(messages) >= 20  # the writes and flushes of an undisturbed run, without the lock's
    for message in messages:
        assert "could not be written: No space left on device" in message
        assert "MiB are free there" in message
        assert "config.json" in message or f"run scorefield resume {run}" in message
    saved = [re.search(r"step (\d) is saved|(no) step is saved", m) for m in messages]
    assert [*dict.fromkeys(m[1] or m[2] for m in saved if m)] == ["no", "0", "2", "4"]


EVERYTHING = ["keeping.samples=2", "sampling.steps=2", "keeping.tracker=tensorboard"]
DIGITS = override(Experiment(), TINY + EVERYTHING)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "digits"
    list(start(DIGITS, directory))
    return directory


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore:keeping.tracker=tensorboard failed")
@pytest.mark.parametrize("pages", [2, 12, 30, 48])
def test_a_real_disk_that_fills_up(disk, digits, pages):
    with suppress(OSError):
        (disk / "ballast").write_bytes(bytes(2**20 - 4096 * pages))
    run, message = disk / "run", _finish(disk / "run", DIGITS)
    assert re.search(r"could not be written: No space left .*MiB are free there", message)
    (disk / "ballast").unlink()
    assert all(read_tensors(path).about["step"] == int(path.stem) for path in state_files(run))
    _finish(run, DIGITS, like=digits)


def test_samples_on_a_full_disk(whole, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "samples.npy").write_bytes(b"older samples")
    with pytest.MonkeyPatch.context() as patch:
        _fill_disk(patch)
        assert main(["sample", str(whole), "-n", "2", "--steps", "2"]) == 2
    assert re.search(r"samples\.npy could not be written: No space.*free", capsys.readouterr().err)
    (file,) = tmp_path.iterdir()
    assert file.read_bytes() == b"older samples"


def test_a_directory_that_becomes_unwritable(points, whole, tmp_path):
    """Root may write anywhere, so directories stand where files are to be written."""
    run, model, lock = (tmp_path / name for name in ("run", "run/model.safetensors", "run/lock"))
    message = _end(start(vectors(points), run), 3, model.mkdir)
    assert re.search("model.* could not be written: .*; step 2 is saved; once that is", message)
    model.rmdir()
    lock.unlink()
    lock.mkdir()
    with pytest.raises(OSError, match="run/lock could not be written: Is a directory"):
        resume(run)
    lock.rmdir()
    _finish(run, like=whole)


@pytest.mark.parametrize(
    ("leavings", "started"),
    [
        ("lock .config.json.7", True),
        ("lock .table.json.7", True),
        ("lock table.json .config.json.7", True),
        ("table.json", False),  # without a lock, another program's
        ("lock .config.json.7 notes.txt", False),
        ("lock .npmrc", False),
    ],
)
def test_a_run_killed_before_it_has_a_configuration(points, whole, tmp_path, leavings, started):
    run = tmp_path / "run"
    run.mkdir()
    for name in leavings.split():
        (run / name).write_text("cut sh")
    if started:
        list(start(vectors(points), run))
        assert_same_end(run, whole)
        assert not (run / "table.json").exists()
    else:
        with pytest.raises(ValueError, match="exists and holds no run"):
            start(vectors(points), run)
        assert all((run / name).exists() for name in leavings.split())


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """A folder of images, larger than the memory that a run may take, and an undisturbed run."""
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    list(start(_folder(folder), folder / ".run"))
    return folder


@pytest.fixture
def pictures(gallery, tmp_path):
    return Path(shutil.copytree(gallery, tmp_path / "pictures"))


def _folder(path, *settings):
    return vectors(path, "data.options={memory: 0, size: 8, channels: 3}", *settings)


def _cut(path):
    os.truncate(path, path.stat().st_size // 2)


def _rewrite(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("fault", [Path.unlink, _cut, _rewrite])
@pytest.mark.parametrize("workers", [0, 2, None])
def test_data_that_change_under_a_run(pictures, points, whole, tmp_path, fault, workers):
    """Images, or an array: a mapped file that is truncated would end the process by SIGBUS."""
    files, like = sorted(pictures.glob("*.png")), pictures / ".run"
    experiment = _folder(pictures, f"data.workers={workers or 0}")
    if workers is None:
        files, like = [Path(shutil.copy(points, tmp_path / "x.npy"))], whole
        experiment = vectors(*files, "data.options={memory: 0}")
    run = start(experiment, tmp_path / "run")
    contents = {path: path.read_bytes() for path in files}
    message = _end(run, 1, lambda: [fault(path) for path in files])
    for path, content in contents.items():
        assert not path.exists() or path.read_bytes() != content
        path.write_bytes(content)
    reason = "x.npy" if like == whole else r"\d+.png (cannot be read|has changed|was written to)"
    assert re.search(rf"{files[0].parent}/{reason}", message)
    assert re.search(r"step [123] is saved; once that is fixed, run scorefield", message)
    _finish(tmp_path / "run", like=like)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda d: (d / "3.png").unlink(), r"3\.png is gone; put the old"),
        (lambda d: shutil.copy(d / "1.png", d / "x.png"), r"x\.png is new; put the old"),
        (lambda d: shutil.copy(d / "1.png", d / "2.png"), r"2\.png has changed; put the old"),
        (lambda d: [f.unlink() for f in d.glob("?.png")], r"0\.png is gone, .*, and 7 more; put"),
    ],
)
def test_a_run_is_resumed_with_its_own_data_only(pictures, tmp_path, error_of, fault, message):
    run = start(_folder(pictures), tmp_path / "run")
    next(iter(run))
    moved = shutil.copytree(pictures, tmp_path / "moved", copy_function=shutil.copyfile)
    shutil.rmtree(pictures)
    with pytest.raises(ValueError, match=f"began with are gone: {pictures} does .* --data"):
        resume(tmp_path / "run")
    resume(tmp_path / "run", data=moved)  # a copy is the same data, with other times
    resume(tmp_path / "run")  # the new place is recorded
    fault(moved)
    with pytest.raises(ValueError, match=rf"not those the run started with: {message}"):
        resume(tmp_path / "run")
    _, command = error_of("resume", tmp_path / "run").split("with these by scorefield ")
    assert str(moved) in command
    assert main(shlex.split(command)) == 0
    resume(tmp_path / "run")


def test_a_folder_held_out_belongs_to_the_data(pictures, tmp_path, error_of):
    others = Path(shutil.copytree(pictures, tmp_path / "others"))
    run = str(tmp_path / "run")
    fields = [f"--{field}" for field in TINY]
    options = ["--data", str(pictures), "--held-out", str(others), *fields, "--out", run]
    assert main(["train", *options]) == 0
    data = json.loads((tmp_path / "run/config.json").read_text())["data"]
    assert data["options"] == {"held_out": str(others)}
    assert main(["resume", run]) == 0
    (others / "3.png").write_bytes((others / "4.png").read_bytes())
    assert "held out: 3.png has changed" in error_of("resume", run)
    shutil.rmtree(others)
    assert f"are gone: {others} does not" in error_of("resume", run)


def test_a_moved_file_is_used_where_it_is_now(copy, points, tmp_path, error_of):
    config, run = copy / "config.json", str(copy)
    config.write_text(config.read_text().replace(str(points), str(tmp_path / "x.npy")))
    moved = str(shutil.copy(points, tmp_path / "y.npy"))
    np.save(tmp_path / "z.npy", np.zeros((60, 3), np.float32))
    for command in ("resume", "evaluate"):
        assert f"are gone: {tmp_path}/x.npy does not" in error_of(command, run)
        assert "z.npy are not those" in error_of(command, run, "--data", tmp_path / "z.npy")
    few = ["-n", "20", "--steps", "2", "--bits", "0"]
    assert main(["evaluate", run, "--data", moved, *few]) == 0
    assert "are gone" in error_of("evaluate", run)  # it only reads
    assert main(["resume", run, "--data", moved]) == 0
    assert json.loads(config.read_text())["data"]["source"] == moved


def test_data_sets_with_a_name_are_recognised_by_their_samples(tmp_path, monkeypatch):
    list(start(override(Experiment(), TINY), tmp_path / "run"))
    resume(tmp_path / "run")
    digits = DATASETS["digits"]()
    pixel = Arrays(digits.train.data.clone(), digits.train.labels, 17)
    pixel.data[0, 0, 0, 0] += 1
    labels = replace(digits.train, labels=1 - digits.train.labels)
    for train, use in ((pixel, resume), (pixel, open_run), (labels, resume)):
        other = Dataset("digits", train, digits.test)
        monkeypatch.setitem(DATASETS, "digits", lambda other=other: other)
        with pytest.raises(ValueError, match=r"digits are not those .*: trained on has changed"):
            use(tmp_path / "run")


def test_fingerprints_of_large_data_read_a_part_of_them(tmp_path, monkeypatch):
    """Pieces of a large file, both ends included; of many images, only the sizes of most."""
    path = tmp_path / "x.npy"
    path.write_bytes(bytes(2**26 + 2**20))
    before = fingerprint_files(str(path))
    for place in (0, 2**25, 2**26 + 2**20 - 1):
        with path.open("r+b") as file:
            file.seek(place)
            file.write(b"!")
        assert fingerprint_files(str(path)) != before
        before = fingerprint_files(str(path))
    many = tmp_path / "many"
    many.mkdir()
    for i in range(20):
        (many / f"{i:02}.png").write_bytes(b"%02d" % i)
    fingerprints = fingerprint_files(str(many))
    assert len(set(fingerprints.values())) == 20
    monkeypatch.setattr("scorefield.data.fingerprint.CHECKED_IMAGES", 10)
    parts = fingerprint_files(str(many))
    assert parts == {k: v if int(k[:2]) % 2 == 0 else "2" for k, v in fingerprints.items()}


class Deadly(Arrays):
    """The worker that takes the seventh batch ends by an exception, or hangs."""

    def take(self, index):
        if threading.current_thread() is not threading.main_thread():
            self.readers.append(threading.current_thread())
            if next(self.numbers) == 7:
                self.fault()
        return super().take(index)


def _end_thread():
    thread = ctypes.c_ulong(threading.get_ident())
    ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(SystemExit))
    time.sleep(0.01)


@pytest.mark.parametrize("fault", ["end", "hang"])
def test_a_worker_that_dies_is_replaced(monkeypatch, fault):
    released = threading.Event()
    if fault == "hang":
        monkeypatch.setattr("scorefield.data.batches.WORKER_TIMEOUT_SECONDS", 0.2)
    Deadly.readers, Deadly.numbers = [], count(1)
    Deadly.fault = staticmethod(_end_thread if fault == "end" else released.wait)
    x = torch.rand(40, 2)
    stream = Batches(Deadly(x), 4, workers=2).stream()
    expected = Batches(Arrays(x), 4)
    assert all(torch.equal(next(stream).x, expected(step).x) for step in range(25))
    assert len({*Deadly.readers}) > 2  # new workers
    released.set()
    stream.close()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("fault", [_cut, _rewrite, lambda path: path.write_bytes(b"")])
def test_the_state_before_a_damaged_one_is_used(copy, whole, capsys, fault):
    fault(state_files(copy)[-1])
    assert main(["resume", str(copy)]) == 0
    out, err = capsys.readouterr()
    assert f"from step 2 to {STEPS}" in out
    assert re.search(r"00000004.\w+ is damaged.* renamed to 0+4.safetensors.damaged, .*2", err)
    assert (copy / "checkpoints/00000004.safetensors.damaged").exists()
    assert_same_end(copy, whole)
    assert main(["resume", str(copy)]) == 0
    assert capsys.readouterr().err == ""


def test_a_run_without_an_undamaged_state_is_refused_not_started_again(copy, error_of):
    for path in state_files(copy):
        _cut(path)
    log = (copy / "log.jsonl").read_text()
    for _ in range(2):
        err = error_of("resume", copy)
        assert re.search(r"has no undamaged checkpoint \(.*00000004.safetensors is damaged", err)
        assert f"--config {copy}/config.json --from {copy}/model.safetensors --out NEW" in err
        assert [path.stem for path in state_files(copy)] == ["00000000", "00000002", "00000004"]
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(ValueError, match="has no undamaged checkpoint: put back a file of"):
        resume(copy)
    assert (copy / "log.jsonl").read_text() == log
    again = ["--config", f"{copy}/config.json", "--from", f"{copy}/model.safetensors"]
    assert main(["train", *again, "--out", f"{copy}/../new"]) == 0


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        *((lambda text, n=n: text[:n], "is damaged: .*; put it back") for n in (0, 40, -2)),
        (('"rate": 0.001', '"rate": 0.002'), "training.rate is 0.002, but was 0.001 when step 4"),
        (('"width": 8', '"width": 16'), "network.width is 16, but was 8 when step 4 was saved"),
        (('"seed": 0', '"seed": -1'), "seed=-1: give 0 or more"),
        (('"clip": null', '"clipp": null'), "training.clipp is no.* field: did you mean clip"),
        (('"start": null,', ""), "it has no start"),
    ],
)
def test_a_configuration_that_was_cut_short_or_edited_is_refused(copy, edit, message):
    path = copy / "config.json"
    text = path.read_text()
    path.write_text(edit(text) if callable(edit) else text.replace(*edit))
    assert path.read_text() != text
    with pytest.raises(ValueError, match=f"config.json.*{message}|{message}"):
        resume(copy)


def test_foreign_lines_of_a_log_are_removed(copy, whole):
    path = copy / "log.jsonl"
    first, *rest = path.read_bytes().splitlines(keepends=True)
    (copy / "checkpoints/00000004.safetensors").unlink()
    path.write_bytes(first + b"\xff\x00 garbage\n{}\n" + first + b"".join(rest) + b'{"step": 5')
    run = resume(copy)
    with pytest.warns(UserWarning, match=r"log.jsonl had 3 lines that are not from this run"):
        list(run)
    assert_same_end(copy, whole)


HOLD_LOCK = """import pathlib, sys
from scorefield.disk import hold_lock
with hold_lock(pathlib.Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()"""


def test_a_run_has_one_process(copy, whole, error_of, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (copy / "checkpoints/00000004.safetensors").unlink()
    (copy / "checkpoints/.00000004.safetensors.77").write_text("what the other process is writing")
    command, pipe = [sys.executable, "-c", HOLD_LOCK, copy], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as other:
        assert other.stdout.readline() == b"locked\n"
        assert "is in use by another process: wait" in error_of("resume", copy)
        assert (copy / "checkpoints/.00000004.safetensors.77").exists()
        assert main(["sample", str(copy), "-n", "1", "--steps", "2"]) == 0  # it only reads
        other.kill()
    _finish(copy, like=whole)  # the system has released the lock


def test_a_run_that_was_continued_elsewhere_must_be_resumed_again(copy, points):
    (copy / "checkpoints/00000004.safetensors").unlink()
    updates, second = iter(resume(copy)), resume(copy)
    next(updates)
    with pytest.raises(ValueError, match="in use by another process"):
        next(iter(second))
    list(updates)
    with pytest.raises(ValueError, match=r"has meanwhile reached step 4"):
        next(iter(second))
    with pytest.raises(ValueError, match="holds a run"):
        start(vectors(points), copy)


def test_a_checkpoint_is_sampled_with_its_runs_own_plan(points, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    list(start(vectors(points, "sampling.sampler=euler", "sampling.steps=3"), "run"))
    for name in ("checkpoints/00000004.safetensors", "model.safetensors", "."):
        assert main(["sample", f"run/{name}", "-n", "2"]) == 0
        assert "by euler, 3 evaluations" in capsys.readouterr().out
        expected = sample(load(f"run/{name}"), 2, "euler", steps=3)
        np.testing.assert_array_equal(np.load("samples.npy"), expected)
