"""Tasks for tests: by name, built from documents with options, and the scores of rows by a task's name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lcx.evaluation import offline
from lcx.evaluation.task import Samples, Source, Task, options_of
from lcx.plugins import CORE, loaded
from lcx.records import Branch, Document

SOURCE = ("tokenize", "opening", "prompt_tokens", "window")
"""What belongs to the model, among what `build` is given."""


def task(name: str | Task) -> Task:
    if isinstance(name, Task):
        return name
    found: Task = loaded().probes.load(name)
    return found


def probes() -> dict[str, Task]:
    """The core's tasks that are made from a corpus, by name."""
    known = loaded().probes
    found = {name: task(name) for name in known.names() if known.owner(name) == CORE}
    return {name: one for name, one in found.items() if not one.published}


def build(name: str | Task, documents: Iterable[Document], seed: int = 0, **given: Any) -> list[Any]:
    """The samples of a task: `given` are its options, and what counts tokens (`count` where numbers will do)."""
    one = task(name)
    count = given.pop("count", None)
    if count is not None:
        given["tokenize"] = lambda text: range(count(text))
    source = Source(documents, seed, **{key: given.pop(key) for key in SOURCE if key in given})
    made = one.samples(source, options_of(one, given))
    return list(made.bundles if isinstance(made, Samples) else made)


def score_predictions(name: str | Task, *rows: Any, **more: Any) -> dict[str, Any]:
    return offline.score_predictions(task(name), *rows, **more)


def score_rows(name: str | Task, *rows: Any, **more: Any) -> tuple[dict[str, Any], list[float | None]]:
    return offline.score_rows(task(name), *rows, **more)


def row_of(branch: Branch, pred: str | None) -> dict[str, Any]:
    """The row of predictions for a query branch: its place, question, reference and prediction."""
    meta = dict(branch.meta)
    return {"set_id": meta.pop("set"), "position_id": meta.pop("position"), **meta, "pred": pred}
