"""How fast calls may begin, how much they may cost, and when a failed one is sent again.

Rate limits are arithmetic on times that are given; the budget is a whole step's, earlier processes' calls included.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from lcx.errors import LcxError, UsageError

# -- rate limits

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


class RateLimiter:
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


# -- pauses


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
    A date is counted from the server's own `date`, where it sends one: this machine's clock may be wrong.
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
            return _until(text, now or _date(headers.get("date", "")) or datetime.now(UTC))
        return seconds if 0 <= seconds < float("inf") else None
    return None


def _until(text: str, now: datetime) -> float | None:
    when = _date(text)
    return None if when is None else max(0.0, (when - now).total_seconds())


def _date(text: str) -> datetime | None:
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when


# -- the budget

MILLION = 1_000_000


class BudgetSpent(LcxError):
    """The budget is used up. Calls in flight were let finish, and every reply is in the journal."""


@dataclass
class Spent:
    """Calls, their tokens, and their cost where the models have a price."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    unanswered: int = 0
    """Of the calls, those that were sent and never answered: a server may have done and charged them."""

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @property
    def answered(self) -> int:
        return self.calls - self.unanswered

    def add(self, other: Spent, times: int = 1) -> None:
        """Add another's numbers, or take them off with -1."""
        self.calls += times * other.calls
        self.prompt_tokens += times * other.prompt_tokens
        self.completion_tokens += times * other.completion_tokens
        self.cost += times * other.cost
        self.unanswered += times * other.unanswered


@dataclass(frozen=True)
class Budget:
    """Limits of a whole step, earlier processes' calls included. None is no limit."""

    max_calls: int | None = None
    max_tokens: int | None = None
    max_cost: float | None = None

    def exceeded(self, spent: Spent, in_flight: Spent = Spent(), coming: Spent = Spent(1)) -> str:
        """Why the coming call may not begin, or an empty string. It and what is in flight count as expected."""
        calls = spent.calls + in_flight.calls
        if self.max_calls is not None and calls + coming.calls > self.max_calls:
            return f"{self.max_calls:,} calls"
        tokens = spent.tokens + in_flight.tokens
        if self.max_tokens is not None and max(tokens + 1, tokens + coming.tokens) > self.max_tokens:
            return f"{self.max_tokens:,} tokens"
        cost = spent.cost + in_flight.cost
        # A sum of many prices is off by a little: what the limit allows exactly is allowed.
        if self.max_cost is not None and (
            cost >= self.max_cost or cost + coming.cost > self.max_cost * (1 + 1e-9)
        ):
            return f"a cost of {self.max_cost:g}"
        return ""

    def spent_error(self, reason: str, spent: Spent, coming: Spent = Spent()) -> BudgetSpent:
        """The error that ends the step. `coming` is what the next call may need at most."""
        need = f"{coming.tokens:,} tokens{f', cost {coming.cost:.4g}' if coming.cost else ''}"
        return BudgetSpent(
            f"the budget of {reason} is spent",
            why=f"{spent.calls:,} calls, {spent.prompt_tokens:,} prompt and {spent.completion_tokens:,} completion "
            f"tokens{f', cost {spent.cost:.4g}' if spent.cost else ''}; every reply is kept"
            + (f"; the next call may need {need}" if coming.tokens else ""),
            hint="The same command with a larger --max-calls, --max-tokens or --max-cost goes on from here.",
        )


Prices = Mapping[str, tuple[float, float]]
"""Cost of a million prompt tokens and of a million completion tokens, by model."""


def cost_of(model: str, prompt_tokens: int, completion_tokens: int, prices: Prices) -> float:
    """What a call cost; 0 for a model without a price."""
    one = prices.get(model)
    return 0.0 if one is None else (prompt_tokens * one[0] + completion_tokens * one[1]) / MILLION


def check_priced(model: str, budget: Budget, prices: Prices) -> None:
    """Raises UsageError where a cost limit is given and the model has no price."""
    if budget.max_cost is not None and model not in prices:
        known = ", ".join(sorted(prices))
        raise UsageError(
            f"max_cost is set, but the model '{model}' has no price",
            why=f"prices are known for: {known}" if known else "no prices are given",
            hint=f"--set 'prices={{{model}: [PROMPT, COMPLETION]}}', the cost of a million tokens each",
        )
