"""LOGO's score step: importance scores and the filter on their own, over synth's candidates or any preference data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from lcx.context import StepResult
from lcx.data.bundles import BundleReader, read_bundles
from lcx.data.segments import segment_spans
from lcx.data.table import SegmentTable, link_table, load_table
from lcx.data.tokenizing import BUILTIN
from lcx.errors import LcxError, UsageError
from lcx.llm.asking import Asker, batches_at_once
from lcx.llm.client import Service
from lcx.llm.ledger import paid
from lcx.records import Branch, Bundle
from lcx.steps import StepWork
from lcx.storage import Journal, make_folder, write_lines, write_text
from lcx_logo.answers import Answer
from lcx_logo.bundles import CHOSEN, REJECTED, dropped_row
from lcx_logo.filter import Judge, Judged, Verdict, sift
from lcx_logo.importance import Extractor, Item, classify, open_extractor
from lcx_logo.importance import score as importance
from lcx_logo.output import CANDIDATES, write_candidates
from lcx_logo.report import report, score_row, tallies
from lcx_logo.settings import LogoScore
from lcx_logo.synth import SAMPLE, judge_prompt, sampled

MOST_EVIDENCE = 16
"""Critical chunks that the judge sees at most."""


def score(work: StepWork[LogoScore]) -> StepResult:
    """Score chunks and answers, filter, and write what stays to `STEP/data`, which train can take as its input."""
    step, run, ctx, settings = work.step, work.run, work.ctx, work.settings
    folder = run.folder(step)
    source = run.bundles(step)
    prompt = judge_prompt(settings.prompts)
    service = Service(folder, settings, ctx)
    if not (folder / "journal.jsonl").exists():
        service.check(settings.judge, settings.judge_options)
    name = CANDIDATES if any(source.glob(f"{CANDIDATES}-*-of-*")) else "bundles"
    bundles = read_bundles(source, name)
    table = load_table(source) if (source / "table.json").is_file() else None
    usable = [number for number, bundle in enumerate(bundles) if _is_preference(bundle)]
    if not usable:
        raise UsageError(
            f"{source} holds no preference data",
            why=f"None of its {len(bundles):,} bundles has one chosen answer and a rejected one to the same question.",
            hint=f"--input FOLDER of such bundles, or `lcx synth --recipe {run.reference}` first",
        )
    ctx.log(f"{len(usable):,} examples from {source}")
    pieces = Pieces(table, settings.segment_tokens)
    sample = sampled(table) if table else islice((t for b in bundles for t in pieces.texts(b)), SAMPLE)
    scorer = Scorer(pieces, open_extractor(settings.importance, sample), settings)
    answers = [[_answer(branch) for branch in _ordered(bundles[number])] for number in usable]

    def example(place: int) -> Judged:
        bundle = bundles[usable[place]]
        evidence = scorer.evidence(bundle)
        return Judged(
            bundle.branches[0].question, str(bundle.meta.get("reference") or ""), evidence, answers[place]
        )

    with Journal(folder / "journal.jsonl") as journal, service:
        judge = Asker(service.opener(settings.judge, settings.judge_options), journal)
        rated = []
        ahead = batches_at_once(settings.judge, settings.batch, settings.concurrency)
        judging = Judge(judge, prompt, settings.seed, settings.batch, ahead)
        for found in judging.rate(len(usable), example, answers.__getitem__):
            rated.append(found)
            ctx.pulse(f"    judged: {len(rated):,} of {len(usable):,}")
        described = {"judge": judge.describe() or {"spec": settings.judge}}
        others, cost = paid(service.counts())

    def make(place: int) -> Bundle:
        verdict = sift(rated[place], judged=True, margin=settings.margin, least=settings.least)
        return scorer.bundle(bundles[usable[place]], rated[place], verdict)

    data = make_folder(folder / "data")
    if table is not None:
        link_table(source, data)
    write_candidates(settings.shards, data, len(usable), make)
    counts: Counter[str] = Counter(
        {
            "judge calls": judge.calls,
            "prompt_tokens": judge.prompt_tokens,
            "completion_tokens": judge.completion_tokens,
            "not a preference example": len(bundles) - len(usable),
        }
    )
    counts.update(others)
    result = _finish(settings, folder, read_bundles(data), read_bundles(data, CANDIDATES), +counts, described)
    result.metrics.update(cost)
    return result


def _finish(
    settings: LogoScore,
    folder: Path,
    bundles: BundleReader,
    candidates: BundleReader,
    counts: Counter[str],
    described: dict[str, Any],
) -> StepResult:
    write_lines(folder / "scores.jsonl", map(score_row, candidates))
    write_lines(folder / "dropped.jsonl", (row for row in map(dropped_row, candidates) if row is not None))
    metrics, found = tallies(bundles, candidates)
    counts.update(found)
    write_text(folder / "report.md", report(metrics, counts, candidates))
    if not len(bundles):
        raise LcxError(
            f"the filter dropped all {len(candidates):,} examples",
            why="; ".join(f"{k} ({n})" for k, n in counts.most_common() if k.startswith("example dropped")),
            hint=f"{folder / 'report.md'} shows their ratings; lower score.margin.",
        )
    return StepResult(
        counts=dict(sorted(counts.items())),
        metrics=metrics,
        files={"data": "data", "scores": "scores.jsonl", "report": "report.md", "dropped": "dropped.jsonl"},
        notes=[f"the filter kept {len(bundles):,} of {len(candidates):,} examples"],
        extra=described,
    )


@dataclass(frozen=True)
class Pieces:
    """The chunks of a bundle's context: its plan's segments, or pieces that its text is cut into by the same rule."""

    table: SegmentTable | None
    segment_tokens: int

    def texts(self, bundle: Bundle) -> list[str]:
        if bundle.plan is not None:
            if self.table is None:
                raise UsageError(f"bundle {bundle.id} has a plan, but the folder holds no segment table")
            return self.table.texts(bundle.plan)
        text = bundle.context or ""
        spans = segment_spans(text, BUILTIN["simple"].starts([text])[0], self.segment_tokens)
        return [text[start:end] for start, end, _ in spans]

    def names(self, bundle: Bundle) -> tuple[int, ...]:
        """What the chunks are called: their numbers in the table, or in the text."""
        return bundle.plan if bundle.plan is not None else tuple(range(len(self.texts(bundle))))

    def tokens(self, bundle: Bundle) -> int:
        if bundle.plan is not None and self.table is not None:
            return sum(int(self.table.tokens[chunk]) for chunk in bundle.plan) + len(bundle.plan) - 1
        return len(BUILTIN["simple"].starts([bundle.context or ""])[0])


@dataclass(frozen=True)
class Scorer:
    """Scores the chunks of a bundle's context against its question."""

    pieces: Pieces
    extractor: Extractor
    settings: LogoScore

    def importance(self, bundle: Bundle) -> tuple[tuple[Item, ...], float, list[int]]:
        """The question's items, the threshold, and the score of every chunk."""
        items = self.extractor.question(bundle.branches[0].question)
        given = self.settings.threshold
        threshold = self.extractor.threshold(items) if given == "auto" else float(given)
        return (
            items,
            threshold,
            [importance(items, self.extractor.chunk(t)) for t in self.pieces.texts(bundle)],
        )

    def critical(self, bundle: Bundle) -> list[int]:
        """Places of the critical chunks, the best first: those the question was written from count as such."""
        _, threshold, scores = self.importance(bundle)
        source = set(bundle.meta.get("source") or ())
        names = self.pieces.names(bundle)
        found = [
            place
            for place, value in enumerate(scores)
            if names[place] in source or classify(value, threshold) == "critical"
        ]
        return sorted(found, key=lambda place: (names[place] not in source, -scores[place], place))

    def evidence(self, bundle: Bundle) -> tuple[str, ...]:
        """The critical chunks' texts in the order of the context, as many as the judge may see."""
        texts = self.pieces.texts(bundle)
        return tuple(texts[place] for place in sorted(self.critical(bundle)[:MOST_EVIDENCE]))

    def bundle(self, bundle: Bundle, answers: Sequence[Answer], verdict: Verdict) -> Bundle:
        """The bundle with new scores, ratings and reasons for dropping."""
        items, threshold, scores = self.importance(bundle)
        names = self.pieces.names(bundle)
        gold = tuple(sorted(self.critical(bundle)))
        meta = {key: value for key, value in bundle.meta.items() if key != "dropped"}
        meta |= {
            "items": [" ".join(item) for item in items],
            "threshold": threshold,
            "scores": scores,
            "critical": [names[place] for place in gold],
            "tokens": meta.get("tokens", self.pieces.tokens(bundle)),
        }
        if verdict.reason:
            meta["dropped"] = verdict.reason
        reasons = ["", *verdict.rejected]
        branches = tuple(
            replace(branch, gold=gold, meta=_branch_meta(branch, answer, reason))
            for branch, answer, reason in zip(_ordered(bundle), answers, reasons, strict=True)
        )
        return replace(bundle, branches=branches, meta=meta)


def _branch_meta(branch: Branch, answer: Answer, reason: str) -> dict[str, Any]:
    meta = {key: value for key, value in branch.meta.items() if key not in ("dropped", "rating")}
    if answer.rating is not None:
        meta["rating"] = round(answer.rating, 4)
    if reason:
        meta["dropped"] = reason
    return meta


def _is_preference(bundle: Bundle) -> bool:
    roles = [branch.role for branch in bundle.branches]
    one_question = len({branch.question for branch in bundle.branches}) == 1
    return one_question and roles.count(CHOSEN) == 1 and roles.count(REJECTED) == len(roles) - 1 >= 1


def _ordered(bundle: Bundle) -> Iterator[Branch]:
    """The chosen branch first."""
    yield from sorted(bundle.branches, key=lambda branch: branch.role != CHOSEN)


def _answer(branch: Branch) -> Answer:
    meta = branch.meta
    chunks = tuple(meta.get("chunks") or ())
    return Answer(
        branch.answer.strip(),
        str(meta.get("from", branch.role)),
        chunks,
        str(meta.get("error", "")),
        bool(meta.get("cut")),
    )
