"""Batches of requests that a killed step asks only once: replies go through a journal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lcx.errors import LcxError
from lcx.llm.protocol import LLM, Request, Response, Usage
from lcx.work.journal import Journal


class Asker:
    """Sends batches to a text generator and journals each, so that a resumed step gets the same replies.

    The generator is opened by the first batch that the journal does not have. A batch's name stands for its
    requests: it must not depend on where an earlier process stopped.
    """

    def __init__(self, llm: Callable[[], LLM], journal: Journal) -> None:
        self._open = llm
        self._llm: LLM | None = None
        self._about: dict[str, Any] = {}
        self.journal = journal
        self.calls = self.prompt_tokens = self.completion_tokens = 0

    def ask(self, unit: str, size: int, requests: Callable[[], Sequence[Request]]) -> list[dict[str, Any]]:
        """Replies to a batch of `size` requests, each {"text", "error", "cut"}, in the requests' order.

        A reply to a request for several samples has all of them too, for `samples_of`.

        `requests` is called only where the journal lacks the batch. Raises LcxError where it has the batch in
        another size.
        """
        if unit not in self.journal:
            self.prepare([(unit, requests)])
        known = self.journal[unit]
        self.calls += len(known["replies"])
        self.prompt_tokens += known["usage"][0]
        self.completion_tokens += known["usage"][1]
        if len(known["replies"]) != size:
            raise LcxError(
                f"{self.journal.path}: batch {unit} has another size", hint="--force starts the step over."
            )
        return list(known["replies"])

    def prepare(self, batches: Sequence[tuple[str, Callable[[], Sequence[Request]]]]) -> None:
        """Ask for several batches at once, as far as the journal lacks them: a server is then never left waiting for
        the last replies of one before the next begins.
        """
        new = [(unit, requests) for unit, requests in batches if unit not in self.journal]
        if not new:
            return
        if self._llm is None:
            self._llm = self._open()
            self._about = self._llm.describe()  # now: asked later, it would open a closed one again
        asked = [(unit, list(requests())) for unit, requests in new]
        replies = iter(self._llm.generate([request for _, requests in asked for request in requests]))
        for unit, requests in asked:
            responses = [next(replies) for _ in requests]
            usage = sum((response.usage for response in responses), Usage())
            self.journal.append(
                {
                    "unit": unit,
                    "replies": [_row(response) for response in responses],
                    "usage": [usage.prompt_tokens, usage.completion_tokens],
                }
            )

    def close(self) -> None:
        """Let the generator go, if one was opened; the next new batch opens it again."""
        if self._llm is not None:
            self._llm.close()

    def describe(self) -> dict[str, Any]:
        """The backend that answered in this process; empty where the journal had every reply."""
        return self._about


def batches_at_once(spec: str, batch: int, concurrency: int) -> int:
    """How many batches keep a server busy; one for a model of our own, which gains nothing from more."""
    return max(1, -(-2 * concurrency // batch)) if spec.startswith("openai:") else 1


def samples_of(reply: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """Every sample in a reply as (text, whether the length limit ended it); none where the call failed as a whole."""
    if "samples" in reply:
        return [(str(text), bool(cut)) for text, cut in reply["samples"]]
    return [] if reply["error"] else [(str(reply["text"]), bool(reply["cut"]))]


def _row(response: Response) -> dict[str, Any]:
    """A reply as the journal keeps it; `cut` where the length limit ended it."""
    cut = bool(response.completions) and response.completions[0].finish_reason == "length"
    row: dict[str, Any] = {"text": response.text, "error": response.error, "cut": cut}
    if len(response.completions) > 1 or (response.completions and response.error):
        row["samples"] = [[made.text, made.finish_reason == "length"] for made in response.completions]
    return row
