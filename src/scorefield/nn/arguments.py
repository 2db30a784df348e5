"""Keep and check the arguments of a network: `type(net)(**net.arguments)` builds it again."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.nn import Module


def constructor_arguments(names: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments among the `locals()` at the top of an `__init__`."""
    return {name: value for name, value in names.items() if name not in ("self", "__class__")}


def build_module(network: Callable[..., Module], arguments: Mapping[str, Any]) -> Module:
    """Build a network, which keeps its arguments even if its class does not."""
    net = network(**arguments)
    if not hasattr(net, "arguments"):
        vars(net)["arguments"] = dict(arguments)
    return net


def check_arguments(
    arguments: Mapping[str, Any], choices: Mapping[str, Sequence[Any]], **minimum: int
) -> None:
    """Refuse words that are not among the choices, small numbers, and dropout beyond [0, 1]."""
    for name, words in choices.items():
        if arguments[name] not in words:
            raise ValueError(f"{name}={arguments[name]!r}: one of {', '.join(map(str, words))}")
    for name, bound in minimum.items():
        if arguments[name] is not None and arguments[name] < bound:
            raise ValueError(f"{name}={arguments[name]}: {bound} at least")
    for name, value in arguments.items():
        if name.endswith("dropout") and not 0 <= value <= 1:
            raise ValueError(f"{name}={value}: a fraction, from 0 to 1")
