"""The model under evaluation: one in this process, or one behind a server. Weights are loaded when first needed."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from lcx.context import Context
from lcx.data.templates import Template, without_chat
from lcx.data.tokens import open_span_tokenizer
from lcx.errors import UsageError
from lcx.evaluation.answer import Answerer, open_endpoint, open_local
from lcx.evaluation.encode import ContextPrompts, encode, fit, stop_ids
from lcx.evaluation.samples import TokenCounter
from lcx.evaluation.settings import EvalSettings
from lcx.llm.client import Service
from lcx.records import Bundle, EncodedBranch, EncodedBundle
from lcx.storage import sha256_text

if TYPE_CHECKING:
    from lcx.data.assembly import Assembler

__all__ = ["LocalModel", "ModelUnderTest", "ServedModel"]


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

    def answerer(self, template: Template) -> Answerer:
        """Who answers; it is opened once for each template."""
        ...

    def answer_key(self, template: Template, max_new_tokens: int) -> Any:
        """Cache key of an answer besides its prompt, as JSON: weights, stop strings and limits."""
        ...

    def prompt(self, template: Template) -> dict[str, Any]:
        """What a result records about the prompt: template, hash, and the chat template around it."""
        ...

    def close(self) -> None: ...


class LocalModel:
    """A model that this process loads. `spec` is a folder or a hub id; the tiny model is ready by then."""

    def __init__(self, spec: str, settings: EvalSettings, ctx: Context) -> None:
        from lcx.modeling.load import load_config, load_tokenizer, set_rope

        self.spec, self.settings, self.ctx = spec, settings, ctx
        self.tokenizer = load_tokenizer(settings.tokenizer or spec)
        config = load_config(spec)
        set_rope(config, None, settings.rope)
        self.window = settings.window or getattr(config, "max_position_embeddings", None)
        self._model: Any = None
        self._weights = ""
        self._assemblers: dict[str, Assembler] = {}
        self._answerers: dict[str, Answerer] = {}

    @classmethod
    def of(cls, model: Any, tokenizer: Any, settings: EvalSettings, ctx: Context) -> LocalModel:
        """A model that is loaded already."""
        made = cls.__new__(cls)
        made.spec, made.settings, made.ctx = settings.model or "model", settings, ctx
        made.tokenizer, made._model, made._weights = tokenizer, model, ""
        made.window = settings.window or getattr(model.config, "max_position_embeddings", None)
        made._assemblers, made._answerers = {}, {}
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
        if not self._weights:
            from lcx.modeling.load import digest_of_weights

            self._weights = digest_of_weights(self.model)
        return self._weights

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
        return fit(bundle, encode(self.assembler(template), bundle), self.window, max_new_tokens, too_long)

    def stops(self, template: Template) -> list[int]:
        """Tokens that end an answer under a template."""
        return sorted(stop_ids(self.model, self.tokenizer, template.end))

    def answerer(self, template: Template) -> Answerer:
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

    def answer_key(self, template: Template, max_new_tokens: int) -> Any:
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
    """A model behind a server, `openai:NAME`. It counts tokens by a tokenizer of ours, roughly where none is named."""

    def __init__(self, spec: str, settings: EvalSettings, folder: Path, ctx: Context) -> None:
        self.spec, self.settings, self.folder, self.ctx = spec, settings, folder, ctx
        self.window = settings.window
        self.tokenizer = open_span_tokenizer(settings.tokenizer or "simple")
        self._service = Service(folder, settings, ctx)  # one budget for all templates
        self._service.check(spec, settings.model_options)
        self._answerers: dict[str, Answerer] = {}

    @property
    def weights(self) -> str:
        return self.spec

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
        from dataclasses import replace

        whole = fit(bundle, self._encode(template, bundle), self.window, max_new_tokens, too_long)
        if not whole.cut or whole.encoded is None:
            return whole
        spans = self.tokenizer.spans(bundle.context or "")
        keep = max(2, len(spans) - whole.cut)
        left, right = (keep + 1) // 2, keep // 2
        text = bundle.context or ""
        short = replace(bundle, context=text[: spans[left - 1][1]] + text[spans[len(spans) - right][0] :])
        return ContextPrompts(short, self._encode(template, short), whole.cut)

    def answerer(self, template: Template) -> Answerer:
        if template.hash not in self._answerers:
            self._answerers[template.hash] = open_endpoint(
                self.spec,
                template,
                self.settings,
                self.folder,
                self.ctx,
                options=self.settings.model_options,
                service=self._service,
            )
        return self._answerers[template.hash]

    def answer_key(self, template: Template, max_new_tokens: int) -> Any:
        return [self.spec, template.hash, max_new_tokens]

    def prompt(self, template: Template) -> dict[str, Any]:
        return {
            "template": template.name,
            "template_hash": template.hash,
            "chat": True,
            "chat_template": {"name": "the server's"},
        }

    def close(self) -> None:
        for answerer in self._answerers.values():
            answerer.close()
        self._service.close()
