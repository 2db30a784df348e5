"""Settings of a job: a frozen dataclass, filled from the page's JSON.

Types are int, float, str, bool, tuple[float, ...] and a Literal of texts. A limit stands in the
annotation:

    @dataclass(frozen=True)
    class Sampling:
        n: Annotated[int, Between(1, 4000)] = 1000
        sampler: Annotated[str, Among(*SAMPLERS)] = "heun"
        start: Literal["prior", "square"] = "prior"
"""

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

AnySettings = TypeVar("AnySettings")

KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


class Between(NamedTuple):
    """Limits of a number, or of each number of a list."""

    low: float
    high: float


class Among:
    """Texts of which one is to be given, where they are not literal."""

    def __init__(self, *names: str) -> None:
        self.names = names


class Length(NamedTuple):
    """Limits of the number of numbers in a list."""

    low: int
    high: int


def parse_settings(kind: type[AnySettings], values: Mapping[str, Any]) -> AnySettings:
    """Return the settings of a page; an error names the field, its value and the fix."""
    hints = get_type_hints(kind, include_extras=True)
    if unknown := [name for name in values if name not in hints]:
        raise ValueError(f"setting {unknown[0]!r:.40} does not exist: give {', '.join(hints)}")
    own = {name: _parse_setting(name, value, hints[name]) for name, value in values.items()}
    required = [f.name for f in fields(kind) if f.default is MISSING]  # type: ignore[arg-type]
    if missing := [name for name in required if name not in values]:
        raise ValueError(f"setting {missing[0]!r} is missing")
    return kind(**own)


def _parse_setting(name: str, value: Any, hint: Any) -> Any:
    base, *limits = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if get_origin(base) is Literal:
        base, limits = str, [Among(*get_args(base))]
    if base == tuple[float, ...]:
        if not isinstance(value, list):
            raise ValueError(f"{name}={value!r:.80}: give a list of numbers")
        value = tuple(_parse_one(name, number, float) for number in value)
    else:
        value = _parse_one(name, value, base)
    for limit in limits:
        _check_limit(name, value, limit)
    return value


def _parse_one(name: str, value: Any, kind: type) -> Any:
    """Return a value of the type; a whole number is also a float."""
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"{name}={value!r:.80}: give {KINDS[kind]}")
    return value


def _check_limit(name: str, value: Any, limit: Between | Among | Length) -> None:
    if isinstance(limit, Among):
        if value not in limit.names:
            raise ValueError(f"{name}={value!r:.80}: give one of {', '.join(limit.names)}")
    elif isinstance(limit, Length):
        if not limit.low <= len(value) <= limit.high:
            raise ValueError(
                f"{name} has {len(value)} numbers: give {limit.low} to {limit.high} of them"
            )
    else:
        numbers = value if isinstance(value, tuple) else (value,)
        wrong = [number for number in numbers if not limit.low <= number <= limit.high]
        if wrong:
            raise ValueError(f"{name}={wrong[0]:g}: give {limit.low:g} to {limit.high:g}")
