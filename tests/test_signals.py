"""Signals and volumes: the UNet along one and three axes, compared with that of images."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_networks import KINDS, small_unet

from scorefield import load, log_likelihood
from scorefield.cli import main
from scorefield.nn.resample import Downsample, Upsample, double_size, fir_filter, half_size
from scorefield.show import images

_small = partial(small_unet, channels=2)


def _flat(net):
    """The same network with one axis more, along which its kernels do not act."""
    twin = small_unet(**{**net.arguments, "dims": net.dims + 1})
    state = net.state_dict()
    for name, weight in twin.state_dict().items():
        if weight.ndim == net.dims + 3:
            weight.zero_()
            weight[:, :, weight.shape[2] // 2] = state[name]
        else:
            weight.copy_(state[name])
    return twin


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("fir", [None, (1.0, 3.0, 3.0, 1.0)])
def test_resampling_is_that_of_one_axis_more(fir, dims):
    """An image whose rows all are the signal, or a volume of slices, away from its border."""
    taps, x = fir or (1.0, 1.0), torch.randn(2, 3, *[16] * dims, dtype=torch.float64)
    rows = x[:, :, None].expand(-1, -1, 16, *[-1] * dims)
    blur = partial(fir_filter, padding=len(taps) // 2)
    for change in (half_size, double_size, blur):
        expected = change(rows, taps)
        torch.testing.assert_close(change(x, taps), expected[:, :, expected.shape[2] // 2])
    for kind in (Downsample, Upsample):
        line = kind(3, 5, taps=fir, dims=dims).double()
        image = kind(3, 5, taps=fir, dims=dims + 1).double()
        torch.nn.init.normal_(line.conv.bias)
        image.conv.bias.data.copy_(line.conv.bias)
        # each row of a kernel has a third of the weight, and sees the same row
        image.conv.weight.data.copy_(line.conv.weight[:, :, None].expand_as(image.conv.weight) / 3)
        expected = image(rows)
        torch.testing.assert_close(line(x), expected[:, :, expected.shape[2] // 2])


@pytest.mark.parametrize("size", [(21,), (5, 6)])
@pytest.mark.parametrize("kind", KINDS)
def test_at_one_resolution_it_is_the_network_of_one_axis_more(kind, size):
    net = _small(kind, dims=len(size), multipliers=(1,), attention=(0,)).double()
    x, cond = torch.randn(3, 2, *size).double(), torch.tensor([0.1, 0.7, 2.0]).double()
    images = _flat(net).double()(x[:, :, None], cond)
    torch.testing.assert_close(net(x, cond), images[:, :, 0])


@pytest.mark.parametrize("size", [(13,), (3, 6, 5)])
@pytest.mark.parametrize("kind", KINDS)
def test_any_size_is_padded_to_what_the_halvings_allow(kind, size):
    x = torch.randn(3, 2, *size)
    assert _small(kind, dims=len(size))(x, torch.ones(3)).shape == x.shape


def test_volumes_are_learned_sampled_and_judged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    volumes = torch.randint(256, (20, 1, 2, 4, 6), dtype=torch.uint8).numpy()
    np.save("x.npy", volumes)
    small = "network.width=8 network.multipliers=[1,2] network.blocks=1 network.attention=[1]"
    settings = [f"--{setting}" for setting in small.split()]
    assert main(["train", "--data=x.npy", "--out=run", "--steps=3", *settings]) == 0
    model, again = load("run"), load("run/checkpoints/00000003.safetensors")
    assert model.net.dims == 3
    x = torch.from_numpy(volumes[:2]).float() / 256
    assert torch.equal(model(x, 0.5), again(x, 0.5))
    ends = {"sigma_min": model.sigma_min, "sigma_max": model.sigma_max}
    likelihood = log_likelihood(model, x, model.prior, **ends, probes=1, tolerance=1e-2)
    assert likelihood.log_prob.isfinite().all()
    command = ["sample", "run", "-n=3", "--steps=2", "--batch=2"]
    assert main(command) == main([*command, "--out=x.png", "--animate=x.gif"]) == 0
    samples = np.load("samples.npy")
    assert samples.shape == (3, 1, 2, 4, 6)
    images.write(Path("slices.png"), torch.from_numpy(samples[:, :, 1]), {})
    with Image.open("x.png") as shown, Image.open("slices.png") as slices:
        assert shown.tobytes() == slices.tobytes()
    assert Path("run/samples/00000003.png").exists()
    assert main(["train", "--data=x.npy", "--network.kind=DiT", "--out=no"]) == 2


@pytest.mark.usefixtures("unchecked")
def test_images_and_signals_are_not_confused():
    with pytest.raises(ValueError, match="takes signals of 2 channels"):
        _small("ncsn++", dims=1)(torch.randn(1, 2, 8, 8), torch.ones(1))
    with pytest.raises(ValueError, match=r"takes volumes of .*, depth, height, width\)"):
        _small("ncsn++", dims=3)(torch.randn(1, 2, 8, 8), torch.ones(1))
    with pytest.raises(ValueError, match="takes images of 2 channels"):
        _small("ncsn++")(torch.randn(1, 2, 8), torch.ones(1))
