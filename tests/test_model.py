import copy
import math
import re
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from scorefield import (
    Discrete,
    Prior,
    Score,
    annealed,
    denoising,
    euler,
    final,
    geometric,
    guide,
    integrate,
    karras,
)
from scorefield.model import ScoreModel
from scorefield.nn import MLP, RefineNet
from scorefield.precondition import (
    EDM,
    NCSN,
    VE,
    VP,
    CleanDiscrete,
    FlowMatching,
    NCSNv2,
    Plain,
    Rescaled,
    SubVP,
    VEDiscrete,
    VPDiscrete,
    VPrediction,
    VPredictionDiscrete,
)

LADDER = geometric(1.0, 0.01, 10)


class Recorder(nn.Module):
    """Return −y, and record the inputs."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.gain = nn.Parameter(torch.ones((), dtype=dtype))

    def forward(self, y, cond, label=None):
        self.inputs = y, cond, label
        return -self.gain * y * (1 if label is None else label.to(y)[:, None])


def _model(row=None, **options):
    return ScoreModel(Recorder(), VE() if row is None else row, **options)


def test_a_model_is_a_score_for_samplers_and_training():
    torch.manual_seed(0)
    prior = Prior(torch.full((1, 8, 8), 0.5), torch.tensor(0.1))
    model = ScoreModel(RefineNet(1, 4, 10), NCSN(LADDER), prior=prior)
    assert isinstance(model, Score)
    sample = final(integrate(euler, model, model.prior.sample(2, LADDER[0]), LADDER))
    assert sample.shape == (2, *model.shape)
    loss = annealed(denoising, Discrete(LADDER))(model, torch.rand(3, 1, 8, 8))
    loss.mean().backward()
    assert all(p.grad is not None for p in model.parameters())


ROWS = [
    *(row(LADDER) for row in (NCSN, VEDiscrete, VPDiscrete, VPredictionDiscrete, CleanDiscrete)),
    *(row() for row in (NCSNv2, VE, Plain, EDM, FlowMatching, VP, VPrediction, SubVP)),
    VE(centre=0.5, scale=2.0),
    Rescaled(VP()),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_one_sigma_for_all_is_bit_identical_to_one_for_each(row):
    model, x = _model(row), torch.rand(3, 2)
    expected = model(x, torch.full((3,), 0.07, dtype=torch.float64))
    y, cond, _ = model.net.inputs
    for sigma in (0.07, torch.tensor(0.07, dtype=torch.float64)):
        assert torch.equal(model(x, sigma), expected)
        inputs = model.net.inputs
        assert torch.equal(inputs[0], y)
        assert inputs[1] is None if cond is None else torch.equal(inputs[1], cond)


def test_one_sigma_for_all_works_on_another_device():
    model = ScoreModel(Recorder(), EDM()).to("meta")
    for sigma in (0.5, torch.tensor(0.5), torch.tensor(0.5, requires_grad=True)):
        assert model(torch.empty(3, 2, device="meta"), sigma).device.type == "meta"
        cond = model.net.inputs[1]
        assert (cond.device.type, cond.shape) == ("meta", (3,))
        assert cond.requires_grad == (isinstance(sigma, torch.Tensor) and sigma.requires_grad)


@pytest.mark.parametrize("sigma", [0.5, torch.tensor(0.5), torch.full((3,), 0.5)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_types_are_cast_at_the_boundary(sigma, dtype):
    model, x = _model(), torch.rand(3, 2).to(dtype)
    score = model(x, sigma)
    assert score.dtype == dtype
    y, cond, label = model.net.inputs
    assert y.dtype == cond.dtype == torch.float32
    assert cond.shape == (3,)
    assert label is None
    torch.testing.assert_close(score.double(), -2 * x.double(), rtol=0.01, atol=0)


@pytest.mark.usefixtures("unchecked")
def test_a_wrong_number_of_levels_is_named():
    with pytest.raises(ValueError, match="sigma has shape"):
        _model()(torch.rand(3, 2), torch.ones(2))


def test_an_index_stays_an_index():
    model = _model(NCSN(LADDER))
    model(torch.rand(10, 2), LADDER)
    assert model.net.inputs[1].tolist() == list(range(10))


@pytest.mark.parametrize("label", [3, torch.tensor(3), torch.tensor([3, 3])])
def test_a_class_enters_by_closure(label):
    model, x = _model(shape=(2,)), torch.rand(2, 2)
    given = model.given(label)
    assert isinstance(given, Score)
    assert given.shape == (2,)
    assert given.device == torch.device("cpu")
    torch.testing.assert_close(given(x, 0.5), 3 * model(x, 0.5))
    torch.testing.assert_close(guide(given, model, 2.0)(x, 0.5), 5 * model(x, 0.5))
    denoising(given, x, 0.5).sum().backward()
    assert model.net.gain.grad is not None


def test_round_moves_a_grid_to_the_levels_of_the_training():
    grid = karras(5.0, 0.001, 40)
    rounded = _model(NCSN(LADDER)).round(grid)
    assert torch.isin(rounded, LADDER).all()
    assert (rounded.diff() < 0).all()
    assert rounded[0] == 1
    rounded = _model(VE(2.0, 0.1)).round(grid)
    assert (rounded.diff() < 0).all()
    assert rounded[0] == 2
    assert rounded[-1] == pytest.approx(0.1)
    assert torch.isin(rounded[1:-1], grid).all()


def test_beyond_its_range_a_model_warns_once():
    model, x = _model(NCSN(LADDER)), torch.rand(2, 2)
    with pytest.warns(UserWarning, match=r"sigma from 3 to 3 is .* 0\.01 to 1"):
        model(x, 3.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(x, 3.0)
        _model(NCSN(LADDER))(x, torch.tensor([1.0, 0.01]))
        _model(VE(1.0, 0.01))(x, LADDER[-1])  # a rounding away
    with pytest.warns(UserWarning, match=r"from 0\.001 to 0\.5"):
        _model(NCSN(LADDER))(x, torch.tensor([0.5, 0.001]))


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), torch.tensor([0.5, 0.0])])
def test_sigma_must_be_positive(sigma):
    with pytest.raises(ValueError, match="above 0"):
        _model()(torch.rand(2, 2), sigma)


def test_the_prior_moves_with_the_model():
    prior = Prior(torch.zeros(2), torch.ones(2))
    model = _model(prior=prior).double()
    assert model.prior.mean.dtype == model.prior.cov.dtype == torch.float64
    assert model.shape == (2,)
    meta = _model(prior=Prior(torch.zeros(2), torch.tensor(1.0), torch.ones(2, 1))).to("meta")
    assert meta.device == meta.prior.factor.device == torch.device("meta")
    twin = copy.deepcopy(model)
    assert torch.equal(twin.prior.mean, model.prior.mean)


def test_shape_comes_from_the_prior_or_the_argument():
    assert _model().shape is None
    assert _model(shape=(3, 8, 8)).shape == torch.Size([3, 8, 8])
    with pytest.raises(ValueError, match="leave shape out"):
        _model(prior=Prior(torch.zeros(2), torch.ones(2)), shape=(3,))
    with pytest.raises(ValueError, match="score is for"):
        integrate(euler, _model(shape=(3,)), torch.zeros(2, 2), LADDER)


def test_a_network_without_parameters_is_where_x_is():
    model = ScoreModel(nn.Flatten(0, 0), NCSNv2())
    assert model.device is None
    model.net.forward = lambda y, cond: -y
    assert model(torch.rand(2, 2, dtype=torch.float64), 1.0).dtype == torch.float64


def test_an_untrained_edm_has_the_score_of_a_gaussian():
    """F ≈ 0 leaves skip·u, the score of N(0, σ_d² + σ²)."""
    net = Recorder()
    net.gain.data.zero_()
    x = torch.rand(4, 2)
    score = ScoreModel(net, EDM(0.5))(x, 2.0)
    torch.testing.assert_close(score, -x / (0.5**2 + 2.0**2))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("row", "sigma"),
    [(NCSN(LADDER), torch.tensor([0.3, 0.02])), (NCSN(LADDER), 0.3), (EDM(centre=0.5), 0.3)],
    ids=["index, tensor", "index, float", "float"],
)
def test_a_model_is_one_graph_to_a_compiler(row, sigma):
    model, x = _model(row), torch.rand(2, 3)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, sigma), model(x, sigma))


def test_derivatives_go_through_a_model():
    model, x, w = _model(EDM(), shape=(3,)), torch.rand(2, 3), torch.rand(2, 3)
    _, pushed = torch.func.jvp(lambda x: model(x, 0.3), (x,), (w,))
    torch.testing.assert_close(pushed, model(w, 0.3))  # the recorder's answer is linear


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("levels", [10, None])
def test_a_refinenet_runs_in_16_bits(levels, dtype):
    net, x = RefineNet(1, 8, levels), torch.rand(2, 1, 8, 8)
    model = ScoreModel(net, NCSN(LADDER) if levels else NCSNv2())
    with torch.no_grad():
        expected = model(x, 0.1)
        score = model.to(dtype)(x, 0.1)
    # bfloat16 has 2⁻⁸, over about 60 layers √60 × 2⁻⁸ = 0.03
    assert ((score - expected).norm() / expected.norm()).item() < 0.05


def test_a_network_gets_x_in_its_own_type_and_sigma_in_float32():
    model = ScoreModel(Recorder(torch.bfloat16), VE())
    assert model(torch.rand(3, 2), 0.03).dtype == torch.float32
    assert model.net.inputs[0].dtype == torch.bfloat16
    assert model.net.inputs[1].dtype == torch.float32
    assert model.net.inputs[1][0].item() == pytest.approx(math.log(0.03), rel=1e-6)
    model.double()(torch.rand(3, 2), 0.03)
    assert model.net.inputs[1].dtype == torch.float64


@pytest.mark.parametrize("label", [3, -1, 7, torch.tensor([0, 3])])
def test_a_label_out_of_range_is_named(label):
    model = ScoreModel(MLP(3, width=8, blocks=1, labels=3), EDM())
    with pytest.raises(ValueError, match="the network has 3 classes, 0 to 2"):
        model.given(label)(torch.rand(2, 3), 0.5)


def test_a_label_for_a_network_without_classes_is_refused():
    with pytest.raises(ValueError, match="label=0: the network, RefineNet, has no classes"):
        ScoreModel(RefineNet(1, 4, 10), NCSN(LADDER)).given(0)


def test_a_table_of_levels_must_fit_the_ladder():
    with pytest.raises(ValueError, match="levels=5, but the ladder has 10"):
        ScoreModel(RefineNet(1, 4, 5), NCSN(LADDER))


WARNED = """
import torch
from scorefield import EDM, MLP, ScoreModel, euler, final, integrate

def model():
    return ScoreModel(MLP(2, width=8, blocks=1, labels=2), EDM())

x = torch.rand(2, 2)
model()(x, 100.0)
model().given(1)(x, 100.0)
final(integrate(euler, model(), x, torch.tensor([100.0, 50.0])))
"""


def test_the_warning_points_at_the_users_code(tmp_path):
    """In a process of its own: the checks of shapes are frames of other packages."""
    (tmp_path / "asks.py").write_text(WARNED)
    run = [sys.executable, "-W", "always", tmp_path / "asks.py"]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    lines = re.findall(r"asks.py:(\d+): UserWarning: sigma from", done.stderr)
    assert lines == ["9", "10", "11"], done.stderr
