"""Published rows for the tests of suites: making them, loading them, and the prompts they become."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lcx.evaluation.task import Samples, Source, Task, TaskOptions
from lcx.plugins import loaded


def suite(name: str) -> Task:
    found: Task = loaded().probes.load(name)
    return found


def load(name: str, data: Path | str | None, **source: Any) -> Samples:
    given = Source(data=None if data is None else str(data), **source)
    made = suite(name).samples(given, TaskOptions())
    assert isinstance(made, Samples)
    return made


def published(number: int, context: str = "The sky is blue.", **more: Any) -> dict[str, Any]:
    return {
        "input": f"Question {number}?",
        "context": context,
        "answers": ["blue"],
        "length": 4,
        "dataset": "qasper",
        "language": "en",
        "all_classes": None,
        "_id": f"id{number}",
        **more,
    }


def write(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def prompts_of(one: Samples) -> list[str]:
    """The whole prompts as a model without a chat template reads them."""
    form = one.template
    assert form is not None
    return [
        form.head + (bundle.context or "") + form.between + branch.question + form.after
        for bundle in one.bundles
        for branch in bundle.branches
    ]
