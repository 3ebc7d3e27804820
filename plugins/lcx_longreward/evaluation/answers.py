"""The questions of judged tasks, and the models' answers: what is asked, how a context is made to fit, the journal."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lcx import plugins
from lcx.context import Context
from lcx.data.files import Strict, file_rows, strict_rows
from lcx.data.rows import Example, Tally
from lcx.data.templates import Template, load_template
from lcx.data.tokens import FastTokenizer, SpanTokenizer, open_span_tokenizer
from lcx.errors import MissingError, UsageError
from lcx.llm.client import Service
from lcx.llm.prompts import Render, by_template
from lcx.llm.protocol import Request, Response
from lcx.run import Run
from lcx.storage import Journal, sha256_json, sha256_text
from lcx_longreward.eval_settings import LongRewardEval
from lcx_longreward.judge import together
from lcx_longreward.sampling import GUESSING

__all__ = [
    "Answer",
    "Answerer",
    "Fitter",
    "Sampling",
    "Subject",
    "counted",
    "middle_cut",
    "open_subjects",
    "subject_of",
]

# ---- questions

QUESTIONS = ("query", "question", "input", "instruction")
FILES = (".jsonl", ".json", ".parquet")

QA_SETS = {
    **dict.fromkeys(("narrativeqa", "qasper", "multifieldqa_en", "multifieldqa_zh"), "single-document"),
    **dict.fromkeys(("hotpotqa", "2wikimqa", "musique", "dureader"), "multi-document"),
}
"""LongBench's question-answering sets, and the column of the paper's table that each belongs to."""
SUMMARY_SETS = dict.fromkeys(("gov_report", "qmsum", "multi_news", "vcsum"), "summary")
SETS = {"qa": QA_SETS, "summary": SUMMARY_SETS}
SUMMARIZE = {
    "en": "Write a summary of the text above: all of its main points, and nothing that it does not say.",
    "zh": "请为以上文本写一份摘要，涵盖其全部要点，不要写文中没有的内容。",
}
"""What is asked where a row of a summary set has no question."""


@dataclass(frozen=True)
class Item:
    """One question about one context, with its right answers where they are known."""

    id: str
    context: str
    question: str
    references: tuple[str, ...] = ()
    dataset: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """What stands for the context: answers about one context are alike."""
        return hashlib.sha256(self.context.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    @property
    def key(self) -> str:
        """What stands for context and question."""
        return sha256_text(f"{self.group}\0{self.question}")[:24]


def digest_of(items: Iterable[Item]) -> str:
    """What two results must share to be compared: the same questions about the same contexts."""
    return sha256_json([(item.id, item.key, item.references) for item in items])[:16]


def thinned(items: Sequence[Item], limit: int | None) -> list[Item]:
    """At most `limit` items, spread evenly."""
    count = len(items)
    if limit is None or limit >= count:
        return list(items)
    return [items[(2 * number + 1) * count // (2 * limit)] for number in range(limit)]


def read_items(
    path: str | Path, *, needs_reference: bool, task: str, fields: Mapping[str, str] | None = None
) -> list[Item]:
    """The items of a file of rows. Raises MissingError for no file, UsageError naming a row that lacks something."""
    file = _file(path, task)
    tally = Tally(Strict(), fields)
    items: list[Item] = []
    for raw in file_rows(str(file), file, tally.rejects):
        for inner, example in tally.examples_of(raw):
            where = f"{file}, row {len(items) + 1}"
            items.append(item_of(inner.row, example, where, len(items) + 1, file.stem, needs_reference, task))
    tally.check(file)
    if not items:
        raise UsageError(f"{file} has no row", hint=f"Give {task} rows with context, query and answer.")
    return _unique(items, str(file))


def read_longbench(task: str, folders: Sequence[str], files: Sequence[str]) -> list[Item]:
    """The items of a task's LongBench sets: those in `folders` that are its own by name, and all of `files`.

    Raises MissingError for a path that is not there, UsageError for a row that lacks something.
    """
    found: list[Item] = []
    for path in folders:
        place = Path(path).expanduser()
        if not place.exists():
            raise MissingError(
                f"no LongBench data at '{path}'", hint="--set eval.longbench=[FOLDER of its JSONL files]"
            )
        inside = (
            sorted(p for p in place.iterdir() if p.suffix in FILES and not p.name.startswith("."))
            if place.is_dir()
            else [place]
        )
        for file in inside:
            if _set_name(file) in SETS[task]:
                found += read_items(file, needs_reference=True, task=task)
    for path in files:
        found += read_items(path, needs_reference=True, task=task)
    return _unique(found, task)


def item_of(
    row: Mapping[str, Any],
    example: Example,
    where: str,
    number: int,
    name: str,
    needs_reference: bool,
    task: str,
) -> Item:
    """The item in a row, read as an example. Raises UsageError naming what is missing."""
    # LongBench's rows call the question `input`; it is empty where the whole set asks for one thing.
    context, question = example.context.strip(), example.plain_question.strip()
    if not question and task == "summary":
        question = SUMMARIZE["zh" if row.get("language") == "zh" else "en"]
    references = tuple(text.strip() for text in example.answers or example.references if text.strip())
    lacks = [
        what
        for what, there in (
            ("context", context),
            ("query", question),
            ("answer", references or not needs_reference),
        )
        if not there
    ]
    if lacks:
        raise UsageError(
            f"{where}: {task} needs {' and '.join(lacks)}",
            why=f"The row has {', '.join(map(str, row))}.",
            hint="--fields context=FIELD,question=FIELD,answer=FIELD names fields that go by other names.",
        )
    given = row.get("_id", row.get("id"))
    meta = {key: row[key] for key in ("language", "length") if row.get(key) is not None}
    dataset = str(row.get("dataset") or _set_name(Path(name)))
    return Item(
        str(given) if given is not None else f"{name}-{number:05d}",
        context,
        question,
        references,
        dataset,
        meta,
    )


def saved_answers(path: str | Path) -> dict[str, str]:
    """Saved answers by id and by question (the first of a question counts). Raises as `read_items`.

    An answer that is null or not there is an empty one. Rows of our own predictions with `sample` above 0 are
    further answers to a question: the first one counts.
    """
    file = _file(path, "answers")
    found: dict[str, str] = {}
    for number, row in enumerate(strict_rows(file), 1):
        names = [str(row[key]) for key in ("_id", "id") if row.get(key) is not None]
        asked = (row.get(key) for key in QUESTIONS)
        question = next((text.strip() for text in asked if isinstance(text, str) and text.strip()), "")
        names += [f"question:{question}"] if question else []
        fields = [key for key in ("answer", "pred", "prediction", "response") if key in row]
        if not names or not fields:
            raise UsageError(
                f"{file}, row {number}: a saved answer needs id (or question) and answer",
                why=f"The row has {', '.join(map(str, row))}.",
            )
        for name in names:
            found.setdefault(name, str(row[fields[0]] or ""))
    return found


def _file(path: str | Path, task: str) -> Path:
    file = Path(path).expanduser()
    if not file.is_file():
        raise MissingError(f"no file '{path}' for {task}", hint=f"--set eval.{task}=FILE.jsonl")
    return file


def _set_name(path: Path) -> str:
    """The set that a file of LongBench holds: LongBench-E's files end in `_e`."""
    return path.name.split(".")[0].removesuffix("_e")


def _unique(items: Sequence[Item], where: str) -> list[Item]:
    """The items, where no two have one id. Raises UsageError naming one that occurs twice."""
    seen: dict[str, Item] = {}
    for item in items:
        if item.id in seen:
            raise UsageError(f"{where}: two rows have the id '{item.id}'", hint="Give each row its own `id`.")
        seen[item.id] = item
    return list(seen.values())


# ---- answers

SPARE = 16
"""Tokens kept free for what a chat template puts around a prompt, and for joins."""
NO_ANSWER = "the saved answers have none"


@dataclass(frozen=True)
class Answer:
    """One answer. `error` says why there is no text, `cut` that a limit ended it, `short` that its context was cut."""

    text: str
    error: str = ""
    cut: bool = False
    short: bool = False


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn, and how many."""

    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0


@dataclass(frozen=True)
class Subject:
    """A model under evaluation: its backend's spec and options, or a file of saved answers in its place."""

    spec: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    saved: str = ""
    made: str = ""
    """What identifies the model where a step of this run made it: its folder's name stays when it is made again."""

    @property
    def name(self) -> str:
        return self.saved or self.spec

    @property
    def local(self) -> bool:
        return self.spec.startswith("local:")

    def check(self, service: Service) -> None:
        """Raises within seconds where a backend, folder, key or file is not there."""
        if self.saved:
            saved_answers(self.saved)
        else:
            service.check(self.spec, self.options)


def subject_of(model: str, options: Mapping[str, Any], template: str, run: Run) -> Subject:
    """The backend of a model: `step:ID`, a path, a hub id and `tiny` are run here; `openai:MODEL` and such as named.

    Raises MissingError for a step that is not done.
    """
    name, colon, rest = model.partition(":")
    made = ""
    if model.startswith("step:") or (name == "local" and rest.startswith("step:")):
        step = model if model.startswith("step:") else rest
        spec, made = f"local:{run.resolve(step, 'model')}", run.digest_of(step.removeprefix("step:"))
    elif name in plugins.loaded().llms and (colon or name == "builtin"):
        spec = model
    else:
        spec = f"local:{model}"
    if spec.startswith("local:") and not load_template(template).chat:
        options = {"chat": "never", **options}  # a template that takes no chat turn gets none
    return Subject(spec, dict(options), made=made)


class Answerer:
    """Asks the models and journals each answer, so that a killed step asks none twice.

    A journalled answer stands for its model, its context and question and how it was drawn: tasks that ask the
    same thing share it.
    """

    def __init__(self, settings: LongRewardEval, service: Service, journal: Journal, ctx: Context) -> None:
        self.settings, self.service, self.journal, self.ctx = settings, service, journal, ctx
        self.template = load_template(settings.template)

    def answers(
        self, subject: Subject, items: Sequence[Item], sampling: Sampling = Sampling(), part: str = "answers"
    ) -> list[list[Answer]]:
        """For every item its answers. Raises UsageError where a context does not fit and `too_long` is `error`."""
        if subject.saved:
            return self._saved(subject.saved, items)
        units = [self._unit(subject, item, sampling) for item in items]
        missing = {unit: item for unit, item in zip(units, items, strict=True) if unit not in self.journal}
        failed: dict[str, list[Answer]] = {}
        if missing:
            self.service.expect(len(missing))
            failed = self.service.run(self._ask_all(subject, missing, sampling, part))
        return [
            failed.get(unit) or [Answer(**row) for row in self.journal[unit]["answers"]] for unit in units
        ]

    def _saved(self, file: str, items: Sequence[Item]) -> list[list[Answer]]:
        known = saved_answers(file)
        found = [known.get(item.id, known.get(f"question:{item.question}")) for item in items]
        if items and all(text is None for text in found):
            raise UsageError(
                f"{file} has no answer to any of the {len(items)} questions",
                why=f"Ids such as '{items[0].id}' are looked for, and questions word for word.",
            )
        return [[Answer("", NO_ANSWER) if text is None else Answer(text.strip())] for text in found]

    def _unit(self, subject: Subject, item: Item, sampling: Sampling) -> str:
        settings = self.settings
        what = [
            *(subject.spec, dict(subject.options), item.key, vars(sampling), settings.seed),
            *(settings.answer_tokens, self.template.hash, settings.window, settings.too_long),
            *([subject.made] if subject.made else []),
        ]
        return f"answers:{sha256_json(what)[:32]}"

    async def _ask_all(
        self, subject: Subject, missing: Mapping[str, Item], sampling: Sampling, part: str
    ) -> dict[str, list[Answer]]:
        """Ask what the journal lacks. Calls that failed are returned: a step that goes on asks them again."""
        exchange = self.service.client(subject.spec, subject.options)
        render = render_of(self.template, bool(exchange.describe().get("chat_template", True)))
        fitter = self._fitter(subject, render)
        if fitter is not None and fitter.how == "error":
            for item in missing.values():  # before the first call
                fitter.fit(item)
        # A local model answers what has gathered: a kill costs one such batch. Endpoints have a journal of their own.
        lanes = asyncio.Semaphore(self.settings.batch if subject.local else self.settings.concurrency)
        end = self.template.end.strip()
        failed: dict[str, list[Answer]] = {}
        done = 0

        async def one(unit: str, item: Item) -> None:
            nonlocal done
            async with lanes:
                request, short, why = self._request(item, render, fitter, sampling)
                response = Response((), error=why) if why else await exchange.ask(request, part=part)
                found = _answers(response, sampling.samples, short, end)
                if response.error:
                    failed[unit] = found
                else:
                    self.journal.append({"unit": unit, "answers": [vars(answer) for answer in found]})
            done += 1
            self.ctx.pulse(f"    {part}: answered {done:,} of {len(missing):,} questions")

        await together(one(unit, item) for unit, item in missing.items())
        return failed

    def _fitter(self, subject: Subject, render: Render) -> Fitter | None:
        """What makes contexts fit; None where no window is known."""
        settings = self.settings
        if subject.local:
            from lcx.hub import load_tokenizer
            from lcx.modeling.load import load_config, window

            path = subject.spec.removeprefix("local:")
            self.ctx.ready_model(path)
            tokenizer: SpanTokenizer = FastTokenizer(load_tokenizer(path).backend_tokenizer, path)
            known = settings.window or window(load_config(path))
        elif settings.window:
            tokenizer, known = open_span_tokenizer(settings.tokenizer), settings.window
        else:
            return None
        return Fitter(tokenizer, known - settings.answer_tokens - SPARE, settings.too_long, render)

    def _request(
        self, item: Item, render: Render, fitter: Fitter | None, sampling: Sampling
    ) -> tuple[Request, bool, str]:
        """The request, whether its context was cut, and why it is not sent where it is dropped."""
        context, why = (item.context, "") if fitter is None else fitter.fit(item)
        fields: dict[str, Any] = {"question": item.question, "context": (context,)}
        if sampling.temperature > 0:
            fields["read"] = GUESSING
        request = Request(
            messages=({"role": "user", "content": render(context, item.question)},),
            task="answer_question",
            fields=fields,
            n=sampling.samples,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=self.settings.answer_tokens,
            seed=int(sha256_text(f"{self.settings.seed}:{item.key}")[:8], 16) >> 1,
        )
        return request, context != item.context, why


def render_of(template: Template, chat: bool) -> Render:
    """Prompts that read as the training prompt does, with or without a context."""
    whole = by_template(template, chat)
    after = whole("", "").removeprefix(template.head + template.between)
    return lambda context, question: (
        whole(context, question) if context else template.bare_head + question + after
    )


@dataclass(frozen=True)
class Fitter:
    """Cuts the middle out of contexts whose prompts have more than `most` tokens."""

    tokenizer: SpanTokenizer
    most: int
    how: str
    render: Render

    def fit(self, item: Item) -> tuple[str, str]:
        """The context, as much of it as fits, and why there is no prompt at all under `drop`.

        Raises UsageError under `error`, and where not even the question fits.
        """
        needed = len(self.tokenizer.spans(self.render(item.context, item.question)))
        over = needed - self.most
        if over <= 0:
            return item.context, ""
        spans = self.tokenizer.spans(item.context)
        keep = len(spans) - over
        if self.how == "drop":
            return item.context, "the prompt is longer than the window (too_long: drop)"
        if self.how == "error" or keep < 2:
            raise UsageError(
                f"{item.id}: the prompt has {needed:,} tokens, but {self.most:,} fit beside the answer",
                hint="Set too_long to truncate-middle or drop, answer_tokens lower, or window to what the model can "
                "really read.",
            )
        return middle_cut(item.context, spans, keep), ""


def middle_cut(text: str, spans: Sequence[tuple[int, int]], keep: int) -> str:
    """The first half of `keep` tokens and the last half, without what lies between."""
    head, tail = keep - keep // 2, keep // 2
    return text[: spans[head - 1][1]] + (text[spans[-tail][0] :] if tail else "")


def _answers(response: Response, samples: int, short: bool, end: str) -> list[Answer]:
    """An answer for each sample; what the template says ends an answer ends it."""
    found = []
    for one in response.completions[:samples]:
        if one.finish_reason != "error":
            text, ended, _ = one.text.partition(end) if end else (one.text, "", "")
            found.append(Answer(text.strip(), cut=one.finish_reason == "length" and not ended, short=short))
    lacking = Answer("", response.error or "fewer samples than asked for", short=short)
    return found + [lacking] * (samples - len(found))


def open_subjects(settings: LongRewardEval, run: Run, model: str) -> tuple[Subject, Subject | None]:
    """The model under evaluation and, where one is named, the other side of versus."""
    options = settings.model_options
    if settings.answers:
        mine = Subject(saved=settings.answers)
    else:
        mine = subject_of(model, options, settings.template, run)
    if not settings.against:
        return mine, None
    if Path(settings.against).expanduser().is_file():
        return mine, Subject(saved=settings.against)
    return mine, subject_of(settings.against, settings.against_options, settings.template, run)


def counted(answers: Iterable[Answer]) -> dict[str, int]:
    """How many answers were cut at the limit, and how many come from a context that was cut."""
    found = list(answers)
    numbers = {"cut": sum(one.cut for one in found), "truncated": sum(one.short for one in found)}
    return {name: number for name, number in numbers.items() if number}
