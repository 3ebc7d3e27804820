"""What a step may spend on calls, and what it has spent: calls, tokens and cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lcx.errors import LcxError, UsageError

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
