"""Asking text generators: `await client.ask(request)`, whatever stands behind it, and a step's `Service` of clients.

Rules answer in place. A model in this process answers what has gathered, in batches in a thread. A server is asked by
as many calls as a request's samples need. Replies of models and servers go through the step's ledger, so a killed and
resumed step asks nothing twice; two who ask a server for the same at the same time get one reply.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import lcx.llm
from lcx.context import Context, Deal, PartDone, Stopped
from lcx.errors import LcxError, PluginError
from lcx.formatting import several
from lcx.llm.ledger import CallLedger, Row, call_key, dump_messages, load_prices, response_of
from lcx.llm.limits import Backoff, Budget, BudgetSpent, RateLimiter, Spent, check_priced
from lcx.llm.openai import FINAL, ChatServer, Failed, Good, open_openai, parameters_of
from lcx.llm.prompts import begun_inside
from lcx.llm.protocol import LLM, Made, Request, Response
from lcx.llm.scheduler import Scheduler
from lcx.llm.settings import Serving
from lcx.plugins import loaded
from lcx.progress import Pace
from lcx.storage import sha256_json, sha256_text

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine to its end, as `asyncio.run` does."""

ENDPOINT, RULES, LOCAL = "openai", "builtin", "local"
SERVED = ("base_url", "api_key_env", "api_key_file", "concurrency", "timeout")
"""Settings that a server's backend takes as options; a backend's own options go first."""
QUIET = 5
"""Turns of the event loop without a new call after which a batch is taken as complete."""
_TICK = 1.0
"""Seconds between looks at the progress."""
_PATIENCE = 30.0
"""Seconds that calls in flight get to end in, where something else than the budget ended the step."""
ELSEWHERE = "another shard asks this"
"""The error of a request that is another shard's. Nobody sees it: a shard ends before anything comes of it."""
FAILED_BEFORE = "it failed when all shards had asked"
_NEXT = 7919
"""What an attempt adds to the seed: asking again for the same text must not give the same reply."""


class LLMClient:
    """A backend opened by its first use. This one answers a call at once, in place: for rules, which cost nothing."""

    def __init__(
        self, open_backend: Callable[[], LLM], ledger: CallLedger, spec: str, run: Run = asyncio.run
    ) -> None:
        self._open, self.ledger, self.spec, self.run = open_backend, ledger, spec, run
        self.deal = Deal()
        """How requests are dealt out, where several processes share the step."""
        self._backend: LLM | None = None
        self.about: dict[str, Any] = {"spec": spec}
        """What the manifest records: the opened backend's own words, or the spec where every reply was known."""
        self.used = Spent()
        """Requests that this client answered in this process, from the ledger or anew, and their tokens."""
        self.inside = False
        """Whether replies have shown that the model's prompt begins a thought: of some only its end was there."""

    @property
    def backend(self) -> LLM:
        """What answers. Raises MissingError or UsageError where it cannot be opened."""
        if self._backend is None:
            self._backend = self._open()
            self.about = self._backend.describe()
        return self._backend

    async def ask(self, request: Request, *, attempt: int = 0, part: str = "") -> Response:
        """The reply to one request. A call that fails is a Response with an error, and with the samples that came.

        `attempt` tells apart calls for the same text and gives each its own seed; `part` names what a call is for.
        Raises LcxError only for what every call would meet.
        """
        return self._rule(resampled(request, attempt))

    @property
    def busy(self) -> int:
        """Requests that a model in this process is at."""
        return 0

    def generate(
        self, requests: Sequence[Request | None], *, part: str = "", dealt: bool = False
    ) -> list[Response]:
        """Replies to a batch, in order, for steps that are not asynchronous.

        Where shards share the step, each asks what it is dealt and nothing twice. Say `dealt` where None stands in
        place of each request that `deal.skips`, and call `deal.gathered()` before replies are used; without it a
        shard does both here, by the requests' texts, and ends with this batch (PartDone).
        """
        if not self.deal.alone:
            return self._dealt(requests, part, dealt)

        async def main() -> list[Response]:
            return list(await asyncio.gather(*(self.ask(one, part=part) for one in requests if one)))

        found: list[Response] = self.run(main())
        return found

    def _dealt(self, requests: Sequence[Request | None], part: str, dealt: bool) -> list[Response]:
        deal, found, asked = self.deal, dict[int, Response](), list[int]()
        left = False
        for number, request in enumerate(requests):
            if request is None or (not dealt and deal.skips(self._key(request))):
                found[number], left = Response((), error=ELSEWHERE), True
                continue
            key = self._key(request)
            if not deal.open and (reply := self._said(key, request)) is not None:
                found[number] = reply
            elif deal.passed < deal.settled and (why := self.ledger.settled(key)):
                found[number] = self._noted(Response((), error=why), request)
            elif self._known(key, request) or deal.due():
                asked.append(number)
            else:
                found[number] = Response((), error=FAILED_BEFORE)
        batch = [one for number in asked if (one := requests[number]) is not None]
        for number, reply in zip(asked, self._ask_all(batch, part), strict=True):
            found[number] = reply
            if reply.error and deal.index is None and not deal.open:
                request = requests[number]
                assert request is not None
                self.ledger.settle(self._key(request), reply.error)
        if left and not dealt:
            raise PartDone
        return [found[number] for number in range(len(requests))]

    def _ask_all(self, requests: Sequence[Request], part: str) -> list[Response]:
        async def main() -> list[Response]:
            return list(await asyncio.gather(*(self.ask(request, part=part) for request in requests)))

        found: list[Response] = self.run(main()) if requests else []
        return found

    def _key(self, request: Request, attempt: int = 0) -> str:
        """What a request is known by in the ledger."""
        about = repr([request.task, dict(request.fields), _sampling(request)])
        return call_key(self.spec, dump_messages(request.messages), {"about": sha256_text(about)}, attempt)

    def _known(self, key: str, request: Request) -> bool:
        """Whether all of a request's samples are in the ledger."""
        return not missing(self.ledger.rows(key), request.n)

    def _said(self, key: str, request: Request) -> Response | None:
        """A reply that is kept elsewhere than among the calls."""
        return None

    def _noted(self, response: Response, request: Request) -> Response:
        self.ledger.note(response, known=True)
        return self._counted(request, response)

    def _rule(self, request: Request) -> Response:
        [response] = self.backend.generate([request])
        self.ledger.note_free(response)
        return self._counted(request, response)

    def _counted(self, request: Request, response: Response) -> Response:
        self.used.add(Spent(1, response.usage.prompt_tokens, response.usage.completion_tokens))
        self.inside = self.inside or begun_inside(response.completions)
        if request.usable is not None:
            self.ledger.weighed += 1
            self.ledger.useful += not response.error and any(map(request.usable, response.completions))
        return response

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


class RuleClient(LLMClient):
    """Rules in this process: a batch needs no event loop."""

    def generate(
        self, requests: Sequence[Request | None], *, part: str = "", dealt: bool = False
    ) -> list[Response]:
        if not self.deal.alone:
            return self._dealt(requests, part, dealt)
        return [self._rule(request) for request in requests if request]

    def _ask_all(self, requests: Sequence[Request], part: str) -> list[Response]:
        """What rules say is kept by the shard that asked them: so it has something to hand on, as others have."""
        found = [self._rule(request) for request in requests]
        if self.deal.open:
            self.ledger.keep_rules(
                (self._key(one), reply) for one, reply in zip(requests, found, strict=True) if not reply.error
            )
        return found

    def _known(self, key: str, request: Request) -> bool:
        """Rules cost nothing: whoever needs a reply of a pass that is whole asks them."""
        return self.deal.passed < self.deal.whole

    def _said(self, key: str, request: Request) -> Response | None:
        reply = self.ledger.rule(key)
        if reply is None:
            return None
        self.ledger.note_free(reply)
        return self._counted(request, reply)


@dataclass(eq=False)
class _Waiting:
    """A request that waits for a local model, and the rows of it that there are."""

    key: str
    request: Request
    part: str
    rows: list[Row]
    future: asyncio.Future[Response]

    @property
    def missing(self) -> tuple[int, ...]:
        """Numbers of the samples that no row has."""
        return tuple(
            n for first, count in missing(self.rows, self.request.n) for n in range(first, first + count)
        )

    def end(self, error: str = "", final: bool = False) -> None:
        """Answer whoever waits, with the samples that there are."""
        if not self.future.done():
            self.rows.sort(key=lambda row: row.sample)
            response = response_of(self.rows, self.request.n)
            self.future.set_result(replace(response, error=error, final=final))


class LocalClient(LLMClient):
    """A model in this process: it answers the calls that have gathered, in batches in a thread.

    Each padded batch is in the ledger as soon as it is decoded. The model's weights are part of what a reply is known
    by: those of a model that has been trained on since are not taken for its own.
    """

    def __init__(
        self,
        open_backend: Callable[[], LLM],
        ledger: CallLedger,
        spec: str,
        run: Run = asyncio.run,
        fingerprint: Callable[[], str] = str,
        told: Callable[[str], None] = lambda what: None,
    ) -> None:
        """`told` is called with `began` when the model is there and its work begins, and with `batch` after each."""
        super().__init__(open_backend, ledger, spec, run)
        self._told = told
        self._busy = 0
        self._fingerprint, self._name = fingerprint, ""
        self._waiting: list[_Waiting] = []
        self._worker: asyncio.Task[None] | None = None
        self._left = False
        """Whether nobody waits any more: the thread then ends after its present batch."""

    async def ask(self, request: Request, *, attempt: int = 0, part: str = "") -> Response:
        request = resampled(request, attempt)
        key = self._key(request, attempt)
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(key, request, part, self.ledger.rows(key), future)
        known = not waiting.missing
        if known:
            waiting.end()
        else:
            self._waiting.append(waiting)
            if self._worker is None or self._worker.done():
                self._worker = asyncio.create_task(self._work())
        response = await future
        self.ledger.note(response, known=known)
        return self._counted(request, response)

    def _key(self, request: Request, attempt: int = 0) -> str:
        if not self._name:
            self._name = f"{self.spec} {self._fingerprint()}".strip()
        return call_key(self._name, dump_messages(request.messages), _sampling(request), attempt)

    @property
    def busy(self) -> int:
        return self._busy

    async def _work(self) -> None:
        self._left = False
        while self._waiting:
            await self._gathered()
            batch = [one for one in self._waiting if not one.future.done()]
            self._waiting.clear()
            try:
                await self._answer(batch)
            except asyncio.CancelledError:
                raise
            except BaseException as bad:
                for one in batch:
                    if not one.future.done():
                        one.future.set_exception(bad)
            finally:  # a worker that is cancelled leaves nobody waiting
                self._busy = 0
                for one in batch:
                    one.future.cancel()

    async def _answer(self, batch: Sequence[_Waiting]) -> None:
        """Decode in a thread, and keep what it makes as it comes."""
        self._busy = len(batch)
        loop, backend = asyncio.get_running_loop(), self.backend
        self._told("began")
        asked = [(one.request, one.missing) for one in batch]
        came: asyncio.Queue[Made | BaseException | None] = asyncio.Queue()

        def decode() -> None:
            end: BaseException | None = None
            try:
                for made in _streamed(backend, asked):
                    loop.call_soon_threadsafe(came.put_nowait, made)
                    if self._left:
                        return
            except BaseException as bad:  # whoever waits has to be told, whatever it was
                end = bad
            if not self._left:
                loop.call_soon_threadsafe(came.put_nowait, end)

        thread = asyncio.ensure_future(asyncio.to_thread(decode))
        while (made := await came.get()) is not None:
            if isinstance(made, BaseException):
                raise made
            waiting = batch[made.number]
            open_still = not waiting.future.done()
            self._keep(waiting, made)
            self._busy -= open_still and waiting.future.done()  # counted down: a batch may be a whole step
            if made.ends:
                await asyncio.sleep(0)  # whoever waited for one of them counts it first
                self._told("batch")
        await thread

    def _keep(self, waiting: _Waiting, made: Made) -> None:
        """Put what was made into the ledger, and answer who waits once it is all there."""
        if made.error:
            waiting.end(made.error, made.final)
            return
        choices = tuple(
            (one.text, one.finish_reason, *([one.thought] if one.thought else [])) for one in made.completions
        )
        row = Row(made.sample, choices, made.usage.prompt_tokens, made.usage.completion_tokens)
        self.ledger.paid(waiting.key, row, self.spec, waiting.part)
        waiting.rows.append(row)
        if not waiting.missing:
            waiting.end()

    async def _gathered(self) -> None:
        """Wait until the tasks that can run have asked what they ask."""
        quiet, seen = 0, -1
        while quiet < QUIET:
            quiet = quiet + 1 if len(self._waiting) == seen else 0
            seen = len(self._waiting)
            await asyncio.sleep(0)

    async def leave(self) -> None:
        for one in self._waiting:
            one.future.cancel()
        self._waiting.clear()
        if self._worker is not None and not self._worker.done():
            self._left = True
            self._worker.cancel()


def _streamed(backend: Any, asked: Sequence[tuple[Request, tuple[int, ...]]]) -> Iterator[Made]:
    """What a backend makes of requests that lack some samples; all at once where it does not stream."""
    requests = [request for request, _ in asked]
    if getattr(backend, "stream", None):
        yield from backend.stream(requests, [samples for _, samples in asked])
        return
    responses = backend.generate(requests)
    odd = (
        [one for one in responses if not isinstance(one, Response)] if isinstance(responses, Sequence) else []
    )
    if odd or not isinstance(responses, Sequence) or len(responses) != len(requests):
        given = f"{len(responses)} replies" if isinstance(responses, Sequence) else type(responses).__name__
        given = f"a {type(odd[0]).__name__} as a reply" if odd else given
        raise PluginError(
            f"the text generator {type(backend).__name__}{loaded().whose(backend)} gave {given} for "
            f"{several(len(requests), 'request')}",
            hint="generate(requests) returns a list with one Response for each request, in order.",
        )
    for number, response in enumerate(responses):
        yield Made(number, 0, response.completions, response.usage, response.error, response.final)


@dataclass(eq=False)
class _Asked:
    """A request that a server is asked, and how many wait for it."""

    task: asyncio.Task[tuple[Response, str]]
    listeners: int = 0


class ServerClient(LLMClient):
    """A server: a request is answered from the ledger, or by as many calls as its samples need."""

    def __init__(
        self,
        open_backend: Callable[[], Any],
        ledger: CallLedger,
        spec: str,
        run: Run = asyncio.run,
        *,
        limiter: RateLimiter | None = None,
        tries: int = 5,
        backoff: Backoff = Backoff(),
    ) -> None:
        super().__init__(open_backend, ledger, spec, run)
        self._asking: dict[str, _Asked] = {}
        self.scheduler = Scheduler(
            lambda: self.backend,
            spec=spec,
            ledger=self.ledger,
            limiter=limiter or RateLimiter(),
            tries=tries,
            backoff=backoff,
        )

    async def ask(self, request: Request, *, attempt: int = 0, part: str = "") -> Response:
        request = resampled(request, attempt)
        messages = dump_messages(request.messages)
        key = self._key(request, attempt, messages)
        asked = self._asking.get(key)
        if asked is None:
            rows = self.ledger.rows(key)
            if not missing(rows, request.n):
                response = response_of(rows, request.n)
                self.ledger.note(response, known=True)
                return self._counted(request, response)
            if self.ledger.stopped:
                raise self.ledger.stopped
            task = asyncio.create_task(self._whole(key, request, messages, part, rows))
            asked = self._asking[key] = _Asked(task)
            task.add_done_callback(lambda done: self._forget(key, done))
        asked.listeners += 1
        try:
            response, reason = await asyncio.shield(asked.task)
        except asyncio.CancelledError:
            asked.listeners -= 1
            if not asked.listeners and not self.scheduler.flying[key]:
                # nobody wants it, and it costs nothing yet
                asked.task.cancel()
                self._forget(key, asked.task)
            raise
        self.ledger.note(response, reason=reason)
        return self._counted(request, response)

    def _key(self, request: Request, attempt: int = 0, messages: bytes | None = None) -> str:
        sender: Any = self.backend
        omitted = {"omit": sorted(sender.omit)} if sender.omit else {}
        parameters = {**parameters_of(request), **sender.extra, **omitted}
        return call_key(
            self.spec, dump_messages(request.messages) if messages is None else messages, parameters, attempt
        )

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
        while lacking := missing(rows, request.n, self.scheduler.most):
            ends = await asyncio.gather(
                *(self._samples(key, request, messages, part, *one, rows) for one in lacking)
            )
            if not self._wanted(key):
                self._asking.pop(key, None)  # who asks from now on asks anew, for what is not kept
                return response_of(rows, request.n), ""
            bad = next((end for end in ends if isinstance(end, Failed)), None)
            if bad is None:
                continue
            # Some servers refuse n > 1 instead of ignoring it: then a single sample gets through.
            several = bad.kind == FINAL and lacking[0][1] > 1 and not rows
            if several and isinstance(await self._samples(key, request, messages, part, 0, 1, rows), Good):
                self.scheduler.most = 1
                continue
            whole = ": ".join(text for text in (bad.reason, bad.detail) if text)
            response = response_of(rows, request.n)
            return replace(response, error=whole, final=bad.kind == FINAL), bad.reason
        return response_of(rows, request.n), ""

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
        end = await self.scheduler.call(
            key, request, messages, part, sample, count, lambda: self._wanted(key)
        )
        if isinstance(end, Good):
            rows.append(Row(sample, end.choices, end.prompt_tokens, end.completion_tokens))
            rows.sort(key=lambda row: row.sample)
        return end

    async def drain(self) -> None:
        await self.scheduler.drain()

    async def leave(self) -> None:
        await self.scheduler.leave()
        tasks = [asked.task for asked in self._asking.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._asking.clear()


class StandaloneServer(ChatServer):
    """A server for use without a step: `generate` asks a batch, with retries and without a ledger's file."""

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        """Replies to a batch, in order."""

        async def main() -> list[Response]:
            client = ServerClient(lambda: self, CallLedger(), f"{ENDPOINT}:{self.model}")
            try:
                return list(await asyncio.gather(*map(client.ask, requests)))
            finally:
                await self.aclose()

        return asyncio.run(main())


def open_server(model: str, options: Mapping[str, Any]) -> StandaloneServer:
    """Factory for `openai:MODEL`; see `lcx.llm.openai.open_openai`."""
    made = open_openai(model, options)
    return StandaloneServer(made.model, made.endpoint, options)


def batches_at_once(spec: str, batch: int, concurrency: int) -> int:
    """How many batches keep a server busy; one for a model of our own, which gains nothing from more."""
    return max(1, -(-2 * concurrency // batch)) if spec.startswith(f"{ENDPOINT}:") else 1


def resampled(request: Request, attempt: int) -> Request:
    """The request as an attempt sends it."""
    return replace(request, seed=(request.seed + _NEXT * attempt) % 2**31) if attempt else request


def missing(rows: Sequence[Row], n: int, most: int | None = None) -> list[tuple[int, int]]:
    """Runs of samples, as (first, count), that no row has; none longer than `most`, if given."""
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


def _sampling(request: Request) -> dict[str, Any]:
    return {
        "n": request.n,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_tokens": request.max_tokens,
        "stop": list(request.stop),
        "seed": request.seed,
    }


# -- the clients of a step


class Service:
    """Hands out clients for specs (`builtin`, `local:PATH`, `openai:MODEL`), one for each spec with its options.

    `folder` is the step's; replies are kept there, in `calls.sqlite`. The budget is for the step as a whole: what
    earlier runs of it paid for counts.
    """

    def __init__(
        self, folder: Path, settings: Serving, ctx: Context, *, backoff: Backoff = Backoff()
    ) -> None:
        self.folder, self.settings, self.ctx, self.backoff = folder, settings, ctx, backoff
        budget = Budget(settings.max_calls, settings.max_tokens, settings.max_cost)
        deal = ctx.deal
        own = folder if deal.folder is None else deal.folder
        known = None if deal.folder is None else folder
        self.ledger = CallLedger(own, budget, load_prices(settings.prices), known)
        self._held: dict[str, LLMClient] = {}
        self._runner: asyncio.Runner | None = None
        self._heard: set[tuple[str, str]] = set()
        self._begin()

    def check(self, spec: str, options: Mapping[str, Any]) -> None:
        """Say what is missing for a spec (a model, a key, a price) before anything is done. Raises typed errors."""
        lcx.llm.check_llm(spec, self.ctx.plugins)
        name, _, model = spec.partition(":")
        if name == ENDPOINT:
            open_openai(model, self._options(spec, options))
            check_priced(model, self.ledger.budget, self.ledger.prices)

    def client(self, spec: str, options: Mapping[str, Any] | None = None) -> LLMClient:
        """The client of a spec with its options; its first call opens the backend."""
        options = options or {}
        key = _key(spec, options)
        if key not in self._held:
            self._held[key] = self._make(spec, options)
            self._held[key].deal = self.ctx.deal
        return self._held[key]

    def _make(self, spec: str, options: Mapping[str, Any]) -> LLMClient:
        name, _, model = spec.partition(":")

        def open_backend() -> LLM:
            if name == LOCAL:
                self.ctx.ready_model(model)
            made = lcx.llm.open_llm(spec, self._options(spec, options), self.ctx.plugins)
            if isinstance(made, ChatServer):
                made.say = lambda text: self.ctx.log(f"    {text}")
            return made

        if name == RULES:
            return RuleClient(open_backend, self.ledger, spec, self.run)
        if name != ENDPOINT:
            return LocalClient(
                open_backend,
                self.ledger,
                spec,
                self.run,
                lambda: _fingerprint(spec, options),
                partial(self._told, spec),
            )
        check_priced(model, self.ledger.budget, self.ledger.prices)
        settings = self.settings
        return ServerClient(
            open_backend,
            self.ledger,
            spec,
            self.run,
            limiter=RateLimiter(settings.requests_per_minute, settings.tokens_per_minute),
            tries=settings.tries,
            backoff=self.backoff,
        )

    def _options(self, spec: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """A backend's options with what the settings say of it."""
        name = spec.partition(":")[0]
        if name == ENDPOINT:
            given = {key: getattr(self.settings, key) for key in SERVED}
            return {**{key: value for key, value in given.items() if value is not None}, **options}
        gpus = getattr(self.settings, "gpus", 1)
        several = {"gpus": gpus} if name == LOCAL and gpus > 1 else {}
        return {"device": self.ctx.device, **several, **options}

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine that asks clients, to its end, and tell progress.

        Where the budget is spent or a server fails the whole job, calls in flight are let end before the error is
        raised. Ctrl-C ends at once; every reply so far is kept.
        """
        if self._runner is None:
            self._runner = asyncio.Runner()
        try:
            return self._runner.run(self._watched(main))
        except KeyboardInterrupt:
            if self.ledger.spent.calls or self.ledger.own.calls:
                raise Stopped from None
            raise

    async def _watched(self, main: Coroutine[Any, Any, T]) -> T:
        ticker = asyncio.create_task(self._tick())
        try:
            return await main
        except LcxError:
            flying = self.ledger.in_flight.calls
            if flying:
                self.ctx.log(f"    waiting for {flying:,} calls in flight")
            spent = isinstance(self.ledger.stopped, BudgetSpent)
            await self._drain(None if spent else _PATIENCE)
            raise
        finally:
            ticker.cancel()
            for client in self._held.values():
                await client.leave()

    async def _drain(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                for client in self._held.values():
                    await client.drain()
        except TimeoutError:
            return

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            if self.ledger.done or self.ledger.in_flight.calls or self.ledger.own.calls or self._busy:
                self.ctx.pulse("    " + self.progress(working=True))

    @property
    def _busy(self) -> int:
        return sum(client.busy for client in self._held.values())

    def _told(self, spec: str, what: str) -> None:
        """What a model in this process tells: that it begins, and each padded batch. The first of each is a line."""
        if what == "began":
            self._begin()
        if (spec, what) in self._heard:
            self.ctx.pulse("    " + self.progress(working=True))
            return
        self._heard.add((spec, what))
        self.ctx.log(
            f"    {spec} answers, {self._busy:,} in work"
            if what == "began"
            else f"    {self.progress(working=True)}"
        )

    def _now(self) -> tuple[float, int, int]:
        """The time, and what was answered and made anew so far: speed counts from there on."""
        return time.monotonic(), self.ledger.done - self.ledger.known, self.ledger.fresh

    def _begin(self) -> None:
        """Count speed from now on."""
        self._mark = self._now()
        self._pace = Pace(self._mark[0], self._mark[1])

    def begin(self, requests: int) -> None:
        """Say that a part of the step begins, of so many requests: progress counts them, and tells the time left."""
        self.ledger.expected = self.ledger.done + self._share(requests)
        self._begin()

    def expect(self, requests: int) -> None:
        """Say that so many more requests will come: progress then tells the time left."""
        self.ledger.expected += self._share(requests)

    def _share(self, requests: int) -> int:
        """About how many of so many requests are this process's."""
        deal = self.ctx.deal
        return round(requests / deal.count) if deal.open else requests

    def progress(self, *, working: bool = False) -> str:
        """How far the calls are: calls, tokens, cost, failures, and the time left where the total is known.

        A total is an estimate where a reply decides what is asked next. While `working`, one that is reached says
        nothing, and is left out.
        """
        ledger = self.ledger
        known = ledger.done < ledger.expected or (ledger.done == ledger.expected and not working)
        total = f" of {ledger.expected:,}" if known and ledger.expected else ""
        spent = ledger.spent
        tokens = spent.tokens + ledger.own.tokens + ledger.free.tokens
        began, _, made = self._mark
        seconds = time.monotonic() - began
        parts = [f"{ledger.done:,}{total} calls"]
        if ledger.weighed:
            parts.append(f"{ledger.useful:,} usable")
        parts.append(f"{tokens:,} tokens")
        if ledger.fresh > made and seconds > 0:
            parts.append(f"{(ledger.fresh - made) / seconds:,.0f} new tokens/s")
        if spent.cost:
            parts.append(f"cost {spent.cost:.4g}")
        if ledger.in_flight.calls:
            parts.append(f"{ledger.in_flight.calls:,} in flight")
        if self._busy:
            parts.append(f"{self._busy:,} in work")
        for number, name in ((ledger.retries, "sent again"), (ledger.failed.total(), "failed")):
            if number:
                parts.append(f"{number:,} {name}")
        now, done, _ = self._now()
        self._pace.see(now, done)
        if (speed := self._pace.speed(now, done)) and (left := ledger.expected - ledger.done) > 0:
            parts.append(f"about {_duration(left / speed)} left")
        return ", ".join(parts)

    def counts(self) -> dict[str, int | float]:
        """Calls, tokens and cost over all runs of the step; what this process retried, found and failed at."""
        return self.ledger.counts()

    def said(self) -> list[str]:
        """What servers said of the calls that failed, a sentence for each reason."""
        return self.ledger.said()

    def close(self, *keep: tuple[str, Mapping[str, Any]]) -> None:
        """Close what is open, but for the given (spec, options), which are needed later."""
        stay = {_key(*one) for one in keep}
        for key in [key for key in self._held if key not in stay]:
            client = self._held.pop(key)
            backend = client._backend
            if isinstance(client, ServerClient) and backend is not None and self._runner is not None:
                self._runner.run(backend.aclose())  # type: ignore[attr-defined]
            client.close()
        if not keep:
            self.ledger.close()
            if self._runner is not None:
                self._runner.close()
                self._runner = None

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _fingerprint(spec: str, options: Mapping[str, Any]) -> str:
    """What a local model's replies follow from besides its name: its weights, and the options that change them."""
    from lcx.llm.local import weights_fingerprint

    name, _, model = spec.partition(":")
    told = {key: value for key, value in options.items() if key not in ("batch", "device", "gpus")}
    weights = weights_fingerprint(model) if name == LOCAL else ""
    return " ".join(filter(None, (weights, sha256_json(told)[:16] if told else "")))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _key(spec: str, options: Mapping[str, Any]) -> str:
    return sha256_json([spec, dict(options)])
