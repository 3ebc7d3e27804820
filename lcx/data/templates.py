"""Prompt templates: what stands before the context, between context and question, and around the answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lcx.errors import UsageError, suggestion
from lcx.paths import named_file
from lcx.storage import sha256_json

_USER, _ANSWER = "lcxUserSentinel7c1", "lcxAnswerSentinel7c1"


@dataclass(frozen=True)
class Template:
    """Text around context, question and answer.

    A prompt reads head, context, between, question, after; then come lead, answer, end. Where the tokenizer
    has a chat template, the prompt is the user's turn (unless `chat` is off); `cue` follows it only where
    there is no chat turn to say that the answer begins. `bare_head` replaces the head where a bundle has no
    context.
    """

    name: str
    head: str = ""
    between: str = "\n\n"
    after: str = ""
    cue: str = ""
    bare_head: str = ""
    lead: str = ""
    end: str = ""
    chat: bool = True
    eos: bool = True
    """Whether the answer ends with the end-of-text token."""

    @property
    def hash(self) -> str:
        """Hex digest of everything but the name; manifests record it beside the name."""
        return sha256_json({key: value for key, value in vars(self).items() if key != "name"})[:16]


@dataclass(frozen=True)
class Turn:
    """What a chat template puts before the user's words, after them, and around the answer.

    `lead` and `close` belong to the answer: the model has to produce them.
    """

    before: str
    after: str
    lead: str
    close: str


TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        Template(
            "in2",
            head="You are given a long context and then an instruction. Follow the instruction, and base your"
            " answer on what the context says.\n\n### Context:\n",
            between="\n\n### Instruction:\n",
            cue="\n\n### Response:\n",
        ),
        Template("plain", between="\n\n", cue="\n"),
        Template(
            "tiny", between="\n? ", after=" =", bare_head="? ", lead=" ", end=" ;", chat=False, eos=False
        ),
    )
}


def load_template(spec: str | Path | Template) -> Template:
    """A template by name, or from a text file that holds {context} and {question} once each, in this order.

    Raises UsageError for an unknown name or a file that lacks either place.
    """
    if isinstance(spec, Template):
        return spec
    if str(spec) in TEMPLATES:
        return TEMPLATES[str(spec)]
    path = named_file(spec)
    if path is None:
        known = ", ".join(TEMPLATES)
        raise UsageError(
            f"there is no template '{spec}'",
            hint=f"{suggestion(str(spec), TEMPLATES)} Choose one of {known}, or give a text file.".strip(),
        )
    try:
        text = path.read_text(encoding="utf-8").replace("\r\n", "\n").removesuffix("\n")
    except UnicodeDecodeError as bad:
        raise UsageError(f"the template {path} is not UTF-8", why=str(bad)) from bad
    if text.count("{context}") != 1 or text.count("{question}") != 1:
        raise UsageError(
            f"the template {path} needs {{context}} and {{question}}, once each",
            why=f"It has {text.count('{context}')} and {text.count('{question}')}.",
        )
    head, _, rest = text.partition("{context}")
    if "{question}" in head:
        raise UsageError(
            f"in the template {path} the question stands before the context",
            hint="Put {context} first: all questions of one context share what comes before them.",
        )
    between, _, after = rest.partition("{question}")
    return Template(path.stem, head=head, between=between, after=after)


def chat_turn(tokenizer: Any) -> Turn | None:
    """What the tokenizer's chat template puts around an exchange, or None where it has no chat template.

    Found by rendering sentinels. Raises UsageError for a chat template that does not keep the user's words
    whole.
    """
    if not getattr(tokenizer, "chat_template", None):
        return None
    user = [{"role": "user", "content": _USER}]
    try:
        prompt = tokenizer.apply_chat_template(user, tokenize=False, add_generation_prompt=True)
    except Exception as bad:  # jinja errors of a template that wants something else
        raise UsageError(
            "the tokenizer's chat template cannot render a user's turn", why=str(bad), hint="Set chat: never."
        ) from bad
    if prompt.count(_USER) != 1:
        raise UsageError(
            "the tokenizer's chat template does not keep the user's words whole", hint="Set chat: never."
        )
    before, _, after = prompt.partition(_USER)
    try:
        whole = tokenizer.apply_chat_template(
            [*user, {"role": "assistant", "content": _ANSWER}], tokenize=False
        )
    except Exception:
        whole = ""
    lead, close = "", ""
    if whole.startswith(prompt) and whole.count(_ANSWER) == 1:
        lead, _, close = whole[len(prompt) :].partition(_ANSWER)
    elif whole.count(_ANSWER) == 1:  # such as templates that open the model's turn with an empty thought
        close = whole.partition(_ANSWER)[2]
    return Turn(before, after, lead, close)


@dataclass(frozen=True)
class Script:
    """A conversation's turns in the order in which a chat template writes them.

    `parts` are texts of the template and numbers of turns, the last of which is the question; `question` is the place
    of that number, and `first` the place of the first user turn, which a context stands in.
    """

    parts: tuple[str | int, ...]
    first: int
    question: int


def chat_script(tokenizer: Any, roles: Sequence[str]) -> Script:
    """How a tokenizer's chat template writes turns of these roles, the last of which is the user's question.

    Found by rendering sentinels. A system turn that the template has no place for stands before the first user turn's
    words. Raises UsageError for a chat template that does not keep the turns' words whole.
    """
    texts = [f"lcxTurn{number}Sentinel7c1" for number in range(len(roles))]
    turns = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    first = roles.index("user")
    rendered = _rendered(tokenizer, turns)
    if rendered is None and first:
        turns[first]["content"] = "\n\n".join(texts[: first + 1])
        rendered = _rendered(tokenizer, turns[first:], texts)
    if rendered is None:
        raise UsageError(
            f"the tokenizer's chat template cannot render a conversation of {', '.join(roles)}",
            hint="Set chat: never, or leave the earlier turns out.",
        )
    parts: list[str | int] = []
    for piece in re.split("(" + "|".join(texts) + ")", rendered):
        parts.append(texts.index(piece) if piece in texts else piece)
    return Script(tuple(parts), parts.index(first), parts.index(len(roles) - 1))


def plain_script(template: Template, roles: Sequence[str]) -> Script:
    """As `chat_script`, for tokenizers without a chat template: turns are separated as the template separates them."""
    parts: list[str | int] = []
    for number, role in enumerate(roles):
        parts.append(number)
        if role == "system":
            parts.append("\n\n")
        elif role == "assistant":
            parts[-1:] = [template.lead, number, template.end + template.between]
        elif number < len(roles) - 1:
            parts.append(template.after + template.cue)
    return Script((*parts, template.cue), parts.index(roles.index("user")), parts.index(len(roles) - 1))


def _rendered(tokenizer: Any, turns: Sequence[Mapping[str, str]], texts: Sequence[str] = ()) -> str | None:
    """The turns as the chat template writes them; None where it refuses them, or loses or doubles a turn's words."""
    try:
        text: str = tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=True)
    except Exception:  # jinja errors of a template that wants other roles
        return None
    return text if all(text.count(one) == 1 for one in texts or [turn["content"] for turn in turns]) else None


def without_chat(template: Template) -> Template:
    """The template for tokenizers that do have a chat template, which is then ignored."""
    return replace(template, chat=False)
