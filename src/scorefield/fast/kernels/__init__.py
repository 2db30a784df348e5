"""The C++ in this folder, compiled on the user's machine and loaded.

It is compiled at first use, in a few seconds, and kept in the user's cache: once for this source,
this compiler and this processor.
"""

import functools
import hashlib
import importlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from ctypes import CDLL, c_bool, c_float, c_int, c_int64, c_void_p
from pathlib import Path

KERNEL_FOLDER = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-shared", "-fPIC")
C_TYPES = dict(p=c_void_p, b=c_bool, i=c_int, q=c_int64, f=c_float)
SIGNATURES = {
    "transform_weights": "ipqqbqqpi",
    "convolve": "ippippqppqqqqqqi",
    "correlate": "ippippqqqqqqi",
    "statistics": "ppppqqqqqfi",
    "normalize_backward": "pppippppqqqqfi",
    "box": "pppqqqqi",
    "activate": "ppipqqqi",
    "max_pool": "ppqqqqi",
    "max_pool_backward": "ppppqqqqi",
    "fingerprint": "pqpi",
}
"""The library's functions and the types of their arguments."""


def unavailable_reason() -> str | None:
    """Return why the kernels cannot be used on this machine, or None if they can."""
    loaded = load_library()
    return loaded if isinstance(loaded, str) else None


def library() -> CDLL:
    """Return the compiled functions; raise `RuntimeError` if there are none."""
    loaded = load_library()
    if isinstance(loaded, str):
        raise RuntimeError(loaded)
    return loaded


@functools.cache
def load_library() -> CDLL | str:
    """Compile if necessary and load; return the reason if that fails."""
    chosen, compiler = os.environ.get("CXX"), _compiler()
    if compiler is None and chosen:
        return f"CXX={chosen} was not found: set it to a C++ compiler, or unset it"
    if compiler is None:
        return "there is no C++ compiler: install g++"
    try:
        loaded = CDLL(str(_compile(compiler)))
    except subprocess.CalledProcessError as error:
        last_line = (error.stderr.strip().splitlines() or ["without a message"])[-1]
        return f"{' '.join(compiler)} failed: {last_line}"
    except (OSError, RuntimeError) as error:  # RuntimeError where the user has no home directory
        return f"the compiled kernels could not be stored or loaded: {error}"
    for name, letters in SIGNATURES.items():
        function = getattr(loaded, name)
        function.argtypes = [C_TYPES[letter] for letter in letters]
        function.restype = c_bool if name == "statistics" else None
    return loaded


def _compiler() -> list[str] | None:
    """Return the compiler's command, which may have several words, as in CXX="ccache g++"."""
    chosen = os.environ.get("CXX")
    for words in [shlex.split(chosen)] if chosen else [["g++"], ["c++"]]:
        if words and (path := shutil.which(words[0])) is not None:
            return [path, *words[1:]]
    return None


def _compile(compiler: list[str]) -> Path:
    """Return the library's file; compile it unless the cache has it."""
    command = [*compiler, *FLAGS, *map(str, sorted(KERNEL_FOLDER.glob("*.cpp"))), *_openmp()]
    sources = [path.read_text(encoding="utf-8") for path in sorted(KERNEL_FOLDER.glob("*.[ch]*"))]
    key = [*sources, *command, _run_command([*compiler, "--version"]), _processor_flags()]
    digest = hashlib.sha256("\n".join(key).encode()).hexdigest()[:20]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scorefield"
    path = folder / f"kernels-{digest}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            output = Path(temporary) / path.name
            _run_command([*command, "-o", str(output)])
            output.replace(path)  # another process sees all of it or nothing
    return path


def _run_command(command: list[str]) -> str:
    """Run a command and return its output, decoded whatever the user's locale."""
    return subprocess.run(
        command, check=True, capture_output=True, encoding="utf-8", errors="replace"
    ).stdout


def _openmp() -> list[str]:
    """Return torch's own OpenMP, to link with it: threads of two would compete for the cores."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return []
    files = {line.split(maxsplit=5)[-1] for line in maps.read_text().splitlines()}
    loaded = [f for f in files if Path(f).name.startswith(("libgomp", "libiomp5", "libomp"))]
    # scikit-learn and others may have loaded their own; torch's is in torch/ or torch.libs/
    torch = os.path.realpath(Path(importlib.import_module("torch").__file__ or "").parent)
    return sorted(loaded, key=lambda f: (not f.startswith((f"{torch}/", f"{torch}.libs/")), f))[:1]


def _processor_flags() -> str:
    """Return a description of the processor, whose instructions the compiled code may use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    return "\n".join([platform.machine(), platform.processor(), *flags[:2]])
