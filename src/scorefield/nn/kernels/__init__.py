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
import importlib
import os
import platform
import shlex
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
    "convolve": "ippippqppqqqqqqi",
    "correlate": "ippippqqqqqqi",
    "statistics": "ppppqqqqqfi",
    "normalize_backward": "pppippppqqqqfi",
    "box": "pppqqqqi",
    "activate": "ppipqqqi",
    "largest": "ppqqqqi",
    "largest_backward": "ppppqqqqi",
    "fingerprint": "pqpi",
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
    named, compiler = os.environ.get("CXX"), _compiler()
    if compiler is None and named:
        return f"CXX={named} is not there: let it name a C++ compiler, or unset it"
    if compiler is None:
        return "there is no C++ compiler: install g++"
    try:
        found = ctypes.CDLL(str(_built(compiler)))
    except subprocess.CalledProcessError as error:
        return f"{' '.join(compiler)} failed: {_last_line(error.stderr)}"
    except (OSError, RuntimeError) as error:  # the latter where nobody has a home
        return f"the compiled convolutions could not be kept or loaded: {error}"
    for name, letters in SIGNATURES.items():
        function = getattr(found, name)
        function.argtypes = [TYPES[letter] for letter in letters]
        function.restype = ctypes.c_bool if name == "statistics" else None
    return found


def _compiler() -> list[str] | None:
    """The command that translates, and what goes before it, as in CXX="ccache g++"."""
    named = os.environ.get("CXX")
    for words in [shlex.split(named)] if named else [["g++"], ["c++"]]:
        if words and (path := shutil.which(words[0])) is not None:
            return [path, *words[1:]]
    return None


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["without a word"])[-1]


def _built(compiler: list[str]) -> Path:
    """The library's file, made if this processor and compiler have none of this source yet."""
    command = [*compiler, *FLAGS, *map(str, sorted(FOLDER.glob("*.cpp"))), *_openmp()]
    path = _path(command, _run([*compiler, "--version"]))
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as place:
            made = Path(place) / path.name
            _run([*command, "-o", str(made)])
            made.replace(path)  # a process beside this one sees all of it or nothing
    return path


def _run(command: list[str]) -> str:
    """What it prints, whatever the user's language."""
    done = subprocess.run(
        command, check=True, capture_output=True, encoding="utf-8", errors="replace"
    )
    return done.stdout


def _path(command: list[str], version: str) -> Path:
    sources = [path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.[ch]*"))]
    told = [*sources, *command, version, _processor()]
    key = hashlib.sha256("\n".join(told).encode()).hexdigest()[:20]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scorefield"
    return folder / f"kernels-{key}.so"


def _openmp() -> list[str]:
    """torch's own OpenMP, to link with it: the threads of two would fight over the cores."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return []
    files = {line.split(maxsplit=5)[-1] for line in maps.read_text().splitlines()}
    found = [f for f in files if Path(f).name.startswith(("libgomp", "libiomp5", "libomp"))]
    # other packages, as scikit-learn, may have brought theirs: torch's lie in torch/ or torch.libs/
    torch = os.path.realpath(Path(importlib.import_module("torch").__file__ or "").parent)
    return sorted(found, key=lambda f: (not f.startswith((f"{torch}/", f"{torch}.libs/")), f))[:1]


def _processor() -> str:
    """What the compiler may have made use of."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    return "\n".join([platform.machine(), platform.processor(), *flags[:2]])
