"""Check types and shapes in every call of scorefield, as `jaxtyping.jaxtyped` does, but cheaper.

A check is built when its function is first called, once for all closures of the same code. It looks
at each argument once, where jaxtyping does so before the call and again after it, and not at all if
a call with the same types and shapes has passed.
"""

import inspect
from collections.abc import Collection
from dataclasses import is_dataclass
from functools import wraps
from typing import Any, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype
from torch import Tensor

# by the rule of static type checkers: an int is accepted as a float
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
one_call = jaxtyping.jaxtyped("context")
"""In it a name of a dimension has one size."""


def install():
    """Let jaxtyping's import hook decorate each function and class with `instrument`."""
    jaxtyping.jaxtyped = lambda **_: instrument
    jaxtyping.install_import_hook("scorefield", None)


def instrument(target, checks={}):  # noqa: B006
    """Let a function or the fields of a dataclass be checked. `checks` are those by code."""
    if inspect.isclass(target):
        if is_dataclass(target) and not hasattr(target.__init__, "__wrapped__"):
            target.__init__ = instrument(target.__init__)
        return target
    code = target.__code__

    @wraps(target)
    def checked(*args, **kwargs):
        __tracebackhide__ = True
        if jaxtyping.config.jaxtyping_disable:
            return target(*args, **kwargs)
        if id(code) not in checks:
            checks[id(code)] = *_build(target), {}, code  # an id is unique while its object lives
        check_arguments, check_result, passed, _ = checks[id(code)]
        kind = _kind((*args, *kwargs.items()) if kwargs else args)
        if (results := passed.get(kind)) is not None:
            result = target(*args, **kwargs)
            if (kind_of_result := _kind((result,))) in results:
                return result
            with one_call:
                check_arguments(*args, **kwargs)
                check_result(result)
        else:
            with one_call:
                check_arguments(*args, **kwargs)
                result = target(*args, **kwargs)
                check_result(result)
            kind_of_result = _kind((result,))
        if kind is not None:
            passed.setdefault(kind, set()).update([kind_of_result] * (kind_of_result is not None))
        return result

    return checked


def _kind(values, depth=4):
    """Return what checks look at in values, or None if the contents of one may change.

    Deep tuples have none either: they may share their parts, which a kind would repeat.
    """
    parts = []
    for value in values:
        parts.append(of := type(value))
        if (look := LOOKS.get(of)) is None:
            look = LOOKS[of] = _choose_look(of)
        if look == "shape":
            parts += (value.dtype, value.shape)
        elif look == "value":
            parts.append(value)
        elif look == "items" and depth > 1 and (kind := _kind(value, depth - 1)) is not None:
            parts.append(kind)
        elif look != "type":
            return None
    return tuple(parts)


LOOKS = {int: "value", str: "value", bool: "value", tuple: "items"}
"""How a value of a type is looked at."""


def _choose_look(of):
    if issubclass(of, Tensor):
        return "shape"
    return "contents" if issubclass(of, (Collection, type)) else "type"


def _build(function):
    """Return two functions that check the arguments of a function, and its result."""
    signature, scope = inspect.signature(function), {}
    bare = [
        p.replace(annotation=p.empty, default=p.default if p.default is p.empty else None)
        for p in signature.parameters.values()
    ]
    exec(f"def arguments{inspect.Signature(bare)}: pass\ndef result(value): pass", scope)
    names = function.__globals__
    hints = {key: _resolve(hint, names) for key, hint in function.__annotations__.items()}
    scope["result"].__annotations__ = {"value": hints.pop("return", Any)}
    scope["arguments"].__annotations__ = hints
    for part in ("arguments", "result"):
        scope[part].__qualname__ = f"{function.__module__}.{function.__qualname__}, {part}"
    return check(scope["arguments"]), check(scope["result"])


def _resolve(hint, names):
    """Return a type, or Any for one with a name that its module does not have."""

    def holder():
        pass

    holder.__annotations__ = {"value": hint}
    try:
        return get_type_hints(holder, names, include_extras=True)["value"]
    except NameError:
        return Any
