"""Metrics by name, as functions of (prediction, row): 0 to 1, or None where the row cannot be scored.

| metric | row | what it is |
|---|---|---|
| `f1`, `f1_zh` | answers | F1 over words, the best of the answers |
| `rouge_l`, `rouge_l_zh` | answers | ROUGE-L, the best of the answers |
| `classification` | answers, all_classes | 1 / classes named, if the right one is among them |
| `retrieval`, `retrieval_zh` | answers ("Paragraph 3", "段落3") | share of the numbers named that are right |
| `count` | answers | the same for a bare number |
| `code_similarity` | answers | similarity of the first line of code |
| `csqa` | answer, candidates | the candidate picked |
| `gsm8k` | answer | the number that a solution ends with |
| `multiple_choice` | answer (a letter), or answer and candidates | the letter picked |

`answers` is a list; `answer`, a text, will do in its place, and the other way round.
"""

from __future__ import annotations

import ast
import difflib
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal, DivisionByZero, InvalidOperation
from typing import Any

from lcx.data.words import nfkc
from lcx.evaluation import text_metrics

__all__ = [
    "BACKEND",
    "LETTERS",
    "NEXT_SHOT",
    "PUBLISHED",
    "Metric",
    "answers_of",
    "chosen",
    "class_named",
    "class_named_as_published",
    "classification",
    "classification_as_published",
    "code_similarity",
    "count",
    "count_as_published",
    "csqa",
    "csqa_as_film",
    "f1",
    "f1_zh",
    "final_number",
    "final_number_as_film",
    "gold_number",
    "gsm8k",
    "gsm8k_as_film",
    "letter_of_four",
    "line_similarity",
    "multiple_choice",
    "multiple_choice_as_published",
    "numbers_right",
    "paragraph_named",
    "picks",
    "picks_as_film",
    "retrieval",
    "retrieval_as_published",
    "retrieval_zh",
    "retrieval_zh_as_published",
    "rouge_l",
    "rouge_l_zh",
    "same_number",
]

Row = Mapping[str, Any]
Metric = Callable[[str, Row], float | None]


def answers_of(row: Row) -> list[str]:
    """The right answers of a row, as texts; none where it has none."""
    value = row.get("answers", row.get("answer"))
    if value is None:
        return []
    return [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]


def _best(row: Row, score: Callable[[list[str]], float]) -> float | None:
    answers = answers_of(row)
    return score(answers) if answers else None


def f1(pred: str, row: Row) -> float | None:
    return _best(row, lambda answers: text_metrics.english_f1(pred, answers))


def f1_zh(pred: str, row: Row) -> float | None:
    return _best(row, lambda answers: text_metrics.chinese_f1(pred, answers))


def rouge_l(pred: str, row: Row) -> float | None:
    return _best(row, lambda answers: text_metrics.rouge_l(pred, answers))


def rouge_l_zh(pred: str, row: Row) -> float | None:
    return _best(row, lambda answers: text_metrics.chinese_rouge_l(pred, answers))


def classification(pred: str, row: Row) -> float | None:
    return _best(row, lambda answers: class_named(pred, answers, _classes(row)))


def classification_as_published(pred: str, row: Row) -> float | None:
    return _best(row, lambda answers: class_named_as_published(pred, answers, _classes(row)))


def _classes(row: Row) -> Sequence[str]:
    return [str(name) for name in row.get("all_classes") or ()]


def retrieval(pred: str, row: Row) -> float | None:
    return retrieval_as_published(text_metrics.half_width(pred), row)


def retrieval_as_published(pred: str, row: Row) -> float | None:
    return _best(row, lambda answers: max(paragraph_named(pred, one, "Paragraph") for one in answers))


def retrieval_zh(pred: str, row: Row) -> float | None:
    return retrieval_zh_as_published(text_metrics.half_width(pred), row)


def retrieval_zh_as_published(pred: str, row: Row) -> float | None:
    return _best(row, lambda answers: max(paragraph_named(pred, one, "段落") for one in answers))


def count(pred: str, row: Row) -> float | None:
    return count_as_published(text_metrics.half_width(pred), row)


def count_as_published(pred: str, row: Row) -> float | None:
    return _best(row, lambda answers: max(numbers_right(pred, one.strip()) for one in answers))


PUBLISHED: dict[Metric, Metric] = {
    classification: classification_as_published,
    retrieval: retrieval_as_published,
    retrieval_zh: retrieval_zh_as_published,
    count: count_as_published,
}
"""Metrics that read more than the published code does, which takes figures of full width for no figures."""


def code_similarity(pred: str, row: Row) -> float | None:
    return _best(row, lambda answers: line_similarity(pred, answers))


def csqa(pred: str, row: Row) -> float | None:
    return _pick(pred, row, picks)


def csqa_as_film(pred: str, row: Row) -> float | None:
    return _pick(pred, row, picks_as_film)


def _pick(pred: str, row: Row, rule: Callable[[str, str, Sequence[str]], float]) -> float | None:
    candidates = [str(one) for one in row.get("candidates") or ()]
    answer = next(iter(answers_of(row)), None)
    if not candidates or answer is None:
        return None
    if answer not in candidates and answer in LETTERS[: len(candidates)]:
        answer = candidates[LETTERS.index(answer)]
    if answer not in candidates:
        return None
    return rule(pred, answer, candidates)


def gsm8k(pred: str, row: Row) -> float | None:
    return _numeric(pred, row, final_number)


def gsm8k_as_film(pred: str, row: Row) -> float | None:
    """Equal as floats, to the last bit: FILM asks for no less."""
    golds = [float(gold) for one in answers_of(row) if (gold := gold_number(one)) is not None]
    return float(final_number_as_film(pred) in golds) if golds else None


def _numeric(pred: str, row: Row, read: Callable[[str], Any]) -> float | None:
    golds = [gold for one in answers_of(row) if (gold := gold_number(one)) is not None]
    if not golds:
        return None
    found = read(pred)
    return max(same_number(found, gold) for gold in golds)


def multiple_choice(pred: str, row: Row) -> float | None:
    if row.get("candidates"):
        return _pick(pred, row, picks)
    return _best(row, lambda answers: float(letter_of_four(pred) in {one.strip() for one in answers}))


def multiple_choice_as_published(pred: str, row: Row) -> float | None:
    """A letter alone is what published files hold, read out of the reply; a reply itself needs the phrase."""
    read_out = "finish" not in row and row.get("response") != pred and pred in ("A", "B", "C", "D")
    letter = pred if read_out else letter_of_four(pred, strict=True)
    return _best(
        row, lambda answers: float(letter is not None and letter in {one.strip() for one in answers})
    )


# Multiple choice: which candidate a reply picks.

LETTERS = "ABCDEFGHIJ"
FILM_LETTERS = "ABCDEF"

_MARKUP = re.compile(r"[*_`]+")
_LATIN = "A-Za-zÀ-ÖØ-öø-ɏ"
_NO_WORD = rf"(?<![{_LATIN}\d_'’])"
_ENDS = rf"(?![{_LATIN}\d_'’])"
"""What shows that a letter stands by itself: no Latin letter beside it. In "选B" and "B选项" it does."""
_PICKED = re.compile(
    rf"(?<![{_LATIN}])(?:[Aa]nswer|[Oo]ption|[Cc]hoice)(?![{_LATIN}])(?:\s*+(?:is\b|是|为))?\s*+(?:[:=]\s*+)?[\"'“]?"
    rf"(?:\(([A-Ja-j])\)|([A-J]){_ENDS}|([a-j])(?=[.,;)\"'”。]|\s*$|\s*\n))"
    r"|(?<![不非选選])(?:答案|[选選](?![项項])|正解|答え|정답|답)(?:[是为為選选择擇はが은는]|应为|應為|[:=\s])*"
    rf"[\"'“”「『(\[]?([A-J]){_ENDS}"
    rf"|{_NO_WORD}([A-J])[)\]」』]?(?:[选選][项項])?[是为為才は가이が]*\s*(?<!不)(?:正[确確]|[对對]的|正解|정답)"
)
"""A small letter counts in brackets or where nothing follows it: "the answer is a tree" names none."""
_ALONE = re.compile(r"\s*[\"'“「]?[(\[]?([A-Ja-j])[)\]]?(?:[.:,)\s\"'”。、」;]|$)")
_BRACKETED = re.compile(r"\(([A-J])\)")
_CAPITAL = re.compile(rf"{_NO_WORD}([B-HJ]|(?<=[⺀-鿿가-힣])[AI]|[AI](?=[⺀-鿿가-힣])){_ENDS}")
"""A capital by itself. A and I are words too, but not beside a sign of Chinese, Japanese or Korean."""
_JOINS_LETTERS = r"[ *_]?(?:[,、/&，]|(?:or|nor|and)\b|[或和与及])[ *_]?"
_ARTICLE_NAMED = re.compile(
    rf"{_NO_WORD}([AI])\)?{_JOINS_LETTERS}\(?[A-J]{_ENDS}|{_NO_WORD}[A-J]\)?{_JOINS_LETTERS}\(?([AI]){_ENDS}"
)
"""An A or I that stands beside another letter is one too: "A or B", "neither B nor A"."""
_ANOTHER = re.compile(rf"{_JOINS_LETTERS}\(?[A-J]{_ENDS}")
_V2_BRACKETS = re.compile(r"The correct answer is \(([A-D])\)")
_V2_BARE = re.compile(r"The correct answer is ([A-D])")
_V2_LETTER = re.compile(r"\s*\(?([A-D])\)?[.:]?\s*")
_FOUR = ("\0a", "\0b", "\0c", "\0d")
"""Four candidates whose texts occur nowhere: the letter has to be named."""


def chosen(pred: str, candidates: Sequence[str]) -> int | None:
    """Place of the candidate that a reply picks, or None.

    Looked for in this order: the letter after the last "answer is" (or "option", "choice"), a letter that the reply
    begins with, the only letter in brackets or standing alone, the only candidate whose text occurs. A further
    few-shot question and what follows it are cut off before. The article in "A man" is no letter.
    """
    text = _MARKUP.sub("", NEXT_SHOT.split(_narrow(pred).strip(), maxsplit=1)[0]).strip()
    letters = LETTERS[: len(candidates)]
    said = [
        letter
        for found in _PICKED.finditer(text)
        if (letter := found[found.lastindex or 0].upper()) in letters
    ]
    if said:
        return letters.index(said[-1])
    opening = _ALONE.match(text)
    if opening and opening[1].upper() in letters and _is_choice(text, opening):
        return letters.index(opening[1].upper())
    beside = {one[1] or one[2] for one in _ARTICLE_NAMED.finditer(text)}
    for pattern in (_BRACKETED, _CAPITAL):
        named = {found for found in pattern.findall(text) if found in letters}
        named |= beside & set(letters) if pattern is _CAPITAL else set()
        if len(named) == 1:
            return letters.index(named.pop())
    whole = [
        place
        for place, candidate in enumerate(candidates)
        if text_metrics.contains(text, _narrow(candidate), whole_words=True, fold=True)
    ]
    return whole[0] if len(whole) == 1 else None


def _narrow(text: str) -> str:
    """The text with letters and punctuation of full width as those of ASCII."""
    return nfkc(text)


def _is_choice(text: str, opening: re.Match[str]) -> bool:
    """Whether the letter that a reply begins with is a choice: not the article in "a man", nor the I of "I think", nor
    one of two in "A or B".
    """
    rest = text[opening.end(1) :]
    if _ANOTHER.match(rest.lstrip(")")):
        return False
    return not rest or not rest[0].isspace() or rest.lstrip(" ")[:1] in ("", "\n", "-", "–", ":")


def picks(pred: str, answer: str, candidates: Sequence[str]) -> float:
    """1 where the reply picks the right candidate."""
    place = chosen(pred, candidates)
    return float(place is not None and candidates[place] == answer)


def picks_as_film(pred: str, answer: str, candidates: Sequence[str]) -> float:
    """1 where the first capital letter from A to F (A if there is none) is the place of the right candidate."""
    place = FILM_LETTERS.index(next((sign for sign in pred if sign in FILM_LETTERS), "A"))
    return float(place < len(candidates) and candidates[place] == answer)


def letter_of_four(pred: str, *, strict: bool = False) -> str | None:
    """The letter A to D that a reply to LongBench v2 gives, or None.

    The published phrase "The correct answer is (B)", with brackets first and without them next. Unless `strict`, a
    reply that is nothing but the letter, or else whatever `chosen` finds.
    """
    plain = pred.replace("*", "") if strict else _narrow(pred).replace("*", "")
    for pattern in (_V2_BRACKETS, _V2_BARE):
        if found := pattern.search(plain):
            return found[1]
    if strict:
        return None
    if alone := _V2_LETTER.fullmatch(plain):
        return alone[1]
    place = chosen(pred, _FOUR)
    return None if place is None else LETTERS[place]


# Arithmetic: the number that a worked solution ends with.

NEXT_SHOT = re.compile(r"\n[^\S\n]*+(?:Q|Question|Problem)\s*+\d*+\s*+:", re.I)
_NEXT_SHOT_FILM = re.compile(r"\n\n(?:Q|Question): ")
_ANSWER_IS = re.compile(r"\bthe (?:final )?answer is\b[:\s]*", re.I)
_SAID = "The answer is"
"""What FILM looks for, with this capital; the last one counts, whatever its letters."""
_HASHES = re.compile(r"####\s*(.+)")
_BOXED = re.compile(r"\\boxed\s*\{([^{}]*)\}")
_NUMBER = re.compile(r"(?:(?<!\d)[-−])?\s?[$£€¥]?\s?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:\s?/\s?\d+)?")
_VALUE = re.compile(r"[-+]?(?:\d++(?:\.\d*+)?|\.\d++)")
_JOINS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}


def gold_number(answer: str) -> Decimal | None:
    """The number of a reference: after "####" as GSM8K publishes it, after "the answer is", or all of the text."""
    if marked := _HASHES.search(answer):
        return _number_of(marked[1])
    if _ANSWER_IS.search(answer):
        return final_number(answer)
    return _number_of(answer)


def final_number(pred: str) -> Decimal | None:
    """The number that a solution ends with, or None where it has none.

    Looked for in this order: after the last "the answer is", after "####", in the last `\\boxed{}`, else the last
    number of all; of a sum that is worked out, what it comes to. A further few-shot question and what follows it
    are cut off before.
    """
    text = NEXT_SHOT.split(pred, maxsplit=1)[0]
    places = [found.end() for found in _ANSWER_IS.finditer(text)]
    marked = [found[1] for pattern in (_HASHES, _BOXED) for found in pattern.finditer(text)]
    for part in [text[places[-1] :]] if places else marked[-1:]:
        if found := _NUMBER.search(part.partition("\n")[0].rpartition("=")[2]):
            return _number_of(found[0])
    numbers = _NUMBER.findall(text)
    return _number_of(numbers[-1]) if numbers else None


def final_number_as_film(pred: str) -> float | None:
    """The word after the last "the answer is ", as FILM reads it; None where it stands nowhere with a capital T.

    Cut at a further few-shot question. The word ends at a blank, not at a line's end. Currency, commas and final stops
    are removed, as are letters, quotes and a last per cent sign, and what stands before `=` or `>>`. A sum that is not
    worked out is, brackets and powers too.
    """
    text = _NEXT_SHOT_FILM.split(pred, maxsplit=1)[0].replace(f"{_SAID}: ", f"{_SAID} ").rstrip(".\n")
    if f"{_SAID} " not in text:
        return None
    word = text.lower().rpartition(f"{_SAID.lower()} ")[2].partition(" ")[0]
    word = re.sub(r"\.{0,2}\Z", "", re.sub("[£€]", "", word)).replace(",", "")
    word = re.sub(r"[$\"a-z]", "", re.split(r"=|>>", word)[-1]).partition(":")[0].strip()
    return _worked_out(word.removesuffix("%").removesuffix("/"))


def same_number(found: Decimal | None, wanted: Decimal | None) -> float:
    """1 where there are two numbers and they are equal: 18, 18.0 and 18.00 are."""
    return float(found is not None and wanted is not None and abs(found - wanted) < Decimal("1e-6"))


def _number_of(text: str) -> Decimal | None:
    """A number as people write it, currency, thousands, per cent and fractions included."""
    plain = re.sub(r"[$£€¥,%\s]", "", text).replace("−", "-").rstrip(".")
    upper, slash, lower = plain.partition("/")
    if not _VALUE.fullmatch(upper) or (slash and not _VALUE.fullmatch(lower)):
        return None
    try:
        return Decimal(upper) / Decimal(lower) if slash else Decimal(upper)
    except (InvalidOperation, DivisionByZero):
        return None


_LONGEST_SUM = 80
"""Signs of a sum that is worked out: no solution has more, and a power of powers must not keep the machine busy."""
_LARGEST_POWER = 64


def _worked_out(text: str) -> float | None:
    """The value of a number, or of numbers joined as Python's + - * / // and ** join them; None for anything else."""
    if len(text) > _LONGEST_SUM:
        return None
    try:
        if not re.search(r"[-+*/]", text):
            return float(text)
        return float(_value(ast.parse(text, mode="eval").body))
    except (ValueError, SyntaxError, ArithmeticError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr) -> float:
    if (
        isinstance(node, ast.Constant)
        and isinstance(node.value, int | float)
        and not isinstance(node.value, bool)
    ):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        inside = _value(node.operand)
        return -inside if isinstance(node.op, ast.USub) else inside
    if isinstance(node, ast.BinOp) and (join := _JOINS.get(type(node.op))) is not None:
        left, right = _value(node.left), _value(node.right)
        if join is operator.pow and abs(right) > _LARGEST_POWER:
            raise ValueError("a power that nobody means")
        found = join(left, right)
        if isinstance(found, int | float):
            return found
    raise ValueError("no arithmetic")


# One of several things that a reply names: a class, a paragraph, a line of code.

BACKEND = "difflib"
"""What the similarity of code is measured with: the published tool gives other numbers where python-Levenshtein is."""

_DIGITS = re.compile(r"\d+")
_COMMENT = ("`", "#", "//")
"""A line that has one of these is taken for a fence or a comment, and passed over."""


def class_named(pred: str, answers: Iterable[str], classes: Sequence[str]) -> float:
    """One over the number of classes that occur in the prediction, if the right one does; else 0.

    A class whose name is only part of the right one's does not count as named.
    """
    return max((_shared(answer, _named(pred, answer, classes)) for answer in answers), default=0.0)


def class_named_as_published(pred: str, answers: Iterable[str], classes: Sequence[str]) -> float:
    """The same as LongBench counts it: of two such parts found one after the other, the second stays in."""
    return max((_shared(answer, _named(pred, answer, classes, skip=True)) for answer in answers), default=0.0)


def _named(pred: str, answer: str, classes: Sequence[str], *, skip: bool = False) -> list[str]:
    """The classes in the prediction, without those that are part of the answer's name.

    With `skip`, the one that follows a class taken out is not looked at, as when a list is walked while it shrinks.
    """
    kept: list[str] = []
    passed = False
    for name in (name for name in classes if name in pred):
        part = name in answer and name != answer and not passed
        passed = skip and part
        if not part:
            kept.append(name)
    return kept


def _shared(answer: str, named: Sequence[str]) -> float:
    return 1 / len(named) if answer in named else 0.0


def numbers_right(pred: str, wanted: str) -> float:
    """The share of the numbers in the prediction that are the one wanted; 0 where it has none."""
    numbers = _DIGITS.findall(pred)
    return numbers.count(wanted) / len(numbers) if numbers else 0.0


def paragraph_named(pred: str, answer: str, word: str) -> float:
    """`numbers_right` for an answer such as "Paragraph 15", where `word` is what stands before its number."""
    found = re.search(rf"{re.escape(word)} ?(\d+)", answer)
    return numbers_right(pred, found[1]) if found else 0.0


def line_similarity(pred: str, answers: Iterable[str]) -> float:
    """Similarity in whole percent of the prediction's first line of code and the line that fits it best.

    Lines with a fence or a comment sign are passed over. Matching blocks are those that difflib finds (`BACKEND`), and
    the ratio is rounded to hundredths, as in the published scores.
    """
    lines = pred.lstrip("\n").split("\n")
    line = next((line for line in lines if not any(mark in line for mark in _COMMENT)), "")
    return max((_ratio(line, answer) for answer in answers), default=0.0)


def _ratio(line: str, answer: str) -> float:
    if line == answer:
        return 1.0
    if not line or not answer:
        return 0.0
    return round(100 * difflib.SequenceMatcher(None, line, answer).ratio()) / 100
