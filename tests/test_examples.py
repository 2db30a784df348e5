"""Each example, run as a user runs it."""

import re
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """Return the output and the picture of a small run."""
    out = tmp_path_factory.mktemp("mixture") / "small.png"
    command = [sys.executable, "-W", "error", EXAMPLES / "mixture.py", "--n", "500", "--out", out]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout, out


def test_each_method_finds_the_weight_that_it_can(mixture):
    row = re.compile(r"^\w[\w, ]+? +(\d+)  ([\d.]+), 95 % in ([\d.]+) to ([\d.]+)", re.M)
    table = [tuple(map(float, numbers)) for numbers in row.findall(mixture[0])]
    exact, plain, annealed, heun = table
    for _, weight, low, high in (exact, heun):
        assert low <= 0.2 <= high
        assert low < weight < high
    # half of the square where it starts is nearer to the small mode: 0.5, less 4.5 standard errors
    assert plain[1] > 0.4
    assert abs(annealed[1] - 0.2) < 5 * (0.2 * 0.8 / 500) ** 0.5  # standard errors
    assert [row[0] for row in (exact, plain, heun)] == [0, 1000, 63]
    assert 900 < annealed[0] <= 1000
    assert f"wrote {mixture[1]}" in mixture[0]


def test_the_picture_shows_four_clouds_in_two_colours(mixture):
    red, _, blue = np.moveaxis(matplotlib.image.imread(mixture[1])[..., :3], -1, 0)
    half, quarter = len(red) // 2, len(red) // 4
    orange_share = []
    for top in (0, half):
        for left in (0, half):
            upper = np.s_[top : top + quarter, left + quarter : left + half]
            lower = np.s_[top + quarter : top + half, left : left + quarter]
            blues = (blue[upper] - red[upper] > 0.3).sum()
            oranges = (red[lower] - blue[lower] > 0.3).sum()
            assert blues > 500  # 250 points at least, of several pixels each: 2,700 or more
            orange_share.append(oranges / (oranges + blues))
    # points overlap: the shares 0.2 and, of plain Langevin, 0.5 are 0.24 to 0.29 and 0.53 of pixels
    assert max(orange_share) == orange_share[1] > 0.4
    assert min(orange_share) > 0.2
