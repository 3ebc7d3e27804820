"""The rubrics of LongReward's judge: prompts in two languages, what they show of an answer, how replies are read.

Each reader returns `Unreadable`, with the reason, where a reply holds nothing of the kind; it is then asked for again.
Only replies are read, never the texts that are judged, so marks inside an answer mean nothing. A judge may quote such
marks before it rates: the last one counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from lcx.llm.judge import Asking, Rubric, Unreadable, marked, read_rating
from lcx.llm.prompts import fence, load_prompt, tagged, visible
from lcx_longreward.settings import REPLY_TOKENS, LongRewardScore

HELPFULNESS, LOGICALITY, STATEMENTS, SUPPORT, EXTRACT, COMPLETENESS = PARTS = (
    "helpfulness",
    "logicality",
    "statements",
    "support",
    "extract",
    "completeness",
)
"""Kinds of calls; each has a prompt file in either language."""
NEEDS: dict[str, tuple[str, ...]] = {
    HELPFULNESS: ("{question}", "{answer}"),
    LOGICALITY: ("{question}", "{answer}"),
    STATEMENTS: ("{question}", "{answer}"),
    SUPPORT: ("{passages}", "{statement}"),
    EXTRACT: ("{part}", "{question}"),
    COMPLETENESS: ("{question}", "{facts}", "{answer}"),
}
LANGUAGES = ("en", "zh")
LATIN_OVER_CHINESE = 4

_LATIN = re.compile(r"[A-Za-zÀ-ɏ]")
_CHINESE = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
fenced = fence("question", "answer", "passages?", "part", "facts?", "statement", "example")
"""Makes a text that others wrote unable to close or open the marks around it."""


def language_of(question: str, answer: str = "", given: Literal["auto", "en", "zh"] = "auto") -> str:
    """`en` where Latin letters are more than four times the Chinese characters, else `zh`; or the one given."""
    if given != "auto":
        return given
    text = f"{question} {answer}"
    latin, chinese = len(_LATIN.findall(text)), len(_CHINESE.findall(text))
    return "en" if latin > LATIN_OVER_CHINESE * chinese or not chinese else "zh"


def load_prompts(folder: str | None) -> dict[tuple[str, str], str]:
    """Every prompt by part and language, the user's or ours. Raises UsageError for one that lacks a place."""
    return {
        (part, language): load_prompt(
            f"{part}.{language}", folder, package="lcx_longreward", needs=NEEDS[part]
        )
        for part in PARTS
        for language in LANGUAGES
    }


# -- reading replies

NO_INFORMATION = "No relevant information"
"""What stands in place of a part's facts where it holds none."""

_NOTHING = re.compile(r"\[\[\s*(?:none|no statements?|无|没有)\s*\]\]", re.I)
_ITEM = re.compile(r"^(?:[^\S\n]|[>*_])*(?:\d++[^\S\n]*+[.)、．）:：](?!\d)|[-*](?=\s)|•)[\s*_]*(?=\S)", re.M)
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


def read_statements(reply: str) -> list[str] | Unreadable:
    """Every `<statement>`, stripped, without empty ones; an empty list where the judge says `[[none]]`.

    A reply that has neither cannot be read: a judge that ignores the format is not taken for a silent answer.
    """
    text = visible(reply)
    marks = [found.strip() for found in tagged(text, "statement")]
    statements = [found for found in marks if found and not _NOTHING.fullmatch(found)]
    if statements or marks or _NOTHING.search(text):
        return statements
    return Unreadable("no <statement> in the reply")


def read_support(reply: str) -> float | Unreadable:
    """The last `[[words]]`: 1 where it says fully supported, 0.5 partially, else 0."""
    levels = [text for text in marked(reply) if any(letter.isalpha() for letter in text)]
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


READERS: dict[str, Callable[[str], Any]] = {
    HELPFULNESS: read_rating,
    LOGICALITY: read_rating,
    STATEMENTS: read_statements,
    SUPPORT: read_support,
    EXTRACT: read_facts,
    COMPLETENESS: read_rating,
}
"""How a part's reply is read."""


# -- what is asked


@dataclass(frozen=True)
class Rubrics:
    """The rubrics of the paper's four scorers, in either language, and what each is asked about."""

    prompts: Mapping[tuple[str, str], str]
    language: Literal["auto", "en", "zh"] = "auto"
    temperature: float = 0.01
    retry_temperature: float = 0.95
    reply_tokens: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    tries: int = 5

    def of(self, part: str, language: str) -> Rubric[Any]:
        """A part's rubric in a language."""
        return Rubric(
            part,
            self.prompts[part, language],
            READERS[part],
            self.tries,
            f"judge_{part}",
            lambda text: fenced(text.strip()),
            self.temperature,
            self.retry_temperature,
            self.reply_tokens.get(part, REPLY_TOKENS[part]),
            self.seed,
        )

    def rating(self, part: str, question: str, answer: str) -> Asking[Any]:
        """Helpfulness or logicality of an answer, or its statements."""
        shown = {"question": question, "answer": answer}
        return Asking(self.of(part, language_of(question, answer, self.language)), shown, shown)

    def support(self, statement: str, passages: Sequence[str], language: str) -> Asking[float]:
        """How far passages support a statement."""
        shown = {"passages": _numbered(passages, "passage"), "statement": statement}
        fields = {"statement": statement, "chunks": tuple(passages)}
        return Asking(self.of(SUPPORT, language), shown, fields, ("passages",))

    def extract(self, question: str, part: str) -> Asking[list[str]]:
        """The facts in a part of the document that the question needs."""
        rubric = self.of(EXTRACT, language_of(question, given=self.language))
        shown = {"part": part, "question": question}
        return Asking(rubric, shown, {"question": question, "chunk": part})

    def completeness(
        self, question: str, answer: str, facts: Sequence[Sequence[str]], labels: Sequence[str]
    ) -> Asking[float]:
        """How many of the document's facts, by parts with labels, an answer covers."""
        shown = {"question": question, "answer": answer, "facts": facts_text(facts, labels)}
        fields = {
            "question": question,
            "answer": answer,
            "facts": tuple(fact for part in facts for fact in part),
        }
        rubric = self.of(COMPLETENESS, language_of(question, answer, self.language))
        return Asking(rubric, shown, fields, ("facts",))


def open_rubrics(settings: LongRewardScore) -> Rubrics:
    """The rubrics that settings describe. Raises UsageError for a prompt of the user's that lacks a place."""
    return Rubrics(
        load_prompts(settings.prompts),
        settings.language,
        settings.temperature,
        settings.retry_temperature,
        settings.reply_tokens,
        settings.seed,
        settings.attempts,
    )


def facts_text(facts: Sequence[Sequence[str]], labels: Sequence[str]) -> str:
    """The facts under the place in the document where they stand, one block a part; labels may repeat."""
    blocks = []
    for label, part in zip(labels, facts, strict=True):
        lines = part if len(part) == 1 else [f"{number}. {fact}" for number, fact in enumerate(part, 1)]
        blocks.append("\n".join([f"({label})", *(fenced(line) for line in lines)]))
    return "\n\n".join(blocks)


def range_labels(edges: Sequence[int]) -> list[str]:
    """Where each part lies, `12%-25%`, from its edges in characters; as many decimals as tell all parts apart."""
    whole = edges[-1] or 1
    for digits in range(4):
        marks = [f"{100 * edge / whole:.{digits}f}%" for edge in edges]
        if len(set(marks)) == len(marks):
            break
    return [f"{begin}-{end}" for begin, end in pairwise(marks)]


def _numbered(texts: Sequence[str], name: str) -> str:
    return "\n".join(
        f"<{name} {number}>\n{fenced(text.strip())}\n</{name} {number}>"
        for number, text in enumerate(texts, 1)
    )
