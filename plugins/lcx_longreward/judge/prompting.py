"""The judge's prompts: which language, how untrusted text is fenced, and the request of each part."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from lcx.llm.prompts import fence, load_prompt
from lcx.llm.protocol import Request
from lcx_longreward.settings import REPLY_TOKENS

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
_PLACE = re.compile(r"\{(\w+)\}")
fenced = fence("question", "answer", "passages?", "part", "facts?", "statement", "example")
"""Makes a text that others wrote unable to close or open the marks around it."""


def language_of(question: str, answer: str = "", given: Literal["auto", "en", "zh"] = "auto") -> str:
    """`en` where Latin letters are more than four times the Chinese characters, else `zh`; or the one given."""
    if given != "auto":
        return given
    text = f"{question} {answer}"
    latin, chinese = len(_LATIN.findall(text)), len(_CHINESE.findall(text))
    return "en" if latin > LATIN_OVER_CHINESE * chinese or not chinese else "zh"


def fill(prompt: str, values: Mapping[str, str]) -> str:
    """A prompt with its places filled in one pass, so that braces in a text stay as they are."""
    return _PLACE.sub(lambda match: values.get(match[1], match[0]), prompt)


def load_prompts(folder: str | None) -> dict[tuple[str, str], str]:
    """Every prompt by part and language, the user's or ours. Raises UsageError for one that lacks a place."""
    return {
        (part, language): load_prompt(
            f"{part}.{language}", folder, package="lcx_longreward", needs=NEEDS[part]
        )
        for part in PARTS
        for language in LANGUAGES
    }


@dataclass(frozen=True)
class Prompter:
    """Makes requests. A request follows from its texts, its attempt and the seed alone."""

    prompts: Mapping[tuple[str, str], str]
    language: Literal["auto", "en", "zh"] = "auto"
    temperature: float = 0.01
    retry_temperature: float = 0.95
    reply_tokens: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0

    def rating(self, part: str, question: str, answer: str, attempt: int = 0) -> Request:
        """The request for helpfulness, logicality or the answer's statements."""
        shown = {"question": question, "answer": answer}
        return self._request(part, language_of(question, answer, self.language), shown, shown, attempt)

    def support(self, statement: str, passages: Sequence[str], language: str, attempt: int = 0) -> Request:
        """The request for how far passages support a statement."""
        shown = {"passages": _numbered(passages, "passage"), "statement": statement}
        fields = {"statement": statement, "chunks": tuple(passages)}
        return self._request(SUPPORT, language, shown, fields, attempt, done=("passages",))

    def extract(self, question: str, part: str, attempt: int = 0) -> Request:
        """The request for the facts in a part of the document that the question needs."""
        language = language_of(question, given=self.language)
        return self._request(
            EXTRACT,
            language,
            {"part": part, "question": question},
            {"question": question, "chunk": part},
            attempt,
        )

    def completeness(
        self,
        question: str,
        answer: str,
        facts: Sequence[Sequence[str]],
        labels: Sequence[str],
        attempt: int = 0,
    ) -> Request:
        """The request for how many of the document's facts, by parts with labels, an answer covers."""
        shown = {"question": question, "answer": answer, "facts": facts_text(facts, labels)}
        fields = {
            "question": question,
            "answer": answer,
            "facts": tuple(fact for part in facts for fact in part),
        }
        language = language_of(question, answer, self.language)
        return self._request(COMPLETENESS, language, shown, fields, attempt, done=("facts",))

    def _request(
        self,
        part: str,
        language: str,
        shown: Mapping[str, str],
        fields: Mapping[str, Any],
        attempt: int,
        done: Sequence[str] = (),
    ) -> Request:
        safe = {name: text if name in done else fenced(text.strip()) for name, text in shown.items()}
        content = fill(self.prompts[part, language], safe)
        drawn = f"{self.seed}:{part}:{attempt}:{content}".encode("utf-8", "surrogatepass")
        return Request(
            messages=({"role": "user", "content": content},),
            task=f"judge_{part}",
            fields=fields,
            temperature=self.retry_temperature if attempt else self.temperature,
            max_tokens=self.reply_tokens.get(part, REPLY_TOKENS[part]),
            seed=int.from_bytes(hashlib.sha256(drawn).digest()[:4]) >> 1,
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
