"""Properties that every network shares: arguments, derivatives, layouts, precision, compilation."""

import inspect
import json

import pytest
import torch
import torch.nn.functional as F

from scorefield.nn import DEPTHS, MLP, NETWORKS, Autoencoder, RefineNet, ToyMLP, UNet, unet

# ── Arguments ────────────────────────────────────────────────────────────────────────────────────

BUILT = {
    "table": lambda: MLP(7),
    "vectors": lambda: MLP((2, 3), width=8, blocks=1, dropout=0.2, labels=4, label_dropout=0.2),
    "counted": lambda: MLP([5], embedding="sinusoidal", fourier_scale=2.0),
    "plane": lambda: ToyMLP(3, width=5),
    "autoencoder": lambda: Autoencoder(3, widths=(4, 8)),
    "ncsn": lambda: RefineNet(1, 4, 10),
    "ncsnv2": lambda: RefineNet(),
    **{depth: lambda depth=depth: RefineNet(3, 8, depth=depth) for depth in DEPTHS},
    "classes": lambda: UNet(width=8, multipliers=[1, 2], labels=3, label_dropout=0.3, groups=2),
    **{
        name: lambda arguments=arguments: UNet(**arguments)
        for name, arguments in unet.PUBLISHED_UNETS.items()
    },
}


@pytest.mark.parametrize("build", BUILT.values(), ids=BUILT)
def test_arguments_rebuild_the_network_through_json(build):
    with torch.device("meta"):
        net = build()
        again = NETWORKS[type(net).__name__](**json.loads(json.dumps(net.arguments)))
    assert list(net.arguments) == list(inspect.signature(type(net)).parameters)
    assert json.dumps(again.arguments) == json.dumps(net.arguments)  # JSON turns tuples into lists
    # settings without a tensor show in a module's description or in its plain attributes
    assert repr(again) == repr(net)
    assert _settings(again) == _settings(net)


def _settings(net):
    plain = [v for part in net.modules() for v in vars(part).items() if _is_plain(v[1])]
    return plain, {name: value.shape for name, value in net.state_dict().items()}


def _is_plain(value):
    return isinstance(value, int | float | str)


UNETS = [
    ({"embedding": "fourrier"}, "embedding='fourrier': one of fourier, sinusoidal"),
    ({"form": "BigGAN"}, "form='BigGAN': one of ddpm, biggan"),
    ({"progressive_input": "residua"}, "progressive_input='residua': one of none, skip, res"),
    ({"progressive_output": "sum"}, "progressive_output='sum': one of none, skip, residual"),
    ({"combine": "concat"}, "combine='concat': one of sum, cat"),
    ({"attention": (7,)}, r"attention=\(7,\): the levels are 0 to 3, as many as multipliers"),
    ({"attention": (-1,)}, r"attention=\(-1,\): the levels are 0 to 3"),
    ({"label_dropout": 1.5}, r"label_dropout=1\.5: a fraction, from 0 to 1"),
    ({"dropout": -0.1}, r"dropout=-0\.1: a fraction, from 0 to 1"),
    ({"groups": 0}, "groups=0: 1 at least, or None"),
    ({"multipliers": ()}, r"multipliers=\(\): one for each level, 1 at least"),
    ({"multipliers": (1, 0)}, "multipliers=.*: one for each level"),
    ({"blocks": 0}, "blocks=0: 1 at least"),
    ({"channels": 0}, "channels=0: 1 at least"),
    ({"width": 2, "embedding": "sinusoidal"}, "width=2: 4 at least"),
    ({"labels": -1}, "labels=-1: 0 at least"),
    ({"width": 14}, "14 channels are not a multiple of 3 groups: change width or groups"),
    ({"dims": 3}, "dims=3: 1 for signals, 2 for images"),
]
MLPS = [
    ({"embedding": "fourrier"}, "embedding='fourrier': one of fourier, sinusoidal"),
    ({"label_dropout": 1.5}, r"label_dropout=1\.5: a fraction, from 0 to 1"),
    ({"dropout": 2.0}, r"dropout=2\.0: a fraction, from 0 to 1"),
    ({"blocks": 0}, "blocks=0: 1 at least"),
    ({"labels": -1}, "labels=-1: 0 at least"),
    ({"shape": 0}, "shape=0, width=256"),
]
REFINENETS = [
    ({"depth": "deep"}, "depth='deep': one of original, deeper, deepest"),
    ({"width": 1}, "width=1"),
    ({"levels": 0}, "levels=0"),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        *((UNet, *case) for case in UNETS),
        *((MLP, {"shape": 3, **arguments}, message) for arguments, message in MLPS),
        *((RefineNet, {"width": 4, **arguments}, message) for arguments, message in REFINENETS),
    ],
)
def test_invalid_arguments_are_named(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)


# ── Inputs ───────────────────────────────────────────────────────────────────────────────────────


def _randomised(net, std=0.3):
    """The network with weights that are nowhere 0."""
    for parameter in net.parameters():
        parameter.data += std * torch.randn_like(parameter)
    return net


KINDS = {
    "ncsn++": dict(progressive_input="residual", attention=(1,)),
    "pyramids": dict(progressive_input="skip", progressive_output="skip", combine="cat"),
    "residual out": dict(progressive_output="residual", progressive_input="none"),
    "ddpm": dict(
        form="ddpm",
        embedding="sinusoidal",
        fir=None,
        progressive_input="none",
        skip_rescale=False,
    ),
}
"""The forms of a UNet."""


def small_unet(kind="ncsn++", **changes):
    """A small network with weights that are not nearly zero."""
    arguments = dict(width=8, multipliers=(1, 2), blocks=1, attention=(0, 1), dropout=0.0)
    return UNet(**{**arguments, **KINDS[kind], "init_scale": 1.0, **changes})


SMALL = {
    "ncsn": (lambda: RefineNet(2, 4, 5), (2, 6, 7), [0, 3]),
    "ncsnv2": (lambda: RefineNet(2, 4), (2, 6, 7), None),
    "autoencoder": (lambda: Autoencoder(2, widths=(4, 6)), (2, 6, 7), None),
    **{
        kind: (lambda kind=kind: small_unet(kind, channels=2), (2, 6, 7), [0.3, 2.1])
        for kind in KINDS
    },
    "toy": (lambda: _randomised(ToyMLP(width=16)), (2,), None),
    "mlp": (lambda: _randomised(MLP((3, 2), width=16, blocks=2)), (3, 2), [0.3, -1.1]),
}
small = pytest.mark.parametrize("name", SMALL)


def _small(name, dtype=torch.float32):
    build, shape, cond = SMALL[name]
    cond = None if cond is None else torch.tensor(cond)
    if cond is not None and cond.is_floating_point():
        cond = cond.to(dtype)
    return build().to(dtype), torch.rand(2, *shape, dtype=dtype), cond


def _call(net, cond):
    return net if cond is None else lambda x: net(x, cond)


@small
def test_each_sample_is_computed_alone(name):
    net, x, cond = _small(name, torch.float64)
    apart = [_call(net, None if cond is None else cond[i : i + 1])(x[i : i + 1]) for i in (0, 1)]
    torch.testing.assert_close(torch.cat(apart), _call(net, cond)(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["mlp", *KINDS])
@torch.no_grad()
def test_dropout_is_for_training(kind):
    mlp = _randomised(MLP((3, 8, 8), width=16, dropout=0.5))
    net = mlp if kind == "mlp" else small_unet(kind, dropout=0.5)
    x, cond = torch.randn(2, 3, 8, 8), torch.tensor([0.3, 2.1])
    assert not torch.equal(net(x, cond), net(x, cond))
    assert torch.equal(net.eval()(x, cond), net(x, cond))


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 8, 8), (2, 8)])
@pytest.mark.parametrize("name", ["ncsnv2", "autoencoder", "ncsn++", "mlp"])
@pytest.mark.usefixtures("unchecked")
def test_inputs_of_another_shape_are_refused(name, shape):
    expected = r"built for \(3, 2\)" if name == "mlp" else "this network takes images of 2 channels"
    with pytest.raises(ValueError, match=expected):
        _small(name)[0](torch.zeros(shape), torch.ones(2))


DEEP = dict(multipliers=(1, 2, 2, 2), attention=(3,))


@pytest.mark.parametrize("size", [(9, 13), (8, 8), (1, 3)])
@pytest.mark.parametrize(
    ("build", "factor"),
    [
        *((lambda kind=kind: small_unet(kind, **DEEP), 8) for kind in KINDS),
        (lambda: Autoencoder(3), 4),
        *(
            (lambda depth=depth: RefineNet(3, 4, depth=depth), 2**i)
            for i, depth in enumerate(DEPTHS, 1)
        ),
    ],
)
@torch.no_grad()
def test_any_size_is_padded_to_multiples_of_the_halvings(build, factor, size):
    net, x, cond = build(), torch.rand(2, 3, *size), torch.tensor([0, 2])
    (top, bottom), (left, right) = ((-n % factor // 2, (-n % factor + 1) // 2) for n in size)
    grey = 0.5 if isinstance(net, RefineNet) else 0.0  # 2x − 1 = 0
    framed = net(F.pad(x, (left, right, top, bottom), value=grey), cond)
    result = net(x, cond)
    assert result.shape == x.shape
    assert torch.equal(result, framed[..., top : top + size[0], left : left + size[1]])


# ── Derivatives ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own, at import
@small
def test_forward_and_batched_derivatives_are_those_of_backward_mode(name):
    net, x, cond = _small(name, torch.float64)
    call, (u, *basis) = _call(net, cond), torch.randn(4, *x.shape, dtype=x.dtype)
    value, pushed = torch.func.jvp(call, (x,), (u,))
    y = call(x.requires_grad_())
    torch.testing.assert_close(value, y, rtol=1e-10, atol=1e-10)
    pulled = [torch.autograd.grad(y, x, v, retain_graph=True)[0] for v in basis]
    for row, v in zip(pulled, basis, strict=True):
        assert (pushed * v).sum().item() == pytest.approx((row * u).sum().item(), rel=1e-9)
    (together,) = torch.autograd.grad(y, x, torch.stack(basis), is_grads_batched=True)
    torch.testing.assert_close(together, torch.stack(pulled), rtol=1e-9, atol=1e-9)


@small
def test_second_derivatives_are_those_of_finite_differences(name):
    """The gradient of vᵀ∂F/∂x·v, which sliced score matching needs."""
    net, x, cond = _small(name, torch.float64)
    call, (v, w) = _call(net, cond), torch.randn(2, *x.shape, dtype=x.dtype)

    def slope(x):
        x = x.requires_grad_()
        (pulled,) = torch.autograd.grad((call(x) * v).sum(), x, create_graph=True)
        return (pulled * v).sum()

    (gradient,) = torch.autograd.grad(slope(y := x.clone()), y)
    # central differences err by h² ≈ 1e-10 and by ε/h ≈ 1e-11, relative to the slope
    h = 1e-5
    difference = (slope(x + h * w) - slope(x - h * w)).item() / (2 * h)
    assert (gradient * w).sum().item() == pytest.approx(difference, rel=1e-4, abs=1e-6)


# ── Layouts, precision, compilation ──────────────────────────────────────────────────────────────


@small
@torch.no_grad()
def test_channels_last_computes_the_same_and_bfloat16_is_close(name):
    net, x, cond = _small(name, torch.float64)
    expected = _call(net, cond)(x)
    if x.ndim == 4:
        inner = x.contiguous(memory_format=torch.channels_last)
        result = _call(net.to(memory_format=torch.channels_last), cond)(inner)
        torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)
    cond = cond.float() if cond is not None and cond.is_floating_point() else cond
    with torch.autocast("cpu", torch.bfloat16):
        result = _call(net.float(), cond)(x.float())
    # 2⁻⁹ a rounding; some thirty layers in a row, √30·2⁻⁹ = 0.011 if independent
    assert (result - expected).norm() < 0.08 * expected.norm()


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@small
def test_compiled_values_and_gradients_are_the_eager_ones(name):
    """A minute or more for the C++ compiler."""
    net, x, cond = _small(name)
    compare_compiled(net, torch.compile(net, fullgraph=True), *[x, *[cond] * (cond is not None)])


def compare_compiled(net, compiled, *inputs):
    """Compare outputs and the gradients of all parameters, compiled against eager, in float32."""
    results = []
    for call in (net, compiled):
        net.zero_grad()
        y = call(*inputs)
        y.square().mean().backward()
        results.append([y.detach(), *(p.grad.clone() for p in net.parameters())])
    largest = max(gradient.abs().max() for gradient in results[0][1:])
    for eager, other in zip(*results, strict=True):
        # sums of some hundred products a layer in another order, through some thirty layers
        assert (other - eager).abs().max() <= 1e-3 * eager.abs().max() + 1e-5 * largest
