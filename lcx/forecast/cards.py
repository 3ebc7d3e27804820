"""Cards by name: memory as the driver reports it, and dense tensor throughput from the maker's data sheets."""

from __future__ import annotations

import functools
import os
import time
from dataclasses import dataclass

from lcx.errors import UsageError, suggestion

GIB = float(1 << 30)


@dataclass(frozen=True)
class Card:
    """A card's memory in GiB, and its dense peak in bf16 (fp16 where it has no bf16) in TFLOP/s, if known."""

    name: str
    gib: float
    tflops: float | None = None
    bf16: bool = True

    @property
    def capacity(self) -> float:
        """Its memory in bytes."""
        return self.gib * GIB


def _cards(*rows: tuple[str, float, float] | tuple[str, float, float, bool]) -> dict[str, Card]:
    return {row[0]: Card(*row) for row in rows}


CARDS = _cards(
    ("t4", 15.0, 65, False),
    ("v100-16", 16.0, 125, False),
    ("v100-32", 32.0, 125, False),
    ("a10", 22.5, 125),
    ("l4", 22.5, 121),
    ("rtx3090", 24.0, 71),
    ("rtx4090", 24.0, 165),
    ("rtx5090", 31.8, 209),
    ("a100-40", 40.0, 312),
    ("a40", 45.0, 150),
    ("l40s", 45.0, 362),
    ("a6000", 48.0, 155),
    ("rtx6000-ada", 48.0, 364),
    ("h100", 79.6, 989),
    ("h100-pcie", 79.6, 756),
    ("a100-80", 80.0, 312),
    ("a800", 80.0, 312),
    ("h100-nvl", 93.6, 835),
    ("h20", 95.6, 148),
    ("h200", 140.4, 989),
    ("b200", 179.1, 2250),
)
"""By memory. Cards with ECC report less than the label says."""


GPU_SHARE, CPU_SHARE = 0.4, 0.3
"""Shares of the peak that training reaches: a usual one on cards, and on a CPU of what `cpu_tflops` finds.

There steps of SmolLM2-135M with LoRA, checkpointing and 1,400 tokens a row reached 0.23 to 0.36 of it, operations that
are done twice included (30 November 2026, two shared cores).
"""
SIDE, TURNS, MOMENT = 768, 8, 0.1
"""Side of the matrices whose product is timed, how often at most, and the seconds after which that is enough."""


@functools.cache
def cpu_tflops() -> float:
    """What this machine's processor does in fp32 just now, in TFLOP/s: the best of a few products of matrices."""
    import numpy as np

    left = np.random.default_rng(0).random((SIDE, SIDE), dtype=np.float32)
    right = left.T.copy()
    left @ right  # threads and buffers are made in the first one
    times: list[float] = []
    while not times or (len(times) < TURNS and sum(times) < MOMENT):
        began = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - began)
    return float(2 * SIDE**3 / min(times) / 1e12)


def has_gpu() -> bool:
    """True if the driver of an NVIDIA card is here (or Windows' in its Linux), without asking PyTorch."""
    return any(os.path.exists(path) for path in ("/dev/nvidiactl", "/dev/dxg"))


def _letters(name: str) -> str:
    return "".join(letter for letter in name if letter.isalnum())


def find_card(text: str) -> Card:
    """A card by name, `cpu` for this machine's memory, or so many GB. Raises UsageError for anything else."""
    name = text.strip().lower().removeprefix("nvidia").strip()
    if name == "cpu":
        return Card("cpu", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB)
    number = name.removesuffix("gib").removesuffix("gb").removesuffix("g").strip()
    for card in CARDS.values():
        if _letters(card.name) in (_letters(name), _letters(number)):
            return card
    try:
        size = float(number)
    except ValueError:
        raise UsageError(
            f"unknown card '{text}'. {suggestion(name, CARDS)}".rstrip(),
            why=f"Known: {', '.join(CARDS)}, cpu.",
            hint="Or its memory in GB: --card 24",
        ) from None
    if not 0 < size < 1e6:
        raise UsageError(f"a card of {text} GB?", hint="--card 24")
    return Card(f"{size:g} GB", size)
