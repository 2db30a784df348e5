"""Rules of the repository: imports, names, size and package."""

import ast
import re
import zipfile
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement

import scorefield
from scorefield import Oracle
from scorefield.cli import COMMANDS
from scorefield.data import DATASETS
from scorefield.nn import NETWORKS
from scorefield.restore import METHODS
from scorefield.samplers import DENSITY_KERNELS, find_sampler

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings the same under its old name
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src/scorefield"
MODULES = sorted(SOURCE.rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LAYERS = {
    # types and names of values that users give
    "values": "",
    # the mathematics, which imports neither a network nor an application
    "_ops": "",
    "score": "_ops",
    "noise": "_ops",
    "covariance": "_ops",
    "prior": "_ops covariance",
    "ode": "",
    "ladder": "_ops noise",
    "objectives": "_ops score noise",
    "oracles": "_ops noise prior",
    "samplers": "_ops score noise ode values",
    "likelihood": "_ops score noise prior ode",
    "metrics": "_ops",
    "inverse": "_ops score noise prior samplers",
    "diagnose": "_ops score noise prior oracles samplers",
    "precondition": "_ops score noise",
    "model": "_ops noise score precondition prior values",
    "nn": "_ops values",
    "fast": "_ops model nn",
    # using a model
    "disk": "",
    "distributed": "",
    "train": "_ops distributed noise values",
    "convert": "_ops disk fast model nn noise precondition prior score values",
    "sample": "_ops distributed inverse ladder model noise oracles precondition prior samplers "
    "score values",
    "checkpoint": "_ops convert disk model nn precondition prior",
    "show": "diagnose disk distributed score values",
    "data": "_ops convert disk distributed noise oracles show values",
    "restore": "_ops inverse model noise sample samplers score train values",
    "measurements": "data inverse noise restore train values",
    "runs": "_ops checkpoint convert data disk distributed fast inverse ladder model nn noise "
    "objectives precondition prior sample score show train values",
    "evaluate": "_ops checkpoint convert data diagnose disk distributed fast inverse ladder "
    "likelihood metrics model noise objectives oracles runs sample samplers score show values",
    "paper": "_ops checkpoint data diagnose disk evaluate fast inverse metrics model nn noise "
    "objectives oracles runs sample samplers score show train values",
    # the public names, and the page and the command line, which nothing else imports
    "__init__": "",
    "studio": "__init__ checkpoint data diagnose disk evaluate fast measurements noise oracles "
    "restore runs sample samplers show train values",
    "cli": "__init__ checkpoint convert data disk distributed evaluate fast inverse ladder "
    "measurements model noise paper restore runs sample samplers score show studio train values",
    "__main__": "cli",
}
"""Each module or package, and those above it in this list that it may import."""
FORWARDING = {"model": "push_to_hub"}
"""The one function of a module that calls a layer below, which it imports when it is called."""


def _unit(path):
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@cache
def _imported_files(path, code):
    """Return the files of the package that a file, or other code in its place, imports anywhere."""
    package = ("scorefield", *path.relative_to(SOURCE).parent.parts)
    tree, imported = ast.parse(code or path.read_text()), set()
    forwarding = FORWARDING.get(_unit(path))
    for node in ast.walk(tree):
        if getattr(node, "name", "") == forwarding:
            node.body = [ast.Pass()]
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*start, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        for name in names:
            target = SOURCE.parent.joinpath(*name.split("."))
            places = [target, target.parent]  # the last part may be a module, or a name in one
            files = [f for p in places for f in (p.with_suffix(".py"), p / "__init__.py")]
            imported |= {*[file for file in files if file.exists()][:1]}
    return imported


def _trespasses(path, code=None):
    units = {_unit(file) for file in _imported_files(path, code)}
    return units - {_unit(path), *LAYERS[_unit(path)].split()}


def test_a_module_imports_only_layers_above_it_in_the_list():
    assert {_unit(path) for path in MODULES} == LAYERS.keys(), "add new modules to LAYERS"
    wrong = {str(path.relative_to(SOURCE)): _trespasses(path) for path in MODULES}
    assert not {name: units for name, units in wrong.items() if units}


def test_the_layers_are_in_order_and_nothing_imports_the_command_line():
    units = list(LAYERS)
    for i, unit in enumerate(units):
        assert set(LAYERS[unit].split()) <= set(units[:i]), unit
    for door, behind in {"cli": "__main__", "studio": "cli"}.items():
        assert [unit for unit in LAYERS if door in LAYERS[unit].split()] == [behind]


@pytest.mark.parametrize(
    ("file", "code", "trespasses"),
    [
        ("score.py", "from .noise import perturb", {"noise"}),
        ("score.py", "from . import noise", {"noise"}),
        ("score.py", "def f():\n    import scorefield.cli", {"cli"}),
        ("score.py", "from scorefield import denoising", {"__init__"}),
        ("samplers/steps.py", "from ..oracles import Box", {"oracles"}),
        ("samplers/steps.py", "from .. import oracles", {"oracles"}),
        ("samplers/steps.py", "from .state import State\nfrom .._ops import match", set()),
        ("show/plots.py", "import scorefield.cli.train as train", {"cli"}),
        ("model.py", "def push_to_hub():\n    from .evaluate import push", set()),
        ("model.py", "def f():\n    from .evaluate import push", {"evaluate"}),
        ("model.py", "from .evaluate import push", {"evaluate"}),
    ],
)
def test_every_form_of_import_is_seen(file, code, trespasses):
    assert _trespasses(SOURCE / file, code) == trespasses


def test_no_module_imports_itself_through_others():
    TopologicalSorter({path: _imported_files(path, None) for path in MODULES}).prepare()


SHARED_NAMES = {
    "__all__",
    *("__getattr__", "__dir__"),  # packages whose names are imported when first used
    *("run", "STATEMENT"),  # experiments of the paper
    *("digits", "photos", "signals"),  # a data set and the preset for it
}
"""Names that several modules may define, because they are one idea behind one protocol."""


def _defined_names(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            yield from (name.id for name in ast.walk(target or ast.Pass()) if hasattr(name, "id"))


def test_a_name_is_defined_in_one_module():
    modules = {}
    for path in MODULES:
        for name in set(_defined_names(path)):
            modules.setdefault(name, []).append(str(path.relative_to(SOURCE)))
    # a command is named after the function that it calls
    allowed = SHARED_NAMES | {command.__name__ for command in COMMANDS.values()}
    twice = {name: files for name, files in modules.items() if len(files) > 1}
    assert not twice.keys() - allowed
    assert all(len(twice[name]) == 2 for name in twice.keys() - SHARED_NAMES)


def _count_code_lines(text):
    """Count lines of code, without blank lines, comments and docstrings."""
    documented = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            documented |= set(range(node.lineno, node.end_lineno + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(i not in documented and line.strip()[:1] not in ("", "#") for i, line in lines)


def test_the_mathematics_is_at_most_1500_lines_of_code():
    core = {"score", "noise", "covariance", "prior", "objectives", "oracles", "samplers", "ode"}
    core |= {"likelihood"}
    files = [path for path in MODULES if _unit(path) in core]
    lines = {str(path.relative_to(SOURCE)): _count_code_lines(path.read_text()) for path in files}
    assert {"score.py", "samplers/steps.py"} <= lines.keys()
    surplus = sum(lines.values()) - 1500
    assert surplus <= 0, f"shorten the mathematics by {surplus} lines: {lines}"


def _rows_of_samplers(document):
    """Return the cells of each row of a document's table of samplers."""
    text = (ROOT / document).read_text()
    rows = re.search(r"\| .* \| order \| evaluations .*\n\|---.*\n((?:\|.*\n)+)", text)[1]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows.splitlines()]


def _count_evaluations(cost):
    """Return the value of a cost such as (T + 1)·n or 2n − 1 for n = 10 and T = 7."""
    formula = re.sub(r"(\d)n", r"\1*n", cost).replace("·", "*").replace("−", "-")
    return eval(formula, {"n": 10, "T": 7})


def test_the_tables_of_samplers_have_each_with_its_cost():
    page = _rows_of_samplers("docs/samplers.md")
    rows = [[row[0], *row[2:]] for row in page]
    assert _rows_of_samplers("README.md") == rows, "README.md and docs/samplers.md differ"
    costs = {}
    for names, _, _, cost, _ in page:
        names = re.findall(r"`(\w+)`", names)
        costs |= dict(zip(names, cost.split(", ") * len(names), strict=False))
    unmatched = costs.keys() ^ (scorefield.SAMPLERS.keys() | DENSITY_KERNELS.keys())
    assert not unmatched, f"README.md, docs/samplers.md: add or remove the rows of {unmatched}"
    for name, cost in costs.items():
        if name != "adaptive":  # whose cost is measured
            sampler = find_sampler(name)[1]
            options = {"steps": 7} if sampler.annealed else {}
            assert sampler.evaluations(10, **options) == _count_evaluations(cost), name


PUBLIC = {name: getattr(scorefield, name) for name in scorefield.__all__}
ORACLES = {n for n, one in PUBLIC.items() if isinstance(one, type) and issubclass(one, Oracle)}


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("oracles", ORACLES - {"Oracle"}),
        ("data", {*DATASETS}),
        ("training", {*NETWORKS}),
        ("restoration", {*METHODS}),
    ],
)
def test_the_table_of_a_page_has_each(page, names):
    rows = re.findall(r"^\| .*", (ROOT / f"docs/{page}.md").read_text(), re.M)
    missing = names - {*re.findall(r"`([\w-]+)`", "".join(rows))}
    assert not missing, f"docs/{page}.md: add the rows of {missing}"


def _required():
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    lists.append([line for line in lines if line and not line.startswith("#")])
    return [Requirement(line) for entries in lists for line in entries]


def test_any_torch_from_2_6_on_is_accepted_and_torchvision_is_not_brought():
    """With a CPU build of torch it fails at import, and breaks other packages."""
    (torch,) = [r for r in map(Requirement, PROJECT["dependencies"]) if r.name == "torch"]
    assert str(torch.specifier) == ">=2.6"
    requirements = _required()
    assert "torchvision" not in {requirement.name for requirement in requirements}
    assert not [r for r in requirements if r.name == "torchmetrics" and "image" in r.extras]


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path):
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path))
    packed = set(zipfile.ZipFile(wheel).namelist())
    kinds = ("*.py", "*.cpp", "*.h", "*.html", "*.css", "*.js", "*.svg")
    files = [path for kind in kinds for path in SOURCE.rglob(kind)]
    source = {f"scorefield/{path.relative_to(SOURCE)}" for path in files}
    assert source | {"scorefield/py.typed", "scorefield/__init__.pyi"} <= packed
    assert not {name.split("/")[0] for name in packed} - {
        "scorefield",
        f"scorefield-{scorefield.__version__}.dist-info",
    }


def test_all_files_have_the_version_of_the_package():
    assert PROJECT["dynamic"] == ["version"]  # hatchling reads it from __init__.py
    version = scorefield.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"  version = {{{version}}},\n" in (ROOT / "README.md").read_text()
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert newest is not None
    assert newest[1] == version


def test_public_names_are_those_imported_in_the_stub():
    imported, listed = [], []
    for node in ast.parse((SOURCE / "__init__.pyi").read_text()).body:
        if isinstance(node, ast.ImportFrom):
            imported += [alias.asname or alias.name for alias in node.names]
        elif isinstance(node, ast.Assign):
            listed += ast.literal_eval(node.value)
    assert sorted(listed) == sorted(imported)
    assert len(set(listed)) == len(listed)
    assert not [name for name in listed if not hasattr(scorefield, name)]
