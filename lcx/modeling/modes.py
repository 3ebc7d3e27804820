"""Forward passes without dropout on models that are being trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def switch_off_dropout(model: Any) -> None:
    """Put a model in eval mode, but for 4-bit layers on a CPU.

    In eval mode those repack their weights for a kernel that refuses small matrices, and that no gradient
    passes through; they have no dropout of their own.
    """
    model.eval()
    for module in model.modules():
        kind = type(module)  # PEFT's wrapper has that name too, and a dropout inside
        own = kind.__name__ == "Linear4bit" and kind.__module__.startswith("bitsandbytes")
        if own and module.weight.device.type == "cpu":
            module.training = True


@contextmanager
def without_dropout(model: Any) -> Iterator[None]:
    """`switch_off_dropout` inside the block; the whole model is as it was after it."""
    was_training = model.training
    switch_off_dropout(model)
    try:
        yield
    finally:
        model.train(was_training)
