"""The fused convolutions, norms, activations and pools against float64."""

import copy
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from test_kernels import EPSILON, error, needs_compiler, unusual_derivatives

from scorefield.fast import norms, winograd
from scorefield.fast.twins import CoarseConv3, norm_silu_conv, swap
from scorefield.nn.blocks import GroupNorm
from scorefield.nn.layers import (
    Conv3,
    InstanceNormPlus,
    PreActivation,
    identity,
    max_pool,
    mean_pool,
)

AMPLIFICATION = 64
"""Roundings that a fused convolution may add: Winograd's transforms amplify each about 20 times."""
COARSE_AMPLIFICATION = 512
"""The same with tiles of 7 × 7."""
pytestmark = needs_compiler
DTYPES = torch.float32, torch.float32, torch.float64  # of `_triple`


@pytest.fixture(autouse=True)
def _any_size(monkeypatch):
    """Use the kernels also where they do not pay."""
    monkeypatch.setattr(winograd, "pays", lambda *sizes: True)


@pytest.fixture
def results_by_threads():
    """A function that calls another with 1, 2 and 3 threads, for its three results."""
    before = torch.get_num_threads()
    yield lambda call: [(torch.set_num_threads(count), call())[1] for count in (1, 2, 3)]
    torch.set_num_threads(before)


def check(fast, plain, truth, *, roundings=AMPLIFICATION, scale=0.0):
    """A few times the plain path's own error, and the roundings of the transforms.

    Sums that cancel, as gradients by one number do, round relative to the `scale` of their terms.
    """
    for ours, theirs, exact in zip(fast, plain, truth, strict=True):
        rounding = roundings * EPSILON * max(exact.norm().item(), scale)
        assert (ours - exact).norm() <= 4 * (theirs - exact).norm() + rounding


def _triple(module):
    """A copy with the kernels, one in torch's operations, and one in float64."""
    module, plain, exact = (copy.deepcopy(module) for _ in range(3))
    swap(module, winograd=True, coarse=False, onednn=False)
    return module, plain, exact.double()


def _unit(channels, features, function, *, levels=0, dilation=1, bias=False):
    """A unit; levels 0 for no norm, None for one without a table."""
    norm = None if levels == 0 else InstanceNormPlus(channels, levels)
    if norm is not None:
        norm.affine.data.normal_()
    return PreActivation(norm, function, Conv3(channels, features, dilation=dilation, bias=bias))


class Block(torch.nn.Module):
    """φ(norm(x)) and a convolution, as in a UNet's blocks."""

    def __init__(self, channels, out, groups, between=None):
        super().__init__()
        self.norm, self.conv = GroupNorm(groups, channels, eps=1e-6), Conv3(channels, out)
        self.between = between
        for parameter in (self.norm.weight, self.norm.bias, self.conv.bias):
            torch.nn.init.normal_(parameter)

    def forward(self, x, shift=None, plus=None):
        more = dict(between=self.between, shift=shift, plus=plus)
        return norm_silu_conv(self.norm, self.conv, x, **more)


def _is_float(t):
    return isinstance(t, torch.Tensor) and t.is_floating_point()


def _gradients(module, weight, *inputs):
    """The output and the gradients by all inputs of floating point and all parameters."""
    leaves = [t.clone().requires_grad_() if _is_float(t) else t for t in inputs]
    y = module(*leaves)
    wanted = [*filter(_is_float, leaves), *module.parameters()]
    return [y.detach(), *torch.autograd.grad(y, wanted, weight)]


def _check_gradients(module, weight, *inputs):
    fast, plain, exact = _triple(module)
    doubles = [t.double() if _is_float(t) else t for t in inputs]
    truth = _gradients(exact, weight.double(), *doubles)
    results = _gradients(fast, weight, *inputs), _gradients(plain, weight, *inputs)
    check(*results, truth, scale=weight.norm().item())
    with torch.no_grad():
        check([fast(*inputs)], [plain(*inputs)], truth[:1])


fast_elu = partial(norms.norm_activation, affine=None, function="elu")
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
BLOCKS = (32, 48, 8, 2, 8, 8), (20, 3, 4, 3, 5, 9), (1, 17, 1, 1, 4, 4), (18, 16, 18, 2, 30, 3)
"""Channels, features, groups of the norm, batch, height and width."""


@pytest.mark.parametrize("function", [identity, F.elu, mean_pool])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_refinenets_unit_is_exact(shape, function):
    n, channels, features, height, width, dilation = shape
    levels = {identity: 0, F.elu: 4, mean_pool: None}[function] if channels > 1 else 0
    options = dict(levels=levels, dilation=dilation, bias=function is not F.elu)
    x = 0.5 + torch.randn(n, channels, height, width)
    plus, weight = torch.randn(2, n, features, height, width)
    level = torch.arange(n) % 4 if levels else None
    for last in (plus, None):
        _check_gradients(_unit(channels, features, function, **options), weight, x, level, last)


@pytest.mark.parametrize("between", [None, torch.sin])
@pytest.mark.parametrize("shape", BLOCKS)
def test_a_unets_block_is_exact(shape, between):
    channels, out, groups, n, *image = shape
    x, shift = 3 + 2 * torch.randn(n, channels, *image), torch.randn(n, out)
    plus, weight = torch.randn(2, n, out, *image)
    block = Block(channels, out, groups, between)
    for last in (plus, None):
        _check_gradients(block, weight, x, shift, last)


@pytest.mark.parametrize("shape", [*SHAPES, (2, 19, 34, 21, 20, 3)])
def test_large_tiles_err_by_little_and_are_not_used_for_derivatives(shape):
    n, channels, features, height, width, dilation = shape
    fast, plain, exact = _triple(_unit(channels, features, identity, dilation=dilation))
    x = torch.randn(n, channels, height, width)
    fine = fast(x, None)
    fast.conv.__class__ = CoarseConv3
    assert torch.equal(fast(x, None), fine)
    with torch.no_grad():
        coarse = fast(x, None)
    check([coarse], [plain(x, None)], [exact(x.double(), None)], roundings=COARSE_AMPLIFICATION)
    large = winograd._tile(height, width, dilation, True)
    assert torch.equal(coarse, fine) == (large == winograd._tile(height, width, dilation))


@pytest.mark.parametrize("size", [(2, 3, 9, 6), (1, 40, 1, 1), (3, 16, 3, 30)])
def test_maxima_and_elu_are_exact(size):
    maxima = norms.fast_max_pool, lambda x: F.max_pool2d(x, 5, 1, 2)
    for fast, exact in (maxima, (fast_elu, F.elu)):
        x, dy = torch.randn(2, *size)
        x.requires_grad_()
        twin = x.detach().double().requires_grad_()
        y, truth = fast(x), exact(twin)
        torch.autograd.backward([y, truth], [dy, dy.double()])
        assert error(y, truth) < 8 * EPSILON  # expm1 errs by a few ε
        assert error(x.grad, twin.grad) < 8 * EPSILON


ENDS = [-1e4, -88.0, -20.0, -1.0, -1e-6, -0.0, 0.0, 1e-6, 20.0, 88.0, 1e4, math.inf, math.nan]


def test_activations_are_exact_at_their_ends():
    x, options = torch.tensor(ENDS).view(1, 1, 1, -1), dict(rtol=16 * EPSILON, equal_nan=True)
    silu = norms.norm_activation(x, None, "silu")  # both err by a few ε in exp, sum and quotient
    torch.testing.assert_close(silu, F.silu(x), atol=1e-33, **options)
    x = torch.tensor([-math.inf, *ENDS]).view(1, 1, 1, -1)
    torch.testing.assert_close(fast_elu(x), F.elu(x), atol=EPSILON, **options)


@pytest.mark.parametrize("place", [(0, 0), (3, 4), (7, 7)])
def test_nan_is_kept(place):
    x = torch.randn(1, 17, 8, 8)
    x[0, 3][place] = math.nan
    x.requires_grad_()
    y = norms.fast_max_pool(x)
    assert torch.equal(y.isnan(), max_pool(x).isnan())
    assert y.isnan().sum() in (9, 25)
    torch.where(y.isnan(), y, 0).sum().backward()
    assert x.grad[0, 3][place] == y.isnan().sum()
    unit, _, _ = _triple(_unit(4, 4, F.elu))
    assert unit(torch.full((1, 4, 8, 8), math.nan), None).isnan().all()


def test_the_bits_do_not_depend_on_the_number_of_threads(results_by_threads):
    unit, x = _triple(_unit(20, 20, F.elu, levels=None))[0], torch.randn(3, 20, 13, 13)
    results = results_by_threads(lambda: _gradients(unit, torch.ones_like(x), x, None))
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*results, strict=True))


UNIT = _unit(4, 4, F.elu, levels=3, bias=True)
BLOCK = Block(8, 6, 2)
UNFUSED = [Block(4, 4, 2, between) for between in (None, torch.sin)]
UNFUSED += [_unit(4, 4, function, levels=None) for function in (F.elu, mean_pool, max_pool)]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("module", "x", "second", "plus"),  # the second input is a level or a shift
    [
        (UNIT, (2, 5, 8, 8), [0, 1], (2, 4, 8, 8)),  # a channel too many
        (UNIT, (2, 4, 8, 8), [0], (2, 4, 8, 8)),  # a level for one image of two
        (UNIT, (2, 4, 8, 8), [0, 3], None),  # a level outside the table
        (UNIT, (2, 4, 8, 8), [-1, 0], None),
        (UNIT, (2, 4, 8, 8), [0, 1], (2, 4, 8, 7)),
        (UNIT, (2, 4, 8, 8), [0, 1], (1, 4, 8, 8)),  # which torch broadcasts
        (UNIT, (4, 8, 8), [0], None),
        (BLOCK, (2, 9, 8, 8), None, None),  # a channel too many
        (BLOCK, (2, 4, 8, 8), None, None),  # too few, though the groups divide them
        (BLOCK, (2, 8, 8, 8), (3, 6), None),
        (BLOCK, (2, 8, 8, 8), (1, 6), None),  # which torch broadcasts
    ],
)
def test_kernels_never_read_beyond_a_tensor(module, x, second, plus):
    """Shapes that do not fit end as in torch's operations, with an error or the same result."""
    fast, plain, _ = _triple(module)
    if module is UNIT:
        second = torch.tensor(second, dtype=torch.long)
    elif second is not None:
        second = torch.randn(second)
    inputs = torch.randn(x), second, None if plus is None else torch.randn(plus)
    try:
        expected = plain(*inputs)
    except Exception as reason:
        with pytest.raises(type(reason)):
            fast(*inputs)
    else:
        # one convolution of normalised values, 64·ε of at most some ten: 1e-4
        torch.testing.assert_close(fast(*inputs), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_memory_in_any_order_is_read_whatever_torchs_default_type(default):
    fast, plain, exact = _triple(UNIT)
    for net in (fast, plain, exact):
        table, bias = net.norm.affine, net.conv.bias
        table.data = table.data.transpose(0, 2).contiguous().transpose(0, 2)
        bias.data = bias.data[:1].expand(4)
    x = torch.randn(3, 8, 4, 8).permute(0, 2, 1, 3)  # neither order
    for level in torch.tensor([2, 0, 1], dtype=torch.int32), torch.tensor([1]).expand(3):
        torch.set_default_dtype(default)
        try:
            result = fast(x, level)
        finally:
            torch.set_default_dtype(torch.float32)
        assert result.dtype == torch.float32
        check([result], [plain(x, level)], [exact(x.double(), level)])


def test_an_empty_batch_has_zero_gradients():
    unit, _, _ = _triple(_unit(4, 4, F.elu))
    for n in (2, 0):  # the first fills the scratch memory
        unit.zero_grad()
        unit(torch.randn(n, 4, 8, 8), None).sum().backward()
    assert not unit.conv.weight.grad.any()


@pytest.mark.parametrize("module", UNFUSED)
def test_other_derivatives_and_types_use_torchs_operations(module):
    """Second derivatives, forward mode and batched gradients."""
    results = []
    x, v = torch.randn(2, 2, 4, 8, 8)
    for net, dtype in zip(_triple(module), DTYPES, strict=True):
        call = partial(net, level=None) if isinstance(net, PreActivation) else net
        results.append(unusual_derivatives(call, x.to(dtype), v.to(dtype), net.parameters()))
        assert call(x.to(dtype)).dtype == dtype
        if dtype == torch.float32 and isinstance(net, PreActivation):
            with torch.autocast("cpu", torch.bfloat16):
                assert call(x).dtype == torch.bfloat16
    check(*results)


@pytest.mark.parametrize("kind", ["forward_pre_hook", "forward_hook", "full_backward_hook"])
def test_modules_with_hooks_are_called(kind):
    """torch's pruning has such hooks, which recompute the weight at each call."""
    (block, _, _), (unit, _, _) = _triple(Block(8, 8, 2)), _triple(_unit(8, 8, F.elu, levels=None))
    calls, x = set(), torch.randn(1, 8, 8, 8, requires_grad=True)
    modules = [block.norm, block.conv, unit.norm, unit.conv]
    for module in modules:
        handle = getattr(module, f"register_{kind}")(lambda module, *_: calls.add(module))
        block(x).sum().backward()
        unit(x, None).sum().backward()
        handle.remove()
    assert calls == set(modules)


def test_changed_weights_are_transformed_again():
    conv, x = Conv3(16, 2), torch.rand(2, 16, 16, 16)
    swap(conv, winograd=True, coarse=False, onednn=False)

    def step():
        conv(x).square().mean().backward()
        torch.optim.Adam(conv.parameters(), lr=0.1, fused=True).step()

    def enlarge():  # the first values are those of the cached weights
        conv.weight.data = torch.cat([conv.weight.data, torch.randn(70, 16, 3, 3)])
        conv.bias.data = torch.randn(72)

    def set_new():
        conv.weight = torch.nn.Parameter(torch.rand_like(conv.weight))

    in_place = lambda: conv.weight.data.mul_(2), lambda: conv.weight.detach().mul_(2)
    for change in (lambda: None, step, *in_place, set_new, enlarge):
        change()
        with torch.no_grad():
            truth = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)
            assert error(conv(x), truth) < (AMPLIFICATION + 16) * EPSILON


@pytest.mark.parametrize("count", [1, 63, 64, 65, 36_864, 100_003, 600_000])
def test_a_fingerprint_changes_with_any_bit_and_not_with_the_threads(results_by_threads, count):
    x = torch.randn(count)
    key = winograd._fingerprint(x)
    assert results_by_threads(lambda: winograd._fingerprint(x.clone())) == [key] * 3
    others = [torch.full((count,), value) for value in (-2.0, -1.0, 0.0, 1.0, 2.0)]
    others += [x, -x, 2 * x, x / 16]
    for place in {0, count // 2, count - 1}:
        others.append(x.clone())
        others[-1][place] = torch.nextafter(x[place], torch.tensor(math.inf))
    for apart in (1, 64, 65_536):  # in the same lane, except for the first
        if apart < count:
            others.append(x.clone())
            others[-1][[0, apart]] = x[[apart, 0]]
    assert len({winograd._fingerprint(other) for other in others}) == len(others)
