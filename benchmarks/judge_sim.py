"""A server that keeps prefixes, simulated: what it has to compute of each prompt depends on what it saw before."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lcx.errors import LcxError
from lcx.llm.builtin import open_builtin
from lcx.llm.client import ServerClient
from lcx.llm.ledger import CallLedger
from lcx.llm.openai import Failed, Good
from lcx.llm.protocol import Request, Response
from lcx.llm.scheduler import Call

BLOCK = 64
"""Characters of a block, about 16 tokens: vLLM's default."""


class PrefixCache:
    """Blocks of prompts by everything up to their ends; the ones used least recently go first."""

    def __init__(self, blocks: int) -> None:
        self.most = blocks
        self._held: OrderedDict[bytes, None] = OrderedDict()

    def prefill(self, text: str) -> tuple[int, int]:
        """Blocks of a prompt, and how many of them have to be computed."""
        marks, digest = [], hashlib.blake2b(digest_size=16)
        for start in range(0, len(text), BLOCK):
            digest.update(text[start : start + BLOCK].encode("utf-8", "surrogatepass"))
            marks.append(digest.digest())
        hits = 0
        while hits < len(marks) and marks[hits] in self._held:
            hits += 1
        for mark in reversed(marks):  # a prefix outlives what follows it
            self._held[mark] = None
            self._held.move_to_end(mark)
        while len(self._held) > self.most:
            self._held.popitem(last=False)
        return len(marks), len(marks) - hits


class Simulated:
    """A server whose answers are those of the builtin rules, and whose cost is the uncached prefix."""

    def __init__(
        self, cache: PrefixCache, concurrency: int, answer: Callable[[Request], Response] | None
    ) -> None:
        self.cache, self.concurrency = cache, concurrency
        self.extra: Mapping[str, Any] = {}
        self.omit: frozenset[str] = frozenset()
        self.blocks = self.computed = self.calls = 0
        rules = open_builtin("", {})
        self._answer = answer or (lambda request: rules.generate([request])[0])
        self._asked: dict[bytes, Request] = {}

    def body(self, request: Request, messages: bytes, sample: int, count: int) -> bytes:
        name = str(len(self._asked)).encode()
        self._asked[name] = request
        return name

    async def send(self, body: bytes) -> Good:
        request = self._asked[body]
        blocks, computed = self.cache.prefill("".join(m["content"] for m in request.messages))
        self.calls += 1
        self.blocks += blocks
        self.computed += computed
        await asyncio.sleep(0)  # others go on; the order of arrival is all that counts here
        response = self._answer(request)
        return Good(tuple((c.text, c.finish_reason) for c in response.completions), 1, 1)

    def stop_error(self, failed: Failed) -> LcxError:
        return LcxError(failed.reason)

    async def aclose(self) -> None: ...

    def close(self) -> None: ...

    def describe(self) -> dict[str, Any]:
        return {"backend": "simulated"}

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        raise NotImplementedError


class Arrival:
    """The order of arrival, in place of `lcx.llm.scheduler.PrefixQueue`."""

    def __init__(self) -> None:
        self._items: OrderedDict[int, Call] = OrderedDict()

    def add(self, item: Call) -> None:
        self._items[id(item)] = item

    def __len__(self) -> int:
        return len(self._items)

    def peek(self) -> Call:
        return next(iter(self._items.values()))

    def pop(self) -> Call:
        return self._items.popitem(last=False)[1]

    def clear(self) -> list[Call]:
        items = list(self._items.values())
        self._items.clear()
        return items


def exchange(
    cache: int, concurrency: int, *, sorted_by_text: bool, answer: Callable[[Request], Response] | None = None
) -> tuple[ServerClient, Simulated]:
    """An exchange with a simulated server, in our order or in that of arrival."""
    server = Simulated(PrefixCache(cache), concurrency, answer)
    served = ServerClient(lambda: server, spec="openai:simulated", ledger=CallLedger())
    if not sorted_by_text:
        served.scheduler.waiting = Arrival()  # type: ignore[assignment]
    return served, server
