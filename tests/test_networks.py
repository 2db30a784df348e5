"""Arguments, derivatives, layouts, precision, compilation and classes of the networks."""

import inspect
import json
from functools import partial
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from test_kernels import error, error_in_16_bits
from torch.nn.attention import SDPBackend, sdpa_kernel

from scorefield import VE, ScoreModel
from scorefield.nn import DEPTHS, MLP, NETWORKS, Autoencoder, DiT, RefineNet, ToyMLP, UNet, unet

BUILT = {
    "table": lambda: MLP(7),
    "vectors": lambda: MLP((2, 3), width=8, blocks=1, dropout=0.2, labels=4, label_dropout=0.2),
    "counted": lambda: MLP([5], embedding="sinusoidal", fourier_scale=2.0),
    "plane": lambda: ToyMLP(3, width=5),
    "patches": lambda: DiT(channels=1, patch=4, width=16, blocks=1, heads=2, dropout=0.2, labels=3),
    "vector and image": lambda: UNet(
        width=8, multipliers=[1, 2], conditions={"low": [1, 4, 4], "v": [5]}, withhold={"v": 0.0}
    ),
    "autoencoder": lambda: Autoencoder(3, widths=(4, 8)),
    "ncsn": lambda: RefineNet(1, 4, 10),
    "ncsnv2": lambda: RefineNet(),
    **{depth: partial(RefineNet, 3, 8, depth=depth) for depth in DEPTHS},
    "classes": lambda: UNet(width=8, multipliers=[1, 2], labels=3, label_dropout=0.3, groups=2),
    **{name: partial(UNet, **settings) for name, settings in unet.PUBLISHED_UNETS.items()},
}


@pytest.mark.parametrize("name", BUILT)
def test_arguments_rebuild_the_network_through_json(name):
    with torch.device("meta"):
        net = BUILT[name]()
        again = NETWORKS[type(net).__name__](**json.loads(json.dumps(net.arguments)))
    assert list(net.arguments) == list(inspect.signature(type(net)).parameters)
    assert json.dumps(again.arguments) == json.dumps(net.arguments)  # JSON turns tuples into lists
    # settings without a tensor show in a module's description or in its plain attributes
    assert repr(again) == repr(net)
    assert _settings(again) == _settings(net)


def _settings(net):
    items = [item for part in net.modules() for item in vars(part).items()]
    shapes = {name: value.shape for name, value in net.state_dict().items()}
    return shapes, [item for item in items if isinstance(item[1], int | float | str)]


INVALID = [
    (UNet, {"embedding": "fourrier"}, "embedding='fourrier': one of fourier, sinusoidal"),
    (UNet, {"progressive_input": "residua"}, "progressive_input='residua': one of none, skip, res"),
    (UNet, {"attention": (7,)}, r"attention=\(7,\): the levels are 0 to 3, as many as mult"),
    (UNet, {"dropout": -0.1}, r"dropout=-0\.1: a fraction, from 0 to 1"),
    (UNet, {"groups": 0}, "groups=0: 1 at least"),
    (UNet, {"multipliers": ()}, r"multipliers=\(\): one for each level, 1 at least"),
    (UNet, {"blocks": 0}, "blocks=0: 1 at least"),
    (UNet, {"width": 2, "embedding": "sinusoidal"}, "width=2: 4 at least"),
    (UNet, {"width": 14}, "14 channels are not a multiple of 3 groups: change width or groups"),
    (UNet, {"patch": 0}, "patch=0: 1 at least"),
    (UNet, {"dims": 4}, "dims=4: one of 1, 2, 3"),
    (UNet, {"conditions": {"y": [3, 8]}}, r"conditions\.y=\[3, 8\]: give the shape \[size\], or 3"),
    (MLP, {"shape": 2, "conditions": {"label": [3]}}, r"conditions\.label=.*: rename the"),
    (MLP, {"shape": 2, "conditions": {"v1.2": [3]}}, r"conditions\.v1\.2=.*: rename the"),
    (DiT, {"conditions": {"y": [3]}, "withhold": {"z": 0.1}}, r"withhold\.z=0\.1: .* conditions y"),
    (MLP, {"shape": 0}, "shape=0, width=256"),
    (DiT, {"width": 15, "heads": 3}, "width=15, heads=3: give an even width that heads divides"),
    (DiT, {"width": 14, "heads": 4}, "width=14, heads=4: give an even width that heads divides"),
    (DiT, {"patch": 0}, "patch=0: 1 at least"),
    (RefineNet, {"width": 4, "depth": "deep"}, "depth='deep': one of original, deeper, deepest"),
    (RefineNet, {"width": 1}, "width=1"),
    (RefineNet, {"width": 4, "levels": 0}, "levels=0"),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("build", "arguments", "message"), INVALID)
def test_invalid_arguments_are_named(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)


def _randomise(net, std=0.3):
    """The network with weights that are nowhere 0."""
    for parameter in net.parameters():
        parameter.data += std * torch.randn_like(parameter)
    return net


DDPM = dict(form="ddpm", embedding="sinusoidal", skip_rescale=False)
KINDS = {
    "ncsn++": dict(progressive_input="residual", attention=(1,)),
    "pyramids": dict(progressive_input="skip", progressive_output="skip", combine="cat"),
    "residual out": dict(progressive_output="residual", progressive_input="none"),
    "ddpm": dict(DDPM, fir=None, progressive_input="none"),
}
"""The forms of a UNet."""


def small_unet(kind="ncsn++", **changes):
    arguments = dict(width=8, multipliers=(1, 2), blocks=1, attention=(0, 1), dropout=0.0)
    arguments |= dict(init_scale=1.0, fourier_scale=1.0)
    return UNet(**{**arguments, **KINDS[kind], **changes})


def small_dit(**changes):
    return _randomise(DiT(**dict(width=16, blocks=2, heads=2) | changes))


SMALL = {
    "ncsn": (lambda: RefineNet(2, 4, 5), (2, 6, 7), [0, 3]),
    "ncsnv2": (lambda: RefineNet(2, 4), (2, 6, 7), None),
    "autoencoder": (lambda: Autoencoder(2, widths=(4, 6)), (2, 6, 7), None),
    **{kind: (partial(small_unet, kind, channels=2), (2, 6, 7), [0.3, 2.1]) for kind in KINDS},
    "patched": (partial(small_unet, channels=2, patch=2), (2, 6, 7), [0.3, 2.1]),
    "toy": (lambda: _randomise(ToyMLP(width=16)), (2,), None),
    "mlp": (lambda: _randomise(MLP((3, 2), width=16, blocks=2)), (3, 2), [0.3, -1.1]),
    "dit": (lambda: small_dit(channels=2), (2, 6, 8), [0.3, -1.1]),
}
small = pytest.mark.parametrize("name", SMALL)
layouts = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])


def _small(name, dtype=torch.float32, layout=torch.contiguous_format):
    """A network and its inputs; the layout is that of images."""
    build, shape, cond = SMALL[name]
    net, x = build().to(dtype), torch.rand(2, *shape, dtype=dtype)
    if x.ndim == 4:
        net, x = net.to(memory_format=layout), x.to(memory_format=layout)
    if cond is None:
        return net, (x,)
    return net, (x, torch.tensor(cond, dtype=dtype if isinstance(cond[0], float) else torch.int64))


@small
def test_each_sample_is_computed_alone(name):
    net, inputs = _small(name, torch.float64)
    apart = [net(*(t[i : i + 1] for t in inputs)) for i in (0, 1)]
    torch.testing.assert_close(torch.cat(apart), net(*inputs), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_patches_are_channels_of_a_smaller_image(kind):
    torch.manual_seed(0)
    whole, patched = small_unet(kind, channels=12), small_unet(kind, channels=3, patch=2)
    patched.load_state_dict(whole.state_dict())
    x, cond = torch.randn(2, 3, 8, 12), torch.tensor([0.3, 2.1])
    expected = F.pixel_shuffle(whole(F.pixel_unshuffle(x, 2), cond), 2)
    assert torch.equal(patched(x, cond), expected)
    signal, wide = torch.randn(2, 3, 8), partial(small_unet, kind, dims=1)
    patched, whole = wide(channels=3, patch=2), wide(channels=6)
    patched.load_state_dict(whole.state_dict())
    pairs = signal.unflatten(2, (4, 2)).transpose(2, 3).flatten(1, 2)
    expected = whole(pairs, cond).unflatten(1, (3, 2)).transpose(2, 3).flatten(2)
    assert torch.equal(patched(signal, cond), expected)


MAKERS = {kind: partial(small_unet, kind) for kind in KINDS}
MAKERS |= {"mlp": lambda **options: _randomise(MLP((3, 8, 12), **options)), "dit": small_dit}
MAKERS["mlp and input"] = partial(MAKERS["mlp"], condition_input=True)


@pytest.mark.parametrize("kind", MAKERS)
@torch.no_grad()
def test_dropout_is_for_training(kind):
    net = MAKERS[kind](dropout=0.5)
    x, cond = torch.randn(2, 3, 8, 12), torch.tensor([0.3, 2.1])
    assert not torch.equal(net(x, cond), net(x, cond))
    assert torch.equal(net.eval()(x, cond), net(x, cond))
    for part in net.modules():  # Monte Carlo dropout turns it on in a network in evaluation
        part.train(isinstance(part, torch.nn.Dropout))
    assert not torch.equal(net(x, cond), net(x, cond))


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 8, 8), (2, 8)])
@pytest.mark.parametrize("name", ["ncsnv2", "autoencoder", "ncsn++", "mlp", "dit"])
@pytest.mark.usefixtures("unchecked")
def test_inputs_of_another_shape_are_refused(name, shape):
    expected = r"built for \(3, 2\)" if name == "mlp" else "this network takes images of 2 channels"
    with pytest.raises(ValueError, match=expected):
        _small(name)[0](torch.zeros(shape), torch.ones(2))


@pytest.mark.parametrize("size", [(6, 8), (8, 10)])
def test_a_patch_that_does_not_divide_the_image_is_refused(size):
    message = "patch=4: give one that divides images of {} × {}".format(*size)
    with pytest.raises(ValueError, match=message):
        DiT(patch=4)(torch.zeros(2, 3, *size))


FOUR_LEVELS = dict(multipliers=(1, 2, 2, 2), attention=(3,))
HALVING = [(lambda: Autoencoder(3), 4)]
HALVING += [(partial(small_unet, kind, **FOUR_LEVELS), 8) for kind in KINDS]
for i, depth in enumerate(DEPTHS, 1):
    HALVING += [(partial(RefineNet, 3, 4, levels, depth=depth), 2**i) for levels in (None, 3)]


@pytest.mark.parametrize("size", [(9, 13), (1, 8)])
@pytest.mark.parametrize(("build", "factor"), HALVING)
def test_any_size_is_padded_to_multiples_of_the_halvings(build, factor, size):
    net, x, cond = build(), torch.rand(2, 3, *size), torch.tensor([0, 2])
    (top, bottom), (left, right) = ((-n % factor // 2, (-n % factor + 1) // 2) for n in size)
    grey = 0.5 if isinstance(net, RefineNet) else 0.0  # 2x − 1 = 0
    framed = net(F.pad(x, (left, right, top, bottom), value=grey), cond)
    result = net(x, cond)
    assert result.shape == x.shape
    assert torch.equal(result, framed[..., top : top + size[0], left : left + size[1]])
    result.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own, at import
@small
@layouts
def test_forward_and_batched_derivatives_are_those_of_backward_mode(name, layout):
    net, (x, *cond) = _small(name, torch.float64, layout)
    u, *basis = torch.randn(4, *x.shape, dtype=x.dtype)
    value, pushed = torch.func.jvp(lambda x: net(x, *cond), (x,), (u,))
    y = net(x.requires_grad_(), *cond)
    torch.testing.assert_close(value, y, rtol=1e-10, atol=1e-10)
    pulled = [torch.autograd.grad(y, x, v, retain_graph=True)[0] for v in basis]
    for row, v in zip(pulled, basis, strict=True):
        assert (pushed * v).sum().item() == pytest.approx((row * u).sum().item(), rel=1e-9)
    (together,) = torch.autograd.grad(y, x, torch.stack(basis), is_grads_batched=True)
    torch.testing.assert_close(together, torch.stack(pulled), rtol=1e-9, atol=1e-9)


@small
@layouts
def test_second_derivatives_are_those_of_finite_differences(name, layout):
    """vᵀ∂F/∂x·v by x and the parameters, as in sliced score matching, and by a noise level."""
    net, (x, *cond) = _small(name, torch.float64, layout)
    v, leaves = torch.randn_like(x), [x, *cond, *net.parameters()]
    leaves = [leaf.requires_grad_() for leaf in leaves if leaf.is_floating_point()]

    def slope():
        (pulled,) = torch.autograd.grad(net(x, *cond), x, v, create_graph=True)
        return (pulled * v).sum()

    gradients = torch.autograd.grad(slope(), leaves, materialize_grads=True)
    directions, h, ends = [torch.randn_like(leaf) for leaf in leaves], 1e-7, []
    for step in (h, -2 * h):
        for leaf, direction in zip(leaves, directions, strict=True):
            leaf.data.add_(step * direction)
        ends.append(slope().item())
    expected = (ends[0] - ends[1]) / (2 * h)
    # rounding errs by ε/h = 1e-9, and ELUs whose kink is passed by their share: weights are a tenth
    # of the directions, so that a layer moves by 10·h, and fifty by √50·10·h = 7e-6
    result = sum((g * d).sum().item() for g, d in zip(gradients, directions, strict=True))
    assert result == pytest.approx(expected, rel=1e-5)


def batch(dtype=torch.float32):
    return torch.randn(2, 3, 8, 12, dtype=dtype), torch.tensor([0.3, 2.1], dtype=dtype)


@layouts
def test_second_derivatives_by_the_parameters_alone_work_with_the_math_backend(layout):
    net, (x, cond) = small_unet().double().to(memory_format=layout), batch(torch.float64)
    weight = net.middle[1].query.weight
    with sdpa_kernel(SDPBackend.MATH):
        out = net(x, cond).square().sum()
    (g,) = torch.autograd.grad(out, weight, create_graph=True)
    assert torch.autograd.grad(g.square().sum(), weight)[0].norm() > 0


def test_published_networks_have_the_published_sizes():
    """62.8 and 61.8 million for CIFAR-10's; DDPM's has two attentions less than the 35.7 of Ho."""
    with torch.device("meta"):
        nets = {name: UNet(**arguments) for name, arguments in unet.PUBLISHED_UNETS.items()}
    millions = {name: sum(p.numel() for p in net.parameters()) / 1e6 for name, net in nets.items()}
    attentions = 2 * (4 * (256 * 256 + 256) + 2 * 256)
    assert millions["ncsnpp_cifar10"] == pytest.approx(62.8, abs=0.05)
    assert millions["ddpmpp_cifar10"] == pytest.approx(61.8, abs=0.05)
    assert millions["ddpm_cifar10"] * 1e6 + attentions == pytest.approx(35_746_307)
    for name, size in dict(ddpm_celebahq256=256, ncsnpp_ffhq256=256, ncsnpp_ffhq1024=1024).items():
        for i, level in enumerate(reversed(nets[name].up)):
            assert (level.attention is not None) == (size >> i == 16)


def test_classes_change_the_result_and_can_be_left_out():
    net, (x, cond) = small_unet(labels=3).double().eval(), batch(torch.float64)
    outs = [net(x, cond, torch.tensor([i, i])) for i in range(3)]
    assert error(outs[0], outs[1]) > 1e-3
    mixed = net(x, cond, torch.tensor([2, 0]))
    torch.testing.assert_close(mixed, torch.stack([outs[2][0], outs[0][1]]), rtol=1e-9, atol=1e-9)
    for wrong in (3, -1, 7):  # 3 is the row for no class, which no number selects
        with pytest.raises(ValueError, match=r"labels from .* has 3 classes, 0 to 2"):
            net(x, cond, torch.tensor([1, wrong]))
    with pytest.raises(ValueError, match="no classes"):
        small_unet()(*batch(), torch.tensor([0, 0]))


@pytest.mark.parametrize("kind", ["ncsn++", "mlp", "dit"])
def test_classes_are_withheld_in_training_alone(kind):
    net, label = MAKERS[kind](labels=3, label_dropout=1.0), torch.tensor([0, 2])
    x, cond = batch()
    without = net(x, cond, label)
    assert torch.equal(without, net.eval()(x, cond))
    assert not torch.equal(without, net(x, cond, label))
    net.label.dropout = 0.25
    withheld = net.label.train()(torch.zeros(20_000, dtype=torch.long))
    share = (withheld == net.label.table.weight[3]).all(1).float().mean()
    # 6 standard errors, √(0.25·0.75/20,000) each
    assert share.item() == pytest.approx(0.25, abs=0.019)


CONDITIONS = {"vector": torch.randn(2, 5), "image": torch.rand(2, 1, 4, 6)}
SHAPES = {"vector": (5,), "image": (1, 4, 6)}
conditional = pytest.mark.parametrize(
    ("name", "kind"), [*product(SHAPES, ["ncsn++", "mlp", "mlp and input", "dit"])]
)


@conditional
def test_a_condition_changes_the_result_row_by_row_and_can_be_left_out(name, kind):
    net, (x, cond) = MAKERS[kind](labels=3, conditions=SHAPES).double().eval(), batch(torch.float64)
    value, label = CONDITIONS[name].double(), torch.tensor([2, 0])
    y = net(x, cond, {name: value, "label": label})
    assert error(y, net(x, cond, label)) > 1e-3
    swapped = net(x, cond, {"label": label, name: value.flip(0)})
    assert error(y, swapped) > 1e-3
    for i in (0, 1):
        one = net(x[i : i + 1], cond[:1] * 0 + cond[i], {"label": label[[i]], name: value[[i]]})
        torch.testing.assert_close(y[i : i + 1], one, rtol=1e-9, atol=1e-9)
    for wrong in (value[:1], value[:, :-1] if name == "vector" else value[:, [0, 0]], value[0]):
        with pytest.raises(ValueError, match=rf"condition '{name}' has shape .* each of 2 samples"):
            net(x, cond, {name: wrong})
    with pytest.raises(ValueError, match="condition 'z': the network has vector, image"):
        net(x, cond, {"z": value})


@conditional
def test_a_condition_is_standardised_and_withheld_in_training_alone(name, kind):
    shares = {"vector": 0.0, "image": 0.0, name: 1.0}
    net = MAKERS[kind](conditions=SHAPES, withhold=shares).double()
    (x, cond), value = batch(torch.float64), CONDITIONS[name].double()
    (other,) = SHAPES.keys() - {name}
    without = net(x, cond)
    assert torch.equal(without, net(x, cond, {name: value}))
    assert not torch.equal(without, net(x, cond, {other: CONDITIONS[other]}))
    y = net.eval()(x, cond, {name: value})
    assert not torch.equal(without, y)
    part = net.conditions[name]
    part.fit(7 + 3 * torch.randn(50, *SHAPES[name]))
    raw = (part.mean + part.scale * value.reshape(-1, *part.mean.shape)).view(value.shape)
    torch.testing.assert_close(net(x, cond, {name: raw}), y, rtol=1e-9, atol=1e-9)
    assert torch.equal(net(x, cond), without)


@pytest.mark.parametrize("condition", [{"v": torch.randn(4, 3)}, None], ids=["present", "absent"])
def test_a_condition_may_enter_the_first_layer(condition):
    net = MAKERS["mlp"](width=8, blocks=1, conditions={"v": [3]}, condition_input=True).eval()
    torch.nn.init.zeros_(net.blocks[0].second.weight)  # otherwise a condition enters the block too
    torch.nn.init.zeros_(net.blocks[0].second.bias)
    x, vector = torch.randn(4, 3, 8, 12), net.conditions["v"]((condition or {}).get("v"), 4)
    expected = net.head(net.stem(x.flatten(1)) + vector @ net.join.weight.T).view_as(x)
    torch.testing.assert_close(net(x, torch.randn(4), condition), expected)


def test_a_condition_may_have_the_name_of_an_attribute_of_a_module():
    names = ("train", "type", "values", "update", "channels", "names", "my photos")
    net = MLP(2, width=8, blocks=1, conditions={name: [3] for name in names})
    assert [net.conditions[name].shape for name in names] == [(3,)] * len(names)
    x, cond = torch.randn(4, 2), torch.randn(4)
    assert net.train()(x, cond, {name: torch.randn(4, 3) for name in names}).shape == (4, 2)


@pytest.mark.parametrize("sigma", [0.35, 0.1, 0.03])
@torch.no_grad()
def test_weights_in_bfloat16_leave_the_noise_level_exact(sigma):
    """NCSN++ takes log σ at frequencies of scale 16."""
    net, x = small_unet(width=16, fourier_scale=16.0).eval(), torch.randn(4, 3, 8, 8)
    torch.nn.init.normal_(net.embedding.out.weight, std=0.3)
    model = ScoreModel(net, VE())
    expected = model(x, sigma)
    # a rounded log σ would move the phase by whole turns
    assert error(model.bfloat16()(x, sigma), expected) < error_in_16_bits(net)
    assert net.embedding.features.frequencies.dtype == torch.float32
    assert net.double().embedding.features.frequencies.dtype == torch.float64


@small
@torch.no_grad()
def test_channels_last_computes_the_same_and_bfloat16_is_close(name):
    net, (x, *cond) = _small(name, torch.float64)
    u = torch.randn_like(x)
    expected, slope = torch.func.jvp(lambda x: net(x, *cond), (x,), (u,))
    if x.ndim == 4:
        net, x = (t.to(memory_format=torch.channels_last) for t in (net, x))
        torch.testing.assert_close(net(x, *cond), expected, rtol=1e-9, atol=1e-9)
    net, cond = net.float(), [t.float() if t.is_floating_point() else t for t in cond]
    with torch.autocast("cpu", torch.bfloat16):
        result, pushed = torch.func.jvp(lambda x: net(x, *cond), (x.float(),), (u.float(),))
    assert error(result, expected) < error_in_16_bits(net)
    assert name not in KINDS or error(pushed, slope) < error_in_16_bits(net)  # others have kinks


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@small
def test_compiled_values_and_gradients_are_the_eager_ones(name):
    """A minute or more for the C++ compiler; some forms of resizing had wrong gradients in it."""
    torch._dynamo.reset()  # it compiles the same code only a few times
    net, inputs = _small(name)
    compare_compiled(net, torch.compile(net, fullgraph=True), *inputs)


def compare_compiled(net, compiled, *inputs):
    """Compare outputs and the gradients of all parameters, compiled against eager, in float32."""
    results = []
    for call in (net, compiled):
        net.zero_grad()
        y = call(*inputs)
        y.square().mean().backward()
        results.append([y.detach(), *(p.grad.clone() for p in net.parameters())])
    largest = max(gradient.abs().max() for gradient in results[0][1:])
    for i, (eager, other) in enumerate(zip(*results, strict=True)):
        scale = largest if i else eager.abs().max()
        # two orders of 72 products a layer, sixty layers there and back: √(2·72·120)·2⁻²⁴ = 8e-6
        assert (other - eager).abs().max() <= 1e-5 * scale
