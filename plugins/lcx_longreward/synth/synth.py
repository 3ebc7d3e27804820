"""LongReward's synth step: documents -> tasks -> ten answers each from the model that is to be trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lcx.context import Context, StepResult
from lcx.data.bundles import read_bundles, write_bundles
from lcx.data.files import Rejects
from lcx.data.table import SegmentTable, step_table
from lcx.data.templates import load_template
from lcx.errors import LcxError, UsageError
from lcx.llm.asking import Asker
from lcx.llm.client import Service
from lcx.llm.ledger import paid
from lcx.llm.prompts import Render, by_prompt, by_template, load_prompt
from lcx.records import Bundle
from lcx.steps import StepWork
from lcx.storage import Journal, shard_path, write_lines, write_text
from lcx_longreward.score.rows import read_answer_rows
from lcx_longreward.synth.candidates import Policy, Sample, candidate_bundle
from lcx_longreward.synth.preview import preview, summary
from lcx_longreward.synth.questions import Prompt, gather, writer_prompts
from lcx_longreward.synth.windows import text_of
from lcx_longreward.synth_settings import LongRewardSynth

DROPPED = "dropped.jsonl"
JOURNAL = "journal.jsonl"


def synth(work: StepWork[LongRewardSynth]) -> StepResult:
    """Make prompts with their candidates in `STEP/data`. A killed step resumes and ends with the same bytes."""
    step, run, ctx, settings = work.step, work.run, work.ctx, work.settings
    folder = run.folder(step)
    if settings.candidates_file:
        return _given(settings, folder)
    counts: Counter[str] = Counter()
    policy_of = (run.llm(settings.llm), _options(settings))
    writer_of = (run.llm(settings.writer), settings.writer_options) if settings.writer else policy_of
    writer_prompts(settings.prompts)
    render = renderer(settings)
    with Journal(folder / JOURNAL) as journal, Service(folder, settings, ctx) as service:
        if not len(journal):  # what is not there should be said before the corpus is read
            service.check(*writer_of)
            service.check(*policy_of)
        table = document_table(settings, folder, counts, ctx)
        writer = Asker(service.opener(*writer_of), journal)
        prompts = gather(settings, table, folder / "data", writer, counts, ctx)
        service.close(policy_of)
        policy = Asker(service.opener(*policy_of), journal)
        answers = _answers(settings, prompts, table, policy, render, ctx)
        described = {
            "writer": writer.describe() or {"spec": settings.writer or settings.llm},
            "policy": policy.describe() or {"spec": settings.llm},
        }
        more, spent = paid(service.counts())
        counts.update(more)
    for name, asker in (("writer", writer), ("policy", policy)):
        counts[f"{name} calls"] = asker.calls
        counts["prompt_tokens"] += asker.prompt_tokens
        counts["completion_tokens"] += asker.completion_tokens
    meta = {"writer": settings.writer or settings.llm, "policy": settings.llm}
    dropped = _write(settings, folder / "data", prompts, answers, table, meta)
    return _finish(settings, folder, counts, dropped, described, spent)


def document_table(
    settings: LongRewardSynth, folder: Path, counts: Counter[str], ctx: Context
) -> SegmentTable:
    """The documents cut into pieces, in `folder/data`: loaded where an earlier process finished it."""
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
        questions=True,
        fields=settings.fields,
        encoding=settings.encoding,
    )


def _options(settings: LongRewardSynth) -> dict[str, Any]:
    """Options of the model that answers. A template that takes no chat turn gets none."""
    options = settings.llm_options
    if settings.template and settings.llm.startswith("local:") and not load_template(settings.template).chat:
        options = {"chat": "never", **options}
    return options


def renderer(settings: LongRewardSynth) -> Callable[[Asker], Render]:
    """How a request reads, once the model is open and says whether it puts a chat turn around it."""
    if settings.template is None:
        needs = ("{context}", "{question}")
        prompt = load_prompt("answer", settings.prompts, package="lcx_longreward", needs=needs)
        return lambda _: by_prompt(prompt)
    template = load_template(settings.template)
    return lambda asker: by_template(template, bool(asker.describe().get("chat_template", True)))


def _answers(
    settings: LongRewardSynth,
    prompts: Sequence[Prompt],
    table: SegmentTable,
    asker: Asker,
    render: Callable[[Asker], Render],
    ctx: Context,
) -> list[tuple[list[Sample], str]]:
    policy = Policy(
        asker,
        lambda prompt: text_of(table, prompt.window),
        lambda: render(asker),
        settings.candidates,
        settings.temperature,
        settings.top_p,
        settings.answer_tokens,
        end=load_template(settings.template).end.strip() if settings.template else "",
        seed=settings.seed,
        batch=settings.batch,
    )
    answers = []
    for found in policy.answer(prompts):
        answers.append(found)
        ctx.pulse(f"    answered: {len(answers):,} of {len(prompts):,}")
    return answers


def _write(
    settings: LongRewardSynth,
    data: Path,
    prompts: Sequence[Prompt],
    answers: Sequence[tuple[list[Sample], str]],
    table: SegmentTable,
    meta: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Write the shards that are not there yet; returns what has no answer, and why."""
    dropped = []
    for number, (prompt, (samples, error)) in enumerate(zip(prompts, answers, strict=True)):
        if not any(sample.text for sample in samples):
            reason = error or "every answer is empty"
            dropped.append({"prompt": number, "task": prompt.question, "reason": reason})
    count = min(settings.shards, max(1, len(prompts)))
    for index in range(count):
        if shard_path(data, "bundles", index, count).is_file():
            continue
        first, last = index * len(prompts) // count, (index + 1) * len(prompts) // count
        write_bundles(
            data, _bundles(range(first, last), prompts, answers, table, meta), index=index, count=count
        )
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


def _given(settings: LongRewardSynth, folder: Path) -> StepResult:
    """The user's own candidates as bundles."""
    path = Path(str(settings.candidates_file)).expanduser()
    if not path.is_file():
        raise UsageError(f"there is no file '{path}'", hint="--set synth.candidates_file=FILE.jsonl")
    rejects = Rejects()
    notes: list[str] = []
    bundles = read_answer_rows(path, rejects, settings.fields, notes)[: settings.examples]
    counts: Counter[str] = Counter({f"rows set aside: {reason}": n for reason, n in rejects.counts.items()})
    if len(rejects):
        rejects.write(folder / "rejected.jsonl")
    write_bundles(folder / "data", bundles)
    return _finish(settings, folder, counts, [], {"candidates": str(path)})


def _finish(
    settings: LongRewardSynth,
    folder: Path,
    counts: Counter[str],
    dropped: Sequence[dict[str, Any]],
    described: dict[str, Any],
    spent: Mapping[str, float] | None = None,
) -> StepResult:
    """Counts, notes and the files for people, once the data is written."""
    counts.update(f"prompt dropped: {row['reason']}" for row in dropped)
    write_lines(folder / DROPPED, dropped)
    bundles = read_bundles(folder / "data")
    if not len(bundles):
        raise LcxError(
            f"none of {len(dropped):,} prompts has an answer",
            why="; ".join(f"{k} ({n})" for k, n in counts.most_common() if k.startswith("prompt dropped")),
            hint=f"{folder / DROPPED} has them; see whether the model answers at all.",
        )
    metrics = summary(bundles)
    counts.update(metrics.pop("counts"))
    write_text(folder / "preview.md", preview(bundles))
    return StepResult(
        counts=dict(sorted((+counts).items())),
        metrics={**metrics, **(spent or {})},
        files={"data": "data", "preview": "preview.md", "dropped": DROPPED},
        notes=_notes(settings, counts),
        extra=described,
    )


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
