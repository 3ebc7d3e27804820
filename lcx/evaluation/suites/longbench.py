"""LongBench and LongBench-E (Bai et al., 2308.14508) as suites: `SET` and `SET_e` are attributes of this module.

The data is published at huggingface.co/datasets/zai-org/LongBench (`data.zip`: SET.jsonl, and SET_e.jsonl for E). Rows
have context, input (empty where the whole set asks for one thing), answers, length in words (Chinese: characters),
all_classes, language, dataset, _id.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from lcx.errors import UsageError
from lcx.evaluation import metrics
from lcx.evaluation.metrics import BACKEND, Metric
from lcx.evaluation.probes import Loaded, Suite, SuiteOptions
from lcx.evaluation.suites.building import Item, load_items
from lcx.evaluation.suites.data import Source, read_source
from lcx.evaluation.suites.prompts import load_prompts, prompt_of
from lcx.evaluation.suites.sets import E_SETS, SETS, LongBenchSet
from lcx.evaluation.text_metrics import first_line, first_paragraph

__all__ = ["suite"]

Row = Mapping[str, Any]

GETS = (
    "hf download zai-org/LongBench data.zip --repo-type dataset --local-dir longbench"
    " && unzip -q longbench/data.zip -d longbench"
)
PLACE = "longbench/data"
KEPT = ("length", "language")


def __getattr__(name: str) -> Suite:
    """The suite of a set by its name, with `_e` for the one of LongBench-E, as the registry asks for it."""
    plain = name.removesuffix("_e")
    if name in SETS:
        return suite(name, False)
    if name.endswith("_e") and plain in E_SETS:
        return suite(plain, True)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def suite(name: str, e: bool) -> Suite:
    """The suite of a set, or of its counterpart in LongBench-E."""
    one = SETS[name]
    family = "longbench_e" if e else "longbench"
    info: dict[str, Any] = {"metric": one.metric.__name__}
    if one.metric is metrics.code_similarity:
        info["similarity"] = BACKEND
    if not e:
        info["published_rows"] = one.rows
    return Suite(
        name=f"{family}:{name}",
        summary=f"{one.category}: {one.metric.__name__}, {one.language}",
        family=family,
        load=functools.partial(_load, one, family),
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


def _load(one: LongBenchSet, family: str, options: SuiteOptions) -> Loaded:
    """The set's questions. Raises MissingError with the line that gets them where they are not there."""
    e = family == "longbench_e"
    task = f"{family}:{one.name}"
    name = f"{one.name}_e" if e else one.name
    source = Source(task, family, (name,), GETS, PLACE, dataset=(one.name, f"{one.name}_e"), config=name)
    rows = read_source(source, options.data)
    prompts = load_prompts("longbench", options.prompts)
    prompt = prompt_of(prompts, one.name, "longbench", options.prompts, chat=one.chat)
    counts: Counter[str] = Counter()
    items = []
    for number, row in enumerate(rows):
        where = f"{options.data}, row {number} (counted from 0)"
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
    return load_items(task, items, prompt, options, counts)
