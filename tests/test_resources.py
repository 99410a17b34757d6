"""What a process takes."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from gatedcir.resources import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def use():
    before = faults()
    torch.empty(2**24).fill_(1)  # 64 MiB, freed at once
    return faults() - before

if sys.argv[1] == "keep":
    keep_freed_memory()
# Where small blocks settle in between, a block is now and then made anew.
print(min(use() for _ in range(16)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_freed_memory_is_used_again():
    command = [sys.executable, "-c", FAULTS]
    kept, given_back = (
        int(subprocess.run([*command, how], check=True, capture_output=True).stdout)
        for how in ("keep", "not")
    )
    assert kept < 10 < given_back


WITHOUT_RESOURCE = """
import sys
import psutil, torch
from types import SimpleNamespace
sys.modules["resource"] = None  # as on Windows
psutil.Process.memory_info = lambda self: SimpleNamespace(peak_wset=4096)
from gatedcir.resources import peak_memory
print(peak_memory(torch.device("cpu")))
"""


def test_peak_memory_is_known_on_windows_too():
    command = [sys.executable, "-c", WITHOUT_RESOURCE]
    assert subprocess.run(command, check=True, capture_output=True).stdout.split() == [b"4096"]
