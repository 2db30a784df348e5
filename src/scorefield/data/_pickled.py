"""An interpreter for the few pickle operations that NumPy arrays of bytes and lists of them need.

`pickletools` splits a pickle into operations and checks each length against the rest of the file.
The known operations are carried out on a stack; the three global names that an array needs stay
words, no other name is accepted, and nothing is called.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

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
CONTAINERS: dict[str, type] = {"EMPTY_LIST": list, "EMPTY_DICT": dict}
ITEMS = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2, "REDUCE": 2, "BUILD": 1}
"""Items that an operation takes from the stack; others take those since the last mark."""
Top = TypeVar("Top")


@dataclass(eq=False)
class _Call:
    """A function call that a pickle asks for, and the state it gives to the result."""

    name: str
    arguments: Any
    state: Any = None


def parse_pickle(content: bytes) -> Any:
    """Return the object of a pickle: words as str, arrays in a form for `parse_array`."""
    stack, marks, memo = list[Any](), list[int](), dict[Any, Any]()

    def pop(operation: str) -> list[Any]:
        count = ITEMS.get(operation)
        start = marks.pop() if count is None else len(stack) - count
        if start < 0:
            raise IndexError("it takes more than the stack holds")
        items, stack[start:] = stack[start:], []
        return items

    def top(kind: type[Top]) -> Top:
        if type(stack[-1]) is not kind:
            raise TypeError(f"it changes something that is not a {kind.__name__}")
        return stack[-1]

    for code, argument, position in islice(pickletools.genops(content), MAX_OPERATIONS):
        operation = code.name
        if operation == "STOP":
            if position != len(content) - 1 or len(stack) != 1:
                raise ValueError("it continues after its end")
            return stack.pop()
        if operation in PUSHED:
            stack.append(argument)
        elif operation in CONSTANTS:
            stack.append(CONSTANTS[operation])
        elif operation in CONTAINERS:
            stack.append(CONTAINERS[operation]())
        elif operation.startswith("TUPLE"):
            stack.append(tuple(pop(operation)))
        elif operation == "MARK":
            marks.append(len(stack))
        elif operation in ("APPEND", "APPENDS"):
            items = pop(operation)
            top(list).extend(items)
        elif operation in ("SETITEM", "SETITEMS"):
            items = pop(operation)
            if not all(type(key) is str for key in items[::2]):  # others may hash for ever
                raise TypeError("it has keys that are not words")
            top(dict).update(zip(items[::2], items[1::2], strict=True))
        elif operation in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif operation in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif operation == "GLOBAL":
            if argument not in ARRAY_NAMES:
                raise ValueError("it asks for a name that no array needs")
            stack.append(ARRAY_NAMES[argument])
        elif operation == "REDUCE":
            name, arguments = pop(operation)
            if name not in ("_reconstruct", "dtype") or type(arguments) is not tuple:
                raise TypeError("it calls something that is not a function")
            stack.append(_Call(name, arguments))
        elif operation == "BUILD":
            (state,) = pop(operation)
            if top(_Call).state is not None or type(state) is not tuple:
                raise TypeError("it gives a state to something that has one")
            top(_Call).state = state
        elif operation != "PROTO":
            raise ValueError(f"it has the operation {operation}")
    raise ValueError(f"it has no end, or more than {MAX_OPERATIONS} operations")


def parse_array(call: Any) -> NDArray[np.uint8]:
    """Return the array of bytes that a recorded call stands for."""
    if type(call) is not _Call or call.name != "_reconstruct" or len(call.state or ()) != 5:
        raise ValueError("it has something else in the place of an array")
    _, shape, dtype, fortran, raw = call.state  # the first is a version
    byte = type(dtype) is _Call and dtype.name == "dtype" and dtype.arguments[:1] == ("u1",)
    if not byte or type(fortran) is not bool or type(raw) is not str or type(shape) is not tuple:
        raise ValueError("its array is not one of bytes")
    if not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError("its array has no shape")
    content = np.frombuffer(raw.encode("latin-1"), np.uint8)  # strings of Python 2 are bytes
    # reshape refuses a wrong size; in Fortran order it is the transpose of an array in C order
    return content.reshape(shape[::-1]).T if fortran else content.reshape(shape)
