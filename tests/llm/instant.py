"""An event loop whose time passes at once: sleeping costs nothing, and what waits for a minute takes no time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Skipping(selectors.DefaultSelector):
    """Moves the loop's clock forward by what it would have waited for."""

    loop: InstantLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if ready or not timeout:
            return ready if timeout is not None or ready else super().select(None)
        self.loop.skipped += timeout
        return []


class InstantLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        selector = _Skipping()
        selector.loop = self
        self.skipped = 0.0
        super().__init__(selector)

    def time(self) -> float:
        return self.skipped


def run_instantly(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on such a loop. Real connections and threads have no place in it."""
    with asyncio.Runner(loop_factory=InstantLoop) as runner:
        return runner.run(main)
