"""Values from YAML, JSON or a command line, in the types that a signature asks for.

Fields of a configuration, options of data sets and arguments of networks are all converted here, so
that each error names the field, its value and the fix.
"""

import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

CONTROLS = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
"""Control characters, invisible marks, changes of direction, and bytes that are not text."""
DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", re.ASCII)
TYPE_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    NoneType: "null",
    dict: "names and values",
}

HUB_PREFIX = "hub:"
"""Prefix of names on the Hugging Face Hub, of data sets and of models."""

RestorationTask = Literal["inpaint", "colorize", "super-resolve", "deblur", "fourier", "radon"]
"""Measurements of images that `restore` takes on the command line and in the studio."""

Dequantisation = Literal["uniform", "normal"]
"""Distributions of a point in the cell of an 8-bit value, for likelihoods; see `dequantise`."""

IMPORTED: dict[str, Any] = {}
"""Objects of other packages that the user has named, by MODULE:NAME."""


def import_object(name: str) -> Any:
    """Import an object that the user names as MODULE:NAME, in the working folder too.

    The module's code is run, so no name that a file contains may come here by itself.
    """
    module_name, colon, attribute = name.partition(":")
    if not (colon and all(part.isidentifier() for part in (*module_name.split("."), attribute))):
        raise ValueError(f"{name!r:.80} names no code: give MODULE:NAME, as my_package.nets:MyNet")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise  # a module that it imports
        raise ValueError(
            f"{name}: there is no module {error.name} in the working folder or among the installed "
            "packages: correct the name, or add its folder to PYTHONPATH"
        ) from error
    if not hasattr(module, attribute):
        hint = spelling_hint(attribute, (n for n in vars(module) if not n.startswith("_")))
        raise ValueError(f"{name}: {module_name} has no {attribute}: {hint}")
    value = getattr(module, attribute)
    if isinstance(value, type):  # a package may offer a class of one of its modules
        IMPORTED[f"{value.__module__}:{value.__qualname__}"] = value
    IMPORTED[name] = value
    return value


def import_extra(module: str, extra: str, purpose: str) -> Any:
    """Import an optional library; an error says how to install it for a purpose."""
    try:
        return import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise ImportError(f"{purpose} needs {name}: pip install 'scorefield[{extra}]'") from error


def convert_arguments(
    function: Callable[..., Any], values: Mapping[str, Any], prefix: str
) -> dict[str, Any]:
    """Return keyword arguments in the types of a function or class; `prefix` begins their names."""
    parameters = signature(function, eval_str=True).parameters
    check_names(values, parameters, prefix)
    return {
        k: convert_value(v, parameters[k].annotation, f"{prefix}{k}") for k, v in values.items()
    }


def convert_value(value: Any, hint: Any, name: str) -> Any:
    """Return a value in an annotated type, which an error describes."""
    if hint in (Any, Parameter.empty):
        return value
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for kind in kinds:
        with suppress(TypeError, ValueError, OverflowError):
            return _convert_to(kind, value, name)
    fix = f"give {describe_type(hint)}"
    if get_origin(hint) is Literal:
        fix = spelling_hint(str(value), map(str, get_args(hint)))
    raise ValueError(f"{name}={value!r:.80}: {fix}")


def _convert_to(kind: Any, value: Any, name: str) -> Any:
    """Return a value in a type that is not a union, or fail."""
    origin, items = get_origin(kind), get_args(kind)
    if origin is Literal:
        if isinstance(value, bool):  # YAML reads on and off as true and false
            value = "on" if value else "off"
        return items[items.index(value)]
    if kind in (int, float):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and (kind is float or value == int(value)):
            return kind(value)
    elif origin in (tuple, Sequence):
        if isinstance(value, str):  # a,b
            number = items[0] in (int, float)
            value = [json.loads(v) if number else v.strip() for v in value.split(",")]
        if isinstance(value, (list, tuple)):
            hints = items if origin is tuple and ... not in items else items[:1] * len(value)
            parts = [convert_value(v, part, name) for v, part in zip(value, hints, strict=True)]
            return tuple(parts) if origin is tuple else parts
    elif origin is Mapping and isinstance(value, Mapping):
        return {k: convert_value(v, items[1], f"{name}.{k}") for k, v in value.items()}
    elif kind is Path or isinstance(value, origin or kind):
        return Path(value) if kind is Path else value
    raise TypeError


def data_option(name: str, value: Any) -> str:
    """Return an option of data as Python and the command line write it, for a hint."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"{name}={value!r} (--data.options.{name}={shlex.quote(text)})"


def describe_type(hint: Any) -> str:
    """Return an annotated type in words."""
    origin, items = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(map(describe_type, items))
    if origin is Literal:
        return ", ".join(map(str, items))
    if origin is Mapping:
        return f"names, each with {describe_type(items[1])}"
    if origin in (tuple, Sequence):
        words = ", ".join(describe_type(item) for item in items if item is not ...)
        return f"[{words}{', ...' * (origin is Sequence or ... in items)}]"
    return TYPE_WORDS.get(origin or hint, str(hint))


def check_names(names: Iterable[str], choices: Iterable[str], prefix: str) -> None:
    """Refuse a name that is not among the choices; `prefix` begins it in the error."""
    choices = list(choices)
    for name in names:
        if name not in choices:
            raise ValueError(f"{prefix}{name} does not exist: {spelling_hint(name, choices)}")


def parse_duration(text: str, name: str) -> float:
    """Return the seconds of a duration such as 90s, 20m or 1h30m."""
    match = DURATION.fullmatch(text.strip())
    units = {"h": 3600, "m": 60, "s": 1}
    parts = zip(units.values(), match.groups(default="0"), strict=True) if match else ()
    seconds = sum(unit * float(number) for unit, number in parts)
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{name} {text!r:.80}: give a duration such as 90s, 20m or 1h30m")
    return seconds


def map_condition(change: Callable[[Any], Any], condition: Any) -> Any:
    """Return a condition after a change of it or of each of several by name; None stays None."""
    if isinstance(condition, Mapping):
        return {name: change(value) for name, value in condition.items()}
    return None if condition is None else change(condition)


def quantity(n: int, noun: str) -> str:
    """Return a number with its noun, as in 1 row or 2 rows."""
    return f"{n} {noun}{'s' * (n != 1)}"


def escape_controls(text: str, *, lines: bool = False) -> str:
    """Return text whose control characters are escaped, all or all but the ends of `lines`.

    Printed as they are, those in the names of a file could move a terminal's cursor or fake output.
    """
    parts = text.split("\n") if lines else [text]
    return "\n".join(CONTROLS.sub(lambda match: repr(match[0])[1:-1], part) for part in parts)


def spelling_hint(name: str, choices: Iterable[str], unlisted: Iterable[str] = ()) -> str:
    """Return the most similar choice as a question, or a list of the first twenty.

    The `unlisted` ones may be the most similar, but are not in the list.
    """
    choices = list(map(escape_controls, choices))
    similar = get_close_matches(name, [*choices, *map(escape_controls, unlisted)], 1)
    others = ", ".join(choices[:20]) or "none"
    return f"did you mean {similar[0]}?" if similar else f"there are {others}"


def describe_classes(names: Sequence[str]) -> str:
    """Return the number of classes and the names of the first twenty."""
    shown = ", ".join(map(escape_controls, names[:20]))
    return f"{len(names)} classes: {shown}{', ...' * (len(names) > 20)}"
