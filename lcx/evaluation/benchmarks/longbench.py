"""LongBench and LongBench-E (Bai et al., 2308.14508); `SET` and `SET_e` are attributes of this module.

The data is published at huggingface.co/datasets/zai-org/LongBench (`data.zip`: SET.jsonl, and SET_e.jsonl for E). Rows
have context, input (empty where the whole set asks for one thing), answers, length in words (Chinese: characters),
all_classes, language, dataset, _id. What kind of task each set is, how it is scored and how long an answer may be are
facts of the benchmark and its published configuration.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lcx.errors import UsageError
from lcx.evaluation import metrics
from lcx.evaluation.benchmarks.groups import BY_CATEGORY, E_NAMES
from lcx.evaluation.benchmarks.loading import (
    Item,
    Published,
    load_items,
    load_prompts,
    prompt_of,
    read_source,
)
from lcx.evaluation.metrics import BACKEND, Metric
from lcx.evaluation.task import Samples, Source, Task, TaskOptions
from lcx.evaluation.text_metrics import first_line, first_paragraph

__all__ = ["E_SETS", "SETS", "LongBenchSet", "task_of"]

# ---- sets


@dataclass(frozen=True)
class LongBenchSet:
    """One set. `tokens` is the length of an answer, `rows` how many questions are published.

    `first_line`: only the first line of a prediction counts. `chat` is off where a model only continues a text.
    """

    name: str
    metric: Metric
    tokens: int
    language: str = "en"
    rows: int = 200
    first_line: bool = False
    chat: bool = True

    @property
    def category(self) -> str:
        return next(category for category, names in BY_CATEGORY.items() if self.name in names)

    @property
    def qa(self) -> bool:
        """Whether FILM scores the first paragraph of a prediction only."""
        return self.metric is metrics.f1

    @property
    def needs_classes(self) -> bool:
        return self.metric is metrics.classification

    @property
    def published(self) -> Metric:
        """The metric as the published code computes it."""
        return metrics.PUBLISHED.get(self.metric, self.metric)


def _shots(name: str, metric: Metric, tokens: int, language: str = "en") -> LongBenchSet:
    """A set whose context is a row of examples: the model continues it, and goes on with more of them."""
    return LongBenchSet(name, metric, tokens, language, first_line=True, chat=False)


_ALL = (
    LongBenchSet("narrativeqa", metrics.f1, 128),
    LongBenchSet("qasper", metrics.f1, 128),
    LongBenchSet("multifieldqa_en", metrics.f1, 64, rows=150),
    LongBenchSet("multifieldqa_zh", metrics.f1_zh, 64, "zh"),
    LongBenchSet("hotpotqa", metrics.f1, 32),
    LongBenchSet("2wikimqa", metrics.f1, 32),
    LongBenchSet("musique", metrics.f1, 32),
    LongBenchSet("dureader", metrics.rouge_l_zh, 128, "zh"),
    LongBenchSet("gov_report", metrics.rouge_l, 512),
    LongBenchSet("qmsum", metrics.rouge_l, 512),
    LongBenchSet("multi_news", metrics.rouge_l, 512),
    LongBenchSet("vcsum", metrics.rouge_l_zh, 512, "zh"),
    _shots("trec", metrics.classification, 64),
    _shots("triviaqa", metrics.f1, 32),
    _shots("samsum", metrics.rouge_l, 128),
    _shots("lsht", metrics.classification, 64, "zh"),
    LongBenchSet("passage_count", metrics.count, 32),
    LongBenchSet("passage_retrieval_en", metrics.retrieval, 32),
    LongBenchSet("passage_retrieval_zh", metrics.retrieval_zh, 32, "zh"),
    LongBenchSet("lcc", metrics.code_similarity, 64, "code", rows=500, chat=False),
    LongBenchSet("repobench-p", metrics.code_similarity, 64, "code", rows=500, chat=False),
)
SETS: Mapping[str, LongBenchSet] = {one.name: one for one in _ALL}
"""All 21 by name, in the order of the paper's tables."""
E_SETS: Mapping[str, LongBenchSet] = {name: SETS[name] for name in E_NAMES}


# ---- the benchmark

Row = Mapping[str, Any]

GETS = (
    "hf download zai-org/LongBench data.zip --repo-type dataset --local-dir longbench"
    " && unzip -q longbench/data.zip -d longbench"
)
PLACE = "longbench/data"
KEPT = ("length", "language")


def __getattr__(name: str) -> Task:
    """The task of a set by its name, with `_e` for the one of LongBench-E, as the registry asks for it."""
    plain = name.removesuffix("_e")
    if name in SETS:
        return task_of(name, False)
    if name.endswith("_e") and plain in E_SETS:
        return task_of(plain, True)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def task_of(name: str, e: bool) -> Task:
    """The task of a set, or of its counterpart in LongBench-E."""
    one = SETS[name]
    family = "longbench_e" if e else "longbench"
    info: dict[str, Any] = {"metric": one.metric.__name__}
    if one.metric is metrics.code_similarity:
        info["similarity"] = BACKEND
    if not e:
        info["published_rows"] = one.rows
    return Task(
        name=f"{family}:{name}",
        summary=f"{one.category}: {one.metric.__name__}, {one.language}",
        family=family,
        samples=functools.partial(_load, one, family),
        options=TaskOptions,
        view="table",
        score=_scorer(one, one.metric),
        row_fields=("answers", *(["all_classes"] if one.needs_classes else []), *(["length"] if e else [])),
        compat={
            "longbench": _scorer(one, one.published, published=True),
            "film": _scorer(one, one.published, paragraph=one.qa, published=True),
        },
        groups=("length",),
        max_new_tokens=one.tokens,
        fields=_fields,
        digits=2,
        info=info,
    )


def _scorer(
    one: LongBenchSet, metric: Metric, *, paragraph: bool = False, published: bool = False
) -> Callable[[Row], float | None]:
    """How a row is scored: by which part of its prediction. A row without answers is a 0 in the published scores."""

    def score(row: Row) -> float | None:
        pred = first_line(row["pred"]) if one.first_line else row["pred"]
        value = metric(first_paragraph(pred) if paragraph else pred, row)
        return 0.0 if value is None and published else value

    return score


def _fields(row: Row) -> dict[str, Any]:
    """The fields of a published row that a prediction is scored by."""
    found: dict[str, Any] = {}
    value = row.get("answers", row.get("answer"))
    if value is not None:
        many = value if isinstance(value, list | tuple) else [value]
        found["answers"] = [
            str(one) if isinstance(one, int | float) and not isinstance(one, bool) else one for one in many
        ]
    return found


def _load(one: LongBenchSet, family: str, source: Source, options: TaskOptions) -> Samples:
    """The set's questions. Raises MissingError with the line that gets them where they are not there."""
    e = family == "longbench_e"
    task = f"{family}:{one.name}"
    name = f"{one.name}_e" if e else one.name
    published = Published(
        task, family, (name,), GETS, PLACE, dataset=(one.name, f"{one.name}_e"), config=name
    )
    rows = read_source(published, source.data)
    prompts = load_prompts("longbench", source.prompts)
    prompt = prompt_of(prompts, one.name, "longbench", source.prompts, chat=one.chat)
    counts: Counter[str] = Counter()
    items = []
    for number, row in enumerate(rows):
        where = f"{source.data}, row {number} (counted from 0)"
        context, asked = row.get("context"), row.get("input")
        if not isinstance(context, str) or not isinstance(asked, str | None):
            raise UsageError(
                f"{where}: {task} needs the texts context and input", why=f"It has {', '.join(row)}."
            )
        fields = _fields(row)
        if not fields.get("answers"):
            counts["no answer"] += 1
            continue
        if one.needs_classes:
            if not row.get("all_classes"):
                raise UsageError(f"{where}: {task} needs all_classes, the labels to choose from")
            fields["all_classes"] = list(row["all_classes"])
        fields |= {key: row[key] for key in KEPT if row.get(key) is not None}
        items.append(Item(str(row.get("_id", number)), context, {"input": asked or ""}, fields))
    return load_items(task, items, prompt, counts)
