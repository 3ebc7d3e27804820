"""What training on a CPU is told, and memory that is given back where it is short."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from lcx.training import cpu

HOLD = """
import sys, torch
from lcx.training.cpu import spare_memory

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))

said = spare_memory(2**30, int(sys.argv[1]))
for _ in range(3):  # glibc raises its own threshold at the first large block that is freed
    torch.ones(2**22)
filled = [torch.ones(30000) for _ in range(600)]  # what imports left free in the heap
before, small, large = resident(), [], []
for _ in range(60):
    large.append(torch.ones(2**20))
    small.append(torch.ones(30000))  # pins the heap between two large blocks
large.clear()
print(bool(said), resident() - before)
"""


def kept(available: int) -> tuple[bool, int]:
    """Whether something was said, and the bytes that a process holds of 240 MB after it freed them."""
    done = subprocess.run(
        [sys.executable, "-c", HOLD, str(available)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    said, held = done.stdout.split()
    return said == "True", int(held)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps and returns blocks so")
def test_freed_blocks_go_back_where_memory_is_short() -> None:
    told, held = kept(2 * 2**30)
    assert told
    assert held < 30e6


def test_nothing_is_changed_where_there_is_room_or_nobody_can_tell() -> None:
    told, held = kept(4 * 2**30)
    assert not told
    if platform.libc_ver()[0] == "glibc":
        assert held > 100e6  # else the test above shows nothing
    assert cpu.spare_memory(2**40, None) == ""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps and returns blocks so")
def test_the_sentence_names_both_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Libc:
        @staticmethod
        def mallopt(parameter: int, value: int) -> int:
            return int((parameter, value) == (-3, 2**20))

    monkeypatch.setattr(cpu.ctypes, "CDLL", lambda name: Libc)
    said = cpu.spare_memory(3 * 2**29, 2**32)
    assert "a step takes about 1.5 GiB, 4.0 are free" in said


def test_what_is_available_is_read() -> None:
    found = cpu.available_bytes()
    assert found is None or 2**20 < found < 2**50
