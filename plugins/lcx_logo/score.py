"""LOGO's score step: importance scores and the filter on their own, over synth's candidates or any preference data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from lcx.data.bundles import read_bundles
from lcx.data.table import SegmentTable, link_table, load_table, segment_spans
from lcx.data.tokens import BUILTIN
from lcx.errors import UsageError
from lcx.llm.client import batches_at_once
from lcx.llm.ledger import costs
from lcx.llm.prompts import KEPT, read_thoughts, thought_meta
from lcx.records import Branch, Bundle
from lcx.steps import StepResult, StepWork
from lcx_logo.answers import Answer, spoken
from lcx_logo.contexts import CHOSEN, REJECTED, dropped_row
from lcx_logo.filter import Judge, Judged, Verdict, judge_rubric, sift
from lcx_logo.importance import Extractor, Item, classify, open_extractor
from lcx_logo.importance import score as importance
from lcx_logo.report import report, score_row, tallies
from lcx_logo.settings import LogoScore
from lcx_logo.synth import (
    ANSWER_TOKENS,
    CANDIDATES,
    CHUNK,
    CRITICAL_CHUNKS,
    PROMPT_TOKENS,
    RATING_TOKENS,
    SAMPLE,
    count_thoughts,
    judge_prompt,
    nothing_kept,
    sampled,
    write_candidates,
)

MOST_EVIDENCE = 16
"""Critical chunks that the judge sees at most."""


def score(work: StepWork[LogoScore]) -> StepResult:
    """Score chunks and answers, filter, and write what stays to `STEP/data`, which train can take as its input."""
    settings, source = work.settings, work.source
    prompt = judge_prompt(settings.prompts)
    client = work.llm("judge")
    bundles = read_bundles(source, CANDIDATES if any(source.glob(f"{CANDIDATES}-*-of-*")) else "bundles")
    table = load_table(source) if (source / "table.json").is_file() else None
    usable = [number for number, bundle in enumerate(bundles) if _is_preference(bundle)]
    if not usable:
        raise UsageError(
            f"{source} holds no preference data",
            why=f"None of its {len(bundles):,} bundles has one chosen answer and a rejected one to the same question.",
            hint=f"--input FOLDER of such bundles, or `lcx synth --recipe {work.run.reference}` first",
        )
    work.ctx.log(f"{len(usable):,} examples from {source}")
    pieces = Pieces(table, settings.segment_tokens)
    sample = sampled(table) if table else islice((t for b in bundles for t in pieces.texts(b)), SAMPLE)
    scorer = Scorer(pieces, open_extractor(settings.importance, sample), settings)
    keep = settings.thoughts == "keep"
    answers = [[_answer(branch, keep) for branch in _ordered(bundles[number])] for number in usable]
    count_thoughts(work.counts, (answer for found in answers for answer in found))

    def example(place: int) -> Judged:
        bundle = bundles[usable[place]]
        evidence = scorer.evidence(bundle)
        return Judged(
            bundle.branches[0].question, str(bundle.meta.get("reference") or ""), evidence, answers[place]
        )

    ahead = batches_at_once(client.spec, settings.batch, settings.concurrency)
    judging = Judge(client, judge_rubric(prompt, settings.seed), settings.batch * ahead)
    work.service.begin(sum(bool(answer.text) for found in answers for answer in found))
    rated = judging.rate(work, [bundles[number].branches[0].question for number in usable], example)

    def make(place: int) -> Bundle:
        verdict = sift(rated[place], judged=True, margin=settings.margin, least=settings.least)
        return scorer.bundle(bundles[usable[place]], rated[place], verdict)

    if table is not None:
        link_table(source, work.data)
    write_candidates(work, len(usable), make)
    counted = {
        "judge calls": client.used.calls,
        "prompt_tokens": client.used.prompt_tokens,
        "completion_tokens": client.used.completion_tokens,
        "not a preference example": len(bundles) - len(usable),
    }
    work.counts.update({name: number for name, number in counted.items() if number})
    work.extra["judge"] = client.about
    return _finish(work)


def _finish(work: StepWork[LogoScore]) -> StepResult:
    """Scores, the report and the numbers, once the data is written."""
    bundles, candidates = read_bundles(work.data), read_bundles(work.data, CANDIDATES)
    work.write("scores", map(score_row, candidates))
    metrics, found = tallies(bundles, candidates)
    work.counts.update(found)
    work.write_text("report.md", report(metrics, work.counts, candidates))
    work.write("dropped", (row for row in map(dropped_row, candidates) if row is not None))
    if not len(bundles):
        raise nothing_kept(work, len(candidates), "report.md", "lower score.margin")
    return work.done(metrics, notes=[f"the filter kept {len(bundles):,} of {len(candidates):,} examples"])


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
            replace(
                branch,
                answer=branch.answer if answer.text == branch.answer.strip() else answer.text,
                gold=gold,
                meta=_branch_meta(branch, answer, reason),
            )
            for branch, answer, reason in zip(_ordered(bundle), answers, reasons, strict=True)
        )
        return replace(bundle, branches=branches, meta=meta)


def _branch_meta(branch: Branch, answer: Answer, reason: str) -> dict[str, Any]:
    meta = {key: value for key, value in branch.meta.items() if key not in ("dropped", "rating")}
    if answer.rating is not None:
        meta["rating"] = round(answer.rating, 4)
    if reason:
        meta["dropped"] = reason
    if answer.error:
        meta["error"] = answer.error
    return meta | thought_meta(answer.text, answer.raw)


def _is_preference(bundle: Bundle) -> bool:
    roles = [branch.role for branch in bundle.branches]
    one_question = len({branch.question for branch in bundle.branches}) == 1
    return one_question and roles.count(CHOSEN) == 1 and roles.count(REJECTED) == len(roles) - 1 >= 1


def _ordered(bundle: Bundle) -> Iterator[Branch]:
    """The chosen branch first."""
    yield from sorted(bundle.branches, key=lambda branch: branch.role != CHOSEN)


def _answer(branch: Branch, keep: bool) -> Answer:
    meta = branch.meta
    chunks = tuple(meta.get("chunks") or ())
    answer = Answer(
        branch.answer.strip(),
        str(meta.get("from", branch.role)),
        chunks,
        str(meta.get("error", "")),
        bool(meta.get("cut")),
        raw=str(meta.get("raw", "")),
    )
    if answer.raw:
        return answer
    return spoken(answer, read_thoughts(branch.answer), branch.answer, keep or meta.get("thoughts") == KEPT)


# What it will cost


def forecast(work: StepWork[LogoScore]) -> dict[str, Any]:
    """The judge's calls, where the data is there to count."""
    run, settings = work.run, work.settings
    found: dict[str, Any] = {"judge": settings.judge, "data": settings.input}
    reference = str(settings.input or "")
    if not reference.startswith("step:"):
        return found
    name = reference.removeprefix("step:")
    if run.state(name) != "done":
        return {**found, "note": f"the data of {reference} is not there yet"}
    counts = run.manifest["steps"][name].get("counts", {})
    calls = counts.get("judge calls") or counts.get("policy calls")
    if not calls:
        return found
    size = CRITICAL_CHUNKS * CHUNK * settings.segment_tokens
    prompt = round(calls * (2 * PROMPT_TOKENS + ANSWER_TOKENS + size))
    reply = calls * RATING_TOKENS
    tokens = {"calls": calls, "prompt_tokens": prompt, "answer_tokens": reply}
    return found | tokens | costs(settings, {"judge": (settings.judge, prompt, reply)})
