"""Fields of the configuration for `train --help`, each with its value and its description.

The descriptions are comments and docstrings, read from the sources: importing a network would load
torch.
"""

import ast
import inspect
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from ..runs.config import Experiment

NAME_WIDTH = 30
"""Columns of names and values, before the descriptions."""


class NetworkHelp(NamedTuple):
    """A class of networks: a sentence about it, and its arguments with values and descriptions."""

    kind: str
    about: str
    values: Mapping[str, Any]
    comments: Mapping[str, str]


def fields_page(experiment: Experiment) -> str:
    """Return boxes of the fields in each section of an experiment, and in each kind of network."""
    abouts = read_comments(Experiment)
    boxes = [
        _box(name, abouts[name], name, vars(section), read_comments(type(section)))
        for name, section in vars(experiment).items()
        if is_dataclass(section)
    ]
    own = experiment.network
    for network in sorted(read_networks(), key=lambda network: network.kind != own["kind"]):
        title, values = f"network.kind={network.kind}", network.values
        if network.kind == own["kind"]:
            values = {name: own.get(name, value) for name, value in values.items()}
        boxes.append(_box(title, network.about, "network", values, network.comments))
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


def read_networks() -> Iterator[NetworkHelp]:
    """Yield the classes of `scorefield.nn` whose docstring describes their arguments."""
    for path in sorted(Path(__file__).parents[1].glob("nn/*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            doc = (isinstance(node, ast.ClassDef) and ast.get_docstring(node)) or ""
            about, _, text = doc.partition("\n\nArgs:\n")
            if isinstance(node, ast.ClassDef) and text:
                pairs = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", text, re.MULTILINE)
                comments = {name: " ".join(comment.split()) for name, comment in pairs}
                yield NetworkHelp(node.name, about.partition("\n")[0], _defaults(node), comments)


def _defaults(node: ast.ClassDef) -> dict[str, Any]:
    """Return the default values of a class's arguments, "" where there is none to show."""
    (init,) = (f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__")
    values = [*init.args.defaults, *init.args.kw_defaults]
    names = [argument.arg for argument in (*init.args.args[1:], *init.args.kwonlyargs)]
    defaults = dict[str, Any].fromkeys(names, "")
    for name, value in zip(reversed(names), reversed(values), strict=False):
        with suppress(ValueError):  # a name of something else
            defaults[name] = ast.literal_eval(value or "")
    return defaults


def _box(
    title: str, about: str, prefix: str, values: Mapping[str, Any], comments: Mapping[str, str]
) -> str:
    """Return a box like those of tyro, with the name, value and description of each field."""
    width = max(60, min(shutil.get_terminal_size().columns, 100))
    lines = [*wrap(about, width - 4), "─" * (width - 4)]
    for name, value in values.items():
        shown = value if isinstance(value, str) else json.dumps(value)
        option = f"--{prefix}.{name}{'=' * bool(shown)}{shown}"
        texts = wrap(comments[name], width - NAME_WIDTH - 5)
        texts = texts if len(option) < NAME_WIDTH else ["", *texts]
        heads = [option, *[""] * len(texts)]
        lines += [f"{head:{NAME_WIDTH}}{text}" for head, text in zip(heads, texts, strict=False)]
    inside = "\n".join(f"│ {line:{width - 4}} │" for line in lines)
    return f"╭─ {title} {'─' * (width - 5 - len(title))}╮\n{inside}\n╰{'─' * (width - 2)}╯"
