"""On what something was measured."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .measure import Way


def about(device: str = "cpu") -> dict[str, Any]:
    """The machine and the versions of what computes; a GPU if it is what was measured."""
    return {
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory in GiB": _memory(),
        "GPU": torch.cuda.get_device_name(device) if "cuda" in device else None,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "scorefield": version("scorefield"),
    }


def described(about: dict[str, Any]) -> str:
    """The same as a sentence."""
    place = about["GPU"] or f"{about['processor']} ({about['instructions']})"
    cores = f"{about['cores']} cores, {about['threads']} threads, {about['memory in GiB']} GiB"
    return f"{place}; {cores}; torch {about['torch']}, Python {about['python']}"


SIZE = 2048
"""Rows and columns of the matrices whose product is the machine's limit."""


def products(device: torch.device) -> dict[str, Way]:
    """Float32 products of matrices by each library that torch has; the faster one is the peak."""
    a, b = torch.randn(2, SIZE, SIZE, device=device)
    found: dict[str, Way] = {"product": lambda: a @ b}
    # on some processors the library of `@` leaves half of what that of convolutions reaches
    other = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if device.type == "cpu" and torch.backends.mkldnn.enabled and other is not None:
        found["product, oneDNN"] = lambda: other(a, b, None, "none", [], "")
    if device.type == "cuda":  # in which torch's convolutions are, unless it is told otherwise
        found["product, TF32"] = lambda: _in_tf32(lambda: a @ b)
    return found


def _in_tf32(run: Way) -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        run()
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (names or [platform.processor() or platform.machine()])[0]


def _memory() -> int | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    except (ValueError, OSError, AttributeError):
        return None
