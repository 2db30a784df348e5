"""Official checkpoints: golden/ holds files of the authors' programs and what these computed."""

import io
import itertools
import math
import pickle
import struct
import zipfile
from functools import partial

import pytest
import torch
from mutations import make_zip, zip_bomb
from standins import little_memory

from benchmarks.authors import GOLDEN, difference, differences, golden, model_of
from scorefield.convert import from_official
from scorefield.convert.shared import read_pickle
from scorefield.noise import geometric, replay
from scorefield.objectives import denoising, gaussian, sliced

NCSN = ("ncsn_1x28x28", "ncsn_3x32x32")
NCSNV2 = ("ncsnv2_3x32x32", "ncsnv2_deeper_3x64x64", "ncsnv2_deepest_3x64x64")
SCORE_SDE = {
    "ncsnpp_ve_continuous": "scaled score at 2u, log",
    "ncsnpp_ve_discrete": "scaled score at 2u, index",
    "ncsnpp_ve_ffhq256": "scaled score at 2u, log",
    "ddpmpp_vp_continuous": "noise, time",
    "ddpmpp_subvp_continuous": "sub-VP noise, sub-VP time",
    "ddpm_vp": "noise, timestep",
}
"""Prediction and clock of each."""


def weights_of(folder):
    """Return the raw weights alone, without `module.`, and without a ladder."""
    content = torch.load(GOLDEN / folder / "checkpoint.pth", weights_only=True)
    state = content["model"] if isinstance(content, dict) else content[0]
    named = {key.removeprefix("module."): value for key, value in state.items()}
    named.pop("sigmas", None)
    return named


@pytest.fixture
def convert(tmp_path):
    def save_and_convert(content, **options):
        torch.save(content, tmp_path / "checkpoint.pth")
        return from_official(tmp_path / "checkpoint.pth", **options)

    return save_and_convert


@pytest.mark.parametrize("folder", sorted(path.name for path in GOLDEN.iterdir()))
def test_networks_and_chains_are_the_authors(folder):
    """In float32: up to 60 layers, 60 × 1.2e-7 = 7e-6, or x of σ = 12 with 12 × 6e-8 four times."""
    _, output, chain = differences(folder)
    assert output <= 1e-5
    assert (chain is not None) == (folder in NCSN + NCSNV2)
    assert chain is None or chain <= 1e-4  # up to 20 steps


@torch.no_grad()
@pytest.mark.parametrize("folder", NCSNV2)
def test_weights_without_their_average_are_read(folder):
    expected, _ = golden(folder)
    x, sigma = expected["x"], expected["sigmas"][expected["labels"]]
    raw = model_of(folder, ema=False)(x, sigma)
    assert difference(raw, expected["score_raw_weights"]) <= 1e-5
    assert difference(raw, expected["score"]) > 1e-3


@pytest.mark.parametrize("folder", NCSN)
def test_losses_and_a_gradient_are_the_authors(folder):
    expected, _ = golden(folder)
    x, sigma, model = expected["x"], expected["sigmas"][expected["labels"]], model_of(folder)
    loss = (sigma**2 * denoising(model, x, sigma, noise=replay([expected["noise"]]))).mean()
    loss.backward()
    assert difference(loss, expected["dsm_loss"]) <= 1e-5
    assert difference(model.net.begin.weight.grad, expected["dsm_grad_begin_conv"]) <= 1e-5
    noise = replay([expected["noise"], expected["projection"]])
    loss = (sigma**2 * sliced(model, x, sigma, noise=noise, projection=gaussian)).mean()
    assert difference(loss, expected["ssm_vr_loss"]) <= 1e-4


@pytest.mark.parametrize("folder", SCORE_SDE)
def test_the_prediction_and_the_clock_of_score_sde_are_found(folder):
    row = model_of(folder).precondition
    assert f"{row.predicts}, {row.clock}" == SCORE_SDE[folder]


LADDER = geometric(3.0, 0.1, 7, dtype=torch.float64)


def alpha_at(timestep, low, high):
    """Song et al. 2021, eq. 33, of 1,000 timesteps."""
    time = timestep / 999
    return math.exp(-(time**2) * (high - low) / 4 - time * low / 2)


def ddpm_alpha(timestep, low, high, steps=1000):
    """√ᾱ, Ho et al. 2020, eq. 4."""
    betas = torch.linspace(low / steps, high / steps, steps, dtype=torch.float64)
    return (1 - betas).cumprod(0)[timestep].sqrt().item()


DDPMPP = "ddpmpp_vp_continuous"
SUB_VP_ALPHA = alpha_at(500, 0.1, 15)
SUB_VP = SUB_VP_ALPHA, 1 - SUB_VP_ALPHA**2
VE_ENDS = dict(sde="ve", sigma_max=9, sigma_min=0.3)
DISCRETE = dict(continuous=False, beta_max=10.0)
NOISES = {
    "VE": ("ncsnpp_ve_continuous", None, {}, math.log(7.0), (1, 7.0)),
    "VE discrete": (DDPMPP, LADDER, dict(sde="ve"), 4, (1, LADDER[4].item())),
    "VE discrete, no ladder": ("ddpm_vp", None, VE_ENDS, 999, (1, 0.3)),
    "VP": ("ddpm_vp", LADDER, dict(continuous=True), 400, alpha_at(400, 0.1, 20)),
    "other β": (DDPMPP, None, dict(beta_min=0.2, beta_max=9.0), 700, alpha_at(700, 0.2, 9)),
    "VP discrete": (DDPMPP, None, DISCRETE, 300, ddpm_alpha(300, 0.1, 10)),
    "VP of 7 steps": ("ddpm_vp", LADDER, dict(beta_max=4.0), 2, ddpm_alpha(2, 0.1, 4, 7)),
    "sub-VP": (DDPMPP, None, dict(sde="subvp", beta_max=15.0), 500, SUB_VP),
}
"""Network, ladder in the file, options, the network's input for the noise, α or (α, s)."""


@pytest.mark.parametrize("case", NOISES)
def test_any_noise_has_its_coefficients(case, convert):
    folder, ladder, options, cond, alpha = NOISES[case]
    state = weights_of(folder) | ({} if ladder is None else {"sigmas": ladder})
    alpha, s = alpha if isinstance(alpha, tuple) else (alpha, math.sqrt(1 - alpha**2))
    precondition = convert(state, image_size=16, **options).precondition
    # for VE the data are in [0, 1] and the network sees 2x − 1, else all is in [−1, 1]
    sigma = s if case.startswith("VE") else s / alpha / 2
    row = precondition(torch.tensor(sigma, dtype=torch.float64))
    assert (precondition.centre, row.skip) == (0.5, 0)
    # float64, through exp and log of numbers up to 1e3
    assert row.cond.item() == pytest.approx(cond, rel=1e-12, abs=1e-9)
    assert row.scale.item() == pytest.approx(2 * alpha, rel=1e-12)
    sign = 1 if case.startswith("VE") else -1
    assert row.out.item() == pytest.approx(sign / sigma, rel=1e-12)


def test_weights_are_read_from_every_layout(convert):
    state, expected = weights_of(NCSN[0]), model_of(NCSN[0], ema=False).net.state_dict()
    prefixed = {f"module.{key}": value for key, value in state.items()}
    dictionaries = ({name: state, "step": 3} for name in ("state_dict", "model_state", "model"))
    sequences = [state, {}], (state, {}, 3, 4), [state, {}, 3, 4, state]  # the last with an EMA
    for content in (state, prefixed, *dictionaries, *sequences):
        loaded = convert(content).net.state_dict()
        assert loaded.keys() == expected.keys()
        assert all(torch.equal(value, expected[key]) for key, value in loaded.items())


def test_a_report_names_what_is_inferred_and_assumed():
    lines = []
    model = from_official(GOLDEN / "ddpmpp_vp_continuous/checkpoint.pth", report=lines.append)
    assert lines[0] == "inferred: weights averaged (EMA)"
    assert any(line.startswith("inferred: DDPM++") and "width 16" in line for line in lines)
    assert set(lines) > {
        "inferred: training step 777",
        "assumed: sde = vp, continuous = True",
        "assumed: beta_max = 20, beta_min = 0.1",
        "assumed: image_size = 32",
    }
    assert model.shape == (3, 32, 32)
    assert not model.training
    assert torch.equal(model.prior.mean, torch.full((3, 32, 32), 0.5))
    assert model.prior.cov.item() == pytest.approx(1 / 12, rel=1e-6)
    lines.clear()
    model = from_official(GOLDEN / NCSN[0] / "checkpoint.pth", sigma_max=3, report=lines.append)
    assert lines[0] == "inferred: weights as trained"
    assert any("10 levels" in line and "width 8" in line for line in lines)
    assert "assumed: sigma_max = 3, sigma_min = 0.01" in lines
    assert (model.sigma_max, model.shape) == (3, (1, 28, 28))


def test_a_stored_ladder_may_be_repeated_but_not_overruled(convert):
    """The file's ladder ends at 49.99999999999999, and 50 is what the paper has."""
    assert 49 < model_of("ncsnpp_ve_discrete", sigma_max=50, sigma_min=0.01).sigma_max < 50
    state = {**weights_of("ncsnv2_3x32x32"), "sigmas": torch.tensor([2.0, 0.5])}
    assert convert(state).sigma_max == 2
    with pytest.raises(ValueError, match=r"its own ladder, 2 to 0\.5"):
        convert(state, sigma_max=50)


@pytest.mark.parametrize(
    ("folder", "options", "message"),
    [
        ("ncsn_1x28x28", dict(sde="ve"), "sde: not an option for .* ncsn, whose options are ema"),
        ("ddpm_vp", dict(widht=3), r"widht: not .* of score_sde, .* beta_max, .* dropout"),
        ("ddpm_vp", dict(sde="vpsde"), "sde='vpsde': give one of ve, vp, subvp"),
        ("ddpm_vp", dict(sde="subvp", continuous=False), "sde='subvp' with continuous=False"),
        ("ddpm_vp", dict(sde="ve", sigma_max=0.001), "sigma_max > sigma_min > 0"),
        ("ddpm_vp", dict(sigma_max=3.0), "sigma_max=3.0: .* by beta_min and beta_max"),
        ("ddpm_vp", dict(beta_min=30.0), "beta_max > beta_min > 0"),
        ("ddpm_vp", dict(image_size=31), "image_size=31: give a multiple of 2"),
        ("ddpm_vp", dict(groups=0), "groups=0: 1 at least"),
        ("ncsnpp_ve_continuous", dict(sde="vp"), "sde='vp' .* has sde='ve' with continuous=True"),
        ("ncsnpp_ve_continuous", dict(beta_max=3.0), "beta_max=3.0: .* by sigma_min and sigma_max"),
        ("ncsnpp_ve_continuous", dict(sigma_max=348.0), r"its own ladder, 50 to 0\.01: leave out"),
        ("ncsnpp_ve_continuous", dict(fir=False), "fir=False: the tensors show True"),
        ("ncsn_1x28x28", dict(image_size=0), "image_size=0: give the pixels a side, from 1"),
    ],
)
def test_a_wrong_option_is_named_with_the_remedy(folder, options, message, convert):
    ladder = {"sigmas": geometric(50.0, 0.01, 10)} if folder.startswith("ncsnpp") else {}
    with pytest.raises(ValueError, match=message):
        convert(weights_of(folder) | ladder, **options)


class Hostile:
    def __reduce__(self):
        return print, ("this ran",)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: torch.save([Hostile()], path), "refused"),
        (
            lambda path: torch.save({"model": {}, "step": Hostile()}, path),
            "refused.*asks for .*print",
        ),
        *(
            (lambda path, p=p: path.write_bytes(pickle.dumps({"model": Hostile()}, p)), "refused")
            for p in range(pickle.HIGHEST_PROTOCOL + 1)
        ),
        (lambda path: path.write_bytes(b"PK\x03\x04 and then nothing"), "damaged"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (
            lambda path: path.write_bytes(zip_bomb("archive/data.pkl", 100)),
            "a zip of .* bytes that unpacks to 104,857,600",
        ),
        (lambda path: torch.save({"a": torch.zeros(1)}, path), "it contains a$"),
        (lambda path: torch.save(torch.zeros(1), path), "it contains Tensor$"),
    ],
)
def test_a_file_that_is_not_a_checkpoint_is_refused(write, message, tmp_path, capsys):
    with pytest.raises(FileNotFoundError):
        from_official(tmp_path / "checkpoint.pth")
    write(tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match=message):
        from_official(tmp_path / "checkpoint.pth")
    assert "this ran" not in capsys.readouterr().out


SHARED = b")" + b"q\xffh\xff\x86" * 60  # (x, x) of x, 60 times: 2⁶⁰ empty tuples
NESTED_KEY = b"\x80\x02}" + SHARED + b"Ns."
HUGE = b"\x8a\5" + struct.pack("<Q", 10 * 2**30)[:5]


def saved(content, new=True):
    """Return what torch writes."""
    out = io.BytesIO()
    torch.save(content, out, _use_new_zipfile_serialization=new)
    return out.getvalue()


TENSOR = {"model": {"a": torch.arange(300.0)}}
OLD = saved(TENSOR, new=False)


def repack(change):
    """Return a zip of torch with another pickle."""
    with zipfile.ZipFile(io.BytesIO(saved(TENSOR))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in members if name.endswith("data.pkl"))
    return make_zip((members | {name: change(members[name])}).items())


def hide(bomb):
    """Put an innocent directory where Python looks, and leave the one at the claimed place."""
    innocent = make_zip([("archive/data.pkl", b"N.")])
    at, end = bomb.rfind(b"PK\1\2"), bomb.rfind(b"PK\5\6")
    place = innocent.rfind(b"PK\1\2")
    assert end - at == innocent.rfind(b"PK\5\6") - place
    return bomb[:end] + innocent[: place + end - at] + bomb[end:]


BOMB = zip_bomb("archive/data.pkl", 100, head=b"\x80\x02N.")
HOSTILE = {
    "two directories": (hide(BOMB), "Bad magic number|refused"),
    "a mark behind the end": (BOMB + b"PK\5\6xxxx", "not a zip file"),
    "another name before the content": (
        saved(TENSOR).replace(b"/data.pkl", b"/dota.pkl", 1),
        "differ",
    ),
    "a nested key": (repack(lambda _: NESTED_KEY), "a tuple for a key"),
    "a nested key, old": (OLD.replace(b"}q\x00X\x05", NESTED_KEY[2:-1] + b"X\x05"), "a key"),
    "a nested name": (
        OLD[: OLD.rfind(b"\x80\x02]")] + b"\x80\x02](" + SHARED + b"e.",
        "torch did not write",
    ),
    "a storage of 10 GB": (repack(lambda p: p.replace(b"M,\x01t", HUGE + b"t")), "numbers in 1200"),
    "a storage of 10 GB, old": (OLD.replace(b"M,\x01N", HUGE + b"N"), "numbers that are not there"),
    "another order of bytes": (
        saved(TENSOR).replace(b"little", b"bigger"),
        "Bad CRC|order of bytes",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_archive_that_deceives_a_reader_is_refused_without_memory(name, tmp_path):
    content, message = HOSTILE[name]
    assert content not in (OLD, saved(TENSOR))
    (tmp_path / "x.pth").write_bytes(content)
    wrong = pytest.raises(ValueError, match=rf"x\.pth is not a checkpoint .*({message})")
    with little_memory(), wrong:
        from_official(tmp_path / "x.pth")


@pytest.mark.parametrize("new", [True, False])
def test_a_file_of_torch_is_read_as_torch_reads_it(new, tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    x = torch.arange(12.0)
    dtypes = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
    content = {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "step": 7}
    content |= {"views": [x[2:8].view(2, 3).T, x[:1].expand(5), x], "none": torch.empty(0, 2)}
    content |= {"types": [x.to(dtype) for dtype in dtypes], "size": x.shape, 2**47: (1.5, None)}
    (tmp_path / "x.pth").write_bytes(saved(content, new))
    read, truth = (
        reader(tmp_path / "x.pth")
        for reader in (read_pickle, partial(torch.load, weights_only=True))
    )
    assert (*truth.pop("size"), read.pop("size").name) == (12, "torch.Size")
    torch.testing.assert_close(read, truth, rtol=0, atol=0)
    read["views"][2][2] = 70  # one storage, which can be written
    assert read["views"][0][0, 0] == 70


@pytest.mark.parametrize(
    ("folder", "changes", "message"),
    [
        (NCSN[0], {"res9.0.conv1.weight": torch.ones(3)}, r"in this network: \['res9\.0\.conv1"),
        (NCSN[0], {"end_conv.bias": torch.ones(9)}, r"end_conv\.bias \(9,\)"),
        (NCSN[0], {"refine2.msf.convs.1.bias": None}, r"missing: .*decoder\.1\.merge\.1\.conv\.bi"),
        (NCSN[0], {"module.end_conv.bias": torch.ones(1)}, r"end_conv\.bias appears twice"),
        (NCSN[0], {"end_conv.bias": torch.ones(1).int()}, r"end_conv\.bias .*int32"),
        (NCSN[0], {"end_conv.bias": 3}, r"end_conv\.bias is of int, not a tensor"),
        (NCSN[0], {"normalizer.embed.weight": torch.ones(10, 7)}, r"embed\.weight .*\(10, 7\)"),
        (NCSN[0], {"sigmas": torch.tensor(1.0)}, r"sigmas .*of 1 dimensions"),
        (NCSN[0], {"sigmas": torch.ones(()).expand(2**21)}, r"sigmas is of .*\(2097152,\)"),
        (NCSN[0], {"sigmas": torch.tensor([3.0, 2.0])}, "sigmas has 2 levels, .* a table of 10"),
        (NCSNV2[0], {"normalizer.gamma": torch.ones(9)}, r"end\.norm .*\[\(8,\), \(9"),
        (NCSNV2[0], {"normalizer.gamma": None}, r"end\.norm has only \['alpha', 'beta'\]"),
        # without 31 it is taken for a network of depth "deeper" with a block too many
        (NCSNV2[2], {"res31.": None}, r"depth 'deeper': not in this network: .*'refine31\."),
        ("ddpm_vp", {"all_modules.3.Conv_0.bias": None}, r"missing: \['down\.0\.blocks\.0\.conv_i"),
        ("ddpm_vp", {"all_modules.3.Conv_7.weight": torch.ones(2)}, r"\['all_modules\.3\.Conv_7"),
        ("ddpm_vp", {"stranger": torch.ones(5)}, "stranger"),
    ],
)  # fmt: skip
def test_a_tensor_that_does_not_fit_is_named(folder, changes, message, convert):
    state = weights_of(folder)
    for key, value in changes.items():
        state = {k: v for k, v in state.items() if value is not None or not k.startswith(key)}
        state |= {} if value is None else {key: value}
    with pytest.raises(ValueError, match=message):
        convert(state)


SHAPES = [lambda _, shape=shape: torch.ones(shape) for shape in ((), (7,), (10, 7))]
DAMAGES = [*SHAPES, lambda v: v[:0], torch.Tensor.long, torch.Tensor.to_sparse]
DAMAGES += [lambda v: torch.cat([v, v[:1]])]


@pytest.mark.parametrize("folder", [NCSN[0], NCSNV2[0], "ncsnpp_ve_ffhq256", "ddpm_vp"])
def test_any_malformed_tensor_is_refused_where_it_is_read(folder, monkeypatch):
    """Every ninth tensor by one kind of damage; all errors come from a check, none from torch."""
    state = weights_of(folder)
    some = list(state.items())[::9]
    for (key, value), damage in zip(some, itertools.cycle(DAMAGES), strict=False):
        damaged = {**state, key: damage(value)}
        monkeypatch.setattr("scorefield.convert.read_pickle", lambda _, damaged=damaged: damaged)
        with pytest.raises(ValueError, match=r"\w") as error:
            from_official("file.pth")
        # not caught by the last resort in `from_official`, which cannot name the tensor
        assert error.value.__cause__ is None, (key, damaged[key])
