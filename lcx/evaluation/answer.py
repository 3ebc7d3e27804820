"""Who answers the questions on contexts: a model in this process, or a server; and the self-check of answers.

A model in this process answers many questions against one copy of their context, where it can. The self-check
computes some answers again, each from its whole prompt. Sums in another order round otherwise. Where two tokens are
almost equally likely, that alone may turn the choice, and the rest of the answer with it: such a pair is counted as a
tie, by the logits of the full computation at the first token that differs. Anything else is a difference, and a
difference is a fault.

To a server, requests go out ordered by context, so that the server's own prefix cache is hit. A prompt is one message
of the user: context first, question last. The first question on a context goes out alone, so that the server computes
it once; the others follow when it is answered, while few other contexts are open. Calls that wait are sent in the
order of their texts, so that one context's stay together. Journal, limits, retries and budget are those of every call
to a server.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from lcx.context import Context
from lcx.data.templates import Template, load_template
from lcx.errors import UsageError
from lcx.evaluation.samples import ContextPrompts, subset
from lcx.evaluation.settings import ENDPOINT
from lcx.evaluation.task import GREEDY, Sampling
from lcx.llm.builtin import ANSWERING, GUESSING
from lcx.llm.client import Service
from lcx.llm.judge import together
from lcx.llm.prompts import by_template, is_thought_mark, opening_thought
from lcx.llm.protocol import Request, Response
from lcx.llm.settings import Serving
from lcx.records import Bundle
from lcx.storage import sha256_text

if TYPE_CHECKING:
    from lcx.modeling.decode import DecodeStrategy, Traced

__all__ = [
    "TIES",
    "Answer",
    "Answerer",
    "OnAnswer",
    "ServerAnswerer",
    "check_local",
    "cut_prompts",
    "ignore",
    "open_endpoint",
    "self_check",
    "verdict",
]

# ---- answers


@dataclass(frozen=True)
class Answer:
    """One answer. `finish` is `stop`, `length` (the limit of new tokens ended it) or `error`.

    `text` is None where `error` says why there is none. `tokens` counts the new tokens, the end token left out;
    `ids` are these, where a model in this process made them. `thought` is what a server handed out apart from the text;
    a model in this process has its thoughts in the text. `more` are the further samples of the same question.
    """

    text: str | None
    finish: str
    tokens: int
    ids: tuple[int, ...] = ()
    error: str = ""
    thought: str = ""
    more: tuple[Answer, ...] = ()

    @property
    def samples(self) -> tuple[Answer, ...]:
        """Every answer to the question."""
        return (self, *self.more)

    @property
    def whole(self) -> bool:
        """Whether every sample has its text."""
        return all(one.text is not None for one in self.samples)


OnAnswer = Callable[[int, int, Answer], None]
"""Called with each answer as it comes: the context's number, the branch's place in its bundle, the answer."""


def ignore(context: int, place: int, answer: Answer) -> None:
    """Default callback: ignores the answer."""


class Answerer(Protocol):
    """Answers every question on contexts, greedily."""

    name: str
    """How questions on one context are answered: `shared`, `copied`, `whole` or `endpoint`."""
    reuse: bool
    """Whether a context is computed once for all of its questions."""
    reason: str
    """Why that way was taken, in words."""

    def answer(
        self, contexts: Sequence[ContextPrompts], *, max_new_tokens: int, on_answer: OnAnswer = ignore
    ) -> list[list[Answer]]:
        """The answers for each context in the order of its branches; none for a context whose `encoded` is None.

        Hand over all contexts of a task at once: a server is then kept busy, and short contexts share batches.
        """
        ...

    def check(
        self,
        contexts: Sequence[ContextPrompts],
        k: int,
        seed: int,
        *,
        max_new_tokens: int,
        previous: Previous = None,
    ) -> dict[str, Any]:
        """`self_check` of this answerer; empty where there is nothing to check it against."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """What a result records: {"way", "reuse", "reason", ...}."""
        ...

    def close(self) -> None: ...


Previous = Sequence[Sequence[Answer | None]] | None
"""Answers of an earlier pass, which are to be checked. A None entry is answered again."""


# ---- a model in this process

TAIL = 32
"""Tokens at the end of a prompt among which a mark is that opens a thought."""
SHORT = 1024
"""Contexts with one question and at most so many tokens share padded batches: there is nothing else to share."""


def open_local(
    model: Any, tokenizer: Any, *, stops: Sequence[int], batch: int = 64, reuse: bool = True
) -> Answerer:
    """An answerer for a loaded model. `stops` are the tokens that end an answer, `batch` the rows at a time.

    `reuse=False` runs every prompt whole. The answerer's `reason` says which way was taken and why. Raises
    UsageError for an encoder-decoder.
    """
    from lcx.modeling.decode import pick_strategy

    if getattr(model.config, "is_encoder_decoder", False):
        raise UsageError(
            f"'{model.config.model_type}' is an encoder-decoder, not a causal language model",
            hint="--model takes a model that continues a text, such as Llama, Qwen or Mistral.",
        )
    return LocalAnswerer(model, tokenizer, sorted(set(stops)), batch, pick_strategy(model, reuse=reuse))


class LocalAnswerer:
    """Greedy answers of one model."""

    def __init__(
        self, model: Any, tokenizer: Any, stops: Sequence[int], batch: int, way: DecodeStrategy
    ) -> None:
        from lcx.modeling.decode import SHARED, WHOLE

        self.model, self.tokenizer = model, tokenizer
        self.stops, self.batch, self.way = list(stops), batch, way
        self.name, self.reason, self.reuse = way.name, way.reason, way.name != WHOLE
        self._padded = way.name in (SHARED, WHOLE)
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self.marks = frozenset(n for n, one in added.items() if one.special and is_thought_mark(str(one)))
        """Special tokens that tell thoughts from what is said: they stay in the text."""

    def answer(
        self, contexts: Sequence[ContextPrompts], *, max_new_tokens: int, on_answer: OnAnswer = ignore
    ) -> list[list[Answer]]:
        """The answers for each context in the order of its branches; none for a context whose `encoded` is None."""
        found: list[dict[int, Answer]] = [{} for _ in contexts]

        def note(number: int, place: int, ids: list[int]) -> None:
            found[number][place] = self._answer(ids, max_new_tokens, self._opened(contexts[number], place))
            on_answer(number, place, found[number][place])

        alone = [number for number, prompts in enumerate(contexts) if self._goes_whole(prompts)]
        if alone:
            self._whole(contexts, [(number, 0) for number in alone], max_new_tokens, note)
        for number, prompts in enumerate(contexts):
            if prompts.encoded is not None and not found[number]:
                self._context(number, prompts, max_new_tokens, note)
        return [[answers[place] for place in sorted(answers)] for answers in found]

    def describe(self) -> Mapping[str, Any]:
        return {"way": self.name, "reuse": self.reuse, "reason": self.reason}

    def check(
        self,
        contexts: Sequence[ContextPrompts],
        k: int,
        seed: int,
        *,
        max_new_tokens: int,
        previous: Previous = None,
    ) -> dict[str, Any]:
        return check_local(self, contexts, k, seed, max_new_tokens, previous)

    def close(self) -> None:
        """The model stays with whoever loaded it."""

    def _goes_whole(self, prompts: ContextPrompts) -> bool:
        encoded = prompts.encoded
        if encoded is None or encoded.positions is not None or len(encoded.branches) > 1:
            return False
        return self._padded and len(encoded.prefix) + encoded.branches[0].answer_start <= SHORT

    def _whole(
        self, contexts: Sequence[ContextPrompts], items: Sequence[tuple[int, int]], limit: int, note: Any
    ) -> None:
        """Items of any contexts in batches of whole prompts."""
        from lcx.modeling.decode import generate_rows

        generate_rows(
            self.model,
            [prompt_ids(contexts[number], place) for number, place in items],
            max_new_tokens=limit,
            eos_ids=self.stops,
            batch=self.batch,
            on_answer=lambda at, ids: note(*items[at], ids),
        )

    def _context(self, number: int, prompts: ContextPrompts, limit: int, note: Any) -> None:
        """All items of one context."""
        from lcx.modeling.decode import decode_branches

        encoded = prompts.encoded
        assert encoded is not None
        decode_branches(
            self.way,
            self.model,
            encoded.prefix,
            [branch.ids[: branch.answer_start] for branch in encoded.branches],
            max_new_tokens=limit,
            eos_ids=self.stops,
            batch=self.batch,
            positions=encoded.positions,
            on_answer=lambda place, ids: note(number, place, ids),
        )

    def _answer(self, ids: Sequence[int], limit: int, before: str = "") -> Answer:
        special = set(self.tokenizer.all_special_ids) - self.marks if self.marks.intersection(ids) else ()
        kept = [number for number in ids if number not in special]
        text = before + self.tokenizer.decode(kept, skip_special_tokens=not special)
        return Answer(text, "stop" if len(ids) < limit else "length", len(ids), tuple(ids))

    def _opened(self, prompts: ContextPrompts, place: int) -> str:
        """The mark of a thought that the chat template opens at the end of a prompt: the answer goes on in it."""
        if prompts.encoded is None or not getattr(self.tokenizer, "chat_template", None):
            return ""
        branch = prompts.encoded.branches[place]
        asked = branch.ids[: branch.answer_start]
        ids = [*map(int, prompts.encoded.prefix[-TAIL:]), *map(int, asked)][-TAIL:]
        return opening_thought(self.tokenizer.decode(ids))


def prompt_ids(prompts: ContextPrompts, place: int) -> list[int]:
    """The whole prompt of one item in tokens."""
    assert prompts.encoded is not None
    branch = prompts.encoded.branches[place]
    return [*np.asarray(prompts.encoded.prefix, dtype=np.int64).tolist(), *branch.ids[: branch.answer_start]]


# ---- self-check

TIES = {
    "torch.float64": 1e-9,
    "torch.float32": 3e-5,
    "torch.float16": 2.0**-8,
    "torch.bfloat16": 2.0**-5,
}
"""How near two logits are a tie, as a share of the largest of their step: some three times (fp32: ten times) what any
logit of a random Llama of 16 layers changed by when it was computed in another order. Deeper models round more.
"""


def self_check(
    answerer: Answerer,
    contexts: Sequence[ContextPrompts],
    k: int,
    seed: int,
    *,
    max_new_tokens: int,
    previous: Previous = None,
) -> dict[str, Any]:
    """Compare `k` answers with `model.generate` on their whole prompts, plain attention and no reuse.

    Returns {"checked", "equal", "ties", "different": [names], "tolerance", "warning"}: a tie is an answer whose
    first differing token was within `tolerance` of the other in the full computation's logits; `warning` says
    what a difference means and is absent where there is none. Empty where there is nothing to check against (`k`
    0, an endpoint, synthetic positions).
    """
    return (
        answerer.check(contexts, k, seed, max_new_tokens=max_new_tokens, previous=previous) if k > 0 else {}
    )


def check_local(
    answerer: LocalAnswerer,
    contexts: Sequence[ContextPrompts],
    k: int,
    seed: int,
    max_new_tokens: int,
    previous: Previous,
) -> dict[str, Any]:
    """`self_check` for a model in this process. Answers without their tokens are made again first."""
    from lcx.modeling.decode import trace

    items = _drawn(contexts, k, seed, previous)
    if not items:
        return {}
    ours = _known(answerer, contexts, items, max_new_tokens, previous)
    dtype = str(answerer.model.dtype)
    tolerance = TIES.get(dtype, TIES["torch.bfloat16"])
    counts = {"equal": 0, "ties": 0}
    different = []
    for number, place in items:
        traced = trace(
            answerer.model,
            prompt_ids(contexts[number], place),
            max_new_tokens=max_new_tokens,
            eos_ids=answerer.stops,
        )
        found = verdict(ours[number, place].ids, traced, answerer.stops, max_new_tokens, tolerance)
        if found == "different":
            different.append(f"{contexts[number].bundle.id}#{place}")
        else:
            counts[found] += 1
    result: dict[str, Any] = {
        "checked": len(items),
        **counts,
        "different": different,
        "tolerance": tolerance,
        "dtype": dtype.removeprefix("torch."),
    }
    if different:
        result["warning"] = (
            f"{len(different)} of {len(items)} answers are not what the model gives when it computes the whole "
            f"prompt ({', '.join(different)}): do not trust these results. --no-prefix-reuse answers without the "
            "shared context; please report the model and its versions."
        )
    return result


def verdict(
    ids: Sequence[int], traced: Traced, stops: Sequence[int], max_new_tokens: int, tolerance: float
) -> str:
    """`equal`, `ties` or `different`: an answer's tokens against those of the full computation.

    `ids` have no end token; an answer shorter than `max_new_tokens` took one there.
    """
    ends = frozenset(stops)
    for step, (token, logits) in enumerate(zip(traced.ids, traced.logits, strict=False)):
        if step < len(ids):
            if ids[step] in ends:  # it was to end the answer
                return "different"
            other = logits[ids[step]]
            same = ids[step] == token
        else:  # ours ended here
            if not ends or step >= max_new_tokens:
                return "different"
            other = max(logits[end] for end in ends)
            same = token in ends
        if not same:
            gap = float(logits[token] - other)
            return "ties" if gap <= tolerance * float(logits.abs().max()) else "different"
        if token in ends:
            return "equal"
    return "equal" if len(ids) == len(traced.ids) else "different"


def _drawn(
    contexts: Sequence[ContextPrompts], k: int, seed: int, previous: Previous
) -> list[tuple[int, int]]:
    """Items to check: (context, place), at most `k`, from as many contexts as there are."""
    rng = random.Random(seed)
    known = [
        [
            (number, place)
            for place in range(len(prompts.encoded.branches))
            if previous is None or place < len(previous[number])
        ]
        for number, prompts in enumerate(contexts)
        if prompts.encoded is not None and prompts.encoded.positions is None
    ]
    for places in known:
        rng.shuffle(places)
    rng.shuffle(known)
    rounds = (places[turn] for turn in range(k) for places in known if turn < len(places))
    return sorted(item for _, item in zip(range(k), rounds, strict=False))


def _known(
    answerer: LocalAnswerer,
    contexts: Sequence[ContextPrompts],
    items: Sequence[tuple[int, int]],
    limit: int,
    previous: Previous,
) -> dict[tuple[int, int], Answer]:
    """The answers to the items, from those previous where they have their tokens, else made again together."""
    found: dict[tuple[int, int], Answer] = {}
    for number, place in items:
        one = previous[number][place] if previous is not None else None
        if one is not None and (one.ids or not one.tokens):
            found[number, place] = one
    missing: dict[int, list[int]] = {}
    for number, place in items:
        if (number, place) not in found:
            missing.setdefault(number, []).append(place)
    again = [subset(contexts[number], places) for number, places in missing.items()]
    made = answerer.answer(again, max_new_tokens=limit)
    for (number, places), answers in zip(missing.items(), made, strict=True):
        for place, answer in zip(places, answers, strict=True):
            found[number, place] = answer
    return found


# ---- a server

ERROR = "error"
"""The finish of an item whose call failed; the next run asks it again."""
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
            response = await exchange.ask(request, part=PART)
            # Some servers leave out of their counts what they hold in a cache: a context's first question tells all.
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
