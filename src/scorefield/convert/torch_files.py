"""Files of `torch.save`: a zip, or the format before it. No code that one names is run.

    zip      NAME/data.pkl, a pickle; NAME/data/KEY, the numbers of each storage
    before   five pickles: a mark, a version, the machine, the content, the keys of the storages;
             then the count and the numbers of each

torch's own reader hashes any key, which may take for ever or end the process, and finds the
directory of a zip by other rules than ours, so that a check of the sizes can be deceived.
"""

import struct
import zipfile
from collections.abc import Callable
from io import BufferedReader, BytesIO
from typing import Any

import torch
from torch import Tensor

from .pickles import (
    BUILDERS,
    STORAGES,
    PickleMachine,
    check_torch_start,
    describe,
    describe_storage,
    view_storage,
)

ZIP_MARK = b"PK\3\4"
"""Begins a zip."""
NAMES = describe(*STORAGES, "torch.Size", "torch.device", *map(str, STORAGES.values()))
"""Names that stand for their description; no tensor needs them."""
REBUILD = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")


def read_zip(file: BufferedReader) -> Any:
    """Return the content of a zip of torch; no more is unpacked than the file has bytes."""
    size = file.seek(0, 2)
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        total = sum(info.file_size for info in archive.infolist())
        if total > size:
            raise ValueError(f"a zip of {size:,} bytes that unpacks to {total:,}: save it by torch")
        (root,) = (name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl"))
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("its numbers are of another order of bytes: save it on this machine")
        stored: dict[str, bytearray] = {}

        def build(storage: Any, *view: Any) -> Tensor:
            key, dtype, count = describe_storage(storage)
            if key not in stored:
                stored[key] = bytearray(archive.read(f"{root}data/{key}"))
            if len(stored[key]) != count * dtype.itemsize:
                raise ValueError(f"it has a storage of {count} numbers in {len(stored[key])} bytes")
            return view_storage(_view(stored[key], dtype, 0, count), *view)

        return _run_pickle(BytesIO(archive.read(f"{root}data.pkl")), build)


def read_before_zip(content: bytearray) -> Any:
    """Return the content of a file in the format before the zip."""
    stream = BytesIO(content)
    check_torch_start(stream)
    start, described = stream.tell(), dict[str, tuple[torch.dtype, int]]()

    def note(storage: Any, *_: Any) -> None:
        key, dtype, count = describe_storage(storage)
        described[key] = dtype, count

    _run_pickle(stream, note)
    storages = dict[str, Tensor]()
    for key in PickleMachine({}).read(stream):
        if not isinstance(key, str):  # a nested one is hashed for ever
            raise ValueError("it has a storage that torch did not write")
        dtype, count = described[key]
        (stored,), size = struct.unpack("<q", stream.read(8)), count * dtype.itemsize
        if stored != count or stream.tell() + size > len(content):
            raise ValueError(f"it has a storage of {count} numbers that are not there")
        storages[key] = _view(content, dtype, stream.tell(), count)
        stream.seek(size, 1)
    stream.seek(start)
    return _run_pickle(
        stream, lambda storage, *view: view_storage(storages[describe_storage(storage)[0]], *view)
    )


def _run_pickle(stream: BytesIO, build: Callable[..., Any]) -> Any:
    builders: dict[str, Callable[..., Any]] = BUILDERS | NAMES | dict.fromkeys(REBUILD, build)
    return PickleMachine(builders).read(stream)


def _view(content: bytearray, dtype: torch.dtype, offset: int, count: int) -> Tensor:
    if count == 0:  # which torch refuses
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(content, dtype=dtype, offset=offset, count=count)
