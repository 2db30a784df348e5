import copy
import math
import warnings
from functools import partial

import pytest
import torch
from test_kernels import error, error_in_16_bits
from torch import nn

from scorefield import precondition as rows
from scorefield.model import ScoreModel
from scorefield.nn import MLP, RefineNet
from scorefield.noise import geometric, karras
from scorefield.objectives import denoising
from scorefield.precondition import EDM, NCSN, VE, NCSNv2
from scorefield.prior import Prior
from scorefield.samplers import euler, integrate
from scorefield.score import Score, guide

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


POINT = Prior(torch.zeros(2), torch.ones(2))
CLASSES = ScoreModel(MLP(3, width=8, blocks=1, labels=3), EDM())
X = torch.rand(2, 3)
ROWS = [
    *(row(LADDER) for row in (NCSN, rows.VEDiscrete, rows.VPDiscrete)),
    *(rows.VPDiscrete(LADDER, predicts=predicts) for predicts in ("v", "clean")),
    *(row() for row in (NCSNv2, VE, EDM, rows.FlowMatching, rows.VP, rows.SubVP)),
    *(rows.VP().rescale(), VE(centre=0.5), rows.Precondition("score", "sigma", 9.0, 0.01)),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.predicts}, {row.clock}")
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


@pytest.mark.parametrize("sigma", [0.03, torch.tensor(0.03), torch.full((3,), 0.03)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("own", [torch.float64, torch.float32, torch.bfloat16])
def test_types_are_cast_at_the_boundary(sigma, dtype, own):
    model, x = ScoreModel(Recorder(own), VE()), torch.rand(3, 2).to(dtype)
    score = model(x, sigma)
    y, cond, label = model.net.inputs
    assert score.dtype == dtype
    assert (y.dtype, cond.dtype) == (own, torch.promote_types(own, torch.float32))
    assert (cond.shape, label) == ((3,), None)
    assert cond[0].item() == pytest.approx(math.log(0.03), rel=1e-6)
    # F(2x)/σ with F = −2x; to a few roundings of bfloat16, 2⁻⁸
    torch.testing.assert_close(score.double(), -2 / 0.03 * x.double(), rtol=0.01, atol=0)


@pytest.mark.parametrize("label", [3, torch.tensor(3), torch.tensor([3, 3])])
def test_a_class_enters_by_closure(label):
    model, x = _model(shape=(2,)), torch.rand(2, 2)
    score = model.given(label)
    assert isinstance(score, Score)
    assert (score.shape, score.device) == ((2,), torch.device("cpu"))
    torch.testing.assert_close(score(x, 0.5), 3 * model(x, 0.5))
    torch.testing.assert_close(guide(score, model, 2.0)(x, 0.5), 5 * model(x, 0.5))
    denoising(score, x, 0.5).sum().backward()
    assert model.net.gain.grad is not None


CONDITIONAL = ScoreModel(MLP(3, width=8, blocks=1, labels=3, conditions={"y": [2]}).eval(), EDM())
CONDITIONAL.net.head.weight.data.normal_()


def test_conditions_are_read_by_name_for_all_samples_or_for_each():
    x, y = torch.rand(2, 3), torch.tensor([0.3, -1.0])
    alone = CONDITIONAL.given(y)(x, 0.5)
    assert torch.equal(alone, CONDITIONAL.given({"y": y.expand(2, 2)})(x, 0.5))
    assert not torch.equal(alone, CONDITIONAL(x, 0.5))
    both = CONDITIONAL.given({"label": "2", "y": y.double()})(x, 0.5)
    assert torch.equal(both, CONDITIONAL(x, 0.5, {"label": torch.tensor([2, 2]), "y": y}))
    assert not torch.equal(both, alone)
    assert torch.equal(CONDITIONAL.given(2)(x, 0.5), CONDITIONAL.given({"label": 2})(x, 0.5))
    denoising(CONDITIONAL.given(y), x, 0.5).sum().backward()
    assert CONDITIONAL.net.conditions["y"].weight.grad.abs().sum() > 0


def test_a_condition_of_one_number_is_read_from_numbers_lists_and_arrays():
    model = ScoreModel(MLP(3, width=8, blocks=1, conditions={"y": [1]}).eval(), EDM())
    model.net.head.weight.data.normal_()
    x, rows = torch.rand(2, 3), torch.tensor([0.5, 2.0])
    score = model.given({"y": torch.full((2, 1), 0.5)})(x, 0.5)
    for one in (0.5, [0.5], rows[0], rows[:1], rows[:1].numpy(), {"y": 0.5}):
        assert torch.equal(model.given(one)(x, 0.5), score)
    scores = model.given({"y": rows[:, None]})(x, 0.5)
    assert not torch.equal(scores, score)
    for each in (rows, rows.tolist(), rows.numpy(), {"y": rows}):
        assert torch.equal(model.given(each)(x, 0.5), scores)
    assert torch.equal(model.given(2)(x, 0.5)[1], scores[1])
    with pytest.raises(ValueError, match=r"'y'=\{\}: give a number, or one for each sample"):
        model.given({"y": {}})


def test_round_moves_a_grid_to_the_levels_of_the_training():
    grid = karras(5.0, 0.001, 40)
    rounded = _model(NCSN(LADDER)).round(grid)
    assert torch.isin(rounded, LADDER).all()
    assert rounded[0] == 1
    assert (rounded.diff() < 0).all()
    rounded = _model(VE(2.0, 0.1)).round(grid)
    assert (rounded.diff() < 0).all()
    assert rounded[[0, -1]].tolist() == pytest.approx([2, 0.1])
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


LABELS = ["a", 0.5, True, [0], torch.zeros(3).long(), torch.zeros(2), torch.zeros(2, 1).long()]
"""No classes of a batch of two."""


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        *((partial(_model(), X, sigma), "above 0") for sigma in (0.0, -1.0, math.nan, math.inf)),
        (lambda: _model()(X, torch.tensor([0.5, 0.0])), "above 0"),
        (lambda: _model()(X, torch.ones(3)), "sigma has shape"),
        *((partial(CLASSES.given(label), X, 0.5), "3 classes, 0 to 2") for label in (3, -1)),
        (lambda: CLASSES.given(torch.tensor([0, 3]))(X, 0.5), "3 classes, 0 to 2"),
        *((partial(CLASSES, X, 0.5, label), "label=.* whole number") for label in LABELS),
        (lambda: ScoreModel(RefineNet(1, 4), VE()).given(0), "RefineNet, has no classes"),
        (lambda: CLASSES.given(torch.zeros(2)), "the model has none: give a mapping"),
        (lambda: CONDITIONAL.given({"z": X}), "condition z does not exist: .* y"),
        (lambda: CONDITIONAL.given(torch.tensor([math.nan, 0.0])), "y has NaN"),
        (lambda: CONDITIONAL.given(torch.zeros(3))(X, 0.5), "'y' has shape .* each of 2 samples"),
        (lambda: RefineNet(1, 4, 5)(torch.rand(2, 1, 4, 4)), "give each sample's index"),
        (lambda: ScoreModel(RefineNet(1, 4, 5), NCSN(LADDER)), "levels=5, but the ladder has 10"),
        (lambda: _model(prior=POINT, shape=(3,)), "leave shape out"),
        (lambda: integrate(euler, _model(shape=(3,)), torch.zeros(2, 2), LADDER), "score is for"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_prior_moves_with_the_model_and_gives_its_shape():
    model = _model(prior=POINT).double()
    assert model.prior.mean.dtype == model.prior.cov.dtype == torch.float64
    assert model.shape == (2,)
    meta = _model(prior=Prior(torch.zeros(2), torch.tensor(1.0), torch.ones(2, 1))).to("meta")
    assert meta.device == meta.prior.factor.device == torch.device("meta")
    assert torch.equal(copy.deepcopy(model).prior.mean, model.prior.mean)
    assert _model().shape is None
    assert _model(shape=(3, 8, 8)).shape == torch.Size([3, 8, 8])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("row", "sigma"),
    [(NCSN(LADDER), torch.tensor([0.3, 0.02])), (NCSN(LADDER), 0.3), (EDM(centre=0.5), 0.3)],
)
def test_a_model_is_one_graph_to_a_compiler(row, sigma):
    model, x = _model(row), torch.rand(2, 3)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, sigma), model(x, sigma))


def test_a_network_without_parameters_is_where_x_is():
    model = ScoreModel(nn.Flatten(0, 0), NCSNv2())
    assert model.device is None
    model.net.forward = lambda y, cond: -y
    assert model(torch.rand(2, 2, dtype=torch.float64), 1.0).dtype == torch.float64


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
    assert error(score, expected) < error_in_16_bits(net, dtype)
