"""When calls to a server begin, how each try ends, and when a failed one is sent again.

Calls that wait are taken in the order of their texts, so that those with a common prefix follow each other. A call
begins where a connection, the rate limits and the budget have room for it. What failed on its way is sent again after
a pause; when many calls in a row have used up their tries, the server is asked whether it answers at all.
"""

from __future__ import annotations

import asyncio
import random
import time
from bisect import bisect_left, insort
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from lcx.errors import LcxError
from lcx.llm.ledger import CallLedger, Row, dump_messages
from lcx.llm.limits import Backoff, RateLimiter, Spent
from lcx.llm.openai import FATAL, FINAL, UNUSABLE, Failed, Good
from lcx.llm.protocol import Request

STREAK = 10
"""Calls in a row whose tries are all used up, after which it is asked whether the server still answers at all."""
OUTAGE = 5
"""A server that has answered may be away for so many of the longest pauses."""
LIMITED = 4
"""A call that a rate limit turns away while others get through may be sent so many times its tries."""
MOST_PAUSE = 900.0
"""Seconds that a server may ask to wait for; a job whose server asks for more ends and can be resumed."""
PROBE = "probe"
"""What the journal calls a try that only asks whether the server answers."""
_TINY = ({"role": "user", "content": "Say yes."},)
_TOO_MANY = 429
_BAD_REQUEST, _FORBIDDEN = 400, 403


class Keyed(Protocol):
    """What can wait: `order` is compared, smaller first."""

    @property
    def order(self) -> tuple[bytes, int]: ...


K = TypeVar("K", bound=Keyed)


class PrefixQueue(Generic[K]):
    """A sorted queue that goes on upwards from what it took last, and starts again at the lowest.

    So a call behind the sweep waits for the next round, and a server that keeps prefixes meets each once in a round.
    """

    def __init__(self) -> None:
        self._items: list[K] = []
        self._last: tuple[bytes, int] = (b"", -1)

    def add(self, item: K) -> None:
        insort(self._items, item, key=_order)

    def __len__(self) -> int:
        return len(self._items)

    def peek(self) -> K:
        """What `pop` would take."""
        return self._items[self._next()]

    def pop(self) -> K:
        item = self._items.pop(self._next())
        self._last = item.order
        return item

    def clear(self) -> list[K]:
        """Take everything."""
        items, self._items = self._items, []
        return items

    def _next(self) -> int:
        place = bisect_left(self._items, self._last, key=_order)
        return place if place < len(self._items) else 0


def _order(item: Keyed) -> tuple[bytes, int]:
    return item.order


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


class Scheduler:
    """The calls of one exchange, on one event loop at a time: those that wait, are in flight, or are sent again."""

    def __init__(
        self,
        backend: Callable[[], Any],
        *,
        spec: str,
        ledger: CallLedger,
        limiter: RateLimiter,
        tries: int,
        backoff: Backoff,
    ) -> None:
        self._backend, self.spec, self.ledger = backend, spec, ledger
        self.limiter, self.tries, self.backoff = limiter, tries, backoff
        self.waiting: PrefixQueue[Call] = PrefixQueue()
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
        self._bad: set[bytes] = set()
        """Prompts of calls whose tries were used up."""
        self._known: Request | None = None
        """A request that was answered in this process."""
        self._probing = False
        self._sending: set[asyncio.Task[None]] = set()
        self._serial = self._goods = self._streak = self._refusals = self._waves = 0
        self._answered = False
        """Whether the server was there in this process, if only with an error."""
        self._lengths = Lengths()
        self._paused = self._away = float("-inf")
        """Until when nothing is sent, and since when the server is away."""
        self._planned: asyncio.Handle | None = None
        self._alarm: asyncio.TimerHandle | None = None
        ledger.listen(self._plan)

    async def call(
        self,
        key: str,
        request: Request,
        messages: bytes,
        part: str,
        sample: int,
        count: int,
        wanted: Callable[[], bool] = lambda: True,
    ) -> Good | Failed:
        """One call, from waiting to the journal, for `count` samples from number `sample` on."""
        self._serial += 1
        future: asyncio.Future[Good | Failed] = asyncio.get_running_loop().create_future()
        order = (messages, self._serial)
        self.waiting.add(Call(key, request, messages, sample, count, part, order, future, wanted))
        self._plan()
        try:
            return await future
        except asyncio.CancelledError:
            self._plan()  # another may have waited for this one's end
            raise

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
        try:
            if not self.ledger.stopped:
                self._fill()
        except (
            Exception
        ) as bad:  # a journal that cannot be read, or a mistake of ours: nobody may wait for ever
            self._broken(bad)
        if self.ledger.stopped:
            self._end_waiting(self.ledger.stopped)
        self._settle_doubts()

    def _fill(self) -> None:
        """Begin calls as far as limits and the budget allow."""
        loop = asyncio.get_running_loop()
        while self._due or self.waiting:
            sender: Any = self._backend()
            if len(self._sending) >= sender.concurrency:
                return
            now = loop.time()
            call = self._due[0] if self._due else self.waiting.peek()
            if call.future.done():  # nobody waits for it any more
                self._take()
                continue
            call.expects = self._expects(call)
            wait = max(self._paused - now, self.limiter.wait(now, call.expects.tokens))
            if wait > 0:
                self._alarm = loop.call_later(wait, self._plan)
                return
            reason = self.ledger.refuses(call.expects)
            if reason:
                if not self.ledger.in_flight.calls:
                    self.ledger.stop(self.ledger.budget.spent_error(reason, self.ledger.spent, call.expects))
                return
            self._begin(self._take(), now)

    def _expects(self, call: Call) -> Spent:
        """What a call may count as: careful while others are in flight, whose lengths are not known."""
        careful = self.ledger.in_flight.calls > 0
        reply = self._lengths.expected(call.request.max_tokens, call.count, careful=careful)
        return self.ledger.expects(self.spec, count_tokens(call.messages), reply)

    def _broken(self, bad: Exception) -> None:
        """What every call would meet: an error of ours stops the job, another ends whoever waits."""
        if isinstance(bad, LcxError):
            self.ledger.stop(bad)
        self._end_waiting(bad)

    def _take(self) -> Call:
        return self._due.popleft() if self._due else self.waiting.pop()

    def _begin(self, call: Call, now: float) -> None:
        self.limiter.begin(now, call.expects.tokens)
        self.ledger.in_flight.add(call.expects)
        self.flying[call.key] += 1
        call.tries += 1
        call.sent += 1
        if call.sent == 1:
            call.goods = self._goods
        self._start(self._try(call))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._sending.add(task)
        task.add_done_callback(self._tried)

    def _tried(self, task: asyncio.Task[None]) -> None:
        """A try has ended: there is room for another, and perhaps nothing left to wait for."""
        self._sending.discard(task)
        self.ledger.changed()

    async def _try(self, call: Call) -> None:
        loop = asyncio.get_running_loop()
        began, call.began = loop.time(), time.time()
        expects, used = call.expects, 0
        try:
            try:
                sender: Any = self._backend()
                body = sender.body(call.request, call.messages, call.sample, call.count)
                good: Good = await sender.send(body)
            except Failed as bad:
                used = sum(bad.tokens) or (expects.prompt_tokens if bad.unanswered else 0)
                self._failed(call, bad)
            else:
                used = good.prompt_tokens + good.completion_tokens
                self._succeeded(call, good, loop.time() - began)
        except asyncio.CancelledError:
            call.future.cancel()
            raise
        except LcxError as bad:
            self.ledger.stop(bad)
            call.fail(bad)
        except Exception as bad:  # a mistake of ours or of a plugin's: it must not hang the job
            call.fail(bad)
        finally:
            self.ledger.in_flight.add(expects, -1)
            if not self.ledger.in_flight.calls:
                self.ledger.in_flight.cost = 0.0  # what rounding has left
            self.flying[call.key] -= 1
            if not self.flying[call.key]:
                del self.flying[call.key]
            self.limiter.settle(loop.time(), expects.tokens, used)

    # -- how calls end

    def _succeeded(self, call: Call, good: Good, seconds: float) -> None:
        if not good.prompt_tokens and not good.completion_tokens:  # a server that does not count
            said = sum(count_tokens(text.encode("utf-8", "replace")) for text, *_ in good.choices)
            good = replace(good, prompt_tokens=count_tokens(call.messages), completion_tokens=said)
        given = len(good.choices)
        if given + good.spoiled < call.count:
            self.most = max(1, given + good.spoiled)
        good = replace(good, choices=good.choices[: call.count])
        self.ledger.paid(call.key, call.row(good, seconds), self.spec, call.part)
        self._goods += 1
        self._answered, self._known = True, call.request
        self._streak = self._refusals = self._waves = 0
        self._lengths.add(given, good.completion_tokens)
        call.end(good)

    def _failed(self, call: Call, bad: Failed) -> None:
        self._lost(call.key, call.part, bad, call.expects.prompt_tokens)
        if bad.status or bad.unanswered:
            self._answered, self._waves = True, 0
        if bad.kind == FATAL and bad.status == _FORBIDDEN and self._goods:
            bad = Failed(bad.reason, FINAL, detail=bad.detail, status=bad.status)  # this prompt, not the key
        if bad.kind == FATAL:
            self._stop(call, bad)
        elif bad.kind in (FINAL, UNUSABLE):
            call.end(bad)
        else:
            self._again(call, bad)

    def _lost(self, key: str, part: str, bad: Failed, prompt: int) -> None:
        """Put a failed try on record. One that was sent and never answered counts as a call with its prompt."""
        tokens = (prompt, 0) if bad.unanswered and not any(bad.tokens) else bad.tokens
        self.ledger.lost(key, bad.reason, self.spec, part, tokens, int(bad.unanswered))

    def _again(self, call: Call, bad: Failed) -> None:
        """Send a call again later, unless its tries are used up or the job has ended."""
        if self.ledger.stopped:
            call.fail(self.ledger.stopped)
        elif not call.wanted():
            call.end(bad)
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
        self.ledger.retries += 1
        self._delayed[call] = loop.call_later(delay, self._resume, call)

    def _unreached(self, now: float) -> bool:
        """Wait before anything else is sent to a server that is not there; whether it was tried often enough.

        One that never answered in this process may be a wrong address: a call's tries are enough for it.
        """
        if now >= self._paused:  # else another call of the same moment has found it out
            self._away = self._away if self._waves else now
            self._waves += 1
            self._paused = now + self.backoff.pause(self._waves, self._rng)
        patience = OUTAGE * self.backoff.most if self._answered else 0.0
        return self._waves >= self.tries and now - self._away >= patience

    def _resume(self, call: Call) -> None:
        self._delayed.pop(call, None)
        self._due.append(call)
        self._plan()

    def _exhausted(self, call: Call, bad: Failed) -> None:
        """A call's tries are used up: because of its prompt, or because the server is down."""
        self._streak += 1
        self._bad.add(call.messages)
        self._doubtful.append((call, bad))
        if self._streak >= STREAK and not self._probing:
            self._probing = True
            self._start(self._probe())

    async def _probe(self) -> None:
        """Ask for one token, with a prompt that was answered before: a server that gives it is not down.

        If no prompt ever was, in any run of the step, and many different ones fail, then an answer does not help.
        """
        try:
            alive = await self._answers()
            hopeless = not self._goods and not self.ledger.spent.answered and len(self._bad) >= STREAK
            if self._streak and self._doubtful and (hopeless or not alive):
                self._stop(*self._doubtful[-1])
            self._streak = 0
        except Exception as bad:  # the journal cannot be written
            self._broken(bad)
        finally:
            self._probing = False

    async def _answers(self) -> bool:
        sender: Any = self._backend()
        messages = self._known.messages if self._known else _TINY
        request = Request(messages, max_tokens=1)
        raw = dump_messages(messages)
        try:
            good: Good = await sender.send(sender.body(request, raw, 0, 1))
        except Failed as bad:
            self._lost(PROBE, PROBE, bad, count_tokens(raw))
            now = asyncio.get_running_loop().time()
            if bad.unreachable and not self._unreached(now):  # it may be starting again
                await asyncio.sleep(self._paused - now)
                return await self._answers()
            return bad.kind == FINAL or bad.status == _BAD_REQUEST
        tokens = good.prompt_tokens or count_tokens(raw), good.completion_tokens
        self.ledger.lost(PROBE, "asked whether the server answers", self.spec, PROBE, tokens)
        return True

    def _settle_doubts(self) -> None:
        """Let failed calls go once the server has answered another, or there is none to wait for."""
        if not self._doubtful or self._probing:
            return
        if self._streak == 0 or not (self._sending or self.waiting or self._due or self._retrying()):
            doubtful, self._doubtful = self._doubtful, []
            for call, bad in doubtful:
                call.end(bad)

    def _retrying(self) -> bool:
        return any(not call.future.done() for call in self._delayed)

    def _stop(self, call: Call, bad: Failed) -> None:
        sender: Any = self._backend()
        self.ledger.stop(sender.stop_error(bad))
        assert self.ledger.stopped is not None
        call.fail(self.ledger.stopped)

    def _end_waiting(self, error: Exception) -> None:
        """Nothing waits any longer. Calls in flight go on, as they are paid for."""
        for handle in self._delayed.values():
            handle.cancel()
        ended = [*self.waiting.clear(), *self._due, *self._delayed, *(call for call, _ in self._doubtful)]
        for call in ended:
            call.fail(error)
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
