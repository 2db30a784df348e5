"""A budget of time: its choice of a network, and a run that ends in time and resumes exactly.

A clock that a step of training moves replaces the real one.
"""

import json
import math
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from test_faults import assert_same_end, vectors

from scorefield.checkpoint import read_tensors
from scorefield.cli import main
from scorefield.data import Arrays, Dataset, load_data
from scorefield.nn import NETWORKS
from scorefield.runs import resume, start
from scorefield.runs.budget import CANDIDATES, EVENTS, Candidate, fit_budget, fit_images
from scorefield.runs.build import MemoryLimitError, build
from scorefield.runs.choose import choose_experiment
from scorefield.runs.config import Experiment, Sampling, as_json, override, read
from scorefield.runs.pace import Pace
from scorefield.runs.run import Run
from scorefield.train import cool_down
from scorefield.values import parse_duration

BUDGET = 24.0


@pytest.fixture
def clock(monkeypatch):
    """A clock, `now`; `cost(run)` is the time of a run's step, `closing` that of its files."""

    class Clock:
        now, closing, waiting = 0.0, 0.5, 0.0

        @staticmethod
        def cost(run):
            return 0.1

        def __call__(self):
            return self.now

    clock, take_steps, evaluate = Clock(), Run.take_steps, Run.evaluate

    def timed_steps(run):
        for update in take_steps(run):
            clock.now += clock.cost(run)
            yield update

    def timed_evaluation(run):
        clock.now += clock.closing
        return evaluate(run)

    monkeypatch.setattr(Run, "take_steps", timed_steps)
    monkeypatch.setattr(Run, "evaluate", timed_evaluation)
    for module in ("budget", "pace", "run"):
        monkeypatch.setattr(f"scorefield.runs.{module}.monotonic", clock)
    monkeypatch.setattr("scorefield.runs.pace.waiting_seconds", lambda: clock.waiting * clock.now)
    return clock


def _experiment(points, *settings):
    return vectors(points, f"training.budget={BUDGET}", *settings)


def _noise_images():
    pixels = torch.randint(256, (24, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    images = Arrays(pixels.to(torch.uint8))
    return Dataset("noise", images, images)


def _log_of_rates(directory):
    lines = (directory / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["rate"] for line in lines]


SPEEDS = {
    "slower in the cool-down": lambda step: 0.25 if step < 60 else 0.75,
    "faster in the cool-down": lambda step: 0.75 if step < 18 else 0.25,
    "slow at the start": lambda step: 0.1 if step else 6.0,
    "uneven": lambda step: 0.1 + 0.4 * (step % 10 < 4),
}
"""Seconds of a step."""


@pytest.mark.filterwarnings("ignore:slowed")
@pytest.mark.parametrize("speed", SPEEDS)
def test_a_run_ends_within_a_tenth_of_its_budget(points, tmp_path, clock, speed):
    clock.cost = lambda run: SPEEDS[speed](run.step)
    run = start(_experiment(points), tmp_path / "run")
    last = list(run)[-1]
    assert abs(clock.now - BUDGET) <= 0.1 * BUDGET
    training = read(tmp_path / "run/config.json").training
    assert (last.step, run.at_end) == (training.steps, True)
    rates = _log_of_rates(tmp_path / "run")
    first = training.cooldown[0][0]
    assert {*rates[:first]} == {training.rate}
    assert all(one > other for one, other in pairwise(rates[first:]))
    assert rates[-1] < 0.25 * training.rate


@pytest.mark.filterwarnings("ignore:slowed")
def test_a_killed_run_replays_its_decisions_exactly(points, tmp_path, clock):
    """Its recorded numbers alone, without a budget, give the same bits as it after two kills."""
    clock.cost = lambda run: SPEEDS["slower in the cool-down"](run.step)
    run, decisions = tmp_path / "run", []
    updates = iter(start(_experiment(points, "sampling.guidance=2"), run))
    for kills in range(3):
        for update in updates:
            decisions.append(read(run / "config.json").training.cooldown)
            if (kills, update.step) == (0, 30) or (kills, len(decisions[-1])) == (1, 2):
                break
        updates.close()
        clock.now += 1e6  # the time between does not count
        updates = iter(resume(run))
    assert all(later[: len(one)] == one for one, later in pairwise(decisions))
    assert len(decisions[-1]) > 2
    guide = read(run / "config.json").sampling.guide
    assert read_tensors(run / "guide.safetensors").about["step"] == guide < decisions[-1][0][0]
    again = override(read(run / "config.json"), ["training.budget=null"])
    list(start(again, tmp_path / "again"))
    assert_same_end(tmp_path / "again", run)


@pytest.mark.filterwarnings("ignore:slowed")
def test_a_slowed_run_guides_by_its_average_before_the_cool_down(points, tmp_path, clock):
    clock.cost = lambda run: 0.25 if run.step < 9 else 1.5
    list(start(_experiment(points, "sampling.guidance=2"), tmp_path / "run"))
    experiment = read(tmp_path / "run/config.json")
    guide = read_tensors(tmp_path / "run/guide.safetensors").about["step"]
    assert guide == experiment.sampling.guide == experiment.training.cooldown[0][0]


@pytest.mark.filterwarnings("ignore:slowed")
def test_a_raised_budget_opens_a_run_again_with_a_guide_at_half_of_all_steps(
    points, tmp_path, clock
):
    clock.cost = lambda run: 0.5
    run = tmp_path / "run"
    list(start(_experiment(points, "sampling.guidance=2"), run))
    first = read(run / "config.json")
    longer = override(first, [f"training.budget={3 * BUDGET}"])
    (run / "config.json").write_text(as_json(longer))
    list(resume(run))
    assert abs(clock.now - 3 * BUDGET) <= 0.3 * BUDGET
    last = read(run / "config.json")
    rates = _log_of_rates(run)
    assert rates[first.training.steps] == rates[0] > rates[-1]
    assert first.training.steps < last.sampling.guide < last.training.cooldown[0][0]
    # planned by the mean time of a step so far, in which the start has its share
    assert last.sampling.guide == pytest.approx(last.training.steps / 2, rel=0.1)
    assert read_tensors(run / "guide.safetensors").about["step"] == last.sampling.guide


def test_a_run_says_that_it_is_slowed_and_how_much_other_programs_are(points, tmp_path, clock):
    def train_until_planned(name):
        run = start(_experiment(points), tmp_path / name)
        next(update for update in run if run.experiment.training.cooldown)

    clock.waiting = 0.25
    with pytest.warns(
        UserWarning, match=r"slowed by other programs, .* 25% of the time: about \d+ steps"
    ):
        train_until_planned("busy")
    clock.now, clock.waiting = 0.0, 0.0
    clock.cost = lambda run: 0.25 if run.step < 9 else 0.75
    with pytest.warns(
        UserWarning, match=r"slowed down: about \d+ steps fit in 24 s, not \d+ as pl"
    ):
        train_until_planned("slow")


WIDTHS = {8: 0.1, 12: 0.3, 16: 0.9}
"""Seconds of a step of the candidates."""


@pytest.fixture
def small_candidates(monkeypatch, clock):
    form = {"kind": "UNet", "blocks": 1, "fir": None, "progressive_input": "none", "dropout": 0.0}
    candidates = tuple(
        Candidate(f"unet-{width}", 20 * number, form | {"width": width}, batch=4)
        for number, width in enumerate(WIDTHS, 1)
    )
    monkeypatch.setitem(CANDIDATES, "cpu", candidates)
    clock.cost = lambda run: WIDTHS[run.experiment.network["width"]]


@pytest.mark.usefixtures("small_candidates", "clock")
def test_a_chosen_network_averages_its_targets_unless_settings_say_otherwise():
    experiment = override(Experiment(), ["network.kind=auto", "training.budget=12"])
    planned = fit_budget(experiment, _noise_images(), [], Pace(0.0))[0]
    assert (planned.training.references, planned.levels.mean) == (2048, -0.7)
    own = ["training.references=0", "levels.mean=null", "levels.std=1.1"]
    planned = fit_budget(experiment, _noise_images(), own, Pace(0.0))[0]
    assert (planned.training.references, planned.levels.std) == (0, 1.1)
    assert planned.levels.mean == pytest.approx(math.log(0.6 * planned.levels.sigma_data))


def test_a_network_chosen_on_a_cpu_is_sampled_with_guidance_unless_settings_say_otherwise(clock):
    clock.cost = lambda run: 1.0  # two steps of the first candidate
    settings = ["network.kind=auto", "training.budget=12", "sampling.guide=3"]
    guided = Sampling("dpm_solver_sde", 21, guidance=1.5, guidance_interval=(0.1, 5.0))
    without = "sampling.guidance=1"  # a level then has one call, not two
    for own, sampling in (
        ([], guided),
        (["sampling.steps=9"], replace(guided, steps=9)),
        ([without], Sampling("dpm_solver_sde", 32)),
        ([without, "sampling.sampler=unipc", "sampling.steps=9"], Sampling("unipc", 9)),
    ):
        experiment = override(Experiment(), [*settings, *own])
        planned, _, text = fit_budget(experiment, _noise_images(), own, Pace(0.0))
        guide = None if without in own else planned.training.steps // 2
        assert planned.sampling == replace(sampling, guide=guide)
        assert ("--sampling.guidance=1 leaves that out" in text) == (without not in own)


@pytest.mark.usefixtures("small_candidates")
def test_more_time_never_gets_a_smaller_network_or_fewer_steps(clock):
    experiment = override(Experiment(), ["network.kind=auto"])
    data, choices = _noise_images(), []
    for budget in (1.0, 12.0, 20.0, 75.0):
        limited = override(experiment, [f"training.budget={budget}"])
        planned, _, plan = fit_budget(limited, data, ["training.batch=5"], Pace(0.0))
        assert planned.training.batch == 5
        choices.append((planned.network["width"], planned.training.steps))
        assert planned.keeping.checkpoint == max(1, planned.training.steps // EVENTS)
        assert planned.keeping.samples == 0  # a grid takes as long as 84 steps
        # 1.05 · (5.1 s for measuring + 60 · 0.9 s / 0.9)
        expected = {8: "", 12: "from 69 s on with unet-16", 16: "more time makes more steps"}
        assert expected[choices[-1][0]] in plan
        assert "few steps for data of this size: give 4 s or more" in plan or budget > 1
    assert choices == sorted(choices)
    assert [width for width, _ in choices] == [8, 8, 12, 16]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("out"), MemoryLimitError("too large")])
@pytest.mark.usefixtures("small_candidates")
def test_only_a_lack_of_memory_ends_the_trials(monkeypatch, error):
    data, failures = _noise_images(), {12: error}

    def build_or_fail(experiment, *args):
        if (width := experiment.network["width"]) in failures:
            raise failures[width]
        return build(experiment, *args)

    monkeypatch.setattr("scorefield.runs.budget.build", build_or_fail)
    experiment = override(Experiment(), ["network.kind=auto", "training.budget=75"])
    planned, _, plan = fit_budget(experiment, data, [], Pace(0.0))
    assert planned.network["width"] == 8
    assert "a step takes 0.1 s with unet-8\n" in plan
    failures[12] = ValueError("of another cause")
    with pytest.raises(ValueError, match="of another cause"):
        fit_budget(experiment, data, [], Pace(0.0))
    failures[8] = error
    with pytest.raises(type(error), match=str(error)):
        fit_budget(experiment, data, [], Pace(0.0))


@pytest.mark.usefixtures("clock")
def test_a_kept_network_keeps_its_fields_and_gets_a_schedule_for_its_steps(points):
    """`clock` makes a step take 0.1 s: about 200 of them fit."""
    fields = ["keeping.best=last", "training.schedule=inverse_sqrt", "training.warmup=5000"]
    experiment, data = _experiment(points, *fields), load_data(points)
    planned, _, plan = fit_budget(experiment, data, [], Pace(0.0))
    training, tenth = planned.training, planned.training.steps // 10
    assert training.steps > 150
    assert planned.keeping.best == "last"
    assert (training.schedule, training.plateau, training.warmup) == ("inverse_sqrt", tenth, tenth)
    assert f"training.warmup=5000 is shortened to a tenth of the steps, {tenth}" in plan
    experiment = override(experiment, ["training.plateau=7", "training.warmup=3"])
    planned, _, plan = fit_budget(experiment, data, [], Pace(0.0))
    assert (planned.training.plateau, planned.training.warmup) == (7, 3)
    assert "warmup" not in plan
    planned, _, plan = fit_budget(experiment, data, ["training.warmup=90"], Pace(0.0))
    assert planned.training.warmup == 90
    assert "training.warmup=90 is kept, but is more than a tenth of the steps" in plan


@pytest.mark.usefixtures("clock")
@pytest.mark.filterwarnings("ignore:slowed")
def test_latents_and_volumes_keep_the_network_of_their_preset(tmp_path):
    generator = np.random.default_rng(0)
    np.save(tmp_path / "volumes.npy", generator.random((20, 1, 4, 4, 4), dtype="float32"))
    np.save(tmp_path / "z.npy", generator.normal(size=(20, 2, 4, 4)).astype("float32"))
    (tmp_path / "z.npy.json").write_text('{"autoencoder": "codec:trained", "held out": 4}')
    np.save(tmp_path / "images.npy", generator.integers(0, 256, (20, 1, 8, 8), dtype=np.uint8))
    for name, kind in {"volumes": "UNet", "z": "UNet", "images": "auto"}.items():
        for preset in (None, "photos"):
            source = str(tmp_path / f"{name}.npy")
            chosen = choose_experiment(preset, source=source, settings=["training.budget=9"])
            assert chosen.network["kind"] == kind
    # The preset trains them for the time, here with a smaller network.
    small = ["network.width=8", "network.blocks=1", "network.multipliers=[1]"]
    small += ["network.attention=[]", "training.batch=4", "keeping.samples=0"]
    command = ["train", "--data", str(tmp_path / "volumes.npy"), "--out", str(tmp_path / "run")]
    assert main([*command, "--budget", "6s", *(f"--{setting}" for setting in small)]) == 0
    assert read(tmp_path / "run/config.json").network["dims"] == 3


def test_candidates_need_more_steps_the_larger_they_are_and_take_images_of_any_size():
    for candidates in CANDIDATES.values():
        steps = [candidate.steps for candidate in candidates]
        assert steps == sorted({*steps})
        for candidate, (height, width) in product(candidates, ((28, 28), (9, 53))):
            network = fit_images(candidate.network, height, width)
            with torch.device("meta"):
                net = NETWORKS[network.pop("kind")](channels=3, **network)
                images, cond = torch.empty(2, 3, height, width), torch.empty(2)
                assert net(images, cond).shape == images.shape
    assert fit_images({"kind": "UNet"}, 28, 28)["multipliers"] == [1, 2, 2]
    assert fit_images({"kind": "UNet", "patch": 2}, 28, 28)["multipliers"] == [1, 2]
    assert fit_images({"kind": "DiT"}, 64, 64)["patch"] == 4


@pytest.mark.usefixtures("small_candidates")
def test_the_command_says_what_it_chose_and_keeps_what_is_set(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), dtype=np.uint8))
    options = ["--data.options.held_out=0.2", "--training.rate=2e-3", "--keeping.samples=0"]
    assert main(["train", "--data", "x.npy", "--budget", "20s", "--out", "run", *options]) == 0
    out = capsys.readouterr().out
    assert "a step takes 0.1 s with unet-8, 0.3 s with unet-12, 0.9 s with unet-16\n" in out
    assert "for 20 s: unet-12, about" in out
    experiment = read(tmp_path / "run/config.json")
    assert (experiment.training.rate, experiment.training.batch) == (2e-3, 4)
    assert main(["resume", "run"]) == 0
    assert f"has all of its {experiment.training.steps} steps" in capsys.readouterr().out
    kept = choose_experiment(source="x.npy", settings=["training.budget=9", "network.width=8"])
    assert (kept.network["kind"], kept.network["width"]) == ("UNet", 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget", "20"], "--budget '20': give a duration such as 90s, 20m or 1h30m"),
        (["--budget", "20m", "--steps", "9"], "training.steps=9 with a budget"),
        (["--budget", "20m", "--sampling.guide=9"], "sampling.guide=9 with a budget"),
        (["--budget", "20m", "--training.schedule=cosine"], "training.schedule=cosine with a bud"),
        (["--budget", "20m", "--network.kind=auto"], "name a network, such as MLP for vectors"),
        (["--training.budget=-1"], "training.budget=-1: give more than 0"),
        (["--training.cooldown=[[5, 9]]"], "the last of which ends at training.steps=3000"),
    ],
)
def test_an_impossible_budget_is_refused(tmp_path, options, message, error_of):
    assert message in error_of("train", "vectors", "--out", tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


def test_durations_and_schedules():
    texts = {"90s": 90, "20m": 1200, "1h30m": 5400, " 1.5h": 5400, "1h1m1s": 3661}
    assert {text: parse_duration(text, "--budget") for text in texts} == texts
    factors = [cool_down([(4, 8), (6, 10)])(step) for step in range(11)]
    assert factors == [1, 1, 1, 1, 1, 0.75, 0.5, 0.375, 0.25, 0.125, 0]
    assert cool_down([])(7) == 1
