"""How the judge's replies are read: ratings, statements, levels of support, facts. Pure functions.

Each reader returns `Unreadable`, with the reason, where a reply holds nothing of the kind; it is then asked for again.
Only replies come here, never the texts that are judged, so marks inside an answer mean nothing. A judge may quote such
marks before it rates: the last one counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lcx.llm.prompts import visible

HIGHEST = 10.0
NO_INFORMATION = "No relevant information"
"""What stands in place of a part's facts where it holds none."""

MARKED = re.compile(r"\[\[([^\[\]]*)\]\]")
"""What a reply has in double square brackets."""
_NUMBER = re.compile(r"[+-]?\d+(?:[.,]\d+)?")
_STATEMENT = re.compile(r"<statement>(.*?)</statement>", re.S | re.I)
_NOTHING = re.compile(r"\[\[\s*(?:none|no statements?|无|没有)\s*\]\]", re.I)
_ITEM = re.compile(r"^[\s>*_]*(?:\d+\s*[.)、．）:：](?!\d)|[-*](?=\s)|•)[\s*_]*(?=\S)", re.M)
"""What begins an item of a list: `3.` and `-` do, `3.5 million`, `12:30` and `**Facts:**` do not."""
_NO_INFORMATION = re.compile(
    r"no relevant information|(?:没有|无|未发现|未找到)(?:任何)?相关(?:的)?信息", re.I
)
_NEGATED = re.compile(r"\bnot\s+fully|[不未非](?:能|是)?完全", re.I)
_LEVELS = (
    (re.compile(r"partial", re.I), 0.5),  # before `fully`: a hedge that names both is no full support
    (re.compile("部分"), 0.5),
    (re.compile(r"\bfully", re.I), 1.0),
    (re.compile("完全支持|充分支持|全部支持"), 1.0),
)


@dataclass(frozen=True)
class Unreadable:
    """Why a reply could not be read."""

    why: str


def read_rating(reply: str, low: float = 0.0, high: float = HIGHEST) -> float | Unreadable:
    """The last `[[number]]`, `low` to `high`; `[[7.5]]`, `[[7,5]]` and, of 10, `[[7/10]]` are numbers."""
    marked = [text.strip() for text in MARKED.findall(visible(reply))]
    numbers = [text for text in marked if text and (text[0].isdigit() or text[0] in "+-")]
    if not numbers:
        return Unreadable("no [[rating]] in the reply")
    text = re.sub(rf"\s*/\s*{high:g}$", "", numbers[-1])
    if not _NUMBER.fullmatch(text):
        return Unreadable("the last [[rating]] is no number")
    rating = float(text.replace(",", "."))
    return rating if low <= rating <= high else Unreadable(f"a rating outside {low:g} to {high:g}")


def read_statements(reply: str) -> list[str] | Unreadable:
    """Every `<statement>`, stripped, without empty ones; an empty list where the judge says `[[none]]`.

    A reply that has neither cannot be read: a judge that ignores the format is not taken for a silent answer.
    """
    text = visible(reply)
    tagged = [found.strip() for found in _STATEMENT.findall(text)]
    statements = [found for found in tagged if found and not _NOTHING.fullmatch(found)]
    if statements or tagged or _NOTHING.search(text):
        return statements
    return Unreadable("no <statement> in the reply")


def read_support(reply: str) -> float | Unreadable:
    """The last `[[words]]`: 1 where it says fully supported, 0.5 partially, else 0."""
    marked = [text.strip() for text in MARKED.findall(visible(reply))]
    levels = [text for text in marked if any(letter.isalpha() for letter in text)]
    if not levels:
        return Unreadable("no [[level of support]] in the reply")
    level = levels[-1]
    if _NEGATED.search(level):
        return Unreadable("the [[level of support]] is none of the three")
    return next((value for pattern, value in _LEVELS if pattern.search(level)), 0.0)


def read_facts(reply: str) -> list[str] | Unreadable:
    """The numbered facts, each with its further lines; a single `No relevant information` where the reply says so."""
    text = visible(reply).strip()
    kept = "\n".join(line for line in text.split("\n") if not _NO_INFORMATION.search(line))
    facts = [fact for item in _ITEM.split(kept)[1:] if (fact := item.strip())]
    if facts:
        return facts
    if _NO_INFORMATION.search(text):
        return [NO_INFORMATION]
    return Unreadable("neither numbered facts nor `No relevant information` in the reply")
