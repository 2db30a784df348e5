"""Each example, run as a user runs it."""

import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_each_method_finds_the_weight_that_it_can(tmp_path):
    out = tmp_path / "small.png"
    command = [sys.executable, "-W", "error", EXAMPLES / "mixture.py", "--n", "500", "--out", out]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    row = re.compile(r"^\w[\w, ]+? +(\d+)  ([\d.]+), 95 % in ([\d.]+) to ([\d.]+)", re.M)
    table = [tuple(map(float, numbers)) for numbers in row.findall(result.stdout)]
    exact, plain, annealed, heun = table
    for _, weight, low, high in (exact, heun):
        assert low <= 0.2 <= high
        assert low < weight < high
    # half of the square where it starts is nearer to the small mode: 0.5, less 4.5 standard errors
    assert plain[1] > 0.4
    assert abs(annealed[1] - 0.2) < 5 * (0.2 * 0.8 / 500) ** 0.5  # standard errors
    assert [row[0] for row in (exact, plain, heun)] == [0, 1000, 63]
    assert 900 < annealed[0] <= 1000
    assert f"wrote {out}" in result.stdout
    assert len(Image.open(out).convert("RGB").getcolors(2**20)) > 2
