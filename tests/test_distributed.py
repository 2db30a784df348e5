"""Two processes compared with one: the same weights, samples and files, and no deadlock."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import distributed_worker as worker
import numpy as np
import pytest
import torch
from standins import undrawn

import scorefield
from scorefield import load, sample
from scorefield.checkpoint import read_tensors
from scorefield.cli import main
from scorefield.cli.startup import join_group
from scorefield.data import Arrays, Batches
from scorefield.distributed import choose_device, launcher_warnings, local_device, split_rows
from scorefield.fast.optimize import optimize
from scorefield.runs import resume

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
SOURCE = str(Path(scorefield.__file__).resolve().parents[1])
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": SOURCE}


@pytest.fixture(scope="module", autouse=True)
def _double():
    """Train in float64, where sums in another order agree to 1e-15 of their terms."""
    torch.set_default_dtype(torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Arrays, "take", Arrays.take)
        patch.setattr(Batches, "stream", Batches.stream)
        yield worker.poison()
    torch.set_default_dtype(torch.float32)


# of the step whose batch has NaN, in the fixture that every test needs
pytestmark = pytest.mark.filterwarnings("ignore:step 7 is skipped")


@pytest.fixture(scope="module")
def place(make_once, _double):
    """A folder in which one process has trained, and two have run `distributed_worker.py`."""
    return make_once("processes", lambda place: _train(place, _double))


def _train(place, taken):
    list(worker.begin(place / "alone"))
    (place / "alone.json").write_text(json.dumps(taken))
    for update in worker.begin(place / "one"):
        if update.step == 10:
            break
    options = dict(cwd=place, env=ENVIRONMENT, timeout=600, stderr=subprocess.PIPE, text=True)
    launched = subprocess.run([*TORCHRUN, worker.__file__, str(place)], **options)
    assert (place / "x.npy").exists(), launched.stderr
    (place / "stderr").write_text(launched.stderr)


@pytest.fixture(scope="module")
def results(place):
    return [torch.load(place / f"result{rank}.pt", weights_only=True) for rank in (0, 1)]


# each of 24 steps rounds a sum of 9 gradients by 9 × 1.1e-16 of its terms, 2.4e-14 in all, and
# Adam's division by their root mean square leaves that; the rest is for cancellation
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def _log(directory):
    """Return the lines of a log without times; None, for what was not finite, as NaN."""
    lines = map(json.loads, (directory / "log.jsonl").read_text().splitlines())
    return [{k: math.nan if v is None else v for k, v in s.items() if k != "time"} for s in lines]


def _assert_same_run(directory, alone):
    name = f"checkpoints/{worker.STEPS:08d}.safetensors"
    ours, truth = read_tensors(directory / name), read_tensors(alone / name)
    torch.testing.assert_close(ours.tensors, truth.tensors, **CLOSE)
    assert ours.about["best"] == pytest.approx(truth.about["best"], rel=1e-12)
    lines = _log(directory)
    assert [line["step"] for line in lines] == [*range(1, worker.STEPS + 1)]
    for line, other in zip(lines, _log(alone), strict=True):
        assert line == pytest.approx(other, rel=1e-12, nan_ok=True)


def test_two_processes_train_the_weights_of_one(place, results):
    _assert_same_run(place / "two", place / "alone")
    folders = [place / "two", place / "alone"]
    files = [{path.relative_to(folder) for path in folder.rglob("*")} for folder in folders]
    assert files[0] == files[1]
    # a NaN in the rows of the second process makes both skip the step
    assert results[0]["skipped"] == results[1]["skipped"] == [worker.BAD + 1]
    # the second reads five rows of each batch of nine, after the first's four
    whole = json.loads((place / "alone.json").read_text())
    taken = zip((whole, results[0]["taken"], results[1]["taken"]), (9, 4, 5), strict=True)
    alone, first, second = ([rows for rows in read if len(rows) == n] for read, n in taken)
    assert [a + b for a, b in zip(first, second, strict=True)] == alone[: worker.STEPS]


def test_a_run_is_resumed_with_more_or_fewer_processes(place, results):
    assert results[0]["from"] == results[1]["from"] == 8
    _assert_same_run(place / "one", place / "alone")
    # one of two was signalled, and both stopped after the same step
    assert all("SIGTERM after step 11" in result["stopped"] for result in results)
    # no process ends before the first has saved: a launcher ends all as soon as one has ended
    assert all(result["saved"] for result in results)
    run = resume(place / "stopped")
    assert run.step == 11
    list(run)
    _assert_same_run(place / "stopped", place / "alone")


@pytest.mark.parametrize("name", worker.LOSSES)
def test_a_custom_loop_may_pass_whole_batches_to_every_process(results, name):
    losses, weights = worker.whole_batches(**worker.LOSSES[name] | {"accumulate": 1})
    (first, ours, exchanges, buckets), (second, theirs, *_) = (result[name] for result in results)
    assert first == second == pytest.approx(losses, rel=1e-12)
    torch.testing.assert_close(ours, weights, **CLOSE)
    assert all(torch.equal(ours[k], theirs[k]) for k in weights)
    # gradients are exchanged once a step, in several buckets
    assert exchanges == ([False, True] if "in parts" in name else [True]) * len(losses)
    assert buckets > 1


def test_two_processes_draw_the_samples_of_one(place, results):
    truth = worker.sample_ten(4)
    for result in results:
        assert torch.equal(result["batch4"], truth)
        assert torch.equal(result["batch16"], worker.sample_ten(16))
        torch.testing.assert_close(result["batch3"], truth, **CLOSE)
    model = load(place / "alone")
    optimize(model, batch=2)  # as `scorefield sample` does
    x = sample(model, 5, batch=2)
    assert np.array_equal(np.load(place / "x.npy"), x.numpy())


def test_two_processes_compute_the_figures_of_one(place, tmp_path, monkeypatch):
    monkeypatch.setattr("scorefield.show.plots.as_png", undrawn)
    together = json.loads((place / "figures/metrics.json").read_text())["figures"]
    options = ["-n", "9", "--batch", "2", "--bits", "0", "--out", str(tmp_path)]
    assert main(["evaluate", str(place / "two"), *options]) == 0
    alone = json.loads((tmp_path / "metrics.json").read_text())["figures"]
    assert [f["name"] for f in together] == [f["name"] for f in alone]
    for one, other in zip(together, alone, strict=True):
        assert one["samples"] == other["samples"]
        for name in ("value", "low", "high"):
            pair = [math.nan if figure[name] is None else figure[name] for figure in (one, other)]
            np.testing.assert_allclose(*pair, **CLOSE, err_msg=one["name"])


def test_processes_that_disagree_or_fail_end_all(place, results):
    for result in results:
        assert result["differ"].startswith("weights is not the same in all processes: 0, 1")
    # otherwise the fixture would have timed out
    stderr = (place / "stderr").read_text()
    assert "OSError: no space left on device" in stderr
    assert "exitcode  : 1" in stderr
    assert "deprecated" not in stderr


def test_a_stopped_launcher_leaves_a_resumable_run(place):
    """It passes its signal on to all processes, one of which prints."""
    done = _log(place / "command")[-1]["step"]
    stopped = f"stopped by SIGTERM after step {done}, which is saved"
    assert (place / "stderr").read_text().count(stopped) == 1
    state = read_tensors(place / f"command/checkpoints/{done:08d}.safetensors")
    assert state.about["step"] == done


@pytest.mark.parametrize(("n", "world"), [(9, 2), (12, 3), (7, 7), (3, 5)])
def test_rows_are_split_evenly(n, world):
    parts = [split_rows(n, rank, world) for rank in range(world)]
    assert [i for rows in parts for i in rows] == [*range(n)]
    assert {len(rows) for rows in parts} <= {n // world, -(-n // world)}


@pytest.mark.parametrize(
    ("cuda", "mps", "device"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_is_the_fastest_device(monkeypatch, cuda, mps, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    zero = SimpleNamespace(item=float, device=torch.device(device))
    monkeypatch.setattr(torch, "zeros", lambda _, device: zero if device == zero.device.type else 0)
    assert choose_device("auto").type == device


def test_each_process_uses_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    gpu = torch.device("cuda:0")
    assert local_device(gpu) == gpu
    for name, value in {"WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert local_device(gpu) == torch.device("cuda:1")
    assert local_device(torch.device("cpu")) == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="3 processes on a machine with 2 GPUs"):
        local_device(gpu)


# what `accelerate launch` 1.15 sets
LAUNCHED = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO"}
ADDRESS = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def test_settings_of_accelerate_without_effect_are_warned_about(monkeypatch, capsys):
    for sound in (ADDRESS, LAUNCHED, LAUNCHED | ADDRESS | {"RANK": "0", "WORLD_SIZE": "2"}):
        assert launcher_warnings(sound) == []
    (line,) = launcher_warnings(LAUNCHED | {"ACCELERATE_MIXED_PRECISION": "bf16"})
    assert "MIXED_PRECISION=bf16 has no effect" in line
    # several processes are asked for, and a single one is started
    for name, value in (LAUNCHED | ADDRESS | {"ACCELERATE_USE_CPU": "True"}).items():
        monkeypatch.setenv(name, value)
    join_group()
    (line,) = capsys.readouterr().err.splitlines()
    assert "torchrun --standalone --nproc_per_node 2" in line


def test_other_commands_run_in_rank_0_only(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, printed in (("1", False), ("0", True)):
        monkeypatch.setenv("RANK", rank)
        assert main(["suggest", "digits"]) == 0
        assert ("digits" in capsys.readouterr().out) == printed
        # all ranks train, so that all read the network named before the command
        assert main(["--import", "absent_module:Net", "train"]) == 2
        assert main(["--import", "absent_module:Net", "suggest"]) == 2 * printed
        assert "absent_module" in capsys.readouterr().err
