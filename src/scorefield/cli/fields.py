"""Fields of the configuration for `train --help`, each with its value and its description.

The descriptions are comments and docstrings, read from the sources: importing a network would load
torch.
"""

import ast
import inspect
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

from ..runs.config import Experiment

FieldRow: TypeAlias = tuple[str, Any, str]
"""Name, value and description of a field."""
NAME_WIDTH = 30
"""Columns of names and values, before the descriptions."""


def fields_page(experiment: Experiment) -> str:
    """Return boxes of the fields in each section of an experiment, and in each kind of network."""
    abouts, boxes = read_comments(Experiment), list[str]()
    for name, section in vars(experiment).items():
        if is_dataclass(section):
            texts = read_comments(type(section)).items()
            rows = [(f"{name}.{key}", getattr(section, key), text) for key, text in texts]
            boxes.append(_box(name, abouts[name], rows))
    chosen = experiment.network["kind"]
    for kind, about, arguments in sorted(read_networks(), key=lambda network: network[0] != chosen):
        own = experiment.network if kind == chosen else {}
        rows = [(f"network.{key}", own.get(key, value), text) for key, value, text in arguments]
        boxes.append(_box(f"network.kind={kind}", about, rows))
    return "\n".join(boxes)


def read_comments(section: type) -> dict[str, str]:
    """Return the comments on the fields of a dataclass, above them or at the end of a line."""
    comments, above = dict[str, str](), list[str]()
    for line in inspect.getsource(section).splitlines():
        code, _, comment = line.partition("# ")
        field = re.match(r" {4}(\w+): ", code)
        if field:
            comments[field[1]] = " ".join(filter(None, [*above, comment]))
        above = [*above, comment] if comment and not field else []
    for name, hint in get_type_hints(section).items():
        if get_origin(hint) is Literal:
            comments[name] += f" ({', '.join(get_args(hint))})"
    return comments


def read_networks() -> Iterator[tuple[str, str, list[FieldRow]]]:
    """Yield name, summary and arguments of the networks: classes that describe their arguments."""
    for path in sorted(Path(__file__).parents[1].glob("nn/*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            doc = (isinstance(node, ast.ClassDef) and ast.get_docstring(node)) or ""
            about, _, texts = doc.partition("\n\nArgs:\n")
            if isinstance(node, ast.ClassDef) and texts:
                defaults = _defaults(node)
                pairs = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", texts, re.MULTILINE)
                rows = [
                    (key, defaults.get(key, "..."), " ".join(text.split())) for key, text in pairs
                ]
                yield node.name, about.partition("\n")[0], rows


def _defaults(node: ast.ClassDef) -> dict[str, Any]:
    """Return the default values of a class's arguments that are literals."""
    (init,) = (f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__")
    names = [argument.arg for argument in (*init.args.args, *init.args.kwonlyargs)]
    values, defaults = [*init.args.defaults, *init.args.kw_defaults], dict[str, Any]()
    for name, value in zip(reversed(names), reversed(values), strict=False):
        with suppress(ValueError, SyntaxError):  # a name of something else, or none
            defaults[name] = ast.literal_eval(value or "")
    return defaults


def _box(title: str, about: str, rows: Sequence[FieldRow]) -> str:
    """Return a box like those of tyro, with the name, value and description of each field."""
    width = max(60, min(shutil.get_terminal_size().columns, 100))
    lines = [*wrap(about, width - 4), "─" * (width - 4)]
    for name, value, text in rows:
        shown = value if isinstance(value, str) else json.dumps(value)
        option = f"--{name}={shown}"
        texts = wrap(text, width - NAME_WIDTH - 5)
        texts = texts if len(option) < NAME_WIDTH else ["", *texts]
        heads = [option, *[""] * len(texts)]
        lines += [f"{head:{NAME_WIDTH}}{part}" for head, part in zip(heads, texts, strict=False)]
    inside = "\n".join(f"│ {line:{width - 4}} │" for line in lines)
    return f"╭─ {title} {'─' * (width - 5 - len(title))}╮\n{inside}\n╰{'─' * (width - 2)}╯"
