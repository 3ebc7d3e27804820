"""A server answers: requests go out ordered by context, so that the server's own prefix cache is hit.

A prompt is one message of the user: context first, question last. The first question on a context goes out alone,
so that the server computes it once; the others follow when it is answered, while few other contexts are open. Calls
that wait are sent in the order of their texts (`lcx.llm.scheduler`), so that one context's stay together. Journal,
limits, retries and budget are those of every call to a server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from lcx.context import Context
from lcx.data.templates import Template, load_template
from lcx.errors import UsageError
from lcx.evaluation.answering.answers import Answer, Answerer, Given, Told, untold
from lcx.evaluation.jobs import Job
from lcx.llm.client import Service
from lcx.llm.prompts import by_template
from lcx.llm.protocol import Request, Response
from lcx.llm.settings import Serving
from lcx.records import Bundle

__all__ = ["Endpoint", "open_endpoint"]

ERROR = "error"
"""The finish of an item whose call failed; the next run asks it again."""
PART = "answers"
"""What the journal of calls says of them."""
CALLS_A_CONTEXT = 16
"""So many calls in flight a context is open: a server keeps few long ones."""
MOST_OPEN = 4
AHEAD = 4
"""Questions that are ready for each call in flight: prompts are long, and 800 of them need not be in memory."""


def open_endpoint(
    spec: str,
    template: str | Path | Template,
    calling: Serving,
    folder: Path,
    ctx: Context,
    *,
    options: Mapping[str, Any] | None = None,
    context_text: Callable[[Bundle], str] | None = None,
    service: Service | None = None,
) -> Answerer:
    """An answerer for `openai:NAME` at `calling.base_url`; replies are journalled in `folder`/calls.sqlite.

    `options` are the backend's own. `context_text` gives the context of bundles that have a plan. `service` is
    one that is open already: several answerers then share its budget, and whoever opened it closes it. Raises
    MissingError or UsageError before any call where a key or URL is missing.
    """
    held = service or Service(Path(folder), calling, ctx)
    held.check(spec, options or {})
    made = Endpoint(spec, load_template(template), held, options or {}, context_text or _plain_context)
    made.closes = service is None
    return made


def _plain_context(bundle: Bundle) -> str:
    if bundle.plan is not None:
        raise UsageError(
            f"bundle {bundle.id} is a plan of segments, and a server wants its text",
            hint="Evaluate a model of your own, or bundles that have their context's text.",
        )
    return bundle.context or ""


class Endpoint:
    """Greedy answers of a model behind a server (temperature 0)."""

    name = "endpoint"
    reuse = True
    reason = "requests are ordered by context, so that the server's own prefix cache is hit"

    def __init__(
        self,
        spec: str,
        template: Template,
        service: Service,
        options: Mapping[str, Any],
        context_text: Callable[[Bundle], str],
    ) -> None:
        self.spec, self.service, self.options = spec, service, dict(options)
        self.template, self._context_text = template, context_text
        self.closes = True
        self.failed: dict[str, int] = {}
        """Items without an answer, by reason."""

    def answer(
        self, jobs: Sequence[Job], *, max_new_tokens: int, on_answer: Told = untold
    ) -> list[list[Answer]]:
        """The answers of each job in the order of its branches; a failed call is an answer with an `error`.

        A job that was dropped (`encoded` None and `cut` 0 after a length policy) has none. Raises LcxError for
        what every call would meet: a wrong key or address, a server that is gone, a spent budget.
        """
        asked = sorted(
            (number for number, job in enumerate(jobs) if job.encoded is not None),
            key=lambda number: (self._context_text(jobs[number].bundle), number),
        )
        self.service.expect(sum(len(jobs[number].bundle.branches) for number in asked))
        found: dict[tuple[int, int], Answer] = {}
        exchange = self.service.client(self.spec, self.options)

        async def one(number: int, place: int) -> None:
            request = self.request(jobs[number].bundle, place, max_new_tokens)
            answer = _read(await exchange.ask(request, part=PART))
            found[number, place] = answer
            on_answer(number, place, answer)

        if asked:
            calls = self.service.settings.concurrency
            sizes = [(number, len(jobs[number].bundle.branches)) for number in asked]
            self.service.run(_by_context(sizes, one, calls))
        for answer in found.values():
            if answer.error:
                self.failed[answer.error] = self.failed.get(answer.error, 0) + 1
        return [
            [found[number, place] for place in range(len(job.bundle.branches)) if (number, place) in found]
            for number, job in enumerate(jobs)
        ]

    def request(self, bundle: Bundle, place: int, max_new_tokens: int) -> Request:
        """The request for a branch: one message, the context first and the question last."""
        template, context = self.template, self._context_text(bundle)
        question = bundle.branches[place].question
        if context:
            text = by_template(template, chat=True)(context, question)
        else:
            text = template.bare_head + question + template.after
        stop = (template.end,) if template.end.strip() else ()
        message = {"role": "user", "content": text}
        return Request((message,), task=PART, max_tokens=max_new_tokens, stop=stop)

    def describe(self) -> Mapping[str, Any]:
        found: dict[str, Any] = {"way": self.name, "reuse": self.reuse, "reason": self.reason}
        if self.failed:
            found["failed"] = dict(sorted(self.failed.items()))
        return {**found, "calls": self.service.counts()}

    def check(
        self, jobs: Sequence[Job], k: int, seed: int, *, max_new_tokens: int, given: Given = None
    ) -> dict[str, Any]:
        """Nothing: how a server computes is its own affair."""
        return {}

    def close(self) -> None:
        if self.closes:
            self.service.close()


async def _by_context(
    sizes: Sequence[tuple[int, int]], one: Callable[[int, int], Coroutine[Any, Any, None]], calls: int
) -> None:
    """Ask every question of every (context, questions): of each the first alone, then the others.

    The first error of ours ends the rest.
    """
    opened = asyncio.Semaphore(max(1, min(MOST_OPEN, calls // CALLS_A_CONTEXT)))
    ready = asyncio.Semaphore(AHEAD * calls)

    async def ask(number: int, place: int) -> None:
        async with ready:
            await one(number, place)

    async def context(number: int, questions: int) -> None:
        if questions == 1:
            await ask(number, 0)
            return
        async with opened:
            await ask(number, 0)
            await _all([ask(number, place) for place in range(1, questions)])

    await _all([context(*size) for size in sizes])


async def _all(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _read(response: Response) -> Answer:
    if response.error or not response.completions:
        return Answer(None, ERROR, 0, error=response.error or "the reply was empty")
    finish = response.completions[0].finish_reason
    known = finish if finish in ("stop", "length") else "stop"
    return Answer(response.text, known, response.usage.completion_tokens)
