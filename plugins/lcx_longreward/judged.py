"""LongReward's evaluations as tasks of the core: six that a judge rates, and saved predictions of short tasks.

| task | what the judge rates | score |
|---|---|---|
| `reward` | samples on the four dimensions, as the score step does | their mean, 0 to 10 |
| `chat`, `qa`, `summary` | an answer against its references, 1 to 10, 3 and 5 | as it is; (r - 1) / 2; (r - 1) / 4 |
| `versus` | two models' answers in four respects, in both orders | win 1, tie 0.5, loss 0 |
| `support` | an answer's statements against their context | share that is fully supported, by statements |
| `short` | nothing: saved predictions of short tasks, by a metric | the metric's |
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lcx.data.files import Rejects, Strict, strict_rows
from lcx.data.rows import Tally
from lcx.data.table import step_table
from lcx.data.templates import load_template
from lcx.data.tokens import open_span_tokenizer
from lcx.data.words import clean, nfkc, scan, words
from lcx.errors import MissingError, UsageError
from lcx.evaluation.benchmarks.loading import Item, Prompt, load_items
from lcx.evaluation.judged import rated
from lcx.evaluation.statistics.intervals import brief
from lcx.evaluation.task import AskJudge, Expected, Row, Samples, Scored, Source, Task, TaskOptions, said
from lcx.evaluation.task import Case as AnsweredCase
from lcx.evaluation.text_metrics import contains
from lcx.llm.judge import Asking, Health, Judgement, Rubric, Unreadable, marked, read_rating, together
from lcx.llm.prompts import load_prompt
from lcx.retrieval import Retriever, open_retriever
from lcx.settings import setting, validate
from lcx.steps import StepWork
from lcx.storage import write_lines
from lcx_longreward.data import Material
from lcx_longreward.judge import Case, Judge, JudgeScore, cut, make_judge, retriever_options
from lcx_longreward.pairs import COMPLETENESS, DIMENSIONS, FAITHFULNESS, HELPFULNESS, HIGHEST, LOGICALITY
from lcx_longreward.rubrics import LANGUAGES, fenced, language_of, open_rubrics
from lcx_longreward.sampling import text_of
from lcx_longreward.score import REPLY, STATEMENT
from lcx_longreward.settings import Judging, LongRewardScore, LongRewardSynth
from lcx_longreward.synth import TASK_PROMPT, TASK_REPLY
from lcx_longreward.tasks import gather

# -- options


class JudgedOptions(TaskOptions, Judging):
    """Options of judged tasks: how the judge is asked, and what it sees of a context."""


class RewardOptions(JudgedOptions):
    """Options of reward: how its questions are made where none are given."""

    questions: int = setting(64, ge=1, description="questions that are made")
    asking: dict[str, Any] = setting(
        {}, description="further settings of the synth step for them, such as context_tokens"
    )
    writer: str | None = setting(None, description="writes them; the judge, where none is given")
    writer_options: dict[str, Any] = setting({}, description="options of that backend")


def scoring(options: Judging, settings: Any) -> LongRewardScore:
    """The score step's settings by which answers are judged."""
    values = {name: getattr(options, name) for name in Judging.model_fields}
    values |= {name: getattr(settings, name) for name in ("seed", "base_url", "api_key_env", "api_key_file")}
    return LongRewardScore(**values)


# -- questions

QA_SETS = {
    **dict.fromkeys(("narrativeqa", "qasper", "multifieldqa_en", "multifieldqa_zh"), "single-document"),
    **dict.fromkeys(("hotpotqa", "2wikimqa", "musique", "dureader"), "multi-document"),
}
"""LongBench's question-answering sets, and the column of the paper's table that each belongs to."""
SUMMARY_SETS = dict.fromkeys(("gov_report", "qmsum", "multi_news", "vcsum"), "summary")
SETS: dict[str, Mapping[str, str]] = {"qa": QA_SETS, "summary": SUMMARY_SETS}
COLUMNS = {**QA_SETS, **SUMMARY_SETS}
LONGBENCH = "longbench"
FILES = (".jsonl", ".json", ".parquet")
SUMMARIZE = {
    "en": "Write a summary of the text above: all of its main points, and nothing that it does not say.",
    "zh": "请为以上文本写一份摘要，涵盖其全部要点，不要写文中没有的内容。",
}
"""What is asked where a row of a summary set has no question."""


def read_questions(
    place: str | Path, task: str, *, needs_reference: bool, fields: Mapping[str, str] | None = None
) -> list[Item]:
    """The questions of rows with context, query and answer. Raises MissingError for no file, UsageError for a row
    that lacks something.
    """
    if not str(place).startswith("hf:") and not Path(place).expanduser().exists():
        raise MissingError(f"no file '{place}' for {task}", hint=f"--set eval.data.{task}=FILE.jsonl")
    place = place if str(place).startswith("hf:") else Path(place).expanduser()
    tally = Tally(Strict(), fields)
    items: list[Item] = []
    for raw, example in tally.examples_in(place):
        context, question = example.context.strip(), example.plain_question.strip()
        if not question and task == "summary":
            question = SUMMARIZE["zh" if raw.row.get("language") == "zh" else "en"]
        references = [text.strip() for text in example.answers or example.references if text.strip()]
        there = (("context", context), ("query", question), ("answer", references or not needs_reference))
        if lacks := [what for what, known in there if not known]:
            raise UsageError(
                f"{place}, row {len(items) + 1}: {task} needs {' and '.join(lacks)}",
                why=f"The row has {', '.join(map(str, raw.row))}.",
                hint="--fields context=FIELD,question=FIELD,answer=FIELD names fields that go by other names.",
            )
        given = raw.row.get("_id", raw.row.get("id"))
        name = set_of(Path(str(place)))
        id = str(given) if given is not None else f"{name}-{len(items) + 1:05d}"
        about = {"answers": references, "dataset": str(raw.row.get("dataset") or name)}
        items.append(Item(id, context, {"input": question}, about))
    tally.check(place)
    if not items:
        raise UsageError(f"{place} has no row", hint=f"Give {task} rows with context, query and answer.")
    return items


def set_of(path: Path) -> str:
    """The set that a file of LongBench holds: LongBench-E's files end in `_e`."""
    return path.name.split(".")[0].removesuffix("_e")


def longbench_files(task: str, places: Sequence[str]) -> list[Path]:
    """The files of a task's sets in folders or among files. Raises MissingError for a path that is not there."""
    found: list[Path] = []
    for one in places:
        place = Path(one).expanduser()
        if not place.exists():
            raise MissingError(
                f"no LongBench data at '{one}'", hint="--set eval.data.longbench=FOLDER of its JSONL files"
            )
        inside = sorted(p for p in place.iterdir() if p.suffix in FILES) if place.is_dir() else [place]
        found += [file for file in inside if set_of(file) in SETS[task]]
    return found


def samples_of(task: str, *, needs_reference: bool, hint: str) -> Callable[[Source, Any], Samples]:
    """What makes the samples of a task whose questions files give."""

    def samples(source: Source, options: Any) -> Samples:
        places: list[str | Path] = []
        for family, given in source.places.items():
            places += longbench_files(task, given) if family == LONGBENCH else given
            if task not in SETS:
                break  # other tasks' questions serve only where there are none of its own
        if not places:
            why = "the files given hold none of its sets" if source.places else "its questions are not given"
            raise MissingError(f"{task}: {why}", hint=hint)
        items: list[Item] = []
        for place in places:
            items += read_questions(place, task, needs_reference=needs_reference, fields=source.fields)
        return _asked(task, items)

    return samples


def _asked(task: str, items: Sequence[Item]) -> Samples:
    """Samples under the step's own template."""
    return replace(load_items(task, items, Prompt(load_template("plain")), Counter()), template=None)


# -- what the judge is shown

CHAT, QA, SUMMARY, VERSUS = KINDS = ("chat", "qa", "summary", "versus")
"""Kinds of calls; each has a prompt file in either language."""
NEEDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((CHAT, QA, SUMMARY), ("{question}", "{reference}", "{answer}")),
    VERSUS: ("{question}", "{criterion}", "{a}", "{b}"),
}
RULES = {CHAT: "judge_reference", QA: "judge_qa", SUMMARY: "judge_summary", VERSUS: "judge_versus"}
"""What the builtin rules call them."""
SCALES = {CHAT: (1.0, 10.0), QA: (1.0, 3.0), SUMMARY: (1.0, 5.0)}
"""Lowest and highest rating (LongReward, section 4.1; LongBench-Chat)."""
REPLY_TOKENS = 1024
CRITERIA = {
    HELPFULNESS: (
        "Helpfulness: which answer serves the person who asked better? It deals with what was asked and all of it, "
        "in the form that was wanted, and is specific and clear.",
        "有用性：哪个回答对提问者更有帮助？它针对所问、答全各个部分，形式符合要求，具体而清楚。",
    ),
    LOGICALITY: (
        "Logicality: which answer is sounder in itself? Its parts agree with one another, and its conclusions follow.",
        "逻辑性：哪个回答自身更严密？前后一致，结论有据可循。",
    ),
    FAITHFULNESS: (
        "Faithfulness: which answer keeps closer to the document? What it says is in the passages, and nothing in it "
        "disagrees with them or is made up.",
        "忠实性：哪个回答更忠于文档？所说内容见于段落，没有与之矛盾或编造的内容。",
    ),
    COMPLETENESS: (
        "Completeness: which answer has more of what the document says on the question, without leaving out what "
        "matters?",
        "完整性：哪个回答更完整地包含了文档中与问题有关的内容，没有遗漏要点？",
    ),
}
"""What answers are compared by, in English and in Chinese."""
_REFERENCE = re.compile(r"<(?=\s*/?\s*reference\b)", re.I)


def _fenced(text: str) -> str:
    """A text that others wrote, unable to close or open the marks around it."""
    return _REFERENCE.sub("&lt;", fenced(text.strip()))


def rubrics(kind: str, options: Judging, read: Callable[[str], Any], seed: int = 0) -> dict[str, Rubric[Any]]:
    """A kind's rubric by language, with the user's prompts or ours. Raises UsageError for one that lacks a place."""
    return {
        language: Rubric(
            kind,
            load_prompt(f"{kind}.{language}", options.prompts, package="lcx_longreward", needs=NEEDS[kind]),
            read,
            options.attempts,
            RULES[kind],
            _fenced,
            options.temperature,
            options.retry_temperature,
            REPLY_TOKENS,
            seed,
        )
        for language in LANGUAGES
    }


def rating(kind: str, options: Judging, seed: int = 0) -> Callable[[AnsweredCase, Row], Asking[float]]:
    """What is asked about an answer that has references."""
    low, high = SCALES[kind]
    known = rubrics(kind, options, partial(read_rating, low=low, high=high), seed)

    def asking(case: AnsweredCase, row: Row) -> Asking[float]:
        answer, references = said(row), row["answers"]
        several = len(references) > 1
        reference = "\n".join(f"- {text}" for text in references) if several else references[0]
        texts = {"question": case.question, "reference": reference, "answer": answer}
        fields: dict[str, Any] = {"question": case.question, "answer": answer}
        fields |= {"references": tuple(references)} if several else {"reference": reference}
        return Asking(known[language_of(case.question, answer, options.language)], texts, fields)

    return asking


def read_side(reply: str) -> str | Unreadable:
    """The last `[[A]]`, `[[B]]` or `[[C]]` (a tie, also as `[[tie]]`) of a reply."""
    said = [text.upper() for text in marked(reply)]
    if not said:
        return Unreadable("no [[verdict]] in the reply")
    side = {"TIE": "C", "平局": "C"}.get(said[-1], said[-1])
    return side if side in ("A", "B", "C") else Unreadable("the last [[verdict]] is none of A, B and C")


# -- chat, qa, summary

UNREADABLE = 0.5
"""What an unreadable rating of qa or summary counts in the published evaluation."""


def score_of(task: str, rating: float | None) -> float | None:
    """A rating as the paper counts it: (r - 1) / 2 of qa, (r - 1) / 4 of summary, 0 to 1; chat's as it is, 1 to 10."""
    low, high = SCALES[task]
    return rating if rating is None or task == CHAT else (rating - low) / (high - low)


_FIRST_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def _as_published(task: str) -> Callable[[Row], float | None]:
    """The first number inside the last plain `[[...]]` of the judge's reply, thoughts and all; else 0.5.

    Marks of other signs and JSON are none there. Saved rows without a reply count by their rating.
    """
    low, high = SCALES[task]

    def score(row: Row) -> float | None:
        rating, reply = row.get("rating"), row.get("analysis")
        if isinstance(reply, str) and reply.strip():
            ends = [part.rpartition("]")[2].partition("[[")[2] for part in reply.split("]]")[:-1]]
            marks = [mark for mark in ends if mark]
            number = _FIRST_NUMBER.search(marks[-1]) if marks else None
            rating = float(number[0]) if number else None
        if rating is None or not low <= rating <= high:
            return UNREADABLE
        return score_of(task, rating)

    return score


def by_sets(scored: Sequence[Scored], scale: tuple[float, float] = (0.0, 1.0)) -> dict[str, Any]:
    """Means by set, by the columns of the paper's table, and the mean of the sets, which all count alike."""
    names = [str(row.get("dataset")) for row, _ in scored]
    sets = list(dict.fromkeys(names))
    if len(sets) < 2:
        return {}
    scores, contexts = [score for _, score in scored], [row["context"] for row, _ in scored]

    def of(keep: Callable[[str], bool], weights: Sequence[float] | None = None) -> dict[str, Any]:
        part = [score if keep(name) else None for name, score in zip(names, scores, strict=True)]
        return brief(part, contexts, weights, scale)

    by = {one: of(lambda name, one=one: name == one) for one in sets}  # type: ignore[misc]
    weights = [1 / by[name]["n"] if by[name]["n"] else 0.0 for name in names]
    columns = dict.fromkeys(COLUMNS[name] for name in sets if name in COLUMNS)
    return {
        "sets": by,
        "columns": {
            one: of(lambda name, one=one: COLUMNS.get(name) == one, weights)  # type: ignore[misc]
            for one in columns
        },
        "mean of sets": brief(scores, contexts, weights, scale),
    }


def _rated(name: str, summary: str) -> Task:
    own = f"--set eval.data.{name}=FILE of rows with context, query and answer"
    longbench = f"--set eval.data.longbench=FOLDER of LongBench's JSONL files, or eval.data.{name}=FILE"
    return Task(
        name=name,
        summary=summary,
        family=name,
        also=(LONGBENCH,) if name in SETS else (),
        samples=samples_of(name, needs_reference=True, hint=longbench if name in SETS else own),
        options=JudgedOptions,
        view="table",
        judge=rated(partial(rating, name)),
        score=lambda row: score_of(name, row.get("rating")),
        compat={} if name == CHAT else {"longreward": _as_published(name)},
        scale=SCALES[CHAT] if name == CHAT else (0.0, 1.0),
        row_fields=("answers",),
        max_new_tokens=ANSWER_TOKENS,
        summarize=partial(by_sets, scale=SCALES[CHAT]) if name == CHAT else by_sets,
        expect=partial(expected, name),
    )


# -- reward and support

NAMED = 8
"""Words of a reference up to which an answer can be said to name it."""
ANSWER_TOKENS = 1024
QUESTIONS_FILE = "questions-reward.jsonl"


@contextmanager
def open_judge(work: StepWork[Any], options: Judging) -> Iterator[Callable[[], Judge]]:
    """The score step's judge, on this step's models; the first call opens it, and its retriever is closed here."""
    known, client = scoring(options, work.settings), work.llm("judge")
    asked, opened = open_rubrics(known), list[Judge]()

    def judge() -> Judge:
        if not opened:
            retriever = open_retriever(known.retriever, retriever_options(known, work.folder, work.ctx))
            opened.append(make_judge(known, client, asked, retriever, open_span_tokenizer(known.tokenizer)))
        return opened[0]

    try:
        yield judge
    finally:
        for one in opened:
            one.retriever.close()


@contextmanager
def judge_reward(work: StepWork[Any], options: Judging) -> Iterator[AskJudge]:
    """Every part of every sample of a question, as for training."""
    with open_judge(work, options) as judge:

        async def ask(case: AnsweredCase) -> tuple[Sequence[Mapping[str, Any]], bool]:
            found = await judge().judge(Case(case.context, case.question, case.answers))
            rows = [reward_fields(one, row) for one, row in zip(found.verdicts, case.rows, strict=True)]
            return rows, all(one.settled for one in found.verdicts)

        yield ask


def reward_fields(verdict: JudgeScore, row: Row) -> dict[str, Any]:
    """What a sample's row gets. An empty answer has the lowest reward here: else silence would raise the mean."""
    found = verdict.row()
    found.pop("skipped")
    if not said(row):
        found |= dict.fromkeys((*DIMENSIONS, "reward"), 0.0) | {"failed": {}}
    return {"right": right(said(row), row["answers"]), **found}


@contextmanager
def judge_support(work: StepWork[Any], options: Judging) -> Iterator[AskJudge]:
    """The statements of an answer, and their support."""
    with open_judge(work, options) as judge:

        async def ask(case: AnsweredCase) -> tuple[Sequence[Mapping[str, Any]], bool]:
            found = await judge().supported(Case(case.context, case.question, case.answers))
            rows = [{"statements": one.statements, "failed": one.failed} for one in found.verdicts]
            return rows, all(one.settled for one in found.verdicts)

        yield ask


def right(answer: str, references: Sequence[str]) -> float | None:
    """Whether an answer names a reference, as whole words; None where no reference is short enough to be named."""
    short = [text for text in map(clean, references) if 0 < len(words(text)) <= NAMED]
    said = clean(answer).casefold()
    found = (contains(said, text.casefold(), whole_words=not _spaceless(text)) for text in short)
    return float(any(found)) if short else None


def _spaceless(text: str) -> bool:
    """Whether a text is of a script without spaces: its words have no ends that could be seen."""
    return any(word.wide for word in scan(text))


def statements_of(row: Row) -> float | None:
    """How many statements an answer makes; None where the level of one is not known."""
    statements = row.get("statements")
    known = statements is not None and all(one.get("support") is not None for one in statements)
    return float(len(statements)) if known and statements is not None else None


def supported(row: Row) -> float | None:
    """Which share of an answer's statements is fully supported; None where it makes none, or one is not known."""
    count = statements_of(row)
    return sum(one["support"] == 1 for one in row["statements"]) / count if count else None


def statement_numbers(rows: Sequence[Row]) -> dict[str, Any]:
    """The share of all statements that are fully supported, and statements an answer."""
    contexts, sizes = [row["context"] for row in rows], [statements_of(row) for row in rows]
    weights = [size or 0.0 for size in sizes]
    return {
        "supported": brief([supported(row) for row in rows], contexts, weights),
        "statements": brief(sizes, contexts, scale=None),
    }


def reward_numbers(scored: Sequence[Scored]) -> dict[str, Any]:
    """The dimensions, how many samples name the reference, support and length."""
    rows = [row for row, _ in scored]
    contexts = [row["context"] for row in rows]

    def of(name: str, most: float = HIGHEST) -> dict[str, Any]:
        return brief([row.get(name) for row in rows], contexts, scale=(0.0, most))

    known = any(row.get("right") is not None for row in rows)
    return {
        "dimensions": {name: of(name) for name in DIMENSIONS},
        **({"right": of("right", 1.0)} if known else {}),
        **statement_numbers(rows),
        "words": brief([float(len(words(said(row)))) for row in rows], contexts, scale=None),
        "questions": len({row.get("item", row.get("id")) for row in rows}),
        "samples": 1 + max(int(row.get("sample", 0)) for row in rows),
    }


def support_numbers(scored: Sequence[Scored]) -> dict[str, Any]:
    """How many statements an answer makes, and how many answers make none."""
    rows = [row for row, _ in scored]
    return {
        "statements": statement_numbers(rows)["statements"],
        "silent": sum(row.get("statements") == [] for row in rows),
    }


def made_samples(task: str) -> Callable[[Source, RewardOptions], Samples]:
    """What makes samples of the questions that are given, or of new ones about documents of the corpus."""

    def samples(source: Source, options: RewardOptions) -> Samples:
        work = source.work
        given = next(iter(source.places.values()), ())
        if not given:
            assert work is not None  # a forecast does not get here
            items = written_items(work, options)
        else:
            items = [item for place in given for item in given_items(place, task, source.fields)]
        if work is not None and task == "reward":  # so that anything else can be asked the same questions
            write_lines(work.folder / QUESTIONS_FILE, (question_row(item) for item in items))
        return _asked(task, items)

    return samples


def given_items(place: str, task: str, fields: Mapping[str, str] | None = None) -> list[Item]:
    """The questions of a file of rows or a folder of bundles. Raises MissingError or UsageError."""
    path = Path(place).expanduser()
    if not path.is_dir():
        return read_questions(place, task, needs_reference=False, fields=fields)
    material = Material(path, Rejects())
    items = []
    for number in range(len(material)):
        bundle = material[number]
        reference = bundle.meta.get("reference")
        answers = [reference] if isinstance(reference, str) and reference.strip() else []
        for turn, case in enumerate(material.cases(bundle)):
            name = bundle.id if not turn else f"{bundle.id}-{turn}"
            items.append(Item(name, case.context, {"input": case.question}, {"answers": answers}))
    return items


def question_row(item: Item) -> dict[str, Any]:
    """A question as a file of them has it, so that another model can be asked the same."""
    row: dict[str, Any] = {"id": item.id, "context": item.context, "query": item.values["input"]}
    return row | ({"answers": list(item.fields["answers"])} if item.fields["answers"] else {})


def asking(settings: Any, options: RewardOptions) -> LongRewardSynth:
    """The synth step's settings by which questions are made. Raises UsageError for a wrong one in `asking`."""
    values = {
        "corpus": settings.corpus,
        "documents": settings.documents,
        "examples": options.questions,
        "tokenizer": options.tokenizer,
        "seed": settings.seed,
        "writer": options.writer or settings.judge,
        "writer_options": options.writer_options if options.writer else settings.judge_options,
        **options.asking,
    }
    made = validate(LongRewardSynth, values, where="asking")
    assert isinstance(made, LongRewardSynth)
    return made


def written_items(work: StepWork[Any], options: RewardOptions) -> list[Item]:
    """New questions, and notes on what a reader should know of them."""
    known = asking(work.settings, options)
    counts: Counter[str] = Counter()
    table = step_table(
        work.folder / "questions",
        known.corpus,
        documents=known.documents,
        tokenizer=known.tokenizer,
        min_tokens=known.segment_tokens,
        mode=known.segment_by,
        decontaminate=known.decontaminate,
        counts=counts,
        log=work.ctx.log,
        questions=True,
    )
    writer = work.llm("writer", (work.run.llm(known.writer or known.llm), known.writer_options))
    prompts = gather(known, table, work.folder / "questions" / "data", writer, counts, work.ctx)
    if len(prompts) < known.examples:
        few = f"{len(prompts):,} questions of the {known.examples:,} wanted; the counts say what was left out"
        work.notes += [note for note in (f"reward: {few}",) if note not in work.notes]
    work.counts |= Counter({f"questions: {name}": count for name, count in counts.items() if count})
    work.notes += [note for note in seen_before(work) if note not in work.notes]
    return [
        Item(
            f"{number:05d}",
            text_of(table, prompt.window),
            {"input": prompt.question},
            {"answers": [prompt.reference] if prompt.reference else [], "kind": prompt.kind},
        )
        for number, prompt in enumerate(prompts)
    ]


def seen_before(work: StepWork[Any]) -> list[str]:
    """A note for each synth step of this run that read the same documents as the questions are about."""
    steps, mine = work.run.manifest["steps"], work.run.key(work.step)

    def corpus_of(key: str) -> Any:
        return steps.get(key, {}).get("fingerprint", {}).get("inputs", {}).get("corpus")

    return [
        f"reward asks about the documents of step '{key}': --corpus takes others"
        for key, record in steps.items()
        if record.get("stage") == "synth" and corpus_of(key) and corpus_of(key) == corpus_of(mine)
    ]


# -- versus

WIN, TIE, LOSS = "win", "tie", "loss"
POINTS = {WIN: 1.0, TIE: 0.5, LOSS: 0.0}


def outcome(first: str | None, swapped: str | None) -> str | None:
    """From two verdicts: `first` with our answer as A, `swapped` with it as B.

    A win or loss counts only where both say so, else it is a tie; None where a verdict is not known.
    """
    if first is None or swapped is None:
        return None
    if (first, swapped) == ("A", "B"):
        return WIN
    return LOSS if (first, swapped) == ("B", "A") else TIE


def overall(outcomes: Mapping[str, str | None]) -> str | None:
    """Won in more respects than lost, or the other way, or a tie; None where a respect is not known."""
    if any(one is None for one in outcomes.values()):
        return None
    lead = sum(one == WIN for one in outcomes.values()) - sum(one == LOSS for one in outcomes.values())
    return WIN if lead > 0 else LOSS if lead < 0 else TIE


def comparing(
    known: Mapping[str, Rubric[str]],
    options: Judging,
    dimension: str,
    question: str,
    passages: Sequence[str],
    sides: Sequence[str],
) -> Asking[str]:
    """What is asked about two answers in one respect."""
    first, second = sides
    language = language_of(question, f"{first} {second}", options.language)
    texts = {
        "question": question,
        "criterion": CRITERIA[dimension][LANGUAGES.index(language)],
        "passages": "\n".join(f"<passage>\n{_fenced(text)}\n</passage>" for text in passages),
        "a": first,
        "b": second,
    }
    context = "\n".join(passages)
    fields = {"question": question, "context": context, "a": first, "b": second, "dimension": dimension}
    return Asking(known[language], texts, fields, ("criterion", "passages"))


@contextmanager
def judge_versus(work: StepWork[Any], options: Judging) -> Iterator[AskJudge]:
    """Both orders of every respect. Where a verdict is not known, all of the question are asked for again."""
    known = rubrics(VERSUS, options, read_side, work.settings.seed)
    client, health, retrievers = work.llm("judge"), Health(), list[Retriever]()
    score, tokenizer = scoring(options, work.settings), open_span_tokenizer(options.tokenizer)

    def passages(case: AnsweredCase, sides: Sequence[str]) -> list[str]:
        """Those nearest to the question and to each of the answers, in the document's order."""
        texts = cut(case.context, tokenizer, options.chunk_tokens, options.extract_tokens).passages.texts
        found = retrievers[0].index(texts).top([case.question, *sides], options.top_chunks)
        return [texts[place] for place in sorted({place for places in found for place in places})]

    async def ask(case: AnsweredCase) -> tuple[Sequence[Mapping[str, Any]], bool]:
        [row], [mine] = case.rows, case.answers
        sides = (mine, said(row, "other"))
        if not retrievers:
            retrievers.append(
                open_retriever(score.retriever, retriever_options(score, work.folder, work.ctx))
            )
        find = partial(passages, case, sides)
        near: list[str] = []
        if case.context:
            near = await asyncio.to_thread(find) if retrievers[0].waits else find()

        async def one(dimension: str) -> dict[str, Any]:
            orders = (sides, sides[::-1])
            jobs = [comparing(known, options, dimension, case.question, near, both) for both in orders]
            replies: list[Judgement[str]] = await together([job.ask(client) for job in jobs])
            for reply in replies:
                health.note(reply)
            first, swapped = replies
            said = {"first": first.value, "swapped": swapped.value, "why": first.why or swapped.why}
            return said | {"analysis": first.text}

        verdicts = dict(zip(CRITERIA, await together(one(name) for name in CRITERIA), strict=True))
        by = {name: outcome(found["first"], found["swapped"]) for name, found in verdicts.items()}
        failed = {name: found["why"] for name, found in verdicts.items() if by[name] is None}
        about = {"overall": overall(by), "outcomes": by, "failed": failed, "verdicts": verdicts}
        return [about], not any(found["why"] for found in verdicts.values())

    try:
        yield ask
    finally:
        for one in retrievers:
            one.close()


def versus_numbers(scored: Sequence[Scored]) -> dict[str, Any]:
    """Shares of wins, ties and losses, overall and in each respect, and how many verdicts the order changed."""
    rows = [row for row, _ in scored]
    contexts = [row["context"] for row in rows]
    results = {"overall": [row.get("overall") for row in rows]}
    results |= {name: [(row.get("outcomes") or {}).get(name) for row in rows] for name in CRITERIA}
    moved = [
        one["first"] != {"A": "B", "B": "A"}.get(one["swapped"], one["swapped"])
        for row in rows
        for one in (row.get("verdicts") or {}).values()
        if one["first"] and one["swapped"]
    ]
    return {
        "shares": {
            name: {
                one: brief([None if said is None else float(said == one) for said in found], contexts)
                for one in POINTS
            }
            for name, found in results.items()
        },
        "changed by the order": sum(moved) / len(moved) if moved else None,
    }


# -- short


def exact(prediction: str, row: Row) -> float:
    """1 where the prediction is an answer, but for case, blanks and a full stop at its end."""
    return float(_plain(prediction) in {_plain(text) for text in _answers(row)})


def holds(prediction: str, row: Row) -> float:
    """1 where the prediction holds an answer."""
    return float(any(_plain(text) in _plain(prediction) for text in _answers(row) if _plain(text)))


OWN: Mapping[str, Callable[[str, Row], float | None]] = {"exact": exact, "contains": holds}
SHORT_HINT = "--set eval.data.short=METRIC:FILE with rows of pred and answer"


def short_score(row: Row) -> float | None:
    """A saved prediction by the metric that its row names."""
    from lcx.plugins import loaded

    name = str(row["metric"])
    metric = OWN[name] if name in OWN else loaded().metrics.load(name)
    return metric(str(row["pred"]), row["given"])


def short_samples(source: Source, options: Any) -> Samples:
    """The rows of every METRIC:FILE, with their predictions. Raises MissingError for no such metric or file."""
    from lcx.plugins import loaded

    given = source.places.get("short", ())
    if not given:
        raise MissingError("no saved predictions of short tasks are given", hint=SHORT_HINT)
    items, counts = [], Counter[str]()
    for one in given:
        name, _, path = one.partition(":")
        if not path:
            raise UsageError(f"short: METRIC:FILE, not '{one}'")
        if name not in OWN and name not in loaded().metrics:
            known = ", ".join([*OWN, *loaded().metrics.names()])
            raise MissingError(
                f"no metric '{name}' (known: {known}); a plugin registers one by lcx_register_metrics",
                hint=SHORT_HINT,
            )
        file = Path(path).expanduser()
        if not file.is_file():
            raise MissingError(f"no file '{path}' for {name}", hint=SHORT_HINT)
        for number, row in enumerate(strict_rows(file), 1):
            if "pred" not in row or not _answers(row):
                raise UsageError(f"{file}, row {number}: short needs pred and answer")
            counts["no prediction (scored as an empty one)"] += row["pred"] is None
            fields = {"answers": list(_answers(row)), "dataset": file.stem, "metric": name, "given": row}
            fields |= {"pred": str(row["pred"] or "")}
            id = f"{name}:{file.stem}:{row.get('id', f'{number:05d}')}"
            items.append(Item(id, id, {"input": str(row.get("question") or "")}, fields))
    found = load_items("short", items, Prompt(load_template("plain")), counts)
    return replace(found, template=None)


def _answers(row: Row) -> tuple[str, ...]:
    value = row.get("answers", row.get("answer"))
    if isinstance(value, list | tuple):
        return tuple(map(str, value))
    return () if value is None else (str(value),)


def _plain(text: str) -> str:
    return " ".join(nfkc(text).casefold().split()).rstrip(".。").strip()


# -- what it will cost

PROMPT, RATING, ANSWER, QUESTION = 900, 130, 300, 50
"""About how many tokens a judge's prompt of ours, a reply with a rating, an answer and a question have."""


def expected(
    task: str, options: Any, settings: Any, given: int | None, tokens: float | None
) -> list[Expected]:
    """Who is called how often, with how many tokens sent and made a call."""
    written = given is None
    if given is None:
        given, tokens = options.questions, sum(asking(settings, options).context_tokens) / 2
    count, context = given, tokens or 0.0
    answer = min(ANSWER, settings.answer_tokens(ANSWER_TOKENS))
    samples = settings.samples if task == "reward" and not settings.answers else 1
    asked, both = context + QUESTION, PROMPT + QUESTION + answer
    found = [Expected("model", 0 if settings.answers else count, asked, float(samples * answer))]
    statements = max(1, round(answer / STATEMENT))
    passages = min(context, options.top_chunks * options.chunk_tokens)
    support = [
        Expected("judge", count * samples, both, 1.3 * answer),
        Expected("judge", count * samples * statements, PROMPT + STATEMENT + passages, REPLY["support"]),
    ]
    if task == "reward":
        if written:
            found.append(Expected("writer", count, TASK_PROMPT + context, TASK_REPLY))
        parts = max(1, -(-round(context) // options.extract_tokens))
        found += [Expected("judge", 3 * count * samples, both, RATING), *support]
        found.append(Expected("judge", count * parts, PROMPT + context / parts, REPLY["extract"]))
    elif task == "versus":
        if settings.against and not Path(settings.against).expanduser().is_file():
            found.append(Expected("other", count, asked, answer))
        found.append(Expected("judge", 2 * len(CRITERIA) * count, both + answer + 2 * passages, RATING))
    elif task == "support":
        found += support
    else:
        found.append(Expected("judge", count, both + answer, RATING))
    return found


# -- the tasks

CHAT_TASK = _rated("chat", "how close an answer is to a person's, 1 to 10, by a judge")
QA_TASK = _rated("qa", "whether a short answer is wrong, partly right or right, by a judge")
SUMMARY_TASK = _rated("summary", "how good a summary is, 1 to 5 as 0 to 1, by a judge")
REWARD_TASK = Task(
    name="reward",
    summary="the mean reward of sampled answers on four dimensions, 0 to 10, by a judge",
    family="reward",
    samples=made_samples("reward"),
    options=RewardOptions,
    view="table",
    judge=judge_reward,
    score=lambda row: row.get("reward"),
    scale=(0.0, HIGHEST),
    row_fields=("answers",),
    max_new_tokens=ANSWER_TOKENS,
    drawn=True,
    writes=True,
    summarize=reward_numbers,
    expect=partial(expected, "reward"),
)
SUPPORT_TASK = Task(
    name="support",
    summary="the share of an answer's statements that its context supports, by a judge",
    family="support",
    also=("chat",),
    samples=samples_of(
        "support", needs_reference=False, hint="--set eval.data.support=FILE of rows with context and query"
    ),
    options=JudgedOptions,
    view="table",
    judge=judge_support,
    score=supported,
    weight=statements_of,
    row_fields=("answers",),
    max_new_tokens=ANSWER_TOKENS,
    summarize=support_numbers,
    expect=partial(expected, "support"),
)
VERSUS_TASK = Task(
    name="versus",
    summary="which of two models answers better in four respects, by a judge in both orders",
    family="versus",
    also=("chat", "reward"),
    samples=made_samples("versus"),
    options=RewardOptions,
    view="table",
    judge=judge_versus,
    score=lambda row: POINTS.get(str(row.get("overall"))),
    row_fields=("answers",),
    max_new_tokens=ANSWER_TOKENS,
    against=True,
    writes=True,
    summarize=versus_numbers,
    expect=partial(expected, "versus"),
)
SHORT_TASK = Task(
    name="short",
    summary="saved predictions of short tasks, by a metric",
    family="short",
    samples=short_samples,
    options=TaskOptions,
    view="table",
    score=short_score,
    row_fields=("answers", "dataset", "metric"),
    groups=("dataset",),
    answered=True,
)
