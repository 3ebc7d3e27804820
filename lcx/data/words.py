"""Words of any language as they are compared: folded, numbers and identifiers whole, bigrams where no spaces are.

Pure functions without data files. Text in Chinese, Japanese, Korean or Thai gives overlapping pairs of characters
(runs of katakana stay whole), since a longest match would need a dictionary.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

_HAN = "\u3005\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_HIRAGANA = "\u3041-\u309f"
_KATAKANA = "\u30a0-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
_HANGUL = "\uac00-\ud7a3\u1100-\u11ff"
_SPACELESS = (
    "\u0e01-\u0e4e\u0e81-\u0ece\u0f40-\u0fbc\u1000-\u103f\u1780-\u17d3"  # Thai, Lao, Tibetan, Burmese, Khmer
)
_WIDE = _HAN + _HIRAGANA + _KATAKANA + _HANGUL + _SPACELESS
_MARKS = "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0670\u0900-\u0903\u093a-\u094f\u0951-\u0957\u0962\u0963\u0981-\u0dff"
_SCAN = re.compile(
    rf"(\d+(?:\.\d+)+)|([^\W{_WIDE}](?:[^\W{_WIDE}]++|[{_MARKS}])*+)"
    rf"|([{_HAN}]+|[{_HIRAGANA}]+|[{_HANGUL}]+|[{_SPACELESS}]+)|([{_KATAKANA}]+)"
)
_RUN, _KANA = 3, 4
_ASCII = re.compile(r"\d+(?:\.\d+)+|\w+", re.ASCII)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_POSSESSIVE = re.compile(r"(?<=\w)['’]s\b", re.I)
_ALL_HIRAGANA = re.compile(rf"[{_HIRAGANA}]+")

_HAN_STOP = re.compile(
    "为什么|為什麼|什么样|什么|什麼|怎么样|怎么|怎麼|怎样|如何|为何|何时|何處|何处|哪个|哪些|哪里|哪儿|哪一|多少|请问|是否|"
    "可以|能够|根据|以及|关于|關於|有没有|没有|他们|她们|它们|我们|你们|这个|那个|这些|那些|这里|那里|"
    "[的了是在谁誰吗嗎呢吧啊和与與及或把被这這那之其]"
)


@dataclass(frozen=True)
class Word:
    """One word: `text` as compared, its place `[start, end)`, and whether it begins with a capital letter."""

    text: str
    start: int
    end: int
    capital: bool
    wide: bool
    """Whether it is of a script without spaces."""


_STACK = re.compile(r"[^\x00-\u02ff\s\w]{31,}")
"""What may be a stack of combining marks: longer than Unicode's stream-safe format allows."""


def stacked(text: str) -> int:
    """How many combining marks stand upon each other, where there are more than thirty; else 0."""
    if text.isascii():
        return 0
    runs = (sum(map(bool, map(unicodedata.combining, run))) for run in _STACK.findall(text))
    return max((count for count in runs if count > 30), default=0)


def nfkc(text: str) -> str:
    """A text in the form NFKC. Stacks of marks are parted (U+034F) before: sorting one takes its height squared."""
    if not stacked(text):
        return unicodedata.normalize("NFKC", text)

    def parted(stack: re.Match[str]) -> str:
        return "\u034f".join(stack[0][place : place + 30] for place in range(0, len(stack[0]), 30))

    return unicodedata.normalize("NFKC", _STACK.sub(parted, text))


def clean(text: str) -> str:
    """The text as `scan` reads it: compatibility characters, thousands' commas and possessives resolved."""
    return _POSSESSIVE.sub("", _THOUSANDS.sub("", nfkc(text)))


def scan(text: str) -> Iterator[Word]:
    """The words of a text that `clean` made, in order."""
    for match in _SCAN.finditer(text):
        raw, start, kind = match.group(), match.start(), match.lastindex
        if kind == _RUN:
            for place, piece in enumerate(pairs(raw), start):
                yield Word(piece, place, place + len(piece), False, True)
        else:
            yield Word(fold(raw), start, match.end(), raw[0].isupper(), kind == _KANA)


def words(text: str) -> list[str]:
    """Every word of a text as it is compared."""
    text = clean(text)
    if text.isascii():  # most text, and three times faster
        return [fold(word) for word in _ASCII.findall(text)]
    found: list[str] = []
    for match in _SCAN.finditer(text):
        if match.lastindex == _RUN:
            found += pairs(match.group())
        else:
            found.append(fold(match.group()))
    return found


def pairs(run: str) -> list[str]:
    """Neighbouring characters of a run two by two; a single character as it is."""
    return [run[place : place + 2] for place in range(max(1, len(run) - 1))]


def content_words(text: str) -> list[str]:
    """The words that say what a text is about: no stop words, no single letters, no bare hiragana."""
    return [word.text for word in scan(without_function_words(clean(text))) if tells(word.text)]


def without_function_words(text: str) -> str:
    """The text with blanks for Chinese question and function words: they would lend their characters to pairs."""
    return _HAN_STOP.sub(" ", text)


def tells(word: str) -> bool:
    """Whether a folded word says anything of what a text is about."""
    return len(word.strip("_")) > 1 and word not in STOP and not _ALL_HIRAGANA.fullmatch(word)


@lru_cache(maxsize=1 << 16)
def fold(word: str) -> str:
    """A word without case, and without an English plural's ending. Identifiers with `_` or digits keep theirs."""
    small = word.casefold()
    if len(small) < 4 or not (small.isascii() and small.isalpha()) or not small.endswith("s"):
        return small
    if small.endswith("ies") and len(small) > 4:
        return small[:-3] + "y"
    if small.endswith(("ss", "us", "is")):
        return small
    if small.endswith(("ches", "shes", "sses", "xes", "zes")):
        return small[:-2]
    return small[:-1]


_STOP = """
    a about above across after again against all almost along already also although always am among an and another
    any anybody anyone anything anywhere are aren around as at away back be became because become becomes been
    before began behind being below beside besides best better between beyond both but by came can cannot come comes
    could couldn contain contained containing contains d did didn do does doesn doing don done down during each
    either else enough etc even ever every everybody everyone everything everywhere except far few for from further
    gave get gets getting give given gives go goes going gone got had hadn has hasn have haven having he hence her
    here hers herself him himself his how however i if in indeed instead into is isn it its itself just keep kept
    know known last later least less let like likely ll made make makes making many may maybe me mean means meant
    might mine more most mostly much must my myself name named names near need needs neither never next no nobody
    none nor not nothing now nowhere of off often on once one ones only onto or other others otherwise our ours
    ourselves out over own per perhaps please put quite rather re really s said same saw say says see seem seemed
    seems seen several shall she should shouldn show shown shows since so some somebody somehow someone something
    sometimes somewhere still such t take taken takes tell tells than that the their theirs them themselves then
    there therefore these they thing things this those though three through throughout thus to together too took
    toward towards two under until up upon us use used uses using ve very via was wasn way ways we well went were
    weren what whatever when whenever where whereas wherever whether which whichever while who whoever whole whom
    whose why will with within without won would wouldn yes yet you your yours yourself according answer ask asked
    asks describe described describes detail details explain explained explains following mention mentioned mentions
    passage question text
"""
STOP = frozenset(_STOP.split()) | {fold(word) for word in _STOP.split()}
"""English words that tell nothing of what a question is about. Of other languages, how common a word is tells it."""
