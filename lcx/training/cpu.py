"""What is particular to training on a CPU: its arithmetic of bf16, and memory that the allocator keeps."""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path

import torch

from lcx.training.settings import TrainSettings

BF16_FLAGS = ("amx_bf16", "avx512_bf16")
"""What Linux calls a processor's own arithmetic of bf16, the faster first."""
WORTH = 50_000_000
"""Parameters from which it is worth a word: in small models the conversions cost more than they save."""


def cpu_flags() -> frozenset[str]:
    """The processor's features as Linux lists them; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


def bf16_note(settings: TrainSettings, device: torch.device, parameters: int, flags: frozenset[str]) -> str:
    """A sentence where a CPU computes in fp32 that has arithmetic of its own for bf16; else empty."""
    has = next((flag for flag in BF16_FLAGS if flag in flags), "")
    if device.type != "cpu" or settings.precision != "auto" or not has or parameters < WORTH:
        return ""
    return (
        f"computing in fp32; this processor has {has}: precision=bf16 is less exact, and made a step of 135M "
        "parameters 1.4 times faster with AMX"
    )


KEPT = 3
"""Times a step's memory that glibc holds after steps of many lengths: 2.7 GB (one thread) and 3.6 GB (two) of 1.1."""
RETURNED = 1 << 20
"""Bytes from which a freed block goes back to the system at once; a hidden state of most models has more."""
M_MMAP_THRESHOLD = -3
"""The parameter of glibc's mallopt that sets it (malloc.h)."""


def available_bytes() -> int | None:
    """Memory that processes can still have, as Linux counts it; None elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None


def spare_memory(needed: int, available: int | None) -> str:
    """Have glibc return freed blocks at once where memory is short; a sentence if it does, else empty.

    `needed` are a step's bytes by forecast. Rows of many lengths leave gaps in the heap, which glibc keeps: up to
    `KEPT` times as much. Returned blocks are cleared again by the system at each use, which made a step of 135M
    parameters a quarter slower (one thread) and took 0.35 GB over the weights in place of 1.4.
    """
    short = available is not None and KEPT * needed > available
    if not short or platform.libc_ver()[0] != "glibc":
        return ""
    if ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, RETURNED) != 1:
        return ""
    return (
        f"memory may be short (a step takes about {needed / 2**30:.1f} GiB, {(available or 0) / 2**30:.1f} are free): "
        "freed blocks go back to the system at once, for about a quarter more time"
    )
