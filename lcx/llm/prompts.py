"""Prompts: their files, how their places are filled with text that others wrote, and the thoughts in replies."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lcx.data.templates import Template
from lcx.errors import UsageError


def load_prompt(name: str, folder: str | None, *, package: str = "lcx.llm", needs: Sequence[str] = ()) -> str:
    """A prompt file: the user's where the folder has `NAME.txt`, else the one in the package's `prompts`.

    `needs` are the places that a user's file must have. Raises UsageError for a file without one, and for a
    folder that is not there.
    """
    if folder is not None:
        place = Path(folder).expanduser()
        if not place.is_dir():
            raise UsageError(f"no folder of prompts at '{folder}'", hint="--set synth.prompts=FOLDER")
        own = place / f"{name}.txt"
        if own.is_file():
            text = own.read_text(encoding="utf-8")
            for needed in needs:
                if needed not in text:
                    raise UsageError(f"{own} has no {needed}, so the model would never see the text for it")
            return text
    return (importlib.resources.files(package) / "prompts" / f"{name}.txt").read_text(encoding="utf-8")


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


# -- text that others wrote

_TURNS = re.compile(
    r"<(?=[|｜]|<\s*/?\s*SYS\b|/?(?:s|bos|eos|start_of_turn|end_of_turn)>|\s*/?\s*think(?:ing)?\b)"
    r"|\[(?=/?INST\])",
    re.I,
)
"""The first character of marks by which chat templates set turns and thoughts apart."""
_SAFE = {"<": "&lt;", "[": "&#91;"}


def fence(*names: str) -> Callable[[str], str]:
    """A function that escapes the first character of chat templates' marks, and of tags of the given names."""
    tags = re.compile(rf"<(?=\s*/?\s*(?:{'|'.join(names)})\b)", re.I)

    def fenced(text: str) -> str:
        return _TURNS.sub(lambda mark: _SAFE[mark[0]], tags.sub(_SAFE["<"], text))

    return fenced


# -- thoughts

_BEGIN = re.compile(r"\s*(?:<think(?:ing)?>|<thought>|<\|begin_of_thought\|>|◁think▷|\[THINK\])", re.I)
_END = re.compile(r"</think(?:ing)?>|</thought>|<\|end_of_thought\|>|◁/think▷|\[/THINK\]", re.I)
_CHANNEL, _FINAL = "<|channel|>", "<|channel|>final<|message|>"
_MARK = re.compile(r"<\|(?:end|return|start|channel|call)\|>")


def visible(reply: str) -> str:
    """A reply without its thoughts, in whatever marks a model puts them. A thought that never ends leaves nothing.

    Known are `<think>` and its like, with or without their first mark, and the channels of harmony, of which the
    last final one is what is said.
    """
    if _CHANNEL in reply:
        _, found, said = reply.rpartition(_FINAL)
        return _MARK.split(said, maxsplit=1)[0] if found else ""
    *thoughts, said = _END.split(reply)
    if not thoughts and _BEGIN.match(said):
        return ""
    return said
