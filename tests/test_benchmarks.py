"""Benchmarks: their arithmetic, what is stored, and that each of them runs."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import asdict, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from benchmarks import (
    BENCHMARKS,
    RESULTS,
    Setting,
    accuracy,
    energies,
    gpu,
    imaging,
    measure,
    packages,
    peers,
    posteriors,
    recipes,
    scale,
    short,
    step,
    tables,
)
from benchmarks.__main__ import main
from benchmarks.grid import GridPosterior
from benchmarks.networks import Network, digits, make_inputs
from benchmarks.problems import distributions, problems
from benchmarks.table import Table, read_tables, record
from scorefield import SAMPLERS, GaussianMixture, final, geometric
from scorefield.restore import METHODS
from scorefield.runs.choose import choose_experiment
from scorefield.runs.config import as_json
from scorefield.show.machine import machine, memory_bytes

TABLE = Table("Speed", {"method": "", "ms": ".1f"}, [["eager", 12.345], ["none", None]], ["Note"])


@pytest.fixture(autouse=True)
def _short_turns(monkeypatch, unchecked):
    monkeypatch.setattr(measure, "TURN_SECONDS", 0.0)
    with warnings.catch_warnings():  # some versions of diffusers warn when they are imported
        warnings.simplefilter("ignore")
        packages.missing("diffusers")


def test_tasks_take_turns_and_a_short_one_fills_its_turn(monkeypatch):
    now, order = [0.0], []

    def wait(name, seconds):
        order.append(name)
        now[0] += seconds

    monkeypatch.setattr(measure, "TURN_SECONDS", 3.5)
    tasks = {"slow": partial(wait, "slow", 4.0), "fast": partial(wait, "fast", 1.0)}
    times = measure.turns(tasks, repeats=2, clock=lambda: now[0])
    assert order == ["slow"] * 2 + ["fast"] * 2 + ["slow", *["fast"] * 4] * 2
    assert times == {"slow": [4.0] * 2, "fast": [1.0] * 2}


def test_peak_memory_is_the_peak_of_a_new_process_above_its_size_before(monkeypatch):
    """A small task precedes it, so that the size includes all that libraries allocate once."""
    events = []

    def build(name):
        events.append(f"build {name}")
        return partial(events.append, name)

    def process_bytes(**peak):
        events.append("peak" if peak else "size")
        return 7 << 20 if peak else 5 << 20

    assert measure.in_new_process(os.getpid) != os.getpid()
    assert 0 < measure.process_bytes() <= measure.process_bytes(peak=True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(measure, "in_new_process", lambda function, *args: function(*args))
    monkeypatch.setattr(measure, "process_bytes", process_bytes)
    assert measure.peak_memory(partial(build, "a"), partial(build, "b")) == 2
    assert events == ["build a", "a", "size", "build b", "b", "b", "peak"]


def test_growth_ratios_and_operations_are_their_formulas():
    times = {1: [1.0, 9.0, 1.0], 2: [2.0, 18.0, 20.0], 4: [2.0, 18.0, 20.0]}
    table = scale.growth("Time", "rows", times, {4: 3.0})
    assert table.rows == [[1, 1e3, None, None], [2, 18e3, 1.0, None], [4, 18e3, 0.0, 3.0]]
    # the median of the turns' ratios
    assert measure.ratio([2.0, 20.0, 9.0], [1.0, 10.0, 1.0]) == 2
    q, attention = torch.randn(1, 1, 10, 4), torch.nn.functional.scaled_dot_product_attention
    assert step.operations(lambda: torch.randn(3, 5) @ torch.randn(5, 7)) == 2 * 3 * 5 * 7
    assert step.operations(lambda: attention(q, q, q)) == 2 * (2 * 10 * 10 * 4)


def test_errors_tell_types_apart():
    """float32 rounds by 2⁻²⁴ and bfloat16 by 2⁻⁹; last weights of zero would hide all errors.

    In float32 sums of 384 products in four blocks err by at most 4·384·2⁻²⁴ = 9e-5. In bfloat16 one
    rounding is 2e-3, of which half is the lower bound and 50 the upper one, for about ten layers. A
    cosine errs by half the square: 2e-6.
    """
    plain, exact, half = digits(), digits().double(), digits()
    step.randomize(plain)
    x, sigma = make_inputs(plain, 4)
    exact.load_state_dict(plain.state_dict())
    half.load_state_dict(plain.state_dict())
    step.METHODS["bfloat16"](half, True)
    truth = step.outcome(exact, x.double(), sigma.double(), True)
    assert max(step.errors(step.outcome(plain, x, sigma, True), truth)) < 1e-4
    score, cosine, gradient = step.errors(step.outcome(half, x, sigma, True), truth)
    assert 1e-3 < score < 0.1
    assert gradient > 1e-3
    assert cosine > 1e-6
    assert step.errors(step.outcome(half, x, sigma, False), truth[:1])[1:] == [None, None]


def test_a_step_reports_what_failed(monkeypatch):
    """The network does 6 operations where the machine does 10; of the methods, one fails."""
    work = 2 * step.PRODUCT_SIZE**3
    times = {step.EAGER: [2.0, 4.0, 2.0], "optimize": [1.0, 2.0, 1.0]}
    limits = {"product": [1.0] * 3, "product, oneDNN": [0.6] * 3}
    monkeypatch.setitem(step.METHODS, "channels_last", lambda *_: 1 / 0)
    monkeypatch.setattr(step, "peak_memory", lambda *_: 5.0)
    monkeypatch.setattr(step, "operations", lambda _: 2 * work)
    monkeypatch.setattr(step, "matrix_products", lambda *_: limits)
    monkeypatch.setattr(step, "turns", lambda *_, **__: limits | times)
    table = step.compare(Setting(quick=True), "MLP", Network(digits, batch=2), "sampling")
    columns = dict(zip(table.columns, zip(*table.rows, strict=True), strict=True))
    assert columns["method"] == (step.EAGER, "optimize")
    assert columns["ratio"] == (1, 2)
    assert columns["of the peak"] == pytest.approx((0.6, 1.2))
    assert "channels_last is not available: division by zero" in table.notes


TWINS = {
    "EDMEulerScheduler": ("euler", 40, True),
    "EDMDPMSolverMultistepScheduler": ("dpm_solver", 40, True),
    "EulerSampler": ("euler", 41, False),
    "HeunSampler": ("heun", 21, False),
    "DDPMSampler": ("ancestral", 41, False),
}


def _exact_network(oracle):
    """EDM's F for σ_d = 1 of a known distribution: (s + x/(1 + σ²))·σ√(1 + σ²)."""

    def network(u, cond):
        sigma = (4 * cond.double()).exp()
        level = sigma.view(-1, 1)
        root = (1 + level**2).sqrt()
        return ((oracle(root * u, sigma) + u / root) * level * root).to(u.dtype)

    return packages.Function(network)


@pytest.mark.parametrize("name", TWINS)
def test_a_sampler_of_another_package_follows_ours(name):
    """On an exact score, from one start, with one seed and 40 evaluations.

    A point between two modes may go to either, by the rounding of σ to float32: 1 % at most do. In
    float32 log σ errs by at most |log 0.01|·2⁻²⁴ = 3e-7; in 40 steps from |x| ≤ 60 that is 7e-4.
    """
    (entry,) = (entry for entry in packages.CONTENDERS if entry.name == name)
    if reason := packages.missing(entry.package):
        pytest.skip(reason)
    ours, levels, denoise = TWINS[name]
    means = torch.tensor([[-2.0, 0.0], [2.0, 1.0], [0.5, -2.0]], dtype=torch.float64)
    oracle = GaussianMixture(means, 0.04, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64))
    start, grid = oracle.sample(300, 20.0).float(), geometric(20.0, 0.01, levels)
    torch.manual_seed(1)
    expected = final(SAMPLERS[ours].run(oracle, start, grid, denoise=denoise))
    torch.manual_seed(1)
    x = entry.build(_exact_network(oracle), 40)(start)
    assert ((x - expected).norm(dim=1) > 1e-2).double().mean() < 0.01
    assert (x - expected).abs().median() < 1e-3


@pytest.mark.filterwarnings("ignore:slowed")  # by what else this machine does
@pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers
def test_a_contest_trains_on_images_for_a_time_and_judges_samples(tmp_path):
    only = ("scorefield, chosen", "diffusers")
    (table,) = peers.run(Setting(quick=True, out=tmp_path, data="digits", only=only))
    assert [*table.columns] == ["", "steps", "M weights", "sampler", "Fréchet distance", "ratio"]
    packages_, steps, _, samplers, distances, ratios = zip(*table.rows, strict=True)
    assert {*zip(packages_, samplers, strict=True)} - {(only[0], "dpm_solver_sde, guided")} == {
        (only[0], "dpm_solver_sde"),
        (only[0], "heun"),
        (only[1], "DPM-Solver++"),
    }  # few steps, as here, may end before there is a guide
    assert min(steps) >= 1
    assert ratios == tuple(distance / distances[0] for distance in distances)
    assert len({*distances}) == len(distances)
    assert "as many training images have 6." in table.notes[0]
    for name in ("scorefield--chosen-dpm_solver_sde", "diffusers-DPM-Solver++"):
        with Image.open(tmp_path / f"{name}.png") as sheet:
            assert min(sheet.size) > 80
    with pytest.raises(ValueError, match="--data mixture: give images, some of them held out"):
        next(peers.run(Setting(quick=True, data="mixture")))


@pytest.mark.filterwarnings("ignore:slowed")
def test_recipes_train_networks_for_a_time(tmp_path, monkeypatch):
    recipe = {"a": ("network.patch=2", "network.width=8"), "b": ("training.optimizer=muon",)}
    monkeypatch.setattr(recipes, "RECIPES", recipe)
    setting = Setting(quick=True, out=tmp_path, data="digits", only=("a",))
    (table,) = recipes.run(setting)
    assert [row[0] for row in table.rows] == ["a", "a"]
    with pytest.raises(ValueError, match="name them, as in --data pictures/"):
        next(recipes.run(replace(setting, data=None)))


def test_a_short_training_is_judged_by_each_sampler(monkeypatch):
    """Autoguidance of a network by itself would change nothing."""
    setting = Setting(quick=True, data="digits", only=("SDE",))
    model, weak = short.train_for_steps(setting, (1, 8, 8), steps=40)
    x = torch.rand(2, 1, 8, 8)
    assert not torch.equal(model(x, 1.0), weak(x, 1.0))
    monkeypatch.setattr(short, "AT_ONCE", 20)
    monkeypatch.setattr(short, "train_for_steps", lambda *_: (model, weak))
    (table,) = short.run(setting)
    assert [row[:2] for row in table.rows] == [
        ["SDE-DPM-Solver++", 32],
        ["SDE-DPM-Solver++, autoguidance", 16],
        ["SDE-DPM-Solver++, as a budget guides", 21],
    ]
    with pytest.raises(ValueError, match="name them, as in --data pictures/"):
        next(short.run(replace(setting, data=None)))


def test_each_recipe_is_of_fields_that_a_run_takes():
    for fields in recipes.RECIPES.values():
        changed = choose_experiment("photos", source="digits", settings=fields)
        assert as_json(changed) != as_json(choose_experiment("photos", source="digits"))


def test_a_missing_package_is_skipped_with_how_to_install_it(monkeypatch):
    for module in ("diffusers", "azula.sample", "azula"):
        monkeypatch.setitem(sys.modules, module, None)  # an import then fails
    (table,) = peers.run(Setting(quick=True, only=("Samples",)))
    assert {row[0] for row in table.rows} == {packages.OURS}
    diffusers, azula = table.notes[-2:]
    assert "diffusers was skipped" in diffusers
    assert diffusers.endswith("pip install 'scorefield[peers]'")
    assert azula.endswith("pip install --no-deps azula")


FAKE_DEEPINV = """
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import InterpolationMode as mode
import torchvision.transforms.functional as functional

def rotate(x, interpolation=mode.NEAREST):
    return functional.rotate(x)
"""


def test_deepinv_is_imported_without_torchvision_which_stays_absent(monkeypatch, tmp_path):
    (tmp_path / "deepinv.py").write_text(FAKE_DEEPINV)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "deepinv"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    try:
        library = packages.import_deepinv()
    finally:
        sys.modules.pop("deepinv", None)
    assert not {*packages.TORCHVISION} & {*sys.modules}
    with pytest.raises(TypeError, match="not callable"):
        library.rotate(torch.zeros(1))


@pytest.mark.parametrize("name", ["langevin", "underdamped", "mala", "hmc"])
def test_only_langevin_dynamics_is_biased_at_a_large_step(name):
    """On a Gaussian of variance 1 its chains have 1/(1 − α/2); errors of 8,000 chains are 1.6 %."""
    chain = energies.CHAINS[f"{packages.OURS} {name}"]
    torch.manual_seed(1)
    x, accepted = chain.build(energies.MIXTURE)(energies.MIXTURE.sample(8_000), 60 // chain.parts)
    truth = 1 / (1 - energies.ALPHA / 2) if name == "langevin" else 1.0
    assert abs(x[:, 1].var() / truth - 1) < 4 * (2 / 8_000) ** 0.5
    assert (accepted is None) == (name in ("langevin", "underdamped"))


def need(package):
    if reason := packages.missing(package):
        pytest.skip(reason)


def test_langevin_dynamics_of_torchebm_is_ours():
    need("torchebm")
    ends = []
    for name in ("scorefield langevin", "torchebm LangevinDynamics"):
        torch.manual_seed(1)
        start = energies.MIXTURE.sample(50)
        ends.append(energies.CHAINS[name].build(energies.MIXTURE)(start, 20)[0])
    torch.testing.assert_close(*ends, rtol=0, atol=1e-4)  # 20 steps of float32 at |x| < 10


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("exact", "ScoreMatching"), ("denoising", "DenoisingScoreMatching")],
)
def test_losses_of_torchebm_are_ours(ours, theirs):
    """In sums of 256 terms below 10, each of which float32 computes to some 1e-6."""
    need("torchebm")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.SiLU(), torch.nn.Linear(8, 1))
    x, values = torch.randn(256, 2), []
    for name in (f"{packages.OURS} {ours}", f"torchebm {theirs}"):
        torch.manual_seed(1)
        values.append(energies.LEARNERS[name].build(net)[1](x.clone()).item())
    assert values[0] == pytest.approx(values[1], rel=1e-4)


def test_moment_matching_of_deepinv_is_ours():
    """From one start; ours ends with one more step, from σ = 0.01, which moves x by about that."""
    need("deepinv")
    problem = next(p for p in problems() if p.name == "gauss64 matrix")
    ends = []
    for draw in (posteriors.sampler_of("mmps"), imaging.RIVALS["matrix"]["MomentMatching"].draw):
        torch.manual_seed(1)
        ends.append(draw(problem, 20))
    assert (ends[0] - ends[1]).abs().max() < 0.05


@pytest.mark.parametrize("title", ["Chains", "Score matching", "Posteriors of gauss64 mask"])
def test_an_accuracy_table_has_rows_of_all_packages(title):
    (table,) = accuracy.run(Setting(quick=True, only=(title,)))
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    theirs = "deepinv" if "Posteriors" in title else "torchebm"
    available = {packages.OURS, *([] if packages.missing(theirs) else [theirs])}
    assert {row["package"] for row in rows} == available
    assert 1.0 in {row["ratio"] for row in rows if row["package"] == packages.OURS}
    assert not [note for note in table.notes if "could not be run" in note]


def test_a_ratio_is_to_ours_of_the_same_kind_and_failures_are_left_out(monkeypatch):
    def fail(net, evaluations):
        raise AttributeError("no set_timesteps\nand more")

    euler, heun = (packages.own(name) for name in ("euler", "heun"))
    others = (heun._replace(name="twin", ours="euler"), euler._replace(name="other", build=fail))
    times = [[1.0], [4.0]]
    monkeypatch.setattr(peers, "CONTENDERS", (euler, *others))
    monkeypatch.setattr(peers, "turns", lambda tasks, **_: dict(zip(tasks, times, strict=True)))
    table = peers.sampling(Setting(quick=True), "Samples", digits, 2)
    assert [row[3] for row in table.rows] == [1.0, 0.25]
    assert "scorefield other could not be run: no set_timesteps" in table.notes


def test_a_table_for_a_terminal_a_document_a_file_and_a_digest():
    assert TABLE.text() == "Speed\nmethod    ms\neager   12.3\nnone       –\nNote"
    rows = "| method | ms |\n| --- | ---: |\n| eager | 12.3 |\n| none | – |"
    assert TABLE.markdown() == f"**Speed**\n\n{rows}\n\nNote"
    assert Table(**json.loads(json.dumps(asdict(TABLE)))).rows[0][1] == 12.345
    both = [TABLE, replace(TABLE, title="Slow", date="2026-01-02")]
    chosen = ("ms",), ("eager|",)
    assert tables.excerpt("Both", both, *chosen).rows == [["Speed", 12.345], ["Slow", 12.345]]
    assert tables.excerpt("One", [TABLE], *chosen).rows == [[12.345]]


def test_tables_stay_if_machine_and_threads_are_the_same(monkeypatch, tmp_path):
    for title, processor, kept in [("A", "x", ["A"]), ("B", "x", ["A", "B"]), ("A", "y", ["A"])]:
        about = machine() | {"processor": processor}
        monkeypatch.setattr("benchmarks.table.machine", lambda _, about=about: about)
        monkeypatch.setattr(step, "run", lambda _, title=title: iter([replace(TABLE, title=title)]))
        record("step", Setting(out=tmp_path))
        assert [table.title for table in read_tables(tmp_path / "step.json", {})] == kept
    before = torch.get_num_threads()

    def change(setting):
        torch.set_num_threads(before + 1)
        yield TABLE

    monkeypatch.setattr(step, "run", change)
    with pytest.raises(RuntimeError, match=f"measured with {before + 1} threads, not {before}"):
        record("step", Setting(out=tmp_path / "other"))
    assert torch.get_num_threads() == before
    assert not (tmp_path / "other/step.json").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["stepp"], "there is no benchmark 'stepp': did you mean step?"),
        (["step", "--quick", "--only", "NCSN", "ResNet"], "--only ResNet: there are NCSN 8"),
        (["posteriors", "--quick", "--only", "mpms"], "--only mpms: did you mean mmps?"),
        (["step", "--seed", "-1"], "--seed -1: give a whole number"),
        (["tables", "--out", "nowhere"], "no table of step"),
        (["gpu", "--device", "cpu"], "gpu measures a GPU of CUDA"),
    ],
)
def test_wrong_arguments_are_refused_with_the_nearest_name(args, message, capsys):
    assert main(args) == 2
    assert message in capsys.readouterr().err


def test_a_machine_is_known_by_its_gpu(monkeypatch):
    properties = SimpleNamespace(total_memory=2**33)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a card, {device}")
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 2**32)
    assert [memory_bytes(device) for device in ("cuda:1", "mps")] == [2**33, 2**32]
    assert machine("cuda:1")["GPU"] == "a card, cuda:1"
    assert machine("mps")["GPU"] == "Apple's GPU"
    assert machine()["GPU"] is None


@pytest.mark.parametrize(("seconds", "reason"), [(1e9, "CUDA out of memory"), (-1, "no time left")])
def test_a_part_of_the_gpu_benchmark_that_fails_is_a_row(monkeypatch, seconds, reason):
    def fail(setting):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(gpu, "samplers", fail)
    monkeypatch.setattr(gpu, "SECONDS", seconds)
    (table,) = gpu.run(Setting(quick=True, only=("samplers",)))
    ((part, text),) = table.rows
    assert part == "samplers"
    assert reason in text


@pytest.fixture
def pytest_commands(monkeypatch):
    """The commands with which the GPU's benchmark starts pytest, of whose tests one fails."""
    commands, output = [], SimpleNamespace(stdout="FAILED test_x\n1 failed, 2 passed")
    run = lambda command, **options: commands.append(" ".join(command)) or output  # noqa: E731
    monkeypatch.setattr(gpu, "subprocess", SimpleNamespace(run=run))
    return commands


def test_the_tests_of_devices_run_on_the_gpu(pytest_commands):
    (table,) = gpu.device_tests(Setting(device="cuda"))
    assert "-m device --device cuda" in pytest_commands[0]
    assert table.rows == [["all", "1 failed, 2 passed"]]
    assert [*table.notes] == ["FAILED test_x"]


def test_help_names_all_benchmarks_without_torch():
    assert all(callable(import_module(f"benchmarks.{name}").run) for name in BENCHMARKS)
    code = "import sys, benchmarks.__main__ as b; b.main([]); sys.exit('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {*BENCHMARKS, "tables", "all"} <= {*run.stdout.split()}


def test_coverage_tells_a_calibrated_method_from_a_biased_one():
    """By 200 draws, of standard errors 0.035 and 0.021; `dps` is too wide for this Gaussian."""
    problem = next(p for p in problems() if p.name == "gauss2 matrix")
    torch.manual_seed(0)
    half, most = (hits / 200 for hits in posteriors.coverage(problem, "mmps", 200))
    assert abs(half - 0.5) < 4 * 0.035
    assert abs(most - 0.9) < 4 * 0.021
    assert posteriors.coverage(problem, "dps", 200)[0] / 200 > 0.5 + 4 * 0.035


def test_posterior_samplers_evaluate_the_score_as_often_as_stated(monkeypatch):
    """By each method of `restore`; of a filter two particles make a sample."""
    monkeypatch.setattr(posteriors, "QUICK_SAMPLES", 4)
    monkeypatch.setattr(posteriors, "QUICK_DRAWS", 1)
    table = next(posteriors.run(Setting(quick=True, only=("gauss2 mask",))))
    place = [*table.columns].index("evaluations")
    evaluations = {row[0]: row[place] for row in table.rows}
    assert evaluations.keys() == {"exact", *METHODS}
    for name, own in METHODS.items():
        if own.levels:
            assert evaluations[name] == own.calls(own.levels) * (2 if own.particles else 1)


def test_the_agreement_of_stein_with_the_truth_is_that_of_the_documentation():
    """Ranks are compared with those of scipy; equal numbers have their mean rank."""
    stored = read_tables(RESULTS / "posteriors.json", {})
    tables = [table for table in stored if "bias" in table.columns]
    table = posteriors.stein_agreement(tables)
    page = (Path(__file__).parents[1] / "docs/restoration.md").read_text()
    assert table.markdown().split("\n\n")[1] in page
    pairs = [(row[6], row[7]) for table in tables for row in table.rows]
    truth = pytest.importorskip("scipy.stats").spearmanr(pairs).statistic
    # float32: sums over 110 ranks
    assert table.rows[-1] == ["all", len(pairs), pytest.approx(truth, abs=1e-5)]


def test_other_measurements_are_of_other_points(monkeypatch):
    """Exact samples have the errors of 2,000 samples, standard error 0.022; `dps` has more."""
    monkeypatch.setattr(posteriors, "OTHER_DRAWS", range(4, 6))
    rows = {}
    for method in ("exact", "dps"):
        (table,) = posteriors.run(Setting(quick=True, only=(f"other y, mix2 mask, {method}",)))
        (row,) = table.rows
        rows[method] = dict(zip(table.columns, row, strict=True))
    assert rows["exact"]["mean, worst"] < 4 * 0.022
    assert rows["dps"]["mean, worst"] > rows["dps"]["mean, median"] > 4 * 0.022
    points = {float(next(problems(draw)).y[0, 0]) for draw in (3, *posteriors.OTHER_DRAWS)}
    assert len(points) == 3


def test_a_grid_has_the_closed_form_where_the_operator_is_linear():
    """Sums are exact to 1e-12 where the density is wider than a cell; 7 deviations hold 1 − 1e-11.

    The standard errors of 2,000 samples are 0.022 in deviations.
    """
    problem = next(p for p in problems() if p.name == "mix2 matrix")
    prior = distributions()["mix2"]
    y = problem.y.double()
    grid = GridPosterior(prior, lambda x: problem.log_likelihood(x, y))
    truth, x = problem.posterior, grid.sample(2000)
    for value, exact in (
        (grid.prior.mean, truth.prior.mean),
        (grid.prior.dense, truth.prior.dense),
        (grid.weights, truth.weights),
        (grid(x, 0.0), truth(x, 0.0)),
    ):
        torch.testing.assert_close(value, exact, rtol=1e-7, atol=1e-7)
    gap = (x.mean(0) - truth.prior.mean) / truth.prior.dense.diagonal().sqrt()
    assert gap.abs().max() < 4 * 0.022


def test_counts_are_compared_by_poissons_likelihood():
    problem = next(p for p in problems() if p.name == "mix2 counts")
    x, y = problem.prior.sample(500), problem.y
    rate = problem.peak * x.norm(dim=1)
    likelihood = torch.distributions.Poisson(rate).log_prob(problem.peak * y[0])
    offset = problem.log_likelihood(x, y) - likelihood
    # float32: terms up to 100 by 2⁻²⁴, some ten of them
    torch.testing.assert_close(offset, offset[:1].expand(500), rtol=0, atol=1e-4)


QUICK = {"scale": "image", "posteriors": "gauss2 mask, d", "peers": "A step of training"}
QUICK |= {"gpu": "images"}
SLOW = [
    pytest.param(name, None, marks=pytest.mark.slow, id=f"whole {name}")
    for name in BENCHMARKS
    if name not in ("recipes", "short")  # they need images of some size, and minutes or hours
]


@pytest.mark.parametrize(("name", "only"), [*QUICK.items(), *SLOW])
def test_a_benchmark_runs(monkeypatch, tmp_path, request, name, only):
    if only is not None:
        request.getfixturevalue("pytest_commands")
        monkeypatch.setattr(step, "PRODUCT_SIZE", 64)
        for module in (scale, step):
            monkeypatch.setattr(module, "peak_memory", lambda *_: 1.0)
    if name == "studio" and shutil.which("chromium") is None:
        pytest.skip("chromium is not installed")
    args = [name, "--quick", "--no-compile", "--device", "cpu", "--out", str(tmp_path)]
    assert main([*args, *([] if only is None else ["--only", only])]) == 0
    measured = read_tables(tmp_path / f"{name}.json", {"bench": name, "quick": True})
    assert measured
    for table in measured:
        assert table.rows
        assert "failed" not in table.columns
        assert {len(row) for row in table.rows} == {len(table.columns)}
        assert table.date
