"""Score a file of probe predictions: this tool's own, or one that another evaluation wrote.

Rows are JSON objects. Every row has `set_id` and `position_id` (whole numbers from 0), `pred` (text, or null
where the model gave none), and the fields of its task:

| task | fields | ambiguous where two rows of a set share |
|---|---|---|
| `val:document` | `answer` (or `sentence`): the whole sentence | `query`, if given |
| `val:code` | `name` (or `function`) | `query`, if given |
| `val:database` | `id`, `label`, `description` | `id` |

`match: "word"` in a row of `val:code` or `val:database` asks for whole words instead of a mere substring.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lcx.errors import UsageError
from lcx.evaluation.probes import Probe, get_probe
from lcx.evaluation.spans import Compat, span_curve

__all__ = ["read_rows", "score_predictions"]


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a JSON Lines file, without blank lines. Raises UsageError naming a broken line."""
    rows = []
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as bad:
        raise UsageError(f"cannot read the predictions in {path}", why=str(bad)) from None
    # Split at newlines only: str.splitlines would also cut at separators that JSON allows inside a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as bad:
            raise UsageError(f"{path}, line {number}: not JSON", why=str(bad)) from None
        if not isinstance(row, dict):
            raise UsageError(f"{path}, line {number}: a row is a JSON object, not {type(row).__name__}")
        rows.append(row)
    return rows


def score_predictions(
    task: str | Probe,
    rows: Iterable[Mapping[str, Any]] | str | Path,
    compat: Compat | None = None,
    *,
    span: int = 50,
    positions: int | None = None,
) -> dict[str, Any]:
    """Score `rows` (or a JSON Lines file) of a probe and return one JSON object.

    `spans`, `average` and `gap` are fractions, `score` is the average in percent; `n` rows were scored,
    `nulls` had no prediction and `skipped` had an ambiguous key. A null prediction scores 0; with
    `compat="film"` it is left out, as is the last position of every span. Raises UsageError naming a row that
    lacks a field.
    """
    probe = task if isinstance(task, Probe) else get_probe(task)
    task = probe.name
    if compat not in (None, "film"):
        raise UsageError(
            f"there is no compat mode '{compat}' for {task}", hint="Leave it out, or say 'film'."
        )
    where = f"{rows}, row" if isinstance(rows, (str, Path)) else "row"
    given = read_rows(rows) if isinstance(rows, (str, Path)) else rows
    checked = [_check(probe, row, f"{where} {number}") for number, row in enumerate(given)]
    if not checked:
        raise UsageError(
            f"there are no {task} predictions to score", why="" if where == "row" else f"In {rows}."
        )

    key_field = probe.key_field or ""
    keys = Counter((row["set_id"], row[key_field]) for row in checked if row.get(key_field))
    score = probe.compat if compat == "film" and probe.compat else probe.score
    nulls = skipped = 0
    scored: list[tuple[int, int, float]] = []
    for row in checked:
        place = (row["set_id"], row["position_id"])
        if row.get("skip") or keys[row["set_id"], row.get(key_field)] > 1:
            skipped += 1
        elif row["pred"] is None:
            nulls += 1
            if compat is None:
                scored.append((*place, 0.0))
        else:
            value = score(row)
            if value is None:
                skipped += 1
            else:
                scored.append((*place, value))
    length = max(row["position_id"] for row in checked) + 1
    curve = span_curve(scored, width=span, positions=max(length, positions or 0), compat=compat)
    return {
        "task": task,
        "n": sum(curve.counts),
        "score": None if curve.average is None else 100 * curve.average,
        "nulls": nulls,
        "skipped": skipped,
        "compat": compat,
        **curve.as_dict(),
    }


def _check(probe: Probe, row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The row with its fields under their own names. Raises UsageError where one is missing or wrong."""
    row = dict(row)
    for other, name in (probe.aliases or {}).items():
        if name not in row and other in row:
            row[name] = row[other]
    missing = [name for name in ("set_id", "position_id", "pred", *probe.row_fields) if name not in row]
    if missing:
        has = ", ".join(sorted(row))
        raise UsageError(
            f"{where} (counted from 0): {probe.name} needs the field '{missing[0]}'", why=f"It has {has}."
        )
    for name in ("set_id", "position_id"):
        value = row[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise UsageError(f"{where} (counted from 0): '{name}' is a whole number from 0, not {value!r}")
    texts = [name for name in probe.row_fields if not isinstance(row[name], str)]
    texts += [n for n in ("pred", probe.key_field) if n and not isinstance(row.get(n), str | None)]
    if texts:
        raise UsageError(f"{where} (counted from 0): '{texts[0]}' is text, not {row[texts[0]]!r}")
    return row
