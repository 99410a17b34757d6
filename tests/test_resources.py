"""What a process takes."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from gatedcir.resources import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(8):  # at first, small blocks may settle in the middle
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(2**26).fill_(1)  # 256 MiB, freed at once
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_freed_memory_is_used_again():
    command = [sys.executable, "-c", FAULTS]
    kept, given_back = (
        int(subprocess.run([*command, how], check=True, capture_output=True).stdout)
        for how in ("keep", "not")
    )
    assert kept < 10 < given_back
