"""What a task of an evaluation is: one declaration for probes, benchmarks, perplexity and judged tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lcx.evaluation.settings import Numbers, Style
from lcx.llm.prompts import visible
from lcx.records import Bundle, Document
from lcx.settings import Settings, setting, validate

if TYPE_CHECKING:
    from lcx.data.templates import Template
    from lcx.steps import StepWork

__all__ = [
    "GREEDY",
    "AskJudge",
    "Case",
    "Expected",
    "GridOptions",
    "LengthOptions",
    "Numbers",
    "ProbeOptions",
    "Row",
    "Samples",
    "Sampling",
    "Score",
    "Scored",
    "Source",
    "Style",
    "Task",
    "TaskOptions",
    "TextSample",
    "options_of",
    "said",
]

Row = Mapping[str, Any]
"""A row of predictions: what was asked, what the model said (`pred`), and the fields that its task is scored by."""

Score = Callable[[Row], float | None]
"""The score of one row between 0 and 1; None leaves the row out. It is called for rows whose `pred` is a text."""

Scored = tuple[Row, float | None]
"""A row and its score; None where the row does not count."""


# ---- options


class TaskOptions(Settings):
    """Base of a task's options. Unknown ones are refused with a suggestion; texts that read as the type will do.

    They are set by task, `--set eval.options.TASK.NAME=VALUE`, in the YAML file of a sized probe, or for all tasks
    that have them by the settings of the same name (`eval.sets`, `eval.lengths`, ...).
    """


class ProbeOptions(TaskOptions):
    """Options of every probe that is made from a corpus."""

    sets: int = setting(4, ge=1, description="contexts, or contexts of each length")
    style: Style = setting("natural", description="natural: questions in words; bare: only the key (tiny)")


class LengthOptions(ProbeOptions):
    """Options of a probe whose contexts have given lengths."""

    lengths: Numbers = setting(
        (),
        description="tokens of the prompts, answer included; by default four powers of two up to the window",
    )


class GridOptions(LengthOptions):
    """Options of a probe that asks at every depth of contexts of several lengths."""

    depths: int = setting(10, ge=1, le=100, description="depths of the grid")
    records: Numbers = setting((16, 32, 64), description="lengths in records, in style bare")


def options_of(task: Task, values: Mapping[str, Any], shared: Mapping[str, Any] | None = None) -> Any:
    """The options of a task: `values`, else those of `shared` that the task has, else its defaults.

    Raises UsageError naming a bad or unknown one, with a suggestion.
    """
    known = {name: value for name, value in (shared or {}).items() if name in task.options.model_fields}
    hint = f"`lcx recipes show probe --describe eval.options.{task.name}` says what it has."
    return validate(task.options, {**known, **values}, where=f"options of {task.name}", hint=hint)


# ---- what a task is made from, and what it makes


@dataclass(frozen=True)
class Source:
    """What the samples of a task are made from.

    A probe takes `documents` of the corpus (an iterator: read no more than is needed) and `seed`; everything it makes
    follows from these and its options. What counts tokens belongs to the model under evaluation: `tokenize` gives a
    text's token ids, `opening` are the tokens that come before any text, `prompt_tokens` says how many tokens a
    bundle's longest prompt takes with its answer, and `window` how many the model can read (None: unknown). A
    benchmark takes `data` (a folder, a file or hf:NAME) and `prompts` (a JSON file of prompts by set) instead; None
    takes what is bundled, where there is anything. `places` are all that the setting `data` names, by family; `work` is
    the step, for a task that has its questions written by a model.
    """

    documents: Iterable[Document] = ()
    seed: int = 0
    tokenize: Callable[[str], Sequence[int]] | None = None
    opening: tuple[int, ...] = ()
    prompt_tokens: Callable[[Bundle], int] | None = None
    window: int | None = None
    data: str | None = None
    prompts: str | None = None
    places: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    work: StepWork[Any] | None = None

    def count_tokens(self, text: str) -> int:
        """How many tokens a text has for the model under evaluation."""
        assert self.tokenize is not None
        return len(self.tokenize(text))


@dataclass(frozen=True)
class TextSample:
    """One text that a task reads: its token ids, and whatever else its result follows from in `meta`."""

    id: str
    ids: tuple[int, ...]
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Samples:
    """The samples of a benchmark, with what belongs to them.

    `template` stands around context and question in place of the step's. `counts` are the rows set aside, by reason;
    `data_hash` is the digest of everything that was loaded, before `limit` chose among it.
    """

    bundles: Sequence[Bundle]
    template: Template | None = None
    counts: Counter[str] = field(default_factory=Counter)
    data_hash: str = ""


# ---- answers that are drawn, and judged


@dataclass(frozen=True)
class Sampling:
    """How many answers a question gets, and how they are drawn; at temperature 0 it is the likeliest one."""

    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0


GREEDY = Sampling()


@dataclass(frozen=True)
class Case:
    """One question about one context, and the rows of its answers, as a judge gets them."""

    context: str
    question: str
    rows: tuple[Row, ...]

    @property
    def answers(self) -> tuple[str, ...]:
        """What the model said in each row."""
        return tuple(said(row) for row in self.rows)


def said(row: Row, field: str = "pred") -> str:
    """What a model said in a row, without its thoughts and the blanks around it."""
    return visible(str(row[field] or "")).strip()


AskJudge = Callable[[Case], Awaitable[tuple[Sequence[Mapping[str, Any]], bool]]]
"""Asks a judge: the fields that it gives to each row, and whether they are settled. What is not is kept out of the
journal, and asked for again when the step goes on."""


@dataclass(frozen=True)
class Expected:
    """Calls that a judged task will make: to whom, how many, and about how many tokens each sends and gets."""

    who: str
    calls: int
    sent: float
    made: float


@dataclass(frozen=True)
class Task:
    """One task: how its samples are made, how a row is scored, and how the result is shown.

    A plugin gives it to the core in the hook `lcx_register_probes`: `register("NAME", "module:TASK")`. A whole task:

        class Options(ProbeOptions):
            words: int = setting(6, ge=2, description="words of a line")

        def samples(source, options):
            ...                                  # Bundles of query branches
            meta = {"set": 0, "position": 3, "query": "line 4", "value": "river", "gold": [[120, 164]]}
            Branch("What is the last word of line 4?", "river", "query", meta=meta)

        LINES = Task("lines", "a line's number -> its last word", samples, score=lambda row: float(row["value"] in
                     row["pred"]), options=Options, row_fields=("query", "value"))

    **Samples.** `samples(source, options)` gives one `Bundle` a context, with a branch of role `query` for each
    question; the same source and options give the same bundles. A branch's `meta` has to carry

    | key | what |
    |---|---|
    | `set`, `position` | whole numbers from 0: which of the contexts (of one length), and the place in it |
    | every name in `row_fields` | a text, `number_fields` a number, `list_fields` a list of texts |
    | `gold` (should) | `[[start, end]]`: the characters of the context that answer the question |
    | `decoy` (may) | a text, or several, that a model misled by the context would name; their share is reported |

    and everything in it is in the row of predictions, where `set` is `set_id` and `position` is `position_id`. A
    bundle's `meta` may have `items` (how many places a context has) and `skipped` (items that could not be asked).

    **Score.** `score(row)` is between 0 and 1; None leaves the row out. The name of a registered metric, a function of
    prediction and row, will do in its place. `compat[mode](row)` is the published scoring
    for `--compat mode`. Two rows of one set with the same `key_field` are ambiguous and left out.

    **Result.** `summarize(scored)`, where given, makes the result of all rows in place of a curve by position; it has
    at least `average` and `gap`. `view` says how it is drawn: curve, grid, lengths, table, perplexity, or another with
    the mean alone. `count(options)` gives contexts and questions as far as options tell them, or None.

    **Benchmarks** have a `family`, their key in the settings `data` and `prompts`. Their `samples` give `Samples`, and
    raise MissingError with the line that gets the data where it is not there. `fields(row)` gives the fields that a
    published row, or a saved one, has under other names. Their scores are broken down by the row fields in `groups`,
    and a published score is rounded to `digits` decimals. `shots`: the context is only examples, the same for all
    questions, so that it says nothing of how alike their answers are. `info` is recorded with the scores.

    **Judges.** A task with `judge` is a benchmark whose rows a judge model reads after all tasks are answered:
    `judge(work, options)` opens what asks it (`lcx.evaluation.judged.rated`, where it is one rubric a row), and every
    row gets the fields that it gives. `failed` in a row says why something is missing, as a text or by part.
    `score(row)` reads those fields, and goes over `scale`; `weight(row)` is what a row counts, or None where that is
    not known; `drawn` tasks get the step's `samples` of each question, a row each. `summarize(scored)` adds to the
    result. What `data` has for the families in `also` serves as well. `against` tasks have a second model's answer in
    `other`. A task that `writes` has a model make its questions where `data` names none.
    `expect(options, settings, questions, tokens)` forecasts calls, by the questions and their mean context in tokens
    (None: not read yet).

    **Saved predictions.** The branches of an `answered` benchmark have their answers in `meta["pred"]`, and no model is
    asked.

    **Texts.** A task with `measure` asks nothing: its `samples` are `TextSample`s, `measure(model, text, on_done)`
    gives the JSON-able result of one (`on_done` is told how many tokens were read each time some were), and
    `summarize_texts(texts, results)` the whole: `n`, and whatever the view draws.
    """

    name: str
    summary: str
    samples: Callable[[Source, Any], Samples | Iterable[Bundle] | Iterable[TextSample]]
    score: Score | str | None = None
    options: type[TaskOptions] = ProbeOptions
    view: str = "curve"
    row_fields: tuple[str, ...] = ()
    number_fields: tuple[str, ...] = ()
    list_fields: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other names that files of predictions use for the fields."""
    key_field: str | None = None
    compat: Mapping[str, Score] = field(default_factory=dict)
    summarize: Callable[[Sequence[Scored]], dict[str, Any]] | None = None
    count: Callable[[Any], tuple[int, int] | None] | None = None
    max_new_tokens: int | None = None
    """Tokens of an answer as published; None takes the step's default."""

    family: str = ""
    fields: Callable[[Row], Mapping[str, Any]] | None = None
    groups: tuple[str, ...] = ()
    digits: int | None = None
    shots: bool = False
    info: Mapping[str, Any] = field(default_factory=dict)

    judge: Callable[[StepWork[Any], Any], AbstractContextManager[AskJudge]] | None = None
    scale: tuple[float, float] = (0.0, 1.0)
    weight: Callable[[Row], float | None] | None = None
    drawn: bool = False
    also: tuple[str, ...] = ()
    against: bool = False
    writes: bool = False
    answered: bool = False
    expect: Callable[[Any, Any, int | None, float | None], Sequence[Expected]] | None = None

    measure: Callable[[Any, TextSample, Callable[[int], None]], dict[str, Any]] | None = None
    summarize_texts: Callable[[Sequence[TextSample], Sequence[Mapping[str, Any]]], dict[str, Any]] | None = (
        None
    )

    @property
    def published(self) -> bool:
        """Whether its questions are published ones, with contexts of their own."""
        return bool(self.family)

    @property
    def judged(self) -> bool:
        """Whether a judge rates the answers."""
        return self.judge is not None

    @property
    def reads(self) -> bool:
        """Whether it reads texts in place of asking questions."""
        return self.measure is not None
