"""Tasks about long documents: which kinds there are, how one is asked for, and how the writer's reply is read."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from lcx.data.plans import shuffle
from lcx.llm.prompts import fence, fill, visible
from lcx.llm.protocol import Request
from lcx_longreward.synth_settings import KINDS

LONGEST = 2000
"""Most characters of a task."""
CUT = "the reply was cut at task_tokens"
_EN = (
    "a summary of the whole, or of one of its strands, for a named reader or purpose",
    "a question whose answer has to be put together from at least three places",
    "a comparison of two or more people, things, periods or views on named points",
    "a search for all mentions of something, with the details that go with each",
    "a question that takes inference or calculation from what is said in several places",
    "the order of events or steps, with what led from one to the next",
    "an explanation of why or how something is as the document describes it",
    "a complete list or table of items of one sort, with a property of each",
    "an assessment: how well a claim, plan or argument in it holds up against the rest of it",
    "a rewriting of its content in another form, such as a letter, a briefing or minutes",
)
_ZH = (
    "为特定读者或用途概括全文或其中一条线索",
    "需要综合至少三处内容才能回答的问题",
    "就指定的方面比较两个或多个人物、事物、时期或观点",
    "找出某一事物的所有提及之处及其细节",
    "需要根据多处内容推理或计算的问题",
    "梳理事件或步骤的先后及其因果",
    "解释文中某事为何如此或如何实现",
    "完整列出某一类条目及其属性（清单或表格）",
    "评价文中的主张、方案或论证是否经得起全文的检验",
    "把内容改写成另一种形式，如信件、简报或会议纪要",
)
DESCRIBED = {"en": dict(zip(KINDS, _EN, strict=True)), "zh": dict(zip(KINDS, _ZH, strict=True))}

_TASK = re.compile(r"<task>(.*?)</task>", re.S | re.I)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.S | re.I)
fenced = fence("document", "task", "answer")


@dataclass(frozen=True)
class Written:
    """A task, and its answer where the writer gave one."""

    question: str
    reference: str | None = None


def turns(kinds: Sequence[str], seed: int, number: int) -> str:
    """The kind of a task by its number: all kinds by turns, in an order drawn from the seed."""
    order = list(kinds)
    shuffle(random.Random(f"longreward:{seed}:kinds"), order)
    return order[number % len(order)]


def task_request(
    prompt: str, document: str, kind: str, language: str, *, seed: int, temperature: float, max_tokens: int
) -> Request:
    """The request for one task of a kind about a document, which comes first: tasks about one share that prefix."""
    shown = {"document": fenced(document), "kind": DESCRIBED[language][kind]}
    return Request(
        messages=({"role": "user", "content": fill(prompt, shown)},),
        task="write_task",
        fields={"document": document, "kind": kind},
        temperature=temperature,
        max_tokens=max_tokens,
        seed=seed,
    )


def read_task(reply: str) -> Written | str:
    """The task in a writer's reply, or the reason why there is none; of several tasks the first.

    A reply without marks is none: it may as well be a refusal.
    """
    text = visible(reply).strip()
    found = next((task.strip() for task in _TASK.findall(text) if task.strip()), "")
    if not found:
        nothing = not text or text.upper().startswith("NOTHING")
        return "the writer found nothing to ask" if nothing else "no <task> in the reply"
    if len(found) > LONGEST:
        return "the task is too long"
    answer = _ANSWER.search(text)
    return Written(found, (answer[1].strip() or None) if answer else None)
