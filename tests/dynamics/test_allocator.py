"""Freed memory is kept where that can be arranged."""

import platform
import resource
import subprocess
import sys

import pytest

from ase_uq.dynamics import allocator

SCRIPT = """
import resource, torch
from ase_uq.dynamics.allocator import keep_freed_memory
assert {keep} is None or keep_freed_memory()
def step():
    return [torch.ones(20_000_000) for _ in range(3)]
for _ in range(10):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_steps_that_free_and_allocate_the_same_fault_no_pages():
    faults = [
        int(subprocess.run([sys.executable, "-c", SCRIPT.format(keep=keep)], check=True, capture_output=True).stdout)
        for keep in (None, True)
    ]
    blocks = 5 * 3 * 80e6 / resource.getpagesize()
    assert faults[1] < 0.3 * faults[0]
    assert faults[0] == pytest.approx(blocks, rel=0.2)


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("", ""))
    assert not allocator.keep_freed_memory()
