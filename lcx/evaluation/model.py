"""The model under evaluation: one in this process, any text generator, or saved answers. Weights are loaded when first
needed.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from lcx.context import Context
from lcx.data.files import strict_rows
from lcx.data.templates import Template, without_chat
from lcx.data.tokens import FastTokenizer, SpanTokenizer, open_span_tokenizer
from lcx.errors import MissingError, UsageError
from lcx.evaluation.answer import (
    ERROR,
    Answer,
    Answerer,
    OnAnswer,
    Previous,
    ignore,
    open_endpoint,
    open_local,
)
from lcx.evaluation.samples import ContextPrompts, TokenCounter, encode, fit, stop_ids
from lcx.evaluation.settings import EvalSettings
from lcx.evaluation.task import GREEDY, Sampling
from lcx.llm.client import LOCAL, Service
from lcx.records import Branch, Bundle, EncodedBranch, EncodedBundle
from lcx.storage import sha256_json, sha256_text

if TYPE_CHECKING:
    from lcx.data.assembly import Assembler

__all__ = ["LocalModel", "ModelUnderTest", "SavedAnswers", "ServedModel", "read_answers"]


class ModelUnderTest(Protocol):
    """A model under evaluation. `window` is in tokens, None where nobody said."""

    window: int | None
    ctx: Context

    @property
    def weights(self) -> str:
        """What identifies the model: a digest of its weights, or who serves it."""
        ...

    def token_counter(self, template: Template) -> TokenCounter: ...

    def encode(
        self, bundle: Bundle, template: Template, max_new_tokens: int, too_long: str
    ) -> ContextPrompts:
        """The bundle in tokens, brought down to the window. Raises UsageError as `contexts.fit` does."""
        ...

    def answerer(self, template: Template, sampling: Sampling = GREEDY) -> Answerer:
        """Who answers; it is opened once for each template and way of drawing."""
        ...

    def answer_key(self, template: Template, max_new_tokens: int, sampling: Sampling = GREEDY) -> Any:
        """Cache key of an answer besides its prompt, as JSON: weights, stop strings and limits."""
        ...

    def drawing(self, sampling: Sampling) -> ModelUnderTest:
        """What answers where samples are drawn so: another way to ask the same model, or this one."""
        ...

    def rest(self) -> None:
        """Let go of what takes memory; what is asked later loads it again."""
        ...

    def prompt(self, template: Template) -> dict[str, Any]:
        """What a result records about the prompt: template, hash, and the chat template around it."""
        ...

    def close(self) -> None: ...


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
                self.spec, dtype=settings.precision, rope=settings.rope, device=self.ctx.device
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
            options = {"batch": self.settings.batch, **self.settings.model_options}
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
            from lcx.modeling.load import load_config, load_tokenizer, window

            path = ctx.ready_model(spec.removeprefix(f"{LOCAL}:"))
            self.tokenizer = FastTokenizer(load_tokenizer(path).backend_tokenizer, path)
            self.window = settings.window or window(load_config(path))
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


NO_ANSWER = "the saved answers have none"
QUESTIONS = ("query", "question", "input", "instruction")
SAID = ("answer", "pred", "prediction", "response")


def read_answers(path: str) -> dict[str, str]:
    """Saved answers by id and by question (of several the first counts). Raises MissingError, UsageError.

    An answer that is null is an empty one.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise MissingError(f"no file '{path}' of saved answers", hint="--set eval.answers=FILE.jsonl")
    found: dict[str, str] = {}
    for number, row in enumerate(strict_rows(file), 1):
        names = [str(row[key]) for key in ("_id", "id") if row.get(key) is not None]
        asked = (row.get(key) for key in QUESTIONS)
        question = next((text.strip() for text in asked if isinstance(text, str) and text.strip()), "")
        names += [f"question:{question}"] if question else []
        fields = [key for key in SAID if key in row]
        if not names or not fields:
            raise UsageError(
                f"{file}, row {number}: a saved answer needs id (or question) and answer",
                why=f"The row has {', '.join(map(str, row))}.",
            )
        for name in names:
            found.setdefault(name, str(row[fields[0]] or ""))
    return found


class SavedAnswers:
    """Answers of a file in place of a model's; without a path there are none. Raises as `read_answers`."""

    window: int | None = None
    name, reuse, reason = "saved", False, "answers are read from a file"

    def __init__(self, path: str, ctx: Context) -> None:
        self.path, self.ctx, self.known = path, ctx, read_answers(path) if path else {}

    @property
    def weights(self) -> str:
        return f"answers of {self.path} {sha256_json(self.known)[:16]}" if self.path else "none"

    def token_counter(self, template: Template) -> TokenCounter:
        raise UsageError("saved answers are to questions that a file gives", hint="--set eval.data.TASK=FILE")

    def encode(
        self, bundle: Bundle, template: Template, max_new_tokens: int, too_long: str
    ) -> ContextPrompts:
        asked = tuple(EncodedBranch([0], 1, branch.role) for branch in bundle.branches)
        return ContextPrompts(bundle, EncodedBundle(bundle.id, np.zeros(1, np.int64), asked), 0)

    def drawing(self, sampling: Sampling) -> ModelUnderTest:
        return self

    def rest(self) -> None:
        """A file takes no memory worth saving."""

    def answerer(self, template: Template, sampling: Sampling = GREEDY) -> Answerer:
        return self

    def answer_key(self, template: Template, max_new_tokens: int, sampling: Sampling = GREEDY) -> Any:
        return [self.weights]

    def answer(
        self, contexts: Sequence[ContextPrompts], *, max_new_tokens: int, on_answer: OnAnswer = ignore
    ) -> list[list[Answer]]:
        """The answer to each question, by its id or its words. Raises UsageError where the file has none of them."""
        found = []
        for number, prompts in enumerate(contexts):
            branches = prompts.bundle.branches
            found.append([self._of(branch) for branch in branches])
            for place, one in enumerate(found[-1]):
                on_answer(number, place, one)
        asked = [branch for prompts in contexts for branch in prompts.bundle.branches]
        if asked and not any(one.text is not None for answers in found for one in answers):
            raise UsageError(
                f"{self.path} has no answer to any of the {len(asked)} questions",
                why=f"Ids such as '{asked[0].meta.get('id')}' are looked for, and questions word for word.",
            )
        return found

    def _of(self, branch: Branch) -> Answer:
        text = self.known.get(
            str(branch.meta.get("id")), self.known.get(f"question:{branch.question.strip()}")
        )
        return Answer(None, ERROR, 0, error=NO_ANSWER) if text is None else Answer(text, "stop", 0)

    def check(
        self,
        contexts: Sequence[ContextPrompts],
        k: int,
        seed: int,
        *,
        max_new_tokens: int,
        previous: Previous = None,
    ) -> dict[str, Any]:
        return {}

    def describe(self) -> Mapping[str, Any]:
        return {"way": self.name, "reuse": self.reuse, "reason": self.reason}

    def prompt(self, template: Template) -> dict[str, Any]:
        return {"template": None, "template_hash": None, "chat": False, "chat_template": None}

    def close(self) -> None:
        """Nothing is open."""


def _free() -> None:
    """Give back the memory of a model that was let go."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
