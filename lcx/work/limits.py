"""How fast calls may begin: so many a minute, and so many tokens a minute. Arithmetic on times that are given."""

from __future__ import annotations

from dataclasses import dataclass, field

MINUTE = 60.0


@dataclass
class Bucket:
    """Credit that grows evenly up to `burst`; no minute sees more than `limit` taken, given calls below `burst`.

    A call larger than the bucket waits until it is full and leaves a debt. `rate` is the credit a second; by default
    what may be taken at once is not earned again within the minute.
    """

    limit: float
    burst: float
    rate: float = 0.0
    _level: float = field(init=False)
    _time: float = field(default=float("-inf"), init=False)

    def __post_init__(self) -> None:
        self._level = self.burst
        if not self.rate:
            self.rate = (self.limit - self.burst if self.limit > self.burst else self.limit) / MINUTE

    def wait(self, now: float, amount: float) -> float:
        """Seconds until `amount` may be taken."""
        self._advance(now)
        lacking = min(amount, self.burst) - self._level
        return lacking / self.rate if lacking > 1e-9 else 0.0

    def take(self, now: float, amount: float) -> None:
        """Take credit; a negative amount gives back what a call did not use."""
        self._advance(now)
        self._level = min(self.burst, self._level - amount)

    def _advance(self, now: float) -> None:
        if now > self._time:
            if self._time > float("-inf"):
                self._level = min(self.burst, self._level + (now - self._time) * self.rate)
            self._time = now


def calls_bucket(limit: float) -> Bucket:
    """A second's worth of calls at once; evenly spaced where that is less than one."""
    if limit > MINUTE:
        return Bucket(limit, limit / MINUTE)
    # A hair slower than the limit, or rounding would put the first call of the next minute into this one.
    return Bucket(limit, 1.0, limit / MINUTE * (1 - 1e-6))


def tokens_bucket(limit: float) -> Bucket:
    """Ten seconds' worth of tokens at once."""
    return Bucket(limit, limit / 6)


class Pace:
    """Both limits. A call's tokens are estimated when it begins and settled when it ends."""

    def __init__(self, calls_a_minute: float | None = None, tokens_a_minute: float | None = None) -> None:
        self._calls = calls_bucket(calls_a_minute) if calls_a_minute else None
        self._tokens = tokens_bucket(tokens_a_minute) if tokens_a_minute else None

    def wait(self, now: float, tokens: float) -> float:
        """Seconds until a call of so many tokens may begin."""
        calls = self._calls.wait(now, 1) if self._calls else 0.0
        return max(calls, self._tokens.wait(now, tokens) if self._tokens else 0.0)

    def begin(self, now: float, tokens: float) -> None:
        if self._calls:
            self._calls.take(now, 1)
        if self._tokens:
            self._tokens.take(now, tokens)

    def settle(self, now: float, estimated: float, used: float) -> None:
        """Correct an estimate by what the call used."""
        if self._tokens:
            self._tokens.take(now, used - estimated)
