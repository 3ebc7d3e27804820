"""LongReward's synth step: documents -> tasks -> ten answers each from the model that is to be trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from lcx.data.bundles import read_bundles
from lcx.data.table import SegmentTable, small_table
from lcx.data.templates import load_template
from lcx.data.tokens import Shown
from lcx.errors import LcxError, UsageError
from lcx.formatting import histogram, sparkline
from lcx.llm.client import LLMClient
from lcx.llm.ledger import costs
from lcx.llm.prompts import UNFINISHED, Render, by_prompt, by_template, load_prompt
from lcx.records import Bundle
from lcx.steps import StepResult, StepWork
from lcx_longreward.data import read_answer_rows, spoken
from lcx_longreward.sampling import Policy, Prompt, Sample, candidate_bundle, text_of, windows
from lcx_longreward.settings import LongRewardSynth
from lcx_longreward.tasks import gather, writer_prompts


def synth(work: StepWork[LongRewardSynth]) -> StepResult:
    """Make prompts with their candidates in `STEP/data`. A killed step resumes and ends with the same bytes."""
    settings, counts = work.settings, work.counts
    if settings.candidates_file:
        return _given(work)
    spec, options = work.spec("llm")
    policy_of = (spec, _options(settings, options))
    writer_prompts(settings.prompts)
    render = renderer(settings)
    # What is not there is said before the corpus is read
    writer = work.llm("writer") if settings.writer else work.llm(spec=policy_of)
    policy = work.llm(spec=policy_of)
    table = work.table(min_tokens=settings.segment_tokens, mode=settings.segment_by, questions=True)
    prompts = gather(settings, table, work.data, writer, counts, work.ctx, work.service.begin)
    counts["writer calls"] = writer.used.calls
    work.service.close(policy_of)
    written = writer.about
    before = policy.used.calls
    work.service.begin(len(prompts))
    answers = _answers(settings, prompts, table, policy, render)
    counts["policy calls"] = policy.used.calls - before
    both = [policy.used] if writer is policy else [writer.used, policy.used]
    counts["prompt_tokens"] = sum(one.prompt_tokens for one in both)
    counts["completion_tokens"] = sum(one.completion_tokens for one in both)
    dropped = _write(work, prompts, answers, table)
    return _finish(work, dropped, {"writer": written, "policy": policy.about})


def _options(settings: LongRewardSynth, options: dict[str, Any]) -> dict[str, Any]:
    """Options of the model that answers. A template that takes no chat turn gets none."""
    if settings.template and settings.llm.startswith("local:") and not load_template(settings.template).chat:
        options = {"chat": "never", **options}
    return options


def renderer(settings: LongRewardSynth) -> Callable[[LLMClient], Render]:
    """How a request reads, once the model is open and says whether it puts a chat turn around it."""
    if settings.template is None:
        needs = ("{context}", "{question}")
        prompt = load_prompt("answer", settings.prompts, package="lcx_longreward", needs=needs)
        return lambda _: by_prompt(prompt)
    template = load_template(settings.template)
    return lambda client: by_template(template, bool(client.describe().get("chat_template", True)))


def _answers(
    settings: LongRewardSynth,
    prompts: Sequence[Prompt],
    table: SegmentTable,
    client: LLMClient,
    render: Callable[[LLMClient], Render],
) -> list[tuple[list[Sample], str]]:
    policy = Policy(
        client,
        lambda prompt: text_of(table, prompt.window),
        lambda: render(client),
        settings.candidates,
        settings.temperature,
        settings.top_p,
        settings.answer_tokens,
        end=load_template(settings.template).end.strip() if settings.template else "",
        seed=settings.seed,
        batch=settings.batch,
        keep=settings.thoughts == "keep",
    )
    return policy.answer(prompts)


def _write(
    work: StepWork[LongRewardSynth],
    prompts: Sequence[Prompt],
    answers: Sequence[tuple[list[Sample], str]],
    table: SegmentTable,
) -> list[dict[str, Any]]:
    """Write the shards that are not there yet; returns what has no answer, and why."""
    settings = work.settings
    meta = {"writer": settings.writer or settings.llm, "policy": settings.llm}
    dropped = []
    for number, (prompt, (samples, error)) in enumerate(zip(prompts, answers, strict=True)):
        for sample in samples:
            work.counts["candidates with thoughts"] += bool(sample.raw)
            if sample.why:
                work.counts[f"candidate dropped: {sample.why}"] += 1
        if not any(sample.text for sample in samples):
            only = {sample.why for sample in samples} == {UNFINISHED}
            reason = error or (f"every answer is {UNFINISHED}" if only else "every answer is empty")
            dropped.append({"prompt": number, "task": prompt.question, "reason": reason})
    for shard in work.shards(len(prompts)):
        shard.write(_bundles(shard.places, prompts, answers, table, meta))
    return dropped


def _bundles(
    numbers: range,
    prompts: Sequence[Prompt],
    answers: Sequence[tuple[list[Sample], str]],
    table: SegmentTable,
    meta: Mapping[str, Any],
) -> Iterator[Bundle]:
    for number in numbers:
        prompt = prompts[number]
        about = {"document": table.document(prompt.window.document).id, **meta}
        bundle = candidate_bundle(
            f"{number:07d}", prompt, text_of(table, prompt.window), answers[number][0], about
        )
        if bundle is not None:
            yield bundle


def _given(work: StepWork[LongRewardSynth]) -> StepResult:
    """The user's own candidates as bundles."""
    path = Path(str(work.settings.candidates_file)).expanduser()
    if not path.is_file():
        raise UsageError(f"there is no file '{path}'", hint="--set synth.candidates_file=FILE.jsonl")
    settings = work.settings
    bundles = read_answer_rows(path, work.rejects, settings.fields, work.notes)[: settings.examples]
    bundles = [spoken(bundle, settings.thoughts == "keep", work.counts) for bundle in bundles]
    for shard in work.shards(1, fresh=True):
        shard.write(bundles)
    return _finish(work, [], {"candidates": str(path)})


def _finish(
    work: StepWork[LongRewardSynth], dropped: Sequence[dict[str, Any]], described: dict[str, Any]
) -> StepResult:
    """Counts, notes and the files for people, once the data is written."""
    counts = work.counts
    counts.update(f"prompt dropped: {row['reason']}" for row in dropped)
    work.write("dropped", dropped)
    bundles = read_bundles(work.data)
    if not len(bundles):
        raise LcxError(
            f"none of {len(dropped):,} prompts has an answer",
            why="; ".join(f"{k} ({n})" for k, n in counts.most_common() if k.startswith("prompt dropped")),
            hint=f"{work.folder / 'dropped.jsonl'} has them; see whether the model answers at all.",
        )
    metrics = summary(bundles)
    counts.update(metrics.pop("counts"))
    work.write_text("preview.md", preview(bundles, Shown(work.settings.tokenizer)))
    for name in [name for name, number in counts.items() if not number]:
        del counts[name]
    work.notes += _notes(work.settings, counts)
    return work.done(metrics, extra=described)


def _notes(settings: LongRewardSynth, counts: Counter[str]) -> list[str]:
    notes = []
    asked = counts["tasks of the corpus"] + counts["tasks written"]
    if settings.candidates_file is None and asked < settings.examples:
        notes.append(f"{asked:,} tasks of the {settings.examples:,} wanted: the corpus gives no more")
    if counts["documents too short, left out"]:
        notes.append(
            f"{counts['documents too short, left out']:,} documents are shorter than "
            f"{settings.context_tokens[0]:,} tokens (synth.context_tokens)"
        )
    if counts["candidates cut at answer_tokens"]:
        notes.append(
            f"{counts['candidates cut at answer_tokens']:,} answers reached synth.answer_tokens and are cut"
        )
    if settings.candidates_file is None and settings.llm == "builtin":
        notes.append(
            "builtin rules answered; LongReward trains a model on its own answers: --llm local:PATH_OR_ID of it"
        )
    return notes


# -- what was made, for a person

EXAMPLES = 5
"""Prompts in the preview, each of another kind where there are as many."""
EXCERPT, SHOWN = 600, 400
BINS = 10


def summary(bundles: Iterable[Bundle]) -> dict[str, Any]:
    """Kinds of tasks, lengths of contexts and answers, and how far the answers to a prompt differ."""
    counts: Counter[str] = Counter()
    tokens, words, distinct, number = [], [], [], 0
    for bundle in bundles:
        number += 1
        counts[f"prompts of the kind {bundle.kind}"] += 1
        if "tokens" in bundle.meta:
            tokens.append(int(bundle.meta["tokens"]))
        texts = [branch.answer for branch in bundle.branches]
        words += [len(text.split()) for text in texts]
        distinct.append(len(set(texts)) / len(texts))
        counts["candidates"] += len(texts)
        counts["candidates cut at answer_tokens"] += sum("cut" in branch.meta for branch in bundle.branches)
    found: dict[str, Any] = {"counts": +counts, "contexts": number, "questions": number}
    if tokens:
        found["context_tokens"] = {"least": min(tokens), "mean": fmean(tokens), "most": max(tokens)}
    if words:
        found["answer_words"] = {"least": min(words), "mean": round(fmean(words), 1), "most": max(words)}
        found["different_answers"] = round(fmean(distinct), 3)
        found["answer_lengths"] = sparkline(histogram(words, BINS, 0, max(words) + 1))
    return found


def preview(bundles: Iterable[Bundle], tokens: Shown) -> str:
    """A few prompts as Markdown: the task, the beginning and end of its context, and the first answers."""
    parts = ["# A look at the data", "", tokens.note, ""]
    seen: set[str] = set()
    later: list[Bundle] = []
    shown = 0
    for bundle in bundles:
        if bundle.kind in seen:
            if len(later) < EXAMPLES:
                later.append(bundle)
            continue
        seen.add(bundle.kind)
        parts += _example(bundle, tokens)
        shown += 1
        if shown == EXAMPLES:
            break
    for bundle in later[: EXAMPLES - shown]:
        parts += _example(bundle, tokens)
    return "\n".join(parts)


def _example(bundle: Bundle, tokens: Shown) -> list[str]:
    context = tokens.text(bundle.context or "")
    meta = bundle.meta
    size = f"{meta['tokens']:,} tokens" if "tokens" in meta else f"{len(context):,} characters"
    lines = [f"## {bundle.id} ({bundle.kind}; {size} of {meta.get('document', 'a document')})", ""]
    lines += [f"**Task:** {bundle.branches[0].question}", ""]
    if meta.get("reference"):
        lines += [f"**Reference:** {meta['reference']}", ""]
    shown = (
        context if len(context) <= EXCERPT else f"{context[: EXCERPT // 2]}\n…\n{context[-EXCERPT // 2 :]}"
    )
    fence = "```"
    while fence in shown:
        fence += "`"
    lines += [f"{fence}text", shown, fence, ""]
    texts = Counter(branch.answer for branch in bundle.branches)
    for text, times in texts.most_common(EXAMPLES):
        short = text if len(text) <= SHOWN else text[:SHOWN] + " …"
        lines.append(f"- {f'({times} times) ' if times > 1 else ''}{' '.join(short.split())}")
    if len(texts) > EXAMPLES:
        lines.append(f"- and {len(texts) - EXAMPLES} other answers")
    return [*lines, ""]


# -- what it will cost

TASK_PROMPT, TASK_REPLY, TASK, ANSWER = 260, 60, 50, 300
"""About how many tokens the task prompt, a reply with a task, a task and an answer have."""


def _foreseen(settings: LongRewardSynth) -> tuple[int, int]:
    """Examples, and the tasks written for them."""
    examples = settings.examples
    table = small_table(
        settings, min_tokens=settings.segment_tokens, mode=settings.segment_by, questions=True
    )
    if table is None:
        return examples, 0 if settings.qa == "corpus" else examples
    least, most = settings.context_tokens
    pieces = windows(table, least, most, Counter())
    own = 0
    asking: set[int] = set()
    whole = {piece.document for piece in pieces if piece.whole and settings.qa != "written"}
    for document in whole:
        if asked := table.document(document).meta.get("qa"):
            asking.add(document)
            own += len(asked)
    own = min(own, examples)
    free = sum(piece.tokens >= least and piece.document not in asking for piece in pieces)
    written = 0 if settings.qa == "corpus" else min(examples - own, free * settings.tasks_per_context)
    return own + written, written


def forecast(work: StepWork[LongRewardSynth]) -> dict[str, Any]:
    """Calls and tokens by part. Assumes contexts halfway between the limits; a small corpus is looked into."""
    settings = work.settings
    if settings.candidates_file:
        return {"candidates": settings.candidates_file, "calls": {"writer": 0, "policy": 0}}
    examples, written = _foreseen(settings)
    context = sum(settings.context_tokens) / 2
    answer = min(ANSWER, settings.answer_tokens)
    writer = settings.writer or settings.llm
    parts = {
        "writer": (writer, written, written * (TASK_PROMPT + context), written * TASK_REPLY),
        "policy": (
            settings.llm,
            examples,
            examples * (context + TASK),
            examples * settings.candidates * answer,
        ),
    }
    found: dict[str, Any] = {
        "examples": examples,
        "candidates": examples * settings.candidates,
        "calls": {name: calls for name, (_, calls, _, _) in parts.items()},
        "prompt_tokens": {name: round(tokens) for name, (_, _, tokens, _) in parts.items()},
        "answer_tokens": {name: round(tokens) for name, (_, _, _, tokens) in parts.items()},
        "models": {name: model for name, (model, *_) in parts.items()},
        "context_tokens": round(examples * context),
        "assumes": f"a {'given' if not written else 'written'} task for every example, {context:,.0f} tokens a "
        f"context, {answer:,} tokens an answer; {settings.candidates} answers come with one call where the "
        f"server knows n (one without needs {settings.candidates} calls)",
    }
    spent = {name: (model, sent, made) for name, (model, _, sent, made) in parts.items()}
    return found | costs(settings, spent)
