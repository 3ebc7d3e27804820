"""Accuracy by position in the context: spans, their average and gap, and what the curve is worth.

Best minus worst of several spans is never negative: of 16 spans that are all alike but for noise one is the best
and one the worst, and the gap between them can look large. So the gap is held against the gaps of the same scores
dealt anew to the places of their context, which are what noise alone makes. That is a fair comparison where the
questions of a context are asked at random places: scores of a context may be alike, and contexts may differ in
difficulty, but neighbours must not be more alike than others.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lcx.evaluation.statistics.intervals import NOTHING, Floats, Table, cell_intervals
from lcx.evaluation.statistics.permutation import gap_test, no_gap_test, p_above, permuted_means

__all__ = ["Compat", "Curve", "curve_evidence", "span_curve", "u_contrast"]


Compat = Literal["film"]
"""`film` is the arithmetic behind the published figures, which leaves out the last position of every span."""


@dataclass(frozen=True)
class Curve:
    """Scores (0 to 1) of the spans in order; None where a span has no rows. `counts` are rows a span.

    `average` is the mean of the spans and `gap` the difference between the best and the worst; both are None
    where there are no rows at all.
    """

    spans: tuple[float | None, ...]
    counts: tuple[int, ...]
    average: float | None
    gap: float | None
    width: int

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON holds them."""
        return {
            "spans": list(self.spans),
            "average": self.average,
            "gap": self.gap,
            "counts": list(self.counts),
            "span": self.width,
        }


def span_curve(
    scored: Iterable[tuple[int, int, float]],
    *,
    width: int = 50,
    positions: int | None = None,
    compat: Compat | None = None,
) -> Curve:
    """The curve of `(set, position, score)` rows, positions counted from 0, in spans of `width` positions.

    A span's score is the mean over sets of the set's mean in that span, so that a set with skipped rows
    weighs as much as a whole one. `positions` is the length of the context in items, where the last ones may
    have no row.
    """
    if width < 1:
        raise ValueError(f"a span needs at least one position, not {width}")
    if compat == "film" and width < 2:
        raise ValueError("compat 'film' drops the last position of each span: it needs spans of two or more")
    cells: dict[int, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    last = (positions or 0) - 1
    for group, position, score in scored:
        if position < 0:
            raise ValueError(f"position {position} is negative")
        last = max(last, position)
        if compat == "film" and position % width == width - 1:
            continue
        cells[position // width][group].append(score)

    spans: list[float | None] = []
    counts: list[int] = []
    for number in range(last // width + 1 if last >= 0 else 0):
        sets = cells.get(number, {})
        means = [sum(scores) / len(scores) for _, scores in sorted(sets.items())]
        spans.append(sum(means) / len(means) if means else None)
        counts.append(sum(len(scores) for scores in sets.values()))
    known = [span for span in spans if span is not None]
    average = sum(known) / len(known) if known else None
    gap = max(known) - min(known) if known else None
    return Curve(tuple(spans), tuple(counts), average, gap, width)


LEAST_SPANS = 3
"""Fewer spans have no middle."""


def u_contrast(centres: Sequence[float]) -> Floats:
    """Weights of spans at these places whose sum over a curve says how much its edges lie above its middle.

    It is what is left of the square of the place once its constant and linear parts are taken out, so that
    neither the level of a curve nor a slope counts. The positive weights (edges) add up to 1, the negative ones
    (middle) to −1: the sum is a difference of two weighted means, in the unit of the scores.
    """
    places = np.asarray(centres, dtype=float)
    plain = np.stack([np.ones_like(places), places - places.mean()], axis=1)
    square = (places - places.mean()) ** 2
    rest = square - plain @ np.linalg.lstsq(plain, square, rcond=None)[0]
    return 2 * rest / np.abs(rest).sum()


def curve_evidence(
    places: Sequence[tuple[int, int, float]],
    *,
    width: int = 50,
    positions: int | None = None,
    compat: Compat | None = None,
    contexts: Sequence[Hashable] | None = None,
    level: float = 0.95,
    trials: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """`intervals`, `estimate`, `gap_test` and `u_shape` of `(set, position, score)` rows, as `span_curve` takes them.

    | key | what it holds |
    |---|---|
    | `intervals` | [low, high] of each span's score, None where there is too little to tell |
    | `lacking` | what spans without an interval have: `5 rows`; only where there are such |
    | `estimate` | `Estimate.as_dict()` of the mean of the spans |
    | `gap_test` | gap, null_mean, null_high (95%), p, trials |
    | `u_shape` | coefficient (edges minus middle), p (that a flat curve has one as high), p_two_sided, low, high |

    `contexts` names the context of each row (default: its set). Values that cannot be had are None.
    """
    curve = span_curve(places, width=width, positions=positions, compat=compat)
    names = [group for group, _, _ in places] if contexts is None else list(contexts)
    kept = [
        (name, *place)
        for name, place in zip(names, places, strict=True)
        if compat != "film" or place[1] % width != width - 1
    ]
    cells = [position // width for _, _, position, _ in kept]
    sizes = Counter((group, cell) for (_, group, _, _), cell in zip(kept, cells, strict=True))
    weights = [1 / sizes[group, cell] for (_, group, _, _), cell in zip(kept, cells, strict=True)]
    scores = [score for _, _, _, score in kept]
    table = Table.of([name for name, *_ in kept], cells, scores, len(curve.spans), weights)
    if not kept:
        shape = dict.fromkeys(("coefficient", "p", "p_two_sided", "low", "high"))
        none = [None] * len(curve.spans)
        return {
            "intervals": none,
            "estimate": NOTHING.as_dict(),
            "gap_test": no_gap_test(),
            "u_shape": shape,
        }

    known = table.known
    null = permuted_means(table, trials, np.random.default_rng([seed, 1]))[:, known]
    last = max(positions or 0, 1 + max(position for _, position, _ in places))
    centres = [(cell * width + min((cell + 1) * width, last)) / 2 for cell in known.tolist()]
    return {
        **cell_intervals(table.intervals(level)),
        "estimate": table.average(level).as_dict(),
        "gap_test": gap_test(table.means[known], null) if len(known) > 1 else no_gap_test(curve.gap),
        "u_shape": _u_shape(table, null, centres, level),
    }


def _u_shape(table: Table, null: Floats, centres: Sequence[float], level: float) -> dict[str, Any]:
    """The U-shape coefficient of the means, its test by permuted scores, and its interval."""
    if len(centres) < LEAST_SPANS:
        return dict.fromkeys(("coefficient", "p", "p_two_sided", "low", "high"))
    weights = u_contrast(centres)
    value, dealt = float(table.means[table.known] @ weights), null @ weights
    up, down = p_above(value, dealt), p_above(-value, -dealt)
    over = np.zeros(table.width)
    over[table.known] = weights
    ends = table.interval(over, level)
    return {
        "coefficient": value,
        "p": up,
        "p_two_sided": min(1.0, 2 * min(up, down)),
        "low": ends.low,
        "high": ends.high,
    }
