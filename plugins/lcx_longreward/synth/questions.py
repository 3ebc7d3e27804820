"""What is asked about which context: the corpus' own tasks first, then tasks that a writer makes about documents."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lcx.context import Context
from lcx.data.plans import shuffle
from lcx.data.table import SegmentTable
from lcx.errors import UsageError
from lcx.llm.asking import Asker
from lcx.llm.prompts import load_prompt
from lcx.llm.protocol import Request
from lcx.storage import ShardReader
from lcx_longreward.judge.prompting import language_of
from lcx_longreward.synth.tasks import CUT, read_task, task_request, turns
from lcx_longreward.synth.windows import Window, text_of, windows
from lcx_longreward.synth_settings import LongRewardSynth

OWN = "corpus"
"""The kind of a task that a row of the corpus brings."""
SAMPLE = 4000
"""Characters of a document that tell its language."""


@dataclass(frozen=True)
class Prompt:
    """A task about a window. `reference` is an answer, where one is known."""

    window: Window
    question: str
    kind: str
    reference: str | None = None


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
    writer: Asker,
    counts: Counter[str],
    ctx: Context,
) -> list[Prompt]:
    """Up to `examples` prompts in random order. Raises UsageError where there is none, saying why."""
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
        found += written(settings, table, usable, writer, settings.examples - len(found), counts, ctx)
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
    writer: Asker,
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
    found = start = 0
    asked: set[tuple[Window, str]] = set()
    while found < needed and start < len(places):
        # No more than are wanted: what comes too much is paid for, too. Replies decide, so a resumed step does the same
        part, unit = places[start : start + min(settings.batch, needed - found)], f"tasks:{start}"
        start += len(part)
        requests = partial(_requests, settings, table, prompts, part, unit)
        for (window, place), reply in zip(part, writer.ask(unit, len(part), requests), strict=True):
            task = reply["error"] or (CUT if reply["cut"] else read_task(reply["text"]))
            if not isinstance(task, str) and (window, task.question) in asked:
                task = "asked about this context before"
            if isinstance(task, str):
                counts[f"task skipped: {task}"] += 1
            else:
                found += 1
                asked.add((window, task.question))
                yield Prompt(
                    window, task.question, turns(settings.kinds, settings.seed, place), task.reference
                )
        ctx.pulse(f"    tasks: {found:,} of {needed:,}")


def _requests(
    settings: LongRewardSynth,
    table: SegmentTable,
    prompts: Mapping[str, str],
    part: Sequence[tuple[Window, int]],
    unit: str,
) -> list[Request]:
    seeds = random.Random(f"{settings.seed}:{unit}")
    made = []
    for window, place in part:
        text = text_of(table, window)
        language = language_of(text[:SAMPLE])
        made.append(
            task_request(
                prompts[language],
                text,
                turns(settings.kinds, settings.seed, place),
                language,
                seed=seeds.randrange(2**31),
                temperature=settings.writer_temperature,
                max_tokens=settings.task_tokens,
            )
        )
    return made
