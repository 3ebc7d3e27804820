"""A suite's prompts: ours, or a JSON file of the user's, such as the one that LongBench publishes.

The file maps a set's name to its prompt, a text with {context} and, where the set has questions, {input}.
"""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcx.data.templates import Template
from lcx.errors import MissingError, UsageError, suggestion

__all__ = ["Prompt", "load_prompts", "prompt_of", "split_prompt"]


@dataclass(frozen=True)
class Prompt:
    """A prompt as a template, and how its questions are written.

    `inside` is set where the question stands before the context: then the whole of what comes before the context's
    end is context, and no two questions share it.
    """

    template: Template
    question: str = "{input}"
    inside: str | None = None

    def ask(self, context: str, values: Mapping[str, str]) -> tuple[str, str]:
        """The text of the context and of the question, where `values` go into the question's places."""
        question = _fill(self.question, values)
        if self.inside is None:
            return context, question
        head, _, tail = self.inside.partition("{context}")
        return _fill(head, values) + context + tail, question


def load_prompts(family: str, path: str | None) -> dict[str, Any]:
    """Prompts by set: the bundled file of a family, or the user's. Raises MissingError, UsageError for a bad file."""
    if path is None:
        text = (importlib.resources.files("lcx.evaluation.suites") / "prompts" / f"{family}.json").read_text(
            encoding="utf-8"
        )
        found: dict[str, Any] = json.loads(text)
        return found
    place = Path(path).expanduser()
    if not place.is_file():
        raise MissingError(
            f"no prompts at '{path}' for {family}",
            hint=f"--set eval.prompts.{family}=FILE.json (set -> prompt); without it lcx uses its own wording.",
        )
    try:
        text = place.read_text(encoding="utf-8-sig")
        if place.suffix.lower() == ".txt":
            return {family: text}
        found = json.loads(text)
    except (OSError, ValueError) as bad:
        raise UsageError(f"cannot read the prompts in {path}", why=str(bad)) from None
    if not isinstance(found, dict):
        raise UsageError(f"the prompts in {path} are no JSON object of set and prompt")
    return found


def prompt_of(prompts: Mapping[str, Any], name: str, family: str, path: str | None, *, chat: bool) -> Prompt:
    """The prompt of a set, split where its context and its question stand. Raises UsageError where it lacks one."""
    text = prompts.get(name)
    if not isinstance(text, str):
        raise UsageError(
            f"{path or 'the bundled prompts'} have no prompt for '{name}'. {suggestion(name, prompts)}".rstrip(),
            hint='A line such as "' + name + '": "... {context} ... {input} ..." gives it one.',
        )
    return split_prompt(text, f"{family}:{name}", chat=chat)


def split_prompt(text: str, name: str, *, chat: bool = True, places: str = "{input}") -> Prompt:
    """A prompt's text as a template. `places` is what the question is made of, where it is more than {input}."""
    if text.count("{context}") != 1:
        raise UsageError(
            f"the prompt of {name} needs {{context}} once, and has it {text.count('{context}')} times"
        )
    head, _, rest = text.partition("{context}")
    if text.count("{input}") > 1:
        raise UsageError(f"the prompt of {name} has {{input}} more than once")
    if "{input}" in head:
        return Prompt(
            Template(name, between="", after=rest, chat=chat), question="", inside=head + "{context}"
        )
    if "{input}" not in rest:
        # All that follows the context is asked of every row alike.
        return Prompt(Template(name, head=head, between=rest, chat=chat), question="")
    between, _, after = rest.partition("{input}")
    return Prompt(Template(name, head=head, between=between, after=after, chat=chat), question=places)


def _fill(text: str, values: Mapping[str, str]) -> str:
    """The text with its places filled in one pass, so that braces in a value stay as they are."""
    from lcx.llm.prompts import fill

    return fill(text, values)
