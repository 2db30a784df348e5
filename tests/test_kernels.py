"""The library of C++: built once, kept, and done without where it cannot be had."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from scorefield.nn import kernels

REASON = kernels.unavailable_reason()
needs_compiler = pytest.mark.skipif(REASON is not None, reason=REASON or "")


def _trivial(answer: str) -> str:
    """A library of all the functions, of which `statistics` always says the same."""
    bodies = {name: f'extern "C" void {name}() {{}}' for name in kernels.SIGNATURES}
    bodies["statistics"] = f'extern "C" bool statistics() {{ return {answer}; }}'
    return "\n".join(bodies.values())


def _answer() -> bool:
    said: bool = kernels.library().statistics(*[None] * 4, *[0] * 5, 0.0, 0)
    return said


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A cache of its own, nothing built in it, and a source that takes no time."""
    source = tmp_path / "all.cpp"
    source.write_text(_trivial("true"))
    monkeypatch.setattr(kernels, "KERNEL_FOLDER", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kernels.load_library.cache_clear()
    yield source
    kernels.load_library.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_without_a_compiler_it_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert kernels.unavailable_reason() == "there is no C++ compiler: install g++"
    with pytest.raises(RuntimeError, match=r"install g\+\+"):
        kernels.library()


@pytest.mark.usefixtures("fresh")
def test_a_compiler_that_was_named_is_looked_for(monkeypatch):
    monkeypatch.setenv("CXX", "nowhere-g++")
    assert (
        kernels.unavailable_reason()
        == "CXX=nowhere-g++ was not found: set it to a C++ compiler, or unset it"
    )


@needs_compiler
def test_a_compiler_may_have_something_before_it(fresh, monkeypatch):
    monkeypatch.setenv("CXX", f"env {' '.join(kernels._compiler())}")
    assert _answer() is True


@needs_compiler
@pytest.mark.usefixtures("fresh")
def test_without_a_home_it_says_so(monkeypatch):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(kernels.Path, "home", nobody)
    assert "could not be stored or loaded: Could not determine home" in kernels.unavailable_reason()


@needs_compiler
def test_what_is_built_is_kept_for_its_source(fresh, monkeypatch, tmp_path):
    assert _answer() is True
    (kept,) = (tmp_path / "cache/scorefield").iterdir()
    written = kept.stat().st_mtime_ns
    kernels.load_library.cache_clear()
    assert kernels.unavailable_reason() is None
    assert kept.stat().st_mtime_ns == written
    fresh.write_text(_trivial("false"))
    kernels.load_library.cache_clear()
    assert _answer() is False
    assert len(list(kept.parent.iterdir())) == 2


@needs_compiler
def test_a_failure_to_build_or_keep_is_a_reason(fresh, monkeypatch, tmp_path):
    fresh.write_text("this is no C++")
    assert "failed" in kernels.unavailable_reason()
    kernels.load_library.cache_clear()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "could not be stored" in kernels.unavailable_reason()


@needs_compiler
@pytest.mark.parametrize("before", ["torch", "sklearn.utils._openmp_helpers, torch"])
def test_convolutions_have_torchs_openmp(before):
    """With two their threads fight over the cores; scikit-learn brings one of its own."""
    code = f"""
        import {before}
        from scorefield.nn import kernels
        kernels.library()
        print(kernels._openmp()[0])
        print(open("/proc/self/maps").read())
    """
    # by itself, for the tests load others
    linked, maps = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    ).stdout.split("\n", 1)
    names = {Path(line.split()[-1]).name for line in maps.splitlines() if line}
    assert Path(linked).parts[-3].startswith("torch") or Path(linked).parts[-2] == "torch.libs"
    assert any(name.startswith("kernels-") for name in names)
    found = sum("gomp" in name or "iomp" in name for name in names)
    assert found == (1 if before == "torch" else 2)
