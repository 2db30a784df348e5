"""Embeddings against numpy's sines, and the withholding of classes."""

import numpy as np
import pytest
import torch

from scorefield.nn.embedding import GaussianFourier, LabelEmbedding, sinusoidal


@pytest.mark.parametrize("size", [4, 16, 17])
def test_sinusoids_are_those_of_the_formula(size):
    t, half = np.array([0.0, 1.0, 37.5, 999.0]), size // 2
    phase = np.outer(t, 10_000.0 ** (-np.arange(half) / (half - 1)))
    expected = np.concatenate([np.sin(phase), np.cos(phase), np.zeros((4, size % 2))], 1)
    found = sinusoidal(torch.tensor(t, dtype=torch.float32), size)
    assert np.abs(found.numpy() - expected).max() < 2e-4  # 999 rad in float32
    assert np.abs(found.numpy()[:3] - expected[:3]).max() < 5e-6


def test_an_index_may_be_an_integer():
    index = torch.tensor([3, 999])
    assert torch.equal(sinusoidal(index, 8), sinusoidal(index.float(), 8))


def test_fourier_features_are_those_of_the_formula():
    features = GaussianFourier(6, scale=2.0)
    cond = torch.tensor([-4.6, 0.0, 5.8])
    phase = 2 * np.pi * np.outer(cond.double().numpy(), features.frequencies.double().numpy())
    expected = np.concatenate([np.sin(phase), np.cos(phase)], 1)
    assert np.abs(features(cond).numpy() - expected).max() < 1e-4
    assert not list(features.parameters())


def test_frequencies_have_the_scale():
    frequencies = GaussianFourier(20_000, scale=16.0).frequencies
    assert frequencies.mean().item() == pytest.approx(0, abs=0.5)
    assert frequencies.std().item() == pytest.approx(16, rel=0.03)


def test_half_precision_does_not_reach_the_phase():
    features = GaussianFourier(4)
    cond = torch.tensor([0.3], dtype=torch.bfloat16)
    assert torch.equal(features(cond), features(cond.float()))
    assert sinusoidal(cond, 8).dtype == torch.float32


def test_an_absent_class_has_its_own_vector():
    table = LabelEmbedding(3, 5).eval()
    assert torch.equal(table(table.absent(2)), table.table.weight[[3, 3]])
    assert torch.equal(table(torch.tensor([2, 0])), table.table.weight[[2, 0]])
