"""Pickles read as data: no code that one names is run or imported.

A pickle is a program for a stack machine, which may import and call anything. This machine builds
numbers, texts, lists (of sets too), dictionaries and tuples; a name in the file is looked up in a
table of what stands for it here, and a name that is not in the table is refused. Nothing is
allocated because the file claims a length: the claim is first compared with the bytes that are
there. Each operation takes a bounded time and memory, except for what it reads from the file.
"""

import pickletools
import struct
from collections.abc import Callable, Mapping
from functools import partial
from io import BytesIO
from typing import Any, NamedTuple

import torch
from torch import Tensor

MAX_OPERATIONS = 2**18
"""Limit for one pickle; a network of EDM has about 60,000, a batch of CIFAR-10 about 30,000."""
MAX_ARGUMENTS = 8
"""Limit of the arguments of a call, which copies them."""
MAX_KEY = 2**48
"""Limit of integers that are keys, such as addresses; no two below it have the same hash."""
CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": list, "EMPTY_TUPLE": tuple}
VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
"""Operations whose argument is the value."""
NO_ACTION = {"PROTO", "BINPERSID"}
"""Operations without effect: BINPERSID keeps the tuple that describes a storage."""


class PlainObject:
    """An object that a pickle describes: the name of what builds it, its arguments and state."""

    def __init__(self, name: str, *arguments: Any) -> None:
        self.name, self.arguments = name, arguments
        self.state: Any = None


class Name(NamedTuple):
    """The name of a class or a function in a pickle."""

    full: str


class PickleMachine:
    """The machine of a pickle; `builders` are our functions for the names that it may call."""

    def __init__(self, builders: Mapping[str, Callable[..., Any]]) -> None:
        self.builders = builders
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[Any, Any] = {}

    def read(self, stream: BytesIO) -> Any:
        """Return the object of the pickle at the stream's position, and move to its end."""
        size = stream.getbuffer().nbytes
        for count, (code, argument, _) in enumerate(pickletools.genops(stream)):
            if count > MAX_OPERATIONS:
                raise ValueError(f"it has more than {MAX_OPERATIONS} operations")
            left = size - stream.tell()
            if code.name == "FRAME" and (argument or 0) > left:
                raise ValueError(f"it claims {argument} bytes where {left} are left")
            if code.name == "STOP":
                break
            if not self._push(code.name, argument):
                self._combine(code.name, argument)
        return self.stack.pop()

    def _push(self, code: str, argument: Any) -> bool:
        """Put a value on the stack, or remember the last one; return False for other operations."""
        if code in VALUES:
            self.stack.append(argument)
        elif code in ("BINSTRING", "SHORT_BINSTRING"):  # of Python 2
            self.stack.append(argument.encode("latin-1"))
        elif code in CONSTANTS:
            self.stack.append(CONSTANTS[code])
        elif code in EMPTY:
            self.stack.append(EMPTY[code]())
        elif code in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif code in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            self.memo[len(self.memo) if code == "MEMOIZE" else argument] = self.stack[-1]
        elif code == "MARK":
            self.marks.append(len(self.stack))
        else:
            return code in NO_ACTION or code == "FRAME"
        return True

    def _take(self, count: int | None = None) -> list[Any]:
        """Take this many values from the stack, or those above the last mark."""
        start = self.marks.pop() if count is None else len(self.stack) - count
        if not 0 <= start <= len(self.stack):
            raise ValueError("it takes values that are not there")
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def _combine(self, code: str, argument: Any) -> None:
        """Build an object of values on the stack."""
        if code.startswith("TUPLE"):
            self.stack.append(tuple(self._take(int(code[5:]) if code[5:] else None)))
        elif code in ("APPEND", "APPENDS", "ADDITEMS"):
            values = self._take(1 if code == "APPEND" else None)
            self._last(list).extend(values)
        elif code in ("SETITEM", "SETITEMS"):
            values = self._take(2 if code == "SETITEM" else None)
            keys = map(_check_key, values[::2])
            self._last(dict).update(zip(keys, values[1::2], strict=True))
        elif code in ("GLOBAL", "STACK_GLOBAL"):
            full = argument.replace(" ", ".") if argument else ".".join(self._take(2))
            if full not in self.builders:
                raise ValueError(f"it asks for {full!r:.100}")
            self.stack.append(Name(full))
        elif code in ("REDUCE", "NEWOBJ"):
            name, arguments = self._take(2)
            if not isinstance(name, Name) or not isinstance(arguments, tuple):
                raise ValueError("it calls what is not a name")
            if len(arguments) > MAX_ARGUMENTS:
                raise ValueError(f"it calls {name.full} with {len(arguments)} arguments")
            self.stack.append(self.builders[name.full](*arguments))
        elif code == "BUILD":
            (state,) = self._take(1)
            if not isinstance(self.stack[-1], dict):  # torch gives attributes to some
                self._last(PlainObject).state = state
        else:
            raise ValueError(f"it has the operation {code}, which no checkpoint needs")

    def _last(self, kind: type) -> Any:
        """Return the last value, which must be of this kind."""
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise ValueError(f"it changes something as if it were a {kind.__name__}")
        return self.stack[-1]


def _check_key(key: object) -> object:
    """Refuse keys that may be made to hash alike, or that are nested and hash for ever."""
    if not isinstance(key, str | bytes | int):
        raise ValueError(f"it has a {type(key).__name__} for a key")
    if isinstance(key, int) and abs(key) > MAX_KEY:
        raise ValueError(f"it has an integer beyond ±{MAX_KEY} for a key")
    return key


def describe(*names: str) -> dict[str, Callable[..., PlainObject]]:
    """Return the table in which each name stands for its description, a `PlainObject`."""
    return {name: partial(PlainObject, name) for name in names}


# ── Networks ─────────────────────────────────────────────────────────────────────────────────────

STORAGES = {
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.BoolStorage": torch.bool,
    "torch.ByteStorage": torch.uint8,
    "torch.CharStorage": torch.int8,
    "torch.ShortStorage": torch.int16,
    "torch.IntStorage": torch.int32,
    "torch.LongStorage": torch.int64,
}
"""Types of numbers by the names of torch's storages."""
STORAGE_MAGIC = 0x1950A86A20F9469CFC6C
STORAGE_VERSION = 1001
"""Mark and version before a storage, in torch's format before zip files, still used in memory."""
MAX_DIMENSIONS = 8
"""Limit of the dimensions of a tensor."""
NUMBERS = {"f4": "f", "f8": "d", "i4": "i", "i8": "q"}
"""Codes of `struct` by NumPy's."""
PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"


def _read_storage(content: bytes) -> Tensor:
    """Return the numbers in a storage, without copying them."""
    stream = BytesIO(content)
    check_torch_start(stream)
    description, keys = (PickleMachine(describe(*STORAGES)).read(stream) for _ in range(2))
    key, dtype, count = describe_storage(description)
    (stored,) = struct.unpack("<q", stream.read(8))
    rest = len(content) - stream.tell()
    if keys != [key]:
        raise ValueError("it has a storage that torch did not write")
    if not stored == count == rest / dtype.itemsize:
        raise ValueError(f"it has a storage of {count} numbers, {dtype}, in {rest} bytes")
    return torch.frombuffer(content, dtype=dtype, offset=stream.tell())


def check_torch_start(stream: BytesIO) -> None:
    """Read the three pickles that begin a file or a storage in torch's format before zip files."""
    magic, version, machine = (PickleMachine({}).read(stream) for _ in range(3))
    if (magic, version) != (STORAGE_MAGIC, STORAGE_VERSION) or not machine["little_endian"]:
        raise ValueError("it has a storage that torch did not write, or of another order of bytes")


def describe_storage(storage: Any) -> tuple[str, torch.dtype, int]:
    """Return the key, the type and the count of the numbers of a storage."""
    _, kind, key, _, count, *view = storage
    # before they are compared or shown, which takes for ever where they are nested
    plain = isinstance(kind, Name) and isinstance(key, str) and isinstance(count, int)
    if not plain or kind.full not in STORAGES or count < 0 or view not in ([], [None]):
        raise ValueError("it has a storage that torch did not write")
    return key, STORAGES[kind.full], count


def view_storage(storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    """Return a view of a storage, in which a number may be repeated."""
    if len(size) > MAX_DIMENSIONS:
        raise ValueError(f"it has a tensor of {len(size)} dimensions")
    return storage.as_strided(size, stride, offset)


def _build_tensor(storage: Tensor, *view: Any) -> Tensor:
    """Return a view of a storage, not larger than it."""
    tensor = view_storage(storage, *view)
    if tensor.numel() > storage.numel():
        raise ValueError(
            f"it has a tensor of the shape {tuple(tensor.shape)} in {storage.numel()} numbers"
        )
    return tensor


def _read_scalar(dtype: PlainObject, content: bytes) -> int | float:
    """Return a scalar of NumPy."""
    order, code = dtype.state[1], dtype.arguments[0]
    if not isinstance(code, str) or code not in NUMBERS or order not in ("<", ">"):
        raise ValueError(f"it has a scalar that is not one of {', '.join(NUMBERS)}")
    value: int | float
    (value,) = struct.unpack(order + NUMBERS[code], content)
    return value


BUILDERS: dict[str, Callable[..., Any]] = {
    **describe(PERSISTENT, "torch.nn.modules.container.ModuleDict", "numpy.dtype"),
    **dict.fromkeys(("collections.OrderedDict", "dnnlib.util.EasyDict"), lambda: {}),
    "builtins.set": lambda items=(): items,
    "torch._utils._rebuild_tensor_v2": _build_tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "numpy.core.multiarray.scalar": _read_scalar,
    "numpy._core.multiarray.scalar": _read_scalar,
}
"""What stands for each name in a pickled network, except for a storage, see `read_network`."""


def read_network(content: bytes) -> Any:
    """Return the content of a network's pickle, with tensors of torch."""
    storages: dict[int, Tensor] = {}  # by the id of their bytes, which the tensor keeps

    def read_once(stored: bytes) -> Tensor:
        if id(stored) not in storages:
            storages[id(stored)] = _read_storage(stored)
        return storages[id(stored)]

    builders = {**BUILDERS, "torch.storage._load_from_bytes": read_once}
    return PickleMachine(builders).read(BytesIO(content))
