"""What a process settles before it computes."""

import os
import resource
import subprocess
import sys

import pytest
import torch

from scorefield.cli.startup import SPINS, keep_memory, spin_briefly


def test_the_memory_of_large_tensors_is_kept():
    if not keep_memory():
        pytest.skip("the C library is not glibc")

    def faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.zeros(16 << 20)  # 64 MiB, sixteen thousand pages
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    faults()
    assert min(faults() for _ in range(5)) < 500


@pytest.mark.parametrize("said", [{}, {"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}])
def test_threads_spin_briefly_unless_told_otherwise(monkeypatch, said):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    spin_briefly()
    expected = said.get("GOMP_SPINCOUNT") if said else SPINS
    assert os.environ.get("GOMP_SPINCOUNT") == expected


def test_the_command_line_settles_it_before_torch_is_loaded():
    code = """
import sys
from scorefield.cli import startup
def prepare():
    print("torch" in sys.modules)
startup.prepare = prepare
from scorefield.cli import main
main(["suggest", "digits"])
print("torch" in sys.modules)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = out.stdout.splitlines()
    assert (lines[0], lines[-1]) == ("False", "True")
