"""LOGO's synth step: documents -> chunks -> questions -> answers from right and wrong chunks -> filtered bundles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lcx.context import Context, StepResult
from lcx.data.prepare import step_table
from lcx.data.table import SegmentTable
from lcx.data.templates import load_template
from lcx.errors import LcxError
from lcx.llm.asking import Asker, batches_at_once
from lcx.llm.client import Service
from lcx.llm.ledger import paid
from lcx.llm.prompts import Render, by_prompt, by_template, load_prompt
from lcx.llm.questions import Writer, writer_prompts
from lcx.records import Bundle
from lcx.steps import StepWork
from lcx.storage import Journal
from lcx_logo.answers import Answer, Policy
from lcx_logo.bundles import candidate
from lcx_logo.chunks import Asked, Case, Rules, build_case
from lcx_logo.filter import Judge, Judged, sift
from lcx_logo.importance import Extractor, open_extractor
from lcx_logo.output import finish, write_candidates
from lcx_logo.questions import gather
from lcx_logo.settings import LogoSynth

SAMPLE = 2048
"""Chunks that tell which words are common."""
PACKAGE = "lcx_logo"


def synth(work: StepWork[LogoSynth]) -> StepResult:
    """Make LOGO's bundles in `STEP/data`. A killed step resumes and ends with the same bytes."""
    step, run, ctx, settings = work.step, work.run, work.ctx, work.settings
    folder = run.folder(step)
    data = folder / "data"
    counts: Counter[str] = Counter()
    prompts = writer_prompts(settings.prompts)
    render = _render(settings)
    judging = judge_prompt(settings.prompts)
    writer_of = (settings.writer, settings.writer_options) if settings.writer else policy_of(settings)
    service = Service(folder, settings, ctx)
    if not (folder / "journal.jsonl").exists():  # what is not there should be said before the corpus is read
        for one in (writer_of, policy_of(settings), judge_of(settings)):
            service.check(*one)
        if settings.importance != "builtin":
            open_extractor(settings.importance)
    table = step_table(
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
        questions=True,
        fields=settings.fields,
        encoding=settings.encoding,
    )
    with Journal(folder / "journal.jsonl") as journal, service:
        writer = Writer(
            service.opener(*writer_of),
            journal,
            prompts=prompts,
            text=table.text,
            batch=settings.batch,
            seed=settings.seed,
            temperature=settings.temperature,
            max_tokens=settings.question_tokens,
            ahead=batches_at_once(writer_of[0], settings.batch, settings.concurrency),
        )
        asked = gather(settings, table, data, writer, counts, ctx)
        counts.update(writer.skipped)
        service.close(policy_of(settings), judge_of(settings))
        extractor = open_extractor(settings.importance, sampled(table))
        cases = _cases(settings, asked, table, extractor, counts, ctx)

        policy = Asker(service.opener(*policy_of(settings)), journal)
        answers = _answers(settings, cases, table, policy, render, ctx)
        service.close(judge_of(settings))
        judge = Asker(service.opener(*judge_of(settings)), journal)
        if settings.filter:
            answers = _rated(settings, cases, answers, table, judge, judging, ctx)
        described = {
            "writer": writer.describe() or {"spec": writer_of[0]},
            "policy": policy.describe() or {"spec": settings.llm},
            "judge": judge.describe() or {"spec": settings.judge},
        }
        others, cost = paid(service.counts())
    for name, asker in (("writer", writer.asker), ("policy", policy), ("judge", judge)):
        counts[f"{name} calls"] = asker.calls
        counts["prompt_tokens"] += asker.prompt_tokens
        counts["completion_tokens"] += asker.completion_tokens

    write_candidates(settings.shards, data, len(cases), _makers(settings, cases, answers, table))
    counts.update(others)
    result = finish(settings, folder, table, counts, described)
    result.metrics.update(cost)
    return result


def policy_of(settings: LogoSynth) -> tuple[str, dict[str, Any]]:
    """Spec and options of the model that answers. A template that takes no chat turn gets none."""
    options = settings.llm_options
    if settings.template and settings.llm.startswith("local:") and not load_template(settings.template).chat:
        options = {"chat": "never", **options}
    return settings.llm, options


def judge_of(settings: LogoSynth) -> tuple[str, dict[str, Any]]:
    return settings.judge, settings.judge_options


def judge_prompt(folder: str | None) -> str:
    """The judge's prompt, the user's or ours."""
    return load_prompt("judge", folder, package=PACKAGE, needs=("{question}", "{answer}"))


def sampled(table: SegmentTable) -> Iterator[str]:
    """Texts of evenly spaced chunks, SAMPLE at most."""
    step = max(1, -(-len(table) // SAMPLE))
    return (table.text(chunk) for chunk in range(0, len(table), step))


def _render(settings: LogoSynth) -> Callable[[Asker], Render]:
    """How a request reads, once the policy is open and says whether it puts a chat turn around it."""
    if settings.template is None:
        prompt = load_prompt("answer", settings.prompts, package=PACKAGE, needs=("{context}", "{question}"))
        return lambda _: by_prompt(prompt)
    template = load_template(settings.template)
    return lambda asker: by_template(template, bool(asker.describe().get("chat_template", True)))


def _cases(
    settings: LogoSynth,
    asked: Sequence[Asked],
    table: SegmentTable,
    extractor: Extractor,
    counts: Counter[str],
    ctx: Context,
) -> list[Case]:
    rules = Rules(
        chunks=settings.chunks,
        rejected=settings.rejected,
        threshold=settings.threshold,
        fill=settings.fill == "corpus",
        context_tokens=settings.context_tokens,
        read_tokens=settings.read_tokens,
        seed=settings.seed,
    )
    cases: list[Case] = []
    skipped: Counter[str] = Counter()
    for number, one in enumerate(asked):
        case = build_case(number, one, table, extractor, rules)
        if isinstance(case, str):
            skipped[f"question skipped: {case}"] += 1
        else:
            cases.append(case)
        ctx.pulse(f"    contexts: {number + 1:,} of {len(asked):,}")
    counts.update(skipped)
    if not cases:
        raise LcxError(
            "no question is left after the importance scores",
            why="; ".join(f"{reason} ({n})" for reason, n in skipped.most_common()),
            hint="Lower synth.threshold, or give text with longer documents.",
        )
    return cases


def _answers(
    settings: LogoSynth,
    cases: Sequence[Case],
    table: SegmentTable,
    asker: Asker,
    render: Callable[[Asker], Render],
    ctx: Context,
) -> list[list[Answer]]:
    stop = load_template(settings.template).end.strip() if settings.template else ""
    policy = Policy(
        asker,
        table,
        lambda: render(asker),
        settings.temperature,
        settings.top_p,
        settings.answer_tokens,
        own=settings.answers == "own",
        stop=stop,
        seed=settings.seed,
        batch=settings.batch,
        ahead=batches_at_once(settings.llm, settings.batch, settings.concurrency),
    )
    answers = []
    for found in policy.answer(cases):
        answers.append(found)
        ctx.pulse(f"    answered: {len(answers):,} of {len(cases):,}")
    return answers


def _rated(
    settings: LogoSynth,
    cases: Sequence[Case],
    answers: Sequence[list[Answer]],
    table: SegmentTable,
    asker: Asker,
    prompt: str,
    ctx: Context,
) -> list[list[Answer]]:
    def example(number: int) -> Judged:
        case = cases[number]
        evidence = tuple(table.texts(case.readings[0].chunks))
        return Judged(case.asked.question, case.asked.reference or "", evidence, answers[number])

    rated = []
    ahead = batches_at_once(settings.judge, settings.batch, settings.concurrency)
    judge = Judge(asker, prompt, settings.seed, settings.batch, ahead)
    for found in judge.rate(len(cases), example, answers.__getitem__):
        rated.append(found)
        ctx.pulse(f"    judged: {len(rated):,} of {len(cases):,}")
    return rated


def _makers(
    settings: LogoSynth, cases: Sequence[Case], answers: Sequence[list[Answer]], table: SegmentTable
) -> Callable[[int], Bundle]:
    def make(number: int) -> Bundle:
        verdict = sift(answers[number], judged=settings.filter, margin=settings.margin, least=settings.least)
        return candidate(cases[number], answers[number], verdict, table)

    return make
