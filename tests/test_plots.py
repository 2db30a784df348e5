"""Pictures, read back from what is on the axes."""

import math

import torch
from matplotlib.contour import QuadContourSet
from matplotlib.path import Path
from matplotlib.quiver import Quiver

from scorefield import Gaussian
from scorefield.show import plots

MEAN = torch.tensor([3.0, -2.0])


def test_a_field_has_arrows_along_the_score_and_contours_that_hold_their_share():
    oracle = Gaussian(MEAN, torch.tensor([1.0, 0.25]))
    _, (axes,) = plots.panels(1, 1)
    plots.field(axes, oracle, 0.5, limit=8, log_prob=oracle.log_prob)
    (arrows,) = [artist for artist in axes.collections if isinstance(artist, Quiver)]
    x = torch.tensor(arrows.get_offsets().tolist())
    heading = torch.tensor([arrows.U.tolist(), arrows.V.tolist()]).T
    score = oracle(x, 0.5)
    torch.testing.assert_close(heading, score / score.norm(dim=1, keepdim=True))
    assert x.abs().max() < 8
    assert len(x) == 15**2
    (contours,) = [artist for artist in axes.collections if isinstance(artist, QuadContourSet)]
    samples = oracle.sample(20_000, 0.5).numpy()
    outlines = [max(path.to_polygons(), key=len) for path in contours.get_paths()]
    shares = [Path(outline).contains_points(samples).mean() for outline in outlines]
    # four standard errors, and two cells of (16/199)² where the density is 0.2, at the mode
    for share, expected in zip(shares, (0.99, 0.9, 0.5), strict=True):
        assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / 20_000) + 0.0026


def test_scatter_shows_the_first_points_in_their_colours():
    _, (axes,) = plots.panels(1, 1)
    x = torch.randn(plots.MAX_POINTS + 10, 2)
    kind = torch.arange(len(x)) % 2
    plots.scatter(axes, x, kind)
    (points,) = axes.collections
    assert torch.equal(torch.tensor(points.get_offsets().tolist()), x[: plots.MAX_POINTS])
    points.update_scalarmappable()
    shown = {tuple(rgb) for rgb in (points.get_facecolors()[:2, :3] * 255).round().astype(int)}
    assert shown == {tuple(bytes.fromhex(colour[1:])) for colour in plots.COLOURS[:2]}


def test_a_frontier_shows_and_names_each_curve_apart_from_what_is_far_off():
    names = [f"sampler {i}" for i in range(25)]
    curves = {name: [(4, 1e4, 9e3, 2e4), (40, 1 + i, 1 + i, 2 + i)] for i, name in enumerate(names)}
    figure = plots.frontier(curves, "distance", "evaluations", floor=0.9)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [*names, "real"]
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines[:21]}) == 21
    assert axes.get_ylim() == (0.8 * 0.9, 10.0)
    figure.draw_without_rendering()
    legend = axes.get_legend().get_window_extent()
    assert not legend.overlaps(axes.get_window_extent())
    assert figure.bbox.containsx(legend.x1)


def test_categories_of_all_sets_are_drawn():
    letters = "abcdefghij"
    tables = {
        "few": {"real": ["10", "10"], "samples": ["9", "10"]},
        "many": {"real": ["j", *letters[:8]], "samples": ["i"] * 9},
    }
    figure = plots.columns(tables, {"few": ("9", "10"), "many": tuple(letters)})
    few, many, *_ = ([label.get_text() for label in a.get_xticklabels()] for a in figure.axes)
    assert few == ["9", "10"]
    assert many == ["i", *letters[:7]]
    assert [p.get_data().values.tolist() for p in figure.axes[0].patches] == [[0, 1], [0.5, 0.5]]
