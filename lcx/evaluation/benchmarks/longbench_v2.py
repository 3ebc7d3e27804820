"""LongBench v2 (Bai et al., 2412.15204) as a task: 503 multiple-choice questions, by length and difficulty.

Published at huggingface.co/datasets/zai-org/LongBench-v2 (`data.json`). Rows have _id, domain, sub_domain, difficulty
(easy, hard), length (short, medium, long), question, choice_A to choice_D, answer (a letter), context.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from lcx.errors import UsageError
from lcx.evaluation import metrics
from lcx.evaluation.benchmarks.loading import (
    Item,
    Prompt,
    Published,
    load_items,
    load_prompts,
    prompt_of,
    read_source,
    split_prompt,
)
from lcx.evaluation.task import Samples, Source, Task, TaskOptions

__all__ = ["LONGBENCH_V2"]

Row = Mapping[str, Any]

NAME = "longbench_v2"
PUBLISHED = Published(
    NAME,
    NAME,
    ("data", "longbench_v2", "LongBench-v2", "train"),
    "hf download zai-org/LongBench-v2 data.json --repo-type dataset --local-dir longbench_v2",
    "longbench_v2/data.json",
    split="train",
)
QUESTION = "{question}\n(A) {A}\n(B) {B}\n(C) {C}\n(D) {D}"
NEEDED = ("context", "question", "choice_A", "choice_B", "choice_C", "choice_D", "answer")
GROUPS = ("length", "difficulty", "domain")
_PLACES = {"$DOC$": "{context}", "$Q$": "{question}"} | {f"$C_{one}$": f"{{{one}}}" for one in "ABCD"}


def _fields(row: Row) -> dict[str, Any]:
    """The fields of a published row that a prediction is scored by."""
    value = row.get("answers", row.get("answer"))
    if value is None:
        return {}
    return {"answers": list(value) if isinstance(value, list | tuple) else [value]}


def _prompt(source: Source) -> Prompt:
    """Ours or the user's; a text file may use the places of the published ones ($DOC$, $Q$, $C_A$ to $C_D$)."""
    prompts = load_prompts(NAME, source.prompts)
    text = prompts.get(NAME)
    if not isinstance(text, str) or "$DOC$" not in text:
        found = prompt_of(prompts, NAME, NAME, source.prompts, chat=True)
        return Prompt(found.template, found.question.replace("{input}", QUESTION), found.inside)
    for theirs, ours in _PLACES.items():
        text = text.replace(theirs, ours)
    begin, end = text.find("{question}"), text.rfind("{D}")
    if begin < 0 or end < begin:
        raise UsageError(f"the prompt {source.prompts} needs $Q$ and, after it, $C_A$ to $C_D$")
    asked = text[begin : end + len("{D}")]
    return split_prompt(text.replace(asked, "{input}"), NAME, places=asked)


def _load(source: Source, options: TaskOptions) -> Samples:
    """The questions. Raises MissingError with the line that gets them where they are not there."""
    rows = read_source(PUBLISHED, source.data)
    items = []
    for number, row in enumerate(rows):
        lacks = [name for name in NEEDED if not isinstance(row.get(name), str)]
        if lacks:
            raise UsageError(
                f"{source.data}, row {number} (counted from 0): {NAME} needs the text {lacks[0]}",
                why=f"It has {', '.join(row)}.",
            )
        values = {"question": row["question"]} | {one: row[f"choice_{one}"] for one in "ABCD"}
        fields = _fields(row) | {name: row[name] for name in GROUPS if row.get(name) is not None}
        items.append(Item(str(row.get("_id", number)), row["context"], values, fields))
    return load_items(NAME, items, _prompt(source), Counter())


LONGBENCH_V2 = Task(
    name=NAME,
    summary="multiple choice over 8K to 2M words, by length and difficulty",
    family=NAME,
    samples=_load,
    options=TaskOptions,
    view="table",
    score=lambda row: metrics.multiple_choice(row["pred"], row),
    row_fields=("answers",),
    compat={"longbench": lambda row: metrics.multiple_choice_as_published(row["pred"], row)},
    groups=GROUPS,
    max_new_tokens=128,
    fields=_fields,
    digits=1,
    info={"metric": "multiple_choice", "published_rows": 503},
)
