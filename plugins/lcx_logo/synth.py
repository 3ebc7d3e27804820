"""LOGO's synth step: documents -> chunks -> questions -> answers from right and wrong chunks -> filtered bundles."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lcx.data.bundles import read_bundles
from lcx.data.plans import neighbour_runs, shuffle
from lcx.data.table import SegmentTable, small_table
from lcx.data.templates import load_template
from lcx.data.tokens import Shown
from lcx.errors import LcxError, UsageError
from lcx.llm.client import LLMClient, batches_at_once
from lcx.llm.ledger import costs
from lcx.llm.prompts import UNFINISHED, Render, by_prompt, by_template, load_prompt
from lcx.llm.questions import FINE, INTEGRATION, QA, Writer, writer_prompts
from lcx.records import Bundle
from lcx.steps import StepResult, StepWork
from lcx.storage import ShardReader
from lcx_logo.answers import Answer, Policy
from lcx_logo.contexts import Asked, Case, Rules, build_case, candidate, dropped_row, kept
from lcx_logo.filter import Judge, Judged, judge_rubric, sift
from lcx_logo.importance import Extractor, open_extractor
from lcx_logo.report import preview, summary
from lcx_logo.settings import JOINT_CHUNKS, LogoSynth

CANDIDATES = "candidates"
"""Name of the shards that hold every example, dropped or not, beside the bundles that are trained on."""
SAMPLE = 2048
"""Chunks that tell which words are common."""
PROMPT_TOKENS = 150
"""About what a prompt of ours spends besides texts, question and answer."""
QUESTION_TOKENS, ANSWER_TOKENS, RATING_TOKENS = 120, 150, 120
"""About what a written question, an answer and a rating take."""
CRITICAL_CHUNKS = 2
"""About how many chunks are critical to a question."""
CHUNK = 1.1
"""A chunk's tokens, of the least that it may have: lines are not cut."""
PACKAGE = "lcx_logo"


def synth(work: StepWork[LogoSynth]) -> StepResult:
    """Make LOGO's bundles in `STEP/data`. A killed step resumes and ends with the same bytes."""
    settings = work.settings
    prompts = writer_prompts(settings.prompts)
    render = _render(settings)
    judging = judge_prompt(settings.prompts)
    specs = {"policy": policy_of(work), "judge": work.spec("judge")}
    specs["writer"] = work.spec("writer") if settings.writer else specs["policy"]
    clients = {
        role: work.llm(role, spec) for role, spec in specs.items()
    }  # what is missing is said before the
    if not work.resumed and settings.importance != "builtin":  # corpus is read
        open_extractor(settings.importance)
    table = work.table(min_tokens=settings.segment_tokens, mode=settings.segment_by, questions=True)
    writer = Writer(
        clients["writer"],
        prompts=prompts,
        text=table.text,
        batch=settings.batch,
        seed=settings.seed,
        temperature=settings.temperature,
        max_tokens=settings.question_tokens,
        ahead=batches_at_once(specs["writer"][0], settings.batch, settings.concurrency),
        limit="question_tokens",
    )
    asked = gather(work, table, writer)
    work.counts.update(writer.skipped)
    work.service.close(specs["policy"], specs["judge"])
    extractor = open_extractor(settings.importance, sampled(table))
    cases = _cases(work, asked, table, extractor)

    seen: dict[LLMClient, tuple[int, int, int]] = {}
    _count(work, "writer", clients["writer"], seen)
    answers = _answers(work, cases, table, clients["policy"], render)
    _count(work, "policy", clients["policy"], seen)
    work.service.close(specs["judge"])
    if settings.filter:
        answers = _rated(work, cases, answers, table, clients["judge"], judging)
    _count(work, "judge", clients["judge"], seen)
    write_candidates(work, len(cases), _makers(settings, cases, answers, table))
    return _finish(work, table)


def _count(
    work: StepWork[LogoSynth], role: str, client: LLMClient, seen: dict[LLMClient, tuple[int, int, int]]
) -> None:
    """Note who played a role, and what it took: of a client that plays several, what came since the last of them."""
    used = client.used.calls, client.used.prompt_tokens, client.used.completion_tokens
    calls, prompt, completion = (
        now - then for now, then in zip(used, seen.get(client, (0, 0, 0)), strict=True)
    )
    seen[client] = used
    work.extra[role] = client.about
    work.counts[f"{role} calls"] = calls
    work.counts["prompt_tokens"] += prompt
    work.counts["completion_tokens"] += completion


def policy_of(work: StepWork[LogoSynth]) -> tuple[str, dict[str, Any]]:
    """Spec and options of the model that answers. A template that takes no chat turn gets none."""
    settings, (spec, options) = work.settings, work.spec("llm")
    if settings.template and spec.startswith("local:") and not load_template(settings.template).chat:
        options = {"chat": "never", **options}
    return spec, options


def judge_prompt(folder: str | None) -> str:
    """The judge's prompt, the user's or ours."""
    return load_prompt("judge", folder, package=PACKAGE, needs=("{question}", "{answer}"))


def sampled(table: SegmentTable) -> Iterator[str]:
    """Texts of evenly spaced chunks, SAMPLE at most."""
    step = max(1, -(-len(table) // SAMPLE))
    return (table.text(chunk) for chunk in range(0, len(table), step))


def _render(settings: LogoSynth) -> Callable[[LLMClient], Render]:
    """How a request reads, once the policy is open and says whether it puts a chat turn around it."""
    if settings.template is None:
        prompt = load_prompt("answer", settings.prompts, package=PACKAGE, needs=("{context}", "{question}"))
        return lambda _: by_prompt(prompt)
    template = load_template(settings.template)
    return lambda client: by_template(template, bool(client.describe().get("chat_template", True)))


def _cases(
    work: StepWork[LogoSynth], asked: Sequence[Asked], table: SegmentTable, extractor: Extractor
) -> list[Case]:
    settings = work.settings
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
        work.ctx.pulse(f"    contexts: {number + 1:,} of {len(asked):,}")
    work.counts.update(skipped)
    if not cases:
        raise LcxError(
            "no question is left after the importance scores",
            why="; ".join(f"{reason} ({n})" for reason, n in skipped.most_common()),
            hint="Lower synth.threshold, or give text with longer documents.",
        )
    return cases


def _answers(
    work: StepWork[LogoSynth],
    cases: Sequence[Case],
    table: SegmentTable,
    client: LLMClient,
    render: Callable[[LLMClient], Render],
) -> list[list[Answer]]:
    settings = work.settings
    stop = load_template(settings.template).end.strip() if settings.template else ""
    policy = Policy(
        client,
        table,
        lambda: render(client),
        settings.temperature,
        settings.top_p,
        settings.answer_tokens,
        own=settings.answers == "own",
        stop=stop,
        seed=settings.seed,
        batch=settings.batch,
        ahead=batches_at_once(settings.llm, settings.batch, settings.concurrency),
        keep=settings.thoughts == "keep",
    )
    replies = []
    work.service.begin(len(cases) * (settings.rejected + (settings.answers == "own")))
    for found in policy.replies(cases):
        replies.append(found)
        work.ctx.pulse(f"    answered: {len(replies):,} of {len(cases):,}")
    work.deal.gathered()
    answers = policy.answers(cases, replies)
    count_thoughts(work.counts, (answer for found in answers for answer in found))
    return answers


def count_thoughts(counts: Counter[str], answers: Iterable[Answer]) -> None:
    """Count answers that have thoughts, and those that are nothing else."""
    found = list(answers)
    thought = sum(bool(answer.raw) for answer in found)
    alone = sum(answer.error == UNFINISHED for answer in found)
    named = {"answers with thoughts": thought, "answers of an unfinished thought only": alone}
    counts.update({name: number for name, number in named.items() if number})


def _rated(
    work: StepWork[LogoSynth],
    cases: Sequence[Case],
    answers: Sequence[list[Answer]],
    table: SegmentTable,
    client: LLMClient,
    prompt: str,
) -> list[list[Answer]]:
    settings = work.settings

    def example(number: int) -> Judged:
        case = cases[number]
        evidence = tuple(table.texts(case.readings[0].chunks))
        return Judged(case.asked.question, case.asked.reference or "", evidence, answers[number])

    ahead = batches_at_once(settings.judge, settings.batch, settings.concurrency)
    judge = Judge(client, judge_rubric(prompt, settings.seed), settings.batch * ahead)
    work.service.begin(sum(bool(answer.text) for found in answers for answer in found))
    return judge.rate(work, [case.asked.question for case in cases], example)


def _makers(
    settings: LogoSynth, cases: Sequence[Case], answers: Sequence[list[Answer]], table: SegmentTable
) -> Callable[[int], Bundle]:
    def make(number: int) -> Bundle:
        verdict = sift(answers[number], judged=settings.filter, margin=settings.margin, least=settings.least)
        return candidate(cases[number], answers[number], verdict, table)

    return make


# Where questions come from


def gather(work: StepWork[LogoSynth], table: SegmentTable, writer: Writer) -> list[Asked]:
    """Up to `examples` questions in random order: the corpus' own first, then written ones, then both again.

    A question comes again, up to `repeats` times in all, where there are fewer than examples: each time it gets
    other irrelevant chunks. Raises UsageError where there is no question at all.
    """
    settings, counts = work.settings, work.counts
    own = corpus_questions(work.data, settings, counts) if settings.qa != "written" else []
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
    found = [*own, *_written(work, table, writer, missing, asking)]
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
    return [(question, answer) for question, answer in json.loads(meta).get("qa", [])]


def _written(
    work: StepWork[LogoSynth], table: SegmentTable, writer: Writer, needed: int, asking: set[int]
) -> list[Asked]:
    """Questions about documents that ask none themselves: `joint` of them about runs of chunks, the rest about one."""
    settings = work.settings
    if needed < 1:
        return []
    joint = round(settings.joint * needed)
    work.service.begin(needed)
    rng = random.Random(f"logo:{settings.seed}:runs")
    runs = neighbour_runs(rng, table, JOINT_CHUNKS) if joint else []
    singles = [(chunk,) for chunk in range(len(table))]
    shuffle(random.Random(f"logo:{settings.seed}:fine"), singles)
    found: list[QA] = []
    for kind, candidates, wanted in ((INTEGRATION, runs, joint), (FINE, singles, needed)):
        free = [chunks for chunks in candidates if table.document_of(chunks[0]) not in asking]
        limit = f"--set synth.question_tokens={2 * settings.question_tokens}"
        hint = f"--set synth.writer=SPEC, {limit}{' or --set synth.joint=0' if kind == INTEGRATION else ''}"
        # A shard has not seen what the others found about runs, and takes it that it is as much as was wanted.
        known = min(joint, len(runs)) if work.deal.open else len(found)
        for pair in writer.write(kind, kind, free, wanted - (known if kind == FINE else 0), hint):
            found.append(pair)
            work.ctx.pulse(f"    questions: {len(found):,} of {needed:,}")
    work.deal.gathered()
    return [Asked(p.question, p.answer, table.document_of(p.segments[0]), p.segments) for p in found]


# What the step leaves on disk


def write_candidates(work: StepWork[Any], examples: int, make: Callable[[int], Bundle]) -> None:
    """Write the shards that are not there yet: every example into `candidates`, what is kept into `bundles`."""
    for shard in work.shards(examples):
        block = [make(place) for place in shard.places]
        shard.write(block, CANDIDATES)
        shard.write(bundle for bundle in map(kept, block) if bundle is not None)


def _finish(work: StepWork[LogoSynth], table: SegmentTable) -> StepResult:
    """Counts, notes and the files for people, once the data is written."""
    bundles, candidates = read_bundles(work.data), read_bundles(work.data, CANDIDATES)
    metrics = summary(bundles, candidates)
    work.counts.update(metrics.pop("counts"))
    work.write_text("preview.md", preview(bundles, table, Shown(work.settings.tokenizer)))
    work.write("dropped", (row for row in map(dropped_row, candidates) if row is not None))
    if not len(bundles):
        raise nothing_kept(
            work,
            len(candidates),
            "dropped.jsonl",
            "lower synth.margin, or see whether the policy answers at all",
        )
    return work.done(metrics, notes=_notes(work.settings, work.counts, len(bundles), len(candidates)))


def nothing_kept(work: StepWork[Any], examples: int, file: str, hint: str) -> LcxError:
    """The error of a step whose filter left nothing."""
    reasons = [(why, n) for why, n in work.counts.most_common() if why.startswith("example dropped")]
    return LcxError(
        f"the filter dropped all {examples:,} examples",
        why="; ".join(f"{why} ({n})" for why, n in reasons),
        hint=f"{work.folder / file} has them with their ratings; {hint}.",
    )


def _notes(settings: LogoSynth, counts: Counter[str], bundles: int, candidates: int) -> list[str]:
    notes = []
    distinct = counts["questions of the corpus"] + counts["questions written"]
    if distinct < settings.examples:
        served = min(settings.examples, distinct * settings.repeats)
        notes.append(
            f"{distinct:,} different questions serve {served:,} examples of the {settings.examples:,} wanted "
            f"(synth.repeats: {settings.repeats})"
        )
    if bundles < candidates:
        notes.append(
            f"the filter kept {bundles:,} of {candidates:,} examples; dropped.jsonl says why the others went"
        )
    if settings.llm == "builtin":
        notes.append(
            "builtin rules answered; LOGO trains a model on its own answers: --llm local:PATH_OR_ID of that model"
        )
    return notes


# What it will cost


def _foreseen(settings: LogoSynth) -> tuple[int, int, bool]:
    """Examples, questions written for them, and whether the corpus was looked into for both."""
    examples = settings.examples
    table = small_table(
        settings, min_tokens=settings.segment_tokens, mode=settings.segment_by, questions=True
    )
    if table is None:
        return examples, 0 if settings.qa == "corpus" else examples, False
    asking: set[int] = set()
    own = 0
    for number in range(table.document_count if settings.qa != "written" else 0):
        for _, answer in table.document(number).meta.get("qa", ()):
            asking.add(number)
            own += settings.answers == "own" or answer is not None
    own = min(own, examples)
    free = sum(table.document_of(chunk) not in asking for chunk in range(len(table)))
    written = 0 if settings.qa == "corpus" else min(examples - own, free)
    return min(examples, (own + written) * settings.repeats), written, True


def forecast(work: StepWork[LogoSynth]) -> dict[str, Any]:
    """Calls and tokens by part, and the contexts. A small corpus is looked into for its questions and its chunks."""
    settings = work.settings
    size = CHUNK * settings.segment_tokens
    context = min(settings.chunks * size, settings.context_tokens or float("inf"))
    read = min(settings.chunks * size, settings.read_tokens or float("inf"))
    own = settings.answers == "own"
    examples, written, known = _foreseen(settings)
    enough = f"a question for every example{', all written' if written else ''}; "
    judged = examples * (1 + settings.rejected) if settings.filter else 0
    models = {"writer": settings.writer or settings.llm, "policy": settings.llm, "judge": settings.judge}
    found: dict[str, Any] = {
        "examples": examples,
        "calls": {
            "writer": written,
            "policy": examples * (settings.rejected + own),
            "judge": judged,
        },
        "prompt_tokens": {
            "writer": round(written * (PROMPT_TOKENS + size)),
            "policy": round(
                examples
                * (
                    settings.rejected * (PROMPT_TOKENS + read)
                    + own * (PROMPT_TOKENS + CRITICAL_CHUNKS * size)
                )
            ),
            "judge": round(judged * (2 * PROMPT_TOKENS + ANSWER_TOKENS + CRITICAL_CHUNKS * size)),
        },
        "answer_tokens": {
            "writer": written * QUESTION_TOKENS,
            "policy": examples * (settings.rejected + own) * min(ANSWER_TOKENS, settings.answer_tokens),
            "judge": judged * RATING_TOKENS,
        },
        "models": models,
        "context_tokens": round(examples * context),
        "assumes": f"{'' if known else enough}{CRITICAL_CHUNKS} critical chunks for each question, {ANSWER_TOKENS} "
        "tokens an answer; the filter keeps all",
    }
    parts = {
        part: (spec, found["prompt_tokens"][part], found["answer_tokens"][part])
        for part, spec in models.items()
    }
    return found | costs(settings, parts)
