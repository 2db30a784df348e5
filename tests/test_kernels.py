"""The compiled kernels: built once, cached, and not used without a compiler."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from scorefield.fast import kernels

REASON = kernels.unavailable_reason()
needs_compiler = pytest.mark.skipif(REASON is not None, reason=REASON or "")
EPSILON = torch.finfo(torch.float32).eps


def error(result, truth):
    """The relative error in the norm, computed in float64."""
    return ((result.double() - truth).norm() / truth.norm()).item()


def error_in_16_bits(net, dtype=torch.bfloat16):
    """A layer rounds weights, input and output, by ε/4 in quadratic mean and independently."""
    layers = sum(isinstance(m, torch.nn.Conv2d | torch.nn.Linear) for m in net.modules())
    return 2 * (3 * layers) ** 0.5 * torch.finfo(dtype).eps / 4  # twice, because sums partly cancel


def unusual_derivatives(call, x, v, parameters):
    """Batched gradients, second derivatives and forward mode, for which no kernel is written."""
    x = x.clone().requires_grad_()
    y = torch.tanh(call(x))
    rows = torch.stack([v, 2 * v, v.flip(0)])
    (several,) = torch.autograd.grad(y, x, rows, is_grads_batched=True, retain_graph=True)
    (pulled,) = torch.autograd.grad(y, x, v, create_graph=True)
    second = torch.autograd.grad((pulled**2).sum(), [x, *parameters])
    with torch.no_grad():  # forward mode needs no graph
        _, pushed = torch.func.jvp(call, (x.detach(),), (v,))
    return [several, *second, pushed]


def _trivial(answer: str) -> str:
    """A library of all the functions, each with a constant result."""
    return "\n".join(f'extern "C" bool {f}() {{ return {answer}; }}' for f in kernels.SIGNATURES)


def _answer() -> bool:
    kernels.load_library.cache_clear()
    return kernels.library().statistics(*[None] * 4, *[0] * 5, 0.0, 0)


@pytest.fixture
def source(monkeypatch, tmp_path):
    """A source that compiles at once, and an empty cache."""
    path = tmp_path / "all.cpp"
    path.write_text(_trivial("true"))
    monkeypatch.setattr(kernels, "KERNEL_FOLDER", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kernels.load_library.cache_clear()
    yield path
    kernels.load_library.cache_clear()


@pytest.fixture
def no_compiler(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    kernels.load_library.cache_clear()
    yield
    kernels.load_library.cache_clear()


@pytest.mark.usefixtures("source", "no_compiler")
def test_a_missing_compiler_is_the_reason(monkeypatch):
    assert kernels.unavailable_reason() == "there is no C++ compiler: install g++"
    with pytest.raises(RuntimeError, match=r"install g\+\+"):
        kernels.library()
    monkeypatch.setenv("CXX", "nowhere-g++")
    kernels.load_library.cache_clear()
    assert "CXX=nowhere-g++ was not found: set it to a C++" in kernels.unavailable_reason()


@needs_compiler
def test_a_library_is_compiled_once_for_each_source(source, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", f"env {' '.join(kernels._compiler())}")  # a command of several words
    assert _answer() is True
    (library,) = (tmp_path / "cache/scorefield").iterdir()
    written = library.stat().st_mtime_ns
    assert _answer() is True
    assert library.stat().st_mtime_ns == written
    source.write_text(_trivial("false"))
    assert _answer() is False
    assert len(list(library.parent.iterdir())) == 2


@needs_compiler
def test_a_failure_to_compile_or_store_is_the_reason(source, monkeypatch, tmp_path):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    source.write_text("not C++")
    assert "failed" in kernels.unavailable_reason()
    kernels.load_library.cache_clear()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "could not be stored" in kernels.unavailable_reason()
    kernels.load_library.cache_clear()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(kernels.Path, "home", no_home)
    assert "stored or loaded: Could not determine home" in kernels.unavailable_reason()


@needs_compiler
def test_kernels_use_torchs_openmp():
    """Threads of two OpenMPs would compete for the cores; scikit-learn loads one of its own."""
    code = """
        import sklearn.utils._openmp_helpers, torch
        from scorefield.fast import kernels, winograd
        kernels.library()
        print(kernels._openmp()[0])
        print(open("/proc/self/maps").read())
    """
    # in a process of its own, because the tests load others
    linked, maps = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    ).stdout.split("\n", 1)
    names = {Path(line.split()[-1]).name for line in maps.splitlines() if line}
    assert Path(linked).parts[-3].startswith("torch") or Path(linked).parts[-2] == "torch.libs"
    assert any(name.startswith("kernels-") for name in names)
    # scikit-learn's and torch's, not a third
    assert sum("gomp" in name or "iomp" in name for name in names) == 2
