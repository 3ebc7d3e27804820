"""A model that is asked as a text generator: a server, `local:` in processes of its own, rules, a plugin's backend.

Requests go out ordered by context, so that a server's own prefix cache is hit. A prompt is one message of the user:
context first, question last. The first question on a context goes out alone, so that the server computes it once; the
others follow when it is answered, while few other contexts are open. Calls that wait are sent in the order of their
texts, so that one context's stay together. Journal, limits, retries and budget are those of every call to a server.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lcx.context import Context
from lcx.data.templates import Template, load_template
from lcx.data.tokens import FastTokenizer, SpanTokenizer, open_span_tokenizer
from lcx.errors import UsageError
from lcx.evaluation.model import ERROR, Answer, Answerer, ModelUnderTest, OnAnswer, Previous, ignore
from lcx.evaluation.samples import ContextPrompts, TokenCounter, fit
from lcx.evaluation.settings import ENDPOINT, EvalSettings
from lcx.evaluation.task import GREEDY, Sampling
from lcx.llm.builtin import ANSWERING, GUESSING
from lcx.llm.client import LOCAL, Service
from lcx.llm.judge import together
from lcx.llm.ledger import counting_rules
from lcx.llm.prompts import by_template
from lcx.llm.protocol import Request, Response
from lcx.llm.settings import Serving
from lcx.records import Bundle, EncodedBranch, EncodedBundle
from lcx.storage import sha256_text

__all__ = ["ServedModel", "ServerAnswerer", "cut_prompts", "open_endpoint"]


class ServedModel:
    """A model that is asked as a text generator: `openai:NAME`, `local:PATH`, rules, or a plugin's backend.

    It counts tokens by the tokenizer of a local model, else by one of ours: roughly where none is named.
    """

    def __init__(
        self,
        spec: str,
        settings: EvalSettings,
        service: Service,
        ctx: Context,
        *,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.spec, self.settings, self.ctx = spec, settings, ctx
        self.options = dict(settings.model_options if options is None else options)
        self.local = spec.startswith(f"{LOCAL}:")
        self._service = service  # one budget for all templates, and for judges
        if self.local and settings.chat != "auto":
            self.options = {"chat": settings.chat, **self.options}
        self._service.check(spec, self.options)
        self.window = settings.window
        self.tokenizer: SpanTokenizer = open_span_tokenizer(settings.tokenizer or "simple")
        if self.local:
            from lcx.modeling.load import load_config, load_tokenizer, set_rope, window

            path = ctx.ready_model(spec.removeprefix(f"{LOCAL}:"))
            self.tokenizer = FastTokenizer(load_tokenizer(path).backend_tokenizer, path)
            config = load_config(path)
            set_rope(config, None, self.options.get("rope") or {})
            self.window = settings.window or window(config)
        self._answerers: dict[tuple[str, Sampling], Answerer] = {}

    @property
    def weights(self) -> str:
        if not self.local:
            return self.spec
        from lcx.llm.local import weights_fingerprint

        return weights_fingerprint(self.spec.removeprefix(f"{LOCAL}:")) or self.spec

    def drawing(self, sampling: Sampling) -> ModelUnderTest:
        return self

    def rest(self) -> None:
        self._answerers.clear()

    def _ids(self, text: str) -> list[int]:
        """A number for each token of a text: equal texts have equal numbers."""
        return [zlib.crc32(text[start:end].encode()) for start, end in self.tokenizer.spans(text)]

    def _encode(self, template: Template, bundle: Bundle) -> EncodedBundle:
        context = bundle.context or ""
        head, between = (template.head, template.between) if context else (template.bare_head, "")
        prefix = self._ids(head + context) or [0]
        branches = []
        for branch in bundle.branches:
            ids = self._ids(between + branch.question + template.after)
            branches.append(EncodedBranch(ids, len(ids), branch.role))
        first = min(len(self._ids(head)), len(prefix))
        chunks = (len(prefix) - first,) if context else ()
        return EncodedBundle(
            bundle.id, np.array(prefix, np.int64), tuple(branches), head=first, chunks=chunks
        )

    def token_counter(self, template: Template) -> TokenCounter:
        return TokenCounter(self._ids, (), lambda bundle: self._encode(template, bundle), self.window)

    def encode(
        self, bundle: Bundle, template: Template, max_new_tokens: int, too_long: str
    ) -> ContextPrompts:
        whole = fit(bundle, self._encode(template, bundle), self.window, max_new_tokens, too_long)
        if not whole.cut or whole.encoded is None:
            return whole
        spans = self.tokenizer.spans(bundle.context or "")
        keep = max(2, len(spans) - whole.cut)
        left, right = (keep + 1) // 2, keep // 2
        text = bundle.context or ""
        short = replace(bundle, context=text[: spans[left - 1][1]] + text[spans[len(spans) - right][0] :])
        return ContextPrompts(short, self._encode(template, short), whole.cut)

    def answerer(self, template: Template, sampling: Sampling = GREEDY) -> Answerer:
        key = (template.hash, sampling)
        if key not in self._answerers:
            chat = {"chat": "never"} if self.local and not template.chat else {}
            self._answerers[key] = open_endpoint(
                self.spec,
                template,
                self.settings,
                self._service.folder,
                self.ctx,
                options={**chat, **self.options},
                service=self._service,
                sampling=sampling,
                seed=self.settings.seed,
            )
        return self._answerers[key]

    def answer_key(self, template: Template, max_new_tokens: int, sampling: Sampling = GREEDY) -> Any:
        drawn = [] if sampling == GREEDY else [vars(sampling), self.settings.seed]
        return [self.weights, template.hash, max_new_tokens, *drawn]

    def prompt(self, template: Template) -> dict[str, Any]:
        return {
            "template": template.name,
            "template_hash": template.hash,
            "chat": True,
            "chat_template": {"name": "the model's" if self.local else "the server's"},
        }

    def close(self) -> None:
        """The models are the step's, which closes them."""


# ---- answers

PART = "answers"
"""What the journal of calls says of them."""
ORDERED = "requests are ordered by context, so that the server's own prefix cache is hit"
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
    sampling: Sampling = GREEDY,
    seed: int = 0,
) -> Answerer:
    """An answerer for a text generator such as `openai:NAME` at `calling.base_url`; replies are journalled in
    `folder`/calls.sqlite.

    `options` are the backend's own. `context_text` gives the context of bundles that have a plan. `service` is
    one that is open already: several answerers then share its budget, and whoever opened it closes it. Raises
    MissingError or UsageError before any call where a key or URL is missing.
    """
    held = service or Service(Path(folder), calling, ctx)
    held.check(spec, options or {})
    text = context_text or _plain_context
    made = ServerAnswerer(spec, load_template(template), held, options or {}, text, sampling, seed)
    made.closes = service is None
    return made


def _plain_context(bundle: Bundle) -> str:
    if bundle.plan is not None:
        raise UsageError(
            f"bundle {bundle.id} is a plan of segments, and a server wants its text",
            hint="Evaluate a model of your own, or bundles that have their context's text.",
        )
    return bundle.context or ""


class ServerAnswerer:
    """Answers of a text generator: greedy ones (temperature 0), or samples."""

    name = "endpoint"
    reuse = True

    def __init__(
        self,
        spec: str,
        template: Template,
        service: Service,
        options: Mapping[str, Any],
        context_text: Callable[[Bundle], str],
        sampling: Sampling = GREEDY,
        seed: int = 0,
    ) -> None:
        self.spec, self.service, self.options = spec, service, dict(options)
        self.template, self._context_text = template, context_text
        self.sampling, self.seed = sampling, seed
        self.served = spec.startswith(ENDPOINT)
        self.reason = ORDERED if self.served else f"{spec.partition(':')[0]} is asked a question at a time"
        self.closes, self.chat = True, True
        self.failed: dict[str, int] = {}
        """Items without an answer, by reason."""
        self.cut: dict[str, Any] = {}
        """What `cut_prompts` found of the contexts asked last."""

    def answer(
        self, contexts: Sequence[ContextPrompts], *, max_new_tokens: int, on_answer: OnAnswer = ignore
    ) -> list[list[Answer]]:
        """The answers for each context in the order of its branches; a failed call is an answer with an `error`.

        A context that was dropped (`encoded` None and `cut` 0 after a length policy) has none. Raises LcxError for
        what every call would meet: a wrong key or address, a server that is gone, a spent budget.
        """
        asked = sorted(
            (number for number, prompts in enumerate(contexts) if prompts.encoded is not None),
            key=lambda number: (self._context_text(contexts[number].bundle), number),
        )
        self.service.expect(sum(len(contexts[number].bundle.branches) for number in asked))
        found: dict[tuple[int, int], Answer] = {}
        exchange = self.service.client(self.spec, self.options)
        reported: dict[int, int] = {}

        async def one(number: int, place: int) -> None:
            request = self.request(contexts[number].bundle, place, max_new_tokens)
            with counting_rules():
                response = await exchange.ask(request, part=PART)
                # Some servers leave out of their counts what a cache holds: a context's first question tells all.
                reported[number] = max(reported.get(number, 0), response.usage.prompt_tokens)
                answer = _read(response, self.sampling.samples, self._end)
                found[number, place] = answer
                on_answer(number, place, answer)

        if asked:
            if not self.served:  # a server's chat template is its own
                self.chat = bool(exchange.describe().get("chat_template", True))
            calls = self.service.settings.concurrency
            sizes = [(number, len(contexts[number].bundle.branches)) for number in asked]
            self.service.run(_by_context(sizes, one, calls) if self.served else _at_once(sizes, one, calls))
        exact = bool(getattr(self.service.settings, "tokenizer", None))
        counted = [(_counted(contexts[number]), tokens) for number, tokens in reported.items()]
        self.cut = cut_prompts(counted, exact=exact) if self.served else {}
        for answer in found.values():
            for sample in answer.samples:
                if sample.error:
                    self.failed[sample.error] = self.failed.get(sample.error, 0) + 1
        return [
            [
                found[number, place]
                for place in range(len(prompts.bundle.branches))
                if (number, place) in found
            ]
            for number, prompts in enumerate(contexts)
        ]

    @property
    def _end(self) -> str:
        return self.template.end.strip()

    def request(self, bundle: Bundle, place: int, max_new_tokens: int) -> Request:
        """The request for a branch: one message, the context first and the question last."""
        template, context = self.template, self._context_text(bundle)
        question = bundle.branches[place].question
        around = by_template(template, self.chat)
        if context:
            text = around(context, question)
        else:
            text = (
                template.bare_head + question + around("", "").removeprefix(template.head + template.between)
            )
        stop = (template.end,) if self._end and self.served else ()
        message = {"role": "user", "content": text}
        how = self.sampling
        fields = {"question": question, "context": (context,)}
        if how == GREEDY:
            return Request((message,), task=ANSWERING, fields=fields, max_tokens=max_new_tokens, stop=stop)
        about = sha256_text(f"{sha256_text(context)[:16]}\0{question}")[:24]
        return Request(
            (message,),
            task=ANSWERING,
            fields={**fields, "read": GUESSING} if how.temperature > 0 else fields,
            n=how.samples,
            temperature=how.temperature,
            top_p=how.top_p,
            max_tokens=max_new_tokens,
            stop=stop,
            seed=int(sha256_text(f"{self.seed}:{about}")[:8], 16) >> 1,
        )

    def describe(self) -> Mapping[str, Any]:
        found: dict[str, Any] = {"way": self.name, "reuse": self.reuse, "reason": self.reason}
        if self.failed:
            found["failed"] = dict(sorted(self.failed.items()))
        if self.cut:
            found["cut"], self.cut = self.cut, {}
        return {**found, "calls": self.service.counts()}

    def check(
        self,
        contexts: Sequence[ContextPrompts],
        k: int,
        seed: int,
        *,
        max_new_tokens: int,
        previous: Previous = None,
    ) -> dict[str, Any]:
        """Nothing: how a server computes is its own affair."""
        return {}

    def close(self) -> None:
        if self.closes:
            self.service.close()


SLACK = 0.8
"""Share of the tokens to be expected below which a server's count tells that a prompt was cut."""
LEAST_TOKENS = 0.5
"""Tokens of a server to one counted roughly (words and signs), at the least; where the tokenizer is named, 0.95."""


def cut_prompts(counted: Sequence[tuple[int, int]], *, exact: bool = False) -> dict[str, Any]:
    """What (tokens counted here, tokens that the server reports) of prompts say of a server that cuts them.

    The server's tokens to one of ours are those of its shortest prompts, for its tokenizer may be another; the longer
    ones are cut where it reports much fewer, or one number for prompts that differ. Empty where nothing was cut, or
    nothing is reported.
    """
    known = sorted(pair for pair in counted if pair[0] > 0 and pair[1] > 0)
    if not known:
        return {}
    short = [theirs / ours for ours, theirs in known if ours <= 1.5 * known[0][0]]
    share = max(sorted(short)[len(short) // 2], 0.95 if exact else LEAST_TOKENS)
    most = max(theirs for _, theirs in known)
    full = [ours for ours, theirs in known if theirs == most]
    same = (
        len(full) > 1 and max(full) > min(full) and (most % 256 in (0, 255) or max(full) > 1.05 * min(full))
    )
    cut = [
        (ours, theirs) for ours, theirs in known if theirs < SLACK * share * ours or (same and theirs == most)
    ]
    if not cut:
        return {}
    ours, theirs = max(cut)
    return {
        "prompts": len(cut),
        "of": len(known),
        "counted": ours,
        "reported": theirs,
        "warning": f"the server cut {len(cut)} of {len(known)} prompts: of about {ours:,} tokens it read {theirs:,}. "
        f"Give it a longer context (Ollama: num_ctx, or OLLAMA_CONTEXT_LENGTH; llama.cpp: -c; vLLM: --max-model-len), "
        f"or ask what fits: --set eval.window={theirs}",
    }


def _counted(prompts: ContextPrompts) -> int:
    """Tokens of a context's longest prompt, as they are counted here."""
    encoded = prompts.encoded
    return (
        0
        if encoded is None
        else len(encoded.prefix) + max((one.answer_start for one in encoded.branches), default=0)
    )


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
            await together([ask(number, place) for place in range(1, questions)])

    await together([context(*size) for size in sizes])


async def _at_once(
    sizes: Sequence[tuple[int, int]], one: Callable[[int, int], Coroutine[Any, Any, None]], calls: int
) -> None:
    """Ask every question of every (context, questions), so many at a time: a model here answers what has gathered."""
    ready = asyncio.Semaphore(calls)

    async def ask(number: int, place: int) -> None:
        async with ready:
            await one(number, place)

    await together([ask(number, place) for number, questions in sizes for place in range(questions)])


def _read(response: Response, samples: int = 1, end: str = "") -> Answer:
    """The answer in a reply with its further samples; what the template says ends an answer ends it."""
    found = []
    for one in response.completions[:samples]:
        if one.finish_reason != ERROR:
            text, ended, _ = one.text.partition(end) if end else (one.text, "", "")
            finish = "length" if one.finish_reason == "length" and not ended else "stop"
            tokens = response.usage.completion_tokens // samples
            found.append(Answer(text, finish, tokens, thought=one.thought))
    if samples == 1 and response.error:
        found = []
    lacking = response.error or ("fewer samples than asked for" if found else "the reply was empty")
    found += [Answer(None, ERROR, 0, error=lacking)] * (samples - len(found))
    return replace(found[0], more=tuple(found[1:]))
