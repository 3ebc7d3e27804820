"""The items that two results share: rows of predictions paired by what names the same question in both."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lcx.errors import LcxError
from lcx.evaluation.found_results import Result
from lcx.evaluation.offline import read_rows
from lcx.paths import slug

__all__ = ["NotComparable", "Pair", "Pairing", "load_rows", "pair_rows"]

Row = Mapping[str, Any]

ASKED = (
    *("question", "query", "input", "answers", "references", "value", "values", "label", "description"),
    *("sentence", "function", "name", "candidates", "id"),
)
"""Fields that say what was asked and what is right: they are alike in two rows of the same item."""


class NotComparable(Exception):
    """Why a task of two results cannot be compared."""


@dataclass(frozen=True)
class Pair:
    """An item that both answered: its two scores, the context that it asks about, and its row of the first."""

    key: Hashable
    a: float
    b: float
    context: Hashable
    row: Row


@dataclass(frozen=True)
class Pairing:
    """Pairs, and how many items have none: in one result only, without a score in either, asked otherwise.

    `by` says what paired them.
    """

    pairs: tuple[Pair, ...]
    only_a: int
    only_b: int
    unscored: int
    changed: int
    by: str


def load_rows(result: Result, task: str) -> list[dict[str, Any]]:
    """The rows of a task's predictions, each with a `score`. Raises NotComparable where they cannot be had."""
    path = result.folder / f"predictions-{slug(task)}.jsonl"
    if not path.is_file():
        raise NotComparable(f"there is no {path.name} in {result.folder}")
    try:
        rows = read_rows(path)
    except LcxError as bad:
        raise NotComparable(f"{bad.what}. {bad.why}".strip()) from None
    if not rows:
        raise NotComparable(f"{path} is empty")
    if any("score" in row or "reward" in row for row in rows):
        return [{**row, "score": _number(row.get("score", row.get("reward")))} for row in rows]
    return _scored(result, task, rows)


def _scored(result: Result, task: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows that were saved without scores, scored by their task."""
    from lcx.evaluation.offline import score_rows
    from lcx.plugins import loaded

    try:
        known = loaded().probes
        known.get(task)
        what = known.load(task)
        if what.reads or not all("pred" in row for row in rows):
            raise NotComparable(f"its rows in {result.folder} have no scores")
        _, values = score_rows(what, rows)
    except LcxError as bad:
        raise NotComparable(f"its rows in {result.folder} have no scores, and {bad.what}") from None
    return [{**row, "score": _number(value)} for row, value in zip(rows, values, strict=True)]


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and value == value
    return float(value) if known else None


def _place(row: Row) -> Hashable | None:
    if row.get("set_id") is None or row.get("position_id") is None:
        return None
    return json.dumps([row["set_id"], row["position_id"], row.get("length"), row.get("depth")])


KEYS: tuple[tuple[str, Callable[[Row], Hashable | None]], ...] = (
    ("item", lambda row: None if row.get("item") is None else json.dumps(row["item"])),
    ("set and position", _place),
    ("id", lambda row: None if row.get("id") is None else json.dumps(row["id"])),
)
"""What may name an item, the surest first; where rows have none of these, it is their number in the file."""


def pair_rows(a: Sequence[Row], b: Sequence[Row]) -> Pairing:
    """Pair the rows of two results. Raises NotComparable where they share no item, or were asked different things.

    Several rows of one item (samples) count by their mean. Items that are named alike but asked otherwise are left
    out where the names are of their own (`item`, `id`); where only places name them, nothing is compared.
    """
    tried = []
    for by, key in KEYS:
        names_a, names_b = [key(row) for row in a], [key(row) for row in b]
        if any(name is None for name in (*names_a, *names_b)):
            continue
        found = _paired(a, names_a, b, names_b, by)
        if found.pairs:
            if found.changed and by == "set and position":
                raise NotComparable(
                    f"they were asked different things: {found.changed} of "
                    f"{found.changed + len(found.pairs)} places have another question or answer"
                )
            return found
        tried.append(found)
    if not tried:
        if len(a) != len(b):
            raise NotComparable(
                f"rows have no names to pair them by, and there are {len(a)} and {len(b)} of them"
            )
        found = _paired(a, list(range(len(a))), b, list(range(len(b))), "row number")
        if found.pairs and not found.changed:
            return found
        tried.append(found)
    if any(found.changed for found in tried):
        raise NotComparable("they were asked different things: no item has the same question in both")
    if any(found.unscored for found in tried):
        raise NotComparable("no item has a score in both")
    raise NotComparable("they share no item: other data, another seed, or another sample")


def _paired(
    a: Sequence[Row], names_a: Sequence[Hashable], b: Sequence[Row], names_b: Sequence[Hashable], by: str
) -> Pairing:
    rows_a, rows_b = _grouped(a, names_a), _grouped(b, names_b)
    shared = [name for name in rows_a if name in rows_b]
    pairs, changed, unscored = [], 0, 0
    for name in shared:
        row, other = rows_a[name][0], rows_b[name][0]
        if any(row[field] != other[field] for field in ASKED if field in row and field in other):
            changed += 1
            continue
        mean_a, mean_b = _mean(rows_a[name]), _mean(rows_b[name])
        if mean_a is None or mean_b is None:
            unscored += 1
        else:
            pairs.append(Pair(name, mean_a, mean_b, _context(row, name), row))
    only_a, only_b = len(rows_a) - len(shared), len(rows_b) - len(shared)
    return Pairing(tuple(pairs), only_a, only_b, unscored, changed, by)


def _grouped(rows: Sequence[Row], names: Sequence[Hashable]) -> dict[Hashable, list[Row]]:
    found: dict[Hashable, list[Row]] = {}
    for row, name in zip(rows, names, strict=True):
        found.setdefault(name, []).append(row)
    return found


def _mean(rows: Sequence[Row]) -> float | None:
    known = [row["score"] for row in rows if row["score"] is not None]
    return sum(known) / len(known) if known else None


def _context(row: Row, name: Hashable) -> Hashable:
    """What names the context of an item; an item that does not say stands for a context of its own."""
    for field in ("context", "context_id"):
        if isinstance(row.get(field), str | int) and len(str(row[field])) < 1000:  # `context` may be the text
            return str(row[field])
    return json.dumps([row["set_id"], row.get("length")]) if row.get("set_id") is not None else name
