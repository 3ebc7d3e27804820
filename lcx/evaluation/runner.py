"""Runs tasks on a model: asks what the journal does not hold yet, scores, writes; a killed run goes on in a context."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcx.context import DEALT_BY, Context
from lcx.errors import UsageError
from lcx.evaluation.local_model import LocalModel
from lcx.evaluation.model import Answer, Answerer, ModelUnderTest, SavedAnswers, self_check
from lcx.evaluation.offline import hear, score_benchmark, score_judged, score_probe
from lcx.evaluation.samples import (
    ITEM,
    ContextPrompts,
    TaskData,
    fit_text,
    prompt_fingerprints,
    subset,
    text_fingerprint,
)
from lcx.evaluation.scores import merge_answering
from lcx.evaluation.task import GREEDY, Case, TextSample
from lcx.llm.ledger import rules_counted
from lcx.paths import slug
from lcx.progress import Progress
from lcx.records import Branch, Bundle
from lcx.storage import Journal, make_folder, write_lines

if TYPE_CHECKING:
    from lcx.steps import StepWork

__all__ = ["CLOSE", "CUT", "JOURNAL", "OPEN", "excerpt", "make_row", "run_tasks", "score_rows"]

SAVED = SavedAnswers.name
NOT_ASKED = "its context is longer than the other model's window"

JOURNAL = "journal.jsonl"
EVERY = 0.5
"""Seconds after which answers go to the journal: a kill costs those of the last half second, not a context."""


@dataclass
class Answered:
    """A task whose questions are answered: its prompts, and the rows of each of its contexts."""

    one: TaskData
    prompts: Sequence[ContextPrompts]
    rows: list[list[dict[str, Any]]]
    about: dict[str, Any]


def run_tasks(
    data: Sequence[TaskData],
    tested: ModelUnderTest,
    out: Path,
    ctx: Context,
    work: StepWork[Any] | None = None,
    other: Callable[[], ModelUnderTest] | None = None,
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Answer and score every task; returns the scores by task, and how the questions were answered.

    Writes `predictions-TASK.jsonl` for tasks that ask, and a journal of single answers. Samples are drawn last; then
    the model rests, `other` answers what is compared, and a judge, of the step `work`, reads the rows of judged tasks.
    Raises UsageError before any decoding where something does not fit the window and may not be cut.
    """
    contexts = {
        one.name: _jobs(one, tested)
        for one in data
        if one.bundles and one.truncation == "error" and one.sampling == GREEDY and not one.task.answered
    }
    texts = {
        one.name: [(text, fit_text(text, tested.window, one.truncation)) for text in one.texts]
        for one in data
        if one.task.reads
    }
    make_folder(out)
    scores: dict[str, dict[str, Any]] = {}
    answered: list[Answered] = []
    # One that the step opened is closed with it.
    with Journal(out / JOURNAL) if work is None else nullcontext(work.open_journal(JOURNAL)) as journal:
        for one in sorted(data, key=lambda one: one.sampling != GREEDY):
            if one.task.reads:
                scores[one.name] = _read(one, texts[one.name], tested, journal, ctx)
                continue
            who = SavedAnswers("", ctx) if one.task.answered else tested.drawing(one.sampling)
            asked = contexts.pop(one.name, None) or _jobs(one, who)
            answered.append(_answered(one, asked, who, journal, ctx))
        ctx.deal.gathered()
        judged = [task for task in answered if task.one.task.judged]
        if judged:
            from lcx.evaluation.judged import judge_tasks

            assert work is not None
            tested.rest()
            if against := [task for task in judged if task.one.task.against]:
                assert other is not None
                _answer_again(against, other(), journal, ctx)
            for task in judged:
                _hear(task)
            judge = judge_tasks([(task.one, _cases(task), task.rows) for task in judged], work, journal)
            for task in judged:
                task.about["judge"] = judge
        for task in answered:
            rows = [row for found in task.rows for row in found]
            scores[task.one.name] = score_rows(task.one, task.prompts, rows) | task.about
            write_lines(out / f"predictions-{slug(task.one.name)}.jsonl", rows)
    ordered = {one.name: scores[one.name] for one in data}
    calls: dict[str, Any] = {}
    for found in ordered.values():
        calls = (found.get("answering") or {}).pop("calls", calls)  # of all tasks so far
    if calls and work is not None:
        calls = work.service.counts()
    return ordered, {**merge_answering(ordered), **({"calls": calls} if calls else {})}


def _answered(
    one: TaskData, asked: Sequence[ContextPrompts], who: ModelUnderTest, journal: Journal, ctx: Context
) -> Answered:
    runner = TaskRunner(one, who, journal, ctx)
    given: Sequence[Sequence[Answer | None]] = (
        [
            [Answer(str(branch.meta["pred"]), "stop", 0) for branch in bundle.branches]
            for bundle in one.bundles
        ]
        if one.task.answered
        else runner.answers(asked)
    )
    # Rows tell of the context as it was made: evidence has its places there, not in one that was cut to fit.
    whole = [replace(prompts, bundle=bundle) for prompts, bundle in zip(asked, one.bundles, strict=True)]
    rows = [_rows(one, prompts, found) for prompts, found in zip(whole, given, strict=True)]
    about = {} if one.task.answered else {"prompt": _prompt(one, who)}
    if ctx.deal.index is None:  # a shard does not see all answers, and tells of none
        about |= {"answering": runner.describe(asked, given)}
    return Answered(one, asked, rows, about)


def _hear(task: Answered) -> None:
    """Leave thoughts out of what is judged, as scoring does: all rows tell how a thought begins."""
    heard = iter(hear(row for rows in task.rows for row in rows))
    task.rows = [[next(heard) for _ in rows] for rows in task.rows]


def _answer_again(tasks: Sequence[Answered], other: ModelUnderTest, journal: Journal, ctx: Context) -> None:
    """Have another model answer, too: every row gets its answer in `other`, and why there is none in `error`."""
    for task in tasks:
        runner = TaskRunner(task.one, other, journal, ctx)
        for rows, answers in zip(task.rows, runner.answers(_jobs(task.one, other)), strict=True):
            for row, answer in zip(rows, answers, strict=True):
                row["other"] = None if answer is None else answer.text
                if answer is None or answer.text is None:
                    row["error"] = row.get("error") or (answer.error if answer else "") or NOT_ASKED
        task.about["against"] = str(task.one.settings.against)
    ctx.deal.gathered()
    other.rest()


def _cases(task: Answered) -> list[list[tuple[Case, list[int]]]]:
    """What is judged of each context: a case for each question, with the places of its rows."""
    found = []
    for bundle, rows in zip(task.one.bundles, task.rows, strict=True):
        by_item: dict[str, list[int]] = {}
        for place, row in enumerate(rows):
            by_item.setdefault(row["item"], []).append(place)
        found.append(
            [
                (
                    Case(
                        bundle.context or "",
                        rows[places[0]]["question"],
                        tuple(rows[place] for place in places),
                    ),
                    places,
                )
                for places in by_item.values()
            ]
        )
    return found


def _jobs(one: TaskData, tested: ModelUnderTest) -> list[ContextPrompts]:
    return [tested.encode(bundle, one.template, one.max_new_tokens, one.truncation) for bundle in one.bundles]


def _prompt(one: TaskData, tested: ModelUnderTest) -> dict[str, Any]:
    judging = {"judging": one.options.model_dump(mode="json")} if one.task.judged and one.options else {}
    drawn = {"sampling": vars(one.sampling)} if one.sampling != GREEDY else {}
    return {**tested.prompt(one.template), "max_new_tokens": one.max_new_tokens, **drawn, **judging}


def _rows(one: TaskData, prompts: ContextPrompts, answers: Sequence[Answer | None]) -> list[dict[str, Any]]:
    branches = prompts.bundle.branches
    found = answers if prompts.encoded is not None else [None] * len(branches)
    rows = []
    for branch, answer in zip(branches, found, strict=True):
        samples = (None,) if answer is None else answer.samples
        for number, sample in enumerate(samples):
            row = make_row(one, prompts, branch, sample)
            rows.append(row | {"sample": number} if one.task.judged else row)
    return rows


def dealt_by(bundle: Bundle) -> str:
    """What a context is dealt by to those who share a step: tasks that ask the same about it ask it once."""
    return _digest(bundle.context or bundle.id)[:16]


class TaskRunner:
    """Gets the answers of one task: from the journal what it holds, the rest from the model."""

    def __init__(self, one: TaskData, tested: ModelUnderTest, journal: Journal, ctx: Context) -> None:
        self.one, self.tested, self.journal, self.ctx = one, tested, journal, ctx
        self.answer_key = tested.answer_key(one.template, one.max_new_tokens, one.sampling)
        self.fingerprints: list[list[str]] = []

    @property
    def answerer(self) -> Answerer:
        return self.tested.answerer(self.one.template, self.one.sampling)

    def answers(self, contexts: Sequence[ContextPrompts]) -> list[list[Answer | None]]:
        """An answer for every branch of every context; None for those of a context that was dropped."""
        self.fingerprints = [
            [] if prompts.encoded is None else prompt_fingerprints(prompts.encoded, self.answer_key)
            for prompts in contexts
        ]
        found: list[list[Answer | None]] = [
            [self._held(prompts, place, fingerprints) for place in range(len(prompts.bundle.branches))]
            for prompts, fingerprints in zip(contexts, self.fingerprints, strict=True)
        ]
        todo = [
            (number, [place for place, answer in enumerate(found[number]) if answer is None])
            for number, prompts in enumerate(contexts)
            if prompts.encoded is not None
        ]
        todo = self._dealt(contexts, [(number, places) for number, places in todo if places])
        total = sum(len(prompts.bundle.branches) for prompts in contexts)
        known = total - sum(len(places) for _, places in todo)
        shown = self.ctx.progress(self.one.name, total, "answers", done=known)
        shown.note = f"{len(contexts) - len(todo)}/{len(contexts)} contexts"
        with shown, _AnswerBuffer(self.journal) as buffer:
            if todo:
                self._ask(contexts, todo, found, shown, buffer)
        return found

    def _dealt(
        self, contexts: Sequence[ContextPrompts], todo: list[tuple[int, list[int]]]
    ) -> list[tuple[int, list[int]]]:
        """What of that this process asks, where several share the step. A context goes to one of them as a whole."""
        deal = self.ctx.deal
        if not todo or self.answerer.name == SAVED:
            return todo
        if deal.open:
            return [one for one in todo if deal.mine(dealt_by(contexts[one[0]].bundle))]
        return todo if deal.due() else []

    def _ask(
        self,
        contexts: Sequence[ContextPrompts],
        todo: Sequence[tuple[int, list[int]]],
        found: list[list[Answer | None]],
        shown: Progress,
        buffer: _AnswerBuffer,
    ) -> None:
        left = [len(places) for _, places in todo]
        if not self.answerer.reuse:
            self.ctx.log(f"{self.one.name}: {self.answerer.reason}")

        def on_answer(number: int, place: int, answer: Answer) -> None:
            context, places = todo[number]
            found[context][places[place]] = answer
            fingerprint = self.fingerprints[context][places[place]]
            unit = self._unit(contexts[context], places[place], fingerprint)
            if answer.whole and self.answerer.name != SAVED:
                said = _said(answer) | ({"more": [_said(one) for one in answer.more]} if answer.more else {})
                by = {DEALT_BY: dealt_by(contexts[context].bundle)} if self.ctx.deal.open else {}
                buffer.add({"unit": unit, "fingerprint": fingerprint, **said, **by, **rules_counted()})
            left[number] -= 1
            done = len(contexts) - sum(count > 0 for count in left)
            shown.advance(note=f"{done}/{len(contexts)} contexts")

        asked = [subset(contexts[number], places) for number, places in todo]
        self.answerer.answer(asked, max_new_tokens=self.one.max_new_tokens, on_answer=on_answer)

    def _unit(self, prompts: ContextPrompts, place: int, fingerprint: str) -> str:
        """The name of an answer; judged tasks that ask the same share it."""
        if self.one.task.judged:
            return f"answer {fingerprint}"
        return f"{self.one.name} {prompts.bundle.branches[place].meta[ITEM]}"

    def _held(self, prompts: ContextPrompts, place: int, fingerprints: Sequence[str]) -> Answer | None:
        if prompts.encoded is None:
            return None
        entry = self.journal.get(self._unit(prompts, place, fingerprints[place]))
        if entry is None or entry["fingerprint"] != fingerprints[place]:
            return None
        return _heard(entry, more=tuple(_heard(one) for one in entry.get("more", ())))

    def describe(
        self, contexts: Sequence[ContextPrompts], given: Sequence[Sequence[Answer | None]]
    ) -> dict[str, Any]:
        """How the task was answered, and what came of checking some answers; the check is in the journal too."""
        settings = self.one.settings
        kept = [
            (prompts, answers)
            for prompts, answers in zip(contexts, given, strict=True)
            if prompts.encoded is not None
        ]
        mark = f"{settings.check} {settings.seed} {[one for one in self.fingerprints if one]}"
        unit = f"check {self.one.name}"
        entry = self.journal.get(unit)
        if entry is None or entry["fingerprint"] != _digest(mark):
            checked = self_check(
                self.answerer,
                [prompts for prompts, _ in kept],
                settings.check,
                settings.seed,
                max_new_tokens=self.one.max_new_tokens,
                previous=[answers for _, answers in kept],
            )
            entry = {"how": dict(self.answerer.describe()), "check": dict(checked)}
            if checked:  # what a server did is its own of every run
                self.journal.append({"unit": unit, "fingerprint": _digest(mark), **entry})
        if warning := entry["check"].get("warning"):
            self.ctx.log(f"warning: {self.one.name}: {warning}")
        if cut := entry["how"].get("cut"):
            self.ctx.log(f"warning: {self.one.name}: {cut['warning']}")
        failed = Counter(one.error for answers in given for one in _all_of(answers) if one.error)
        # An answerer counts failures of all tasks that it was asked.
        how = {key: value for key, value in entry["how"].items() if key != "failed"}
        found = {**how, "check": entry["check"]}
        return found | {"failed": dict(sorted(failed.items()))} if failed else found


def _said(answer: Answer) -> dict[str, Any]:
    """An answer as the journal has it; with its tokens, so that these are what is checked."""
    said: dict[str, Any] = {"text": answer.text, "finish": answer.finish, "tokens": answer.tokens}
    said |= {"ids": answer.ids} if answer.ids else {}
    return said | ({"thought": answer.thought} if answer.thought else {})


def _heard(said: Mapping[str, Any], more: tuple[Answer, ...] = ()) -> Answer:
    ids = tuple(said.get("ids", ()))
    thought = said.get("thought", "")
    return Answer(said["text"], said["finish"], said["tokens"], ids, thought=thought, more=more)


class _AnswerBuffer:
    """Journal entries, written together now and then: one sync serves many answers."""

    def __init__(self, journal: Journal, clock: Callable[[], float] = time.monotonic) -> None:
        self.journal, self.clock = journal, clock
        self.held: list[dict[str, Any]] = []
        self.last = clock()

    def __enter__(self) -> _AnswerBuffer:
        return self

    def __exit__(self, *error: object) -> None:
        self.write()  # also where the run was interrupted: those answers are good

    def add(self, entry: dict[str, Any]) -> None:
        self.held.append(entry)
        if self.clock() - self.last >= EVERY:
            self.write()

    def write(self) -> None:
        self.journal.extend(self.held)
        self.held, self.last = [], self.clock()


def _all_of(answers: Sequence[Answer | None]) -> list[Answer]:
    return [sample for one in answers if one is not None for sample in one.samples]


def _digest(text: str) -> str:
    from lcx.storage import sha256_text

    return sha256_text(text)[:32]


def _read(
    one: TaskData,
    texts: Sequence[tuple[TextSample, TextSample | None]],
    tested: ModelUnderTest,
    journal: Journal,
    ctx: Context,
) -> dict[str, Any]:
    """The result of a task that reads texts, from the journal where it has some of it.

    `texts` pairs each text with its truncated form, or None where it was dropped.
    """
    task = one.task
    assert task.measure is not None
    assert task.summarize_texts is not None
    if not isinstance(tested, LocalModel):
        raise UsageError(f"{one.name} reads texts with a model in this process, not with a server")
    kept = [text for _, text in texts if text is not None]
    results = []
    tokens = sum(len(text.ids) - 1 for text in kept)
    with ctx.progress(one.name, tokens, "tokens") as shown:
        for text in kept:
            fingerprint = text_fingerprint(text, tested.weights)
            unit = f"{one.name} {text.id}"
            held = journal.get(unit)
            if held is not None and held["fingerprint"] == fingerprint:
                shown.skip(len(text.ids) - 1)
                result = held["result"]
            elif ctx.deal.skips(text.id) or not ctx.deal.due():
                continue
            else:
                result = task.measure(tested.model, text, shown.advance)
                by = {DEALT_BY: text.id} if ctx.deal.open else {}
                journal.append({"unit": unit, "fingerprint": fingerprint, "result": result, **by})
            results.append(result)
    if ctx.deal.open:
        return {}
    return {
        "task": one.name,
        "view": task.view,
        **task.summarize_texts(kept, results),
        "data": one.samples_hash,
        "dropped": len(texts) - len(kept),
        "truncated": sum(read is not None and len(read.ids) < len(whole.ids) for whole, read in texts),
    }


# ---- rows of predictions


OWN = ("set", "position", "gold", ITEM)
"""Fields of a branch's meta that a row has under another name, or in another form."""


def make_row(one: TaskData, prompts: ContextPrompts, branch: Branch, answer: Answer | None) -> dict[str, Any]:
    """The row of one item. A context that was dropped is marked `skip`: what was never asked is no wrong answer."""
    meta = branch.meta
    gold = [tuple(span) for span in meta.get("gold") or ()]
    context = prompts.bundle.context or ""
    row: dict[str, Any] = {"item": meta[ITEM], "context": prompts.bundle.id}
    if "set" in meta:
        row |= {"set_id": meta["set"], "position_id": meta["position"]}
    row |= {key: value for key, value in meta.items() if key not in OWN}
    row |= {
        "pred": answer.text if answer is not None else None,
        "score": None,
        "finish": answer.finish if answer is not None else None,
        "question": branch.question,
    }
    if gold and context and "at" not in row:
        row["at"] = round(gold[0][0] / max(1, len(context)), 4)
    if context:
        row["excerpt"] = excerpt(context, gold)
    if answer is not None and answer.thought:
        row["reasoning"] = answer.thought
    if answer is not None and answer.error:
        row["error"] = answer.error
    if prompts.encoded is None:
        row["skip"] = True
    if prompts.cut and one.task.judged:
        row["truncated"] = True
    return row


def score_rows(
    one: TaskData, contexts: Sequence[ContextPrompts], rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """The scores of a task; each row is given its own score, and what its reply says apart from a thought."""
    task, settings = one.task, one.settings
    rows[:] = hear(rows)
    positions = max((prompts.bundle.meta.get("items", 0) for prompts in contexts), default=0)
    if task.judged:
        scored, values = score_judged(task, rows, "row", _compat(one))
        for row in rows:
            row |= {} if task.weight is None else {"weight": task.weight(row)}
    elif task.published:
        scored, values = score_benchmark(task, rows, "row", _compat(one))
    else:
        scored, values = score_probe(task, rows, "row", _compat(one), span=settings.span, positions=positions)
    for row, value in zip(rows, values, strict=True):
        row["score"] = value
    prefixes = [len(prompts.encoded.prefix) for prompts in contexts if prompts.encoded is not None]
    places = {} if task.published else {"positions": positions}
    aside = {reason: count for reason, count in one.counts.items() if count}
    return {
        "data": one.samples_hash,
        **scored,
        "material": one.samples_hash,
        "task": one.name,
        **places,
        "ambiguous": sum(prompts.bundle.meta.get("skipped", 0) for prompts in contexts),
        "contexts": len(contexts),
        "dropped": sum(prompts.encoded is None for prompts in contexts),
        "truncated": sum(prompts.cut > 0 for prompts in contexts),
        "unfinished": sum(row["finish"] == "length" for row in rows),
        "errors": sum(row["finish"] == "error" for row in rows),
        "context_tokens": round(sum(prefixes) / len(prefixes)) if prefixes else None,
        **({"set aside": aside} if aside else {}),
    }


def _compat(one: TaskData) -> Any:
    """The published arithmetic that was asked for, where this task has one."""
    mode = one.settings.compat
    if one.task.published:
        return mode if mode in one.task.compat else None
    return mode if mode == "film" and one.task.view == "curve" else None


# ---- the part of a context around its evidence

OPEN, CLOSE, CUT = "«", "»", "…"
LEAST = 48
"""Characters that a piece of evidence and its surroundings get at the least: with less, fewer pieces are shown."""


def excerpt(context: str, gold: Iterable[Sequence[int]], width: int = 320) -> str:
    """At most `width` characters of a context: what is around its evidence, the evidence between « and ».

    `gold` are `[start, end)` offsets of the evidence in characters. Pieces that are far apart are joined by an
    ellipsis; where there are more than there is room for, the first ones are shown. Without evidence it is the
    context's beginning and end.
    """
    spans = _merged((max(0, int(one[0])), min(len(context), int(one[1]))) for one in gold)
    if not spans:
        return _both_ends(context, width)
    spans = spans[: max(1, width // LEAST)]
    room = width // len(spans) - 2 * len(CUT) - 4  # marks, ellipses and the blanks beside them
    windows: list[tuple[int, int, list[tuple[int, int]]]] = []
    for start, end in spans:
        pad = max(0, room - (end - start)) // 2
        left, right = _word_start(context, start - pad, start), _word_end(context, end + pad, end)
        if windows and left <= windows[-1][1] + len(CUT):
            windows[-1] = (windows[-1][0], max(right, windows[-1][1]), [*windows[-1][2], (start, end)])
        else:
            windows.append((left, right, [(start, end)]))
    text = f" {CUT} ".join(_marked(context, left, right, inside, room) for left, right, inside in windows)
    before = f"{CUT} " if windows[0][0] > 0 else ""
    after = f" {CUT}" if windows[-1][1] < len(context) else ""
    return before + text + after


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans in order, without empty ones; those that touch become one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(span for span in spans if span[0] < span[1]):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _marked(context: str, left: int, right: int, spans: Sequence[tuple[int, int]], room: int) -> str:
    """The window with its evidence marked; evidence longer than its room loses its middle."""
    parts = []
    for start, end in spans:
        evidence = context[start:end]
        if len(evidence) > room:
            evidence = _both_ends(evidence, room)
        parts.append(f"{context[left:start]}{OPEN}{evidence}{CLOSE}")
        left = end
    return "".join(parts) + context[left:right]


def _both_ends(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    kept = max(0, width - len(CUT) - 2)
    return f"{text[: kept - kept // 2].rstrip()} {CUT} {text[len(text) - kept // 2 :].lstrip()}"


def _word_start(text: str, place: int, stop: int) -> int:
    """The first start of a word or line at `place` or after, before `stop`; `place` where there is none."""
    place = max(0, place)
    if place == 0 or text[place - 1].isspace():
        return place
    return next((n + 1 for n in range(place, stop) if text[n].isspace()), place)


def _word_end(text: str, place: int, stop: int) -> int:
    """The last end of a word at `place` or before, after `stop`; `place` where there is none."""
    place = min(len(text), place)
    if place == len(text) or text[place].isspace():
        return place
    return next((n for n in range(place - 1, stop - 1, -1) if text[n].isspace()), place)
