"""Augmentation: the transformations against exact ones, their condition and their randomness."""

import math

import pytest
import torch
from test_faults import assert_same_end

from scorefield import load
from scorefield.data import Arrays, Batches
from scorefield.data.augment import condition_vector, random_moves, transform
from scorefield.runs import resume, start
from scorefield.runs.config import override
from scorefield.runs.presets import PRESETS


def _moves(n=1, **values):
    names = ["mirror", "flip", "a", "theta", "phi", "b", "right", "down"]
    moves = torch.zeros(n, 8)
    for name, value in values.items():
        moves[:, names.index(name)] = value
    return moves


def _images(n=1, size=8):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def _smooth(size=40):
    """A wide bump next to the centre, which resampling changes little."""
    y, x = torch.meshgrid(*[torch.arange(size) - size / 2 + 0.5] * 2, indexing="ij")
    return torch.exp(-((x - 1) ** 2 + (y + 2) ** 2) / 16)[None, None]


def test_mirrored_and_untouched_images_keep_their_bits():
    x = _images()
    assert torch.equal(transform(x, _moves()), x)
    assert torch.equal(transform(x, _moves(mirror=1)), x.flip(3))
    assert torch.equal(transform(x, _moves(flip=1)), x.flip(2))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_quarter_turn_is_rot90(turns):
    x = _images()
    turned = transform(x, _moves(theta=turns * math.pi / 2))
    # a place of 8 pixels rounds by 4 · 8 · 2⁻²⁴, on a slope of at most 2 a pixel
    torch.testing.assert_close(turned, x.rot90(turns, (2, 3)), atol=4e-6, rtol=0)


def test_a_shift_by_whole_pixels_moves_them_right_and_down():
    x = _images()
    moved = transform(x, _moves(right=2 / 8, down=1 / 8))
    torch.testing.assert_close(moved[..., 1:, 2:], x[..., :-1, :-2], atol=4e-6, rtol=0)


@pytest.mark.parametrize(
    ("there", "back"),
    [
        ({"theta": 0.7}, {"theta": -0.7}),
        ({"a": 0.3}, {"a": -0.3}),
        ({"b": 0.2, "phi": 0.5}, {"b": -0.2, "phi": 0.5}),
        ({"right": 0.06, "down": -0.04}, {"right": -0.06, "down": 0.04}),
    ],
)
def test_a_transformation_and_its_inverse_give_the_image_back(there, back):
    x = _smooth()
    moved = transform(x, _moves(**there))
    assert (moved - x).abs().max() > 0.1
    # torch's cubics miss a line by at most 0.048 pixels: twice, on slopes of 0.215 in two axes
    torch.testing.assert_close(
        transform(moved, _moves(**back)), x, atol=2 * 2**0.5 * 0.048 * 0.215, rtol=0
    )


def test_a_larger_image_is_larger_and_a_stretch_keeps_the_area():
    x = _smooth()
    areas = [transform(x, _moves(**m)).sum() / x.sum() for m in ({"a": 0.5}, {"b": 0.3, "phi": 1})]
    assert areas == pytest.approx([2, 1], rel=0.02)  # 2^0.5 in each direction


def test_the_condition_has_nine_numbers_and_is_zero_for_the_data_alone():
    moves = random_moves(0.5, 0, 3, range(4000), torch.device("cpu"))
    c = condition_vector(moves)
    assert c.shape == (4000, 9)
    still = (moves == 0).all(1)
    assert torch.equal(still, (c == 0).all(1))
    # ½ of the coin, ¾ without upside down, ½ each of four; bounds are 4 standard errors
    share = 0.5 * 0.75 * 0.5**4
    assert still.float().mean() == pytest.approx(share, abs=4 * (share / 4000) ** 0.5)
    rates = (c != 0).float().mean(0)
    expected = torch.tensor([0.5, 0.25, *[0.5] * 7])
    torch.testing.assert_close(rates, expected, atol=4 * (0.25 / 4000) ** 0.5, rtol=0)
    spread = torch.stack([moves[moves[:, i] != 0, i].std() for i in (2, 5, 6, 7)])
    expected = torch.tensor([0.2, 0.2, 0.125, 0.125])
    torch.testing.assert_close(spread, expected, atol=0, rtol=4 / 4000**0.5)


def test_batches_transform_the_same_rows_alike_in_any_number_of_processes():
    source = Arrays((255 * _images(50)).to(torch.uint8), torch.arange(50) % 3)
    plain = Batches(source, 16, seed=1)(4)
    whole = Batches(source, 16, seed=1, augment=0.12)(4)
    parts = [Batches(source, 16, seed=1, augment=0.12, rank=i, world=3)(4) for i in range(3)]
    assert torch.equal(torch.cat([part.x for part in parts]), whole.x)
    for name, values in whole.labels.items():
        assert torch.equal(torch.cat([part.labels[name] for part in parts]), values)
    assert torch.equal(whole.labels["label"], plain.labels)
    still = (whole.labels["augment"] == 0).all(1)
    same = (whole.x == plain.x).flatten(1).all(1)
    assert torch.equal(still, same)
    assert 0 < still.sum() < 16


def test_transforming_on_a_device_copies_and_reads_nothing(device, growth):
    source = Arrays(_images(20)).to(device)

    def run(steps):
        stream = Batches(source, 8, augment=0.5, device=device).stream()
        return [next(stream) for _ in range(steps)]

    assert not growth(run)


def test_a_model_without_the_condition_is_that_of_the_data_alone(tmp_path):
    small = ["network.width=8", "sampling.steps=2", "training.batch=4", "keeping.checkpoint=2"]
    experiment = override(PRESETS["digits"], [*small, "data.augment=0.5", "training.steps=4"])
    list(start(experiment, tmp_path / "whole"))
    for update in start(experiment, tmp_path / "run"):
        if update.step == 3:
            break
    list(resume(tmp_path / "run"))
    assert_same_end(tmp_path / "run", tmp_path / "whole")
    model = load(tmp_path / "run")
    assert model.net.arguments["conditions"] == {"augment": [9]}
    x = _images()[:, :1]
    scores = [model.given({"augment": c})(x, 1.0) for c in (torch.zeros(9), torch.ones(9))]
    assert torch.equal(model(x, 1.0), scores[0])
    assert not torch.equal(model(x, 1.0), scores[1])


def test_vectors_and_improper_probabilities_are_refused():
    for source, augment, message in (
        (Arrays(torch.zeros(4, 2)), 0.1, "augment is for images"),
        (Arrays(_images(4)), 1.5, "augment=1.5: give a probability"),
    ):
        with pytest.raises(ValueError, match=message):
            Batches(source, 2, augment=augment)
