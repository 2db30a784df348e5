"""Check shapes and types in every call of every module of scorefield."""

import tracemalloc

import jaxtyping

# before the first import of scorefield
jaxtyping.install_import_hook("scorefield", "typecheck.check")

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

settings.register_profile("reproducible", derandomize=True, deadline=None, max_examples=30)
settings.register_profile("fuzz", deadline=None, max_examples=10_000, print_blob=True)
settings.load_profile("reproducible")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def points(tmp_path_factory):
    """A file of vectors."""
    path = tmp_path_factory.mktemp("data") / "x.npy"
    np.save(path, np.random.default_rng(0).normal(size=(60, 3)).astype("float32"))
    return path


@pytest.fixture
def error_of(capsys):
    """Run a command that must fail with exit code 2, and return its error message of one line."""
    from scorefield.cli import main

    def run(*args):
        assert main([*map(str, args)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("scorefield: ")
        assert err.count("\n") == 1
        return err

    return run


@pytest.fixture
def little_memory():
    """Fail if more than 40 MB are allocated, whatever lengths a file claims."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6  # the least that a hostile file unpacks to is 64 MiB


@pytest.fixture
def unchecked():
    """Switch the checks off: a compiler cannot trace them, and they precede some error messages."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
