"""Batches of requests that a killed step asks only once: replies go through a journal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lcx.errors import LcxError
from lcx.llm.protocol import LLM, Request, Response
from lcx.work.journal import Journal


class Asker:
    """Sends batches to a text generator and journals each, so that a resumed step gets the same replies.

    The generator is opened by the first batch that the journal does not have. A batch's name stands for its
    requests: it must not depend on where an earlier process stopped.
    """

    def __init__(self, llm: Callable[[], LLM], journal: Journal) -> None:
        self._open = llm
        self._llm: LLM | None = None
        self.journal = journal
        self.calls = self.prompt_tokens = self.completion_tokens = 0

    def ask(self, unit: str, size: int, requests: Callable[[], Sequence[Request]]) -> list[dict[str, Any]]:
        """Replies to a batch of `size` requests, each {"text", "error", "cut"}, in the requests' order.

        `requests` is called only where the journal lacks the batch. Raises LcxError where it has the batch in
        another size.
        """
        known = self.journal.get(unit)
        if known is None:
            if self._llm is None:
                self._llm = self._open()
            responses = self._llm.generate(requests())
            known = {
                "unit": unit,
                "replies": [_row(response) for response in responses],
                "usage": [
                    sum(r.usage.prompt_tokens for r in responses),
                    sum(r.usage.completion_tokens for r in responses),
                ],
            }
            self.journal.append(known)
        self.calls += len(known["replies"])
        self.prompt_tokens += known["usage"][0]
        self.completion_tokens += known["usage"][1]
        if len(known["replies"]) != size:
            raise LcxError(
                f"{self.journal.path}: batch {unit} has another size", hint="--force starts the step over."
            )
        return list(known["replies"])

    def close(self) -> None:
        """Let the generator go, if one was opened; the next new batch opens it again."""
        if self._llm is not None:
            self._llm.close()

    def describe(self) -> dict[str, Any]:
        """The backend that answered in this process; empty where the journal had every reply."""
        return self._llm.describe() if self._llm is not None else {}


def _row(response: Response) -> dict[str, Any]:
    """A reply as the journal keeps it; `cut` where the length limit ended it."""
    cut = bool(response.completions) and response.completions[0].finish_reason == "length"
    return {"text": response.text, "error": response.error, "cut": cut}
