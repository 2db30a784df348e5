"""Signals: the UNet along one axis, compared with that of images."""

from functools import partial

import pytest
import torch
from test_networks import KINDS, small_unet

from scorefield.nn.resample import Downsample, Upsample, double_size, fir_filter, half_size

_small = partial(small_unet, channels=2)


def _flat(net):
    """The same network of images whose kernels act along one axis, the width, alone."""
    twin = small_unet(**{**net.arguments, "dims": 2})
    state = net.state_dict()
    for name, weight in twin.state_dict().items():
        if weight.ndim == 4:
            weight.zero_()
            weight[:, :, weight.shape[2] // 2] = state[name]
        else:
            weight.copy_(state[name])
    return twin


@pytest.mark.parametrize("fir", [None, (1.0, 3.0, 3.0, 1.0)])
def test_resampling_is_that_of_the_rows_of_an_image(fir):
    """An image whose rows all are the signal, away from its upper and lower border."""
    taps, x = fir or (1.0, 1.0), torch.randn(2, 3, 16, dtype=torch.float64)
    rows = x[:, :, None].expand(-1, -1, 16, -1)
    blur = partial(fir_filter, padding=len(taps) // 2)
    for change in (half_size, double_size, blur):
        expected = change(rows, taps)
        torch.testing.assert_close(change(x, taps), expected[:, :, expected.shape[2] // 2])
    for kind in (Downsample, Upsample):
        line = kind(3, 5, taps=fir, dims=1).double()
        image = kind(3, 5, taps=fir).double()
        torch.nn.init.normal_(line.conv.bias)
        image.conv.bias.data.copy_(line.conv.bias)
        # each row of a kernel has a third of the weight, and sees the same row
        image.conv.weight.data.copy_(line.conv.weight[:, :, None].expand(-1, -1, 3, -1) / 3)
        expected = image(rows)
        torch.testing.assert_close(line(x), expected[:, :, expected.shape[2] // 2])


@pytest.mark.parametrize("kind", KINDS)
def test_at_one_resolution_it_is_the_network_of_images_of_height_one(kind):
    net = _small(kind, dims=1, multipliers=(1,), attention=(0,)).double()
    x, cond = torch.randn(3, 2, 21).double(), torch.tensor([0.1, 0.7, 2.0]).double()
    images = _flat(net).double()(x[:, :, None], cond)
    torch.testing.assert_close(net(x, cond), images[:, :, 0])
    assert _small(kind, dims=1)(torch.randn(3, 2, 13), torch.ones(3)).shape == (3, 2, 13)


@pytest.mark.usefixtures("unchecked")
def test_images_and_signals_are_not_confused():
    with pytest.raises(ValueError, match="takes signals of 2 channels"):
        _small("ncsn++", dims=1)(torch.randn(1, 2, 8, 8), torch.ones(1))
    with pytest.raises(ValueError, match="takes images of 2 channels"):
        _small("ncsn++")(torch.randn(1, 2, 8), torch.ones(1))
