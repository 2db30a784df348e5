"""A score, its denoiser, its noise prediction and its energy, converted both ways."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scorefield import (
    Guidance,
    from_denoiser,
    from_energy,
    from_noise,
    guide,
    guide_by_classifier,
    rescale,
    to_denoiser,
    to_noise,
)
from scorefield.oracles import Gaussian, GaussianMixture

SIGMAS = [0.3, torch.tensor(0.3), torch.tensor([0.1, 0.3, 5.0])]
NORMAL = Gaussian(torch.zeros(2, 3).double(), 0.1)


def close(a, b):
    # in float64: 2e-16 × 1/σ² ≤ 100 where (D − x)/σ² cancels, × a few operations
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("sigma", SIGMAS, ids=["float", "scalar", "batch"])
def test_denoiser_is_the_posterior_mean_and_gives_the_score_back(sigma):
    """For N(m, v) and x = x₀ + σz: E[x₀ | x] = (v·x + σ²·m)/(v + σ²), E[z | x] = (x − E[x₀])/σ."""
    mean, x = torch.randn(2).double(), torch.randn(3, 2).double()
    s = torch.as_tensor(sigma, dtype=torch.float64).reshape(-1, 1)
    clean = (0.7 * x + s**2 * mean) / (0.7 + s**2)
    truth = Gaussian(mean, 0.7)
    noise = (to_noise, from_noise, (x - clean) / s)
    for to, back, expected in ((to_denoiser, from_denoiser, clean), noise):
        close(to(truth)(x, sigma), expected)
        close(back(to(truth))(x, sigma), truth(x, sigma))


def test_energy_gives_the_score_in_and_out_of_grad_mode():
    """E = w‖x‖⁴/4 has the score −w‖x‖²x; its ‖s‖² has the gradient 2w‖x‖⁶ in w."""
    w, x = torch.tensor(0.5, dtype=torch.float64, requires_grad=True), torch.randn(5, 3).double()
    score = from_energy(lambda x, sigma: w * x.square().sum(1) ** 2 / 4)
    s, r = score(x, 1.0), x.square().sum(1, keepdim=True)
    close(s, -w * r * x)
    (gradient,) = torch.autograd.grad(s.square().sum(), w)
    close(gradient, (2 * w * r**3).sum())
    with torch.no_grad():
        plain = score(x, 1.0)
        assert not torch.is_grad_enabled()
    assert not plain.requires_grad
    assert not x.requires_grad
    close(plain, -w.detach() * r * x)


@given(st.floats(0.1, 10) | st.floats(-10, -0.1), st.floats(-3, 3), st.floats(0.01, 10))
def test_rescale_is_a_change_of_variables(scale, shift, sigma):
    """y = scale·x + shift ~ N(m, v) means x ~ N((m − shift)/scale, v/scale²)."""
    mean, x = torch.tensor([0.3, -1.0]).double(), torch.randn(4, 2).double()
    inner, outer = Gaussian(mean, 0.5), Gaussian((mean - shift) / scale, 0.5 / scale**2)
    for s in (sigma, torch.full((4,), sigma, dtype=torch.float64)):
        torch.testing.assert_close(rescale(inner, scale, shift)(x, s), outer(x, s))


def test_conversions_refuse_what_they_would_divide_by():
    for convert in (from_denoiser, from_noise):
        for sigma in (0.0, torch.tensor([1.0, 0.0, 1.0])):
            with pytest.raises(ValueError, match="sigma=0"):
                convert(NORMAL)(torch.zeros(3, 2, 3).double(), sigma)
    for numbers in ((0.0, 0.0), (math.nan, 0.0), (1.0, math.inf)):
        with pytest.raises(ValueError, match=r"scale=.*, shift=.*: give finite numbers"):
            rescale(NORMAL, *numbers)
    with pytest.raises(ValueError, match="weight=nan: give a finite"):
        guide(NORMAL, NORMAL, math.nan)
    with pytest.raises(ValueError, match=r"energy returned shape.*one number per sample"):
        from_energy(lambda x, sigma: x.square())(torch.zeros(2, 3), 1.0)


def test_wrapped_scores_keep_shape_and_device():
    wraps = (to_denoiser, from_denoiser, to_noise, from_noise, lambda s: rescale(s, 2.0))
    for score in (*(wrap(NORMAL) for wrap in wraps), guide(NORMAL, NORMAL, 2.0)):
        assert score.shape == (2, 3)
        assert score.device == torch.device("cpu")


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5, -1.0])
def test_guidance_is_a_tilted_density(weight):
    """q_u^(1−w)·q_c^w, of Gaussians of one variance, is the Gaussian about (1−w)·m_u + w·m_c."""
    one, two = torch.randn(2, 3).double()
    x = torch.randn(5, 3).double()
    guided = guide(Gaussian(two, 0.4), Gaussian(one, 0.4), weight)
    close(guided(x, 0.6), Gaussian((1 - weight) * one + weight * two, 0.4)(x, 0.6))


MEANS = torch.tensor([[1.0, 0.0, -1.0], [-0.5, 1.0, 0.5]], dtype=torch.float64)
SHARES = torch.tensor([0.3, 0.7], dtype=torch.float64)


def log_classes(x, sigma, variance=0.4):
    """Return log p(x, y) of two Gaussian classes in noise of σ, a column for each."""
    total = variance + torch.as_tensor(sigma, dtype=torch.float64).reshape(-1, 1) ** 2
    squares = (x[:, None] - MEANS).square().sum(2)
    return SHARES.log() - squares / (2 * total) - 1.5 * total.log()


def log_ratio(x, sigma):
    """Logits of the two classes: the first is 0, the second linear in x."""
    total = 0.4 + torch.as_tensor(sigma, dtype=torch.float64).reshape(-1) ** 2
    linear = x @ (MEANS[1] - MEANS[0]) - (MEANS[1] @ MEANS[1] - MEANS[0] @ MEANS[0]) / 2
    second = linear / total + (SHARES[1] / SHARES[0]).log()
    return torch.stack([0 * second, second], 1)


@pytest.mark.parametrize("label", [0, 1, torch.tensor([0, 1, 1])], ids=["0", "1", "each"])
@pytest.mark.parametrize("sigma", SIGMAS, ids=["float", "scalar", "batch"])
@pytest.mark.parametrize("interval", [(0, math.inf), (0.2, 1), (0.3, 5), (0.5, 4)])
def test_each_kind_of_guidance_is_the_score_of_a_tilted_mixture(label, sigma, interval):
    """q·p(y | x)^w by a classifier and by the class, q_y^w·q_weak^(1−w) by a weaker model."""
    x = torch.randn(3, 3).double().requires_grad_()
    level = torch.as_tensor(sigma, dtype=torch.float64).expand(3)
    w = torch.where((interval[0] <= level) & (level <= interval[1]), 2.5, 1.0).double()
    index = torch.as_tensor(label).expand(3)[:, None]
    of_class, whole = log_classes(x, sigma).gather(1, index)[:, 0], log_classes(x, sigma)
    weak = log_classes(x, sigma, 1.5).logsumexp(1)
    log_q = whole.logsumexp(1)
    tilted, contrasted = log_q + w * (of_class - log_q), w * log_q + (1 - w) * weak
    exact, auto = (
        torch.autograd.grad(f.sum(), x, retain_graph=True)[0] for f in (tilted, contrasted)
    )
    x, free = x.detach(), GaussianMixture(MEANS, 0.4, SHARES)
    close(guide_by_classifier(free, log_ratio, label, 2.5, interval=interval)(x, sigma), exact)
    own = MEANS[index[:, 0]]
    one = lambda x, sigma: (own - x) / (0.4 + level[:, None] ** 2)  # noqa: E731
    close(guide(one, free, 2.5, interval=interval)(x, sigma), exact)
    close(guide(free, GaussianMixture(MEANS, 1.5, SHARES), 2.5, interval=interval)(x, sigma), auto)


def test_guidance_calls_the_other_score_within_its_interval_only():
    called, x = [], torch.zeros(2, 2, 3)

    def other(x, sigma):
        called.append(sigma)
        return NORMAL(x, sigma)

    guided, batch = guide(NORMAL, other, 2.0, interval=(0.2, 1.0)), torch.tensor([0.1, 3.0])
    for sigma in (0.1, 0.2, 1.0, torch.tensor(3.0), batch):
        guided(x, sigma)
    assert called == [0.2, 1.0, batch]


def test_guidance_that_cannot_be_meant_is_refused():
    for options, message in (
        (dict(weight=math.inf), "weight=inf: give a finite"),
        (dict(weight=2.0, interval=(1.0, 1.0)), r"interval=\(1.0, 1.0\): give two noise levels"),
        (dict(weight=1.0, interval=(0.1, 1.0)), "give a larger one, as 2"),
        (dict(weight=1.0, weak=NORMAL), "give a larger one, as 2"),
        (dict(weight=2.0, weak=NORMAL, classifier=log_ratio), "give one of them"),
    ):
        with pytest.raises(ValueError, match=message):
            Guidance(**options)
    x, mixture = torch.zeros(2, 3).double(), GaussianMixture(MEANS, 0.4, SHARES)
    for label in (2, -1, torch.tensor([0, 2])):
        with pytest.raises(ValueError, match=r"label=.*classes are 0 to 1"):
            guide_by_classifier(mixture, log_ratio, label)(x, 0.5)
    with pytest.raises(ValueError, match=r"shape \(2,\) for a batch of 2: return logits"):
        guide_by_classifier(mixture, lambda x, sigma: x.sum(1), 1)(x, 0.5)
