"""The public names in the reference; `make docs` shows what is tested here."""

import ast
import inspect
import re
import sys
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "docs/extensions"))

from public_names import (
    PAGES,
    find_examples,
    find_explanations,
    find_value,
    public_names,
    read_cells,
)

import scorefield

SHAPES = re.compile(r"shape|×|\brows?\b")
EQUATION = re.compile(r"[=←]")
DISPLAYED = re.compile(r"^    .*[=←~+]", re.MULTILINE)
FORMULA = re.compile(r"[=Σ‖]")
CODE = re.compile(r"`[^`]*`")
NEEDS = re.compile(r"# Needs (\w+)\n")


def test_each_public_name_states_what_it_is():
    for module in (module for _, modules in PAGES.values() for module in modules):
        home = import_module(f"scorefield.{module}")
        for name in public_names(module):
            own = getattr(home, name)
            documented = inspect.isclass(own) or inspect.isfunction(own)
            assert inspect.getdoc(own) if documented else find_value(home, name).docstring, name


STUDIO = Path(scorefield.__file__).parent / "studio"
HELPERS = {"scorefield.values"}
"""The words of errors and the types of settings, which are no functions of the package."""


@pytest.mark.parametrize("path", sorted(STUDIO.glob("*.py")), ids=lambda path: path.name)
def test_the_studio_imports_public_names_only(path):
    public = {f"scorefield.{m}": public_names(m) for _, ms in PAGES.values() for m in ms}
    public["scorefield"] = scorefield.__all__
    private = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level != 1:
            home = ".".join(filter(None, ["scorefield"[: 10 * node.level], node.module]))
            if home.split(".")[0] == "scorefield" and home not in HELPERS:
                names = {alias.name for alias in node.names}
                private += [f"{home}.{name}" for name in names - {*public.get(home, ())}]
    assert not private, "export them from a page of the reference, or do without"


def _functions(*modules):
    """Yield the public functions of modules with their names."""
    for module in modules:
        home = import_module(f"scorefield.{module}")
        named = ((name, getattr(home, name)) for name in public_names(module))
        yield from ((name, own) for name, own in named if inspect.isfunction(own))


def _shapeless(function):
    """Return the arguments, and the result, that are tensors without a shape in their type."""
    types = inspect.get_annotations(inspect.unwrap(function)).items()
    # callables have types of their own, and where a name of data is allowed, so is any tensor
    own = {k: re.sub(r"Callable\[.*\]|.*Dataset.*", "", str(v)) for k, v in types}
    return [k for k, v in own.items() if "torch.Tensor" in v]


def test_each_public_function_names_the_shapes_of_its_tensors():
    functions = [*_functions(*(module for _, modules in PAGES.values() for module in modules))]
    faults = [n for n, f in functions if _shapeless(f) and not SHAPES.search(inspect.getdoc(f))]
    assert not faults


def _lacks(formula, named):
    """Return the names of those whose docstring has no such formula outside of its code."""
    return [n for n, own in named if not formula.search(CODE.sub("", inspect.getdoc(own)))]


def test_each_sampler_preconditioner_and_oracle_has_its_equation():
    samplers = [
        (n, f) for n, f in _functions("samplers") if "score" in inspect.signature(f).parameters
    ]
    oracles = [(n, getattr(scorefield, n)) for n in public_names("oracles")]
    named = [*samplers, *_functions("precondition"), *oracles]
    assert len(named) >= 30
    assert not _lacks(EQUATION, named)


def test_each_method_of_inverse_problems_displays_its_equation():
    own = {"y", "prior"}  # arguments that no operator has
    functions = _functions("inverse")
    named = [(n, f) for n, f in functions if own & inspect.signature(f).parameters.keys()]
    assert len(named) >= 15
    assert not _lacks(DISPLAYED, named)


def test_each_operator_metric_and_grid_has_its_equation():
    operators = [
        (n, f) for n, f in _functions("inverse") if f.__module__.endswith(("operators", "scanners"))
    ]
    grids = [(n, f) for n, f in _functions("noise") if "levels" in inspect.signature(f).parameters]
    assert len(operators) >= 8
    assert len(grids) >= 3
    assert not _lacks(EQUATION, [*operators, *grids])
    assert not _lacks(FORMULA, _functions("metrics"))


def test_each_network_has_its_equation_next_to_its_name():
    classes = {n for n in public_names("nn") if inspect.isclass(getattr(scorefield.nn, n))}
    displayed = [names for text, names in find_explanations("nn").items() if DISPLAYED.search(text)]
    assert len(classes) >= 7
    assert {name for names in displayed for name in names} == classes


def _attributes(tree):
    """Yield the docstrings of the attributes and properties of public classes in a module."""
    public = {name for _, modules in PAGES.values() for m in modules for name in public_names(m)}
    classes = [c for c in tree.body if isinstance(c, ast.ClassDef) and c.name in public]
    for node in (node for own in classes for node in ast.walk(own)):
        for value, text in pairwise(ast.iter_child_nodes(node)):
            literal = getattr(text, "value", None)
            if isinstance(value, ast.Assign | ast.AnnAssign) and isinstance(literal, ast.Constant):
                yield str(literal.value)
        if "property" in map(ast.unparse, getattr(node, "decorator_list", [])):
            yield ast.get_docstring(node) or ""


def test_no_attribute_has_its_first_words_for_a_type():
    """Sphinx takes what is in front of a colon for the type of an attribute."""
    files = STUDIO.parent.rglob("*.py")
    texts = [text for file in files for text in _attributes(ast.parse(file.read_text()))]
    assert len(texts) > 50
    assert not [text for text in texts if ": " in CODE.sub("", text.split("\n")[0])]


def _can_run(cell):
    """Return True if the package that a cell needs is there, and works next to checks of shapes.

    Through these ONNX's exporter cannot trace; test_export.py tries it in a process without them.
    """
    package = NEEDS.match(cell)
    return package is None or (package[1] != "onnxscript" and find_spec(package[1]))


@pytest.mark.parametrize("page", PAGES)
def test_each_public_name_has_an_example_that_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    torch.manual_seed(0)
    start, *cells = read_cells(page)
    shared = {"__name__": page}
    exec(compile(start, f"the start of {page}", "exec"), shared)
    for cell in filter(_can_run, cells):
        # in a namespace of its own, because a reader copies the start and one cell
        exec(compile(cell, f"{page}: {cell[:60]}", "exec"), dict(shared))
    examples = find_examples(page)
    for module in PAGES[page][1]:
        for name in public_names(module):
            assert name in examples, f"add an example of {module}.{name} to docs/snippets/{page}.py"
            # the start does not give the name to something else
            assert shared[name] is getattr(import_module(f"scorefield.{module}"), name)
