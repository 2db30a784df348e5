"""Resampling against its formula and torch's own operations."""

import pytest
import torch
import torch.nn.functional as F

from scorefield.nn.resample import BOX, Downsample, Upsample, double_size, fir_filter, half_size

FIR = (1.0, 3.0, 3.0, 1.0)
TAPS = pytest.mark.parametrize("taps", [BOX, FIR, (1.0, 2.0, 4.0, 8.0), (1.0, 0, 2.0, 5.0, 3.0, 1)])


def image(*shape):
    return torch.randn(shape or (2, 3, 8, 6), dtype=torch.float64)


@TAPS
def test_the_formula(taps):
    """y[i] = Σ_j k[2i − j + K/2]·x[j] down, and 2·Σ_j k[i − 2j + K/2 − 1]·x[j] up."""
    x = image(1, 1, 8, 8)[0, 0]
    k = [tap / sum(taps) for tap in taps]
    down, up = torch.zeros(4, 8).double(), torch.zeros(16, 8).double()
    for i in range(4):
        for j in range(8):
            n = 2 * i - j + len(taps) // 2
            down[i, j] = k[n] if 0 <= n < len(taps) else 0
    for i in range(16):
        for j in range(8):
            n = i - 2 * j + len(taps) // 2 - 1
            up[i, j] = 2 * k[n] if 0 <= n < len(taps) else 0
    assert torch.allclose(half_size(x[None, None], taps)[0, 0], down @ x @ down.T)
    assert torch.allclose(double_size(x[None, None], taps)[0, 0], up @ x @ up.T)


def test_learned_resampling_is_a_convolution_and_a_filter():
    x = image()
    for taps in (None, FIR):
        down, up = Downsample(3, 5, taps=taps).double(), Upsample(3, 5, taps=taps).double()
        torch.nn.init.normal_(down.conv.bias)
        torch.nn.init.normal_(up.conv.bias)
        assert down(x).shape == (2, 5, 4, 3)
        assert up(x).shape == (2, 5, 16, 12)
    smooth = F.conv2d(fir_filter(x, FIR, padding=2), down.conv.weight, down.conv.bias)
    assert torch.allclose(down(x), smooth[:, :, ::2, ::2])
    spread = x.new_zeros(2, 3, 15, 11)
    spread[:, :, ::2, ::2] = x
    raw = F.conv2d(spread, up.conv.weight, padding=2)
    expected = 4 * fir_filter(raw, FIR, padding=1) + up.conv.bias[:, None, None]
    assert torch.allclose(up(x), expected)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own, at import
@pytest.mark.parametrize("change", [half_size, double_size])
def test_every_derivative_is_right(change):
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: change(x, FIR), x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda x: change(x, FIR).square(), x)


def test_an_odd_filter_is_refused():
    with pytest.raises(ValueError, match="3 taps"):
        half_size(image(), (1.0, 2.0, 1.0))
