"""The `builtin` rules that judge long answers: ratings, statements, their support, and facts, by words in common.

They answer in the formats that the judges' prompts ask for, and never repeat the answer inside a rating's reply. What
they see of quality is crude: whether an answer speaks of what was asked, and whether its words stand together in the
document. For records (`* key value`) that tells a right value from a wrong one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from lcx.data import words as folding
from lcx.llm.builtin_answers import word_f1

FULL, PARTIAL = 0.9, 0.6
"""Least share of a statement's words that stand in one line or sentence, for full and for partial support."""
SAME = 0.5
"""Ratings of two answers that differ by less are a tie."""
MOST_FACTS = 20
SHORT = 4
"""Words of a text up to which all of them tell what it is about: a key may be a stop word."""
NOTHING = "No relevant information"
_RECORD = re.compile(r"^\* (\S+ \S+)(?= |$)")
_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n")
_DOTTED = re.compile(r"(?<=\w)\.(?=\w)")
_TAG = re.compile(r"</?statement>", re.I)

Fields = Mapping[str, Any]


def judge_helpfulness(fields: Fields, rng: random.Random) -> str:
    """A rating `[[0-10]]`: the share of the question's words that the answer speaks of; 0 where it adds none."""
    share = _helpful(str(fields.get("question", "")), str(fields.get("answer", "")))
    return f"The answer speaks of {share:.0%} of what is asked. {_rating(share)}"


def judge_logicality(fields: Fields, rng: random.Random) -> str:
    """A rating `[[0-10]]`: how little the answer repeats itself; 0 where it says nothing."""
    said = words(str(fields.get("answer", "")))
    return f"It says {len(set(said))} different words. {_rating(_varied(said))}"


def judge_statements(fields: Fields, rng: random.Random) -> str:
    """The answer's sentences, each between tags; `[[none]]` for an answer without words."""
    texts = [" ".join(_TAG.sub(" ", text).split()) for text in _sentences(str(fields.get("answer", "")))]
    found = dict.fromkeys(text for text in texts if words(text))
    return "\n".join(f"<statement>{text}</statement>" for text in found) or "[[none]]"


def judge_support(fields: Fields, rng: random.Random) -> str:
    """`[[Fully supported]]`, partially or not: how many of the statement's words one line of the chunks has."""
    said = _meant(str(fields.get("statement", "")))
    lines = (line for chunk in fields.get("chunks", ()) for line in _lines(str(chunk)))
    best = max((len(said & line) for line, _ in lines), default=0) / (len(said) or 1)
    level = "Fully supported" if best >= FULL else "Partially supported" if best >= PARTIAL else "No support"
    return f"{best:.0%} of its words stand together. [[{level}]]"


def judge_extract(fields: Fields, rng: random.Random) -> str:
    """The lines of a chunk that share the question's words, numbered, or "No relevant information".

    Of a record its key and value are kept. Where many lines share words, those that share most.
    """
    asked = _meant(str(fields.get("question", "")))
    shared = [(len(asked & line), text) for line, text in _lines(str(fields.get("chunk", "")))]
    least = max(1, (max((count for count, _ in shared), default=0) + 1) // 2)
    found = list(dict.fromkeys(_fact(text) for count, text in shared if count >= least))[:MOST_FACTS]
    return "\n".join(f"{i}. {text}" for i, text in enumerate(found, 1)) or NOTHING


def judge_completeness(fields: Fields, rng: random.Random) -> str:
    """A rating `[[0-10]]`: the mean share of each fact's words that the answer names; 10 where there is no fact.

    Words of the question do not count: the answer has them from there.
    """
    said = set(words(str(fields.get("answer", ""))))
    asked = set(words(str(fields.get("question", ""))))
    facts = [_meant(text) - asked for text in map(str, fields.get("facts", ())) if text != NOTHING]
    shares = [len(fact & said) / len(fact) for fact in facts if fact]
    share = sum(shares) / len(shares) if shares else 1.0
    return f"It names {share:.0%} of the facts. {_rating(share)}"


def judge_reference(fields: Fields, rng: random.Random) -> str:
    """A rating `[[1-10]]`: the word F1 of answer and reference."""
    return f"[[{1 + 9 * _likeness(fields):.1f}]]"


def judge_summary(fields: Fields, rng: random.Random) -> str:
    """A rating `[[1-5]]`: the word F1 of answer and reference."""
    return f"[[{1 + 4 * _likeness(fields):.1f}]]"


def judge_qa(fields: Fields, rng: random.Random) -> str:
    """`[[3]]` where the answer has all words of a reference, `[[2]]` from half of them, else `[[1]]`."""
    answer = str(fields.get("answer", ""))
    share = max((covered(text, answer) for text in _references(fields)), default=0.0)
    return f"[[{3 if share >= FULL else 2 if share >= 0.5 else 1}]]"


def judge_versus(fields: Fields, rng: random.Random) -> str:
    """`[[A]]`, `[[B]]` or, for answers that are alike by the rules, `[[C]]`; neither place is preferred."""
    first, second = (_overall(fields, str(fields.get(name, ""))) for name in ("a", "b"))
    if abs(first - second) < SAME:
        return "[[C]]"
    return "[[A]]" if first > second else "[[B]]"


def covered(wanted: str, text: str) -> float:
    """Share of the words that tell what `wanted` is about that stand in `text`, 0 to 1; 0 for no words."""
    asked = _meant(wanted)
    return len(asked & set(words(text))) / len(asked) if asked else 0.0


def _helpful(question: str, answer: str) -> float:
    return covered(question, answer) if set(words(answer)) - set(words(question)) else 0.0


def _overall(fields: Fields, answer: str) -> float:
    """What an answer is worth on the asked dimension, 0 to 10; on all together where it names none of them."""
    dimension = str(fields.get("dimension", "")).lower()
    question, context = str(fields.get("question", "")), str(fields.get("context") or "")
    found = {"helpfulness": _helpful(question, answer), "logicality": _varied(words(answer))}
    if context:
        said = _meant(answer)
        best = max((len(said & line) for line, _ in _lines(context)), default=0)
        found["faithfulness"] = best / (len(said) or 1)
        asked = _meant(question)
        near = max(_lines(context), key=lambda line: len(asked & line[0]), default=(frozenset(), ""))[1]
        found["completeness"] = covered(_fact(near), answer)
    share = found.get(dimension)
    return 10 * (sum(found.values()) / len(found) if share is None else share)


def _varied(said: Sequence[str]) -> float:
    """Different words of all words: 1 where none comes more often than half of them does on average, 0 for none."""
    return min(1.0, 1.5 * len(set(said)) / len(said)) if len(said) > 8 else len(set(said)) / (len(said) or 1)


def _likeness(fields: Fields) -> float:
    answer = str(fields.get("answer", ""))
    return max((word_f1(answer, text) for text in _references(fields)), default=0.0)


def _references(fields: Fields) -> list[str]:
    """The reference, or the several that there are."""
    given = fields.get("references", fields.get("reference"))
    several: Iterable[Any] = [given] if isinstance(given, str) else given or ()
    return [str(text) for text in several]


def _rating(share: float) -> str:
    return f"[[{10 * share:.1f}]]"


def _meant(text: str) -> frozenset[str]:
    """The words that tell what a text is about; all of a short text's, and where none tells anything."""
    said = words(text)
    return frozenset(said if len(said) <= SHORT else folding.content_words(_DOTTED.sub("_", text)) or said)


def words(text: str) -> list[str]:
    """The words of a text as they are compared; `urllib.parse` is one, and no half of it is right."""
    return folding.words(_DOTTED.sub("_", text))


@lru_cache(maxsize=512)
def _lines(text: str) -> tuple[tuple[frozenset[str], str], ...]:
    """Every line or sentence of a text that has words, with them: kept, since ten answers are held against one text."""
    rows = [row for line in text.split("\n") for row in ([line] if _RECORD.match(line) else _sentences(line))]
    return tuple((frozenset(found), row) for row in rows if (found := words(row)))


def _sentences(text: str) -> list[str]:
    """Sentences and lines with single blanks; a full stop ends one only where a blank follows."""
    return [" ".join(part.split()) for part in _END.split(text) if part.strip()]


def _fact(line: str) -> str:
    """A line as a fact: of a record its key and value, of others all."""
    record = _RECORD.match(line)
    return record[1] if record else line
