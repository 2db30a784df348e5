import copy
import math

import pytest
import torch
import torch.nn.functional as F
from test_kernels import needs_compiler

from scorefield.nn import norms, winograd
from scorefield.nn.blocks import GroupNorm, ResidualBlock, norm_silu_conv
from scorefield.nn.layers import (
    Conv3,
    InstanceNormPlus,
    PreActivation,
    identity,
    max_pool,
    mean_pool,
    resize_bilinear,
)
from scorefield.nn.resample import double_size


@pytest.fixture
def _any_size(monkeypatch):
    """The fast way also where it does not pay."""
    monkeypatch.setattr(winograd, "pays", lambda *sizes: True)


def _error(found, expected):
    return ((found.double() - expected).norm() / expected.norm()).item()


def _unit(channels, features, function, *, levels=0, dilation=1, bias=False):
    """A unit and its exact twin; levels 0 for no norm, None for one without a table."""
    norm = None if levels == 0 else InstanceNormPlus(channels, levels)
    if norm is not None:
        norm.affine.data.normal_()
    unit = PreActivation(norm, function, Conv3(channels, features, dilation=dilation, bias=bias))
    exact = copy.deepcopy(unit).double()
    unit.conv.fast = True
    return unit, exact


def _gradients(unit, x, level, plus, weight):
    x, plus = (t if t is None else t.detach().clone().requires_grad_() for t in (x, plus))
    inputs = [x, *unit.parameters(), *([] if plus is None else [plus])]
    unit.zero_grad()
    y = unit(x, level, plus)
    (y * weight).sum().backward()
    return [y.detach(), *(each.grad for each in inputs)]


# ── One operation against float64 ────────────────────────────────────────────────────────────────

SHAPES = [
    # batch, channels, features, height, width, dilation
    (2, 64, 64, 28, 28, 1),
    (1, 1, 64, 8, 8, 1),
    (3, 17, 5, 9, 14, 1),
    (2, 3, 130, 14, 14, 2),
    (1, 130, 1, 15, 13, 4),
    (5, 16, 80, 3, 1, 4),
    (1, 33, 31, 70, 6, 1),
]


@needs_compiler
@pytest.mark.usefixtures("_any_size")
@pytest.mark.parametrize("function", [identity, F.elu, mean_pool])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_unit_and_its_gradients_are_those_of_float64(shape, function):
    n, channels, features, height, width, dilation = shape
    levels = {identity: 0, F.elu: 4, mean_pool: None}[function] if channels > 1 else 0
    unit, exact = _unit(
        channels, features, function, levels=levels, dilation=dilation, bias=function is not F.elu
    )
    x = 0.5 + torch.randn(n, channels, height, width)
    plus, weight = torch.randn(2, n, features, height, width)
    level = torch.arange(n) % 4 if levels else None
    for plus_or_not in (plus, None):
        found = _gradients(unit, x, level, plus_or_not, weight)
        twin = None if plus_or_not is None else plus.double()
        expected = _gradients(exact, x.double(), level, twin, weight.double())
        assert len(found) == len(expected)
        for ours, truth in zip(found, expected, strict=True):
            assert _error(ours, truth) < 5e-6


@needs_compiler
@pytest.mark.usefixtures("_any_size")
@pytest.mark.parametrize("shape", [*SHAPES, (2, 19, 34, 21, 20, 3)])
def test_large_tiles_err_by_little_and_derivatives_take_small_ones(shape):
    n, channels, features, height, width, dilation = shape
    unit, exact = _unit(channels, features, identity, dilation=dilation)
    x = torch.randn(n, channels, height, width)
    fine = unit(x, None)
    unit.conv.coarse = True
    assert torch.equal(unit(x, None), fine)
    with torch.no_grad():
        rough = unit(x, None)
    assert _error(rough, exact(x.double(), None)) < 5e-5
    taken = winograd._tile(height, width, dilation, True)
    assert torch.equal(rough, fine) == (taken == winograd._tile(height, width, dilation))


def test_large_tiles_are_taken_where_they_save():
    sizes = (7, 14, 28, 16, 32)  # at 32 they save an eighth, which is less than what they cost
    assert [winograd._tile(size, size, 1, True) for size in sizes] == [7, 7, 7, 4, 4]
    assert [winograd._tile(size, size, 1) for size in sizes] == [4, 5, 4, 4, 4]


@needs_compiler
def test_the_fast_way_is_taken(monkeypatch):
    unit, _ = _unit(4, 4, F.elu)
    monkeypatch.setattr(winograd, "_apply", lambda *args, **kw: torch.full((1,), 7.0))
    with torch.no_grad():
        assert unit(torch.zeros(1, 4, 8, 8), None).item() == 7


def test_images_too_small_for_their_dilation_go_the_plain_way():
    assert winograd.pays(28, 28, 1)
    assert winograd.pays(14, 14, 4)
    assert not winograd.pays(4, 4, 4)  # a tile for each of 16 pixels
    assert not winograd.pays(1, 1, 1)


@needs_compiler
def test_memory_of_any_order_is_understood():
    unit, exact = _unit(6, 5, F.elu, levels=None)
    x = torch.randn(2, 10, 6, 8).permute(0, 2, 1, 3)  # neither order
    assert _error(unit(x, None), exact(x.double(), None)) < 5e-6


@needs_compiler
@pytest.mark.parametrize("size", [(2, 3, 9, 6), (1, 40, 1, 1), (3, 16, 3, 30)])
def test_maxima_and_elu(size):
    for fast, exact in (
        (lambda x: norms.fast_max_pool(x, max_pool), lambda x: F.max_pool2d(x, 5, 1, 2)),
        (norms.fast_elu, F.elu),
    ):
        x, dy = torch.randn(2, *size)
        x.requires_grad_()
        twin = x.detach().double().requires_grad_()
        y, truth = fast(x), exact(twin)
        y.backward(dy)
        truth.backward(dy.double())
        assert _error(y, truth) < 1e-6
        assert _error(x.grad, twin.grad) < 1e-6


@needs_compiler
def test_elu_is_exact_at_its_ends():
    x = torch.tensor([-math.inf, -1e4, -88.0, -1e-6, -0.0, 0.0, 1e-6, 50.0, math.inf])
    assert (norms.fast_elu(x.view(1, 1, 1, -1)) - F.elu(x)).nan_to_num().abs().max() < 1e-7


def test_nan_is_kept():
    unit, _ = _unit(4, 4, F.elu)
    x = torch.full((1, 4, 8, 8), math.nan)
    assert unit(x, None).isnan().all()


def test_upsampling_is_the_same_in_either_order():
    x = torch.randn(2, 3, 7, 9)
    expected = resize_bilinear(x, torch.Size([14, 20]))
    found = resize_bilinear(x.contiguous(memory_format=torch.channels_last), torch.Size([14, 20]))
    assert _error(found, expected.double()) < 1e-6


@needs_compiler
@pytest.mark.usefixtures("_any_size")
@pytest.mark.parametrize(
    ("x", "level", "plus"),
    [
        ((2, 5, 8, 8), [0, 1], (2, 4, 8, 8)),  # a channel too many
        ((2, 3, 8, 8), [0, 1], (2, 4, 8, 8)),  # one too few
        ((2, 4, 8, 8), [0], (2, 4, 8, 8)),  # a level for one image of two
        ((2, 4, 8, 8), [0, 1], (2, 4, 8, 7)),
        ((2, 4, 8, 8), [0, 1], (1, 4, 8, 8)),  # which torch repeats
        ((4, 8, 8), [0], None),
        ((0, 4, 8, 8), [], None),
    ],
)
def test_what_does_not_fit_is_as_in_the_plain_way(x, level, plus):
    """Never read as if it did: beyond the end of a tensor lies somebody else's memory."""
    unit, _ = _unit(4, 4, F.elu, levels=3, bias=True)
    inputs = (torch.randn(x), torch.tensor(level, dtype=torch.long))
    beside = None if plus is None else torch.randn(plus)
    found = []
    for unit.conv.fast in (True, False):
        try:
            found.append(unit(*inputs, beside))
        except Exception as error:
            found.append(f"{type(error)} {error}")
    fast, plain = found
    assert isinstance(fast, str) == isinstance(plain, str)
    if isinstance(fast, str):
        assert fast == plain
    else:
        torch.testing.assert_close(fast, plain)


@needs_compiler
@pytest.mark.parametrize(
    "level", [torch.tensor([2, 0, 1], dtype=torch.int32), torch.tensor([1]).expand(3)]
)
def test_levels_of_any_form_are_read(level):
    unit, exact = _unit(4, 4, F.elu, levels=3)
    x = torch.randn(3, 4, 8, 8)
    assert _error(unit(x, level), exact(x.double(), level)) < 1e-6


@needs_compiler
@pytest.mark.parametrize("axes", [(3, 8), (2, 4, 8)])
def test_elu_takes_any_axes(axes):
    x = torch.randn(axes)
    torch.testing.assert_close(norms.fast_elu(x), F.elu(x))


@needs_compiler
@pytest.mark.usefixtures("_any_size")
def test_memory_of_any_order_is_read():
    unit, exact = _unit(4, 4, F.elu, levels=3, bias=True)
    for one in (unit, exact):
        table, bias = one.norm.affine, one.conv.bias
        one.norm.affine.data = table.data.transpose(0, 2).contiguous().transpose(0, 2)
        one.conv.bias.data = bias.data[:1].expand(4)
    x, level = torch.randn(2, 4, 8, 8), torch.tensor([2, 0])
    with torch.no_grad():
        assert _error(unit(x, level), exact(x.double(), level)) < 1e-6


@needs_compiler
@pytest.mark.usefixtures("_any_size")
def test_weights_that_grow_are_not_taken_for_those_before():
    """Their first values are those of a smaller convolution that was kept."""
    x, weight = torch.randn(1, 4, 8, 8), torch.nn.Parameter(torch.randn(2, 4, 3, 3))
    kind = norms.Operation(lambda x, w, bias, affine, level, plus: F.conv2d(x, w, padding=1))
    with torch.no_grad():
        winograd.convolve(kind, winograd.Operands(x, weight))
        weight.data = torch.cat([weight.data, torch.randn(70, 4, 3, 3)])
        found = winograd.convolve(kind, winograd.Operands(x, weight))
    assert _error(found, F.conv2d(x.double(), weight.double(), padding=1)) < 1e-6


@needs_compiler
@pytest.mark.usefixtures("_any_size")
def test_larger_kernels_go_the_plain_way():
    x, weight = torch.randn(1, 4, 8, 8), torch.randn(2, 4, 5, 5)
    kind = norms.Operation(lambda x, w, bias, affine, level, plus: F.conv2d(x, w, padding=2))
    assert torch.equal(
        winograd.convolve(kind, winograd.Operands(x, weight)), F.conv2d(x, weight, padding=2)
    )


@needs_compiler
def test_defaults_of_torch_have_no_part_in_it():
    unit, exact = _unit(4, 4, F.elu)
    x = torch.randn(3, 4, 8, 8)
    torch.set_default_dtype(torch.float64)
    try:
        found = unit(x, None)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32
    assert _error(found, exact(x.double(), None)) < 1e-6


@needs_compiler
@pytest.mark.usefixtures("_any_size")
def test_no_images_have_no_gradient():
    unit, _ = _unit(4, 4, F.elu)
    unit(torch.randn(2, 4, 8, 8), None).sum().backward()  # leaves something in the memory
    unit.zero_grad()
    unit(torch.randn(0, 4, 8, 8), None).sum().backward()
    assert not unit.conv.weight.grad.any()


@needs_compiler
@pytest.mark.parametrize("place", [(0, 0), (3, 4), (7, 7)])
def test_a_pool_keeps_nan(place):
    x = torch.randn(1, 17, 8, 8)
    x[0, 3][place] = math.nan
    x.requires_grad_()
    y = norms.fast_max_pool(x, max_pool)
    assert torch.equal(y.isnan(), max_pool(x).isnan())
    assert y.isnan().sum() in (9, 25)
    torch.where(y.isnan(), y, 0).sum().backward()
    assert x.grad[0, 3][place] == y.isnan().sum()


@needs_compiler
def test_a_level_beyond_the_table_is_refused():
    unit, _ = _unit(4, 4, F.elu, levels=3)
    for level in (3, -1):
        with pytest.raises(IndexError, match="table of 3"):
            unit(torch.zeros(1, 4, 8, 8), torch.tensor([level]))


@needs_compiler
def test_any_number_of_threads_gives_the_same_bits():
    unit, _ = _unit(20, 20, F.elu, levels=None)
    x, before, found = torch.randn(3, 20, 13, 13), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(_gradients(unit, x, None, None, torch.ones(())))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0][1:], other[1:], strict=True))


# ── What the kernels cannot do is done the plain way ─────────────────────────────────────────────


@needs_compiler
@pytest.mark.parametrize("function", [F.elu, mean_pool, max_pool])
def test_the_derivative_of_a_derivative(function):
    unit, exact = _unit(4, 4, function, levels=None)
    x, v = torch.randn(2, 2, 4, 8, 8)

    def second(unit, x, v):
        x.requires_grad_()
        y = torch.tanh(unit(x, None))
        (pulled,) = torch.autograd.grad(y, x, v, create_graph=True)
        return torch.autograd.grad((pulled**2).sum(), [x, *unit.parameters()])

    found, expected = second(unit, x, v), second(exact, x.detach().double(), v.double())
    for ours, truth in zip(found, expected, strict=True):
        assert _error(ours, truth) < 1e-5


@needs_compiler
def test_forward_mode_and_rows_of_a_jacobian():
    unit, exact = _unit(4, 4, F.elu, levels=None)
    x, w = torch.randn(2, 1, 4, 8, 8)
    _, pushed = torch.func.jvp(lambda x: unit(x, None), (x,), (w,))
    _, truth = torch.func.jvp(lambda x: exact(x, None), (x.double(),), (w.double(),))
    assert _error(pushed, truth) < 1e-5
    x.requires_grad_()
    y, v = unit(x, None), torch.randn(3, 1, 4, 8, 8)
    (together,) = torch.autograd.grad(y, x, v, is_grads_batched=True, retain_graph=True)
    alone = torch.stack([torch.autograd.grad(y, x, each, retain_graph=True)[0] for each in v])
    assert _error(together, alone.double()) < 1e-5


@needs_compiler
def test_other_types_go_the_plain_way():
    unit, _ = _unit(4, 4, F.elu, levels=None)
    x = torch.randn(1, 4, 8, 8)
    assert unit.double()(x.double(), None).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert unit.float()(x, None).dtype == torch.bfloat16


@needs_compiler
def test_weights_that_changed_are_seen():
    unit, _ = _unit(4, 4, F.elu)
    x = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        y = unit(x, None)
        unit.conv.weight.mul_(2)
        assert torch.equal(unit(x, None), 2 * y)
        unit.load_state_dict({"conv.weight": torch.zeros(4, 4, 3, 3)})
        assert unit(x, None).abs().max() == 0
        unit.conv.weight = torch.nn.Parameter(torch.ones(4, 4, 3, 3))
        assert unit(x, None).abs().max() > 0


# ── Kept weights ─────────────────────────────────────────────────────────────────────────────────


@needs_compiler
@pytest.mark.usefixtures("_any_size")
@pytest.mark.parametrize("change", ["a fused optimiser", "data"])
def test_weights_that_have_changed_are_transformed_anew(change):
    conv = Conv3(16, 16)
    conv.fast = True
    x = torch.rand(2, 16, 16, 16)
    optimizer = torch.optim.Adam(conv.parameters(), lr=0.1, fused=True)
    for _ in range(2):
        with torch.no_grad():
            assert _error(conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1).double()) < 1e-5
        if change == "data":
            conv.weight.data.mul_(2)
        else:
            conv(x).square().mean().backward()
            optimizer.step()


# ── Group normalisation and SiLU, of a UNet's blocks ─────────────────────────────────────────────


def _block(channels, out, groups):
    """A norm and a convolution with their exact twins."""
    norm, conv = GroupNorm(groups, channels, eps=1e-6), Conv3(channels, out)
    for each in (norm.weight, norm.bias, conv.bias):
        torch.nn.init.normal_(each)
    exact = copy.deepcopy(norm).double(), copy.deepcopy(conv).double()
    conv.fast = True
    return (norm, conv), exact


def _all_gradients(parts, x, shift, plus, weight, between=None):
    inputs = [each.detach().clone().requires_grad_() for each in (x, shift, plus)]
    y = norm_silu_conv(*parts, inputs[0], True, between=between, shift=inputs[1], plus=inputs[2])
    wanted = [*inputs, *parts[0].parameters(), *parts[1].parameters()]
    return [y, *torch.autograd.grad(y, wanted, weight)]


@needs_compiler
@pytest.mark.usefixtures("_any_size")
@pytest.mark.parametrize("between", [None, torch.sin])
@pytest.mark.parametrize(
    ("channels", "out", "groups", "size"),
    [
        (32, 48, 8, (2, 8, 8)),
        (20, 3, 4, (3, 5, 9)),
        (1, 17, 1, (1, 4, 4)),
        (18, 16, 18, (2, 30, 3)),
    ],
)
def test_a_block_and_its_gradients_are_those_of_float64(channels, out, groups, size, between):
    parts, exact = _block(channels, out, groups)
    n, *image = size
    x, shift = 3 + 2 * torch.randn(n, channels, *image), torch.randn(n, out)
    plus, weight = torch.randn(2, n, out, *image)
    found = _all_gradients(parts, x, shift, plus, weight, between)
    doubles = (each.double() for each in (x, shift, plus, weight))
    expected = _all_gradients(exact, *doubles, between)
    for ours, truth in zip(found, expected, strict=True):
        assert _error(ours, truth) < 1e-5
    with torch.no_grad():
        alone = norm_silu_conv(*parts, x, True, between=between, shift=shift)
        truth = norm_silu_conv(*exact, x.double(), True, between=between, shift=shift.double())
    assert _error(alone, truth) < 1e-5


@needs_compiler
@pytest.mark.usefixtures("unchecked")
def test_a_block_goes_the_fast_way(monkeypatch):
    parts, _ = _block(8, 8, 2)
    monkeypatch.setattr(winograd, "_apply", lambda *args, **kw: torch.full((1,), 7.0))
    with torch.no_grad():
        assert norm_silu_conv(*parts, torch.zeros(1, 8, 8, 8), True).item() == 7


@needs_compiler
def test_silu_is_exact_at_its_ends():
    kind = norms.Operation(lambda x, affine: F.silu(x), function="silu")
    ends = [-1e4, -88.0, -20.0, -1.0, -1e-6, -0.0, 0.0, 1e-6, 20.0, 88.0, 1e4, math.nan, math.inf]
    x = torch.tensor(ends).view(1, 1, 1, -1)
    torch.testing.assert_close(
        norms.norm_activation(kind, x), F.silu(x), rtol=1e-6, atol=1e-33, equal_nan=True
    )


@needs_compiler
@pytest.mark.parametrize("between", [None, torch.sin])
def test_a_block_has_every_derivative(between):
    parts, exact = _block(8, 8, 2)
    x, v = torch.randn(2, 1, 8, 8, 8)

    def second(parts, x, v):
        x = x.clone().requires_grad_()
        y = torch.tanh(norm_silu_conv(*parts, x, False, between=between))
        (pulled,) = torch.autograd.grad(y, x, v, create_graph=True)
        return torch.autograd.grad((pulled**2).sum(), [x, *parts[0].parameters()])

    for ours, truth in zip(second(parts, x, v), second(exact, x.double(), v.double()), strict=True):
        assert _error(ours, truth) < 1e-5
    _, pushed = torch.func.jvp(
        lambda x: norm_silu_conv(*parts, x, False, between=between), (x,), (v,)
    )
    _, truth = torch.func.jvp(
        lambda x: norm_silu_conv(*exact, x, False, between=between), (x.double(),), (v.double(),)
    )
    assert _error(pushed, truth) < 1e-5


@needs_compiler
@pytest.mark.usefixtures("_any_size", "unchecked")
@pytest.mark.parametrize(
    ("x", "shift", "plus"),
    [
        ((2, 9, 8, 8), None, None),  # a channel too many
        ((2, 4, 8, 8), None, None),  # too few, though the groups divide them
        ((2, 8, 8, 8), (3, 6), None),
        ((2, 8, 8, 8), (1, 6), None),  # which torch repeats
        ((2, 8, 8, 8), (2, 6), (2, 6, 8, 7)),
        ((0, 8, 8, 8), None, None),
    ],
)
def test_what_does_not_fit_a_block_is_as_in_the_plain_way(x, shift, plus):
    (norm, conv), _ = _block(8, 6, 2)
    given = [None if shape is None else torch.randn(shape) for shape in (x, shift, plus)]
    found = []
    for conv.fast in (True, False):
        try:
            found.append(norm_silu_conv(norm, conv, given[0], True, shift=given[1], plus=given[2]))
        except RuntimeError:
            found.append(None)
    fast, plain = found
    assert (fast is None) == (plain is None)
    if fast is not None:
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)


@needs_compiler
def test_dropout_and_resampling_stand_between_the_function_and_the_convolution():
    block = ResidualBlock(8, 8, 4, dropout=0.5, resample=double_size)
    x, e = torch.randn(2, 8, 8, 8), torch.randn(2, 4)
    torch.nn.init.normal_(block.conv_out.weight)
    exact = copy.deepcopy(block).double().eval()
    block.conv_in.fast = block.conv_out.fast = True
    block.eval()
    assert _error(block(x, e), exact(x.double(), e.double())) < 1e-5
    torch.manual_seed(0)
    dropped = block.train()(x, e)
    assert _error(dropped, exact(x.double(), e.double())) > 0.1


@needs_compiler
@pytest.mark.parametrize("count", [1, 63, 64, 65, 36_864, 100_003, 147_456, 600_000])
def test_a_fingerprint_tells_any_change_on_any_number_of_threads(count):
    x, before = torch.randn(count), torch.get_num_threads()
    known = winograd._fingerprint(x)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert winograd._fingerprint(x.clone()) == known
    finally:
        torch.set_num_threads(before)
    for at in {0, count // 2, count - 1}:
        changed = x.clone()
        changed[at] = torch.nextafter(x[at], torch.tensor(math.inf))
        assert winograd._fingerprint(changed) != known
    for alike in (torch.neg, lambda x: 2 * x, lambda x: x / 16, torch.zeros_like, torch.ones_like):
        assert winograd._fingerprint(alike(x)) != known
    twos = [torch.full((count,), each) for each in (-2.0, -1.0, 0.0, 1.0, 2.0)]
    assert len({winograd._fingerprint(each) for each in twos}) == 5
    for apart in (1, 64, 65_536):  # which are of one lane, but for the first
        if apart < count:
            changed = x.clone()
            changed[[0, apart]] = x[[apart, 0]]
            assert winograd._fingerprint(changed) != known


@needs_compiler
@pytest.mark.parametrize("kind", ["forward_pre_hook", "forward_hook", "full_backward_hook"])
def test_what_has_hooks_is_called(kind):
    """As torch's pruning has them, which makes the weight anew at each call."""
    (norm, conv), _ = _block(8, 8, 2)
    unit, _ = _unit(8, 8, F.elu, levels=None)
    called = set()
    x = torch.randn(1, 8, 8, 8, requires_grad=True)
    runs = {norm: None, conv: None, unit.norm: None, unit.conv: None}
    for each in runs:
        handle = getattr(each, f"register_{kind}")(lambda module, *_: called.add(module))
        norm_silu_conv(norm, conv, x, True).sum().backward()
        unit(x, None).sum().backward()
        handle.remove()
    assert called == set(runs)
