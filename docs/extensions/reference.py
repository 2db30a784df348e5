"""Write the pages of the reference from the code: every public name, and tables of choices.

A page has the docstrings of its modules, which contain the equations, then their public names with
their own, each with an example that `run_code` runs, and with the pages that import it.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from outside_links import REPOSITORY
from public_names import (
    DOCS,
    PAGES,
    find_examples,
    find_explanations,
    find_uses,
    find_value,
    public_names,
    read_cells,
)
from sphinx.application import Sphinx

import scorefield
from scorefield.restore import METHODS


def _anchor(module: ModuleType, name: str) -> str:
    """Return the shortest path that imports the object: from the package, or from the module."""
    own = getattr(module, name)
    return (
        f"scorefield.{name}"
        if getattr(scorefield, name, None) is own
        else f"{module.__name__}.{name}"
    )


def _entry(module: ModuleType, name: str, content: str) -> str:
    """Return the directive that describes one name, with content below its docstring."""
    own, path = getattr(module, name), _anchor(module, name)
    body = textwrap.indent(content, "   ")
    if inspect.isclass(own):
        bases = "" if own.__bases__ == (object,) else "   :show-inheritance:\n"
        return f".. autoclass:: {path}\n   :members:\n{bases}\n{body}\n"
    if inspect.isfunction(own):
        return f".. autofunction:: {path}\n\n{body}\n"
    value = find_value(module, name)
    text = textwrap.indent(to_rst(value.docstring), "   ")
    source = f"{REPOSITORY}blob/main/{value.file.relative_to(DOCS.parent)}#L{value.line}"
    return f".. py:data:: {path}\n\n{text}\n\n   `[source] <{source}>`__\n\n{body}\n"


def _explanations(name: str, module: ModuleType) -> Iterator[str]:
    """Yield the equations of the modules of a package, below the names that they define."""
    for docstring, names in find_explanations(name).items():
        links = ", ".join(f":py:obj:`~{_anchor(module, own)}`" for own in names)
        yield f".. rubric:: {links}\n\n{to_rst(docstring)}\n"


MOST_USES = 4
"""Links to pages below an example."""


def _code(cell: str) -> str:
    """Return a block of Python."""
    return f".. code-block:: python\n\n{textwrap.indent(cell, '   ')}\n\n"


def _content(cell: str, first: str, uses: list[str]) -> str:
    """Return the example of a name, or a link to the first name with it, and links to its uses."""
    links = [f"the example of :py:obj:`~{first}`"] * bool(first)
    links += [f":doc:`{place}`" for place in uses[:MOST_USES]]
    see = f"See {', '.join(links)}.\n" if links else ""
    return see if first else _code(cell) + see


def _table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table in reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in [head, *rows]:
        lines += [f"   {'* -' if i == 0 else '  -'} {cell}" for i, cell in enumerate(row)]
    return "\n".join(lines) + "\n"


def _summary(own: Any) -> str:
    """Return the first sentence of a docstring."""
    return escape((inspect.getdoc(own) or "").split("\n\n")[0].replace("\n", " "))


def preconditioner_table() -> str:
    """Return the prediction of each preconditioner's network, and its input for σ."""
    levels = scorefield.geometric(1.0, 0.01, 10)
    rows = []
    for name in public_names("precondition"):
        own = getattr(scorefield, name)
        if inspect.isclass(own) or name == "ddpm_sigmas":
            continue
        row = own(levels) if "levels" in inspect.signature(own).parameters else own()
        rows.append([f":py:obj:`~scorefield.{name}`", row.predicts, row.clock, _summary(own)])
    return _table(["name", "the network predicts", "its input for σ", ""], rows)


def sampler_table() -> str:
    """Return the cost and the options of each sampler."""
    rows = []
    for name, sampler in scorefield.SAMPLERS.items():
        options = {k: v for k, v in sampler.defaults.items() if k != "noise"}
        shown = ", ".join(f"{k}={getattr(v, '__name__', repr(v))}" for k, v in options.items())
        cost = "chosen by its tolerance" if name == "adaptive" else sampler.evaluations(10)
        rows.append([f"``{name}``", str(cost), f"``{shown}``" if shown else ""])
    return _table(["name", "evaluations for 10 levels", "options and their defaults"], rows)


def operator_table() -> str:
    """Return the operators of inverse problems."""
    module = import_module("scorefield.inverse")
    names = [
        n
        for n in module.__all__
        if getattr(getattr(module, n), "__module__", "").endswith(("operators", "scanners"))
        and not inspect.isclass(getattr(module, n))
    ]
    rows = [[f":py:obj:`~scorefield.inverse.{n}`", _summary(getattr(module, n))] for n in names]
    return _table(["operator", ""], rows)


def method_table() -> str:
    """Return the cost of each method of restoration, and the largest errors that were measured."""
    rows = []
    for name, method in METHODS.items():
        cost = str(method.calls(method.levels)) if method.levels else "those of the sampler"
        biases = [f"{b.largest:.0%}" if b else "" for b in (method.mask, method.matrix)]
        rows.append([f"``{name}``", cost, *biases])
    return _table(["name", "evaluations by default", "largest error, mask", "matrix"], rows)


TABLES = {
    "precondition": preconditioner_table,
    "samplers": sampler_table,
    "inverse": operator_table,
    "restore": method_table,
}


def write_pages(app: Sphinx) -> None:
    """Write the pages of the reference."""
    folder = Path(app.srcdir) / "reference"
    folder.mkdir(exist_ok=True)
    uses = find_uses()
    for page, (title, modules) in PAGES.items():
        start = f"# Prepare the examples of this page\n{read_cells(page)[0]}"
        parts = [f"{title}\n{'=' * len(title)}\n", _code(start)]
        examples, shown = find_examples(page), dict[str, str]()
        for name in modules:
            module = import_module(f"scorefield.{name}")
            heading = "Types in signatures" if name == "_ops" else module.__name__
            parts.append(f"{heading}\n{'-' * len(heading)}\n")
            parts.append(to_rst(inspect.getdoc(module) or "") + "\n")
            parts += [TABLES[name]()] if name in TABLES else []
            parts += _explanations(name, module)
            for public in public_names(name):
                path, cell = _anchor(module, public), examples[public]
                first = shown.setdefault(cell, path)
                content = _content(cell, "" if first == path else first, uses[public])
                parts.append(_entry(module, public, content))
        _write(folder / f"{page}.rst", "\n".join(parts))
    missing = set(scorefield.__all__).difference(
        *(public_names(m) for _, ms in PAGES.values() for m in ms)
    )
    if missing:
        raise ValueError(
            f"no page of the reference has {sorted(missing)}: add their module to PAGES"
        )
    contents = "\n".join(f"   {page}" for page in PAGES)
    _write(folder / "index.rst", INDEX + contents + "\n")


def _write(path: Path, text: str) -> None:
    """Write a page, unless it is the same, which Sphinx then does not read again."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


INDEX = """Reference
=========

Every public name, with its signature, an example, a link to its source and, where it computes one,
its equation. Names that are written ``scorefield.name`` are imported from the package itself. A
type such as ``Float[Tensor, 'batch *shape']`` is a tensor of floats whose first axis is the batch
and whose other axes are those of a sample; jaxtyping defines the notation.

.. toctree::
   :maxdepth: 2

"""


# ── Docstrings ───────────────────────────────────────────────────────────────────────────────────

SECTION = re.compile(r"(Args|Returns|Yields|Raises|Attributes):\n")
FIELD_OF_TUPLE = re.compile(r"Alias for field number \d+")
CODE = re.compile(r"(`[^`]+`)")


def escape(text: str) -> str:
    """Return text in reStructuredText: names are code, and nothing else is markup."""
    parts = CODE.split(text)
    for i, part in enumerate(parts):
        if i % 2 == 0:
            parts[i] = re.sub(r"([*|\\]|_(?=\W|$))", r"\\\1", part)
            continue
        # markup ends at a space or a sign; "\\ " is a space that is not shown
        before = "" if re.search(r"[\s(\[{</:-]?$", parts[i - 1])[0] or not parts[i - 1] else "\\ "
        after = "" if re.match(r"[\s.,:;!?)\]}>/'-]|$", parts[i + 1]) else "\\ "
        parts[i] = f"{before}{_link(part[1:-1])}{after}"
    return "".join(parts)


def _link(name: str) -> str:
    """Return code, as a link if it is the name of something public."""
    if name.isidentifier() and name in scorefield.__all__:
        return f":py:obj:`~scorefield.{name}`"
    return f"``{name}``"


def to_rst(text: str) -> str:
    """Return a docstring in reStructuredText; indented paragraphs are equations."""
    paragraphs, section = list[str](), False
    for paragraph in text.strip("\n").split("\n\n"):
        indented = paragraph.startswith("    ")
        section = bool(SECTION.match(paragraph)) or (section and indented)
        equation = indented and not section
        paragraphs.append(f"::\n\n{paragraph}" if equation else escape(paragraph))
    return "\n\n".join(paragraphs)


def convert_docstring(
    app: Sphinx, what: str, name: str, own: Any, options: Any, lines: list[str]
) -> None:
    """Convert a docstring before napoleon reads its sections."""
    text = "\n".join(lines)
    lines[:] = [] if FIELD_OF_TUPLE.match(text) else [*to_rst(text).split("\n"), ""]


# ── Signatures ───────────────────────────────────────────────────────────────────────────────────


def source_signature(
    app: Sphinx, what: str, name: str, own: Any, options: Any, args: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """Return the signature as it is written, where shapes are easy to read."""
    if what == "class" and args is not None:
        call = "__call__" if getattr(own, "_is_protocol", False) else "__init__"
        if call not in vars(own):
            return None
        function = vars(own)[call]
    else:
        function = inspect.unwrap(own) if callable(own) else own
    if args is None or not inspect.isfunction(function):
        return None
    try:
        node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except OSError:  # a dataclass: its fields are the arguments
        node = ast.parse(textwrap.dedent(inspect.getsource(own))).body[0]
    if isinstance(node, ast.ClassDef):
        return f"({', '.join(_fields(node))})", None
    if not isinstance(node, ast.FunctionDef):
        return None
    listed = node.args.posonlyargs or node.args.args
    if listed and listed[0].arg in ("self", "cls"):
        listed.pop(0)
    for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]:
        argument.annotation = argument.annotation and _readable(argument.annotation)
    is_value = node.returns is not None and what != "class"
    return f"({ast.unparse(node.args)})", ast.unparse(_readable(node.returns)) if is_value else None


def _fields(node: ast.ClassDef) -> Iterator[str]:
    """Yield the public fields of a dataclass as arguments."""
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and not field.target.id.startswith("_"):
            default = f" = {ast.unparse(field.value)}" if field.value else ""
            yield f"{field.target.id}: {ast.unparse(_readable(field.annotation))}{default}"


def _readable(annotation: ast.expr) -> ast.expr:
    """Return an annotation without the quotes of a name that is defined later."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return ast.parse(annotation.value, mode="eval").body
    return annotation


@lru_cache
def find_paths() -> dict[str, str]:
    """Return the path by which the reference describes each public name."""
    modules = [module for _, modules in PAGES.values() for module in modules]
    homes = {module: import_module(f"scorefield.{module}") for module in modules}
    return {name: _anchor(homes[m], name) for m in modules for name in public_names(m)}


def mend_backlinks(
    app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    """Link source code to its description, where a module's names have different prefixes.

    `sphinx.ext.viewcode` gives all names of a module the prefix of the first one.
    """
    if not pagename.startswith("_modules/"):
        return
    paths = find_paths()
    right = re.compile(f"#(?:{'|'.join(map(re.escape, paths.values()))})(?![\\w])")

    def mend(link: re.Match[str]) -> str:
        # a function that has its module's name, such as `restore`, is no attribute of itself
        rest = "" if link[2] == f".{link[1]}" else link[2]
        is_wrong = link[1] in paths and (rest != link[2] or not right.match(link[0]))
        return f"#{paths[link[1]]}{rest}" if is_wrong else link[0]

    context["body"] = re.sub(r"#scorefield\.(\w+)([\w.]*)", mend, context["body"])


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx."""
    app.connect("builder-inited", write_pages, priority=100)
    app.connect("autodoc-process-docstring", convert_docstring, priority=100)
    app.connect("autodoc-process-signature", source_signature)
    app.connect("html-page-context", mend_backlinks)
    return {"parallel_read_safe": True}
