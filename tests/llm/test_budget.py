"""Budgets and prices, by hand."""

from __future__ import annotations

import pytest

from lcx.errors import UsageError
from lcx.llm.limits import Budget, Spent, check_priced, cost_of


@pytest.mark.parametrize(
    ("budget", "spent", "flying", "reason"),
    [
        (Budget(), Spent(10**9, 10**9, 10**9, 1e9), Spent(), ""),
        (Budget(max_calls=3), Spent(2), Spent(), ""),
        (Budget(max_calls=3), Spent(2), Spent(1), "3 calls"),
        (Budget(max_calls=0), Spent(), Spent(), "0 calls"),
        (Budget(max_tokens=1000), Spent(5, 600, 399), Spent(), ""),
        (Budget(max_tokens=1000), Spent(5, 600, 400), Spent(), "1,000 tokens"),
        (Budget(max_tokens=1000), Spent(5, 600, 300), Spent(1, 100), "1,000 tokens"),
        (Budget(max_cost=2.5), Spent(cost=2.0), Spent(cost=0.5), "a cost of 2.5"),
        (Budget(max_calls=3), Spent(2, unanswered=1), Spent(1), "3 calls"),
        (Budget(max_cost=2.5), Spent(cost=2.49), Spent(), ""),
        (Budget(max_cost=2.5), Spent(cost=2.5), Spent(), "a cost of 2.5"),
    ],
)
def test_when_no_further_call_may_begin(budget: Budget, spent: Spent, flying: Spent, reason: str) -> None:
    assert budget.exceeded(spent, flying) == reason


@pytest.mark.parametrize(
    ("budget", "fits"),
    [
        (Budget(max_tokens=1000), Spent(1, 200, 50, 0.1)),
        (Budget(max_cost=2.5), Spent(1, 10**6, 0, 0.25)),
    ],
)
def test_the_coming_call_counts_as_expected(budget: Budget, fits: Spent) -> None:
    spent, flying = Spent(5, 600, 100, 2.0), Spent(1, 40, 10, 0.25)
    assert budget.exceeded(spent, flying, fits) == ""
    more = Spent(1, fits.prompt_tokens, fits.completion_tokens + 1, fits.cost + 0.01)
    assert budget.exceeded(spent, flying, more)
    assert "the next call may need 251 tokens" in budget.spent_error("x", spent, Spent(1, 250, 1)).why


def test_the_error_says_what_was_spent_and_how_to_go_on() -> None:
    error = Budget(max_calls=7).spent_error("7 calls", Spent(7, 1000, 200, 0.5))
    assert error.what == "the budget of 7 calls is spent"
    assert "1,000 prompt and 200 completion tokens, cost 0.5" in error.why
    assert "--max-calls" in error.hint


def test_cost_is_by_the_million() -> None:
    prices = {"m": (2.5, 10.0)}
    assert cost_of("m", 1_000_000, 100_000, prices) == pytest.approx(3.5)
    assert cost_of("free", 1_000_000, 100_000, prices) == 0
    check_priced("m", Budget(max_cost=1), prices)
    check_priced("free", Budget(), prices)
    with pytest.raises(UsageError, match="'free' has no price") as caught:
        check_priced("free", Budget(max_cost=1), prices)
    assert "m" in caught.value.why
    assert "{free: [PROMPT, COMPLETION]}" in caught.value.hint
