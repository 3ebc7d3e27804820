"""What is asked about which context: the corpus' own tasks first, then tasks that a writer makes about documents."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lcx.context import Context
from lcx.data.plans import shuffle
from lcx.data.table import SegmentTable
from lcx.errors import UsageError
from lcx.llm.client import LLMClient, RuleClient
from lcx.llm.prompts import UNFINISHED, fence, fill, load_prompt, read_thoughts, said_in, tagged
from lcx.llm.protocol import Completion, Request, Response
from lcx.llm.questions import Yield
from lcx.storage import ShardReader
from lcx_longreward.rubrics import language_of
from lcx_longreward.sampling import Prompt, Window, text_of, windows
from lcx_longreward.settings import KINDS, LongRewardSynth

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
    said = read_thoughts(reply)
    if said.only_thought:
        return UNFINISHED
    text = said.text.strip()
    found = next((task.strip() for task in tagged(text, "task") if task.strip()), "")
    if not found:
        nothing = not text or text.upper().startswith("NOTHING")
        return "the writer found nothing to ask" if nothing else "no <task> in the reply"
    if len(found) > LONGEST:
        return "the task is too long"
    answer = next(iter(tagged(text, "answer")), "")
    return Written(found, answer.strip() or None)


# -- which tasks, about which contexts

OWN = "corpus"
"""The kind of a task that a row of the corpus brings."""
SAMPLE = 4000
"""Characters of a document that tell its language."""


def writer_prompts(folder: str | None) -> dict[str, str]:
    """The prompts by language, the user's or ours. Raises UsageError for one without {document}."""
    return {
        language: load_prompt(f"task.{language}", folder, package="lcx_longreward", needs=("{document}",))
        for language in ("en", "zh")
    }


def gather(
    settings: LongRewardSynth,
    table: SegmentTable,
    data: Path,
    writer: LLMClient,
    counts: Counter[str],
    ctx: Context,
    begin: Callable[[int], None] = lambda requests: None,
) -> list[Prompt]:
    """Up to `examples` prompts in random order. Raises UsageError where there is none, saying why.

    `begin` is told how many tasks will be asked for.
    """
    least, most = settings.context_tokens
    pieces = windows(table, least, most, counts)
    own = own_prompts(settings, table, data, pieces, counts) if settings.qa != "written" else []
    if settings.qa == "corpus" and not own:
        raise UsageError(
            f"no row of '{settings.corpus}' asks a question about a context that fits",
            why="; ".join(f"{reason} ({n})" for reason, n in counts.items() if "left out" in reason and n)
            or "Rows need a context and a question, under names such as context, question, answer.",
            hint="--set synth.qa=written has tasks written; synth.context_tokens says what fits.",
        )
    shuffle(random.Random(f"longreward:{settings.seed}:own"), own)
    found = own[: settings.examples]
    if settings.qa != "corpus" and len(found) < settings.examples:
        asking = {prompt.window.document for prompt in own}
        usable = [w for w in pieces if w.tokens >= least and w.document not in asking]
        begin(min(settings.examples - len(found), len(usable) * settings.tasks_per_context))
        found += written(settings, table, usable, writer, settings.examples - len(found), counts, ctx)
        writer.deal.gathered()
    counts["tasks of the corpus"] = sum(prompt.kind == OWN for prompt in found)
    counts["tasks written"] = len(found) - counts["tasks of the corpus"]
    if not found:
        skipped = [
            f"{reason} ({n})"
            for reason, n in counts.most_common()
            if "skipped" in reason or "left out" in reason
        ]
        raise UsageError(
            "no usable task came out of the corpus",
            why="; ".join(skipped[:3]),
            hint=f"Contexts have {least:,} to {most:,} tokens; --set synth.context_tokens='[LEAST, MOST]' takes "
            "others. Or give longer documents, or another writer (--set synth.writer=...).",
        )
    return found


def own_prompts(
    settings: LongRewardSynth,
    table: SegmentTable,
    data: Path,
    pieces: Sequence[Window],
    counts: Counter[str],
) -> list[Prompt]:
    """The tasks that came with documents. A document must fit whole: nobody says where a task's evidence stands."""
    whole = {window.document: window for window in pieces if window.whole}
    found = []
    for number, row in enumerate(ShardReader(data, "documents", columns=["meta"])):
        if '"qa"' not in row["meta"]:
            continue
        for question, answer in json.loads(row["meta"]).get("qa", []):
            if number in whole:
                found.append(Prompt(whole[number], question, OWN, answer))
            else:
                counts["tasks of the corpus left out: the document is longer than a context"] += 1
    return found


def written(
    settings: LongRewardSynth,
    table: SegmentTable,
    usable: Sequence[Window],
    writer: LLMClient,
    needed: int,
    counts: Counter[str],
    ctx: Context,
) -> Iterator[Prompt]:
    """Tasks about windows in random order until there are enough; what cannot be used is counted with its reason."""
    each = settings.tasks_per_context
    order = list(usable)
    shuffle(random.Random(f"longreward:{settings.seed}:contexts"), order)
    prompts = writer_prompts(settings.prompts)
    places = [(window, number * each + turn) for number, window in enumerate(order) for turn in range(each)]
    deal = writer.deal
    if deal.open:  # a shard's windows, and its share of what is needed; what then lacks, whoever gathers asks
        needed = sum(place // each % deal.count == deal.index for place in range(min(needed, len(places))))
        places = [one for one in places if one[1] // each % deal.count == deal.index]
    found = start = 0
    hint = f"--set synth.writer=SPEC or --set synth.task_tokens={2 * settings.task_tokens}"
    useful = Yield("task", isinstance(writer, RuleClient), hint)
    asked: set[tuple[Window, str]] = set()
    while found < needed and start < len(places):
        # No more than are wanted: what comes too much is paid for, too. Replies decide, so a resumed step does the same
        part = places[start : start + min(settings.batch, needed - found)]
        start += len(part)
        requests = _requests(settings, table, prompts, part)
        for (window, place), reply in zip(part, _replies(writer, requests, useful), strict=True):
            task: Written | str = reply.error or _read(reply.completions[0])
            if not isinstance(task, str) and (window, task.question) in asked:
                task = "asked about this context before"
            useful.note(reply, task if isinstance(task, str) else "")
            if isinstance(task, str):
                counts[f"task skipped: {task}"] += 1
            else:
                found += 1
                asked.add((window, task.question))
                yield Prompt(
                    window, task.question, turns(settings.kinds, settings.seed, place), task.reference
                )
        useful.check()
        ctx.pulse(f"    tasks: {found:,} of {needed:,}")


def _replies(writer: LLMClient, requests: Sequence[Request], useful: Yield) -> Iterator[Response]:
    """Replies in order, asked for in parts between which the writer is looked at."""
    start = 0
    while start < len(requests):
        part = requests[start : start + useful.room]
        yield from writer.generate(part, part="tasks", dealt=True)
        start += len(part)
        useful.check()


def _read(reply: Completion) -> Written | str:
    if said_in(reply).only_thought:
        return UNFINISHED
    return CUT if reply.finish_reason == "length" else read_task(reply.text)


def _requests(
    settings: LongRewardSynth,
    table: SegmentTable,
    prompts: Mapping[str, str],
    part: Sequence[tuple[Window, int]],
) -> list[Request]:
    """The requests for tasks. A seed follows from a task's place alone, not from how many are asked at a time."""
    size, block = settings.batch, -1
    seeds: list[int] = []
    made = []
    for window, place in part:
        if place // size != block:
            block = place // size
            drawn = random.Random(f"{settings.seed}:tasks:{block * size}")
            seeds = [drawn.randrange(2**31) for _ in range(size)]
        text = text_of(table, window)
        language = language_of(text[:SAMPLE])
        request = task_request(
            prompts[language],
            text,
            turns(settings.kinds, settings.seed, place),
            language,
            seed=seeds[place % size],
            temperature=settings.writer_temperature,
            max_tokens=settings.task_tokens,
        )
        made.append(replace(request, usable=lambda one: not isinstance(_read(one), str)))
    return made
