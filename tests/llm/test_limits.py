"""Rates: no minute sees more than the limit, and no time is wasted. The reference counts starts in every window."""

from __future__ import annotations

import bisect
import itertools
import math
import random

import pytest

from lcx.llm.limits import RateLimiter


def starts(limiter: RateLimiter, sizes: list[float], settle: float | None = None) -> list[float]:
    """When calls that all wait from time 0 begin."""
    now, found = 0.0, []
    for size in sizes:
        while (wait := limiter.wait(now, size)) > 0:
            now += wait
        limiter.begin(now, size)
        found.append(now)
        if settle is not None:
            limiter.settle(now, size, settle)
    return found


def most_in_a_minute(times: list[float], sizes: list[float]) -> float:
    """The most that starts in any window of 60 s that begins with a start; `times` rise."""
    total = [0.0, *itertools.accumulate(sizes)]
    ends = (
        bisect.bisect_left(times, 60, first, key=lambda at, start=start: at - start)
        for first, start in enumerate(times)
    )
    return max(total[end] - total[bisect.bisect_left(times, times[first])] for first, end in enumerate(ends))


@pytest.mark.parametrize("limit", [0.5, 1, 1.5, 2, 3, 7, 59, 60, 60.5, 90, 600, 5000])
def test_no_minute_has_more_calls_than_the_limit(limit: float) -> None:
    count = int(limit * 3) + 3
    times = starts(RateLimiter(calls_a_minute=limit), [1.0] * count)
    assert times[0] == 0
    assert most_in_a_minute(times, [1.0] * count) <= math.ceil(limit)
    longest = 60 / limit * count
    assert (
        times[-1] <= longest * (1.001 if limit <= 60 else 1.1) + (limit > 60) * 60
    )  # it comes near the limit
    assert times[-1] >= (count - 1) * 60 / limit - 60 / limit * max(1.0, limit / 60)


def test_tokens_are_limited_by_estimates_and_settled_by_use() -> None:
    rng = random.Random(0)
    sizes = [rng.uniform(10, 900) for _ in range(400)]
    times = starts(RateLimiter(tokens_a_minute=6000), sizes)
    assert most_in_a_minute(times, sizes) <= 6000 + 1e-6
    assert sum(sizes) / times[-1] * 60 > 4800
    # What was estimated too high is given back, so calls that use a tenth begin about ten times as fast.
    assert starts(RateLimiter(tokens_a_minute=6000), [500.0] * 200, settle=50.0)[-1] < times[-1] / 3


def test_a_call_larger_than_the_limit_waits_for_a_full_bucket_and_leaves_a_debt() -> None:
    limiter = RateLimiter(tokens_a_minute=600)
    assert limiter.wait(0, 10_000) == 0
    limiter.begin(0, 10_000)
    wait = limiter.wait(0, 1)
    assert wait == pytest.approx((10_000 - 100 + 1) / (500 / 60))
    assert limiter.wait(wait, 1) == 0


def test_without_limits_nothing_waits() -> None:
    assert starts(RateLimiter(), [1e9] * 10) == [0.0] * 10
