"""IN2's synth step: documents -> segments -> questions -> long contexts with the evidence anywhere."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lcx.context import Context
from lcx.data.bundles import read_bundles
from lcx.data.files import Rejects
from lcx.data.plans import neighbour_runs, shuffle
from lcx.data.rows import Example, Tally, bundle_of
from lcx.data.table import SegmentTable, small_table
from lcx.data.tokens import Shown
from lcx.errors import UsageError
from lcx.formatting import sparkline
from lcx.llm.client import batches_at_once
from lcx.llm.ledger import costs
from lcx.llm.questions import FINE, INTEGRATION, QA, Writer, writer_prompts
from lcx.records import Bundle
from lcx.steps import StepResult, StepWork
from lcx_in2.contexts import group, long_bundle, repeat, shares, short_bundle, target_tokens
from lcx_in2.settings import JOINT_SEGMENTS, In2Synth

Make = Callable[[int], Bundle]
EXAMPLES, PARTS = 3, 8
"""Examples of a kind in the preview, and equal parts of a context in which evidence is counted."""
NEAR = 0.95
SHORT = "contexts shorter than asked: no segment fits into the rest"
PROMPT_TOKENS, ANSWER_TOKENS = 300, 120
"""About what the writer's prompt spends besides the passage, and what its answer takes."""


def synth(work: StepWork[In2Synth]) -> StepResult:
    """Make the bundles of an IN2 recipe in `STEP/data`. A killed step resumes and ends with the same bytes."""
    settings = work.settings
    prompts = writer_prompts(settings.prompts)
    llm = work.llm()  # what is not there is said before the corpus is read
    table = work.table(min_tokens=settings.segment_tokens, mode=settings.segment_by)
    wanted = _shares(settings, work.notes)
    writer = Writer(
        llm,
        prompts=prompts,
        text=table.text,
        batch=settings.batch,
        seed=settings.seed,
        temperature=settings.temperature,
        max_tokens=settings.answer_tokens,
        ahead=batches_at_once(settings.llm, settings.batch, settings.concurrency),
    )
    work.service.begin(sum(number for kind, number in wanted.items() if kind != "general"))
    fine, joint = _questions(work, table, writer, wanted)
    work.counts.update(writer.counts)

    count, make = _contexts(work, table, wanted, fine, joint)
    for shard in work.shards(count):
        shard.write(_logged(count, make, shard.places, work.ctx))
    bundles = read_bundles(work.data)
    metrics = summary(bundles, table, settings.context_tokens[0])
    work.counts.update(metrics.pop("counts"))
    work.write_text("preview.md", preview(bundles, table, Shown(settings.tokenizer)))
    if settings.llm == "builtin":
        work.notes.append(
            "builtin rules wrote the questions; for a real model give a writer: --llm openai:MODEL or "
            "local:PATH_OR_ID"
        )
    if unfilled := work.counts["contexts the corpus could not fill"]:
        work.notes.append(
            f"{unfilled} contexts are shorter than drawn: the corpus has too few segments; give more text or lower "
            "synth.context_tokens"
        )
    if short := work.counts[SHORT]:
        work.notes.append(
            f"{short:,} contexts have fewer tokens than synth.context_tokens asks for: the corpus' segments are too "
            "long to fill the rest; longer contexts, or shorter segments (synth.segment_tokens)"
        )
    return work.done(metrics, extra={"writer": llm.about})


def _shares(settings: In2Synth, notes: list[str]) -> dict[str, int]:
    """Examples of each kind; a share that has no source goes to the others, and is said."""
    mix = {kind: share for kind, share in settings.mix.items() if share > 0}
    if "general" in mix and settings.general is None:
        gone = mix.pop("general")
        if not mix:
            raise UsageError(
                "the mix is all general data, and no file is given", hint="--set synth.general=FILE.jsonl"
            )
        notes.append(
            f"the general share ({gone:.0%}) has no source and went to the other kinds; "
            "give one with --set synth.general=FILE.jsonl"
        )
    return shares(mix, settings.examples)


def _questions(
    work: StepWork[In2Synth], table: SegmentTable, writer: Writer, wanted: dict[str, int]
) -> tuple[list[QA], list[QA]]:
    """Pairs about single segments and about runs of segments, as many as are wanted or as the corpus gives."""
    settings, ctx = work.settings, work.ctx
    fine_needed = wanted.get("fine", 0) + wanted.get("short", 0)
    joint_needed = wanted.get("integration", 0)
    singles: list[tuple[int, ...]] = [(index,) for index in range(len(table))] if fine_needed else []
    shuffle(random.Random(f"in2:{settings.seed}:fine"), singles)
    singles = _fitting(work, table, singles)
    fine = _collect(writer, FINE, singles, fine_needed, ctx, settings.answer_tokens)
    rng = random.Random(f"in2:{settings.seed}:runs")
    runs = neighbour_runs(rng, table, JOINT_SEGMENTS) if joint_needed else []
    runs = _fitting(work, table, runs)
    joint = _collect(writer, INTEGRATION, runs, joint_needed, ctx, settings.answer_tokens)
    work.deal.gathered()
    for kind, found, needed in ((FINE, fine, fine_needed), (INTEGRATION, joint, joint_needed)):
        if needed and not found:
            raise UsageError(
                f"no usable {kind} question came out of {len(singles) if kind == FINE else len(runs)} candidates",
                why="; ".join(f"{reason} ({n})" for reason, n in writer.skipped.most_common(3)),
                hint="Give more text, another writer (--llm), or a mix without this kind "
                "(--set 'synth.mix={fine: 1}').",
            )
        if len(found) < needed:
            work.notes.append(
                f"{len(found):,} different {kind} questions serve {needed:,} places, "
                f"each about {needed / len(found):.1f} times in other contexts"
            )
    return fine, joint


def _fitting(
    work: StepWork[In2Synth], table: SegmentTable, candidates: Sequence[tuple[int, ...]]
) -> list[tuple[int, ...]]:
    """The candidates that the longest context holds: a run without what is too much, if two segments are left."""
    most = work.settings.context_tokens[1]
    kept = []
    for segments in candidates:
        fit, total = 0, -1
        for segment in segments:
            total += int(table.tokens[segment]) + 1
            fit += total <= most
        if fit >= min(2, len(segments)):
            kept.append(segments[:fit])
        else:
            work.counts["evidence left out: longer than the longest context"] += 1
    if candidates and not kept:
        raise UsageError(
            f"no evidence fits into {most:,} tokens, the longest context",
            why=f"The segments of '{work.settings.corpus}' have {int(table.tokens.min()):,} tokens or more.",
            hint=f"--set synth.context_tokens='[{most}, {4 * int(table.tokens.max())}]', or other segments "
            "(synth.segment_by, synth.segment_tokens)",
        )
    return kept


def _collect(
    writer: Writer, kind: str, candidates: Sequence[tuple[int, ...]], needed: int, ctx: Context, limit: int
) -> list[QA]:
    pairs: list[QA] = []
    other = "fine: 1" if kind == INTEGRATION else "integration: 1"
    hint = f"--llm SPEC, --set synth.answer_tokens={2 * limit}, or a mix without it (--set 'synth.mix={{{other}}}')"
    for pair in writer.write(kind, kind, candidates, needed, hint):
        pairs.append(pair)
        ctx.pulse(f"    {kind} questions: {len(pairs):,} of {min(needed, len(candidates)):,}")
    return pairs


def _contexts(
    work: StepWork[In2Synth], table: SegmentTable, wanted: dict[str, int], fine: list[QA], joint: list[QA]
) -> tuple[int, Make]:
    """How many bundles there are, and what makes each by its place on disk: kinds mixed, not in blocks."""
    settings, seed = work.settings, work.settings.seed
    cut = _split(len(fine), wanted.get("fine", 0), wanted.get("short", 0))
    long_pairs = repeat(fine[:cut], wanted.get("fine", 0), f"{seed}:fine")
    long_pairs += repeat(joint, wanted.get("integration", 0), f"{seed}:joint")
    shuffle(random.Random(f"in2:{seed}:pairs"), long_pairs)
    size, length = settings.questions_per_context, settings.context_tokens
    groups, tight = group(
        long_pairs,
        size,
        partial(_marks, table),
        tokens=lambda segment: int(table.tokens[segment]),
        room=lambda number: target_tokens(seed, number, length),
    )
    if tight:
        work.counts["contexts with fewer questions than asked"] = tight
        work.notes.append(
            f"{tight:,} of {len(groups):,} long contexts have fewer than {size} questions "
            f"({len(long_pairs) / len(groups):.1f} on average): the evidence of more does not fit into "
            "synth.context_tokens"
        )
    short = repeat(fine[cut:] or fine, wanted.get("short", 0), f"{seed}:short")
    general: list[Bundle] = []
    if settings.general is not None:
        general = list(
            general_bundles(
                settings.general,
                wanted.get("general", 0),
                work.counts,
                settings.general_fields,
                work.notes,
            )
        )
    if len(general) < wanted.get("general", 0):
        work.notes.append(
            f"the general data had {len(general):,} usable rows of the {wanted['general']:,} wanted"
        )

    order = list(range(len(groups) + len(short) + len(general)))
    shuffle(random.Random(f"in2:{seed}:order"), order)

    def make(place: int) -> Bundle:
        number = order[place]
        if number < len(groups):
            return long_bundle(number, groups[number], table, length=length, seed=seed)
        number -= len(groups)
        if number < len(short):
            return short_bundle(number, short[number], table, most_tokens=settings.short_tokens, seed=seed)
        return general[number - len(short)]

    return len(order), make


def _marks(table: SegmentTable, segment: int) -> Iterator[object]:
    """What no two pieces of evidence in a context share: a key, and their text."""
    yield "text", table.said(segment)
    if (key := table.key(segment)) is not None:
        yield key


def _split(found: int, fine: int, short: int) -> int:
    """How many of `found` pairs go to long contexts: all shares alike where there are too few."""
    return found if not short else min(fine, round(found * fine / (fine + short)))


def _logged(count: int, make: Make, places: range, ctx: Context) -> Iterator[Bundle]:
    for place in places:
        yield make(place)
        ctx.pulse(f"    contexts: {place + 1:,} of {count:,}")


# What was made, for a person


def summary(bundles: Sequence[Bundle], table: SegmentTable, least: int = 0) -> dict[str, Any]:
    """Contexts, questions, lengths, and where the evidence stands: shares of eight equal parts of the context.

    Counted are also the long contexts that stay clearly below `least` tokens since no segment fits into what is left.
    """
    kinds: Counter[str] = Counter()
    places = [0] * PARTS
    lengths: list[int] = []
    unfilled = own = questions = short = 0
    for bundle in bundles:
        kinds[f"{bundle.kind} contexts"] += 1
        questions += len(bundle.branches)
        unfilled += bool(bundle.meta.get("exhausted"))
        own += bool(bundle.meta.get("own_document"))
        if bundle.plan is None or bundle.kind == "short":
            continue
        lengths.append(int(bundle.meta["tokens"]))
        short += lengths[-1] < NEAR * least and not bundle.meta.get("exhausted")
        for branch in bundle.branches:
            for gold in branch.gold:
                places[gold * PARTS // len(bundle.plan)] += 1
    total = sum(places) or 1
    counts = dict(kinds) | {"questions": questions}
    if unfilled:
        counts["contexts the corpus could not fill"] = unfilled
    if short:
        counts[SHORT] = short
    if own:
        counts["contexts filled from the evidence's own document"] = own
    found: dict[str, Any] = {"counts": counts, "contexts": len(bundles), "questions": questions}
    if lengths:
        found["context_tokens"] = {
            "least": min(lengths),
            "mean": sum(lengths) / len(lengths),
            "most": max(lengths),
        }
        found["gold_by_eighth"] = [round(n / total, 4) for n in places]
        found["gold_places"] = sparkline(places)
    return found


def preview(bundles: Sequence[Bundle], table: SegmentTable, shown: Shown) -> str:
    """A few bundles as Markdown: each question and answer with its evidence, and where that stands."""
    parts = ["# A look at the data", "", shown.note, ""]
    seen: Counter[str] = Counter()
    for bundle in bundles:
        if seen[bundle.kind] >= EXAMPLES:
            continue
        seen[bundle.kind] += 1
        parts += _example(bundle, table, shown)
        if sum(seen.values()) >= EXAMPLES * 3:
            break
    return "\n".join(parts)


def _example(bundle: Bundle, table: SegmentTable, shown: Shown) -> list[str]:
    plan = bundle.plan or ()
    size = f"{len(plan)} segments, {bundle.meta.get('tokens', 0):,} tokens" if plan else "no context"
    lines = [f"## {bundle.id} ({bundle.kind}: {size})", ""]
    for branch in bundle.branches[:EXAMPLES]:
        lines += [f"**Q:** {branch.question}", "", f"**A:** {branch.answer}", ""]
        for gold in branch.gold:
            text = table.text(plan[gold])
            source = table.document(table.document_of(plan[gold])).id
            lines += [
                f"Evidence: segment {gold + 1} of {len(plan)}, from `{source}`",
                "",
                "```text",
                text,
                "```",
                "",
            ]
    if len(bundle.branches) > EXAMPLES:
        lines += [f"… and {len(bundle.branches) - EXAMPLES} more questions on this context", ""]
    if plan:
        marks = {gold: "evidence" for branch in bundle.branches for gold in branch.gold}
        lines += shown.context(table.texts(plan), marks)
    return lines


# What it will cost


def forecast(work: StepWork[In2Synth]) -> dict[str, Any]:
    """Calls, writer tokens, contexts and their tokens. Assumes that every reply is usable.

    A small corpus is looked into for how many questions it can give; a larger one has enough.
    """
    settings = work.settings
    mix = {k: v for k, v in settings.mix.items() if v > 0 and (k != "general" or settings.general)}
    wanted = shares(mix, settings.examples)
    single = wanted.get("fine", 0) + wanted.get("short", 0)
    joint = wanted.get("integration", 0)
    table = small_table(settings, min_tokens=settings.segment_tokens, mode=settings.segment_by)
    asked = single, joint
    if table is not None:
        runs = neighbour_runs(random.Random(f"in2:{settings.seed}:runs"), table, JOINT_SEGMENTS)
        asked = min(single, len(table)), min(joint, len(runs))
    pieces = (2 + JOINT_SEGMENTS) / 2
    mean = sum(settings.context_tokens) / 2
    long = wanted.get("fine", 0) + joint
    evidence = (wanted.get("fine", 0) + joint * pieces) / max(1, long) * (settings.segment_tokens + 1)
    together = max(1.0, min(settings.questions_per_context, mean / evidence))
    contexts = -(-long // together)
    prompt = round(
        asked[0] * (PROMPT_TOKENS + settings.segment_tokens)
        + asked[1] * (PROMPT_TOKENS + pieces * settings.segment_tokens)
    )
    reply = sum(asked) * ANSWER_TOKENS
    return {
        "questions": wanted,
        "writer": settings.llm,
        "calls": sum(asked),
        "writer_prompt_tokens": prompt,
        "writer_answer_tokens": reply,
        **costs(settings, {"writer": (settings.llm, prompt, reply)}),
        "long_contexts": int(contexts),
        "context_tokens": round(contexts * mean),
        "assumes": "every reply is usable"
        + ("; the corpus has a segment for every question" if table is None else ""),
    }


# ---- the fourth share: general instruction data


def general_bundles(
    source: str,
    needed: int,
    skipped: Counter[str],
    fields: Mapping[str, str] | None = None,
    notes: list[str] | None = None,
) -> Iterator[Bundle]:
    """Up to `needed` bundles with an empty context; rows that cannot be used are counted in `skipped`.

    What a row has as its context stands behind its instruction, as in Alpaca's prompt. Raises UsageError where there
    is no such data, and where rows lose a long field that nobody reads and have no other context.
    """
    if not source.startswith("hf:") and not Path(source).expanduser().exists():
        raise UsageError(f"no file of instruction data at '{source}'", hint="--set synth.general=FILE.jsonl")
    rejects = Rejects()
    tally = Tally(rejects, fields)
    made = 0
    for raw, example in tally.examples_in(source):
        if made >= needed:
            break
        try:
            bundle = bundle_of(_without_context(example), f"general-{made:07d}")
        except ValueError as bad:
            rejects.add(raw.source, str(bad), where=raw.where)
            continue
        yield replace(bundle, id=f"general-{made:07d}", kind="general", branches=bundle.branches[:1])
        made += 1
    skipped.update({f"general row skipped: {reason}": count for reason, count in rejects.counts.items()})
    tally.check(source)
    if notes is not None:
        notes += tally.notes()


def _without_context(example: Example) -> Example:
    """The example with its context behind its question, and a chosen answer as the answer."""
    answers = (example.chosen,) if example.chosen is not None else example.answers
    question = "\n\n".join(filter(None, (example.question, example.context)))
    return replace(example, context="", question=question, answers=answers, chosen=None, rejected=())
