"""Scores of a text against its reference: words found, F1, ROUGE-L, Chinese words; what is looked at before scoring.

Pure functions on text, each between 0 and 1. ROUGE-L is at the level of summaries, by the arithmetic of the `rouge`
package that published scores come from. It differs from the original ROUGE in what it counts: sentences end at every
full stop, and a summary is the *set* of its words. Recall is the share of the reference's distinct words that lie on
a longest common subsequence of one of its sentences and one of the prediction's, precision the same number over the
prediction's distinct words. Chinese text is segmented with jieba, as the published scores do: the same words need the
same library.
"""

from __future__ import annotations

import functools
import logging
import re
import string
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lcx.paths import cache_folder

__all__ = [
    "bag_f1",
    "chinese_f1",
    "chinese_rouge_l",
    "chinese_tokens",
    "chinese_words",
    "common_subsequence",
    "contains",
    "document_recall",
    "english_f1",
    "english_tokens",
    "first_line",
    "first_paragraph",
    "half_width",
    "is_whole",
    "label_or_description",
    "name_found",
    "refuses",
    "rouge_l",
    "sentences",
    "summary_f",
]


def contains(text: str, part: str, *, whole_words: bool = False, fold: bool = False) -> bool:
    """Whether `part` occurs in `text`; in any case of letters with `fold`. An empty `part` never does.

    With `whole_words` an occurrence inside a longer word, number or dotted name does not count: `re` is not found in
    `threading`, nor `email` in `email.utils`, nor `7` in `7.5`. An edge is refused by a neighbour of its own kind
    only: a number may stand between Chinese words, in `_..._`, and before a full stop and the next sentence. Letters
    and figures of full width are those of ASCII, and a number is the same with and without signs between its thousands:
    4819263 is found in `4,819,263`, `4.819.263` and `4 819 263`.
    """
    text, part = half_width(text), half_width(part)
    searched = text.casefold() if fold else text
    wanted = part.casefold() if fold else part
    if not wanted:
        return False
    if not whole_words:
        return wanted in searched
    shown = text if len(text) == len(searched) else searched  # capitals tell where a sentence begins
    place = searched.find(wanted)
    while place >= 0:
        if is_whole(shown, place, place + len(wanted)):
            return True
        place = searched.find(wanted, place + 1)
    return _number_found(shown, wanted)


_THOUSANDS = r"[,.'_ \u00a0\u2009\u202f\u2019\uff0c\u066c]"
_GROUPED = re.compile(r"\d{1,3}([,' \u00a0\u2009\u202f\u2019])\d{3}(?:\1\d{3})*")


def _number_found(text: str, number: str) -> bool:
    """Whether a number of four figures and more stands in a text, with other signs between its thousands or none."""
    figures = re.sub(_THOUSANDS, "", number) if _GROUPED.fullmatch(number) else number
    if len(figures) < 4 or not (figures.isascii() and figures.isdigit()):
        return False
    return any(
        is_whole(text, found.start(), found.end()) and not _one_more(text, found)
        for found in _written(figures).finditer(text)
    )


@functools.lru_cache(maxsize=1024)
def _written(figures: str) -> re.Pattern[str]:
    """A number as people write it: in one, in thousands, or in lakhs and crores as in India (48,19,263)."""
    ends = [-3, *range(-5, -len(figures), -2)]
    lakhs = ",".join(
        figures[begin:end] for begin, end in zip([None, *ends[::-1]], [*ends[::-1], None], strict=True)
    )
    first = len(figures) % 3 or 3
    groups = [figures[:first], *(figures[place : place + 3] for place in range(first, len(figures), 3))]
    signs = _THOUSANDS if len(groups) > 2 else _THOUSANDS.replace(".", "")  # 4.819 is less than five
    thousands = groups[0] + f"(?P<sign>{signs})" + "(?P=sign)".join(groups[1:])
    return re.compile(rf"{figures}|{thousands}|{lakhs}")


def _one_more(text: str, found: re.Match[str]) -> bool:
    """Whether a further group of figures makes a number a longer one: 4,819,263 in 4,819,263,500 or in 12,4,819,263."""
    sign = found["sign"]
    if sign is None:
        return False
    after = re.match(rf"{re.escape(sign)}\d{{3}}(?!\d)", text[found.end() : found.end() + 5])
    return after is not None or (
        sign != " " and text[: found.start()].endswith(sign) and text[: found.start() - 1][-1:].isdigit()
    )


_HALF_WIDTH = {
    code: code - 0xFEE0
    for first, last in ((0xFF10, 0xFF19), (0xFF21, 0xFF3A), (0xFF41, 0xFF5A))
    for code in range(first, last + 1)
}
_UNSPACED = frozenset({"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL", "BOPOMOFO"}) | frozenset(
    {"THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "IDEOGRAPHIC"}
)
"""Scripts that set no blanks between words, or write endings to them: no neighbour tells that a word goes on."""


def half_width(text: str) -> str:
    """The text with letters and figures of full width as those of ASCII."""
    return text.translate(_HALF_WIDTH)


def is_whole(text: str, start: int, end: int) -> bool:
    """Whether `text[start:end]` is no part of a longer word, number or dotted name."""
    first, last = text[start], text[end - 1]
    before, after = text[max(0, start - 2) : start][::-1], text[end : end + 2]
    if before[:1] == after[:1] == "_" and not (_kind(before[1:]) or _kind(after[1:])):
        return True  # _emphasis_
    if _goes_on(first, before, first) or _goes_on(last, after, after[1:]):
        return False
    return not (_is_name(_kind(last)) and after[:1].isdigit())  # foo2


def _goes_on(edge: str, beside: str, right: str) -> bool:
    """Whether a word or number goes on from its sign `edge` into the two `beside` it, the nearer first.

    `right` is what would stand at the right of a full stop: a capital there begins a sentence.
    """
    kind = _kind(edge)
    if not kind:
        return False
    if beside[:1] == "_":
        return _is_name(kind)
    if beside[:1] == ".":
        return _kind(beside[1:]) == kind and not right.isupper()
    return _kind(beside[:1]) == kind


def _is_name(kind: str) -> bool:
    return kind not in ("", "digit")


def _kind(sign: str) -> str:
    """What a sign is of: `digit`, the script of a letter, or nothing, as for the letters of scripts without blanks."""
    if sign.isdigit():
        return "digit"
    if not sign.isalpha():
        return ""
    script = unicodedata.name(sign, "").replace("FULLWIDTH ", "").partition(" ")[0]
    return "" if script in _UNSPACED else script


def document_recall(sentence: str, pred: str) -> float:
    """Share of the sentence's distinct lower-cased words (split at white space) that the prediction has."""
    wanted = set(sentence.lower().split())
    return len(wanted & set(pred.lower().split())) / len(wanted) if wanted else 0.0


def name_found(name: str, pred: str, *, whole_words: bool = False) -> float:
    """1.0 where the function name occurs in the prediction; case counts, full stops around the name do not."""
    return float(contains(pred, name.strip("."), whole_words=whole_words))


def label_or_description(label: str, description: str, pred: str, *, whole_words: bool = False) -> float:
    """1.0 where the label or the description occurs in the prediction; case and their full stops do not count."""
    return float(
        any(
            contains(pred, part.strip("."), whole_words=whole_words, fold=True)
            for part in (label, description)
        )
    )


_REFUSAL = re.compile(
    r"""(?:i(?:['’]m|\ am)?\ (?:really\ |very\ |truly\ )?(?:sorry|apologi[sz]e)|sorry|apologies|my\ apologies
    |(?:but\ |unfortunately,?\ )?i\ (?:can(?:no|['’])t|can\ not|could\ not|couldn['’]t|won['’]t|will\ not
        |am\ unable\ to|am\ not\ able\ to|do\ not\ feel\ comfortable|don['’]t\ feel\ comfortable)
    |i['’]m\ (?:unable|not\ able)\ to
    |as\ an?\ (?:ai|artificial\ intelligence|(?:large\ )?language\ model)
    |(?:很|非常)?(?:抱歉|对不起)|作为(?:一个|一名)?(?:ai|人工智能|语言模型)|我(?:无法|不能)(?:回答|提供|完成|协助))""",
    re.I | re.X,
)


def first_line(text: str) -> str:
    """The first line that is not empty: what few-shot prompts ask for; a model may go on with further examples."""
    return text.lstrip("\n").partition("\n")[0]


def first_paragraph(text: str) -> str:
    """What stands before the first blank line; nothing where the text begins with one."""
    return text.partition("\n\n")[0]


def refuses(text: str) -> bool:
    """Whether a prediction begins as a refusal: an apology, an inability in the first person, or "as an AI".

    Such rows are counted, and scored as any other. "Unanswerable" is an answer.
    """
    return _REFUSAL.match(text.lstrip(" \t\r\n\"'“”‘*_-")) is not None


def chinese_words(text: str) -> list[str]:
    """The words of a Chinese text as jieba cuts it, blanks and punctuation included, in order."""
    return list(_tokenizer().cut(text, cut_all=False))


@functools.lru_cache(maxsize=1)
def _tokenizer() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own: of old escapes, and of pkg_resources
        import jieba
    jieba.setLogLevel(logging.WARNING)
    found = jieba.Tokenizer()
    # Its cache of the dictionary would lie in the machine's shared temporary folder, under a name anyone may take.
    folder = cache_folder() / "jieba"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found.tmp_dir = str(folder)
    except OSError:
        found.cache_file = None
    return found


_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_ASCII = dict.fromkeys(map(ord, string.punctuation))
_WIDE_RANGES = (
    (0x2013, 0x2014),
    (0x2018, 0x2019),
    (0x201B, 0x201F),
    (0x2026, 0x2027),
    (0x3001, 0x3003),
    (0x300B, 0x3011),
    (0x3014, 0x301F),
    (0x3030, 0x3030),
    (0x303E, 0x303F),
    (0xFE4F, 0xFE4F),
    (0xFF01, 0xFF0D),
    (0xFF0F, 0xFF0F),
    (0xFF1A, 0xFF20),
    (0xFF3B, 0xFF40),
    (0xFF5B, 0xFF64),
)
"""Chinese and full-width punctuation by code point: those that the published scores of Chinese answers ignore."""
_WIDE = _ASCII | {code: None for first, last in _WIDE_RANGES for code in range(first, last + 1)}


def english_tokens(text: str) -> list[str]:
    """Lower-cased words without ASCII punctuation and articles."""
    return _ARTICLE.sub(" ", text.lower().translate(_ASCII)).split()


def chinese_tokens(text: str) -> list[str]:
    """Lower-cased words as jieba segments them, without punctuation."""
    plain = ("".join(word.lower().translate(_WIDE).split()) for word in chinese_words(text))
    return [word for word in plain if word]


def bag_f1(found: Sequence[str], wanted: Sequence[str]) -> float:
    """Harmonic mean of precision and recall over the two bags; 0 where they share nothing, or are empty."""
    shared = sum((Counter(found) & Counter(wanted)).values())
    return 2 * shared / (len(found) + len(wanted)) if shared else 0.0


def english_f1(pred: str, answers: Iterable[str]) -> float:
    """F1 with the answer that fits best."""
    found = english_tokens(pred)
    return max((bag_f1(found, english_tokens(answer)) for answer in answers), default=0.0)


def chinese_f1(pred: str, answers: Iterable[str]) -> float:
    """F1 over Chinese words with the answer that fits best."""
    found = chinese_tokens(pred)
    return max((bag_f1(found, chinese_tokens(answer)) for answer in answers), default=0.0)


TINY = 1e-8
"""What the package adds to the denominator of F, so that 0/0 is 0; an exact match falls short of 1 by half of it."""


def sentences(text: str) -> list[list[str]]:
    """The words of each sentence. One of blanks alone is a sentence of one empty word, as the package has it."""
    return [" ".join(part.split()).split(" ") for part in text.split(".") if part]


def common_subsequence(reference: Sequence[str], found: Sequence[str]) -> list[str]:
    """A longest common subsequence of two sentences.

    Where there are several, it is the one traced from the two ends that gives up a word of `found` before one of
    `reference` if that loses nothing; the choice matters, since the sentences' words are united afterwards.
    """
    # A row of the usual table is one whole number: bit j is 0 where the length grows at word j of `found`.
    places: dict[str, int] = {}
    for place, word in enumerate(found):
        places[word] = places.get(word, 0) | 1 << place
    full = (1 << len(found)) - 1
    rows = [full]
    for word in reference:
        row = rows[-1]
        matched = row & places.get(word, 0)
        rows.append(((row + matched) | (row - matched)) & full)
    traced: list[str] = []
    i, j = len(reference), len(found)
    while i and j:
        if reference[i - 1] == found[j - 1]:
            traced.append(found[j - 1])
            i, j = i - 1, j - 1
        elif rows[i] >> (j - 1) & 1:
            j -= 1
        else:
            i -= 1
    return traced[::-1]


def summary_f(pred: str, reference: str) -> float:
    """F of ROUGE-L for one reference; 0 where either has no sentence."""
    predicted, wanted = sentences(pred), sentences(reference)
    if not predicted or not wanted:
        return 0.0
    common = {word for theirs in wanted for ours in predicted for word in common_subsequence(theirs, ours)}
    recall = len(common) / len({word for sentence in wanted for word in sentence})
    precision = len(common) / len({word for sentence in predicted for word in sentence})
    return 2 * precision * recall / (precision + recall + TINY)


def rouge_l(pred: str, answers: Iterable[str]) -> float:
    """ROUGE-L with the reference that fits best."""
    return _best(pred, answers, lambda text: text)


def chinese_rouge_l(pred: str, answers: Iterable[str]) -> float:
    """ROUGE-L over Chinese words with the reference that fits best."""
    return _best(pred, answers, lambda text: " ".join(chinese_words(text)))


def _best(pred: str, answers: Iterable[str], spaced: Callable[[str], str]) -> float:
    found = spaced(pred)
    return max((summary_f(found, spaced(answer)) for answer in answers), default=0.0)
