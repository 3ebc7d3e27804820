"""Pauses between tries: their bounds, and every form of Retry-After."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from lcx.llm.limits import Backoff, retry_after


def test_pauses_double_up_to_the_most_and_are_spread() -> None:
    backoff, rng = Backoff(first=1.0, most=20.0), random.Random(1)
    for failures, whole in ((1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 20), (500, 20)):
        drawn = [backoff.pause(failures, rng) for _ in range(200)]
        assert whole / 2 <= min(drawn) < 0.6 * whole
        assert 0.9 * whole < max(drawn) <= whole


NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": format_datetime(NOW + timedelta(seconds=90), usegmt=True)}, 90.0),
        ({"retry-after": format_datetime(NOW - timedelta(seconds=90), usegmt=True)}, 0.0),
        ({"retry-after": "Mon, 04 May 2026 12:00:30 -0000"}, 30.0),
        ({"retry-after": "later"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
    ],
)
def test_what_a_server_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == seconds
