"""A model that this process loads: its prompts in tokens, its greedy answers, and the self-check of these.

Many questions are answered against one copy of their context, where the model can. The self-check computes some
answers again, each from its whole prompt. Sums in another order round otherwise. Where two tokens are almost equally
likely, that alone may turn the choice, and the rest of the answer with it: such a pair is counted as a tie, by the
logits of the full computation at the first token that differs. Anything else is a difference, and a difference is a
fault.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lcx.context import Context
from lcx.data.templates import Template, without_chat
from lcx.errors import UsageError
from lcx.evaluation.model import Answer, Answerer, ModelUnderTest, OnAnswer, Previous, ignore
from lcx.evaluation.samples import ContextPrompts, TokenCounter, encode, fit, stop_ids, subset
from lcx.evaluation.served_model import ServedModel
from lcx.evaluation.settings import EvalSettings
from lcx.evaluation.task import GREEDY, Sampling
from lcx.llm.client import LOCAL, Service
from lcx.llm.prompts import is_thought_mark, opening_thought
from lcx.records import Bundle
from lcx.storage import sha256_text

if TYPE_CHECKING:
    from lcx.data.assembly import Assembler
    from lcx.modeling.decode import DecodeStrategy, Traced

__all__ = ["TIES", "LocalAnswerer", "LocalModel", "check_local", "open_local", "verdict"]


class LocalModel:
    """A model that this process loads. `spec` is a folder or a hub id; the tiny model is ready by then."""

    def __init__(
        self, spec: str, settings: EvalSettings, ctx: Context, service: Callable[[], Service] | None = None
    ) -> None:
        """`service` opens the step's text generators, by which samples are drawn."""
        from lcx.modeling.load import load_config, load_tokenizer, set_rope

        self.spec, self.settings, self.ctx, self._service = spec, settings, ctx, service
        self.tokenizer = load_tokenizer(settings.tokenizer or spec)
        config = load_config(spec)
        set_rope(config, None, settings.rope)
        self.window = settings.window or getattr(config, "max_position_embeddings", None)
        self._model: Any = None
        self._weights = ""
        self._drawing: ServedModel | None = None
        self._assemblers: dict[str, Assembler] = {}
        self._answerers: dict[str, Answerer] = {}

    @classmethod
    def of(cls, model: Any, tokenizer: Any, settings: EvalSettings, ctx: Context) -> LocalModel:
        """A model that is loaded already."""
        made = cls.__new__(cls)
        made.spec, made.settings, made.ctx, made._service = settings.model or "model", settings, ctx, None
        made.tokenizer, made._model, made._weights = tokenizer, model, ""
        made.window = settings.window or getattr(model.config, "max_position_embeddings", None)
        made._assemblers, made._answerers, made._drawing = {}, {}, None
        return made

    @property
    def model(self) -> Any:
        if self._model is None:
            from lcx.modeling.load import load_model

            settings = self.settings
            self.ctx.log(f"loading {self.spec}")
            self._model = load_model(
                self.spec,
                dtype=settings.precision,
                rope=settings.rope,
                device=self.ctx.device,
                told=self.ctx.log,
            )
        return self._model

    @property
    def weights(self) -> str:
        if not self._weights and self._model is None and self._drawing is not None:
            self._weights = self._drawing.weights  # by its files: it is not loaded to be named
        if not self._weights:
            from lcx.modeling.load import digest_of_weights

            self._weights = digest_of_weights(self.model)
        return self._weights

    def drawing(self, sampling: Sampling) -> ModelUnderTest:
        if sampling == GREEDY:
            return self
        assert self._service is not None
        self.rest()
        if self._drawing is None:
            settings = self.settings
            how: dict[str, Any] = {} if settings.precision == "auto" else {"precision": settings.precision}
            if settings.rope:  # samples come from the model that answers greedily, too
                how["rope"] = settings.rope
            options = {"batch": settings.batch, **how, **settings.model_options}
            spec = f"{LOCAL}:{self.spec}"
            self._drawing = ServedModel(spec, self.settings, self._service(), self.ctx, options=options)
        return self._drawing

    def rest(self) -> None:
        if self._model is not None and self._service is not None:
            _ = self.weights  # are told in the result
            self._model = None
            self._answerers.clear()
            _free()

    def assembler(self, template: Template) -> Assembler:
        """The encoder of bundles under a template."""
        if template.hash not in self._assemblers:
            from lcx.data.assembly import Assembler

            if self.settings.chat == "always" and not getattr(self.tokenizer, "chat_template", None):
                raise UsageError(
                    "chat: always, but the tokenizer has no chat template", hint="Set chat to auto or never."
                )
            chosen = without_chat(template) if self.settings.chat == "never" else template
            self._assemblers[template.hash] = Assembler(self.tokenizer, chosen)
        return self._assemblers[template.hash]

    def token_counter(self, template: Template) -> TokenCounter:
        tokenizer = self.tokenizer

        def tokenize(text: str) -> list[int]:
            # A long text is no mistake here: not verbose. A special token's name in a text stays text.
            found = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
            return list(found["input_ids"])

        bos = getattr(tokenizer, "bos_token_id", None)
        opens = bos is not None and list(tokenizer("a")["input_ids"])[:1] == [bos]
        opening = (int(bos),) if opens and bos is not None else ()
        assembler = self.assembler(template)
        return TokenCounter(tokenize, opening, lambda bundle: encode(assembler, bundle), self.window)

    def encode(
        self, bundle: Bundle, template: Template, max_new_tokens: int, too_long: str
    ) -> ContextPrompts:
        from lcx.data.assembly import check_bundle

        encoded = encode(self.assembler(template), bundle)
        check_bundle(encoded, self.model.config, self.settings.model or "")
        return fit(bundle, encoded, self.window, max_new_tokens, too_long)

    def stops(self, template: Template) -> list[int]:
        """Tokens that end an answer under a template."""
        return sorted(stop_ids(self.model, self.tokenizer, template.end))

    def answerer(self, template: Template, sampling: Sampling = GREEDY) -> Answerer:
        assert sampling == GREEDY  # else `drawing` answers
        if template.hash not in self._answerers:
            settings = self.settings
            self._answerers[template.hash] = open_local(
                self.model,
                self.tokenizer,
                stops=self.stops(template),
                batch=settings.batch,
                reuse=settings.reuse,
            )
        return self._answerers[template.hash]

    def answer_key(self, template: Template, max_new_tokens: int, sampling: Sampling = GREEDY) -> Any:
        return [self.weights, self.stops(template), max_new_tokens, self.settings.reuse]

    def prompt(self, template: Template) -> dict[str, Any]:
        assembler = self.assembler(template)
        info = dict(assembler.info)
        written = getattr(self.tokenizer, "chat_template", None)
        named = {"name": getattr(self.tokenizer, "name_or_path", "") or self.spec} if written else {}
        hashed = {"hash": sha256_text(str(written))[:16]} if written else {}
        return info | {"chat_template": {**named, **hashed} if assembler.chat else None}

    def close(self) -> None:
        for answerer in self._answerers.values():
            answerer.close()


def _free() -> None:
    """Give back the memory of a model that was let go."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# ---- answers

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
