"""One call to a server, from its waiting to its end, and what a server's backend has to offer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from lcx.errors import LcxError
from lcx.llm.openai import Failed, Good
from lcx.llm.protocol import LLM, Request
from lcx.work.budget import Spent
from lcx.work.calls import Row


class Sender(LLM, Protocol):
    """What a server's backend offers besides an LLM's methods. `lcx.llm.openai.ChatServer` is one."""

    concurrency: int
    extra: Mapping[str, Any]
    omit: Collection[str]

    def body(self, request: Request, messages: bytes, sample: int, count: int) -> bytes: ...

    async def send(self, body: bytes) -> Good: ...

    async def aclose(self) -> None: ...

    def stop_error(self, failed: Failed) -> LcxError: ...


@dataclass(eq=False)
class Call:
    """One HTTP call that is to be made: samples `sample`, `sample + 1`, ... of a request."""

    key: str
    request: Request
    messages: bytes
    sample: int
    count: int
    part: str
    order: tuple[bytes, int]
    future: asyncio.Future[Good | Failed]
    wanted: Callable[[], bool]
    """Whether anybody still waits for the reply; a call in flight goes on without."""
    expects: Spent = field(default_factory=Spent)
    """What it was expected to count as when it last began."""
    tries: int = 0
    """Tries that counted."""
    sent: int = 0
    goods: int = 0
    """Replies of the exchange when this call first began, or was last turned away."""
    began: float = 0.0

    def row(self, good: Good, seconds: float) -> Row:
        """The reply as the journal keeps it."""
        tokens = good.prompt_tokens, good.completion_tokens
        return Row(self.sample, good.choices, *tokens, self.sent, self.began, round(seconds, 4))

    def end(self, end: Good | Failed) -> None:
        if not self.future.done():
            self.future.set_result(end)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Lengths:
    """How long replies are: what a call's reply may need, from those that came."""

    PRIOR = 4
    """Replies as long as allowed that are assumed besides those that came: the first to come are the shortest."""

    def __init__(self) -> None:
        self.choices = self.tokens = 0

    def add(self, choices: int, tokens: int) -> None:
        self.choices += choices
        self.tokens += tokens

    def expected(self, most: int, count: int, *, careful: bool) -> int:
        """Tokens of a reply with `count` choices of `most` tokens at most; at the start, all that is allowed."""
        prior = self.PRIOR if careful or not self.choices else 0
        mean = (self.tokens + prior * most) / (self.choices + prior)
        return min(most, -int(-mean // 1)) * count


def count_tokens(text: bytes) -> int:
    """A rough count before a server gives the real one: four bytes a token are about right for English and Chinese."""
    return len(text) // 4 + 1
