"""The library of C++: built once, kept, and done without where it cannot be had."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from scorefield.nn import kernels

needs_compiler = pytest.mark.skipif(
    kernels.why_not() is not None, reason=kernels.why_not() or "there are fast convolutions"
)


def _trivial(same: str) -> str:
    """A library of all the functions, of which `same` says always the same."""
    bodies = {name: f'extern "C" void {name}() {{}}' for name in kernels.SIGNATURES}
    bodies["same"] = f'extern "C" bool same() {{ return {same}; }}'
    return "\n".join(bodies.values())


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A cache of its own, nothing built in it, and a source that takes no time."""
    source = tmp_path / "all.cpp"
    source.write_text(_trivial("true"))
    monkeypatch.setattr(kernels, "FOLDER", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kernels._loaded.cache_clear()
    yield source
    kernels._loaded.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_without_a_compiler_it_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert kernels.why_not() == "there is no C++ compiler: install g++"
    with pytest.raises(kernels.Unavailable, match=r"install g\+\+"):
        kernels.library()


@needs_compiler
def test_what_is_built_is_kept_for_its_source(fresh, monkeypatch, tmp_path):
    assert kernels.library().same(None, None, 0) is True
    (kept,) = (tmp_path / "cache/scorefield").iterdir()
    written = kept.stat().st_mtime_ns
    kernels._loaded.cache_clear()
    assert kernels.why_not() is None
    assert kept.stat().st_mtime_ns == written
    fresh.write_text(_trivial("false"))
    kernels._loaded.cache_clear()
    assert kernels.library().same(None, None, 0) is False
    assert len(list(kept.parent.iterdir())) == 2


@needs_compiler
def test_a_failure_to_build_or_keep_is_a_reason(fresh, monkeypatch, tmp_path):
    fresh.write_text("this is no C++")
    assert "failed" in kernels.why_not()
    kernels._loaded.cache_clear()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "could not be kept" in kernels.why_not()


@needs_compiler
def test_a_process_has_one_openmp():
    """With two their threads fight over the cores."""
    code = """
        from scorefield.nn import kernels
        kernels.library()
        print(open("/proc/self/maps").read())
    """
    # by itself, for others that the tests load (scikit-learn) bring their own
    maps = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    ).stdout
    names = {Path(line.split()[-1]).name for line in maps.splitlines() if line}
    assert sum("gomp" in name or "iomp" in name for name in names) == 1
    assert any(name.startswith("kernels-") for name in names)
