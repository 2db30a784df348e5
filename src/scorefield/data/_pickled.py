"""An interpreter for the few pickle operations that NumPy arrays of bytes and lists of them need.

`pickletools` splits a pickle into operations and checks each length against the rest of the file.
The known operations are carried out on a stack; the three global names that an array needs stay
words, no other name is accepted, and nothing is called.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

import numpy as np

MAX_OPERATIONS = 100_000
"""In one pickle; a batch of CIFAR-10 has about 30,000."""
ARRAY_NAMES = {
    "numpy.core.multiarray _reconstruct": "_reconstruct",
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
}
PUSHED = {"BININT", "BININT1", "BININT2", "SHORT_BINSTRING", "BINSTRING", "BINUNICODE"}
"""Operations that push their argument."""
CONSTANTS = {"NONE": None, "NEWFALSE": False, "NEWTRUE": True, "EMPTY_TUPLE": ()}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
Top = TypeVar("Top")


@dataclass(frozen=True)
class ByteArray:
    """An array of bytes in C order; the shape is the one that the pickle claims."""

    shape: tuple[Any, ...]
    content: bytes


@dataclass(eq=False)
class _Call:
    """A function call that a pickle asks for, and the state it gives to the result."""

    name: str
    arguments: Any
    state: Any = None


@dataclass(eq=False)
class _Machine:
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def pop(self, count: int | None = None) -> list[Any]:
        """Remove the last items from the stack, by default those since the last mark."""
        start = self.marks.pop() if count is None else len(self.stack) - count
        if start < 0:
            raise IndexError("it takes more than the stack holds")
        items, self.stack[start:] = self.stack[start:], []
        return items

    def step(self, operation: str, argument: Any) -> None:
        """Carry out an operation."""
        push = self.stack.append
        if operation in PUSHED:
            push(argument)
        elif operation in CONSTANTS:
            push(CONSTANTS[operation])
        elif operation in TUPLES or operation == "TUPLE":
            push(tuple(self.pop(TUPLES.get(operation))))
        elif operation == "MARK":
            self.marks.append(len(self.stack))
        elif operation == "EMPTY_LIST":
            push([])
        elif operation == "EMPTY_DICT":
            push({})
        elif operation in ("APPEND", "APPENDS"):
            items = self.pop(1 if operation == "APPEND" else None)
            self.top(list).extend(items)
        elif operation in ("SETITEM", "SETITEMS"):
            items = self.pop(2 if operation == "SETITEM" else None)
            if not all(type(key) is str for key in items[::2]):  # others may hash for ever
                raise TypeError("it has keys that are not words")
            self.top(dict).update(zip(items[::2], items[1::2], strict=True))
        elif operation in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif operation in ("BINGET", "LONG_BINGET"):
            push(self.memo[argument])
        elif operation == "GLOBAL":
            if argument not in ARRAY_NAMES:
                raise ValueError("it asks for a name that no array needs")
            push(ARRAY_NAMES[argument])
        elif operation == "REDUCE":
            name, arguments = self.pop(2)
            if name not in ("_reconstruct", "dtype") or type(arguments) is not tuple:
                raise TypeError("it calls something that is not a function")
            push(_Call(name, arguments))
        elif operation == "BUILD":
            (state,) = self.pop(1)
            if self.top(_Call).state is not None or type(state) is not tuple:
                raise TypeError("it gives a state to something that has one")
            self.top(_Call).state = state
        elif operation != "PROTO":
            raise ValueError(f"it has the operation {operation}")

    def top(self, kind: type[Top]) -> Top:
        """Return the last item, which must be of a type."""
        item = self.stack[-1]
        if type(item) is not kind:
            raise TypeError(f"it changes something that is not a {kind.__name__}")
        return item


def parse_pickle(content: bytes) -> Any:
    """Return the object of a pickle: words as str, arrays in a form for `parse_array`."""
    machine = _Machine()
    for operation, argument, position in islice(pickletools.genops(content), MAX_OPERATIONS):
        if operation.name == "STOP":
            if position != len(content) - 1 or len(machine.stack) != 1:
                raise ValueError("it continues after its end")
            return machine.stack.pop()
        machine.step(operation.name, argument)
    raise ValueError(f"it has no end, or more than {MAX_OPERATIONS} operations")


def parse_array(call: Any) -> ByteArray:
    """Return the array of bytes that a recorded call stands for."""
    if type(call) is not _Call or call.name != "_reconstruct" or len(call.state or ()) != 5:
        raise ValueError("it has something else in the place of an array")
    _, shape, dtype, fortran, raw = call.state  # the first is a version
    byte = type(dtype) is _Call and dtype.name == "dtype" and dtype.arguments[:1] == ("u1",)
    if not byte or type(fortran) is not bool or type(raw) is not str or type(shape) is not tuple:
        raise ValueError("its array is not one of bytes")
    if not all(type(length) is int for length in shape):
        raise ValueError("its array has no shape")
    content = raw.encode("latin-1")  # strings of Python 2 are bytes
    if fortran:  # the transpose of an array in C order; reshape refuses a wrong size
        content = np.frombuffer(content, np.uint8).reshape(shape[::-1]).T.tobytes()
    return ByteArray(shape, content)
