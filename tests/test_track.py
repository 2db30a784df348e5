"""Trackers: each step once after a kill, whatever the tracker lost, and failures that stop nothing.

A copy of a run's folder, taken while it trains, is what a kill at that moment leaves.
"""

import json
import shutil
import signal
import subprocess
import sys
from itertools import count, islice
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_faults import DIGITS, assert_same_end, read_log, vectors
from test_run import poison

from scorefield.disk import hold_lock
from scorefield.evaluate import evaluate_run, write_evaluation
from scorefield.runs import resume, start, track
from scorefield.runs.config import as_json, override


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(track, "SEND_EVERY", 0.0)


def open_memory(store, directory, name, config):
    """Open a tracker that keeps rows in a list, of which a kill may lose the last ones."""
    store.opened.append((name, config["training.batch"]))
    if store.rewrites:
        store.rows.clear()
    last = store.rows[-1].step if store.rows else 0
    return track.Backend(last, store.rows.extend, store.ends.append)


@pytest.fixture
def store(monkeypatch):
    """The rows of a tracker that stands for trackio."""
    store = SimpleNamespace(rows=[], opened=[], ends=[], rewrites=False, __spec__="installed")
    monkeypatch.setitem(track.TRACKERS, "trackio", open_memory)
    monkeypatch.setitem(sys.modules, "trackio", store)
    return store


def _seen(rows):
    """The log that a tracker shows."""
    return [{"step": row.step} | row.values for row in rows]


def _expected(directory):
    """The log without what is not a curve."""
    lines = (line.items() for line in read_log(directory))
    return [{k: x for k, x in line if k == "step" or isinstance(x, float)} for line in lines]


@pytest.mark.parametrize("lost", [0, 2])  # the tracker is before the checkpoint, or after it
def test_a_killed_run_has_each_step_once_whatever_the_tracker_lost(store, tmp_path, lost):
    experiment = override(
        DIGITS, ["keeping.tracker=trackio", "training.steps=6", "keeping.evaluate=2"]
    )
    run, kills = start(experiment, tmp_path / "0"), count(1)
    for kill in kills:  # after 3, 5 and 6 steps; there are checkpoints after 2, 4 and 6
        for update in run:
            if update.step == [0, 3, 5, 6][kill]:
                shutil.copytree(run.directory, tmp_path / f"{kill}")
                rows = list(store.rows)
                break
        store.rows[:] = rows[: len(rows) - lost]
        run = resume(tmp_path / f"{kill}")
        if kill == 3:
            break
    assert run.at_end
    list(run)  # sends what the tracker lost after the last checkpoint
    assert _seen(store.rows) == _expected(run.directory)
    assert [row.step for row in store.rows if row.grid] == [2, 4, 6]
    assert len({*store.opened}) == 1  # the same run, by name
    assert store.ends[-1] is True
    assert store.ends[0] is False


def test_a_grid_reaches_the_tracker_where_no_other_line_is_due(store, tmp_path):
    settings = ["keeping.tracker=trackio", "keeping.log=0", "keeping.evaluate=0"]
    list(start(override(DIGITS, settings), tmp_path / "run"))
    assert [(row.step, bool(row.grid)) for row in store.rows] == [(2, True), (4, True)]


KILLED = """
import os, signal, sys, time
from scorefield.runs import start, track
from scorefield.runs.config import read
track.SEND_EVERY = 0.0
for update in start(read(sys.argv[1]), sys.argv[2]):
    if update.step == 3:
        time.sleep(float(sys.argv[3]))
        os.kill(os.getpid(), signal.SIGKILL)
"""


def _resume_killed(experiment, directory, wait=0):
    """Train to step 3, where the tracker is after the checkpoint, kill the process and resume."""
    config = directory.with_suffix(".json")
    config.write_text(as_json(experiment))
    child = subprocess.run(
        [sys.executable, "-c", KILLED, config, directory, str(wait)], check=False
    )
    assert child.returncode == -signal.SIGKILL
    run = resume(directory)
    assert run.step == 2
    list(run)


def test_tensorboard_shows_each_step_once_after_a_kill(tmp_path):
    _resume_killed(override(DIGITS, ["keeping.tracker=tensorboard"]), tmp_path / "run")
    track.send_figures(tmp_path / "run", {"heun/Fréchet": 1.5})
    list(resume(tmp_path / "run"))
    events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("heun/Fréchet")] == [(4, 1.5)]
    log = _expected(tmp_path / "run")
    for name in ("loss", "norm", "rate", "heldout", "best_heldout"):
        seen = [(event.step, event.value) for event in events.Scalars(name)]
        # rounded to float32
        assert seen == [(x["step"], pytest.approx(x[name], rel=1e-6)) for x in log if name in x]
    assert [image.step for image in events.Images("samples")] == [2, 4]
    (text,) = events.Tensors("config/text_summary")
    assert "training.batch: 4" in text.tensor_proto.string_val[0].decode()


@pytest.mark.filterwarnings("ignore:step .* is skipped")
def test_undone_steps_are_replaced_in_a_tracker_that_is_written_again(
    store, points, tmp_path, monkeypatch
):
    store.rewrites = True
    poison(monkeypatch, lambda step, asked: step >= 3 and asked < 9)
    list(start(vectors(points, "keeping.tracker=trackio", "training.steps=9"), tmp_path / "run"))
    assert len(store.opened) == 2  # steps 7 and 8 were undone
    assert _seen(store.rows) == _expected(tmp_path / "run")


@pytest.mark.parametrize("call", ["open", "log", "close"])
def test_a_tracker_that_fails_is_reported_once_and_stops_nothing(
    store, points, tmp_path, monkeypatch, call
):
    calls = []

    def fail(*args):
        calls.append(call)
        raise RuntimeError("no room\nleft")

    def open_failing(*arguments):
        return fail() if call == "open" else open_memory(*arguments)._replace(**{call: fail})

    list(start(vectors(points), tmp_path / "like"))
    monkeypatch.setitem(track.TRACKERS, "trackio", open_failing)
    with pytest.warns(UserWarning, match=r"keeping.tracker=trackio failed .*: no room left; the"):
        list(start(vectors(points, "keeping.tracker=trackio"), tmp_path / "run"))
    assert calls == [call]
    tracker = track.Tracker("trackio", tmp_path / "run")
    with pytest.warns(UserWarning, match="no room"):
        [tracker.open(4) for _ in range(3)]  # also when steps are undone
    assert calls == [call, call]
    assert_same_end(tmp_path / "run", tmp_path / "like")


def test_a_tracker_that_is_not_installed_is_named_before_the_run_starts(
    points, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"tracker=wandb needs .* 'scorefield\[wandb\]'"):
        start(vectors(points, "keeping.tracker=wandb"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_library_that_cannot_be_imported_is_reported_once_and_stops_nothing(
    points, tmp_path, monkeypatch
):
    list(start(vectors(points), tmp_path / "like"))
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "trackio.py").write_text("raise AttributeError('np.float_ was removed')")
    run = start(vectors(points, "keeping.tracker=trackio"), tmp_path / "run")
    with pytest.warns(UserWarning, match="trackio failed .*: np.float_ was removed; the") as caught:
        list(islice(run, 3))
    assert len(caught) == 1
    monkeypatch.setitem(sys.modules, "trackio", None)  # another machine, without it
    with pytest.warns(UserWarning, match=r"failed .* pip install 'scorefield\[trackio\]'; the"):
        list(resume(tmp_path / "run"))
    assert_same_end(tmp_path / "run", tmp_path / "like")


def test_a_trackio_that_hides_its_last_step_is_refused_with_the_version_to_install():
    module = SimpleNamespace(init=lambda **options: SimpleNamespace(), Image=None)
    with pytest.raises(RuntimeError, match=r"step is hidden: pip install 'scorefield\[trackio"):
        track.TRACKERS["trackio"](module, Path(), "name", {})


def test_figures_of_an_evaluation_reach_the_tracker_at_the_last_step(
    store, points, tmp_path, monkeypatch
):
    run = start(vectors(points, "keeping.tracker=trackio"), tmp_path / "run")
    list(run)
    evaluation = evaluate_run(run.directory, n=20, bits=0, steps=2)
    write_evaluation(evaluation, run.directory)
    metrics = json.loads((run.directory / "metrics.json").read_text())
    values = {f["name"]: f["value"] for f in metrics["figures"] if f["plan"]}
    row = store.rows.pop()
    assert (row.step, row.grid) == (4, None)
    assert row.values["heun/Fréchet"] == values["Fréchet distance"]
    assert row.values["heun/coverage"] == values["coverage (k = 5)"]
    assert _seen(store.rows) == _expected(run.directory)
    with (
        hold_lock(run.directory),
        pytest.warns(UserWarning, match="tracker=trackio failed .* in use by another process"),
    ):
        track.send_figures(run.directory, {"heun/Fréchet": 1.5})
    assert len(store.rows) == 4
    assert store.ends == [True, True]


@pytest.mark.parametrize("rewrites", [False, True])
def test_figures_are_in_the_tracker_once_after_evaluating_again_and_resuming(
    store, points, tmp_path, rewrites
):
    store.rewrites = rewrites
    list(start(vectors(points, "keeping.tracker=trackio"), tmp_path / "run"))
    for figures in ({"a": 1.5, "b": 2.0}, {"a": 1.5, "b": 2.0}, {"a": 1.5, "b": 2.5}):
        track.send_figures(tmp_path / "run", figures)
        list(resume(tmp_path / "run"))
    sent = [row.values for row in store.rows if "b" in row.values]
    # one that cannot take a row back receives the figures that changed
    assert sent == ([figures] if rewrites else [{"a": 1.5, "b": 2.0}, figures])
    assert _seen(row for row in store.rows if "b" not in row.values) == _expected(tmp_path / "run")


def test_figures_of_steps_that_a_kill_undid_do_not_hide_the_steps_before(store, tmp_path):
    experiment = override(DIGITS, ["keeping.tracker=trackio"])
    for update in start(experiment, tmp_path / "run"):
        if update.step == 3:
            break
    track.send_figures(tmp_path / "run", {"a": 1.5})
    store.rewrites = True
    run = resume(tmp_path / "run")
    assert run.step == 2
    list(run)
    assert [row.step for row in store.rows] == [1, 2, 3, 4]


def _read_wandb(directory, name):
    """The rows of the only offline run: a log of records in blocks of 32 KiB, as in LevelDB."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # wait for its process, which writes the file
    (path,) = directory.glob("wandb/offline-run-*/*.wandb")
    data, i, content = path.read_bytes(), 7, b""
    while i < len(data):
        if (room := 32768 - i % 32768) < 7:
            i += room
            continue
        size, kind = int.from_bytes(data[i + 4 : i + 6], "little"), data[i + 6]
        content, i = content + data[i + 7 : i + 7 + size], i + 7 + size
        if kind in (1, 4):  # whole, or the last part
            record, content = wandb_internal_pb2.Record.FromString(content), b""
            items = [(item.key or item.nested_key[0], item) for item in record.history.item]
            values = {key: json.loads(item.value_json) for key, item in items}
            if name in values:
                yield values["_step"], values[name]


def _read_mlflow(directory, name):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{directory}/mlflow/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("scorefield").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["training.batch"] == "4"
    history = client.get_metric_history(run.info.run_id, name)
    return [(metric.step, metric.value) for metric in history]


def _read_trackio(directory, name):
    from trackio.sqlite_storage import SQLiteStorage

    run = json.loads((directory / "tracker.json").read_text())["name"]
    rows = SQLiteStorage.get_logs("scorefield", run)
    return [(row["step"], row[name]) for row in rows if name in row]


@pytest.mark.filterwarnings("ignore")  # their own
@pytest.mark.parametrize(
    ("kind", "read"), [("wandb", _read_wandb), ("mlflow", _read_mlflow), ("trackio", _read_trackio)]
)
def test_a_killed_run_has_each_step_once_in_a_real_tracker(
    kind, read, points, tmp_path, monkeypatch
):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))  # read when it is first imported
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    pytest.importorskip(kind)
    # trackio writes in the background
    _resume_killed(vectors(points, f"keeping.tracker={kind}"), tmp_path / "run", wait=3)
    log = [(x["step"], pytest.approx(x["loss"])) for x in read_log(tmp_path / "run")]
    assert list(read(tmp_path / "run", "loss")) == log
    for _ in range(2):
        track.send_figures(tmp_path / "run", {"heun/Fréchet": 1.5})
        list(resume(tmp_path / "run"))
    assert list(read(tmp_path / "run", "loss")) == log
    assert list(read(tmp_path / "run", "heun/Fréchet")) == [(4, 1.5)]
