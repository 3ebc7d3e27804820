"""Prompts: their files, how their places are filled with text that others wrote, and the thoughts in replies."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lcx.data.templates import Template
from lcx.errors import UsageError
from lcx.llm.protocol import Completion


def load_prompt(name: str, folder: str | None, *, package: str = "lcx.llm", needs: Sequence[str] = ()) -> str:
    """A prompt file: the user's where the folder has `NAME.txt`, else the one in the package's `prompts`.

    `needs` are the places that a user's file must have. Raises UsageError for a file without one or that
    cannot be read, and for a folder that is not there.
    """
    if folder is not None:
        place = Path(folder).expanduser()
        if not place.is_dir():
            raise UsageError(f"no folder of prompts at '{folder}'", hint="--set synth.prompts=FOLDER")
        own = place / f"{name}.txt"
        if own.is_file():
            try:
                text = own.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as bad:
                raise UsageError(f"cannot read the prompt {own}", why=str(bad)) from None
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


def tagged(text: str, name: str) -> list[str]:
    """What stands between each `<name>` and the next `</name>` of a text, whatever the case of the tags.

    A tag that is opened again before it is closed is part of what it holds, and one that is never closed holds nothing.
    """
    found: list[str] = []
    begin = -1
    for mark in re.finditer(rf"<(/?){re.escape(name)}>", text, re.I):
        if not mark[1]:
            begin = mark.end() if begin < 0 else begin
        elif begin >= 0:
            found.append(text[begin : mark.start()])
            begin = -1
    return found


# -- thoughts

UNFINISHED = "only a thought that never ends"
"""What a reply is called that has nothing but an unfinished thought."""
_NAMES = r"(?:ant)?think(?:ing)?|thoughts?|reasoning|reflection|scratchpad|思考"
_TAG = rf"(?:[\w-]{{1,20}}[:_])?(?:{_NAMES})"
_BEGIN = (
    rf"<{_TAG}(?:\s[^<>\n]{{0,80}})?>|<[|｜](?:(?:begin|start)_of_)?(?:{_NAMES})(?:_start|_begin)?[|｜]>"
    r"|<\|START_THINKING\|>|<\|inner_prefix\|>|◁think▷|\[THINK\]|<\|channel>thought\b|<unused94>"
)
_END = (
    rf"</{_TAG}>|<[|｜](?:/|end_of_)?(?:{_NAMES})[|｜]>|<[|｜](?:{_NAMES})_end[|｜]>"
    r"|<\|END_THINKING\|>|<\|inner_suffix\|>|◁/think▷|\[/THINK\]|<channel\|>|<unused95>"
)
_MARKS = re.compile(rf"(?P<begin>{_BEGIN})|(?P<end>{_END})", re.I)
_OPEN = re.compile(rf"(?:{_BEGIN})\s*\Z", re.I)
_REACH = 200
"""Characters at the end of a prompt in which the mark stands that opens its answer's thought."""
_CLOSING = re.compile(r"</(?:response|answer|output)>|<\|(?:end_of_solution|END_RESPONSE)\|>", re.I)
_AROUND = re.compile(r"\s*(?:<(?:response|answer|output)>|<\|(?:begin_of_solution|START_RESPONSE)\|>)", re.I)
"""Marks that some models put around what they say behind a thought."""
_CHANNEL = "<|channel|>"
_FINAL = re.compile(r"<\|channel\|>\s*final\b[^<\n]{0,40}(?:<\|constrain\|>[^<\n]{0,40})?<\|message\|>")
_STOP = re.compile(r"<\|(?:end|return|start|channel|call)\|>")
_BARE = re.compile(r"\s*(?:analysis|commentary)(?=[A-Z\"'“‘<])")
"""How the channels of harmony begin where a server has left their marks out."""
_BARE_FINAL = "assistantfinal"


@dataclass(frozen=True)
class Said:
    """A reply apart from its thoughts.

    `thought` says that it has some, `unfinished` that one never ends, `opened` that only its end stands there: the
    prompt has begun it.
    """

    text: str
    thought: bool = False
    unfinished: bool = False
    opened: bool = False

    @property
    def only_thought(self) -> bool:
        """Whether an unfinished thought is all there is."""
        return self.unfinished and not self.text.strip()


def visible(reply: str) -> str:
    """A reply without its thoughts, in whatever marks a model puts them. A thought that never ends leaves nothing."""
    return read_thoughts(reply).text


def read_thoughts(reply: str) -> Said:
    """A reply apart from its thoughts, however a model marks them.

    Known are `<think>` and its like, with or without their first mark, the channels of harmony, of which the last
    final one is what is said, and those channels without their marks. A mark begins a thought at the beginning of a
    line, elsewhere only where its end follows; in backticks it is text.
    """
    if _CHANNEL in reply:
        return _channels(reply)
    if _BARE.match(reply):
        _, found, said = reply.rpartition(_BARE_FINAL)
        return Said(said if found else "", thought=True, unfinished=not found)
    if "<" not in reply and "◁" not in reply and "think]" not in reply.lower():
        return Said(reply)  # as most are
    kept: list[str] = []
    place = 0
    inside = thought = opened = False
    inline = -1  # where a first mark stands inside a line
    for mark in _MARKS.finditer(reply):
        begin, end = mark.span()
        if reply[begin - 1 : begin] == "`" == reply[end : end + 1]:
            continue
        if mark["begin"]:
            if inside or inline >= 0:
                continue
            line = max(place, reply.rfind("\n", place, begin) + 1)
            if reply[line:begin].isspace() or line == begin:
                kept.append(reply[place:begin])
                inside = True
            else:
                inline = begin
            continue
        if inline >= 0:
            kept.append(reply[place:inline])
        elif not inside:  # it began in the prompt: all so far was a thought
            kept, opened = [], opened or not thought
        inside, inline, thought, place = False, -1, True, end
    if inside:
        return Said("".join(kept), thought=True, unfinished=True, opened=opened)
    said = "".join(kept) + reply[place:]
    if thought and (around := _AROUND.match(said)):
        inner = said[around.end() :].rstrip()
        closed = [mark.span() for mark in _CLOSING.finditer(inner)]
        if not closed:
            said = inner
        elif len(closed) == 1 and closed[0][1] == len(inner):
            said = inner[: closed[0][0]]
    return Said(said, thought, opened=opened)


def said_in(completion: Completion, inside: bool = False) -> Said:
    """What a sample says apart from its thoughts, those that the server hands out apart included.

    `inside` says that the model's prompt begins a thought: see `begun_inside`.
    """
    found = read_thoughts(completion.text)
    if inside and not found.thought and completion.finish_reason == "length":
        return Said("", thought=True, unfinished=True)
    if not completion.thought:
        return found
    cut = completion.finish_reason == "length" and not found.text.strip()
    return replace(found, thought=True, unfinished=found.unfinished or cut)


def raw(completion: Completion) -> str:
    """All of a sample, a thought that the server hands out apart in the usual marks before it."""
    if not completion.thought:
        return completion.text
    thought = f"<think>\n{completion.thought.strip()}"
    return thought if said_in(completion).only_thought else f"{thought}\n</think>\n\n{completion.text}"


KEPT = "kept"


def thought_meta(text: str, whole: str) -> dict[str, str]:
    """What a candidate's row tells of its thoughts: the whole reply, or that they are part of its text."""
    if not whole:
        return {}
    return {"thoughts": KEPT} if text and read_thoughts(text).thought else {"raw": whole}


def begun_inside(replies: Iterable[Completion]) -> bool:
    """Whether a model's prompt begins its thoughts: then a reply of it that was cut and has no mark is one."""
    return any(read_thoughts(one.text).opened for one in replies)


def _channels(reply: str) -> Said:
    finals = list(_FINAL.finditer(reply))
    before = reply[: finals[-1].start()] if finals else reply
    thought = bool(before.replace("<|start|>assistant", "").strip())
    if not finals:
        return Said("", thought=True, unfinished=True)
    return Said(_STOP.split(reply[finals[-1].end() :], maxsplit=1)[0], thought)


def opening_thought(prompt: str) -> str:
    """The mark, with the blanks behind it, by which a prompt's last characters open a thought; empty for most."""
    found = _OPEN.search(prompt[-_REACH:])
    return found[0] if found else ""


def is_thought_mark(token: str) -> bool:
    """Whether a tokenizer's token is a mark that tells thoughts from what is said."""
    return bool(_MARKS.fullmatch(token) or _HARMONY.fullmatch(token))


_HARMONY = re.compile(r"<\|(?:channel|message|start|end|return|call|constrain)\|>|<\|channel>|<channel\|>")
