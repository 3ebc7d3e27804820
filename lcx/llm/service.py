"""The text generators of one step: each opened once, with a journal, limits, a budget and progress for all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import lcx.llm
from lcx.context import Context, Stopped
from lcx.errors import LcxError
from lcx.llm.calling import Serving
from lcx.llm.desk import Desk
from lcx.llm.exchange import Batched, Exchange
from lcx.llm.posting import Posting
from lcx.llm.prices import load_prices
from lcx.llm.protocol import LLM
from lcx.work.budget import Budget, BudgetSpent, check_priced
from lcx.work.files import sha256_json
from lcx.work.limits import Pace
from lcx.work.retry import Backoff

T = TypeVar("T")
ENDPOINT, RULES, LOCAL = "openai", "builtin", "local"
SERVED = ("base_url", "api_key_env", "api_key_file", "concurrency", "timeout")
"""Settings that a server's backend takes as options; a backend's own options go first."""
_TICK = 1.0
_PATIENCE = 30.0
"""Seconds that calls in flight get to end in, where something else than the budget ended the step."""


class Service:
    """Hands out exchanges for specs (`builtin`, `local:PATH`, `openai:MODEL`), one for each spec with its options.

    `folder` is the step's; its calls are journalled there, in `calls.sqlite`. The budget is for the step as a whole:
    what earlier runs of it paid for counts.
    """

    def __init__(
        self, folder: Path, settings: Serving, ctx: Context, *, backoff: Backoff = Backoff()
    ) -> None:
        self.folder, self.settings, self.ctx, self.backoff = folder, settings, ctx, backoff
        budget = Budget(settings.max_calls, settings.max_tokens, settings.max_cost)
        self.desk = Desk(folder, budget, load_prices(settings.prices))
        self._held: dict[str, Exchange] = {}
        self._runner: asyncio.Runner | None = None
        self._began = time.monotonic()

    def check(self, spec: str, options: Mapping[str, Any]) -> None:
        """Say what is missing for a spec (a model, a key, a price) before anything is done. Raises typed errors."""
        lcx.llm.check_llm(spec, self.ctx.plugins)
        name, _, model = spec.partition(":")
        if name == ENDPOINT:
            from lcx.llm.openai import open_openai

            open_openai(model, self._options(spec, options))
            check_priced(model, self.desk.budget, self.desk.prices)

    def opener(self, spec: str, options: Mapping[str, Any]) -> Callable[[], LLM]:
        """A function that opens a backend, or hands out the one that is open already."""

        def get() -> LLM:
            exchange = self.exchange(spec, options)
            _ = exchange.backend
            return exchange

        return get

    def exchange(self, spec: str, options: Mapping[str, Any]) -> Exchange:
        """The backend for asynchronous calls; its first use opens it."""
        key = _key(spec, options)
        if key not in self._held:
            self._held[key] = self._make(spec, options)
        return self._held[key]

    def _make(self, spec: str, options: Mapping[str, Any]) -> Exchange:
        name, _, model = spec.partition(":")

        def open_backend() -> LLM:
            if name == LOCAL:
                self.ctx.ready_model(model)
            return lcx.llm.open_llm(spec, self._options(spec, options), self.ctx.plugins)

        if name == RULES:
            return Exchange(open_backend, self.desk)
        if name != ENDPOINT:
            return Batched(open_backend, self.desk, f"{spec} {dict(options)}" if options else spec)
        check_priced(model, self.desk.budget, self.desk.prices)
        settings = self.settings
        return Posting(
            open_backend,
            spec=spec,
            desk=self.desk,
            pace=Pace(settings.requests_per_minute, settings.tokens_per_minute),
            tries=settings.tries,
            backoff=self.backoff,
            run=self.run,
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
        """Run a coroutine that asks exchanges, to its end, and tell progress.

        Where the budget is spent or a server fails the whole job, calls in flight are let end before the error is
        raised. Ctrl-C ends at once; every reply so far is kept.
        """
        if self._runner is None:
            self._runner = asyncio.Runner()
        try:
            return self._runner.run(self._watched(main))
        except KeyboardInterrupt:
            if self.desk.spent.calls:
                raise Stopped from None
            raise

    async def _watched(self, main: Coroutine[Any, Any, T]) -> T:
        ticker = asyncio.create_task(self._tick())
        try:
            return await main
        except LcxError:
            flying = self.desk.in_flight.calls
            if flying:
                self.ctx.log(f"    waiting for {flying:,} calls in flight")
            spent = isinstance(self.desk.stopped, BudgetSpent)
            await self._drain(None if spent else _PATIENCE)
            raise
        finally:
            ticker.cancel()
            for exchange in self._held.values():
                await exchange.leave()

    async def _drain(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                for exchange in self._held.values():
                    await exchange.drain()
        except TimeoutError:
            return

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            if self.desk.done or self.desk.in_flight.calls:
                self.ctx.pulse("    " + self.progress())

    def expect(self, requests: int) -> None:
        """Say that so many more requests will come: progress then tells the time left."""
        self.desk.expected += requests

    def progress(self) -> str:
        """How far the calls are: calls, tokens, cost, failures, and the time left where the total is known."""
        desk = self.desk
        total = f" of {max(desk.expected, desk.done):,}" if desk.expected else ""
        spent = desk.spent
        tokens = spent.tokens + desk.own.tokens + desk.free.tokens
        parts = [f"{desk.done:,}{total} calls", f"{tokens:,} tokens"]
        if spent.cost:
            parts.append(f"cost {spent.cost:.4g}")
        if desk.in_flight.calls:
            parts.append(f"{desk.in_flight.calls:,} in flight")
        for number, name in ((desk.retries, "sent again"), (desk.failed.total(), "failed")):
            if number:
                parts.append(f"{number:,} {name}")
        new, left = desk.done - desk.known, desk.expected - desk.done
        if new and left > 0:
            parts.append(f"about {_duration((time.monotonic() - self._began) / new * left)} left")
        return ", ".join(parts)

    def counts(self) -> dict[str, int | float]:
        """Calls, tokens and cost over all runs of the step; what this process retried, found and failed at."""
        return self.desk.counts()

    def close(self, *keep: tuple[str, Mapping[str, Any]]) -> None:
        """Close what is open, but for the given (spec, options), which are needed later."""
        stay = {_key(*one) for one in keep}
        for key in [key for key in self._held if key not in stay]:
            exchange = self._held.pop(key)
            backend = exchange._backend
            if isinstance(exchange, Posting) and backend is not None and self._runner is not None:
                self._runner.run(backend.aclose())  # type: ignore[attr-defined]
            exchange.close()
        if not keep:
            self.desk.close()
            if self._runner is not None:
                self._runner.close()
                self._runner = None

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _key(spec: str, options: Mapping[str, Any]) -> str:
    return sha256_json([spec, dict(options)])
