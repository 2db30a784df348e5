"""Settings of a job: a frozen dataclass, filled from the page's JSON.

A limit stands in the annotation; None has none:

    @dataclass(frozen=True)
    class Sampling:
        n: Annotated[int, Between(1, 4000)] = 1000
        sampler: Annotated[str, Among(*SAMPLERS)] = "heun"
        start: Literal["prior", "square"] = "prior"
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from ..values import check_names, convert_value, spelling_hint

AnySettings = TypeVar("AnySettings")

MAX_SEED = 2**53 - 1
"""Largest whole number that JavaScript has exactly."""


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
    types, hints = get_type_hints(kind), get_type_hints(kind, include_extras=True)
    check_names(values, types, "setting ")
    own = {name: convert_value(value, types[name], name) for name, value in values.items()}
    for name, value in own.items():
        if get_origin(hints[name]) is Annotated and value is not None:
            for limit in get_args(hints[name])[1:]:
                _check_limit(name, value, limit)
    required = [f.name for f in fields(kind) if f.default is MISSING]  # type: ignore[arg-type]
    if missing := [name for name in required if name not in values]:
        raise ValueError(f"{', '.join(missing)}: missing")
    return kind(**own)


def _check_limit(name: str, value: Any, limit: Between | Among | Length) -> None:
    if isinstance(limit, Among):
        if value not in limit.names:
            raise ValueError(f"{name}={value!r:.80}: {spelling_hint(value, limit.names)}")
    elif isinstance(limit, Length):
        if not limit.low <= len(value) <= limit.high:
            raise ValueError(
                f"{name} has {len(value)} numbers: give {limit.low} to {limit.high} of them"
            )
    else:
        numbers = value if isinstance(value, tuple) else (value,)
        wrong = [number for number in numbers if not limit.low <= number <= limit.high]
        if wrong:
            raise ValueError(f"{name}={wrong[0]:.16g}: give {limit.low:.16g} to {limit.high:.16g}")
