"""score_sde's checkpoints as scores, against what the authors' programs computed for golden/."""

import inspect
import itertools
import math
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from score_sde_reference import Reference

from scorefield import VE, VP, Rescaled, SubVP, VEDiscrete, VPDiscrete, geometric
from scorefield.convert import from_official, score_sde

GOLDEN = Path(__file__).parent / "golden"
ROWS = {
    "ncsnpp_ve_continuous": (VE, {}),
    "ncsnpp_ve_discrete": (VEDiscrete, {}),
    "ncsnpp_ve_ffhq256": (VE, {}),
    "ddpmpp_vp_continuous": (VP, {}),
    "ddpmpp_subvp_continuous": (SubVP, {"sde": "subvp"}),
    "ddpm_vp": (VPDiscrete, {}),
}
"""The row that each must become, by what else than the image's size need be said."""


def _ours(known, centred):
    """x, σ and the score of x₀ + σz in [0, 1], of theirs of αx₀ + s·z, in [−1, 1] if centred.

    y = x_t/α has σ = s/α and α times the score; x = (y + 1)/2 has half of that σ, twice the score.
    """
    alpha, scale = known["alpha"].double()[:, None, None, None], 2 if centred else 1
    x = (known["x_t"] / alpha + centred) / scale
    return x, known["std"] / known["alpha"] / scale, scale * alpha * known["score"]


def _golden(folder):
    path = GOLDEN / folder / "expected.safetensors"
    with safe_open(path, "pt") as file:
        facts = file.metadata()
    return load_file(path), facts


def _model(folder, **options):
    size = int(_golden(folder)[1]["image_size"])
    return from_official(GOLDEN / folder / "checkpoint.pth", image_size=size, **options)


def _error(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


def _bare(row):
    return row.precondition if isinstance(row, Rescaled) else row


# ── The authors' numbers ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("folder", ROWS)
@torch.no_grad()
def test_the_score_is_the_authors(folder):
    known, facts = _golden(folder)
    row, options = ROWS[folder]
    model = _model(folder, **options)
    assert type(_bare(model.precondition)) is row
    x, sigma, score = _ours(known, facts["centered"] == "True")
    for one in range(len(x)):  # each σ on its own: the largest score must not hide the others
        found = model(x[one : one + 1].float(), sigma[one : one + 1])
        assert _error(found, score[one : one + 1]) <= 1e-5


def test_the_raw_weights_come_on_request():
    path = GOLDEN / "ncsnpp_ve_continuous/checkpoint.pth"
    raw = torch.load(path, weights_only=True)["model"]["module.all_modules.3.weight"]
    lines = []
    net = from_official(path, ema=False, report=lines.append).net
    assert torch.equal(net.stem.weight, raw)
    assert not torch.equal(from_official(path).net.stem.weight, raw)
    assert lines[0] == "inferred: weights as trained"


def test_what_is_inferred_and_assumed_is_said_with_the_option():
    lines = []
    model = from_official(GOLDEN / "ddpmpp_vp_continuous/checkpoint.pth", report=lines.append)
    assert lines[0] == "inferred: weights averaged (EMA)"
    assert "inferred: training step 777" in lines
    assert any(line.startswith("inferred: DDPM++") and "width 16" in line for line in lines)
    assert "assumed: sde 'vp', continuous True (sde, continuous)" in lines
    assert "assumed: β from 0.1 to 20 (beta_min, beta_max)" in lines
    assert "assumed: images of 32 × 32 pixels (image_size)" in lines
    assert model.shape == (3, 32, 32)
    assert not model.training
    torch.testing.assert_close(model.prior.mean, torch.full((3, 32, 32), 0.5))
    assert model.prior.cov.item() == pytest.approx(1 / 12)


# ── Other checkpoints ────────────────────────────────────────────────────────────────────────────

BASE = dict(
    channels=3,
    width=8,
    multipliers=(1, 2),
    blocks=1,
    attention=(1,),
    form="biggan",
    embedding="sinusoidal",
    fir=None,
    progressive_input="none",
    progressive_output="none",
    combine="sum",
    skip_rescale=True,
    groups=None,
)
FOURIER = dict(embedding="fourier", fir=(1.0, 3.0, 3.0, 1.0))
OLD = dict(form="ddpm", skip_rescale=False, groups=4)


def _alpha(time, low, high):
    """Song et al. 2021, eq. 33."""
    return math.exp(-(time**2) * (high - low) / 4 - time * low / 2)


def _ddpm_alpha(timestep, low, high, steps):
    """√ᾱ, Ho et al. 2020, eq. 4."""
    betas = torch.linspace(low / steps, high / steps, steps, dtype=torch.float64)
    return (1 - betas).cumprod(0)[timestep].sqrt().item()


def _preserved(alpha):
    return alpha, math.sqrt(1 - alpha**2)


LADDER = geometric(3.0, 0.1, 7, dtype=torch.float64)
CASES = {
    "VE, no ladder": (FOURIER, {}, math.log(7.0), (1, 7.0)),
    "VE discrete": ({}, dict(sde="ve", ladder=LADDER), 4, (1, LADDER[4].item())),
    "VE discrete, no ladder": (
        OLD,
        dict(sde="ve", sigma_max=9, sigma_min=0.3),
        999,
        (1, 0.3),
    ),
    "VP": (OLD, dict(continuous=True), 400, _preserved(_alpha(400 / 999, 0.1, 20))),
    "VP of other β": (
        {},
        dict(beta_min=0.2, beta_max=9.0),
        700,
        _preserved(_alpha(700 / 999, 0.2, 9)),
    ),
    "VP discrete": (
        {},
        dict(continuous=False, beta_max=10.0),
        300,
        _preserved(_ddpm_alpha(300, 0.1, 10, 1000)),
    ),
    "VP of 7 steps": (
        dict(OLD, channels=1, multipliers=(1, 1, 3), attention=()),
        dict(ladder=LADDER, beta_max=4.0),
        2,
        _preserved(_ddpm_alpha(2, 0.1, 4, 7)),
    ),
    "sub-VP": (
        {},
        dict(sde="subvp", beta_max=15.0),
        500,
        (_alpha(500 / 999, 0.1, 15), 1 - _alpha(500 / 999, 0.1, 15) ** 2),
    ),
}
"""What the network is; what is said of it; what it is told of the noise; the α and s of that."""


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_other_networks_and_noises_give_their_score(case, tmp_path):
    changes, options, told, (alpha, s) = CASES[case]
    arguments, options = {**BASE, **changes}, dict(options)
    reference, ladder = Reference(**arguments), options.pop("ladder", None)
    seen = torch.randn(2, arguments["channels"], 8, 8, dtype=torch.float64)  # by the network
    f = reference.run(seen, torch.full((2,), told, dtype=torch.float64))
    state = {key: value.float() for key, value in reference.state.items()}
    state |= {} if ladder is None else {"module.sigmas": ladder}
    torch.save(state, tmp_path / "model.pth")
    model = from_official(
        tmp_path / "model.pth",
        image_size=8,
        groups=arguments["groups"],
        skip_rescale=arguments["skip_rescale"],
        **options,
    )
    if case.startswith("VE"):  # data in [0, 1], and the network is given 2x − 1
        x, sigma, expected = (seen + 1) / 2, s, f / s
    else:
        known = {"alpha": torch.full((2,), alpha), "std": torch.full((2,), s).double()}
        x, sigma, expected = _ours({**known, "x_t": seen, "score": -f / s}, True)
    assert _error(model(x, sigma), expected) <= 2e-5  # the weights are rounded to float32


@pytest.fixture(scope="module")
def small():
    """A network's tensors as theirs are named."""
    torch.manual_seed(0)
    reference = Reference(**BASE)
    reference.run(torch.randn(1, 3, 8, 8).double(), torch.tensor([3.0]).double())
    return {key: value.float() for key, value in reference.state.items()}


def _converted(content, tmp_path, **options):
    torch.save(content, tmp_path / "model.pth")
    return from_official(tmp_path / "model.pth", **options)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"model": state, "step": 3},
        lambda state: {"state_dict": state},
        lambda state: [state, {}],
        lambda state: (state, {}, 3),
        lambda state: {key.removeprefix("module."): value for key, value in state.items()},
    ],
    ids=["dict", "other dict", "list", "tuple", "no prefix"],
)
def test_the_weights_are_found_in_every_layout(wrap, small, tmp_path):
    expected = _converted(small, tmp_path).net.state_dict()
    found = _converted(wrap(small), tmp_path).net.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)


@pytest.mark.parametrize("folder", ROWS)
def test_every_key_is_used_once(folder, tmp_path):
    model = torch.load(GOLDEN / folder / "checkpoint.pth", weights_only=True)["model"]
    sigmas = {key: model.pop(key) for key in list(model) if key.endswith("sigmas")}
    marked = {key: torch.full_like(value, i) for i, (key, value) in enumerate(model.items())}
    net = _converted({**marked, **sigmas}, tmp_path).net
    marks = [value.unique() for value in net.state_dict().values()]
    assert sorted(torch.cat(marks).tolist()) == list(range(len(model)))


# ── Mistakes ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("folder", "options", "message"),
    [
        ("ddpm_vp", dict(widht=3), r"widht: not for .* score_sde; .* beta_max, beta_min"),
        ("ddpm_vp", dict(sde="vpsde"), "sde='vpsde': give one of ve, vp, subvp"),
        ("ddpm_vp", dict(sde="subvp", continuous=False), "sde='subvp' with continuous=False"),
        ("ddpm_vp", dict(sigma_max=3.0), "sigma_max=3.0: .* by beta_min and beta_max"),
        ("ddpm_vp", dict(beta_min=30.0), "beta_max > beta_min > 0"),
        ("ddpm_vp", dict(image_size=31), "image_size=31: give a multiple of 2"),
        ("ddpm_vp", dict(image_size=0), "image_size=0"),
        ("ddpm_vp", dict(groups=0), "groups=0: give the groups"),
        ("ncsnpp_ve_continuous", dict(sde="vp"), "sde='vp' .* has sde='ve' with continuous=True"),
        ("ncsnpp_ve_continuous", dict(continuous=False), "continuous=False does not fit"),
        ("ncsnpp_ve_continuous", dict(beta_max=3.0), "beta_max=3.0: .* by sigma_max and sigma_min"),
        ("ncsnpp_ve_continuous", dict(sigma_max=348.0), r"its own ladder, 50 to 0\.01: leave out"),
        ("ncsnpp_ve_continuous", dict(fir=False), "fir=False: the checkpoint's keys say True"),
    ],
)
def test_a_wrong_option_is_named_with_the_remedy(folder, options, message):
    with pytest.raises(ValueError, match=message):
        from_official(GOLDEN / folder / "checkpoint.pth", **options)


def test_the_stored_ladder_may_be_repeated():
    """It ends at 49.99999999999999, and 50 is what the paper says."""
    assert _model("ncsnpp_ve_discrete", sigma_max=50, sigma_min=0.01).sigma_max < 50


def test_a_range_upside_down_is_refused(small, tmp_path):
    with pytest.raises(ValueError, match="sigma_max > sigma_min > 0"):
        _converted(small, tmp_path, sde="ve", sigma_max=0.001)


def test_a_mismatch_names_the_keys(small, tmp_path):
    key, extra = "module.all_modules.3.Conv_0.bias", "module.all_modules.3.Conv_7.weight"
    with pytest.raises(ValueError, match=r"missing: \['down\.0\.blocks\.0\.conv_in\.bias'\]"):
        _converted({k: v for k, v in small.items() if k != key}, tmp_path)
    with pytest.raises(ValueError, match=r"not in this network: \['all_modules\.3\.Conv_7"):
        _converted({**small, extra: torch.ones(2)}, tmp_path)
    with pytest.raises(ValueError, match=r"all_modules\.3\.Conv_0\.bias \(5,\)"):
        _converted({**small, key: torch.ones(5)}, tmp_path)
    with pytest.raises(ValueError, match="stranger"):
        _converted({**small, "module.stranger": torch.ones(5)}, tmp_path)
    with pytest.raises(ValueError, match=r"all_modules\.3\.Conv_0\.bias is there twice"):
        _converted({**small, key.removeprefix("module."): small[key]}, tmp_path)
    with pytest.raises(ValueError, match="no named tensors"):
        _converted({**small, key: 3}, tmp_path)


MALFORMED = {
    "a number": lambda v: torch.tensor(1.0),
    "a row": lambda v: torch.ones(7),
    "a table": lambda v: torch.ones(10, 7),
    "empty": lambda v: v[:0],
    "integers": lambda v: v.long(),
    "sparse": lambda v: v.to_sparse(),
    "longer": lambda v: torch.cat([v, v[:1]]),
}


@pytest.mark.parametrize("changes", [FOURIER, dict(OLD, progressive_input="skip")], ids=["a", "b"])
def test_whatever_a_tensor_is_replaced_by(changes, monkeypatch):
    reference = Reference(**{**BASE, **changes})
    reference.run(torch.randn(1, 3, 8, 8).double(), torch.tensor([3.0]).double())
    state, ladder = {k: v.float() for k, v in reference.state.items()}, geometric(3.0, 0.1, 7)
    for (key, value), name in zip(state.items(), itertools.cycle(MALFORMED), strict=False):
        damaged = {**state, "module.sigmas": ladder, key: MALFORMED[name](value)}
        monkeypatch.setattr(torch, "load", lambda *_, damaged=damaged, **__: damaged)
        with pytest.raises(ValueError, match=r"\w") as error:
            from_official("file.pth", groups=changes.get("groups"))
        # none was caught by the net below all others, which cannot name the tensor
        assert error.value.__cause__ is None, (key, name)


class Hostile:
    def __reduce__(self):
        return print, ("this ran",)


def test_a_pickle_that_runs_code_is_refused(small, tmp_path, capsys):
    path = tmp_path / "checkpoint.pth"
    with pytest.raises(ValueError, match=r"refused.*GLOBAL"):
        _converted({"model": small, "step": Hostile()}, tmp_path)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps({"model": Hostile()}, protocol))
        with pytest.raises(ValueError, match="refused"):
            from_official(path)
    assert "this ran" not in capsys.readouterr().out


def test_the_options_are_those_of_the_functions():
    named = inspect.signature(score_sde.build).parameters.keys() - {"checkpoint", "report"}
    network = {"dropout", "fir", "groups", "skip_rescale"}
    assert set(score_sde.OPTIONS) == named - {"network"} | network
