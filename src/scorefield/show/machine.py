"""The machine that a figure was measured on."""

import math
import os
import platform
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Files with the memory of a container in bytes, of Linux's control groups 2 and 1."""


def machine(device: str = "cpu") -> dict[str, Any]:
    """Return the processor, the GPU if it is `device`, and the versions that matter for speed."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    names.append(platform.processor() or platform.machine())
    memory, gpu = memory_bytes(), "Apple's GPU" if device.startswith("mps") else None
    if device.startswith("cuda"):
        gpu = torch.cuda.get_device_name(device)
    return {
        "processor": names[0],
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory in GiB": round(memory / 2**30) if math.isfinite(memory) else None,
        "GPU": gpu,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "scorefield": version("scorefield"),
    }


def memory_bytes(device: str = "cpu") -> float:
    """Return the memory of a GPU, or of the machine or the container; infinity if it is unknown."""
    if device.startswith("cuda"):
        return float(torch.cuda.get_device_properties(device).total_memory)
    if device.startswith("mps"):  # it shares the machine's, up to a limit
        return float(torch.mps.recommended_max_memory())
    limits = [math.inf]
    with suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        limits.append(float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))
    for file in CONTAINER_LIMITS:
        with suppress(ValueError, OSError):  # there is no such file, or its limit is "max"
            limits.append(float(file.read_text()))
    return min(limits)


def waiting_seconds() -> float:
    """Return the seconds for which this thread waited for a processor, or 0 if it is unknown."""
    with suppress(OSError, IndexError, ValueError):  # only Linux counts them
        return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    return 0.0


def in_words(machine: dict[str, Any]) -> str:
    """Return the same as one sentence."""
    place = machine["GPU"] or f"{machine['processor']} ({machine['instructions']})"
    memory = f"{machine['memory in GiB']} GiB"
    cores = f"{machine['cores']} cores, {machine['threads']} threads, {memory}"
    return f"{place}; {cores}; torch {machine['torch']}, Python {machine['python']}"
