"""The `builtin` rules that answer questions from a context and judge answers: looking up, and counting words.

The answers have the weakness that they are for: asked about something that the context does not hold, they answer from
what it does hold.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lcx.data.words import content_words, words
from lcx.llm.builtin_questions import BLANK, CODE, GAP, JOINT, PAIR, definitions, gap_word, pairs, sentences

MOST = 300
"""Characters of a sentence that an answer quotes."""
_RECORD = re.compile(r"^([*~]) (\S+) (\S+)(?= |$)", re.M)
"""A record `* key value`, or a stale one, `~ key value`, which is believed where there is no other."""


def _shape(question: str) -> re.Pattern[str]:
    """Matches the questions that one of our forms makes; a group for each place."""
    return re.compile("(.+)".join(map(re.escape, question.split("{}"))), re.S)


_CODE, _PAIR, _GAP, _JOINT = (_shape(form) for form in (CODE, PAIR, GAP, JOINT))


def answer_question(fields: Mapping[str, Any], rng: random.Random) -> str:
    """The answer to `fields["question"]` from `fields["context"]`, the texts of its pieces; empty for no text.

    With `fields["read"]` it reads each line with that probability only, so that samples differ.
    """
    texts = [str(text) for text in fields.get("context", ())]
    if share := float(fields.get("read") or 0):
        texts = ["\n".join(line for line in text.split("\n") if rng.random() < share) for text in texts]
    return _answer(str(fields.get("question", "")).strip(), texts, rng)


def judge_overlap(fields: Mapping[str, Any], rng: random.Random) -> str:
    """A rating `[[0-10]]` of `fields["answer"]`: word F1 with `fields["reference"]`, or where there is none the
    share of its words that `fields["evidence"]` has.
    """
    answer = str(fields.get("answer", ""))
    reference = str(fields.get("reference") or "")
    if reference:
        score = word_f1(answer, reference)
    else:
        known = {word for text in fields.get("evidence", ()) for word in words(str(text))}
        said = set(content_words(answer)) or set(words(answer))
        score = len(said & known) / len(said) if said else 0.0
    return f"[[{10 * score:.2f}]]"


def word_f1(answer: str, reference: str) -> float:
    """F1 of the two texts' words, each counted as often as it occurs: 2 * common / (words of both).

    Stop words do not count unless a text has no others. Between 0 and 1.
    """
    said, wanted = content_words(answer), content_words(reference)
    if not said or not wanted:
        said, wanted = words(answer), words(reference)
    common = (Counter(said) & Counter(wanted)).total()
    return 2 * common / (len(said) + len(wanted)) if common else 0.0


def _answer(question: str, texts: Sequence[str], rng: random.Random) -> str:
    both = _JOINT.fullmatch(question)
    if both:
        first, second = (_answer(part.strip(), texts, rng) for part in both.groups())
        return f"(1) {first} (2) {second}"
    for rule in (_record, _code, _pair, _gap):
        found = rule(question, texts, rng)
        if found:
            return found
    return _extract(question, texts, rng)


def _record(question: str, texts: Sequence[str], rng: random.Random) -> str:
    """The value that stands behind a bare key; another record's where the key is not there."""
    if len(question.split()) != 1:
        return ""
    records = [match.groups() for text in texts for match in _RECORD.finditer(text)]
    if not records:
        return ""
    values = {mark + key: value for mark, key, value in reversed(records)}
    value = values.get("*" + question) or values.get("~" + question) or rng.choice(records)[2]
    return f"{question} {value}"


def _code(question: str, texts: Sequence[str], rng: random.Random) -> str:
    asked = _CODE.fullmatch(question)
    found = [part for text in texts for part in definitions(text)] if asked else []
    if not asked or not found:
        return ""
    line = asked[1]
    wanted = set(words(line))

    def likeness(part: tuple[str, str]) -> tuple[bool, int, float]:
        lines = [row.strip() for row in part[1].split("\n")]
        return line in lines, len(wanted.intersection(words(part[1]))), rng.random()

    return f"It is in `{max(found, key=likeness)[0]}`."


def _pair(question: str, texts: Sequence[str], rng: random.Random) -> str:
    asked = _PAIR.fullmatch(question)
    found = [pair for text in texts for pair in pairs(text)] if asked else []
    if not asked or not found:
        return ""
    value = dict(reversed(found)).get(asked[1]) or rng.choice(found)[1]
    return f"{asked[1]}: {value}"


def _gap(question: str, texts: Sequence[str], rng: random.Random) -> str:
    asked = _GAP.fullmatch(question)
    if not asked or BLANK not in asked[1]:
        return ""
    before, _, after = asked[1].partition(BLANK)
    whole = re.compile(rf"{re.escape(before)}(?<!\w)(\S+?)(?!\w){re.escape(after)}")
    for text in texts:
        for line in text.split("\n"):
            match = whole.search(" ".join(line.split()))
            if match:
                return f"The word is “{match[1]}”."
    near = _extract(asked[1], texts, rng)
    word = gap_word(near, "\n".join(texts))
    return f"The word is “{word}”." if word else ""


def _extract(question: str, texts: Sequence[str], rng: random.Random) -> str:
    """The sentence that shares most words with the question; any one where none shares a word."""
    found = [sentence for text in texts for sentence in sentences(text) if words(sentence)]
    if not found:
        return ""
    wanted = set(content_words(question))
    shared = [len(wanted.intersection(words(sentence))) for sentence in found]
    best = max(shared)
    return (found[shared.index(best)] if best else rng.choice(found))[:MOST].strip()
