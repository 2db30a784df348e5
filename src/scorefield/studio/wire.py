"""Messages between page and studio.

A page asks in JSON: `{"id": 7, "job": "plane.sample", "settings": {…}}`, `{"id": 7, "cancel":
true}` and `{"id": 7, "ack": 12}`. The studio answers with a status in JSON, and with frames:

    uint32 length of the header | header in JSON, padded with spaces | arrays, padded with zeros

Arrays begin at multiples of 8 bytes, so that the page reads them where they lie.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

ALIGNMENT = 8
MAX_SETTINGS = 2**20
"""Bytes of the largest message from a page."""
DTYPES = frozenset({"float32", "float64", "int32", "uint8", "uint16", "uint32"})
"""Types of arrays for which JavaScript has a typed array."""
FIELD_TYPES = {"id": int, "job": str, "settings": dict, "cancel": bool, "ack": int}
"""Fields of a page's message."""
RESERVED = frozenset({"id", "frame", "arrays"})


@dataclass(frozen=True, eq=False)
class Frame:
    """Values and arrays that a job shows; `keep` in the header marks one that is never skipped."""

    header: Mapping[str, Any]
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, array in self.arrays.items():
            if array.dtype.name not in DTYPES:
                raise TypeError(f"{name} is {array.dtype}: give one of {', '.join(sorted(DTYPES))}")
        if names := RESERVED & self.header.keys():
            raise ValueError(f"header {', '.join(sorted(names))}: these names are taken")


@dataclass(frozen=True)
class Request:
    """One message of a page: a job to start, to cancel, or whose frame has arrived."""

    id: int
    job: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    cancel: bool = False
    ack: int | None = None


def pack(frame: Frame, task: int, number: int) -> bytes:
    """Return a frame as bytes."""
    arrays = {name: np.ascontiguousarray(array) for name, array in frame.arrays.items()}
    shapes = [
        {"name": name, "dtype": array.dtype.name, "shape": array.shape}
        for name, array in arrays.items()
    ]
    head = {"id": task, "frame": number, "arrays": shapes, **frame.header}
    text = json.dumps(head, allow_nan=False).encode()
    text += b" " * (-(len(text) + 4) % ALIGNMENT)
    parts = [len(text).to_bytes(4, "little"), text]
    for array in arrays.values():
        content = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        parts += [content, bytes(-len(content) % ALIGNMENT)]
    return b"".join(parts)


def parse_request(text: str) -> Request:
    """Return the message of a page; anything else is a ValueError."""
    try:
        message = json.loads(text)
    except RecursionError as error:
        raise ValueError("the message is nested too deeply") from error
    if not isinstance(message, dict) or not message.keys() <= FIELD_TYPES.keys():
        raise ValueError(f"a message is an object with {', '.join(FIELD_TYPES)}")
    for name, value in message.items():
        if type(value) is not FIELD_TYPES[name]:
            raise ValueError(f"{name} {value!r:.40}: give {FIELD_TYPES[name].__name__}")
    if "id" not in message or len(message.keys() & {"job", "cancel", "ack"}) != 1:
        raise ValueError("a message has an id, and one of job, cancel and ack")
    return Request(**message)
