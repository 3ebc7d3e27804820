"""Asynchronous use of text generators: `await exchange.ask(request)`, whatever stands behind it.

An exchange is a text generator (`LLM`) too, so steps that work in batches use the same object.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from lcx.llm.desk import OWN, Desk
from lcx.llm.protocol import LLM, Completion, Request, Response, Usage
from lcx.work.calls import Row, call_key, dump_messages

QUIET = 5
"""Turns of the event loop without a new call after which a batch is taken as complete."""
_NEXT = 7919
"""What an attempt adds to the seed: asking again for the same text must not give the same reply."""


class Exchange:
    """A backend opened by its first use. This one answers a call at once, in place: for rules, which cost nothing."""

    def __init__(self, open_backend: Callable[[], LLM], desk: Desk) -> None:
        self._open = open_backend
        self.desk = desk
        self._backend: LLM | None = None

    @property
    def backend(self) -> LLM:
        """What answers. Raises MissingError or UsageError where it cannot be opened."""
        if self._backend is None:
            self._backend = self._open()
        return self._backend

    async def ask(self, request: Request, *, attempt: int = 0, part: str = "") -> Response:
        """The reply to one request. A call that fails is a Response with an error, and with the samples that came.

        `attempt` tells apart calls for the same text and gives each its own seed; `part` names what a call is for.
        Raises LcxError only for what every call would meet.
        """
        [response] = self.backend.generate([resampled(request, attempt)])
        self.desk.note_free(response)
        return response

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        """Replies to a batch, in order."""
        responses = self.backend.generate(requests)
        for response in responses:
            self.desk.note_free(response)
        return responses

    def describe(self) -> dict[str, Any]:
        """What the manifest records; opens the backend if need be."""
        return self.backend.describe()

    def close(self) -> None:
        """Let the backend go; the next call opens it again."""
        if self._backend is not None:
            self._backend.close()
            self._backend = None

    async def drain(self) -> None:
        """Wait for the calls that are under way."""

    async def leave(self) -> None:
        """Let go of what waits."""


class Batched(Exchange):
    """Answers the calls that have gathered, in batches in a thread: for models in this process.

    Asynchronous calls are journalled one by one. Batches are not: who asks for them keeps them (`lcx.llm.asking`).
    """

    def __init__(self, open_backend: Callable[[], LLM], desk: Desk, name: str) -> None:
        super().__init__(open_backend, desk)
        self.name = name
        self._waiting: list[tuple[str, Request, str, asyncio.Future[Response]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def ask(self, request: Request, *, attempt: int = 0, part: str = "") -> Response:
        request = resampled(request, attempt)
        key = call_key(self.name, dump_messages(request.messages), _sampling(request), attempt)
        rows = self.desk.rows(key, OWN)
        if rows:
            response = from_row(rows[0])
            self.desk.note(response, known=True)
            return response
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._waiting.append((key, request, part, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        response = await future
        self.desk.note(response)
        return response

    async def _work(self) -> None:
        while self._waiting:
            await self._gathered()
            batch = [one for one in self._waiting if not one[-1].done()]
            self._waiting.clear()
            try:
                backend = self.backend
                replies = await asyncio.to_thread(backend.generate, [request for _, request, *_ in batch])
                for (key, _, part, future), response in zip(batch, replies, strict=True):
                    if response.completions and not response.error:
                        self.desk.answered(key, _as_row(response), self.name, part)
                    if not future.done():
                        future.set_result(response)
            except Exception as bad:
                for *_, future in batch:
                    if not future.done():
                        future.set_exception(bad)
            finally:  # a worker that is cancelled leaves nobody waiting
                for *_, future in batch:
                    future.cancel()

    async def _gathered(self) -> None:
        """Wait until the tasks that can run have asked what they ask."""
        quiet, seen = 0, -1
        while quiet < QUIET:
            quiet = quiet + 1 if len(self._waiting) == seen else 0
            seen = len(self._waiting)
            await asyncio.sleep(0)

    async def leave(self) -> None:
        for *_, future in self._waiting:
            future.cancel()
        self._waiting.clear()
        if self._worker is not None and not self._worker.done():
            self._worker.cancel()  # a batch in its thread runs to its end; nobody waits for it


def resampled(request: Request, attempt: int) -> Request:
    """The request as an attempt sends it."""
    return replace(request, seed=(request.seed + _NEXT * attempt) % 2**31) if attempt else request


def from_row(row: Row) -> Response:
    """A journalled reply as a response."""
    completions = tuple(Completion(text, finish) for text, finish in row.choices)
    return Response(completions, Usage(row.prompt_tokens, row.completion_tokens))


def _as_row(response: Response) -> Row:
    choices = tuple((made.text, made.finish_reason) for made in response.completions)
    return Row(0, choices, response.usage.prompt_tokens, response.usage.completion_tokens)


def _sampling(request: Request) -> dict[str, Any]:
    return {
        "n": request.n,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_tokens": request.max_tokens,
        "stop": list(request.stop),
        "seed": request.seed,
    }
