"""Calls that wait, taken in the order of their texts: those with a common prefix follow each other."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Generic, Protocol, TypeVar


class Keyed(Protocol):
    """What can wait: `order` is compared, smaller first."""

    @property
    def order(self) -> tuple[bytes, int]: ...


K = TypeVar("K", bound=Keyed)


class Elevator(Generic[K]):
    """A sorted queue that goes on upwards from what it took last, and starts again at the lowest.

    So a call behind the sweep waits for the next round, and a server that keeps prefixes meets each once in a round.
    """

    def __init__(self) -> None:
        self._items: list[K] = []
        self._last: tuple[bytes, int] = (b"", -1)

    def add(self, item: K) -> None:
        insort(self._items, item, key=_order)

    def __len__(self) -> int:
        return len(self._items)

    def peek(self) -> K:
        """What `pop` would take."""
        return self._items[self._next()]

    def pop(self) -> K:
        item = self._items.pop(self._next())
        self._last = item.order
        return item

    def remove(self, item: K) -> bool:
        """Take an item out of the order; whether it was there."""
        place = bisect_left(self._items, item.order, key=_order)
        if place < len(self._items) and self._items[place] is item:
            del self._items[place]
            return True
        return False

    def clear(self) -> list[K]:
        """Take everything."""
        items, self._items = self._items, []
        return items

    def _next(self) -> int:
        place = bisect_left(self._items, self._last, key=_order)
        return place if place < len(self._items) else 0


def _order(item: Keyed) -> tuple[bytes, int]:
    return item.order
