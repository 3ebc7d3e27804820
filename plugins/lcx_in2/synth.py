"""IN2's synth step: documents -> segments -> questions -> long contexts with the evidence anywhere."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lcx.context import Context, StepResult
from lcx.data.bundles import read_bundles, write_bundles
from lcx.data.plans import neighbour_runs, shuffle
from lcx.data.prepare import step_table
from lcx.data.table import SegmentTable
from lcx.errors import UsageError
from lcx.llm.asking import batches_at_once
from lcx.llm.costs import paid
from lcx.llm.questions import FINE, INTEGRATION, QA, Writer, writer_prompts
from lcx.llm.service import Service
from lcx.recipe import Step
from lcx.records import Bundle
from lcx.run import Run
from lcx.work.files import write_text
from lcx.work.journal import Journal
from lcx.work.shards import shard_path
from lcx_in2.contexts import group, long_bundle, repeat, shares, short_bundle
from lcx_in2.general import general_bundles
from lcx_in2.preview import preview, summary
from lcx_in2.settings import In2Synth

Make = Callable[[], Bundle]


def synth(step: Step, run: Run, ctx: Context) -> StepResult:
    """Make the bundles of an IN2 recipe in `STEP/data`. A killed step resumes and ends with the same bytes."""
    settings = step.settings
    assert isinstance(settings, In2Synth)
    folder = run.folder(step)
    data = folder / "data"
    notes: list[str] = []
    counts: Counter[str] = Counter()

    prompts = writer_prompts(settings.prompts)
    service = Service(folder, settings, ctx)
    if not (folder / "journal.jsonl").exists():  # what is not there should be said before the corpus is read
        service.check(settings.llm, settings.llm_options)
    table = _table(settings, folder, ctx, counts)
    wanted = _shares(settings, notes)
    with Journal(folder / "journal.jsonl") as journal, service:
        writer = Writer(
            service.opener(settings.llm, settings.llm_options),
            journal,
            prompts=prompts,
            text=table.text,
            batch=settings.batch,
            seed=settings.seed,
            temperature=settings.temperature,
            max_tokens=settings.answer_tokens,
            ahead=batches_at_once(settings.llm, settings.batch, settings.concurrency),
        )
        questions = sum(number for kind, number in wanted.items() if kind != "general")
        service.expect(max(0, questions - settings.batch * len(journal)))
        fine, joint = _questions(settings, table, writer, wanted, ctx, notes)
        described = {"writer": writer.describe() or {"spec": settings.llm}}
        others, cost = paid(service.counts())
    counts.update(writer.counts)
    counts.update(others)

    makers = _makers(settings, table, wanted, fine, joint, counts, notes)
    _write(settings, makers, data, ctx)
    bundles = read_bundles(data)
    metrics = summary(bundles, table) | cost
    write_text(folder / "preview.md", preview(bundles, table))
    counts.update(metrics.pop("counts"))
    if settings.llm == "builtin":
        notes.append(
            "builtin rules wrote the questions; for a real model give a writer: --llm openai:MODEL or "
            "local:PATH_OR_ID"
        )
    if counts.get("contexts the corpus could not fill"):
        notes.append(
            f"{counts['contexts the corpus could not fill']} contexts are shorter than drawn: the corpus has too few "
            "segments; give more text or lower synth.context_tokens"
        )
    return StepResult(
        counts=dict(sorted(counts.items())),
        metrics=metrics,
        files={"data": "data", "preview": "preview.md"},
        notes=notes,
        extra=described,
    )


def _table(settings: In2Synth, folder: Path, ctx: Context, counts: Counter[str]) -> SegmentTable:
    return step_table(
        folder,
        settings.corpus,
        documents=settings.documents,
        tokenizer=settings.tokenizer,
        min_tokens=settings.segment_tokens,
        mode=settings.segment_by,
        decontaminate=settings.decontaminate,
        ngram=settings.ngram,
        counts=counts,
        log=ctx.log,
        fields=settings.fields,
        encoding=settings.encoding,
    )


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
    settings: In2Synth,
    table: SegmentTable,
    writer: Writer,
    wanted: dict[str, int],
    ctx: Context,
    notes: list[str],
) -> tuple[list[QA], list[QA]]:
    """Pairs about single segments and about runs of segments, as many as are wanted or as the corpus gives."""
    fine_needed = wanted.get("fine", 0) + wanted.get("short", 0)
    joint_needed = wanted.get("integration", 0)
    singles = [(index,) for index in range(len(table))] if fine_needed else []
    shuffle(random.Random(f"in2:{settings.seed}:fine"), singles)
    fine = _collect(writer, FINE, singles, fine_needed, ctx)
    rng = random.Random(f"in2:{settings.seed}:runs")
    runs = neighbour_runs(rng, table, settings.integration_segments) if joint_needed else []
    joint = _collect(writer, INTEGRATION, runs, joint_needed, ctx)
    for kind, found, needed in ((FINE, fine, fine_needed), (INTEGRATION, joint, joint_needed)):
        if needed and not found:
            raise UsageError(
                f"no usable {kind} question came out of {len(singles) if kind == FINE else len(runs)} candidates",
                why="; ".join(f"{reason} ({n})" for reason, n in writer.skipped.most_common(3)),
                hint="Give more text, another writer (--llm), or a mix without this kind "
                "(--set 'synth.mix={fine: 1}').",
            )
        if len(found) < needed:
            notes.append(
                f"{len(found):,} different {kind} questions serve {needed:,} places, "
                f"each about {needed / len(found):.1f} times in other contexts"
            )
    return fine, joint


def _collect(
    writer: Writer, kind: str, candidates: Sequence[tuple[int, ...]], needed: int, ctx: Context
) -> list[QA]:
    pairs: list[QA] = []
    for pair in writer.write(kind, kind, candidates, needed):
        pairs.append(pair)
        ctx.pulse(f"    {kind} questions: {len(pairs):,} of {min(needed, len(candidates)):,}")
    return pairs


def _makers(
    settings: In2Synth,
    table: SegmentTable,
    wanted: dict[str, int],
    fine: list[QA],
    joint: list[QA],
    counts: Counter[str],
    notes: list[str],
) -> list[Make]:
    """One function a bundle, in the order in which they will lie on disk: kinds mixed, not in blocks."""
    seed = settings.seed
    cut = _split(len(fine), wanted.get("fine", 0), wanted.get("short", 0))
    long_pairs = repeat(fine[:cut], wanted.get("fine", 0), f"{seed}:fine")
    long_pairs += repeat(joint, wanted.get("integration", 0), f"{seed}:joint")
    shuffle(random.Random(f"in2:{seed}:pairs"), long_pairs)
    groups = group(long_pairs, settings.questions_per_context, _keys(table))
    short = repeat(fine[cut:] or fine, wanted.get("short", 0), f"{seed}:short")
    general: list[Bundle] = []
    if settings.general is not None:
        general = list(
            general_bundles(
                settings.general, wanted.get("general", 0), counts, settings.general_fields, notes
            )
        )
    if len(general) < wanted.get("general", 0):
        notes.append(f"the general data had {len(general):,} usable rows of the {wanted['general']:,} wanted")

    def long(number: int, pairs: list[QA]) -> Make:
        return lambda: long_bundle(number, pairs, table, length=settings.context_tokens, seed=seed)

    def brief(number: int, pair: QA) -> Make:
        return lambda: short_bundle(number, pair, table, most_tokens=settings.short_tokens, seed=seed)

    def ready(bundle: Bundle) -> Make:
        return lambda: bundle

    makers = [long(i, pairs) for i, pairs in enumerate(groups)]
    makers += [brief(i, pair) for i, pair in enumerate(short)]
    makers += [ready(bundle) for bundle in general]
    shuffle(random.Random(f"in2:{seed}:order"), makers)
    return makers


def _split(found: int, fine: int, short: int) -> int:
    """How many of `found` pairs go to long contexts: all shares alike where there are too few."""
    return found if not short else min(fine, round(found * fine / (fine + short)))


def _keys(table: SegmentTable) -> Callable[[int], str | None]:
    return table.key


def _write(settings: In2Synth, makers: Sequence[Make], data: Path, ctx: Context) -> None:
    """Write the shards that are not there yet; each is a contiguous block of bundles."""
    count = min(settings.shards, max(1, len(makers)))
    for index in range(count):
        if shard_path(data, "bundles", index, count, "parquet").is_file():
            continue
        first, last = index * len(makers) // count, (index + 1) * len(makers) // count
        write_bundles(data, _logged(makers[first:last], first, len(makers), ctx), index=index, count=count)


def _logged(makers: Sequence[Make], first: int, total: int, ctx: Context) -> Iterator[Bundle]:
    for number, make in enumerate(makers, first + 1):
        yield make()
        ctx.pulse(f"    contexts: {number:,} of {total:,}")
