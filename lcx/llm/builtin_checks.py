"""The `builtin` rule that checks questions: whether rules that look answers up find this one, and where."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from lcx.data.words import content_words, words
from lcx.llm.builtin_answers import answer_question

ENOUGH = 0.5
"""Share of an answer's own words that have to be in a text for it to have the answer."""
FORM = frozenset({"the", "word", "is", "it", "in", "1", "2"})
"""Words of the forms that builtin answers have."""


def judge_qa_check(fields: Mapping[str, Any], rng: random.Random) -> str:
    """`[[yes]]` or `[[no]]` to the check that `fields["check"]` names: answered, needed or unambiguous."""
    question, answer = str(fields.get("question", "")), str(fields.get("answer", ""))
    evidence, rest = _texts(fields.get("evidence")), _texts(fields.get("context"))
    check = fields.get("check")
    said = set(words(answer)) - FORM
    told = said - set(words(question))
    if check == "answered":  # as it stands there, or as what the rules look up, such as a function's name
        wanted = told or said
        share = max(_share(wanted, evidence), _share(wanted, [_look_up(question, evidence, rng)]))
        return _verdict(f"The passages have {share:.0%} of the answer.", share >= ENOUGH)
    if check == "needed":
        share = _share(told, [_look_up(question, rest, rng)]) if told else 1.0
        return _verdict(f"Without the passages {share:.0%} of the answer is found.", share < ENOUGH)
    about = _own(question)
    same = sum(about <= set(words(text)) for text in rest) if about else 0
    return _verdict(
        f"{same} other passages speak of what is asked, by {len(about)} words.", bool(about) and not same
    )


def _look_up(question: str, texts: Sequence[str], rng: random.Random) -> str:
    return answer_question({"question": question, "context": texts}, rng) if texts else ""


def _own(text: str) -> set[str]:
    """The words that carry a text; all of them, where it has no others."""
    return set(content_words(text)) or set(words(text))


def _share(wanted: set[str], texts: Sequence[str]) -> float:
    """The share of the words that stand in the texts."""
    known = {word for text in texts for word in words(text)}
    return len(wanted & known) / len(wanted) if wanted else 0.0


def _texts(value: Any) -> list[str]:
    return [str(text) for text in value or ()]


def _verdict(reason: str, good: bool) -> str:
    return f"{reason} [[{'yes' if good else 'no'}]]"
