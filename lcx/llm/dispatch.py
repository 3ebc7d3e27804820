"""When calls to a server begin, how each try ends, and when a failed one is sent again."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from lcx.errors import LcxError
from lcx.llm.desk import Desk
from lcx.llm.endpoint import FATAL, FINAL, Failed, Good
from lcx.llm.protocol import LLM, Request, Usage
from lcx.work.calls import Row
from lcx.work.limits import Pace
from lcx.work.retry import Backoff
from lcx.work.waiting import Elevator

STREAK = 10
"""Calls in a row whose tries are all used up, after which a server counts as down."""
LIMITED = 4
"""A call that a rate limit turns away while others get through may be sent so many times its tries."""
MOST_PAUSE = 900.0
"""Seconds that a server may ask to wait for; a job whose server asks for more ends and can be resumed."""
_TOO_MANY = 429
_FORBIDDEN = 403


class Sender(LLM, Protocol):
    """What a server's backend offers besides an LLM's methods. `lcx.llm.endpoint.Endpoint` is one."""

    concurrency: int
    extra: Mapping[str, Any]

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
    estimate: int
    tries: int = 0
    """Tries that counted."""
    sent: int = 0
    goods: int = 0
    """Replies of the exchange when this call first began, or was last turned away."""
    began: float = 0.0


class Dispatch:
    """The calls of one exchange, on one event loop at a time: those that wait, are in flight, or are sent again."""

    def __init__(
        self,
        backend: Callable[[], Any],
        *,
        spec: str,
        desk: Desk,
        pace: Pace,
        tries: int,
        backoff: Backoff,
    ) -> None:
        self._backend, self.spec, self.desk = backend, spec, desk
        self.pace, self.tries, self.backoff = pace, tries, backoff
        self.waiting: Elevator[Call] = Elevator()
        self.most: int | None = None
        """Choices that the server gives at most, once it has given fewer than asked."""
        self.flying: Counter[str] = Counter()
        """Calls in flight by key."""
        self._rng = random.Random()
        self._due: deque[Call] = deque()
        """Calls that are to be sent again now: before the others, or they would be the last of a round."""
        self._delayed: dict[Call, asyncio.TimerHandle] = {}
        self._doubtful: list[tuple[Call, Failed]] = []
        """Calls whose tries are used up, until it is known whether the server is down."""
        self._sending: set[asyncio.Task[None]] = set()
        self._serial = self._goods = self._streak = self._refusals = self._waves = 0
        self._lengths = Usage()
        self._paused = float("-inf")
        self._planned: asyncio.Handle | None = None
        self._alarm: asyncio.TimerHandle | None = None
        desk.listen(self._plan)

    async def call(
        self, key: str, request: Request, messages: bytes, part: str, sample: int, count: int
    ) -> Good | Failed:
        """One call, from waiting to the journal, for `count` samples from number `sample` on."""
        self._serial += 1
        future: asyncio.Future[Good | Failed] = asyncio.get_running_loop().create_future()
        expected = self._lengths.completion_tokens // self._goods if self._goods else request.max_tokens
        estimate = _tokens(messages) + min(expected, request.max_tokens * count)
        order = (messages, self._serial)
        self.waiting.add(Call(key, request, messages, sample, count, part, order, future, estimate))
        self._plan()
        return await future

    # -- when calls begin

    def _plan(self) -> None:
        """Look for calls to begin, once the tasks that can run have asked what they ask."""
        if self._planned is None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                return
            self._planned = loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._planned = None
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self.desk.stopped:
            self._end_waiting(self.desk.stopped)
            return
        loop = asyncio.get_running_loop()
        sender: Any = self._backend()
        while (self._due or self.waiting) and len(self._sending) < sender.concurrency:
            now = loop.time()
            call = self._due[0] if self._due else self.waiting.peek()
            if call.future.done():  # nobody waits for it any more
                self._take()
                continue
            wait = max(self._paused - now, self.pace.wait(now, call.estimate))
            if wait > 0:
                self._alarm = loop.call_later(wait, self._plan)
                return
            reason = self.desk.refuses()
            if reason:
                if not self.desk.in_flight.calls:
                    self.desk.stop(self.desk.budget.spent_error(reason, self.desk.spent))
                return
            self._begin(self._take(), now)

    def _take(self) -> Call:
        return self._due.popleft() if self._due else self.waiting.pop()

    def _begin(self, call: Call, now: float) -> None:
        self.pace.begin(now, call.estimate)
        self.desk.in_flight.calls += 1
        self.desk.in_flight.prompt_tokens += call.estimate
        self.flying[call.key] += 1
        call.tries += 1
        call.sent += 1
        if call.sent == 1:
            call.goods = self._goods
        task = asyncio.get_running_loop().create_task(self._try(call))
        self._sending.add(task)
        task.add_done_callback(self._tried)

    def _tried(self, task: asyncio.Task[None]) -> None:
        """A try has ended: there is room for another, and perhaps nothing left to wait for."""
        self._sending.discard(task)
        self.desk.changed()
        self._settle_doubts()

    async def _try(self, call: Call) -> None:
        loop = asyncio.get_running_loop()
        sender: Any = self._backend()
        began, call.began = loop.time(), time.time()
        used = 0
        try:
            body = sender.body(call.request, call.messages, call.sample, call.count)
            good: Good = await sender.send(body)
            used = good.prompt_tokens + good.completion_tokens
            self._succeeded(call, good, loop.time() - began)
        except Failed as bad:
            used = sum(bad.tokens)
            self._failed(call, bad)
        except asyncio.CancelledError:
            call.future.cancel()
            raise
        except LcxError as bad:
            self.desk.stop(bad)
            _fail(call, bad)
        except Exception as bad:  # a mistake of ours or of a plugin's: it must not hang the job
            _fail(call, bad)
        finally:
            self.desk.in_flight.calls -= 1
            self.desk.in_flight.prompt_tokens -= call.estimate
            self.flying[call.key] -= 1
            if not self.flying[call.key]:
                del self.flying[call.key]
            self.pace.settle(loop.time(), call.estimate, used)

    # -- how calls end

    def _succeeded(self, call: Call, good: Good, seconds: float) -> None:
        if not good.prompt_tokens and not good.completion_tokens:  # a server that does not count
            said = sum(_tokens(text.encode("utf-8", "replace")) for text, _ in good.choices)
            good = Good(good.choices, _tokens(call.messages), said)
        if len(good.choices) < call.count:
            self.most = max(1, len(good.choices))
        good = replace(good, choices=good.choices[: call.count])
        self.desk.paid(call.key, _row(call, good, seconds), self.spec, call.part)
        self._goods += 1
        self._streak = self._refusals = self._waves = 0
        self._lengths += Usage(good.prompt_tokens, good.completion_tokens)
        _end(call, good)

    def _failed(self, call: Call, bad: Failed) -> None:
        self.desk.lost(call.key, bad.reason, self.spec, call.part, bad.tokens)
        if bad.kind == FATAL and bad.status == _FORBIDDEN and self._goods:
            bad = Failed(bad.reason, FINAL, detail=bad.detail, status=bad.status)  # this prompt, not the key
        if bad.kind == FATAL:
            self._stop(call, bad)
        elif bad.kind == FINAL:
            _end(call, bad)
        else:
            self._again(call, bad)

    def _again(self, call: Call, bad: Failed) -> None:
        """Send a call again later, unless its tries are used up or the job has ended."""
        if self.desk.stopped:
            _fail(call, self.desk.stopped)
        if call.future.done():
            return
        loop = asyncio.get_running_loop()
        delay = max(bad.pause or 0.0, self.backoff.pause(call.tries, self._rng))
        if bad.unreachable:
            if self._unreached(loop.time()):
                self._stop(call, bad)
                return
            call.tries -= 1  # this says nothing about the call
        elif bad.status == _TOO_MANY or bad.pause:
            if bad.pause and bad.pause > MOST_PAUSE:
                self._stop(call, Failed(f"it asks to wait for {bad.pause:,.0f} seconds", detail=bad.detail))
                return
            self._refusals += 1
            asked = bad.pause or self.backoff.pause(min(self._refusals, call.tries), self._rng)
            self._paused = max(self._paused, loop.time() + asked)
            if self._goods > call.goods and call.sent < LIMITED * self.tries:
                call.tries -= 1  # others got through: the limit is one that waiting helps against
            call.goods = self._goods
        if call.tries >= self.tries:
            self._exhausted(call, bad)
            return
        self.desk.retries += 1
        self._delayed[call] = loop.call_later(delay, self._resume, call)

    def _unreached(self, now: float) -> bool:
        """Wait before anything else is sent to a server that is not there; whether it was tried often enough."""
        if now >= self._paused:  # else another call of the same moment has found it out
            self._waves += 1
            self._paused = now + self.backoff.pause(self._waves, self._rng)
        return self._waves >= self.tries

    def _resume(self, call: Call) -> None:
        self._delayed.pop(call, None)
        self._due.append(call)
        self._plan()

    def _exhausted(self, call: Call, bad: Failed) -> None:
        self._streak += 1
        if self._streak >= STREAK:
            self._stop(call, bad)
        else:
            self._doubtful.append((call, bad))

    def _settle_doubts(self) -> None:
        """Let failed calls go once the server has answered another, or there is none to wait for."""
        if self._doubtful and (
            self._streak == 0 or not (self._sending or self.waiting or self._due or self._delayed)
        ):
            doubtful, self._doubtful = self._doubtful, []
            for call, bad in doubtful:
                _end(call, bad)

    def _stop(self, call: Call, bad: Failed) -> None:
        sender: Any = self._backend()
        self.desk.stop(sender.stop_error(bad))
        assert self.desk.stopped is not None
        _fail(call, self.desk.stopped)

    def _end_waiting(self, error: LcxError) -> None:
        """Nothing waits any longer. Calls in flight go on, as they are paid for."""
        for handle in self._delayed.values():
            handle.cancel()
        ended = [*self.waiting.clear(), *self._due, *self._delayed, *(call for call, _ in self._doubtful)]
        for call in ended:
            _fail(call, error)
        self._due.clear()
        self._delayed.clear()
        self._doubtful.clear()

    # -- the end

    async def drain(self) -> None:
        """Wait for the calls in flight; they end in the journal."""
        while self._sending:
            await asyncio.wait(set(self._sending))

    async def leave(self) -> None:
        """Cancel what waits or is in flight."""
        for handle in self._delayed.values():
            handle.cancel()
        self._delayed.clear()
        self._due.clear()
        self.waiting.clear()
        self._doubtful.clear()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        tasks = list(self._sending)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _row(call: Call, good: Good, seconds: float) -> Row:
    return Row(
        call.sample,
        good.choices,
        good.prompt_tokens,
        good.completion_tokens,
        call.sent,
        call.began,
        round(seconds, 4),
    )


def _tokens(text: bytes) -> int:
    """A rough count before a server gives the real one: four bytes a token are about right for English and Chinese."""
    return len(text) // 4 + 1


def _end(call: Call, end: Good | Failed) -> None:
    if not call.future.done():
        call.future.set_result(end)


def _fail(call: Call, error: BaseException) -> None:
    if not call.future.done():
        call.future.set_exception(error)
