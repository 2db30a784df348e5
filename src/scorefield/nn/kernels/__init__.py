"""The C++ beside this file, translated by the machine's own compiler and loaded.

    winograd.cpp   3 × 3 convolutions with a quarter of the multiplications, and their gradients
    around.cpp     norms, activations and pools

It is built when it is first wanted, in some seconds, once for these sources, this compiler and this
processor, and kept in the user's cache.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-shared", "-fPIC")


TYPES = {
    "p": ctypes.c_void_p,
    "b": ctypes.c_bool,
    "i": ctypes.c_int,
    "q": ctypes.c_int64,
    "f": ctypes.c_float,
}
SIGNATURES = {
    "transform_weights": "ipqqbqqpi",
    "convolve": "ippbppppqqqqqqi",
    "correlate": "ippbppqqqqqqi",
    "statistics": "ppppqqqqfi",
    "normalize_backward": "pppbppppqqqfi",
    "box": "pppqqqqi",
    "activate": "ppqi",
    "largest": "ppqqqqi",
    "largest_backward": "ppppqqqqi",
    "same": "ppq",
}
"""What the library's functions take."""


class Unavailable(Exception):
    """Why the fast convolutions are not to be had here."""


def why_not() -> str | None:
    """Why the fast convolutions are not to be had here, or None if they are."""
    try:
        library()
    except Unavailable as reason:
        return str(reason)
    return None


def library() -> ctypes.CDLL:
    """The compiled functions, or `Unavailable`."""
    found = _loaded()
    if isinstance(found, str):
        raise Unavailable(found)
    return found


@functools.cache
def _loaded() -> ctypes.CDLL | str:
    compiler = _compiler()
    if compiler is None:
        return "there is no C++ compiler: install g++"
    try:
        found = ctypes.CDLL(str(_built(compiler)))
    except subprocess.CalledProcessError as error:
        return f"{compiler} failed: {_last_line(error.stderr)}"
    except OSError as error:
        return f"the compiled convolutions could not be kept or loaded: {error}"
    for name, letters in SIGNATURES.items():
        function = getattr(found, name)
        function.argtypes = [TYPES[letter] for letter in letters]
        function.restype = ctypes.c_bool if name in ("statistics", "same") else None
    return found


def _compiler() -> str | None:
    named = os.environ.get("CXX")
    return shutil.which(named) if named else shutil.which("g++") or shutil.which("c++")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["without a word"])[-1]


def _built(compiler: str) -> Path:
    """The library's file, made if this processor and compiler have none of this source yet."""
    command = _command(compiler)
    path = _path(command)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as place:
            made = Path(place) / path.name
            subprocess.run([*command, "-o", str(made)], check=True, capture_output=True, text=True)
            made.replace(path)  # a process beside this one sees all of it or nothing
    return path


def _path(command: list[str]) -> Path:
    version = subprocess.run([command[0], "--version"], capture_output=True, text=True).stdout
    sources = [path.read_text() for path in sorted(FOLDER.glob("*.[ch]*"))]
    told = [*sources, *command, version, _processor()]
    key = hashlib.sha256("\n".join(told).encode()).hexdigest()[:20]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scorefield"
    return folder / f"kernels-{key}.so"


def _command(compiler: str) -> list[str]:
    return [compiler, *FLAGS, *map(str, sorted(FOLDER.glob("*.cpp"))), *_openmp()]


def _openmp() -> list[str]:
    """torch's own OpenMP, to link with it: the threads of two would fight over the cores."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return []
    files = {line.split(maxsplit=5)[-1] for line in maps.read_text().splitlines()}
    return sorted(f for f in files if Path(f).name.startswith(("libgomp", "libiomp5", "libomp")))[
        :1
    ]


def _processor() -> str:
    """What the compiler may have made use of."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    return "\n".join([platform.machine(), platform.processor(), *flags[:2]])
