import copy

import pytest
import torch
import torch.nn.functional as F
from test_kernels import needs_compiler

from scorefield import EDM, NCSN, VE, NCSNv2, Prior, RefineNet, ScoreModel, UNet, geometric
from scorefield.data import load_data
from scorefield.fast.optimize import Choice, choose, compile_unavailable_reason, optimize
from scorefield.nn import MLP, kernels, onednn
from scorefield.runs import start
from scorefield.runs.config import overridden, read
from scorefield.runs.presets import digits, digits_ncsn
from scorefield.runs.resolve import resolve
from scorefield.train import moving_average


def _ncsn(width=16, levels=4, size=16):
    net, prior = RefineNet(1, width, levels), Prior(torch.zeros(1, size, size), torch.tensor(1.0))
    return ScoreModel(net, NCSN(geometric(1.0, 0.01, levels)), prior=prior)


def _ncsnv2():
    ends = dict(sigma_max=1.0, sigma_min=0.01)
    return ScoreModel(RefineNet(1, 16), NCSNv2(**ends), shape=(1, 16, 16))


def _unet():
    # Fourier features of a large scale have other digits in float64
    form = dict(multipliers=(1, 2), blocks=1, attention=(), init_scale=1.0, fourier_scale=1.0)
    net = UNet(channels=1, width=16, **form)
    ends = dict(sigma_max=1.0, sigma_min=0.01, centre=0.0)
    return ScoreModel(net, VE(**ends), shape=(1, 16, 16))


# ── Results stay what they are ───────────────────────────────────────────────────────────────────


def _gradients(model, x, sigma, weight):
    model.zero_grad()
    y = model(x, sigma)
    (y * weight * sigma[:, None, None, None]).sum().backward()
    return y.detach(), [p.grad.clone() for p in model.parameters()]


@needs_compiler
@pytest.mark.parametrize("build", [_ncsn, _ncsnv2, _unet])
def test_score_and_gradients_are_those_of_float64(build):
    model = build().eval()
    exact = copy.deepcopy(model).double()
    x, weight = torch.rand(2, 3, 1, 16, 16)
    sigma = torch.tensor([1.0, 0.1, 0.01])
    assert optimize(model, train=True).winograd
    y, found = _gradients(model, x, sigma, weight)
    truth, expected = _gradients(exact, x.double(), sigma.double(), weight.double())
    for ours, theirs in zip(y, truth, strict=True):
        assert (ours - theirs).norm() < 1e-5 * theirs.norm()
    with torch.no_grad():
        assert (model(x, sigma) - truth).norm() < 1e-5 * truth.norm()
    largest = max(each.norm() for each in expected)
    for ours, theirs in zip(found, expected, strict=True):
        if theirs.norm() > 1e-3 * largest:
            assert F.cosine_similarity(ours.double().flatten(), theirs.flatten(), dim=0) > 0.99999
        assert (ours - theirs).norm() < 1e-4 * largest


@needs_compiler
def test_a_copy_computes_in_the_same_way():
    model = _ncsn()
    optimize(model)
    mean = moving_average(model).module
    x = torch.rand(2, 1, 16, 16)
    assert torch.equal(mean(x, 0.1), model(x, 0.1))
    assert mean.net.begin.fast


@needs_compiler
def test_it_can_be_undone():
    model, x = _ncsn(), torch.rand(2, 1, 16, 16)
    before = model(x, 0.1)
    optimize(model)
    assert not torch.equal(model(x, 0.1), before)
    Choice().apply(model)
    assert torch.equal(model(x, 0.1), before)


# ── What is chosen, and why ──────────────────────────────────────────────────────────────────────


@pytest.fixture
def _no_compiler(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    kernels.load_library.cache_clear()
    yield
    kernels.load_library.cache_clear()


@pytest.mark.usefixtures("_no_compiler")
def test_without_a_compiler_the_model_stays_and_the_reason_is_told():
    model, x = _ncsn(), torch.rand(1, 1, 16, 16)
    before = model(x, 0.1)
    choice = optimize(model)
    assert choice == Choice()
    assert "no C++ compiler: install g++" in str(choice)
    assert torch.equal(model(x, 0.1), before)
    Choice(channels_last=True, autocast=True).apply(model)
    assert 0 < (model(x, 0.1) - before).norm() < 0.05 * before.norm()


@pytest.mark.usefixtures("_no_compiler")
def test_a_choice_that_is_not_to_be_had_any_more_is_left_out():
    model = _ncsn()
    with pytest.warns(UserWarning, match="standard convolutions, because there is no C"):
        Choice(winograd=True).apply(model)
    assert not model.net.begin.fast


@needs_compiler
def test_bfloat16_on_a_cpu_is_the_faster_float32():
    choice = choose(_ncsn(), precision="bfloat16")
    assert choice == Choice(winograd=True, coarse=True)
    assert "more exact than bfloat16" in str(choice)
    assert choose(_ncsn(), precision="bfloat16", train=True) == Choice(winograd=True)
    assert choose(_ncsn()) == Choice(winograd=True)


@needs_compiler
def test_what_may_err_does_so_by_little():
    torch.manual_seed(0)
    model, x = _ncsn(size=28), torch.rand(4, 1, 28, 28)
    exact = copy.deepcopy(model).double()(x.double(), 0.1)
    found = {}
    for precision in ("float32", "bfloat16"):
        optimize(model, precision=precision)
        with torch.no_grad():
            found[precision] = ((model(x, 0.1) - exact).norm() / exact.norm()).item()
    assert found["float32"] < 1e-5
    assert found["float32"] < found["bfloat16"] < 2e-4


@needs_compiler
def test_what_is_soon_done_is_not_worth_a_build():
    model = _ncsn()
    assert choose(model, evaluations=3) == Choice()
    assert "do not repay" in str(choose(model, evaluations=3))
    assert choose(model, batch=128, evaluations=10**6).winograd
    assert choose(model, evaluations=None).winograd


def test_what_is_no_use_is_left(monkeypatch):
    ends = dict(sigma_max=1.0, sigma_min=0.01)
    vectors = ScoreModel(MLP((2,), width=8), EDM(0.5, **ends), shape=(2,))
    monkeypatch.setattr(onednn, "trains_faster", lambda: False)
    assert optimize(vectors, train=True) == Choice()
    signals = ScoreModel(UNet(dims=1, channels=1, width=8, blocks=1), EDM(0.5), shape=(1, 32))
    assert "no 3 × 3 convolutions" in str(choose(signals))
    assert "float64, not float32" in str(choose(copy.deepcopy(vectors).double()))
    assert "float64, not float32" in str(choose(_ncsn().double()))
    assert "nothing has been measured on meta" in str(choose(_ncsn().to("meta")))


@pytest.mark.skipif(not onednn.onednn_available(), reason="torch without oneDNN")
@pytest.mark.parametrize("known", [True, False])
def test_an_mlp_is_faster_in_sampling_and_where_that_is_known_in_training(monkeypatch, known):
    monkeypatch.setattr(onednn, "trains_faster", lambda: known)
    ends = dict(sigma_max=1.0, sigma_min=0.01)
    model = ScoreModel(MLP((2,), width=8), EDM(0.5, **ends), shape=(2,))
    assert optimize(model) == Choice(onednn=True)
    assert model.net.onednn
    assert "embedded once a batch" in str(choose(model))
    assert choose(model, train=True) == Choice(onednn=known)
    assert "once a batch" not in str(choose(model, train=True))
    Choice().apply(model)
    assert not model.net.onednn


@pytest.fixture
def halves(monkeypatch):
    """Whether the processor is to have bfloat16."""

    def has(it):
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
            monkeypatch.setattr(torch.cpu, name, lambda: it, raising=False)

    has(True)
    return has


@pytest.mark.skipif(not onednn.onednn_available(), reason="torch without oneDNN")
def test_an_mlp_is_in_bfloat16_where_that_is_allowed_and_faster(halves):
    ends = dict(sigma_max=1.0, sigma_min=0.01)
    model = ScoreModel(MLP((2,), width=256), EDM(0.5, **ends), shape=(2,))
    x, sigma = torch.randn(128, 2), 0.3
    torch.nn.init.normal_(model.net.head.weight, std=0.1)  # it begins at zero, without error
    before, asked = model(x, sigma), dict(train=True, precision="bfloat16")
    assert optimize(model, batch=128, **asked) == Choice(autocast=True)
    assert 0 < (model(x, sigma) - before).norm() < 0.02 * before.norm()
    assert not choose(model, batch=8, **asked).autocast  # small products are slower
    sampling = choose(model, batch=128, precision="bfloat16")
    assert sampling == Choice(onednn=True)
    assert "more exact than bfloat16" in str(sampling)
    halves(False)
    assert not choose(model, batch=128, **asked).autocast


@pytest.mark.usefixtures("_no_compiler")
def test_without_a_compiler_images_are_in_bfloat16_where_that_is_faster(halves):
    half = Choice(channels_last=True, autocast=True)
    assert choose(_ncsn(), precision="bfloat16") == half
    assert choose(_unet(), precision="bfloat16") == Choice()
    halves(False)
    assert choose(_ncsn(), precision="bfloat16") == Choice()


@pytest.mark.skipif(not onednn.onednn_available(), reason="torch without oneDNN")
def test_an_mlps_reasons_are_its_own(monkeypatch):
    vectors = MLP((2,), width=8)
    indexed = ScoreModel(vectors, NCSN(geometric(1.0, 0.01, 4)), shape=(2,))
    told = ScoreModel(MLP((2,), width=8, labels=3), EDM(0.5), shape=(2,))
    for model in (indexed, told):
        assert choose(model) == Choice(onednn=True)
        assert "once a batch" not in str(choose(model))
    monkeypatch.setattr(onednn, "trains_faster", lambda: False)
    assert "only on AMD processors" in str(choose(indexed, train=True))
    monkeypatch.setattr(onednn, "onednn_available", lambda: False)
    assert "this build of torch has no oneDNN" in str(choose(indexed))


@pytest.fixture
def _a_gpu(monkeypatch):
    """As far as a choice goes: what stands in for a compiler is content with anything."""
    monkeypatch.setattr(ScoreModel, "device", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(torch, "compile", lambda call: lambda: None)
    compile_unavailable_reason.cache_clear()
    yield
    compile_unavailable_reason.cache_clear()


@pytest.mark.usefixtures("_a_gpu")
def test_without_a_compiler_a_gpu_goes_without_and_says_so(monkeypatch):
    def missing():
        raise RuntimeError("Cannot find a working triton installation.\nMore of it")

    monkeypatch.setattr(torch, "compile", lambda call: missing)
    model = _ncsn()
    choice = choose(model, train=True)
    assert choice == Choice(channels_last=True, autocast=True)
    assert "not compiled, because torch.compile does not work here: Cannot find" in str(choice)
    assert "More" not in str(choice)
    with pytest.warns(UserWarning, match="not compiled, because .* triton"):
        Choice.compile_network(model)  # as a run that was told to, or began elsewhere
    assert model.net._compiled_call_impl is None


def test_compilation_and_layout_can_be_undone(monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda call, **_: lambda *x: calls.append(1) or call(*x))
    compile_unavailable_reason.cache_clear()
    model, x = _ncsn(), torch.rand(2, 1, 16, 16)
    before = model(x, 0.1)
    Choice(channels_last=True, compile=True).apply(model)
    model(x, 0.1)
    found = len(calls)
    Choice().apply(model)
    assert torch.equal(model(x, 0.1), before)
    assert found == len(calls) > 1  # the trial is one
    assert all(p.is_contiguous() for p in model.parameters())
    compile_unavailable_reason.cache_clear()


@pytest.mark.usefixtures("_a_gpu")
@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_a_gpu_gets_its_own(monkeypatch, has_bfloat16):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
    model = _ncsn()
    training = choose(model, train=True)
    assert training == Choice(channels_last=True, compile=True, autocast=has_bfloat16)
    assert "CUDA graphs" in str(training)
    assert not choose(model).autocast
    assert choose(model, precision="bfloat16").autocast == has_bfloat16
    assert not choose(model, evaluations=100).compile


class Replayed(torch.nn.Module):
    """A network as CUDA graphs replay it: each answer is written where the last one was."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.answer = None

    def forward(self, *inputs):
        found = self.net(*inputs)
        self.answer = found if self.answer is None else self.answer.copy_(found)
        return self.answer


def test_a_score_is_its_own_though_the_networks_answer_is_written_over():
    model, x = _ncsn(4, size=8), torch.rand(2, 1, 8, 8)
    replayed = ScoreModel(Replayed(model.net), model.precondition, prior=model.prior)
    found = [replayed(x, sigma) for sigma in (1.0, 0.1)]
    for score, sigma in zip(found, (1.0, 0.1), strict=True):
        assert torch.equal(score, model(x, sigma))


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_precision_is_named():
    with pytest.raises(ValueError, match="precision='half'"):
        choose(_ncsn(), precision="half")


# ── In a run ─────────────────────────────────────────────────────────────────────────────────────


def _settled(*settings):
    experiment = overridden(digits_ncsn(), ["machine.device=cpu", *settings])
    return resolve(experiment, load_data("digits"))


@needs_compiler
def test_a_run_keeps_what_was_chosen_and_what_it_was_told():
    chosen, reasons = _settled("training.steps=200000")
    assert chosen.machine.winograd == "on"
    assert {chosen.machine.autocast, chosen.machine.channels_last, chosen.machine.compile} == {
        "off"
    }
    assert "a quarter of the multiplications" in reasons
    again, _ = resolve(chosen, load_data("digits"))  # as from config.json
    assert again == chosen
    off, reasons = _settled("training.steps=200000", "machine.winograd=off")
    assert off.machine.winograd == "off"
    assert reasons.startswith("machine.winograd=off, as configured (the default here: Winograd")
    for way in ("autocast", "compile"):
        other, reasons = _settled("training.steps=200000", f"machine.{way}=on")
        assert (getattr(other.machine, way), other.machine.winograd) == ("on", "off")
        assert reasons == f"machine.{way}=on, as configured"
    assert _settled("training.steps=1", "training.batch=1")[0].machine.winograd == "off"


@pytest.mark.skipif(not onednn.onednn_available(), reason="torch without oneDNN")
@pytest.mark.parametrize("way", ["auto", "on", "off"])
def test_a_run_keeps_how_an_mlp_is_multiplied(monkeypatch, tmp_path, way):
    monkeypatch.setattr(onednn, "trains_faster", lambda: True)
    small = ["training.steps=1", "training.batch=4", "keeping.samples=0", "machine.device=cpu"]
    begun = start(overridden(digits(), [*small, f"machine.onednn={way}"]), tmp_path)
    assert begun.parts.model.net.onednn == (way != "off")
    assert read(tmp_path / "config.json").machine.onednn == ("off" if way == "off" else "on")


@needs_compiler
def test_a_run_trains_by_what_it_keeps(tmp_path):
    """Its first loss is the plain way's but for rounding, and its averaged model is as fast."""
    small = ["network.width=8", "training.steps=2", "training.batch=4", "keeping.samples=0"]
    losses = {}
    for way in ("on", "off"):
        made = overridden(
            digits_ncsn(),
            [*small, f"machine.winograd={way}", "machine.threads=1", "training.ema=0.9"],
        )
        begun = start(made, tmp_path / way)
        assert begun.model.net.begin.fast == (way == "on")
        losses[way] = [update.loss for update in begun]
        assert read(tmp_path / way / "config.json").machine.winograd == way
    assert losses["on"] != losses["off"]
    assert losses["on"] == pytest.approx(losses["off"], rel=1e-4)
