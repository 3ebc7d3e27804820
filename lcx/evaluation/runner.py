"""Runs tasks on a model: asks what the journal does not hold yet, scores, writes; a killed run goes on in a context."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn

from lcx.context import Context
from lcx.errors import UsageError
from lcx.evaluation.answer import Answer, Answerer, self_check
from lcx.evaluation.encode import Job, fit_text, marks_of, subset, text_fingerprint
from lcx.evaluation.model import LocalSubject, Subject
from lcx.evaluation.rows import make_row, score_rows
from lcx.evaluation.samples import ITEM, TaskData
from lcx.evaluation.scores import merge_answering
from lcx.evaluation.task import TextSample
from lcx.paths import slug
from lcx.work.files import make_folder, write_lines
from lcx.work.journal import Journal

__all__ = ["JOURNAL", "Meter", "duration", "run_tasks"]

# ---- progress

LINE_EVERY = 10.0
"""Seconds between two plain lines."""


def duration(seconds: float) -> str:
    """A length of time in words: `45s`, `3m20s`, `2h05m`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


class Meter:
    """Counts contexts and answers of one task, or what `words` calls them.

    Work of an earlier process does not enter the speed.
    """

    def __init__(
        self,
        ctx: Context,
        label: str,
        contexts: int,
        answers: int,
        *,
        words: tuple[str, str] = ("contexts", "answers"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ctx, self._label, self._clock = ctx, label, clock
        self._contexts, self._answers, self._words = contexts, answers, words
        self._done = self._answered = self._before = 0
        self._start = self._said = clock()
        self._bar: Progress | None = None

    def __enter__(self) -> Meter:
        console = self._ctx.console
        if self._ctx.rank == 0 and console.is_terminal and not console.is_dumb_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"),
                console=console, transient=True,
            )  # fmt: skip
            self._bar.add_task(self._label, total=self._answers, text="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if error is None:
            self._ctx.log(f"{self._label}: {self.text()}")

    def skip(self, answers: int) -> None:
        """A context that an earlier run has answered."""
        self._before += answers
        self.context(answers)

    def skip_answers(self, answers: int) -> None:
        """Answers that an earlier run has of a context that is not finished."""
        self._before += answers
        self.answers(answers)

    def context(self, answers: int = 0) -> None:
        """A context is finished; `answers` were not counted yet."""
        self._done += 1
        self.answers(answers)

    def answers(self, count: int) -> None:
        """Some answers are finished."""
        self._answered += count
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._answered, text=self.text())
        elif self._clock() - self._said >= LINE_EVERY and self._answered < self._answers:
            self._said = self._clock()
            self._ctx.log(f"{self._label}: {self.text()}")

    def text(self) -> str:
        """`3/4 contexts, 2100/3000 answers, 88.1/s, 10s left`."""
        spent = max(1e-9, self._clock() - self._start)
        fresh = self._answered - self._before
        whole, part = self._words
        parts = [f"{self._done}/{self._contexts} {whole}, {self._answered}/{self._answers} {part}"]
        if fresh:
            parts.append(f"{fresh / spent:.1f}/s")
            left = self._answers - self._answered
            parts.append(f"{duration(left * spent / fresh)} left" if left else f"in {duration(spent)}")
        return ", ".join(parts)


# ---- tasks

JOURNAL = "journal.jsonl"
EVERY = 0.5
"""Seconds after which answers go to the journal: a kill costs those of the last half second, not a context."""


def run_tasks(
    data: Sequence[TaskData], subject: Subject, out: Path, ctx: Context
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Answer and score every task; returns the scores by task, and how the questions were answered.

    Writes `predictions-TASK.jsonl` for tasks that ask, and a journal of single answers. Raises UsageError before
    any decoding where something does not fit the window and may not be cut.
    """
    jobs = {one.name: _jobs(one, subject) for one in data if one.bundles and one.truncation == "error"}
    texts = {
        one.name: [(text, fit_text(text, subject.window, one.truncation)) for text in one.texts]
        for one in data
        if one.task.reads
    }
    make_folder(out)
    scores: dict[str, dict[str, Any]] = {}
    spent: dict[str, Any] = {}
    with Journal(out / JOURNAL) as journal:
        for one in data:
            if one.task.reads:
                scores[one.name] = _read(one, texts[one.name], subject, journal, ctx)
                continue
            asked = jobs.pop(one.name, None) or _jobs(one, subject)
            desk = _Desk(one, subject, journal, ctx)
            given = desk.answers(asked)
            # Rows tell of the context as it was made: evidence has its places there, not in one that was cut to fit.
            told = [replace(job, bundle=bundle) for job, bundle in zip(asked, one.bundles, strict=True)]
            rows = [row for job, found in zip(told, given, strict=True) for row in _rows(one, job, found)]
            scores[one.name] = score_rows(one, asked, rows) | {"prompt": _prompt(one, subject)}
            how = desk.describe(asked, given)
            spent |= {"calls": how.pop("calls")} if "calls" in how else {}  # of all tasks so far
            scores[one.name]["answering"] = how
            write_lines(out / f"predictions-{slug(one.name)}.jsonl", rows)
    return scores, {**merge_answering(scores), **spent}


def _jobs(one: TaskData, subject: Subject) -> list[Job]:
    return [subject.job(bundle, one.template, one.max_new_tokens, one.truncation) for bundle in one.bundles]


def _prompt(one: TaskData, subject: Subject) -> dict[str, Any]:
    return {**subject.prompt(one.template), "max_new_tokens": one.max_new_tokens}


def _rows(one: TaskData, job: Job, answers: Sequence[Answer | None]) -> list[dict[str, Any]]:
    branches = job.bundle.branches
    found = answers if job.encoded is not None else [None] * len(branches)
    return [make_row(one, job, branch, answer) for branch, answer in zip(branches, found, strict=True)]


class _Desk:
    """Gets the answers of one task: from the journal what it holds, the rest from the model."""

    def __init__(self, one: TaskData, subject: Subject, journal: Journal, ctx: Context) -> None:
        self.one, self.subject, self.journal, self.ctx = one, subject, journal, ctx
        self.follows = subject.follows(one.template, one.max_new_tokens)
        self.marks: list[list[str]] = []

    @property
    def answerer(self) -> Answerer:
        return self.subject.answerer(self.one.template)

    def answers(self, jobs: Sequence[Job]) -> list[list[Answer | None]]:
        """An answer for every branch of every job; None for those of a context that was dropped."""
        self.marks = [[] if job.encoded is None else marks_of(job.encoded, self.follows) for job in jobs]
        found: list[list[Answer | None]] = [
            [self._held(job, place, marks) for place in range(len(job.bundle.branches))]
            for job, marks in zip(jobs, self.marks, strict=True)
        ]
        todo = [
            (number, [place for place, answer in enumerate(found[number]) if answer is None])
            for number, job in enumerate(jobs)
            if job.encoded is not None
        ]
        todo = [(number, places) for number, places in todo if places]
        total = sum(len(job.bundle.branches) for job in jobs)
        with Meter(self.ctx, self.one.name, len(jobs), total) as meter, _Notes(self.journal) as notes:
            missing = dict(todo)
            for number, job in enumerate(jobs):
                known = len(job.bundle.branches) - len(missing.get(number, []))
                if number in missing:
                    meter.skip_answers(known)
                else:
                    meter.skip(known)
            if todo:
                self._ask(jobs, todo, found, meter, notes)
        return found

    def _ask(
        self,
        jobs: Sequence[Job],
        todo: Sequence[tuple[int, list[int]]],
        found: list[list[Answer | None]],
        meter: Meter,
        notes: _Notes,
    ) -> None:
        left = [len(places) for _, places in todo]
        if not self.answerer.reuse:
            self.ctx.log(f"{self.one.name}: {self.answerer.reason}")

        def told(job: int, place: int, answer: Answer) -> None:
            number, places = todo[job]
            found[number][places[place]] = answer
            unit = self._unit(jobs[number], places[place])
            mark = self.marks[number][places[place]]
            if answer.text is not None:
                said = {"text": answer.text, "finish": answer.finish, "tokens": answer.tokens}
                said |= {"ids": answer.ids} if answer.ids else {}  # so that these are what is checked
                notes.add({"unit": unit, "fingerprint": mark, **said})
            left[job] -= 1
            meter.answers(1)
            if not left[job]:
                meter.context()

        asked = [subset(jobs[number], places) for number, places in todo]
        self.answerer.answer(asked, max_new_tokens=self.one.max_new_tokens, on_answer=told)

    def _unit(self, job: Job, place: int) -> str:
        return f"{self.one.name} {job.bundle.branches[place].meta[ITEM]}"

    def _held(self, job: Job, place: int, marks: Sequence[str]) -> Answer | None:
        entry = self.journal.get(self._unit(job, place)) if job.encoded is not None else None
        if entry is None or entry["fingerprint"] != marks[place]:
            return None
        return Answer(entry["text"], entry["finish"], entry["tokens"], tuple(entry.get("ids", ())))

    def describe(self, jobs: Sequence[Job], given: Sequence[Sequence[Answer | None]]) -> dict[str, Any]:
        """How the task was answered, and what came of checking some answers; the check is in the journal too."""
        settings = self.one.settings
        kept = [(job, answers) for job, answers in zip(jobs, given, strict=True) if job.encoded is not None]
        mark = f"{settings.check} {settings.seed} {[marks for marks in self.marks if marks]}"
        unit = f"check {self.one.name}"
        entry = self.journal.get(unit)
        if entry is None or entry["fingerprint"] != _short(mark):
            checked = self_check(
                self.answerer,
                [job for job, _ in kept],
                settings.check,
                settings.seed,
                max_new_tokens=self.one.max_new_tokens,
                given=[answers for _, answers in kept],
            )
            entry = {"how": dict(self.answerer.describe()), "check": dict(checked)}
            if checked:  # what a server did is its own of every run
                self.journal.append({"unit": unit, "fingerprint": _short(mark), **entry})
        if warning := entry["check"].get("warning"):
            self.ctx.log(f"warning: {self.one.name}: {warning}")
        failed = Counter(one.error for answers in given for one in answers if one is not None and one.error)
        # An answerer counts failures of all tasks that it was asked.
        how = {key: value for key, value in entry["how"].items() if key != "failed"}
        found = {**how, "check": entry["check"]}
        return found | {"failed": dict(sorted(failed.items()))} if failed else found


class _Notes:
    """Journal entries, written together now and then: one sync serves many answers."""

    def __init__(self, journal: Journal, clock: Callable[[], float] = time.monotonic) -> None:
        self.journal, self.clock = journal, clock
        self.held: list[dict[str, Any]] = []
        self.last = clock()

    def __enter__(self) -> _Notes:
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


def _short(text: str) -> str:
    from lcx.work.files import sha256_text

    return sha256_text(text)[:32]


def _read(
    one: TaskData,
    texts: Sequence[tuple[TextSample, TextSample | None]],
    subject: Subject,
    journal: Journal,
    ctx: Context,
) -> dict[str, Any]:
    """The result of a task that reads texts, from the journal where it has some of it.

    `texts` pairs each text with its truncated form, or None where it was dropped.
    """
    task = one.task
    assert task.measure is not None
    assert task.summarize_texts is not None
    if not isinstance(subject, LocalSubject):
        raise UsageError(f"{one.name} reads texts with a model in this process, not with a server")
    kept = [text for _, text in texts if text is not None]
    results = []
    tokens = sum(len(text.ids) - 1 for text in kept)
    with Meter(ctx, one.name, len(kept), tokens, words=("texts", "tokens")) as meter:
        for text in kept:
            fingerprint = text_fingerprint(text, subject.weights)
            unit = f"{one.name} {text.id}"
            held = journal.get(unit)
            if held is not None and held["fingerprint"] == fingerprint:
                meter.skip(len(text.ids) - 1)
                result = held["result"]
            else:
                result = task.measure(subject.model, text, meter.answers)
                journal.append({"unit": unit, "fingerprint": fingerprint, "result": result})
                meter.context()
            results.append(result)
    return {
        "task": one.name,
        "view": task.view,
        **task.summarize_texts(kept, results),
        "data": one.samples_hash,
        "dropped": len(texts) - len(kept),
        "truncated": sum(read is not None and len(read.ids) < len(whole.ids) for whole, read in texts),
    }
