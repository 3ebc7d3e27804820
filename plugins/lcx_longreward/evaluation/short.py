"""The short task: saved predictions of short tasks scored by a metric, so that before and after can be compared.

It is a seam: `METRIC:FILE`, where METRIC is `exact`, `contains`, or what a plugin registers by `lcx_register_metrics`,
a callable of (prediction, row) that returns a number from 0 to 1, or None to leave the row out.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lcx import plugins
from lcx.data.files import strict_rows
from lcx.errors import MissingError, UsageError
from lcx_longreward.eval_settings import LongRewardEval
from lcx_longreward.evaluation.data import Item, digest_of
from lcx_longreward.evaluation.desk import Desk
from lcx_longreward.evaluation.results import Result, base_row, spread

TASK = "short"

Metric = Callable[[str, Mapping[str, Any]], float | None]


def exact(prediction: str, row: Mapping[str, Any]) -> float:
    """1 where the prediction is an answer, but for case, blanks and a full stop at its end."""
    return float(_plain(prediction) in {_plain(text) for text in _answers(row)})


def contains(prediction: str, row: Mapping[str, Any]) -> float:
    """1 where the prediction holds an answer."""
    return float(any(_plain(text) in _plain(prediction) for text in _answers(row) if _plain(text)))


OWN: Mapping[str, Metric] = {"exact": exact, "contains": contains}


def lacking(settings: LongRewardEval) -> str:
    """What a `METRIC:FILE` lacks, in one sentence; empty where all are there."""
    for one in settings.short:
        name, _, path = one.partition(":")
        if name not in OWN and name not in plugins.loaded().metrics:
            known = ", ".join([*OWN, *plugins.loaded().metrics.names()])
            return f"no metric '{name}' (known: {known}); a plugin registers one by lcx_register_metrics"
        if not Path(path).expanduser().is_file():
            return f"no file '{path}' for {name}: JSONL rows with pred and answer"
    return ""


def short_results(desk: Desk) -> list[Result]:
    """One result a `METRIC:FILE`, named `short:FILE`. Raises as `lacking` says."""
    if why := lacking(desk.settings):
        raise MissingError(f"short: {why}")
    return [_result(desk, one) for one in desk.settings.short]


def _result(desk: Desk, spec: str) -> Result:
    name, _, path = spec.partition(":")
    metric: Metric = OWN[name] if name in OWN else plugins.loaded().metrics.load(name)
    file = Path(path).expanduser()
    items, rows, nulls = [], [], 0
    for number, given in enumerate(strict_rows(file), 1):
        if not isinstance(given, Mapping) or "pred" not in given or not _answers(given):
            raise UsageError(f"{file}, row {number}: short needs pred and answer")
        item = Item(
            str(given.get("id", f"{number:05d}")), "", str(given.get("question") or ""), _answers(given)
        )
        items.append(item)
        nulls += given["pred"] is None
        text = str(given["pred"] or "")
        rows.append(base_row(item, 0, text, {}) | {"score": metric(text, given), "context_id": item.id})
    scores = [row["score"] for row in rows]
    total = {
        "task": TASK,
        "metric": name,
        **desk.statistics.mean(scores, [row["context_id"] for row in rows]).as_dict(),
        "nulls": nulls,
        "failed": {"left out by the metric": scores.count(None)} if None in scores else {},
        **spread(scores, 0.0, 1.0),
        "data": digest_of(items),
    }
    return Result(f"{TASK}:{file.stem}", total, rows)


def _answers(row: Mapping[str, Any]) -> tuple[str, ...]:
    value = row.get("answers", row.get("answer"))
    return (
        tuple(map(str, value)) if isinstance(value, list | tuple) else () if value is None else (str(value),)
    )


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(".。").strip()
