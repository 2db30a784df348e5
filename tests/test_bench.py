"""Measurements: what is timed, how it is compared, and what is kept of it."""

import importlib.util
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from scorefield.bench import Setting, Table, bench, machine, measure, scale, step
from scorefield.bench.networks import NETWORKS, QUICK, digits, inputs, training, unet
from scorefield.cli import main
from scorefield.nn import kernels

# ── Time and memory ──────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when somebody waits for it."""
    now = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    return now


def test_ways_take_turns_and_a_ratio_is_of_their_times(clock):
    order = []

    def waits(name, seconds):
        def run():
            order.append(name)
            clock[0] += seconds

        return run

    ways = {"slow": waits("slow", 4.0), "fast": waits("fast", 1.0)}
    found = measure.turns(ways, repeats=3, least=0)
    assert order[-6:] == ["slow", "fast"] * 3
    assert found == {"slow": [4.0] * 3, "fast": [1.0] * 3}
    assert measure.ratio(found["slow"], found["fast"]) == 4


def test_a_ratio_is_of_one_turn_when_the_machine_slows_down():
    assert measure.ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == 2


@pytest.mark.parametrize(("least", "most", "calls"), [(1.0, 50, 10), (100.0, 50, 50)])
def test_quick_ways_are_called_often_in_a_turn(clock, least, most, calls):
    made = []

    def run():
        made.append(None)
        clock[0] += 0.1

    (seconds,) = measure.turns({"": run}, repeats=1, least=least, most=most)[""]
    assert len(made) == 2 + calls
    assert seconds == pytest.approx(0.1)


def _allocate(mib):
    return lambda: torch.ones(1 << 18), lambda: torch.ones(mib << 18)


def test_memory_is_what_is_added_at_most():
    assert measure.peak_memory(_allocate, 200) == pytest.approx(200, abs=20)


def _kept(mib):
    def build():
        held = torch.ones(mib << 18)  # as weights are
        return lambda: held + 1

    return lambda: torch.ones(1 << 18), measure.late(build)


def test_memory_has_in_it_what_is_built_first():
    assert measure.peak_memory(_kept, 100) == pytest.approx(200, abs=20)


def _fall():
    raise SystemExit(3)


def test_a_process_that_dies_is_reported():
    with pytest.raises(RuntimeError, match="ended without a word"):
        measure.peak_memory(_fall)


# ── Tables ───────────────────────────────────────────────────────────────────────────────────────

TABLE = Table("Speed", {"way": "", "ms": ".1f"}, [["eager", 12.345], ["none", None]], ["A note."])


def test_a_table_for_a_terminal_and_for_a_document():
    assert TABLE.text() == "\nSpeed\nway      ms\neager  12.3\nnone      –\nA note."
    rows = "| way | ms |\n| --- | ---: |\n| eager | 12.3 |\n| none | – |"
    assert TABLE.markdown() == f"**Speed**\n\n{rows}\n\nA note."


def test_json_keeps_the_raw_numbers():
    again = Table(**json.loads(json.dumps(TABLE.as_dict())))
    assert again.markdown() == TABLE.markdown()
    assert again.rows[0][1] == 12.345


# ── A step ───────────────────────────────────────────────────────────────────────────────────────

(NETWORK,) = QUICK.values()


def test_errors_tell_types_apart():
    torch.manual_seed(0)
    plain, exact, half = (NETWORK.build() for _ in range(3))
    exact.load_state_dict(plain.state_dict())
    half.load_state_dict(plain.state_dict())
    step.WAYS["bfloat16"](half, True)
    x, sigma = inputs(NETWORK, 4)
    truth = step.outcome(exact.double(), x.double(), sigma.double(), True)
    score, cosine, gradient = step.errors(step.outcome(plain, x, sigma, True), truth)
    assert max(score, cosine, gradient) < 1e-4
    score, cosine, gradient = step.errors(step.outcome(half, x, sigma, True), truth)
    assert 1e-3 < score < 0.1
    assert 1e-6 < cosine < 0.1
    truth = step.outcome(exact, x.double(), sigma.double(), False)
    assert step.errors(step.outcome(half, x, sigma, False), truth) == [
        pytest.approx(score, rel=0.2), None, None,
    ]  # fmt: skip


@pytest.mark.parametrize("build", [unet, digits])
def test_networks_that_begin_at_zero_are_stirred(build):
    torch.manual_seed(0)
    model, x = build(), torch.rand(2, 1, 8, 8)
    assert model.net(x, torch.zeros(2)).std() < 1e-3
    assert step.stirred(model).net(x, torch.zeros(2)).std() > 0.1


def test_operations_are_those_of_the_convolutions():
    """A training step is three products for each weight, less the first image's gradient."""
    torch.manual_seed(0)
    model = NETWORK.build()
    count = step.operations(training(model, *inputs(NETWORK, 2)))
    forward = step.operations(lambda: model(*inputs(NETWORK, 2)))
    assert 2.8 < count / forward <= 3
    assert step.operations(lambda: torch.randn(3, 5) @ torch.randn(5, 7)) == 2 * 3 * 5 * 7


def test_operations_of_attention_are_counted():
    """q·kᵀ and its product with v, of n × n pairs of d numbers."""
    q = torch.randn(1, 1, 10, 4)
    count = step.operations(lambda: F.scaled_dot_product_attention(q, q, q))
    assert count == 2 * (2 * 10 * 10 * 4)


def test_the_command_writes_what_it_prints(tmp_path, capsys):
    assert main(["bench", "step", "--quick", "--device", "cpu", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "step.json").read_text())
    assert found["quick"]
    assert found["machine"]["torch"] == torch.__version__
    for table in (Table(**each) for each in found["tables"]):
        assert table.text() in printed
        rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
        assert rows["eager float32"]["error of the score"] < 1e-5
        if kernels.why_not() is None:  # else it is the plain way too
            assert (
                rows["optimize"]["error of the score"]
                != rows["eager float32"]["error of the score"]
            )
        assert rows["optimize"]["error of the score"] < 1e-5
        assert table.date


def test_what_is_not_measured_is_named(tmp_path, capsys):
    assert main(["bench", "stepp", "--out", str(tmp_path)]) == 2
    assert "did you mean step" in capsys.readouterr().err
    assert main(["bench", "--out", str(tmp_path)]) == 2
    assert main(["bench", "step", "--quick", "--only", "ResNet", "--out", str(tmp_path)]) == 2
    assert "there are NCSN 16" in capsys.readouterr().err


def test_a_way_that_fails_is_left_out_with_its_reason(monkeypatch, tmp_path):
    def broken(model, train):
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setitem(step.WAYS, "optimize", broken)
    monkeypatch.setattr(step, "memory_of", lambda *_: None)
    (name,) = QUICK
    table = step.table(Setting(tmp_path, quick=True), name, NETWORK, "sampling")
    assert [row[0] for row in table.rows] == ["eager float32", "channels_last"]
    assert "optimize: not to be had, no compiler" in table.notes


@pytest.mark.parametrize(("least", "noted"), [(0.5, False), (0.7, True)])
def test_a_baseline_too_slow_to_compare_with_is_told(monkeypatch, tmp_path, least, noted):
    """The network does 6 GFLOP a second where the machine does 10, and twice that if optimized."""
    work = 2 * step.SIZE**3
    spent = {step.EAGER: [2.0, 4.0, 2.0], "channels_last": [2.0] * 3, "optimize": [1.0, 2.0, 1.0]}
    limits = {"product": [1.0] * 3, "product, oneDNN": [0.6] * 3}
    monkeypatch.setattr(step, "memory_of", lambda *_: 5.0)
    monkeypatch.setattr(step, "operations", lambda _: 2 * work)
    monkeypatch.setattr(step, "turns", lambda *_, **__: limits | spent)
    (name,) = QUICK
    setting = Setting(tmp_path, quick=True)
    table = step.table(setting, name, NETWORK._replace(least=least), "sampling")
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert [rows[way]["ratio"] for way in spent] == [1, 1, 2]
    assert [rows[way]["of the peak"] for way in spent] == pytest.approx([0.6, 0.6, 1.2])
    assert ("less than 70%: the ratios mean little" in " ".join(table.notes)) == noted


def test_a_gpu_is_named_where_it_was_measured_and_only_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a GPU, {device}")
    assert machine.about("cuda")["GPU"] == "a GPU, cuda"
    assert machine.about("cpu")["GPU"] is None


@pytest.mark.usefixtures("capsys")
def test_all_is_everything(monkeypatch, tmp_path):
    monkeypatch.setattr("scorefield.bench.BENCHES", ("step",))
    monkeypatch.setattr(step, "run", lambda _: iter([TABLE]))
    bench(["all"], Setting(tmp_path))
    assert (tmp_path / "step.json").exists()


@pytest.mark.usefixtures("capsys")
def test_tables_of_a_gpu_are_kept_beside_those_of_the_cpu(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    for device in ("cuda", "cpu"):
        monkeypatch.setattr(step, "run", lambda _, of=device: iter([replace(TABLE, title=of)]))
        bench(["step"], Setting(tmp_path, device=device))
    found = {path.name: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    titles = {name: each["tables"][0]["title"] for name, each in found.items()}
    assert titles == {"step.json": "cpu", "step-cuda.json": "cuda"}
    assert found["step.json"]["machine"]["GPU"] is None


@pytest.mark.usefixtures("capsys")
def test_all_is_measured_with_one_number_of_threads(monkeypatch, tmp_path):
    def changed(setting):
        yield TABLE
        torch.set_num_threads(setting.threads + 1)
        yield replace(TABLE, title="of more threads")

    before = torch.get_num_threads()
    monkeypatch.setattr(step, "run", changed)
    try:
        with pytest.raises(RuntimeError, match="of more threads: measured with 3 threads"):
            bench(["step"], Setting(tmp_path, threads=2))
    finally:
        torch.set_num_threads(before)
    found = json.loads((tmp_path / "step.json").read_text())
    assert found["machine"]["threads"] == 2
    assert [table["title"] for table in found["tables"]] == ["Speed"]


@pytest.mark.parametrize("same", [True, False])
def test_tables_of_the_same_machine_stay(monkeypatch, tmp_path, same):
    def titles():
        return [t["title"] for t in json.loads((tmp_path / "step.json").read_text())["tables"]]

    for title in ("A", "B", "A"):
        monkeypatch.setattr(step, "run", lambda _, title=title: iter([replace(TABLE, title=title)]))
        bench(["step"], Setting(tmp_path))
    assert titles() == ["A", "B"]
    if not same:
        monkeypatch.setattr("scorefield.bench.about", lambda _: {**machine.about(), "cores": 99})
    bench(["step"], Setting(tmp_path))
    assert titles() == (["A", "B"] if same else ["A"])


# ── How things grow ──────────────────────────────────────────────────────────────────────────────


def test_growth_is_a_power():
    times = [[0.001], [0.1], [0.1]]
    found = scale.table("Time", "rows", [10, 100, 1000], times, [None, None, 3.0])
    assert found.columns == {"rows": "d", "ms": ".3g", "grows as the power": ".2f", "MiB": ".0f"}
    assert found.rows == [[10, 1.0, None, None], [100, 100.0, 2.0, None], [1000, 100.0, 0.0, 3.0]]


def test_growth_is_of_one_turn_when_the_machine_slows_down():
    found = scale.table("Time", "rows", [1, 2], [[1.0, 9.0, 1.0], [2.0, 18.0, 20.0]], [None] * 2)
    assert [row[1:3] for row in found.rows] == [[1e3, None], [18e3, 1.0]]


def test_runs_of_several_processes_take_turns(monkeypatch, tmp_path):
    """On a machine that is ten times as slow in the second turn."""
    runs = []

    def of_a_run(processes, *, quick):
        runs.append(processes)
        slow = 10 if len(runs) in (3, 4) else 1
        return slow * 2.0 / processes, 100.0 * processes

    monkeypatch.setattr(scale, "_of_a_run", of_a_run)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    (found,) = scale.run(Setting(tmp_path, only=("processes",)))
    assert runs == [1, 2] * 3
    assert found.rows == [[1, 2e3, None, 100.0], [2, 1e3, -1.0, 200.0]]


def test_memory_of_a_step_grows_with_its_batch(tmp_path):
    """At 64 × 64 pixels and 16 features the activations outweigh all else."""

    def mib(batch):
        given = (1, "training", batch, 64, 2, 16, "cpu")
        return measure.peak_memory(scale.steps, *given)

    few, many = mib(4), mib(16)
    assert 3 < many / few < 5


@pytest.mark.parametrize("series", ["levels", "data"])
def test_series_have_a_row_for_each_size(tmp_path, series):
    tables = list(scale.run(Setting(tmp_path, quick=True, only=(series,))))
    assert tables
    for found in tables:
        assert len(found.rows) == 2
        assert all(row[1] > 0 for row in found.rows)
        if "exact score" in found.title:  # ten times the rows, of which the larger has 30 MiB
            assert found.rows[1][3] - found.rows[0][3] > 20


def test_processes_share_a_run(tmp_path):
    (found,) = scale.run(Setting(tmp_path, quick=True, only=("processes",)))
    assert [row[0] for row in found.rows] == [1, 2][: os.cpu_count()]
    assert all(100 < row[3] < 2000 for row in found.rows)  # with torch in it


# ── The page ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def tables(monkeypatch, tmp_path):
    path = Path(__file__).parents[1] / "benchmarks/tables.py"
    spec = importlib.util.spec_from_file_location("tables", path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_the_page_has_what_was_measured_last(tables):
    """`python benchmarks/tables.py` writes it."""
    page = tables.PAGE.read_text()
    assert tables.filled(page) == page


def _published(tables, name):
    """The rows of each table by their first cell."""
    found = {}
    for each in json.loads((tables.RESULTS / f"{name}.json").read_text())["tables"]:
        rows = [dict(zip(each["columns"], row, strict=True)) for row in each["rows"]]
        found[each["title"]] = {next(iter(row.values())): row for row in rows}
    return found


@pytest.mark.parametrize("name", ["NCSN 64, 1×28×28, batch 32", "NCSN 128, 3×32×32, batch 32"])
def test_the_published_steps_are_as_fast_and_as_exact_as_they_should_be(tables, name):
    steps = _published(tables, "step")
    training, sampling = steps[f"{name}, training"], steps[f"{name}, sampling"]
    for rows in (training, sampling):
        assert rows["eager float32"]["of the peak"] >= NETWORKS[name].least
    assert training["optimize"]["ratio"] >= 2
    assert training["optimize"]["1 − cosine"] <= 1e-3
    assert sampling["optimize"]["ratio"] >= 1.6
    assert sampling["optimize"]["error of the score"] <= 1e-5
    assert sampling["optimize, to 2 %"]["ratio"] >= 2.8
    assert sampling["optimize, to 2 %"]["error of the score"] <= 0.02


def test_the_published_samplers_are_as_fast_as_they_should_be(tables):
    frontier, (start,) = _published(tables, "frontier"), _published(tables, "startup").values()
    ways = frontier["end to end, digits, 360 samples"]
    slow, *_ = ways.values()
    optimized = [row for way, row in ways.items() if way.endswith("optimized")]
    assert any(row["ratio"] >= 100 and row["Fréchet"] <= slow["Fréchet"] for row in optimized)
    overhead = frontier["overhead, NCSN 64, 1×28×28, batch 32"]
    assert all(row["beyond it"] <= 0.02 for row in overhead.values())
    assert start["import scorefield"]["of import torch"] <= 1.3
    assert start["from scorefield import *"]["of import torch"] <= 1.3
    assert start["scorefield --help"]["s"] <= 0.3


def test_the_readme_says_of_steps_what_was_measured(tables):
    readme = " ".join((tables.ROOT / "README.md").read_text().split())
    steps, said = _published(tables, "step"), []
    for name in ("NCSN 128, 3×32×32, batch 32", "NCSN 64, 1×28×28, batch 32"):
        for kind in ("training", "sampling"):
            row = steps[f"{name}, {kind}"]["optimize"]
            said.append(f"{row['ratio']:.1f}")
            assert row["error of the score"] < 3.5e-6
    wide = f"takes {said[0]} (training) and {said[1]} (sampling) times less than in eager torch"
    assert wide in readme
    assert f"with 64 filters {said[2]} and {said[3]}" in readme


def test_tables_are_taken_by_their_titles(tables, monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    about = {"quick": False, "machine": machine.about()}
    titles = {"this one": "2026-01-01", "this too": "2026-01-03", "another": "2026-01-09"}
    made = [replace(TABLE, title=title, date=date).as_dict() for title, date in titles.items()]
    (tmp_path / "step.json").write_text(json.dumps(about | {"tables": made}))
    page = "Before.\n\n<!-- step: this -->\nold\n<!-- end -->\n\nAfter."
    filled = tables.filled(page)
    assert "**this one**" in filled
    assert "; 2026-01-01 to 2026-01-03." in filled
    assert "another" not in filled
    assert "old" not in filled
    assert tables.filled(filled) == filled
    with pytest.raises(ValueError, match="no table of 'that'"):
        tables.filled(page.replace("this", "that"))
    (tmp_path / "step.json").write_text(json.dumps(about | {"quick": True, "tables": made}))
    with pytest.raises(ValueError, match="--quick"):
        tables.filled(page)
