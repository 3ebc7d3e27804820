"""Batches of requests for steps that are not asynchronous; their replies are in the step's ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lcx.llm.client import LLMClient
from lcx.llm.protocol import Request, Response


class Asker:
    """Sends batches to a client, and counts what came."""

    def __init__(self, client: Callable[[], LLMClient], journal: object = None) -> None:
        self._open = client
        self._client: LLMClient | None = None
        self.calls = self.prompt_tokens = self.completion_tokens = 0
        self._ready: dict[str, list[Response]] = {}

    @property
    def client(self) -> LLMClient:
        if self._client is None:
            self._client = self._open()
        return self._client

    def ask(self, unit: str, size: int, requests: Callable[[], Sequence[Request]]) -> list[dict[str, Any]]:
        """Replies to a batch, each {"text", "error", "cut"}, in the requests' order; with `samples` where several."""
        self.prepare([(unit, requests)])
        found = self._ready.pop(unit)
        self.calls += len(found)
        for response in found:
            self.prompt_tokens += response.usage.prompt_tokens
            self.completion_tokens += response.usage.completion_tokens
        return [_row(response) for response in found]

    def prepare(self, batches: Sequence[tuple[str, Callable[[], Sequence[Request]]]]) -> None:
        """Ask for several batches at once: a server is then never left waiting for the last replies of one."""
        new = [(unit, list(requests())) for unit, requests in batches if unit not in self._ready]
        replies = iter(self.client.generate([request for _, requests in new for request in requests]))
        for unit, requests in new:
            self._ready[unit] = [next(replies) for _ in requests]

    def close(self) -> None:
        """Let the generator go; the next new batch opens it again."""
        if self._client is not None:
            self._client.close()

    def describe(self) -> dict[str, Any]:
        """The backend that answered in this process; empty where every reply was known."""
        about = self.client.about
        return {} if set(about) == {"spec"} else about


def batches_at_once(spec: str, batch: int, concurrency: int) -> int:
    """How many batches keep a server busy; one for a model of our own, which gains nothing from more."""
    return max(1, -(-2 * concurrency // batch)) if spec.startswith("openai:") else 1


def samples_of(reply: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """Every sample in a reply as (text, whether the length limit ended it); none where the call failed as a whole."""
    if "samples" in reply:
        return [(str(text), bool(cut)) for text, cut in reply["samples"]]
    return [] if reply["error"] else [(str(reply["text"]), bool(reply["cut"]))]


def _row(response: Response) -> dict[str, Any]:
    """A reply for who reads it; `cut` where the length limit ended it."""
    cut = bool(response.completions) and response.completions[0].finish_reason == "length"
    row: dict[str, Any] = {"text": response.text, "error": response.error, "cut": cut}
    if len(response.completions) > 1 or (response.completions and response.error):
        row["samples"] = [[made.text, made.finish_reason == "length"] for made in response.completions]
    return row
