"""The public names in the reference; `make docs` shows what is tested here."""

import inspect
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "docs/extensions"))

from public_names import (
    PAGES,
    can_run,
    find_examples,
    find_value,
    public_names,
    read_cells,
)


def test_each_public_name_states_what_it_is():
    for module in (module for _, modules in PAGES.values() for module in modules):
        home = import_module(f"scorefield.{module}")
        for name in public_names(module):
            own = getattr(home, name)
            documented = inspect.isclass(own) or inspect.isfunction(own)
            assert inspect.getdoc(own) if documented else find_value(home, name).docstring, name


@pytest.mark.parametrize("page", PAGES)
def test_each_public_name_has_an_example_that_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    torch.manual_seed(0)
    start, *cells = read_cells(page)
    shared = {"__name__": page}
    exec(compile(start, f"the start of {page}", "exec"), shared)
    for cell in filter(can_run, cells):
        # in a namespace of its own, because a reader copies the start and one cell
        exec(compile(cell, f"{page}: {cell[:60]}", "exec"), dict(shared))
    examples = find_examples(page)
    for module in PAGES[page][1]:
        for name in public_names(module):
            assert name in examples, f"add an example of {module}.{name} to docs/snippets/{page}.py"
            # the start does not give the name to something else
            assert shared[name] is getattr(import_module(f"scorefield.{module}"), name)
