"""The `builtin` text generator: deterministic rules in place of a model, for offline work, demos and tests.

It writes questions of fixed shapes about a passage, answers by looking sentences up, checks and judges by overlap of
words. It reads a request's `task` and `fields`, not its prompt, and answers in the format that the prompt asks a model
for. It is no substitute for a real model, and every manifest that it touches says so.

The answers have the weakness that the checks are for: asked about something that the context does not hold, they answer
from what it does hold. The judges never repeat the answer inside a rating's reply. What they see of quality is crude:
whether an answer speaks of what was asked, and whether its words stand together in the document. For records
(`* key value`) that tells a right value from a wrong one.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from lcx.data.words import content_words, words
from lcx.llm.protocol import Completion, Request, Response, Usage

# -- writing questions: cloze, key and value, and which definition holds a line of code

_FRESH_RECORD = re.compile(r"^\* (\S+) (\S+)( |$)")
_STALE = re.compile(r"^~ \S+ \S+( |$)")
_DEF = re.compile(r"^[^\S\n]*+(?:(?:async\s++)?def\s++(\w+)|class\s++(\w+))", re.M)
_KEY_VALUE = re.compile(r"^[^\S\n]*+[-*]?[^\S\n]*+([A-Za-z][\w ./-]{2,40}?):[ \t]+(\S[^\n]{1,80})$", re.M)
_STATEMENT = re.compile(r"(if|elif|else|for|while|try|except|with|return|lambda|case)\b")
_SENTENCE = re.compile(r"(?:[^.!?。！？\n]|[.!?](?![\s\"'”’)\]]|$))+[.!?。！？]?", re.M)
"""A stop inside a word, as in `os.path` and 3.5, ends no sentence."""
_WORD = re.compile(r"[A-Za-z][A-Za-z'-]{4,}|\d[\d.,]{2,}|[一-鿿]{2,6}")
ANSWERING = "answer_question"
"""The task of a request that asks a question about a context."""
GUESSING = 0.6
"""Share of a context's lines that are read for a sampled answer: reading all, the rules would always say the same."""
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
    record = _FRESH_RECORD.match(text)
    if record:  # the answer restates the key, so that the value follows it as it does in the record
        return record[1], f"{record[1]} {record[2]}"
    for rule in (_ask_code, _ask_pair, _ask_gap):
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
    found = [(m[1].strip(), m[2].strip()) for m in _KEY_VALUE.finditer(text)]
    return [(key, value) for key, value in found if not _STATEMENT.match(key)]


def sentences(text: str) -> list[str]:
    """Sentences, none over a line's end, with single blanks."""
    return [" ".join(sentence.split()) for sentence in _SENTENCE.findall(text)]


def gap_word(sentence: str, text: str) -> str:
    """The long word of a sentence that is rarest in the text, or an empty string."""
    found = sorted(set(_WORD.findall(sentence)), key=lambda w: (text.count(w), -len(w), w))
    return found[0] if found else ""


def _ask_code(text: str, rng: random.Random) -> tuple[str, str] | None:
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


def _ask_pair(text: str, rng: random.Random) -> tuple[str, str] | None:
    found = [(key, value) for key, value in pairs(text) if text.count(key) == 1]
    if not found:
        return None
    key, value = rng.choice(found)
    return PAIR.format(key), f"{key}: {value}"


def _ask_gap(text: str, rng: random.Random) -> tuple[str, str] | None:
    """A sentence with its rarest long word left out; the answer is the sentence filled in."""
    usable = [
        s for s in sentences(text) if 25 <= len(s) <= 240 and _WORD.search(s) and text.count(s[:40]) <= 1
    ]
    if not usable:
        return None
    sentence = rng.choice(usable)
    word = gap_word(sentence, text)
    return GAP.format(sentence.replace(word, BLANK, 1)), f"The word is “{word}”."


# -- answering from a context: looking up, and counting words

MOST_QUOTED = 300
"""Characters of a sentence that an answer quotes."""
_RECORDS = re.compile(r"^([*~]) (\S+) (\S+)(?= |$)", re.M)
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
    for rule in (_find_record, _find_code, _find_pair, _find_gap):
        found = rule(question, texts, rng)
        if found:
            return found
    return _extract(question, texts, rng)


def _find_record(question: str, texts: Sequence[str], rng: random.Random) -> str:
    """The value that stands behind a bare key; another record's where the key is not there."""
    if len(question.split()) != 1:
        return ""
    records = [match.groups() for text in texts for match in _RECORDS.finditer(text)]
    if not records:
        return ""
    values = {mark + key: value for mark, key, value in reversed(records)}
    value = values.get("*" + question) or values.get("~" + question) or rng.choice(records)[2]
    return f"{question} {value}"


def _find_code(question: str, texts: Sequence[str], rng: random.Random) -> str:
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


def _find_pair(question: str, texts: Sequence[str], rng: random.Random) -> str:
    asked = _PAIR.fullmatch(question)
    found = [pair for text in texts for pair in pairs(text)] if asked else []
    if not asked or not found:
        return ""
    value = dict(reversed(found)).get(asked[1]) or rng.choice(found)[1]
    return f"{asked[1]}: {value}"


def _find_gap(question: str, texts: Sequence[str], rng: random.Random) -> str:
    asked = _GAP.fullmatch(question)
    if not asked or BLANK not in asked[1]:
        return ""
    before, _, after = asked[1].partition(BLANK)
    whole = re.compile(rf"{re.escape(before)}(?<!\w)(\S{{1,240}}?)(?!\w){re.escape(after)}")
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
    return (found[shared.index(best)] if best else rng.choice(found))[:MOST_QUOTED].strip()


# -- checking questions: whether rules that look answers up find this one, and where

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


# -- judging long answers: ratings, statements, their support, and facts, by words in common

FULL, PARTIAL = 0.9, 0.6
"""Least share of a statement's words that stand in one line or sentence, for full and for partial support."""
TIE = 0.5
"""Ratings of two answers that differ by less are a tie."""
MOST_FACTS = 20
SHORT = 4
"""Words of a text up to which all of them tell what it is about: a key may be a stop word."""
NOTHING = "No relevant information"
_FACT_RECORD = re.compile(r"^\* (\S+ \S+)(?= |$)")
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
    said = _dotted_words(str(fields.get("answer", "")))
    return f"It says {len(set(said))} different words. {_rating(_varied(said))}"


def judge_statements(fields: Fields, rng: random.Random) -> str:
    """The answer's sentences, each between tags; `[[none]]` for an answer without words."""
    texts = [" ".join(_TAG.sub(" ", text).split()) for text in _sentences(str(fields.get("answer", "")))]
    found = dict.fromkeys(text for text in texts if _dotted_words(text))
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
    said = set(_dotted_words(str(fields.get("answer", ""))))
    asked = set(_dotted_words(str(fields.get("question", ""))))
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
    if abs(first - second) < TIE:
        return "[[C]]"
    return "[[A]]" if first > second else "[[B]]"


def covered(wanted: str, text: str) -> float:
    """Share of the words that tell what `wanted` is about that stand in `text`, 0 to 1; 0 for no words."""
    asked = _meant(wanted)
    return len(asked & set(_dotted_words(text))) / len(asked) if asked else 0.0


def _helpful(question: str, answer: str) -> float:
    return covered(question, answer) if set(_dotted_words(answer)) - set(_dotted_words(question)) else 0.0


def _overall(fields: Fields, answer: str) -> float:
    """What an answer is worth on the asked dimension, 0 to 10; on all together where it names none of them."""
    dimension = str(fields.get("dimension", "")).lower()
    question, context = str(fields.get("question", "")), str(fields.get("context") or "")
    found = {"helpfulness": _helpful(question, answer), "logicality": _varied(_dotted_words(answer))}
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
    said = _dotted_words(text)
    return frozenset(said if len(said) <= SHORT else content_words(_DOTTED.sub("_", text)) or said)


def _dotted_words(text: str) -> list[str]:
    """The words of a text as they are compared; `urllib.parse` is one, and no half of it is right."""
    return words(_DOTTED.sub("_", text))


@lru_cache(maxsize=512)
def _lines(text: str) -> tuple[tuple[frozenset[str], str], ...]:
    """Every line or sentence of a text that has words, with them: kept, since ten answers are held against one text."""
    rows = [
        row for line in text.split("\n") for row in ([line] if _FACT_RECORD.match(line) else _sentences(line))
    ]
    return tuple((frozenset(found), row) for row in rows if (found := _dotted_words(row)))


def _sentences(text: str) -> list[str]:
    """Sentences and lines with single blanks; a full stop ends one only where a blank follows."""
    return [" ".join(part.split()) for part in _END.split(text) if part.strip()]


def _fact(line: str) -> str:
    """A line as a fact: of a record its key and value, of others all."""
    record = _FACT_RECORD.match(line)
    return record[1] if record else line


# -- the generator


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


RULES: dict[str, Callable[[Mapping[str, Any], random.Random], str]] = {
    "write_question": write_question,
    "write_joint_question": write_joint_question,
    "answer_question": answer_question,
    "judge_overlap": judge_overlap,
    "judge_qa_check": judge_qa_check,
    "write_task": write_task,
    "judge_helpfulness": judge_helpfulness,
    "judge_logicality": judge_logicality,
    "judge_statements": judge_statements,
    "judge_support": judge_support,
    "judge_extract": judge_extract,
    "judge_completeness": judge_completeness,
    "judge_reference": judge_reference,
    "judge_qa": judge_qa,
    "judge_summary": judge_summary,
    "judge_versus": judge_versus,
}
