"""Each row of the table with the network's prediction in its paper.

For data N(centre, v) and a kernel N(αx₀, s²) all predictions are known, and so is the score:

    E[x₀|x_t] = αv·x_t/(α²v + s²)    E[z|x_t] = s·x_t/(α²v + s²)    ∇ₓ log q_σ = −u/(v + σ²)
"""

import dataclasses
import math
from functools import partial

import pytest
import torch
from torch import nn

from scorefield import geometric, karras
from scorefield import precondition as rows
from scorefield.model import ScoreModel
from scorefield.objectives import edm_weight
from scorefield.precondition import NCSN, VP, Precondition, SubVP, VPDiscrete, ddpm_sigmas

V = 0.3**2
LADDER = geometric(2.0, 0.01, 12, dtype=torch.float64)


def _clean(y, alpha, s):
    return alpha * V * y / (alpha**2 * V + s**2)


def _noise(y, alpha, s):
    return s * y / (alpha**2 * V + s**2)


def _v(y, alpha, s):
    return alpha * _noise(y, alpha, s) - s * _clean(y, alpha, s)


def _alpha(cond):
    """Song et al. 2021, eq. 33, with the β of their DDPM++."""
    time = cond / 999
    return torch.exp(-(time**2) * (20 - 0.1) / 4 - time * 0.1 / 2)


def _ddpm_alpha(cond):
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    return torch.cumprod(1 - betas, 0).sqrt()[cond.long()]


def _at(schedule, predict):
    """Return a prediction on a schedule of α, where α² + s² = 1."""
    return lambda y, cond: predict(y, schedule(cond), (1 - schedule(cond) ** 2).sqrt())


def _edm(y, cond):
    """Karras et al. 2022, table 1: D = c_skip·x + c_out·F(c_in·x)."""
    sigma, total = (4 * cond).exp(), (8 * cond).exp() + 0.5**2
    c_skip, c_out, c_in = 0.5**2 / total, sigma * 0.5 / total.sqrt(), 1 / total.sqrt()
    return (_clean(y / c_in, 1, sigma) - c_skip * y / c_in) / c_out


def _score(y, sigma):
    return -y / (V + sigma**2)


def _sigma_score(y, cond):
    return -_noise(y, 1, cond.exp())


def _velocity(y, time):
    return _noise(y, 1 - time, time) - _clean(y, 1 - time, time)


ON_LEVELS = partial(VPDiscrete, ddpm_sigmas())
DDPM = partial(_at, _ddpm_alpha)
EXACT = {
    "NCSN": (NCSN(LADDER), lambda y, i: _score(y, LADDER[i.long()])),
    "scaled score": (Precondition("scaled score", "log", 50.0, 0.01), _sigma_score),
    "score": (Precondition("score", "sigma", 50.0, 0.01), _score),
    "VE": (rows.VE(), lambda y, cond: _sigma_score(y / 2, cond)),
    "VEDiscrete": (rows.VEDiscrete(LADDER), lambda y, i: -_noise(y / 2, 1, LADDER[i.long()])),
    "VP": (VP(), _at(_alpha, _noise)),
    "VP, v": (VP(predicts="v"), _at(_alpha, _v)),
    "VPDiscrete": (ON_LEVELS(), DDPM(_noise)),
    "VPDiscrete, clean": (ON_LEVELS(predicts="clean"), DDPM(_clean)),
    "SubVP": (SubVP(), lambda y, cond: _noise(y, _alpha(cond), 1 - _alpha(cond) ** 2)),
    "EDM": (rows.EDM(), _edm),
    "FlowMatching": (rows.FlowMatching(), _velocity),
}


# in float64; worst are s² = 1 − α² = 1e-6 from a time and s = 1 − α² = 1e-6: 2e-16/1e-6 = 2e-10
ROUNDING = 1e-9


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("centre", [0.0, 0.5])
@pytest.mark.parametrize("scale", [1.0, 2.0, -0.5])
def test_a_perfect_prediction_gives_the_score(name, centre, scale):
    """For y = scale·x + ¼ ~ N(centre, v), x ~ N((centre − ¼)/scale, v/scale²)."""
    published, predict = EXACT[name]
    row = dataclasses.replace(published, centre=centre).rescale(scale, 0.25)
    if row.levels is None:
        sigma = karras(row.sigma_max, row.sigma_min, 10, dtype=torch.float64)
    else:
        sigma = row.levels[:: max(1, len(row.levels) // 10)]
    mean, variance = (centre - 0.25) / scale, (V / scale**2 + sigma**2)[:, None]
    x = mean + variance.sqrt() * torch.randn(len(sigma), 3, dtype=torch.float64)
    net = nn.Module()
    net.forward = lambda y, cond: predict(y, cond.to(y)[:, None])
    model = ScoreModel(net, row)
    torch.testing.assert_close(model(x, sigma), -(x - mean) / variance, rtol=ROUNDING, atol=0)
    assert model.sigma_max * abs(scale) == published.sigma_max
    assert model.sigma_min * abs(scale) == published.sigma_min
    assert row.levels is None or torch.equal(model.round(sigma), sigma)


def test_times_span_the_range_of_sigma_and_do_not_cancel_at_small_sigma():
    for row in (VP(), SubVP()):
        ends = torch.tensor([row.sigma_max, row.sigma_min], dtype=torch.float64)
        # 2e-16 × a few operations
        assert (row(ends).cond / 999).tolist() == pytest.approx([1, 1e-5], rel=1e-14)
    # log(1 + σ²) and its root to the last digits, where float32 would have none left
    sigma = torch.tensor([1e-6], dtype=torch.float64)
    # t = I/β_min for I = σ² and σ, less a share of 20I/2β_min² = 1e-9 and 1e-3
    assert VP()(sigma).cond.item() / 999 == pytest.approx(1e-12 / 0.1, rel=2e-9)
    assert SubVP()(sigma).cond.item() / 999 == pytest.approx(1e-6 / 0.1, rel=2e-3)


def test_ncsn_takes_the_nearest_level_and_ncsnv2_none():
    """Between levels σ·s is constant, because it hardly depends on σ (Song & Ermon 2019, §4.2)."""
    row = NCSN(LADDER)
    between = (LADDER[3] * LADDER[4]).sqrt()
    for sigma, index in ((LADDER[3], 3), (between * 1.01, 3), (between / 1.01, 4)):
        skip, out, scale, cond = row(sigma[None])
        assert (skip, scale, cond) == (0, 1, index)
        assert out == LADDER[index] / sigma
    assert rows.NCSNv2()(torch.tensor([0.25], dtype=torch.float64)) == (0, 4, 1, None)
    with pytest.raises(ValueError, match="strictly decrease"):
        NCSN(LADDER.flip(0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        *((partial(rows.EDM, sigma_data), "sigma_data") for sigma_data in (-1.0, 0.0, math.inf)),
        (partial(rows.EDM, centre=math.nan), "centre=nan"),
        (partial(rows.EDM, "1"), "sigma_data='1': give a finite number"),
        (partial(rows.VP, "1"), "beta_min='1': give a finite number"),
        (partial(rows.VP, -1.0), r"beta_min=-1.0, beta_max=20.0: they must increase from > 0"),
        (partial(rows.SubVP, 1.0, math.inf), "beta_max=inf"),
        *((partial(rows.VP().rescale, scale), "scale=") for scale in (0.0, math.nan)),
        *((partial(rows.NCSN, x), "sigmas must be") for x in ([1.0], torch.ones(0), torch.eye(2))),
        *((partial(edm_weight, sigma_data), "sigma_data") for sigma_data in (-1.0, 0.0, math.inf)),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_numbers_out_of_range_are_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
