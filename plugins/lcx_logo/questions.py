"""Where LOGO's questions come from: the corpus' own rows, and what a writer asks about single chunks or several."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lcx.context import Context
from lcx.data.plans import neighbour_runs, shuffle
from lcx.data.table import SegmentTable
from lcx.errors import UsageError
from lcx.llm.questions import FINE, INTEGRATION, QA, Writer
from lcx.storage import ShardReader
from lcx_logo.chunks import Asked
from lcx_logo.settings import LogoSynth


def gather(
    settings: LogoSynth, table: SegmentTable, data: Path, writer: Writer, counts: Counter[str], ctx: Context
) -> list[Asked]:
    """Up to `examples` questions in random order: the corpus' own first, then written ones, then both again.

    A question comes again, up to `repeats` times in all, where there are fewer than examples: each time it gets
    other irrelevant chunks. Raises UsageError where there is no question at all.
    """
    own = corpus_questions(data, settings, counts) if settings.qa != "written" else []
    asking = {asked.document for asked in own}
    if settings.qa == "corpus" and not own:
        raise UsageError(
            f"no row of '{settings.corpus}' asks a question",
            why="Rows need a context, a question and mostly an answer, under names such as context, question, answer.",
            hint="--set synth.qa=written has questions written.",
        )
    shuffle(random.Random(f"logo:{settings.seed}:corpus"), own)
    own = own[: settings.examples]
    missing = settings.examples - len(own) if settings.qa != "corpus" else 0
    found = [*own, *_written(settings, table, writer, missing, asking, ctx)]
    counts["questions of the corpus"], counts["questions written"] = len(own), len(found) - len(own)
    if not found:
        raise UsageError(
            "no usable question came out of the corpus",
            why="; ".join(f"{reason} ({n})" for reason, n in writer.skipped.most_common(3)),
            hint="Give more text, or another writer (--set synth.writer=local:PATH_OR_ID).",
        )
    return repeated(found, settings.examples, settings.repeats, f"logo:{settings.seed}")


def repeated(found: Sequence[Asked], most: int, repeats: int, seed: str) -> list[Asked]:
    """Up to `most` questions: all of them in random order, then all again in another, `repeats` times at most."""
    taken: list[Asked] = []
    for turn in range(repeats):
        order = list(found)
        shuffle(random.Random(f"{seed}:turn:{turn}"), order)
        taken += order[: most - len(taken)]
    return taken


def corpus_questions(data: Path, settings: LogoSynth, counts: Counter[str]) -> list[Asked]:
    """The questions that came with the documents of the table in a folder, in its order."""
    found = []
    for number, row in enumerate(ShardReader(data, "documents", columns=["meta"])):
        for question, answer in _pairs(row["meta"]):
            if answer is None and settings.answers == "corpus":
                counts["question skipped: the corpus gives no answer to it"] += 1
            else:
                found.append(Asked(question, answer, number))
    return found


def _pairs(meta: str) -> list[tuple[str, str | None]]:
    if '"qa"' not in meta:
        return []
    import json

    return [(question, answer) for question, answer in json.loads(meta).get("qa", [])]


def _written(
    settings: LogoSynth, table: SegmentTable, writer: Writer, needed: int, asking: set[int], ctx: Context
) -> list[Asked]:
    """Questions about documents that ask none themselves: `joint` of them about runs of chunks, the rest about one."""
    if needed < 1:
        return []
    joint = round(settings.joint * needed)
    rng = random.Random(f"logo:{settings.seed}:runs")
    runs = neighbour_runs(rng, table, settings.joint_chunks) if joint else []
    singles = [(chunk,) for chunk in range(len(table))]
    shuffle(random.Random(f"logo:{settings.seed}:fine"), singles)
    found: list[QA] = []
    for kind, candidates, wanted in ((INTEGRATION, runs, joint), (FINE, singles, needed)):
        free = [chunks for chunks in candidates if table.document_of(chunks[0]) not in asking]
        for pair in writer.write(kind, kind, free, wanted - (len(found) if kind == FINE else 0)):
            found.append(pair)
            ctx.pulse(f"    questions: {len(found):,} of {needed:,}")
    return [Asked(p.question, p.answer, table.document_of(p.segments[0]), p.segments) for p in found]
