"""Shapes and types are checked in every call that a test makes."""

from pathlib import Path

import jaxtyping

# The checks wrap a function so that torch.no_grad cannot see it is a generator, and would then not
# hold inside it: modules of generators go unchecked. The hook must come before the first import.
SOURCE = Path(__file__).parent.parent / "src"
CHECKED = [
    ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    for path in SOURCE.rglob("*.py")
    if path.name != "__init__.py" and "torch.no_grad()" not in path.read_text()
]
jaxtyping.install_import_hook(CHECKED, "typecheck.check")

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

settings.register_profile("reproducible", derandomize=True, deadline=None, max_examples=30)
settings.load_profile("reproducible")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def unchecked():
    """Without the checks of shapes: a compiler cannot look through them, and theirs come first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
