"""When a failed call is sent again: growing pauses with jitter, and what a server asks for in Retry-After."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(frozen=True)
class Backoff:
    """Pauses of `first`, doubling up to `most`, each shortened by a random share up to a half."""

    first: float = 1.0
    most: float = 60.0

    def pause(self, failures: int, rng: random.Random) -> float:
        """Seconds to wait after so many failures in a row."""
        whole = min(self.most, self.first * 2.0 ** min(max(0, failures - 1), 60))
        return whole * (1 - rng.random() / 2)


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that a reply's headers ask a client to wait: a number or a date. None where they ask nothing.

    `headers` has lower-case names. `retry-after-ms`, as some servers send it, is more exact and goes first.
    """
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        if not text:
            continue
        try:
            seconds = float(text) / scale
        except ValueError:
            if name == "retry-after-ms":
                continue
            return _until(text, now or datetime.now(UTC))
        return seconds if 0 <= seconds < float("inf") else None
    return None


def _until(text: str, now: datetime) -> float | None:
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - now).total_seconds())
