"""The `builtin` rules that write questions: cloze, key and value, and which definition holds a line of code."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Any

_RECORD = re.compile(r"^\* (\S+) (\S+)( |$)")
_STALE = re.compile(r"^~ \S+ \S+( |$)")
_DEF = re.compile(r"^\s*(?:async\s+)?def\s+(\w+)|^\s*class\s+(\w+)", re.M)
_PAIR = re.compile(r"^\s*[-*]?\s*([A-Za-z][\w ./-]{2,40}?):[ \t]+(\S[^\n]{1,80})$", re.M)
_STATEMENT = re.compile(r"(if|elif|else|for|while|try|except|with|return|lambda|case)\b")
_SENTENCE = re.compile(r"[^.!?。！？\n]+[.!?。！？]?")
_WORD = re.compile(r"[A-Za-z][A-Za-z'-]{4,}|\d[\d.,]{2,}|[一-鿿]{2,6}")
TRIES = 16
"""Lines of a document that are tried for a task."""
BLANK = "____"
CODE = "Which function or class contains the line `{}`?"
PAIR = "What is given for “{}”?"
GAP = "Which word fills the gap in “{}”?"
JOINT = "Answer both parts. (1) {} (2) {}"


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
    return f"Question: {JOINT.format(q1, q2)}\nAnswer: (1) {a1} (2) {a2}"


def write_task(fields: Mapping[str, Any], rng: random.Random) -> str:
    """A task about one place of `fields["document"]`, with its answer; "NOTHING" where no rule fits any."""
    text = str(fields.get("document", ""))
    lines = [line for line in text.split("\n") if line.strip()]
    for line in rng.sample(lines, min(len(lines), TRIES)):
        found = _about(line, rng)
        if found:
            return f"<task>{found[0]}</task>\n<answer>{found[1]}</answer>"
    found = _about(text, rng)
    return f"<task>{found[0]}</task>\n<answer>{found[1]}</answer>" if found else "NOTHING"


def _about(text: str, rng: random.Random) -> tuple[str, str] | None:
    """Question and answer by the first rule that fits: record, code, key and value, gap in a sentence."""
    if _STALE.match(text):  # a record that holds no longer: nobody asks for it
        return None
    record = _RECORD.match(text)
    if record:  # the answer restates the key, so that the value follows it as it does in the record
        return record[1], f"{record[1]} {record[2]}"
    for rule in (_code, _pair, _gap):
        found = rule(text, rng)
        if found:
            return found
    return None


def definitions(text: str) -> list[tuple[str, str]]:
    """Name of every function and class of a piece of code, each with the text up to the next one."""
    names = [(m.end(), m[1] or m[2]) for m in _DEF.finditer(text)]
    stops = [*(m.start() for m in _DEF.finditer(text)), len(text)][1:]
    return [(name, text[end:stop]) for (end, name), stop in zip(names, stops, strict=True)]


def pairs(text: str) -> list[tuple[str, str]]:
    """Lines `key: value`."""
    found = [(m[1].strip(), m[2].strip()) for m in _PAIR.finditer(text)]
    return [(key, value) for key, value in found if not _STATEMENT.match(key)]


def sentences(text: str) -> list[str]:
    """Sentences, none over a line's end, with single blanks."""
    return [" ".join(sentence.split()) for sentence in _SENTENCE.findall(text)]


def gap_word(sentence: str, text: str) -> str:
    """The long word of a sentence that is rarest in the text, or an empty string."""
    words = sorted(set(_WORD.findall(sentence)), key=lambda w: (text.count(w), -len(w), w))
    return words[0] if words else ""


def _code(text: str, rng: random.Random) -> tuple[str, str] | None:
    """Which definition holds a line: asked only where the line follows that definition and occurs once."""
    lines = []
    for name, body in definitions(text):
        for line in body.split("\n")[1:]:
            clean = line.strip()
            if 12 <= len(clean) <= 100 and text.count(clean) == 1 and not _DEF.match(clean):
                lines.append((clean, name))
    if not lines:
        return None
    line, name = rng.choice(lines)
    return CODE.format(line), f"It is in `{name}`."


def _pair(text: str, rng: random.Random) -> tuple[str, str] | None:
    found = [(key, value) for key, value in pairs(text) if text.count(key) == 1]
    if not found:
        return None
    key, value = rng.choice(found)
    return PAIR.format(key), f"{key}: {value}"


def _gap(text: str, rng: random.Random) -> tuple[str, str] | None:
    """A sentence with its rarest long word left out; the answer is the sentence filled in."""
    usable = [
        s for s in sentences(text) if 25 <= len(s) <= 240 and _WORD.search(s) and text.count(s[:40]) <= 1
    ]
    if not usable:
        return None
    sentence = rng.choice(usable)
    word = gap_word(sentence, text)
    return GAP.format(sentence.replace(word, BLANK, 1)), f"The word is “{word}”."
