"""The model under evaluation as everything else sees it: what answers are, who gives them, and saved answers.

A model in this process is in `local_model.py`, one that is asked as a text generator in `served_model.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lcx.context import Context
from lcx.data.files import strict_rows
from lcx.data.templates import Template
from lcx.errors import MissingError, UsageError
from lcx.evaluation.samples import ContextPrompts, TokenCounter
from lcx.evaluation.task import GREEDY, Sampling
from lcx.records import Branch, Bundle, EncodedBranch, EncodedBundle
from lcx.storage import sha256_json

__all__ = [
    "ERROR",
    "Answer",
    "Answerer",
    "ModelUnderTest",
    "OnAnswer",
    "Previous",
    "SavedAnswers",
    "ignore",
    "read_answers",
    "self_check",
]

# ---- answers

ERROR = "error"
"""The finish of an item whose call failed; the next run asks it again."""


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


# ---- models


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


# ---- saved answers

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
