"""The choice of a network's fast path on each device: what it computes, and its reasons."""

import copy
import re
from collections import Counter
from dataclasses import replace

import pytest
import torch
from test_kernels import error, error_in_16_bits, needs_compiler, no_compiler  # noqa: F401
from test_mlp import needs_onednn
from torch.nn.utils import parameters_to_vector

from scorefield import EDM, MLP, NCSN, VE, NCSNv2, Prior, RefineNet, ScoreModel, UNet, geometric
from scorefield.checkpoint import load, save
from scorefield.data import load_data
from scorefield.fast import Choice, choose, onednn, optimize, undo
from scorefield.fast.optimize import compile_unavailable_reason
from scorefield.fast.twins import FastConv3, FastLinear
from scorefield.nn.layers import Conv3
from scorefield.runs import start
from scorefield.runs.config import override, read
from scorefield.runs.presets import PRESETS
from scorefield.runs.resolve import resolve

ENDS = dict(sigma_max=1.0, sigma_min=0.01)


def _ncsn(width=16, levels=4, size=16):
    net, prior = RefineNet(1, width, levels), Prior(torch.zeros(1, size, size), torch.tensor(1.0))
    return ScoreModel(net, NCSN(geometric(1.0, 0.01, levels)), prior=prior)


def _unet():
    # Fourier features of a large scale have other digits in float64
    form = dict(multipliers=(1, 2), blocks=1, attention=(), init_scale=1.0, fourier_scale=1.0)
    net = UNet(channels=1, width=16, **form)
    return ScoreModel(net, VE(**ENDS, centre=0.0), shape=(1, 16, 16))


def _mlp(width=8, **changes):
    return ScoreModel(MLP((2,), width=width, **changes), EDM(0.5, **ENDS), shape=(2,))


def _ncsnv2():
    return ScoreModel(RefineNet(1, 16), NCSNv2(**ENDS), shape=(1, 16, 16))


@needs_compiler
# forward and backward a gradient passes sixty convolutions of 64·ε: 5e-4 of the largest. Where a
# maximum moves to another pixel, one of some 3·64 summands changes, 5e-3: NCSNv2 takes maxima.
@pytest.mark.parametrize(("build", "limit"), [(_ncsn, 1e-3), (_ncsnv2, 1e-2), (_unet, 1e-3)])
def test_score_and_gradients_are_those_of_float64(build, limit):
    model = build().eval()
    exact = copy.deepcopy(model).double()
    x, weight = torch.rand(2, 3, 1, 16, 16)
    sigma = torch.tensor([1.0, 0.1, 0.01])
    weight = weight * sigma[:, None, None, None]
    assert optimize(model, train=True).winograd
    y, truth = model(x, sigma), exact(x.double(), sigma.double())
    gradients = torch.autograd.grad(y, [*model.parameters()], weight)
    expected = torch.autograd.grad(truth, [*exact.parameters()], weight.double())
    # some thirty convolutions in a row add 64·ε each, independently of one another
    bound = 30**0.5 * 64 * torch.finfo(torch.float32).eps
    assert all(error(ours, theirs) < bound for ours, theirs in zip(y, truth, strict=True))
    with torch.no_grad():
        assert error(model(x, sigma), truth) < bound
    largest = max(gradient.norm() for gradient in expected)
    for ours, theirs in zip(gradients, expected, strict=True):
        assert (ours - theirs).norm() < limit * largest


@needs_compiler
@torch.no_grad()
def test_bfloat16_on_a_cpu_means_coarse_float32_where_no_gradients_are_needed():
    model, x = _ncsn(size=28), torch.rand(4, 1, 28, 28)
    choice = choose(model, precision="bfloat16")
    assert choice == Choice(winograd=True, coarse=True)
    assert "more exact than bfloat16" in str(choice)
    assert choose(model, precision="bfloat16", train=True) == Choice(winograd=True)
    assert choose(model) == choose(model, batch=128, evaluations=10**6) == Choice(winograd=True)
    assert choose(model, precision="tf32") == choose(model)  # for GPUs
    exact, errors = copy.deepcopy(model).double()(x.double(), 0.1), {}
    for precision in ("float32", "bfloat16"):
        optimize(model, precision=precision)
        errors[precision] = error(model(x, 0.1), exact)
    # thirty independent convolutions of 64·ε and of 512·ε, as in test_winograd
    bound = 30**0.5 * 64 * torch.finfo(torch.float32).eps
    assert errors["float32"] < bound
    assert errors["float32"] < errors["bfloat16"] < 8 * bound


@pytest.fixture
def set_bfloat16(monkeypatch):
    """A function that gives the processor bfloat16 or takes it away."""

    def set_to(value):
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
            monkeypatch.setattr(torch.cpu, name, lambda: value, raising=False)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")

    set_to(True)
    return set_to


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_convolutions_stay_standard(set_bfloat16):
    model, x = _ncsn(), torch.rand(1, 1, 16, 16)
    before = model(x, 0.1)
    choice = optimize(model)
    assert choice == Choice()
    assert "standard convolutions, because there is no C++ compiler: install g++" in str(choice)
    assert torch.equal(model(x, 0.1), before)
    with pytest.warns(UserWarning, match="standard convolutions, because there is no C"):
        Choice(winograd=True).apply(model)
    assert type(model.net.begin) is Conv3
    half = Choice(channels_last=True, autocast=True)
    half.apply(model)
    assert 0 < error(model(x, 0.1), before.double()) < error_in_16_bits(model)
    assert choose(model, precision="bfloat16") == half
    assert choose(_unet(), precision="bfloat16") == Choice()
    set_bfloat16(False)
    assert choose(model, precision="bfloat16") == Choice()


def test_a_model_that_cannot_gain_stays_and_the_reason_is_given(monkeypatch):
    signals = ScoreModel(UNet(dims=1, channels=1, width=8, blocks=1), EDM(0.5), shape=(1, 32))
    monkeypatch.setattr(onednn, "trains_faster", lambda: False)
    volumes = ScoreModel(UNet(dims=3, channels=1, width=8, blocks=1), EDM(0.5), shape=(1, 4, 4, 4))
    for choice, reason in [
        (choose(signals), "the network has no 3 × 3 convolutions"),
        (choose(volumes), "the network has no 3 × 3 convolutions"),
        (choose(_ncsn(), evaluations=3), "0 s of work do not repay compiling the kernels"),
        (choose(_mlp().double()), "the weights are float64, not float32"),
        (choose(_ncsn().to("meta")), "nothing has been measured on meta"),
    ]:
        assert choice == Choice()
        assert str(choice) == f"no speed-up expected: {reason}"
    assert choose(_mlp(), train=True) == Choice()


@needs_onednn
@pytest.mark.parametrize("faster", [True, False])
def test_an_mlp_multiplies_by_onednn_in_sampling_and_where_faster_in_training(monkeypatch, faster):
    monkeypatch.setattr(onednn, "trains_faster", lambda: faster)
    model = _mlp()
    assert optimize(model) == Choice(onednn=True)
    assert type(model.net.stem) is FastLinear
    assert "embedded once a batch" in str(choose(model))
    assert choose(model, train=True) == Choice(onednn=faster)
    assert ("only on AMD processors" in str(choose(model, train=True))) != faster
    assert "once a batch" not in str(choose(model, train=True))
    indexed = ScoreModel(MLP((2,), width=8), NCSN(geometric(1.0, 0.01, 4)), shape=(2,))
    for other in (indexed, _mlp(labels=3)):
        assert choose(other) == Choice(onednn=True)
        assert "once a batch" not in str(choose(other))
    monkeypatch.setattr(onednn, "onednn_available", lambda: False)
    assert "this build of torch has no oneDNN" in str(choose(model))


@needs_onednn
def test_a_large_mlp_trains_in_bfloat16_where_that_is_allowed_and_faster(set_bfloat16):
    model = _mlp(width=256)
    x, sigma = torch.randn(128, 2), 0.3
    torch.nn.init.normal_(model.net.head.weight, std=0.1)  # it starts at zero, without error
    before, options = model(x, sigma), dict(train=True, precision="bfloat16")
    assert optimize(model, batch=128, **options) == Choice(autocast=True)
    assert 0 < error(model(x, sigma), before.double()) < error_in_16_bits(model)
    assert not choose(model, batch=8, **options).autocast  # small products are slower
    sampling = choose(model, batch=128, precision="bfloat16")
    assert sampling == Choice(onednn=True)
    assert "more exact than bfloat16" in str(sampling)
    set_bfloat16(False)
    assert not choose(model, batch=128, **options).autocast


@pytest.fixture
def set_compiler(monkeypatch):
    compile_unavailable_reason.cache_clear()
    yield lambda compiler: monkeypatch.setattr(torch, "compile", compiler)
    compile_unavailable_reason.cache_clear()


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_a_gpu_trains_compiled_in_bfloat16(monkeypatch, set_compiler, has_bfloat16):
    monkeypatch.setattr(ScoreModel, "device", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
    set_compiler(lambda call: lambda: None)
    model = _ncsn()
    training = choose(model, train=True)
    assert training == Choice(channels_last=True, compile=True, autocast=has_bfloat16)
    assert "CUDA graphs" in str(training)
    assert ("this GPU has no bfloat16" in str(training)) != has_bfloat16
    assert choose(model) == choose(model, precision="float32") == replace(training, autocast=False)
    assert choose(model, precision="tf32") == replace(choose(model), tf32=True)
    assert "TF32 in products" in str(choose(model, precision="tf32"))
    assert choose(model, precision="bfloat16").autocast == has_bfloat16
    assert not choose(model, evaluations=100).compile
    assert "the run is short" in str(choose(_mlp(), evaluations=100))

    def missing():
        raise RuntimeError("It raised:\nCannot find a working triton installation.\nMore of it")

    set_compiler(lambda call: missing)
    compile_unavailable_reason.cache_clear()
    choice = choose(model, train=True)
    assert choice == Choice(channels_last=True, autocast=has_bfloat16)
    reason = "because torch.compile does not work here: It raised: Cannot find a working triton"
    assert reason in str(choice)
    assert "More" not in str(choice)
    with pytest.warns(UserWarning, match="not compiled, because .* triton"):
        Choice.compile_network(model)  # as a run with this configuration does
    assert model.net._compiled_call_impl is None


@pytest.fixture
def tf32_flags():
    """The settings of torch, by default on for convolutions and off for products."""
    flags = {torch.backends.cudnn: True, torch.backends.cuda.matmul: False}
    before = [flag.allow_tf32 for flag in flags]
    for flag, default in flags.items():
        flag.allow_tf32 = default
    yield lambda: [flag.allow_tf32 for flag in flags]
    for flag, value in zip(flags, before, strict=True):
        flag.allow_tf32 = value


def test_float32_on_a_gpu_means_float32_unless_tf32_is_allowed(monkeypatch, tf32_flags):
    undo(_mlp())
    assert tf32_flags() == [True, False]  # on a CPU they are left alone
    monkeypatch.setattr(ScoreModel, "device", torch.device("cuda"))
    for tf32 in (False, True, False):
        Choice(tf32=tf32).apply(_mlp())
        assert tf32_flags() == [tf32, tf32]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("graphs", "mode"), [(True, "reduce-overhead"), (False, None)])
def test_cuda_graphs_are_left_out_where_gradients_add_up(monkeypatch, set_compiler, graphs, mode):
    modes = []
    set_compiler(lambda call, mode=None: modes.append(mode) or (lambda: None))
    model = _mlp()
    monkeypatch.setattr(ScoreModel, "device", torch.device("cuda"))
    Choice.compile_network(model, graphs=graphs)
    assert modes[-1] == mode


@pytest.mark.usefixtures("unchecked")
def test_a_compiled_choice_can_be_undone(set_compiler):
    calls = []
    set_compiler(lambda call, **_: lambda *x: calls.append(1) or call(*x))
    model, x = _ncsn(), torch.rand(2, 1, 16, 16)
    before = model(x, 0.1)
    with pytest.raises(ValueError, match="precision='half'"):
        optimize(model, precision="half")
    Choice(channels_last=True, compile=True).apply(model)
    model(x, 0.1)
    assert len(calls) == 2  # the trial and the network
    model(x.clone().requires_grad_(), 0.1)  # compiled backward passes run only once
    assert len(calls) == 2
    Choice().apply(model)
    assert torch.equal(model(x, 0.1), before)
    assert len(calls) == 2
    assert all(p.is_contiguous() for p in model.parameters())


@needs_compiler
@pytest.mark.parametrize("build", [_ncsn, _unet, _mlp])
def test_copies_checkpoints_and_hooks_do_not_notice_the_twins(build, tmp_path):
    model, calls = build().eval(), Counter()
    state, x = list(model.state_dict()), torch.rand(2, *model.shape)
    kinds = [type(module) for module in model.modules()]
    before = model(x, 0.1)
    for module in model.net.modules():
        module.register_forward_hook(lambda module, *_: calls.update([module]))
    model(x, 0.1)
    expected = calls.copy()
    calls.clear()
    Choice(winograd=True, onednn=True).apply(model)
    twins = [type(module) for module in model.modules()]
    assert twins != kinds
    assert list(model.state_dict()) == state
    result = model(x, 0.1)
    assert calls == expected
    average = copy.deepcopy(model)
    assert [type(module) for module in average.modules()] == twins
    assert torch.equal(average(x, 0.1), result)
    save(model, tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors").eval()
    assert [type(module) for module in loaded.modules()] == kinds
    undo(model)
    assert [type(module) for module in model.modules()] == kinds
    assert torch.equal(model(x, 0.1), before)
    assert torch.equal(loaded(x, 0.1), before)


def test_a_score_survives_the_next_call_of_a_network_that_reuses_its_output():
    """As CUDA graphs do: each output overwrites the last one."""
    model, x, sigmas = _ncsn(4, size=8), torch.rand(2, 1, 8, 8), (1.0, 0.1)
    expected, buffer = [model(x, sigma) for sigma in sigmas], torch.empty_like(x)
    model.net.register_forward_hook(lambda net, inputs, output: buffer.copy_(output.detach()))
    scores = [model(x, sigma) for sigma in sigmas]
    assert all(torch.equal(*pair) for pair in zip(scores, expected, strict=True))


@needs_compiler
def test_a_run_records_the_choice_and_keeps_what_was_configured():
    data = load_data("digits")
    for settings, winograd, compiles, reason in (
        (["training.steps=200000"], "on", "off", "a quarter of the multiplications"),
        (["machine.winograd=off"], "off", "off", r"^machine.winograd=off, as configured \(.*Winog"),
        (["machine.compile=on"], "off", "on", "^machine.compile=on, as configured$"),
        (["training.steps=1", "training.batch=1"], "off", "off", ""),
    ):
        settings = ["machine.device=cpu", "training.steps=200000", *settings]
        config, reasons = resolve(override(PRESETS["digits-ncsn"], settings), data)
        machine = config.machine
        assert (machine.winograd, machine.compile) == (winograd, compiles)
        assert {machine.autocast, machine.channels_last} == {"off"}
        assert re.search(reason, reasons)
        assert resolve(config, data)[0] == config  # as from config.json


SHORT = ["training.batch=4", "training.steps=2", "keeping.samples=0", "machine.threads=1"]
SHORT += ["machine.device=cpu"]


@needs_onednn
@pytest.mark.parametrize("value", ["auto", "on", "off"])
def test_a_run_uses_onednn_as_configured(monkeypatch, tmp_path, value):
    monkeypatch.setattr(onednn, "trains_faster", lambda: True)
    run = start(override(PRESETS["digits"], [*SHORT, f"machine.onednn={value}"]), tmp_path)
    assert isinstance(run.parts.model.net.stem, FastLinear) == (value != "off")
    assert read(tmp_path / "config.json").machine.onednn == ("off" if value == "off" else "on")


@needs_compiler
def test_a_run_trains_with_the_kernels_and_so_does_its_average(tmp_path):
    losses, weights = {}, {}
    for value in ("on", "off"):
        settings = [*SHORT, "network.width=8", "training.ema=0.9", f"machine.winograd={value}"]
        run = start(override(PRESETS["digits-ncsn"], settings), tmp_path / value)
        assert isinstance(run.model.net.begin, FastConv3) == (value == "on")
        losses[value] = [float(update.loss) for update in run]
        weights[value] = parameters_to_vector(run.model.net.parameters())
    assert not torch.equal(weights["on"], weights["off"])  # losses may round to the same
    # scores err by 4e-5, as above, losses by 8e-5, and gradients by 1e-3 of the 5 % of a step
    assert losses["on"] == pytest.approx(losses["off"], rel=1.3e-4)
