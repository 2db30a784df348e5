"""Networks of score_sde's checkpoints, of every architecture, compared with the reference."""

from functools import partial

import pytest
import torch
from score_sde_reference import Reference

from scorefield.convert.score_sde import build_score_sde
from scorefield.convert.score_sde_network import build_unet
from scorefield.nn import unet
from scorefield.nn.unet import UNet

FIR = (1.0, 3.0, 3.0, 1.0)
SKIP = dict(progressive_input="skip", progressive_output="skip")
RESIDUAL = dict(progressive_input="residual", progressive_output="residual")
DDPM = dict(form="ddpm", embedding="sinusoidal", fir=None, skip_rescale=False, groups=4)
BASE = dict(channels=3, width=8, multipliers=(1, 2), blocks=1, attention=(1,), groups=None)
BASE |= dict(form="biggan", embedding="fourier", fir=FIR, skip_rescale=True, combine="sum")
BASE |= dict(progressive_input="none", progressive_output="none")
CONFIGURATIONS = {
    "wide middle": dict(multipliers=(1, 3, 2), blocks=2, attention=(0, 2)),
    "narrowing": dict(multipliers=(2, 1), width=16),
    "no attention": dict(attention=(), channels=1),
    "one level": dict(multipliers=(2,), attention=()),
    "one level, residual": dict(multipliers=(2,), attention=(), progressive_output="residual"),
    "residual out": dict(progressive_output="residual", multipliers=(1, 2, 2)),
    "residual both, plain": dict(RESIDUAL, fir=None),
    "skip both": dict(SKIP, multipliers=(1, 2, 2)),
    "skip in, concatenated": dict(progressive_input="skip", combine="cat", multipliers=(1, 1, 2)),
    "skip out, plain": dict(progressive_output="skip", fir=None, embedding="sinusoidal"),
    "not rescaled": dict(skip_rescale=False, fir=None, embedding="sinusoidal"),
    "ddpm": dict(DDPM, multipliers=(1, 2, 2), blocks=2),
    "ddpm blocks, FIR": dict(RESIDUAL, form="ddpm", blocks=2),
    "ddpm blocks, skip": dict(SKIP, form="ddpm"),
    "one number after another": dict(progressive_input="skip", gaps=False),
}


def convert(state, **options):
    """Return the network of a reference's state, and the lines of the report."""
    lines = []
    weights = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    return build_unet(weights, report=lines.append, **options), lines


@pytest.fixture
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("changes", CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
@pytest.mark.usefixtures("_double")
@torch.no_grad()
def test_every_architecture_converts_and_computes_the_same(changes):
    arguments = {**BASE, **changes}
    reference = Reference(**arguments)
    x, cond = torch.randn(2, arguments["channels"], 16, 12), torch.tensor([0.3, 3.1])
    expected = reference.run(x, cond)
    hints = dict(skip_rescale=arguments["skip_rescale"], groups=arguments["groups"])
    network, _ = convert(reference.state, fir=arguments["fir"] is not None, **hints)
    arguments.pop("gaps", None)
    assert {k: network.arguments[k] for k in arguments} == arguments
    error = (network.eval()(x, cond) - expected).abs().max() / expected.abs().max()
    # float64, but the frequencies of sinusoids are float32, as the authors' are: 3.1 × 6e-8
    assert error <= (1e-6 if arguments["embedding"] == "sinusoidal" else 1e-12)


@pytest.mark.parametrize("name", unet.PUBLISHED_UNETS)
def test_the_published_sizes_are_recognised_without_a_hint(name):
    with torch.device("meta"):  # shapes are all it takes
        preset = UNet(**unet.PUBLISHED_UNETS[name])
        reference = Reference(**{key: preset.arguments[key] for key in BASE})
        reference.run(torch.randn(1, 3, 128, 128).double(), torch.ones(1).double())
        network, _ = convert(reference.state)
    # Ho et al. have the same network with dropout for CIFAR-10, and without it for larger images
    dropout = {"dropout": 0.0} if name == "ddpm_celebahq256" else {}
    assert preset.arguments == network.arguments | dropout


def _small(**changes):
    reference = Reference(**{**BASE, **changes})
    reference.run(torch.randn(1, 3, 8, 8).double(), torch.tensor([0.3]).double())
    return {key: tensor.float() for key, tensor in reference.state.items()}


def test_assumptions_are_reported_and_can_be_replaced():
    options = dict(dropout=0.1, fir=True, groups=None, skip_rescale=True)
    _, lines = convert(_small())
    assert lines[1:] == [f"assumed: {name} = {value}" for name, value in options.items()]
    network, lines = convert(_small(), dropout=0.3, fir=False)
    assert [line.split()[1] for line in lines[1:]] == ["groups", "skip_rescale"]
    assert (network.arguments["dropout"], network.arguments["fir"]) == (0.3, None)


def test_averages_are_matched_by_order():
    model = {"module.sigmas": torch.tensor([3.0, 2.0, 1.0]), **_small()}
    # the frequencies are not trained, and so not averaged
    order = [key for key in model if "sigmas" not in key and not key.endswith("all_modules.0.W")]
    checkpoint = {"model": model, "ema": {"shadow_params": [2 * model[key] for key in order]}}
    build = partial(build_score_sde, report=lambda line: None)
    raw, averaged = (build(checkpoint, ema=ema).net.state_dict() for ema in (False, True))
    for key in raw:
        factor = 1 if key.endswith("frequencies") else 2
        assert torch.equal(averaged[key], factor * raw[key])
    checkpoint["ema"]["shadow_params"].pop()
    for damaged in (checkpoint["ema"], 3, {}, {"shadow_params": 3}, {"shadow_params": [3]}):
        with pytest.raises(ValueError, match=r"shadow_params|averaged tensors do not fit"):
            build({"model": model, "ema": damaged})


@pytest.mark.parametrize("form", ["biggan", "ddpm"])
def test_a_missing_module_is_refused(form):
    model = _small(**SKIP, form=form, multipliers=(1, 2, 2))
    for number in sorted({key.split(".")[2] for key in model}, key=int):
        without = {key: t for key, t in model.items() if key.split(".")[2] != number}
        with pytest.raises(ValueError, match=r"modules|UNet|network|checkpoint ends"):
            convert(without)
