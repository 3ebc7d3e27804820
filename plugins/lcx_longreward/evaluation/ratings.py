"""Ratings of one answer by a judge that sees a reference, or another answer: prompts, requests, readers, attempts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lcx.llm.prompts import fill, load_prompt, visible
from lcx.llm.protocol import Request
from lcx.work.files import sha256_text
from lcx_longreward.judge.attempts import Asks, Health, Reply, ask_until_read, tally
from lcx_longreward.judge.prompting import LANGUAGES, fenced, language_of
from lcx_longreward.judge.ratings import MARKED, Unreadable, read_rating
from lcx_longreward.judge.reward import COMPLETENESS, FAITHFULNESS, HELPFULNESS, LOGICALITY

CHAT, QA, SUMMARY, VERSUS = KINDS = ("chat", "qa", "summary", "versus")
"""Kinds of calls; each has a prompt file in either language."""
NEEDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((CHAT, QA, SUMMARY), ("{question}", "{reference}", "{answer}")),
    VERSUS: ("{question}", "{criterion}", "{a}", "{b}"),
}
TASKS = {CHAT: "judge_reference", QA: "judge_qa", SUMMARY: "judge_summary", VERSUS: "judge_versus"}
"""What the builtin rules call them."""
SCALES = {CHAT: (1.0, 10.0), QA: (1.0, 3.0), SUMMARY: (1.0, 5.0)}
"""Lowest and highest rating (LongReward, section 4.1; LongBench-Chat)."""
REPLY_TOKENS = 1024
CRITERIA = {
    HELPFULNESS: (
        "Helpfulness: which answer serves the person who asked better? It deals with what was asked and all of it, "
        "in the form that was wanted, and is specific and clear.",
        "有用性：哪个回答对提问者更有帮助？它针对所问、答全各个部分，形式符合要求，具体而清楚。",
    ),
    LOGICALITY: (
        "Logicality: which answer is sounder in itself? Its parts agree with one another, and its conclusions follow.",
        "逻辑性：哪个回答自身更严密？前后一致，结论有据可循。",
    ),
    FAITHFULNESS: (
        "Faithfulness: which answer keeps closer to the document? What it says is in the passages, and nothing in it "
        "disagrees with them or is made up.",
        "忠实性：哪个回答更忠于文档？所说内容见于段落，没有与之矛盾或编造的内容。",
    ),
    COMPLETENESS: (
        "Completeness: which answer has more of what the document says on the question, without leaving out what "
        "matters?",
        "完整性：哪个回答更完整地包含了文档中与问题有关的内容，没有遗漏要点？",
    ),
}
"""What answers are compared by, in English and in Chinese."""

_REFERENCE = re.compile(r"<(?=\s*/?\s*reference\b)", re.I)


def read_side(reply: str) -> str | Unreadable:
    """The last `[[A]]`, `[[B]]` or `[[C]]` (a tie, also as `[[tie]]`) of a reply."""
    marked = [text.strip().upper() for text in MARKED.findall(visible(reply))]
    if not marked:
        return Unreadable("no [[verdict]] in the reply")
    side = {"TIE": "C", "平局": "C"}.get(marked[-1], marked[-1])
    return side if side in ("A", "B", "C") else Unreadable("the last [[verdict]] is none of A, B and C")


def load_prompts(folder: str | None) -> dict[tuple[str, str], str]:
    """Every prompt by kind and language, the user's or ours. Raises UsageError for one that lacks a place."""
    return {
        (kind, language): load_prompt(
            f"{kind}.{language}", folder, package="lcx_longreward", needs=NEEDS[kind]
        )
        for kind in KINDS
        for language in LANGUAGES
    }


@dataclass(frozen=True)
class Rater:
    """Asks the judge and reads its replies; what cannot be read is asked for again, `attempts` times in all."""

    exchange: Asks
    prompts: Mapping[tuple[str, str], str]
    language: Literal["auto", "en", "zh"] = "auto"
    attempts: int = 5
    temperature: float = 0.01
    retry_temperature: float = 0.95
    reply_tokens: int = REPLY_TOKENS
    seed: int = 0
    unread: Counter[str] = field(default_factory=Counter)
    """Replies that could not be used, by kind and reason."""
    health: Health = field(default_factory=Health)

    async def rate(self, kind: str, question: str, references: Sequence[str], answer: str) -> Reply[float]:
        """The rating of an answer against its references, on the kind's own scale."""
        low, high = SCALES[kind]
        reference = references[0] if len(references) == 1 else "\n".join(f"- {text}" for text in references)
        shown = {"question": question, "reference": reference, "answer": answer}
        fields: dict[str, Any] = {"question": question, "answer": answer}
        fields |= {"references": tuple(references)} if len(references) > 1 else {"reference": references[0]}
        language = language_of(question, answer, self.language)
        safe = {name: _fenced(text.strip()) for name, text in shown.items()}
        return await self._ask(kind, language, safe, fields, lambda reply: read_rating(reply, low, high))

    async def compare(
        self, dimension: str, question: str, passages: Sequence[str], first: str, second: str
    ) -> Reply[str]:
        """Which of two answers is better in one respect: A (the first), B or C."""
        language = language_of(question, f"{first} {second}", self.language)
        shown = {
            "question": _fenced(question.strip()),
            "criterion": CRITERIA[dimension][LANGUAGES.index(language)],
            "passages": "\n".join(f"<passage>\n{_fenced(text.strip())}\n</passage>" for text in passages),
            "a": _fenced(first.strip()),
            "b": _fenced(second.strip()),
        }
        context = "\n".join(passages)
        fields = {"question": question, "context": context, "a": first, "b": second, "dimension": dimension}
        return await self._ask(VERSUS, language, shown, fields, read_side)

    async def _ask(
        self,
        kind: str,
        language: str,
        shown: Mapping[str, str],
        fields: Mapping[str, Any],
        read: Callable[[str], float | str | Unreadable],
    ) -> Reply[Any]:
        content = fill(self.prompts[kind, language], shown)

        def make(attempt: int) -> Request:
            return Request(
                messages=({"role": "user", "content": content},),
                task=TASKS[kind],
                fields=fields,
                temperature=self.retry_temperature if attempt else self.temperature,
                max_tokens=self.reply_tokens,
                seed=int(sha256_text(f"{self.seed}:{attempt}:{content}")[:8], 16) >> 1,
            )

        reply = await ask_until_read(self.exchange, kind, make, read, self.attempts)
        tally(reply, kind, self.unread)
        self.health.note(reply)
        return reply


def _fenced(text: str) -> str:
    """A text that others wrote, unable to close or open the marks around it."""
    return _REFERENCE.sub("&lt;", fenced(text))
