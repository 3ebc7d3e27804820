"""The `builtin` text generator: deterministic rules in place of a model, for offline work, demos and tests.

It writes questions of fixed shapes about a passage. It reads a request's `task` and `fields`, not its prompt, and
answers in the format that the prompt asks a model for. It is no substitute for a real writer, and every manifest that
it touches says so.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lcx.llm.protocol import Completion, Request, Response, Usage

_RECORD = re.compile(r"^\* (\S+) (\S+)( |$)")
_DEF = re.compile(r"^\s*(?:async\s+)?def\s+(\w+)|^\s*class\s+(\w+)", re.M)
_PAIR = re.compile(r"^\s*[-*]?\s*([A-Za-z][\w ./-]{2,40}?):[ \t]+(\S[^\n]{1,80})$", re.M)
_STATEMENT = re.compile(r"(if|elif|else|for|while|try|except|with|return|lambda|case)\b")
_SENTENCE = re.compile(r"[^.!?。！？\n]+[.!?。！？]?")
_WORD = re.compile(r"[A-Za-z][A-Za-z'-]{4,}|\d[\d.,]{2,}|[一-鿿]{2,6}")
_BLANK = "____"


class Builtin:
    """Rule-based writer. One instance keeps no state, so equal requests give equal answers."""

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        return [self._answer(request) for request in requests]

    def describe(self) -> dict[str, Any]:
        return {"backend": "builtin", "model": "rules", "note": "deterministic rules, not a language model"}

    def close(self) -> None:
        return None

    def _answer(self, request: Request) -> Response:
        rule = RULES.get(request.task)
        if rule is None:
            known = ", ".join(sorted(RULES))
            return Response((), error=f"builtin has no rule for the task '{request.task}' (it has: {known})")
        texts = []
        for sample in range(request.n):
            rng = random.Random(f"builtin:{request.seed}:{sample}")
            texts.append(rule(request.fields, rng))
        prompt = sum(len(m["content"].split()) for m in request.messages)
        usage = Usage(prompt, sum(len(t.split()) for t in texts))
        return Response(tuple(Completion(t) for t in texts), usage)


def open_builtin(model: str, options: Mapping[str, Any]) -> Builtin:
    """Factory for the spec `builtin`; it takes no model and no options."""
    return Builtin()


def write_question(fields: Mapping[str, Any], rng: random.Random) -> str:
    """A question and answer about `fields["segment"]`, or an empty text where no rule fits it."""
    found = _about(str(fields.get("segment", "")), rng)
    return f"Question: {found[0]}\nAnswer: {found[1]}" if found else ""


def write_joint_question(fields: Mapping[str, Any], rng: random.Random) -> str:
    """One question that needs two of `fields["segments"]`, or an empty text where fewer than two are usable."""
    segments = [str(segment) for segment in fields.get("segments", ())]
    rng.shuffle(segments)
    parts = [found for found in (_about(segment, rng) for segment in segments) if found][:2]
    if len(parts) < 2 or parts[0] == parts[1]:
        return ""
    (q1, a1), (q2, a2) = parts
    return f"Question: Answer both parts. (1) {q1} (2) {q2}\nAnswer: (1) {a1} (2) {a2}"


def _about(text: str, rng: random.Random) -> tuple[str, str] | None:
    """Question and answer by the first rule that fits: record, code, key and value, gap in a sentence."""
    record = _RECORD.match(text)
    if record:  # the answer restates the key, so that the value follows it as it does in the record
        return record[1], f"{record[1]} {record[2]}"
    for rule in (_code, _pair, _gap):
        found = rule(text, rng)
        if found:
            return found
    return None


def _code(text: str, rng: random.Random) -> tuple[str, str] | None:
    """Which definition holds a line: asked only where the line follows that definition and occurs once."""
    names = [(m.end(), m[1] or m[2]) for m in _DEF.finditer(text)]
    if not names:
        return None
    lines = []
    for number, (end, name) in enumerate(names):
        stop = names[number + 1][0] if number + 1 < len(names) else len(text)
        for line in text[end:stop].split("\n")[1:]:
            clean = line.strip()
            if 12 <= len(clean) <= 100 and text.count(clean) == 1 and not _DEF.match(clean):
                lines.append((clean, name))
    if not lines:
        return None
    line, name = rng.choice(lines)
    return f"Which function or class contains the line `{line}`?", f"It is in `{name}`."


def _pair(text: str, rng: random.Random) -> tuple[str, str] | None:
    pairs = [(m[1].strip(), m[2].strip()) for m in _PAIR.finditer(text)]
    pairs = [(key, value) for key, value in pairs if text.count(key) == 1 and not _STATEMENT.match(key)]
    if not pairs:
        return None
    key, value = rng.choice(pairs)
    return f"What is given for “{key}”?", f"{key}: {value}"


def _gap(text: str, rng: random.Random) -> tuple[str, str] | None:
    """A sentence with its rarest long word left out; the answer is the sentence filled in."""
    sentences = [" ".join(s.split()) for s in _SENTENCE.findall(text)]
    usable = [s for s in sentences if 25 <= len(s) <= 240 and _WORD.search(s) and text.count(s[:40]) <= 1]
    if not usable:
        return None
    sentence = rng.choice(usable)
    words = sorted(set(_WORD.findall(sentence)), key=lambda w: (text.count(w), -len(w), w))
    word = words[0]
    gapped = sentence.replace(word, _BLANK, 1)
    return f"Which word fills the gap in “{gapped}”?", f"The word is “{word}”."


RULES: dict[str, Callable[[Mapping[str, Any], random.Random], str]] = {
    "write_question": write_question,
    "write_joint_question": write_joint_question,
}
