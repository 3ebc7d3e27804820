"""How a question about a context is put to a model: by a prompt file, or as the training prompt reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from lcx.data.templates import Template

__all__ = ["Render", "by_prompt", "by_template", "fill"]

_PLACE = re.compile(r"\{(\w+)\}")

Render = Callable[[str, str], str]
"""Makes the text of a request from context and question."""


def fill(prompt: str, values: Mapping[str, str]) -> str:
    """A prompt with its places filled in one pass, so that braces in a text stay as they are."""
    return _PLACE.sub(lambda match: values.get(match[1], match[0]), prompt)


def by_prompt(prompt: str) -> Render:
    """Requests by a prompt file with {context} and {question}."""
    return lambda context, question: fill(prompt, {"context": context, "question": question})


def by_template(template: Template, chat: bool) -> Render:
    """Requests that read as the training prompt does. `chat` says that the backend puts a chat turn around them."""
    after = template.after + ("" if chat and template.chat else template.cue)
    return lambda context, question: template.head + context + template.between + question + after
