"""What a process takes."""

import os
import platform
import runpy
import sys
from types import SimpleNamespace

import forked
import psutil
import pytest
import torch

from gatedcir import resources

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
        int(forked.call([*command, how], {**os.environ}).stdout) for how in ("keep", "not")
    )
    assert kept < 10 < given_back


def test_peak_memory_is_known_on_windows_too(monkeypatch):
    memory = SimpleNamespace(peak_wset=4096)
    monkeypatch.setitem(sys.modules, "resource", None)  # which Windows lacks
    monkeypatch.setattr(psutil.Process, "memory_info", lambda self: memory)
    assert runpy.run_path(resources.__file__)["peak_memory"](torch.device("cpu")) == 4096
