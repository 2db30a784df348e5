"""Two of the examples and the notebook, as a user runs them; `make docs` runs all examples."""

import json
import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

from PIL import Image

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def test_corrected_kernels_have_no_bias_and_log_z_is_within_its_error(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / "corrected.py"), run_name="__main__")
    shown, errors = capsys.readouterr()
    assert errors == ""
    means = dict(re.findall(r"^(\w+) .*density (-[\d.]+)", shown, re.M))
    exact, *others, biased = (float(means[n]) for n in ("exact", "mala", "hmc", "langevin"))
    assert all(abs(mean - exact) < 0.12 for mean in others)  # four standard errors
    assert biased < exact - 0.4
    results = re.findall(r"log Z = ([\d.]+) ± ([\d.]+)", shown)
    assert len(results) == 2
    assert all(abs(float(value) - 3) < 4 * float(error) < 0.2 for value, error in results)


def test_each_method_finds_the_weight_that_it_can(tmp_path, monkeypatch, capsys):
    out, program = tmp_path / "small.png", str(EXAMPLES / "mixture.py")
    monkeypatch.setattr(sys, "argv", [program, "--n", "500", "--out", str(out)])
    runpy.run_path(program, run_name="__main__")
    shown, errors = capsys.readouterr()
    assert errors == ""
    row = re.compile(r"^\w[\w, ]+? +(\d+)  ([\d.]+), 95 % in ([\d.]+) to ([\d.]+)", re.M)
    table = [tuple(map(float, numbers)) for numbers in row.findall(shown)]
    exact, plain, annealed, heun = table
    for _, weight, low, high in (exact, heun):
        assert low <= 0.2 <= high
        assert low < weight < high
    # half of the square where it starts is nearer to the small mode: 0.5, less 4.5 standard errors
    assert plain[1] > 0.4
    assert abs(annealed[1] - 0.2) < 5 * (0.2 * 0.8 / 500) ** 0.5  # standard errors
    assert [row[0] for row in (exact, plain, heun)] == [0, 1000, 63]
    assert 900 < annealed[0] <= 1000
    assert f"wrote {out}" in shown
    assert len(Image.open(out).convert("RGB").getcolors(2**20)) > 2


def test_the_notebook_runs_and_holds_no_output(tmp_path, monkeypatch, capsys):
    cells = json.loads((ROOT / "binder" / "start.ipynb").read_text())["cells"]
    assert not [cell["id"] for cell in cells if cell.get("outputs")]
    first, *code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert "%pip install" in first  # where the package is missing
    monkeypatch.chdir(tmp_path)
    pictures = []
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(Image=pictures.append))
    names = {}
    for text in code:
        exec(text.replace("STEPS = 1500", "STEPS = 2"), names)
    assert len(pictures) == 2
    shares = re.findall(r"mode (0\.\d+), truly", capsys.readouterr().out)
    plain, *others = map(float, shares)
    assert plain > 0.4  # half of the starting points, less more than four standard errors
    # five standard errors, and the bias of the chains, at most 0.03
    assert all(abs(share - 0.2) < 0.062 for share in others)
