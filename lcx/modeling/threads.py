"""How many threads a small model may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

SMALL = 1_000_000
"""A model of fewer parameters runs on one thread of the CPU."""


@contextmanager
def few_threads(model: Any) -> Iterator[None]:
    """Let a small model on the CPU use one thread for the time of the block; leave others alone.

    Its matrices are too small to share: two threads gain little on a quiet machine, and when another process wants a
    core they wait for each other in every layer (measured: 2.4 s a step instead of 0.09 s). With one, sums do not
    depend on the number of cores either.
    """
    small = model.device.type == "cpu" and sum(p.numel() for p in model.parameters()) < SMALL
    threads = torch.get_num_threads()
    if small:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
