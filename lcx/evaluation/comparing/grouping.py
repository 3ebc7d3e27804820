"""The groups in which items are compared: the whole task, its spans, lengths, depths, difficulties, with weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lcx.evaluation.comparing.pairing import Pair
from lcx.evaluation.offline import length_bucket

__all__ = ["Group", "groups_of", "is_short"]

SHORT = ("csqa", "gsm8k", "mmlu", "short")
SHORT_PREFIXES = ("lm-eval:", "short:", "csqa:", "gsm8k:")
"""Names of tasks with short contexts, which training on long ones must not make worse."""
FIELDS = ("length", "difficulty", "domain", "dataset")
"""Fields of rows by which a table is broken down where its scores do not say."""
FEW = 12
"""Different lengths up to which each is a group, in files of others; more are banded, as in `by`."""
SPAN = 50


@dataclass(frozen=True)
class Group:
    """Some pairs of a task, by their places in the list, and what each weighs. `kind` names the family."""

    kind: str
    name: str
    places: tuple[int, ...]
    weights: tuple[float, ...]


def is_short(task: str) -> bool:
    """Whether a task has short contexts: a guard against regressions, not an aim."""
    return task in SHORT or task.startswith(SHORT_PREFIXES)


def groups_of(task: str, scores: Mapping[str, Any], pairs: Sequence[Pair]) -> list[Group]:
    """The whole task first (kind `task`), then the groups of its view, in their order.

    Pairs weigh as in the task's own mean: in a curve each span, and in it each set, as much as another; in a grid
    each cell; by length each length; else each item.
    """
    view = str(scores.get("view") or "curve")
    rows = [pair.row for pair in pairs]
    if view == "curve" and all(_is_number(row.get("position_id")) and "set_id" in row for row in rows):
        return _curve(task, rows, int(scores.get("span") or SPAN))
    if view == "grid" and all(_is_number(row.get("length")) and _is_number(row.get("depth")) for row in rows):
        cells = [(row["length"], row["depth"]) for row in rows]
        weights = _even(cells)
        lengths = _split("length", [x for x, _ in cells], weights, lambda x: f"{x:,}")
        return [
            _whole(task, weights),
            *lengths,
            *_split("depth", [y for _, y in cells], weights, "{:.0%}".format),
        ]
    if view == "lengths" and all(_is_number(row.get("length")) for row in rows):
        known = [row["length"] for row in rows]
        return [_whole(task, _even(known)), *_split("length", known, [1.0] * len(rows), lambda x: f"{x:,}")]
    found = [_whole(task, [1.0] * len(rows))]
    broken_down = isinstance(scores.get("by"), Mapping)
    for field in scores["by"] if broken_down else FIELDS:
        if all(isinstance(row.get(field), str | int | float) for row in rows):
            values = _values(field, rows, 0 if broken_down else FEW)
            found += _split(field, values, [1.0] * len(rows), str)
    return found


def _curve(task: str, rows: Sequence[Mapping[str, Any]], width: int) -> list[Group]:
    blocks = [(str(row["set_id"]), int(row["position_id"]) // width) for row in rows]
    sets = Counter(span for _, span in set(blocks))
    inside = _even(blocks)
    whole = [weight / sets[span] for weight, (_, span) in zip(inside, blocks, strict=True)]
    spans = [span for _, span in blocks]
    return [
        _whole(task, whole),
        *_split("span", spans, inside, lambda n: f"{n * width}-{(n + 1) * width - 1}"),
    ]


def _even(blocks: Sequence[Hashable]) -> list[float]:
    """Weights with which every block counts as much as another."""
    sizes = Counter(blocks)
    return [1 / sizes[block] for block in blocks]


def _whole(task: str, weights: Sequence[float]) -> Group:
    return Group("task", task, tuple(range(len(weights))), tuple(weights))


def _split(
    kind: str, values: Sequence[Any], weights: Sequence[float], name: Callable[[Any], str]
) -> list[Group]:
    """A group a value, in order; none where all are the same."""
    known = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    if len(known) < 2:
        return []
    found = []
    for value in known:
        places = tuple(place for place, other in enumerate(values) if other == value)
        found.append(Group(kind, name(value), places, tuple(weights[place] for place in places)))
    return found


def _values(field: str, rows: Sequence[Mapping[str, Any]], few: int) -> list[Any]:
    """A field of the rows; numbers as bands where there are more than `few`."""
    values = [row[field] for row in rows]
    numbers = all(_is_number(value) for value in values)
    if numbers and len(set(values)) > few:
        return [length_bucket(value) for value in values]
    return values


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
