"""What the exchanges of one step share: the journal of calls, the budget, and the counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from lcx.errors import LcxError
from lcx.llm.protocol import Response
from lcx.work.budget import Budget, Prices, Spent, cost_of
from lcx.work.calls import CALLS, CallJournal, Row

OWN = "replies.sqlite"
"""What models in this process answered: kept for a resumed step, not for one that starts over with other weights."""


class Desk:
    """The books of a step. Without a folder nothing is kept beyond the process."""

    def __init__(
        self, folder: Path | None = None, budget: Budget = Budget(), prices: Prices | None = None
    ) -> None:
        self.folder, self.budget = folder, budget
        self.prices: Prices = prices or {}
        self.in_flight = Spent()
        self.stopped: LcxError | None = None
        """Why no further call is made."""
        self.expected = self.done = self.known = self.retries = 0
        self.failed: Counter[str] = Counter()
        self.free = Spent()
        """What is not journalled here: rules, and batches."""
        self._journals: dict[str, CallJournal] = {}
        self._spent: Spent | None = None
        self._own: Spent | None = None
        self._listeners: list[Callable[[], None]] = []

    @property
    def spent(self) -> Spent:
        """What servers' replies cost in all runs of this step, as the journal has it."""
        if self._spent is None:
            self._spent = self._read(CALLS)
        return self._spent

    @property
    def own(self) -> Spent:
        """What models in this process answered asynchronously, in all runs of this step."""
        if self._own is None:
            self._own = self._read(OWN)
        return self._own

    def rows(self, key: str, name: str = CALLS) -> list[Row]:
        """What a journal has of a call."""
        journal = self._journal(name)
        return journal.rows(key) if journal is not None else []

    def paid(self, key: str, row: Row, spec: str, part: str) -> None:
        """A server has replied: it is in the journal when this returns."""
        spent = self.spent  # read before the row is added
        journal = self._journal(CALLS)
        if journal is not None:
            journal.add(key, row, spec=spec, part=part)
        self._add(spent, spec, 1, row.prompt_tokens, row.completion_tokens)

    def answered(self, key: str, row: Row, spec: str, part: str) -> None:
        """A model in this process has replied."""
        own = self.own
        journal = self._journal(OWN)
        if journal is not None:
            journal.add(key, row, spec=spec, part=part)
        self._add(own, spec, 1, row.prompt_tokens, row.completion_tokens)

    def lost(
        self, key: str, reason: str, spec: str, part: str, tokens: tuple[int, int], calls: int = 0
    ) -> None:
        """A try came to nothing, though it may have cost tokens; with `calls` 1 it may have been done and charged."""
        spent = self.spent
        journal = self._journal(CALLS)
        if journal is not None:
            journal.add_failure(key, reason, spec=spec, part=part, tokens=tokens, calls=calls)
        self._add(spent, spec, calls, *tokens, unanswered=calls)

    def expects(self, spec: str, prompt: int, completion: int) -> Spent:
        """What a call of so many tokens will count as."""
        found = Spent()
        self._add(found, spec, 1, prompt, completion)
        return found

    def refuses(self, coming: Spent) -> str:
        """Why the coming call may not begin now, or an empty string."""
        return self.budget.exceeded(self.spent, self.in_flight, coming)

    def note(self, response: Response, *, known: bool = False, reason: str = "") -> None:
        """A request is answered, from the journal (`known`) or anew."""
        self.done += 1
        self.known += known
        if response.error:
            self.failed[reason or response.error] += 1

    def note_free(self, response: Response) -> None:
        """A request is answered by what costs nothing and is not journalled."""
        self.free.calls += 1
        self.free.prompt_tokens += response.usage.prompt_tokens
        self.free.completion_tokens += response.usage.completion_tokens
        self.note(response)

    def listen(self, changed: Callable[[], None]) -> None:
        """Call a function whenever a call has ended: its budget's share may be free."""
        self._listeners.append(changed)

    def changed(self) -> None:
        for one in self._listeners:
            one()

    def stop(self, error: LcxError) -> None:
        """No further call begins, in any exchange. The first reason stays."""
        if self.stopped is None:
            self.stopped = error
        self.changed()

    def counts(self) -> dict[str, int | float]:
        """Calls, tokens and cost over all runs of the step; what this process retried, found and failed at."""
        spent, all_of = self.spent, (self.spent, self.own, self.free)
        found: dict[str, int | float] = {
            "calls": sum(one.answered for one in all_of),
            "prompt_tokens": sum(one.prompt_tokens for one in all_of),
            "completion_tokens": sum(one.completion_tokens for one in all_of),
        }
        if spent.cost:
            found["cost"] = round(spent.cost, 6)
        if spent.unanswered:
            found["calls without a reply"] = spent.unanswered
        if self.retries:
            found["retries"] = self.retries
        if self.known:
            found["calls from the journal"] = self.known
        return found | {f"calls failed: {reason}": n for reason, n in sorted(self.failed.items())}

    def close(self) -> None:
        """Close the journals; their next use opens them again."""
        _ = self.spent, self.own
        for journal in self._journals.values():
            journal.close()
        self._journals.clear()

    def _journal(self, name: str) -> CallJournal | None:
        """A journal, opened by its first use."""
        if self.folder is None:
            return None
        if name not in self._journals:
            self._journals[name] = CallJournal(self.folder / name)
        return self._journals[name]

    def _read(self, name: str) -> Spent:
        found = Spent()
        if self.folder is not None and (self.folder / name).exists():
            journal = self._journal(name)
            for spec, total in journal.totals().items() if journal is not None else ():
                calls = total.calls + total.unanswered
                tokens = total.prompt_tokens, total.completion_tokens
                self._add(found, spec, calls, *tokens, unanswered=total.unanswered)
        return found

    def _add(
        self, spent: Spent, spec: str, calls: int, prompt: int, completion: int, unanswered: int = 0
    ) -> None:
        cost = cost_of(spec.partition(":")[2], prompt, completion, self.prices)
        spent.add(Spent(calls, prompt, completion, cost, unanswered))
