"""A scripted backend in place of a server: no network, and time that passes at once."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lcx.errors import LcxError
from lcx.llm.client import ServerClient
from lcx.llm.ledger import CallLedger
from lcx.llm.limits import Budget, Prices, RateLimiter
from lcx.llm.openai import Failed, Good
from lcx.llm.protocol import Request, Response
from tests.llm.instant import run_instantly

Script = Callable[[dict[str, Any]], Good | Failed]


class Down(LcxError):
    """What the scripted backend ends a job with."""


class Scripted:
    """Answers after a second of the loop's time."""

    def __init__(self, script: Script, concurrency: int = 4, seconds: float = 1.0) -> None:
        self.script, self.concurrency, self.seconds = script, concurrency, seconds
        self.extra: dict[str, Any] = {}
        self.omit: frozenset[str] = frozenset()
        self.begun: list[tuple[float, str]] = []
        """When each try began, and its prompt."""
        self.good: Counter[str] = Counter()
        self.in_flight = self.most = 0

    def body(self, request: Request, messages: bytes, sample: int, count: int) -> bytes:
        text = request.messages[-1]["content"]
        return json.dumps({"text": text, "sample": sample, "n": count, "seed": request.seed}).encode()

    async def send(self, body: bytes) -> Good:
        asked = json.loads(body)
        self.begun.append((asyncio.get_running_loop().time(), asked["text"]))
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            end = self.script(asked)
            await asyncio.sleep(self.seconds)
        finally:
            self.in_flight -= 1
        if isinstance(end, Failed):
            raise end
        self.good[body.decode()] += 1
        return end

    def stop_error(self, failed: Failed) -> LcxError:
        return Down(f"stopped by {failed.reason}")

    async def aclose(self) -> None: ...

    def close(self) -> None: ...

    def describe(self) -> dict[str, Any]:
        return {"backend": "scripted"}

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        raise NotImplementedError


def said(text: str = "yes", tokens: tuple[int, int] = (10, 2), finish: str = "stop") -> Good:
    return Good(((text, finish),), *tokens)


def request(text: str, n: int = 1, **more: Any) -> Request:
    return Request(({"role": "user", "content": text},), n=n, max_tokens=more.pop("max_tokens", 8), **more)


def served(
    backend: Scripted,
    folder: Path | None = None,
    budget: Budget = Budget(),
    prices: Prices | None = None,
    limiter: RateLimiter | None = None,
    tries: int = 5,
) -> ServerClient:
    ledger = CallLedger(folder, budget, prices)
    return ServerClient(
        lambda: backend, spec="openai:m", ledger=ledger, limiter=limiter, tries=tries, run=run_instantly
    )
