"""A few operations of pickles, enough for NumPy's arrays of bytes in lists and dictionaries.

`pickletools` splits a pickle into operations, and holds each length in it against what is left of
the file. Those that are known here are done on a stack; the three names that an array needs are
words, not functions, and no other name is taken.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

OPERATIONS = 100_000
"""In a pickle, at most; each makes one small thing. A batch of CIFAR-10 has some 30,000."""
NAMES = {
    "numpy.core.multiarray _reconstruct": "_reconstruct",
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
}


@dataclass(frozen=True)
class Array:
    """An array of bytes, in C's order; the shape is as the pickle has it."""

    shape: tuple[Any, ...]
    content: bytes


@dataclass(eq=False)
class _Made:
    """What a pickle would have made by calling a function, and given a state to."""

    name: str
    arguments: Any
    state: Any = None


@dataclass(eq=False)
class _Machine:
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def since_mark(self) -> list[Any]:
        """What was pushed since the last mark, taken off the stack."""
        mark = self.marks.pop()
        items, self.stack[mark:] = self.stack[mark:], []
        return items

    def name(self, argument: str) -> None:
        """A name that an array needs."""
        if argument not in NAMES:
            raise ValueError("it asks for a name that no array needs")
        self.stack.append(NAMES[argument])

    def items(self, items: list[Any]) -> None:
        """Into the dictionary below; keys are words, for others may take for ever to hash."""
        if type(self.stack[-1]) is not dict or not all(type(key) is str for key in items[::2]):
            raise TypeError("it has keys that are no words, or no dictionary for them")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def extend(self, items: list[Any]) -> None:
        """Into the list below."""
        if type(self.stack[-1]) is not list:
            raise TypeError("it has no list for what it lists")
        self.stack[-1].extend(items)

    def call(self) -> None:
        """Note what would be called, or was finished by a state."""
        arguments, name = self.stack.pop(), self.stack.pop()
        if name not in ("_reconstruct", "dtype") or type(arguments) is not tuple:
            raise TypeError("it calls what is no function")
        self.stack.append(_Made(name, arguments))

    def build(self) -> None:
        """Give a state to what was made, an array if it is one."""
        state, made = self.stack.pop(), self.stack[-1]
        if type(made) is not _Made or made.state is not None or type(state) is not tuple:
            raise TypeError("it gives a state to what has none")
        made.state = state


def unpickled(content: bytes) -> Any:
    """What a pickle describes, its words as str and its arrays for `array` to finish."""
    machine = _Machine()
    for operation, argument, position in islice(pickletools.genops(content), OPERATIONS):
        if operation.name == "STOP":
            if position != len(content) - 1 or len(machine.stack) != 1:
                raise ValueError("it goes on after its end")
            return machine.stack.pop()
        if operation.name not in _DO:
            raise ValueError(f"it has the operation {operation.name}")
        _DO[operation.name](machine, argument)
    raise ValueError(f"it has no end, or more than {OPERATIONS} operations")


def array(made: Any) -> Array:
    """The array of bytes that something in a pickle stands for."""
    if type(made) is not _Made or made.name != "_reconstruct" or len(made.state or ()) != 5:
        raise ValueError("it has something else in the place of an array")
    # version, shape, dtype, whether the order is Fortran's, content
    _, shape, dtype, fortran, raw = made.state
    byte = type(dtype) is _Made and dtype.name == "dtype" and dtype.arguments[:1] == ("u1",)
    if not byte or type(fortran) is not bool or type(raw) is not str or type(shape) is not tuple:
        raise ValueError("its array is none of bytes")
    if not all(type(length) is int for length in shape):
        raise ValueError("its array has no shape")
    content = raw.encode("latin-1")  # strings of Python 2 are bytes
    if fortran:  # the transpose of C's; reshape refuses what does not fit
        content = np.frombuffer(content, np.uint8).reshape(shape[::-1]).T.tobytes()
    return Array(shape, content)


def _put(machine: _Machine, index: int) -> None:
    machine.memo[index] = machine.stack[-1]


def _push(machine: _Machine, argument: Any) -> None:
    machine.stack.append(argument)


def _some(count: int) -> Callable[[_Machine, Any], None]:
    def tuple_of(machine: _Machine, _: Any) -> None:
        if len(machine.stack) < count:
            raise IndexError("it takes more than there is")
        items, machine.stack[-count:] = machine.stack[-count:], []
        machine.stack.append(tuple(items))

    return tuple_of


_DO: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "SHORT_BINSTRING", "BINSTRING", "BINUNICODE"), _push
    ),
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "TUPLE1": _some(1),
    "TUPLE2": _some(2),
    "TUPLE3": _some(3),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.since_mark())),
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.items([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine, _: machine.items(machine.since_mark()),
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "GLOBAL": lambda machine, argument: machine.name(argument),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
}
