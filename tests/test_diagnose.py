"""`diagnose` reports planted faults, and nothing about a sound chain."""

import math
from functools import partial
from io import BytesIO

import pytest
import torch
from scipy.stats import binomtest

from scorefield.diagnose import diagnose, wilson
from scorefield.ladder import suggest
from scorefield.noise import geometric, karras
from scorefield.oracles import Box, Empirical, Gaussian, GaussianMixture, Mixture
from scorefield.score import guide
from scorefield.show.plots import health

# 30 power iterations: with eigenvalues 1 and q the error is (1 − q)q⁶⁰ ≤ 1/60e = 0.006 times the
# squared tangent of the start's angle to the first, in two dimensions at the best of 64 points
POWER = 0.02
FIGURE_3 = GaussianMixture(torch.tensor([[-5.0, -5.0], [5.0, 5.0]]), 1.0, torch.tensor([0.2, 0.8]))


def circle():
    """Return eight modes on a circle of radius 4, std 0.3."""
    angle = torch.arange(8) * (2 * math.pi / 8)
    means = 4 * torch.stack([angle.cos(), angle.sin()], 1)
    return GaussianMixture(means, 0.3**2, torch.ones(8) / 8)


def apart():
    """Return three modes in 64 dimensions, std 0.2, of weights .7, .2 and .1."""
    means = 0.7 * torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    return GaussianMixture(means, 0.2**2, torch.tensor([0.7, 0.2, 0.1]))


def test_the_papers_ladder_for_figure_3_is_unstable():
    """§4.3: σ from 10 to 0.1 and ε = 0.1; at σ = 10 the step is 1000 on a score of slope 1/101."""
    run = partial(diagnose, FIGURE_3, FIGURE_3, epsilon=0.1, convention="paper")
    diagnosis = run(sigmas=geometric(10.0, 0.1, 10), n=65)
    (verdict,) = diagnosis.verdicts
    assert verdict.startswith("unstable: at level 1 (σ = 10) ε = 0.1 is not below the bound 0.04")
    assert 0 in diagnosis.unstable
    # no chain ran
    assert all(math.isnan(level.variance) for level in diagnosis.levels)
    # as drift α/2: stable for α/2·λ < 2 with λ ≤ 1/101
    assert diagnosis.levels[0].bound == pytest.approx(4 * 1.01 * 0.1**2, rel=POWER)
    # the appendix's ladder is stable
    assert not run(sigmas=geometric(20.0, 1.0, 10)).unstable
    health(diagnosis).savefig(BytesIO(), dpi=20)


def test_five_steps_a_level_lag_and_give_wrong_weights():
    mixture = apart()
    ladder = suggest(mixture.sample(1000))
    options = {"epsilon": ladder.epsilon, "n": 4000}
    diagnosis = diagnose(mixture, mixture, ladder.sigmas, steps=5, **options)
    assert diagnosis.lagging
    assert any(v.startswith("lag: at") and "T = 5" in v for v in diagnosis.verdicts)
    assert any(v.startswith("weights: the shares of modes 0, 1, 2") for v in diagnosis.verdicts)


def test_a_healthy_chain_has_no_verdict():
    mixture = circle()
    ladder = suggest(mixture.sample(1000))
    options = {"epsilon": ladder.epsilon / 2, "n": 1000}
    diagnosis = diagnose(mixture, mixture, ladder.sigmas, steps=60, **options)
    assert diagnosis.verdicts == ()
    for mode in diagnosis.modes:
        assert mode.low < mode.share < mode.high
    assert sum(mode.share for mode in diagnosis.modes) == pytest.approx(1)
    levels = len(ladder.sigmas)
    assert sum(line.startswith("mode ") for line in str(diagnosis).splitlines()) == 8
    figure = health(diagnosis)
    assert [len(ax.lines[0].get_xdata()) for ax in figure.axes[:3]] == [levels] * 3
    figure.savefig(BytesIO(), dpi=20)


def test_moments_against_the_theory_of_a_linear_chain():
    """On a Gaussian the variance after each level follows from the recursion of its steps."""
    v, n, steps, e = torch.tensor([4.0, 0.01]), 20_000, 3, 0.2
    truth, sigmas = Gaussian(torch.tensor([1.0, -2.0]), v), geometric(5.0, 0.5, 4)
    diagnosis = diagnose(truth, truth, sigmas, steps=steps, epsilon=e * 0.5**2, n=n)
    variance = v + 25
    for level in diagnosis.levels:
        width, alpha = v + level.sigma**2, e * level.sigma**2
        assert level.stiffness == pytest.approx(level.sigma**2 / width[1].item(), rel=POWER)
        for _ in range(steps):
            variance = (1 - alpha / width) ** 2 * variance + 2 * alpha
        assert level.alpha == pytest.approx(alpha)
        noise = 4 * math.sqrt(2 / n)  # four standard errors of a variance, relative
        assert level.widest == pytest.approx((variance / width)[0].item(), rel=noise)
        total = (variance.sum() / width.sum()).item()
        assert level.variance == pytest.approx(total, rel=noise)
        assert level.widest_settled == pytest.approx(2 / (2 - alpha / width[0].item()))
        # E‖s‖² = Σ variance/width², against Σ 1/width
        local = ((variance / width**2).sum() / (1 / width).sum()).item()
        assert level.local == pytest.approx(local, abs=5 * level.local_error)
        assert level.local_settled == pytest.approx(2 / (2 - alpha / width[1].item()), rel=POWER)
        assert level.mean < 4 * math.sqrt(level.variance)


LADDER = geometric(3.0, 0.3, 4)


def verdicts(score, truth, sigmas=LADDER, steps=100, e=0.1, n=1000):
    epsilon = e * sigmas[-1].item() ** 2
    diagnosis = diagnose(score, truth, sigmas, steps=steps, epsilon=epsilon, n=n)
    return [verdict.split(":")[0] for verdict in diagnosis.verdicts]


def test_each_fault_has_its_verdict():
    truth = Gaussian(torch.zeros(2), torch.tensor([4.0, 0.01]))
    assert verdicts(truth, truth) == []
    assert verdicts(truth, truth, e=1.5, steps=200) == ["bias"]
    assert verdicts(lambda x, sigma: truth(x, sigma) * 1.5, truth) == ["score"]
    assert {"mean", "score"} <= {*verdicts(lambda x, sigma: truth(x, sigma) + 1 / 3, truth)}
    # one direction a thousand times narrower than the other, too few steps for it
    thin = Gaussian(torch.zeros(2), torch.tensor([100.0, 1e-4]))
    assert "lag" in verdicts(thin, thin, geometric(3.0, 0.01, 8), steps=3)
    # the chain settles between the modes and lags only within them
    mixture, sigmas = circle(), karras(15.0, 0.02, 40)
    assert "lag" in verdicts(mixture, mixture, sigmas, steps=10, e=0.03, n=2000)


@pytest.mark.usefixtures("unchecked")
def test_errors_name_the_argument():
    truth = Gaussian(torch.zeros(2), 1.0)
    for score, options, message in (
        (lambda x, sigma: truth(x, sigma) * math.nan, {}, "score or its derivative is not finite"),
        (truth, {"n": 2}, "n=2"),
        *((truth, {"sigmas": x}, "sigmas must be a 1-D") for x in (torch.ones(0), [3.0, 1.0])),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            diagnose(score, truth, **{"sigmas": LADDER, "n": 100} | options)


def test_boxes_are_modes_and_points_and_planes_are_not():
    plane = Gaussian(torch.zeros(3), 0.0, torch.tensor([[2.0], [0.0], [0.0]]))
    diagnosis = diagnose(plane, plane, LADDER, steps=200, epsilon=0.02 * 0.3**2, n=2000)
    # all directions count: four standard errors of 2 %
    assert diagnosis.levels[0].variance == pytest.approx(1.01, abs=0.08)
    assert not diagnosis.modes
    points = GaussianMixture(torch.tensor([[-1.0], [1.0]]), 0.0, torch.ones(2) / 2)
    boxes = Mixture([Box(a, a + 1) for a in torch.tensor([[0.0], [3.0]])], torch.ones(2) / 2)
    sigmas = geometric(4.0, 0.1, 8)
    for truth, modes in ((points, 0), (boxes, 2)):
        diagnosis = diagnose(truth, truth, sigmas, steps=30, epsilon=0.1 * 0.1**2, n=1000)
        assert len(diagnosis.modes) == modes
        assert all(mode.low < 0.5 < mode.high for mode in diagnosis.modes)


def test_stiffness_is_the_largest_eigenvalue_also_of_a_guided_score():
    """Guidance from N(0, 1) to N(0, 0.01) has λ = w/(0.01 + σ²) − (w − 1)/(1 + σ²)."""
    cov = torch.tensor([[2.0, 1.9], [1.9, 2.0]])  # eigenvalues 3.9 and 0.1
    truth, wide, narrow = (Gaussian(torch.zeros(2), v) for v in (cov, 1.0, 0.01))
    options = {"sigmas": geometric(1.0, 0.3, 3), "steps": 2, "epsilon": 0.06, "n": 200}
    for level in diagnose(truth, truth, **options).levels:
        assert level.stiffness == pytest.approx(level.sigma**2 / (0.1 + level.sigma**2), rel=POWER)
    diagnosis = diagnose(guide(narrow, wide, 4.0), narrow, **options)
    for level in diagnosis.levels:
        slope = 4 / (0.01 + level.sigma**2) - 3 / (1 + level.sigma**2)
        assert level.stiffness == pytest.approx(slope * level.sigma**2, rel=POWER)
    assert diagnosis.unstable
    assert "stiffer than a true one" in diagnosis.verdicts[0]
    assert not diagnose(narrow, narrow, **options).unstable


def test_a_repelling_point_is_not_stiff():
    """Between two modes the score repels, with a larger slope than it attracts anywhere."""
    two = GaussianMixture(torch.tensor([[-3.0], [3.0]]), 0.01, torch.ones(2) / 2)
    between = lambda x, sigma: two(x - x.detach(), sigma)  # noqa: E731
    for level in diagnose(between, two, geometric(1, 0.99, 2), steps=1, epsilon=1e-4, n=99).levels:
        assert level.stiffness < 1


def test_score_error_by_level_and_region():
    truth, sigmas = Gaussian(torch.zeros(3), 1.0), geometric(2.0, 0.5, 3)

    def wrong(x, sigma):
        """Right but in the tails of the widest level, and a tenth too large at the narrowest."""
        factor = 1.1 if sigma < 0.6 else 1.0
        far = (x.norm(dim=1, keepdim=True) > 6.0) & (torch.as_tensor(sigma) > 1.5)
        return truth(x, sigma) * torch.where(far, 2.0, factor)

    diagnosis = diagnose(wrong, truth, sigmas, steps=2, epsilon=0.01, n=4000)
    top, middle, low = diagnosis.levels
    assert top.errors[1] == 0
    assert top.errors[3] > 0.5  # 1 of the samples that are far
    assert max(middle.errors) == 0
    assert low.errors == pytest.approx([0.01] * 4, rel=1e-5)  # 1.2e-7 over a tenth, squared
    # data stand for their own distribution; 1.2e-7 squared, × a few
    data = torch.randn(200, 2)
    diagnosis = diagnose(Empirical(data), data, sigmas, steps=5, epsilon=0.05, n=500)
    assert diagnosis.modes == ()
    assert all(max(level.errors) < 1e-10 for level in diagnosis.levels)


def test_wilsons_interval_is_scipys():
    for hits, n in ((0, 10), (3, 10)):
        truth = binomtest(hits, n).proportion_ci(method="wilson")
        # z has six decimals
        assert wilson(hits, n) == pytest.approx((truth.low, truth.high), abs=1e-6)
    assert all(wilson(0, n)[0] >= 0 and wilson(n, n)[1] <= 1 for n in range(1, 200))
