"""A process that keeps what it frees asks the system for nothing more, step after step."""

import platform
import subprocess
import sys

import pytest

CODE = """
import resource, sys
import torch
from mmclr.heap import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
for number in range(20):  # the first ones find room
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.ones(2**21 * k) for k in (1, 3, 5)]  # 8, 24 and 40 MiB
    del held
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(mode):
    """Pages that the system gave in the last of twenty equal steps."""
    done = subprocess.run([sys.executable, "-c", CODE, mode], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory in its own way")
def test_what_is_freed_is_used_again():
    pages_of_40_mib = 40 * 2**20 // 4096
    assert pages("keep") < 100
    assert pages("plain") >= 0.9 * pages_of_40_mib
