"""The Inception network against torch-fidelity 0.4.0, whose numbers these are."""

import math

import pytest
import torch

from scorefield.evaluate.inception import Inception, resize_tensorflow


def weights(net):
    """Return random tensors such that all features are alive and no two branches are alike."""
    generator, tensors = torch.Generator().manual_seed(0), {}
    for name, value in net.state_dict().items():
        z = torch.randn(value.shape, generator=generator)
        if name.endswith("conv.weight"):
            z *= math.sqrt(2 / value[0].numel())
        elif name.endswith(("running_var", "bn.weight")):
            z = 1 + 0.1 * z
        elif name.endswith("tracked"):
            z = torch.tensor(0)
        elif name != "fc.weight":
            z *= 0.1
        tensors[name] = z
    return tensors


def test_features_are_those_of_torch_fidelity():
    net = Inception().eval()
    net.load_state_dict(weights(net))
    # one image that is smaller than the network's input, and not square
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (1, 3, 20, 33), generator=generator, dtype=torch.uint8)
    with torch.no_grad():
        features, logits = net(image)
    expected = torch.tensor([0.916953, 0.015425, 0.179545])
    torch.testing.assert_close(features[0, :3], expected, rtol=1e-4, atol=1e-4)
    expected = torch.tensor([-42.127270, 22.222460, 31.149307])
    torch.testing.assert_close(logits[0, :3], expected, rtol=1e-4, atol=1e-3)
    spread = [features.mean().item(), features.std().item(), logits.std().item()]
    assert spread == pytest.approx([0.418846, 0.552934, 30.273680], rel=1e-4)
    # Inception-v3 has 27,161,264 with 1,000 classes; its auxiliary classifier, of a 1 × 1 and a
    # 5 × 5 convolution with their norms and a linear layer, is left out, and 8 classes are more
    auxiliary = 768 * 128 + 2 * 128 + 128 * 768 * 25 + 2 * 768 + 768 * 1000 + 1000
    assert sum(p.numel() for p in net.parameters()) == 27_161_264 - auxiliary + 8 * 2049


def test_images_are_resized_from_their_corner():
    # enlarged threefold, every third pixel is one of the image, the last repeated
    x = torch.arange(12.0).view(1, 1, 3, 4)
    wide = resize_tensorflow(x, 12)
    torch.testing.assert_close(wide[..., ::4, ::3], x)
    torch.testing.assert_close(wide[0, 0, 0], torch.arange(12.0).clamp(max=9) / 3)
