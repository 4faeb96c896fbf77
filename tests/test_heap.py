"""A process that keeps what it frees asks the system for nothing more, step after step."""

import os
import platform
import resource
import subprocess
import sys

import pytest

CODE = """
import sys
from pathlib import Path
import torch
from mmclr.runtime.allocator import keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

if sys.argv[1] == "keep":
    keep_freed_memory()
for number in range(20):  # the first ones find room
    held = [torch.ones(2**21 * k) for k in (1, 3, 5)]  # 8, 24 and 40 MiB
    peak = resident()
    del held
    print(peak, peak - resident())
"""
MIB = 2**20 // resource.getpagesize()  # pages


def pages(mode):
    """Resident pages while the tensors are there and pages that went with them, of the last two of equal steps."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC", "GLIBC", "LD_PRELOAD"))}
    done = subprocess.run([sys.executable, "-c", CODE, mode], capture_output=True, text=True, check=True, env=clean)
    return [[int(word) for word in line.split()] for line in done.stdout.splitlines()[-2:]]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory in its own way")
def test_what_is_freed_is_kept_and_used_again():
    (before, _), (after, given_back) = pages("keep")
    assert given_back < MIB
    assert after - before < MIB
    _, (_, given_back) = pages("plain")
    assert given_back >= 40 * MIB
