"""How many GPUs and cores this machine lends, without importing torch here."""

from __future__ import annotations

import os
import subprocess
import sys

from lcx.errors import MissingError

_COUNT = "import torch; print(torch.cuda.device_count())"


def count_gpus() -> int:
    """GPUs that PyTorch can use here: a process of its own asks it, since only PyTorch knows what it was built for."""
    done = subprocess.run(
        [sys.executable, "-c", _COUNT], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    words = done.stdout.split()
    if done.returncode or not words or not words[-1].isdigit():
        raise MissingError(
            "PyTorch cannot be asked for its GPUs",
            why=(done.stderr.strip().splitlines() or ["it ended without an answer"])[-1],
            hint="--device cpu trains on the CPU",
        )
    return int(words[-1])


def threads_each(processes: int) -> int:
    """Threads for each of some processes that share this machine's cores."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cores = os.cpu_count() or 1
    return max(1, cores // processes)
