"""One task's result as panels: numbers with intervals, counts and labels, which every renderer shows in its own way.

`result_of` builds it from a task's scores as `scores.json` has them. Terminal, pictures, page and Markdown (the room
`show`) take results by model and never look at scores themselves.

| view | panels |
|---|---|
| `curve` | accuracy by position in the context |
| `grid` | cells of length by depth; the means by length, and by depth |
| `lengths` | accuracy by length of the context |
| `perplexity` | mean −log p by position in the text; perplexity of the first tokens up to each length |
| `table` | bars for each kind of group (difficulty, domain, dimension ...); a histogram of scores; shares |
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lcx.formatting import length_name, p_words, percent

__all__ = [
    "CUT_SHARE",
    "VIEWS",
    "Bars",
    "Curve",
    "Grid",
    "Histogram",
    "Mean",
    "Panel",
    "Result",
    "Table",
    "result_of",
    "results_of",
    "view_of",
]

VIEWS = ("curve", "grid", "lengths", "perplexity", "table")
"""The views that every renderer knows; a plugin's own (`other`) are shown by their mean alone."""
NEEDS = {"curve": "spans", "grid": "cells", "lengths": "values", "perplexity": "curve"}
"""What a view's panels are made from; scores without it are shown as a table."""
GROUPED = ("dimensions", "columns", "sets")
"""Beside `by`: parts of a judged task's scores that each have a mean."""

MEASURES = ("right", "supported", "statements", "words", "mean of sets")
"""Parts of a judged task's scores that each are a mean on a scale of their own."""

Pair = tuple[float, float]
Values = tuple[float | None, ...]


@dataclass(frozen=True)
class Mean:
    """A mean with its interval; None where nothing was scored, or there is too little to tell.

    `lacking` says what there was where that is too little for an interval: `3 contexts`.
    """

    mean: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    lacking: str = ""

    @property
    def ends(self) -> Pair | None:
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def no_interval(self) -> str:
        """`no interval: 3 contexts`, where there is a mean and too little for its interval."""
        return f"no interval: {self.lacking}" if self.lacking and self.mean is not None else ""

    @property
    def half(self) -> float | None:
        """Half the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


@dataclass(frozen=True)
class Curve:
    """Values along an axis. `places` are the edges of the buckets in items or tokens (one more than values), else the
    lengths or depths themselves; `names` say each place in words. Values are shares, or mean −log p (`by` tokens).
    """

    by: Literal["position", "length", "depth", "tokens"]
    unit: str
    places: tuple[float, ...]
    names: tuple[str, ...]
    values: Values
    intervals: tuple[Pair | None, ...]
    counts: tuple[int | None, ...]

    @property
    def axis(self) -> str:
        """What the axis is, in words."""
        return {
            "position": "position in the context",
            "length": f"length of the context ({self.unit})",
            "depth": "depth in the context",
            "tokens": f"position in the text ({self.unit})",
        }[self.by]

    @property
    def middles(self) -> list[float]:
        """The middle of each bucket, in items or tokens."""
        return [(start + end) / 2 for start, end in itertools.pairwise(self.places)]


@dataclass(frozen=True)
class Grid:
    """Accuracy in cells: `cells[i][j]` at the i-th length and the j-th depth; None where there are no rows."""

    unit: str
    lengths: tuple[int, ...]
    depths: tuple[float, ...]
    cells: tuple[Values, ...]
    intervals: tuple[tuple[Pair | None, ...], ...]
    worst: Mapping[str, float] | None

    @property
    def axis(self) -> str:
        return f"length of the context ({self.unit})"


@dataclass(frozen=True)
class Bars:
    """A mean with its interval for each of some groups; `by` says what they are (difficulty, domain, dimension)."""

    by: str
    names: tuple[str, ...]
    means: tuple[Mean, ...]


@dataclass(frozen=True)
class Histogram:
    """How many values lie in each of equal parts of [low, high]."""

    low: float
    high: float
    counts: tuple[int, ...]

    @property
    def edges(self) -> list[float]:
        step = (self.high - self.low) / len(self.counts)
        return [self.low + step * place for place in range(len(self.counts) + 1)]


@dataclass(frozen=True)
class Table:
    """Means by row and column: shares of wins, ties and losses, a row a respect."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Mean, ...]], ...]


Panel = Curve | Grid | Bars | Histogram | Table


CUT_SHARE = 0.05
"""The part of a task's answers that may be cut before it stands beside the score."""


@dataclass(frozen=True)
class Result:
    """What one model got in one task. `average` is the mean of the main panel's places, and `gap` best minus worst.

    `counts` are rows with something odd about them (no answer, cut, refused ...), `digests` say what was asked, and
    `scale` is from where to where scores go if that is not from 0 to 1.
    """

    task: str
    view: str = "table"
    estimate: Mean = Mean()
    average: float | None = None
    gap: float | None = None
    gap_test: Mapping[str, Any] = field(default_factory=dict)
    u_shape: Mapping[str, Any] = field(default_factory=dict)
    n: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    panels: tuple[Panel, ...] = ()
    scale: Pair | None = None
    decoys: float | None = None
    positions: int | None = None
    texts: int = 0
    percent: float | None = None
    """The score as published: in percent, where a task has one."""
    lacking: str = ""
    """What places and cells without an interval have: `2-5 rows`."""
    most_tokens: int | None = None
    """`max_new_tokens`, after which an answer is cut."""
    measures: Mapping[str, Mean] = field(default_factory=dict)
    """Means on scales of their own: statements of an answer, its words, the share that names the reference."""

    @property
    def curve(self) -> Curve:
        """The main curve: by position, by length, or by tokens of the text."""
        return next(panel for panel in self.panels if isinstance(panel, Curve))

    @property
    def grid(self) -> Grid:
        return next(panel for panel in self.panels if isinstance(panel, Grid))

    @property
    def bars(self) -> list[Bars]:
        return [panel for panel in self.panels if isinstance(panel, Bars)]

    @property
    def own_scale(self) -> bool:
        """Whether scores do not go from 0 to 1."""
        return self.scale not in (None, (0, 1))

    @property
    def nulls(self) -> int:
        """Rows without an answer."""
        return self.counts.get("nulls", 0)

    @property
    def cut(self) -> str:
        """`12 of 60 answers are cut at max_new_tokens=8`, where that is more than a few of them."""
        cut = self.counts.get("unfinished", 0)
        if cut <= CUT_SHARE * self.n:
            return ""
        limit = "" if self.most_tokens is None else f"={self.most_tokens}"
        return f"{cut:,} of {max(self.n, cut):,} answers are cut at max_new_tokens{limit}"

    @property
    def cautions(self) -> list[str]:
        """What to know before the score is read: what has no answer or a cut one, intervals that there are not."""
        found = [*self.beside, self.cut, self.estimate.no_interval]
        if self.lacking and self.lacking != self.estimate.lacking:
            found.append(f"no interval where there are {self.lacking}")
        return [words for words in found if words]

    @property
    def beside(self) -> list[str]:
        """What has to stand beside the score: questions that nobody answered, thoughts that never ended."""
        errors, thoughts = self.counts.get("errors", 0), self.counts.get("unfinished_thoughts", 0)
        found = [f"{errors} of {errors + self.n} questions unanswered, left out"] if errors else []
        found += [f"{thoughts} of {self.n} answers only thoughts"] if thoughts else []
        empty = self.counts.get("empty", 0)
        found += [f"{empty} of {self.n} answers empty"] if empty > CUT_SHARE * self.n else []
        cut = self.counts.get("cut_prompts", 0)
        return [*found, *([f"{cut} prompts cut by the server"] if cut else [])]

    @property
    def p(self) -> float | None:
        """How often shuffled places give a gap as large; None where that was not tested."""
        return self.gap_test.get("p")

    def gap_words(self, gap: str = "gap") -> str:
        """`gap 0.12, noise alone gives 0.08, p = 0.012`, as far as it is known."""
        parts = [] if self.gap is None else [f"{gap} {self.gap:.2f}"]
        if self.gap_test.get("null_mean") is not None:
            parts.append(f"noise alone gives {self.gap_test['null_mean']:.2f}")
        return ", ".join([*parts, *([p_words(self.p)] if self.p is not None else [])])


COUNTED = (
    *("nulls", "refused", "truncated", "dropped", "errors", "unfinished", "skipped", "duplicates", "missing"),
    *("thoughts", "unfinished_thoughts"),
    *("empty", "unjudged"),
)


def result_of(task: str, scores: Mapping[str, Any]) -> Result:
    """The result of a task's scores, of this version or an older one: what is not there is not shown."""
    view = str(scores.get("view") or "curve")  # results from before there were views are curves
    if view in NEEDS and not scores.get(NEEDS[view]) and view != "perplexity":
        view = "table" if "average" in scores else "other"
    panels = {"curve": _curve, "grid": _grid, "lengths": _lengths, "perplexity": _perplexity}
    made = panels[view](scores) if view in panels else ()
    prompt = scores.get("prompt")
    return Result(
        task=task,
        view=view if view in VIEWS else "other",
        estimate=_estimate(scores),
        average=scores.get("average"),
        gap=scores.get("gap"),
        gap_test=scores.get("gap_test") or {},
        u_shape=scores.get("u_shape") or {},
        n=scores.get("n") or 0,
        counts=_odd(scores),
        digests={name: str(scores[name]) for name in ("material", "data", "content") if scores.get(name)},
        panels=(*made, *_groups(scores)),
        scale=_pair(scores.get("scale")),
        decoys=scores.get("decoys"),
        positions=scores.get("positions"),
        texts=scores.get("texts") or 0,
        percent=scores.get("score"),
        lacking=scores.get("lacking") or "",
        most_tokens=prompt.get("max_new_tokens") if isinstance(prompt, Mapping) else None,
        measures={name: _mean(scores[name]) for name in MEASURES if isinstance(scores.get(name), Mapping)},
    )


def _odd(scores: Mapping[str, Any]) -> dict[str, int]:
    found = {name: scores[name] for name in COUNTED if isinstance(scores.get(name), int) and scores[name]}
    cut = ((scores.get("answering") or {}).get("cut") or {}).get("prompts", 0)
    return {**found, "cut_prompts": cut} if cut else found


def results_of(task: str, models: Mapping[str, Mapping[str, Any]]) -> dict[str, Result]:
    """The results of several models' scores of one task."""
    return {model: result_of(task, scores) for model, scores in models.items()}


def view_of(results: Mapping[str, Result]) -> str:
    """The view of one task's results by model: the first's, or a curve where there is none."""
    return next((one.view for one in results.values()), "curve")


def _estimate(scores: Mapping[str, Any]) -> Mean:
    """A task's mean with its interval from newer results; the average alone from older ones."""
    found = scores.get("estimate") or {}
    mean = found.get("mean")
    if mean is None:
        mean = scores.get("average")
    if mean is None and scores.get("view") == "perplexity":
        mean = scores.get("perplexity")
    if mean is None and not found:
        found, mean = scores, scores.get("mean")
    return Mean(mean, found.get("low"), found.get("high"), found.get("n"), found.get("lacking") or "")


def _pair(value: Any) -> Pair | None:
    return None if not value else (value[0], value[1])


def _intervals(found: Sequence[Any] | None, count: int) -> tuple[Pair | None, ...]:
    return tuple(map(_pair, found)) if found and len(found) == count else (None,) * count


def _counts(found: Sequence[int] | None, count: int) -> tuple[int | None, ...]:
    return tuple(found) if found and len(found) == count else (None,) * count


def _curve(scores: Mapping[str, Any]) -> tuple[Panel, ...]:
    values = tuple(scores["spans"])
    size, width = len(values), scores.get("span") or 1
    return (
        Curve(
            by="position",
            unit="items",
            places=tuple(number * width for number in range(size + 1)),
            names=tuple(f"{number * width + 1}–{(number + 1) * width}" for number in range(size)),
            values=values,
            intervals=_intervals(scores.get("intervals"), size),
            counts=_counts(scores.get("counts"), size),
        ),
    )


def _by_length(
    scores: Mapping[str, Any], values: Sequence[float | None], intervals: Any, counts: Any
) -> Curve:
    lengths = tuple(scores["lengths"])
    return Curve(
        by="length",
        unit=scores.get("unit") or "tokens",
        places=lengths,
        names=tuple(map(length_name, lengths)),
        values=tuple(values),
        intervals=_intervals(intervals, len(lengths)),
        counts=_counts(counts, len(lengths)),
    )


def _lengths(scores: Mapping[str, Any]) -> tuple[Panel, ...]:
    return (_by_length(scores, scores["values"], scores.get("intervals"), scores.get("counts")),)


def _grid(scores: Mapping[str, Any]) -> tuple[Panel, ...]:
    depths = tuple(scores["depths"])
    intervals = scores.get("intervals") or [None] * len(scores["cells"])
    found: list[Panel] = [
        Grid(
            unit=scores.get("unit") or "tokens",
            lengths=tuple(scores["lengths"]),
            depths=depths,
            cells=tuple(map(tuple, scores["cells"])),
            intervals=tuple(_intervals(line, len(depths)) for line in intervals),
            worst=scores.get("worst"),
        )
    ]
    if scores.get("by_length") and not isinstance(scores["by_length"], Mapping):
        found.append(_by_length(scores, scores["by_length"], None, None))
    if scores.get("by_depth"):
        none = (None,) * len(depths)
        names = tuple(map(percent, depths))
        found.append(Curve("depth", "", depths, names, tuple(scores["by_depth"]), none, none))
    return tuple(found)


def _perplexity(scores: Mapping[str, Any]) -> tuple[Panel, ...]:
    edges, values = tuple(scores.get("edges") or ()), tuple(scores.get("curve") or ())
    names = tuple(f"tokens {start} to {end}" for start, end in itertools.pairwise(edges))
    counts = _counts(scores.get("counts"), len(values))
    by_tokens = Curve("tokens", "tokens", edges, names, values, (None,) * len(values), counts)
    means = tuple(Mean(value) for value in scores.get("at_length") or ())
    lengths = tuple(f"to {length_name(length)}" for length in scores.get("lengths") or ())
    return (by_tokens, Bars("length", lengths, means))


def _groups(scores: Mapping[str, Any]) -> tuple[Panel, ...]:
    """Bars for each kind of group that the scores are broken down by, the histogram of all, and shares."""
    by = {str(name): groups for name, groups in (scores.get("by") or {}).items()}
    by |= {name.removesuffix("s"): scores[name] for name in GROUPED if isinstance(scores.get(name), Mapping)}
    found: list[Panel] = [
        Bars(name, tuple(map(str, groups)), tuple(_mean(one) for one in groups.values()))
        for name, groups in by.items()
    ]
    if scores.get("histogram") and scores.get("scale"):
        low, high = scores["scale"]
        found.append(Histogram(low, high, tuple(scores["histogram"])))
    if isinstance(scores.get("shares"), Mapping) and scores["shares"]:
        columns = tuple(next(iter(scores["shares"].values())))
        rows = tuple(
            (name, tuple(_mean(of[one]) for one in columns)) for name, of in scores["shares"].items()
        )
        found.append(Table(f"against {scores.get('against', 'another')}", columns, rows))
    return tuple(found)


def _mean(found: Mapping[str, Any] | None) -> Mean:
    found = found or {}
    lacking = found.get("lacking") or ""
    return Mean(found.get("mean"), found.get("low"), found.get("high"), found.get("n"), lacking)
