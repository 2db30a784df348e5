"""The names that the reference describes, and the example of each.

The examples of a page are in docs/snippets/PAGE.py. What stands above its first line `# %%` is
shown once, at the start of the page. Each cell below is the example of the names that no earlier
cell uses. The first line of a cell that needs a package which users may lack is `# Needs NAME`.
"""

import ast
import inspect
import re
import sys
from collections import defaultdict
from functools import lru_cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import scorefield

DOCS = Path(__file__).parents[1]

PAGES = {
    "scores": ("Scores", ["score", "model", "prior", "_ops"]),
    "noise": ("Noise and noise levels", ["noise", "ladder"]),
    "preconditioners": ("Preconditioners", ["precondition"]),
    "objectives": ("Objectives and training", ["objectives", "train"]),
    "oracles": ("Exact distributions", ["oracles"]),
    "samplers": ("Samplers", ["samplers", "sample"]),
    "likelihood": ("Likelihood and diagnosis", ["likelihood", "diagnose"]),
    "inverse": ("Inverse problems", ["inverse", "restore", "measurements"]),
    "networks": ("Networks and their speed", ["nn", "fast"]),
    "files": ("Models in files", ["checkpoint", "convert"]),
    "data": ("Data", ["data"]),
    "runs": ("Runs", ["runs", "distributed"]),
    "evaluate": ("Evaluation", ["evaluate", "metrics"]),
    "show": ("Pictures and progress", ["show.plots", "show.progress", "show.images"]),
    "paper": ("The paper’s experiments", ["paper"]),
}
"""The title and the modules of each page."""

EXTRA = {
    "_ops": ["Sigma", "Samples", "Noise"],
    "score": ["SigmaRange"],
    "train": ["train", "Update", "MovingAverage", "constant", "cosine", "inverse_sqrt"],
    "sample": ["chains", "guided_score", "suitable_samplers"],
    "restore": [
        *("restore_rows", "restoration", "workload", "Restoration", "Workload"),
        *("METHODS", "Method", "Bias"),
    ],
    "measurements": ["ImageMeasurement", "OPTIONS"],
    "checkpoint": ["run_directory"],
    "diagnose": ["diagnosis_steps"],
    "distributed": ["join", "world", "rank"],
    "show.plots": ["panels", "charts", "field", "scatter", "health", "ladders", "as_png"],
    "show.images": ["as_bytes", "grid", "picture", "animation"],
    "objectives": ["rademacher", "gaussian", "sphere"],
}
"""Names of modules that have no `__all__`, besides those in `scorefield.__all__`."""


def public_names(module_name: str) -> list[str]:
    """Return the names of a module that the reference describes, sorted, classes first."""
    module = import_module(f"scorefield.{module_name}")
    names = {*getattr(module, "__all__", ()), *EXTRA.get(module_name, ())}
    for name in scorefield.__all__:
        home = getattr(getattr(scorefield, name), "__module__", "")
        if f"{home}.".startswith(f"{module.__name__}."):
            names.add(name)
    return sorted(names, key=lambda name: (not name[0].isupper(), name.lower()))


EXPLAINED = ("samplers", "inverse", "metrics", "nn")
"""Packages whose modules have equations of several names, which the reference shows too."""
EQUATION = re.compile(r"^    \S|[=←]", re.MULTILINE)


def find_explanations(module_name: str) -> dict[str, list[str]]:
    """Return the docstrings with equations of a package's modules, and the names defined there."""
    module, names = import_module(f"scorefield.{module_name}"), defaultdict[str, list[str]](list)
    for name in public_names(module_name) if module_name in EXPLAINED else ():
        home = str(getattr(getattr(module, name), "__module__", ""))
        docstring = inspect.getdoc(sys.modules.get(home)) or ""
        if home.startswith(f"{module.__name__}.") and EQUATION.search(docstring):
            names[docstring].append(name)
    return names


@lru_cache
def read_cells(page: str) -> tuple[str, ...]:
    """Return the cells of a page's examples; the first is what the others begin with."""
    return tuple(
        cell.strip() for cell in (DOCS / f"snippets/{page}.py").read_text().split("# %%\n")
    )


def find_examples(page: str) -> dict[str, str]:
    """Return the example of each name of a page that has one."""
    names = {name for module in PAGES[page][1] for name in public_names(module)}
    examples = dict[str, str]()
    for cell in read_cells(page)[1:]:
        nodes = [node for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.Name)]
        variables = {node.id for node in nodes if isinstance(node.ctx, ast.Store)}
        for name in {node.id for node in nodes} & names - variables:
            examples.setdefault(name, cell)
    return examples


class Value(NamedTuple):
    """Docstring below the assignment of a value, and where it is."""

    docstring: str
    file: Path
    line: int


@lru_cache(None)
def _parse(module: ModuleType) -> ast.Module:
    """Return the syntax of a module."""
    return ast.parse(inspect.getsource(module))


def find_value(module: ModuleType, name: str) -> Value:
    """Return the documented assignment of a name, in the package's module that has it."""
    homes = [m for key, m in sorted(sys.modules.items()) if key.startswith("scorefield.")]
    for home in homes:
        for node, after in pairwise(_parse(home).body):
            targets = getattr(node, "targets", [getattr(node, "target", None)])
            assigned = name in [getattr(target, "id", None) for target in targets]
            if assigned and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                docstring = inspect.cleandoc(str(after.value.value))
                return Value(docstring, Path(inspect.getfile(home)), node.lineno)
    raise LookupError(f"{module.__name__}.{name} has no docstring: write one below its assignment")


PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def find_uses() -> dict[str, list[str]]:
    """Return the examples and pages that import each name."""
    code = {f"/gallery/{p.stem}": p.read_text() for p in (DOCS.parent / "examples").glob("*.py")}
    for page in [*DOCS.glob("*.md"), *DOCS.glob("*/*.md")]:
        place = page.relative_to(DOCS).with_suffix("").as_posix()
        code[f"/{place}"] = "\n".join(PYTHON.findall(page.read_text()))
    uses = defaultdict[str, list[str]](list)
    for place in sorted(code):
        for node in ast.walk(ast.parse(code[place])):
            if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("scorefield."):
                for alias in node.names:
                    uses[alias.name].append(place)
    return uses
