"""Initial weights of every layer of every network, and the scores of fresh networks."""

import math
from functools import partial

import pytest
import torch
from test_networks import KINDS
from torch import nn

from scorefield import EDM, Gaussian, LogNormal, ScoreModel
from scorefield.nn import MLP, Autoencoder, DiT, RefineNet, ToyMLP, UNet
from scorefield.objectives import annealed, denoising, edm_weight


def _check_uniform(weights):
    """Weights, each divided by the bound of its uniform distribution, are uniform on [−1, 1]."""
    pooled = torch.cat([weight.flatten() for weight in weights]).detach()
    error = 1 / math.sqrt(len(pooled))
    assert pooled.abs().max() <= 1 + 1e-6
    assert pooled.abs().max() > 1 - 20 * error**2
    assert abs(pooled.mean()) < 4 * math.sqrt(1 / 3) * error
    assert abs(pooled.square().mean() - 1 / 3) < 4 * math.sqrt(4 / 45) * error
    assert min(weight.abs().max() for weight in weights) > 0.5


def _layers(net):
    return [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


NCSN = RefineNet(3, 16, 10)
OTHERS = RefineNet(3, 16, depth="deeper"), ToyMLP(), Autoencoder(3), MLP(20, width=64).blocks


@pytest.mark.parametrize("net", [NCSN, *OTHERS], ids=lambda net: type(net).__name__)
def test_layers_are_uniform_within_one_over_the_root_of_fan_in(net):
    """torch's own initialisation: NCSN, NCSNv2 and the small networks."""
    pairs = [(layer, layer.weight[0].numel() ** -0.5) for layer in _layers(net)]
    _check_uniform([layer.weight / bound for layer, bound in pairs])
    biases = [layer.bias / bound for layer, bound in pairs if layer.bias is not None]
    _check_uniform([torch.cat(biases)])


@pytest.mark.parametrize(("net", "rows"), [(NCSN, 10), (OTHERS[0], 1)])
def test_refinenets_norms_start_at_one_and_zero(net, rows):
    """γ and α are N(1, 0.02²) and β is 0, for each level; there are no other parameters."""
    weights = {p for layer in _layers(net) for p in layer.parameters()}
    tables = [p for p in net.parameters() if p not in weights]
    gamma, alpha, beta = torch.cat([p.detach().flatten(2) for p in tables], 2).unbind(1)
    assert {len(p) for p in tables} == {rows}
    for table in (gamma, alpha):
        error = 0.02 / math.sqrt(table.numel())  # standard errors: this, and over √2
        assert abs(table.mean() - 1) < 4 * error
        assert abs(table.std() - 0.02) < 4 * error / math.sqrt(2)
    assert not beta.any()


def _scale(name, kind):
    """The published scale of a weight: 1e-10, which stands for 0, at the end of a branch."""
    if ".conv_out." in name or name.startswith("head.") or name.endswith(".out.weight"):
        return 1.0 if name.startswith("embedding.") else 1e-10
    if ".output.head." in name:
        return 1e-10
    if any(f".{part}." in name for part in ("query", "key", "value")):
        return 0.1
    return 0.1 if ".shortcut." in name and kind == "ddpm" else 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_a_unet_have_the_published_variance(kind):
    """scale/fan_avg (Ho et al. 2020; Song et al. 2021)."""
    net = _unet(kind, blocks=2, attention=(1,))
    pooled = {}
    for name, layer in net.named_modules():
        if isinstance(layer, nn.GroupNorm):
            assert (layer.weight == 1).all()
            assert not layer.bias.any()
        elif layer in _layers(net):
            weight, scale = layer.weight, _scale(f"{name}.weight", kind)
            fan = weight[0, :1].numel() * sum(weight.shape[:2]) / 2
            pooled.setdefault(scale, []).append(weight / math.sqrt(3 * scale / fan))
            assert not layer.bias.any()
    assert pooled.keys() == {1.0, 0.1, 1e-10}
    for weights in pooled.values():
        _check_uniform(weights)


def _unet(kind="ncsn++", **changes):
    return UNet(**{**dict(width=16, multipliers=(1, 2), blocks=1), **KINDS[kind], **changes}).eval()


FRESH = {
    # F = 0: three roundings of |x|/σ_d up to 10; and last weights of 1e-5: 10 standard deviations
    "mlp": (lambda: MLP((3, 8, 8), width=32), 30 * 2**-24),
    "dit": (lambda: DiT(width=32, blocks=2), 1e-4),
    **{kind: (partial(_unet, kind), 1e-4) for kind in KINDS},
}


@pytest.mark.parametrize(("build", "error"), FRESH.values(), ids=FRESH)
@torch.no_grad()
def test_a_fresh_edm_is_the_denoiser_of_a_gaussian(build, error):
    """N(centre, σ_d²I), at every σ; and its loss in a dimension is 1 (Karras et al. 2022)."""
    row = EDM(sigma_data=0.4, centre=0.5)
    model, oracle = ScoreModel(build(), row), Gaussian(torch.full((3, 8, 8), 0.5), 0.4**2)
    for sigma in (0.002, 0.1, 1.0, 80.0):
        x = oracle.sample(4, sigma)
        wrong = sigma**2 * (model(x, sigma) - oracle(x, sigma))
        assert wrong.abs().max() < error * 0.4
    loss = annealed(denoising, LogNormal(), edm_weight(0.4))(model, oracle.sample(200))
    assert loss.mean().item() / 192 == pytest.approx(1, abs=4 * (2 / 192 / 200) ** 0.5)
