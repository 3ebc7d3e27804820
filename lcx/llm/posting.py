"""Calls to a server: journal, then limits and budget, then HTTP with retries, then the journal again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lcx.llm.desk import Desk
from lcx.llm.dispatch import Dispatch
from lcx.llm.exchange import Exchange, resampled
from lcx.llm.openai import FINAL, Failed, Good, parameters_of
from lcx.llm.protocol import Completion, Request, Response, Usage
from lcx.work.calls import Row, call_key, dump_messages
from lcx.work.limits import Pace
from lcx.work.retry import Backoff


@dataclass(eq=False)
class Asked:
    """A request that is being answered, and how many wait for it."""

    task: asyncio.Task[tuple[Response, str]]
    listeners: int = 0


class Posting(Exchange):
    """An exchange with a server: a request is answered from the journal, or by as many calls as its samples need."""

    def __init__(
        self,
        open_backend: Callable[[], Any],
        *,
        spec: str,
        desk: Desk | None = None,
        pace: Pace | None = None,
        tries: int = 5,
        backoff: Backoff = Backoff(),
        run: Callable[[Coroutine[Any, Any, Any]], Any] = asyncio.run,
    ) -> None:
        super().__init__(open_backend, desk or Desk())
        self.spec, self._run = spec, run
        self._asking: dict[str, Asked] = {}
        self.dispatch = Dispatch(
            lambda: self.backend,
            spec=spec,
            desk=self.desk,
            pace=pace or Pace(),
            tries=tries,
            backoff=backoff,
        )

    async def ask(self, request: Request, *, attempt: int = 0, part: str = "") -> Response:
        request = resampled(request, attempt)
        messages = dump_messages(request.messages)
        sender: Any = self.backend
        omitted = {"omit": sorted(sender.omit)} if sender.omit else {}
        parameters = {**parameters_of(request), **sender.extra, **omitted}
        key = call_key(self.spec, messages, parameters, attempt)
        asked = self._asking.get(key)
        if asked is None:
            rows = self.desk.rows(key)
            if _held(rows) >= request.n:
                response = _response(rows, request.n)
                self.desk.note(response, known=True)
                return response
            if self.desk.stopped:
                raise self.desk.stopped
            task = asyncio.create_task(self._whole(key, request, messages, part, rows))
            asked = self._asking[key] = Asked(task)
            task.add_done_callback(lambda done: self._forget(key, done))
        asked.listeners += 1
        try:
            response, reason = await asyncio.shield(asked.task)
        except asyncio.CancelledError:
            asked.listeners -= 1
            if (
                not asked.listeners and not self.dispatch.flying[key]
            ):  # nobody wants it, and it costs nothing yet
                asked.task.cancel()
                self._forget(key, asked.task)
            raise
        self.desk.note(response, reason=reason)
        return response

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        async def main() -> list[Response]:
            return list(await asyncio.gather(*map(self.ask, requests)))

        found: list[Response] = self._run(main())
        return found

    def _wanted(self, key: str) -> bool:
        """Whether anybody waits for a request's reply."""
        return key in self._asking and self._asking[key].listeners > 0

    def _forget(self, key: str, task: asyncio.Task[Any]) -> None:
        if key in self._asking and self._asking[key].task is task:
            del self._asking[key]
        if task.done() and not task.cancelled():
            task.exception()  # whoever asked may be gone; the job's error is told elsewhere

    async def _whole(
        self, key: str, request: Request, messages: bytes, part: str, rows: list[Row]
    ) -> tuple[Response, str]:
        """All samples of a request, over as many calls as the server needs; and why it failed, if it did."""
        rows = list(rows)
        while missing := _missing(rows, request.n, self.dispatch.most):
            ends = await asyncio.gather(
                *(self._samples(key, request, messages, part, *one, rows) for one in missing)
            )
            if not self._wanted(key):
                self._asking.pop(key, None)  # who asks from now on asks anew, for what is not journalled
                return _response(rows, request.n), ""
            bad = next((end for end in ends if isinstance(end, Failed)), None)
            if bad is None:
                continue
            # Some servers refuse n > 1 instead of ignoring it: then a single sample gets through.
            several = bad.kind == FINAL and missing[0][1] > 1 and not rows
            if several and isinstance(await self._samples(key, request, messages, part, 0, 1, rows), Good):
                self.dispatch.most = 1
                continue
            whole = ": ".join(text for text in (bad.reason, bad.detail) if text)
            response = _response(rows, request.n)
            return replace(response, error=whole, final=bad.kind == FINAL), bad.reason
        return _response(rows, request.n), ""

    async def _samples(
        self,
        key: str,
        request: Request,
        messages: bytes,
        part: str,
        sample: int,
        count: int,
        rows: list[Row],
    ) -> Good | Failed:
        """One call for some of the samples; adds what came to `rows`."""
        end = await self.dispatch.call(key, request, messages, part, sample, count, lambda: self._wanted(key))
        if isinstance(end, Good):
            rows.append(Row(sample, end.choices, end.prompt_tokens, end.completion_tokens))
            rows.sort(key=lambda row: row.sample)
        return end

    async def drain(self) -> None:
        await self.dispatch.drain()

    async def leave(self) -> None:
        await self.dispatch.leave()
        tasks = [asked.task for asked in self._asking.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._asking.clear()


def _held(rows: Sequence[Row]) -> int:
    return sum(len(row.choices) for row in rows)


def _missing(rows: Sequence[Row], n: int, most: int | None) -> list[tuple[int, int]]:
    """Runs of samples, as (first, count), that no row has; none longer than a server gives at once."""
    held = {row.sample + i for row in rows for i in range(len(row.choices))}
    runs: list[tuple[int, int]] = []
    for sample in range(n):
        if sample in held:
            continue
        start, count = runs[-1] if runs else (-1, 0)
        if runs and start + count == sample and (most is None or count < most):
            runs[-1] = (start, count + 1)
        else:
            runs.append((sample, 1))
    return runs


def _response(rows: Sequence[Row], n: int) -> Response:
    choices = [choice for row in rows for choice in row.choices][:n]
    usage = sum((Usage(row.prompt_tokens, row.completion_tokens) for row in rows), Usage())
    return Response(tuple(Completion(text, finish) for text, finish in choices), usage)
