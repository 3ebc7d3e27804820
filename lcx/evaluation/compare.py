"""Two results compared item by item: which rows pair, in which groups, and a difference with a verdict for each group.

Rows are paired by what names the same question in both; perplexity by stretches of text, from the journals. The groups
are the whole task, its spans, lengths, depths and the like, and p is corrected within each family of them.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from lcx.data.files import strict_rows
from lcx.errors import LcxError, UsageError
from lcx.evaluation.offline import length_bucket, unanswered
from lcx.evaluation.probes.perplexity import bucket_edges
from lcx.evaluation.result import result_of
from lcx.evaluation.scores import EvalResult, Side, comparable, warnings_of
from lcx.evaluation.statistics.intervals import rows_stand
from lcx.evaluation.statistics.paired import PairedDifference, holm, paired_difference
from lcx.paths import slug

__all__ = [
    "Comparison",
    "Group",
    "NotComparable",
    "Options",
    "Pair",
    "Pairing",
    "Verdict",
    "changes_from",
    "checked_comparison",
    "compare",
    "groups_of",
    "is_reading",
    "is_short",
    "load_rows",
    "pair_rows",
    "pair_texts",
    "row_names",
    "text_groups",
]


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

    `by` says what paired them; of those without a score, `unanswered` got no reply from a server.
    """

    pairs: tuple[Pair, ...]
    only_a: int
    only_b: int
    unscored: int
    changed: int
    by: str
    unanswered: int = 0


def load_rows(result: EvalResult, task: str) -> list[dict[str, Any]]:
    """The rows of a task's predictions, each with a `score`. Raises NotComparable where they cannot be had."""
    path = result.folder / f"predictions-{slug(task)}.jsonl"
    if not path.is_file():
        raise NotComparable(f"there is no {path.name} in {result.folder}")
    try:
        rows = strict_rows(path)
    except LcxError as bad:
        raise NotComparable(f"{bad.what}. {bad.why}".strip()) from None
    if not rows:
        raise NotComparable(f"{path} is empty")
    if any("score" in row or "reward" in row for row in rows):
        return [
            {**row, "score": None if unanswered(row) else _number(row.get("score", row.get("reward")))}
            for row in rows
        ]
    return _scored(result, task, rows)


def _scored(result: EvalResult, task: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
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


def row_names(files: Sequence[Sequence[Row]]) -> tuple[str, list[list[Hashable]]]:
    """What names the rows of several files alike, and the name of each row: the surest that all rows have."""
    for by, key in KEYS:
        names = [[key(row) for row in rows] for rows in files]
        if all(name is not None for of in names for name in of):
            return by, names
    return "row number", [list(range(len(rows))) for rows in files]


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
    pairs, changed, unscored, failed = [], 0, 0, 0
    weights: list[tuple[float, float]] = []
    for name in shared:
        row, other = rows_a[name][0], rows_b[name][0]
        if any(row[field] != other[field] for field in ASKED if field in row and field in other):
            changed += 1
            continue
        (mean_a, weight_a), (mean_b, weight_b) = _mean(rows_a[name]), _mean(rows_b[name])
        if mean_a is None or mean_b is None:
            unscored += 1
            failed += any(all(map(unanswered, of[name])) for of in (rows_a, rows_b))
        else:
            pairs.append(Pair(name, mean_a, mean_b, _context(row, name), row))
            weights.append((weight_a, weight_b))
    if any("weight" in row for row in (*a, *b)):
        pairs = _pulled(pairs, weights)
    only_a, only_b = len(rows_a) - len(shared), len(rows_b) - len(shared)
    return Pairing(tuple(pairs), only_a, only_b, unscored, changed, by, failed)


def _grouped(rows: Sequence[Row], names: Sequence[Hashable]) -> dict[Hashable, list[Row]]:
    found: dict[Hashable, list[Row]] = {}
    for row, name in zip(rows, names, strict=True):
        found.setdefault(name, []).append(row)
    return found


def _mean(rows: Sequence[Row]) -> tuple[float | None, float]:
    """The mean score of an item's rows, and what it weighs; a row that weighs nothing needs no score."""
    if any("weight" in row for row in rows):
        sizes = [row["weight"] for row in rows if row.get("weight") is not None]
        amount = sum((row["score"] or 0.0) * row["weight"] for row in rows if row.get("weight"))
        weight = float(sum(sizes))
        return (None if not sizes else amount / weight if weight else 0.0), weight
    known = [row["score"] for row in rows if row["score"] is not None]
    return (sum(known) / len(known) if known else None), 1.0


def _pulled(pairs: Sequence[Pair], weights: Sequence[tuple[float, float]]) -> list[Pair]:
    """The pairs with what each side's row gives to its weighted mean in place of its score: the plain mean of these
    numbers is that mean, and varies as it does (to first order) when items are drawn again.
    """
    sides = []
    for side, name in enumerate("ab"):
        mass = [both[side] for both in weights]
        values = [getattr(pair, name) for pair in pairs]
        total = sum(mass)
        mean = sum(w * v for w, v in zip(mass, values, strict=True)) / total if total else 0.0
        scale = len(pairs) / total if total else 0.0
        sides.append([mean + w * (v - mean) * scale for w, v in zip(mass, values, strict=True)])
    return [replace(pair, a=one, b=other) for pair, one, other in zip(pairs, *sides, strict=True)]


def _context(row: Row, name: Hashable) -> Hashable:
    """What names the context of an item; an item that does not say stands for a context of its own."""
    for about in ("context", "context_id"):
        if isinstance(row.get(about), str | int) and len(str(row[about])) < 1000:  # `context` may be the text
            return str(row[about])
    return json.dumps([row["set_id"], row.get("length")]) if row.get("set_id") is not None else name


JOURNAL = "journal.jsonl"


def is_reading(scores: Mapping[str, Any]) -> bool:
    """Whether a task read texts instead of asking."""
    return str(scores.get("view")) == "perplexity"


def pair_texts(a: EvalResult, b: EvalResult, task: str) -> Pairing:
    """Mean −log p of each stretch of each text under both models; `row` has its text, first token and tokens.

    Raises NotComparable where the texts, or their tokens, are not the same.
    """
    first, second = a.scores["tasks"][task], b.scores["tasks"][task]
    if not first.get("content") or first.get("content") != second.get("content"):
        raise NotComparable("they read other texts, or the same texts as other tokens")
    texts_a, texts_b = _read(a, task), _read(b, task)
    shared = [text for text in texts_a if text in texts_b]
    edges = bucket_edges(first["lengths"], len(first["edges"]) - 1)
    pairs = []
    for text in shared:
        (sums_a, counts_a), (sums_b, counts_b) = texts_a[text], texts_b[text]
        if counts_a != counts_b or len(counts_a) != len(edges) - 1:
            raise NotComparable(f"the text {text} was read in other stretches")
        for place, (start, count) in enumerate(zip(edges, counts_a, strict=False)):
            if count:
                row = {"text": text, "start": start, "tokens": count}
                pairs.append(Pair((text, place), sums_a[place] / count, sums_b[place] / count, text, row))
    if not pairs:
        raise NotComparable("they share no text that was read")
    return Pairing(tuple(pairs), len(texts_a) - len(shared), len(texts_b) - len(shared), 0, 0, "text")


def text_groups(task: str, scores: Mapping[str, Any], pairs: Sequence[Pair]) -> list[Group]:
    """All tokens, and the first ones up to each length; a stretch weighs as its tokens."""
    tokens = [float(pair.row["tokens"]) for pair in pairs]
    found = [Group("task", task, tuple(range(len(pairs))), tuple(tokens))]
    lengths = list(scores["lengths"])
    if len(lengths) > 1:
        for length in lengths:
            places = tuple(place for place, pair in enumerate(pairs) if pair.row["start"] < length)
            found.append(
                Group("length", f"first {length:,}", places, tuple(tokens[place] for place in places))
            )
    return found


def _read(result: EvalResult, task: str) -> dict[str, tuple[list[float], list[int]]]:
    """Sums of −log p and counts of every text that a model read, by its name."""
    path = result.folder / JOURNAL
    if not path.is_file():
        raise NotComparable(f"there is no {JOURNAL} in {result.folder}, which has the numbers of each text")
    found: dict[str, tuple[list[float], list[int]]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue  # a line that a kill tore
        held = entry.get("result") if isinstance(entry, Mapping) else None
        if isinstance(held, Mapping) and {"sums", "counts"} <= set(held):
            *owner, name = str(entry.get("unit")).split(" ", 1)  # older journals do not name the task
            if owner in ([], [task]) and all(math.isfinite(value) for value in held["sums"]):
                found[name] = (list(held["sums"]), list(held["counts"]))
    tokens = sum(sum(counts) for _, counts in found.values())
    if tokens != result.scores["tasks"][task].get("n"):
        raise NotComparable(f"{path} does not have the texts of the result")
    return found


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
    for by in scores["by"] if broken_down else FIELDS:
        if all(isinstance(row.get(by), str | int | float) for row in rows):
            values = _values(by, rows, 0 if broken_down else FEW)
            found += _split(by, values, [1.0] * len(rows), str)
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


Word = Literal["better", "worse", "no evidence"]
SHORT_MARGIN = 2.0
"""Points that a short task may lose before it counts as hurt, where no margin is given."""


@dataclass(frozen=True)
class Options:
    """`alpha` is the chance of any false verdict in a family, `level` that of the intervals, `margin` in points."""

    alpha: float = 0.05
    level: float = 0.95
    margin: float | None = None
    trials: int = 9999
    seed: int = 0


@dataclass(frozen=True)
class Scale:
    """How a task's numbers are shown: the unit, and the functions from means and differences to it."""

    unit: str
    of: Callable[[float], float]
    of_difference: Callable[[float], float]
    point: float = 1.0
    """What one point of a margin is in the unit of differences."""
    lower_is_better: bool = False
    most: float | None = 1.0
    """How far a score can move."""


PLAIN = Scale("score", lambda x: x, lambda d: d, most=None)
ALIKE = ("judge", "judging", "data", "compat", "prompt")
"""What has to be alike for a change to be told of as the models' own."""


@dataclass(frozen=True)
class Verdict:
    """What was found of one group. `a`, `b`, `difference`, `low`, `high` are in `unit`; b minus a.

    `p` is two-sided, `p_holm` corrected over the `family` (of `family_size` groups). `sees` is half the interval:
    about the least difference that these items could have shown.
    """

    task: str
    kind: str
    group: str
    short: bool
    unit: str
    n: int
    moved: int
    contexts: int
    drawn: str
    point: float
    lower_is_better: bool
    a: float
    b: float
    difference: float
    low: float | None
    high: float | None
    p: float
    lacking: str = ""
    p_holm: float = 1.0
    family: str = ""
    family_size: int = 1
    verdict: Word = "no evidence"
    regression: bool = False
    reading: str = ""

    @property
    def sees(self) -> float | None:
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    @property
    def conditional(self) -> bool:
        """Whether it holds for these contexts only: there are too few to stand for others."""
        return self.drawn != "contexts"

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "sees": self.sees, "conditional": self.conditional}


@dataclass(frozen=True)
class Comparison:
    """All verdicts on side `b` against side `a`; what could not be compared and why; what to know about it."""

    a: Side
    b: Side
    options: Options
    verdicts: tuple[Verdict, ...]
    not_compared: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def regressions(self) -> tuple[Verdict, ...]:
        return tuple(one for one in self.verdicts if one.regression)

    def as_dict(self) -> dict[str, Any]:
        """The comparison as JSON holds it."""
        return {
            "a": self.a.as_dict(),
            "b": self.b.as_dict(),
            "alpha": self.options.alpha,
            "level": self.options.level,
            "margin": self.options.margin or 0.0,
            "verdicts": [one.as_dict() for one in self.verdicts],
            "regressions": [f"{one.task}, {one.kind} {one.group}" for one in self.regressions],
            "not_compared": dict(self.not_compared),
            "notes": list(self.notes),
        }


def compare(a: Side, b: Side, options: Options = Options()) -> Comparison:
    """Compare every task that both sides have. What cannot be compared is named with the reason."""
    tasks_a, tasks_b = a.tasks, b.tasks
    verdicts: list[Verdict] = []
    notes: list[str] = []
    missing: dict[str, str] = {}
    for task in dict.fromkeys([*tasks_a, *tasks_b]):
        if task not in tasks_a or task not in tasks_b:
            missing[task] = f"only {(a if task in tasks_a else b).name} has it"
            continue
        one, other = tasks_a[task], tasks_b[task]
        scores = one.scores["tasks"][task]
        try:
            if is_reading(scores):
                pairing = pair_texts(one, other, task)
                groups = text_groups(task, scores, pairing.pairs)
            else:
                pairing = pair_rows(load_rows(one, task), load_rows(other, task))
                groups = groups_of(task, scores, pairing.pairs)
        except NotComparable as bad:
            missing[task] = str(bad)
            continue
        scale = _scale(scores, pairing)
        inside = rows_stand([pair.context for pair in pairing.pairs])  # decided once for all groups
        verdicts += [_measured(task, group, pairing, scale, options, inside) for group in groups]
        notes += _pairing_notes(task, pairing, a.name, b.name)
        for side, of in ((a, scores), (b, other.scores["tasks"][task])):
            told = result_of(task, of)
            notes += [f"{task}: {said} in {side.name}" for said in [*told.beside, told.cut] if said]
        for found in comparable(one.scores, other.scores, task):
            more = f"; items are paired by {pairing.by}, with equal questions" if found.key == "data" else ""
            notes.append(f"{found}{more}")
    judged = _judged(verdicts, options)
    about = [note for note in notes if note.startswith("the two were")]
    notes = [*about, *_model_notes(a, b), *[note for note in notes if note not in about]]
    return Comparison(a, b, options, tuple(judged), missing, tuple(dict.fromkeys(notes)))


def changes_from(others: Sequence[EvalResult], mine: EvalResult, task: str) -> dict[str, dict[str, Any]]:
    """The mean difference of a task from each of the other results that were asked and judged alike, by their names."""
    found: dict[str, dict[str, Any]] = {}
    for other in others:
        if task not in other.scores["tasks"] or any(
            one.questions or one.key in ALIKE for one in comparable(other.scores, mine.scores, task)
        ):
            continue
        try:
            pairing = pair_rows(load_rows(other, task), load_rows(mine, task))
        except NotComparable:
            continue
        whole = groups_of(task, mine.scores["tasks"][task], pairing.pairs)[0]
        inside = rows_stand([pair.context for pair in pairing.pairs])
        one = _measured(task, whole, pairing, PLAIN, Options(), inside)
        label = other.name if other.name not in (mine.name, *found) else f"{other.step} {other.name}"
        found[label] = {"mean": one.difference, "low": one.low, "high": one.high, "n": one.n}
    return found


def _pairing_notes(task: str, pairing: Pairing, a: str, b: str) -> list[str]:
    """What to know about how a task's items were paired."""
    notes: list[str] = []
    for count, name in ((pairing.only_a, a), (pairing.only_b, b)):
        if count:
            notes.append(f"{task}: {count:,} items only in {name} are left out")
    if pairing.unanswered:
        notes.append(f"{task}: {pairing.unanswered:,} items that one of the two got no reply to are left out")
    if unscored := pairing.unscored - pairing.unanswered:
        notes.append(f"{task}: {unscored:,} items without a score in both are left out")
    if pairing.changed:
        notes.append(f"{task}: {pairing.changed:,} items with another question in {b} are left out")
    if pairing.by == "row number":
        notes.append(f"{task}: rows name no items, and are paired by their order in the files")
    return notes


def _model_notes(a: Side, b: Side) -> list[str]:
    """Results that are not to be trusted, and whether both sides are the same model."""
    notes = [
        f"{side.name}: {note}" for side in (a, b) for result in side.results for note in warnings_of(result)
    ]
    one, other = a.results[-1].scores, b.results[-1].scores
    if one.get("weights") and one.get("weights") == other.get("weights"):
        notes.append("both are the same weights")
    return notes


def _scale(scores: Mapping[str, Any], pairing: Pairing) -> Scale:
    if is_reading(scores):
        return Scale("% perplexity", _perplexity, lambda d: 100 * math.expm1(d), 1.0, True, None)
    values = [value for pair in pairing.pairs for value in (pair.a, pair.b)]
    if min(values) >= 0 and max(values) <= 1:
        return Scale("points", lambda x: 100 * x, lambda d: 100 * d)
    low, high = scores.get("scale") or (min(values), max(values))
    return Scale("score", lambda x: x, lambda d: d, (high - low) / 100, most=(high - low) or None)


def _perplexity(nll: float) -> float:
    return math.exp(min(nll, 700.0))


def _measured(
    task: str, group: Group, pairing: Pairing, scale: Scale, options: Options, inside: bool
) -> Verdict:
    """The difference in a group, not yet judged."""
    pairs = [pairing.pairs[place] for place in group.places]
    weights = np.asarray(group.weights)
    found = paired_difference(
        [pair.b - pair.a for pair in pairs],
        [pair.context for pair in pairs],
        group.weights,
        level=options.level,
        trials=options.trials,
        seed=options.seed,
        most=scale.most,
        inside=inside,
    )
    a, b = (float(np.average([getattr(pair, side) for pair in pairs], weights=weights)) for side in "ab")
    return Verdict(
        task=task,
        kind=group.kind,
        group=group.name,
        short=is_short(task),
        unit=scale.unit,
        n=found.n,
        moved=found.moved,
        contexts=found.contexts,
        drawn=found.drawn,
        lacking=found.lacking,
        point=scale.point,
        lower_is_better=scale.lower_is_better,
        a=scale.of(a),
        b=scale.of(b),
        p=found.p,
        **_shown(found, scale),
    )


def _shown(found: PairedDifference, scale: Scale) -> dict[str, Any]:
    """The difference and its ends in the unit."""
    ends = {"difference": found.mean, "low": found.low, "high": found.high}
    return {name: None if value is None else scale.of_difference(value) for name, value in ends.items()}


def _judged(verdicts: Sequence[Verdict], options: Options) -> list[Verdict]:
    """The verdicts with p corrected by Holm over their families.

    The families are: all long tasks; all short tasks; and within each task its spans, its lengths, its depths.
    """
    families: dict[str, list[int]] = {}
    for place, one in enumerate(verdicts):
        families.setdefault(_family(one), []).append(place)
    judged = list(verdicts)
    for family, places in families.items():
        corrected = holm([verdicts[place].p for place in places])
        for place, p in zip(places, corrected, strict=True):
            judged[place] = _verdict(
                replace(verdicts[place], p_holm=p, family=family, family_size=len(places)), options
            )
    return judged


def _family(one: Verdict) -> str:
    if one.kind == "task":
        return "short tasks" if one.short else "tasks"
    return f"{one.task} by {one.kind}"


def _verdict(one: Verdict, options: Options) -> Verdict:
    sign = -1.0 if one.lower_is_better else 1.0
    gain = sign * one.difference
    word: Word = "no evidence"
    # Both the test and the interval: a row that reads "better" beside an interval around 0 says nothing.
    apart = one.low is not None and one.high is not None and (one.low > 0 or one.high < 0)
    if one.p_holm <= options.alpha and gain != 0 and apart:
        word = "better" if gain > 0 else "worse"
    regression = word == "worse" and -gain > (options.margin or 0.0) * one.point
    reading = ""
    if one.short and one.kind == "task" and one.low is not None and one.high is not None:
        margin = (options.margin or SHORT_MARGIN) * one.point
        most, least = (-one.low, -one.high) if sign > 0 else (one.high, one.low)
        if most <= margin:
            reading = f"held: a loss above {margin:g} is ruled out"
        elif least > margin:
            reading = f"hurt: the loss is above {margin:g}"
        else:
            reading = f"open: a loss of up to {most:.1f} is possible"
    return replace(one, verdict=word, regression=regression, reading=reading)


def checked_comparison(a: Side, b: Side, options: Options) -> Comparison:
    """`compare`, or a UsageError with the reasons where nothing at all could be compared."""
    found = compare(a, b, options)
    if not found.verdicts:
        reasons = [f"{task}: {why}" for task, why in found.not_compared.items()]
        raise UsageError(
            f"{a.name} and {b.name} have nothing in common that could be compared",
            why="; ".join(reasons) or "Neither has a task.",
            hint="Evaluate both with the same recipe, tasks and seed: lcx eval --recipe RECIPE --model MODEL",
        )
    return found
