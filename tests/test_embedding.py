"""Embeddings against numpy's sines."""

import numpy as np
import pytest
import torch

from scorefield.nn.embedding import GaussianFourier, LabelEmbedding, class_vectors, sinusoidal


@pytest.mark.parametrize("size", [4, 16, 17])
def test_sinusoids_are_the_formula(size):
    t, half = np.array([0.0, 1.0, 37.5, 999.0]), size // 2
    phase = np.outer(t, 10_000.0 ** (-np.arange(half) / (half - 1)))
    expected = np.concatenate([np.sin(phase), np.cos(phase), np.zeros((4, size % 2))], 1)
    result = sinusoidal(torch.tensor(t, dtype=torch.float32), size).numpy()
    # two roundings of a frequency and one of the phase: 3·2⁻²⁴·t
    assert (np.abs(result - expected).max(1) < 3 * 2.0**-24 * t + 1e-6).all()
    index = torch.tensor([3, 999])
    assert torch.equal(sinusoidal(index, size), sinusoidal(index.float(), size))


def test_fourier_features_are_the_formula():
    features = GaussianFourier(6, scale=2.0)
    cond = torch.tensor([-4.6, 0.0, 5.8])
    phase = 2 * np.pi * np.outer(cond.double().numpy(), features.frequencies.double().numpy())
    expected = np.concatenate([np.sin(phase), np.cos(phase)], 1)
    # three roundings of a phase of up to 2π·5.8·2·3 = 220
    assert np.abs(features(cond).numpy() - expected).max() < 1e-4
    assert not list(features.parameters())
    frequencies = GaussianFourier(20_000, scale=16.0).frequencies
    # 5 standard errors: 16/√n and 16/√(2n)
    assert frequencies.mean().item() == pytest.approx(0, abs=0.57)
    assert frequencies.std().item() == pytest.approx(16, abs=0.4)


def test_half_precision_does_not_reach_the_phase():
    features = GaussianFourier(4)
    cond = torch.tensor([0.3], dtype=torch.bfloat16)
    assert torch.equal(features(cond), features(cond.float()))
    assert sinusoidal(cond, 8).dtype == torch.float32


def test_no_class_has_its_own_vector():
    table = LabelEmbedding(3, 5).eval()
    assert torch.equal(class_vectors(table, None, 2), table.table.weight[[3, 3]])
    assert torch.equal(class_vectors(table, torch.tensor([2, 0]), 2), table.table.weight[[2, 0]])
