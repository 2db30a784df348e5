"""Other packages beside ours: that they do the same work, and what is said where they are missing.

Samplers are given a known distribution's score; those of one kind must then go one way.
"""

import json
import sys
import warnings
from functools import partial

import pytest
import torch

from scorefield import SAMPLERS, final, geometric
from scorefield.bench import Setting, loops, peers, unets
from scorefield.bench.loops import LOOPS, OURS, SIGMA_MAX, SIGMA_MIN, Loop, network
from scorefield.cli import main

PACKAGES = ("diffusers", "azula")
EVALUATIONS = 40


@pytest.fixture(autouse=True)
def _quick(monkeypatch, unchecked):
    """Short runs, in turns of one call; and some versions of diffusers warn when loaded."""
    monkeypatch.setattr(peers, "turns", partial(peers.turns, least=0))
    monkeypatch.setattr(peers, "STEPS", 10)
    monkeypatch.setattr(peers, "EVALUATIONS", 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for package in PACKAGES:
            loops.why_not(package)


def _need(package):
    if (lacking := loops.why_not(package)) is not None:
        pytest.skip(lacking)


def _loop(package, name):
    (loop,) = (each for each in LOOPS if (each.package, each.name) == (package, name))
    return loop


def _drawn(chain, x):
    torch.manual_seed(1)
    return chain(x)


# ── The same work ────────────────────────────────────────────────────────────────────────────────

TWINS = [
    ("diffusers", "EDMEulerScheduler", "euler", EVALUATIONS, True),
    ("diffusers", "EDMDPMSolverMultistepScheduler", "dpm_solver", EVALUATIONS, True),
    ("diffusers", "ScoreSdeVeScheduler, step_pred", "reverse_diffusion", EVALUATIONS, True),
    ("azula", "EulerSampler", "euler", EVALUATIONS + 1, False),
    ("azula", "DDIMSampler", "euler", EVALUATIONS + 1, False),
    ("azula", "HeunSampler", "heun", EVALUATIONS // 2 + 1, False),
    ("azula", "DDPMSampler", "ancestral", EVALUATIONS + 1, False),
]


@pytest.mark.parametrize(
    ("package", "name", "ours", "levels", "denoise"), TWINS, ids=[twin[1] for twin in TWINS]
)
def test_a_sampler_goes_the_way_of_ours(package, name, ours, levels, denoise):
    """On an exact score, from one start and with one seed, point by point."""
    _need(package)
    oracle = peers.mixture()
    start = oracle.sample(300, SIGMA_MAX).float()
    grid = geometric(SIGMA_MAX, SIGMA_MIN, levels)
    expected = _drawn(lambda x: final(SAMPLERS[ours].run(oracle, x, grid, denoise=denoise)), start)
    subject = network(peers.Exact(oracle))
    found = _drawn(_loop(package, name).build(subject, EVALUATIONS), start)
    # a point between two modes may be sent to either by the rounding of σ
    far = ((found - expected).norm(dim=1) > 1e-2).double().mean().item()
    assert far < 0.01
    assert (found - expected).abs().median() < 1e-3


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: f"{loop.package} {loop.name}")
def test_a_sampler_with_an_exact_score_draws_the_truth(loop):
    """The mixture's modes are 4 apart; two exact sets have a distance of 0.05."""
    _need(loop.package)
    assert peers.distance(loop, 200) < 0.08
    # evaluations are as many as are said
    asked = []

    class Counted(peers.Exact):
        def forward(self, u, cond):
            asked.append(cond)
            return super().forward(u, cond)

    loop.build(network(Counted(peers.mixture())), 36)(SIGMA_MAX * torch.randn(4, 2))
    assert len(asked) == 36
    sigmas = torch.stack([(4 * cond).exp()[0] for cond in asked])
    assert sigmas.max() == pytest.approx(SIGMA_MAX, rel=0.02)
    assert sigmas.min() <= SIGMA_MIN * (SIGMA_MAX / SIGMA_MIN) ** (1 / 17) * 1.02


def test_a_wrong_conditioning_would_be_seen():
    """As of a package that tells the network log σ for ¼log σ."""

    class Wrong(peers.Exact):
        def forward(self, u, cond):
            return super().forward(u, 4 * cond)

    oracle = peers.mixture()
    chain = _loop(OURS, "euler").build(network(Wrong(oracle)), 200)
    found = chain(oracle.sample(peers.DRAWS, SIGMA_MAX).float())
    assert peers.sliced_wasserstein(found.double(), oracle.sample(peers.DRAWS), order=1) > 0.2


@pytest.mark.parametrize("package", PACKAGES)
def test_unets_are_of_as_many_operations(package):
    """Within 5 per cent of ours, at both sizes that are measured; nothing is computed."""
    _need(package)
    for size in peers.SIZES.values():
        with torch.device("meta"):
            u, cond = torch.empty(2, *size.shape), torch.empty(2)
            ours, other = (unets.UNETS[name].build(size) for name in (OURS, package))
        works = [peers.operations(partial(net, u, cond)) for net in (ours, other)]
        assert works[1] / works[0] == pytest.approx(1, abs=0.05)


def test_losses_are_those_of_one_task(monkeypatch):
    """EDM's weighted loss, azula's by its mean over pixels; diffusers' is of the noise."""
    monkeypatch.setattr(unets, "stepped", lambda net, loss: loss)
    oracle = peers.mixture()
    x = oracle.sample(50_000).float()
    ours = unets.train_ours(peers.Exact(oracle), x)().item()
    if loops.why_not("azula") is None:
        assert 2 * unets.train_azula(peers.Exact(oracle), x)().item() == pytest.approx(
            ours, rel=0.03
        )

    class Zero(torch.nn.Module):
        def forward(self, u, cond):
            return torch.zeros_like(u)

    if loops.why_not("diffusers") is None:
        assert unets.train_diffusers(Zero(), x)().item() == pytest.approx(1, rel=0.02)


# ── Tables ───────────────────────────────────────────────────────────────────────────────────────


def _setting(path, *only):
    return Setting(path, quick=True, only=only)


def test_all_tables_are_made_and_written(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(peers, "DRAWS", 200)
    given = ["bench", "peers", "--quick", "--device", "cpu", "--out", str(tmp_path)]
    assert main(given) == 0
    assert "A step of training, UNet 16, 1×8×8" in capsys.readouterr().out
    tables = json.loads((tmp_path / "peers.json").read_text())["tables"]
    assert [table["title"] for table in tables] == list(peers.small())
    there = {OURS, *(package for package in PACKAGES if loops.why_not(package) is None)}
    for table in tables:
        assert {row[0].removesuffix(", optimize") for row in table["rows"]} == there
        ratio = list(table["columns"]).index("ratio")
        assert table["rows"][0][ratio] == 1
        assert not [
            each for each in table["notes"] if each.startswith(OURS) and "could not" in each
        ]


def test_a_package_that_is_missing_is_named_with_how_to_get_it(monkeypatch, tmp_path):
    for module in ("diffusers", "azula.sample", "azula"):
        monkeypatch.setitem(sys.modules, module, None)  # what an import finds where there is none
    monkeypatch.setattr(peers, "DRAWS", 200)
    for table in peers.run(_setting(tmp_path)):
        assert {row[0].removesuffix(", optimize") for row in table.rows} == {OURS}
        said = "\n".join(table.notes)
        assert "diffusers could not be run, " in said
        assert "azula could not be run, " in said
        assert "pip install 'scorefield[peers]'" in said
        assert "pip install --no-deps azula" in said
        assert "Beside" not in said


def test_what_fails_is_left_out_with_its_reason(monkeypatch, tmp_path):
    def changed(subject, evaluations):
        raise AttributeError("no set_timesteps\nand more")

    broken = Loop(OURS, "of another version", "euler", 1, changed)
    monkeypatch.setattr(peers, "LOOPS", (_loop(OURS, "euler"), broken))
    table = peers.overhead(_setting(tmp_path), "Overhead", (4, 2))
    assert [row[1] for row in table.rows] == ["euler"]
    assert f"{OURS} of another version could not be run, no set_timesteps" in table.notes


def test_a_ratio_is_to_ours_of_the_same_kind(monkeypatch, tmp_path):
    """Times made up: a second an evaluation for Euler's, ten for others, twice that for a peer."""

    def times(ways, *, repeats):
        return {name: [1.0 if "euler" in name else 10.0] for name in ways}

    slow = _loop(OURS, "heun")._replace(package="scorefield", name="twin", beside="euler")
    monkeypatch.setattr(peers, "LOOPS", (_loop(OURS, "euler"), slow))
    monkeypatch.setattr(peers, "turns", times)
    table = peers.overhead(_setting(tmp_path), "Overhead", (4, 2))
    assert [row[4] for row in table.rows] == [1.0, 0.1]
    assert [row[3] for row in table.rows] == [1e6 / peers.STEPS, 2 * 10e6 / peers.STEPS]


def test_tables_are_chosen_by_their_names(tmp_path):
    found = [table.title for table in peers.run(_setting(tmp_path, "free score"))]
    assert found == ["A step’s overhead, free score, 8×2"]
    with pytest.raises(ValueError, match="there are A step’s overhead"):
        list(peers.run(_setting(tmp_path, "ResNet")))
