"""Against what the authors' programs computed: golden/ holds their checkpoints and results."""

import inspect
import itertools
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from scorefield import annealed_langevin, denoising, final, replay, sliced
from scorefield.convert import from_official, ncsn
from scorefield.nn import DEPTHS, RefineNet
from scorefield.objectives import gaussian

GOLDEN = Path(__file__).parent / "golden"
FIRST = ("ncsn_1x28x28", "ncsn_3x32x32")
SECOND = ("ncsnv2_3x32x32", "ncsnv2_deeper_3x64x64", "ncsnv2_deepest_3x64x64")


def _expected(folder):
    tensors = load_file(GOLDEN / folder / "expected.safetensors")
    with safe_open(GOLDEN / folder / "expected.safetensors", "pt") as file:
        return tensors, file.metadata()


def _model(folder, **options):
    _, facts = _expected(folder)
    size = int(facts["image_size"])
    return from_official(GOLDEN / folder / "checkpoint.pth", image_size=size, **options)


def _error(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("folder", FIRST + SECOND)
def test_the_score_is_the_authors(folder):
    expected, _ = _expected(folder)
    sigma = expected["sigmas"][expected["labels"]]
    with torch.no_grad():
        assert _error(_model(folder)(expected["x"], sigma), expected["score"]) <= 1e-5


@pytest.mark.parametrize("folder", SECOND)
def test_the_raw_weights_are_there_too(folder):
    expected, _ = _expected(folder)
    sigma = expected["sigmas"][expected["labels"]]
    with torch.no_grad():
        score = _model(folder, ema=False)(expected["x"], sigma)
    assert _error(score, expected["score_raw_weights"]) <= 1e-5
    assert _error(score, expected["score"]) > 1e-3


@pytest.mark.parametrize("folder", FIRST)
def test_losses_and_a_gradient_are_the_authors(folder):
    expected, _ = _expected(folder)
    x, sigma = expected["x"], expected["sigmas"][expected["labels"]]
    model = _model(folder)
    loss = (sigma**2 * denoising(model, x, sigma, noise=replay([expected["noise"]]))).mean()
    loss.backward()
    assert _error(loss, expected["dsm_loss"]) <= 1e-5
    assert _error(model.net.begin.weight.grad, expected["dsm_grad_begin_conv"]) <= 1e-5
    noise = replay([expected["noise"], expected["projection"]])
    loss = (sigma**2 * sliced(model, x, sigma, noise=noise, projection=gaussian)).mean()
    assert _error(loss, expected["ssm_vr_loss"]) <= 1e-4


@pytest.mark.parametrize("folder", FIRST + SECOND)
def test_annealed_langevin_ends_where_the_authors_does(folder):
    expected, facts = _expected(folder)
    chain = annealed_langevin(
        _model(folder),
        expected["ald_init"],
        expected["sigmas"],
        steps=int(facts["steps_per_level"]),
        epsilon=float(facts["step_size"]),
        denoise=folder in SECOND,
        noise=replay(expected["ald_noise"]),
    )
    name = "ald_final_denoised" if folder in SECOND else "ald_final"
    assert _error(final(chain), expected[name]) <= 1e-4


# ── Layouts ──────────────────────────────────────────────────────────────────────────────────────


def _official(net, depth):
    """A network of ours under their names, by way of nothing but the shapes of those tables."""
    named = {}
    for ours, value in net.state_dict().items():
        place, _, rest = ours.partition(".")
        number, _, rest = rest.partition(".") if place in ("encoder", "decoder") else ("", "", rest)
        if place == "encoder":
            block, part, *tail = rest.split(".")
            after = [f"res{ncsn.STAGES[depth][int(number)]}", block]
            halves = int(number) and block == "0" and DEPTHS[depth][int(number)].dilation == 1
            if part == "shortcut":
                after += ["shortcut", *["conv"] * halves, *tail]
            elif tail[1] == "norm":
                after += [f"normalize{int(tail[0]) + 1}", tail[2]]
            else:
                inner = ["conv"] * (halves and tail[0] == "1")
                after += [f"conv{int(tail[0]) + 1}", *inner, tail[2]]
        elif place == "decoder":
            part, *tail = rest.split(".")
            after = [f"refine{ncsn.REFINEMENTS[depth][int(number)]}"]
            if part in ("adapt", "smooth"):
                if part == "adapt":
                    after += ["adapt_convs", tail.pop(0)]
                else:
                    after += ["output_convs"]
                unit = int(tail[0])
                after += [f"{unit // 2 + 1}_{unit % 2 + 1}_{tail[1]}", tail[2]]
            else:
                after += [{"merge": "msf", "pools": "crp"}[part], f"{tail[1]}s", tail[0], tail[2]]
        else:
            name = {"begin": "begin_conv", "conv": "end_conv", "norm": "normalizer"}
            after = [name[place if place == "begin" else rest.split(".")[0]], rest.split(".")[-1]]
        if after[-1] != "affine":
            named[".".join(after)] = value
        elif len(value) > 1:
            named[".".join([*after[:-1], "embed.weight"])] = value.flatten(1)
        else:
            parts = zip(("gamma", "alpha", "beta"), value[0], strict=True)
            named |= {".".join([*after[:-1], part]): v for part, v in parts}
    return named


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(
    ("channels", "width", "levels", "prefix"),
    [(2, 6, None, "module."), (1, 4, None, ""), (2, 6, 7, "module."), (3, 8, 2, "")],
)
def test_any_shape_converts(depth, channels, width, levels, prefix, tmp_path):
    net = RefineNet(channels, width, levels, depth=depth)
    named = {f"{prefix}{name}": value for name, value in _official(net, depth).items()}
    torch.save([named, {}], tmp_path / "checkpoint.pth")
    lines = []
    path = tmp_path / "checkpoint.pth"
    model = from_official(path, image_size=8, sigma_max=3, report=lines.append)
    assert all(torch.equal(v, model.net.state_dict()[k]) for k, v in net.state_dict().items())
    assert model.shape == (channels, 8, 8)
    assert model.sigma_max == 3
    assert any(depth in line and f"width {width}" in line for line in lines)
    assert any(line.startswith("assumed: σ from 3 to 0.01") for line in lines)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: [state, {}],
        lambda state: (state, {}, 3, 4),
        lambda state: {"model_state": state},
        lambda state: [state, {}, 3, 4, state],
    ],
    ids=["itself", "list", "tuple", "dict", "with EMA"],
)
def test_the_weights_are_found_in_every_layout(wrap, tmp_path):
    state = _official(RefineNet(1, 4), "original")
    torch.save(wrap(state), tmp_path / "checkpoint.pth")
    assert from_official(tmp_path / "checkpoint.pth").shape == (1, 28, 28)


def test_a_mismatch_names_the_keys(tmp_path):
    state = _official(RefineNet(1, 4), "original")
    state["res9.0.conv1.weight"] = state["begin_conv.weight"]
    state["end_conv.bias"] = torch.zeros(9)
    del state["refine2.msf.convs.1.bias"]
    torch.save(state, tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match=r"missing.*decoder\.1\.merge\.1\.conv\.bias") as error:
        from_official(tmp_path / "checkpoint.pth")
    assert "res9.0.units.0.conv.weight" in str(error.value)
    assert "end.conv.bias (9,) for (1,)" in str(error.value)


def test_the_wrong_depth_names_the_keys(tmp_path):
    deepest = _official(RefineNet(1, 4, depth="deepest"), "deepest")
    with pytest.raises(ValueError, match=r"unknown \[.*'refine5\..*'res31\.") as error:
        ncsn.load(RefineNet(1, 4, depth="original"), deepest, "original")
    assert "of depth 'original'" in str(error.value)
    state = {name: value for name, value in deepest.items() if "res31" not in name}
    torch.save(state, tmp_path / "checkpoint.pth")  # is taken for a "deeper" with too much
    with pytest.raises(ValueError, match=r"depth 'deeper': .*unknown \[.*'refine31\."):
        from_official(tmp_path / "checkpoint.pth")


def test_a_key_that_is_there_twice_is_named(tmp_path):
    state = _official(RefineNet(1, 4), "original")
    state["module.end_conv.bias"] = state["end_conv.bias"]
    torch.save(state, tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match=r"end_conv\.bias is there twice"):
        from_official(tmp_path / "checkpoint.pth")


def test_an_option_of_another_family_is_named():
    with pytest.raises(ValueError, match="sde: not for the checkpoints of ncsn; their options are"):
        from_official(GOLDEN / "ncsn_1x28x28/checkpoint.pth", sde="ve")
    names = inspect.signature(ncsn.build).parameters.keys() - {"checkpoint", "report"}
    assert set(ncsn.OPTIONS) == names


def test_the_ladder_in_the_file_is_not_overruled(tmp_path):
    state = {**_official(RefineNet(1, 4), "original"), "sigmas": torch.tensor([2.0, 0.5])}
    torch.save(state, tmp_path / "checkpoint.pth")
    assert from_official(tmp_path / "checkpoint.pth").sigma_max == 2
    assert from_official(tmp_path / "checkpoint.pth", sigma_max=2, sigma_min=0.5).sigma_min == 0.5
    with pytest.raises(ValueError, match=r"its own ladder, 2 to 0\.5"):
        from_official(tmp_path / "checkpoint.pth", sigma_max=50)


class Hostile:
    def __reduce__(self):
        return print, ("this ran",)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: torch.save([Hostile()], path), "refused"),
        (lambda path: path.write_bytes(b"PK\x03\x04 and then nothing"), "cannot be read|damaged"),
        (lambda path: path.write_bytes(b""), "cannot be read|damaged"),
        (lambda path: torch.save({"a": torch.zeros(1)}, path), "the keys a"),
        (lambda path: torch.save(torch.zeros(1), path), "one Tensor"),
    ],
    ids=["hostile", "truncated", "empty", "foreign", "no weights"],
)
def test_what_is_no_checkpoint_is_refused(write, message, tmp_path, capsys):
    write(tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match=message):
        from_official(tmp_path / "checkpoint.pth")
    assert "this ran" not in capsys.readouterr().out


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        from_official(tmp_path / "checkpoint.pth")


# ── Damage ───────────────────────────────────────────────────────────────────────────────────────


def test_a_file_cut_short_anywhere_is_named(tmp_path):
    """Some cuts make the reader seek to before the file, and the system's error has no name."""
    path = tmp_path / "cut.pth"
    for folder in ("ddpm_vp", "ncsn_1x28x28"):
        whole = (GOLDEN / folder / "checkpoint.pth").read_bytes()
        for size in range(0, len(whole), len(whole) // 60):
            path.write_bytes(whole[:size])
            with pytest.raises(ValueError, match=r"cut\.pth is not a checkpoint"):
                from_official(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("normalizer.embed.weight", torch.ones(10, 7), r"normalizer\.embed\.weight .*\(10, 7\)"),
        ("normalizer.embed.weight", torch.ones(9), r"normalizer\.embed\.weight .*2 dimensions"),
        ("begin_conv.weight", torch.ones(4), r"begin_conv\.weight .*\(4,\).* of 4 dimensions"),
        ("sigmas", torch.tensor(1.0), r"sigmas .*of 1 dimensions"),
        ("sigmas", torch.ones(5, 2), r"sigmas .*\(5, 2\)"),
        ("sigmas", torch.ones(0), "sigmas .*not empty"),
        ("sigmas", torch.tensor([3.0, 2.0, 1.0]), r"sigmas has 3 levels, .* a table of 5"),
        ("end_conv.bias", torch.ones(1).to_sparse(), r"end_conv\.bias .*sparse"),
        ("end_conv.bias", torch.ones(1).int(), r"end_conv\.bias .*int32"),
    ],
)
def test_a_malformed_tensor_is_named(key, value, message, tmp_path):
    sigmas = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])
    state = {**_official(RefineNet(1, 4, 5), "original"), "sigmas": sigmas, key: value}
    torch.save(state, tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match=message):
        from_official(tmp_path / "checkpoint.pth")


def test_gamma_of_another_length_is_named(tmp_path):
    state = _official(RefineNet(1, 4, 1), "original")
    state["normalizer.gamma"] = torch.ones(9)
    torch.save(state, tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match=r"end\.norm have the shapes \[\(4,\), \(9,\)\]"):
        from_official(tmp_path / "checkpoint.pth")


@pytest.mark.parametrize("size", [0, -5, 100_000])
@pytest.mark.parametrize("folder", ["ncsn_1x28x28", "ddpm_vp"])
def test_a_size_that_no_image_has_is_refused(folder, size):
    with pytest.raises(ValueError, match=f"image_size={size}: give the pixels a side, from 1"):
        from_official(GOLDEN / folder / "checkpoint.pth", image_size=size)


MALFORMED = {
    "a number": lambda v: torch.tensor(1.0),
    "a row": lambda v: torch.ones(7),
    "a table": lambda v: torch.ones(10, 7),
    "empty": lambda v: v[:0],
    "integers": lambda v: v.long(),
    "sparse": lambda v: v.to_sparse(),
    "longer": lambda v: torch.cat([v, v[:1]]),
}


@pytest.mark.parametrize("levels", [None, 5])
def test_whatever_a_tensor_is_replaced_by(levels, monkeypatch):
    """Each in turn by the next; a RuntimeError from within a network would be no ValueError."""
    sigmas = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])
    state = {**_official(RefineNet(1, 4, levels), "original"), "sigmas": sigmas}
    for (key, value), name in zip(state.items(), itertools.cycle(MALFORMED), strict=False):
        damaged = {**state, key: MALFORMED[name](value)}
        monkeypatch.setattr(torch, "load", lambda *_, damaged=damaged, **__: damaged)
        with pytest.raises(ValueError, match=r"\w") as error:
            from_official("file.pth")
        # none was caught by the net below all others, which cannot name the tensor
        assert error.value.__cause__ is None, (key, name)
